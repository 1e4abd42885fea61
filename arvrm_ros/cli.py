# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The ``arvrm`` command. Each subcommand is a module of :mod:`arvrm_ros.commands`, imported when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import sys

from arvrm_ros import __version__
from arvrm_ros.errors import ArvrmError

COMMANDS = {
    "up": "start the whole suite without ros2 launch",
    "gazebo": "write the tabletop as a world of Gazebo, or run it there",
    "dashboard": "look at a running suite: markers for RViz and Foxglove, Rerun's viewer or a recording",
    "demo": "start the simulated suite, follow ten instructions, write a report",
    "models": "fetch the hand-landmark model",
    "collect": "make robot episodes or human clips in the simulator",
    "episodes": "make robot episodes of bags, LeRobot or CALVIN datasets in which a robot is shown what to do",
    "db": "build and search the human-motion database",
    "keypoints": "measure the hand landmarker against the simulator's truth",
    "encoder": "train the small image encoder",
    "pretrain": "pretrain the keypoint model on human clips",
    "finetune": "fine-tune the policy on robot episodes",
    "faults": "break the running simulated suite on purpose, and judge the arm",
    "evaluate": "roll a policy out in the simulator and count successes",
    "explain": "draw the analogy map of a checkpoint and say what drives the gripper",
    "ablate": "run a whole study of trainings and evaluations, and write its report",
}


def main(argv: list[str] | None = None) -> int:
    """Runs one subcommand; returns its exit status (0 done, 1 a problem to mend, 2 wrong usage, 130 Ctrl-C)."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="arvrm", description="AR-VRM for ROS 2: a robot that follows instructions by imitating human motion."
    )
    parser.add_argument("--version", action="version", version=f"arvrm_ros {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = next((word for word in argv if word in COMMANDS), None)
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        if name == chosen:
            command = importlib.import_module(f"arvrm_ros.commands.{name}")
            command.add_arguments(subparser)
            subparser.set_defaults(run=command.run)
    args = parser.parse_args(argv)
    try:
        return int(args.run(args))
    except ArvrmError as error:
        print(f"arvrm {args.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
