# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Goal moves that the controller's action executes as a whole. Skipped where control_msgs is not installed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("control_msgs", reason="control_msgs is not installed: ros-$ROS_DISTRO-control-msgs")

from action_msgs.msg import GoalStatus
from following_robot import FollowingRobot
from node_process import ACTIVATE, CONFIGURE, Graph, NodeProcess, wait_for
from std_msgs.msg import Empty
from std_srvs.srv import Trigger
from test_goal_moves import SUCCEEDED, MoveClient, moving, post_contract

from arvrm_ros.action import MoveTo
from arvrm_ros.errors import ExecutionCode
from arvrm_ros.motion.executor import ExecutorState
from arvrm_ros.nodes import qos

pytestmark = pytest.mark.ros


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    graph = Graph(tmp_path_factory.mktemp("execution"))
    yield graph
    graph.close()


@pytest.fixture(scope="module")
def robot(graph: Graph) -> Iterator[FollowingRobot]:
    robot = FollowingRobot(graph)
    yield robot
    robot.close()


@pytest.fixture(scope="module")
def node(graph: Graph, robot: FollowingRobot, tmp_path_factory: pytest.TempPathFactory) -> NodeProcess:
    contract = post_contract(tmp_path_factory.mktemp("contract"))
    node = graph.start("execution_node", backend="controller", goal_execution="controller", robot=contract)
    assert node.transition(CONFIGURE, ACTIVATE), node.log()
    wait_for(lambda: len(robot.commands) > 5, "commands")
    return node


@pytest.fixture(scope="module")
def client(graph: Graph, robot: FollowingRobot, node: NodeProcess) -> MoveClient:
    return MoveClient(graph, robot.contract.base_frame)


def test_the_controller_gets_the_whole_motion(robot: FollowingRobot, client: MoveClient) -> None:
    assert client.moved(client.pose(0.5, 0.2, 0.25)) == SUCCEEDED
    wait_for(lambda: np.abs(robot.pose()[0] - [0.5, 0.2, 0.25]).max() < 2e-3, "the arm to be there")
    assert len(robot.goals) == 1, "the controller has refused no trajectory, and was sent one"
    velocities = np.array([point.velocities for point in robot.goals[0].points])
    assert np.all(np.abs(velocities) <= np.array(robot.contract.limits.velocity))
    before = len(robot.commands)
    assert client.moved(MoveTo.Goal()) == SUCCEEDED
    wait_for(lambda: robot.rests_at(robot.contract.home), "the arm to be home")
    wait_for(lambda: len(robot.commands) > before + 20, "the node's own commands again")
    assert robot.rests_at(robot.contract.home)


def test_a_cancel_stops_the_controller(robot: FollowingRobot, client: MoveClient) -> None:
    goal = client.send(client.pose(0.45, 0.3, 0.3))
    wait_for(lambda: moving(robot), "the arm to move")
    goal.cancel()
    assert goal.outcome()[:2] == (GoalStatus.STATUS_CANCELED, ExecutionCode.CANCELED)
    wait_for(robot.rests, "the arm to rest")
    assert np.linalg.norm(robot.pose()[0] - [0.45, 0.3, 0.3]) > 0.01, "canceled on its way"


def test_a_chunk_stops_the_controller_and_the_next_one_is_followed(robot: FollowingRobot, client: MoveClient) -> None:
    goal = client.send(client.pose(0.45, -0.3, 0.3))
    wait_for(lambda: moving(robot), "the arm to move")
    robot.chunks.publish(robot.message(robot.chunk((0.0, 0.05, 0.0))))
    robot.wait_status(ExecutorState.FOLLOWING, ExecutionCode.PREEMPTED)  # the chunk is refused
    assert goal.outcome()[:2] == (GoalStatus.STATUS_ABORTED, ExecutionCode.PREEMPTED)
    wait_for(robot.rests, "the arm to rest")
    robot.wait_until_joined()
    robot.chunks.publish(robot.message(robot.chunk((0.0, 0.05, 0.0))))
    robot.wait_status(ExecutorState.FOLLOWING)
    robot.wait_status(ExecutorState.HOLDING)


def test_an_emergency_stop_stops_the_controller(graph: Graph, robot: FollowingRobot, client: MoveClient) -> None:
    goal = client.send(client.pose(0.45, 0.3, 0.3))
    wait_for(lambda: moving(robot), "the arm to move")
    graph.publisher(Empty, "/emergency_stop", qos.RELIABLE).publish(Empty())
    assert goal.outcome()[:2] == (GoalStatus.STATUS_ABORTED, ExecutionCode.EMERGENCY_STOP)
    wait_for(robot.rests, "the arm to rest")
    assert client.moved(MoveTo.Goal())[1] is ExecutionCode.EMERGENCY_STOP
    assert graph.call(Trigger, "/execution/reset", Trigger.Request()).success
    assert client.moved(MoveTo.Goal()) == SUCCEEDED


def test_the_node_s_end_stops_the_controller(robot: FollowingRobot, client: MoveClient, node: NodeProcess) -> None:
    client.send(client.pose(0.45, -0.3, 0.3))
    wait_for(lambda: moving(robot), "the arm to move")
    assert node.stop() == 0
    wait_for(robot.rests, "the arm to rest")
    assert np.linalg.norm(robot.pose()[0] - [0.45, -0.3, 0.3]) > 0.01, "stopped on its way"
