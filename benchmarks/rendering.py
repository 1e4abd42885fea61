# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How fast the simulator renders both of the policy's cameras, and how often it could do so between two images.

usage: python benchmarks/rendering.py [--sets 200] [--json FILE]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from arvrm_ros.contract import load_contract
from arvrm_ros.files import write_json
from arvrm_ros.simulation.tabletop import Tabletop


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=200, help="pairs of images to render")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    contract = load_contract("tabletop")
    tabletop = Tabletop(contract)
    seconds = []
    for index in range(args.sets + 10):
        if index % 50 == 0:
            tabletop.reset(index, None, "ABCD"[index // 50 % 4])
        tabletop.advance(0.01)  # so that no two images are alike
        start = time.perf_counter()
        tabletop.observation()
        seconds.append(time.perf_counter() - start)
    p50, p95 = np.percentile(seconds[10:], [50, 95])
    result = {
        "cameras": len(contract.observation.cameras),
        "sets_per_second": 1 / p50,
        "set_ms_p50": 1000 * p50,
        "set_ms_p95": 1000 * p95,
        "ratio_to_real_time": contract.action.step_period / p50,
    }
    print(
        f"{result['cameras']} cameras: {result['sets_per_second']:.0f} sets per second "
        f"(p50 {result['set_ms_p50']:.1f} ms, p95 {result['set_ms_p95']:.1f} ms), "
        f"{result['ratio_to_real_time']:.1f} times as fast as the robot needs them"
    )
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    main()
