#!/usr/bin/env bash
# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
# Runs a command in the environment that `make setup` made, e.g. `scripts/env.sh arvrm up simulation`.
# What is set already stays, except what another ROS installation would mix in.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
unset PYTHONPATH PYTHONHOME COLCON_PREFIX_PATH
export PATH="$root/.venv/bin:$PATH"
export AMENT_PREFIX_PATH="$root/.venv" CMAKE_PREFIX_PATH="$root/.venv"
export FASTDDS_DEFAULT_PROFILES_FILE="${FASTDDS_DEFAULT_PROFILES_FILE:-$root/config/fastdds.xml}"
export ROS_AUTOMATIC_DISCOVERY_RANGE="${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"
exec "$@"
