# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What policies are rolled out in: the embedded tabletop, or CALVIN's environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from arvrm_ros.contract import RobotContract
from arvrm_ros.data.types import Observation
from arvrm_ros.errors import ArvrmError

if TYPE_CHECKING:
    from arvrm_ros.simulation.experts import Expert

WORLDS = {"tabletop": "tabletop", "calvin": "calvin", "calvin-egl": "calvin"}
"""Names of worlds, and of the contract of each."""

TABLETOP = "tabletop"

EVALUATION_SEEDS = 1_000_000
"""Seeds from here on are kept for evaluation; collection never uses them."""


class World(Protocol):
    """A simulated robot, what stands around it, and the oracle that judges.

    Attributes:
        contract: of the robot.
        cycle: seconds between two joint commands.
        latency: seconds from an observation to the arrival of its chunk; 0 where time stands while the policy thinks.
        lag: seconds by which the free arm is behind its commands, at most.
        variant: look of the table.
    """

    contract: RobotContract
    cycle: float
    latency: float
    lag: float
    variant: str

    @property
    def time(self) -> float:
        """Simulated seconds since the reset."""
        ...

    @property
    def joint_positions(self) -> np.ndarray:
        """(n,) radians, in the contract's order."""
        ...

    @property
    def gripper(self) -> float:
        """Measured opening in [0, 1]."""
        ...

    @property
    def lamps(self) -> tuple[bool, bool]:
        """Whether the LED and the bulb shine."""
        ...

    def reset(self, seed: int, task: str | None = None, variant: str | None = None) -> None:
        """Begins anew; the same seed, task and variant give the same scene."""
        ...

    def end_effector(self) -> tuple[np.ndarray, np.ndarray]:
        """Measured pose in the base frame: position (3,) in metres, rotation matrix (3, 3)."""
        ...

    def command(self, joint_positions: np.ndarray, gripper: float) -> None:
        """Sets the servos' targets: (n,) radians and an opening in [0, 1]."""
        ...

    def advance(self, seconds: float) -> None:
        """Runs the physics for a time, a multiple of ``cycle``."""
        ...

    def observation(self) -> Observation:
        """Images of the contract's cameras and the robot's measurements, all of now."""
        ...

    def render(self, camera: str, height: int | None = None, width: int | None = None) -> np.ndarray:
        """An image (H, W, 3) uint8 RGB from a camera of the contract, of its size if no other is given."""
        ...

    def points(self) -> np.ndarray:
        """(P, 3) metres, base frame: where the things of ``scene.POINTS`` are. Privileged."""
        ...

    def project(self, points: np.ndarray, camera: str) -> np.ndarray:
        """(P, 3) of points (P, 3) in the base frame: x, y in [0, 1] of the image, and 1 if within it, else 0."""
        ...

    def judge(self, task: str) -> Callable[[], bool]:
        """A function that says whether a task was done between now and its call. Privileged."""
        ...

    def draw_chain(self, rng: np.random.Generator) -> tuple[str, ...]:
        """Five tasks that can be done one after the other from now on."""
        ...

    def expert(self, task: str, rng: np.random.Generator, period: float) -> Expert:
        """Does a task that can be done now, one command every ``period`` seconds. Privileged."""
        ...

    def wordings(self, task: str, held_out: bool = False) -> Sequence[str]:
        """How a task is asked for, in training or never in training."""
        ...

    def close(self) -> None:
        """Frees the renderers."""
        ...


def load_world(name: str, contract: RobotContract) -> World:
    """The world of a name in :data:`WORLDS`.

    Raises:
        ArvrmError: an unknown name, or what it needs is not there.
    """
    if name == TABLETOP:
        from arvrm_ros.simulation.tabletop import Tabletop

        return Tabletop(contract)
    if name in WORLDS:
        from arvrm_ros.simulation.calvin import Calvin

        return Calvin(contract, egl=name == "calvin-egl")
    raise ArvrmError(f"unknown environment {name!r}: use one of {', '.join(WORLDS)}")
