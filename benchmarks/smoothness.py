# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How smoothly a policy's chunks move the arm, against sending each step's joint target as it comes.

    python benchmarks/smoothness.py [--trials 40] [--seed 7] [--json FILE]

The same policy in the same simulated scenes, twice: through the executor, and naively: of each chunk the first step
that is still ahead, solved for the joints, goes to a position-only controller, which goes straight there in a step's
time. What is measured is what the controller is asked for. A naive velocity jumps, so its jerk is as large as the
sampling is fine: jerk is the third difference of the positions at 100 Hz, for both alike; the ratio is that of the
medians over the trials of each trial's peak. Velocity steps are those within the millisecond around each chunk's
take-over, with quintics between the executor's commands and lines between the naive ones.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from arvrm_ros.contract import load_contract
from arvrm_ros.data.types import ActionChunk
from arvrm_ros.evaluation import rollout
from arvrm_ros.files import write_json
from arvrm_ros.motion import chunks
from arvrm_ros.motion.executor import ChunkExecutor, JointCommand
from arvrm_ros.simulation.tabletop import Tabletop
from arvrm_ros.simulation.trajectory_controller import TrajectoryController, TrajectoryPoint

JERK_GOAL, STEP_GOAL = 5.0, 0.01
SAMPLE = 0.001  # s


class Recorded(ChunkExecutor):
    """The executor; what it commands is kept."""

    points: list[TrajectoryPoint]
    borders: list[float]

    @classmethod
    def at_rest(cls, tabletop: Tabletop) -> Recorded:
        """As :func:`arvrm_ros.evaluation.rollout.at_rest`."""
        executor = cls(tabletop.contract)
        executor.points, executor.borders = [], []
        executor.reset(tabletop.joint_positions, tabletop.gripper, tabletop.time)
        return executor

    def accept(self, chunk: ActionChunk, now: float) -> None:
        """As the executor's."""
        super().accept(chunk, now)
        self.borders.append(now)

    def step(self, now: float) -> JointCommand:
        """As the executor's."""
        command = super().step(now)
        time = now + self.settings.period
        self.points.append(TrajectoryPoint(command.positions, command.velocities, time, command.accelerations))
        return command

    def peak_jerk(self) -> float:
        """Largest third difference of the commanded positions, rad/s^3."""
        positions = np.array([point.positions for point in self.points])
        return float(np.abs(np.diff(positions, 3, axis=0)).max()) / self.settings.period**3

    def velocity_step(self) -> float:
        """Largest change of a velocity around a take-over, as a share of its limit."""
        controller, start = TrajectoryController(self.contract.joints), self.points[0].time_from_start
        controller.reset(self.points[0].positions, start)
        last = self.points[-1]
        rest = TrajectoryPoint(last.positions, np.zeros_like(last.positions), last.time_from_start + 1.0)
        controller.accept(list(self.contract.joints), [*self.points[1:], rest], 0.0, start)
        times = np.array([time for time in self.borders if start + SAMPLE < time < last.time_from_start - SAMPLE])
        steps = [controller.sample(t + SAMPLE / 2)[1] - controller.sample(t - SAMPLE / 2)[1] for t in times]
        return float((np.abs(steps) / self.contract.limits.velocity).max()) if steps else 0.0


class Naive(Recorded):
    """Sends the joints' position for one step of each chunk."""

    def accept(self, chunk: ActionChunk, now: float) -> None:
        """Goes straight to the first step ahead; nothing is checked but that the arm can reach it."""
        step = chunks.first_step_ahead(chunk, now)
        commanded = self.commanded
        target = self.kinematics.inverse(chunk.positions[step], chunk.quaternions[step], commanded)
        self._line = (np.array([now, now + chunk.step_period]), np.stack([commanded, target]))
        self._opening = float(np.clip(chunk.gripper[step], 0.0, 1.0))
        self.borders.append(now)

    def measured(self, joint_positions: np.ndarray, gripper: float, now: float) -> None:
        """Nobody watches."""

    def step(self, now: float) -> JointCommand:
        """The next point on the line."""
        time = now + self.settings.period
        if self.borders:
            (first, last), (start, end) = self._line
            share = min((time - first) / (last - first), 1.0)
            self._command[0] = start + share * (end - start)
            self._gripper += float(np.clip(self._opening - self._gripper, -self._gripper_step, self._gripper_step))
        positions = self.commanded
        self.points.append(TrajectoryPoint(positions, None, time))
        return JointCommand(positions, np.zeros_like(positions), self._gripper)


def main() -> int:
    """Prints the figures; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40, help="episodes for each of the two (default: 40)")
    parser.add_argument("--seed", type=int, default=7, help="of the trials (default: 7)")
    parser.add_argument("--checkpoint", default="arvrm_tabletop", help="the policy (default: arvrm_tabletop)")
    parser.add_argument(
        "--database", default="checkpoints/human_motions.lance", help="human motions (default: the shipped ones)"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    figures: dict[str, float] = {"trials": args.trials}
    options = rollout.EvaluationOptions(args.checkpoint, args.database)
    with rollout.set_up_here(load_contract("tabletop"), options) as setup:
        for name, kind in (("naive", Naive), ("blended", Recorded)):
            outcomes, jerks, steps = [], [], []
            for trial in rollout.trials(args.trials, args.seed):
                used: list[Recorded] = []

                def start(
                    tabletop: Tabletop, kind: type[Recorded] = kind, used: list[Recorded] = used
                ) -> ChunkExecutor:
                    used.append(kind.at_rest(tabletop))
                    return used[0]

                outcomes.append(rollout.roll_out(setup.world, setup.policy, setup.retrieve, trial, 120, start))
                jerks.append(used[0].peak_jerk())
                steps.append(used[0].velocity_step())
                print(
                    f"{name} {trial.task} {trial.variant}: {outcomes[-1].success}, {jerks[-1]:.0f} rad/s^3", flush=True
                )
            figures |= {
                f"success_{name}": float(np.mean([outcome.success for outcome in outcomes])),
                f"refused_{name}": sum(outcome.refused for outcome in outcomes),
                f"steps_{name}": float(np.mean([outcome.steps for outcome in outcomes])),
                f"peak_jerk_{name}": float(np.median(jerks)),
                f"worst_jerk_{name}": max(jerks),
                f"velocity_step_{name}": max(steps),
            }
    figures["peak_jerk_ratio"] = figures["peak_jerk_naive"] / figures["peak_jerk_blended"]
    figures["worst_jerk_ratio"] = figures["worst_jerk_naive"] / figures["worst_jerk_blended"]
    figures["max_velocity_step_fraction"] = figures.pop("velocity_step_blended")
    print("\n".join(f"{key:28} {value:.4g}" for key, value in figures.items()))
    if args.json:
        write_json(args.json, figures)
    good = figures["peak_jerk_ratio"] >= JERK_GOAL and figures["max_velocity_step_fraction"] <= STEP_GOAL
    return int(not (good and figures["success_blended"] >= figures["success_naive"]))


if __name__ == "__main__":
    sys.exit(main())
