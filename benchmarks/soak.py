# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Whether the whole simulated suite goes on for long: the memory of its processes, and an answer to every instruction.

    python benchmarks/soak.py [--minutes 30] [--json FILE] [--plot FILE]

Instructions of all kinds follow one another, each in a new scene. Growth compares the median resident memory in the
last tenth of the time with that in the first tenth after a settling time. The figures so far are in the file after each
instruction.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from arvrm_ros import files, suite
from arvrm_ros.bringup import Supervisor
from arvrm_ros.errors import InstructionCode
from arvrm_ros.evaluation.demo import Assignment, ProcessWatch, plan

GROWTH_LIMIT = 0.02
INSTRUCTION = 30.0  # s of simulated time
ANSWERS_WITHIN = 90.0  # s of wall time, after which an instruction counts as lost
PERIOD = 5.0  # s between two samples of the memory
AT_ONCE = 100  # instructions planned


class Memory:
    """Resident memory by node, in MB, over the time."""

    def __init__(self, watch: ProcessWatch) -> None:
        self._watch = watch
        self.times: list[float] = []
        self.nodes: dict[str, list[float]] = {}

    def sample(self, now: float) -> None:
        """Adds one, unless the last is younger than :data:`PERIOD`."""
        if self.times and now - self.times[-1] < PERIOD:
            return
        self.times.append(now)
        for node, mb in self._watch.resident_mb().items():
            self.nodes.setdefault(node, []).append(mb)

    def growth(self, settled: float) -> dict[str, float]:
        """From the first tenth after ``settled`` seconds to the last one, as a share; by node, and "all"."""
        times = np.array(self.times)
        tenth = (times[-1] - settled) / 10
        first = (times >= settled) & (times <= settled + tenth)
        last = times >= times[-1] - tenth
        series = {node: np.array(mb) for node, mb in self.nodes.items()}
        series["all"] = np.sum(list(series.values()), axis=0)
        if not first.any():
            return {}
        return {name: round(float(np.median(mb[last]) / np.median(mb[first])) - 1, 4) for name, mb in series.items()}


def assignments() -> Iterator[Assignment]:
    """Instructions without an end."""
    for seed in count():
        yield from plan(AT_ONCE, seed)


def plot(path: Path, memory: Memory) -> None:
    """Memory over the time, a line per node."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for node, mb in memory.nodes.items():
        axes.plot(np.array(memory.times) / 60, mb, label=node)
    axes.set(xlabel="minutes", ylabel="resident memory, MB", ylim=(0, None))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    with files.replace_atomically(path) as partial:
        FigureCanvasAgg(figure).print_png(partial)


def main() -> int:
    """Runs the suite and prints the figures; 1 when the memory grows too much or an instruction was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="of instructions (default: 30)")
    parser.add_argument("--settle", type=float, default=3.0, help="minutes at first that do not count (default: 3)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--plot", type=Path, help="draw the memory into this PNG file")
    parser.add_argument("--domain", type=int, default=79, help="ROS domain to use (default: 79)")
    args = parser.parse_args()
    os.environ["ROS_DOMAIN_ID"] = str(args.domain)
    os.environ.update(suite.environment("simulation"))
    from arvrm_ros.nodes.commander import Commander, CommanderError

    outcomes: Counter[str] = Counter()
    lost: list[str] = []
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as logs:
        supervisor = Supervisor("simulation", suite.resolve("simulation", {}), None, Path(logs))
        with supervisor, Commander(sim_time=True) as robot:
            supervisor.wait_until_up()
            memory = Memory(ProcessWatch(supervisor.pids))
            begin = time.monotonic()
            bar = tqdm(total=round(60 * args.minutes), unit="s", disable=None)
            for assignment in assignments():
                if time.monotonic() - begin > 60 * args.minutes or supervisor.ended():
                    break
                try:
                    robot.reset_scene(assignment.seed, assignment.task)
                    following, asked = robot.follow(assignment.instruction, INSTRUCTION), time.monotonic()
                    while not following.done() and time.monotonic() < asked + ANSWERS_WITHIN:
                        memory.sample(time.monotonic() - begin)
                        time.sleep(0.2)
                    outcome = following.result(1.0)
                    outcomes["success" if outcome.success else InstructionCode(outcome.error_code).name] += 1
                except CommanderError as error:
                    lost.append(f"{assignment.instruction}: {error}")
                bar.update(min(round(time.monotonic() - begin), bar.total) - bar.n)
                figures = {
                    "minutes": round((time.monotonic() - begin) / 60, 2),
                    "instructions": outcomes.total() + len(lost),
                    "outcomes": dict(outcomes),
                    "lost": lost,
                    "ended": supervisor.ended(),
                    "memory_growth": memory.growth(60 * args.settle),
                    "resident_mb": {node: round(mb[-1]) for node, mb in memory.nodes.items()},
                }
                if args.json:
                    files.write_json(args.json, figures)
            bar.close()
            figures["ended"] = supervisor.ended()
    if args.json:
        files.write_json(args.json, figures)
    if args.plot:
        plot(args.plot, memory)
    print("\n".join(f"{name:14} {value}" for name, value in figures.items()))
    growth = figures["memory_growth"].get("all", float("nan"))
    print(f"memory growth / {GROWTH_LIMIT:g}: {growth / GROWTH_LIMIT:.2f}")
    return int(not (growth <= GROWTH_LIMIT and not lost and not figures["ended"]))


if __name__ == "__main__":
    sys.exit(main())
