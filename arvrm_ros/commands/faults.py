# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""``arvrm faults``: break a running simulated suite on purpose, and judge the arm."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

from tqdm import tqdm

from arvrm_ros import files, suite
from arvrm_ros.bringup import Supervisor, interrupt_on_sigterm
from arvrm_ros.errors import ArvrmError
from arvrm_ros.evaluation.faults import Outcome, Results, campaign, catalogue


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("--injections", type=int, default=200, help="faults to inject, at least; every kind comes")
    parser.add_argument("--only", nargs="*", default=[], metavar="KIND", help="kinds that begin with one of these")
    parser.add_argument("--list", action="store_true", help="print the kinds of fault, inject none")
    parser.add_argument("--out", type=Path, default=Path("out/faults"), help="folder of summary, table and logs")
    parser.add_argument("--fresh", action="store_true", help="begin anew; else an interrupted campaign is continued")
    parser.add_argument("--minutes", type=float, default=120.0, help="stop after this time, whatever is left")
    parser.add_argument("--seed", type=int, default=0, help="chooses scenes, instructions and noise")
    domain = int(os.environ.get("ROS_DOMAIN_ID", "0"))
    parser.add_argument("--domain", type=int, default=domain, help="ROS domain of the suite")
    parser.add_argument("arguments", nargs="*", metavar="NAME:=VALUE", help="arguments of the suite, as for arvrm up")


def run(args: argparse.Namespace) -> int:
    """Runs the campaign; 0 when no limit was broken, the arm rested whenever it had to, and the suite recovered."""
    if args.list:
        print("\n".join(fault.kind for fault in catalogue()))
        return 0
    faults = campaign(args.injections, args.only)
    if not faults:
        raise ArvrmError(f"no kind of fault begins with {', '.join(args.only)}: see arvrm faults --list")
    values = suite.resolve("simulation", suite.parse(args.arguments))
    os.environ["ROS_DOMAIN_ID"] = str(args.domain)
    os.environ.update(suite.environment("simulation"))
    Supervisor("simulation", values)  # says what is missing
    from arvrm_ros.nodes.fault_campaign import Campaign, CampaignError
    from arvrm_ros.real_time import run_in_real_time

    if args.fresh:
        shutil.rmtree(args.out, ignore_errors=True)
    results = Results(args.out, faults)
    give_up = time.monotonic() + 60 * args.minutes
    interrupt_on_sigterm()
    run_in_real_time()  # the relay must not be a fault of its own
    breaking = Campaign(values, args.out / "logs", args.seed)
    failures = 0
    try:
        for number in tqdm(range(len(results.outcomes), len(faults)), unit="fault", file=sys.stderr):
            if time.monotonic() > give_up:
                print(f"arvrm faults: {args.minutes:g} minutes are over; run it again to go on", file=sys.stderr)
                break
            fault = faults[number]
            try:
                outcome = breaking.inject(number, fault)
            except (CampaignError, suite.SuiteError) as error:
                outcome = Outcome(number, fault.kind, 0.0, note=str(error), injected=False)
            results.add(outcome)
            failures += _report(outcome)
    finally:
        breaking.close()
    files.write_text(args.out / "table.md", results.table())
    print(results.table())
    print("\n".join(f"{name}: {value}" for name, value in results.summary().items()))
    return int(any(not _is_well(outcome) for outcome in results.outcomes))


def _is_well(outcome: Outcome) -> bool:
    return outcome.recovered and not outcome.violations and outcome.at_rest is not False


def _report(outcome: Outcome) -> bool:
    """Says at once what went wrong."""
    if _is_well(outcome):
        return False
    what = [*outcome.violations]
    if outcome.at_rest is False:
        what.append(f"at rest after {outcome.rested_after} s, commanded to after {outcome.commanded_rest_after} s")
    if what:
        what.append(f"a joint was {outcome.pushed} rad off its command")
    if not outcome.recovered:
        what.append(f"{'not recovered' if outcome.injected else 'not injected'}: {outcome.note}")
    tqdm.write(f"{outcome.number} {outcome.kind}: {'; '.join(what)}", file=sys.stderr)
    return True
