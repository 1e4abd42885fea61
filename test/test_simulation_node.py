# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The simulation node over DDS."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("rclpy")

from node_process import ACTIVATE, CONFIGURE, Graph, NodeProcess, wait_for
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from arvrm_ros.contract import load_contract
from arvrm_ros.msg import TaskStatus
from arvrm_ros.nodes import qos
from arvrm_ros.nodes.conversions import message_to_image, to_duration, to_seconds
from arvrm_ros.srv import ResetScene


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    graph = Graph(tmp_path_factory.mktemp("logs"))
    yield graph
    graph.close()


@pytest.fixture(scope="module")
def node(graph: Graph) -> NodeProcess:
    node = graph.start("simulation_node", task="open_drawer", seed=7)
    assert node.transition(CONFIGURE, ACTIVATE), node.log()
    return node


@pytest.mark.ros
def test_publishes_what_a_robot_publishes(graph: Graph, node: NodeProcess) -> None:
    contract = load_contract("tabletop")
    clock = graph.listen(Clock, "/clock", qos.CLOCK)
    joints = graph.listen(JointState, "/joint_states", qos.SENSOR)
    images = {name: graph.listen(Image, f"/{name}_camera/image_raw", qos.SENSOR) for name in ("static", "gripper")}
    info = graph.listen(CameraInfo, "/gripper_camera/camera_info", qos.SENSOR)
    wait_for(lambda: len(clock) > 50 and len(joints) > 50 and all(images.values()) and info, "every stream")
    times = [to_seconds(message.clock) for message in clock]
    assert np.all(np.diff(times) > 0)
    state = joints[-1]
    assert state.name == [*contract.joints, "panda_finger_joint1", "panda_finger_joint2"]
    assert len(state.position) == len(state.velocity) == len(state.effort) == 9
    picture = message_to_image(images["static"][-1])
    assert picture.shape == (128, 128, 3)
    assert picture.std() > 5
    assert info[-1].k[0] > 0
    assert info[-1].header.frame_id == images["gripper"][-1].header.frame_id


@pytest.mark.ros
def test_follows_a_trajectory_and_rejects_foreign_joints(graph: Graph, node: NodeProcess) -> None:
    contract = load_contract("tabletop")
    joints = graph.listen(JointState, "/joint_states", qos.SENSOR)
    arm = graph.publisher(JointTrajectory, contract.action.arm_topic, qos.RELIABLE)
    arm.publish(JointTrajectory(joint_names=["elbow"], points=[JointTrajectoryPoint(positions=[0.0])]))
    wait_for(lambda: "joints are [elbow]" in node.log(), "the reason in the log")
    target = np.array(contract.home) + 0.2
    goal = JointTrajectoryPoint(positions=target.tolist(), time_from_start=to_duration(0.5))
    arm.publish(JointTrajectory(joint_names=list(contract.joints), points=[goal]))
    wait_for(lambda: joints and np.allclose(joints[-1].position[:7], target, atol=0.02), "the arm at its target")


@pytest.mark.ros
def test_reset_starts_judging_and_refuses_unknown_tasks(graph: Graph, node: NodeProcess) -> None:
    status = graph.listen(TaskStatus, "/task_status", qos.RELIABLE)
    scenes = []
    for seed in (1, 2, 1):
        assert graph.call(ResetScene, "/simulation/reset", ResetScene.Request(seed=seed, task="lift_red_block")).success
        status.clear()
        wait_for(lambda: len(status) > 2, "task status")
        scenes.append(json.loads(status[-1].scene)["blocks"]["red"])
    assert status[-1].task == "lift_red_block"
    assert not status[-1].success
    assert scenes[0] == pytest.approx(scenes[2], abs=1e-3)
    assert scenes[0] != pytest.approx(scenes[1], abs=1e-3)
    answer = graph.call(ResetScene, "/simulation/reset", ResetScene.Request(seed=1, task="fly"))
    assert not answer.success
    assert "unknown task 'fly'" in answer.message
