# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The study of ``arvrm ablate``: its configuration, and the jobs it comes to.

A *run* is one arm (a set of changes to the policy's configuration) trained on some of the data with one seed, and
rolled out on one or several sets of chains. A *cell* is one such figure, with a fingerprint of all that decides it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from arvrm_ros.contract import load_contract
from arvrm_ros.errors import ArvrmError
from arvrm_ros.policies.arvrm.configuration import ArvrmConfig, load_config
from arvrm_ros.resources import resource
from arvrm_ros.simulation.world import TABLETOP, WORLDS

FULL, SMALL = "full", "small"
PRETRAINING = "pretraining"
ENCODER_FILE = "image_encoder.safetensors"
STAGE_2_ONLY = (
    "retrieved", "alpha", "beta", "replay", "pretrained_rate", "retrieval", "analogy", "conditional", "direct_state",
)  # fmt: skip
"""Fields of the policy's configuration that pretraining does not read; arms that differ in them alone share one."""


RECIPE = 2
"""Counts the ways of training that the configuration does not tell apart; results of an earlier one do not count.

2: instructions differ from the first step on, clips are shifted with what is in them, cameras share a token's place.
"""


class StudyError(ArvrmError):
    """A study's configuration, or the results of one, cannot be used; the message names the key or the file."""


@dataclass(frozen=True)
class Data:
    """What is trained on; whatever is missing is made.

    Attributes:
        robot, human: folders of robot episodes and of human clips.
        episodes: robot episodes of the full data; a folder may hold more.
        small_episodes: the first so many of them are the little data.
        clips: human clips; exactly so many are in the folder.
        database: the human-motion database made of them.
        image_encoder: weights file. With ``encoder_steps`` above 0 it is trained when missing, else it has to be there.
        seed: of the collections.
        variants: looks of the table in the robot episodes, in turn.
    """

    robot: str
    episodes: int
    small_episodes: int
    human: str
    clips: int
    database: str
    image_encoder: str
    encoder_steps: int = 0
    seed: int = 0
    variants: str = "ABCD"

    def count(self, amount: str) -> int:
        """Robot episodes of the full or the small data."""
        return self.episodes if amount == FULL else self.small_episodes


@dataclass(frozen=True)
class FinetuneSteps:
    """Optimiser steps of stage 2, by the amount of robot data."""

    full: int
    small: int


@dataclass(frozen=True)
class Training:
    """Optimiser steps, batches and the peak learning rate of both stages."""

    pretrain_steps: int
    finetune_steps: FinetuneSteps
    batch: int = 64
    pretrain_batch: int = 32
    learning_rate: float = 1e-3


@dataclass(frozen=True)
class Evaluation:
    """Chains per seed of training, the same ones for all arms and seeds.

    Attributes:
        max_steps: control steps per task of a chain.
        seed: of the chains.
        variants: looks of the table in the chains.
    """

    chains: int
    max_steps: int = 120
    seed: int = 0
    variants: str = "D"


@dataclass(frozen=True)
class EvaluationSet:
    """How the chains of one evaluation differ from the others'.

    Attributes:
        held_out: use paraphrases that training never saw.
        mode: of the retrieval; the arm's own if empty.
        chains: take only the first so many; 0 for all.
        own_words: follow unfamiliar instructions in their own words, not in those that training or the captions have.
    """

    held_out: bool = False
    mode: str = ""
    chains: int = 0
    own_words: bool = False


@dataclass(frozen=True)
class Arm:
    """A policy to compare.

    Attributes:
        policy: configuration, a name in ``config/policies`` or a file.
        changes: values changed in it.
        pretrained: whether fine-tuning starts from stage 1.
        human_clips: whether fine-tuning reads the human clips (retrieval, data replay).
        mode: of the retrieval, in training and in evaluation.
    """

    policy: str = "arvrm_small"
    changes: dict[str, Any] = field(default_factory=dict)
    pretrained: bool = True
    human_clips: bool = True
    mode: str = "database"

    @functools.cached_property
    def config(self) -> ArvrmConfig:
        """The whole configuration."""
        return load_config(self.policy, **self.changes)

    @functools.cached_property
    def pretraining_config(self) -> ArvrmConfig:
        """The configuration of stage 1, without what only stage 2 reads."""
        return load_config(self.policy, **{k: v for k, v in self.changes.items() if k not in STAGE_2_ONLY})


@dataclass(frozen=True)
class Runs:
    """Arms to train alike, each with every seed; those of a lower ``priority`` number come first."""

    arms: tuple[str, ...]
    data: str = FULL
    variants: str = "ABCD"
    evaluations: tuple[str, ...] = ("seen",)
    priority: int = 1


@dataclass(frozen=True)
class Study:
    """``config/studies/NAME.yaml``.

    Attributes:
        env: the world that robot episodes are collected and policies rolled out in, a name in ``WORLDS``. In CALVIN's,
            the chains are the first ones of its own evaluation. Human clips are always the tabletop's.
        out: working folder.
        results, report: the files that are written.
    """

    data: Data
    seeds: tuple[int, ...]
    training: Training
    evaluation: Evaluation
    evaluations: dict[str, EvaluationSet]
    arms: dict[str, Arm]
    runs: tuple[Runs, ...]
    robot: str = "tabletop"
    env: str = TABLETOP
    out: str = "runs/study"
    results: str = "docs/results.json"
    report: str = "docs/results.md"

    @functools.cached_property
    def shared_settings(self) -> dict[str, Any]:
        """What decides the results of all arms alike: robot, data, image encoder, and the way of training.

        Raises:
            ArvrmError: the contract or the image encoder cannot be read.
        """
        data = self.data
        encoder: dict[str, Any] = {"steps": data.encoder_steps, "episodes": data.episodes, "clips": data.clips}
        if not data.encoder_steps:
            try:
                encoder = {"file": hashlib.sha256(Path(data.image_encoder).read_bytes()).hexdigest()}
            except OSError as error:
                raise StudyError(
                    f"cannot read the image encoder {data.image_encoder} ({error.strerror}): name another file, or "
                    "give encoder_steps to have it trained"
                ) from None
        return {
            "robot": load_contract(self.robot).to_dict(),
            "encoder": encoder,
            "data_seed": data.seed,
            "recipe": RECIPE,
            "env": self.other_env,
        }

    @property
    def other_env(self) -> str:
        """Empty for the tabletop, which was the only one when the first results were made."""
        return "" if self.env == TABLETOP else self.env

    def __post_init__(self) -> None:
        from arvrm_ros.retrieval.search import MODES

        positive = {
            "data: episodes": self.data.episodes,
            "data: small_episodes": self.data.small_episodes,
            "data: clips": self.data.clips,
            "training: pretrain_steps": self.training.pretrain_steps,
            "training: finetune_steps: full": self.training.finetune_steps.full,
            "training: finetune_steps: small": self.training.finetune_steps.small,
            "training: batch": self.training.batch,
            "training: pretrain_batch": self.training.pretrain_batch,
            "training: learning_rate": self.training.learning_rate,
            "evaluation: chains": self.evaluation.chains,
            "evaluation: max_steps": self.evaluation.max_steps,
        }
        for key, value in positive.items():
            if value <= 0:
                raise StudyError(f"{key} is {value}, and has to be more than 0")
        if self.data.small_episodes > self.data.episodes:
            raise StudyError("data: small_episodes is more than episodes")
        if self.data.encoder_steps and Path(self.data.image_encoder).name != ENCODER_FILE:
            raise StudyError(f"data: image_encoder is to be trained: its file has to be called {ENCODER_FILE}")
        if self.env not in WORLDS:
            raise StudyError(f"env: unknown {self.env!r}; use one of {', '.join(WORLDS)}")
        if self.env != TABLETOP and (held_out := [n for n, e in self.evaluations.items() if e.held_out]):
            raise StudyError(f"evaluations: {held_out[0]}: CALVIN has one wording of each task; leave out held_out")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise StudyError("seeds: give at least one, and none twice")
        modes = [(f"arms: {name}", arm.mode) for name, arm in self.arms.items()]
        modes += [(f"evaluations: {name}", chosen.mode) for name, chosen in self.evaluations.items() if chosen.mode]
        for where, mode in modes:
            if mode not in MODES:
                raise StudyError(f"{where}: unknown mode {mode!r}; use {', '.join(MODES)}")
        for name, arm in self.arms.items():
            try:
                retrieval = arm.config.retrieval
            except (ArvrmError, TypeError) as error:
                raise StudyError(f"arms: {name}: {error}") from None
            if retrieval and not arm.human_clips and arm.mode != "none":
                raise StudyError(f"arms: {name}: retrieval needs human_clips, or mode: none")
        self._check_runs()

    def _check_runs(self) -> None:
        if PRETRAINING in self.evaluations:
            raise StudyError(f"evaluations: {PRETRAINING} is the name of stage 1; choose another one")
        seen: set[tuple[str, str, str, str]] = set()
        for number, runs in enumerate(self.runs, 1):
            where = f"runs: entry {number}"
            for kind, names, known in (
                ("arm", runs.arms, list(self.arms)),
                ("data", (runs.data,), [FULL, SMALL]),
                ("evaluation", runs.evaluations, list(self.evaluations)),
                ("variant", tuple(runs.variants), list("ABCD")),
            ):
                for name in names:
                    if name not in known:
                        raise StudyError(f"{where}: unknown {kind} {name!r}; known are {', '.join(known)}")
                if not names:
                    raise StudyError(f"{where}: no {kind} is given")
            for arm in runs.arms:
                for evaluation in runs.evaluations:
                    cell = (arm, runs.data, runs.variants, evaluation)
                    if cell in seen:
                        raise StudyError(f"{where}: {', '.join(cell)} is asked for twice")
                    seen.add(cell)


def load_study(name_or_path: str | Path) -> Study:
    """Reads ``config/studies/NAME.yaml``, or the YAML file at a path.

    Raises:
        StudyError: no such file, not YAML, or invalid; the message names the key.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = resource("config", "studies", f"{name_or_path}.yaml")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(sorted(p.stem for p in resource("config", "studies").glob("*.yaml")))
        raise StudyError(f"cannot read {path} ({error.strerror}): give a YAML file, or one of {known}") from None
    except yaml.YAMLError as error:
        raise StudyError(f"{path} is not YAML: {error}") from None
    return study_from_dict(values, str(path))


def study_from_dict(values: Any, where: str = "study") -> Study:
    """Builds and validates a study from plain data.

    Raises:
        StudyError: a key is missing, unknown, of the wrong type or out of range; the message names it.
    """
    try:
        return _build(Study, values, "")
    except StudyError as error:
        raise StudyError(f"{where}: {error}") from None


def _build(kind: Any, value: Any, where: str) -> Any:
    """Converts plain data to the annotated type, naming the key of whatever does not fit."""
    prefix = f"{where}: " if where else ""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise StudyError(f"{prefix}expected keys and values, not {value!r}")
        hints = typing.get_type_hints(kind)
        unknown = sorted(str(key) for key in value if key not in hints)
        if unknown:
            raise StudyError(f"{prefix}unknown {', '.join(unknown)}; known are {', '.join(hints)}")
        missing = [
            f.name
            for f in dataclasses.fields(kind)
            if f.name not in value and f.default is f.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise StudyError(f"{prefix}missing {', '.join(missing)}")
        parts = {key: _build(hints[key], item, f"{prefix}{key}") for key, item in value.items()}
        return typing.cast(Any, kind)(**parts)
    if typing.get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise StudyError(f"{prefix}expected names and values, not {value!r}")
        inner = typing.get_args(kind)[1]
        # An arm without any change is written `full:`, which YAML reads as None.
        return {
            str(key): _build(inner, {} if item is None and inner is not Any else item, f"{prefix}{key}")
            for key, item in value.items()
        }
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise StudyError(f"{prefix}expected a list, not {value!r}")
        return tuple(
            _build(typing.get_args(kind)[0], item, f"{prefix}entry {number}") for number, item in enumerate(value, 1)
        )
    if kind is Any or type(value) is kind:
        return value
    if kind is float and type(value) is int:
        return float(value)
    raise StudyError(f"{prefix}{value!r} is not {'a text' if kind is str else f'of type {kind.__name__}'}")


class Cell(NamedTuple):
    """One figure of the study. For pretraining, ``evaluation`` is "pretraining" and ``arm`` its configuration."""

    arm: str
    data: str
    variants: str
    evaluation: str
    seed: int

    def __str__(self) -> str:
        if self.evaluation == PRETRAINING:
            return f"pretraining of {self.arm}, seed {self.seed}"
        return f"{self.arm}, {self.data} data, {self.variants}, seed {self.seed}"


def fingerprint(settings: Any) -> str:
    """Twelve hexadecimal digits of everything that decides a result.

    Values that are off (False, 0, empty) are left out: a switch that is added later, and is off, does not make old
    results stale.
    """
    text = json.dumps(_switched_on(settings), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _switched_on(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: on for key, item in value.items() if (on := _switched_on(item))}
    return [_switched_on(item) for item in value] if isinstance(value, (list, tuple)) else value


def pretraining_settings(study: Study, arm: Arm, seed: int) -> dict[str, Any]:
    """All that decides the result of stage 1."""
    return study.shared_settings | {
        "policy": {k: v for k, v in dataclasses.asdict(arm.pretraining_config).items() if k not in STAGE_2_ONLY},
        "steps": study.training.pretrain_steps,
        "batch": study.training.pretrain_batch,
        "learning_rate": study.training.learning_rate,
        "clips": study.data.clips,
        "seed": seed,
    }


def training_settings(study: Study, arm: Arm, data: str, variants: str, seed: int) -> dict[str, Any]:
    """All that decides what a run trains."""
    return study.shared_settings | {
        "policy": dataclasses.asdict(arm.config),
        "pretraining": pretraining_settings(study, arm, seed) if arm.pretrained else None,
        "clips": study.data.clips if arm.human_clips else 0,
        "mode": arm.mode if arm.human_clips else "",
        "episodes": study.data.count(data),
        "variants": variants,
        "steps": getattr(study.training.finetune_steps, data),
        "batch": study.training.batch,
        "learning_rate": study.training.learning_rate,
        "seed": seed,
    }


def scenes(study: Study) -> str:
    """Fingerprint of scenes and tasks of the chains. Figures with the same one can be paired, chain by chain."""
    chosen = study.evaluation
    return fingerprint({"seed": chosen.seed, "variants": chosen.variants, "env": study.other_env})


def chain_count(study: Study, evaluation: str) -> int:
    """Chains per seed of an evaluation."""
    return study.evaluations[evaluation].chains or study.evaluation.chains


def retrieval_mode(study: Study, arm: Arm, evaluation: str) -> str:
    """Mode of the retrieval while an arm is rolled out."""
    if not arm.config.retrieval:
        return "none"
    return study.evaluations[evaluation].mode or arm.mode


def evaluation_settings(study: Study, arm: Arm, evaluation: str) -> dict[str, Any]:
    """All that decides how a chain of an evaluation ends, the weights aside; the number of chains does not."""
    mode = retrieval_mode(study, arm, evaluation)
    return {
        "scenes": scenes(study),
        "held_out": study.evaluations[evaluation].held_out,
        "mode": mode,
        "max_steps": study.evaluation.max_steps,
        "opposites_last": mode != "none",
        "rewords": rewords(study, arm, evaluation),
    }


def rewords(study: Study, arm: Arm, evaluation: str) -> bool:
    """Whether an arm reads unfamiliar instructions in familiar words while it is rolled out.

    On the tabletop, whose study came first, those were the captions' alone, which only arms that search clips have.
    """
    searches = retrieval_mode(study, arm, evaluation) != "none"
    return (searches or study.env != TABLETOP) and not study.evaluations[evaluation].own_words


@dataclass(frozen=True)
class Job:
    """What one process does: stage 1, or one run with some of its evaluations.

    Attributes:
        cell: the run; ``evaluation`` is "pretraining" or the first of ``evaluations``.
        arm: its settings.
        folder: name of the run's folder, with the fingerprint of the training.
        needs: name of the folder whose pretraining this one starts from; empty for none.
        evaluations: name to the fingerprint of the result.
        steps: of the optimiser.
    """

    cell: Cell
    arm: Arm
    folder: str
    needs: str
    evaluations: dict[str, str]
    steps: int

    @property
    def is_pretraining(self) -> bool:
        """Whether this is stage 1."""
        return self.cell.evaluation == PRETRAINING


def expand(study: Study) -> list[Job]:
    """All jobs of a study: by priority, then whole seeds together, then as they are listed.

    A job comes after the pretraining it needs; a run that is listed twice, with other evaluations, has two jobs with
    one folder.
    """
    jobs: dict[tuple[str, Cell], Job] = {}
    order = [
        (runs.priority, place, entry, seed)
        for entry, runs in enumerate(study.runs)
        for place, seed in enumerate(study.seeds)
    ]
    for _, _, entry, seed in sorted(order):
        runs = study.runs[entry]
        for name in runs.arms:
            needs = ""
            if study.arms[name].pretrained:
                pretraining = _pretraining_job(study, study.arms[name], seed)
                jobs.setdefault((pretraining.folder, pretraining.cell), pretraining)
                needs = pretraining.folder
            job = _policy_job(study, name, runs, seed, needs)
            jobs[job.folder, job.cell] = job
    return list(jobs.values())


def _pretraining_job(study: Study, arm: Arm, seed: int) -> Job:
    name = Path(arm.policy).stem
    changes = [f"{k}={v}" for k, v in sorted(arm.changes.items()) if k not in STAGE_2_ONLY]
    digest = fingerprint(pretraining_settings(study, arm, seed))
    cell = Cell(" ".join([name, *changes]), "", "", PRETRAINING, seed)
    folder = f"stage1-{name}-s{seed}-{digest}"
    return Job(cell, arm, folder, "", {PRETRAINING: digest}, study.training.pretrain_steps)


def _policy_job(study: Study, name: str, runs: Runs, seed: int, needs: str) -> Job:
    arm = study.arms[name]
    digest = fingerprint(training_settings(study, arm, runs.data, runs.variants, seed))
    evaluations = {
        evaluation: fingerprint(
            evaluation_settings(study, arm, evaluation) | {"training": digest, "chains": chain_count(study, evaluation)}
        )
        for evaluation in runs.evaluations
    }
    cell = Cell(name, runs.data, runs.variants, runs.evaluations[0], seed)
    folder = f"{name}-{runs.data}-{runs.variants}-s{seed}-{digest}"
    return Job(cell, arm, folder, needs, evaluations, getattr(study.training.finetune_steps, runs.data))


def planned(study: Study) -> dict[Cell, str]:
    """Every cell of a study, and the fingerprint its result has to have."""
    return {
        job.cell._replace(evaluation=evaluation): digest
        for job in expand(study)
        for evaluation, digest in job.evaluations.items()
    }
