# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Goal moves through move_group and chunks through MoveIt Servo, against stand-ins that speak MoveIt's messages.

docs/moveit.md says how the real ones were tried. Skipped where moveit_msgs or control_msgs is not installed.
"""

from __future__ import annotations

import subprocess
import sys
import time
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
from node_process import ACTIVATE, CLEANUP, CONFIGURE, DEACTIVATE, Graph, NodeProcess, wait_for
from std_msgs.msg import Empty
from test_goal_moves import SUCCEEDED, MoveClient, moving, patient_contract, post_contract

from arvrm_ros.action import MoveTo
from arvrm_ros.errors import ExecutionCode
from arvrm_ros.motion.executor import ExecutorState
from arvrm_ros.nodes import qos

pytestmark = pytest.mark.ros

MOVE_GROUP = Path(__file__).with_name("move_group_stand_in.py")
SERVO = Path(__file__).with_name("servo_stand_in.py")

Start = Callable[..., tuple[NodeProcess, list[subprocess.Popen[bytes]]]]


@pytest.fixture
def robot(graph: Graph) -> Iterator[FollowingRobot]:
    robot = FollowingRobot(graph)
    yield robot
    robot.close()


@pytest.fixture
def start(graph: Graph, robot: FollowingRobot, tmp_path: Path) -> Iterator[Start]:
    """Starts the node with some parameters, beside stand-ins; Servo's alone knows of a post on the table."""
    post, no_post = post_contract(tmp_path), patient_contract(tmp_path)
    processes = []

    def begin(*stand_ins: Path, **parameters: Any) -> tuple[NodeProcess, list[subprocess.Popen[bytes]]]:
        processes.extend(subprocess.Popen([sys.executable, stand_in, post]) for stand_in in stand_ins)
        node = graph.start(
            "execution_node", backend="moveit", moveit_interface="move_group", patience=60.0, foreseen=0.3, rest=1.0,
            robot=no_post if SERVO in stand_ins else post, **parameters,
        )  # fmt: skip
        assert node.transition(CONFIGURE, ACTIVATE), node.log()
        if SERVO not in stand_ins:
            robot.wait_until_joined()
        return node, processes

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
    start(MOVE_GROUP, goal_execution="controller")
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


def test_a_missing_servo_is_named_at_configure(graph: Graph, start: Start) -> None:
    node, _ = start(MOVE_GROUP)
    assert node.transition(DEACTIVATE, CLEANUP)
    node.set(chunk_stream="servo_twist", patience=0.5)
    assert not node.transition(CONFIGURE)
    assert "no MoveIt Servo serves /servo_node/switch_command_type after 0.5 s" in node.log()


@pytest.mark.parametrize("kind", ["servo_twist", "servo_pose"])
def test_servo_moves_the_arm_to_a_chunk_s_end_and_stops(
    robot: FollowingRobot, graph: Graph, start: Start, kind: str
) -> None:
    start(MOVE_GROUP, SERVO, chunk_stream=kind)
    robot.wait_until_it_follows_again((0.0, 0.05, 0.0))
    robot.wait_status(ExecutorState.HOLDING)
    chunk = robot.chunk((0.0, 0.1, 0.05))
    robot.chunks.publish(robot.message(chunk))
    wait_for(lambda: np.abs(robot.pose()[0] - chunk.positions[-1]).max() < 3e-3, "the arm to be there")
    robot.wait_status(ExecutorState.HOLDING)
    robot.chunks.publish(robot.message(robot.chunk((0.0, -0.1, 0.0))))
    wait_for(lambda: moving(robot), "the arm to move")
    graph.publisher(Empty, "/emergency_stop", qos.RELIABLE).publish(Empty())
    robot.wait_status(ExecutorState.STOPPED, ExecutionCode.EMERGENCY_STOP)
    wait_for(robot.rests, "the arm to rest")
    assert robot.pose()[0][1] > chunk.positions[-1][1] - 0.09, "it was on its way"


def test_servo_halts_before_what_it_alone_knows_and_its_death_is_noticed(
    robot: FollowingRobot, graph: Graph, start: Start
) -> None:
    _, (_, servo) = start(MOVE_GROUP, SERVO, chunk_stream="servo_twist")
    client = MoveClient(graph, robot.contract.base_frame)
    assert client.moved(client.pose(0.6, 0.2, 0.18)) == SUCCEEDED

    def stopped_by(code: ExecutionCode) -> str:
        seen = len(robot.status)

        def found() -> str | None:
            robot.chunks.publish(robot.message(robot.chunk((0.0, -0.1, 0.0))))
            time.sleep(0.2)
            return next((status.error_msg for status in robot.status[seen:] if status.error_code == code), None)

        return wait_for(found, lambda: f"{code.name}; the last status was {robot.status[-1:]}")

    assert "MoveIt Servo halted before a collision" in stopped_by(ExecutionCode.OUT_OF_WORKSPACE)
    wait_for(robot.rests, "the arm to rest")
    assert 0.03 < robot.pose()[0][1] < 0.19, "on its way to the post"
    servo.kill()
    assert "MoveIt Servo is silent" in stopped_by(ExecutionCode.BACKEND_UNAVAILABLE)
    wait_for(robot.rests, "the arm to rest")


# The last one: for some seconds the others would hear of the server that it kills.


def test_move_group_plans_and_the_node_streams(robot: FollowingRobot, graph: Graph, start: Start) -> None:
    node, (move_group,) = start(MOVE_GROUP)
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
