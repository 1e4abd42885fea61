# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Rolls a policy out in a simulated world, through the same retrieval and the same executor as the nodes use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from arvrm_ros.contract import RobotContract
from arvrm_ros.data.types import Observation, RetrievedMotion
from arvrm_ros.errors import ArvrmError, MotionRefused
from arvrm_ros.files import write_json
from arvrm_ros.motion.executor import ChunkExecutor, ExecutorSettings
from arvrm_ros.policies import Policy, PolicyError, checkpoint_folder, load_policy, read_header
from arvrm_ros.retrieval.database import MotionDatabase
from arvrm_ros.retrieval.encoders import encoders_of, made_by
from arvrm_ros.retrieval.search import MotionSearch
from arvrm_ros.retrieval.wording import familiar_wording
from arvrm_ros.simulation.scene import VARIANTS
from arvrm_ros.simulation.tasks import TASKS, kind_of
from arvrm_ros.simulation.world import EVALUATION_SEEDS, TABLETOP, World, load_world
from arvrm_ros.workers import process_pool


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
        refused: chunks the executor refused; ``reason`` is the last one's, or why the policy gave none.
        retrieved_right: share of the retrieved clips that show the same task; None without retrieval.
        wording: what the instruction was read as.
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
    wording: str = ""


@dataclass
class Attempt:
    """What came of one instruction; see :class:`Outcome`."""

    success: bool
    steps: int
    refused: int = 0
    reason: str = ""
    retrieved_right: float | None = None
    wording: str = ""


class Retriever:
    """Answers queries as the retrieval node does, without ROS.

    Attributes:
        image_encoder: the database's.

    Args:
        database: of human clips.
        mode: one of ``retrieval.search.MODES``.
        image_encoder: weights of the encoder the database was made with; None for those that ship or are fetched.

    Raises:
        DataError: the database was made with other encoders.
    """

    def __init__(self, database: MotionDatabase, mode: str = "database", image_encoder: Path | None = None) -> None:
        self.image_encoder, self._texts = encoders_of(database, image_encoder)
        self._search, self._mode = MotionSearch(database), mode

    def __call__(self, instruction: str, image: np.ndarray, count: int, task: str = "") -> list[RetrievedMotion]:
        """The best clips for an instruction and the static camera's image (H, W, 3).

        Args:
            task: id of the true task; only the modes that are told it look at it.
        """
        visual = self.image_encoder.visual_feature(self.image_encoder.encode(image[None]))
        language = self._texts.encode([instruction])[0]
        return self._search.search(language, visual, count, self._mode, task, instruction).motions


def at_rest(world: World) -> ChunkExecutor:
    """A new executor that holds the arm where it is."""
    executor = ChunkExecutor(world.contract, ExecutorSettings(period=world.cycle, lag=world.lag))
    executor.reset(world.joint_positions, world.gripper, world.time)
    return executor


def _observation(world: World, executor: ChunkExecutor) -> Observation:
    return replace(world.observation(), commanded_positions=executor.commanded)


def follow(
    world: World,
    executor: ChunkExecutor,
    policy: Policy,
    retrieve: Retriever | None,
    task: str,
    instruction: str,
    max_steps: int,
    watch: Callable[[], None] = lambda: None,
    rewords: bool = True,
) -> Attempt:
    """Lets the policy follow one instruction, from the state that scene, arm and executor are in.

    It sees images, joint states and the instruction; the oracle alone judges. A new chunk is predicted at every step
    and takes over from the one before it, as in the nodes. A policy that fails has failed the task.

    Args:
        task: id of what the instruction asks for; for the oracle and the retrieval's ablations.
        max_steps: control steps until it counts as failed.
        watch: called after each control step.
        rewords: read an unfamiliar instruction in familiar words, see ``retrieval/wording.py``.
    """
    done = world.judge(task)
    policy.reset(instruction)
    observation = _observation(world, executor)
    attempt = Attempt(False, max_steps, wording=instruction)
    motions: list[RetrievedMotion] = []
    if retrieve is not None and policy.retrieves:
        motions = retrieve(instruction, next(iter(observation.images.values())), policy.retrieves, task)
    if rewords:
        attempt.wording = familiar_wording(instruction, motions, policy.familiar(instruction))
    policy.set_retrieved(motions, attempt.wording)
    if motions:
        attempt.retrieved_right = float(np.mean([motion.clip.task == task for motion in motions]))
    period = world.contract.action.step_period
    cycles, arrival = round(period / world.cycle), round(world.latency / world.cycle)
    for step in range(max_steps):
        try:
            chunk = policy.predict_chunk(_observation(world, executor) if step else observation)
        except PolicyError as error:
            attempt.steps, attempt.reason = step, str(error)
            break
        for cycle in range(cycles):
            if cycle == arrival:
                try:
                    executor.accept(chunk, world.time)
                except MotionRefused as refusal:
                    attempt.refused, attempt.reason = attempt.refused + 1, str(refusal)
            executor.measured(world.joint_positions, world.gripper, world.time)
            command = executor.step(world.time)
            world.command(command.positions, command.gripper)
            world.advance(world.cycle)
        watch()
        if done():
            attempt.success, attempt.steps = True, step + 1
            break
    return attempt


def roll_out(
    world: World,
    policy: Policy,
    retrieve: Retriever | None,
    trial: Trial,
    max_steps: int,
    start: Callable[[World], ChunkExecutor] = at_rest,
    rewords: bool = True,
) -> Outcome:
    """Resets the scene and lets the policy try one task; see :func:`follow`. ``start`` makes the executor."""
    instruction = str(np.random.default_rng(trial.seed).choice(world.wordings(trial.task, trial.held_out)))
    world.reset(trial.seed, trial.task, trial.variant)
    attempt = follow(world, start(world), policy, retrieve, trial.task, instruction, max_steps, rewords=rewords)
    return Outcome(trial.task, kind_of(trial.task), trial.variant, trial.seed, instruction, **asdict(attempt))


def trials(
    episodes: int,
    seed: int,
    variants: str = "".join(VARIANTS),
    held_out: bool = False,
    tasks: Sequence[str] = tuple(TASKS),
) -> list[Trial]:
    """Trials over the tasks (ids) and variants in turn, with seeds that collection never uses.

    Raises:
        ArvrmError: an unknown task.
    """
    if unknown := [task for task in tasks if task not in TASKS]:
        raise ArvrmError(f"unknown task {unknown[0]!r}; known are {', '.join(TASKS)}")
    order = np.random.default_rng(seed).permutation(episodes)
    return [
        Trial(tasks[i % len(tasks)], variants[(i // len(tasks) + i) % len(variants)],
              EVALUATION_SEEDS + seed * 100_000 + int(i), held_out)
        for i in order
    ]  # fmt: skip


@dataclass(frozen=True)
class EvaluationOptions:
    """What to evaluate, how to retrieve (:class:`Retriever`), whether to read in familiar words, and in which world."""

    checkpoint: str
    database: str
    mode: str = "database"
    max_steps: int = 120
    rewords: bool = True
    env: str = TABLETOP


@dataclass
class Setup:
    """What a process that evaluates has loaded."""

    options: EvaluationOptions
    world: World
    policy: Policy
    retrieve: Retriever | None


def set_up(contract: RobotContract, options: EvaluationOptions) -> Setup:
    """Loads simulator, policy and retrieval.

    The retrieval's image encoder is the one that the database was made with: the checkpoint's, or the one that ships or
    is fetched by name.

    Raises:
        CheckpointError: see :func:`arvrm_ros.policies.load_policy`.
        DataError: the database is missing, damaged, or made with other encoders.
    """
    policy = load_policy(options.checkpoint, contract)
    retrieve = None
    if options.mode != "none" and policy.retrieves:
        database = MotionDatabase.open(options.database)
        own = checkpoint_folder(options.checkpoint) / "image_encoder.safetensors"
        weights = own if own.is_file() and made_by(database, own) else None
        retrieve = Retriever(database, options.mode, weights)
    return Setup(options, load_world(options.env, contract), policy, retrieve)


@contextmanager
def set_up_here(contract: RobotContract, options: EvaluationOptions) -> Iterator[Setup]:
    """As :func:`set_up`, with one thread meanwhile, as in the workers: the number of threads changes last digits."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    setup = set_up(contract, options)
    try:
        yield setup
    finally:
        setup.world.close()
        torch.set_num_threads(threads)


Item = TypeVar("Item")
Result = TypeVar("Result")


def for_each(
    work: Callable[[Setup, Item], Result],
    contract: RobotContract,
    options: EvaluationOptions,
    items: Sequence[Item],
    workers: int,
) -> Iterator[tuple[int, Result]]:
    """Does ``work`` on all items in processes with one thread each; yields (index, result) as they finish.

    One worker means this process: nothing is started. On an error the work not yet begun is dropped.

    Args:
        work: a function of a module, or a ``partial`` of one; what it returns must not depend on earlier items.

    Raises:
        ArvrmError: of :func:`set_up`, of ``work``, or a process was killed.
    """
    if workers <= 1:
        with set_up_here(contract, options) as setup:
            for index, item in enumerate(items):
                yield index, work(setup, item)
        return
    read_header(checkpoint_folder(options.checkpoint))  # where there is none, no process need start
    with process_pool(min(workers, len(items))) as pool:
        futures = {pool.submit(_one, work, contract, options, item): index for index, item in enumerate(items)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise ArvrmError(
                "an evaluating process was ended from outside: short of memory? try fewer --workers"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


_setup: Setup | None = None


def _one(
    work: Callable[[Setup, Item], Result], contract: RobotContract, options: EvaluationOptions, item: Item
) -> Result:
    global _setup  # simulator, policy and database are loaded once per process
    if _setup is None:
        import torch

        torch.set_num_threads(1)
        _setup = set_up(contract, options)
    return work(_setup, item)


def _try(setup: Setup, trial: Trial) -> Outcome:
    options = setup.options
    return roll_out(setup.world, setup.policy, setup.retrieve, trial, options.max_steps, rewords=options.rewords)


def evaluate(
    contract: RobotContract, options: EvaluationOptions, trials: list[Trial], workers: int
) -> tuple[dict[str, Any], list[Outcome]]:
    """Rolls out all trials.

    Returns:
        A summary (success rate with its 95 % Wilson interval, overall and per kind of task), and the outcomes.
    """
    done: dict[int, Outcome] = {}
    with tqdm(total=len(trials), unit="episode", desc="evaluating") as bar:
        for index, outcome in for_each(_try, contract, options, trials, workers):
            done[index] = outcome
            bar.set_postfix(success=f"{np.mean([o.success for o in done.values()]):.2f}")
            bar.update()
    outcomes = [done[index] for index in range(len(trials))]
    summary = {
        **rate([o.success for o in outcomes]),
        "kinds": {
            kind: {**rate(of_kind), "episodes": len(of_kind)}
            for kind in sorted({o.kind for o in outcomes})
            if (of_kind := [o.success for o in outcomes if o.kind == kind])
        },
        "options": asdict(options),
    }
    right = [o.retrieved_right for o in outcomes if o.retrieved_right is not None]
    if right:
        summary["retrieved_right"] = float(np.mean(right))
    return summary, outcomes


def rate(successes: Sequence[bool]) -> dict[str, Any]:
    """``success_rate`` and its 95 % ``interval`` (low, high)."""
    return {"success_rate": float(np.mean(successes)), "interval": wilson(successes)}


def wilson(successes: Sequence[bool]) -> tuple[float, float]:
    """95 % score interval of a success rate (Wilson 1927)."""
    n, p, z = len(successes), float(np.mean(successes)), 1.959964
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def save_rows(path: Path, summary: dict[str, Any], outcomes: list[Outcome]) -> None:
    """Writes summary and one row per episode as JSON."""
    write_json(path, summary | {"episodes": [asdict(outcome) for outcome in outcomes]})
