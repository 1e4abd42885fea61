# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the jobs of a study, and keeps its results.

A cell whose fingerprint is in the results file is not made again, on whatever machine it was made. Everything may be
killed at any time: a finished run is a ``results.json`` in its folder, an unfinished one goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import multiprocessing
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from arvrm_ros.contract import load_contract
from arvrm_ros.errors import ArvrmError
from arvrm_ros.evaluation.study import (
    FULL,
    PRETRAINING,
    SMALL,
    Cell,
    Job,
    Study,
    StudyError,
    chain_count,
    evaluation_settings,
    expand,
    fingerprint,
    planned,
    retrieval_mode,
    rewords,
    scenes,
)
from arvrm_ros.files import write_json
from arvrm_ros.simulation.world import TABLETOP
from arvrm_ros.workers import end_with_parent

if TYPE_CHECKING:
    from arvrm_ros.evaluation.chains import Chain

WEIGHTS, CHECKPOINT, RESULTS = "pretrained.safetensors", "checkpoint", "results.json"

POLL = 5.0
"""Seconds between two looks at the running jobs."""


class Results:
    """The results file: one row per cell, enough to write the report anew and to go on on another machine.

    A row holds the cell, its fingerprint and:
        completed: one digit per chain, in the chains' order: tasks done in a row, 0 to 5.
        scenes: fingerprint of the chains' scenes and tasks; rows that agree in it can be paired.
        summary: of the chains, as ``arvrm evaluate`` gives it.
        training: figures of the training's validation.
        seconds: of training and evaluation, each since it was last resumed.
        max_rss_mb: largest resident memory of the training.
    """

    def __init__(self, path: Path) -> None:
        """Reads the file; it need not exist.

        Raises:
            StudyError: it is damaged.
        """
        self.path = path
        self.rows: dict[Cell, dict[str, Any]] = {}
        for row in _read_rows(path):
            self.rows[_cell(row)] = row

    def matching(self, cells: dict[Cell, str]) -> dict[Cell, dict[str, Any]]:
        """The rows whose fingerprint is the wanted one."""
        return {
            cell: self.rows[cell]
            for cell, digest in cells.items()
            if cell in self.rows and self.rows[cell]["fingerprint"] == digest
        }

    def harvest(self, folder: Path, cells: dict[Cell, str]) -> list[dict[str, Any]]:
        """Takes over the wanted rows of a run's folder and saves; returns the new ones."""
        new = [
            row
            for row in _read_rows(folder / RESULTS)
            if cells.get(_cell(row)) == row["fingerprint"] and self.rows.get(_cell(row)) != row
        ]
        if new:
            self.rows |= {_cell(row): row for row in new}
            write_json(self.path, {"rows": [self.rows[cell] for cell in sorted(self.rows)]})
        return new


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        return [row for row in rows if _cell(row) and row["fingerprint"]]
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{path} is damaged ({error!r}): restore or remove it") from None


def _cell(row: dict[str, Any]) -> Cell:
    return Cell(*(row[name] for name in Cell._fields))


@dataclass(frozen=True)
class Stages:
    """The work itself, as functions that another process can import.

    Attributes:
        prepare: (study, out, workers, episodes) makes the data that is missing, and so many robot episodes.
        pretrain: (study, job, folder) writes ``pretrained.safetensors``, returns validation figures.
        finetune: (study, job, folder, pretrained weights or None) writes ``checkpoint/``, returns validation figures.
        evaluate: (study, job, folder, evaluation, rows file) returns tasks in a row per chain, and a summary.
    """

    prepare: Callable[[Study, Path, int, int], None]
    pretrain: Callable[[Study, Job, Path], dict[str, float]]
    finetune: Callable[[Study, Job, Path, Path | None], dict[str, float]]
    evaluate: Callable[[Study, Job, Path, str, Path], tuple[list[int], dict[str, Any]]]


def prepare(study: Study, out: Path, workers: int, episodes: int) -> None:
    """Makes the data that is missing: episodes, clips, image encoder, database, features, the chains to evaluate on.

    Robot episodes are made up to the number asked for: a study whose little data comes first need not wait for all.

    Raises:
        ArvrmError: it cannot be made, or what is there is not the study's.
    """
    from arvrm_ros.data.clips import clip_folders
    from arvrm_ros.retrieval.building import build
    from arvrm_ros.retrieval.database import MotionDatabase
    from arvrm_ros.retrieval.encoders import check_fingerprints, encoder_fingerprints
    from arvrm_ros.retrieval.extraction import ExtractionOptions
    from arvrm_ros.simulation.demonstrations import collect_robot
    from arvrm_ros.simulation.human import collect_human
    from arvrm_ros.training.dataset import encode_episodes

    for held_out in {study.evaluations[name].held_out for runs in study.runs for name in runs.evaluations}:
        _draw_chains(study, out, held_out, workers)
    data, done = study.data, out / "data.json"
    settings = dataclasses.asdict(data) | {"robot_contract": study.robot, "episodes": episodes}
    paths = [Path(data.robot), Path(data.human), Path(data.image_encoder), Path(data.database)]
    if done.is_file() and all(path.exists() for path in paths):
        made = json.loads(done.read_text(encoding="utf-8"))
        if made == settings | {"episodes": max(made["episodes"], episodes)}:
            return
    robot, human, encoder, database_path = paths
    if len(list(robot.glob("episode_*.npz"))) < episodes:
        collect_robot(robot, load_contract(study.robot), episodes, data.seed, workers, data.variants, study.env)
    if not human.is_dir() or len(clip_folders(human)) < data.clips:
        collect_human(human, data.clips, data.seed, workers, study.robot if study.env == TABLETOP else TABLETOP)
    if (count := len(clip_folders(human))) != data.clips:
        raise StudyError(f"{human} holds {count} clips, the study is about {data.clips}: change data: clips, or human")
    if not encoder.is_file():
        from arvrm_ros.training.encoder import train_encoder
        from arvrm_ros.training.loop import Schedule

        schedule = Schedule(data.encoder_steps, 2e-3, seed=data.seed)
        train_encoder(robot, human, encoder.parent, schedule, 64)
        (encoder.parent / "state.pt").unlink(missing_ok=True)
    features = encoder_fingerprints(encoder)
    if database_path.exists():
        database = MotionDatabase.open(database_path)
        check_fingerprints(database, features)
    else:
        database = MotionDatabase.create(database_path, features)
    if not database.older:  # an older one cannot be a build that was interrupted just now
        # As the published study's clips were made.
        options = ExtractionOptions(visual_frames=10, smoothing=0, trim=False, image_encoder=encoder)
        build(database, human, options, workers)
    for name in {arm.config.image_encoder for arm in study.arms.values()}:
        encode_episodes(robot, name, encoder, workers)
    write_json(done, settings)


def _draw_chains(study: Study, out: Path, held_out: bool, workers: int) -> list[Chain]:
    """The chains of an evaluation; the tabletop's are drawn once and kept: the expert tries each, for seconds."""
    from arvrm_ros.evaluation.chains import Chain, draw_chains, official_chains

    chosen, contract = study.evaluation, load_contract(study.robot)
    count = max(chain_count(study, name) for name in study.evaluations if study.evaluations[name].held_out == held_out)
    if study.env != TABLETOP:
        return official_chains(count)
    settings = [contract.to_dict(), scenes(study), held_out, count]
    path = out / f"chains-{fingerprint(settings)}.json"
    if not path.is_file():
        drawn = draw_chains(contract, count, chosen.seed, chosen.variants, held_out, workers)
        write_json(path, [dataclasses.asdict(chain) for chain in drawn])
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [Chain(**row | {"tasks": tuple(row["tasks"]), "instructions": tuple(row["instructions"])}) for row in rows]


def _pretrain(study: Study, job: Job, folder: Path) -> dict[str, float]:
    from arvrm_ros.retrieval.database import MotionDatabase
    from arvrm_ros.training.loop import Schedule
    from arvrm_ros.training.pretrain import pretrain

    chosen = study.training
    schedule = Schedule(chosen.pretrain_steps, chosen.learning_rate, seed=job.cell.seed)
    database = MotionDatabase.open(study.data.database)
    encoder = Path(study.data.image_encoder)
    return pretrain(database, encoder, folder, job.arm.pretraining_config, schedule, chosen.pretrain_batch)


def _finetune(study: Study, job: Job, folder: Path, pretrained: Path | None) -> dict[str, float]:
    from arvrm_ros.retrieval.database import MotionDatabase
    from arvrm_ros.training.finetune import finetune
    from arvrm_ros.training.loop import Schedule

    data, chosen = study.data, study.training
    return finetune(
        Path(data.robot),
        MotionDatabase.open(data.database) if job.arm.human_clips else None,
        Path(data.image_encoder),
        pretrained,
        folder,
        load_contract(study.robot),
        job.arm.config,
        Schedule(getattr(chosen.finetune_steps, job.cell.data), chosen.learning_rate, seed=job.cell.seed),
        chosen.batch,
        limit=data.count(job.cell.data),
        variants=job.cell.variants,
        mode=job.arm.mode,
    )


def _evaluate(study: Study, job: Job, folder: Path, evaluation: str, rows: Path) -> tuple[list[int], dict[str, Any]]:
    from arvrm_ros.evaluation.chains import evaluate_chains, summarise
    from arvrm_ros.evaluation.rollout import EvaluationOptions

    contract = load_contract(study.robot)
    drawn = _draw_chains(study, folder.parent, study.evaluations[evaluation].held_out, 1)
    chains = drawn[: chain_count(study, evaluation)]
    options = EvaluationOptions(
        str(folder / CHECKPOINT),
        study.data.database,
        retrieval_mode(study, job.arm, evaluation),
        study.evaluation.max_steps,
        rewords(study, job.arm, evaluation),
        study.env,
    )
    outcomes = sorted(evaluate_chains(contract, options, chains, 1, rows), key=lambda outcome: outcome.index)
    return [outcome.completed for outcome in outcomes], summarise(outcomes)


STAGES = Stages(prepare, _pretrain, _finetune, _evaluate)


def run_job(study: Study, job: Job, out: Path, stages: Stages = STAGES) -> None:
    """Does a job, or what is left of it. The run's ``results.json`` grows by a row per evaluation."""
    folder = out / job.folder
    folder.mkdir(parents=True, exist_ok=True)
    if job.is_pretraining:
        record = _train(folder, WEIGHTS, lambda: stages.pretrain(study, job, folder))
        _add_row(folder, job, PRETRAINING, record)
        return
    weights = out / job.needs / WEIGHTS if job.needs else None
    record = _train(folder, CHECKPOINT, lambda: stages.finetune(study, job, folder, weights))
    known = {row["fingerprint"] for row in _read_rows(folder / RESULTS)}
    for evaluation, digest in job.evaluations.items():
        if digest in known:
            continue
        started = time.monotonic()
        completed, summary = stages.evaluate(study, job, folder, evaluation, _rows_file(study, job, folder, evaluation))
        if len(completed) != chain_count(study, evaluation):
            raise StudyError(f"{job.cell}: {len(completed)} chains of {chain_count(study, evaluation)} came back")
        figures = {
            "completed": "".join(map(str, completed)),
            "scenes": scenes(study),
            "summary": summary,
        }
        seconds = record["seconds"] | {"evaluation": round(time.monotonic() - started, 1)}
        _add_row(folder, job, evaluation, record | figures | {"seconds": seconds})


def _is_trained(folder: Path, product: str) -> bool:
    return (folder / "training.json").is_file() and (folder / product).exists()


def _train(folder: Path, product: str, work: Callable[[], dict[str, float]]) -> dict[str, Any]:
    """Trains unless it is done; what is needed to go on with the training is removed only when it is."""
    done = folder / "training.json"
    if not _is_trained(folder, product):
        started = time.monotonic()
        figures = work()
        for rows in folder.glob("rows-*.jsonl"):  # of weights that are gone
            rows.unlink()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
        seconds = {"training": round(time.monotonic() - started, 1)}
        write_json(done, {"training": figures, "seconds": seconds, "max_rss_mb": round(memory)})
    (folder / "state.pt").unlink(missing_ok=True)
    return json.loads(done.read_text(encoding="utf-8"))


def _add_row(folder: Path, job: Job, evaluation: str, values: dict[str, Any]) -> None:
    path = folder / RESULTS
    row = job.cell._replace(evaluation=evaluation)._asdict() | {"fingerprint": job.evaluations[evaluation]} | values
    others = [other for other in _read_rows(path) if other["evaluation"] != evaluation]
    write_json(path, {"rows": [*others, row]})


def _rows_file(study: Study, job: Job, folder: Path, evaluation: str) -> Path:
    """The chains of an evaluation as they finish; a study of more chains goes on with the same file."""
    return folder / f"rows-{evaluation}-{fingerprint(evaluation_settings(study, job.arm, evaluation))}.jsonl"


@dataclass
class Outcome:
    """What came of running a study: how many jobs were done, and a message for each that failed or could not start."""

    done: int = 0
    failed: list[str] = field(default_factory=list)


def run_study(
    study: Study,
    out: Path,
    results: Results,
    workers: int,
    report: Callable[[], None],
    arms: list[str] | None = None,
    seeds: list[int] | None = None,
    amounts: list[str] | None = None,
    stages: Stages = STAGES,
) -> Outcome:
    """Does all that is not done yet, each job in a process of its own with one thread.

    Args:
        out: working folder, one folder per run below it.
        workers: jobs at a time.
        report: called after each run that brought new results.
        arms, seeds, amounts: only these, the last being "full" or "small" data; None for all.

    Raises:
        ArvrmError: the data cannot be made, a name is unknown, or another process works in the same folder.
    """
    _check_known("arm", arms, study.arms)
    _check_known("seed", seeds, study.seeds)
    _check_known("data", amounts, (FULL, SMALL))
    with _alone(out):
        cells, everything = planned(study), expand(study)
        for folder in {job.folder for job in everything}:
            results.harvest(out / folder, cells)
        wanted = [
            job
            for job in everything
            if job.is_pretraining
            or (
                (arms is None or job.cell.arm in arms)
                and (seeds is None or job.cell.seed in seeds)
                and (amounts is None or job.cell.data in amounts)
            )
        ]
        jobs = remaining(wanted, out, results, cells)
        print(f"{len(jobs)} jobs to do, {len(results.matching(cells))} of {len(cells)} results are there", flush=True)
        if not jobs:
            return Outcome()
        episodes = max([study.data.count(job.cell.data) for job in jobs if not job.is_pretraining], default=0)
        stages.prepare(study, out, workers, episodes)
        return _Runner(study, out, results, cells, report, stages).run(jobs, workers)


def _check_known(kind: str, wanted: Collection[object] | None, known: Collection[object]) -> None:
    unknown = [str(name) for name in wanted or () if name not in known]
    if unknown:
        raise StudyError(f"the study has no {kind} {', '.join(unknown)}; it has {', '.join(map(str, known))}")


def remaining(jobs: list[Job], out: Path, results: Results, cells: dict[Cell, str]) -> list[Job]:
    """Of all jobs those that are needed for results that are not there, without the evaluations that are."""
    have = {row["fingerprint"] for row in results.matching(cells).values()}

    def missing(job: Job) -> dict[str, str]:
        return {name: digest for name, digest in job.evaluations.items() if digest not in have}

    needed = {
        job.needs
        for job in jobs
        if not job.is_pretraining and missing(job) and not _is_trained(out / job.folder, CHECKPOINT)
    }
    left: list[Job] = []
    for job in jobs:
        if job.is_pretraining:
            done = not missing(job) and _is_trained(out / job.folder, WEIGHTS)
            left += [job] if job.folder in needed and not done else []
        elif missing(job):
            left.append(dataclasses.replace(job, evaluations=missing(job)))
    return left


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keeps a second process from training in the same folder; the lock goes with the process, however it ends."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StudyError(f"another arvrm ablate works in {out}: wait for it, or give another --out") from None
        yield


@dataclass
class _Running:
    job: Job
    process: BaseProcess
    messages: Connection
    started: float


class _Runner:
    """Starts jobs as soon as what they need is there, in order, and watches them."""

    def __init__(
        self,
        study: Study,
        out: Path,
        results: Results,
        cells: dict[Cell, str],
        report: Callable[[], None],
        stages: Stages,
    ) -> None:
        self._study, self._out, self._results, self._cells = study, out, results, cells
        self._report, self._stages = report, stages
        self._running: list[_Running] = []
        self._outcome = Outcome()
        # Measured on the tabletop: a chain costs as much as 60 optimiser steps at 120 control steps per task.
        self._chain_work = 0.5 * study.evaluation.max_steps

    def run(self, jobs: list[Job], workers: int) -> Outcome:
        """Runs the jobs; Ctrl-C ends them with this process."""
        waiting, total = list(jobs), len(jobs)
        failed: set[str] = set()
        work = sum(map(self._work, jobs))
        finished = 0.0
        # What earlier sessions did does not count as this one's speed.
        before = sum(self._progress(job) for job in jobs)
        with tqdm(total=round(work), initial=round(before), unit="step", mininterval=POLL, smoothing=0.05) as bar:
            try:
                while waiting or self._running:
                    for job in [job for job in waiting if job.needs in failed]:
                        waiting.remove(job)
                        self._fail(f"{job.cell}: not started, as its pretraining failed")
                    while len(self._running) < max(1, workers) and (ready := self._next(waiting)):
                        waiting.remove(ready)
                        self._start(ready)
                    ended = wait([r.process.sentinel for r in self._running], POLL) if self._running else []
                    for running in [r for r in self._running if r.process.sentinel in ended]:
                        self._running.remove(running)
                        finished += self._work(running.job)
                        if not self._finish(running):
                            failed.add(running.job.folder)
                    left = sum(self._progress(job) for job in [*waiting, *(r.job for r in self._running)])
                    bar.n = round(finished + left)
                    number = self._outcome.done + len(self._outcome.failed)
                    names = "; ".join(str(r.job.cell) for r in self._running)
                    bar.set_description_str(f"job {number}/{total} done")
                    bar.set_postfix_str(names, refresh=True)
            finally:
                for running in self._running:
                    running.process.terminate()
                    running.process.join()
        return self._outcome

    def _next(self, waiting: list[Job]) -> Job | None:
        """The first job that waits for no other: not for its pretraining, nor for another job in its folder."""
        unfinished = {r.job.folder for r in self._running}
        for job in waiting:
            if not {job.needs, job.folder} & unfinished:
                return job
            unfinished.add(job.folder)
        return None

    def _start(self, job: Job) -> None:
        (self._out / job.folder).mkdir(parents=True, exist_ok=True)
        ours, theirs = multiprocessing.Pipe(duplex=False)
        # A fresh interpreter: threads and OpenGL contexts do not survive a fork, and memory goes back when it ends.
        process = multiprocessing.get_context("spawn").Process(
            target=_in_process, args=(self._study, job, self._out, self._stages, theirs), daemon=True
        )
        process.start()
        theirs.close()
        self._running.append(_Running(job, process, ours, time.monotonic()))

    def _finish(self, running: _Running) -> bool:
        """Takes over what a job that ended has brought; False when it failed."""
        job, process = running.job, running.process
        process.join()
        new = self._results.harvest(self._out / job.folder, self._cells)
        if process.exitcode == 0:
            self._outcome.done += 1
            minutes = (time.monotonic() - running.started) / 60
            tqdm.write(f"{job.cell}: {'; '.join(map(_in_short, new)) or 'done'} ({minutes:.1f} min)")
        else:
            try:
                message = running.messages.recv() if running.messages.poll() else ""
            except EOFError:
                message = ""
            message = message or f"its process ended with {process.exitcode} (killed, or out of memory?)"
            self._fail(f"{job.cell}: {message}; more in {self._out / job.folder / 'output.log'}")
        running.messages.close()
        if new:
            self._report()
        return process.exitcode == 0

    def _fail(self, message: str) -> None:
        self._outcome.failed.append(message)
        tqdm.write(f"failed: {message}", file=sys.stderr)

    def _work(self, job: Job) -> float:
        """Rough cost of a job in optimiser steps."""
        chains = sum(chain_count(self._study, name) for name in job.evaluations if name != PRETRAINING)
        return job.steps + chains * self._chain_work

    def _progress(self, job: Job) -> float:
        """How much of a job's work its files show."""
        folder = self._out / job.folder
        done = sum(
            _lines(_rows_file(self._study, job, folder, name)) * self._chain_work
            for name in job.evaluations
            if name != PRETRAINING
        )
        try:
            last = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1]
            done += json.loads(last)["step"]
        except (OSError, IndexError, ValueError, KeyError):
            pass
        return min(self._work(job), done)


def _lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0


def _in_short(row: dict[str, Any]) -> str:
    """A row's figure for the display."""
    if row["evaluation"] == PRETRAINING:
        return ", ".join(f"{name} {value:.2f}" for name, value in list(row["training"].items())[:2])
    chains = [int(digit) for digit in row["completed"]]
    return f"{row['evaluation']} {sum(chains) / len(chains):.2f} of 5"


def _in_process(study: Study, job: Job, out: Path, stages: Stages, messages: Connection) -> None:
    """A job in a process of its own: it ends with its parent, and prints into the run's ``output.log``."""
    end_with_parent()
    # The model is small: jobs side by side use the cores better than threads within one do.
    os.environ["OMP_NUM_THREADS"] = "1"
    log = os.open(out / job.folder / "output.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    try:
        run_job(study, job, out, stages)
    except BaseException as error:
        traceback.print_exc()
        messages.send(str(error) if isinstance(error, ArvrmError) else f"{type(error).__name__}: {error}")
        sys.exit(1)
