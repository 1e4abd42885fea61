# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Streams the executor's commands to the embedded simulator, or to any driver that takes positions with velocities."""

from __future__ import annotations

from arvrm_ros.motion.backends import TrajectoryPoint
from arvrm_ros.motion.executor import JointCommand


class Backend:
    """Positions and velocities, one point per control period. Needs nothing but this package."""

    name = "embedded"

    def check(self) -> None:
        """Always usable."""

    def arm_point(self, command: JointCommand, period: float) -> TrajectoryPoint:
        """Positions and velocities at the end of the period."""
        return TrajectoryPoint(tuple(command.positions.tolist()), tuple(command.velocities.tolist()), period)

    def gripper_point(self, position: float, period: float) -> TrajectoryPoint:
        """The position at the end of the period."""
        return TrajectoryPoint((position,), (), period)
