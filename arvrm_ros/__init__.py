# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""AR-VRM for ROS 2: a robot that follows plain-language instructions by imitating human motion."""

__version__ = "0.1.0"
