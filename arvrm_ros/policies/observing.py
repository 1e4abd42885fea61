# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Puts the newest observation together from camera images and joint states that arrive one by one."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from arvrm_ros.contract import RobotContract
from arvrm_ros.data.types import Observation
from arvrm_ros.errors import ArvrmError, InstructionCode

HISTORY = 100
"""Joint states kept, so that one as old as the images is at hand."""

SET_BACK = 1.0
"""Seconds by which a stamp has to be older than the newest one to mean that the clock was set back; a message that is
less old came late and is left out."""

FROZEN = 0.1
"""Radians that a joint moves, at least, while a picture stays the same, for its camera to count as frozen."""


class StaleInputError(ArvrmError):
    """An input is missing or too old to act on.

    Attributes:
        code: ``STALE_IMAGES`` or ``STALE_JOINT_STATES``.
    """

    def __init__(self, code: InstructionCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class ObservationBuffer:
    """Keeps the newest image of each camera and the last joint states; all stamps are seconds of one clock.

    Args:
        contract: says which cameras, and how old an input may be.
        tolerance: seconds between the images of one observation.
    """

    def __init__(self, contract: RobotContract, tolerance: float = 0.05) -> None:
        self._contract = contract
        self._tolerance = tolerance
        self._images: dict[str, deque[tuple[float, np.ndarray]]] = {
            name: deque(maxlen=4) for name in contract.observation.cameras
        }
        self._joints: deque[tuple[float, np.ndarray, float]] = deque(maxlen=HISTORY)
        self._same_since: dict[str, np.ndarray] = {}  # joint positions when the camera's present picture first came
        self._commands: deque[tuple[float, np.ndarray]] = deque(maxlen=HISTORY)

    def clear(self) -> None:
        """Forgets everything."""
        for images in self._images.values():
            images.clear()
        self._joints.clear()
        self._same_since.clear()
        self._commands.clear()

    def add_image(self, camera: str, stamp: float, image: np.ndarray) -> None:
        """Takes an image, (H, W, 3) uint8 RGB.

        Raises:
            ArvrmError: its size is not the contract's.
        """
        wanted = self._contract.observation.cameras[camera]
        if image.shape != (wanted.height, wanted.width, 3):
            raise ArvrmError(
                f"{wanted.topic} is {image.shape[1]}x{image.shape[0]}, "
                f"the contract says {wanted.width}x{wanted.height}: check camera_node"
            )
        images = self._images[camera]
        if not _comes_after(images, stamp):
            return
        if not images or not np.array_equal(images[-1][1], image):
            self._same_since.pop(camera, None)
        if self._joints:
            self._same_since.setdefault(camera, self._joints[-1][1])
        images.append((stamp, image))

    def add_joints(self, stamp: float, positions: np.ndarray, gripper: float) -> None:
        """Takes (n,) finite joint positions in radians, in the contract's order, and a gripper opening in [0, 1]."""
        if _comes_after(self._joints, stamp):
            self._joints.append((stamp, positions, gripper))

    def add_commands(self, stamps: Sequence[float], positions: np.ndarray) -> None:
        """Takes (T, n) finite joint positions in radians, in the contract's order, commanded for T times.

        They replace what was commanded for the first of these times and later ones.
        """
        while self._commands and self._commands[-1][0] >= stamps[0]:
            self._commands.pop()
        self._commands.extend(zip(stamps, positions, strict=True))

    def newest_stamp(self) -> float | None:
        """Stamp of the newest set of images that belong together, None when there is none."""
        together = self._together()
        return min(stamp for stamp, _ in together.values()) if together else None

    def observation(self, now: float) -> Observation:
        """The newest observation.

        Raises:
            StaleInputError: a camera or the joint states are missing, too old, or do not belong together.
        """
        self.check(now)
        together = self._together()
        if together is None:
            raise StaleInputError(
                InstructionCode.STALE_IMAGES,
                f"the cameras' newest images are more than {self._tolerance * 1e3:.0f} ms apart",
            )
        stamp = min(stamp for stamp, _ in together.values())
        joint_stamp, positions, gripper = min(self._joints, key=lambda joints: abs(joints[0] - stamp))
        max_age = self._contract.observation.joint_states.max_age
        if abs(joint_stamp - stamp) > max_age:
            raise StaleInputError(
                InstructionCode.STALE_JOINT_STATES,
                f"no joint state within {max_age * 1e3:.0f} ms of the images",
            )
        images = {name: image for name, (_, image) in together.items()}
        return Observation(stamp, images, positions, gripper, self._commanded(stamp, max_age))

    def _commanded(self, stamp: float, max_age: float) -> np.ndarray | None:
        """What was commanded for a time, None when nobody commands."""
        nearest = min(self._commands, key=lambda command: abs(command[0] - stamp), default=None)
        return nearest[1] if nearest is not None and abs(nearest[0] - stamp) <= max_age else None

    def check(self, now: float) -> None:
        """Raises :class:`StaleInputError` when an input is missing, frozen, or older than the contract allows."""
        for name, camera in self._contract.observation.cameras.items():
            newest = self._images[name][-1][0] if self._images[name] else None
            self._check(InstructionCode.STALE_IMAGES, camera.topic, newest, now, camera.max_age)
            if self._joints and name in self._same_since:
                moved = float(np.abs(self._joints[-1][1] - self._same_since[name]).max())
                if moved > FROZEN:
                    raise StaleInputError(
                        InstructionCode.STALE_IMAGES,
                        f"{camera.topic} shows the same picture although the arm has moved by {moved:.2f} rad",
                    )
        joints = self._contract.observation.joint_states
        newest = self._joints[-1][0] if self._joints else None
        self._check(InstructionCode.STALE_JOINT_STATES, joints.topic, newest, now, joints.max_age)

    @staticmethod
    def _check(code: InstructionCode, topic: str, newest: float | None, now: float, max_age: float) -> None:
        if newest is None:
            raise StaleInputError(code, f"nothing received on {topic}")
        if now - newest > max_age:
            raise StaleInputError(code, f"{topic} is silent for more than {max_age:g} s")
        if newest - now > max_age:
            raise StaleInputError(
                code, f"{topic} is stamped {newest - now:.1f} s in the future; do all nodes use the same clock?"
            )

    def _together(self) -> dict[str, tuple[float, np.ndarray]] | None:
        """The newest images, one per camera, that are at most the tolerance apart."""
        first, *others = self._images.values()
        for reference in reversed(first):
            chosen = [
                min(images, key=lambda image: abs(image[0] - reference[0]), default=None)
                for images in others
            ]  # fmt: skip
            if all(image is not None and abs(image[0] - reference[0]) <= self._tolerance for image in chosen):
                return dict(zip(self._images, [reference, *filter(None, chosen)], strict=True))
        return None


def _comes_after(kept: deque[Any], stamp: float) -> bool:
    """Whether a stamp is newer than the last one kept; forgets them all when the clock was set back."""
    if kept and stamp < kept[-1][0] - SET_BACK:
        kept.clear()
    return not kept or stamp > kept[-1][0]
