# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Robot episodes from CALVIN's datasets (Mees et al. 2022); CALVIN itself is not needed.

A folder such as ``task_D_D/training`` has a file for each frame of play, 30 a second, and annotations: from which frame
to which something is done, and a sentence for it. Each annotation becomes an episode. CALVIN's own actions are where
the tool was a frame later (its ``datarenderer.py``); likewise, the arm here was commanded to where it was a step later.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from arvrm_ros.contract import RobotContract
from arvrm_ros.data.episodes import encode_image
from arvrm_ros.errors import DataError
from arvrm_ros.perception.cameras import resize
from arvrm_ros.retrieval.sources import Tally
from arvrm_ros.training.importing import Demonstration, Job, import_all

ANNOTATIONS = Path("lang_annotations", "auto_lang_ann.npy")
FRAME = re.compile(r"episode_\d{7}\.npz")
PARTS = ("training", "validation")
RATE = 30
"""Frames a second."""

STATE, ACTION, IMAGES = "robot_obs", "rel_actions", "rgb_"
SIZES = {STATE: 15, ACTION: 7}
WIDTH, JOINTS = 6, slice(7, 14)
"""Of the state: metres between the fingers, and radians."""

GRIP = 6
"""Of the action: -1 closes the gripper, 1 opens it."""

OPEN = 0.08
"""Metres between the fingers of the open gripper."""


@dataclass(frozen=True)
class Annotation:
    """What is done in a stretch of play.

    Attributes:
        number: its place among the annotations.
        first, last: numbers of the frames; the last one belongs to it.
        instruction, task: a sentence for it, and CALVIN's name.
    """

    number: int
    first: int
    last: int
    instruction: str
    task: str


def is_dataset(folder: Path) -> bool:
    """Whether a folder looks like a CALVIN dataset, or like one with its training and validation folders."""
    return any(_looks_like_one(place) for place in (folder, *(folder / part for part in PARTS)))


def import_dataset(folder: Path, out: Path, contract: RobotContract, trim: bool = True, workers: int = 1) -> Tally:
    """Makes an episode of each annotation of a dataset that is not in a folder yet.

    Args:
        folder: the dataset, with its frames and ``lang_annotations`` in it, e.g. ``task_D_D/training``.
        out: folder of episodes.
        contract: of the robot.
        trim: leave out the time before the first motion and after the last one.
        workers: processes.

    Returns:
        How many came of what; what is wrong with an annotation's frames is printed as it is found.

    Raises:
        DataError: it is no such dataset, its annotations are missing or damaged, it does not fit the contract, or the
            folder cannot be written to.
    """
    annotations = read_annotations(folder)
    _check(folder, contract)
    place = folder.resolve()
    jobs = []
    for annotation in annotations:
        name = f"{place.parent.name}_{place.name}_{annotation.number:06d}"
        read = partial(read_demonstration, folder, annotation, contract)
        jobs.append(Job(name, read, out / f"episode_{name}.npz"))
    return import_all(jobs, contract, trim, workers, Tally())


def read_annotations(folder: Path) -> list[Annotation]:
    """The annotations of a dataset, in order.

    Raises:
        DataError: it is no dataset, or its annotations are missing, damaged or something else.
    """
    path = folder / ANNOTATIONS
    try:
        with path.open("rb") as file:
            version = npy.read_magic(file)
            (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
            known = _Unpickler(file).load()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(_missing(folder)) from None
    except _ForeignError as error:
        raise DataError(f"{path} holds something else than annotations ({error}): nothing of it was run") from None
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(f"{path} cannot be read or is damaged ({error}): fetch it again") from None
    try:
        language, spans = known.item()["language"], known.item()["info"]["indx"]
        found = [
            Annotation(number, index(first), index(last), str.strip(instruction), str.strip(task))
            for number, ((first, last), instruction, task) in enumerate(
                zip(spans, language["ann"], language["task"], strict=True)
            )
        ]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} holds something else than annotations ({error!r})") from None
    if not found:
        raise DataError(f"{path} annotates nothing")
    return found


def read_demonstration(folder: Path, annotation: Annotation, contract: RobotContract) -> Demonstration:
    """One annotation's frames, at the contract's steps.

    The arm was commanded to where it was a step later, and the gripper to what the frame's action says.

    Args:
        folder: the dataset.
        annotation: one of :func:`read_annotations`.
        contract: of the robot.

    Raises:
        DataError: frames are missing or damaged, arrays have other shapes, numbers are not finite, it is shorter than
            two steps or has no instruction, or it does not fit the contract.
    """
    name = f"{folder}, annotation {annotation.number}"
    if not annotation.instruction:
        raise DataError(f"{name} has no instruction")
    stride = _stride(contract)
    if annotation.last - annotation.first < 2 * stride:
        raise DataError(f"{name}: from frame {annotation.first} to {annotation.last} are less than two steps")
    cameras = contract.observation.cameras
    images: dict[str, list[bytes]] = {camera: [] for camera in cameras}
    states, actions = [], []
    for number in range(annotation.first, annotation.last + 1, stride):
        frame = _frame(folder / f"episode_{number:07d}.npz", list(cameras), name)
        states.append(frame[STATE])
        actions.append(frame[ACTION])
        for camera, size in cameras.items():
            images[camera].append(encode_image(resize(frame[IMAGES + camera], size.height, size.width)))
    state, steps = np.array(states), len(states) - 1
    return Demonstration(
        name=name,
        instruction=annotation.instruction,
        task=annotation.task,
        stamps=np.arange(steps) * stride / RATE,
        images={camera: frames[:steps] for camera, frames in images.items()},
        joints=state[:-1, JOINTS],
        openings=np.clip(state[:-1, WIDTH] / OPEN, 0.0, 1.0),
        commanded_joints=state[1:, JOINTS],
        commanded_openings=(np.array(actions)[:-1, GRIP] > 0).astype(float),
    )


class _ForeignError(Exception):
    """A pickle names what annotations do not need."""


class _Inert:
    """Stands for an array, a dtype or a number of NumPy's, whose own believe what a pickle says of their memory."""

    made_of: tuple[Any, ...] = ()
    state: tuple[Any, ...] = ()

    def __init__(self, *made_of: Any) -> None:
        self.made_of = made_of

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def __index__(self) -> int:
        dtype, data = self.made_of
        if dtype.made_of[0] not in ("i4", "i8") or dtype.state[1] != "<":
            raise TypeError("not an integer")
        return int.from_bytes(data, "little", signed=True)

    def item(self) -> Any:
        """What an array of one object holds."""
        *_, (content,) = self.state
        return content


class _Unpickler(pickle.Unpickler):
    """Makes text, numbers and stand-ins alone: a pickle can name any function, to be called as it is read."""

    def find_class(self, module: str, name: str) -> Any:
        module = re.sub(r"^numpy\.core\b", "numpy._core", module)  # its name before numpy 2
        if (module, name) not in (
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "scalar"),
        ):
            raise _ForeignError(f"{module}.{name}")
        return _Inert


def _looks_like_one(folder: Path) -> bool:
    return (folder / ANNOTATIONS).is_file() or next(_frame_files(folder), None) is not None


def _frame_files(folder: Path) -> Iterator[Path]:
    """As they are found, in no order: there may be two million."""
    if folder.is_dir():
        with os.scandir(folder) as entries:
            yield from (Path(entry) for entry in entries if FRAME.fullmatch(entry.name))


def _missing(folder: Path) -> str:
    """What to say of a folder without annotations."""
    if _looks_like_one(folder):
        return f"{folder} has no {ANNOTATIONS}, and so no instructions: unpack the whole dataset"
    if parts := [str(folder / part) for part in PARTS if _looks_like_one(folder / part)]:
        return f"{folder} holds CALVIN's {' and '.join(parts)}: give one of them"
    return f"{folder} is no CALVIN dataset: give the folder with {ANNOTATIONS} and the frames in it"


def _check(folder: Path, contract: RobotContract) -> None:
    """That the contract fits the dataset.

    Raises:
        DataError: it has other cameras, joints or steps, or there are no frames.
    """
    _stride(contract)
    if len(contract.joints) != 7:
        raise DataError(f"CALVIN's arm has 7 joints, the contract {len(contract.joints)}: use --robot calvin")
    there: list[str] = []
    for path in _frame_files(folder):
        with suppress(Exception), np.load(path) as file:  # a damaged one may raise anything
            there = sorted(name for name in file.files if name.startswith(IMAGES))
            break
    else:
        raise DataError(f"{folder} has annotations, but no frame that can be read: unpack the whole dataset")
    for camera in contract.observation.cameras:
        if IMAGES + camera not in there:
            raise DataError(
                f"{folder} has no images {IMAGES}{camera} for the camera {camera}; it has "
                f"{', '.join(there) or 'none'}: use --robot calvin"
            )


def _stride(contract: RobotContract) -> int:
    """Frames in a step."""
    frames = contract.action.step_period * RATE
    if abs(frames - round(frames)) > 0.01 * round(frames):
        raise DataError(
            f"CALVIN has {RATE} frames a second; the contract has a step each {contract.action.step_period:g} s: use "
            f"a contract with steps of one or more whole frames, e.g. {3 / RATE:g} s"
        )
    return round(frames)


def _frame(path: Path, cameras: list[str], name: str) -> dict[str, np.ndarray]:
    """State and action as float64, and images (H, W, 3) uint8 RGB, of a frame's file."""
    try:
        with np.load(path) as file:
            frame = {key: np.asarray(file[key], float) for key in SIZES}
            frame |= {IMAGES + camera: file[IMAGES + camera] for camera in cameras}
    except FileNotFoundError:
        raise DataError(f"{name}: there is no frame {path.name}") from None
    except Exception as error:  # of numpy, of zip, of what unpacks it
        raise DataError(f"{name}: {path.name} is not a frame, or is damaged: {error}") from None
    for key, value in frame.items():
        if key not in SIZES and (value.dtype != np.uint8 or value.shape[2:] != (3,) or not value.size):
            raise DataError(f"{name}: {key} of {path.name} is no colour image: {value.dtype} {value.shape}")
        if key in SIZES and value.shape != (SIZES[key],):
            raise DataError(f"{name}: {key} of {path.name} has the shape {value.shape}, not ({SIZES[key]},)")
        if not np.isfinite(value).all():
            raise DataError(f"{name}: {key} of {path.name} is not finite")
    return frame
