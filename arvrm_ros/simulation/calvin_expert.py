# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A scripted expert for all 34 tasks of CALVIN's environment, on any of its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from arvrm_ros.simulation.experts import Expert, Move, down

if TYPE_CHECKING:
    from arvrm_ros.simulation.calvin import Calvin

BLOCKS = ("red", "blue", "pink")

FINGERS = np.array([0.0, 0.0, 0.0366])
"""Metres from CALVIN's tool point, between its longer fingers, to the contract's end effector above it."""

TABLE = 0.46
"""Metres, CALVIN's world: height of the middle of a block that lies on the table."""

SAFE = 0.55
"""Metres, CALVIN's world: a height above everything that stands on the table, still in front of the cabinet."""

FRONT = -0.13
"""Metres, CALVIN's world: y in front of the cabinet, where the hand may go up and down."""

FAR_LEAN, FAR = 0.4, (0.64, 0.84)
"""Radians that the fingers point outwards at most, and metres from the arm's first axis between which they come to."""

CABINET_LEAN, CABINET = 0.45, (-0.02, 0.06)
"""Radians that they point into the cabinet at most, and y in CALVIN's world between which they come to."""

ACROSS = 1.5
"""Radians: the hand's turn with which it fits between the cabinet's door and its side."""


class CalvinExpert(Expert):
    """Plays a task of CALVIN's; places are in CALVIN's world, metres, of its tool point."""

    def __init__(self, world: Calvin, task: str, rng: np.random.Generator, period: float = 0.1) -> None:
        self.calvin = world
        self.safe_height = float(self._ours(0.0, 0.0, SAFE)[2])
        super().__init__(world, task, rng, period)

    def command(self) -> tuple[np.ndarray, np.ndarray, float]:
        """The present command.

        Far from the arm's base the fingers point outwards, or the arm would not reach; in the cabinet they point into
        it, or the hand would meet its roof.
        """
        tool = self.position - FINGERS
        away, inside = float(np.hypot(tool[0], tool[1])), float(self._at[1])
        lean = FAR_LEAN * _between(away, *FAR) * tool[:2] / max(away, 1e-9)
        lean[1] += CABINET_LEAN * _between(inside, *CABINET)
        leaning = Rotation.from_rotvec([lean[1], -lean[0], 0.0])
        quaternion = (leaning * Rotation.from_quat(down(self.yaw))).as_quat()
        return tool + leaning.apply(FINGERS), quaternion, self.gripper

    def _measured(self) -> tuple[np.ndarray, float]:
        """As it would be if the hand were upright; the yaw is the one nearest to :data:`ACROSS`."""
        position, rotation = self.calvin.end_effector()
        yaw = float(np.arctan2(rotation[1, 0], rotation[0, 0]))
        yaw = ACROSS + (yaw - ACROSS + np.pi) % (2 * np.pi) - np.pi
        return position + rotation @ FINGERS + FINGERS, yaw

    def _ours(self, x: float, y: float, z: float) -> np.ndarray:
        """The contract's end effector in the base frame, for a place of CALVIN's tool point."""
        return np.array([x, y, z]) - self.calvin.base + FINGERS

    def _theirs(self, position: np.ndarray) -> np.ndarray:
        """The other way round: CALVIN's tool point, for a place (3,) of the contract's end effector."""
        return position + self.calvin.base - FINGERS

    @property
    def _at(self) -> np.ndarray:
        """(3,) where CALVIN's tool point is commanded to be."""
        return self._theirs(self.position)

    def _to(
        self,
        x: float,
        y: float,
        z: float,
        gripper: float,
        yaw: float | None = None,
        speed: float = 0.30,
        rest: int = 0,
        free: bool = False,
    ) -> Move:
        tolerance = 0.03 if free else 0.008
        yaw = self.yaw if yaw is None else yaw
        return Move(self._ours(x, y, z), yaw, gripper, speed, rest, free, tolerance)

    def _plan(self) -> Iterator[Move]:
        kind, *words = self.task.split("_")
        rightwards = 1 if words[-1] == "right" else -1
        plans: dict[str, Callable[[], Iterator[Move]]] = {
            "turn_on_led": self._press_button,
            "turn_off_led": self._press_button,
            "turn_on_lightbulb": self._switch_on,
            "turn_off_lightbulb": self._switch_off,
            "open_drawer": self._open_drawer,
            "close_drawer": self._close_drawer,
            "move_slider_left": lambda: self._move_door(-1),
            "move_slider_right": lambda: self._move_door(1),
            "push_into_drawer": self._push_into_drawer,
            "place_in_slider": self._place_in_cabinet,
            "place_in_drawer": self._place_in_drawer,
            "stack_block": self._stack,
            "unstack_block": self._unstack,
        }
        if kind != "place" and self.task != "stack_block":
            yield from self._withdraw()
        if self.task in plans:
            yield from plans[self.task]()
        elif kind == "push":
            yield from self._push(words[0], rightwards)
        elif kind == "rotate":
            yield from self._rotate(words[0], -rightwards)
        elif words[-1] == "slider":
            yield from self._lift_from_cabinet(words[0])
        else:
            yield from self._lift(words[0])

    # Getting about.

    def _withdraw(self) -> Iterator[Move]:
        """Lets go of what is touched, and leaves cabinet and drawer the way the hand came."""
        x, y, z = self._at
        if z < SAFE - 0.03:
            yield self._to(x, y, z, 1.0, rest=1)
            if y > -0.06:
                yield self._to(x, y, max(z, 0.53), 1.0)
                yield self._to(x, FRONT, SAFE, 1.0)
            else:
                yield self._to(x, y, SAFE, 1.0)
        x, y, _ = self._at
        yield self._to(x, min(y, FRONT), SAFE, 1.0, ACROSS)

    def _above(self, x: float, y: float, gripper: float, yaw: float | None = None, z: float = SAFE) -> Iterator[Move]:
        dx, dy, dz = self.rng.uniform(-0.012, 0.012, 3)
        yield self._to(x + dx, y + dy, z + dz, gripper, yaw, 0.36, free=True)

    def _up(self, gripper: float) -> Iterator[Move]:
        x, y, _ = self._at
        yield self._to(x, y, SAFE, gripper, speed=0.25)

    # What is fixed to the table.

    def _press_button(self) -> Iterator[Move]:
        x, y, _ = self.calvin.part("button_link").mean(axis=0)
        yield from self._above(x, y, 0.0)
        yield self._to(x, y, 0.50, 0.0, speed=0.25)
        yield self._to(x, y, 0.453, 0.0, speed=0.12, rest=1)
        yield from self._up(0.0)

    def _switch_on(self) -> Iterator[Move]:
        """The lever is pushed up and away from in front."""
        x = self.calvin.part("switch_link").mean(axis=0)[0]
        yield from self._above(x, FRONT, 0.0)
        yield self._to(x, -0.10, 0.49, 0.0)
        yield self._to(x, 0.0, 0.49, 0.0, speed=0.2)
        yield self._to(x, 0.06, 0.62, 0.0, speed=0.2, rest=2)
        yield self._to(x, FRONT, 0.64, 0.0)

    def _switch_off(self) -> Iterator[Move]:
        """The lever is pressed down from above."""
        lever = self.calvin.part("switch_link")
        x, y = lever.mean(axis=0)[0], lever[1, 1]
        yield from self._above(x, -0.05, 0.0, z=0.66)
        yield self._to(x, y - 0.053, 0.66, 0.0)
        yield self._to(x, y - 0.078, 0.47, 0.0, speed=0.2, rest=1)
        yield from self._up(0.0)

    def _handle(self) -> tuple[float, float]:
        """X of the middle of the drawer's handle and y behind its bar."""
        drawer = self.calvin.part("drawer_link")
        return drawer.mean(axis=0)[0], drawer[0, 1] + 0.015

    def _open_drawer(self) -> Iterator[Move]:
        x, y = self._handle()
        x += self.rng.uniform(-0.02, 0.02)
        yield from self._above(x - 0.05, y - 0.07, 1.0, 0.0, 0.55)
        yield self._to(x, y, 0.50, 1.0, 0.0)
        yield self._to(x, y, 0.365, 1.0, 0.0, 0.25)
        yield self._to(x, y, 0.365, 0.0, 0.0, rest=4)
        yield self._to(x, y - 0.21, 0.365, 0.0, 0.0, 0.22, rest=1)
        yield self._to(x, y - 0.21, 0.365, 1.0, 0.0, rest=2)
        yield self._to(x, y - 0.21, SAFE, 1.0, 0.0)

    def _close_drawer(self) -> Iterator[Move]:
        x, y = self._handle()
        shut = y + 0.22  # of an open drawer
        x += self.rng.uniform(-0.02, 0.02)
        yield from self._above(x, y - 0.11, 0.0, z=0.55)
        yield self._to(x, y - 0.08, 0.37, 0.0, speed=0.25)
        yield self._to(x, max(shut, -0.25) + 0.03, 0.37, 0.0, speed=0.22)
        yield self._to(x, y - 0.08, 0.37, 0.0)
        yield from self._up(0.0)

    def _move_door(self, rightwards: int) -> Iterator[Move]:
        """Closed fingers push the door's handle from beside it."""
        x = self.calvin.part("slide_link").mean(axis=0)[0]
        yield from self._above(x - rightwards * 0.09, -0.14, 0.0, z=0.62)
        yield self._to(x - rightwards * 0.09, -0.10, 0.53, 0.0)
        yield self._to(x - rightwards * 0.08, -0.018, 0.525, 0.0, ACROSS, 0.25)
        yield self._to(x + rightwards * 0.30, -0.018, 0.525, 0.0, ACROSS, 0.25)
        yield self._to(x + rightwards * 0.22, FRONT, 0.525, 0.0, ACROSS)
        yield from self._up(0.0)

    # Blocks.

    def _block(self, color: str) -> tuple[float, float, float, float]:
        """Place of a block, and the turn nearest to :data:`ACROSS` with which the hand takes it."""
        (x, y, z), yaw = self.calvin.block(color)
        return x, y, z, ACROSS + (yaw - ACROSS + np.pi / 2) % np.pi - np.pi / 2

    def _on_table(self, held: str = "") -> list[str]:
        """Colours of the blocks that are neither in the cabinet nor in the drawer nor held."""
        places = {color: self._block(color) for color in BLOCKS if color != held}
        return [color for color, (_, y, z, _) in places.items() if y < 0 and z > TABLE - 0.02]

    def _push(self, color: str, rightwards: int) -> Iterator[Move]:
        x, y, _, _ = self._block(color)
        yield from self._above(x - rightwards * 0.10, y, 0.0)
        yield self._to(x - rightwards * 0.09, y, TABLE + 0.002, 0.0, speed=0.25)
        yield self._to(x + rightwards * 0.14, y, TABLE + 0.002, 0.0, speed=0.25, rest=1)
        yield from self._up(0.0)

    def _grasp(self, color: str) -> Iterator[Move]:
        x, y, z, yaw = self._block(color)
        yield from self._above(x, y, 1.0, yaw, z + 0.12)
        yield self._to(x, y, z + 0.05, 1.0, yaw, 0.25)
        yield self._to(x, y, z, 1.0, yaw, 0.15, rest=1)
        yield self._to(x, y, z, 0.0, yaw, rest=4)

    def _lift(self, color: str) -> Iterator[Move]:
        """From the table, or out of the drawer."""
        yield from self._grasp(color)
        x, y, z = self._at
        yield self._to(x, y, max(z + 0.15, SAFE), 0.0, speed=0.25)

    def _lift_from_cabinet(self, color: str) -> Iterator[Move]:
        """In from the front, over the shelf's rim, and out again."""
        x, y, z, yaw = self._block(color)
        yield from self._above(x, FRONT, 1.0, yaw)
        yield self._to(x, y - 0.03, z + 0.09, 1.0, yaw, 0.25, rest=1)
        yield self._to(x, y, z, 1.0, yaw, 0.15, rest=1)
        yield self._to(x, y, z, 0.0, yaw, rest=4)
        yield self._to(x, y, z + 0.08, 0.0, yaw, 0.2, rest=1)

    def _rotate(self, color: str, turn: int) -> Iterator[Move]:
        yield from self._grasp(color)
        x, y, z = self._at
        yield self._to(x, y, z + 0.01, 0.0, self.yaw + turn * 1.4, rest=1)
        yield self._to(x, y, z, 1.0, rest=2)
        yield from self._up(1.0)

    def _unstack(self) -> Iterator[Move]:
        top = max((color for color in BLOCKS if self._block(color)[1] < 0), key=lambda color: self._block(color)[2])
        yield from self._lift(top)

    def _roomiest(self, xs: tuple[float, ...], y: float, held: str) -> float:
        """The x of some that is farthest from the other blocks."""
        others = [self._block(color)[:2] for color in BLOCKS if color != held]
        return max(xs, key=lambda x: min(np.hypot(x - bx, y - by) for bx, by in others))

    def _place_in_cabinet(self) -> Iterator[Move]:
        door, plank = self.calvin.part("slide_link"), self.calvin.part("plank_link")
        left = door.mean(axis=0)[0] > plank.mean(axis=0)[0]  # the half that the door leaves open
        middle = plank.mean(axis=0)[0] + (-0.14 if left else 0.15)
        x = self._roomiest((middle, middle - 0.06, middle + 0.06), 0.09, self.calvin.held())
        here, y, z = self._at
        if y > -0.06 and abs(here - x) > 0.12:  # lifted in the other half: out of it first
            yield self._to(here, y, max(z, 0.56), 0.0)
            yield self._to(here, -0.10, 0.56, 0.0)
        yield self._to(x, -0.08, 0.58, 0.0, ACROSS, rest=1)
        yield self._to(x, 0.085, 0.53, 0.0, ACROSS, 0.25)
        yield self._to(x, 0.085, 0.472, 0.0, ACROSS, 0.15, rest=1)
        yield self._to(x, 0.085, 0.472, 1.0, ACROSS, rest=3)
        yield self._to(x, 0.05, 0.58, 1.0, ACROSS)
        yield self._to(x, FRONT, SAFE, 1.0, ACROSS)

    def _place_in_drawer(self) -> Iterator[Move]:
        handle, y = self._handle()
        y += 0.13
        x = self._roomiest((handle, handle - 0.10, handle + 0.10), y, self.calvin.held())
        here, there, z = self._at
        yield self._to(here, there, max(z, 0.56), 0.0)
        if there > -0.06:
            yield self._to(here, -0.10, 0.56, 0.0)
        yield self._to(x, y, 0.54, 0.0, ACROSS, rest=1)
        yield self._to(x, y, 0.40, 0.0, ACROSS, 0.2)
        yield self._to(x, y, 0.40, 1.0, ACROSS, rest=3)
        yield self._to(x, y, SAFE, 1.0, ACROSS)

    def _stack(self) -> Iterator[Move]:
        held = self.calvin.held()
        here, there, _ = self._at
        yield self._to(here, min(there, -0.05), SAFE, 0.0)
        if not (others := self._on_table(held)):
            return
        x, y, z, yaw = self._block(others[0])
        yield self._to(x, y, SAFE, 0.0, yaw, rest=2)
        # How the block lies between the fingers.
        off = self._theirs(self._measured()[0]) - np.array(self._block(held)[:3])
        over = z + 0.046 + float(np.clip(off[2], -0.02, 0.02))
        yield self._to(x + off[0], y + off[1], over + 0.03, 0.0, yaw, 0.2)
        yield self._to(x + off[0], y + off[1], over, 0.0, yaw, 0.1, rest=2)
        yield self._to(x + off[0], y + off[1], over, 1.0, yaw, rest=4)
        yield self._to(x + off[0], y + off[1], SAFE + 0.02, 1.0, yaw, 0.15)

    def _push_into_drawer(self) -> Iterator[Move]:
        if not (blocks := self._on_table()):
            return
        x, y, _, _ = self._block(blocks[0])
        yield from self._above(x, y + 0.085, 0.0, ACROSS, 0.56)
        yield self._to(x, y + 0.08, 0.465, 0.0, ACROSS, 0.25)
        yield self._to(x, -0.215, 0.465, 0.0, ACROSS, 0.22, rest=1)
        yield self._to(x, -0.12, 0.55, 0.0, ACROSS)


def _between(value: float, low: float, high: float) -> float:
    """How far a value is on the way from one to another, in [0, 1]."""
    return float(np.clip((value - low) / (high - low), 0.0, 1.0))
