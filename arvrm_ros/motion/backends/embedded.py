# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Streams the executor's commands to the embedded simulator, or to any driver that takes positions with velocities."""

from __future__ import annotations

from arvrm_ros.motion.backends import TrajectoryPoint
from arvrm_ros.motion.executor import JointCommand


class Backend:
    """Positions with their derivatives. Needs nothing but this package."""

    name = "embedded"

    def check(self) -> None:
        """Always usable."""

    def arm_point(self, command: JointCommand, after: float) -> TrajectoryPoint:
        """Positions, velocities and accelerations."""
        motion = (tuple(v.tolist()) for v in (command.positions, command.velocities, command.accelerations))
        positions, velocities, accelerations = motion
        return TrajectoryPoint(positions, velocities, after, accelerations)

    def gripper_point(self, position: float, after: float) -> TrajectoryPoint:
        """The position."""
        return TrajectoryPoint((position,), (), after)
