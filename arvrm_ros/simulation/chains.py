# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Chains of tasks that follow one another without a reset, as CALVIN's long-horizon evaluation has them.

A chain is drawn on what the tasks change: drawer, door, lights, and where each block is. Every task of it can be done
if those before it were.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from arvrm_ros.simulation.scene import SceneState
from arvrm_ros.simulation.tasks import DRAWER_OPEN, TASKS, Task

LENGTH = 5
"""Tasks per chain, CALVIN's number."""

WEIGHTS = {"drawer": 2.0, "slider": 2.0, "button": 2.0, "switch": 2.0, "lift": 1.8, "push": 0.7, "put": 2.5}
"""How likely a possible task of a kind is to come next, so that all tasks come about equally often."""


@dataclass
class _Symbols:
    """What of a scene decides which tasks are possible."""

    drawer_open: bool
    slider_left: bool
    led: bool
    bulb: bool
    held: str = ""
    in_drawer: str = ""
    pushed: dict[str, int] = field(default_factory=dict)  # colour -> -1 right, 0, 1 left of where it was

    def possible(self, task: Task, last: bool) -> bool:
        """Whether a task can be done now; one block is put into the drawer per chain, none is pushed twice one way."""
        if self.held:  # a block in the hand can only be put down
            return task.kind == "put" and task.block == self.held and self.drawer_open
        if task.block:
            if task.block == self.in_drawer:
                return False
            if task.kind == "lift":
                return last or (self.drawer_open and not self.in_drawer)
            if task.kind == "put":
                return self.drawer_open and not self.in_drawer
            side = 1 if task.id.endswith("left") else -1
            return self.pushed.get(task.block, 0) != side
        return {
            "open_drawer": not self.drawer_open, "close_drawer": self.drawer_open,
            "move_slider_left": not self.slider_left, "move_slider_right": self.slider_left,
            "turn_on_led": not self.led, "turn_off_led": self.led,
            "turn_on_lightbulb": not self.bulb, "turn_off_lightbulb": self.bulb,
        }[task.id]  # fmt: skip

    def done(self, task: Task) -> None:
        """Takes over what a task changes."""
        self.held = task.block if task.kind == "lift" else ""
        if task.kind == "drawer":
            self.drawer_open = not self.drawer_open
        elif task.kind == "slider":
            self.slider_left = not self.slider_left
        elif task.kind == "button":
            self.led = not self.led
        elif task.kind == "switch":
            self.bulb = not self.bulb
        elif task.kind == "push":
            self.pushed[task.block] = self.pushed.get(task.block, 0) + (1 if task.id.endswith("left") else -1)
        elif task.kind == "put":
            self.in_drawer = task.block


def draw_chain(state: SceneState, rng: np.random.Generator, length: int = LENGTH) -> tuple[str, ...]:
    """Ids of ``length`` different tasks that can be done one after the other, the first from a freshly reset state."""
    symbols = _Symbols(state.drawer >= DRAWER_OPEN, state.slider > 0, state.led, state.bulb)
    chain: list[str] = []
    while len(chain) < length:
        last = len(chain) == length - 1
        tasks = [task for task in TASKS.values() if task.id not in chain and symbols.possible(task, last)]
        weights = np.array([WEIGHTS[task.kind] for task in tasks])
        task = tasks[int(rng.choice(len(tasks), p=weights / weights.sum()))]
        symbols.done(task)
        chain.append(task.id)
    return tuple(chain)
