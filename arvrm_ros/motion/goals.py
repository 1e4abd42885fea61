# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Goal moves from rest to rest, such as homing: where to, by which way, and how fast.

The way is straight in joint space where that keeps clear of the contract's keep-out boxes and of the arm itself, else
OMPL's. Whoever found it, :meth:`GoalPlanner.timed` gives it a motion that the safety layer lets pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from ruckig import InputParameter, Result, Ruckig, Trajectory
from scipy.interpolate import CubicSpline

from arvrm_ros.contract import RobotContract
from arvrm_ros.errors import ContractError, ExecutionCode, MotionRefused
from arvrm_ros.motion import safety
from arvrm_ros.motion.chunks import SAMPLE
from arvrm_ros.motion.collision import Clearance
from arvrm_ros.motion.kinematics import Kinematics

try:  # not where it is used: the import holds Python's lock for some tenths of a second, too long beside a control loop
    from ompl import base, geometric, util
except ImportError:
    base = None

SHARES = (0.5, 0.25, 0.1)  # of the limits that a goal move takes; nobody waits for it, and slow brakes are short
RAMP = 0.05  # s in which a goal move speeds up and slows down at the soonest, so that a sampled motion shows it
SEEDS = 20  # configurations from which inverse kinematics looks for a goal's joints
SPACING = 0.04  # rad between two configurations at which OMPL looks at a way
SMOOTHINGS = 5  # rounds of B-spline smoothing of OMPL's corners
KNOTS = (6, 10, 16, 26, 42)  # of the spline through OMPL's way: few are fast, many keep closer to it
MARGINS = (0.03, 0.01)  # m beyond the clearance to keep-out boxes that a planner keeps if it can: curves cut corners


class GoalPlanner:
    """Goals, ways around the contract's keep-out boxes, and their motions. One instance is for one thread.

    Args:
        contract: of the robot.
        period: seconds between two commands.
        seconds: that OMPL may look for a way.
    """

    def __init__(self, contract: RobotContract, period: float = 0.01, seconds: float = 5.0) -> None:
        self.contract = contract
        self.kinematics = Kinematics(contract)
        self._check = safety.PathCheck(contract, period)
        self._seconds = seconds

    def joints(self, position: np.ndarray, quaternion: np.ndarray, near: np.ndarray) -> np.ndarray:
        """Joint positions (n,) that put the end effector at a pose and keep clear, if possible near to ``near``.

        Args:
            position: (3,) m, base frame.
            quaternion: (4,) x, y, z, w.
            near: (n,) rad.

        Raises:
            MotionRefused: INVALID_CHUNK, no pose; JOINT_LIMIT, out of reach; OUT_OF_WORKSPACE, in reach but not free.
        """
        norm = float(np.linalg.norm(quaternion))
        if not (np.all(np.isfinite(position)) and abs(norm - 1.0) < safety.UNIT_TOLERANCE):
            raise MotionRefused(
                ExecutionCode.INVALID_CHUNK,
                f"the goal's pose {[*position, *quaternion]} is not finite, or its quaternion not of length 1",
            )
        refusals: dict[bool, MotionRefused] = {}  # the first of those in reach, and of those out of it
        for seed in self._seeds(near):
            try:
                joints = self.kinematics.inverse(position, quaternion / norm, seed)
                self.check(joints)
            except MotionRefused as refusal:
                refusals.setdefault(refusal.code is not ExecutionCode.JOINT_LIMIT, refusal)
            else:
                return joints
        raise refusals.get(True) or refusals[False]

    def check(self, joints: np.ndarray) -> None:
        """Whether the arm may rest at (n,) rad.

        Raises:
            MotionRefused: INVALID_CHUNK, JOINT_LIMIT or OUT_OF_WORKSPACE.
        """
        contract = self.contract
        if joints.shape != (len(contract.joints),) or not np.all(np.isfinite(joints)):
            raise MotionRefused(
                ExecutionCode.INVALID_CHUNK, f"the goal {joints} is not {len(contract.joints)} finite joint positions"
            )
        self._check.rest(joints)

    def margin(self, start: np.ndarray, goal: np.ndarray) -> float:
        """The largest one, in metres, at which home, (n,) ``start`` and ``goal`` are free; 0 where none is."""
        home = np.array(self.contract.home)
        for margin in MARGINS:
            with contextlib.suppress(ContractError):
                wider = self._wider(margin)
                if all(wider.along(np.stack([home, joints])) is None for joints in (start, goal)):
                    return margin
        return 0.0

    def way(self, start: np.ndarray, goal: np.ndarray, margin: float) -> np.ndarray:
        """Configurations (T, n) rad from ``start`` to ``goal``, both included.

        Straight where that is free; else it takes OMPL, and up to some seconds.

        Args:
            start: (n,) rad.
            goal: (n,) rad.
            margin: metres to keep beyond the contract's clearance to keep-out boxes.

        Raises:
            MotionRefused: OUT_OF_WORKSPACE, an end is not free; NO_PATH, no way was found; BACKEND_UNAVAILABLE.
        """
        self.check(goal)
        straight = np.stack([start, goal])
        try:
            self.timed(straight)
        except MotionRefused as refusal:
            return self._around(start, goal, margin, str(refusal))
        return straight

    def timed(self, way: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A motion along a way (T, n) rad, from rest to rest, that the safety layer lets pass.

        Returns:
            times (M,) seconds from 0, and motion (3, M, n): positions, velocities, accelerations.

        Raises:
            MotionRefused: the way breaks a limit, or comes too close to something, however slowly it is gone.
        """
        return self._first_that_passes([way])[1]

    def _first_that_passes(self, ways: Sequence[np.ndarray]) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """Of several ways to the same goal, each tried ever slower; and its motion."""
        for share in SHARES:
            for way in ways:
                times, motion = timed(way, self.kinematics, share)
                try:
                    self._check.clearance(self._check.limits(times, np.pad(motion, ((0, 0), (0, 0), (0, 1)))))
                except MotionRefused as refusal:
                    refused = refusal
                else:
                    return way, (times, motion)
        raise refused

    def _around(self, start: np.ndarray, goal: np.ndarray, margin: float, blocked: str) -> np.ndarray:
        """OMPL's way (RRT-Connect; Kuffner and LaValle 2000), shortened and smoothed."""
        if base is None:
            raise MotionRefused(
                ExecutionCode.BACKEND_UNAVAILABLE,
                f"the straight way to the goal is not free ({blocked}), and OMPL, which would look for another, is not "
                "installed: pip install ompl",
            )
        util.setLogLevel(util.LogLevel.LOG_ERROR)
        n, limits = len(start), self.contract.limits
        clearance = self._wider(margin)
        lower = np.minimum(limits.workspace_min, self.kinematics.forward(start)[0])
        upper = np.maximum(limits.workspace_max, self.kinematics.forward(start)[0])

        def free(state: Sequence[float]) -> bool:
            joints = np.array([state[i] for i in range(n)])
            position = self.kinematics.forward(joints)[0]
            inside = bool(np.all((lower <= position) & (position <= upper)))
            return inside and clearance.along(np.stack([start, joints])) is None

        space = base.RealVectorStateSpace(n)
        bounds = base.RealVectorBounds(n)
        for i, (low, high) in enumerate(zip(limits.position_min, limits.position_max, strict=True)):
            bounds.setLow(i, low)
            bounds.setHigh(i, high)
        space.setBounds(bounds)
        setup = geometric.SimpleSetup(space)
        setup.setStateValidityChecker(free)
        information = setup.getSpaceInformation()
        information.setStateValidityCheckingResolution(SPACING / space.getMaximumExtent())
        setup.setPlanner(geometric.RRTConnect(information))
        ends = [space.allocState(), space.allocState()]
        for state, joints in zip(ends, (start, goal), strict=True):
            for i, value in enumerate(joints.tolist()):
                state[i] = value
        setup.setStartAndGoalStates(*ends)
        if not setup.solve(self._seconds) or not setup.haveExactSolutionPath():
            raise MotionRefused(
                ExecutionCode.NO_PATH,
                f"no way to the goal was found within {self._seconds:g} s; the straight one is not free: {blocked}",
            )
        path = setup.getSolutionPath()
        setup.getPathSimplifier().simplifyMax(path)
        setup.getPathSimplifier().smoothBSpline(path, SMOOTHINGS)
        found = np.array([[state[i] for i in range(n)] for state in path.getStates()])
        found[0], found[-1] = start, goal
        try:
            return self._first_that_passes([_resampled(found, count) for count in KNOTS])[0]
        except MotionRefused as refusal:
            raise MotionRefused(
                ExecutionCode.NO_PATH, f"no way to the goal is both smooth and free: {refusal}"
            ) from None

    def _wider(self, margin: float) -> Clearance:
        limits = self.contract.limits
        boxes = {name: replace(box, clearance=box.clearance + margin) for name, box in limits.keep_out.items()}
        return Clearance(replace(self.contract, limits=replace(limits, keep_out=boxes)))

    def _seeds(self, near: np.ndarray) -> Iterator[np.ndarray]:
        limits, random = self.contract.limits, np.random.default_rng(0)
        yield near
        yield np.array(self.contract.home)
        for _ in range(SEEDS - 2):
            yield random.uniform(limits.position_min, limits.position_max)


def timed(way: np.ndarray, kinematics: Kinematics, share: float) -> tuple[np.ndarray, np.ndarray]:
    """A motion along a way, from rest to rest, within a share of the contract's limits.

    The way becomes a cubic spline, straight for two configurations; a jerk-limited profile (Ruckig, one degree of
    freedom) moves along it, as fast as its slowest place allows.

    Args:
        way: (T, n) rad.
        kinematics: of the arm.
        share: of the limits.

    Returns:
        times (M,) seconds from 0, and motion (3, M, n): positions, velocities, accelerations.
    """
    limits = kinematics.contract.limits
    velocity, acceleration, jerk = (np.array(values) for values in (limits.velocity, limits.acceleration, limits.jerk))
    if np.abs(way - way[0]).max() < 1e-6:
        return np.array([0.0, SAMPLE]), np.stack([way[[0, -1]], *np.zeros((2, 2, way.shape[1]))])
    curve = _curve(way, kinematics.contract)
    fine = np.linspace(0.0, curve.x[-1], 20 * len(curve.x))
    first, second, third = (np.abs(curve(fine, order)) for order in (1, 2, 3))
    end_effector = np.linalg.norm(np.diff(kinematics.along(curve(fine)), axis=0), axis=1) / np.diff(fine)
    small = 1e-9
    # The joints' accelerations are q'' v^2 + q' a, their jerks q''' v^3 + 3 q'' v a + q' j: each part gets its share.
    speed = min(
        float((share * velocity / (first + small)).min()),
        float(np.sqrt(share / 2 * acceleration / (second + small)).min()),
        float(np.cbrt(jerk / 3 / (third + small)).min()),
        share * limits.cartesian_velocity / float(end_effector.max() + small),
    )
    pull = min(
        float((share / 2 * acceleration / (first + small)).min()),
        float((jerk / 9 / (second * speed + small)).min()),
    )
    profile = InputParameter(1)
    profile.target_position = [float(curve.x[-1])]
    profile.max_velocity, profile.max_acceleration = [speed], [pull]
    profile.max_jerk = [min(pull / RAMP, float((jerk / 3 / (first + small)).min()))]
    trajectory = Trajectory(1)
    result = Ruckig(1).calculate(profile, trajectory)
    if result not in (Result.Working, Result.Finished):
        raise RuntimeError(f"no profile along the way ({result}): {profile}")
    count = int(np.ceil(trajectory.duration / SAMPLE)) + 1
    times = np.linspace(0.0, trajectory.duration, count)
    s, v, a = np.array([trajectory.at_time(float(time)) for time in times])[:, :, 0].T[:, :, None]
    s = s[:, 0]
    motion = np.stack([curve(s), curve(s, 1) * v, curve(s, 2) * v**2 + curve(s, 1) * a])
    motion[0, -1], motion[1:, -1] = way[-1], 0.0
    return times, motion


def _curve(way: np.ndarray, contract: RobotContract) -> CubicSpline:
    """The spline through a way (T, n) over the seconds that it takes at the joints' velocity limits."""
    if len(way) == 2:
        way = np.stack([way[0], way.mean(axis=0), way[1]])
    seconds = (np.abs(np.diff(way, axis=0)) / np.array(contract.limits.velocity)).max(axis=1)
    knots = np.concatenate([[0.0], np.cumsum(np.maximum(seconds, 1e-6))])
    return CubicSpline(knots, way, bc_type="natural")


def _resampled(way: np.ndarray, count: int) -> np.ndarray:
    """``count`` configurations, evenly spaced along a way."""
    lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(way, axis=0), axis=1))])
    even = np.linspace(0.0, lengths[-1], count)
    return np.stack([np.interp(even, lengths, column) for column in way.T], axis=1)
