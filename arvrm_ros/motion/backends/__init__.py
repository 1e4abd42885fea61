# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Backends of execution, by name: how a joint command reaches the robot.

Every backend sits behind the same safety layer and :class:`~arvrm_ros.motion.executor.ChunkExecutor`. A backend says
whether it can run on this machine, and turns a command into the trajectory points that its controllers take.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Protocol

from arvrm_ros.errors import ExecutionCode, MotionRefused
from arvrm_ros.motion.executor import JointCommand

BACKENDS = ("embedded", "controller", "moveit")


@dataclass(frozen=True)
class TrajectoryPoint:
    """One point of a ``trajectory_msgs/JointTrajectory``.

    Attributes:
        positions: rad or m, one per joint.
        velocities: rad/s or m/s, one per joint, or empty.
        time_from_start: seconds, > 0.
        accelerations: rad/s^2 or m/s^2, one per joint, or empty.
    """

    positions: tuple[float, ...]
    velocities: tuple[float, ...]
    time_from_start: float
    accelerations: tuple[float, ...] = ()


class Backend(Protocol):
    """What a module of this package's ``Backend`` class provides."""

    name: str

    def check(self) -> None:
        """Says whether it can run here.

        Raises:
            MotionRefused: BACKEND_UNAVAILABLE; the message names what to install.
        """

    def arm_point(self, command: JointCommand, after: float) -> TrajectoryPoint:
        """The arm's point ``after`` seconds from the trajectory's start; positions in the contract's joint order."""

    def gripper_point(self, position: float, after: float) -> TrajectoryPoint:
        """The gripper's point ``after`` seconds from the trajectory's start; position of its joint in metres."""


def make_backend(name: str) -> Backend:
    """A backend by name, checked.

    Raises:
        MotionRefused: BACKEND_UNAVAILABLE, unknown or not usable on this machine.
    """
    if name not in BACKENDS:
        raise MotionRefused(
            ExecutionCode.BACKEND_UNAVAILABLE, f"unknown execution backend {name!r}: use one of {', '.join(BACKENDS)}"
        )
    backend: Backend = importlib.import_module(f"{__name__}.{name}").Backend()
    backend.check()
    return backend
