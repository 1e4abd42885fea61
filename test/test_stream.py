# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a trajectory controller makes of the stream at 1 kHz: late, lost and missing trajectories, and a dead sender."""

from __future__ import annotations

import contextlib
from collections import deque

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from arvrm_ros.contract import RobotContract
from arvrm_ros.data.types import ActionChunk
from arvrm_ros.errors import MotionRefused
from arvrm_ros.motion.executor import ChunkExecutor, ExecutorSettings, JointCommand
from arvrm_ros.motion.stream import COMMITTED, CommandStream, StreamedTrajectory
from arvrm_ros.simulation.trajectory_controller import TrajectoryController, TrajectoryPoint

PERIOD, STEP = 0.01, 0.001


def random_chunk(executor: ChunkExecutor, now: float, rng: np.random.Generator) -> ActionChunk:
    """A chunk from the commanded pose, with whatever may be wrong with one."""
    steps, period = rng.integers(1, 12), 0.1
    position, quaternion = executor.kinematics.forward(executor.commanded)
    spread = rng.choice([0.002, 0.01, 0.02, 0.06])
    walk = np.cumsum(rng.normal(0, spread, (steps, 3)) + rng.normal(0, spread, 3), axis=0)
    turns = Rotation.from_rotvec(np.cumsum(rng.normal(0, spread * 3, (steps, 3)), axis=0))
    chunk = ActionChunk(
        stamp=now - rng.choice([0.0, 0.05, 0.13, 0.4, 1.5], p=[0.4, 0.3, 0.15, 0.1, 0.05]),
        step_period=period,
        positions=position + walk + rng.normal(0, rng.choice([0.0, 0.02, 0.1]), 3),
        quaternions=(Rotation.from_quat(quaternion) * turns).as_quat(),
        gripper=rng.uniform(0, 1, steps),
    )
    if rng.random() < 0.1:
        field = rng.choice(["positions", "quaternions", "gripper"])
        getattr(chunk, field).flat[rng.integers(steps)] = rng.choice([np.nan, np.inf, -np.inf])
    return chunk


class Robot:
    """An arm whose controller hears an executor with delays; random chunks, holds and stops keep it moving."""

    def __init__(self, contract: RobotContract, seed: int) -> None:
        self.contract = contract
        self.rng = np.random.default_rng(seed)
        self.executor = ChunkExecutor(contract, ExecutorSettings(PERIOD, lead=COMMITTED * PERIOD))
        self.executor.reset(np.array(contract.home), 1.0, 0.0)
        self.stream = CommandStream(self.executor, 0.0, join=0.0)
        self.controller = TrajectoryController(contract.joints)
        self.controller.reset(np.array(contract.home), 0.0)
        self.states: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._chunk_due = 0.0

    def run(self, ticks: np.ndarray, latency: float, loss: float = 0.0) -> None:
        """Ticks at these times; each trajectory takes up to ``latency`` seconds, or is lost with a probability."""
        under_way: deque[tuple[float, StreamedTrajectory]] = deque()
        pending = deque(ticks)
        for now in np.arange(ticks[0], ticks[-1] + 0.5, STEP):
            while pending and pending[0] <= now:
                tick = pending.popleft()
                trajectory = self._tick(tick)
                if trajectory and self.rng.random() >= loss:
                    under_way.append((tick + self.rng.uniform(0, latency), trajectory))
            while under_way and under_way[0][0] <= now:
                self._accept(under_way.popleft()[1], now)
            self.states.append(self.controller.state(now))

    def _tick(self, now: float) -> StreamedTrajectory | None:
        self.executor.measured(self.controller.sample(now)[0], 1.0, now)
        self.stream.advance(now)
        if now >= self._chunk_due:
            self._chunk_due = now + self.rng.choice([0.05, 0.1, 0.3])
            with contextlib.suppress(MotionRefused):
                chunk = random_chunk(self.executor, now, self.rng)
                self.executor.adopt(self.executor.plan(chunk, self.stream.changes_at))
            what = self.rng.random()
            if what < 0.05:
                self.executor.hold(self.stream.until)
            elif what < 0.1:
                self.executor.emergency_stop()
            elif what < 0.3:
                self.executor.clear_emergency_stop()
        return self.stream.trajectory(now) if self.stream.due(now) else None

    def _accept(self, trajectory: StreamedTrajectory, now: float) -> None:
        points = [TrajectoryPoint(c.positions, c.velocities, after, c.accelerations) for after, c in trajectory.points]
        self.controller.accept(list(self.contract.joints), points, trajectory.start, now)

    def assert_within_limits(self) -> None:
        positions, velocities, accelerations = (np.array(values) for values in zip(*self.states, strict=True))
        limits = self.contract.limits
        assert np.all(positions >= np.array(limits.position_min) - 1e-6)
        assert np.all(positions <= np.array(limits.position_max) + 1e-6)
        assert np.all(np.abs(velocities) <= np.array(limits.velocity) * 1.002)
        assert np.all(np.abs(accelerations) <= limits.acceleration)
        assert np.all(np.abs(np.diff(velocities, axis=0)) / STEP <= limits.acceleration), "a velocity jumped"
        assert np.all(np.abs(np.diff(accelerations, axis=0)) / STEP <= limits.jerk)


def jittered(rng: np.random.Generator, seconds: float, jitter: float) -> np.ndarray:
    ticks = PERIOD * np.arange(1, round(seconds / PERIOD))
    return ticks + rng.uniform(0, jitter, len(ticks))


@pytest.mark.parametrize("seed", range(3))
def test_late_ticks_and_late_trajectories_are_not_felt(contract: RobotContract, seed: int) -> None:
    robot = Robot(contract, seed)
    robot.run(jittered(robot.rng, 4.0, 0.015), latency=0.005)
    robot.assert_within_limits()
    assert max(np.abs(velocity).max() for _, velocity, _ in robot.states) > 0.3, "nothing moved"


@pytest.mark.parametrize("seed", range(3))
def test_a_sender_that_was_away_goes_on_from_where_the_arm_braked_to(contract: RobotContract, seed: int) -> None:
    robot = Robot(contract, seed)
    ticks = jittered(robot.rng, 5.0, 0.005)
    for start in robot.rng.integers(50, len(ticks) - 60, 4):
        ticks = np.delete(ticks, slice(start, start + robot.rng.integers(5, 40)))
    robot.run(ticks, latency=0.004)
    robot.assert_within_limits()


@pytest.mark.parametrize("seed", range(8))
def test_a_third_of_the_trajectories_may_be_lost(contract: RobotContract, seed: int) -> None:
    robot = Robot(contract, seed)
    robot.run(jittered(robot.rng, 4.0, 0.002), latency=0.003, loss=0.33)
    robot.assert_within_limits()


def test_a_dead_sender_s_arm_rests_within_0_3_s(contract: RobotContract) -> None:
    speeds = []
    for seed, last_tick in enumerate(range(60, 180, 8)):
        robot = Robot(contract, seed)
        robot.run(jittered(robot.rng, 2.0, 0.002)[:last_tick], latency=0.003)
        robot.assert_within_limits()
        moving = round(0.5 / STEP)
        after = np.array([velocity for _, velocity, _ in robot.states[-moving:]])
        speeds.append(np.abs(after[0]).max())
        assert np.abs(after[round(0.3 / STEP) :]).max() < 1e-6
    assert max(speeds) > 0.8, "it was never fast when it died"


def test_a_stream_begins_slowly_wherever_the_controller_is_and_ends_when_that_is_elsewhere(
    contract: RobotContract,
) -> None:
    robot = Robot(contract, 1)
    robot.stream = CommandStream(robot.executor, 0.0)
    robot.controller.reset(np.array(contract.home) + 0.3, 0.0)
    for now in PERIOD * np.arange(1, 150):
        robot.executor.measured(np.array(contract.home), 1.0, now)
        robot.stream.advance(now)
        if robot.stream.due(now):
            robot._accept(robot.stream.trajectory(now), now)
        robot.states += [robot.controller.state(now + i * STEP) for i in range(10)]
        assert not robot.stream.is_lost(robot.controller.state(now)[0], now)
    robot.assert_within_limits()
    np.testing.assert_allclose(robot.states[-1][0], contract.home, atol=1e-9)
    elsewhere = np.array(contract.home) + 0.01
    assert [robot.stream.is_lost(elsewhere, now + i * PERIOD) for i in range(3)] == [False, False, True]


def test_the_gripper_s_points_are_those_between_which_it_moves_evenly(contract: RobotContract) -> None:
    robot = Robot(contract, 1)
    robot.run(jittered(robot.rng, 0.3, 0.0), latency=0.0)
    counts = []
    for now in 0.3 + PERIOD * np.arange(60):
        if robot._tick(now):
            trajectory = robot.stream.trajectory(now)
            times, openings = zip(*((after, command.gripper) for after, command in trajectory.points), strict=True)
            np.testing.assert_allclose(np.interp(times, *zip(*trajectory.gripper, strict=True)), openings, atol=1e-6)
            assert (times[0], times[-1]) == (trajectory.gripper[0][0], trajectory.gripper[-1][0])
            assert np.ptp(openings) > 0.0 or len(trajectory.gripper) == 2
            counts.append((len(trajectory.gripper), len(openings)))
    few, all_of_them = np.sum(counts, axis=0)
    assert 2 * len(counts) < few < 0.6 * all_of_them


def test_a_preview_is_what_comes_and_changes_nothing(contract: RobotContract) -> None:
    robot = Robot(contract, 1)
    robot.run(jittered(robot.rng, 1.0, 0.0), latency=0.0)
    now = robot.stream.until
    foreseen = robot.executor.preview(now, 12)  # joint states are too old afterwards
    came = [robot.executor.step(now + i * PERIOD) for i in range(12)]
    for one, other in zip(foreseen, came, strict=True):
        np.testing.assert_allclose(one.positions, other.positions, rtol=0, atol=1e-12)
        np.testing.assert_allclose(one.accelerations, other.accelerations, rtol=0, atol=1e-9)


def test_braking_ends_at_rest(contract: RobotContract) -> None:
    executor = ChunkExecutor(contract)
    velocities = np.array(contract.limits.velocity) * [1, -1, 1, -1, 1, -1, 1]
    way = executor.braking(JointCommand(np.array(contract.home), velocities, 0.3, np.zeros(7)), PERIOD)
    assert len(way) * PERIOD < 0.24
    assert np.abs(way[-1].velocities).max() < 1e-9
    assert executor.braking(way[-1], PERIOD) == []
    assert way[-1].gripper == 0.3
