# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""``arvrm episodes``: robot episodes from bags of a real robot, and a look at those of a folder."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from arvrm_ros.contract import load_contract
from arvrm_ros.files import write_text
from arvrm_ros.training.recordings import REJECTED, import_recordings, topics_to_record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    style = argparse.ArgumentDefaultsHelpFormatter
    importing = actions.add_parser(
        "import",
        help="make episodes of ROS 2 bags in which somebody shows a robot what to do",
        description="""Makes an episode of each demonstration that is not in the folder yet; run it again to go on after
            a stop, or to add bags. Instructions are the bags' names (open_the_drawer-3.mcap, or a folder
            open_the_drawer of ros2 bag), or stand in captions.csv in the source: columns video (the bag), caption
            and, where a bag holds several demonstrations, start and end in seconds. `arvrm episodes topics` prints how
            to record.""",
        formatter_class=style,
    )
    importing.add_argument("source", type=Path, help="a bag (.mcap), or a folder of bags")
    importing.add_argument("--out", type=Path, required=True, help="folder of episodes, for arvrm finetune")
    importing.add_argument("--robot", default="tabletop", help="contract: a name in config/robots, or a YAML file")
    importing.add_argument(
        "--trim",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="leave out the time before the first motion and after the last one",
    )
    importing.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
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
    """Does it; 1 when a bag was rejected."""
    if args.action == "show":
        from arvrm_ros.training.episodes_page import episodes_page

        write_text(args.out, episodes_page(args.episodes, args.count, args.caption))
        print(args.out)
        return 0
    contract = load_contract(args.robot)
    if args.action == "topics":
        print("ros2 bag record --storage mcap --output open_the_drawer", *topics_to_record(contract))
        return 0
    tally = import_recordings(args.source, args.out, contract, args.trim, args.workers)
    for outcome, count in tally.counts.most_common():
        print(f"{count:6d} {outcome} (e.g. {', '.join(tally.examples[outcome])})")
    return int(tally.counts[REJECTED] > 0)
