# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""``arvrm up``: start a suite of nodes without ``ros2 launch``."""

from __future__ import annotations

import argparse

from arvrm_ros import suite
from arvrm_ros.bringup import run_suite


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("suite", choices=list(suite.SUITES), help="which suite to start")
    parser.add_argument(
        "arguments", nargs="*", metavar="NAME:=VALUE", help="arguments of the suite, as for ros2 launch"
    )
    parser.add_argument("--show-args", action="store_true", help="print the suite's arguments and nodes, start nothing")


def run(args: argparse.Namespace) -> int:
    """Runs the suite in the foreground."""
    values = suite.resolve(args.suite, suite.parse(args.arguments))
    if not args.show_args:
        return run_suite(args.suite, values)
    print(f"{args.suite}: {suite.SUITES[args.suite]}\n\nArguments:")
    for argument in suite.arguments_of(args.suite).values():
        print(f"  {argument.name}:={values[argument.name]}\n      {argument.description}")
    print("\nNodes, in the order of their bring-up:")
    for process in suite.processes(args.suite, values):
        what = "a program" if process.program else f"{process.package or 'file'} {process.executable}"
        print(f"  {process.name}  ({what})")
    return 0
