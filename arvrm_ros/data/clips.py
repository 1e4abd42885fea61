# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Human clips on disk: a folder of folders, one per clip.

    FOLDER/clip_000123/video.mp4     the pictures
    FOLDER/clip_000123/clip.json     caption and what else is known; only ``caption`` is required
    FOLDER/clip_000123/truth.npz     simulated clips: the hand's true keypoints and the camera, for measurement only

A clip appears under its name only when it is complete.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from arvrm_ros.data.video import read_video, write_video
from arvrm_ros.errors import DataError


@dataclass
class Truth:
    """Where the hand and the things on the table really were (T frames).

    The hand's truth measures the landmarker; nothing is trained on it. The rest trains the small image encoder.

    Attributes:
        keypoints_world: (T, 21, 3) metres, world (z up).
        keypoints_image: (T, 21, 3) as in ``HandDetection.keypoints``.
        intrinsics: (3, 3) pixels.
        world_from_camera: (4, 4) pose of the optical frame (z forward).
        points: (T, P, 3) of ``scene.POINTS``: x, y in [0, 1] of the image, and 1 if within it, else 0.
        lights: (T, 2) LED and bulb, 0 or 1.
    """

    keypoints_world: np.ndarray
    keypoints_image: np.ndarray
    intrinsics: np.ndarray
    world_from_camera: np.ndarray
    points: np.ndarray | None = None
    lights: np.ndarray | None = None


@dataclass
class Clip:
    """A short video of a hand doing something.

    Attributes:
        name: the folder's name.
        caption: what the hand does.
        task: id of the task when it is known, "" otherwise.
        handedness: "right", "left", or "" when unknown.
        attributes: what else is known of a simulated clip: variant, seed, view, camera angles, hand size, skin, speed.
        folder: where it is on disk; None before it is written.
        truth: of simulated clips.
    """

    name: str
    caption: str
    task: str = ""
    handedness: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    truth: Truth | None = None

    @property
    def video(self) -> Path:
        """The video file of a clip that is on disk."""
        if self.folder is None:
            raise DataError(f"clip {self.name} is not on disk")
        return self.folder / "video.mp4"

    def frames(self) -> tuple[np.ndarray, float]:
        """(T, H, W, 3) uint8 RGB, and the seconds between two frames.

        Raises:
            DataError: the video is missing or unreadable.
        """
        return read_video(self.video)


def write_clip(root: Path, clip: Clip, frames: Iterable[np.ndarray], frame_period: float) -> Path:
    """Writes a clip into ``root``, whole or not at all; returns its folder.

    Args:
        root: the folder of clips; made when missing.
        clip: a clip of the same name is replaced.
        frames: (H, W, 3) uint8 RGB each; height and width even.
        frame_period: seconds between two frames.
    """
    folder, part = root / clip.name, root / f".{clip.name}.part"
    if part.exists():
        shutil.rmtree(part)
    part.mkdir(parents=True)
    write_video(part / "video.mp4", frames, frame_period)
    if clip.truth is not None:
        known = {name: value for name, value in asdict(clip.truth).items() if value is not None}
        np.savez_compressed(part / "truth.npz", **known)
    known = {key: getattr(clip, key) for key in ("caption", "task", "handedness", "attributes")}
    (part / "clip.json").write_text(json.dumps(known, indent=1), encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(part, folder)
    return folder


def read_clip(folder: Path | str) -> Clip:
    """Reads everything but the pictures.

    Raises:
        DataError: a file is missing or malformed; the message names it.
    """
    folder = Path(folder)
    try:
        known = json.loads((folder / "clip.json").read_text(encoding="utf-8"))
        clip = Clip(name=folder.name, folder=folder, **known)
    except FileNotFoundError:
        raise DataError(f"{folder} is not a clip: it has no clip.json with a caption") from None
    except (ValueError, TypeError) as error:
        raise DataError(f"{folder / 'clip.json'} is malformed: {error}") from None
    truth = folder / "truth.npz"
    if truth.is_file():
        try:
            with np.load(truth, allow_pickle=False) as arrays:
                clip.truth = Truth(**arrays)
        except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise DataError(f"{truth} is malformed: {error}") from None
    return clip


def clip_folders(root: Path | str) -> list[Path]:
    """The clips in a folder, by name.

    Raises:
        DataError: no such folder, or no clip in it.
    """
    root = Path(root)
    folders = sorted(file.parent for file in root.glob("*/clip.json") if not file.parent.name.startswith("."))
    if not folders:
        raise DataError(f"there are no clips in {root}: make some with `arvrm collect human --out {root}`")
    return folders


def project(
    points: np.ndarray, intrinsics: np.ndarray, world_from_camera: np.ndarray, width: int, height: int
) -> np.ndarray:
    """World points as a landmarker would give them.

    Args:
        points: (..., 21, 3) metres, world; row 0 is the wrist.
        intrinsics: (3, 3) pixels.
        world_from_camera: (4, 4) pose of the optical frame.
        width: of the image, pixels.
        height: of the image, pixels.

    Returns:
        (..., 21, 3): x, y in [0, 1] of the image; z behind the wrist in image widths, at the wrist's scale.
    """
    camera = (points - world_from_camera[:3, 3]) @ world_from_camera[:3, :3]
    pixels = camera @ intrinsics.T
    x = pixels[..., 0] / pixels[..., 2] / width
    y = pixels[..., 1] / pixels[..., 2] / height
    depth = camera[..., 2]
    z = (depth - depth[..., :1]) * intrinsics[0, 0] / depth[..., :1] / width
    return np.stack([x, y, z], axis=-1)
