# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The node between Gazebo and the others, over DDS. Gazebo is played by the MuJoCo tabletop, on Gazebo's topics."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("rclpy")

from geometry_msgs.msg import PoseStamped
from node_process import ACTIVATE, CONFIGURE, DEACTIVATE, Graph, NodeProcess, wait_for
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from arvrm_ros.contract import load_contract
from arvrm_ros.msg import TaskStatus
from arvrm_ros.nodes import qos
from arvrm_ros.nodes.conversions import header, to_duration, to_seconds
from arvrm_ros.simulation import gazebo, scene
from arvrm_ros.simulation.tabletop import Tabletop

CONTRACT = load_contract("tabletop")
SEED = 0  # of a scene whose LED is dark


class PlayedGazebo:
    """Runs a tabletop, from the arm upright on, in a thread: sends what Gazebo sends, asks what it is asked."""

    def __init__(self, graph: Graph) -> None:
        self.world = Tabletop(CONTRACT, "D", render=False)
        self.world.reset(SEED)
        self.zeros = gazebo.fixture_joints(self.world)
        self.world.mirror(0.0, {name: 0.0 for name in CONTRACT.joints} | {"panda_joint4": -0.07}, {})
        self._asked = self.world.joint_state()[0][[0, 1, 2, 3, 4, 5, 6, 7]]
        self.frozen = threading.Event()
        self._done = threading.Event()
        self._robot = graph.node.create_publisher(JointState, gazebo.ROBOT_STATES, qos.RELIABLE)
        self._table = graph.node.create_publisher(JointState, gazebo.FIXTURE_STATES, qos.RELIABLE)
        self._blocks = {
            color: graph.node.create_publisher(PoseStamped, gazebo.block_pose_topic(color), qos.RELIABLE)
            for color in scene.BLOCKS
        }
        graph.node.create_subscription(JointTrajectory, gazebo.SETPOINTS, self._on_setpoint, qos.RELIABLE)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._done.set()
        self._thread.join()

    def _on_setpoint(self, message: JointTrajectory) -> None:
        assert message.joint_names == [*CONTRACT.joints, *self.world.finger_joints]
        self._asked = np.array(message.points[0].positions)

    def _run(self) -> None:
        while not self._done.wait(0.004):  # two and a half times as fast as time
            if self.frozen.is_set():
                continue
            self.world.command(self._asked[:7], CONTRACT.gripper.opening(float(self._asked[7])))
            self.world.advance(0.01)
            stamp = header(self.world.time)
            position, velocity, effort = (values.tolist() for values in self.world.joint_state())
            names = [*CONTRACT.joints, *self.world.finger_joints]
            table = {name: float(self.world.data.joint(name).qpos[0]) - zero for name, zero in self.zeros.items()}
            for color, publisher in self._blocks.items():
                pose = PoseStamped(header=stamp)
                q = self.world.data.joint(f"block_{color}").qpos
                pose.pose.position.x, pose.pose.position.y, pose.pose.position.z = q[:3].tolist()
                turn = pose.pose.orientation
                turn.w, turn.x, turn.y, turn.z = q[3:].tolist()
                publisher.publish(pose)
            self._table.publish(JointState(header=stamp, name=list(table), position=list(table.values())))
            self._robot.publish(
                JointState(header=stamp, name=names, position=position, velocity=velocity, effort=effort)
            )


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    graph = Graph(tmp_path_factory.mktemp("logs"))
    yield graph
    graph.close()


@pytest.fixture(scope="module")
def played(graph: Graph) -> Iterator[PlayedGazebo]:
    played = PlayedGazebo(graph)
    yield played
    played.close()


@pytest.fixture(scope="module")
def joints(graph: Graph) -> list[JointState]:
    return graph.listen(JointState, "/joint_states", qos.SENSOR)


@pytest.fixture(scope="module")
def node(graph: Graph, joints: list[JointState], played: PlayedGazebo) -> NodeProcess:
    node = graph.start("gazebo_node", seed=SEED)
    assert node.transition(CONFIGURE, ACTIVATE), node.log()
    return node


@pytest.mark.ros
def test_the_arm_is_brought_home_before_anybody_hears_of_its_joints(
    graph: Graph, played: PlayedGazebo, joints: list[JointState], node: NodeProcess
) -> None:
    clock = graph.listen(Clock, "/clock", qos.CLOCK)
    wait_for(lambda: joints, "joint states")
    assert np.allclose(joints[0].position[:7], CONTRACT.home, atol=0.011)
    wait_for(lambda: len(clock) > 20, "the clock")
    times = [to_seconds(message.clock) for message in clock]
    assert np.all(np.diff(times) > 0)


@pytest.mark.ros
def test_it_follows_trajectories_as_a_controller_does_within_the_drives_speed(
    graph: Graph, played: PlayedGazebo, joints: list[JointState], node: NodeProcess
) -> None:
    wait_for(lambda: joints, "joint states")
    arm = graph.publisher(JointTrajectory, CONTRACT.action.arm_topic, qos.RELIABLE)
    target = np.array(CONTRACT.home)
    target[[0, 6]] += 0.5
    del joints[:]
    goal = JointTrajectoryPoint(positions=target.tolist(), time_from_start=to_duration(0.02))
    arm.publish(JointTrajectory(joint_names=list(CONTRACT.joints), points=[goal]))
    wait_for(lambda: joints and np.allclose(joints[-1].position[:7], target, atol=0.01), "the arm at its target")
    speeds = np.abs([state.velocity[:7] for state in joints])
    assert np.all(speeds < 1.15 * np.array(CONTRACT.limits.velocity))


@pytest.mark.ros
def test_the_task_of_the_instruction_is_judged_by_what_gazebo_says(
    graph: Graph, played: PlayedGazebo, node: NodeProcess
) -> None:
    status = graph.listen(TaskStatus, "/task_status", qos.RELIABLE)
    instructions = graph.publisher(String, "/instruction", qos.LATCHED)
    instructions.publish(String(data="turn on the led"))
    wait_for(lambda: any(s.task == "turn_on_led" and not s.success for s in status), "the task, not done")
    played.world.data.joint("button").qfrc_applied = 3.0  # N, more than its spring has
    wait_for(lambda: status[-1].success, "success")
    instructions.publish(String(data="juggle the blocks"))
    wait_for(lambda: status[-1].task == "" and not status[-1].success, "no task")


@pytest.mark.ros
def test_deactivated_it_holds_the_arm_and_active_again_it_brings_it_home(
    graph: Graph, played: PlayedGazebo, joints: list[JointState], node: NodeProcess
) -> None:
    arm = graph.publisher(JointTrajectory, CONTRACT.action.arm_topic, qos.RELIABLE)
    target = np.array(CONTRACT.home) - 0.3
    goal = JointTrajectoryPoint(positions=target.tolist(), time_from_start=to_duration(3.0))
    arm.publish(JointTrajectory(joint_names=list(CONTRACT.joints), points=[goal]))
    wait_for(lambda: played.world.joint_positions[1] < CONTRACT.home[1] - 0.05, "the arm on its way")
    assert node.transition(DEACTIVATE)
    time.sleep(0.2)  # what was on its way
    wait_for(lambda: np.abs(played.world.joint_velocities).max() < 0.01, "rest")
    assert not np.allclose(played.world.joint_positions, target, atol=0.1)
    del joints[:]
    assert node.transition(ACTIVATE)
    wait_for(lambda: joints and np.allclose(joints[-1].position[:7], CONTRACT.home, atol=0.011), "home")


@pytest.mark.ros
def test_it_says_once_that_gazebo_is_silent_and_once_that_it_is_back(played: PlayedGazebo, node: NodeProcess) -> None:
    played.frozen.set()
    wait_for(lambda: "Gazebo: silent on /gazebo/robot/joint_states" in node.log(), "the warning")
    played.frozen.clear()
    wait_for(lambda: "Gazebo: well again" in node.log(), "the end of it")
