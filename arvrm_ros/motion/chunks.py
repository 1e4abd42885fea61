# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From chunks of end-effector targets to one joint path, continuous in position, velocity and acceleration.

A path has n + 1 columns: the joints (rad) and the gripper's opening [0, 1]. It starts where the one before it is, at
the same velocity and acceleration, and ends at rest on the last target. Inverse kinematics runs here, once per chunk
and for all of it, so that a chunk is known to be feasible before the arm starts on it.

Motion is kept as arrays (3, T, n + 1): values, their rates per second, and their accelerations per second squared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import BSpline

from arvrm_ros.contract import RobotContract
from arvrm_ros.data.types import ActionChunk
from arvrm_ros.motion import safety
from arvrm_ros.motion.kinematics import Kinematics

SAMPLE = 0.01  # s between two knots of a path
BRIDGE = 10  # knots more on the way to a new motion, where accelerations change fastest
DEGREE = 3  # of the splines
HOME_PULL = 0.02  # per step: the redundancy drifts home with a time constant of 5 s at 0.1 s steps
HISTORY = 1.0  # s of the past that a path remembers, so that a late chunk finds where the arm was at its observation
PLANNED_SHARE = 0.9  # of the limits that a chunk takes by itself; the rest is for the way into it
RETIMINGS = 4  # of single segments, before all of a chunk is slowed
MISSED = 5e-5  # m from which a step counts as out of reach; what inverse kinematics leaves is less


@dataclass(frozen=True, eq=False)
class JointPath:
    """Motion over time, at rest before its first knot and after its last: quintic Hermite polynomials between knots.

    Attributes:
        times: (T,) seconds, T > 1.
        knots: (3, T, n + 1); the last one is at rest.
    """

    times: np.ndarray
    knots: np.ndarray

    @classmethod
    def through(cls, times: np.ndarray, knots: np.ndarray) -> JointPath:
        """A path through ``knots`` (3, T, n + 1) at (T,) seconds; it is brought to rest at the last one."""
        knots = knots.copy()
        knots[1:, -1] = 0.0
        return cls(times, knots)

    @classmethod
    def rest(cls, values: np.ndarray, now: float) -> JointPath:
        """Stays at (n + 1,) ``values``."""
        return cls.between(values, values, now, SAMPLE)

    @classmethod
    def between(cls, first: np.ndarray, last: np.ndarray, now: float, seconds: float) -> JointPath:
        """From rest to rest with the least jerk (Flash and Hogan 1985)."""
        knots = np.zeros((3, 2, len(first)))
        knots[0] = first, last
        return cls(np.array([now, now + seconds]), knots)

    @property
    def end(self) -> float:
        """Seconds; at rest from here on."""
        return float(self.times[-1])

    def sample(self, times: np.ndarray) -> np.ndarray:
        """(3, T, n + 1) motion at (T,) seconds."""
        inside = np.minimum(np.maximum(times, self.times[0]), self.times[-1])
        i = np.minimum(np.searchsorted(self.times, inside, side="right"), len(self.times) - 1) - 1
        start = self.times[i]
        h = (self.times[i + 1] - start)[:, None]
        motion = _quintic(self.knots[:, i], self.knots[:, i + 1], h, (inside - start)[:, None] / h)
        motion[1:] *= (inside == times)[:, None]
        return motion

    def at(self, time: float) -> np.ndarray:
        """(3, n + 1) motion at one time."""
        i = int(np.searchsorted(self.times, time, side="right")) - 1
        if 0 <= i < len(self.times) - 1:
            h = float(self.times[i + 1] - self.times[i])
            return _quintic(self.knots[:, i], self.knots[:, i + 1], h, (time - float(self.times[i])) / h)
        motion = np.zeros_like(self.knots[:, 0])
        motion[0] = self.knots[0, 0 if i < 0 else -1]
        return motion

    def ahead(self, now: float) -> tuple[np.ndarray, np.ndarray]:
        """Times and knots from ``now`` on."""
        i = int(np.searchsorted(self.times, now))
        return self.times[i:], self.knots[:, i:]

    def delayed(self, seconds: float) -> JointPath:
        """The same motion later."""
        return JointPath(self.times + seconds, self.knots)

    def shifted(self, offset: np.ndarray, seconds: float) -> JointPath:
        """The same motion with (n + 1,) ``offset`` added to it over its first ``seconds``, with the least jerk."""
        times = _grid(self.times[0], max(self.end, self.times[0] + seconds))
        share = _smoothstep(times, self.times[0], seconds)
        return JointPath.through(times, self.sample(times) + share[..., None] * offset)

    def joined(self, state: np.ndarray, now: float, seconds: float) -> JointPath:
        """From a state (3, n + 1) at ``now`` to this path, which is reached after ``seconds``."""
        times = _grid(now, now + seconds)
        bridge = JointPath(times[[0, -1]], np.stack([state, self.at(times[-1])], axis=1))
        after = self.times > times[-1]
        return JointPath.through(
            np.append(times, self.times[after]), np.append(bridge.sample(times), self.knots[:, after], axis=1)
        )

    def stopped(self, now: float, seconds: float) -> JointPath:
        """The same way from ``now`` on, left at a falling speed: at rest after ``seconds``."""
        times = _grid(now, now + seconds)
        return JointPath.through(times, _slowing(self.sample, times, now, seconds))


def step_times(chunk: ActionChunk) -> np.ndarray:
    """(N,) seconds for which the steps are meant."""
    return chunk.stamp + chunk.step_period * np.arange(1, len(chunk.positions) + 1)


def first_step_ahead(chunk: ActionChunk, now: float) -> int:
    """Index of the first step that is not past; N when all are."""
    return int(np.searchsorted(step_times(chunk), now, side="right"))


@dataclass(frozen=True)
class ChunkMotion:
    """Joint motion of one chunk from the step before now on, at rest on the last target after it.

    Attributes:
        spline: cubic B-spline of (n,) joints; its control points are the steps.
        openings: (M,) of the gripper at the spline's inner knots.
        missed: metres by which the farthest step is out of the arm's reach, which ``limits.clamp.reach`` allows.
    """

    spline: BSpline
    openings: np.ndarray
    missed: float = 0.0

    @property
    def start(self) -> float:
        """Seconds; there is nothing before."""
        return float(self.spline.t[DEGREE])

    @property
    def end(self) -> float:
        """Seconds; at rest from here on."""
        return float(self.spline.t[-1 - DEGREE])

    def stretched(self, longer: np.ndarray | float) -> ChunkMotion:
        """The same motion, its segments (K,), one between each two inner knots, so many times longer."""
        inner = self.spline.t[DEGREE:-DEGREE]
        times = inner[0] + np.concatenate([[0.0], np.cumsum(np.diff(inner) * longer)])
        return replace(self, spline=BSpline(_padded(times), self.spline.c, DEGREE))

    def sample(self, times: np.ndarray) -> np.ndarray:
        """(3, T, n + 1) motion at (T,) seconds; the gripper's rates are left out."""
        inside = np.clip(times, self.start, self.end)
        motion = np.zeros((3, len(times), self.spline.c.shape[1] + 1))
        for order in range(3):
            motion[order, :, :-1] = self.spline(inside, order)
        motion[1:] *= (inside == times)[:, None]
        motion[0, :, -1] = np.interp(times, self.spline.t[DEGREE:-DEGREE], self.openings)
        return motion


def solve_chunk(chunk: ActionChunk, now: float, path: JointPath, kinematics: Kinematics) -> ChunkMotion:
    """Inverse kinematics along a chunk, from two steps before ``now`` on; the ones before them are dropped.

    The steps are the control points of a uniform cubic B-spline: it does not leave the hull of four steps in a row, so
    it overshoots no target, is nowhere faster than from step to step and accelerates no more than the steps do; it
    rounds corners by a sixth of the change between two steps. What comes before the first step is ``path``, where the
    arm was at the observation and a period earlier. Where the joints cannot keep up with the steps they take longer.

    Raises:
        MotionRefused: JOINT_LIMIT, no joint solution for a target, or the joints would be far too slow.
    """
    period, ahead = chunk.step_period, first_step_ahead(chunk, now)
    seed, joints = path.at(now)[0][:-1], []
    for step in range(max(ahead - 2, 0), len(chunk.positions)):
        joints.append(_inverse(chunk, step, seed, kinematics))
        seed = 2 * joints[-1] - joints[-2] if len(joints) > 1 else joints[-1]
    missed = _missed(chunk, joints, kinematics)
    # No farther off than the joints come in a period: the way from where the arm is to the steps is merge's business.
    limits = kinematics.contract.limits
    fastest = PLANNED_SHARE * np.array(limits.velocity) * period
    sharpest = PLANNED_SHARE * np.array(limits.acceleration) * period**2
    for i in range(2 - ahead):
        following = joints[min(1, len(joints) - 1)] - joints[0]
        step = joints[0] - path.at(chunk.stamp - period * i)[0][:-1]
        step = np.clip(np.clip(step, following - sharpest, following + sharpest), -fastest, fastest)
        joints.insert(0, joints[0] - step)
    start = chunk.stamp + period * ahead
    times = start + period * np.arange(len(joints))
    openings = [path.at(chunk.stamp)[0][-1], *chunk.gripper, chunk.gripper[-1]][ahead:]
    return _motion(times, joints, openings, missed, kinematics)


def solve_patiently(chunk: ActionChunk, now: float, path: JointPath, kinematics: Kinematics) -> ChunkMotion:
    """As :func:`solve_chunk`, but from where the arm is and as it moves: it is late, and catches up with nothing.

    Near a singularity, where the joints are far slower than the steps, this is the way that is left.
    """
    period, ahead = chunk.step_period, first_step_ahead(chunk, now)
    here, moving = path.at(now)[:2]
    joints = [here[:-1] + i * period * moving[:-1] for i in (-1, 0, 1)]
    for step in range(ahead, len(chunk.positions)):
        joints.append(_inverse(chunk, step, joints[-1], kinematics))
    openings = [here[-1], here[-1], *chunk.gripper[ahead:], chunk.gripper[-1]]
    missed = _missed(chunk, joints[3:], kinematics)
    return _motion(now + period * np.arange(len(joints)), joints, openings, missed, kinematics)


def _inverse(chunk: ActionChunk, step: int, seed: np.ndarray, kinematics: Kinematics) -> np.ndarray:
    """(n,) rad for a step, or nearest to it as far as ``limits.clamp.reach`` allows."""
    reach = kinematics.contract.limits.clamp.reach
    return kinematics.inverse(chunk.positions[step], chunk.quaternions[step], seed, HOME_PULL, miss=reach)


def _missed(chunk: ActionChunk, joints: list[np.ndarray], kinematics: Kinematics) -> float:
    """Metres by which (n,) joints for the last steps of a chunk miss them, at most."""
    if not joints or not kinematics.contract.limits.clamp.reach:
        return 0.0
    last = zip(chunk.positions[-len(joints) :], chunk.quaternions[-len(joints) :], joints, strict=True)
    missed = max(kinematics.missed(*pose_and_joints) for pose_and_joints in last)
    return missed if missed > MISSED else 0.0


def _motion(
    times: np.ndarray, joints: list[np.ndarray], openings: list[float], missed: float, kinematics: Kinematics
) -> ChunkMotion:
    """The spline whose control points are (n,) joints, its inner knots at ``times``, at rest on the last one."""
    spline = BSpline(_padded(times), np.array([*joints, joints[-1], joints[-1]]), DEGREE)
    return _retimed(ChunkMotion(spline, np.clip(openings, 0.0, 1.0), missed), kinematics)


def _padded(inner: np.ndarray) -> np.ndarray:
    """The knots of a B-spline between its inner ones."""
    steps = np.arange(1, DEGREE + 1)
    first, last = inner[1] - inner[0], inner[-1] - inner[-2]
    return np.concatenate([inner[0] - first * steps[::-1], inner, inner[-1] + last * steps])


def _retimed(asked: ChunkMotion, kinematics: Kinematics) -> ChunkMotion:
    """A motion whose segments are as much slower as its joints need."""

    def needed(motion: ChunkMotion) -> tuple[np.ndarray, np.ndarray]:
        times = _grid(motion.start, motion.end)
        return times, safety.needed_slowdown(times, motion.sample(times), kinematics.contract, PLANNED_SHARE)

    times, slower = needed(asked)
    if slower.max() <= 1.0:
        return asked
    evenly = float(slower.max())  # three times as long takes a third of the velocity, a ninth of the acceleration
    motion, longer = asked, np.ones(len(asked.openings) - 1)
    for _ in range(RETIMINGS):
        segments, inner = np.ones(len(longer)), motion.spline.t[DEGREE:-DEGREE]
        np.maximum.at(segments, np.clip(np.searchsorted(inner, times) - 1, 0, len(longer) - 1), slower)
        longer = longer * segments
        motion = asked.stretched(longer)
        times, slower = needed(motion)
        if slower.max() <= 1.0:
            break
    most = safety.most_slowdown(asked.spline.c, kinematics)
    if slower.max() > 1.0 or longer.max() > most:
        longer = np.full(len(longer), evenly)
        motion = asked.stretched(longer)
    times = _grid(asked.start, asked.end)
    safety.check_slowdown(float(longer.max()), most, times, asked.sample(times), kinematics.contract)
    return motion


def merge(old: JointPath, new: ChunkMotion, now: float, seconds: float, newest_weight: float) -> JointPath:
    """Leaves a path at ``now`` and joins a new motion after some seconds, by the quintic between their two states.

    Position, velocity and acceleration are continuous. What was commanded before ``now`` stays; the new chunk's steps
    up to there give way to it, and those after it are led away from it smoothly: what real-time chunking reaches by
    inpainting (Black et al. 2025), here for any policy.

    Where both reach, the motion that is joined has ``newest_weight`` of the new one and the rest of the old path,
    itself such a sum: exponential temporal ensembling (Zhao et al. 2023, "ACT", there with the oldest weighted most).
    The old path's share is given up before either comes to rest.

    Args:
        old: what is moving now.
        new: the new motion.
        now: seconds at which the old path is left.
        seconds: until the new one is joined.
        newest_weight: in (0, 1].
    """
    seconds = max(seconds, new.start - now)
    joined = BRIDGE + round(seconds / SAMPLE)
    rest = _grid(now + seconds, max(new.end, now + seconds + SAMPLE))
    times = np.append(np.linspace(now, now + seconds, joined, endpoint=False), rest)
    motion = new.sample(times)
    if newest_weight < 1.0:
        share = (1 - newest_weight) * _smoothstep(times, max(now, min(old.end, new.end) - 3 * seconds), seconds)
        share[0] += newest_weight
        before = old.sample(times)
        motion = before + _product(share[..., None], motion - before)
    bridge = JointPath(times[[0, joined]], np.stack([old.at(now), motion[:, joined]], axis=1))
    motion[:, :joined] = bridge.sample(times[:joined])
    # From the last knot before what is remembered, so that a motion of few knots stays what it is up to now.
    first = max(int(np.searchsorted(old.times, now - HISTORY, side="right")) - 1, 0)
    past = slice(first, max(int(np.searchsorted(old.times, now)), first))
    return JointPath.through(np.append(old.times[past], times), np.append(old.knots[:, past], motion, axis=1))


def seconds_between(distance: np.ndarray, contract: RobotContract) -> float:
    """Seconds for the joints to go a distance (n,) rad from rest to rest with the least jerk, within their limits."""
    velocity, acceleration, jerk = (
        np.array(values) for values in (contract.limits.velocity, contract.limits.acceleration, contract.limits.jerk)
    )
    # Its peaks are 1.875 d / T, 5.774 d / T^2 and 60 d / T^3.
    each = [1.875 * distance / velocity, np.sqrt(5.774 * distance / acceleration), np.cbrt(60 * distance / jerk)]
    return float(np.max(each))


def _quintic(first: np.ndarray, last: np.ndarray, h: float | np.ndarray, s: float | np.ndarray) -> np.ndarray:
    """Motion (3, ...) at the shares ``s`` of the ``h`` seconds between two motions (3, ...)."""
    x, v, a = first[0], first[1] * h, first[2] * (h * h)
    d, e, f = last[0] - x - v - a / 2, last[1] * h - v - a, last[2] * (h * h) - a
    c3, c4, c5 = 10 * d - 4 * e + f / 2, 7 * e - 15 * d - f, 6 * d - 3 * e + f / 2
    motion = np.empty_like(first)
    motion[0] = x + s * (v + s * (a / 2 + s * (c3 + s * (c4 + s * c5))))
    motion[1] = (v + s * (a + s * (3 * c3 + s * (4 * c4 + s * (5 * c5))))) / h
    motion[2] = (a + s * (6 * c3 + s * (12 * c4 + s * (20 * c5)))) / (h * h)
    return motion


def _smoothstep(times: np.ndarray, start: float, seconds: float) -> np.ndarray:
    """(3, T) of the least-jerk step from 0 to 1."""
    s = np.clip((times - start) / seconds, 0.0, 1.0)
    rate, acceleration = 30 * s**2 * (1 - s) ** 2, 60 * s * (1 - s) * (1 - 2 * s)
    return np.stack([s**3 * (10 - 15 * s + 6 * s**2), rate / seconds, acceleration / seconds**2])


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Value, rate and acceleration of a product of two motions (3, ...)."""
    return np.stack([a[0] * b[0], a[1] * b[0] + a[0] * b[1], a[2] * b[0] + 2 * a[1] * b[1] + a[0] * b[2]])


def _slowing(motion: Callable[[np.ndarray], np.ndarray], times: np.ndarray, start: float, seconds: float) -> np.ndarray:
    """(3, T, n + 1) of a motion that from ``start`` on loses its speed over some seconds, half of them on its way.

    The speed falls as 1 - 3 s^2 + 2 s^3, so that the acceleration is continuous too.
    """
    s = np.clip((times - start) / seconds, 0.0, 1.0)
    own = np.where(s > 0, start + seconds * (s - s**3 + s**4 / 2), times)
    speed, slowing = (1 - 3 * s**2 + 2 * s**3)[:, None], (-6 * s * (1 - s) / seconds)[:, None]
    values, rates, accelerations = motion(own)
    return np.stack([values, rates * speed, accelerations * speed**2 + rates * slowing])


def _grid(start: float, end: float) -> np.ndarray:
    return np.linspace(start, end, max(2, round((end - start) / SAMPLE) + 1))
