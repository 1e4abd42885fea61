# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The tasks: how each may be asked for, from which states it starts, and which change of state means success."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from arvrm_ros.simulation import scene
from arvrm_ros.simulation.scene import SceneState

DRAWER_OPEN, DRAWER_CLOSED = 0.075, 0.02
SLIDER_DONE = 0.04
LIFTED = 0.05
PUSHED = 0.06


@dataclass(frozen=True)
class Task:
    """One thing that can be asked of the robot.

    Attributes:
        id: its name, e.g. ``open_drawer``.
        kind: the family it is counted under, e.g. ``drawer``.
        instructions: paraphrases used in training.
        held_out: paraphrases never seen in training.
        start: draws the part of the start state the task needs; the rest is random.
        succeeded: whether the change from the start state to the present one fulfils the task.
        block: colour of the block it is about, "" when it is about a fixture.
    """

    id: str
    kind: str
    instructions: tuple[str, ...]
    held_out: tuple[str, ...]
    start: Callable[[np.random.Generator], dict[str, Any]]
    succeeded: Callable[[SceneState, SceneState], bool]
    block: str = ""


def _closed(rng: np.random.Generator) -> dict[str, Any]:
    return {"drawer": rng.uniform(0.0, 0.01)}


def _opened(rng: np.random.Generator) -> dict[str, Any]:
    return {"drawer": rng.uniform(0.09, scene.DRAWER_TRAVEL)}


def _slider(side: float) -> Callable[[np.random.Generator], dict[str, Any]]:
    return lambda rng: {"slider": side * rng.uniform(0.065, scene.SLIDER_TRAVEL)}


def _light(name: str, on: bool) -> Callable[[np.random.Generator], dict[str, Any]]:
    return lambda rng: {name: on}


def _fixtures() -> list[Task]:
    return [
        Task("open_drawer", "drawer",
             ("open the drawer", "pull the handle to open the drawer", "pull the drawer open", "slide the drawer out"),
             ("grasp the handle and pull out the drawer", "please open up the drawer"),
             _closed, lambda start, now: start.drawer < DRAWER_OPEN <= now.drawer),
        Task("close_drawer", "drawer",
             ("close the drawer", "push the drawer shut", "push the handle to close the drawer", "shut the drawer"),
             ("push the drawer back in until it is closed", "please close up the drawer"),
             _opened, lambda start, now: start.drawer > DRAWER_CLOSED >= now.drawer),
        Task("move_slider_left", "slider",
             ("move the sliding door to the left", "slide the door to the left",
              "push the sliding door to the left side", "move the slider left"),
             ("grasp the door handle and slide the door left", "shift the sliding door leftwards"),
             _slider(-1), lambda start, now: start.slider < SLIDER_DONE <= now.slider),
        Task("move_slider_right", "slider",
             ("move the sliding door to the right", "slide the door to the right",
              "push the sliding door to the right side", "move the slider right"),
             ("grasp the door handle and slide the door right", "shift the sliding door rightwards"),
             _slider(1), lambda start, now: start.slider > -SLIDER_DONE >= now.slider),
        Task("turn_on_led", "button",
             ("press the button to turn on the led light", "turn on the led",
              "push the button to switch on the green light", "turn on the green light"),
             ("switch the led on by pushing down the button", "make the green led shine"),
             _light("led", False), lambda start, now: now.led and not start.led),
        Task("turn_off_led", "button",
             ("press the button to turn off the led light", "turn off the led",
              "push the button to switch off the green light", "turn off the green light"),
             ("switch the led off by pushing down the button", "make the green led go dark"),
             _light("led", True), lambda start, now: start.led and not now.led),
        Task("turn_on_lightbulb", "switch",
             ("use the switch to turn on the light bulb", "turn on the yellow lamp", "push the switch forward",
              "turn on the light bulb"),
             ("flip the lever so that the bulb lights up", "switch the yellow lamp on"),
             _light("bulb", False), lambda start, now: now.bulb and not start.bulb),
        Task("turn_off_lightbulb", "switch",
             ("use the switch to turn off the light bulb", "turn off the yellow lamp", "pull the switch back",
              "turn off the light bulb"),
             ("flip the lever so that the bulb goes out", "switch the yellow lamp off"),
             _light("bulb", True), lambda start, now: start.bulb and not now.bulb),
    ]  # fmt: skip


def _lifted(color: str) -> Callable[[SceneState, SceneState], bool]:
    return lambda start, now: (
        now.blocks[color][2] > start.blocks[color][2] + LIFTED and color in now.touched
    )  # fmt: skip


def _pushed(color: str, side: float) -> Callable[[SceneState, SceneState], bool]:
    return lambda start, now: (
        side * (now.blocks[color][1] - start.blocks[color][1]) > PUSHED
        and abs(now.blocks[color][2] - start.blocks[color][2]) < 0.01
    )


def _put_in_drawer(color: str) -> Callable[[SceneState, SceneState], bool]:
    return lambda start, now: (
        now.blocks[color][2] < scene.TABLE_TOP - 0.02
        and now.blocks[color][0] > scene.TABLE_FRONT - now.drawer
        and now.drawer > 0.04
        and color not in now.touched
    )


def _blocks(color: str) -> list[Task]:
    return [
        Task(f"lift_{color}_block", "lift",
             (f"lift the {color} block", f"pick up the {color} block", f"grasp the {color} block and lift it up",
              f"take the {color} block from the table"),
             (f"raise the {color} cube off the table", f"get hold of the {color} block and raise it"),
             lambda rng: {}, _lifted(color), color),
        Task(f"push_{color}_block_left", "push",
             (f"push the {color} block to the left", f"slide the {color} block left",
              f"go push the {color} block left"),
             (f"shove the {color} cube towards the left",),
             lambda rng: {}, _pushed(color, 1), color),
        Task(f"push_{color}_block_right", "push",
             (f"push the {color} block to the right", f"slide the {color} block right",
              f"go push the {color} block right"),
             (f"shove the {color} cube towards the right",),
             lambda rng: {}, _pushed(color, -1), color),
        Task(f"put_{color}_block_in_drawer", "put",
             (f"put the {color} block in the drawer", f"place the {color} block inside the drawer",
              f"move the {color} block into the open drawer"),
             (f"drop the {color} cube into the drawer",),
             _opened, _put_in_drawer(color), color),
    ]  # fmt: skip


TASKS: dict[str, Task] = {
    task.id: task for task in [*_fixtures(), *(task for color in scene.BLOCKS for task in _blocks(color))]
}
"""All tasks by id."""


def kind_of(task: str) -> str:
    """The family a task is counted under; of CALVIN's that are none of ours, the first word."""
    return TASKS[task].kind if task in TASKS else task.split("_")[0]


def tasks_in_turn(state: SceneState, index: int) -> list[str]:
    """Five tasks that can be done one after the other from a state: one of each fixture, then one of a block.

    Args:
        state: of the scene.
        index: chooses the block and what is done with it.
    """
    color = list(scene.BLOCKS)[index % 3]
    return [
        "open_drawer" if state.drawer < DRAWER_OPEN else "close_drawer",
        "move_slider_left" if state.slider < 0 else "move_slider_right",
        "turn_off_led" if state.led else "turn_on_led",
        "turn_off_lightbulb" if state.bulb else "turn_on_lightbulb",
        (f"lift_{color}_block", f"push_{color}_block_left", f"push_{color}_block_right")[index // 3 % 3],
    ]


def task_of(instruction: str) -> str | None:
    """The task an instruction asks for, by exact match of any paraphrase. For evaluation only."""
    return next((t.id for t in TASKS.values() if instruction in (*t.instructions, *t.held_out)), None)


class Judge:
    """Says whether the task has been done since the reset; once done it stays done."""

    def __init__(self, task: str, start: SceneState) -> None:
        self.task = task
        self.success = False
        self._start = start

    def look(self, state: SceneState) -> bool:
        """Judges the present state."""
        if self.task and not self.success:
            self.success = bool(TASKS[self.task].succeeded(self._start, state))
        return self.success
