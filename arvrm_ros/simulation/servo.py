# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Leads the simulated arm along end-effector commands one control step at a time, for collecting demonstrations."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from arvrm_ros.motion.kinematics import Kinematics
from arvrm_ros.simulation.world import World


class PoseServo:
    """Moves a world's arm to a pose within one control step: straight in position, slerp in orientation."""

    def __init__(self, world: World, kinematics: Kinematics) -> None:
        self.world = world
        self.kinematics = kinematics
        self.reset()

    def reset(self) -> None:
        """Starts again from the measured pose."""
        self._joints = self.world.joint_positions
        self._position, self._quaternion = self.kinematics.forward(self._joints)
        self._gripper = self.world.gripper

    def move(self, position: np.ndarray, quaternion: np.ndarray, gripper: float, period: float) -> None:
        """Runs ``period`` seconds of simulation towards a pose (metres; x, y, z, w) and an opening in [0, 1].

        Raises:
            MotionRefused: no joint solution on the way.
        """
        contract, cycle = self.world.contract, self.world.cycle
        cycles = round(period / cycle)
        between = Slerp([0, cycles], Rotation.from_quat([self._quaternion, quaternion]))
        turns = between(np.arange(1, cycles + 1)).as_quat()  # all at once: a call costs more than its arithmetic
        opening_per_cycle = contract.gripper.max_velocity * cycle / (contract.gripper.open - contract.gripper.closed)
        for i, turn in enumerate(turns, 1):
            point = self._position + (position - self._position) * i / cycles
            self._joints = self.kinematics.inverse(point, turn, self._joints, home_pull=0.01)
            self._gripper += float(np.clip(gripper - self._gripper, -opening_per_cycle, opening_per_cycle))
            self.world.command(self._joints, self._gripper)
            self.world.advance(cycle)
        self._position, self._quaternion = position, quaternion
