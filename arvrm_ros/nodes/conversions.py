# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Messages to NumPy values and back. Images go through cv_bridge where ROS 2 is installed, else a NumPy view."""

from __future__ import annotations

from array import array
from functools import cache
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point, Pose, Quaternion
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

import arvrm_ros.msg as messages
from arvrm_ros.data.messages import MessageError, check_image, shaped_keypoints, view_pixels
from arvrm_ros.data.messages import to_seconds as to_seconds
from arvrm_ros.data.types import (
    HAND_KEYPOINTS,
    ROBOT_COMPONENTS,
    ActionChunk,
    HandDetection,
    HumanClip,
    RetrievedMotion,
)


def to_time(seconds: float) -> Time:
    """A ROS time from seconds."""
    return Time(**_split(seconds))


def to_duration(seconds: float) -> Duration:
    """A ROS duration from seconds."""
    return Duration(**_split(seconds))


def header(stamp: float, frame_id: str = "") -> Header:
    """A header from seconds and a frame."""
    return Header(stamp=to_time(stamp), frame_id=frame_id)


def image_to_message(image: np.ndarray, stamp: float, frame_id: str) -> Image:
    """An ``rgb8`` image message.

    Args:
        image: (H, W, 3) uint8 RGB.
        stamp: capture time, seconds.
        frame_id: optical frame of the camera.
    """
    height, width, _ = image.shape
    return Image(
        header=header(stamp, frame_id),
        height=height,
        width=width,
        encoding="rgb8",
        is_bigendian=0,
        step=3 * width,
        data=array("B", image.tobytes()),  # anything but an array is copied element by element
    )


def message_to_image(message: Image) -> np.ndarray:
    """The (H, W, 3) uint8 RGB pixels of an image message; a view on its buffer where the encoding allows.

    Raises:
        MessageError: unknown encoding, or fewer bytes than the size needs.
    """
    check_image(message)
    bridge = _bridge()
    return view_pixels(message) if bridge is None else bridge.imgmsg_to_cv2(message, "rgb8")


@cache
def _bridge() -> Any:
    try:
        from cv_bridge import CvBridge
    except ImportError:
        return None
    return CvBridge()


def pose(position: np.ndarray, quaternion: np.ndarray) -> Pose:
    """A pose from metres (3,) and a quaternion (4,) x, y, z, w."""
    x, y, z = map(float, position)
    qx, qy, qz, qw = map(float, quaternion)
    return Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))


def chunk_to_message(chunk: ActionChunk, frame_id: str) -> messages.ActionChunk:
    """An action chunk as a message; ``frame_id`` is the contract's base frame."""
    return messages.ActionChunk(
        header=header(chunk.stamp, frame_id),
        sequence=chunk.sequence,
        instruction=chunk.instruction,
        step_period=to_duration(chunk.step_period),
        poses=[pose(p, q) for p, q in zip(chunk.positions, chunk.quaternions, strict=True)],
        gripper=_doubles(chunk.gripper),
        progress=float(chunk.progress),
        stage=list(chunk.stages),
        stage_seconds=_floats(list(chunk.stages.values())),
    )


def message_to_chunk(message: messages.ActionChunk) -> ActionChunk:
    """An action chunk from a message, unchecked: the executor validates it (lengths, numbers, limits)."""
    poses = message.poses
    return ActionChunk(
        stamp=to_seconds(message.header.stamp),
        step_period=to_seconds(message.step_period),
        positions=np.array([(p.position.x, p.position.y, p.position.z) for p in poses], float).reshape(-1, 3),
        quaternions=np.array(
            [(p.orientation.x, p.orientation.y, p.orientation.z, p.orientation.w) for p in poses], float
        ).reshape(-1, 4),
        gripper=np.array(message.gripper, float),
        sequence=message.sequence,
        instruction=message.instruction,
        progress=message.progress,
        stages=dict(zip(message.stage, message.stage_seconds, strict=False)),
    )


def detections_to_message(
    detections: list[HandDetection], stamp: float, frame_id: str, height: int, width: int
) -> messages.HandKeypoints:
    """The hands found in one image of ``height`` x ``width`` pixels, also when there are none."""
    return messages.HandKeypoints(
        header=header(stamp, frame_id),
        image_width=width,
        image_height=height,
        count=len(detections),
        keypoints=_floats([d.keypoints for d in detections]),
        world_keypoints=_floats([d.world for d in detections]),
        score=_floats([d.score for d in detections]),
        handedness=[d.handedness for d in detections],
    )


def retrieved_to_message(
    motions: list[RetrievedMotion], instruction: str, mode: str, confidence: float, stamp: float
) -> messages.RetrievedMotions:
    """The result of one retrieval, best first."""
    return messages.RetrievedMotions(
        header=header(stamp),
        instruction=instruction,
        mode=mode,
        confidence=float(confidence),
        motions=[
            messages.RetrievedMotion(
                clip_id=motion.clip.clip_id,
                caption=motion.clip.caption,
                score=float(motion.score),
                language_score=float(motion.language_score),
                visual_score=float(motion.visual_score),
                frames=len(motion.clip.keypoints),
                frame_period=float(motion.clip.frame_period),
                keypoints=_floats(motion.clip.keypoints),
                visible=[bool(v) for v in motion.clip.visible],
            )
            for motion in motions
        ],
    )


def message_to_retrieved(message: messages.RetrievedMotions) -> list[RetrievedMotion]:
    """The motions of a message. Text and image features do not travel: they come back empty.

    Raises:
        MessageError: the array lengths of a motion do not fit ``frames``.
    """
    return [_retrieved(motion) for motion in message.motions]


def analogy_map_to_message(weights: np.ndarray, stamp: float) -> messages.AnalogyMap:
    """The (S, K) analogy map with the names of its rows and columns."""
    return messages.AnalogyMap(
        header=header(stamp),
        components=list(ROBOT_COMPONENTS),
        keypoints=list(HAND_KEYPOINTS),
        weights=_floats(weights),
    )


def message_to_analogy_map(message: messages.AnalogyMap) -> np.ndarray:
    """The (S, K) weights of a message."""
    return np.array(message.weights, np.float32).reshape(len(message.components), -1)


def motion_to_trajectory(joints: tuple[str, ...], times: np.ndarray, motion: np.ndarray) -> JointTrajectory:
    """Positions, velocities and accelerations (3, T, n) at (T,) seconds after the trajectory is received."""
    return JointTrajectory(
        joint_names=list(joints),
        points=[
            JointTrajectoryPoint(
                positions=_doubles(position),
                velocities=_doubles(velocity),
                accelerations=_doubles(acceleration),
                time_from_start=to_duration(time),
            )
            for time, position, velocity, acceleration in zip(times.tolist(), *motion, strict=True)
        ],
    )


def _retrieved(message: messages.RetrievedMotion) -> RetrievedMotion:
    keypoints = shaped_keypoints("keypoints", message.keypoints, message.frames)
    if len(message.visible) != message.frames:
        raise MessageError(f"RetrievedMotion {message.clip_id}: visible must have {message.frames} entries")
    none = np.zeros(0, np.float32)
    clip = HumanClip(
        clip_id=message.clip_id,
        caption=message.caption,
        frame_period=message.frame_period,
        keypoints=keypoints,
        visible=np.array(message.visible, bool),
        language=none,
        visual=none.reshape(0, 0),
    )
    return RetrievedMotion(clip, message.score, message.language_score, message.visual_score)


def _split(seconds: float) -> dict[str, int]:
    nanoseconds = round(seconds * 1e9)
    return {"sec": nanoseconds // 10**9, "nanosec": nanoseconds % 10**9}


def _floats(values: Any) -> array[float]:
    return array("f", np.asarray(values, np.float32).tobytes())


def _doubles(values: Any) -> array[float]:
    return array("d", np.asarray(values, np.float64).tobytes())
