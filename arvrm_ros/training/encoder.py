# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Trains the small image encoder to find the simulator's named points in images of robot episodes and human clips."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from arvrm_ros.data.clips import clip_folders, read_clip
from arvrm_ros.data.episodes import decode_image, encode_image, episode_files, read_episode
from arvrm_ros.errors import DataError
from arvrm_ros.perception.image_encoder import ImageEncoder
from arvrm_ros.simulation.scene import POINTS
from arvrm_ros.training.loop import Schedule, train

SHIFT = 6
"""Largest random shift of an image in training, pixels."""

HEAT = 0.8
"""Standard deviation of the target heat map, in cells of the feature map."""


@dataclass
class Pictures:
    """T pictures of one camera (JPEG), and where the named points are in them, as in ``Episode``."""

    images: list[bytes]
    points: np.ndarray
    lights: np.ndarray


class Frames:
    """Frames of many episodes and clips with the places of the named points, drawn at random."""

    def __init__(self, sources: list[Pictures]) -> None:
        self.sources = sources
        self.index = np.array([(s, step) for s, source in enumerate(sources) for step in range(len(source.images))])
        self._pool = ThreadPoolExecutor(2)

    def batch(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images (N, 3, H, W) in [0, 1], points (N, P, 3) as in ``Episode``, lights (N, 2)."""
        items = [(self.sources[s], step) for s, step in rows]
        images = np.stack(list(self._pool.map(lambda item: decode_image(item[0].images[item[1]]), items)))
        points = np.stack([source.points[step] for source, step in items])
        lights = np.stack([source.lights[step] for source, step in items])
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        return pixels.contiguous(memory_format=torch.channels_last), torch.from_numpy(points), torch.from_numpy(lights)


def _augment(images: torch.Tensor, points: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Shifts all images of a batch alike, and changes brightness and tint of each."""
    dx, dy = (int(v) for v in rng.integers(-SHIFT, SHIFT + 1, 2))
    size = images.shape[-1]
    padded = F.pad(images, (SHIFT,) * 4, mode="replicate")
    images = padded[..., SHIFT - dy : SHIFT - dy + size, SHIFT - dx : SHIFT - dx + size]
    points = points.clone()
    points[..., 0] += dx / size
    points[..., 1] += dy / size
    within = ((points[..., :2] > 0) & (points[..., :2] < 1)).all(-1)
    points[..., 2] *= within
    gain = torch.from_numpy(rng.uniform(0.8, 1.2, (len(images), 3, 1, 1)).astype(np.float32))
    return (images * gain).clamp(0, 1).contiguous(memory_format=torch.channels_last), points


def _losses(encoder: ImageEncoder, images: torch.Tensor, points: torch.Tensor, lights: torch.Tensor) -> dict:
    out = encoder(images)
    visible = points[..., 2]  # (N, P)
    count = visible.sum().clamp(min=1)
    height, width = out["logits"].shape[-2:]
    xs = torch.arange(width) + 0.5
    ys = torch.arange(height) + 0.5
    dx = xs - points[..., 0:1] * width  # (N, P, w)
    dy = ys - points[..., 1:2] * height  # (N, P, h)
    heat = torch.exp(-(dx[:, :, None, :] ** 2 + dy[..., None] ** 2) / (2 * HEAT**2)).flatten(2)  # (N, P, h w)
    heat = heat / heat.sum(-1, keepdim=True).clamp(min=1e-6)
    heat_loss = -(heat * out["logits"].flatten(2).log_softmax(-1)).sum(-1)
    where_loss = (out["where"] - points[..., :2]).abs().sum(-1)
    lights_seen = visible[:, -2:]
    light_loss = F.binary_cross_entropy_with_logits(out["lights"], lights, reduction="none")
    values = {
        "heat": (heat_loss * visible).sum() / count,
        "where": (where_loss * visible).sum() / count,
        "seen": F.binary_cross_entropy_with_logits(out["seen"], visible),
        "lights": (light_loss * lights_seen).sum() / lights_seen.sum().clamp(min=1),
    }
    values["total"] = values["heat"] + 20 * values["where"] + values["seen"] + values["lights"]
    return values


def train_encoder(
    episodes: Path, clips: Path | None, out: Path, schedule: Schedule, batch: int, validation: float = 0.03
) -> dict[str, float]:
    """Trains on robot episodes and human clips but a part kept out; writes ``out/image_encoder.safetensors``.

    Args:
        episodes: folder of simulated robot episodes.
        clips: folder of simulated human clips, so that the encoder also knows the views that people film from.
        validation: share of the episodes and of the clips that is kept out.

    Returns:
        On what was kept out, of robots and humans apart: median and mean distance of found points in pixels of the
        128-pixel image, and the accuracy of the lights.

    Raises:
        DataError: too little data, or data without the simulator's points.
    """
    groups = {"robot": _episodes(episodes)} | ({"human": _clips(clips)} if clips else {})
    training_pictures, held_out = [], {}
    for name, group in groups.items():
        count = max(1, int(len(group) * validation))
        if len(group) <= count:
            raise DataError(f"{len(group)} {name} recordings are too few to train an image encoder")
        training_pictures += [pictures for recording in group[:-count] for pictures in recording]
        held_out[name] = Frames([pictures for recording in group[-count:] for pictures in recording])
    torch.manual_seed(schedule.seed)
    encoder = ImageEncoder().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if encoder.config.queries != len(POINTS):
        raise DataError(f"the encoder has {encoder.config.queries} queries for {len(POINTS)} points")
    training = Frames(training_pictures)

    def losses(rng: np.random.Generator) -> dict[str, torch.Tensor]:
        images, points, lights = training.batch(training.index[rng.integers(len(training.index), size=batch)])
        images, points = _augment(images, points, rng)
        return _losses(encoder, images, points, lights)

    @torch.inference_mode()
    def validate() -> dict[str, float]:
        figures: dict[str, float] = {}
        for name, frames in held_out.items():
            rows = frames.index[np.random.default_rng(0).permutation(len(frames.index))[:1024]]
            distances, right = [], []
            for part in np.array_split(rows, 8):
                images, points, lights = frames.batch(part)
                result = encoder(images)
                visible = points[..., 2] > 0
                distances.append(((result["where"] - points[..., :2]).norm(dim=-1) * encoder.config.image)[visible])
                right.append(((result["lights"] > 0) == (lights > 0.5))[visible[:, -2:]])
            pixels = torch.cat(distances)
            figures |= {
                f"{name}_median_px": float(pixels.median()),
                f"{name}_mean_px": float(pixels.mean()),
                f"{name}_lights": float(torch.cat(right).float().mean()),
            }
        return figures

    train(out, encoder, losses, schedule, "image encoder", validate)
    _standardise(encoder, training)
    encoder.save(out / "image_encoder.safetensors")
    return validate()


def _episodes(folder: Path) -> list[list[Pictures]]:
    """The pictures of each episode, one entry per camera."""
    recordings = []
    for path in tqdm(episode_files(folder), desc="reading episodes", unit="episode"):
        episode = read_episode(path)
        if not episode.points:
            raise DataError(f"{path} is without the simulator's points; only simulated episodes train the encoder")
        recordings.append([Pictures(episode.images[c], episode.points[c], episode.lights) for c in episode.images])
    return recordings


def _clips(folder: Path) -> list[list[Pictures]]:
    """The pictures of each human clip, at the encoder's size."""
    recordings = []
    size = (ImageEncoder().config.image,) * 2
    for path in tqdm(clip_folders(folder), desc="reading clips", unit="clip"):
        clip = read_clip(path)
        if clip.truth is None or clip.truth.points is None or clip.truth.lights is None:
            raise DataError(f"{path} is without the simulator's points; only simulated clips train the encoder")
        images = [encode_image(cv2.resize(f, size, interpolation=cv2.INTER_AREA)) for f in clip.frames()[0]]
        recordings.append([Pictures(images, clip.truth.points, clip.truth.lights)])
    return recordings


def _standardise(encoder: ImageEncoder, frames: Frames) -> None:
    """Stores mean and scale of the tokens, which the retrieval's visual feature is measured in."""
    rows = frames.index[np.random.default_rng(1).permutation(len(frames.index))[:2048]]
    images = (frames.batch(rows)[0] * 255).byte().permute(0, 2, 3, 1).numpy()
    tokens = torch.from_numpy(encoder.encode(images))
    encoder.mean.copy_(tokens.mean(0))
    encoder.scale.copy_(tokens.std(0).clamp(min=1e-3))
