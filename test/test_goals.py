# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Goal moves without ROS: where to, by which way, how fast, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("ruckig")
pytest.importorskip("pinocchio")

from arvrm_ros.contract import KeepOut, RobotContract, load_contract
from arvrm_ros.errors import ExecutionCode, MotionRefused
from arvrm_ros.motion import goals
from arvrm_ros.motion.executor import ChunkExecutor, ExecutorState
from arvrm_ros.motion.goals import GoalPlanner
from arvrm_ros.motion.safety import PathCheck

DOWN = np.array([1.0, 0.0, 0.0, 0.0])  # the gripper points down


@pytest.fixture(scope="module")
def contract() -> RobotContract:
    """The tabletop with a post in the middle of the table; home is beside it."""
    contract = load_contract("tabletop")
    post = KeepOut((0.4, -0.03, 0.0), (0.7, 0.03, 0.35), 0.01)
    limits = dataclasses.replace(contract.limits, keep_out={"post": post}, self_clearance=0.005)
    return dataclasses.replace(contract, limits=limits, home=(0.8, *contract.home[1:]))


@pytest.fixture(scope="module")
def planner(contract: RobotContract) -> GoalPlanner:
    return GoalPlanner(contract, seconds=20.0)


@pytest.fixture(scope="module")
def sides(planner: GoalPlanner, contract: RobotContract) -> tuple[np.ndarray, np.ndarray]:
    """The arm on the left of the post and on its right."""
    left = planner.joints(np.array([0.55, 0.2, 0.15]), DOWN, np.array(contract.home))
    return left, planner.joints(np.array([0.55, -0.2, 0.15]), DOWN, left)


def assert_good(way: np.ndarray, start: np.ndarray, goal: np.ndarray, contract: RobotContract) -> None:
    """From rest to rest, within every limit, and clear."""
    times, motion = GoalPlanner(contract).timed(way)
    np.testing.assert_allclose(motion[0, [0, -1]], [start, goal], atol=1e-6)
    np.testing.assert_allclose(motion[1:, [0, -1]], 0.0, atol=1e-6)
    for order in (0, 1):  # the rates are those of the values, so that what is checked is what is followed
        slope = np.diff(motion[order], axis=0) / np.diff(times)[:, None]
        np.testing.assert_allclose(slope, (motion[order + 1, 1:] + motion[order + 1, :-1]) / 2, atol=0.1)
    check = PathCheck(contract, 0.01)
    check.clearance(check.limits(times, np.pad(motion, ((0, 0), (0, 0), (0, 1)))))


def test_a_free_way_is_straight(planner: GoalPlanner, contract: RobotContract, sides: tuple) -> None:
    left, home = sides[0], np.array(contract.home)
    way = planner.way(left, home, 0.01)
    np.testing.assert_allclose(way, [left, home])
    assert_good(way, left, home, contract)
    times, motion = planner.timed(np.stack([home, home]))
    assert len(times) == 2, "already there"
    np.testing.assert_allclose(motion[0], [home, home])


def test_a_blocked_way_leads_around(planner: GoalPlanner, contract: RobotContract, sides: tuple) -> None:
    pytest.importorskip("ompl")
    left, right = sides
    with pytest.raises(MotionRefused, match=r"limits\.keep_out\.post"):
        planner.timed(np.stack([left, right]))
    assert_good(planner.way(left, right, 0.01), left, right, contract)


def test_without_ompl_a_blocked_way_is_refused_and_says_what_to_install(
    planner: GoalPlanner, sides: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(goals, "base", None)
    with pytest.raises(MotionRefused, match="pip install ompl") as refusal:
        planner.way(*sides, 0.01)
    assert refusal.value.code is ExecutionCode.BACKEND_UNAVAILABLE


def test_goals_out_of_reach_or_not_free_are_refused(planner: GoalPlanner, contract: RobotContract) -> None:
    home = np.array(contract.home)
    for position, code in (
        ([0.55, 0.0, 0.15], ExecutionCode.OUT_OF_WORKSPACE),  # in the post
        ([0.55, 0.2, -0.05], ExecutionCode.OUT_OF_WORKSPACE),  # under the table
        ([2.0, 0.0, 0.5], ExecutionCode.JOINT_LIMIT),  # out of reach
        ([np.nan, 0.0, 0.5], ExecutionCode.INVALID_CHUNK),
    ):
        with pytest.raises(MotionRefused) as refusal:
            planner.joints(np.array(position), DOWN, home)
        assert refusal.value.code is code, str(refusal.value)
    for joints, code in (
        (home + 10.0, ExecutionCode.JOINT_LIMIT),
        (home[:-1], ExecutionCode.INVALID_CHUNK),
        (home * np.nan, ExecutionCode.INVALID_CHUNK),
    ):
        with pytest.raises(MotionRefused) as refusal:
            planner.check(joints)
        assert refusal.value.code is code, str(refusal.value)


def test_the_executor_follows_a_move_and_refuses_one_that_breaks_a_limit(
    planner: GoalPlanner, contract: RobotContract, sides: tuple
) -> None:
    left, home = sides[0], np.array(contract.home)
    executor = ChunkExecutor(contract)
    executor.reset(left, 0.3, 0.0)
    times, motion = planner.timed(planner.way(left, home, 0.01))
    with pytest.raises(MotionRefused, match=r"limits\.acceleration") as refusal:
        executor.plan_move(times / 5, motion * np.array([1.0, 5.0, 25.0])[:, None, None], 0.0)
    assert refusal.value.code is ExecutionCode.JOINT_LIMIT
    with pytest.raises(MotionRefused, match="not where the goal move begins"):
        executor.plan_move(times, motion[:, ::-1] * np.array([1.0, -1.0, 1.0])[:, None, None], 0.0)
    through = np.linspace(left, sides[1], 500)
    still = np.zeros_like(through)
    with pytest.raises(MotionRefused, match=r"limits\.keep_out\.post"):
        executor.plan_move(np.linspace(0, 50, 500), np.stack([through, still, still]), 0.0)

    executor.adopt(executor.plan_move(times, motion, 0.0))
    now, commands = 0.0, []
    while now < times[-1] + 1.0:
        commands.append(executor.step(now))
        now = round(now + executor.settings.period, 6)
        executor.measured(commands[-1].positions, 0.3, now)
    np.testing.assert_allclose(commands[-1].positions, home, atol=1e-4)
    assert executor.at_rest
    assert executor.state is ExecutorState.HOLDING
    assert {command.gripper for command in commands} == {0.3}, "the gripper stays as it is"
    velocities = np.array([command.velocities for command in commands])
    assert np.all(np.abs(velocities) <= np.array(contract.limits.velocity))
