# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Kinematics, safety layer, blending and executor, without ROS; the last test drives the simulated arm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from arvrm_ros.contract import RobotContract
from arvrm_ros.data.types import ActionChunk
from arvrm_ros.errors import ContractError, ExecutionCode, MotionRefused
from arvrm_ros.motion.backends import BACKENDS, make_backend
from arvrm_ros.motion.executor import ChunkExecutor, ExecutorSettings, ExecutorState, JointCommand
from arvrm_ros.motion.kinematics import Kinematics

PERIOD = 0.01


@pytest.fixture
def executor(contract: RobotContract) -> ChunkExecutor:
    executor = ChunkExecutor(contract)
    executor.reset(np.array(contract.home), 1.0, 0.0)
    return executor


def line(
    contract: RobotContract, velocity: tuple[float, float, float], stamp: float = 0.0, start: float = 0.0
) -> ActionChunk:
    """A chunk that moves away from home on a straight line that began at time ``start``."""
    position, quaternion = Kinematics(contract).forward(np.array(contract.home))
    times = stamp + contract.action.step_period * np.arange(1, contract.action.chunk + 1)
    return ActionChunk(
        stamp=stamp,
        step_period=contract.action.step_period,
        positions=position + np.outer(times - start, velocity),
        quaternions=np.tile(quaternion, (len(times), 1)),
        gripper=np.ones(len(times)),
    )


def follow(executor: ChunkExecutor, now: float, seconds: float) -> list[JointCommand]:
    """Runs control periods on a robot that follows its commands perfectly."""
    commands = []
    for i in range(round(seconds / PERIOD)):
        commands.append(executor.step(now + i * PERIOD))
        executor.measured(commands[-1].positions, commands[-1].gripper, now + (i + 1) * PERIOD)
    return commands


def held(executor: ChunkExecutor, positions: np.ndarray, now: float, seconds: float) -> list[JointCommand]:
    """As :func:`follow`, on a robot that something holds at (n,) rad."""
    commands = []
    for i in range(round(seconds / PERIOD)):
        commands.append(executor.step(now + i * PERIOD))
        executor.measured(positions, commands[-1].gripper, now + (i + 1) * PERIOD)
    return commands


def assert_within_limits(commands: list[JointCommand], contract: RobotContract) -> None:
    """Commands keep every limit and are continuous: each position is where the velocities lead to."""
    limits = contract.limits
    positions = np.stack([c.positions for c in commands])
    velocities = np.stack([c.velocities for c in commands])
    assert np.all(np.isfinite(positions))
    assert np.all(positions >= np.array(limits.position_min) - 1e-6)
    assert np.all(positions <= np.array(limits.position_max) + 1e-6)
    assert np.all(np.abs(velocities) <= np.array(limits.velocity) + 1e-6)
    acceleration = np.abs(np.diff(velocities, axis=0)) / PERIOD
    assert np.all(acceleration <= np.array(limits.acceleration) + 1e-3)
    moved = np.diff(positions, axis=0)
    mean = (velocities[1:] + velocities[:-1]) / 2 * PERIOD
    # Within a period the velocity stays within acceleration * period of its ends.
    assert np.all(np.abs(moved - mean) <= np.array(limits.acceleration) * PERIOD**2)
    openings = np.array([c.gripper for c in commands])
    gripper = contract.gripper
    assert np.all(np.abs(np.diff(openings)) <= gripper.max_velocity / (gripper.open - gripper.closed) * PERIOD + 1e-9)
    assert np.all((openings >= 0) & (openings <= 1))


def refusal(executor: ChunkExecutor, chunk: ActionChunk, now: float = 0.0) -> ExecutionCode:
    with pytest.raises(MotionRefused) as caught:
        executor.accept(chunk, now)
    assert executor.error == (caught.value.code, str(caught.value))
    return caught.value.code


class TestKinematics:
    def test_forward_of_the_straight_arm_is_the_datasheet_s(self, contract: RobotContract) -> None:
        # All joints at 0: flange at 0.088 m forward, 0.333 + 0.316 + 0.384 - 0.107 m up, hand and fingers below it.
        position, _ = Kinematics(contract).forward(np.zeros(7))
        assert position == pytest.approx([0.088, 0.0, 0.333 + 0.316 + 0.384 - 0.107 - 0.1034], abs=1e-9)

    def test_jacobian_is_the_derivative_of_forward(self, contract: RobotContract) -> None:
        kinematics = Kinematics(contract)
        q = np.array(contract.home) + np.linspace(-0.2, 0.2, 7)
        position, quaternion = kinematics.forward(q)
        jacobian = kinematics.jacobian(q)
        for joint in range(7):
            moved, turned = kinematics.forward(q + 1e-6 * np.eye(7)[joint])
            assert (moved - position) / 1e-6 == pytest.approx(jacobian[:3, joint], abs=1e-5)
            rotation = (Rotation.from_quat(turned) * Rotation.from_quat(quaternion).inv()).as_rotvec()
            assert rotation / 1e-6 == pytest.approx(jacobian[3:, joint], abs=1e-5)

    def test_inverse_reaches_poses_within_the_limits(self, contract: RobotContract) -> None:
        kinematics, rng = Kinematics(contract), np.random.default_rng(3)
        home = np.array(contract.home)
        for _ in range(50):
            position, quaternion = kinematics.forward(home + rng.uniform(-0.5, 0.5, 7))
            q = kinematics.inverse(position, quaternion, home)
            reached, rotation = kinematics.forward(q)
            assert np.linalg.norm(reached - position) < 2e-5
            assert abs(rotation @ quaternion) == pytest.approx(1.0, abs=1e-7)
            assert np.all(q >= contract.limits.position_min)
            assert np.all(q <= contract.limits.position_max)

    def test_the_pull_turns_the_elbow_home_and_keeps_the_pose(self, contract: RobotContract) -> None:
        kinematics, home = Kinematics(contract), np.array(contract.home)
        away = kinematics.inverse(*kinematics.forward(home), home + np.array([0.4, 0, -0.4, 0, 0.3, 0, 0]))
        q = away
        for _ in range(300):
            q = kinematics.inverse(*kinematics.forward(home), q, home_pull=0.05)
        assert np.abs(away - home).max() > 0.2
        assert q == pytest.approx(home, abs=0.02)

    def test_out_of_reach_names_the_joint_limit(self, contract: RobotContract) -> None:
        with pytest.raises(MotionRefused, match="no joint solution") as caught:
            Kinematics(contract).inverse(np.array([1.5, 0, 0.3]), np.array([1.0, 0, 0, 0]), np.array(contract.home))
        assert caught.value.code is ExecutionCode.JOINT_LIMIT

    def test_a_pose_that_is_out_of_reach_is_missed_by_the_least(self, contract: RobotContract) -> None:
        """Beyond a stretched arm, and beyond what joint limits allow: nothing that was drawn comes nearer."""
        low, high = np.array(contract.limits.position_min), np.array(contract.limits.position_max)
        kinematics, rng = Kinematics(contract), np.random.default_rng(5)
        for trial in range(40):
            edge = np.array(contract.home)
            if trial % 2:
                edge[3] = high[3]  # stretched as far as joint 4 lets it
            else:
                edge = np.where(rng.random(7) < 0.3, np.where(rng.random(7) < 0.5, low, high), edge)
            position, quaternion = kinematics.forward(edge)
            target = position + rng.uniform(-0.004, 0.004, 3)
            seed = np.clip(edge + rng.uniform(-0.05, 0.05, 7), low, high)
            # The edge itself is nearer than that.
            found = kinematics.inverse(target, quaternion, seed, miss=0.007)
            assert np.all((low <= found) & (found <= high))
            missed = kinematics.missed(target, quaternion, found)
            near = np.clip(found + rng.normal(0, 0.002, (200, 7)), low, high)
            assert missed < min(kinematics.missed(target, quaternion, q) for q in near) + 1e-5

    def test_a_pose_farther_out_of_reach_than_allowed_is_refused(self, contract: RobotContract) -> None:
        kinematics, home = Kinematics(contract), np.array(contract.home)
        pose = np.array([0.77, 0.0, 0.4]), kinematics.forward(home)[1]
        missed = kinematics.missed(*pose, kinematics.inverse(*pose, home, miss=0.02))
        assert 0.002 < missed < 0.02
        assert kinematics.missed(*pose, kinematics.inverse(*pose, home, miss=1.01 * missed)) == pytest.approx(missed)
        for miss in (0.9 * missed, 0.0):
            with pytest.raises(MotionRefused, match="no joint solution"):
                kinematics.inverse(*pose, home, miss=miss)

    def test_a_joint_that_the_urdf_lacks_is_named(self, contract: RobotContract) -> None:
        other = replace(contract, joints=(*contract.joints[:-1], "wrist_9"))
        with pytest.raises(ContractError, match="wrist_9"):
            Kinematics(other)


class TestRefusals:
    @pytest.mark.parametrize("field", ["positions", "quaternions", "gripper"])
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite(self, executor: ChunkExecutor, contract: RobotContract, field: str, value: float) -> None:
        chunk = line(contract, (0, 0.1, 0))
        getattr(chunk, field).flat[-1] = value
        assert refusal(executor, chunk) is ExecutionCode.INVALID_CHUNK

    @pytest.mark.parametrize(
        "change",
        [
            {"positions": np.zeros((10, 2))},
            {"positions": np.zeros((0, 3)), "quaternions": np.zeros((0, 4)), "gripper": np.zeros(0)},
            {"quaternions": np.tile([0.0, 0, 0, 2.0], (10, 1))},
            {"gripper": np.ones(9)},
            {"gripper": np.full(10, 1.2)},
            {"step_period": 0.0},
            {"step_period": np.nan},
            {"stamp": np.nan},
            {"stamp": 10.0},
        ],
        ids=lambda change: "+".join(change),
    )
    def test_malformed(self, executor: ChunkExecutor, contract: RobotContract, change: dict[str, object]) -> None:
        chunk = replace(line(contract, (0, 0.1, 0)), **change)  # type: ignore[arg-type]
        assert refusal(executor, chunk) is ExecutionCode.INVALID_CHUNK

    def test_every_step_past(self, executor: ChunkExecutor, contract: RobotContract) -> None:
        executor.measured(np.array(contract.home), 1.0, 1.0)
        assert refusal(executor, line(contract, (0, 0.1, 0)), now=1.0) is ExecutionCode.CHUNK_TOO_OLD

    def test_older_than_the_one_that_moves(self, executor: ChunkExecutor, contract: RobotContract) -> None:
        executor.measured(np.array(contract.home), 1.0, 0.3)
        executor.accept(line(contract, (0, 0.1, 0), stamp=0.25), 0.3)
        assert refusal(executor, line(contract, (0, 0.1, 0), stamp=0.2), now=0.3) is ExecutionCode.CHUNK_TOO_OLD

    def test_steps_too_far_apart(self, executor: ChunkExecutor, contract: RobotContract) -> None:
        chunk = line(contract, (0, 0.0, 0))
        chunk.positions[5:, 1] += contract.limits.max_step + 0.001
        assert refusal(executor, chunk) is ExecutionCode.STEP_TOO_LARGE

    def test_first_step_too_far(self, executor: ChunkExecutor, contract: RobotContract) -> None:
        chunk = line(contract, (0, 0.0, 0))
        chunk.positions[:, 1] += contract.limits.max_first_step + 0.001
        assert refusal(executor, chunk) is ExecutionCode.STEP_TOO_LARGE

    def test_too_fast(self, executor: ChunkExecutor, contract: RobotContract) -> None:
        chunk = line(contract, (0, 0, 0))
        chunk.positions[1::2, 1] += 0.075  # there and back within max_step, but at 0.75 m/s
        assert refusal(executor, chunk) in (ExecutionCode.STEP_TOO_LARGE, ExecutionCode.JOINT_LIMIT)

    def test_out_of_workspace(self, executor: ChunkExecutor, contract: RobotContract) -> None:
        assert refusal(executor, line(contract, (0, 0, -0.35))) is ExecutionCode.OUT_OF_WORKSPACE

    def test_joint_range(self, executor: ChunkExecutor, contract: RobotContract) -> None:
        chunk = line(contract, (0, 0, 0))
        turn = Rotation.from_rotvec(np.outer(np.linspace(0, 3.1, 10), [0, 0, 1.0]))
        chunk.quaternions = (Rotation.from_quat(chunk.quaternions) * turn).as_quat()
        assert refusal(executor, chunk) is ExecutionCode.JOINT_LIMIT

    def test_stale_joint_states(self, executor: ChunkExecutor, contract: RobotContract) -> None:
        assert refusal(executor, line(contract, (0, 0.1, 0)), now=0.2) is ExecutionCode.STALE_JOINT_STATES
        fresh = ChunkExecutor(contract)
        assert refusal(fresh, line(contract, (0, 0.1, 0))) is ExecutionCode.STALE_JOINT_STATES

    def test_a_refused_chunk_changes_nothing(self, executor: ChunkExecutor, contract: RobotContract) -> None:
        other = ChunkExecutor(contract)
        other.reset(np.array(contract.home), 1.0, 0.0)
        for each in (executor, other):
            each.accept(line(contract, (0, 0.2, 0)), 0.0)
            follow(each, 0.0, 0.3)
        bad = line(contract, (0, 0.2, 0), stamp=0.3)
        bad.positions[4, 0] = np.nan
        assert refusal(executor, bad, now=0.3) is ExecutionCode.INVALID_CHUNK
        for one, two in zip(follow(executor, 0.3, 1.0), follow(other, 0.3, 1.0), strict=True):
            assert np.array_equal(one.positions, two.positions)


class TestExecutor:
    def test_the_chunk_is_reached_in_time_and_at_rest(self, executor: ChunkExecutor, contract: RobotContract) -> None:
        chunk = line(contract, (0.05, 0.2, 0.05))
        chunk.gripper[:] = 0.25
        executor.accept(chunk, 0.0)
        commands = follow(executor, 0.0, 2.5)
        assert_within_limits(commands, contract)
        kinematics = executor.kinematics
        for step in range(4, 8):  # past the start from rest, before the last step's slowing down
            reached = kinematics.forward(commands[round((step + 1) * 0.1 / PERIOD) - 1].positions)[0]
            assert np.linalg.norm(reached - chunk.positions[step]) < 1e-3
        end, quaternion = kinematics.forward(commands[-1].positions)
        assert np.linalg.norm(end - chunk.positions[-1]) < 1e-4
        assert abs(quaternion @ chunk.quaternions[-1]) == pytest.approx(1.0, abs=1e-6)
        assert commands[-1].gripper == pytest.approx(0.25)
        assert executor.at_rest
        assert executor.state is ExecutorState.HOLDING
        assert executor.error[0] is ExecutionCode.NONE

    def test_past_steps_are_dropped(self, executor: ChunkExecutor, contract: RobotContract) -> None:
        chunk = line(contract, (0, 0.2, 0), stamp=0.0, start=0.0)
        executor.measured(np.array(contract.home), 1.0, 0.45)
        executor.accept(chunk, 0.45)
        assert executor.step_index(0.45) == 4
        commands = follow(executor, 0.45, 0.45)
        reached = executor.kinematics.forward(commands[-1].positions)[0]
        assert chunk.positions[6, 1] < reached[1], "at 0.9 s it should near step 8; without dropping it would be at 3"
        commands += follow(executor, 0.9, 0.5)
        assert_within_limits(commands, contract)
        assert np.linalg.norm(executor.kinematics.forward(commands[-1].positions)[0] - chunk.positions[-1]) < 1e-4

    @pytest.mark.parametrize("newest_weight", [1.0, 0.5])
    def test_lag_on_a_line_of_overlapping_chunks(self, contract: RobotContract, newest_weight: float) -> None:
        executor = ChunkExecutor(contract, ExecutorSettings(newest_weight=newest_weight))
        executor.reset(np.array(contract.home), 1.0, 0.0)
        speed, commands = 0.3, []
        for i in range(10):
            chunk = line(contract, (0, speed, 0), stamp=i * 0.1)
            chunk.positions[:, 1] = np.minimum(chunk.positions[:, 1], 0.3)
            executor.accept(chunk, i * 0.1)
            commands += follow(executor, i * 0.1, 0.1)
        assert_within_limits(commands, contract)
        y = np.array([executor.kinematics.forward(c.positions)[0][1] for c in commands])
        due = speed * PERIOD * np.arange(1, len(y) + 1)
        lag = (due - y)[40:80] / speed
        assert np.abs(lag).max() < 0.005

    def test_silence_brings_the_arm_to_rest_then_counts_as_holding(
        self, executor: ChunkExecutor, contract: RobotContract
    ) -> None:
        executor.accept(line(contract, (0, 0.2, 0)), 0.0)
        commands = follow(executor, 0.0, 1.5)
        assert executor.at_rest
        assert executor.state is ExecutorState.FOLLOWING
        commands += follow(executor, 1.5, 0.6)
        assert executor.state is ExecutorState.HOLDING
        assert_within_limits(commands, contract)

    def test_hold_stops_on_the_path(self, executor: ChunkExecutor, contract: RobotContract) -> None:
        executor.accept(line(contract, (0, 0.3, 0)), 0.0)
        commands = follow(executor, 0.0, 0.5)
        executor.hold(0.5)
        assert executor.state is ExecutorState.HOLDING
        commands += follow(executor, 0.5, 1.0)
        assert_within_limits(commands, contract)
        assert executor.at_rest
        home = executor.kinematics.forward(np.array(contract.home))[0]
        at_hold, rested = (executor.kinematics.forward(commands[i].positions)[0] for i in (49, -1))
        assert np.linalg.norm(rested - at_hold) < 0.05
        assert np.abs((rested - home)[[0, 2]]).max() < 1e-3

    def test_emergency_stop_latches(self, executor: ChunkExecutor, contract: RobotContract) -> None:
        executor.accept(line(contract, (0, 0.3, 0)), 0.0)
        commands = follow(executor, 0.0, 0.5)
        executor.emergency_stop()
        commands += follow(executor, 0.5, 0.3)
        assert executor.at_rest
        assert executor.state is ExecutorState.STOPPED
        assert_within_limits(commands, contract)
        assert np.linalg.norm(commands[-1].positions - commands[49].positions) < 0.1
        with pytest.raises(MotionRefused) as caught:
            executor.accept(line(contract, (0, 0.1, 0), stamp=0.8, start=0.3), 0.8)
        assert caught.value.code is ExecutionCode.EMERGENCY_STOP
        executor.reset(commands[-1].positions, 1.0, 0.8)
        assert executor.state is ExecutorState.STOPPED, "only clearing it ends an emergency stop"
        executor.clear_emergency_stop()
        assert executor.state is ExecutorState.HOLDING
        assert executor.error[0] is ExecutionCode.NONE
        stay = line(contract, (0, 0.0, 0), stamp=0.8)
        stay.positions[:] = executor.kinematics.forward(commands[-1].positions)[0]
        executor.accept(stay, 0.8)
        assert executor.state is ExecutorState.FOLLOWING

    def test_a_blocked_arm_gives_way(self, executor: ChunkExecutor, contract: RobotContract) -> None:
        executor.accept(line(contract, (0, 0.35, 0)), 0.0)
        blocked = np.array(contract.home)
        commands = held(executor, blocked, 0.0, 4.0)
        assert executor.error[0] is ExecutionCode.OBSTRUCTED
        assert "is held 0.02" in executor.error[1]
        assert executor.state is ExecutorState.HOLDING
        assert_within_limits(commands, contract)
        assert np.abs([command.positions - blocked for command in commands]).max() < 0.16
        assert commands[-1].positions == pytest.approx(blocked, abs=1e-3)

    def test_an_arm_that_gives_way_again_and_again_does_not_follow(
        self, executor: ChunkExecutor, contract: RobotContract
    ) -> None:
        blocked, commands, codes = np.array(contract.home), [], []
        for i in range(30):
            now = i * 0.1
            executor.accept(line(contract, (0, 0.35, 0), stamp=now, start=now), now)
            commands += held(executor, blocked, now, 0.1)
            codes.append(executor.error[0])
            if codes[-1] is ExecutionCode.TRACKING_ERROR:
                break
        assert codes.count(ExecutionCode.OBSTRUCTED) >= 4
        assert "again and again" in executor.error[1]
        assert executor.state is ExecutorState.HOLDING
        commands += held(executor, blocked, now + 0.1, 1.0)
        assert_within_limits(commands, contract)
        assert np.abs([command.positions - blocked for command in commands]).max() < 0.12

    def test_an_obstacle_that_lets_go_is_no_reason_to_stop(
        self, executor: ChunkExecutor, contract: RobotContract
    ) -> None:
        blocked, commands = np.array(contract.home), []
        for i in range(20):
            now = i * 0.1
            chunk = line(contract, (0, 0.3, 0), stamp=now, start=min(now, 0.6))
            chunk.positions[:, 1] = np.minimum(chunk.positions[:, 1], 0.3)
            executor.accept(chunk, now)
            commands += held(executor, blocked, now, 0.1) if i < 6 else follow(executor, now, 0.1)
        assert executor.error[0] is ExecutionCode.NONE
        assert executor.state is ExecutorState.FOLLOWING
        assert_within_limits(commands, contract)
        assert executor.kinematics.forward(commands[-1].positions)[0][1] > 0.2

    def test_an_arm_that_only_lags_is_not_obstructed(self, executor: ChunkExecutor, contract: RobotContract) -> None:
        executor.accept(line(contract, (0, 0.3, 0)), 0.0)
        where = [np.array(contract.home)] * 8  # 0.08 s behind
        for i in range(120):
            where.append(executor.step(i * PERIOD).positions)
            executor.measured(where[i], 1.0, (i + 1) * PERIOD)
            assert executor.error[0] is ExecutionCode.NONE
        assert executor.tracking_error < 1e-3
        assert np.abs(where[-1] - where[0]).max() > 0.2

    def test_a_chunk_that_comes_while_the_arm_moves_slowly_to_where_it_is_held(
        self, executor: ChunkExecutor, contract: RobotContract
    ) -> None:
        executor.accept(line(contract, (0, 0.2, 0)), 0.0)
        commands = follow(executor, 0.0, 0.3)
        executor.emergency_stop()
        commands += follow(executor, 0.3, 0.3)
        commands += held(executor, commands[-1].positions + np.eye(7)[1] * 0.02, 0.6, 1.3)  # of some 2.5 s
        assert np.abs(commands[-1].velocities).max() > 0.01, "it still gives way"
        executor.clear_emergency_stop()
        chunk = line(contract, (0, 0.1, 0), stamp=1.9)
        chunk.positions += executor.kinematics.forward(executor.commanded)[0] - chunk.positions[0]
        executor.adopt(executor.plan(chunk, 1.96))  # as a stream does: up to there the motion goes on
        commands += follow(executor, 1.9, 1.0)
        assert_within_limits(commands, contract)

    def test_an_arm_that_others_lead_does_not_give_way(self, executor: ChunkExecutor, contract: RobotContract) -> None:
        executor.accept(line(contract, (0, 0.1, 0)), 0.0)
        lead = 0.0
        for i in range(150):
            late = executor.commanded if i < 50 else 0.8 * executor.commanded + 0.2 * np.array(contract.home)
            executor.step(i * PERIOD)
            executor.measured(late, 1.0, (i + 1) * PERIOD, gives_way=False)
            lead = max(lead, executor.tracking_error)
        assert 0.02 < lead < 0.25
        assert executor.error[0] is ExecutionCode.NONE
        assert executor.state is ExecutorState.FOLLOWING

    def test_what_still_holds_an_arm_at_rest_is_given_way_to_slowly(
        self, executor: ChunkExecutor, contract: RobotContract
    ) -> None:
        executor.accept(line(contract, (0, 0.2, 0)), 0.0)
        follow(executor, 0.0, 0.3)
        executor.emergency_stop()
        stop = follow(executor, 0.3, 0.3)
        caught = stop[-1].positions + np.eye(7)[1] * 0.015
        commands = held(executor, caught, 0.6, 3.0)
        assert commands[-1].positions == pytest.approx(caught, abs=1e-3)
        assert 0.01 < np.abs([command.velocities for command in commands]).max() < 0.02, "rad/s, counts as rest"
        for sunk in range(10):  # one that sags wherever it is asked to be
            commands += held(executor, executor.commanded + np.eye(7)[1] * 0.015, 3.6 + 3 * sunk, 3.0)
        assert np.abs(executor.commanded - stop[-1].positions).max() < 0.05
        assert_within_limits(stop + commands, contract)

    def test_an_arm_pushed_far_off_its_command_is_not_followed(
        self, executor: ChunkExecutor, contract: RobotContract
    ) -> None:
        executor.accept(line(contract, (0, 0.2, 0)), 0.0)
        commands = follow(executor, 0.0, 0.3)
        pushed = commands[-1].positions + np.eye(7)[2] * 0.6
        commands += held(executor, pushed, 0.3, 4.0)
        assert executor.error[0] is ExecutionCode.TRACKING_ERROR
        assert "panda_joint3 is 0.60 rad from its command" in executor.error[1]
        assert executor.state is ExecutorState.HOLDING
        assert_within_limits(commands, contract)
        assert commands[-1].positions == pytest.approx(pushed, abs=1e-3)

    def test_lost_joint_states_hold_the_arm(self, executor: ChunkExecutor, contract: RobotContract) -> None:
        executor.accept(line(contract, (0, 0.2, 0)), 0.0)
        commands = [executor.step(i * PERIOD) for i in range(100)]
        assert executor.error[0] is ExecutionCode.STALE_JOINT_STATES
        assert executor.state is ExecutorState.HOLDING
        assert executor.at_rest
        assert_within_limits(commands, contract)


class TestBackends:
    def test_points_of_the_controller_satisfy_ros2_control(self, contract: RobotContract) -> None:
        command = JointCommand(np.arange(7.0), np.ones(7), 0.5, np.full(7, 2.0))
        point = make_backend("controller").arm_point(command, PERIOD)
        assert point.positions == tuple(range(7))
        assert (point.velocities, point.accelerations) == ((1.0,) * 7, (2.0,) * 7)
        assert point.time_from_start == PERIOD

    def test_moveit_names_its_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ROS_DISTRO", "kilted")
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(MotionRefused, match="ros-kilted-moveit-py") as caught:
            make_backend("moveit")
        assert caught.value.code is ExecutionCode.BACKEND_UNAVAILABLE

    def test_unknown_backend_lists_the_known(self) -> None:
        with pytest.raises(MotionRefused, match=", ".join(BACKENDS)):
            make_backend("teleport")


def test_the_simulated_arm_follows_overlapping_chunks(contract: RobotContract) -> None:
    pytest.importorskip("mujoco")
    from arvrm_ros.simulation.tabletop import Tabletop

    tabletop = Tabletop(contract, render=False)
    tabletop.reset(seed=4)
    executor = ChunkExecutor(contract)
    executor.reset(tabletop.joint_positions, tabletop.gripper, tabletop.time)
    start, quaternion = executor.kinematics.forward(tabletop.joint_positions)

    def target(time: np.ndarray) -> np.ndarray:
        """A horizontal circle of 8 cm radius that starts and ends at rest."""
        part = np.clip(time / 3.0, 0, 1)
        angle = 2 * np.pi * part**2 * (3 - 2 * part)
        return start + 0.08 * np.stack([np.cos(angle) - 1, np.sin(angle), 0 * angle], axis=1)

    commands, errors = [], []
    for cycle in range(400):
        now = tabletop.time
        if cycle % 10 == 0 and cycle <= 300:
            times = now + 0.1 * np.arange(1, 11)
            chunk = ActionChunk(now, 0.1, target(times), np.tile(quaternion, (10, 1)), np.full(10, 0.5))
            executor.accept(chunk, now)
        commands.append(executor.step(now))
        tabletop.command(commands[-1].positions, commands[-1].gripper)
        tabletop.advance(PERIOD)
        executor.measured(tabletop.joint_positions, tabletop.gripper, tabletop.time)
        errors.append(np.linalg.norm(tabletop.end_effector()[0] - target(np.array([tabletop.time]))[0]))
    assert_within_limits(commands, contract)
    assert executor.error[0] is ExecutionCode.NONE
    assert errors[-1] < 0.005
    assert max(errors) < 0.03
    assert tabletop.gripper == pytest.approx(0.5, abs=0.05)
