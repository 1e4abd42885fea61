# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From observations to the model's normalised inputs, and from its outputs to end-effector targets.

The normalisation is made from the training data and travels with the checkpoint.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from arvrm_ros.contract import LEVER
from arvrm_ros.data.types import HumanClip
from arvrm_ros.retrieval.search import resample

KEYPOINT_CENTRE = np.array([0.5, 0.5, 0.0], np.float32)
KEYPOINT_SCALE = 4.0
"""Keypoints enter the model as (k - centre) * scale, which spreads a hand in an image over about -2..2."""


@dataclass(frozen=True)
class Normalisation:
    """Means and scales of the robot's numbers.

    Attributes:
        state_mean, state_scale: (S,) of position (m), roll, pitch, yaw (rad, about the home orientation) and gripper.
        action_scale: (N, 6) of the end effector's motion relative to the observation, per step of the chunk.
    """

    state_mean: tuple[float, ...]
    state_scale: tuple[float, ...]
    action_scale: tuple[tuple[float, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Normalisation:
        """The inverse of :meth:`to_dict`."""
        return cls(
            tuple(values["state_mean"]), tuple(values["state_scale"]), tuple(tuple(r) for r in values["action_scale"])
        )


def robot_state(position: np.ndarray, quaternion: np.ndarray, gripper: np.ndarray, home: np.ndarray) -> np.ndarray:
    """S (..., 7): position in metres, rotation vector from the home orientation in radians, opening.

    Args:
        position: (..., 3) of the end effector, base frame.
        quaternion: (..., 4) x, y, z, w.
        gripper: (...,) opening in [0, 1].
        home: (4,) orientation of the end effector at home.
    """
    lead = position.shape[:-1]
    turn = (Rotation.from_quat(quaternion.reshape(-1, 4)) * Rotation.from_quat(home).inv()).as_rotvec()
    return np.concatenate([position, turn.reshape(*lead, 3), gripper[..., None]], -1).astype(np.float32)


def relative_action(
    position: np.ndarray, quaternion: np.ndarray, targets: np.ndarray, target_quaternions: np.ndarray
) -> np.ndarray:
    """(N, 6) of N targets: metres and rotation vector, both in the base frame's axes, relative to a pose.

    Which pose that is, :func:`delta_base` says.
    """
    turn = Rotation.from_quat(target_quaternions) * Rotation.from_quat(quaternion).inv()
    return np.concatenate([targets - position, turn.as_rotvec()], -1).astype(np.float32)


def delta_base(
    position: np.ndarray, quaternion: np.ndarray, commanded: np.ndarray, turned: np.ndarray, max_drift: float
) -> tuple[np.ndarray, np.ndarray]:
    """The pose that actions are relative to: the commanded one, at most ``max_drift`` away from the measured one.

    Relative to the measured pose, the controller's lag and the arm's sag under load would enter anew with every chunk.
    Relative to the commanded one without a bound, an arm that something holds would push ever harder.

    Args:
        position, quaternion: measured, (3,) metres and (4,).
        commanded, turned: likewise, commanded for the same time.
        max_drift: metres, also of a point :data:`~arvrm_ros.contract.LEVER` metres away that the rotation moves.
    """
    offset, turn = commanded - position, (Rotation.from_quat(turned) * Rotation.from_quat(quaternion).inv()).as_rotvec()
    drift = max(float(np.linalg.norm(offset)), LEVER * float(np.linalg.norm(turn)), 1e-9)
    share = min(1.0, max_drift / drift)
    return position + share * offset, (Rotation.from_rotvec(share * turn) * Rotation.from_quat(quaternion)).as_quat()


def absolute_targets(position: np.ndarray, quaternion: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of :func:`relative_action`: positions (N, 3) and quaternions (N, 4)."""
    turned = Rotation.from_rotvec(action[:, 3:6]) * Rotation.from_quat(quaternion)
    return position + action[:, :3], turned.as_quat()


def clip_keypoints(clip: HumanClip, frames: int) -> np.ndarray:
    """Keypoints (F, K, 4) of a clip, normalised, with visibility; F frames spread evenly over it."""
    keypoints = (resample(clip.keypoints, frames) - KEYPOINT_CENTRE) * KEYPOINT_SCALE  # (F, K, 3)
    visible = np.broadcast_to(resample(clip.visible, frames)[:, None, None], (*keypoints.shape[:2], 1))
    return np.concatenate([keypoints, visible], -1).astype(np.float32)


def clip_images(clip: HumanClip, frames: int) -> np.ndarray:
    """Image tokens (F, d_o) of a clip: its unit features, scaled back to the size of standardised tokens."""
    return (resample(clip.visual, frames) * np.sqrt(clip.visual.shape[1])).astype(np.float32)
