# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How the arm comes to rest when it is stopped at any moment of its work, and what its joints do in contact.

    python benchmarks/stops.py [--trials 340] [--seed 3] [--json FILE]

A policy works in the simulated scenes, without ROS. At random moments the arm is stopped while it moves, by turns by an
emergency stop and as by a policy that asks for rest, and goes on 1.2 s later. The commands and the measured joints are
judged as the fault campaign does. Whoever presses on something is pushed back: a joint may slip, or spring back when it
comes free, after its commands rest. Each such case is printed with what the arm touched, and how far the joint was from
its command.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from arvrm_ros.contract import load_contract
from arvrm_ros.data.types import ActionChunk
from arvrm_ros.errors import ExecutionCode, MotionRefused
from arvrm_ros.evaluation import rollout
from arvrm_ros.evaluation.faults import AT_REST, LAG, REST
from arvrm_ros.files import write_json
from arvrm_ros.motion.executor import ChunkExecutor, ExecutorSettings, JointCommand
from arvrm_ros.simulation import MOST_LAG
from arvrm_ros.simulation.scene import ROBOT
from arvrm_ros.simulation.tabletop import Tabletop

PAUSE = 1.2  # s from a stop until the arm may go on
MOVING = 0.1  # rad/s of a joint, at least, of an arm that is stopped
TOUCHED = 0.1  # s before a joint is fastest, in which it came free
BETWEEN = 0.3  # s without excess, after which one counts as another


@dataclass
class Figures:
    """What came of all stops."""

    stops: int = 0
    late: int = 0  # not at rest within REST, as the joints are measured
    late_commanded: int = 0
    late_untouched: int = 0
    fast: int = 0  # times that a joint was measured beyond its velocity limit
    fast_untouched: int = 0
    rests: list[float] = field(default_factory=list)  # s


class Stopped(ChunkExecutor):
    """The executor, stopped now and then."""

    def watch(self, tabletop: Tabletop, rng: np.random.Generator, figures: Figures, task: str) -> Stopped:
        """Begins at rest where the arm is."""
        self._tabletop, self._rng, self._figures, self._task = tabletop, rng, figures, task
        self.reset(tabletop.joint_positions, tabletop.gripper, tabletop.time)
        self._stop_after = rng.uniform(0.2, 2.5)
        self._stopped: float | None = None
        self._last = {"commanded": -np.inf, "measured": -np.inf, "touched": -np.inf, "too fast": -np.inf}
        self._touching = ""
        return self

    def accept(self, chunk: ActionChunk, now: float) -> None:
        """As the executor's, unless it is stopped."""
        if self._stopped is not None:
            raise MotionRefused(ExecutionCode.EMERGENCY_STOP, "stopped by the benchmark")
        super().accept(chunk, now)

    def step(self, now: float) -> JointCommand:
        """As the executor's; looks at the arm first."""
        self._look(now)
        if self._stopped is None and now > self._stop_after and np.abs(self.present.velocities).max() > MOVING:
            self._stopped = now
            if self._rng.random() < 0.5:
                self.emergency_stop()
            else:
                self.hold(now)
        elif self._stopped is not None and now > self._stopped + PAUSE:
            self._judge(self._stopped)
            self.clear_emergency_stop()
            self._stopped, self._stop_after = None, now + self._rng.uniform(0.2, 1.5)
        return super().step(now)

    def _look(self, now: float) -> None:
        measured, limits = self._tabletop.joint_velocities, np.array(self.contract.limits.velocity)
        if touching := ", ".join(sorted(touched(self._tabletop))):
            self._last["touched"], self._touching = now, touching
        for what, velocities in (("commanded", self.present.velocities), ("measured", measured)):
            if np.abs(velocities).max() > AT_REST:
                self._last[what] = now
        excess = np.abs(measured) / limits
        if excess.max() > LAG:
            joint = int(excess.argmax())
            if now > self._last["too fast"] + BETWEEN:
                away = self.present.positions[joint] - self._tabletop.joint_positions[joint]
                self._figures.fast += 1
                self._figures.fast_untouched += not self._has_touched(now - TOUCHED)
                self._say(
                    f"{self.contract.joints[joint]} at {measured[joint]:.2f} rad/s, commanded "
                    f"{self.present.velocities[joint]:.2f}, {away:.3f} rad from its command",
                    now - TOUCHED,
                )
            self._last["too fast"] = now

    def _judge(self, stopped: float) -> None:
        figures = self._figures
        rest, commanded = (max(self._last[what] - stopped, 0.0) for what in ("measured", "commanded"))
        figures.stops += 1
        figures.rests.append(rest)
        figures.late_commanded += commanded > REST
        if rest > REST:
            figures.late += 1
            figures.late_untouched += not self._has_touched(stopped)
            self._say(f"at rest after {rest:.2f} s, commanded to after {commanded:.2f} s", stopped)

    def _has_touched(self, since: float) -> bool:
        return self._last["touched"] >= since

    def _say(self, what: str, since: float) -> None:
        touching = self._touching if self._has_touched(since) else "nothing"
        tqdm.write(f"{self._task}: {what}; touching {touching}", file=sys.stderr)


def touched(tabletop: Tabletop) -> set[str]:
    """Bodies that the arm touches."""
    model, data = tabletop.model, tabletop.data
    pairs = model.geom_bodyid[data.contact.geom[: data.ncon]]
    names = [{model.body(body).name for body in pair} for pair in pairs]
    arm = [pair for pair in names if any(name.startswith(ROBOT) for name in pair)]
    return {name for pair in arm for name in pair if not name.startswith(ROBOT)}


def main() -> int:
    """Prints the figures; 1 when an arm that touches nothing is late or too fast."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=340, help="episodes (default: 340)")
    parser.add_argument("--seed", type=int, default=3, help="of the trials and the stops (default: 3)")
    parser.add_argument("--robot", default="tabletop", help="contract, by name or file (default: tabletop)")
    parser.add_argument("--checkpoint", default="arvrm_tabletop", help="the policy (default: arvrm_tabletop)")
    parser.add_argument(
        "--database", default="checkpoints/human_motions.lance", help="human motions (default: the shipped ones)"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    contract = load_contract(args.robot)
    figures, rng, done = Figures(), np.random.default_rng(args.seed), 0
    trials = rollout.trials(args.trials, args.seed)
    with rollout.set_up_here(contract, rollout.EvaluationOptions(args.checkpoint, args.database)) as setup:
        for trial in tqdm(trials, "stopping", unit="trial", disable=None):

            def start(tabletop: Tabletop, task: str = trial.task) -> ChunkExecutor:
                return Stopped(contract, ExecutorSettings(lag=MOST_LAG)).watch(tabletop, rng, figures, task)

            done += rollout.roll_out(setup.world, setup.policy, setup.retrieve, trial, 120, start).success
    results = {
        "trials": len(trials),
        "done": done,
        "stops": figures.stops,
        "late": figures.late,
        "late_commanded": figures.late_commanded,
        "late_untouched": figures.late_untouched,
        "rest_p99_s": float(np.percentile(figures.rests or [0.0], 99)),
        "too_fast": figures.fast,
        "too_fast_untouched": figures.fast_untouched,
    }
    print("\n".join(f"{key:20} {value:.4g}" for key, value in results.items()))
    if args.json:
        write_json(args.json, results)
    return int(figures.late_untouched > 0 or figures.fast_untouched > 0)


if __name__ == "__main__":
    sys.exit(main())
