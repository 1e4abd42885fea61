# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What ros2_control's joint_trajectory_controller does with a trajectory, for the simulated arm and gripper.

It is as strict as the real one: what the simulator accepts, a robot's controller accepts.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from arvrm_ros.errors import ArvrmError


class TrajectoryError(ArvrmError):
    """A trajectory breaks one of the controller's rules; the message names it. The robot goes on as before."""


@dataclass(frozen=True)
class TrajectoryPoint:
    """One point: (n,) positions, (n,) velocities or None, and seconds after the trajectory's start."""

    positions: np.ndarray
    velocities: np.ndarray | None
    time_from_start: float


class TrajectoryController:
    """Interpolates joint trajectories from where the joints are commanded to be now.

    Linear between positions; cubic where both ends have velocities. As with the real controller's defaults, every
    joint has to be named (in any order) and times have to increase. A new trajectory replaces the old one from now on;
    after its end the last point is held.

    Args:
        joints: names, in the order of all arrays in and out.
        end_velocity: whether the last point may move, as ``allow_nonzero_velocity_at_trajectory_end`` says.
    """

    def __init__(self, joints: tuple[str, ...], end_velocity: bool = False) -> None:
        self.joints = joints
        self._end_velocity = end_velocity
        self.reset(np.zeros(len(joints)), 0.0)

    def reset(self, positions: np.ndarray, now: float) -> None:
        """Holds (n,) positions from now on."""
        self._times = np.array([now])
        self._positions = np.array([positions], float)
        self._velocities = np.zeros_like(self._positions)
        self._cubic = np.zeros(0, bool)

    def accept(self, names: list[str], points: list[TrajectoryPoint], start: float | None, now: float) -> None:
        """Follows a trajectory.

        Args:
            names: of the joints, in the order of the points' arrays.
            points: at least one.
            start: seconds, of the same clock as ``now``; None starts at once.
            now: seconds.

        Raises:
            TrajectoryError: the trajectory breaks a rule.
        """
        self._check(names, points)
        begin = now if start is None else start
        times = np.array([begin + point.time_from_start for point in points])
        if start is not None and times[-1] < now:
            raise TrajectoryError(f"trajectory ends {now - times[-1]:.3f} s in the past")
        order = [names.index(joint) for joint in self.joints]
        position, velocity = self.sample(now)
        ahead = [i for i, time in enumerate(times) if time > now] or [len(points) - 1]
        has_velocity = [points[i].velocities is not None for i in ahead]
        self._positions = np.array([position, *(points[i].positions[order] for i in ahead)])
        self._velocities = np.array(
            [velocity, *(np.zeros(len(order)) if (v := points[i].velocities) is None else v[order] for i in ahead)]
        )
        self._times = np.array([now, *times[ahead]])
        self._cubic = np.array([has_velocity[0], *(a and b for a, b in pairwise(has_velocity))])

    def _check(self, names: list[str], points: list[TrajectoryPoint]) -> None:
        n = len(self.joints)
        if sorted(names) != sorted(self.joints):
            raise TrajectoryError(f"joints are [{', '.join(names)}], not all of [{', '.join(self.joints)}]")
        if not points:
            raise TrajectoryError("trajectory has no points")
        for i, point in enumerate(points):
            arrays = [point.positions] if point.velocities is None else [point.positions, point.velocities]
            if any(len(values) != n for values in arrays):
                raise TrajectoryError(f"point {i} does not have {n} positions (and {n} or no velocities)")
            if not all(np.all(np.isfinite(values)) for values in arrays):
                raise TrajectoryError(f"point {i} has numbers that are not finite")
        times = [point.time_from_start for point in points]
        if times[0] < 0 or any(b <= a for a, b in pairwise(times)):
            raise TrajectoryError("time_from_start does not increase from point to point")
        last = points[-1].velocities
        if not self._end_velocity and last is not None and np.any(np.abs(last) > 1e-6):
            raise TrajectoryError("velocity of the last point is not zero")

    def sample(self, now: float) -> tuple[np.ndarray, np.ndarray]:
        """(n,) commanded positions and velocities."""
        i = int(np.searchsorted(self._times, now, side="right")) - 1
        if i < 0 or i >= len(self._cubic):
            return self._positions[0 if i < 0 else -1].copy(), np.zeros(len(self.joints))
        period = self._times[i + 1] - self._times[i]
        s = (now - self._times[i]) / period
        p0, p1 = self._positions[i : i + 2]
        if not self._cubic[i]:
            return p0 + s * (p1 - p0), (p1 - p0) / period
        v0, v1 = self._velocities[i : i + 2] * period
        position = (2 * s**3 - 3 * s**2 + 1) * p0 + (s**3 - 2 * s**2 + s) * v0
        position += (3 * s**2 - 2 * s**3) * p1 + (s**3 - s**2) * v1
        velocity = (6 * s**2 - 6 * s) * (p0 - p1) + (3 * s**2 - 4 * s + 1) * v0 + (3 * s**2 - 2 * s) * v1
        return position, velocity / period
