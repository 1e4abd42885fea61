# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The embedded MuJoCo tabletop: scene, tasks, oracle, scripted experts (robot and hand)."""
