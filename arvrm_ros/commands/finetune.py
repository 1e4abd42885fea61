# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""``arvrm finetune``: stage 2, the policy on robot episodes with retrieved human clips."""

from __future__ import annotations

import argparse
from pathlib import Path

from arvrm_ros.files import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--episodes", type=Path, required=True, help="folder of robot episodes")
    parser.add_argument("--database", default="", help="human-motion database; without one the policy knows no clips")
    parser.add_argument(
        "--pretrained", type=Path, help="pretrained.safetensors of 'arvrm pretrain'; random if not given"
    )
    parser.add_argument(
        "--image-encoder",
        type=Path,
        help="weights of the frozen image encoder; if not given, those that ship or that timm fetches",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; run again to go on after a stop")
    parser.add_argument("--policy", default="arvrm_small", help="configuration: a name in config/policies, or a file")
    parser.add_argument("--robot", default="tabletop", help="contract: a name in config/robots, or a YAML file")
    parser.add_argument("--limit", type=int, help="use only the first so many episodes")
    parser.add_argument("--variants", help="use only episodes of these looks of the table, e.g. ABC; all if not given")
    parser.add_argument("--without-tasks", metavar="ID,...", help="leave out the episodes of these tasks")
    parser.add_argument("--no-analogy", action="store_true", help="ablation: no analogical-reasoning map")
    parser.add_argument("--steps", type=int, default=6000, help="optimiser steps")
    parser.add_argument("--batch", type=int, default=64, help="windows per step")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of initialisation and batches")
    parser.add_argument("--json", type=Path, help="write the validation figures to this file")


def run(args: argparse.Namespace) -> int:
    """Trains and reports."""
    from arvrm_ros.contract import load_contract
    from arvrm_ros.policies.arvrm.configuration import load_config
    from arvrm_ros.retrieval.database import MotionDatabase
    from arvrm_ros.training.finetune import finetune
    from arvrm_ros.training.loop import Schedule, is_first

    changes = {"analogy": False} if args.no_analogy else {}
    if not args.database:  # else the policy would be shown clips when it acts, which it never learnt to read
        changes |= {"retrieval": False, "analogy": False}
    figures = finetune(
        args.episodes,
        MotionDatabase.open(args.database) if args.database else None,
        args.image_encoder,
        args.pretrained,
        args.out,
        load_contract(args.robot),
        load_config(args.policy, **changes),
        Schedule(args.steps, args.learning_rate, seed=args.seed),
        args.batch,
        args.limit,
        args.variants,
        args.without_tasks.split(",") if args.without_tasks else (),
    )
    if not is_first():
        return 0
    print(f"{args.out / 'checkpoint'}: " + ", ".join(f"{k} {v:.3f}" for k, v in figures.items()))
    if args.json:
        write_json(args.json, figures)
    return 0
