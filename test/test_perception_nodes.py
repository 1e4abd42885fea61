# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The hand-keypoint node over DDS, with the real landmarker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray
from node_process import ACTIVATE, CLEANUP, CONFIGURE, DEACTIVATE, Graph, wait_for
from rendered_hand import rendered_hand
from sensor_msgs.msg import Image
from visualization_msgs.msg import Marker, MarkerArray

from arvrm_ros.data.messages import message_to_detections
from arvrm_ros.msg import HandKeypoints
from arvrm_ros.nodes import qos
from arvrm_ros.nodes.conversions import image_to_message, message_to_image, to_seconds
from arvrm_ros.perception.models import fetch_hand_landmarker

pytestmark = pytest.mark.ros


def test_a_hand_no_hand_and_silence(graph: Graph, tmp_path: Path) -> None:
    fetch_hand_landmarker()
    node = graph.start("hand_keypoint_node", silence=0.5, model=str(tmp_path / "none.task"))
    assert not node.transition(CONFIGURE)
    assert f"{tmp_path / 'none.task'} is missing: run `arvrm models fetch`" in node.log()
    node.set(model="")

    keypoints = graph.listen(HandKeypoints, "/hand_keypoints", qos.SENSOR)
    overlays = graph.listen(Image, "/hand_keypoints/overlay", qos.SENSOR)
    markers = graph.listen(MarkerArray, "/hand_keypoints/markers", qos.RELIABLE)
    assert node.transition(CONFIGURE, ACTIVATE)
    camera = graph.publisher(Image, "/human_camera/image", qos.SENSOR)
    stamp = 50.0

    def show(image: np.ndarray, messages: list) -> bool:
        nonlocal stamp
        stamp += 0.1
        camera.publish(image_to_message(image, stamp, "human_optical"))
        return bool(messages)

    image, truth = rendered_hand()

    def of_one_image() -> tuple[HandKeypoints, Image, MarkerArray] | None:
        """What was said of the newest image with a hand for which all of it has come."""
        show(image, keypoints)
        pictures = {to_seconds(overlay.header.stamp): overlay for overlay in list(overlays)}
        drawn = {to_seconds(array.markers[0].header.stamp): array for array in list(markers)}
        found = [(m, to_seconds(m.header.stamp)) for m in reversed(list(keypoints)) if m.count]
        return next(((m, pictures[at], drawn[at]) for m, at in found if at in pictures and at in drawn), None)

    message, overlay, array = wait_for(of_one_image, "keypoints of the hand")
    (hand,) = message_to_detections(message)
    assert (message.image_height, message.image_width) == image.shape[:2]
    assert message.header.frame_id == "human_optical"
    assert np.median(np.linalg.norm((hand.keypoints - truth)[:, :2], axis=1)) < 0.03
    assert (message_to_image(overlay) != image).any()
    assert [m.action for m in array.markers] == [Marker.DELETEALL, Marker.ADD, Marker.ADD]
    assert len(array.markers[1].points) == 21

    wait_for(lambda: show(np.zeros_like(image), keypoints) and keypoints[-1].count == 0, "a message without hands")
    assert message_to_detections(keypoints[-1]) == []
    wait_for(lambda: [m.action for m in markers[-1].markers] == [Marker.DELETEALL], "the markers to go away")

    wait_for(lambda: "/human_camera/image: silent" in node.log(), "the line about the silence")
    broken = image_to_message(image, stamp, "human_optical")
    broken.encoding = "yuv422"

    def show_broken() -> bool:
        camera.publish(broken)
        return "image encoding 'yuv422' is not one of" in node.log()

    wait_for(show_broken, "the line about the encoding")
    count = len(keypoints)
    wait_for(lambda: show(image, keypoints) and len(keypoints) > count + 2, "keypoints again")
    assert node.log().count("/human_camera/image: silent") == 1
    assert node.log().count("yuv422") == 1
    assert node.transition(DEACTIVATE, CLEANUP, CONFIGURE, ACTIVATE)
    count = len(keypoints)
    wait_for(lambda: show(image, keypoints) and len(keypoints) > count, "keypoints after a second start")
    assert node.stop() == 0
    assert "Traceback" not in node.log()


def test_late_images_are_dropped_not_queued(graph: Graph) -> None:
    fetch_hand_landmarker()
    node = graph.start("hand_keypoint_node")
    keypoints = graph.listen(HandKeypoints, "/hand_keypoints", qos.SENSOR)
    diagnostics = graph.listen(DiagnosticArray, "/diagnostics", qos.RELIABLE)
    assert node.transition(CONFIGURE, ACTIVATE)
    camera = graph.publisher(Image, "/human_camera/image", qos.SENSOR)

    def counted() -> dict[str, str]:
        of_node = [s for message in diagnostics for s in message.status if s.name == "hand_keypoint_node"]
        return {value.key: value.value for value in of_node[-1].values} if of_node else {}

    small = np.zeros((48, 64, 3), np.uint8)  # quick to send: the landmarker, not DDS, shall be what is slow
    for i in range(300):
        camera.publish(image_to_message(small, 10 + i / 1000, "human_optical"))
    wait_for(lambda: keypoints and keypoints[-1].header.stamp.nanosec == 299_000_000, "keypoints of the newest image")
    wait_for(lambda: int(counted().get("dropped", 0)) > 0, "dropped images in the diagnostics")
    assert 0 < int(counted()["images"]) < 300
    assert int(counted()["images"]) + int(counted()["dropped"]) <= 300  # DDS may lose some of a best-effort burst
    assert node.stop() == 0
