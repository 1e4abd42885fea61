# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What image, joint-state and hand messages hold. Needs no ROS: a message is anything with the fields, whoever has decoded it."""

from __future__ import annotations

from typing import Any

import numpy as np

from arvrm_ros.contract import RobotContract
from arvrm_ros.data.types import HAND_KEYPOINTS, HandDetection
from arvrm_ros.errors import ArvrmError

_CHANNELS = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0), "mono8": (0, 0, 0)}


class MessageError(ArvrmError):
    """A message is malformed or of a kind this package cannot read; the message says what is wrong."""


def check_image(message: Any) -> None:
    """Checks a ``sensor_msgs/Image``.

    Raises:
        MessageError: unknown encoding, or fewer bytes than the size needs.
    """
    if message.encoding not in _CHANNELS:
        raise MessageError(f"image encoding {message.encoding!r} is not one of {', '.join(_CHANNELS)}")
    row = message.width * _depth(message.encoding)
    if message.step < row or len(message.data) < message.step * message.height:
        raise MessageError(
            f"image of {message.width}x{message.height} {message.encoding} has {len(message.data)} bytes "
            f"and a step of {message.step}"
        )


def view_pixels(message: Any) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a well-formed ``sensor_msgs/Image``; a view on its buffer where the encoding allows."""
    rows = np.frombuffer(message.data, np.uint8, message.height * message.step).reshape(message.height, message.step)
    depth = _depth(message.encoding)
    pixels = rows[:, : message.width * depth].reshape(message.height, message.width, depth)
    return pixels if message.encoding == "rgb8" else pixels[..., _CHANNELS[message.encoding]]


def stamp_of(message: Any) -> float:
    """Seconds of a message's header."""
    return to_seconds(message.header.stamp)


def to_seconds(time: Any) -> float:
    """Seconds of a ROS time or duration."""
    return float(time.sec + time.nanosec * 1e-9)


def message_to_detections(message: Any) -> list[HandDetection]:
    """The hands of an ``arvrm_ros/HandKeypoints``.

    Raises:
        MessageError: the array lengths do not fit ``count``.
    """
    keypoints = shaped_keypoints("keypoints", message.keypoints, message.count)
    world = shaped_keypoints("world_keypoints", message.world_keypoints, message.count)
    if len(message.score) != message.count or len(message.handedness) != message.count:
        raise MessageError(f"HandKeypoints: score and handedness must have {message.count} entries")
    return [HandDetection(*values) for values in zip(keypoints, world, message.score, message.handedness, strict=True)]


def shaped_keypoints(name: str, values: Any, count: int) -> np.ndarray:
    """(count, K, 3) float32 from a flat message field.

    Raises:
        MessageError: it has another length.
    """
    flat = np.array(values, np.float32)
    shape = (count, len(HAND_KEYPOINTS), 3)
    if flat.size != np.prod(shape):
        raise MessageError(f"{name} has {flat.size} numbers, {shape} needs {np.prod(shape)}")
    return flat.reshape(shape)


def joint_state_to_arrays(message: Any, contract: RobotContract) -> tuple[np.ndarray, np.ndarray, float]:
    """Joint positions and velocities of a ``sensor_msgs/JointState`` in the contract's order, and the gripper's opening.

    Returns:
        positions (n,) rad, velocities (n,) rad/s (zero where the driver reports none), opening in [0, 1].

    Raises:
        MessageError: a joint of the contract is missing, or a position is not finite.
    """
    index = {name: i for i, name in enumerate(message.name)}
    wanted = (*contract.joints, contract.gripper.joint)
    missing = [name for name in wanted if index.get(name, len(message.position)) >= len(message.position)]
    if missing:
        raise MessageError(f"{contract.observation.joint_states.topic} has no position of {', '.join(missing)}")
    *arm, finger = (index[name] for name in wanted)
    positions = np.array([message.position[i] for i in arm])
    velocities = np.array([message.velocity[i] if i < len(message.velocity) else 0.0 for i in arm])
    if not (np.all(np.isfinite(positions)) and np.isfinite(message.position[finger])):
        raise MessageError(f"{contract.observation.joint_states.topic} has positions that are not finite")
    return positions, velocities, contract.gripper.opening(message.position[finger])


def _depth(encoding: str) -> int:
    return 1 if encoding == "mono8" else len(encoding) - 1
