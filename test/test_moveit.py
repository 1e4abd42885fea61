# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Goal moves through move_group, against a stand-in server that speaks MoveIt's messages.

docs/moveit.md says how the real ones were tried. Skipped where moveit_msgs or control_msgs is not installed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("moveit_msgs", reason="moveit_msgs is not installed: ros-$ROS_DISTRO-moveit-msgs")
pytest.importorskip("control_msgs", reason="control_msgs is not installed: ros-$ROS_DISTRO-control-msgs")

from action_msgs.msg import GoalStatus
from following_robot import FollowingRobot
from node_process import ACTIVATE, CONFIGURE, Graph, NodeProcess, wait_for
from test_goal_moves import SUCCEEDED, MoveClient, moving, post_contract

from arvrm_ros.action import MoveTo
from arvrm_ros.errors import ExecutionCode
from arvrm_ros.motion.executor import ExecutorState

pytestmark = pytest.mark.ros

STAND_IN = Path(__file__).with_name("moveit_stand_in.py")

Start = Callable[..., tuple[NodeProcess, subprocess.Popen[bytes]]]


@pytest.fixture
def robot(graph: Graph) -> Iterator[FollowingRobot]:
    robot = FollowingRobot(graph)
    yield robot
    robot.close()


@pytest.fixture
def start(graph: Graph, robot: FollowingRobot, tmp_path: Path) -> Iterator[Start]:
    """Starts the node with some parameters, beside a stand-in for move_group."""
    contract = post_contract(tmp_path)
    processes = []

    def begin(**parameters: Any) -> tuple[NodeProcess, subprocess.Popen[bytes]]:
        processes.append(subprocess.Popen([sys.executable, STAND_IN, contract]))
        node = graph.start(
            "execution_node", backend="moveit", moveit_interface="move_group", patience=60.0, robot=contract,
            foreseen=0.3, rest=1.0, **parameters,
        )  # fmt: skip
        assert node.transition(CONFIGURE, ACTIVATE), node.log()
        robot.wait_until_joined()
        return node, processes[-1]

    yield begin
    for process in processes:
        process.terminate()
        process.wait(timeout=60)


def test_a_missing_move_group_is_named_at_configure(graph: Graph) -> None:
    node = graph.start("execution_node", backend="moveit", moveit_interface="move_group", patience=0.5)
    assert not node.transition(CONFIGURE)
    assert "no move_group serves /move_action after 0.5 s" in node.log()
    assert "Traceback" not in node.log()


def test_move_group_executes_until_it_is_canceled(robot: FollowingRobot, graph: Graph, start: Start) -> None:
    start(goal_execution="controller")
    client = MoveClient(graph, robot.contract.base_frame)
    assert client.moved(client.pose(0.5, 0.2, 0.25)) == SUCCEEDED
    assert len(robot.goals) == 1
    goal = client.send(client.pose(0.45, -0.3, 0.3))
    wait_for(lambda: moving(robot), "the arm to move")
    goal.cancel()
    assert goal.outcome()[:2] == (GoalStatus.STATUS_CANCELED, ExecutionCode.CANCELED)
    wait_for(robot.rests, "the arm to rest")
    assert np.linalg.norm(robot.pose()[0] - [0.45, -0.3, 0.3]) > 0.01, "canceled on its way"
    assert client.moved(MoveTo.Goal()) == SUCCEEDED


# The last one: for some seconds the others would hear of the server that it kills.


def test_move_group_plans_and_the_node_streams(robot: FollowingRobot, graph: Graph, start: Start) -> None:
    node, move_group = start()
    client = MoveClient(graph, robot.contract.base_frame)
    for y in (0.2, -0.2):
        assert client.moved(client.pose(0.6, y, 0.18)) == SUCCEEDED
        wait_for(lambda at=(0.6, y, 0.18): np.abs(robot.pose()[0] - at).max() < 2e-3, "the arm to be there")
    assert not robot.goals
    for goal, code in (
        (client.pose(2.0, 0.0, 0.5), ExecutionCode.JOINT_LIMIT),
        (client.pose(0.6, 0.0, 0.2), ExecutionCode.OUT_OF_WORKSPACE),
    ):
        assert client.moved(goal)[:2] == (GoalStatus.STATUS_ABORTED, code)
    streamed = client.send(client.pose(0.45, 0.3, 0.3))
    wait_for(lambda: moving(robot), "the arm to move")
    move_group.kill()
    assert streamed.outcome() == SUCCEEDED, "what is streamed does not need MoveIt any more"
    status, code, message = client.moved(MoveTo.Goal())
    assert (status, code) == (GoalStatus.STATUS_ABORTED, ExecutionCode.BACKEND_UNAVAILABLE), message
    robot.chunks.publish(robot.message(robot.chunk((0.0, -0.05, 0.0))))
    robot.wait_status(ExecutorState.FOLLOWING)
    assert node.stop() == 0
