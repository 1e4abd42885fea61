# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The training loop all stages share: cosine schedule, progress bar, TensorBoard and JSON log, resumable.

It runs in one process, or in several: ``torchrun --nproc-per-node 2 -m arvrm_ros pretrain ...``. Every process draws
the same whole batch from (seed, step), keeps its :func:`rank_slice` of it and takes means with :func:`mean`; losses
and gradients are averaged over the processes. The result is that of one process up to rounding and to what dropout
draws, also where masks leave the slices with different numbers of values. A stage that does not slice its batch does
the same work in every process: right as well, but no faster.

DistributedDataParallel is not used: it averages the means of slices where the mean of all is wanted, has to be told
of parts that a step leaves unused, and wraps the model. One all_reduce of all gradients does.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import math
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from arvrm_ros.errors import ArvrmError, CheckpointError, DataError
from arvrm_ros.files import replace_atomically, write_text

STATE, LOG = "state.pt", "log.jsonl"
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


@functools.cache
def processes() -> tuple[int, int]:
    """Rank of this process and number of processes; the first call joins the others if ``torchrun`` started it.

    Raises:
        ArvrmError: more processes than GPUs on this machine.
    """
    if "MASTER_ADDR" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1
    if torch.cuda.is_available():
        local, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= gpus:
            raise ArvrmError(f"more training processes than GPUs on this machine: use --nproc-per-node {gpus}")
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(dist.destroy_process_group)
    return dist.get_rank(), dist.get_world_size()


def is_first() -> bool:
    """Whether this process writes the files and prints: rank 0, or the only one."""
    return processes()[0] == 0


def device() -> torch.device:
    """Where to train: this process's GPU, or the CPU."""
    processes()  # chooses the GPU
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def rank_slice(size: int) -> slice:
    """This process's part of a batch that all processes drew alike; all of it when there is one process.

    Raises:
        DataError: there are more processes than items.
    """
    rank, number = processes()
    if size < number:
        raise DataError(f"a batch of {size} cannot be shared by {number} processes: use a larger batch")
    return slice(rank * size // number, (rank + 1) * size // number)


def mean(values: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean over the slices of all processes, as a scalar to make a loss of; 0 when nothing counts.

    Each process gets its own share of it, times the number of processes: the average over the processes, which
    :func:`train` takes of losses and gradients, is the mean. Every process has to call it equally often.

    Args:
        values: any shape; finite also where they do not count.
        mask: weights of a shape that expands to that of ``values``; None counts all.
    """
    weights = torch.ones_like(values) if mask is None else mask.to(values.dtype).expand_as(values)
    count = weights.sum(dtype=torch.float32).detach()
    number = processes()[1]
    if number > 1:
        dist.all_reduce(count)
    return (values * weights).sum() * number / count.clamp(min=1)


def train(
    out: Path,
    model: nn.Module,
    losses: Callable[[np.random.Generator], dict[str, torch.Tensor]],
    schedule: Schedule,
    description: str,
    validate: Callable[[], dict[str, float]] | None = None,
    rate: Callable[[str], float] = lambda name: 1.0,
) -> None:
    """Trains a model in place; goes on from ``out/state.pt`` when it is there.

    Each batch is drawn from a generator of (seed, step): an interrupted run ends where an uninterrupted one does.

    Args:
        out: folder for ``state.pt``, ``log.jsonl`` and TensorBoard's events; processes on several machines share it.
        losses: draws a batch and returns named losses; ``total`` is minimised. With several processes all get the
            same generator, while torch's own, which dropout uses, differs.
        validate: called at every save, by every process, with the model in evaluation mode.
        rate: share of the learning rate that a parameter gets, by its name.

    Raises:
        CheckpointError: ``state.pt`` is damaged or belongs to another model, or the loss is not finite.
        DataError: the folder cannot be written to; the last saved state is intact then.
    """
    rates: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rates.setdefault(rate(name), []).append(parameter)
    parameters = [parameter for group in rates.values() for parameter in group]
    groups = [{"params": group, "lr": share * schedule.learning_rate} for share, group in rates.items()]
    optimizer = torch.optim.AdamW(groups, fused=True, weight_decay=schedule.weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, schedule))
    first = _resume(out / STATE, model, optimizer, scheduler)
    _check_alike(out, first, model)
    rank = processes()[0]
    with (
        _Record(out, first) if rank == 0 else contextlib.nullcontext() as record,
        tqdm(
            total=schedule.steps, initial=first, unit="step", desc=description, mininterval=1.0, disable=rank > 0
        ) as bar,
    ):
        for step in range(first, schedule.steps):
            model.train()
            torch.manual_seed(schedule.seed * 1_000_003 + step + (rank << 40))
            values = losses(np.random.default_rng([schedule.seed, step]))
            optimizer.zero_grad(set_to_none=True)
            values["total"].backward()
            values = _average(parameters, values)
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
            if done % LOG_EVERY and not saving:
                continue
            figures = {f"train/{name}": float(value) for name, value in values.items()}
            bar.set_postfix({name.removeprefix("train/"): f"{value:.4f}" for name, value in figures.items()})
            if saving and validate is not None:
                model.eval()
                figures |= {f"validation/{name}": value for name, value in validate().items()}
            if record is not None:
                record.plot(done, figures)
                if saving:
                    record.save(done, figures, model, optimizer, scheduler)
    model.eval()


class _Record:
    """The files of a run in its folder."""

    def __init__(self, out: Path, first: int) -> None:
        """Goes on at step ``first``: what a killed run wrote after its last saved state goes, to be written again."""
        self.out, self.saved = out, first
        log = out / LOG
        with self._writing():
            out.mkdir(parents=True, exist_ok=True)
            for partial in out.glob(f".{STATE}.*.part"):
                partial.unlink(missing_ok=True)
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines(True) if log.is_file() else []
            kept = [line for line in lines if _logged_step(line) <= first]
            if kept != lines:
                write_text(log, "".join(kept))
            self._board = SummaryWriter(str(out), purge_step=first + 1)

    def __enter__(self) -> _Record:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # What stopped the training says more than a second error from here.
        with contextlib.suppress(OSError) if kind else self._writing():
            self._board.close()

    def plot(self, done: int, figures: dict[str, float]) -> None:
        """Adds points to TensorBoard's curves."""
        with self._writing():
            for name, value in figures.items():
                self._board.add_scalar(name, value, done)

    def save(
        self,
        done: int,
        figures: dict[str, float],
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LambdaLR,
    ) -> None:
        """Adds a line to the log, then saves the state: the log never lacks a step that was saved."""
        line = {name.removeprefix("train/").replace("/", "_"): float(f"{v:.7g}") for name, v in figures.items()}
        with self._writing():
            with (self.out / LOG).open("a", encoding="utf-8") as log:
                log.write(json.dumps({"step": done} | line) + "\n")
            with replace_atomically(self.out / STATE) as partial:
                torch.save(
                    {
                        "step": done,
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "scheduler": scheduler.state_dict(),
                    },
                    partial,
                )
        self.saved = done

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # torch.save tells of a full disk by a RuntimeError
            raise DataError(
                f"cannot write to {self.out} ({str(error).splitlines()[0]}): make room there and run the same command "
                f"again; it goes on from step {self.saved}"
            ) from None


def _logged_step(line: str) -> float:
    """The step of a line of the log; infinity if the line is not whole."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


def _average(parameters: list[nn.Parameter], values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Averages over the processes, in one message: gradients, in place, and losses, which are returned detached."""
    values = {name: value.detach() for name, value in values.items()}
    number = processes()[1]
    if number == 1:
        return values
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    used = torch.tensor([float(p.grad is not None) for p in parameters], device=gradients[0].device)
    own = torch.cat([*(g.flatten() for g in gradients), used, torch.stack([v.float() for v in values.values()])])
    dist.all_reduce(own)
    *gradients, used, averages = (own / number).split([*(g.numel() for g in gradients), len(used), len(values)])
    for p, gradient, use in zip(parameters, gradients, used.tolist(), strict=True):
        p.grad = gradient.view_as(p) if use else None  # the optimiser leaves alone what no process used
    return dict(zip(values, averages, strict=True))


def _check_alike(out: Path, first: int, model: nn.Module) -> None:
    """Stops processes that do not begin with the same model, which nothing would ever bring together."""
    if processes()[1] == 1:
        return
    own = torch.stack([p.detach().double().sum() for p in model.parameters()])
    own = torch.cat([own, own.new_tensor([first])])
    theirs = own.clone()
    dist.broadcast(theirs, 0)
    if not torch.allclose(own, theirs):
        raise CheckpointError(
            f"the training processes do not begin alike, at step {first} here and {int(theirs[-1])} in the first: "
            f"{out} has to be one folder that all machines share"
        )


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
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
    except (RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"cannot go on from {path}: {error}; remove the folder to start anew") from None
    return int(state["step"])
