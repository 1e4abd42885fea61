# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Camera ingestion: images from drivers, devices or files become time-stamped, resized frames that are in step."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.publisher import Publisher
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, Image

from arvrm_ros.data.messages import MessageError
from arvrm_ros.errors import DataError
from arvrm_ros.nodes import qos
from arvrm_ros.nodes.conversions import image_to_message, message_to_image, to_seconds, to_time
from arvrm_ros.nodes.lifecycle import ManagedNode, StreamWatch, run_node
from arvrm_ros.nodes.parameters import ParameterError, Parameters, parameter
from arvrm_ros.perception.cameras import CameraSource, FrameSets, open_source, resize

REOPEN_PERIOD = 1.0
"""Seconds between two attempts to open a device that broke."""


@dataclass(frozen=True)
class CameraParameters(Parameters):
    """Parameters of :class:`CameraNode`."""

    sources: tuple[str, ...] = parameter(
        ("",),
        "NAME=SOURCE per camera; SOURCE is an image topic, a /dev/videoN device, a video file, a bag (.mcap) or a "
        "folder of images. "
        "A contract's camera that is not listed takes its topic with image_raw in place of image; any other NAME is "
        "published by itself on /NAME_camera/image in its own size",
    )
    rate: float = parameter(
        10.0, "image sets published per second; faster cameras are thinned out", unit="Hz", low=0.1, high=120.0
    )
    loop: bool = parameter(True, "video files, bags and folders begin anew at their end")
    silence: float = parameter(
        1.0, "time without an image after which a camera is reported lost", unit="s", low=0.1, high=60.0
    )


@dataclass
class _Camera:
    """One camera: where it comes from, where it goes, and the newest CameraInfo of its driver."""

    name: str
    source: str
    topic: str
    size: tuple[int, int] | None  # height, width; None keeps the source's
    sets: FrameSets
    publisher: Publisher
    info_publisher: Publisher
    subscriptions: list[Subscription] = field(default_factory=list)
    device: CameraSource | None = None
    info: CameraInfo | None = None
    watch: StreamWatch | None = None

    @property
    def label(self) -> str:
        """What the log calls it."""
        return f"{self.name} camera ({self.source})"


class CameraNode(ManagedNode):
    """Publishes the contract's cameras, all or none at a time, and further cameras on their own."""

    def __init__(self) -> None:
        super().__init__("camera_node", CameraParameters)
        self._cameras: dict[str, _Camera] = {}
        self._threads: list[threading.Thread] = []
        self._running = threading.Event()
        self._lock = threading.Lock()
        self._timer: Any = None
        self._published = 0

    def configure(self) -> None:
        params = cast(CameraParameters, self.params)
        named = _parse_sources(params.sources)
        wanted = self.contract.observation.cameras
        in_step = FrameSets(wanted, 1 / params.rate)
        for name, camera in wanted.items():
            source = named.pop(name, camera.raw_topic)
            self._cameras[name] = self._make(name, source, camera.topic, (camera.height, camera.width), in_step)
        for name, source in named.items():
            topic = f"/{name}_camera/image"
            self._cameras[name] = self._make(name, source, topic, None, FrameSets([name], 1 / params.rate))
        for made in self._cameras.values():
            if is_topic(made.source):
                self._subscribe(made)
            else:
                made.device = open_source(made.source, params.loop, params.rate)

    def activate(self) -> None:
        now = time.monotonic()
        self._running.set()
        for camera in self._cameras.values():
            camera.watch = StreamWatch(camera.label, cast(CameraParameters, self.params).silence, self.edges)
            camera.watch.seen(now)  # a camera gets the same time to start as to come back
            if camera.device:
                thread = threading.Thread(target=self._read, args=(camera,), name=camera.name, daemon=True)
                self._threads.append(thread)
                thread.start()
        # Wall clock: in simulation a dead simulator stops the clock together with the images.
        self._timer = self.create_timer(0.25, self._check, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def deactivate(self) -> None:
        self._running.clear()
        if self._timer is not None:
            self.destroy_timer(self._timer)
            self._timer = None
        for thread in self._threads:
            thread.join(timeout=5.0)
        self._threads.clear()

    def cleanup(self) -> None:
        for camera in self._cameras.values():
            for subscription in camera.subscriptions:
                self.destroy_subscription(subscription)
            self.destroy_publisher(camera.publisher)
            self.destroy_publisher(camera.info_publisher)
            if camera.device:
                camera.device.close()
        self._cameras.clear()

    def diagnose(self) -> dict[str, str | float]:
        return {"frames_published": self._published}

    def _make(self, name: str, source: str, topic: str, size: tuple[int, int] | None, sets: FrameSets) -> _Camera:
        return _Camera(
            name,
            source,
            topic,
            size,
            sets,
            self.create_publisher(Image, topic, qos.SENSOR),
            # Not beside the image, as usual: there is the driver's own CameraInfo, for the image before resizing.
            self.create_publisher(CameraInfo, f"{topic}/camera_info", qos.SENSOR),
        )

    def _subscribe(self, camera: _Camera) -> None:
        if camera.source == camera.topic:
            raise ParameterError(f"camera {camera.name} would read {camera.topic}, which it publishes itself")

        def on_info(message: CameraInfo) -> None:
            camera.info = message

        def on_image(message: Image) -> None:
            if self._running.is_set():
                if to_seconds(message.header.stamp) == 0:  # a driver that does not stamp
                    message.header.stamp = to_time(self.now())
                self._take(camera, to_seconds(message.header.stamp), message)

        info_topic = f"{_namespace(camera.source)}/camera_info"
        camera.subscriptions = [
            self.create_subscription(CameraInfo, info_topic, on_info, qos.SENSOR),
            self.create_subscription(Image, camera.source, on_image, qos.SENSOR),
        ]

    def _read(self, camera: _Camera) -> None:
        """The thread of one device or file."""
        while self._running.is_set():
            try:
                if camera.device is None:
                    camera.device = open_source(camera.source, cast(CameraParameters, self.params).loop)
                frame = camera.device.read()
            except DataError as error:
                self.edges.update(camera.label, str(error))
                if camera.device:
                    camera.device.close()
                    camera.device = None
                time.sleep(REOPEN_PERIOD)
                continue
            if frame is None:
                self.get_logger().info(f"{camera.source} is at its end")
                camera.watch = None
                return
            self.edges.update(camera.label, None)
            if self._running.is_set():
                stamp = self.now()
                self._take(camera, stamp, image_to_message(frame.image, stamp, f"{camera.name}_camera_optical_frame"))

    def _take(self, camera: _Camera, stamp: float, message: Image) -> None:
        """Takes one frame of one camera and publishes the set that it completes, if any."""
        with self._lock:
            if camera.watch:
                camera.watch.seen(time.monotonic())
            complete = camera.sets.add(camera.name, stamp, message)
        if complete is None:
            return
        try:
            # Everything is converted before anything is published: never half a set.
            frames = {name: self._resized(self._cameras[name], image) for name, (_, image) in complete.items()}
        except MessageError as error:
            self.edges.update("image", str(error))
            return
        self.edges.update("image", None)
        for name, (image, info) in frames.items():
            self._cameras[name].publisher.publish(image)
            self.stages.add(f"{name}_capture_to_publish", max(0.0, self.now() - to_seconds(image.header.stamp)))
            if info is not None:
                self._cameras[name].info_publisher.publish(info)
        self._published += len(frames)

    def _resized(self, camera: _Camera, message: Image) -> tuple[Image, CameraInfo | None]:
        height, width = camera.size or (message.height, message.width)
        info = camera.info and scaled_info(camera.info, message, height, width)
        if (message.height, message.width, message.encoding) == (height, width, "rgb8"):
            return message, info
        image = image_to_message(resize(message_to_image(message), height, width), 0.0, message.header.frame_id)
        image.header.stamp = message.header.stamp
        return image, info

    def _check(self) -> None:
        now = time.monotonic()
        with self._lock:
            for camera in self._cameras.values():
                if camera.watch:
                    camera.watch.fresh(now)


def is_topic(source: str) -> bool:
    """Whether a source names an image topic rather than a device, file or folder."""
    return (
        source.startswith("/")
        and not source.startswith("/dev/")
        and not Path(source).suffix
        and not Path(source).exists()
    )


def scaled_info(info: CameraInfo, image: Image, height: int, width: int) -> CameraInfo:
    """The CameraInfo of an image after resizing to height x width pixels; pixel centres are kept (half-pixel shift)."""
    x, y = width / image.width, height / image.height
    k, p = list(info.k), list(info.p)
    for matrix, columns in ((k, 3), (p, 4)):
        matrix[0] *= x
        matrix[1] *= x
        matrix[2] = (matrix[2] + 0.5) * x - 0.5
        matrix[columns + 1] *= y
        matrix[columns + 2] = (matrix[columns + 2] + 0.5) * y - 0.5
    p[3] *= x
    p[7] *= y
    return CameraInfo(
        header=image.header,
        height=height,
        width=width,
        distortion_model=info.distortion_model,
        d=info.d,
        k=k,
        r=info.r,
        p=p,
    )


def _parse_sources(entries: tuple[str, ...]) -> dict[str, str]:
    sources: dict[str, str] = {}
    for entry in filter(None, entries):
        name, separator, source = entry.partition("=")
        if not (separator and name.isidentifier() and source):
            raise ParameterError(f"parameter sources: {entry!r} is not NAME=SOURCE")
        if name in sources:
            raise ParameterError(f"parameter sources: camera {name} is given twice")
        sources[name] = source
    return sources


def _namespace(topic: str) -> str:
    return topic.rpartition("/")[0]


def main() -> int:
    """Runs the node."""
    return run_node(CameraNode)


if __name__ == "__main__":
    sys.exit(main())
