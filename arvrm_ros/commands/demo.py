# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""``arvrm demo``: start the simulated suite, have it follow instructions, write a report, leave nothing behind."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from arvrm_ros import suite
from arvrm_ros.bringup import Supervisor, interrupt_on_sigterm
from arvrm_ros.contract import RobotContract, load_contract
from arvrm_ros.errors import ArvrmError, DataError
from arvrm_ros.evaluation.demo import Assignment, ProcessWatch, plan
from arvrm_ros.evaluation.report import DemoRecord, Episode, write_report
from arvrm_ros.resources import resource
from arvrm_ros.retrieval.database import MotionDatabase

if TYPE_CHECKING:
    from arvrm_ros.nodes.commander import Commander, Outcome, Recorder, Sample

TAIL = 0.5
"""Wall seconds recorded after an instruction is over, so that the video shows how it ended."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("--episodes", type=int, default=10, help="instructions to follow")
    parser.add_argument("--seed", type=int, default=0, help="chooses tasks, wordings and scenes")
    parser.add_argument("--timeout", type=float, default=40.0, help="simulated seconds per instruction")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder of the report, summary and logs")
    domain = int(os.environ.get("ROS_DOMAIN_ID", "0"))
    parser.add_argument("--domain", type=int, default=domain, help="ROS domain of the suite")
    parser.add_argument("arguments", nargs="*", metavar="NAME:=VALUE", help="arguments of the suite, as for arvrm up")


def run(args: argparse.Namespace) -> int:
    """Runs the demo; 0 when the report is written and no process was left behind."""
    started, clock = datetime.now().astimezone(), time.monotonic()
    values = suite.resolve("simulation", suite.parse(args.arguments))
    os.environ["ROS_DOMAIN_ID"] = str(args.domain)
    os.environ.update(suite.environment("simulation"))
    interrupt_on_sigterm()
    supervisor = Supervisor("simulation", values, output=None, log_folder=args.out / "logs")
    record = DemoRecord(
        [],
        [],
        0.0,
        variant=values["variant"],
        started=started.strftime("%d %B %Y"),
        command=f"arvrm demo --episodes {args.episodes} --seed {args.seed}",
    )
    watch: ProcessWatch | None = None
    problem = ""
    try:
        print(f"starting the suite on ROS domain {args.domain}; its logs are in {args.out / 'logs'}", flush=True)
        supervisor.start()
        watch = ProcessWatch(supervisor.pids)
        supervisor.wait_until_up()
        _follow_all(plan(args.episodes, args.seed), args.timeout, load_contract(values["robot"]), values, record)
    except ArvrmError as error:
        problem = supervisor.ended() or str(error)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave nodes behind
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        record.processes = watch.stop() if watch else []
        record.peak_rss_mb = watch.peak_mb if watch else 0.0
        supervisor.stop()
    left = watch.left_behind() if watch else []
    if problem and not record.episodes:
        raise ArvrmError(f"{problem}; see {args.out / 'logs'}")
    record.wall_seconds = time.monotonic() - clock
    page = write_report(record, args.out)
    _print_table(record, page)
    if problem:
        print(f"arvrm demo: stopped early: {problem}; see {args.out / 'logs'}", file=sys.stderr)
    if left:
        print(f"arvrm demo: still running: {', '.join(left)}", file=sys.stderr)
    return int(bool(problem or left))


def _follow_all(
    assignments: list[Assignment],
    timeout: float,
    contract: RobotContract,
    values: suite.Values,
    record: DemoRecord,
) -> None:
    """Appends one episode per assignment to the record."""
    from arvrm_ros.nodes.commander import Commander, Recorder

    with Commander(sim_time=True) as robot:
        recorder = Recorder(robot, contract)
        try:
            for assignment in (bar := tqdm(assignments, unit="instruction", file=sys.stderr)):
                bar.set_description(assignment.instruction)
                record.episodes.append(_follow(robot, recorder, assignment, timeout, values))
        finally:
            record.analogy_map = recorder.analogy_map


def _follow(
    robot: Commander, recorder: Recorder, assignment: Assignment, timeout: float, values: suite.Values
) -> Episode:
    robot.reset_scene(assignment.seed, assignment.task)
    recorder.start()
    following = robot.follow(assignment.instruction, timeout)
    outcome = following.result()
    time.sleep(TAIL)
    samples = recorder.stop()
    wording = following.feedback.wording if following.feedback else ""
    return _episode(assignment, outcome, wording, samples, values)


def _episode(
    assignment: Assignment, outcome: Outcome, wording: str, samples: dict[str, list[Sample]], values: suite.Values
) -> Episode:
    chunks = samples.get("chunk", [])
    stages: dict[str, list[float]] = {}
    for chunk in chunks:
        for name, seconds in chunk.value["stages"].items():
            stages.setdefault(name, []).append(seconds)
    if commands := _capture_to_command(samples.get("execution", [])):
        stages["capture_to_command"] = commands
    answers = [s.value for s in samples.get("retrieved", []) if s.value["instruction"] == assignment.instruction]
    answer: dict[str, Any] = answers[-1] if answers else {"motions": [], "confidence": 0.0}
    return Episode(
        instruction=assignment.instruction,
        task=assignment.task,
        held_out=assignment.held_out,
        seed=assignment.seed,
        success=outcome.success and outcome.success_source == "oracle",
        steps=outcome.steps,
        seconds=outcome.seconds,
        error_code=outcome.error_code,
        error_msg=outcome.error_msg,
        success_source=outcome.success_source,
        images={
            stream.partition("/")[2]: [(s.stamp, s.value) for s in series]
            for stream, series in samples.items()
            if stream.startswith("images/")
        },
        retrieved=answer["motions"],
        confidence=answer["confidence"],
        progress=[(chunk.stamp, chunk.value["progress"]) for chunk in chunks],
        stages=stages,
        thumbnails=_thumbnails([motion.clip.clip_id for motion in answer["motions"]], values),
        wording=wording,
    )


def _capture_to_command(statuses: list[Sample]) -> list[float]:
    """One value per accepted chunk: the status is repeated, the sequence says when it is a new one."""
    newest = 0
    seconds = []
    for status in statuses:
        value: dict[str, Any] = status.value
        if value["sequence"] != newest and value["capture_to_command"] > 0:
            newest = value["sequence"]
            seconds.append(float(value["capture_to_command"]))
    return seconds


def _thumbnails(clip_ids: list[str], values: suite.Values) -> dict[str, bytes]:
    if not clip_ids:
        return {}
    try:
        database = MotionDatabase.open(values["database"] or resource("checkpoints", "human_motions.lance"))
    except DataError:
        return {}  # the retrieval node has its own replacement, or its database is elsewhere
    return {clip: picture for clip, picture in database.thumbnails(clip_ids).items() if picture}


def _print_table(record: DemoRecord, page: Path) -> None:
    width = max((len(episode.instruction) for episode in record.episodes), default=0)
    print()
    for episode in record.episodes:
        print(
            f"  {'done    ' if episode.success else 'not done'}  {episode.instruction:<{width}}  "
            f"{episode.seconds:5.1f} s  {episode.error_msg}".rstrip()
        )
    done = sum(episode.success for episode in record.episodes)
    print(f"\n{done} of {len(record.episodes)} done; {record.wall_seconds:.0f} s, {record.peak_rss_mb:.0f} MB\n{page}")
