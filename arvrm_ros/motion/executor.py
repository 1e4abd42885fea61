# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Follows action chunks with joint commands inside the contract's limits.

No clock, no ROS, no randomness: the same calls give the same commands, on a robot and in an offline evaluation.
"""

from __future__ import annotations

import contextlib
import math
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np
from ruckig import ControlInterface, InputParameter, OutputParameter, Result, Ruckig, Synchronization, Trajectory

from arvrm_ros.contract import RobotContract
from arvrm_ros.data.types import ActionChunk
from arvrm_ros.errors import ExecutionCode, MotionRefused
from arvrm_ros.motion import chunks, safety
from arvrm_ros.motion.chunks import JointPath
from arvrm_ros.motion.kinematics import Kinematics

TRACKING_GAIN = 25.0  # 1/s: an error against the path decays within 40 ms
LONGEST_FADE = 6  # times that a fade is made half as long again before a chunk is refused for the way to it
HOLD_BRAKING = 0.9  # of the acceleration limits: a hold stays on the path, which may need the rest
BETWEEN = 0.95  # of the acceleration limits in the commands: a quintic between two of them swings a little further
ON_PATH = 0.005  # rad within which an arm that was left alone counts as on its path
LONGEST_DELAY = 0.5  # s
REMEMBERED = 64  # commands, to compare a measurement with what was commanded for its time


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
        accelerations: (n,) rad/s^2.
    """

    positions: np.ndarray
    velocities: np.ndarray
    gripper: float
    accelerations: np.ndarray = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class Plan:
    """A chunk that was found to be good, and how it is followed.

    Attributes:
        chunk: as it came.
        path: what to follow.
        base: what was followed when the plan was made; the path fades in from it.
    """

    chunk: ActionChunk
    path: JointPath
    base: JointPath


@dataclass(frozen=True)
class ExecutorSettings:
    """How chunks are followed.

    Attributes:
        period: seconds between two calls of :meth:`ChunkExecutor.step`.
        blend: seconds of the fade into a new chunk; longer when the limits ask for it.
        newest_weight: weight of a new chunk against what is moving, in (0, 1]; 1 follows the newest chunk alone.
        lead: seconds by which :meth:`ChunkExecutor.step` is called before its time.
    """

    period: float = 0.01
    blend: float = 0.1
    newest_weight: float = 1.0
    lead: float = 0.0


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
        self._braking_limit = BETWEEN * np.array(contract.limits.acceleration)
        self._input.max_acceleration = self._braking_limit.tolist()
        # From rest to the limit in no less than a period, so that what a controller interpolates is within it too.
        self._input.max_jerk = np.minimum(contract.limits.jerk, self._braking_limit / self.settings.period).tolist()
        self._output = OutputParameter(n)
        self._brake = Trajectory(n)
        self._commands: deque[tuple[float, np.ndarray]] = deque(maxlen=REMEMBERED)
        self._input.control_interface = ControlInterface.Velocity
        self._input.synchronization = Synchronization.No
        self._input.target_acceleration = [0.0] * n
        self._velocity_limit = np.array(contract.limits.velocity)
        self._position_min = np.array(contract.limits.position_min)
        self._position_max = np.array(contract.limits.position_max)
        gripper = contract.gripper
        self._gripper_step = gripper.max_velocity / abs(gripper.open - gripper.closed) * self.settings.period
        self.state = ExecutorState.HOLDING
        self.error: tuple[ExecutionCode, str] = (ExecutionCode.NONE, "")
        self._path: JointPath
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
        self._commands.clear()
        self._braking = False
        self._settle(now)

    @property
    def commanded(self) -> np.ndarray:
        """(n,) rad, the last commanded joint positions."""
        return np.array(self._input.current_position)

    @property
    def motion(self) -> object:
        """What is followed now; another object than before says that what was foreseen does not hold any more."""
        return (self._path, self._braking)

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
        """Follows a chunk from now on: :meth:`plan` and :meth:`adopt`.

        Raises:
            MotionRefused: the chunk is refused whole and what was going on goes on; ``error`` holds the reason.
        """
        self.adopt(self.plan(chunk, now))

    def plan(self, chunk: ActionChunk, now: float) -> Plan:
        """Checks and solves a chunk; steps that are past are dropped, the rest is faded into the present motion.

        A target far from the present motion (within ``max_first_step``) is approached over a longer fade, not faster.
        Takes some milliseconds and changes nothing but ``error``, so that :meth:`step` may run beside it in another
        thread; one plan at a time.

        Raises:
            MotionRefused: as :meth:`accept`.
        """
        base = self._path
        try:
            return Plan(chunk, self._plan(chunk, now, base), base)
        except MotionRefused as refusal:
            if self.state is not ExecutorState.STOPPED:
                self.error = (refusal.code, str(refusal))
            raise

    def warm_up(self) -> None:
        """Plans once, from home, so that the first chunk does not wait for what is loaded late."""
        home = np.array(self.contract.home)
        position, quaternion = self.kinematics.forward(home)
        self.reset(home, 1.0, 0.0)
        steps = np.ones((2, 1))
        stay = ActionChunk(0.0, self.contract.action.step_period, steps * position, steps * quaternion, np.ones(2))
        with contextlib.suppress(MotionRefused):  # a home outside the workspace is found out by whoever moves
            self.plan(stay, 0.0)

    def adopt(self, plan: Plan) -> None:
        """Follows a plan.

        Raises:
            MotionRefused: the arm was stopped, or its motion changed otherwise, since the plan was made.
        """
        if self.state is ExecutorState.STOPPED:
            raise MotionRefused(ExecutionCode.EMERGENCY_STOP, self.error[1])
        if plan.base is not self._path or self._braking:
            raise MotionRefused(ExecutionCode.PREEMPTED, "the motion changed while the chunk was planned")
        self._path, self._chunk, self._newest_stamp = plan.path, plan.chunk, plan.chunk.stamp
        self.state = ExecutorState.FOLLOWING
        self.error = (ExecutionCode.NONE, "")

    def hold(self, now: float) -> None:
        """Leaves the path at a falling speed, rests, and forgets the chunk."""
        if self.state is ExecutorState.STOPPED or self._braking:
            return
        rates = np.abs(self._path.at(now)[1])[:-1]
        seconds = max(self.settings.blend, float((rates / (HOLD_BRAKING * self._braking_limit)).max()))
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
        difference = np.abs(position - self._commanded_for(now))
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
        result = self._advance(now)
        command = self.present
        self._commands.append((now + self.settings.period, command.positions))
        if self._braking and result == Result.Finished:
            self._braking = False
            self._settle(now)
        return command

    def preview(self, now: float, count: int) -> list[JointCommand]:
        """What the next ``count`` calls of :meth:`step` would return, from ``now`` on, if nothing new came."""
        state, gripper = self._input, self._gripper
        kept = state.current_position, state.current_velocity, state.current_acceleration
        commands = []
        for i in range(count):
            self._advance(now + i * self.settings.period)
            commands.append(self.present)
        state.current_position, state.current_velocity, state.current_acceleration = kept
        self._gripper = gripper
        return commands

    def braking(self, start: JointCommand, spacing: float) -> list[JointCommand]:
        """How the arm is brought to rest from ``start`` at the limits of its joints, straight on in joint space.

        Args:
            start: a command with its accelerations.
            spacing: seconds between two of the returned commands.

        Returns:
            One command per ``spacing`` after ``start``; the last one is at rest. Empty when ``start`` is.
        """
        state = self._input
        kept = state.current_position, state.current_velocity, state.current_acceleration
        state.current_position, state.current_velocity = start.positions.tolist(), start.velocities.tolist()
        state.current_acceleration = start.accelerations.tolist()
        state.target_velocity = [0.0] * len(start.positions)
        state.synchronization = Synchronization.Phase
        result = self._generator.calculate(state, self._brake)
        state.synchronization = Synchronization.No
        state.current_position, state.current_velocity, state.current_acceleration = kept
        if result not in (Result.Working, Result.Finished):
            raise RuntimeError(f"no way to brake ({result}) from {start}")
        count = math.ceil(self._brake.duration / spacing - 1e-6)
        states = (self._brake.at_time((i + 1) * spacing) for i in range(count))
        return [JointCommand(np.array(p), np.array(v), start.gripper, np.array(a)) for p, v, a in states]

    def resume(self, way: Sequence[tuple[float, JointCommand]]) -> None:
        """Goes on from the state that the arm was brought into meanwhile.

        What it has missed of its path it follows later, no faster; away from the path, it is brought to rest.

        Args:
            way: seconds, and where the arm was meant to be then; it goes on from the last one.
        """
        self._commands.clear()
        self._commands.extend((time, command.positions) for time, command in way)
        now, command = way[-1]
        self._input.current_position = command.positions.tolist()
        self._input.current_velocity = command.velocities.tolist()
        self._input.current_acceleration = command.accelerations.tolist()
        self._gripper = command.gripper
        if self._braking or self.state is ExecutorState.HOLDING:
            self._braking = True  # it was to come to rest, and has begun to
            return
        delays = np.linspace(0.0, LONGEST_DELAY, 501)  # a millisecond apart: catching up would be a step in speed
        away = np.abs(self._path.sample(now - delays)[0][:, :-1] - command.positions).max(axis=1)
        if away.min() > ON_PATH:
            self._braking = True
            self.state = ExecutorState.HOLDING
        elif away[0] > ON_PATH:
            self._path = self._path.delayed(float(delays[away.argmin()]))

    def _advance(self, now: float) -> Result:
        """Moves the state of the commands on by one period."""
        if self._braking:
            self._input.target_velocity = [0.0] * len(self.contract.joints)
        else:
            values, rates = self._path.at(now + self.settings.period)
            self._input.target_velocity = self._velocity_towards(values[:-1], rates[:-1]).tolist()
            self._gripper += float(np.clip(values[-1] - self._gripper, -self._gripper_step, self._gripper_step))
        result = self._generator.update(self._input, self._output)
        if result not in (Result.Working, Result.Finished):
            raise RuntimeError(f"the trajectory generator failed ({result}) on {self._input}")
        self._output.pass_to_input(self._input)
        return result

    @property
    def present(self) -> JointCommand:
        """The last command, or where the arm was placed."""
        state = self._input
        return JointCommand(
            np.array(state.current_position),
            np.array(state.current_velocity),
            self._gripper,
            np.array(state.current_acceleration),
        )

    def deviation(self, joint_positions: np.ndarray, time: float) -> float:
        """Radians by which the farthest joint of (n,) positions is away from what was commanded for a time."""
        return float(np.abs(np.asarray(joint_positions, dtype=float) - self._commanded_for(time)).max())

    def _commanded_for(self, time: float) -> np.ndarray:
        """(n,) rad commanded for a time: commands may be given ahead of it."""
        if not self._commands:
            return self.commanded
        times, positions = zip(*self._commands, strict=True)
        i = min(max(bisect_right(times, time), 1), len(times) - 1)
        if len(times) == 1 or time <= times[0]:
            return positions[0]
        share = min((time - times[i - 1]) / (times[i] - times[i - 1]), 1.0)
        return np.asarray(positions[i - 1] + share * (positions[i] - positions[i - 1]))

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

    def _plan(self, chunk: ActionChunk, now: float, path: JointPath) -> JointPath:
        if self.state is ExecutorState.STOPPED:
            raise MotionRefused(ExecutionCode.EMERGENCY_STOP, self.error[1])
        safety.check_values(chunk)
        safety.check_age(chunk, now, self._newest_stamp)
        safety.check_joint_states(self._measured_at, now, self.contract)
        if self._braking or self.tracking_error > self.contract.watchdogs.tracking_error:
            raise MotionRefused(
                ExecutionCode.TRACKING_ERROR, f"the arm is {self.tracking_error:.2f} rad from its command"
            )
        commanded = self.kinematics.forward(path.at(now)[0][:-1])[0]
        ahead = chunks.first_step_ahead(chunk, now)
        safety.check_steps(chunk, ahead, commanded, self.contract)
        motion = chunks.solve_chunk(chunk, now, path, self.kinematics)
        motion = replace(motion, slowdown=safety.slowdown(motion.steps, motion.period, self.contract))
        seconds = chunks.fade_seconds(path, motion, now, self.settings.blend, self.contract)
        for attempt in range(LONGEST_FADE):
            times, values, rates = chunks.blend(path, motion, now, seconds, self.settings.newest_weight)
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
            safety.check_joint_states(self._measured_at, now - self.settings.lead, self.contract)
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
