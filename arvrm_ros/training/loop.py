# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The training loop all stages share: cosine schedule, progress bar, TensorBoard and JSON log, resumable."""

from __future__ import annotations

import json
import math
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from arvrm_ros.errors import CheckpointError
from arvrm_ros.files import replace_atomically

LOG_EVERY = 20
"""Steps between two points of TensorBoard's training curves."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        steps: optimiser steps.
        learning_rate: peak, reached after ``warmup`` steps and annealed to zero on a cosine.
        weight_decay: AdamW's.
        seed: of initialisation and of every batch.
        clip: maximum norm of the gradient.
        save_every: steps between two saved states; at most so many are lost when the process is killed.
    """

    steps: int
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup: int = 100
    seed: int = 0
    clip: float = 1.0
    save_every: int = 200


def train(
    out: Path,
    model: nn.Module,
    losses: Callable[[np.random.Generator], dict[str, torch.Tensor]],
    schedule: Schedule,
    description: str,
    validate: Callable[[], dict[str, float]] | None = None,
) -> None:
    """Trains a model in place; goes on from ``out/state.pt`` when it is there.

    Each batch is drawn from a generator of (seed, step): an interrupted run ends where an uninterrupted one does.

    Args:
        out: folder for ``state.pt``, ``log.jsonl`` and TensorBoard's events.
        losses: draws a batch and returns named losses; ``total`` is minimised.
        validate: called at every save, with the model in evaluation mode.

    Raises:
        CheckpointError: ``state.pt`` is damaged or belongs to another model.
    """
    out.mkdir(parents=True, exist_ok=True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, schedule.learning_rate, weight_decay=schedule.weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, schedule))
    first = _resume(out / "state.pt", model, optimizer, scheduler)
    with (
        SummaryWriter(str(out)) as board,
        tqdm(total=schedule.steps, initial=first, unit="step", desc=description, mininterval=1.0) as bar,
    ):
        for step in range(first, schedule.steps):
            model.train()
            torch.manual_seed(schedule.seed * 1_000_003 + step)
            values = losses(np.random.default_rng([schedule.seed, step]))
            optimizer.zero_grad(set_to_none=True)
            values["total"].backward()
            norm = nn.utils.clip_grad_norm_(parameters, schedule.clip)
            if not torch.isfinite(norm):
                raise CheckpointError(
                    f"{description}: the loss is not finite at step {step}; look for bad data, or learn slower"
                )
            optimizer.step()
            scheduler.step()
            bar.update()
            done = step + 1
            saving = done % schedule.save_every == 0 or done == schedule.steps
            if done % LOG_EVERY == 0 or saving:
                logged = {name: float(value.detach()) for name, value in values.items()}
                bar.set_postfix({name: f"{value:.4f}" for name, value in logged.items()})
                for name, value in logged.items():
                    board.add_scalar(f"train/{name}", value, done)
            if saving:
                if validate is not None:
                    model.eval()
                    for name, value in validate().items():
                        logged[f"validation_{name}"] = value
                        board.add_scalar(f"validation/{name}", value, done)
                with (out / "log.jsonl").open("a", encoding="utf-8") as log:
                    log.write(json.dumps({"step": done} | {k: round(v, 6) for k, v in logged.items()}) + "\n")
                with replace_atomically(out / "state.pt") as partial:
                    torch.save(
                        {
                            "step": done,
                            "model": model.state_dict(),
                            "optimizer": optimizer.state_dict(),
                            "scheduler": scheduler.state_dict(),
                        },
                        partial,
                    )
    model.eval()


def _rate(step: int, schedule: Schedule) -> float:
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    progress = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _resume(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LambdaLR
) -> int:
    if not path.is_file():
        return 0
    try:
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
    except (RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"cannot go on from {path}: {error}; remove the folder to start anew") from None
    return int(state["step"])
