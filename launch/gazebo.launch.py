# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Starts the suite ``gazebo`` of :mod:`arvrm_ros.suite`; ``--show-args`` lists its arguments."""

from launch import LaunchDescription

from arvrm_ros.launching import describe


def generate_launch_description() -> LaunchDescription:
    return describe("gazebo")
