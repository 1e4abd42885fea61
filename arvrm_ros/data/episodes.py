# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Robot episodes on disk: one compressed ``.npz`` per episode, images as JPEG, written atomically."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from arvrm_ros.contract import RobotContract, contract_from_dict
from arvrm_ros.errors import DataError
from arvrm_ros.files import replace_atomically

FORMAT = 1
JPEG_QUALITY = 95
JPEG_START = b"\xff\xd8"


@dataclass
class Episode:
    """One demonstration of T control steps.

    Attributes:
        contract: the robot it was recorded with.
        instruction: what was asked for.
        stamp: (T,) seconds of each observation.
        images: per camera, T JPEG files in memory; :meth:`image` decodes one.
        joint_positions: (T, n) radians, measured.
        gripper: (T,) opening in [0, 1], measured.
        command_positions: (T, 3) metres, base frame: commanded for the end of step t.
        command_quaternions: (T, 4) x, y, z, w.
        command_gripper: (T,) opening in [0, 1].
        disturbed: (T,) bool: the step was a disturbance, not a demonstration.
        task, variant, seed: where it came from; never an input of a policy.
        completed: whether it goes on to the expert's rest; False when it was cut as soon as the task had succeeded.
        points: per camera, (T, P, 3): where the simulator's named points are in the image (x, y in [0, 1]) and whether
            they are within it (1) or not (0). Empty for real robots.
        lights: (T, 2) LED and bulb, 0 or 1. Empty for real robots.
    """

    contract: RobotContract
    instruction: str
    stamp: np.ndarray
    images: dict[str, list[bytes]]
    joint_positions: np.ndarray
    gripper: np.ndarray
    command_positions: np.ndarray
    command_quaternions: np.ndarray
    command_gripper: np.ndarray
    disturbed: np.ndarray
    task: str = ""
    variant: str = ""
    seed: int = 0
    completed: bool = True
    points: dict[str, np.ndarray] = field(default_factory=dict)
    lights: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.float32))

    def __len__(self) -> int:
        return len(self.stamp)

    def image(self, camera: str, step: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        return decode_image(self.images[camera][step])


def encode_image(image: np.ndarray) -> bytes:
    """JPEG of an (H, W, 3) uint8 RGB image."""
    done, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise DataError("OpenCV cannot encode JPEG")
    return data.tobytes()


def decode_image(data: bytes) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a JPEG in memory.

    Raises:
        DataError: it is not an image.
    """
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise DataError("a frame is not an image")
    return np.asarray(image)


_ARRAYS = ("stamp", "joint_positions", "gripper", "command_positions", "command_quaternions", "command_gripper",
           "disturbed", "lights")  # fmt: skip


def write_episode(path: Path, episode: Episode) -> None:
    """Writes an episode; either the whole file appears or none."""
    arrays: dict[str, Any] = {name: getattr(episode, name) for name in _ARRAYS}
    for camera, frames in episode.images.items():
        arrays[f"jpeg.{camera}"] = np.frombuffer(b"".join(frames), np.uint8)
        arrays[f"jpeg_ends.{camera}"] = np.cumsum([len(frame) for frame in frames])
    for camera, points in episode.points.items():
        arrays[f"points.{camera}"] = points
    header = {
        "format": FORMAT,
        "contract": episode.contract.to_dict(),
        **{key: getattr(episode, key) for key in ("instruction", "task", "variant", "seed", "completed")},
    }
    with replace_atomically(path) as partial, partial.open("wb") as file:
        np.savez(file, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)


def read_episode(path: Path) -> Episode:
    """Reads and checks an episode.

    Raises:
        DataError: the file is missing, truncated, of another format, has arrays of different lengths, numbers that
            are not finite, a camera without images, or frames that are no JPEG.
    """
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(arrays.pop("header").tobytes())
    except FileNotFoundError:
        raise DataError(f"no episode {path}") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not an episode, or is damaged: {error}") from None
    if header.get("format") != FORMAT:
        raise DataError(f"{path} has format {header.get('format')}; this version reads {FORMAT}: collect it again")
    images: dict[str, list[bytes]] = {}
    points: dict[str, np.ndarray] = {}
    for name in list(arrays):
        kind, _, camera = name.partition(".")
        if kind == "jpeg":
            data, ends = arrays.pop(name).tobytes(), arrays.pop(f"jpeg_ends.{camera}")
            images[camera] = [data[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        elif kind == "points":
            points[camera] = arrays.pop(name)
    length = len(arrays["stamp"])
    for name, value in arrays.items():
        if len(value) != length and not (name == "lights" and len(value) == 0):
            raise DataError(f"{path}: {name} has {len(value)} steps, stamp has {length}")
        if not np.isfinite(value).all():
            raise DataError(f"{path}: {name} has values that are not finite")
    for camera, frames in images.items():
        if len(frames) != length:
            raise DataError(f"{path}: camera {camera} has {len(frames)} frames, stamp has {length}")
        for step, frame in enumerate(frames):
            if not frame.startswith(JPEG_START):
                raise DataError(f"{path}: frame {step} of camera {camera} is not an image")
    if length == 0:
        raise DataError(f"{path}: the episode is empty")
    contract = contract_from_dict(header.pop("contract"), str(path))
    if missing := [camera for camera in contract.observation.cameras if camera not in images]:
        raise DataError(f"{path}: no images of camera {', '.join(missing)}")
    header.pop("format")
    return Episode(contract=contract, images=images, points=points, **header, **arrays)


def glance(path: Path) -> tuple[str, float]:
    """Instruction and seconds of an episode, without its images.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        with np.load(path) as file:
            header, stamp = json.loads(file["header"].tobytes()), file["stamp"]
        return str(header["instruction"]), float(stamp[-1] - stamp[0])
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not an episode, or is damaged: {error}") from None


def episode_files(folder: Path) -> list[Path]:
    """The episodes of a folder, by name.

    Raises:
        DataError: the folder holds none.
    """
    files = sorted(folder.glob("episode_*.npz"))
    if not files:
        raise DataError(f"no episodes in {folder}: make some with 'arvrm collect robot --out {folder}'")
    return files
