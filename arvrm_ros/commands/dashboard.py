# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""``arvrm dashboard``: look at a running suite, and record what is seen."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from arvrm_ros.suite import Process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.description = (
        "Looks at a running suite from another terminal. Publishes /dashboard/markers (the arm, its workspace, where "
        "the policy wants to go) for config/dashboard/arvrm.rviz and foxglove.json; with --record or --view also shows "
        "cameras, hands, retrieved clips, the analogy map, limits and times in Rerun. Ctrl-C ends it; the suite does "
        "not notice."
    )
    parser.add_argument("--robot", default="tabletop", help="robot contract: NAME of config/robots, or a YAML file")
    parser.add_argument("--record", type=Path, help="Rerun recording to write; look at it with `rerun FILE.rrd`")
    parser.add_argument("--view", action="store_true", help="open Rerun's viewer")


def run(args: argparse.Namespace) -> int:
    """Becomes the node."""
    parameters = {"robot": args.robot, "recording": str(args.record or ""), "view": args.view}
    command = Process("dashboard_node", "arvrm_ros", "dashboard_node", parameters).command()
    os.execv(command[0], command)
