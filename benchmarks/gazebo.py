# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How the policy, which learnt in the embedded simulator, does in Gazebo: five instructions in each of several scenes.

Needs Gazebo and ros_gz_bridge. Each scene is a Gazebo of its own, as that cannot be put into another state. Per scene:
drawer, sliding door, button, lever, and then a block to lift or to push; the arm goes home after each. An instruction
counts as done when the oracle says so, which looks at what Gazebo says of the scene.

    python benchmarks/gazebo.py --scenes 6 --json gazebo.json
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from arvrm_ros import files, suite
from arvrm_ros.bringup import Supervisor
from arvrm_ros.contract import load_contract
from arvrm_ros.evaluation.rollout import wilson
from arvrm_ros.simulation import scene
from arvrm_ros.simulation.tabletop import Tabletop
from arvrm_ros.simulation.tasks import TASKS, tasks_in_turn

FIRST_SEED = 2_000_000
"""Scenes have seeds from here on, which neither training nor the demo has."""

HOME_WITHIN = 60.0
"""Seconds in which the arm has to be home after the bring-up."""


def run_scene(seed: int, variant: str, timeout: float, logs: Path) -> list[dict[str, Any]]:
    """One row per instruction of a scene."""
    from arvrm_ros.nodes.commander import Commander, CommanderError

    rows = []
    values = suite.resolve("gazebo", {"seed": str(seed), "variant": variant})
    with Supervisor("gazebo", values, None, logs) as supervisor, Commander(sim_time=True) as robot:
        supervisor.wait_until_up()
        tabletop = Tabletop(load_contract("tabletop"), variant, render=False)
        tabletop.reset(seed)
        for task in tasks_in_turn(tabletop.state(), seed):
            _go_home(robot)
            instruction = TASKS[task].instructions[seed % len(TASKS[task].instructions)]
            try:
                outcome = robot.follow(instruction, timeout).result(4 * timeout)
                done, why = outcome.success and outcome.success_source == "oracle", outcome.error_msg
                seconds = outcome.seconds
            except CommanderError as error:
                done, why, seconds = False, str(error), 0.0
            rows.append({"seed": seed, "task": task, "instruction": instruction, "done": done, "why": why})
            rows[-1]["seconds"] = round(seconds, 2)
    return rows


def _go_home(robot: Any) -> None:
    from arvrm_ros.nodes.commander import CommanderError

    end = time.monotonic() + HOME_WITHIN
    while True:
        try:
            return robot.home()
        except CommanderError:
            if time.monotonic() > end:
                raise
            time.sleep(1.0)


def main() -> int:
    """Runs the scenes and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=6, help="scenes of five instructions each (default: 6)")
    parser.add_argument("--variant", default="D", choices=list(scene.VARIANTS), help="look of the table (default: D)")
    parser.add_argument("--timeout", type=float, default=20.0, help="simulated seconds an instruction (default: 20)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--domain", type=int, default=81, help="ROS domain to use (default: 81)")
    args = parser.parse_args()
    os.environ["ROS_DOMAIN_ID"] = str(args.domain)
    os.environ.update(suite.environment("gazebo"))
    if problems := suite.missing("gazebo", suite.resolve("gazebo", {})):
        print("\n".join(problems))
        return 1
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as logs:
        for seed in tqdm(range(FIRST_SEED, FIRST_SEED + args.scenes), unit="scene"):
            rows += run_scene(seed, args.variant, args.timeout, Path(logs))
            by_kind: dict[str, list[bool]] = defaultdict(list)
            for row in rows:
                by_kind[TASKS[row["task"]].kind].append(row["done"])
            done = [row["done"] for row in rows]
            low, high = wilson(done)
            figures = {
                "instructions": len(done),
                "success": round(sum(done) / len(done), 4),
                "interval": [round(low, 4), round(high, 4)],
                "by_kind": {kind: [sum(results), len(results)] for kind, results in by_kind.items()},
                "rows": rows,
            }
            if args.json:
                files.write_json(args.json, figures)
    print(f"done {sum(done)} of {len(done)}: {figures['success']:.2f} ({low:.2f} to {high:.2f})")
    for kind, results in by_kind.items():
        print(f"  {kind:8} {sum(results)} of {len(results)}")
    for row in rows:
        if not row["done"]:
            print(f"  not done: {row['instruction']!r} in scene {row['seed']}: {row['why']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
