# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From a chunk of end-effector targets to a joint path that leaves the present motion, keeps all limits, hits nothing.

A pure function of its inputs, which takes some milliseconds: in a process of its own
(:mod:`arvrm_ros.motion.planning_process`) it delays no command.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from arvrm_ros.contract import RobotContract
from arvrm_ros.data.types import ActionChunk
from arvrm_ros.errors import ExecutionCode, MotionRefused
from arvrm_ros.motion import chunks, safety
from arvrm_ros.motion.chunks import ChunkMotion, JointPath
from arvrm_ros.motion.kinematics import Kinematics

if TYPE_CHECKING:
    from arvrm_ros.motion.executor import ExecutorSettings

PROCESS = "plans chunks"  # the name of the one that does, beside a node
ATTEMPTS = 10  # at a way to a chunk before it is refused for that
LONGER = 1.25  # times, at least, that the way takes longer from one attempt to the next
SLOWER = 1.15  # times that the chunk is slower from one attempt to the next, once half of them have failed
MOVES = 3  # out of keep-out boxes; the way to the steps that were moved is another one


class ChunkPlanner:
    """Solves chunks, one at a time.

    Args:
        contract: of the robot.
        settings: of the executor that follows them.
    """

    def __init__(self, contract: RobotContract, settings: ExecutorSettings) -> None:
        self._contract, self._settings = contract, settings
        self._kinematics = Kinematics(contract)
        self._check = safety.PathCheck(contract, settings.period)

    def solve(self, chunk: ActionChunk, start: float, base: JointPath) -> tuple[JointPath, str]:
        """The path that leaves another one to follow a chunk, and what was cut from the chunk ("" for nothing).

        Args:
            chunk: finite, with its shapes checked; steps before ``start`` are left out.
            start: seconds, when ``base`` is left.
            base: what is followed until then.

        Raises:
            MotionRefused: the chunk breaks a limit.
        """
        chunk, cut = safety.clamped(chunk, self._contract)
        moved, box = np.zeros(3), ""
        for _ in range(MOVES):
            there = replace(chunk, positions=chunk.positions + moved)
            path, visited, missed = self._path(there, start, base)
            if (found := self._check.too_close(visited)) is None:
                how_far = f"all steps were moved {np.linalg.norm(moved):.4f} m out of {box}" if box else ""
                beyond = f"a step was {missed:.4f} m out of the arm's reach" if missed else ""
                return path, "; ".join(filter(None, (cut, beyond, how_far)))
            moved, box = safety.moved_out(moved, found, self._contract), found.other
        raise MotionRefused(ExecutionCode.OUT_OF_WORKSPACE, str(found))

    def _path(self, chunk: ActionChunk, start: float, base: JointPath) -> tuple[JointPath, np.ndarray, float]:
        """As :meth:`solve`, whatever is near; where path and brakes bring the joints; metres that are out of reach."""
        commanded = self._kinematics.forward(base.at(start)[0][:-1])[0]
        safety.check_steps(chunk, chunks.first_step_ahead(chunk, start), commanded, self._contract)
        try:
            motion = chunks.solve_chunk(chunk, start, base, self._kinematics)
            path, visited = self._way_to(motion, base, start)
        except MotionRefused as refusal:
            if refusal.code not in (ExecutionCode.JOINT_LIMIT, ExecutionCode.STEP_TOO_LARGE):
                raise
            motion = chunks.solve_patiently(chunk, start, base, self._kinematics)
            path, visited = self._way_to(motion, base, start)
        return path, visited, motion.missed

    def _way_to(self, motion: ChunkMotion, base: JointPath, start: float) -> tuple[JointPath, np.ndarray]:
        """The path that leaves ``base`` to join a motion, and where it and its brakes bring the joints."""
        seconds = self._settings.blend
        for attempt in range(ATTEMPTS):
            path = chunks.merge(base, motion, start, seconds, self._settings.newest_weight)
            try:
                return path, self._check.limits(*path.ahead(start))
            except MotionRefused as refusal:
                refused = refusal
            # To slow all of the motion so much would do; the way alone has to be longer by no less.
            slower = float(safety.needed_slowdown(*path.ahead(start), self._contract).max())
            seconds *= max(LONGER, slower)
            if attempt >= ATTEMPTS // 2:  # to catch up takes more speed than the steps have, however long it takes
                motion = motion.stretched(SLOWER)
        raise refused
