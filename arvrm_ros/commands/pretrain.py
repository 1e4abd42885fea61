# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""``arvrm pretrain``: stage 1, the keypoint vision-language model on human clips."""

from __future__ import annotations

import argparse
from pathlib import Path

from arvrm_ros.files import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--database", required=True, help="human-motion database, made by 'arvrm db build'")
    parser.add_argument(
        "--image-encoder", type=Path, help="weights of the image encoder; the shipped ones if not given"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; run again to go on after a stop")
    parser.add_argument("--policy", default="arvrm_small", help="configuration: a name in config/policies, or a file")
    parser.add_argument("--steps", type=int, default=2000, help="optimiser steps")
    parser.add_argument("--batch", type=int, default=32, help="clips per step")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of initialisation and batches")
    parser.add_argument("--json", type=Path, help="write the validation errors to this file")


def run(args: argparse.Namespace) -> int:
    """Trains and reports."""
    from arvrm_ros.policies.arvrm.configuration import load_config
    from arvrm_ros.retrieval.database import MotionDatabase
    from arvrm_ros.training.loop import Schedule, is_first
    from arvrm_ros.training.pretrain import pretrain

    schedule = Schedule(args.steps, args.learning_rate, seed=args.seed)
    database = MotionDatabase.open(args.database)
    figures = pretrain(database, args.image_encoder, args.out, load_config(args.policy), schedule, args.batch)
    if not is_first():
        return 0
    print("on clips left out: " + ", ".join(f"{k} {v:.2f}" for k, v in figures.items()))
    if args.json:
        write_json(args.json, figures)
    return 0
