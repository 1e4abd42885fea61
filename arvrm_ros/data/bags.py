# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Images and hand keypoints of ROS 2 bags in MCAP files. Needs no ROS: the messages' definitions are in the file."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mcap.exceptions import McapError
from mcap.reader import McapReader, make_reader
from mcap_ros2.decoder import DecoderFactory

from arvrm_ros.data.types import HAND_KEYPOINTS, HandDetection
from arvrm_ros.errors import DataError

IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
HANDS = "arvrm_ros/msg/HandKeypoints"

_CHANNELS = {
    "rgb8": None, "bgr8": cv2.COLOR_BGR2RGB, "rgba8": cv2.COLOR_RGBA2RGB, "bgra8": cv2.COLOR_BGRA2RGB,
    "mono8": cv2.COLOR_GRAY2RGB,
}  # fmt: skip
"""REP-118's names of eight-bit encodings, and how OpenCV makes RGB of them."""


def bag_seconds(path: Path) -> float:
    """How long a bag is.

    Raises:
        DataError: it is no MCAP file.
    """
    with _reader(path) as reader:
        summary = reader.get_summary()
        known = summary.statistics if summary else None
        return (known.message_end_time - known.message_start_time) / 1e9 if known else 0.0


def read_bag(
    path: Path, start: float = 0.0, end: float = float("inf")
) -> Generator[tuple[float, np.ndarray, list[HandDetection] | None]]:
    """The images of a bag with the hands that were found in them, in the order of their stamps' recording.

    Args:
        path: of the MCAP file.
        start, end: seconds from the first image.

    Yields:
        Seconds from the first image, by the headers' stamps; the (H, W, 3) uint8 RGB image; and its hands by the bag's
        ``HandKeypoints`` of the same stamp and frame, None when there are none of that image.

    Raises:
        DataError: it is no MCAP file, holds no images, or several cameras' without hands to choose one by.
    """
    hands: dict[tuple[str, int], list[HandDetection]] = {}
    for _, message in _messages(path, (HANDS,)):
        hands[message.header.frame_id, _stamp(message)] = _detections(message)
    topic = _image_topic(path, {frame for frame, _ in hands})
    first: int | None = None
    for _, message in _messages(path, IMAGES, topic):
        stamp = _stamp(message)
        first = stamp if first is None else first
        time = (stamp - first) / 1e9
        if start <= time < end:
            yield time, _image(message, path), hands.get((message.header.frame_id, stamp))


def _image_topic(path: Path, frames: set[str]) -> str:
    """The topic of the images: the only one, or the one whose frame the hands are of."""
    frame_of: dict[str, str] = {}
    for topic, message in _messages(path, IMAGES):
        frame_of.setdefault(topic, message.header.frame_id)
        if len(frame_of) == len(_topics(path, IMAGES)):
            break
    if not frame_of:
        raise DataError(f"the bag {path} holds no images")
    matching = [topic for topic, frame in frame_of.items() if frame in frames] or list(frame_of)
    if len(matching) > 1:
        raise DataError(
            f"the bag {path} holds images of several cameras ({', '.join(sorted(matching))}) and no HandKeypoints that "
            "say which one to look at: record one camera, or the keypoints too"
        )
    return matching[0]


def _topics(path: Path, kinds: tuple[str, ...]) -> list[str]:
    with _reader(path) as reader:
        summary = reader.get_summary()
        if summary is None:
            return []
        return [c.topic for c in summary.channels.values() if summary.schemas[c.schema_id].name in kinds]


def _messages(path: Path, kinds: tuple[str, ...], topic: str | None = None) -> Iterator[tuple[str, Any]]:
    """Topic and message of all messages of some kinds, on all topics or one."""
    with _reader(path) as reader:
        topics = [topic] if topic else _topics(path, kinds)
        if not topics:
            return
        for _, channel, _, message in reader.iter_decoded_messages(topics=topics):
            yield channel.topic, message


@contextlib.contextmanager
def _reader(path: Path) -> Iterator[McapReader]:
    """Opens a bag, and tells in one line what is wrong with it."""
    try:
        with path.open("rb") as file:
            yield make_reader(file, decoder_factories=[DecoderFactory()])
    except (OSError, McapError, EOFError, ValueError, struct.error) as error:
        raise DataError(f"cannot read the bag {path}: {error or type(error).__name__}") from None


def _stamp(message: Any) -> int:
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)


def _image(message: Any, path: Path) -> np.ndarray:
    if hasattr(message, "format"):  # compressed
        image = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise DataError(f"the bag {path} holds a compressed image that OpenCV cannot read ({message.format})")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    if message.encoding not in _CHANNELS:
        raise DataError(f"the bag {path} holds {message.encoding} images: {', '.join(_CHANNELS)} can be read")
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    channels = {"mono8": 1, "rgba8": 4, "bgra8": 4}.get(message.encoding, 3)
    image = rows[:, : message.width * channels].reshape(message.height, message.width, channels)
    code = _CHANNELS[message.encoding]
    return image.copy() if code is None else cv2.cvtColor(image, code)


def _detections(message: Any) -> list[HandDetection]:
    shape = (message.count, len(HAND_KEYPOINTS), 3)
    keypoints, world = (
        np.array(values, np.float32).reshape(shape) for values in (message.keypoints, message.world_keypoints)
    )
    return [
        HandDetection(*values)
        for values in zip(keypoints, world, map(float, message.score), message.handedness, strict=True)
    ]
