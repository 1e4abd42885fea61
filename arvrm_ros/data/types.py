# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The values that travel from camera to motion. Plain NumPy, no ROS; the nodes translate them to messages."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

HAND_KEYPOINTS: tuple[str, ...] = (
    "wrist",
    *(f"{finger} {i}" for finger in ("thumb", "index", "middle", "ring", "little") for i in (1, 2, 3, 4)),
)
"""Names of the K = 21 hand keypoints in MediaPipe's order; 4 is the fingertip."""

ROBOT_COMPONENTS: tuple[str, ...] = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
"""Names of the S = 7 robot components of the state: end-effector pose in the base frame, and the gripper's opening."""


@dataclass
class Observation:
    """What the robot sees and feels at one time.

    Attributes:
        stamp: capture time of the oldest image in it, seconds.
        images: per camera of the contract, (H, W, 3) uint8 RGB.
        joint_positions: (n,) radians, in the contract's joint order.
        gripper: opening in [0, 1].
        commanded_positions: (n,) radians that the controller was given for that time; None where nobody knows.
    """

    stamp: float
    images: dict[str, np.ndarray]
    joint_positions: np.ndarray
    gripper: float
    commanded_positions: np.ndarray | None = None


@dataclass
class ActionChunk:
    """End-effector targets from one observation on; step i is meant for ``stamp + (i + 1) * step_period``.

    Attributes:
        stamp: capture time of the observation, seconds.
        step_period: seconds between two steps.
        positions: (N, 3) metres, base frame.
        quaternions: (N, 4) x, y, z, w, unit.
        gripper: (N,) opening in [0, 1].
        progress: the policy's estimate of the task's progress in [0, 1].
        stages: wall-clock seconds per stage of the inference, in order.
    """

    stamp: float
    step_period: float
    positions: np.ndarray
    quaternions: np.ndarray
    gripper: np.ndarray
    sequence: int = 0
    instruction: str = ""
    progress: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)


@dataclass
class HandDetection:
    """One hand in one image.

    Attributes:
        keypoints: (21, 3) x, y in [0, 1] of the image; z relative to the wrist in image widths, smaller is nearer.
        world: (21, 3) metres, origin at the hand's centre, axes of the camera's optical frame.
        score: confidence in [0, 1].
        handedness: "left" or "right"; not reliable.
    """

    keypoints: np.ndarray
    world: np.ndarray
    score: float
    handedness: str


@dataclass
class HumanClip:
    """A short human video with its caption and hand-keypoint track (T frames).

    Attributes:
        clip_id: unique name.
        caption: what the hand does.
        frame_period: seconds between two frames of the track.
        keypoints: (T, 21, 3) float32, as in :class:`HandDetection`.
        visible: (T,) bool; False where no hand was found and the row was interpolated.
        language: (d_l,) float32 unit text feature of the caption.
        visual: (T, d_o) float32 unit image feature per frame, or fewer rows evenly spread over the clip.
        video: path or URI of the video, from the source's folder where it lies in one; "" when there is none.
        start: seconds from the video's first frame to the clip's.
        handedness: "left", "right", or "" when it is not known.
        world: (T, 21, 3) float32 metres, as in :class:`HandDetection`; (0, 21, 3) when it is not known.
        quality: in [0, 1], the landmarker's mean confidence over all frames, 0 for those without a hand.
        task: id of the task when it is known (simulated clips); "" otherwise. Never shown to the policy.
        extraction: how the track was made, JSON of the options; "" when it is not known.
    """

    clip_id: str
    caption: str
    frame_period: float
    keypoints: np.ndarray
    visible: np.ndarray
    language: np.ndarray
    visual: np.ndarray
    video: str = ""
    task: str = ""
    start: float = 0.0
    handedness: str = ""
    world: np.ndarray = field(default_factory=lambda: np.zeros((0, len(HAND_KEYPOINTS), 3), np.float32))
    quality: float = 1.0
    extraction: str = ""


@dataclass
class RetrievedMotion:
    """A clip that the retrieval found.

    Attributes:
        clip: the clip.
        score: ``language_weight * language_score + T * visual_score`` over T aligned frames; AR-VRM has weight 1.
        language_score: cosine of the text features, in [-1, 1].
        visual_score: mean over the T frames of the image features' cosines, in [-1, 1].
    """

    clip: HumanClip
    score: float
    language_score: float
    visual_score: float
