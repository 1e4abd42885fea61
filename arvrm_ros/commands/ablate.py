# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""``arvrm ablate``: the whole study, unattended and resumable, and its report."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("config", help="study: a name in config/studies, or a YAML file")
    parser.add_argument("--only", metavar="ARM,...", help="run these arms only")
    parser.add_argument("--seeds", metavar="SEED,...", help="run these seeds only")
    parser.add_argument("--data", metavar="{full,small}", help="run what needs all of the robot data, or little, only")
    parser.add_argument("--report-only", action="store_true", help="run nothing; write the report from the results")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="jobs side by side, one thread each")
    parser.add_argument("--out", type=Path, help="working folder; the study's (runs/study) if not given")
    parser.add_argument(
        "--results", type=Path, help="file of results; what it holds is not run again; the study's if not given"
    )
    parser.add_argument(
        "--report", type=Path, help="page to write; its hand-written notes are kept; the study's if not given"
    )


def run(args: argparse.Namespace) -> int:
    """Runs what is missing; 1 when a job failed."""
    from arvrm_ros.evaluation.study import StudyError, load_study
    from arvrm_ros.evaluation.study_report import Report
    from arvrm_ros.evaluation.study_runner import Results, run_study

    study = load_study(args.config)
    results = Results(args.results or Path(study.results))
    path = args.report or Path(study.report)
    report = Report(study, path, f"arvrm ablate {args.config}")
    if not args.report_only:
        try:
            seeds = [int(seed) for seed in args.seeds.split(",")] if args.seeds else None
        except ValueError:
            raise StudyError(f"--seeds {args.seeds}: give whole numbers, separated by commas") from None
        arms = args.only.split(",") if args.only else None
        out = args.out or Path(study.out)
        amounts = [args.data] if args.data else None
        outcome = run_study(study, out, results, args.workers, lambda: report.write(results), arms, seeds, amounts)
    report.write(results)
    print(path)
    if not args.report_only and outcome.failed:
        print(f"{len(outcome.failed)} jobs failed; run the same command again to try anew:", file=sys.stderr)
        print("\n".join(outcome.failed), file=sys.stderr)
        return 1
    return 0
