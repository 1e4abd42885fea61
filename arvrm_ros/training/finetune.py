# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Stage 2: the pretrained model learns the robot's actions, with the retrieved clips as hints.

L = L_state + beta L_AR + replay L_pretrain. The keypoint encoder and the keypoint head stay frozen, which is the
paper's best split. L_AR asks each clip's mapped features for the state at the end of the chunk: the present one is in
f_s already, and the next one hardly differs from it, so that the map would have nothing to learn.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F

from arvrm_ros.contract import RobotContract
from arvrm_ros.errors import CheckpointError
from arvrm_ros.policies.arvrm.configuration import ArvrmConfig
from arvrm_ros.policies.arvrm.model import ArvrmModel, Retrieved
from arvrm_ros.policies.arvrm.policy import fingerprint, save_checkpoint
from arvrm_ros.retrieval.database import MotionDatabase
from arvrm_ros.retrieval.search import MotionSearch
from arvrm_ros.training.dataset import HumanClips, RobotEpisodes, check_encoders
from arvrm_ros.training.loop import Schedule, device, is_first, mean, rank_slice, train

GRIPPER_WEIGHT, PROGRESS_WEIGHT = 0.3, 0.05
TOKEN_NOISE = 0.05
"""Standard deviation added to the standardised image tokens in training."""

WITHOUT_CLIPS = 0.1
"""Share of windows trained without retrieved clips, so that an empty database does no harm."""


def finetune(
    episodes: Path,
    database: MotionDatabase | None,
    image_encoder: Path | None,
    pretrained: Path | None,
    out: Path,
    contract: RobotContract,
    config: ArvrmConfig,
    schedule: Schedule,
    batch: int,
    limit: int | None = None,
    variants: str | None = None,
    without: Collection[str] = (),
    mode: str = "database",
    validation: float = 0.03,
) -> dict[str, float]:
    """Trains and writes a checkpoint to ``out/checkpoint``.

    Args:
        image_encoder: weights of the frozen image encoder; None for those that ship, or are fetched by name.
        database: human clips for retrieval and replay; None trains without.
        pretrained: weights of stage 1; None starts from random ones.
        limit: number of robot episodes to use.
        variants: looks of the simulator's table to use; None for all.
        without: ids of tasks whose episodes are left out.
        mode: of the retrieval, for ablations.

    Returns:
        Validation figures: mean error of the chunk's positions in millimetres at its first and last step, and the
        gripper's accuracy.

    Raises:
        CheckpointError: the pretrained weights do not fit.
        DataError: an episode or the database cannot be used.
    """
    if database is not None:
        check_encoders(database, config, image_encoder)  # before episodes are encoded, which takes minutes
    robot = RobotEpisodes(episodes, image_encoder, contract, config, limit, variants, without)
    torch.manual_seed(schedule.seed)
    model = ArvrmModel(config).to(device())
    if pretrained is not None:
        _load_pretrained(model, pretrained)
    clips: HumanClips | None = None
    features: Retrieved | None = None
    if database is not None:
        search = MotionSearch(database, opposites=False)  # the paper's ranking: what the published results stand on
        clips = HumanClips(search.clips, config, image_encoder)
        if config.retrieval:
            robot.retrieve(search, 2 * config.retrieved, mode)
            features = _keypoint_features(model, clips)
            model.keypoint_encoder.requires_grad_(False)  # else the policy's features would not be those of training
    order = np.random.default_rng(0).permutation(len(robot))
    held_out, training = np.split(order, [max(1, int(len(order) * validation))])

    def losses(rng: np.random.Generator) -> dict[str, torch.Tensor]:
        own = rank_slice(batch)
        data = robot.batch(rng, batch, training)
        # All that is drawn is drawn for the whole batch, so that the processes' generators stay in step.
        data.clips = rng.permuted(data.clips, axis=1)
        without = rng.random((batch, 1)) < WITHOUT_CLIPS
        data = data.part(own, device())
        retrieved = None if features is None else _choose(features, data.clips, config.retrieved, without[own])
        seen = model.see(data.images + torch.randn_like(data.images) * TOKEN_NOISE)
        future = None if data.future is None else (data.images, data.future)
        chunk, progress, extra = model(data.text, seen, data.state, retrieved, future)
        gripper = F.binary_cross_entropy_with_logits(chunk[..., 6], data.gripper, reduction="none")
        done = F.binary_cross_entropy_with_logits(progress, data.progress.nan_to_num(), reduction="none")
        inside = data.valid[..., 0]  # (B, T)
        values = {
            "arm": mean(
                F.smooth_l1_loss(chunk[..., :6], data.action, reduction="none", beta=0.1), data.valid[..., None]
            ),
            "gripper": mean(gripper, data.valid),
            "progress": mean(done, inside * data.progress.isfinite()),
        }
        total = values["arm"] + GRIPPER_WEIGHT * values["gripper"] + PROGRESS_WEIGHT * values["progress"]
        if future is not None and extra is not None:
            values["image"] = mean(extra)
            total = total + config.replay * values["image"]
        elif extra is not None and retrieved is not None:
            weight = inside[:, :, None, None] * retrieved.present[:, None, :, None]
            values["analogy"] = mean((extra - data.later_state[:, :, None]) ** 2, weight)
            total = total + config.beta * values["analogy"]
        if clips is not None and config.replay > 0:
            values["replay"] = mean(*model.human_errors(clips.draw(rng, clips.moving, max(1, batch // 4))))
            total = total + config.replay * values["replay"]
        return values | {"total": total}

    @torch.inference_mode()
    def validate() -> dict[str, float]:
        rng = np.random.default_rng(0)
        data = robot.batch(rng, 512, held_out).part(slice(None), device())
        retrieved = None if features is None else _choose(features, data.clips, config.retrieved)
        chunk, _, _ = model(data.text, model.see(data.images), data.state, retrieved)
        scale = torch.tensor(robot.normalisation.action_scale, device=device())[:, :3]
        distance = ((chunk[..., :3] - data.action[..., :3]) * scale).norm(dim=-1) * 1000  # (B, T, N) mm
        right = ((chunk[..., 6] > 0) == (data.gripper > 0.5)).float()
        valid = data.valid
        return {
            "first_step_mm": float((distance * valid)[..., 0].sum() / valid[..., 0].sum()),
            "last_step_mm": float((distance * valid)[..., -1].sum() / valid[..., -1].sum()),
            "gripper": float((right * valid).sum() / valid.sum()),
        }

    def rate(name: str) -> float:
        return config.pretrained_rate if pretrained is not None and name in model.shared else 1.0

    train(out, model, losses, schedule, "fine-tuning", validate, rate)
    figures = validate()
    training_record: dict[str, Any] = {
        "episodes": len(robot),
        "without_tasks": sorted(without),
        "instructions": sorted(set(robot.instructions)),
        "clips": 0 if clips is None else len(clips),
        "pretrained": None if pretrained is None else fingerprint(pretrained),
        "seed": schedule.seed,
        "steps": schedule.steps,
        "batch": batch,
        "learning_rate": schedule.learning_rate,
        "validation": figures,
    }
    if is_first():
        save_checkpoint(
            out / "checkpoint", model, robot.normalisation, contract, robot.encoder, image_encoder, training_record
        )
    return figures


@torch.inference_mode()
def _keypoint_features(model: ArvrmModel, clips: HumanClips) -> Retrieved:
    """f_k and z_k of every clip, (C, F, ...): the encoder is frozen, so once is enough."""
    parts = [model.keypoint_encoder(part.to(device())) for part in clips.keypoints.split(64)]
    features, tokens = (torch.cat(values).clone() for values in zip(*parts, strict=True))
    return Retrieved(features.transpose(2, 3).contiguous(), tokens, torch.ones(len(features), device=device()))


def _choose(features: Retrieved, candidates: np.ndarray, count: int, without: np.ndarray | None = None) -> Retrieved:
    """The first J of the candidate clips (B, 2 J) per window, -1 is none; none at all where ``without`` (B, 1)."""
    there_first = np.argsort(candidates < 0, axis=1, kind="stable")
    chosen = np.take_along_axis(candidates, there_first, axis=1)[:, :count]
    present = torch.from_numpy((chosen >= 0).astype(np.float32))
    if without is not None:
        present *= torch.from_numpy(1.0 - without.astype(np.float32))
    stored = features.keypoint_features
    # NumPy gathers these tens of megabytes in a third of the time.
    f_k = torch.from_numpy(stored.numpy()[chosen]) if stored.device.type == "cpu" else stored[chosen]
    return Retrieved(f_k, features.tokens[chosen], present.to(device()))


def _load_pretrained(model: ArvrmModel, path: Path) -> None:
    try:
        model.load_pretrained(safetensors.torch.load_file(path))
    except KeyError:
        raise CheckpointError(f"{path} was made for another configuration; run 'arvrm pretrain' again") from None
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} is not a pretrained model of this configuration: {error}") from None
