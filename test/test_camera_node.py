# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The camera node over DDS: sets in step, silence, files."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from node_process import ACTIVATE, CLEANUP, CONFIGURE, DEACTIVATE, Graph, wait_for
from sensor_msgs.msg import CameraInfo, Image

from arvrm_ros.data.video import write_video
from arvrm_ros.nodes import qos
from arvrm_ros.nodes.conversions import image_to_message, message_to_image, to_seconds

pytestmark = pytest.mark.ros


def picture(value: int) -> np.ndarray:
    """256x192 pixels, left half dark, right half of one grey."""
    image = np.zeros((192, 256, 3), np.uint8)
    image[:, 128:] = value
    return image


def test_sets_are_whole_and_in_step(graph: Graph) -> None:
    node = graph.start("camera_node", silence=0.5)
    outputs = {name: graph.listen(Image, f"/{name}_camera/image", qos.SENSOR) for name in ("static", "gripper")}
    infos = graph.listen(CameraInfo, "/static_camera/image/camera_info", qos.SENSOR)
    assert node.transition(CONFIGURE, ACTIVATE)
    static, gripper = (
        graph.publisher(Image, f"/{name}_camera/image_raw", qos.SENSOR) for name in ("static", "gripper")
    )

    # One camera alone, for longer than the silence allowed: nothing may come out, and one line is logged.
    stamp = 100.0

    def alone() -> bool:
        nonlocal stamp
        stamp += 0.1
        static.publish(image_to_message(picture(50), stamp, "static_optical"))
        return "gripper camera (/gripper_camera/image_raw): silent" in node.log()

    wait_for(alone, "the line about the silent camera")
    # Two images too far apart are no set either.
    gripper.publish(image_to_message(picture(50), stamp + 0.2, "gripper_optical"))

    def together() -> bool:
        nonlocal stamp
        stamp += 0.1
        static.publish(image_to_message(picture(200), 1000 + stamp, "static_optical"))
        gripper.publish(image_to_message(picture(100), 1000 + stamp + 0.02, "gripper_optical"))
        return all(len(messages) > 3 for messages in outputs.values())

    wait_for(together, "sets of both cameras")
    first = {name: messages[0] for name, messages in outputs.items()}
    assert to_seconds(first["static"].header.stamp) > 1000  # so nothing came of the lonely images before
    for name, value in (("static", 200), ("gripper", 100)):
        image = message_to_image(first[name])
        assert image.shape == (128, 128, 3)
        assert abs(int(image[:, 70:].mean()) - value) <= 1
        assert image[:, :60].max() == 0
        assert first[name].header.frame_id == f"{name}_optical"
    assert to_seconds(first["gripper"].header.stamp) - to_seconds(first["static"].header.stamp) == pytest.approx(0.02)
    wait_for(lambda: "gripper camera (/gripper_camera/image_raw): well again" in node.log(), "the line that it is back")
    assert node.log().count("gripper camera (/gripper_camera/image_raw): silent") == 1
    assert infos == []  # the driver has published none yet

    driver = graph.publisher(CameraInfo, "/static_camera/camera_info", qos.SENSOR)
    info = CameraInfo(height=192, width=256, k=[200.0, 0.0, 127.5, 0.0, 200.0, 95.5, 0.0, 0.0, 1.0])
    info.p = [200.0, 0.0, 127.5, 10.0, 0.0, 200.0, 95.5, 0.0, 0.0, 0.0, 1.0, 0.0]

    def with_info() -> bool:
        driver.publish(info)
        together()
        return bool(infos)

    wait_for(with_info, "a CameraInfo")
    scaled = infos[-1]
    assert (scaled.height, scaled.width) == (128, 128)
    np.testing.assert_allclose(scaled.k, [100, 0, 63.5, 0, 200 * 2 / 3, 63.5, 0, 0, 1])
    np.testing.assert_allclose(scaled.p, [100, 0, 63.5, 5, 0, 200 * 2 / 3, 63.5, 0, 0, 0, 1, 0])
    assert any(scaled.header.stamp == image.header.stamp for image in outputs["static"])
    assert node.transition(DEACTIVATE)
    assert node.stop() == 0
    assert "Traceback" not in node.log()


def test_video_file_and_wrong_sources(graph: Graph, tmp_path: Path) -> None:
    video = tmp_path / "hand.mp4"
    write_video(video, [np.full((48, 64, 3), 40 * i, np.uint8) for i in range(6)], 0.1)
    node = graph.start("camera_node", sources=["human"])
    assert not node.transition(CONFIGURE)
    assert "'human' is not NAME=SOURCE" in node.log()
    node.set(sources=[f"human={tmp_path / 'none.mp4'}"])
    assert not node.transition(CONFIGURE)
    assert f"cannot read the video {tmp_path / 'none.mp4'}: No such file" in node.log()
    node.set(sources=[f"human={video}"])
    images = graph.listen(Image, "/human_camera/image", qos.SENSOR)
    assert node.transition(CONFIGURE, ACTIVATE)
    wait_for(lambda: len(images) > 8, "the video, begun anew at its end")
    values = [round(int(message_to_image(m).mean()) / 40) for m in images]
    assert set(values) <= set(range(6))
    assert any(a > b for a, b in pairwise(values))  # it looped
    stamps = [to_seconds(m.header.stamp) for m in images]
    assert np.median(np.diff(stamps)) == pytest.approx(0.1, abs=0.05)
    assert message_to_image(images[0]).shape == (48, 64, 3)
    assert node.transition(DEACTIVATE, CLEANUP, CONFIGURE, ACTIVATE)
    count = len(images)
    wait_for(lambda: len(images) > count, "images after a second start")
    assert node.stop() == 0
    assert "Traceback" not in node.log()
