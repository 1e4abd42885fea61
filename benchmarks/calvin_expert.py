# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How far the scripted expert comes in CALVIN's own evaluation: the demonstrations cannot be better than it is.

    python benchmarks/calvin_expert.py [--chains 300] [--json FILE]

CALVIN_ROOT names CALVIN's clone (docs/calvin.md).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from arvrm_ros.contract import load_contract
from arvrm_ros.errors import ArvrmError
from arvrm_ros.evaluation.chains import bootstrap_interval, expert_finishes, official_chains
from arvrm_ros.files import write_json
from arvrm_ros.simulation.calvin import Calvin


def main() -> int:
    """Prints the average chain length, and success per task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, default=300, help="the first ones of CALVIN's thousand (default: 300)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    try:
        world, chains = Calvin(load_contract("calvin")), official_chains(args.chains)
    except ArvrmError as error:
        print(error, file=sys.stderr)
        return 1
    done, tried, lengths = Counter[str](), Counter[str](), []
    for chain in tqdm(chains, unit="chain"):
        world.reset(chain.seed)
        rng, length = np.random.default_rng(chain.seed), 0
        for task in chain.tasks:
            tried[task] += 1
            if not expert_finishes(world, [task], rng):
                break
            done[task] += 1
            length += 1
        lengths.append(length)
    world.close()
    low, high = bootstrap_interval(np.array(lengths))
    results = {
        "chains": len(chains),
        "average_length": float(np.mean(lengths)),
        "average_length_interval": [low, high],
        "in_a_row": [float(np.mean(np.array(lengths) >= k)) for k in range(1, 6)],
        "tasks": {task: [done[task], tried[task]] for task in sorted(tried)},
    }
    for task, (successes, count) in results["tasks"].items():
        print(f"{task:26}{successes:5d} of {count}")
    print(f"average length {results['average_length']:.2f} ({low:.2f} to {high:.2f}), in a row: "
          + " ".join(f"{share:.2f}" for share in results["in_a_row"]))  # fmt: skip
    if args.json:
        write_json(args.json, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
