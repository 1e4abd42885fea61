# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Robot episodes from LeRobot datasets on this machine, of formats 2.0, 2.1 and 3.0; LeRobot itself is not needed.

The numbers of a dataset mean what its robot's driver meant. Which of them are the contract's joints, in which unit, and
which feature is which camera: :class:`Names` says so where the names do not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from arvrm_ros.contract import RobotContract
from arvrm_ros.data.episodes import decode_image, encode_image
from arvrm_ros.data.video import read_frames
from arvrm_ros.errors import DataError
from arvrm_ros.perception.cameras import resize
from arvrm_ros.retrieval.sources import Tally
from arvrm_ros.training.importing import Demonstration, Job, grips_of, import_all

INFO = Path("meta", "info.json")
VERSIONS = ("v2.0", "v2.1", "v3.0")
STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."
SUFFIX = ".pos"
"""Of the names that LeRobot's drivers give to joint positions."""


@dataclass(frozen=True)
class Names:
    """What of a dataset is what of the contract.

    Attributes:
        cameras: per camera of the contract, the feature, with or without ``observation.images.``; a camera that is not
            in it is the feature of its own name.
        joints: elements of the state that are the arm's joints, in the contract's order, by name or index; empty for
            those of the joints' own names, with or without ``.pos``.
        gripper: the element that is the gripper; empty for one named as its joint, or ``gripper``.
        degrees: joints are in degrees, not radians.
        gripper_range: values of the closed and of the open gripper.
    """

    cameras: Mapping[str, str] = field(default_factory=dict)
    joints: Sequence[str] = ()
    gripper: str = ""
    degrees: bool = False
    gripper_range: tuple[float, float] = (0.0, 1.0)


def is_dataset(folder: Path) -> bool:
    """Whether a folder looks like a LeRobot dataset."""
    return (folder / INFO).is_file()


def import_dataset(
    folder: Path, out: Path, contract: RobotContract, names: Names, trim: bool = True, workers: int = 1
) -> Tally:
    """Makes an episode of each of a dataset's that is not in a folder yet.

    Args:
        folder: the dataset, with ``meta/info.json`` in it.
        out: folder of episodes.
        contract: of the robot.
        names: what of the dataset is what of the contract.
        trim: leave out the time before the first motion and after the last one.
        workers: processes.

    Returns:
        How many came of what; what is wrong with an episode is printed as it is found.

    Raises:
        DataError: it is no such dataset, a camera or a joint is not in it, or the folder cannot be written to.
    """
    dataset = Dataset(folder)
    dataset.check(contract, names)
    jobs = []
    for episode in dataset.episodes:
        name = f"{folder.resolve().name}_{episode['episode_index']:06d}"
        read = partial(read_demonstration, folder, episode, contract, names)
        jobs.append(Job(name, read, out / f"episode_{name}.npz"))
    return import_all(jobs, contract, trim, workers, Tally())


class Dataset:
    """A LeRobot dataset's tables and files.

    Raises:
        DataError: it is none, or of another format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.info: dict[str, Any] = json.loads((folder / INFO).read_text(encoding="utf-8"))
            version = self.info["codebase_version"]
            self.fps = float(self.info["fps"])
            self.features: dict[str, dict[str, Any]] = self.info["features"]
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{folder} is no LeRobot dataset, or its {INFO} is damaged: {error}") from None
        if version not in VERSIONS:
            raise DataError(
                f"{folder} has LeRobot's format {version}; {', '.join(VERSIONS)} are read: convert it first"
            )
        self.in_parts = version < "v3"  # one file per episode

    @cached_property
    def episodes(self) -> list[dict[str, Any]]:
        """Row of each episode, in order: ``episode_index``, ``length``, ``tasks`` and, in 3.0, where its parts are."""
        try:
            if self.in_parts:
                lines = (self.folder / "meta" / "episodes.jsonl").read_text(encoding="utf-8").splitlines()
                rows = [json.loads(line) for line in lines if line.strip()]
            else:
                rows = []
                for path in sorted((self.folder / "meta" / "episodes").rglob("*.parquet")):
                    columns = [name for name in pq.read_schema(path).names if not name.startswith("stats/")]
                    rows += pq.read_table(path, columns=columns).to_pylist()
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(f"the table of episodes in {self.folder / 'meta'} cannot be read: {error}") from None
        if not rows:
            raise DataError(f"{self.folder} has no episodes")
        return sorted(rows, key=lambda row: int(row["episode_index"]))

    def check(self, contract: RobotContract, names: Names) -> None:
        """That everything is there.

        Raises:
            DataError: a camera or a joint is not, or there are too few frames a second.
        """
        for camera in contract.observation.cameras:
            self.camera(camera, names)
        self.elements(STATE, contract, names)
        if self.fps * contract.action.step_period < 0.99:
            raise DataError(
                f"{self.folder} has {self.fps:g} frames a second; the contract has a step each "
                f"{contract.action.step_period:g} s: use a contract with longer steps"
            )

    def camera(self, name: str, names: Names) -> str:
        """The feature that is a camera of the contract."""
        feature = names.cameras.get(name, name)
        feature = feature if feature in self.features else IMAGES + feature
        if self.features.get(feature, {}).get("dtype") not in ("video", "image"):
            there = [key for key, value in self.features.items() if value.get("dtype") in ("video", "image")]
            raise DataError(
                f"{self.folder} has no images {feature} for the camera {name}: name one with --cameras {name}=FEATURE; "
                f"it has {', '.join(there) or 'none'}"
            )
        return feature

    def elements(self, feature: str, contract: RobotContract, names: Names) -> list[int]:
        """Indices into a feature's vector: of the arm's joints, in the contract's order, and of the gripper."""
        if feature not in self.features:
            raise DataError(f"{self.folder} has no {feature}; it has {', '.join(self.features)}")
        there = _flat(self.features[feature].get("names"))
        size = int(self.features[feature]["shape"][0])
        joints = names.joints or contract.joints
        if len(joints) != len(contract.joints):
            raise DataError(f"--joints names {len(joints)} joints; the contract has {len(contract.joints)}")
        wanted: list[tuple[str, tuple[str, ...]]] = [(joint, (joint, joint + SUFFIX)) for joint in joints]
        gripper = (names.gripper,) if names.gripper else (contract.gripper.joint, "gripper")
        wanted.append((gripper[-1], tuple(word + end for word in gripper for end in ("", SUFFIX))))
        found = []
        for word, words in wanted:
            if word.isdecimal() and int(word) < size:
                found.append(int(word))
            elif match := [there.index(w) for w in words if w in there]:
                found.append(match[0])
            else:
                raise DataError(
                    f"{self.folder}: {feature} has no element {word}: name the joints with --joints and the gripper "
                    f"with --gripper, by name or index; it has {', '.join(there) or f'{size} without names'}"
                )
        return found

    def rows(self, episode: Mapping[str, Any], columns: list[str]) -> pa.Table:
        """An episode's frames."""
        return pq.read_table(
            self.folder / self._path("data_path", episode, "data"),
            columns=[*columns, "timestamp"],
            filters=None if self.in_parts else [("episode_index", "=", episode["episode_index"])],
        )

    def video(self, episode: Mapping[str, Any], feature: str) -> tuple[Path, float]:
        """The file that holds a camera's frames of an episode, and from which second on."""
        path = self.folder / self._path("video_path", episode, f"videos/{feature}", video_key=feature)
        return path, float(episode.get(f"videos/{feature}/from_timestamp", 0.0))

    def _path(self, pattern: str, episode: Mapping[str, Any], part: str, **words: str) -> str:
        index = int(episode["episode_index"])
        if self.in_parts:
            words |= {"episode_chunk": index // int(self.info["chunks_size"]), "episode_index": index}  # type: ignore
        else:
            words |= {name: episode[f"{part}/{name}"] for name in ("chunk_index", "file_index")}
        return str(self.info[pattern]).format(**words)


def read_demonstration(
    folder: Path, episode: Mapping[str, Any], contract: RobotContract, names: Names
) -> Demonstration:
    """One episode of a dataset, at the contract's steps: the frames nearest to them.

    What was commanded is the dataset's action, where it has elements of the joints' names; else the arm was commanded
    to where it was a step later, and the gripper to open or to close from when it did.

    Args:
        folder: the dataset.
        episode: its row of :attr:`Dataset.episodes`.
        contract: of the robot.
        names: what of the dataset is what of the contract.

    Raises:
        DataError: frames are missing or damaged, numbers are not finite, or it has no task.
    """
    dataset = Dataset(folder)
    name = f"{folder}, episode {episode['episode_index']}"
    task = next(iter(episode.get("tasks") or ()), "")
    if not task:
        raise DataError(f"{name} has no task, and so no instruction")
    cameras = {camera: dataset.camera(camera, names) for camera in contract.observation.cameras}
    stored = [feature for feature in cameras.values() if dataset.features[feature]["dtype"] == "image"]
    acting = _acting(dataset, contract, names)
    try:
        table = dataset.rows(episode, [STATE, *([ACTION] if acting else []), *stored])
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DataError(f"{name}: its frames cannot be read: {error}") from None
    times = table["timestamp"].to_numpy().astype(float)
    if len(times) < 2 or len(times) != episode["length"] or not np.all(np.diff(times) > 0):
        raise DataError(f"{name} has {len(times)} frames of {episode['length']}, or their times do not increase")
    state = _values(table, STATE, dataset.elements(STATE, contract, names), names, name)
    period = contract.action.step_period
    steps = times[0] + period * np.arange(int((times[-1] - times[0]) / period + 1e-6) + 1)
    nearest = np.abs(times - steps[:, None]).argmin(axis=1)
    if acting:  # a frame's action is what is asked for until the next frame
        actions = _values(table, ACTION, acting, names, name)
        commanded = _at(steps + period - 1 / dataset.fps, times, actions)
        joints, openings = commanded[:, :-1], commanded[:, -1]
    else:
        later = _at(np.append(steps, steps[-1] + period), times, state)
        joints, openings = later[1:, :-1], grips_of(later[:, -1])
    images = {}
    for camera, feature in cameras.items():
        size = contract.observation.cameras[camera]
        frames = (
            _stored(folder, table, feature, nearest)
            if feature in stored
            else _filmed(dataset, episode, feature, nearest)
        )
        images[camera] = [encode_image(resize(frame, size.height, size.width)) for frame in frames]
        if len(images[camera]) != len(steps):
            raise DataError(f"{name}: {feature} has {len(images[camera])} of {len(steps)} frames")
    return Demonstration(
        name, task, "", times[nearest], images, state[nearest, :-1], state[nearest, -1], joints, openings
    )


def _acting(dataset: Dataset, contract: RobotContract, names: Names) -> list[int]:
    """Elements of the action that say where arm and gripper are to go; none where it says something else."""
    try:
        return dataset.elements(ACTION, contract, names)
    except DataError:
        return []


def _values(table: pa.Table, feature: str, elements: list[int], names: Names, name: str) -> np.ndarray:
    """(N, n + 1): radians of the joints, and the gripper's opening in [0, 1]."""
    values = np.array(table[feature].to_pylist(), float)[:, elements]
    if not np.isfinite(values).all():
        raise DataError(f"{name}: {feature} is not finite")
    if names.degrees:
        values[:, :-1] = np.deg2rad(values[:, :-1])
    closed, opened = names.gripper_range
    values[:, -1] = np.clip((values[:, -1] - closed) / (opened - closed), 0.0, 1.0)
    return values


def _at(times: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(T, n) at (T,) seconds, straight between what is known."""
    return np.stack([np.interp(times, known, column) for column in values.T], axis=1)


def _stored(folder: Path, table: pa.Table, feature: str, wanted: np.ndarray) -> list[np.ndarray]:
    """The frames with these numbers, of images that are in the table or in files that it names."""
    cells = table[feature].take(pa.array(wanted)).to_pylist()
    try:
        return [decode_image(cell["bytes"] or (folder / cell["path"]).read_bytes()) for cell in cells]
    except OSError as error:
        raise DataError(f"cannot read an image of {folder}: {error}") from None


def _filmed(dataset: Dataset, episode: Mapping[str, Any], feature: str, wanted: np.ndarray) -> list[np.ndarray]:
    """The frames with these numbers, from a video, as far as it has them."""
    path, start = dataset.video(episode, feature)
    half, numbers = 0.5 / dataset.fps, set(wanted.tolist())
    found: dict[int, np.ndarray] = {}
    for time, image in read_frames(path, max(start - half, 0.0), start + wanted[-1] / dataset.fps + half):
        number = round((time - start) * dataset.fps)
        if number in numbers:
            found[number] = image
    return [found[number] for number in wanted.tolist() if number in found]


def _flat(names: Any) -> list[str]:
    """Names of a vector's elements: a list, or lists by kind of motor."""
    if isinstance(names, dict):
        return [str(name) for group in names.values() for name in (group if isinstance(group, list) else [group])]
    return [str(name) for name in names or []]
