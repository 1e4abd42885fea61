# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Scripted experts: they do every task from the privileged state and demonstrate it, for robot and hand alike.

:class:`Expert` moves along legs, whatever the world; :class:`TabletopExpert` knows those of the tabletop's tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from arvrm_ros.simulation import scene
from arvrm_ros.simulation.tasks import TASKS

if TYPE_CHECKING:
    from arvrm_ros.simulation.tabletop import Tabletop
    from arvrm_ros.simulation.world import World

SAFE_HEIGHT = scene.TABLE_TOP + 0.12
"""Height of the end effector above everything on the table, metres."""

ACCELERATION = 1.2
"""Of the commanded end effector, m/s^2."""


@dataclass
class Move:
    """One leg of a motion: towards a point, with a yaw and a gripper opening, then rest for some steps.

    Attributes:
        target: (3,) metres, base frame.
        yaw: radians of the gripper about the vertical.
        gripper: opening in [0, 1].
        speed: m/s.
        rest: steps to stay after arrival.
        free: nothing is touched on the way, so a disturbance does no harm.
        tolerance: metres at which the next leg begins.
    """

    target: np.ndarray
    yaw: float = 0.0
    gripper: float = 0.0
    speed: float = 0.30
    rest: int = 0
    free: bool = False
    tolerance: float = 0.008


def down(yaw: float) -> np.ndarray:
    """Quaternion (x, y, z, w) of the end effector pointing down, its fingers turned by ``yaw`` about the vertical."""
    return np.array([np.cos(yaw / 2), np.sin(yaw / 2), 0.0, 0.0])


class Expert(ABC):
    """Plays one task in one world, one command per control step.

    The motion is closed-loop: each command starts from the commanded pose, and :meth:`disturbed` lets it start again
    from the measured one, so that recoveries are demonstrated too.

    Attributes:
        task: id.
        safe_height: metres of the end effector, above everything.

    Args:
        world: already reset for the task.
        task: id.
        rng: draws speeds, heights and offsets, so that no two demonstrations are alike.
        period: seconds per step.
    """

    safe_height: float

    def __init__(self, world: World, task: str, rng: np.random.Generator, period: float = 0.1) -> None:
        self.task, self.rng, self.period = task, rng, period
        self._world = world
        self.done = False
        self._pace = rng.uniform(0.85, 1.15)
        self.position, self.yaw = self._measured()
        self._velocity = np.zeros(3)
        self.gripper = world.gripper
        self._legs = self._plan()
        self._leg = next(self._legs)
        self._rest = self._steps = 0

    @abstractmethod
    def _plan(self) -> Iterator[Move]:
        """The task's legs; each is computed from the state at the time the one before has ended."""

    def _measured(self) -> tuple[np.ndarray, float]:
        """Position (3,) of the end effector and its yaw, as they are."""
        position, rotation = self._world.end_effector()
        return position, float(np.arctan2(rotation[1, 0], rotation[0, 0]))

    @property
    def free(self) -> bool:
        """Whether a disturbance does no harm now."""
        return self._leg.free

    def disturbed(self) -> None:
        """Takes the measured pose as the commanded one, after the arm was moved by something else."""
        self.position, self.yaw = self._measured()
        self._velocity = np.zeros(3)

    def act(self) -> tuple[np.ndarray, np.ndarray, float]:
        """The next command: position (3,) in metres, quaternion (4,) x, y, z, w, gripper opening in [0, 1]."""
        leg = self._leg
        arrived = np.linalg.norm(leg.target - self.position) < leg.tolerance and abs(leg.yaw - self.yaw) < 0.05
        self._steps += 1
        if arrived:
            self._rest += 1
        if (arrived and self._rest > leg.rest) or self._steps > 80:
            self._rest = self._steps = 0
            following = next(self._legs, None)
            if following is None:
                self.done = True
            else:
                self._leg = leg = following
        self._advance(leg)
        return self.command()

    def command(self) -> tuple[np.ndarray, np.ndarray, float]:
        """The present command, as :meth:`act` returns it."""
        return self.position.copy(), down(self.yaw), self.gripper

    def _advance(self, leg: Move) -> None:
        """One period along the leg: speed limited, accelerated and braked within :data:`ACCELERATION`."""
        offset = leg.target - self.position
        distance = float(np.linalg.norm(offset))
        speed = min(leg.speed * self._pace, np.sqrt(2 * ACCELERATION * distance), distance / self.period)
        wanted = offset / max(distance, 1e-9) * speed
        change = wanted - self._velocity
        limit = ACCELERATION * self.period
        self._velocity = self._velocity + change * min(1.0, limit / max(float(np.linalg.norm(change)), 1e-9))
        if distance < 0.5 * limit * self.period + 0.004:
            self._velocity = wanted
        self.position = self.position + self._velocity * self.period
        turn = 1.2 * self.period
        self.yaw += float(np.clip(leg.yaw - self.yaw, -turn, turn))
        self.gripper = leg.gripper


class TabletopExpert(Expert):
    """Plays the tasks of ``TASKS`` on a tabletop."""

    safe_height = SAFE_HEIGHT

    def __init__(self, tabletop: Tabletop, task: str, rng: np.random.Generator, period: float = 0.1) -> None:
        self.tabletop, self._task = tabletop, TASKS[task]
        super().__init__(tabletop, task, rng, period)

    def _plan(self) -> Iterator[Move]:
        plans: dict[str, Callable[[], Iterator[Move]]] = {
            "open_drawer": lambda: self._move_drawer(True),
            "close_drawer": lambda: self._move_drawer(False),
            "move_slider_left": lambda: self._move_slider(1),
            "move_slider_right": lambda: self._move_slider(-1),
            "turn_on_led": self._press_button,
            "turn_off_led": self._press_button,
            "turn_on_lightbulb": lambda: self._flip_switch(1),
            "turn_off_lightbulb": lambda: self._flip_switch(-1),
        }
        if self.task in plans:
            yield from plans[self.task]()
        elif self._task.kind == "lift":
            yield from self._lift()
        elif self._task.kind == "push":
            yield from self._push(1 if self.task.endswith("left") else -1)
        else:
            yield from self._put_in_drawer()

    def _point(self, x: float, y: float, z: float, spread: float = 0.0) -> np.ndarray:
        return np.array([x, y, z]) + self.rng.uniform(-1, 1, 3) * spread

    def _above(
        self, x: float, y: float, gripper: float, yaw: float = 0.0, height: float = SAFE_HEIGHT
    ) -> Iterator[Move]:
        """Up when the arm is low, then over to a place above (x, y)."""
        if self.position[2] < height - 0.05:
            yield Move(self._point(self.position[0], self.position[1], height, 0.005), self.yaw, gripper)
        yield Move(self._point(x, y, height, 0.012), yaw, gripper, 0.36, free=True, tolerance=0.03)

    def _retreat(self, gripper: float = 0.0) -> Iterator[Move]:
        x, y, _ = self.position
        yield Move(self._point(x, y, SAFE_HEIGHT), self.yaw, gripper, 0.25)

    def _drawer(self) -> tuple[float, float]:
        """X of the handle's bar and y of its middle, metres."""
        body = self.tabletop.data.body("drawer").xpos
        return body[0] - scene.HANDLE_OFFSET, body[1]

    def _move_drawer(self, opening: bool) -> Iterator[Move]:
        """Fingers go behind the handle's bar; the bar is pulled to open, the drawer's front is pushed to close."""
        x, y = self._drawer()
        behind = x + 0.032
        y += self.rng.uniform(-0.015, 0.015)
        yield from self._above(behind, y, 0.0)
        yield Move(self._point(behind, y, 0.085), speed=0.22, tolerance=0.006)
        end = behind - 0.115 if opening else scene.TABLE_FRONT - 0.014
        yield Move(self._point(end, y, 0.085), speed=0.20)
        yield from self._retreat()

    def _move_slider(self, side: float) -> Iterator[Move]:
        knob = self.tabletop.data.geom("knob").xpos
        x, beside = knob[0] - 0.002, knob[1] - side * 0.055
        z = scene.TABLE_TOP + 0.065
        yield from self._above(x, beside, 0.0)
        yield Move(self._point(x, beside, z), speed=0.22)
        middle = self.tabletop.data.body("slider").xpos[1] - self.tabletop.data.joint("slider").qpos[0]
        yield Move(self._point(x, middle + side * 0.06, z), speed=0.20)
        yield from self._retreat()

    def _press_button(self) -> Iterator[Move]:
        x, y, _ = self.tabletop.data.body("button").xpos
        yield from self._above(x, y, 0.0)
        yield Move(self._point(x, y, scene.BUTTON_TOP + 0.03), speed=0.22)
        yield Move(self._point(x, y, scene.BUTTON_TOP - 0.012), speed=0.10, rest=1)
        yield from self._retreat()

    def _flip_switch(self, side: float) -> Iterator[Move]:
        x, y, _ = self.tabletop.data.body("switch").xpos
        z = scene.TABLE_TOP + 0.062
        start = x - side * 0.085
        yield from self._above(start, y, 0.0)
        yield Move(self._point(start, y, z), speed=0.22)
        yield Move(self._point(x + side * 0.035, y, z), speed=0.18)
        yield from self._retreat()

    def _grasp(self) -> Iterator[Move]:
        if self._holding():
            return
        x, y, z, yaw = self._block()
        yield from self._above(x, y, 1.0, yaw)
        x, y, z, yaw = self._block()
        yield Move(self._point(x, y, z + 0.07), yaw, 1.0, 0.25)
        yield Move(self._point(x, y, z + 0.004), yaw, 1.0, 0.16, tolerance=0.005)
        yield Move(self._point(x, y, z + 0.004), yaw, 0.0, rest=4)

    def _lift(self) -> Iterator[Move]:
        yield from self._grasp()
        x, y, _ = self.position
        yield Move(self._point(x, y, SAFE_HEIGHT), self.yaw, 0.0, 0.22)

    def _push(self, side: float) -> Iterator[Move]:
        x, y, z, _ = self._block()
        yield from self._above(x, y - side * 0.07, 0.0)
        x, y, z, _ = self._block()
        yield Move(self._point(x, y - side * 0.065, z + 0.005), speed=0.22)
        yield Move(self._point(x, y + side * 0.045, z + 0.005), speed=0.20)
        yield from self._retreat()

    def _put_in_drawer(self) -> Iterator[Move]:
        yield from self._grasp()
        x, y, _ = self.position
        yield Move(self._point(x, y, SAFE_HEIGHT), self.yaw, 0.0, 0.25)
        handle, y = self._drawer()
        x = handle + scene.HANDLE_OFFSET + 0.055
        yield Move(self._point(x, y, SAFE_HEIGHT), 0.0, 0.0, 0.30)
        yield Move(self._point(x, y, scene.TABLE_TOP + 0.005), 0.0, 0.0, 0.20)
        yield Move(self._point(x, y, scene.TABLE_TOP + 0.005), 0.0, 1.0, rest=3)
        yield from self._retreat(1.0)

    def _holding(self) -> bool:
        """Whether the block is in the hand already, from the task before."""
        state = self.tabletop.state()
        return self._task.block in state.touched and state.blocks[self._task.block][2] > scene.TABLE_TOP + 0.04

    def _block(self) -> tuple[float, float, float, float]:
        return self.tabletop.state().blocks[self._task.block]
