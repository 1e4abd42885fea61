# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From chunks of end-effector targets to one joint path that is continuous in position and velocity.

A path has n + 1 columns: the joints (rad) and the gripper's opening [0, 1]. It starts where the previous one is, at the
same velocity, and ends at rest on the last target. Inverse kinematics runs here, once per chunk and along the whole
path, so that a chunk is known to be feasible before the arm starts on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicHermiteSpline, PchipInterpolator
from scipy.spatial.transform import Rotation, Slerp

from arvrm_ros.contract import RobotContract
from arvrm_ros.data.types import ActionChunk
from arvrm_ros.motion.kinematics import Kinematics

SAMPLE = 0.02  # s between two samples of a path
SOLUTIONS_PER_STEP = 2  # inverse kinematics along a chunk; between them the joints are interpolated
HOME_PULL = 0.01  # per solution: the redundancy drifts home with a time constant of 5 s at 0.1 s steps


@dataclass(frozen=True)
class JointPath:
    """A cubic Hermite spline over time, at rest at its last knot.

    Attributes:
        start, end: seconds; before and after, the path rests at its first and last value.
    """

    spline: CubicHermiteSpline
    rate: CubicHermiteSpline
    start: float
    end: float

    @classmethod
    def through(cls, times: np.ndarray, values: np.ndarray, rates: np.ndarray) -> JointPath:
        """A path through (T, n + 1) ``values`` with ``rates``; it is brought to rest at the last knot."""
        rates = rates.copy()
        rates[-1] = 0.0
        spline = CubicHermiteSpline(times, values, rates)
        return cls(spline, spline.derivative(), float(times[0]), float(times[-1]))

    @classmethod
    def rest(cls, values: np.ndarray, now: float) -> JointPath:
        """Stays at (n + 1,) ``values``."""
        return cls.through(np.array([now, now + SAMPLE]), np.stack([values, values]), np.zeros((2, len(values))))

    def sample(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(T, n + 1) values and (T, n + 1) rates per second at (T,) seconds."""
        inside = np.clip(times, self.start, self.end)
        return self.spline(inside), self.rate(inside) * (inside == times)[:, None]

    def at(self, time: float) -> tuple[np.ndarray, np.ndarray]:
        """(n + 1,) values and rates at one time."""
        if self.start <= time < self.end:
            return self.spline(time), self.rate(time)
        value = self.spline(min(max(time, self.start), self.end))
        return value, np.zeros_like(value)

    def delayed(self, seconds: float) -> JointPath:
        """The same path, later."""
        knots = self.spline.x
        return JointPath.through(knots + seconds, self.spline(knots), self.rate(knots))

    def stopped(self, now: float, seconds: float) -> JointPath:
        """The same path from ``now`` on, left at an evenly falling speed: at rest after ``seconds``."""
        times = _grid(now, now + seconds)
        elapsed = times - now
        values, rates = self.sample(now + elapsed - elapsed**2 / (2 * seconds))
        return JointPath.through(times, values, rates * (1 - elapsed / seconds)[:, None])


def step_times(chunk: ActionChunk) -> np.ndarray:
    """(N,) seconds for which the steps are meant."""
    return chunk.stamp + chunk.step_period * np.arange(1, len(chunk.positions) + 1)


def first_step_ahead(chunk: ActionChunk, now: float) -> int:
    """Index of the first step that is not past; N when all are."""
    return int(np.searchsorted(step_times(chunk), now, side="right"))


@dataclass(frozen=True)
class ChunkMotion:
    """Joint motion of one chunk, from the segment in which it was solved on.

    Attributes:
        spline: (n + 1,) columns over the chunk's own time.
        rate: its derivative.
        stamp: seconds, the observation's capture; slower following stretches time from here.
        period: seconds between two steps.
        steps: (A, n) rad, joint positions at the steps ahead.
        slowdown: times slower than the chunk asks.
    """

    spline: CubicHermiteSpline
    rate: CubicHermiteSpline
    stamp: float
    period: float
    steps: np.ndarray
    slowdown: float = 1.0

    @property
    def end(self) -> float:
        """Seconds; at rest from here on."""
        return self.stamp + (float(self.spline.x[-1]) + self.period - self.stamp) * self.slowdown

    def sample(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(T, n + 1) values and rates per second at (T,) seconds.

        The last step takes twice its time, at an evenly falling speed, so that a chunk that gets no successor ends at
        rest on its last target.
        """
        last = float(self.spline.x[-1])
        own = self.stamp + (times - self.stamp) / self.slowdown
        part = np.clip((own - (last - self.period)) / (2 * self.period), 0.0, 1.0)
        own = np.where(part > 0, last - self.period + self.period * part * (2 - part), own)
        first = float(self.spline.x[0])
        moving = (own >= first) * (1 - part) / self.slowdown
        own = np.clip(own, first, last)
        return self.spline(own), self.rate(own) * moving[:, None]


def solve_chunk(chunk: ActionChunk, now: float, path: JointPath, kinematics: Kinematics) -> ChunkMotion:
    """Inverse kinematics along a chunk, from the segment that ``now`` falls into; the steps before it are dropped.

    Positions are interpolated by monotone cubics (no overshoot beyond a target), rotations along the shortest arc, the
    gripper linearly. The first segment starts where ``path`` was at the observation.

    Raises:
        MotionRefused: JOINT_LIMIT, no joint solution for a target.
    """
    anchor = path.at(chunk.stamp)[0]
    anchor_position, anchor_quaternion = kinematics.forward(anchor[:-1])
    knots = np.concatenate([[chunk.stamp], step_times(chunk)])
    positions = PchipInterpolator(knots, np.vstack([anchor_position, chunk.positions]))
    rotations = Slerp(knots, Rotation.from_quat(np.vstack([anchor_quaternion, chunk.quaternions])))
    openings = np.concatenate([anchor[-1:], np.clip(chunk.gripper, 0.0, 1.0)])

    segment = first_step_ahead(chunk, now)
    times = np.linspace(knots[segment], knots[-1], SOLUTIONS_PER_STEP * (len(knots) - 1 - segment) + 1)
    quaternions = rotations(np.minimum(times, knots[-1])).as_quat()
    values = np.empty((len(times), len(anchor)))
    values[:, -1] = np.interp(times, knots, openings)
    seed = path.at(now)[0][:-1]
    for i, (position, quaternion) in enumerate(zip(positions(times), quaternions, strict=True)):
        seed = kinematics.inverse(position, quaternion, seed, HOME_PULL)
        values[i, :-1] = seed
    spline = CubicHermiteSpline(times, values, np.gradient(values, times, axis=0))
    steps = values[SOLUTIONS_PER_STEP::SOLUTIONS_PER_STEP, :-1]
    return ChunkMotion(spline, spline.derivative(), chunk.stamp, chunk.step_period, steps)


def blend(
    old: JointPath, new: ChunkMotion, now: float, seconds: float, newest_weight: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fades from the path that is moving now to a new motion: position and velocity are continuous at ``now``.

    Where both reach, the new motion ends up with ``newest_weight`` and the old path, itself such a blend, with the
    rest: exponential temporal ensembling (Zhao et al. 2023, "ACT", there with the oldest weighted most). 1 is a plain
    cross-fade. Past the old path's end the new motion has it all.

    Args:
        old: what is moving now.
        new: the new motion.
        now: seconds at which the fade begins.
        seconds: length of the fade.
        newest_weight: in (0, 1].

    Returns:
        times (T,), values (T, n + 1), rates (T, n + 1).
    """
    times = _grid(now, max(new.end, now + seconds))
    old_values, old_rates = old.sample(times)
    new_values, new_rates = new.sample(times)
    weight, weight_rate = _smoothstep(times, now, seconds)
    if newest_weight < 1.0:
        # The share of the old path is given up over its last part, where it is only coming to rest.
        leaving = max(now + seconds, old.end - 2 * seconds)
        rest, rest_rate = _smoothstep(times, leaving, seconds)
        share, share_rate = newest_weight + (1 - newest_weight) * rest, (1 - newest_weight) * rest_rate
        weight, weight_rate = weight * share, weight_rate * share + weight * share_rate
    difference = new_values - old_values
    values = old_values + weight[:, None] * difference
    rates = old_rates + weight[:, None] * (new_rates - old_rates) + weight_rate[:, None] * difference
    return times, values, rates


def fade_seconds(old: JointPath, new: ChunkMotion, now: float, shortest: float, contract: RobotContract) -> float:
    """How long the fade must take for it to stay within the joints' velocity and acceleration limits."""
    old_values, old_rates = old.sample(np.array([now]))
    new_values, new_rates = new.sample(np.array([now]))
    distance = np.abs(new_values - old_values)[0, :-1]
    speed = np.abs(new_rates - old_rates)[0, :-1]
    velocity, acceleration = np.array(contract.limits.velocity), np.array(contract.limits.acceleration)
    # A smoothstep of height d in T seconds peaks at 1.5 d / T and 6 d / T^2; one of a velocity step v near 4 v / T.
    needed = np.maximum(1.5 * distance / velocity, np.sqrt(6 * distance / acceleration))
    return float(max(shortest, needed.max(), (4.0 * speed / acceleration).max()))


def _smoothstep(times: np.ndarray, start: float, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    part = np.clip((times - start) / seconds, 0.0, 1.0)
    return part**2 * (3 - 2 * part), 6 * part * (1 - part) / seconds


def _grid(start: float, end: float) -> np.ndarray:
    return np.linspace(start, end, max(2, round((end - start) / SAMPLE) + 1))
