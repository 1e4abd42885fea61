# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Streams the executor's commands to ros2_control's ``joint_trajectory_controller`` on its topic interface.

The controller drops, with one log line, a trajectory that lacks one of its joints, whose times do not increase from
above zero, or whose last point has a velocity (``allow_nonzero_velocity_at_trajectory_end`` is false since Kilted). A
stream of single points ends with each point while the arm moves, so velocities are left out: the controller then goes
straight to each position over one period, and the velocity is that of the stream.
"""

from __future__ import annotations

from arvrm_ros.motion.backends import TrajectoryPoint
from arvrm_ros.motion.executor import JointCommand


class Backend:
    """Positions alone, all joints, one point per control period. The controllers are other processes' business."""

    name = "controller"

    def check(self) -> None:
        """Always usable; a controller that does not move the arm shows as a tracking error."""

    def arm_point(self, command: JointCommand, period: float) -> TrajectoryPoint:
        """The positions at the end of the period."""
        return TrajectoryPoint(tuple(command.positions.tolist()), (), period)

    def gripper_point(self, position: float, period: float) -> TrajectoryPoint:
        """The position at the end of the period."""
        return TrajectoryPoint((position,), (), period)
