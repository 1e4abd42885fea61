# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Follows action chunks with joint commands inside the contract's limits.

No clock, no ROS, no randomness: the same calls give the same commands, on a robot and in an offline evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from ruckig import ControlInterface, InputParameter, OutputParameter, Result, Ruckig, Synchronization

from arvrm_ros.contract import RobotContract
from arvrm_ros.data.types import ActionChunk
from arvrm_ros.errors import ExecutionCode, MotionRefused
from arvrm_ros.motion import chunks, safety
from arvrm_ros.motion.chunks import JointPath
from arvrm_ros.motion.kinematics import Kinematics

TRACKING_GAIN = 25.0  # 1/s: an error against the path decays within 40 ms
LONGEST_FADE = 6  # times that a fade is made half as long again before a chunk is refused for the way to it


class ExecutorState(IntEnum):
    """As in ``ExecutionStatus``."""

    HOLDING = 0
    FOLLOWING = 1
    STOPPED = 2


@dataclass(frozen=True)
class JointCommand:
    """Set-point for one control period after the call that returned it.

    Attributes:
        positions: (n,) rad.
        velocities: (n,) rad/s.
        gripper: opening in [0, 1].
    """

    positions: np.ndarray
    velocities: np.ndarray
    gripper: float


@dataclass(frozen=True)
class ExecutorSettings:
    """How chunks are followed.

    Attributes:
        period: seconds between two calls of :meth:`ChunkExecutor.step`.
        blend: seconds of the fade into a new chunk; longer when the limits ask for it.
        newest_weight: weight of a new chunk against what is moving, in (0, 1]; 1 follows the newest chunk alone.
    """

    period: float = 0.01
    blend: float = 0.1
    newest_weight: float = 1.0


class ChunkExecutor:
    """Turns chunks of end-effector targets into joint commands, one per control period.

    A chunk is checked and solved whole when it is accepted, and faded into what is moving; each step then tracks the
    resulting path with an online trajectory generator (Ruckig), so that position and velocity are continuous and
    velocity, acceleration and jerk stay inside the contract's limits whatever the chunks are. When no chunk follows,
    the arm comes to rest on the last target.

    All times are seconds of one clock, the one that stamps the chunks. Call :meth:`reset` first, then :meth:`step` at
    a fixed rate and :meth:`measured` with every joint state.
    """

    def __init__(self, contract: RobotContract, settings: ExecutorSettings | None = None) -> None:
        self.contract = contract
        self.settings = settings or ExecutorSettings()
        self.kinematics = Kinematics(contract)
        n = len(contract.joints)
        self._generator = Ruckig(n, self.settings.period)
        self._input = InputParameter(n)
        self._input.max_velocity = list(contract.limits.velocity)
        self._input.max_acceleration = list(contract.limits.acceleration)
        self._input.max_jerk = list(contract.limits.jerk)
        self._output = OutputParameter(n)
        self._input.control_interface = ControlInterface.Velocity
        self._input.synchronization = Synchronization.No
        self._input.target_acceleration = [0.0] * n
        self._velocity_limit = np.array(contract.limits.velocity)
        self._braking_limit = np.array(contract.limits.acceleration)
        self._position_min = np.array(contract.limits.position_min)
        self._position_max = np.array(contract.limits.position_max)
        gripper = contract.gripper
        self._gripper_step = gripper.max_velocity / abs(gripper.open - gripper.closed) * self.settings.period
        self.state = ExecutorState.HOLDING
        self.error: tuple[ExecutionCode, str] = (ExecutionCode.NONE, "")
        self._measured_at: float | None
        self._chunk: ActionChunk | None
        self.reset(np.array(contract.home), 1.0, 0.0)
        self._measured_at = None

    def reset(self, joint_positions: np.ndarray, gripper: float, now: float) -> None:
        """At rest at (n,) rad and a gripper opening; all is forgotten but an emergency stop."""
        position = np.asarray(joint_positions, dtype=float)
        if self.state is not ExecutorState.STOPPED:
            self.state = ExecutorState.HOLDING
            self.error = (ExecutionCode.NONE, "")
        self.tracking_error = 0.0
        self._gripper = float(np.clip(gripper, 0.0, 1.0))
        self._measured = position.copy()
        self._measured_at = now
        self._input.current_position = position.tolist()
        self._input.current_velocity = self._input.current_acceleration = [0.0] * len(position)
        self._braking = False
        self._settle(now)

    @property
    def commanded(self) -> np.ndarray:
        """(n,) rad, the last commanded joint positions."""
        return np.array(self._input.current_position)

    @property
    def ends_at(self) -> float:
        """Time at which the arm will rest if nothing else comes."""
        return self._path.end

    @property
    def at_rest(self) -> bool:
        """The commands do not move any more."""
        return not self._braking and max(map(abs, self._input.current_velocity)) < 1e-4

    def step_index(self, now: float) -> int:
        """Index of the step of the accepted chunk that the arm is moving towards."""
        return (
            0 if self._chunk is None else min(chunks.first_step_ahead(self._chunk, now), len(self._chunk.gripper) - 1)
        )

    def accept(self, chunk: ActionChunk, now: float) -> None:
        """Follows a chunk from now on; steps that are past are dropped, the rest is faded into the present motion.

        A target far from the present motion (within ``max_first_step``) is approached over a longer fade, not faster.

        Raises:
            MotionRefused: the chunk is refused whole and what was going on goes on; ``error`` holds the reason.
        """
        try:
            path = self._plan(chunk, now)
        except MotionRefused as refusal:
            if self.state is not ExecutorState.STOPPED:
                self.error = (refusal.code, str(refusal))
            raise
        self._path, self._chunk, self._newest_stamp = path, chunk, chunk.stamp
        self.state = ExecutorState.FOLLOWING
        self.error = (ExecutionCode.NONE, "")

    def hold(self, now: float) -> None:
        """Leaves the path at a falling speed, rests, and forgets the chunk."""
        if self.state is ExecutorState.STOPPED or self._braking:
            return
        rates = np.abs(self._path.at(now)[1])[:-1]
        # Half of the acceleration limits: a hold is no emergency.
        seconds = max(self.settings.blend, float((rates / (np.array(self.contract.limits.acceleration) / 2)).max()))
        self._path = self._path.stopped(now, seconds)
        self._chunk, self._newest_stamp = None, -np.inf
        self.state = ExecutorState.HOLDING

    def emergency_stop(self) -> None:
        """Brakes at the limits of the joints at once and refuses all chunks until :meth:`clear_emergency_stop`."""
        self.error = (ExecutionCode.EMERGENCY_STOP, "emergency stop; reset it before the arm moves again")
        self.state = ExecutorState.STOPPED
        self._braking = True

    def clear_emergency_stop(self) -> None:
        """Lets chunks in again; the arm rests where it stopped."""
        if self.state is ExecutorState.STOPPED:
            self.state = ExecutorState.HOLDING
            self.error = (ExecutionCode.NONE, "")

    def measured(self, joint_positions: np.ndarray, gripper: float, now: float) -> None:
        """Takes joint states (n,) rad and the gripper's opening, for the watchdogs; non-finite ones count as silence.

        Beyond ``watchdogs.tracking_error`` the arm brakes and gives way to where it is measured, instead of pushing on
        against whatever holds it. The gripper is not watched: a grasped object keeps it from its target.
        """
        position = np.asarray(joint_positions, dtype=float)
        if not np.all(np.isfinite(position)):
            return
        self._measured, self._measured_at = position, now
        difference = np.abs(position - np.array(self._input.current_position))
        self.tracking_error = float(difference.max())
        limit = self.contract.watchdogs.tracking_error
        if self.tracking_error > limit and not self._braking and self.state is not ExecutorState.STOPPED:
            joint = self.contract.joints[int(difference.argmax())]
            if not self._yielding(now):
                self.error = (
                    ExecutionCode.TRACKING_ERROR,
                    f"{joint} is {self.tracking_error:.2f} rad from its command; the limit is {limit} rad",
                )
                self.state = ExecutorState.HOLDING
                self._braking = True

    def step(self, now: float) -> JointCommand:
        """The next command, to be reached at ``now + period``. Call it once per period."""
        self._watch(now)
        values, rates = self._path.at(now + self.settings.period)
        if self._braking:
            self._input.target_velocity = [0.0] * len(self.contract.joints)
        else:
            self._input.target_velocity = self._velocity_towards(values[:-1], rates[:-1]).tolist()
            self._gripper += float(np.clip(values[-1] - self._gripper, -self._gripper_step, self._gripper_step))
        result = self._generator.update(self._input, self._output)
        if result not in (Result.Working, Result.Finished):
            raise RuntimeError(f"the trajectory generator failed ({result}) on {self._input}")
        self._output.pass_to_input(self._input)
        if self._braking and result == Result.Finished:
            self._braking = False
            self._settle(now)
        return JointCommand(
            np.array(self._input.current_position), np.array(self._input.current_velocity), self._gripper
        )

    def _velocity_towards(self, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Joint velocity (n,) for the end of this period that tracks the path's position and velocity there.

        The path's own velocity plus a share of the position error, no faster than the arm could still brake within:
        a time-optimal generator aimed at a moving position would back up to gain speed when it is late.
        """
        present, moving = np.array(self._input.current_position), np.array(self._input.current_velocity)
        error = position - present - 0.5 * self.settings.period * (velocity + moving)
        catch_up = np.minimum(TRACKING_GAIN * np.abs(error), np.sqrt(self._braking_limit * np.abs(error)))
        room_up = np.sqrt(self._braking_limit * np.maximum(self._position_max - present, 0.0))
        room_down = np.sqrt(self._braking_limit * np.maximum(present - self._position_min, 0.0))
        return np.clip(
            velocity + np.copysign(catch_up, error),
            -np.minimum(self._velocity_limit, room_down),
            np.minimum(self._velocity_limit, room_up),
        )

    def _plan(self, chunk: ActionChunk, now: float) -> JointPath:
        if self.state is ExecutorState.STOPPED:
            raise MotionRefused(ExecutionCode.EMERGENCY_STOP, self.error[1])
        safety.check_values(chunk)
        safety.check_age(chunk, now, self._newest_stamp)
        safety.check_joint_states(self._measured_at, now, self.contract)
        if self._braking or self.tracking_error > self.contract.watchdogs.tracking_error:
            raise MotionRefused(
                ExecutionCode.TRACKING_ERROR, f"the arm is {self.tracking_error:.2f} rad from its command"
            )
        commanded = self.kinematics.forward(self._path.at(now)[0][:-1])[0]
        ahead = chunks.first_step_ahead(chunk, now)
        safety.check_steps(chunk, ahead, commanded, self.contract)
        motion = chunks.solve_chunk(chunk, now, self._path, self.kinematics)
        motion = replace(motion, slowdown=safety.slowdown(motion.steps, motion.period, self.contract))
        seconds = chunks.fade_seconds(self._path, motion, now, self.settings.blend, self.contract)
        for attempt in range(LONGEST_FADE):
            times, values, rates = chunks.blend(self._path, motion, now, seconds, self.settings.newest_weight)
            try:
                self._check_way(times, values)
            except MotionRefused:
                if attempt == LONGEST_FADE - 1:
                    raise
                seconds *= 1.5
            else:
                break
        return JointPath.through(times, values, rates)

    def _check_way(self, times: np.ndarray, values: np.ndarray) -> None:
        safety.check_joint_range(values[:, :-1], self.contract)
        every = 2
        positions = np.stack([self.kinematics.forward(row)[0] for row in values[::every, :-1]])
        safety.check_cartesian_path(positions, every * float(times[1] - times[0]), self.contract)

    def _watch(self, now: float) -> None:
        if self.state is not ExecutorState.FOLLOWING:
            return
        try:
            safety.check_joint_states(self._measured_at, now, self.contract)
        except MotionRefused as refusal:
            self.hold(now)
            self.error = (refusal.code, str(refusal))
            return
        if now > self._path.end + self.contract.watchdogs.silence and self.at_rest:
            self.state = ExecutorState.HOLDING
            self._chunk = None

    def _yielding(self, now: float) -> bool:
        return self.state is ExecutorState.HOLDING and self._chunk is None and now < self._path.end

    def _settle(self, now: float) -> None:
        """Rests on the last command, or, when the arm is held far from it, moves slowly to where the arm is."""
        command = np.append(self._input.current_position, self._gripper)
        self._chunk = None
        self._newest_stamp = -np.inf
        self._path = JointPath.rest(command, now)
        limits = self.contract.limits
        if self.tracking_error > self.contract.watchdogs.tracking_error and self.state is not ExecutorState.STOPPED:
            there = np.append(np.clip(self._measured, limits.position_min, limits.position_max), self._gripper)
            seconds = 4 * 1.5 * float((np.abs(there - command)[:-1] / self._velocity_limit).max())
            times = np.array([now, now + max(seconds, 0.5)])
            self._path = JointPath.through(times, np.stack([command, there]), np.zeros((2, len(command))))
