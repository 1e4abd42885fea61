# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Stage 1: the keypoint vision-language model learns from human clips where a hand's keypoints go next."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from arvrm_ros.errors import DataError
from arvrm_ros.files import replace_atomically
from arvrm_ros.policies.arvrm.configuration import ArvrmConfig
from arvrm_ros.policies.arvrm.model import Backbone
from arvrm_ros.policies.arvrm.processor import KEYPOINT_SCALE
from arvrm_ros.retrieval.database import MotionDatabase
from arvrm_ros.training.dataset import HumanClips, check_encoders
from arvrm_ros.training.loop import Schedule, device, is_first, mean, train

WEIGHTS = "pretrained.safetensors"
IMAGE_WIDTH = 640
"""Pixels: the width errors are reported for; keypoints are stored in parts of the image."""

PALM = 95.0
"""Millimetres from wrist to middle knuckle of an adult hand of 18.5 cm: what gives a picture of a hand its scale."""


def pretrain(
    database: MotionDatabase,
    image_encoder: Path | None,
    out: Path,
    config: ArvrmConfig,
    schedule: Schedule,
    batch: int,
    validation: float = 0.1,
) -> dict[str, float]:
    """Trains on the database's clips but a part kept for validation; writes ``out/pretrained.safetensors``.

    Args:
        image_encoder: see :class:`HumanClips`.

    Returns:
        Validation errors, means over the keypoints seen: the model's, and those of the two obvious guesses: the last
        keypoints again, and the last motion again. ``_px`` are pixels of a 640-pixel image, ``_mm`` the same in the
        plane of the image at the hand's own scale, with :data:`PALM` as its ruler. For GR-1's recipe, the image loss
        and that of the last image again.

    Raises:
        DataError: the database cannot be used, or was made with another image encoder.
    """
    check_encoders(database, config, image_encoder)
    clips = HumanClips(database.clips(), config, image_encoder)
    order = np.random.default_rng(0).permutation(clips.moving)
    held_out, training = np.split(order, [max(1, int(len(order) * validation))])
    if not len(training):
        raise DataError(f"the motion database holds {len(order)} clips with motion; at least 2 are needed")
    torch.manual_seed(schedule.seed)
    model = Backbone(config).to(device())

    def losses(rng: np.random.Generator) -> dict[str, torch.Tensor]:
        return {"total": mean(*model.human_errors(clips.draw(rng, training, batch)))}

    @torch.inference_mode()
    def validate() -> dict[str, float]:
        chosen = clips.take(held_out)
        if config.objective == "images":
            return {
                "image_loss": float(model.human_errors(chosen)[0].mean()),
                "last_image_loss": float(((chosen.images[:, 1:] - chosen.images[:, :-1]) ** 2).mean()),
            }
        k = chosen.keypoints[..., :3]  # (C, F, K, 3)
        visible = chosen.keypoints[..., 3]
        seen = (visible[:, 2:] * visible[:, 1:-1] * visible[:, :-2]) > 0  # (C, F - 2, K)
        palm = (k[:, 2:, 9] - k[:, 2:, 0]).norm(dim=-1, keepdim=True).clamp(min=0.05)  # (C, F - 2, 1)

        def errors(name: str, guess: torch.Tensor) -> dict[str, float]:
            distance = (guess - k[:, 2:])[..., :2].norm(dim=-1)
            return {
                f"{name}_px": float(distance[seen].mean()) / KEYPOINT_SCALE * IMAGE_WIDTH,
                f"{name}_mm": float((distance / palm)[seen].mean()) * PALM,
            }

        return (
            errors("model", model.next_keypoints(chosen)[:, 1:])
            | errors("last_keypoints", k[:, 1:-1])
            | errors("constant_velocity", 2 * k[:, 1:-1] - k[:, :-2])
        )

    train(out, model, losses, schedule, "pretraining", validate)
    if is_first():
        with replace_atomically(out / WEIGHTS) as partial:
            safetensors.torch.save_file({n: v.cpu().contiguous() for n, v in model.state_dict().items()}, partial)
    return validate() | {"clips": len(order), "clips_without_motion": len(clips) - len(order)}
