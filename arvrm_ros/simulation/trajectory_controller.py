# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What ros2_control's joint_trajectory_controller does with a trajectory, for the simulated arm and gripper.

It is as strict as the real one: what the simulator accepts, a robot's controller accepts.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np

from arvrm_ros.errors import ArvrmError


class TrajectoryError(ArvrmError):
    """A trajectory breaks one of the controller's rules; the message names it. The robot goes on as before."""


@dataclass(frozen=True)
class TrajectoryPoint:
    """One point: (n,) positions, velocities and accelerations or None, and seconds after the trajectory's start."""

    positions: np.ndarray
    velocities: np.ndarray | None
    time_from_start: float
    accelerations: np.ndarray | None = None

    def derivatives(self, order: list[int]) -> list[np.ndarray]:
        """Position and those derivatives that are given without a gap, the joints put into an order."""
        given = [self.positions[order]]
        for values in (self.velocities, self.accelerations):
            if values is None:
                break
            given.append(values[order])
        return given


@cache
def _hermite(derivatives: int) -> np.ndarray:
    """(2 d, 2 d): the d derivatives at 0 and at 1 to the coefficients of the polynomial that has them."""
    count = 2 * derivatives
    rows = np.zeros((count, count))
    for row in range(count):
        for power in range(row % derivatives, count):
            rows[row, power] = math.perm(power, row % derivatives) * (row >= derivatives or power == row % derivatives)
    return np.linalg.inv(rows)


class TrajectoryController:
    """Interpolates joint trajectories from where the joints are commanded to be now.

    Linear between positions; cubic where both ends have velocities, quintic where they have accelerations. As with the
    real controller's defaults, every joint has to be named (in any order) and times have to increase. A new trajectory
    replaces the old one from now on; after its end the last point is held.

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
        still = np.zeros(len(self.joints))
        self._times = [now]
        self._knots = [[np.array(positions, float), still, still]]

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
        present = list(self.state(now))
        ahead = [i for i, time in enumerate(times) if time > now] or [len(points) - 1]
        self._times = [now, *times[ahead]]
        self._knots = [present, *(points[i].derivatives(order) for i in ahead)]

    def _check(self, names: list[str], points: list[TrajectoryPoint]) -> None:
        n = len(self.joints)
        if sorted(names) != sorted(self.joints):
            raise TrajectoryError(f"joints are [{', '.join(names)}], not all of [{', '.join(self.joints)}]")
        if not points:
            raise TrajectoryError("trajectory has no points")
        for i, point in enumerate(points):
            given = (point.positions, point.velocities, point.accelerations)
            arrays = [values for values in given if values is not None]
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
        return self.state(now)[:2]

    def state(self, now: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(n,) commanded positions, velocities and accelerations."""
        i = bisect_right(self._times, now) - 1
        if i < 0 or i >= len(self._times) - 1:
            still = np.zeros(len(self.joints))
            return self._knots[0 if i < 0 else -1][0].copy(), still, still.copy()
        before, after = self._knots[i : i + 2]
        order = min(len(before), len(after))
        period = self._times[i + 1] - self._times[i]
        scaled = [values * period**j for knot in (before, after) for j, values in enumerate(knot[:order])]
        coefficients = _hermite(order) @ np.stack(scaled)
        s = (now - self._times[i]) / period
        powers = np.arange(2 * order)
        rows = [
            s**powers,
            powers * s ** np.maximum(powers - 1, 0),
            powers * (powers - 1) * s ** np.maximum(powers - 2, 0),
        ]
        position, velocity, acceleration = np.stack(rows) @ coefficients
        return position, velocity / period, acceleration / period**2
