# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""``arvrm keypoints``: measures the hand landmarker on simulated clips against the simulator's truth."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from arvrm_ros.files import write_json, write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("clips", type=Path, help="folder made by `arvrm collect human`")
    parser.add_argument("--out", type=Path, default=Path("out/keypoints"), help="folder for report.html")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    parser.add_argument("--limit", type=int, help="only the first clips, by name")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")


def run(args: argparse.Namespace) -> int:
    """Measures, prints a table and writes the report."""
    from arvrm_ros.evaluation import keypoint_report

    measurements = keypoint_report.measure(args.clips, args.workers, args.limit)
    figures = keypoint_report.report(measurements)
    page = args.out / "report.html"
    write_text(page, keypoint_report.render_html(measurements))
    if args.json:
        write_json(args.json, figures)

    print(f"{'':32}  clips  found  misplaced  px median  mm camera  mm aligned (medians)")
    print(_line("all", figures["overall"]))
    for name, members in figures["groups"].items():
        print(name)
        for value, summary in members.items():
            print(_line(f"  {value}", summary))
    for name, track in figures["tracks"].items():
        print(
            f"tracks {name}: {track['pixels']:.2f} px, {track['aligned_mm']:.1f} mm aligned (means), "
            f"jitter {track['jitter']:.2f} px a frame, lag {track['lag_ms']:.1f} ms"
            if track["jitter"] is not None
            else f"tracks {name}: none"
        )
    print(f"report: {page}")
    return 0


def _line(name: str, summary: dict[str, Any]) -> str:
    def number(value: float | None, width: int) -> str:
        return "–".rjust(width) if value is None else f"{value:{width}.1f}"

    misplaced = summary["misplaced_rate"]
    return (
        f"{name:32} {summary['clips']:6} {summary['detection_rate']:6.0%} "
        + ("–".rjust(10) if misplaced is None else f"{misplaced:10.0%}")
        + number(summary["pixels"]["median"], 11)
        + number(summary["camera_mm"]["median"], 11)
        + number(summary["aligned_mm"]["median"], 12)
    )
