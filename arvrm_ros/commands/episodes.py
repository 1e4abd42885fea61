# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""``arvrm episodes``: robot episodes from bags, LeRobot datasets or CALVIN's, and a look at those of a folder."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from arvrm_ros.contract import load_contract
from arvrm_ros.errors import ArvrmError
from arvrm_ros.files import write_text
from arvrm_ros.training import calvin
from arvrm_ros.training.importing import REJECTED
from arvrm_ros.training.lerobot import Names, import_dataset, is_dataset
from arvrm_ros.training.recordings import import_recordings, topics_to_record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    style = argparse.ArgumentDefaultsHelpFormatter
    importing = actions.add_parser(
        "import",
        help="make episodes of ROS 2 bags, a LeRobot dataset or CALVIN's, in which somebody shows a robot what to do",
        description="""Makes an episode of each demonstration that is not in the folder yet; run it again to go on after
            a stop, or to add bags. Instructions are the bags' names (open_the_drawer-3.mcap, or a folder
            open_the_drawer of ros2 bag), or stand in captions.csv in the source: columns video (the bag), caption
            and, where a bag holds several demonstrations, start and end in seconds. `arvrm episodes topics` prints how
            to record. A LeRobot dataset (a folder with meta/info.json) says its instructions itself; what of it is what
            of the contract is said by the options from --cameras on, where the names do not. Of CALVIN's datasets give
            a folder with lang_annotations in it (task_D_D/training); each annotation becomes an episode.""",
        formatter_class=style,
    )
    importing.add_argument("source", type=Path, help="a bag (.mcap), a folder of bags, or a dataset")
    importing.add_argument("--out", type=Path, required=True, help="folder of episodes, for arvrm finetune")
    importing.add_argument(
        "--robot", help="contract: a name in config/robots, or a YAML file; if not given, calvin for CALVIN's"
    )
    importing.add_argument(
        "--trim",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="leave out the time before the first motion and after the last one",
    )
    importing.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    of_dataset = importing.add_argument_group("of LeRobot datasets")
    of_dataset.add_argument(
        "--cameras",
        nargs="+",
        default=[],
        metavar="NAME=FEATURE",
        help="the contract's cameras, e.g. static=observation.images.front; those of the same name if not given",
    )
    of_dataset.add_argument(
        "--joints",
        nargs="+",
        default=[],
        metavar="ELEMENT",
        help="elements of observation.state that are the arm's joints, in the contract's order, by name or index",
    )
    of_dataset.add_argument("--gripper", default="", metavar="ELEMENT", help="the element that is the gripper")
    of_dataset.add_argument("--degrees", action="store_true", help="joints are in degrees, not in radians")
    of_dataset.add_argument(
        "--gripper-range",
        nargs=2,
        type=float,
        default=(0.0, 1.0),
        metavar=("CLOSED", "OPEN"),
        help="the gripper's values, e.g. 0 100",
    )
    showing = actions.add_parser("show", help="a page to look at: pictures, ways, instructions", formatter_class=style)
    showing.add_argument("episodes", type=Path, help="folder of episodes")
    showing.add_argument(
        "--out", type=Path, default=Path("episodes.html"), help="the page; nothing else is needed with it"
    )
    showing.add_argument("--count", type=int, default=60, help="episodes on the page")
    showing.add_argument("--caption", default="", help="only episodes whose instruction has this in it")
    telling = actions.add_parser("topics", help="print the command that records a demonstration", formatter_class=style)
    telling.add_argument("--robot", default="tabletop", help="contract: a name in config/robots, or a YAML file")


def run(args: argparse.Namespace) -> int:
    """Does it; 1 when a bag or an episode was rejected."""
    if args.action == "show":
        from arvrm_ros.training.episodes_page import episodes_page

        write_text(args.out, episodes_page(args.episodes, args.count, args.caption))
        print(args.out)
        return 0
    if args.action == "topics":
        print("ros2 bag record --storage mcap --output open_the_drawer", *topics_to_record(load_contract(args.robot)))
        return 0
    of_lerobot, of_calvin = is_dataset(args.source), calvin.is_dataset(args.source)
    contract = load_contract(args.robot or ("calvin" if of_calvin else "tabletop"))
    if of_lerobot:
        tally = import_dataset(args.source, args.out, contract, _names(args), args.trim, args.workers)
    elif of_calvin:
        tally = calvin.import_dataset(args.source, args.out, contract, args.trim, args.workers)
    else:
        tally = import_recordings(args.source, args.out, contract, args.trim, args.workers)
    for outcome, count in tally.counts.most_common():
        print(f"{count:6d} {outcome} (e.g. {', '.join(tally.examples[outcome])})")
    return int(tally.counts[REJECTED] > 0)


def _names(args: argparse.Namespace) -> Names:
    """What the options say of a LeRobot dataset."""
    if wrong := [word for word in args.cameras if "=" not in word]:
        raise ArvrmError(f"--cameras {wrong[0]}: write NAME=FEATURE, e.g. static=observation.images.front")
    closed, opened = args.gripper_range
    if closed == opened:
        raise ArvrmError(f"--gripper-range {closed:g} {opened:g}: a closed gripper has another value than an open one")
    cameras = dict(word.split("=", 1) for word in args.cameras)
    return Names(cameras, args.joints, args.gripper, args.degrees, (closed, opened))
