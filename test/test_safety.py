# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever the chunks, states and contracts: no accepted motion breaks a limit, and a refusal says what, how much, and
how much would be allowed. Motion is judged as a controller interpolates it, at 1 kHz, by other code than checks it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, reject, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from hypothesis.strategies import SearchStrategy
from scipy.spatial.transform import Rotation
from test_motion import PERIOD, follow, line

from arvrm_ros.contract import Clamp, KeepOut, RobotContract, load_contract
from arvrm_ros.data.types import ActionChunk
from arvrm_ros.errors import ContractError, ExecutionCode, MotionRefused
from arvrm_ros.motion.collision import Clearance
from arvrm_ros.motion.contact import PRESSES
from arvrm_ros.motion.executor import ChunkExecutor, ExecutorSettings, ExecutorState, JointCommand
from arvrm_ros.motion.kinematics import Kinematics
from arvrm_ros.motion.safety import SWING, PathCheck
from arvrm_ros.motion.stream import COMMITTED
from arvrm_ros.simulation import MOST_LAG
from arvrm_ros.simulation.trajectory_controller import TrajectoryController, TrajectoryPoint

STEP = 0.001  # s
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
BETWEEN_LOOKS = 0.002  # m that a brake from between two looked at may differ by


def limited(contract: RobotContract, **limits: object) -> RobotContract:
    return replace(contract, limits=replace(contract.limits, **limits))  # type: ignore[arg-type]


def each(low: float, high: float, count: int = 7) -> SearchStrategy[np.ndarray]:
    return st.lists(st.floats(low, high), min_size=count, max_size=count).map(np.array)


@st.composite
def contracts(draw: st.DrawFn) -> RobotContract:
    """Other limits than the tabletop's, a smaller workspace, and a box somewhere."""
    contract = load_contract("tabletop")
    limits, home = contract.limits, np.array(contract.home)
    acceleration = np.array(limits.acceleration) * draw(each(0.3, 1.0))
    room = draw(st.floats(0.2, 1.0))
    middle = Kinematics(contract).forward(home)[0] + draw(each(-0.35, 0.35, 3))
    size = draw(each(0.02, 0.1, 3))
    box = KeepOut(tuple(middle - size), tuple(middle + size), draw(st.floats(0, 0.03)))
    return limited(
        contract,
        velocity=tuple(np.array(limits.velocity) * draw(each(0.3, 1.0))),
        acceleration=tuple(acceleration),
        jerk=tuple(acceleration * 10 ** draw(st.floats(1.3, 2.7))),
        position_min=tuple(home + room * (np.array(limits.position_min) - home)),
        position_max=tuple(home + room * (np.array(limits.position_max) - home)),
        cartesian_velocity=draw(st.floats(0.15, 0.6)),
        workspace_max=tuple(np.array(limits.workspace_max) - [draw(st.floats(0, 0.2)), 0.1, 0.1]),
        keep_out=limits.keep_out | {"box": box},
        clamp=Clamp(*(draw(st.sampled_from([0.0, 0.02])) for _ in range(4))),
    )


@st.composite
def chunks(draw: st.DrawFn) -> ActionChunk:
    """Steps relative to the commanded pose, with whatever may be wrong with them; the stamp is minus the age."""
    steps = draw(st.integers(1, 12))
    spread = draw(st.sampled_from([0.002, 0.005, 0.01, 0.01, 0.02, 0.06]))
    walk, turns, drift = (draw(each(-2, 2, 3 * n)).reshape(n, 3) for n in (steps, steps, 1))
    far = draw(st.sampled_from([0.0, 0.0, 0.0, 0.02, 0.1])) * draw(each(-1, 1, 3))
    chunk = ActionChunk(
        stamp=-draw(st.sampled_from([0.0, 0.05, 0.13, 0.0, 0.05, 0.13, 0.4, 1.5, -1.0])),
        step_period=draw(st.sampled_from([*[0.1] * 10, 0.05, 0.2, 0.0])),
        positions=far + spread * np.cumsum(walk + drift, axis=0),
        quaternions=Rotation.from_rotvec(3 * spread * np.cumsum(turns, axis=0)).as_quat(),
        gripper=draw(each(0, 1, steps)),
    )
    if draw(st.sampled_from([*[False] * 12, True])):
        field = draw(st.sampled_from(["positions", "quaternions", "gripper"]))
        broken = draw(st.sampled_from([np.nan, np.inf, -np.inf, 1e300, "shape"]))
        if broken == "shape":
            setattr(chunk, field, getattr(chunk, field)[:-1])
        else:
            getattr(chunk, field).flat[0] = broken
    return chunk


def interpolated(commands: list[JointCommand], contract: RobotContract) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(T, n) positions, velocities and accelerations at 1 kHz between commands of which the last one is at rest."""
    controller = TrajectoryController(contract.joints)
    controller.reset(commands[0].positions, 0.0)
    points = [
        TrajectoryPoint(c.positions, c.velocities, PERIOD * (i + 1), c.accelerations) for i, c in enumerate(commands)
    ]
    controller.accept(list(contract.joints), points, 0.0, 0.0)
    states = [controller.state(time) for time in np.arange(PERIOD, PERIOD * len(points) - STEP / 2, STEP)]
    return tuple(np.array(values) for values in zip(*states, strict=True))  # type: ignore[return-value]


def most(values: np.ndarray, limits: tuple[float, ...]) -> float:
    """The largest share of its limit that any of (T, n) values takes."""
    return float((np.abs(values) / np.array(limits)).max())


class Judge:
    """Says what a motion breaks."""

    def __init__(self, contract: RobotContract) -> None:
        self.contract, self._kinematics = contract, Kinematics(contract)
        limits = contract.limits
        near = {name: replace(box, clearance=max(box.clearance - BETWEEN_LOOKS, 0.0)) for name, box in
                limits.keep_out.items()}  # fmt: skip
        self._clearance = Clearance(
            limited(contract, keep_out=near, self_clearance=max(limits.self_clearance - BETWEEN_LOOKS, 0.0))
        )

    def check(self, commands: list[JointCommand]) -> None:
        if len(commands) < 2:
            return
        limits = self.contract.limits
        positions, velocities, accelerations = interpolated(commands, self.contract)
        assert np.all(positions >= np.array(limits.position_min) - 1e-4)
        assert np.all(positions <= np.array(limits.position_max) + 1e-4)
        assert most(velocities, limits.velocity) <= 1.002
        assert most(accelerations, limits.acceleration) <= 1.002
        assert most(np.diff(velocities, axis=0) / STEP, limits.acceleration) <= 1.002
        assert most(np.diff(accelerations, axis=0) / STEP, limits.jerk) <= 1.002
        hand = self._kinematics.along(positions)
        margin = SWING + BETWEEN_LOOKS
        assert np.all(hand >= np.minimum(np.array(limits.workspace_min) - margin, hand[0]))
        assert np.all(hand <= np.maximum(np.array(limits.workspace_max) + margin, hand[0]))
        speed = np.linalg.norm(np.diff(hand, axis=0), axis=1).max() / STEP
        assert speed <= limits.cartesian_velocity * 1.01
        home = np.array(self.contract.home)
        for joints in positions[:: round(0.02 / STEP)]:  # each exactly: it is far from the one before
            assert self._clearance.along(np.stack([home, joints])) is None


def assert_says_why(refusal: MotionRefused, contract: RobotContract) -> None:
    message, code = str(refusal), refusal.code
    assert code is not ExecutionCode.NONE
    named = [*contract.joints, "panda_", "step", "stamp", "quaternion", "gripper", "positions", "x is", "y is", "z is"]
    assert any(name in message for name in [*named, "emergency stop", "joint states", "the arm brakes"])
    if code in (ExecutionCode.STEP_TOO_LARGE, ExecutionCode.OUT_OF_WORKSPACE, ExecutionCode.JOINT_LIMIT):
        assert len(NUMBER.findall(re.sub(r"panda_\w+", "", message))) >= 2, f"no value and bound: {message}"
        assert "limits." in message or "tolerances are" in message, f"no bound named: {message}"


class Motion(RuleBasedStateMachine):
    """An executor with any contract that is given any chunks, and held and stopped meanwhile."""

    seen: ClassVar[Counter[ExecutionCode]] = Counter()

    @initialize(contract=contracts(), newest_weight=st.sampled_from([1.0, 0.5]))
    def begin(self, contract: RobotContract, newest_weight: float) -> None:
        try:
            self.executor = ChunkExecutor(contract, ExecutorSettings(newest_weight=newest_weight))
        except ContractError:
            reject()  # the box is where the arm is at home
        self.judge = Judge(contract)
        self.now, self.commands = 0.0, list[JointCommand]()
        self.executor.reset(np.array(contract.home), 1.0, 0.0)

    @rule(relative=chunks(), periods=st.integers(1, 30))
    def follow(self, relative: ActionChunk, periods: int) -> None:
        position, quaternion = self.executor.kinematics.forward(self.executor.commanded)
        chunk = replace(
            relative,
            stamp=self.now + relative.stamp,
            positions=position + relative.positions,
            quaternions=turned(quaternion, relative.quaternions),
        )
        try:
            self.executor.accept(chunk, self.now)
            self.seen[ExecutionCode.NONE] += 1
        except MotionRefused as refusal:
            assert_says_why(refusal, self.executor.contract)
            self.seen[refusal.code] += 1
        self.go_on(periods)

    @rule(periods=st.integers(1, 30))
    def hold(self, periods: int) -> None:
        self.executor.hold(self.now)
        self.go_on(periods)

    @rule(stopped=st.integers(1, 30), moving=st.integers(1, 30))
    def stop(self, stopped: int, moving: int) -> None:
        self.executor.emergency_stop()
        with pytest.raises(MotionRefused) as caught:
            self.executor.accept(line(self.executor.contract, (0, 0.1, 0), stamp=self.now), self.now)
        assert caught.value.code is ExecutionCode.EMERGENCY_STOP
        self.go_on(stopped)
        self.executor.clear_emergency_stop()
        self.go_on(moving)

    def go_on(self, periods: int) -> None:
        self.commands += follow(self.executor, self.now, PERIOD * periods)
        self.now = round(self.now + PERIOD * periods, 6)
        if np.abs(self.commands[-1].velocities).max() > 0.05:
            self.judge.check([self.commands[-1], *self.executor.braking(self.commands[-1], PERIOD)])

    def teardown(self) -> None:
        if not getattr(self, "commands", None):
            return
        while not self.executor.at_rest or np.abs(self.commands[-1].velocities).max() > 1e-6:
            self.go_on(50)
        self.judge.check(self.commands)


def turned(quaternion: np.ndarray, by: np.ndarray) -> np.ndarray:
    """A quaternion turned by others; these themselves where they are none."""
    good = by.ndim == 2 and len(by) and np.isfinite(by).all() and np.abs(by).max() < 2
    return (Rotation.from_quat(quaternion) * Rotation.from_quat(by)).as_quat() if good else by


def test_no_accepted_motion_breaks_a_limit_of_any_contract() -> None:
    Motion.seen.clear()
    examples = settings(
        max_examples=100, stateful_step_count=20, derandomize=True, deadline=None, suppress_health_check=[*HealthCheck],
        phases=[Phase.generate],  # to shrink what it finds takes longer than a test may
    )  # fmt: skip
    run_state_machine_as_test(Motion, settings=examples)
    wanted = {
        ExecutionCode.NONE,
        ExecutionCode.INVALID_CHUNK,
        ExecutionCode.CHUNK_TOO_OLD,
        ExecutionCode.STEP_TOO_LARGE,
        ExecutionCode.OUT_OF_WORKSPACE,
        ExecutionCode.JOINT_LIMIT,
    }
    assert wanted <= set(Motion.seen), f"only {Motion.seen}"


def test_a_new_chunk_begins_at_the_position_velocity_and_acceleration_of_what_moves(contract: RobotContract) -> None:
    executor, rng, moving = ChunkExecutor(contract), np.random.default_rng(0), 0
    executor.reset(np.array(contract.home), 1.0, 0.0)
    for i in range(25):
        now = round(0.1 * i, 6)
        position, quaternion = executor.kinematics.forward(executor.commanded)
        steps = np.cumsum(rng.normal(0, 0.012, (10, 3)), axis=0)
        chunk = ActionChunk(now, 0.1, position + steps, np.tile(quaternion, (10, 1)), rng.uniform(0, 1, 10))
        try:
            plan = executor.plan(chunk, now)
        except MotionRefused:
            pass
        else:
            np.testing.assert_allclose(plan.path.at(now)[:, :-1], plan.base.at(now)[:, :-1], rtol=0, atol=1e-9)
            moving += bool(np.abs(plan.base.at(now)[1]).max() > 0.02)
            executor.adopt(plan)
        follow(executor, now, 0.1)
    assert moving > 5


def test_a_plan_changes_nothing_before_its_start_and_is_not_followed_after_it(contract: RobotContract) -> None:
    executor, other = ChunkExecutor(contract), ChunkExecutor(contract)
    for each in (executor, other):
        each.reset(np.array(contract.home), 1.0, 0.0)
        each.accept(line(contract, (0, 0.2, 0)), 0.0)
        follow(each, 0.0, 0.3)
    chunk = line(contract, (0, 0.2, 0.1), stamp=0.3, start=0.0)
    plan = executor.plan(chunk, 0.35)
    executor.adopt(plan)
    for one, two in zip(follow(executor, 0.3, 0.05), follow(other, 0.3, 0.05), strict=True):
        np.testing.assert_allclose(one.positions, two.positions, rtol=0, atol=1e-9)
    late = other.plan(line(contract, (0, 0.2, 0.1), stamp=0.3, start=0.0), 0.36)
    follow(other, 0.35, 0.03)
    with pytest.raises(MotionRefused, match="planned") as caught:
        other.adopt(late)
    assert caught.value.code is ExecutionCode.PREEMPTED


def test_a_first_plan_that_is_adopted_early_is_not_followed_late(contract: RobotContract) -> None:
    executor = ChunkExecutor(contract)
    executor.reset(np.array(contract.home), 1.0, 0.0)
    executor.measured(np.array(contract.home), 1.0, 1.0)
    plan = executor.plan(line(contract, (0, 0.1, 0), stamp=1.0, start=1.0), 1.05)
    executor.adopt(plan)
    commands = follow(executor, 1.0, 1.5)
    assert executor.ends_at == plan.path.end
    np.testing.assert_allclose(commands[49].positions, plan.path.at(1.5)[0, :-1], rtol=0, atol=1e-9)


def test_joint_states_have_to_be_new_when_a_plan_is_asked_for_not_when_it_begins(contract: RobotContract) -> None:
    executor, chunk = ChunkExecutor(contract), line(contract, (0, 0.05, 0), stamp=1.0, start=1.0)
    executor.reset(np.array(contract.home), 1.0, 0.0)
    executor.measured(np.array(contract.home), 1.0, 1.0)
    later = 1.0 + 2 * contract.observation.joint_states.max_age
    executor.plan(chunk, later, asked=1.02)
    with pytest.raises(MotionRefused, match="old") as caught:
        executor.plan(chunk, later + 0.1, asked=later)
    assert caught.value.code is ExecutionCode.STALE_JOINT_STATES


@pytest.mark.parametrize("speed", [0.3, 0.5])
def test_a_stretched_elbow_is_left_slowly(contract: RobotContract, speed: float) -> None:
    """The joints are far slower than the hand is asked to be; a policy that asks on is not refused for ever."""
    executor, judge, home = ChunkExecutor(contract), Judge(contract), np.array(contract.home)
    start, quaternion = executor.kinematics.forward(home)
    seed, far, forward = home, start, np.array([1.0, 0.0, 0.0])
    for reach in np.arange(0, 0.6, 0.002):
        try:
            seed = executor.kinematics.inverse(start + reach * forward, quaternion, seed, 0.02)
        except MotionRefused:
            break
        far = start + reach * forward
    assert np.linalg.svd(executor.kinematics.jacobian(seed), compute_uv=False)[-1] < 0.05
    executor.reset(seed, 1.0, 0.0)
    commands, refused = [], 0
    for i in range(100):
        now = round(0.1 * i, 6)
        hand = executor.kinematics.forward(executor.commanded)[0]
        if hand[0] < far[0] - 0.15:
            break
        steps = np.maximum(hand[0] - speed * 0.1 * np.arange(1, 11), start[0])
        chunk = ActionChunk(now, 0.1, np.tile(hand, (10, 1)), np.tile(quaternion, (10, 1)), np.ones(10))
        chunk.positions[:, 0] = steps
        commands += follow(executor, now, 0.05)
        try:
            executor.accept(chunk, round(now + 0.05, 6))
        except MotionRefused:
            refused += 1
        commands += follow(executor, round(now + 0.05, 6), 0.05)
    assert hand[0] < far[0] - 0.15, f"stuck; {refused} chunks refused"
    executor.hold(round(now, 6))
    judge.check(commands + follow(executor, now, 1.0))


class TestClearance:
    def test_a_box_is_not_entered(self, contract: RobotContract) -> None:
        hand = Kinematics(contract).forward(np.array(contract.home))[0]
        wall = KeepOut(
            (hand[0] - 0.1, hand[1] + 0.2, hand[2] - 0.1), (hand[0] + 0.1, hand[1] + 0.3, hand[2] + 0.2), 0.02
        )
        chunk = line(contract, (0, 0.2, 0))
        for kept, refused in ((contract, False), (limited(contract, keep_out={"wall": wall}), True)):
            executor = ChunkExecutor(kept)
            executor.reset(np.array(contract.home), 1.0, 0.0)
            if not refused:
                executor.accept(chunk, 0.0)
                continue
            with pytest.raises(MotionRefused, match=r"limits\.keep_out\.wall\.clearance is 0\.02 m") as caught:
                executor.accept(chunk, 0.0)
            assert caught.value.code is ExecutionCode.OUT_OF_WORKSPACE
            assert executor.state is ExecutorState.HOLDING
            assert executor.at_rest
        kinematics, home = Kinematics(contract), np.array(contract.home)
        there = kinematics.inverse(chunk.positions[-1], chunk.quaternions[-1], home)
        found = Clearance(limited(contract, keep_out={"wall": wall})).along(np.stack([home, there]))
        assert found is not None
        assert found.away == pytest.approx([0, -1, 0], abs=1e-6)

    def test_the_ways_to_rest_are_looked_at_too(self, contract: RobotContract) -> None:
        """A path that stays inside the limits, at a speed at which the arm could not rest before them."""
        times = PERIOD * np.arange(10)
        motion = np.zeros((3, 10, 8))
        motion[0, :, :-1] = contract.home
        motion[0, :, 0] = 0.2 + times
        motion[1, :, 0] = 1.0
        PathCheck(contract, PERIOD).limits(times, motion)
        near = limited(contract, position_max=(0.3, *contract.limits.position_max[1:]))
        with pytest.raises(MotionRefused, match=r"panda_joint1 .* braking .* 0\.3 rad") as caught:
            PathCheck(near, PERIOD).limits(times, motion)
        assert caught.value.code is ExecutionCode.JOINT_LIMIT
        hand = Kinematics(contract).forward(motion[0, -1, :-1])[0]
        ahead = KeepOut((hand[0] - 0.2, hand[1] + 0.105, hand[2]), (hand[0], hand[1] + 0.3, hand[2] + 0.1))
        check = PathCheck(limited(contract, keep_out={"wall": ahead}), PERIOD)
        visited = check.limits(times, motion)
        check.clearance(motion[0, :, :-1])
        with pytest.raises(MotionRefused, match=r"limits\.keep_out\.wall"):
            check.clearance(visited)

    def test_links_are_kept_apart(self, contract: RobotContract) -> None:
        folded = np.array([0.0, 0.0, 0.0, -3.0, 0.0, 0.1, 0.785])
        way = np.linspace(contract.home, folded, 100)
        found = Clearance(contract).along(way)
        assert found is not None
        assert found.key == "limits.self_clearance"
        assert found.link.startswith("panda_")
        assert found.other.startswith("panda_")
        assert found.distance < found.bound == contract.limits.self_clearance
        assert Clearance(contract).along(np.linspace(contract.home, np.array(contract.home) + 0.1, 50)) is None

    def test_nothing_is_overlooked_between_two_looks(self, contract: RobotContract) -> None:
        rng, clearance = np.random.default_rng(2), Clearance(contract)
        low, high = np.array(contract.limits.position_min), np.array(contract.limits.position_max)
        seen = set()
        for _ in range(12):
            way = np.linspace(contract.home, rng.uniform(low, high), 60)
            each = [clearance.along(way[[0, i]]) is not None for i in range(60)]
            assert (clearance.along(way) is not None) == any(each)
            seen.add(any(each))
        assert seen == {True, False}


class TestClamping:
    def test_what_the_contract_allows_is_cut_and_said(self, contract: RobotContract) -> None:
        top = contract.limits.workspace_max[1]
        chunk = line(contract, (0, 0, 0))
        hand = chunk.positions[0].copy()
        chunk.positions[:, 1] = np.minimum(hand[1] + 0.05 * np.arange(1, 11), top + 0.01)
        executor = ChunkExecutor(limited(contract, clamp=Clamp(workspace=0.02)))
        executor.reset(np.array(contract.home), 1.0, 0.0)
        executor.accept(chunk, 0.0)
        assert "0.0100 m outside the workspace" in executor.clamped
        commands = follow(executor, 0.0, 2.0)
        assert executor.kinematics.forward(commands[-1].positions)[0][1] == pytest.approx(top, abs=1e-4)
        executor = ChunkExecutor(contract)
        executor.reset(np.array(contract.home), 1.0, 0.0)
        with pytest.raises(MotionRefused, match=r"y is 0\.43.*\.workspace_max y is 0\.42") as caught:
            executor.accept(chunk, 0.0)
        assert caught.value.code is ExecutionCode.OUT_OF_WORKSPACE

    def test_too_long_a_step_is_shortened_up_to_a_bound(self, contract: RobotContract) -> None:
        chunk = line(contract, (0, 0, 0))
        chunk.positions[5:, 1] += 0.07  # 0.7 m/s for a step
        executor = ChunkExecutor(limited(contract, clamp=Clamp(step=0.02)))
        executor.reset(np.array(contract.home), 1.0, 0.0)
        executor.accept(chunk, 0.0)
        assert "steps 4 and 5 were 0.0700 m apart, cut to 0.06 m" in executor.clamped

    def test_steps_a_little_inside_a_box_are_moved_out_of_it(self, contract: RobotContract) -> None:
        chunk = line(contract, (0.1, 0, -0.1))
        shelf = KeepOut((0.3, -0.3, 0.0), (0.8, 0.3, 0.218), clearance=0.005)  # the fingertips end 8 mm too low
        allowed = limited(contract, keep_out={"shelf": shelf}, clamp=Clamp(keep_out=0.01))
        executor = ChunkExecutor(allowed)
        executor.reset(np.array(contract.home), 1.0, 0.0)
        executor.accept(chunk, 0.0)
        assert re.search(r"all steps were moved 0\.00\d+ m out of limits\.keep_out\.shelf", executor.clamped)
        commands = follow(executor, 0.0, 2.0)
        Judge(allowed).check(commands)
        end = executor.kinematics.forward(commands[-1].positions)[0]
        assert end[:2] == pytest.approx(chunk.positions[-1, :2], abs=1e-3)
        assert 0.006 < end[2] - chunk.positions[-1, 2] < 0.01
        for clamp in (0.0, 0.006):
            executor = ChunkExecutor(limited(allowed, clamp=Clamp(keep_out=clamp)))
            executor.reset(np.array(contract.home), 1.0, 0.0)
            with pytest.raises(MotionRefused, match=r"limits\.keep_out\.shelf\.clearance is 0\.005 m") as caught:
                executor.accept(chunk, 0.0)
            assert caught.value.code is ExecutionCode.OUT_OF_WORKSPACE

    def test_steps_a_little_out_of_reach_are_followed_as_near_as_the_arm_comes(self, contract: RobotContract) -> None:
        home = np.array(contract.home)
        near = limited(contract, position_min=tuple(home - 0.15), position_max=tuple(home + 0.15))
        chunk = line(contract, (0.06, 0, 0))  # at a step or two of the ten some joint comes to its limit
        executor = ChunkExecutor(near)
        executor.reset(home, 1.0, 0.0)
        with pytest.raises(MotionRefused, match="no joint solution") as caught:
            executor.accept(chunk, 0.0)
        assert caught.value.code is ExecutionCode.JOINT_LIMIT
        allowed = replace(near, limits=replace(near.limits, clamp=Clamp(reach=0.02)))
        executor = ChunkExecutor(allowed)
        executor.reset(home, 1.0, 0.0)
        executor.accept(chunk, 0.0)
        beyond = re.fullmatch(r"a step was (0\.0\d+) m out of the arm's reach", executor.clamped)
        assert beyond
        commands = follow(executor, 0.0, 2.5)
        Judge(allowed).check(commands)
        missed = executor.kinematics.missed(chunk.positions[-1], chunk.quaternions[-1], commands[-1].positions)
        assert missed == pytest.approx(float(beyond[1]), abs=2e-4)


class TestPressing:
    @staticmethod
    def moving(
        contract: RobotContract, off: float, late: int = 0, lag: float = 0.1
    ) -> tuple[ChunkExecutor, list[JointCommand]]:
        """An arm half a second on its way, joint 6 held so far off its command (rad), measured so many periods late."""
        patient = replace(contract, watchdogs=replace(contract.watchdogs, obstruction=0.2))
        executor = ChunkExecutor(patient, ExecutorSettings(lag=lag))
        executor.reset(np.array(contract.home), 1.0, 0.0)
        executor.accept(line(contract, (0, 0.3, 0)), 0.0)
        commands = []
        for i in range(50):
            commands.append(executor.step(i * PERIOD))
            measured = commands[max(i - late, 0)].positions.copy()
            measured[5] -= off
            executor.measured(measured, 1.0, (i + 1) * PERIOD)
        return executor, commands

    @pytest.mark.parametrize("stop", ["emergency stop", "hold", "no joint states"])
    def test_an_arm_that_is_held_gives_way_when_it_stops(self, contract: RobotContract, stop: str) -> None:
        executor, commands = self.moving(contract, 0.1)
        if stop == "hold":
            executor.hold(0.5)
        elif stop == "emergency stop":
            executor.emergency_stop()
        else:
            silence = round(contract.observation.joint_states.max_age / PERIOD) + 1
            commands += [executor.step(0.5 + i * PERIOD) for i in range(silence)]
            assert executor.error[0] is ExecutionCode.STALE_JOINT_STATES
        stopped, held = len(commands), commands[-1].positions[5] - 0.1
        commands += [executor.step(i * PERIOD) for i in range(stopped, stopped + 100)]
        Judge(contract).check(commands)
        assert commands[-1].positions[5] == pytest.approx(held, abs=0.02)
        assert np.abs([c.velocities for c in commands[stopped + 30 :]]).max() < 1e-6, "at rest within 0.3 s"

    @pytest.mark.parametrize("stop", ["emergency stop", "hold"])
    @pytest.mark.parametrize("speed", [0.3, 0.4])
    def test_so_does_one_that_is_caught_while_it_stops(self, contract: RobotContract, stop: str, speed: float) -> None:
        """With commands that are given ahead, as the node does."""
        executor = ChunkExecutor(contract, ExecutorSettings(lag=MOST_LAG, lead=COMMITTED * PERIOD))
        executor.reset(np.array(contract.home), 1.0, 0.0)
        executor.accept(line(contract, (0, speed, 0)), 0.0)
        commands: list[JointCommand] = []
        for i in range(150):
            if i == 50:
                executor.hold(0.5) if stop == "hold" else executor.emergency_stop()
            commands.append(executor.step(i * PERIOD))
            now = i - COMMITTED  # what was commanded last is for later
            if now > 0:
                executor.measured(commands[min(now, 50 - COMMITTED)].positions, 1.0, (now + 1) * PERIOD)
        held = commands[50 - COMMITTED].positions
        Judge(contract).check(commands)
        assert max(np.abs(c.positions - held).max() for c in commands[50:]) > 3 * PRESSES, "it would press"
        assert np.abs(commands[-1].positions - held).max() < PRESSES
        assert np.abs([c.velocities for c in commands[50 - COMMITTED + 30 :]]).max() < 1e-6, "at rest within 0.3 s"

    def test_a_free_arm_that_lags_does_not(self, contract: RobotContract) -> None:
        ends = []
        for late in (0, 8):
            executor, _ = self.moving(contract, 0.0, late)
            executor.emergency_stop()
            ends.append([executor.step(0.5 + i * PERIOD) for i in range(100)][-1].positions)
        np.testing.assert_array_equal(*ends)

    def test_how_late_an_arm_follows_is_measured(self, contract: RobotContract) -> None:
        assert self.moving(contract, 0.0, late=3)[0].measured_lag == pytest.approx(0.03, abs=0.011)
        assert self.moving(contract, 0.1)[0].measured_lag == 0.0, "one that is held tells nothing"

    def test_old_joint_states_are_not_believed(self, contract: RobotContract) -> None:
        executor, _ = self.moving(contract, 0.1)
        rested = [executor.step(0.5 + i * PERIOD) for i in range(50)][-1]
        executor.emergency_stop()
        end = [executor.step(1.0 + i * PERIOD) for i in range(100)][-1]
        np.testing.assert_allclose(end.positions, rested.positions, atol=1e-6)


class TestBraking:
    def test_a_chunk_that_comes_meanwhile_may_be_asked_again(self, contract: RobotContract) -> None:
        executor = ChunkExecutor(contract)
        executor.reset(np.array(contract.home), 1.0, 0.0)
        executor.accept(line(contract, (0, 0.3, 0)), 0.0)
        follow(executor, 0.0, 0.5)
        executor.emergency_stop()
        executor.clear_emergency_stop()
        again = line(contract, (0, 0.1, 0), stamp=0.5)
        with pytest.raises(MotionRefused, match="the arm brakes") as caught:
            executor.accept(again, 0.5)
        assert caught.value.code is ExecutionCode.PREEMPTED
        assert executor.error[0] is ExecutionCode.NONE, "nothing is wrong with the arm, and whoever streams goes on"
        follow(executor, 0.5, 0.3)
        executor.accept(replace(again, stamp=0.8), 0.8)
        assert executor.state is ExecutorState.FOLLOWING


class TestResumption:
    def test_an_arm_near_its_path_goes_back_to_it(self, contract: RobotContract) -> None:
        executor, judge = ChunkExecutor(contract), Judge(contract)
        executor.reset(np.array(contract.home), 1.0, 0.0)
        executor.accept(line(contract, (0, 0.1, 0)), 0.0)
        commands = follow(executor, 0.0, 0.4)
        braked = executor.braking(commands[-1], PERIOD)
        times = [round(0.4 + PERIOD * (i + 1), 6) for i in range(len(braked))]
        executor.resume(list(zip(times, braked, strict=True)))
        now = times[-1]
        assert executor.state is ExecutorState.FOLLOWING
        rest = follow(executor, now, 1.5)
        judge.check([*commands, *braked, *rest])
        end = executor.kinematics.forward(rest[-1].positions)[0]
        assert end == pytest.approx(line(contract, (0, 0.1, 0)).positions[-1], abs=1e-3)

    def test_one_that_is_elsewhere_rests(self, contract: RobotContract) -> None:
        executor = ChunkExecutor(contract)
        executor.reset(np.array(contract.home), 1.0, 0.0)
        executor.accept(line(contract, (0, 0.1, 0)), 0.0)
        command = follow(executor, 0.0, 0.4)[-1]
        elsewhere = replace(command, positions=command.positions + 0.05)
        executor.resume([(0.4, elsewhere)])
        assert executor.state is ExecutorState.HOLDING
        assert executor.error[0] is ExecutionCode.PREEMPTED, "it did not do what it was asked for"
        rested = follow(executor, 0.4, 0.5)
        assert executor.at_rest
        assert np.abs(rested[-1].positions - elsewhere.positions).max() < 0.05


class TestContract:
    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"jerk": (0.0,) * 7}, "limits.jerk must be positive"),
            ({"self_clearance": -0.1}, "limits.self_clearance must not be negative"),
            ({"keep_out": {"wall": KeepOut((0, 0), (1, 1))}}, "limits.keep_out.wall.min has 2 values instead of 3"),
            ({"keep_out": {"wall": KeepOut((0, 0, 1), (1, 1, 0))}}, "limits.keep_out.wall.min must lie below"),
            ({"clamp": Clamp(workspace=-1.0)}, "limits.clamp.workspace must not be negative"),
        ],
    )
    def test_senseless_limits_are_named(self, contract: RobotContract, change: dict, named: str) -> None:
        with pytest.raises(ContractError, match=re.escape(named)):
            limited(contract, **change)

    def test_a_box_around_the_arm_at_home_is_refused(self, contract: RobotContract) -> None:
        hand = Kinematics(contract).forward(np.array(contract.home))[0]
        around = KeepOut(tuple((hand - 0.05).tolist()), tuple((hand + 0.05).tolist()))
        with pytest.raises(ContractError, match=r"at home .* limits\.keep_out\.around"):
            ChunkExecutor(limited(contract, keep_out={"around": around}))
