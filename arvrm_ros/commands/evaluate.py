# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""``arvrm evaluate``: roll a policy out in the simulator and count successes."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--env", choices=["tabletop"], default="tabletop", help="where to evaluate")
    parser.add_argument("--episodes", type=int, default=50, help="rollouts, over all tasks and variants in turn")
    parser.add_argument("--seed", type=int, default=1000, help="of the scenes; collection never uses the same ones")
    parser.add_argument("--checkpoint", default="", help="folder or shipped name; the shipped default if empty")
    parser.add_argument("--database", default="", help="human-motion database; the shipped one if empty")
    parser.add_argument("--retrieval", choices=["database", "random", "none"], default="database", help="ablation")
    parser.add_argument("--held-out", action="store_true", help="use paraphrases that training never saw")
    parser.add_argument("--variants", default="ABCD", help="looks of the table to use")
    parser.add_argument("--max-steps", type=int, default=120, help="control steps per episode")
    parser.add_argument("--robot", default="tabletop", help="contract: a name in config/robots, or a YAML file")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--json", type=Path, help="write success_rate and a row per episode to this file")


def run(args: argparse.Namespace) -> int:
    """Evaluates and prints a table."""
    from arvrm_ros.contract import load_contract
    from arvrm_ros.evaluation.rollout import EvaluationOptions, evaluate, save_rows, trials
    from arvrm_ros.resources import resource

    database = args.database or str(resource("checkpoints", "human_motions.lance"))
    options = EvaluationOptions(args.checkpoint, database, args.retrieval, args.max_steps)
    chosen = trials(args.episodes, args.seed, args.variants, args.held_out)
    summary, outcomes = evaluate(load_contract(args.robot), options, chosen, args.workers)
    print(f"{'kind':10}{'episodes':>10}{'success':>10}   95 % interval")
    for kind, row in [*summary["kinds"].items(), ("all", summary | {"episodes": len(outcomes)})]:
        low, high = row["interval"]
        print(f"{kind:10}{row['episodes']:>10}{row['success_rate']:>10.2f}   {low:.2f} to {high:.2f}")
    if "retrieved_right" in summary:
        print(f"retrieved clips of the right task: {summary['retrieved_right']:.2f}")
    for outcome in outcomes:
        if not outcome.success:
            refused = f", {outcome.refused} chunks refused: {outcome.reason}" if outcome.refused else ""
            print(f"failed: {outcome.task} ({outcome.instruction!r}, {outcome.variant}, seed {outcome.seed}{refused})")
    if args.json:
        save_rows(args.json, summary, outcomes)
    return 0
