# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of ROS 2 bags in MCAP files, and the images and hand keypoints in them.

Needs no ROS: the messages' definitions are in the file.
"""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mcap.exceptions import McapError
from mcap.reader import McapReader, make_reader
from mcap_ros2.decoder import DecoderFactory

from arvrm_ros.data.messages import MessageError, check_image, message_to_detections, view_pixels
from arvrm_ros.data.types import HandDetection
from arvrm_ros.errors import DataError

IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
HANDS = "arvrm_ros/msg/HandKeypoints"

BAG_SUFFIX = ".mcap"


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
    path: Path, start: float = 0.0, end: float = float("inf"), hands: bool = True
) -> Generator[tuple[float, np.ndarray, list[HandDetection] | None]]:
    """The images of a bag with the hands that were found in them, in the order of their stamps' recording.

    Args:
        path: of the MCAP file.
        start, end: seconds from the first image.
        hands: look for the images' hands too; those of the whole part are kept in memory, a kilobyte or two each.

    Yields:
        Seconds from the first image, by the headers' stamps; the (H, W, 3) uint8 RGB image; and its hands by the bag's
        ``HandKeypoints`` of the same stamp and frame, None when there are none of that image.

    Raises:
        DataError: it is no MCAP file, holds no images, or several cameras' without hands to choose one by.
    """
    found: dict[tuple[str, int], list[HandDetection]] = {}
    try:
        topics = _topics(path, (HANDS,))
        images = _image_topic(path, {message.header.frame_id for topic in topics for message in _first(path, topic)})
        (first,) = map(_stamp, _first(path, images))
        for topic in topics if hands else ():
            for message in _messages(path, topic):
                if start <= (_stamp(message) - first) / 1e9 < end:
                    found[message.header.frame_id, _stamp(message)] = message_to_detections(message)
        for message in _messages(path, images):
            time = (_stamp(message) - first) / 1e9
            if start <= time < end:
                yield time, image_of(message), found.get((message.header.frame_id, _stamp(message)))
    except MessageError as error:
        raise DataError(f"the bag {path} cannot be used: {error}") from None


def bag_topics(path: Path) -> dict[str, str]:
    """The topics of a bag, and the kind of their messages.

    Raises:
        DataError: it is no MCAP file.
    """
    with _reader(path) as reader:
        summary = reader.get_summary()
        return {c.topic: summary.schemas[c.schema_id].name for c in summary.channels.values()} if summary else {}


def read_messages(path: Path, topics: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Topic and message of all messages of some topics, in the order in which they were recorded.

    Raises:
        DataError: it is no MCAP file, or damaged.
    """
    with _reader(path) as reader:
        for _, channel, _, message in reader.iter_decoded_messages(topics=list(topics)):
            yield channel.topic, message


def _image_topic(path: Path, frames: set[str]) -> str:
    """The topic of the images: the only one, or the one whose frame the hands are of."""
    frame_of = {topic: message.header.frame_id for topic in _topics(path, IMAGES) for message in _first(path, topic)}
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
    return [topic for topic, kind in bag_topics(path).items() if kind in kinds]


def _messages(path: Path, topic: str) -> Iterator[Any]:
    """All messages of a topic."""
    return (message for _, message in read_messages(path, [topic]))


def _first(path: Path, topic: str) -> list[Any]:
    """The first message of a topic, if there is one."""
    return list(itertools.islice(_messages(path, topic), 1))


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


def image_of(message: Any) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a decoded ``sensor_msgs/Image`` or ``CompressedImage``.

    Raises:
        MessageError: it is malformed, or of an encoding that this package does not know.
    """
    if not hasattr(message, "format"):
        check_image(message)
        return view_pixels(message)
    image = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise MessageError(f"OpenCV cannot read a compressed image ({message.format})")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
