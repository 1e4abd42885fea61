# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Rolls a policy out in the embedded simulator, through the same retrieval and the same executor as the nodes use."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from arvrm_ros.contract import RobotContract
from arvrm_ros.errors import MotionRefused
from arvrm_ros.files import write_json
from arvrm_ros.motion.executor import ChunkExecutor
from arvrm_ros.perception.image_encoder import ImageEncoder
from arvrm_ros.perception.text_encoder import TextEncoder
from arvrm_ros.policies import Policy, load_policy
from arvrm_ros.retrieval.database import MotionDatabase
from arvrm_ros.retrieval.search import MotionSearch
from arvrm_ros.simulation.demonstrations import EVALUATION_SEEDS
from arvrm_ros.simulation.scene import VARIANTS
from arvrm_ros.simulation.tabletop import Tabletop
from arvrm_ros.simulation.tasks import TASKS
from arvrm_ros.workers import process_pool

CYCLE = 0.01
"""Seconds between two joint commands."""

LATENCY = 0.05
"""Seconds from an observation to the arrival of its chunk, about what the nodes take."""


@dataclass(frozen=True)
class Trial:
    """One episode to roll out; ``held_out`` takes a paraphrase that training never saw."""

    task: str
    variant: str
    seed: int
    held_out: bool = False


@dataclass
class Outcome:
    """What came of a trial.

    Attributes:
        steps: control steps until success or the end.
        refused: chunks the executor refused; ``reason`` is the last one's.
        retrieved_right: share of the retrieved clips that show the same task; None without retrieval.
    """

    task: str
    kind: str
    variant: str
    seed: int
    instruction: str
    success: bool
    steps: int
    refused: int = 0
    reason: str = ""
    retrieved_right: float | None = None


class Retriever:
    """Answers queries as the retrieval node does, without ROS."""

    def __init__(self, database: MotionDatabase, mode: str = "database") -> None:
        self._search = MotionSearch(database)
        self._images, self._texts, self._mode = ImageEncoder.load(), TextEncoder(), mode

    def __call__(self, instruction: str, image: np.ndarray, count: int) -> list:
        """The best clips for an instruction and the static camera's image (H, W, 3)."""
        visual = self._images.visual_feature(self._images.encode(image[None]))
        return self._search.search(self._texts.encode([instruction])[0], visual, count, self._mode).motions


def roll_out(tabletop: Tabletop, policy: Policy, retrieve: Retriever | None, trial: Trial, max_steps: int) -> Outcome:
    """Lets the policy try one task. It sees images, joint states and the instruction; the oracle alone judges.

    A new chunk is predicted at every step and takes over from the one before it, as in the nodes.
    """
    task = TASKS[trial.task]
    rng = np.random.default_rng(trial.seed)
    instruction = str(rng.choice(task.held_out if trial.held_out else task.instructions))
    tabletop.reset(trial.seed, trial.task, trial.variant)
    start = tabletop.state()
    outcome = Outcome(trial.task, task.kind, trial.variant, trial.seed, instruction, False, max_steps)
    policy.reset(instruction)
    observation = tabletop.observation()
    if retrieve is not None and policy.retrieves:
        motions = retrieve(instruction, next(iter(observation.images.values())), policy.retrieves)
        policy.set_retrieved(motions)
        if motions:
            outcome.retrieved_right = float(np.mean([motion.clip.task == trial.task for motion in motions]))
    executor = ChunkExecutor(tabletop.contract)
    executor.reset(tabletop.joint_positions, tabletop.gripper, tabletop.time)
    period = tabletop.contract.action.step_period
    cycles, arrival = round(period / CYCLE), round(LATENCY / CYCLE)
    for step in range(max_steps):
        chunk = policy.predict_chunk(tabletop.observation() if step else observation)
        for cycle in range(cycles):
            if cycle == arrival:
                try:
                    executor.accept(chunk, tabletop.time)
                except MotionRefused as refusal:
                    outcome.refused, outcome.reason = outcome.refused + 1, str(refusal)
            executor.measured(tabletop.joint_positions, tabletop.gripper, tabletop.time)
            command = executor.step(tabletop.time)
            tabletop.command(command.positions, command.gripper)
            tabletop.advance(CYCLE)
        if task.succeeded(start, tabletop.state()):
            outcome.success, outcome.steps = True, step + 1
            break
    return outcome


def trials(episodes: int, seed: int, variants: str = "".join(VARIANTS), held_out: bool = False) -> list[Trial]:
    """Trials over all tasks and variants in turn, with seeds that collection never uses."""
    tasks = list(TASKS)
    order = np.random.default_rng(seed).permutation(episodes)
    return [
        Trial(tasks[i % len(tasks)], variants[(i // len(tasks) + i) % len(variants)],
              EVALUATION_SEEDS + seed * 100_000 + int(i), held_out)
        for i in order
    ]  # fmt: skip


@dataclass(frozen=True)
class EvaluationOptions:
    """What to evaluate: a checkpoint, the motion database, the retrieval's mode, and how long."""

    checkpoint: str
    database: str
    mode: str = "database"
    max_steps: int = 120


_worker: tuple[Tabletop, Policy, Retriever | None] | None = None


def _one(contract: RobotContract, options: EvaluationOptions, trial: Trial) -> Outcome:
    global _worker  # simulator, policy and database are loaded once per process
    if _worker is None:
        import torch

        torch.set_num_threads(1)
        policy = load_policy(options.checkpoint, contract)
        retrieve = (
            Retriever(MotionDatabase.open(options.database), options.mode)
            if options.mode != "none" and policy.retrieves
            else None
        )
        _worker = Tabletop(contract), policy, retrieve
    return roll_out(*_worker, trial, options.max_steps)


def evaluate(
    contract: RobotContract, options: EvaluationOptions, trials: list[Trial], workers: int
) -> tuple[dict[str, Any], list[Outcome]]:
    """Rolls out all trials.

    Returns:
        A summary (success rate with its 95 % Wilson interval, overall and per kind of task), and the outcomes.
    """
    load_policy(options.checkpoint, contract)  # a bad checkpoint is one message, not one per process
    outcomes: list[Outcome] = []
    with process_pool(workers) as pool:
        futures = [pool.submit(_one, contract, options, trial) for trial in trials]
        with tqdm(futures, unit="episode", desc="evaluating") as bar:
            for future in bar:
                outcomes.append(future.result())
                bar.set_postfix(success=f"{np.mean([o.success for o in outcomes]):.2f}")
    kinds = sorted({o.kind for o in outcomes})
    summary = {
        "success_rate": float(np.mean([o.success for o in outcomes])),
        "interval": wilson([o.success for o in outcomes]),
        "kinds": {
            kind: {"success_rate": float(np.mean(of_kind)), "interval": wilson(of_kind), "episodes": len(of_kind)}
            for kind in kinds
            if (of_kind := [o.success for o in outcomes if o.kind == kind])
        },
        "options": asdict(options),
    }
    right = [o.retrieved_right for o in outcomes if o.retrieved_right is not None]
    if right:
        summary["retrieved_right"] = float(np.mean(right))
    return summary, outcomes


def wilson(successes: list[bool]) -> tuple[float, float]:
    """95 % score interval of a success rate (Wilson 1927)."""
    n, p, z = len(successes), float(np.mean(successes)), 1.959964
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def save_rows(path: Path, summary: dict[str, Any], outcomes: list[Outcome]) -> None:
    """Writes summary and one row per episode as JSON."""
    write_json(path, summary | {"episodes": [asdict(outcome) for outcome in outcomes]})
