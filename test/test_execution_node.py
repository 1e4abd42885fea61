# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The execution node over DDS, with a robot that follows its commands perfectly."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")

from action_msgs.msg import GoalStatus
from geometry_msgs.msg import Pose
from node_process import ACTIVATE, CONFIGURE, DEACTIVATE, Goal, Goals, Graph, NodeProcess, wait_for
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Empty
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from arvrm_ros.action import ExecuteChunk
from arvrm_ros.contract import load_contract
from arvrm_ros.data.types import ActionChunk
from arvrm_ros.errors import ExecutionCode
from arvrm_ros.motion import chunk_planner
from arvrm_ros.motion.executor import ExecutorState
from arvrm_ros.motion.kinematics import Kinematics
from arvrm_ros.motion.planning_process import planning_process
from arvrm_ros.motion.stream import SEND_REST_EVERY
from arvrm_ros.msg import ActionChunk as ActionChunkMessage
from arvrm_ros.msg import ExecutionStatus
from arvrm_ros.nodes import conversions, qos
from arvrm_ros.nodes.conversions import to_seconds
from arvrm_ros.nodes.simulated_robot import trajectory_points
from arvrm_ros.real_time import GIL_SWITCH
from arvrm_ros.resources import resource
from arvrm_ros.simulation.trajectory_controller import TrajectoryController, TrajectoryError

pytestmark = pytest.mark.ros

PERIOD = 0.01


class Robot:
    """Publishes joint states at 100 Hz, wherever the trajectories put the arm; with ``clock``, time as well.

    Attributes:
        commands: every arm trajectory received.
        silent: stops the joint states.
        held: (n,) rad where something holds the arm, whatever its controller asks; None for nowhere.
        behind: seconds by which the clock and the stamps it publishes are past.
        asked: (n,) rad that its controller asked of the joints, per period.
    """

    def __init__(self, graph: Graph, clock: bool = False) -> None:
        self.contract = load_contract("tabletop")
        self.kinematics = Kinematics(self.contract)
        self.commands: list[JointTrajectory] = []
        self.silent = False
        self.held: np.ndarray | None = None
        self.behind = 0.0
        self.asked: list[np.ndarray] = []
        self._graph = graph
        self._time = 50.0
        self._controller = TrajectoryController(self.contract.joints)
        node = graph.node
        self._lock = threading.Lock()
        self._clock = node.create_publisher(Clock, "/clock", qos.CLOCK) if clock else None
        self._states = node.create_publisher(JointState, self.contract.observation.joint_states.topic, qos.SENSOR)
        # Deep: a busy machine may keep this process from its queue for long, and a lost command would look like a jump.
        every = QoSProfile(depth=10_000, reliability=ReliabilityPolicy.RELIABLE)
        node.create_subscription(JointTrajectory, self.contract.action.arm_topic, self._on_command, every)
        self.chunks = node.create_publisher(ActionChunkMessage, "/action_chunk", qos.RELIABLE)
        self.status = graph.listen(ExecutionStatus, "/execution_status", qos.RELIABLE)
        sys.setswitchinterval(GIL_SWITCH)  # else the threads of the test keep commands waiting
        self._done = threading.Event()
        self._controller.reset(np.array(self.contract.home), self.now())
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def now(self) -> float:
        return self._time if self._clock else self._graph.node.get_clock().now().nanoseconds * 1e-9

    def state(self) -> tuple[np.ndarray, np.ndarray]:
        """(n,) rad and rad/s, as its controller has it."""
        with self._lock:
            return self._controller.sample(self.now())

    def rests(self) -> bool:
        return bool(np.abs(self.state()[1]).max() < 1e-4)

    def pose(self) -> tuple[np.ndarray, np.ndarray]:
        return self.kinematics.forward(self.state()[0])

    def chunk(self, velocity: tuple[float, float, float], sequence: int = 1) -> ActionChunk:
        """A straight line from where the arm is now, observed now."""
        position, quaternion = self.pose()
        return ActionChunk(
            stamp=self.now(),
            step_period=0.1,
            positions=position + np.outer(0.1 * np.arange(1, 11), velocity),
            quaternions=np.tile(quaternion, (10, 1)),
            gripper=np.ones(10),
            sequence=sequence,
        )

    def message(self, chunk: ActionChunk) -> ActionChunkMessage:
        return conversions.chunk_to_message(chunk, self.contract.base_frame)

    def wait_status(self, state: ExecutorState, code: ExecutionCode = ExecutionCode.NONE) -> ExecutionStatus:
        """The first status of this state and code that comes from now on."""
        seen = len(self.status)

        def found() -> ExecutionStatus | None:
            return next((s for s in self.status[seen:] if (s.state, s.error_code) == (state, code)), None)

        return wait_for(found, lambda: f"status {state.name}, {code.name}; the last was {self.status[-1:]}")

    def wait_until_joined(self) -> None:
        """Until the node streams: before, it brings the controller to where the arm is, by single points."""
        wait_for(lambda: self.commands and len(self.commands[-1].points) > 1, "commands")

    def wait_until_it_follows_again(self, velocity: tuple[float, float, float]) -> None:
        """Chunk after chunk, until one is followed."""

        def followed() -> bool:
            self.chunks.publish(self.message(self.chunk(velocity)))
            time.sleep(0.2)
            return bool(self.status[-1].state == ExecutorState.FOLLOWING)

        wait_for(followed, "chunks to be followed again")

    def close(self) -> None:
        self._done.set()
        self._thread.join()

    def _on_command(self, message: JointTrajectory) -> None:
        self.commands.append(message)
        start = to_seconds(message.header.stamp) or None  # as the real one: no stamp is now
        with self._lock, contextlib.suppress(TrajectoryError):  # too late, on a busy machine
            self._controller.accept(list(message.joint_names), trajectory_points(message), start, self.now())

    def _run(self) -> None:
        while not self._done.wait(PERIOD):
            self._time = round(self._time + PERIOD, 6)
            if self._clock:
                self._clock.publish(Clock(clock=conversions.to_time(self._time - self.behind)))
            self.asked.append(self.state()[0])
            if not self.silent:
                names = [*self.contract.joints, self.contract.gripper.joint]
                there = self.asked[-1] if self.held is None else self.held
                state = JointState(name=names, position=[*there.tolist(), self.contract.gripper.open])
                state.header.stamp = conversions.to_time(self.now() - self.behind)
                self._states.publish(state)


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tabletop's contract with more time for joint states and commands: a busy machine must not fail the tests."""
    values = yaml.safe_load(resource("config", "robots", "tabletop.yaml").read_text())
    values["observation"]["joint_states"]["max_age"] = 1.0
    values["watchdogs"]["obstruction"] = 0.1
    path = tmp_path_factory.mktemp("contract") / "patient.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    graph = Graph(tmp_path_factory.mktemp("execution"))
    yield graph
    graph.close()


@pytest.fixture
def another_graph(tmp_path: Path) -> Iterator[Graph]:
    graph = Graph(tmp_path)
    yield graph
    graph.close()


@pytest.fixture(scope="module")
def robot(graph: Graph) -> Iterator[Robot]:
    robot = Robot(graph)
    yield robot
    robot.close()


@pytest.fixture(scope="module")
def node(graph: Graph, robot: Robot, patient: Path) -> NodeProcess:
    """One node for the tests that leave it as it was; the one that ends it comes last."""
    node = graph.start("execution_node", robot=patient, foreseen=0.3, rest=1.0)
    assert node.transition(CONFIGURE, ACTIVATE), node.log()
    wait_for(robot.chunks.get_subscription_count, "the node to listen for chunks")
    robot.wait_until_joined()
    return node


def assert_smooth(commands: list[JointTrajectory], robot: Robot) -> None:
    """What a controller makes of the trajectories, on time, keeps every limit; each one ends at rest."""
    limits, commands = robot.contract.limits, list(commands)  # more may come
    controller = TrajectoryController(robot.contract.joints)
    controller.reset(np.array(commands[0].points[0].positions), to_seconds(commands[0].header.stamp))
    starts = [to_seconds(command.header.stamp) for command in commands]
    for command, start, following in zip(commands, starts, [*starts[1:], starts[-1] + 1.0], strict=True):
        assert tuple(command.joint_names) == robot.contract.joints
        controller.accept(list(command.joint_names), trajectory_points(command), start, start)
        for now in np.arange(start, min(following, start + 0.5), 0.002):
            _, velocity, acceleration = controller.state(now)
            assert np.all(np.abs(velocity) <= 1.001 * np.array(limits.velocity))
            assert np.all(np.abs(acceleration) <= 1.001 * np.array(limits.acceleration)), f"at {now}"


def start_again(robot: Robot, node: NodeProcess) -> None:
    """Activates the node, which goes on from where it finds the arm, whatever it commanded before."""
    wait_for(robot.rests, "the arm to rest")
    assert_smooth(robot.commands, robot)
    robot.commands.clear()
    assert node.transition(ACTIVATE)
    robot.wait_until_joined()


# These two come before the module's own robot exists: it would speak on the same topics.


def test_it_runs_on_the_simulation_s_clock(another_graph: Graph, patient: Path) -> None:
    robot = Robot(another_graph, clock=True)
    try:
        node = another_graph.start("execution_node", use_sim_time=True, robot=patient, foreseen=0.3, rest=1.0)
        assert node.transition(CONFIGURE, ACTIVATE), node.log()
        robot.wait_until_joined()
        before, began = len(robot.commands), robot.now()
        chunk = robot.chunk((0.0, 0.2, 0.0))
        robot.chunks.publish(robot.message(chunk))
        robot.wait_status(ExecutorState.FOLLOWING)
        robot.wait_status(ExecutorState.HOLDING)
        ticks, commands = (robot.now() - began) / PERIOD, len(robot.commands) - before
        assert np.linalg.norm(robot.pose()[0] - chunk.positions[-1]) < 1e-3
        assert 0.5 * ticks / SEND_REST_EVERY < commands <= ticks + 10
        assert_smooth(robot.commands, robot)
    finally:
        robot.close()


def test_a_node_that_was_stopped_finds_a_clock_that_is_past_and_waits(another_graph: Graph) -> None:
    robot = Robot(another_graph, clock=True)

    def let_pass(seconds: float) -> None:
        until = robot.now() + seconds
        wait_for(lambda: robot.now() >= until, "time to pass")

    try:
        node = another_graph.start("execution_node", use_sim_time=True)
        assert node.transition(CONFIGURE, ACTIVATE), node.log()
        robot.wait_until_joined()
        began = len(robot.asked)
        robot.chunks.publish(robot.message(robot.chunk((0.0, 0.25, 0.0))))
        wait_for(lambda: np.abs(robot.state()[1]).max() > 0.1, "the arm to move")
        node.process.send_signal(signal.SIGSTOP)
        robot.behind = 0.3  # as it is told by messages that waited
        let_pass(0.8)
        node.process.send_signal(signal.SIGCONT)
        let_pass(0.05)
        robot.behind = 0.0
        robot.wait_until_it_follows_again((0.0, -0.1, 0.0))
        robot.wait_status(ExecutorState.HOLDING)
        assert "it may have missed commands, as this process was stopped" in node.log()
        acceleration = np.abs(np.diff(robot.asked[began:], n=2, axis=0)).max(axis=0) / PERIOD**2
        assert np.all(acceleration <= 1.1 * np.array(robot.contract.limits.acceleration))
    finally:
        robot.close()


def test_a_missing_backend_and_missing_joint_states_are_reported(another_graph: Graph) -> None:
    node = another_graph.start("execution_node", backend="moveit")
    assert not node.transition(CONFIGURE)
    assert "use the backend 'controller'" in node.log()
    assert "Traceback" not in node.log()
    node.set(backend="controller")
    assert node.transition(CONFIGURE, ACTIVATE), node.log()
    status = another_graph.listen(ExecutionStatus, "/execution_status", qos.RELIABLE)
    chunks = another_graph.publisher(ActionChunkMessage, "/action_chunk", qos.RELIABLE)
    wait_for(lambda: status, "a status")
    message = ActionChunkMessage(header=conversions.header(time.time(), "panda_link0"), poses=[Pose()], gripper=[1.0])
    chunks.publish(message)
    wait_for(lambda: status[-1].error_code == ExecutionCode.STALE_JOINT_STATES, "the refusal")


def test_chunks_move_the_arm_and_bad_ones_are_refused(robot: Robot, node: NodeProcess) -> None:
    chunk = robot.chunk((0.0, 0.2, 0.0), sequence=7)
    robot.chunks.publish(robot.message(chunk))
    status = robot.wait_status(ExecutorState.FOLLOWING)
    assert status.sequence == 7
    # A chunk that is not finite is refused; the good one goes on to its end.
    bad = robot.chunk((0.0, 0.2, 0.0), sequence=8)
    bad.positions[3, 1] = np.nan
    robot.chunks.publish(robot.message(bad))
    status = robot.wait_status(ExecutorState.FOLLOWING, ExecutionCode.INVALID_CHUNK)
    assert "step 3 is not finite" in status.error_msg
    assert status.sequence == 7
    status = robot.wait_status(ExecutorState.HOLDING, ExecutionCode.INVALID_CHUNK)
    assert np.linalg.norm(robot.pose()[0] - chunk.positions[-1]) < 1e-3
    assert 0 < status.capture_to_command < 1
    assert robot.rests()
    wrong_frame = robot.message(robot.chunk((0.0, -0.1, 0.0)))
    wrong_frame.header.frame_id = "map"
    robot.chunks.publish(wrong_frame)
    wait_for(lambda: "'map'" in node.log() or "'map'" in robot.status[-1].error_msg, "the refusal of the frame")
    assert_smooth(robot.commands, robot)
    assert node.log().count("chunk refused") == 1, "a lasting problem is logged once"


def test_an_empty_chunk_rests_the_arm(robot: Robot, node: NodeProcess) -> None:
    chunk = robot.chunk((0.0, -0.2, 0.0))
    robot.chunks.publish(robot.message(chunk))
    robot.wait_status(ExecutorState.FOLLOWING)
    robot.chunks.publish(ActionChunkMessage(header=conversions.header(robot.now(), robot.contract.base_frame)))
    robot.wait_status(ExecutorState.HOLDING)
    wait_for(robot.rests, "the arm to rest")
    assert robot.pose()[0][1] > chunk.positions[-1, 1] + 0.02
    assert_smooth(robot.commands, robot)


def test_emergency_stop_latches_until_it_is_reset(graph: Graph, robot: Robot, node: NodeProcess) -> None:
    robot.chunks.publish(robot.message(robot.chunk((0.0, -0.2, 0.0))))
    robot.wait_status(ExecutorState.FOLLOWING)
    graph.publisher(Empty, "/emergency_stop", qos.RELIABLE).publish(Empty())
    robot.wait_status(ExecutorState.STOPPED, ExecutionCode.EMERGENCY_STOP)
    wait_for(robot.rests, "the arm to rest")
    stopped_at = robot.pose()[0]
    robot.chunks.publish(robot.message(robot.chunk((0.0, -0.2, 0.0))))
    wait_for(lambda: "chunk refused: EMERGENCY_STOP" in node.log(), "the refusal")
    np.testing.assert_allclose(robot.pose()[0], stopped_at, atol=1e-3)  # what is left of the brake, not 20 cm
    # Neither does a new start of the node's work end it.
    assert node.transition(DEACTIVATE)
    start_again(robot, node)
    robot.wait_status(ExecutorState.STOPPED, ExecutionCode.EMERGENCY_STOP)
    assert graph.call(Trigger, "/execution/reset", Trigger.Request()).success
    robot.wait_status(ExecutorState.HOLDING)
    robot.chunks.publish(robot.message(robot.chunk((0.0, -0.1, 0.0))))
    robot.wait_status(ExecutorState.FOLLOWING)
    assert graph.call(Trigger, "/execution/emergency_stop", Trigger.Request()).success
    robot.wait_status(ExecutorState.STOPPED, ExecutionCode.EMERGENCY_STOP)
    assert graph.call(Trigger, "/execution/reset", Trigger.Request()).success
    assert_smooth(robot.commands, robot)


def test_a_planning_process_that_dies_is_replaced(robot: Robot, node: NodeProcess) -> None:
    robot.chunks.publish(robot.message(robot.chunk((0.0, -0.1, 0.0))))
    robot.wait_status(ExecutorState.FOLLOWING)
    planning_process(node.process.pid, chunk_planner.PROCESS).kill()
    robot.chunks.publish(robot.message(robot.chunk((0.0, -0.1, 0.0))))
    # Once another process is there; what was followed went on to its end meanwhile.
    status = robot.wait_status(ExecutorState.HOLDING, ExecutionCode.BACKEND_UNAVAILABLE)
    assert "a new one was started" in status.error_msg
    robot.wait_until_it_follows_again((0.0, 0.1, 0.0))
    robot.wait_status(ExecutorState.HOLDING)
    assert_smooth(robot.commands, robot)


def test_an_arm_that_something_holds_gives_way(robot: Robot, graph: Graph, node: NodeProcess) -> None:
    client = Goals(graph, ExecuteChunk, "/execute_chunk")
    wait_for(robot.rests, "the arm to rest")
    robot.held = robot.state()[0]
    # 0.19 rad in all: beyond the obstruction's limit for half a second, and never beyond the tracking error's, however
    # late a busy machine brings the joint states.
    inwards = -0.1 * np.sign(robot.pose()[0][1])
    try:
        goal = client.send(ExecuteChunk.Goal(chunk=robot.message(robot.chunk((0.0, inwards, 0.0)))))
        status, code, message = goal.outcome()
        assert (status, code) == (GoalStatus.STATUS_ABORTED, ExecutionCode.OBSTRUCTED)
        assert "rad off its path; watchdogs.obstruction is 0.1 rad" in message
        wait_for(lambda: np.abs(robot.state()[0] - robot.held).max() < 0.01, "the controller to be asked for no more")
    finally:
        robot.held = None
    robot.wait_until_it_follows_again((0.0, inwards, 0.0))
    robot.wait_status(ExecutorState.HOLDING)
    assert_smooth(robot.commands, robot)


def test_chunks_that_come_while_the_stream_begins_wait_for_it(robot: Robot, node: NodeProcess) -> None:
    assert node.transition(DEACTIVATE)
    wait_for(robot.rests, "the arm to rest")
    assert_smooth(robot.commands, robot)
    robot.commands.clear()
    seen = len(robot.status)
    assert node.transition(ACTIVATE)
    robot.wait_until_it_follows_again((0.0, -0.05, 0.0))
    assert {status.error_code for status in robot.status[seen:]} == {ExecutionCode.NONE}
    assert max(len(command.points) for command in robot.commands) > 1
    robot.wait_status(ExecutorState.HOLDING)
    assert_smooth(robot.commands, robot)


def test_silent_joint_states_stop_the_arm(robot: Robot, node: NodeProcess) -> None:
    robot.chunks.publish(robot.message(robot.chunk((0.0, -0.2, 0.0))))
    robot.wait_status(ExecutorState.FOLLOWING)
    robot.silent = True
    robot.wait_status(ExecutorState.HOLDING, ExecutionCode.STALE_JOINT_STATES)
    wait_for(lambda: "/joint_states: silent" in node.log(), "the line about the silence")
    robot.silent = False
    wait_for(lambda: "/joint_states: well again" in node.log(), "the line about its end")
    assert_smooth(robot.commands, robot)


def test_goals_succeed_are_preempted_canceled_and_refused(graph: Graph, robot: Robot, node: NodeProcess) -> None:
    client = Goals(graph, ExecuteChunk, "/execute_chunk")

    def send(chunk: ActionChunk) -> Goal:
        return client.send(ExecuteChunk.Goal(chunk=robot.message(chunk)))

    first = robot.chunk((0.0, 0.15, 0.0))
    assert send(first).outcome() == (GoalStatus.STATUS_SUCCEEDED, ExecutionCode.NONE, "")
    assert np.linalg.norm(robot.pose()[0] - first.positions[-1]) < 1e-3
    steps = [feedback.step for feedback in client.feedback]
    assert steps == sorted(steps)
    assert steps[-1] == 9

    one = send(robot.chunk((0.0, -0.15, 0.0)))
    two = send(robot.chunk((0.0, -0.1, 0.0)))
    assert one.outcome()[:2] == (GoalStatus.STATUS_ABORTED, ExecutionCode.PREEMPTED)
    two.cancel()
    assert two.outcome()[:2] == (GoalStatus.STATUS_CANCELED, ExecutionCode.CANCELED)
    wait_for(robot.rests, "the arm to rest")

    bad = robot.chunk((0.0, 0.1, 0.0))
    bad.gripper = bad.gripper[:-1]
    status, code, text = send(bad).outcome()
    assert (status, code) == (GoalStatus.STATUS_ABORTED, ExecutionCode.INVALID_CHUNK)
    assert "gripper" in text
    assert node.transition(DEACTIVATE)
    assert send(robot.chunk((0, 0.1, 0))).outcome()[1] is ExecutionCode.NOT_ACTIVE
    start_again(robot, node)


def test_sigterm_leaves_the_arm_at_rest(robot: Robot, node: NodeProcess) -> None:
    robot.chunks.publish(robot.message(robot.chunk((0.0, -0.25, 0.0))))
    wait_for(lambda: np.abs(robot.state()[1]).max() > 0.2, "the arm to move")
    assert node.stop() == 0
    wait_for(robot.rests, "the arm to rest")
    assert_smooth(robot.commands, robot)
