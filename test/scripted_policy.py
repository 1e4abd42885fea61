# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The scripted expert behind the interface of a policy, to test loops without a trained model."""

from collections import deque

import numpy as np

from arvrm_ros.data.types import ActionChunk, Observation
from arvrm_ros.simulation.tasks import kind_of, task_of
from arvrm_ros.simulation.world import World

STEPS = 4


class ScriptedPolicy:
    """Does what it is told, but holds still when the task's kind is among ``unable``."""

    name = "scripted"
    retrieves = 0
    analogy_map = None

    def __init__(self, world: World, unable: tuple[str, ...] = ()) -> None:
        self.contract, self._world, self._unable = world.contract, world, unable
        self.heard: list[str] = []
        """Instructions, in their order."""

    def reset(self, instruction: str) -> None:
        self.heard.append(instruction)
        task = self.task_of(instruction)
        assert task is not None
        self._still = kind_of(task) in self._unable
        self._expert = self._world.expert(task, np.random.default_rng(0), self.contract.action.step_period)
        self._ahead: deque[tuple[np.ndarray, np.ndarray, float]] = deque()

    def task_of(self, instruction: str) -> str | None:
        return task_of(instruction)

    def familiar(self, instruction: str) -> dict[str, float]:
        return {}

    def set_retrieved(self, motions: list, wording: str = "") -> None:
        assert not motions

    def predict_chunk(self, observation: Observation) -> ActionChunk:
        while len(self._ahead) < STEPS:
            self._ahead.append(self._expert.command() if self._still else self._expert.act())
        positions, quaternions, gripper = (np.array(column) for column in zip(*self._ahead, strict=True))
        self._ahead.popleft()
        period = self.contract.action.step_period
        return ActionChunk(observation.stamp, period, positions, quaternions, gripper)
