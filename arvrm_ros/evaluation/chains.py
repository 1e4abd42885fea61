# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""CALVIN's long-horizon evaluation: chains of five instructions, nothing reset between them.

A chain ends at the first task that is not done. The result is the share of chains with 1, 2, ... 5 tasks done in a row,
and the average number of them (Mees et al. 2022, "CALVIN").
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from arvrm_ros.contract import RobotContract
from arvrm_ros.data.episodes import decode_image, encode_image
from arvrm_ros.data.video import write_video
from arvrm_ros.errors import ArvrmError, DataError, MotionRefused
from arvrm_ros.evaluation.rollout import (
    EvaluationOptions,
    Retriever,
    Setup,
    at_rest,
    follow,
    for_each,
    rate,
    wilson,
)
from arvrm_ros.files import replace_atomically
from arvrm_ros.motion.kinematics import Kinematics
from arvrm_ros.policies import Policy, checkpoint_folder, read_header
from arvrm_ros.retrieval.database import MotionDatabase
from arvrm_ros.simulation.chains import LENGTH
from arvrm_ros.simulation.demonstrations import MAX_STEPS
from arvrm_ros.simulation.scene import VARIANTS
from arvrm_ros.simulation.servo import PoseServo
from arvrm_ros.simulation.tabletop import Tabletop
from arvrm_ros.simulation.tasks import kind_of
from arvrm_ros.simulation.world import EVALUATION_SEEDS, TABLETOP, World
from arvrm_ros.workers import process_pool

ATTEMPTS = 20
"""Scenes tried per chain until the expert finishes one; it finishes most at the first."""

RESAMPLES = 10_000
"""Of the bootstrap."""

SUCCESSES_FILMED = 3
VIDEO_CAMERA, VIDEO_HEIGHT, VIDEO_WIDTH = "static", 360, 480
VERDICT_STEPS = 12
"""Steps for which a video stands still to show a subtask's outcome."""


@dataclass(frozen=True)
class Chain:
    """A scene, and what is asked for in it one after the other.

    Attributes:
        index: its place in the evaluation.
        seed: of the scene.
        tasks: ids, for the oracle.
        instructions: a wording of each.
    """

    index: int
    seed: int
    variant: str
    tasks: tuple[str, ...]
    instructions: tuple[str, ...]


@dataclass
class ChainOutcome:
    """What came of a chain.

    Attributes:
        completed: tasks done in a row, 0 to 5.
        steps: control steps of each task that was tried.
        failure: why the chain ended before its last task; "" when it did not.
        refused: chunks the executor refused.
        retrieved_right: share of the retrieved clips that show the asked-for task; None without retrieval.
    """

    index: int
    seed: int
    variant: str
    tasks: tuple[str, ...]
    instructions: tuple[str, ...]
    completed: int = 0
    steps: list[int] = field(default_factory=list)
    failure: str = ""
    refused: int = 0
    retrieved_right: float | None = None

    @property
    def failed_kind(self) -> str:
        """The kind of the task that was not done, "" when all were."""
        return kind_of(self.tasks[self.completed]) if self.completed < len(self.tasks) else ""


# Drawing


def draw_chains(
    contract: RobotContract, count: int, seed: int, variants: str = "D", held_out: bool = False, workers: int = 1
) -> list[Chain]:
    """Chains in scenes that collection never uses; the same arguments give the same chains.

    Only chains that the scripted expert finishes without rendering count (each task cut at its success, as in the
    evaluation), so that none is impossible: a policy that fails could have done it. A chain's scene and tasks depend on
    its index, its variant and the seed alone, so fewer chains are a part of more.

    Args:
        count: how many.
        variants: looks of the table, in turn.
        held_out: wordings that training never saw; scenes and tasks stay the same.
        workers: processes; 1 means this one.

    Raises:
        ArvrmError: no chains wanted, an unknown variant, or a scene after scene the expert fails in.
    """
    if count < 1:
        raise ArvrmError(f"an evaluation needs at least one chain, not {count}")
    if not variants or set(variants) - set(VARIANTS):
        raise ArvrmError(f"unknown variants {variants!r} of the tabletop: use letters of {''.join(VARIANTS)}")
    draw = partial(_draw, contract, seed, variants, held_out)
    if workers <= 1:
        return [draw(index) for index in range(count)]
    with process_pool(min(workers, count)) as pool:
        return list(tqdm(pool.map(draw, range(count), chunksize=4), total=count, unit="chain", desc="drawing chains"))


_tabletop: Tabletop | None = None


def _draw(contract: RobotContract, seed: int, variants: str, held_out: bool, index: int) -> Chain:
    global _tabletop  # the model is compiled once per process, as long as the variant stays
    if _tabletop is None or _tabletop.contract != contract:
        _tabletop = Tabletop(contract, render=False)
    variant = variants[index % len(variants)]
    for attempt in range(ATTEMPTS):
        scene_seed = EVALUATION_SEEDS + seed * 100_000 + index * ATTEMPTS + attempt
        tasks = propose(_tabletop, scene_seed, variant)
        if expert_finishes(_tabletop, tasks, np.random.default_rng([scene_seed, 2])):
            rng = np.random.default_rng([scene_seed, 3])
            wordings = [_tabletop.wordings(task, held_out) for task in tasks]
            return Chain(index, scene_seed, variant, tasks, tuple(str(rng.choice(texts)) for texts in wordings))
    raise ArvrmError(f"the expert finished none of {ATTEMPTS} chains for index {index} (seed {seed}, {variant})")


def propose(tabletop: Tabletop, seed: int, variant: str) -> tuple[str, ...]:
    """Resets the scene and draws tasks for it, whether or not the expert can do them."""
    tabletop.reset(seed, None, variant)
    return tabletop.draw_chain(np.random.default_rng([seed, 1]))


def expert_finishes(world: World, tasks: Sequence[str], rng: np.random.Generator) -> bool:
    """Whether the scripted expert does the tasks one after the other, from the state the world is in."""
    return all(_expert_does(world, task, rng) for task in tasks)


def _expert_does(world: World, task: str, rng: np.random.Generator) -> bool:
    period = world.contract.action.step_period
    done = world.judge(task)
    expert = world.expert(task, rng, period)
    servo = PoseServo(world, Kinematics(world.contract))
    for _ in range(MAX_STEPS):
        try:
            servo.move(*expert.act(), period)
        except MotionRefused:
            return False
        if done():
            return True
        if expert.done:
            return False
    return False


def official_chains(count: int) -> list[Chain]:
    """The first chains of CALVIN's own evaluation on its table D, in the words of its validation.

    Raises:
        ArvrmError: CALVIN is not there, or has fewer sequences.
    """
    from arvrm_ros.simulation.calvin import SEQUENCES, sequences, validation_wording

    if not 1 <= count <= SEQUENCES:
        raise ArvrmError(f"CALVIN's evaluation has 1 to {SEQUENCES} chains, not {count}")
    return [
        Chain(index, EVALUATION_SEEDS + index, "D", tasks, tuple(validation_wording(task) for task in tasks))
        for index, (_, tasks) in enumerate(sequences()[:count])
    ]


# Running


def run_chain(
    world: World,
    policy: Policy,
    retrieve: Retriever | None,
    chain: Chain,
    max_steps: int,
    watch: Callable[[int, str], None] = lambda number, verdict: None,
    rewords: bool = True,
) -> ChainOutcome:
    """Lets the policy do a chain; between two tasks only the instruction and the retrieved clips change.

    Args:
        max_steps: control steps per task.
        watch: called after each control step with the index of the task, and once more with its outcome in a word.
        rewords: see :func:`~arvrm_ros.evaluation.rollout.follow`.
    """
    world.reset(chain.seed, None, chain.variant)
    executor = at_rest(world)
    outcome = ChainOutcome(**asdict(chain))
    right = []
    for number, (task, instruction) in enumerate(zip(chain.tasks, chain.instructions, strict=True)):
        seen = partial(watch, number, "")
        attempt = follow(world, executor, policy, retrieve, task, instruction, max_steps, seen, rewords)
        watch(number, "done" if attempt.success else "not done")
        outcome.steps.append(attempt.steps)
        outcome.refused += attempt.refused
        right.append(attempt.retrieved_right)
        if not attempt.success:
            refused = f", {attempt.refused} chunks refused" if attempt.refused else ""
            reason = f": {attempt.reason}" if attempt.reason else ""
            outcome.failure = f"{task} not done in {attempt.steps} steps{refused}{reason}"
            break
        outcome.completed += 1
    known = [share for share in right if share is not None]
    outcome.retrieved_right = float(np.mean(known)) if known else None
    return outcome


def evaluate_chains(
    contract: RobotContract,
    options: EvaluationOptions,
    chains: Sequence[Chain],
    workers: int,
    rows: Path | None = None,
    videos: Path | None = None,
) -> list[ChainOutcome]:
    """Runs all chains; the outcomes do not depend on the number of workers.

    Args:
        workers: processes; 1 means this one.
        rows: JSON-lines file that gets one outcome as each chain finishes. Chains that are in it already are not run
            again.
        videos: folder for films of some chains that were finished and, for each kind of task that failed, one that
            ended there; these chains are run a second time for it.

    Returns:
        One outcome per chain, in the order of ``chains``.

    Raises:
        DataError: ``rows`` is damaged, or was made with other chains or options.
        ArvrmError: see :func:`arvrm_ros.evaluation.rollout.for_each`; a CheckpointError when there is no checkpoint.
    """
    done: dict[int, ChainOutcome] = {}
    if rows is not None:
        made_with = _made_with(options)
        done = _resume(rows, made_with, chains)
    todo = [chain for chain in chains if chain.index not in done]
    with tqdm(total=len(chains), initial=len(chains) - len(todo), unit="chain", desc="evaluating") as bar:
        for _, outcome in for_each(_chain, contract, options, todo, workers) if todo else ():
            done[outcome.index] = outcome
            if rows is not None:
                _append(rows, {"made_with": made_with, **asdict(outcome)})
            bar.set_postfix(length=f"{np.mean([o.completed for o in done.values()]):.2f}")
            bar.update()
    outcomes = [done[chain.index] for chain in chains]
    if videos is not None:
        filmed = worth_filming(outcomes)
        chosen = [chain for chain in chains if chain.index in filmed]
        videos.mkdir(parents=True, exist_ok=True)
        for _ in tqdm(
            for_each(partial(_film, videos), contract, options, chosen, workers), "filming", len(chosen), unit="chain"
        ):
            pass
    return outcomes


def _chain(
    setup: Setup, chain: Chain, watch: Callable[[int, str], None] = lambda number, verdict: None
) -> ChainOutcome:
    options = setup.options
    return run_chain(setup.world, setup.policy, setup.retrieve, chain, options.max_steps, watch, options.rewords)


# Rows on disk


def read_rows(path: Path) -> list[ChainOutcome]:
    """The outcomes in a rows file, in the order in which they came; a line that a crash has cut short is left out.

    Raises:
        DataError: it cannot be read, or is not a rows file.
    """
    return [outcome for outcome, _ in _parse(path, _whole_lines(path))]


def _resume(path: Path, made_with: dict[str, Any], chains: Sequence[Chain]) -> dict[int, ChainOutcome]:
    """Outcomes of these chains; what a crash has left of a last line is cut off the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return {}
    lines = _whole_lines(path)
    os.truncate(path, sum(len(line) + 1 for line in lines))
    wanted = {chain.index: chain for chain in chains}
    done = {}
    for outcome, settings in _parse(path, lines):
        differing = sorted(key for key in made_with if settings.get(key) != made_with[key])
        if differing:
            what = ", ".join(f"{key} {settings.get(key)!r}, now {made_with[key]!r}" for key in differing)
            raise DataError(f"{path} was made with {what}: give another file, or remove it")
        chain = wanted.get(outcome.index)
        if chain is None:
            continue
        if any(getattr(chain, f.name) != getattr(outcome, f.name) for f in fields(Chain)):
            raise DataError(f"{path} holds other chains (see index {chain.index}): give another file, or remove it")
        done[outcome.index] = outcome
    return done


def _whole_lines(path: Path) -> list[bytes]:
    try:
        lines = path.read_bytes().split(b"\n")[:-1]  # what comes after the last line's end is torn
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    if lines:
        try:  # a power failure may leave a line's length without its content
            json.loads(lines[-1])
        except ValueError:
            lines.pop()
    return lines


def _parse(path: Path, lines: list[bytes]) -> Iterator[tuple[ChainOutcome, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            settings = values.pop("made_with")
            values["tasks"], values["instructions"] = tuple(values["tasks"]), tuple(values["instructions"])
            yield ChainOutcome(**values), settings
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(f"line {number} of {path} is not the outcome of a chain: remove the file") from None


def _append(path: Path, row: dict[str, Any]) -> None:
    with path.open("ab") as file:
        file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _made_with(options: EvaluationOptions) -> dict[str, Any]:
    """What decides the outcomes of given chains: names may stay the same while files change."""
    folder = checkpoint_folder(options.checkpoint)
    weights = hashlib.sha256(json.dumps(read_header(folder), sort_keys=True).encode())
    for file in sorted(folder.glob("*.safetensors")):
        weights.update(file.read_bytes())
    made_with = {"checkpoint": weights.hexdigest()[:16], "retrieval": options.mode, "max_steps": options.max_steps}
    if options.env != TABLETOP:
        made_with["env"] = options.env
    if options.mode != "none":
        database = MotionDatabase.open(options.database)
        content = json.dumps([database.features, sorted(database.ids())], sort_keys=True)
        made_with["database"] = hashlib.sha256(content.encode()).hexdigest()[:16]
    return made_with


# Statistics


def summarise(outcomes: Sequence[ChainOutcome]) -> dict[str, Any]:
    """The figures of an evaluation, all intervals 95 %.

    Returns:
        ``chains``: their number. ``success``: shares with 1..5 tasks done in a row, ``success_intervals``: Wilson's.
        ``average_length`` and ``average_length_interval``: bootstrap over chains. ``kinds``: per kind of task, of those
        tried, ``tried``, ``success_rate``, ``interval``. ``failed_tasks``: how many chains ended at which task.
        ``steps``: mean control steps of the tasks done (None when none was). ``refused``: chunks refused in all.
        ``retrieved_right``: mean share of retrieved clips of the right task, None without retrieval.

    Raises:
        ArvrmError: there are no outcomes.
    """
    if not outcomes:
        raise ArvrmError("there are no chains to summarise")
    lengths = np.array([outcome.completed for outcome in outcomes])
    in_a_row = [(lengths >= k).tolist() for k in range(1, LENGTH + 1)]
    tried: dict[str, list[bool]] = {}
    for outcome in outcomes:
        for number in range(len(outcome.steps)):
            tried.setdefault(kind_of(outcome.tasks[number]), []).append(number < outcome.completed)
    failed = Counter(o.tasks[o.completed] for o in outcomes if o.failed_kind)
    steps = [count for o in outcomes for count in o.steps[: o.completed]]
    right = [o.retrieved_right for o in outcomes if o.retrieved_right is not None]
    return {
        "chains": len(outcomes),
        "success": [float(np.mean(done)) for done in in_a_row],
        "success_intervals": [wilson(done) for done in in_a_row],
        "average_length": float(lengths.mean()),
        "average_length_interval": bootstrap_interval(lengths),
        "kinds": {kind: {"tried": len(tried[kind]), **rate(tried[kind])} for kind in sorted(tried)},
        "failed_tasks": dict(failed.most_common()),
        "steps": float(np.mean(steps)) if steps else None,
        "refused": sum(o.refused for o in outcomes),
        "retrieved_right": float(np.mean(right)) if right else None,
    }


def bootstrap_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of the mean of (N,) values, by resampling them with a fixed seed (Efron 1979)."""
    rng = np.random.default_rng(0)
    # The counts of each value are all that matters: a multinomial draw of them is a resample.
    kinds, counts = np.unique(values, return_counts=True)
    means = rng.multinomial(len(values), counts / len(values), RESAMPLES) @ kinds / len(values)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def plot_success(path: Path, summary: dict[str, Any], title: str) -> None:
    """Draws the shares of 1..5 tasks in a row with their intervals as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.add_subplot()
    places, success = np.arange(1, LENGTH + 1), np.array(summary["success"])
    low, high = np.array(summary["success_intervals"]).T
    lengths = np.maximum([success - low, high - success], 0.0)  # rounding may leave -1e-16, which matplotlib refuses
    axes.errorbar(places, success, lengths, fmt="o-", capsize=4)
    for place, value in zip(places, success, strict=True):
        axes.annotate(f"{value:.2f}", (place, value), (6, 6), textcoords="offset points")
    axes.set(xlabel="tasks in a row", ylabel="share of chains", xticks=places, title=title)
    axes.set(xlim=(0.7, 5.5), ylim=(0, 1.05))
    axes.grid(alpha=0.3)
    with replace_atomically(path) as partial_file:
        FigureCanvasAgg(figure).print_png(partial_file)


# Videos


def worth_filming(outcomes: Sequence[ChainOutcome]) -> set[int]:
    """Indices of the first chains that were finished, and of the first that ended at each kind of task."""
    finished = [outcome.index for outcome in outcomes if not outcome.failed_kind]
    failed: dict[str, int] = {}
    for outcome in outcomes:
        if outcome.failed_kind:
            failed.setdefault(outcome.failed_kind, outcome.index)
    return {*finished[:SUCCESSES_FILMED], *failed.values()}


def _film(folder: Path, setup: Setup, chain: Chain) -> Path:
    """Runs a chain again and writes what the camera sees; the file's name says what came of it."""
    shots: list[tuple[bytes, int, str]] = []  # as JPEG: a film of 1800 frames would take a gigabyte

    def shoot(number: int, verdict: str) -> None:
        image = setup.world.render(VIDEO_CAMERA, VIDEO_HEIGHT, VIDEO_WIDTH)
        shots.extend([(encode_image(image), number, verdict)] * (VERDICT_STEPS if verdict else 1))

    outcome = _chain(setup, chain, shoot)
    ending = f"failed_{outcome.failed_kind}" if outcome.failed_kind else "finished"
    path = folder / f"chain_{chain.index:04d}_{ending}.mp4"
    frames = (captioned(decode_image(jpeg), chain, number, verdict) for jpeg, number, verdict in shots)
    unfinished = path.with_name(f".{path.name}")  # not replace_atomically: the ending tells PyAV the format
    write_video(unfinished, frames, setup.world.contract.action.step_period)
    return unfinished.replace(path)


def captioned(image: np.ndarray, chain: Chain, number: int, verdict: str) -> np.ndarray:
    """An image (H, W, 3) uint8 RGB with the number of the task, its instruction and its outcome drawn on it."""
    image = image.copy()
    image[:28] //= 3
    image[-28:] //= 3
    white, height = (255, 255, 255), len(image)

    def write(text: str, x: int, y: int, color: tuple[int, int, int]) -> None:
        cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.48, color, 1, cv2.LINE_AA)

    write(f"{number + 1}/{len(chain.tasks)}  {chain.instructions[number]}", 8, 19, white)
    write(f"chain {chain.index}, {chain.variant}, seed {chain.seed}", 8, height - 9, white)
    if verdict:
        write(verdict, image.shape[1] - 90, height - 9, (120, 230, 120) if verdict == "done" else (255, 120, 110))
    return image
