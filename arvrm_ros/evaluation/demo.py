# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the demo asks for, and what it keeps of each answer; the part of it that needs no ROS."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import psutil

from arvrm_ros.evaluation.report import ProcessUse
from arvrm_ros.simulation.tasks import TASKS, Task

FIRST_SEED = 1_000_000
"""Scenes of the demo have seeds from here on; collection and training stay below."""

SEEDS_PER_DEMO = 1000
MEMORY_PERIOD = 0.5  # s


@dataclass(frozen=True)
class Assignment:
    """One instruction in one scene.

    Attributes:
        held_out: the wording was never seen in training.
        seed: of the scene.
    """

    task: str
    instruction: str
    held_out: bool
    seed: int


def plan(count: int, seed: int = 0) -> list[Assignment]:
    """Instructions over all kinds of task in turn, every other one in a wording held out from training."""
    rng = np.random.default_rng(seed)
    kinds: dict[str, list[Task]] = {}
    for task in TASKS.values():
        kinds.setdefault(task.kind, []).append(task)
    pools: dict[str, list[Task]] = {kind: [] for kind in kinds}
    assignments = []
    for i in range(count):
        kind = list(kinds)[i % len(kinds)]
        if not pools[kind]:  # every task of a kind once before one comes again
            pools[kind] = [kinds[kind][j] for j in rng.permutation(len(kinds[kind]))]
        task = pools[kind].pop()
        held_out = i % 2 == 1
        wordings = task.held_out if held_out else task.instructions
        wording = wordings[int(rng.integers(len(wordings)))]
        assignments.append(Assignment(task.id, wording, held_out, FIRST_SEED + SEEDS_PER_DEMO * seed + i))
    return assignments


class ProcessWatch:
    """Samples the resident memory of processes and their children, and says afterwards which still run.

    Args:
        pids: process id per node.
    """

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._roots = {}
        for node, pid in pids.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                self._roots[node] = psutil.Process(pid)
        self._largest = dict.fromkeys(pids, 0.0)
        self._pids = dict(pids)
        self._known: set[psutil.Process] = set()
        self.peak_mb = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)
        self._thread.start()

    def resident_mb(self) -> dict[str, float]:
        """Resident memory now, per node with its children, in MB; 0 for one that has ended."""
        resident = dict.fromkeys(self._pids, 0.0)
        for node, root in self._roots.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in [root, *root.children(recursive=True)]:
                    self._known.add(process)
                    resident[node] += process.memory_info().rss / 1e6
        return resident

    def stop(self) -> list[ProcessUse]:
        """Ends the sampling; the largest resident memory per node."""
        self._done.set()
        self._thread.join()
        return [ProcessUse(node, self._pids[node], mb) for node, mb in self._largest.items()]

    def left_behind(self) -> list[str]:
        """The watched processes that still run, as ``pid name``."""
        left = []
        for process in self._known:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    left.append(f"{process.pid} {process.name()}")
        return left

    def _watch(self) -> None:
        self._sample()
        while not self._done.wait(MEMORY_PERIOD):
            self._sample()

    def _sample(self) -> None:
        resident = self.resident_mb()
        for node, mb in resident.items():
            self._largest[node] = max(self._largest[node], mb)
        self.peak_mb = max(self.peak_mb, sum(resident.values()))
