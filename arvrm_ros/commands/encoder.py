# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""``arvrm encoder``: train the small image encoder."""

from __future__ import annotations

import argparse
from pathlib import Path

from arvrm_ros.files import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--episodes", type=Path, required=True, help="folder of simulated robot episodes")
    parser.add_argument("--clips", type=Path, help="folder of simulated human clips")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; run again to go on after a stop")
    parser.add_argument("--steps", type=int, default=3000, help="optimiser steps")
    parser.add_argument("--batch", type=int, default=64, help="images per step")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of initialisation and batches")
    parser.add_argument("--json", type=Path, help="write the validation figures to this file")


def run(args: argparse.Namespace) -> int:
    """Trains and reports."""
    from arvrm_ros.training.encoder import train_encoder
    from arvrm_ros.training.loop import Schedule

    schedule = Schedule(args.steps, args.learning_rate, seed=args.seed)
    figures = train_encoder(args.episodes, args.clips, args.out, schedule, args.batch)
    print(f"{args.out / 'image_encoder.safetensors'}: " + ", ".join(f"{k} {v:.3f}" for k, v in figures.items()))
    if args.json:
        write_json(args.json, figures)
    return 0
