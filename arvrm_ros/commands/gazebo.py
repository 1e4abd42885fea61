# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""``arvrm gazebo``: the tabletop as a world of Gazebo."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from arvrm_ros.contract import load_contract
from arvrm_ros.errors import ArvrmError
from arvrm_ros.files import write_text
from arvrm_ros.simulation import gazebo, scene
from arvrm_ros.simulation.tabletop import Tabletop


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the subcommands and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    write = actions.add_parser("world", help="write the world, to look at or to change")
    write.add_argument("--out", type=Path, default=Path("tabletop.sdf"), help="SDF file to write")
    run = actions.add_parser("run", help="run it with `gz sim`; the suite gazebo does so for you")
    run.add_argument("--gui", action="store_true", help="show Gazebo's window")
    for parser_of_action in (write, run):
        parser_of_action.add_argument("--robot", default="tabletop", help="robot contract: a name, or a YAML file")
        parser_of_action.add_argument("--variant", default="D", choices=list(scene.VARIANTS), help="look of the table")
        parser_of_action.add_argument("--seed", type=int, default=0, help="seed of the scene")
        parser_of_action.add_argument("--image-rate", type=float, default=10.0, help="images per second and camera")
        parser_of_action.add_argument(
            "--real-time-factor", type=float, default=1.0, help="simulated seconds per wall-clock second, at most"
        )
        parser_of_action.add_argument(
            "--render-engine", default="ogre", choices=["ogre", "ogre2"], help="what draws the cameras' images"
        )


def run(args: argparse.Namespace) -> int:
    """Writes the world; to run it, becomes ``gz sim``."""
    tabletop = Tabletop(load_contract(args.robot), args.variant, render=False)
    tabletop.reset(args.seed)
    text = gazebo.world(tabletop, args.image_rate, args.real_time_factor, args.render_engine)
    if args.action == "world":
        write_text(args.out, text)
        print(f"{args.out} written: gz sim {args.out}")
        return 0
    if shutil.which("gz") is None:
        raise ArvrmError("gz is not on the path: install Gazebo (ros-$ROS_DISTRO-ros-gz)")
    world = Path(tempfile.gettempdir(), f"arvrm_tabletop_{args.variant}_{args.seed}_{os.getuid()}.sdf")
    write_text(world, text)
    os.execvp("gz", ["gz", "sim", "-r", *([] if args.gui else ["-s"]), str(world)])
