# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""``arvrm evaluate``: roll a policy out in the simulator, on single tasks or on chains of five, and count successes."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arvrm_ros.errors import ArvrmError
from arvrm_ros.retrieval.search import MODES
from arvrm_ros.simulation.world import TABLETOP, WORLDS

if TYPE_CHECKING:
    from arvrm_ros.contract import RobotContract
    from arvrm_ros.evaluation.rollout import EvaluationOptions

CHAIN_STEPS, EPISODE_STEPS = 360, 120
CHAIN_OPTIONS = ("rows", "videos", "plot")
TABLETOP_OPTIONS = ("seed", "variants", "held_out")  # CALVIN's chains, table and sentences are its own
SEED = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--env",
        choices=WORLDS,
        default=TABLETOP,
        help="where to evaluate; CALVIN's own evaluation (--chains) needs its clone, docs/calvin.md, and renders in "
        "software or with OpenGL (-egl)",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--episodes", type=int, default=50, help="single tasks, over all tasks and variants in turn")
    what.add_argument("--chains", type=int, help="chains of five instructions without a reset, as in CALVIN")
    parser.add_argument("--tasks", metavar="ID,...", help="single tasks: these alone; all if not given")
    parser.add_argument("--seed", type=int, help=f"of the scenes, never those of collection (default: {SEED})")
    parser.add_argument("--checkpoint", default="", help="folder or shipped name; the shipped default if empty")
    parser.add_argument("--database", default="", help="human-motion database; the shipped one if empty")
    parser.add_argument(
        "--retrieval",
        choices=MODES,
        default=MODES[0],
        help="which clips: the search's, or as ablations blindly drawn ones, none, the best of the true task, the best "
        "of a wrong one",
    )
    parser.add_argument("--held-out", action="store_true", help="use paraphrases that training never saw")
    parser.add_argument(
        "--own-words",
        action="store_true",
        help="follow an unfamiliar instruction's own words, not the nearest ones of training or of the clips' captions",
    )
    parser.add_argument("--variants", help="looks of the table to use, in turn (default: ABCD; D for chains)")
    parser.add_argument(
        "--max-steps",
        type=int,
        help=f"control steps per instruction (default: {EPISODE_STEPS}; {CHAIN_STEPS} for chains)",
    )
    parser.add_argument("--robot", help="contract: a name in config/robots, or a YAML file; the world's if not given")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--json", type=Path, help="write the figures and a row per episode or chain to this file")
    parser.add_argument("--rows", type=Path, help="chains: keep outcomes in this file as they come, and go on from it")
    parser.add_argument("--videos", type=Path, help="chains: film some successes and all kinds of failure, to a folder")
    parser.add_argument("--plot", type=Path, help="chains: draw the success of 1 to 5 in a row to this PNG file")


def run(args: argparse.Namespace) -> int:
    """Evaluates and prints a table."""
    from arvrm_ros.contract import load_contract
    from arvrm_ros.evaluation.rollout import EvaluationOptions
    from arvrm_ros.resources import resource

    steps = args.max_steps or (EPISODE_STEPS if args.chains is None else CHAIN_STEPS)
    database = args.database or str(resource("checkpoints", "human_motions.lance"))
    options = EvaluationOptions(args.checkpoint, database, args.retrieval, steps, not args.own_words, args.env)
    contract = load_contract(args.robot or WORLDS[args.env])
    if args.env != TABLETOP and (given := _given(args, TABLETOP_OPTIONS)):
        raise ArvrmError(f"CALVIN's evaluation has its own scenes, table and sentences: leave out {given}")
    args.seed = SEED if args.seed is None else args.seed
    if args.chains is not None:
        if args.tasks:
            raise ArvrmError("--tasks is about single tasks: leave out --chains")
        _run_chains(args, contract, options)
        return 0
    if given := _given(args, CHAIN_OPTIONS):
        raise ArvrmError(f"{given} need --chains")
    if args.env != TABLETOP:
        raise ArvrmError("CALVIN's evaluation is one of chains: give --chains, 1000 for all of them")
    _run_episodes(args, contract, options)
    return 0


def _given(args: argparse.Namespace, names: tuple[str, ...]) -> str:
    """Those of the options that were given, as they are written."""
    given = [name for name in names if (value := getattr(args, name)) is not None and value is not False]
    return ", ".join("--" + name.replace("_", "-") for name in given)


def _run_episodes(args: argparse.Namespace, contract: RobotContract, options: EvaluationOptions) -> None:
    from arvrm_ros.evaluation.rollout import evaluate, save_rows, trials
    from arvrm_ros.simulation.tasks import TASKS

    tasks = args.tasks.split(",") if args.tasks else tuple(TASKS)
    chosen = trials(args.episodes, args.seed, args.variants or "ABCD", args.held_out, tasks)
    summary, outcomes = evaluate(contract, options, chosen, args.workers)
    _print_kinds({**summary["kinds"], "all": summary | {"episodes": len(outcomes)}}, "episodes")
    if "retrieved_right" in summary:
        print(f"retrieved clips of the right task: {summary['retrieved_right']:.2f}")
    for outcome in outcomes:
        if not outcome.success:
            refused = f", {outcome.refused} chunks refused: {outcome.reason}" if outcome.refused else ""
            read = f" read as {outcome.wording!r}" if outcome.wording != outcome.instruction else ""
            where = f"{outcome.variant}, seed {outcome.seed}"
            print(f"failed: {outcome.task} ({outcome.instruction!r}{read}, {where}{refused})")
    if args.json:
        save_rows(args.json, summary, outcomes)


def _run_chains(args: argparse.Namespace, contract: RobotContract, options: EvaluationOptions) -> None:
    from dataclasses import asdict

    from arvrm_ros.evaluation.chains import draw_chains, evaluate_chains, official_chains, plot_success, summarise
    from arvrm_ros.files import write_json
    from arvrm_ros.policies import checkpoint_folder, read_header

    read_header(checkpoint_folder(options.checkpoint))  # before the chains are drawn, which takes a while
    if args.env == TABLETOP:
        drawn = {"seed": args.seed, "variants": args.variants or "D", "held_out": args.held_out}
        chains = draw_chains(contract, args.chains, **drawn, workers=args.workers)
    else:
        drawn, chains = {}, official_chains(args.chains)
    outcomes = evaluate_chains(contract, options, chains, args.workers, args.rows, args.videos)
    summary = summarise(outcomes)
    _print_kinds(summary["kinds"], "tried")
    print()
    _print_chains(summary)
    if summary["retrieved_right"] is not None:
        print(f"retrieved clips of the right task: {summary['retrieved_right']:.2f}")
    if summary["refused"]:
        print(f"chunks refused: {summary['refused']}")
        for outcome in outcomes:
            if "refused" in outcome.failure:
                print(f"  chain {outcome.index}: {outcome.failure}")
    if summary["failed_tasks"]:
        print("chains ended at: " + ", ".join(f"{task} {count}" for task, count in summary["failed_tasks"].items()))
    if args.json:
        rows = [asdict(outcome) for outcome in outcomes]
        settings = asdict(options) | drawn | {"robot": contract.name}
        write_json(args.json, {"options": settings, **summary, "outcomes": rows})
    if args.plot:
        plot_success(args.plot, summary, f"{summary['chains']} chains, average length {summary['average_length']:.2f}")


def _print_kinds(kinds: dict[str, Any], count: str) -> None:
    print(f"{'kind':10}{count:>10}{'success':>10}   95 % interval")
    for kind, row in kinds.items():
        low, high = row["interval"]
        print(f"{kind:10}{row[count]:>10}{row['success_rate']:>10.2f}   {low:.2f} to {high:.2f}")


def _print_chains(summary: dict[str, Any]) -> None:
    """As the papers' tables have it: 1 to 5 tasks in a row, and the average length."""
    columns = len(summary["success"])
    print(f"{summary['chains']} chains{'':8}" + "".join(f"{k:>8}" for k in range(1, columns + 1)) + "   avg len")
    ends = zip(*summary["success_intervals"], strict=True)
    lengths = (summary["average_length"], *summary["average_length_interval"])
    labels = ("in a row", "95 % from", "95 % to")
    for label, shares, length in zip(labels, [summary["success"], *ends], lengths, strict=True):
        print(f"{label:15}" + "".join(f"{share:8.3f}" for share in shares) + f"{length:10.2f}")
