# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Trains the small image encoder to find the simulator's named points in the images of robot episodes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from arvrm_ros.data.episodes import Episode, episode_files, read_episode
from arvrm_ros.errors import DataError
from arvrm_ros.perception.image_encoder import ImageEncoder
from arvrm_ros.simulation.scene import POINTS
from arvrm_ros.training.loop import Schedule, train

SHIFT = 6
"""Largest random shift of an image in training, pixels."""

HEAT = 0.8
"""Standard deviation of the target heat map, in cells of the feature map."""


class Frames:
    """Frames of many episodes with the places of the named points, drawn at random."""

    def __init__(self, episodes: list[Episode]) -> None:
        self.episodes = episodes
        self.index = np.array(
            [(e, step, camera) for e, ep in enumerate(episodes) for camera in range(2) for step in range(len(ep))]
        )
        self._pool = ThreadPoolExecutor(2)

    def batch(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images (N, 3, H, W) in [0, 1], points (N, P, 3) as in :class:`Episode`, lights (N, 2)."""
        items = [(self.episodes[e], step, list(self.episodes[e].images)[camera]) for e, step, camera in rows]
        images = np.stack(list(self._pool.map(lambda item: item[0].image(item[2], item[1]), items)))
        points = np.stack([episode.points[camera][step] for episode, step, camera in items])
        lights = np.stack([episode.lights[step] for episode, step, _ in items])
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


def train_encoder(episodes: Path, out: Path, schedule: Schedule, batch: int, validation: int = 40) -> dict[str, float]:
    """Trains on all episodes of a folder but the last ``validation``; writes ``out/image_encoder.safetensors``.

    Returns:
        On the episodes left out: median and mean distance of found points in pixels of the 128-pixel image, and the
        accuracy of the lights.

    Raises:
        DataError: too few episodes, or episodes without the simulator's points.
    """
    files = episode_files(episodes)
    if len(files) <= validation:
        raise DataError(f"{episodes} holds {len(files)} episodes; more than {validation} are needed")
    loaded = [read_episode(path) for path in tqdm(files, desc="reading episodes", unit="episode")]
    if any(not episode.points for episode in loaded):
        raise DataError(
            f"{episodes} has episodes without the simulator's points; only simulated ones train the encoder"
        )
    torch.manual_seed(schedule.seed)
    encoder = ImageEncoder().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if encoder.config.queries != len(POINTS):
        raise DataError(f"the encoder has {encoder.config.queries} queries for {len(POINTS)} points")
    training, held_out = Frames(loaded[:-validation]), Frames(loaded[-validation:])
    check_rows = held_out.index[np.random.default_rng(0).permutation(len(held_out.index))[:1024]]

    def losses(rng: np.random.Generator) -> dict[str, torch.Tensor]:
        images, points, lights = training.batch(training.index[rng.integers(len(training.index), size=batch)])
        images, points = _augment(images, points, rng)
        return _losses(encoder, images, points, lights)

    @torch.inference_mode()
    def validate() -> dict[str, float]:
        distances, right = [], []
        for rows in np.array_split(check_rows, 8):
            images, points, lights = held_out.batch(rows)
            result = encoder(images)
            visible = points[..., 2] > 0
            distances.append(((result["where"] - points[..., :2]).norm(dim=-1) * encoder.config.image)[visible])
            right.append(((result["lights"] > 0) == (lights > 0.5))[visible[:, -2:]])
        pixels = torch.cat(distances)
        return {
            "median_px": float(pixels.median()),
            "mean_px": float(pixels.mean()),
            "lights": float(torch.cat(right).float().mean()),
        }

    train(out, encoder, losses, schedule, "image encoder", validate)
    _standardise(encoder, training)
    encoder.save(out / "image_encoder.safetensors")
    return validate()


def _standardise(encoder: ImageEncoder, frames: Frames) -> None:
    """Stores mean and scale of the tokens, which the retrieval's visual feature is measured in."""
    rows = frames.index[np.random.default_rng(1).permutation(len(frames.index))[:2048]]
    images = (frames.batch(rows)[0] * 255).byte().permute(0, 2, 3, 1).numpy()
    tokens = torch.from_numpy(encoder.encode(images))
    encoder.mean.copy_(tokens.mean(0))
    encoder.scale.copy_(tokens.std(0).clamp(min=1e-3))
