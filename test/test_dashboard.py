# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The dashboard: markers of what nodes publish, a Rerun recording read back, and the layouts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from learning_data import human_clip
from node_process import Graph, wait_for
from rerun_recording import entities
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Empty, String
from visualization_msgs.msg import Marker, MarkerArray

import arvrm_ros.msg as messages
from arvrm_ros.contract import load_contract
from arvrm_ros.data.types import ActionChunk, HandDetection, RetrievedMotion
from arvrm_ros.motion.kinematics import Kinematics
from arvrm_ros.nodes import conversions, qos
from arvrm_ros.resources import resource

pytestmark = pytest.mark.ros

CONTRACT = load_contract("tabletop")
HOME = np.array(CONTRACT.home)


def joint_states(stamp: float, velocity: float = 0.0) -> JointState:
    names = [*CONTRACT.joints, CONTRACT.gripper.joint]
    positions = [*map(float, HOME), CONTRACT.gripper.open]
    return JointState(
        header=conversions.header(stamp), name=names, position=positions, velocity=[velocity] * len(names)
    )


def chunk(stamp: float) -> ActionChunk:
    position, quaternion = Kinematics(CONTRACT).forward(HOME)
    ahead = position + np.linspace(0, 0.05, 5)[:, None] * [1, 0, 0]
    return ActionChunk(
        stamp, 0.1, ahead, np.tile(quaternion, (5, 1)), np.array([1, 1, 0, 0, 0.0]), 7, "open the drawer", 0.25,
        {"encode": 0.02, "predict": 0.03},
    )  # fmt: skip


def test_what_nodes_publish_is_drawn_and_recorded(graph: Graph, tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    recording = tmp_path / "folder" / "run.rrd"
    node = graph.start("dashboard_node", recording=str(recording), rate=20.0)
    markers = graph.listen(MarkerArray, "/dashboard/markers", qos.RELIABLE)
    send = {
        topic: graph.publisher(kind, topic, profile)
        for kind, topic, profile in (
            (JointState, "/joint_states", qos.SENSOR),
            (messages.ActionChunk, "/action_chunk", qos.RELIABLE),
            (messages.ExecutionStatus, "/execution_status", qos.RELIABLE),
            (String, "/instruction", qos.LATCHED),
            (Image, "/static_camera/image", qos.SENSOR),
            (Image, "/human_camera/image", qos.SENSOR),
            (messages.HandKeypoints, "/hand_keypoints", qos.SENSOR),
            (messages.RetrievedMotions, "/retrieved_motions", qos.LATCHED),
            (messages.AnalogyMap, "/analogy_map", qos.LATCHED),
            (Empty, "/emergency_stop", qos.RELIABLE),
            (DiagnosticArray, "/diagnostics", qos.RELIABLE),
        )
    }
    rng, stamp = np.random.default_rng(0), 5.0
    image = rng.integers(0, 255, (128, 128, 3), dtype=np.uint8)
    hand = HandDetection(rng.random((21, 3)), rng.random((21, 3)), 0.9, "left")
    found = [RetrievedMotion(human_clip(0, rng), 3.0, 0.9, 0.8)]
    broken = conversions.image_to_message(image, stamp, "camera")
    broken.encoding = "yuv422"

    def show() -> list[MarkerArray]:
        nonlocal stamp
        stamp += 0.05
        send["/joint_states"].publish(joint_states(stamp, 0.75))
        send["/static_camera/image"].publish(conversions.image_to_message(image, stamp, "static"))
        send["/human_camera/image"].publish(broken)
        hands = conversions.detections_to_message([hand], stamp, "human", 128, 128)
        send["/hand_keypoints"].publish(hands)
        send["/action_chunk"].publish(conversions.chunk_to_message(chunk(stamp), CONTRACT.base_frame))
        status = messages.ExecutionStatus(header=conversions.header(stamp), state=1, tracking_error=0.01)
        send["/execution_status"].publish(status)
        return markers

    send["/instruction"].publish(String(data="open the drawer"))
    send["/retrieved_motions"].publish(conversions.retrieved_to_message(found, "open the drawer", "database", 0.9, 5.0))
    send["/analogy_map"].publish(conversions.analogy_map_to_message(np.ones((7, 21)), 5.0))
    send["/emergency_stop"].publish(Empty())
    trouble = DiagnosticStatus(level=DiagnosticStatus.WARN, name="policy_node", message="late")
    send["/diagnostics"].publish(DiagnosticArray(status=[trouble]))

    def drawn() -> dict[str, Marker]:
        show()
        of_last = {marker.ns: marker for marker in markers[-1].markers[1:]} if markers else {}
        return of_last if {"chunk", "arm"} <= of_last.keys() and "following" in of_last["text"].text else {}

    shown = wait_for(drawn, "the arm, the chunk and the state")
    assert markers[-1].markers[0].action == Marker.DELETEALL
    assert {marker.header.frame_id for marker in shown.values()} == {CONTRACT.base_frame}
    end = shown["arm"].points[-1]
    np.testing.assert_allclose([end.x, end.y, end.z], Kinematics(CONTRACT).forward(HOME)[0], atol=1e-6)
    assert len(shown["arm"].points) == len(CONTRACT.joints) + 2
    assert len(shown["chunk"].points) == 5
    assert shown["chunk_steps"].colors[0] != shown["chunk_steps"].colors[-1]  # the gripper closes
    assert shown["text"].text.splitlines() == ["open the drawer", "following"]
    size = shown["workspace"].scale
    limits = CONTRACT.limits
    np.testing.assert_allclose([size.x, size.y, size.z], np.subtract(limits.workspace_max, limits.workspace_min))
    wait_for(lambda: show() and "human: image encoding 'yuv422'" in node.log(), "the line about the image")
    assert node.stop() == 0
    assert "Traceback" not in node.log()
    recorded = entities(recording)
    assert {
        "world/arm", "world/chunk", "world/workspace", "world/trail", "cameras/static", "cameras/human/hands",
        "retrieved/clips", "retrieved/best", "analogy_map", "milliseconds/encode", "milliseconds/capture_to_command",
        "limits/tracking_error", "gripper/measured", "gripper/wanted", "log", "execution/state",
    } <= recorded, recorded  # fmt: skip


def test_what_cannot_be_recorded_is_told(graph: Graph, tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "arvrm_ros", "dashboard", "--record", str(tmp_path / "file" / "run.rrd")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert f"cannot record to {tmp_path / 'file' / 'run.rrd'}" in done.stderr
    assert "Traceback" not in done.stderr
    hidden = (
        "import sys; sys.modules['rerun'] = None; from arvrm_ros.dashboard import RerunDashboard as R; R(None, None)"
    )
    done = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, timeout=120)
    assert "Rerun is not installed: pip install rerun-sdk" in done.stderr


def test_the_layouts_are_of_this_robot() -> None:
    """Whether their topics are there is seen with the whole suite, in test_demo.py."""
    layout = json.loads(resource("config", "dashboard", "foxglove.json").read_text())

    def panels(node: object) -> list[str]:
        return [node] if isinstance(node, str) else panels(node["first"]) + panels(node["second"])  # type: ignore[index]

    assert sorted(panels(layout["layout"])) == sorted(layout["configById"])
    rviz = yaml.safe_load(resource("config", "dashboard", "arvrm.rviz").read_text())
    manager = rviz["Visualization Manager"]
    assert manager["Global Options"]["Fixed Frame"] == CONTRACT.base_frame
    assert layout["configById"]["3D!arm"]["followTf"] == CONTRACT.base_frame
    profiles = {d["Topic"]["Value"]: d["Topic"]["Reliability Policy"] for d in manager["Displays"] if "Topic" in d}
    for camera in CONTRACT.observation.cameras.values():
        assert profiles[camera.topic] == "Best Effort"  # as they are published; RViz's default hears nothing
