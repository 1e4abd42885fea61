# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning steps per second with the image features stored once, against encoding the images of every step anew.

The same model, batch size, windows and code; only where the image features come from differs. Without stored features
a step encodes the robot's images of its windows, from the JPEG files that an episode holds, and those of the human
clips it replays, for which frames of the shipped example clip stand, decoded beforehand. How much is left if only the
robot's images count, and these decoded beforehand too, is told beside it.

usage: python benchmarks/training_throughput.py [--policy arvrm_small] [--episodes FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import resource as usage
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from arvrm_ros.contract import load_contract
from arvrm_ros.data.episodes import decode_image, episode_files, read_episode
from arvrm_ros.data.video import read_video
from arvrm_ros.files import write_json
from arvrm_ros.perception.cameras import resize
from arvrm_ros.perception.image_encoder import ImageEncoder
from arvrm_ros.policies.arvrm.configuration import load_config
from arvrm_ros.resources import resource
from arvrm_ros.retrieval.database import MotionDatabase
from arvrm_ros.simulation.demonstrations import collect_robot
from arvrm_ros.training import finetune as stage
from arvrm_ros.training.dataset import RobotBatch, RobotEpisodes
from arvrm_ros.training.loop import Schedule

WARM_UP = 3
"""Steps before the clock starts."""


class Timed(RobotEpisodes):
    """The episodes as fine-tuning reads them; ``starts`` are the times at which batches were asked for."""

    starts: list[float]
    first_images: torch.Tensor

    def batch(self, rng: np.random.Generator, size: int, among: np.ndarray) -> RobotBatch:
        """Notes the time."""
        self.starts.append(time.perf_counter())
        data = super().batch(rng, size, among)
        data.images = self.features(data.images)
        if len(self.starts) == 1:
            type(self).first_images = data.images
        return data

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """What the model gets for the images of a batch."""
        return images


class Reencoding(Timed):
    """The same, with the images of each batch encoded when it is drawn."""

    decoded = False
    replayed: np.ndarray | None = None  # images (., H, W, 3) of the human clips of a step
    batch_size = 0

    def __init__(self, folder: Path, *args, **kwargs) -> None:
        super().__init__(folder, *args, **kwargs)
        self._frames: list[list] = []  # per frame of all episodes, one picture per camera
        self.images = []  # per episode the numbers of its frames, in the place of their features
        for path in episode_files(folder)[: len(self)]:
            episode = read_episode(path)
            self.images.append(len(self._frames) + np.arange(len(episode)))
            pictures = zip(*(episode.images[camera] for camera in self.contract.observation.cameras), strict=True)
            self._frames += [[self._open(p) for p in frame] if self.decoded else list(frame) for frame in pictures]

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Encodes the images that the windows show; (B, T) numbers of frames to (B, T, C, I, w)."""
        pictures = [picture for number in images.long().flatten() for picture in self._frames[number]]
        pixels = np.stack(pictures if self.decoded else [self._open(picture) for picture in pictures])
        count = len(pixels)
        if self.replayed is not None and len(images) == self.batch_size:
            pixels = np.concatenate([pixels, self.replayed])
        tokens = self.encoder.encode(pixels)[:count]  # (B T C, I, w)
        flat = self.encoder.standardised(tokens)
        return torch.from_numpy(flat).view(*images.shape, -1, *tokens.shape[1:])

    @staticmethod
    def _open(picture: bytes) -> np.ndarray:
        return decode_image(picture)


class ReencodingRobotOnly(Reencoding):
    """The same for the robot's images alone, which were decoded beforehand."""

    decoded = True


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="arvrm_small", help="a configuration with the small image encoder")
    parser.add_argument("--episodes", type=Path, help="folder of robot episodes; eight are collected if not given")
    parser.add_argument("--batch", type=int, default=64, help="windows per step")
    parser.add_argument("--steps", type=int, default=24, help="steps with stored features; a third of it without")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        episodes = args.episodes or Path(folder, "episodes")
        if not args.episodes:
            collect_robot(episodes, load_contract("tabletop"), 8, seed=0, workers=1)
        stored = _steps_per_second(Timed, episodes, Path(folder, "stored"), args, args.steps)
        peak = usage.getrusage(usage.RUSAGE_SELF).ru_maxrss / 1024
        fewer = max(2, args.steps // 3)
        robot_only = _steps_per_second(ReencodingRobotOnly, episodes, Path(folder, "robot"), args, fewer)
        Reencoding.batch_size = args.batch
        Reencoding.replayed = _human_frames(args.batch // 4 * load_config(args.policy).clip_frames)
        anew = _steps_per_second(Reencoding, episodes, Path(folder, "anew"), args, fewer)
    result = {
        "ratio_stored_features": stored / anew,
        "ratio_robot_images_only": stored / robot_only,
        "steps_per_s_stored": stored,
        "steps_per_s_reencoding": anew,
        "steps_per_s_reencoding_robot_only": robot_only,
        "max_abs_diff": float((Timed.first_images - Reencoding.first_images).abs().max()),
        "peak_rss_mb": peak,
        "batch": args.batch,
        "threads": torch.get_num_threads(),
    }
    print(
        f"{args.policy}, batch {args.batch}, {torch.get_num_threads()} threads: {stored:.2f} steps/s with stored "
        f"features, {anew:.2f} with images encoded anew: {stored / anew:.1f} times as fast "
        f"({stored / robot_only:.1f} times if only the robot's images count, decoded beforehand); {peak:.0f} MB at most"
    )
    if args.json:
        write_json(args.json, result)


def _human_frames(count: int) -> np.ndarray:
    """Images of a human clip at the encoder's size, as many as a step replays."""
    frames, _ = read_video(resource("checkpoints", "human_example.mp4"))
    side = ImageEncoder.load().config.image
    return np.stack([resize(frames[i % len(frames)], side, side) for i in range(count)])


def _steps_per_second(kind: type[Timed], episodes: Path, out: Path, args: argparse.Namespace, steps: int) -> float:
    """The median over some steps of a fine-tuning, as ``arvrm finetune`` does it."""
    kind.starts = []
    stage.RobotEpisodes = kind
    encoder = resource("checkpoints", "image_encoder.safetensors")
    database = MotionDatabase.open(resource("checkpoints", "human_motions.lance"))
    stage.finetune(
        episodes, database, encoder, None, out, load_contract("tabletop"), load_config(args.policy),
        Schedule(WARM_UP + steps, save_every=WARM_UP + steps), args.batch,
    )  # fmt: skip
    # After the last step, validation asks for a batch.
    return float(1 / np.median(np.diff(kind.starts[WARM_UP : WARM_UP + steps + 1])))


if __name__ == "__main__":
    main()
