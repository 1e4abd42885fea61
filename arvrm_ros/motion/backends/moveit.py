# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""MoveIt 2: its place, and the check that says what is missing. Collision-aware execution is not implemented yet."""

from __future__ import annotations

import importlib.util
import os

from arvrm_ros.errors import ExecutionCode, MotionRefused
from arvrm_ros.motion.backends import TrajectoryPoint
from arvrm_ros.motion.executor import JointCommand


class Backend:
    """Refuses at :meth:`check`, so a node that asks for it stays unconfigured and says why."""

    name = "moveit"

    def check(self) -> None:
        """Names the package to install, or, where MoveIt is installed, the backend to use meanwhile."""
        if importlib.util.find_spec("moveit") is None:
            distribution = os.environ.get("ROS_DISTRO", "<distro>")
            raise MotionRefused(
                ExecutionCode.BACKEND_UNAVAILABLE,
                "execution backend 'moveit' needs MoveIt's Python package, which is not installed: "
                f"apt install ros-{distribution}-moveit-py, or use the backend 'controller'",
            )
        raise MotionRefused(
            ExecutionCode.BACKEND_UNAVAILABLE,
            "execution backend 'moveit' is not part of this version yet; use the backend 'controller'",
        )

    def arm_point(self, command: JointCommand, period: float) -> TrajectoryPoint:
        """Not reached: :meth:`check` refuses."""
        raise NotImplementedError

    def gripper_point(self, position: float, period: float) -> TrajectoryPoint:
        """Not reached: :meth:`check` refuses."""
        raise NotImplementedError
