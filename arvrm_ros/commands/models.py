# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""``arvrm models``: fetches and checks the hand-landmark model."""

from __future__ import annotations

import argparse
from pathlib import Path

from arvrm_ros.perception import models


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the subcommands and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    fetch = actions.add_parser("fetch", help="obtain hand_landmarker.task (from the mediapipe 0.10.21 wheel)")
    source = fetch.add_mutually_exclusive_group()
    source.add_argument("--official", action="store_true", help="download the official file instead")
    source.add_argument("--url", help="download the .task file from this address instead")
    source.add_argument(
        "--file",
        type=Path,
        help="take it from a file: the .task, or the wheel of mediapipe 0.10.21",
    )
    fetch.add_argument("--force", action="store_true", help="fetch even when a good file is there")
    actions.add_parser("show", help="say where the model is and whether it is sound")


def run(args: argparse.Namespace) -> int:
    """Runs the chosen action; returns the exit status."""
    if args.action == "show":
        path = models.require_hand_landmarker()
        for name, sha in models.verify(path.read_bytes(), str(path)).items():
            print(f"{sha}  {name}")
        print(f"{path} is sound")
        return 0
    source = models.OFFICIAL_URL if args.official else args.url or args.file
    path, fetched = models.fetch_hand_landmarker(source, force=args.force)
    print(f"{path} {'fetched and verified' if fetched else 'is already there and sound'}")
    return 0
