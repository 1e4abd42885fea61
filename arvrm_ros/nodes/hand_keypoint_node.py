# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Hand keypoints of a camera's images, with an overlay image and markers to look at."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, cast

from geometry_msgs.msg import Point, Pose, Vector3
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from sensor_msgs.msg import Image
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from arvrm_ros.data.messages import MessageError
from arvrm_ros.data.types import HandDetection
from arvrm_ros.msg import HandKeypoints
from arvrm_ros.nodes import qos
from arvrm_ros.nodes.conversions import (
    detections_to_message,
    image_to_message,
    message_to_image,
    to_seconds,
)
from arvrm_ros.nodes.lifecycle import ManagedNode, StreamWatch, run_node
from arvrm_ros.nodes.parameters import Parameters, parameter
from arvrm_ros.perception.landmarker import HandLandmarker
from arvrm_ros.perception.overlay import BONES, draw_hand, keypoint_color

MARKER_DISTANCE = 0.5
"""Metres in front of the camera at which the markers show the hand; one image does not tell how far it really is."""


@dataclass(frozen=True)
class HandKeypointParameters(Parameters):
    """Parameters of :class:`HandKeypointNode`."""

    image_topic: str = parameter("/human_camera/image", "images to look for hands in")
    max_hands: int = parameter(1, "hands looked for in one image", low=1, high=8)
    min_detection_confidence: float = parameter(0.3, "of the palm detector", low=0.0, high=1.0)
    min_presence_confidence: float = parameter(0.5, "below it a tracked hand is lost", low=0.0, high=1.0)
    min_tracking_confidence: float = parameter(0.5, "overlap with the hand one frame before", low=0.0, high=1.0)
    model: str = parameter("", "hand_landmarker.task file; empty for the one that `arvrm models fetch` keeps")
    silence: float = parameter(1.0, "time without an image after which it is reported", unit="s", low=0.1, high=60.0)


class HandKeypointNode(ManagedNode):
    """Runs the landmarker in a thread of its own on the newest image; images that come meanwhile are dropped."""

    def __init__(self) -> None:
        super().__init__("hand_keypoint_node", HandKeypointParameters)
        self._landmarker: HandLandmarker | None = None
        self._entities: list[tuple[Any, Any]] = []
        self._thread: threading.Thread | None = None
        self._timer: Any = None
        self._arrived = threading.Condition()
        self._newest: Image | None = None
        self._running = False
        self._processed = self._dropped = 0

    def configure(self) -> None:
        params = cast(HandKeypointParameters, self.params)
        self._landmarker = HandLandmarker(
            video=True,
            max_hands=params.max_hands,
            min_detection_confidence=params.min_detection_confidence,
            min_presence_confidence=params.min_presence_confidence,
            min_tracking_confidence=params.min_tracking_confidence,
            model=params.model or None,
        )
        self._keypoints = self.create_publisher(HandKeypoints, "/hand_keypoints", qos.SENSOR)
        self._overlay = self.create_publisher(Image, "/hand_keypoints/overlay", qos.SENSOR)
        self._markers = self.create_publisher(MarkerArray, "/hand_keypoints/markers", qos.RELIABLE)
        images = self.create_subscription(Image, params.image_topic, self._on_image, qos.SENSOR)
        self._entities = [(self.destroy_publisher, p) for p in (self._keypoints, self._overlay, self._markers)]
        self._entities.append((self.destroy_subscription, images))

    def activate(self) -> None:
        params = cast(HandKeypointParameters, self.params)
        self._watch = StreamWatch(params.image_topic, params.silence, self.edges)
        self._watch.seen(time.monotonic())
        self._running = True
        self._thread = threading.Thread(target=self._work, name="landmarker", daemon=True)
        self._thread.start()
        self._timer = self.create_timer(0.25, self._check, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def deactivate(self) -> None:
        if self._timer is not None:
            self.destroy_timer(self._timer)
            self._timer = None
        with self._arrived:
            self._running = False
            self._newest = None
            self._arrived.notify()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
            self._thread = None

    def cleanup(self) -> None:
        for destroy, entity in self._entities:
            destroy(entity)
        self._entities.clear()
        if self._landmarker is not None:
            self._landmarker.close()
            self._landmarker = None

    def diagnose(self) -> dict[str, str | float]:
        return {"images": self._processed, "dropped": self._dropped}

    def _check(self) -> None:
        self._watch.fresh(time.monotonic())

    def _on_image(self, message: Image) -> None:
        with self._arrived:
            if not self._running:
                return
            self._watch.seen(time.monotonic())
            self._dropped += self._newest is not None
            self._newest = message
            self._arrived.notify()

    def _work(self) -> None:
        while True:
            with self._arrived:
                self._arrived.wait_for(lambda: self._newest is not None or not self._running)
                message, self._newest = self._newest, None
                if message is None or not self._running:
                    return
            try:
                self._process(message)
            except MessageError as error:
                self.edges.update("image", str(error))
            except Exception as error:  # one bad image must not end the thread
                self.edges.update("landmarker", f"{type(error).__name__}: {error}")
            else:
                self.edges.update("image", None)
                self.edges.update("landmarker", None)

    def _process(self, message: Image) -> None:
        assert self._landmarker is not None
        image, stamp = message_to_image(message), to_seconds(message.header.stamp)
        started = time.perf_counter()
        hands = self._landmarker.detect(image, stamp)
        self.stages.add("landmarker", time.perf_counter() - started)
        self._processed += 1
        frame = message.header.frame_id
        self._keypoints.publish(detections_to_message(hands, stamp, frame, *image.shape[:2]))
        if self._overlay.get_subscription_count():
            drawing = image.copy()
            for hand in hands:
                draw_hand(drawing, hand.keypoints)
            self._overlay.publish(image_to_message(drawing, stamp, frame))
        if self._markers.get_subscription_count():
            self._markers.publish(hand_markers(hands, message))


def hand_markers(hands: list[HandDetection], image: Image) -> MarkerArray:
    """Joints and bones of the hands in the camera's optical frame; what was shown before goes away."""
    array = MarkerArray(markers=[Marker(header=image.header, action=Marker.DELETEALL)])
    for index, hand in enumerate(hands):
        points = [Point(x=float(x), y=float(y), z=float(z) + MARKER_DISTANCE) for x, y, z in hand.world]
        colors = [ColorRGBA(r=r / 255, g=g / 255, b=b / 255, a=1.0) for r, g, b in map(keypoint_color, range(21))]
        joints = Marker(
            header=image.header,
            ns="joints",
            id=index,
            type=Marker.SPHERE_LIST,
            scale=Vector3(x=0.008, y=0.008, z=0.008),
            points=points,
            colors=colors,
        )
        bones = Marker(
            header=image.header,
            ns="bones",
            id=index,
            type=Marker.LINE_LIST,
            scale=Vector3(x=0.004),
            points=[points[i] for bone in BONES for i in bone],
            colors=[colors[bone[1]] for bone in BONES for _ in bone],
        )
        for marker in (joints, bones):
            marker.pose = Pose()
            marker.pose.orientation.w = 1.0
            marker.color.a = 1.0
            array.markers.append(marker)
    return array


def main() -> int:
    """Runs the node."""
    return run_node(HandKeypointNode)


if __name__ == "__main__":
    sys.exit(main())
