# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How the arm is brought to rest from any state, at the limits of its joints: straight on, or somewhere (Ruckig)."""

from __future__ import annotations

import math

import numpy as np
from ruckig import ControlInterface, InputParameter, Result, Ruckig, Synchronization, Trajectory

from arvrm_ros.contract import RobotContract

ACCELERATION_SHARE = 0.95  # of the limits: a quintic between two samples swings a little further
JERK_SHARE = 0.5


class Brake:
    """Ways to rest, sampled.

    Args:
        contract: whose limits hold.
        period: seconds between two commands, between which a controller interpolates with quintics.
    """

    def __init__(self, contract: RobotContract, period: float) -> None:
        n = len(contract.joints)
        self._generator, self._trajectory, self._input = Ruckig(n), Trajectory(n), InputParameter(n)
        self._input.max_velocity = contract.limits.velocity
        self._input.target_velocity = self._input.target_acceleration = [0.0] * n
        acceleration = ACCELERATION_SHARE * np.array(contract.limits.acceleration)
        self._input.max_acceleration = acceleration.tolist()
        # From rest to the limit in no less than a period, so that what is interpolated is within it, too.
        self._input.max_jerk = np.minimum(JERK_SHARE * np.array(contract.limits.jerk), acceleration / period).tolist()

    def way(self, state: np.ndarray, spacing: float) -> np.ndarray:
        """Motion (3, T, n) from a state (3, n) straight on to rest, one sample per ``spacing`` seconds after it.

        Positions in rad and their first two derivatives by time; T is 0 where the state is at rest.
        """
        self._input.control_interface = ControlInterface.Velocity
        self._input.synchronization = Synchronization.Phase
        way = self._sampled(state, spacing)
        if way is None:
            raise RuntimeError(f"no way to brake from {self._input}")
        return way

    def way_to(self, state: np.ndarray, target: np.ndarray, spacing: float) -> np.ndarray | None:
        """As :meth:`way`, to rest at (n,) rad as soon as possible; None where Ruckig knows no way."""
        self._input.control_interface = ControlInterface.Position
        self._input.synchronization = Synchronization.Time
        self._input.target_position = target.tolist()
        return self._sampled(state, spacing)

    def _sampled(self, state: np.ndarray, spacing: float) -> np.ndarray | None:
        position, velocity, acceleration = state
        self._input.current_position = position.tolist()
        self._input.current_velocity = velocity.tolist()
        self._input.current_acceleration = acceleration.tolist()
        result = self._generator.calculate(self._input, self._trajectory)
        if result not in (Result.Working, Result.Finished):
            return None
        count = math.ceil(self._trajectory.duration / spacing - 1e-6)
        samples = [self._trajectory.at_time((i + 1) * spacing) for i in range(count)]
        return np.array(samples).reshape(count, *state.shape).transpose(1, 0, 2)
