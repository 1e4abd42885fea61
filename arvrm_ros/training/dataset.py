# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Robot episodes and human clips as tensors. The frozen image encoder's features are computed once and kept on disk."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from arvrm_ros.contract import RobotContract
from arvrm_ros.data.episodes import Episode, episode_files, read_episode
from arvrm_ros.data.types import HumanClip
from arvrm_ros.errors import ArvrmError, DataError
from arvrm_ros.files import replace_atomically
from arvrm_ros.motion.kinematics import Kinematics
from arvrm_ros.perception.encoders import FrozenImageEncoder, load_image_encoder, load_text_encoder
from arvrm_ros.perception.image_encoder import ImageEncoder
from arvrm_ros.policies.arvrm.configuration import ArvrmConfig
from arvrm_ros.policies.arvrm.model import Clips
from arvrm_ros.policies.arvrm.processor import (
    KEYPOINT_SCALE,
    Normalisation,
    clip_images,
    clip_keypoints,
    delta_base,
    relative_action,
    robot_state,
)
from arvrm_ros.retrieval.database import MotionDatabase
from arvrm_ros.retrieval.encoders import check_fingerprints, encoder_fingerprints, names_of
from arvrm_ros.retrieval.search import MotionSearch
from arvrm_ros.training.loop import device, rank_slice
from arvrm_ros.workers import process_pool

SMALLEST_SCALE = np.array([0.005] * 3 + [0.03] * 3, np.float32)
"""Lower bound of the action's scales, metres and radians: what hardly moves is not blown up."""


SHIFT = 0.15
"""Standard deviation of a clip's random shift in training, in parts of the image's width and height."""

AHEAD = 3
"""Steps to the future image that GR-1 predicts; its released configuration has 3."""


@dataclass
class RobotBatch:
    """Windows of T steps from B episodes; shapes as in ``model.py``.

    Attributes:
        later_state: (B, T, S) N steps later, at most at the end: what L_AR asks of the clips.
        future: (B, T, C, I, w) images :data:`AHEAD` steps later, for GR-1's recipe only.
        action, gripper: (B, T, N, 6) and (B, T, N).
        progress: (B, T) in [0, 1], NaN where it is not known.
        valid: (B, T, N) the steps to learn.
        clips: (B, candidates) retrieved, best first; -1 where there are fewer.
    """

    text: torch.Tensor
    images: torch.Tensor
    state: torch.Tensor
    later_state: torch.Tensor
    future: torch.Tensor | None
    action: torch.Tensor
    gripper: torch.Tensor
    progress: torch.Tensor
    valid: torch.Tensor
    clips: np.ndarray

    def part(self, rows: slice, device: torch.device) -> RobotBatch:
        """Some rows of the batch, on a device; the clips stay here."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return RobotBatch(
            **{n: v[rows].to(device) if isinstance(v, torch.Tensor) else v for n, v in values.items() if n != "clips"},
            clips=self.clips[rows],
        )


class RobotEpisodes:
    """All episodes of a folder in memory, as what the model reads.

    Args:
        folder: of ``episode_*.npz``.
        encoder_file: weights of the frozen image encoder, None for those that ship or are fetched; its features are
            kept in ``folder/features-<encoder>``.
        contract: what every episode has to agree with.
        limit: take only so many episodes, None for all.
        variants: take only episodes of these looks of the simulator's table; real episodes have none and are taken.
        without: leave out the episodes of these tasks; they count towards the limit.

    Raises:
        DataError: an episode is damaged or was recorded with another contract, or there is none of a task to leave out.
    """

    def __init__(
        self,
        folder: Path,
        encoder_file: Path | None,
        contract: RobotContract,
        config: ArvrmConfig,
        limit: int | None = None,
        variants: str | None = None,
        without: Collection[str] = (),
    ) -> None:
        self.config, self.contract = config, contract
        self.encoder = encoder = load_image_encoder(config.image_encoder, encoder_file)
        cache = _cache(folder, encoder)
        kinematics = Kinematics(contract)
        home = kinematics.forward(np.array(contract.home))[1]
        texts: list[str] = []
        self.tasks: list[str] = []
        self.images: list[np.ndarray] = []  # each (t, C, I, w) float16, standardised
        self.first_view: list[np.ndarray] = []  # each (d_o,), of the first camera
        self._states: list[np.ndarray] = []  # each (t, S)
        self._actions: list[np.ndarray] = []  # each (t, N, 6)
        self._grippers: list[np.ndarray] = []  # each (t, N)
        self._valid: list[np.ndarray] = []  # each (t, N)
        self._completed: list[bool] = []
        left_out: Counter[str] = Counter()
        for path in tqdm(episode_files(folder), desc="robot episodes", unit="episode"):
            if limit is not None and len(texts) + left_out.total() == limit:
                break
            episode = read_episode(path)
            if variants is not None and episode.variant and episode.variant not in variants:
                continue
            if episode.task in without:
                left_out[episode.task] += 1
                continue
            if differences := contract.differences(episode.contract):
                raise DataError(f"{path} was recorded with another contract: {'; '.join(differences)}")
            tokens = _tokens(cache / f"{path.stem}.npy", encoder, episode)  # (t, cameras, 1 + M, width)
            flat = encoder.standardised(tokens.reshape(-1, *tokens.shape[2:]))
            self.images.append(flat.astype(np.float16).reshape(tokens.shape))
            self.first_view.append(encoder.visual_feature(tokens[:1, 0])[0])
            poses = [kinematics.forward(q) for q in episode.joint_positions]
            positions, quaternions = (np.stack(values) for values in zip(*poses, strict=True))
            self._states.append(robot_state(positions, quaternions, episode.gripper, home))
            self._actions.append(self._relative(episode, positions, quaternions))
            steps = _chunk_steps(len(episode), config.chunk)
            self._grippers.append(episode.command_gripper[steps].astype(np.float32))
            valid = ~np.maximum.accumulate(episode.disturbed[steps], 1)
            if not episode.completed:  # nobody knows what would have come after the cut
                valid &= np.arange(len(episode))[:, None] + np.arange(config.chunk) < len(episode)
            self._valid.append(valid)
            self._completed.append(episode.completed)
            texts.append(episode.instruction)
            self.tasks.append(episode.task)
        if unknown := sorted(set(without) - set(left_out)):
            raise DataError(f"{folder} holds no episodes of the task {unknown[0]} that is to be left out")
        if not texts:
            raise DataError(f"{folder} holds no episodes of the variants {variants} and of tasks that are not left out")
        self.text = load_text_encoder(config.text_encoder).encode(texts)  # (E, text_width)
        self.instructions = texts
        self.clips = np.zeros((len(texts), 0), int)
        self.lengths = np.array([len(state) for state in self._states])
        self.normalisation = self._measure()
        mean, scale = np.array(self.normalisation.state_mean), np.array(self.normalisation.state_scale)
        self._states = [((state - mean) / scale).astype(np.float32) for state in self._states]
        self._actions = [action / np.array(self.normalisation.action_scale, np.float32) for action in self._actions]

    def __len__(self) -> int:
        return len(self.tasks)

    def _relative(self, episode: Episode, positions: np.ndarray, quaternions: np.ndarray) -> np.ndarray:
        commanded, turned = episode.command_positions, episode.command_quaternions
        actions = []
        for t, at in enumerate(_chunk_steps(len(episode), self.config.chunk)):
            base = positions[t], quaternions[t]
            if t > 0:  # the command for the end of the step before, which is now
                base = delta_base(*base, commanded[t - 1], turned[t - 1], self.contract.limits.max_drift)
            actions.append(relative_action(*base, commanded[at], turned[at]))
        return np.stack(actions)

    def _measure(self) -> Normalisation:
        states, actions = np.concatenate(self._states), np.concatenate(self._actions)
        return Normalisation(
            tuple(states.mean(0).astype(float).tolist()),
            tuple(np.maximum(states.std(0), 0.02).astype(float).tolist()),
            tuple(map(tuple, np.maximum(actions.std(0), SMALLEST_SCALE).astype(float).tolist())),
        )

    def retrieve(self, search: MotionSearch, count: int, mode: str = "database") -> None:
        """Finds ``count`` clips for each episode, from its instruction and first view, as the retrieval node would."""
        index = {clip.clip_id: i for i, clip in enumerate(search.clips)}
        found = [
            [index[m.clip.clip_id] for m in search.search(text, view[None], count, mode, task).motions]
            for text, view, task in zip(self.text, self.first_view, self.tasks, strict=True)
        ]
        # A mode that looks at one task alone finds no more clips than the task has.
        self.clips = np.array([row + [-1] * (count - len(row)) for row in found], int)  # (E, count)

    def batch(self, rng: np.random.Generator, size: int, among: np.ndarray) -> RobotBatch:
        """Draws windows from the episodes ``among`` (indices), longer ones more often."""
        steps = self.config.history
        share = self.lengths[among] / self.lengths[among].sum()
        episodes = rng.choice(among, size, p=share)
        rows, future = [], []
        for e in episodes:
            length = self.lengths[e]
            at = int(rng.integers(length)) + np.arange(steps)
            inside = at < length
            at = np.minimum(at, length - 1)
            later = np.minimum(at + self.config.chunk, length - 1)
            progress = at / max(1, length - 1) if self._completed[e] else np.full(steps, np.nan)
            rows.append(
                (self.images[e][at], self._states[e][at], self._states[e][later], self._actions[e][at],
                 self._grippers[e][at], progress, self._valid[e][at] & inside[:, None])
            )  # fmt: skip
            if self.config.objective == "images":
                future.append(self.images[e][np.minimum(at + AHEAD, length - 1)])
        images, state, later_state, action, gripper, progress, valid = (
            torch.from_numpy(np.stack(values).astype(np.float32)) for values in zip(*rows, strict=True)
        )
        return RobotBatch(
            torch.from_numpy(self.text[episodes]), images, state, later_state,
            torch.from_numpy(np.stack(future).astype(np.float32)) if future else None,
            action, gripper, progress, valid, self.clips[episodes],
        )  # fmt: skip


def check_encoders(database: MotionDatabase, config: ArvrmConfig, image_encoder: Path | None) -> None:
    """Checks that a policy would read clips by the encoders that made them.

    Raises:
        DataError: others made the database.
    """
    made, wanted = names_of(database), (config.image_encoder, config.text_encoder)
    if made != wanted:
        raise DataError(
            f"the motion database {database.uri} was made with the encoders {' and '.join(made)}, the policy reads "
            f"{' and '.join(wanted)}: build it with `arvrm db build --policy` of that policy"
        )
    check_fingerprints(database, encoder_fingerprints(image_encoder, *made))


class HumanClips:
    """All clips of a database as what the model reads: (C, ...) tensors; ``moving`` are the indices to learn from.

    Args:
        image_encoder: weights of the small image encoder that the database was made with; None for those that ship.
            No other encoder is needed here.

    Raises:
        CheckpointError: the weights are missing or damaged.
        DataError: there is no clip with motion, or the features are of another image encoder.
    """

    def __init__(self, clips: list[HumanClip], config: ArvrmConfig, image_encoder: Path | None = None) -> None:
        frames = config.clip_frames
        self._encoder = ImageEncoder.load(image_encoder).to(device()) if config.image_encoder == "small" else None
        if not clips:
            raise DataError("the motion database is empty: build it with 'arvrm db build'")
        if all(len(clip.keypoints) < 2 for clip in clips):
            raise DataError("every clip of the motion database has a single frame; there is no motion to learn")
        # A clip without motion teaches nothing but may be retrieved, so it keeps its place.
        self.moving = np.array([i for i, clip in enumerate(clips) if len(clip.keypoints) >= 2])
        self.text = torch.from_numpy(np.stack([clip.language for clip in clips]).astype(np.float32))
        images = torch.from_numpy(np.stack([clip_images(clip, frames) for clip in clips]))  # (C, F, I w)
        # A resampler reads as many patches as there are, and a database keeps them pooled.
        tokens = images.shape[-1] / config.image_width
        if tokens != config.image_tokens and not (config.latents and tokens.is_integer() and tokens > 1):
            raise DataError(
                f"the motion database has image features of {images.shape[-1]} numbers, the policy's image encoder "
                f"gives {config.image_tokens} x {config.image_width}: build the database with that encoder"
            )
        self.images = images.unflatten(-1, (int(tokens), config.image_width))
        self.keypoints = torch.from_numpy(np.stack([clip_keypoints(clip, frames) for clip in clips]))

    def __len__(self) -> int:
        return len(self.text)

    def take(self, index: np.ndarray) -> Clips:
        """The clips at the indices, as a batch on the device that trains."""
        at = torch.from_numpy(index)
        return Clips(*(values[at].to(device()) for values in (self.text, self.images, self.keypoints)))

    def draw(self, rng: np.random.Generator, among: np.ndarray, count: int) -> Clips:
        """This process's part of ``count`` random clips of ``among`` (indices), to learn from.

        A hand may be anywhere in a phone's image, so each clip is shifted at random, and the things on the table with
        the hand: without, or with the hand alone, clips are learned by heart and not which thing the words name.
        """
        own = rank_slice(count)
        clips = self.take(rng.choice(among, count)[own])
        shift = torch.from_numpy(rng.normal(0, SHIFT, (count, 1, 2)).astype(np.float32))[own].to(device())
        if self._encoder is not None:
            clips.images = self._encoder.shifted(clips.images, shift)  # (B, F, I, w)
            clips.keypoints[..., :2] += KEYPOINT_SCALE * shift[:, :, None]  # (B, F, K, 2)
        return clips


def _chunk_steps(length: int, chunk: int) -> np.ndarray:
    """(t, N) steps whose commands make up the chunk of each step; past the end the last command is held."""
    return np.minimum(np.arange(length)[:, None] + np.arange(chunk), length - 1)


def encode_episodes(folder: Path, image_encoder: str, encoder_file: Path | None, workers: int) -> None:
    """Computes the features of all episodes of a folder in several processes, before trainings that share them start.

    Args:
        folder: see :class:`RobotEpisodes`.
        image_encoder: name, as in a policy's configuration.
        encoder_file: see :class:`RobotEpisodes`.
        workers: processes.

    Raises:
        ArvrmError: an episode is damaged, the encoder cannot be loaded, or a process was killed.
    """
    cache = _cache(folder, load_image_encoder(image_encoder, encoder_file))
    missing = [path for path in episode_files(folder) if not (cache / f"{path.stem}.npy").is_file()]
    if not missing:
        return
    with process_pool(min(workers, len(missing)), partial(_load_encoder, image_encoder, encoder_file)) as pool:
        try:
            done = pool.map(partial(_encode, cache), missing, chunksize=4)
            for _ in tqdm(done, total=len(missing), desc="image features", unit="episode"):
                pass
        except BrokenProcessPool:
            raise ArvrmError("an encoding process was ended from outside: short of memory? try fewer workers") from None


_encoder: FrozenImageEncoder | None = None


def _load_encoder(image_encoder: str, encoder_file: Path | None) -> None:
    global _encoder  # once per process
    torch.set_num_threads(1)
    _encoder = load_image_encoder(image_encoder, encoder_file)


def _encode(cache: Path, path: Path) -> None:
    assert _encoder is not None
    _tokens(cache / f"{path.stem}.npy", _encoder, read_episode(path))


def _cache(folder: Path, encoder: FrozenImageEncoder) -> Path:
    return folder / f"features-{encoder.identity.split()[-1][:12]}"


def _tokens(path: Path, encoder: FrozenImageEncoder, episode: Episode) -> np.ndarray:
    """Image tokens (t, cameras, 1 + M, width) of an episode, from the cache or made now."""
    if path.is_file() and len(tokens := np.load(path)) == len(episode):
        return tokens.astype(np.float32)
    views = [
        encoder.encode(np.stack([episode.image(camera, step) for step in range(len(episode))]))
        for camera in episode.contract.observation.cameras
    ]
    tokens = np.stack(views, 1).astype(np.float16)
    with replace_atomically(path) as partial, partial.open("wb") as file:
        np.save(file, tokens)
    return tokens.astype(np.float32)
