# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""``arvrm collect``: robot episodes and human clips from the simulator."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from arvrm_ros.simulation.world import TABLETOP, WORLDS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares ``arvrm collect robot`` and ``arvrm collect human``."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    human = kinds.add_parser(
        "human",
        help="clips of a human-like hand",
        description="Makes captioned clips of a human-like hand doing the tasks. Run it again to go on after a stop.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    human.add_argument("--out", type=Path, required=True, help="folder of clips")
    human.add_argument("--clips", type=int, default=100, help="how many clips there shall be")
    human.add_argument("--seed", type=int, default=0, help="of the whole collection")
    human.add_argument("--rate", type=float, default=10.0, help="frames per second; phones film 30")
    human.add_argument("--gloves", action="store_true", help="hands in gloves, to try the landmarker on")
    robot = kinds.add_parser(
        "robot",
        help="episodes of the scripted experts",
        description="Makes robot episodes of all tasks in turn. Run it again to go on after a stop.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    robot.add_argument("--out", type=Path, required=True, help="folder of episodes")
    robot.add_argument("--episodes", type=int, default=200, help="how many episodes there shall be")
    robot.add_argument("--variants", default="ABCD", help="looks of the table to use in turn")
    robot.add_argument(
        "--env", choices=WORLDS, default=TABLETOP, help="where; CALVIN's needs its clone, docs/calvin.md"
    )
    robot.add_argument(
        "--robot", help="contract: a name in config/robots, or a YAML file; the world's own if not given"
    )
    robot.add_argument("--seed", type=int, default=0, help="of the whole collection")
    robot.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    human.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")


def run(args: argparse.Namespace) -> int:
    """Makes what was asked for."""
    if args.kind == "robot":
        from arvrm_ros.contract import load_contract
        from arvrm_ros.simulation.demonstrations import collect_robot

        contract = load_contract(args.robot or WORLDS[args.env])
        failed = collect_robot(args.out, contract, args.episodes, args.seed, args.workers, args.variants, args.env)
        print(f"{args.episodes - failed} episodes in {args.out}; the expert failed at {failed}")
        return 0
    from arvrm_ros.simulation.human import collect_human

    made = collect_human(args.out, args.clips, args.seed, args.workers, rate=args.rate, gloves=args.gloves)
    print(f"{made} clips made; {args.out} holds {args.clips}")
    return 0
