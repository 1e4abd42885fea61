# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""``arvrm explain``: draws a checkpoint's analogical-reasoning map and says what drives the gripper."""

from __future__ import annotations

import argparse
from pathlib import Path

from arvrm_ros.files import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("checkpoint", nargs="?", default="", help="folder or shipped name; the default one if empty")
    parser.add_argument("--out", type=Path, default=Path("out/map.png"), help="the picture: .png, .svg or .pdf")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--instruction", default="", help="for a conditional map: what the robot is told")
    parser.add_argument(
        "--database", default="", help="human-motion database whose keypoints are moved; the shipped one if empty"
    )


def run(args: argparse.Namespace) -> int:
    """Prints the figures and draws the map."""
    from arvrm_ros.evaluation.explain import describe, draw, explain, figures
    from arvrm_ros.resources import resource
    from arvrm_ros.retrieval.database import MotionDatabase

    database = MotionDatabase.open(args.database or resource("checkpoints", "human_motions.lance"))
    explanation = explain(args.checkpoint, database, args.instruction)
    print(describe(explanation))
    draw(explanation, args.out)
    print(f"\ndrawn: {args.out}")
    if args.json:
        write_json(args.json, figures(explanation))
    return 0
