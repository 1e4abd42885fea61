# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 nodes: the only folder that imports rclpy, one thin file per node."""
