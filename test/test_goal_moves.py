# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Goal moves of the execution node over DDS, planned and streamed by the node itself."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

pytest.importorskip("rclpy")

from action_msgs.msg import GoalStatus
from geometry_msgs.msg import PoseStamped
from node_process import ACTIVATE, CONFIGURE, DEACTIVATE, Goals, Graph, NodeProcess, wait_for
from std_msgs.msg import Empty
from std_srvs.srv import Trigger
from test_execution_node import Robot, to_seconds

from arvrm_ros.action import MoveTo
from arvrm_ros.contract import load_contract
from arvrm_ros.errors import ExecutionCode
from arvrm_ros.motion.executor import ExecutorState
from arvrm_ros.nodes import conversions, qos
from arvrm_ros.nodes.commander import Commander, CommanderError
from arvrm_ros.resources import resource

pytestmark = pytest.mark.ros

DOWN = (1.0, 0.0, 0.0, 0.0)
FORESEEN, REST = 0.3, 1.0  # s, of the node: patient with a busy machine


def patient_contract(folder: Path, **boxes: dict[str, Any]) -> Path:
    """The tabletop, patient with a busy machine, and boxes to keep out of."""
    values = yaml.safe_load(resource("config", "robots", "tabletop.yaml").read_text())
    values["observation"]["joint_states"]["max_age"] = 1.0
    values["watchdogs"] |= {"tracking_error": 0.6, "obstruction": 0.6}  # of commands that come late
    values["limits"]["keep_out"] |= boxes
    path = folder / "_".join(["patient", *boxes, "contract.yaml"])
    path.write_text(yaml.safe_dump(values))
    return path


def post_contract(folder: Path) -> Path:
    """With a post on the table."""
    return patient_contract(folder, post={"min": [0.52, -0.03, 0.1], "max": [0.7, 0.03, 0.25], "clearance": 0.01})


class MoveClient:
    """Goals of ``/move_to``."""

    def __init__(self, graph: Graph, base_frame: str) -> None:
        self._goals = Goals(graph, MoveTo, "/move_to")
        self._frame = base_frame
        self.feedback, self.send = self._goals.feedback, self._goals.send

    def pose(self, x: float, y: float, z: float) -> MoveTo.Goal:
        goal = MoveTo.Goal(target=MoveTo.Goal.POSE, pose=PoseStamped(header=conversions.header(0.0, self._frame)))
        goal.pose.pose.position.x, goal.pose.pose.position.y, goal.pose.pose.position.z = x, y, z
        turn = goal.pose.pose.orientation
        turn.x, turn.y, turn.z, turn.w = DOWN
        return goal

    def moved(self, goal: MoveTo.Goal) -> tuple[int, ExecutionCode, str]:
        return self.send(goal).outcome()


SUCCEEDED = (GoalStatus.STATUS_SUCCEEDED, ExecutionCode.NONE, "")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    graph = Graph(tmp_path_factory.mktemp("moves"))
    yield graph
    graph.close()


@pytest.fixture(scope="module")
def robot(graph: Graph) -> Iterator[Robot]:
    robot = Robot(graph)
    yield robot
    robot.close()


@pytest.fixture(scope="module")
def node(graph: Graph, robot: Robot, tmp_path_factory: pytest.TempPathFactory) -> NodeProcess:
    contract = post_contract(tmp_path_factory.mktemp("contract"))
    node = graph.start("execution_node", robot=contract, foreseen=FORESEEN, rest=REST)
    assert node.transition(CONFIGURE, ACTIVATE), node.log()
    robot.wait_until_joined()
    return node


@pytest.fixture(scope="module")
def client(graph: Graph, robot: Robot, node: NodeProcess) -> MoveClient:
    return MoveClient(graph, robot.contract.base_frame)


def moving(robot: Robot) -> bool:
    return bool(np.abs(robot.state()[1]).max() > 0.1)


def test_the_arm_goes_to_poses_and_home(robot: Robot, client: MoveClient) -> None:
    for x, y, z in ((0.5, 0.2, 0.25), (0.5, -0.2, 0.25)):
        assert client.moved(client.pose(x, y, z)) == SUCCEEDED
        wait_for(lambda at=(x, y, z): np.abs(robot.pose()[0] - at).max() < 2e-3, "the arm to be there")
    assert "moving" in {feedback.phase for feedback in client.feedback}
    joints = list(robot.contract.home)
    joints[0] = 0.4
    assert client.moved(MoveTo.Goal(target=MoveTo.Goal.JOINTS, joints=joints)) == SUCCEEDED
    assert client.moved(MoveTo.Goal()) == SUCCEEDED
    wait_for(lambda: np.abs(robot.state()[0] - robot.contract.home).max() < 1e-3, "the arm to be home")
    wait_for(lambda: client.feedback[-1].remaining == 0.0, "the feedback to have counted down")


# To import OMPL takes half a second in which this process's robot would be silent.
@pytest.mark.skipif(importlib.util.find_spec("ompl") is None, reason="OMPL is not installed")
def test_the_way_leads_around_a_keep_out_box(robot: Robot, client: MoveClient) -> None:
    assert client.moved(client.pose(0.6, 0.2, 0.18)) == SUCCEEDED
    before = len(robot.commands)
    assert client.moved(client.pose(0.6, -0.2, 0.18)) == SUCCEEDED
    positions = [robot.kinematics.forward(np.array(c.points[0].positions))[0] for c in robot.commands[before:]]
    over = [position for position in positions if abs(position[1]) < 0.03 and position[0] > 0.5]
    assert not over or min(position[2] for position in over) > 0.25, "not through the post"
    assert client.moved(MoveTo.Goal()) == SUCCEEDED


def test_goals_that_cannot_be_reached_are_refused_with_their_reason(robot: Robot, client: MoveClient) -> None:
    at_home = robot.contract.home
    wait_for(lambda: robot.rests() and np.abs(robot.state()[0] - at_home).max() < 1e-3, "the arm to rest at home")
    before = len(robot.commands)
    for goal, code, text in (
        (client.pose(2.0, 0.0, 0.5), ExecutionCode.JOINT_LIMIT, "no joint solution"),
        (client.pose(0.6, 0.0, 0.2), ExecutionCode.OUT_OF_WORKSPACE, "limits.keep_out.post"),
        (client.pose(0.45, 0.0, 0.7), ExecutionCode.OUT_OF_WORKSPACE, "limits.workspace_max"),
        (MoveTo.Goal(target=MoveTo.Goal.JOINTS, joints=[0.0]), ExecutionCode.INVALID_CHUNK, "7 finite joint positions"),
        (MoveTo.Goal(target=9), ExecutionCode.INVALID_CHUNK, "unknown target 9"),
        (MoveTo.Goal(target=MoveTo.Goal.POSE), ExecutionCode.INVALID_CHUNK, "frame is ''"),
    ):
        status, answer, message = client.moved(goal)
        assert (status, answer) == (GoalStatus.STATUS_ABORTED, code), message
        assert text in message
    asked = np.array([command.points[-1].positions for command in robot.commands[before:]])
    # On a busy machine a stream may begin anew, from where the arm is measured.
    np.testing.assert_allclose(asked, np.tile(at_home, (len(asked), 1)), atol=2e-3)


def test_cancel_a_chunk_and_a_newer_goal_bring_it_to_rest(robot: Robot, client: MoveClient) -> None:
    goal = client.send(client.pose(0.45, 0.3, 0.3))
    wait_for(lambda: moving(robot), "the arm to move")
    goal.cancel()
    assert goal.outcome()[:2] == (GoalStatus.STATUS_CANCELED, ExecutionCode.CANCELED)
    assert not moving(robot)
    away = np.linalg.norm(robot.pose()[0] - [0.45, 0.3, 0.3])
    assert away > 0.01, "canceled on its way"

    goal = client.send(client.pose(0.45, -0.3, 0.3))
    wait_for(lambda: moving(robot), "the arm to move")
    robot.chunks.publish(robot.message(robot.chunk((0.0, 0.05, 0.0))))
    assert goal.outcome() == (GoalStatus.STATUS_ABORTED, ExecutionCode.PREEMPTED, "a chunk took over")

    first = client.send(client.pose(0.45, 0.3, 0.3))
    wait_for(lambda: moving(robot), "the arm to move")
    second = client.send(MoveTo.Goal())
    assert first.outcome()[:2] == (GoalStatus.STATUS_ABORTED, ExecutionCode.PREEMPTED)
    assert second.outcome() == SUCCEEDED


def test_an_emergency_stop_ends_it_and_refuses_the_next(graph: Graph, robot: Robot, client: MoveClient) -> None:
    goal = client.send(client.pose(0.45, 0.3, 0.3))
    wait_for(lambda: moving(robot), "the arm to move")
    graph.publisher(Empty, "/emergency_stop", qos.RELIABLE).publish(Empty())
    assert goal.outcome()[:2] == (GoalStatus.STATUS_ABORTED, ExecutionCode.EMERGENCY_STOP)
    robot.wait_status(ExecutorState.STOPPED, ExecutionCode.EMERGENCY_STOP)
    wait_for(lambda: not moving(robot), "the arm to rest")
    assert client.moved(MoveTo.Goal())[:2] == (GoalStatus.STATUS_ABORTED, ExecutionCode.EMERGENCY_STOP)
    assert graph.call(Trigger, "/execution/reset", Trigger.Request()).success


def test_the_commander_goes_home(robot: Robot, client: MoveClient, node: NodeProcess) -> None:
    assert client.moved(client.pose(0.5, 0.2, 0.25)) == SUCCEEDED
    with Commander() as commander:
        commander.home()
        wait_for(lambda: np.abs(robot.state()[0] - robot.contract.home).max() < 1e-3, "the arm to be home")
        assert node.transition(DEACTIVATE)
        with pytest.raises(CommanderError, match="NOT_ACTIVE"):
            commander.home()
        assert node.transition(ACTIVATE)


def test_a_killed_node_leaves_the_arm_at_rest(robot: Robot, client: MoveClient, node: NodeProcess) -> None:
    """It and the one below come last: they end the module's node."""
    client.send(client.pose(0.45, 0.3, 0.3))
    wait_for(lambda: moving(robot), "the arm to move")
    processes = psutil.Process(node.process.pid).children()
    assert processes, "one plans chunks, one plans moves"
    killed = robot.now()
    node.process.kill()
    node.process.wait()
    wait_for(lambda: not any(process.is_running() for process in processes), "what it started to end")
    wait_for(robot.rests, "the arm to rest")
    last = robot.commands[-1]
    end = to_seconds(last.header.stamp) + to_seconds(last.points[-1].time_from_start)
    assert end < killed + FORESEEN + REST + 0.1
    assert np.linalg.norm(robot.pose()[0] - [0.45, 0.3, 0.3]) > 0.01, "on its way"


def test_goal_execution_without_its_packages_is_refused_at_configure(
    graph: Graph, robot: Robot, node: NodeProcess, tmp_path: Path
) -> None:
    node.stop()
    with_controller = Graph(tmp_path)
    try:
        other = with_controller.start("execution_node", goal_execution="controller")
        assert not other.transition(CONFIGURE)
        assert "goal_execution 'controller' needs the backend" in other.log()
        assert "Traceback" not in other.log()
    finally:
        with_controller.close()


def test_the_contract_s_keep_out_boxes_are_read(tmp_path: Path) -> None:
    assert load_contract(post_contract(tmp_path)).limits.keep_out["post"].clearance == 0.01
