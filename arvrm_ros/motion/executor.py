# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Follows action chunks with joint commands inside the contract's limits.

No clock, no ROS, no randomness: the same calls give the same commands, on a robot and in an offline evaluation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

import numpy as np

from arvrm_ros.contract import RobotContract
from arvrm_ros.data.types import ActionChunk
from arvrm_ros.errors import ExecutionCode, MotionRefused
from arvrm_ros.motion import chunks, safety
from arvrm_ros.motion.braking import Brake
from arvrm_ros.motion.chunk_planner import ChunkPlanner
from arvrm_ros.motion.chunks import JointPath
from arvrm_ros.motion.contact import Contact
from arvrm_ros.motion.kinematics import Kinematics

ATTEMPTS = 10  # at a way back to the path before the arm is brought to rest
LONGER = 1.25  # times that a way, or a hold, takes longer from one attempt to the next
SHORTEST_HOLD = 0.05  # s in which the arm leaves its path to rest, at the soonest
HOLD_SHARE = 0.95  # of the limits that this may take: between few knots a quintic swings a little further
LONGEST_HOLD = 0.1  # s in which it has to rest there; else the arm is braked straight on
CLOCK_SLIP = 0.01  # of a period by which a step may be longer or shorter to follow the caller's clock
ON_PATH = 0.005  # rad within which an arm that was left alone counts as on its path
LONGEST_DELAY = 0.5  # s
RESTS_AT = 1e-6  # rad within which a goal move begins where the arm rests
HELD = (ExecutionCode.OBSTRUCTED, ExecutionCode.TRACKING_ERROR)  # why it rests where it is measured, not commanded


Solve = Callable[[ActionChunk, float, JointPath], tuple[JointPath, str]]


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
    """A chunk or a goal move that was found to be good, and how it is followed.

    Attributes:
        chunk: as it came; None for a goal move.
        path: what to follow.
        start: seconds, when the path leaves ``base``.
        base: what was followed when the plan was made.
        clamped: what was cut from the chunk.
    """

    chunk: ActionChunk | None
    path: JointPath
    start: float
    base: JointPath
    clamped: str


@dataclass(frozen=True)
class ExecutorSettings:
    """How chunks are followed.

    Attributes:
        period: seconds between two calls of :meth:`ChunkExecutor.step`.
        blend: seconds of the way into a new chunk; longer when the limits ask for it.
        newest_weight: weight of a new chunk against what is moving, in (0, 1]; 1 follows the newest chunk alone.
        lead: seconds by which :meth:`ChunkExecutor.step` is called before its time.
        lag: seconds by which the arm is behind its commands, at most, if nothing holds it; the less, the sooner is
            what holds it noticed.
    """

    period: float = 0.01
    blend: float = 0.1
    newest_weight: float = 1.0
    lead: float = 0.0
    lag: float = 0.1


class ChunkExecutor:
    """Turns chunks of end-effector targets into joint commands, one per control period.

    A chunk is checked and solved whole when it is accepted, and led over to from what is moving; that whole way is
    checked again, and the commands are samples of it: position, velocity and acceleration are continuous, and within
    the contract's limits, whatever the chunks are. When no chunk follows, the arm comes to rest on the last target.

    Attributes:
        state: what it does.
        error: why the last chunk was refused or the arm stopped.
        clamped: what was cut from the chunk that is followed, "" for nothing.

    Args:
        contract: of the robot.
        settings: None for the defaults.
        solve: :meth:`ChunkPlanner.solve`, elsewhere; None solves chunks here.

    All times are seconds of one clock, the one that stamps the chunks. Call :meth:`reset` first, then :meth:`step` at
    a fixed rate and :meth:`measured` with every joint state.

    Raises:
        ContractError: the contract does not fit its URDF, or its home comes too close to a keep-out box.
    """

    def __init__(
        self, contract: RobotContract, settings: ExecutorSettings | None = None, solve: Solve | None = None
    ) -> None:
        self.contract = contract
        self.settings = settings or ExecutorSettings()
        self.kinematics = Kinematics(contract)
        self._solve = solve or ChunkPlanner(contract, self.settings).solve
        self._check = safety.PathCheck(contract, self.settings.period)
        self._brake = Brake(contract, self.settings.period)
        self._contact = Contact(contract, self._brake, self.settings.period, self.settings.lag)
        gripper = contract.gripper
        self._gripper_step = gripper.max_velocity / abs(gripper.open - gripper.closed) * self.settings.period
        self.state = ExecutorState.HOLDING
        self.error: tuple[ExecutionCode, str] = (ExecutionCode.NONE, "")
        self._path: JointPath
        self._chunk: ActionChunk | None
        self.reset(np.array(contract.home), 1.0, 0.0)
        self._contact.measured_at = None

    def reset(self, joint_positions: np.ndarray, gripper: float, now: float) -> None:
        """At rest at (n,) rad and a gripper opening; all is forgotten but an emergency stop.

        Raises:
            MotionRefused: STALE_JOINT_STATES, they are no n finite numbers.
        """
        position = np.asarray(joint_positions, dtype=float)
        safety.check_positions(position, self.contract)
        if self.state is not ExecutorState.STOPPED:
            self.state = ExecutorState.HOLDING
            self.error = (ExecutionCode.NONE, "")
        self.clamped = ""
        self._gripper = float(np.clip(gripper, 0.0, 1.0))
        self._contact.begin(position, now)
        self._command = np.zeros((3, len(position)))
        self._command[0] = position
        self._committed = now
        self._braking = False
        self._settle()

    @property
    def commanded(self) -> np.ndarray:
        """(n,) rad, the last commanded joint positions."""
        return self._command[0].copy()

    @property
    def tracking_error(self) -> float:
        """Radians, largest difference between command and measurement."""
        return self._contact.tracking_error

    @property
    def measured_lag(self) -> float:
        """Seconds by which the moving arm was behind its commands, nearly at most (95 %); 0 before it has moved."""
        return self._contact.measured_lag

    @property
    def motion(self) -> object:
        """What is followed now; another object than before says that what was foreseen does not hold any more."""
        return self._path

    @property
    def ends_at(self) -> float:
        """Time at which the arm will rest if nothing else comes."""
        return self._path.end

    @property
    def at_rest(self) -> bool:
        """The commands do not move any more."""
        return not self._braking and float(np.abs(self._command[1]).max()) < 1e-4

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
        self._follow_clock(now)
        self.adopt(self.plan(chunk, now))

    def plan(self, chunk: ActionChunk, now: float, asked: float | None = None) -> Plan:
        """Checks and solves a chunk; steps that are past are dropped, the present motion leads over to the rest.

        A target far from the present motion (within ``max_first_step``) is approached over a longer time, not faster.
        Takes some milliseconds and changes nothing but ``error``, so that :meth:`step` may run beside it in another
        thread; one plan at a time.

        Args:
            chunk: what to follow.
            now: seconds, when the present motion is left; later than the commands given so far.
            asked: seconds, by when joint states have to be new, if that is earlier.

        Raises:
            MotionRefused: as :meth:`accept`; PREEMPTED, which ``error`` does not keep, while the arm brakes.
        """
        base, start = self._path, max(now, self._committed)
        try:
            self._check_ready(start if asked is None else asked)
            safety.check_values(chunk)
            safety.check_age(chunk, start, self._newest_stamp)
            path, clamped = self._solve(chunk, start, base)
        except MotionRefused as refusal:
            if self.state is not ExecutorState.STOPPED and refusal.code is not ExecutionCode.PREEMPTED:
                self.error = (refusal.code, str(refusal))
            raise
        return Plan(chunk, path, start, base, clamped)

    @cached_property
    def _move_check(self) -> safety.PathCheck:
        """Its own, because goal moves are planned in another thread than that of :meth:`step`."""
        return safety.PathCheck(self.contract, self.settings.period)

    def plan_move(self, times: np.ndarray, motion: np.ndarray, now: float, asked: float | None = None) -> Plan:
        """Checks a joint motion from rest to rest; the gripper stays as it is. May run in any thread, as :meth:`plan`.

        Args:
            times: (T,) seconds from 0.
            motion: (3, T, n) positions, velocities and accelerations.
            now: seconds at which it begins; :meth:`adopt` takes it delayed, too.
            asked: as of :meth:`plan`.

        Raises:
            MotionRefused: it breaks a limit, or does not begin where the arm rests.
        """
        base = self._path
        self._check_ready(now if asked is None else asked)
        resting = base.at(now)
        if np.abs(resting[1]).max() > 0 or np.abs(motion[0, 0] - resting[0, :-1]).max() > RESTS_AT:
            raise MotionRefused(ExecutionCode.PREEMPTED, "the arm moves, or is not where the goal move begins")
        knots = np.pad(motion, ((0, 0), (0, 0), (0, 1)))
        knots[0, :, -1] = resting[0, -1]
        check = self._move_check
        check.clearance(check.limits(times, knots))
        return Plan(None, JointPath.through(now + times, knots), now, base, "")

    def warm_up(self) -> None:
        """Plans a chunk and a move at home, so that the first ones do not wait for what is loaded late."""
        home = np.array(self.contract.home)
        position, quaternion = self.kinematics.forward(home)
        self.reset(home, 1.0, 0.0)
        steps = np.ones((2, 1))
        stay = ActionChunk(0.0, self.contract.action.step_period, steps * position, steps * quaternion, np.ones(2))
        rest = np.zeros((3, 2, len(home)))
        rest[0] = home
        with contextlib.suppress(MotionRefused):  # a home outside the workspace is found out by whoever moves
            self.plan(stay, 0.0)
            self.plan_move(np.array([0.0, 1.0]), rest, 0.0)

    def adopt(self, plan: Plan) -> None:
        """Follows a plan; up to its start that is the motion that is followed already.

        Raises:
            MotionRefused: the arm was stopped, its motion changed since the plan was made, or the plan comes too late.
        """
        if self.state is ExecutorState.STOPPED:
            raise MotionRefused(ExecutionCode.EMERGENCY_STOP, self.error[1])
        if plan.base is not self._path or self._braking:
            raise MotionRefused(ExecutionCode.PREEMPTED, "the motion changed while the chunk was planned")
        if (late := self._committed - plan.start) > CLOCK_SLIP * self.settings.period:
            message = f"the chunk was planned {late:.3f} s after the motion that it begins from; 0 s is the most"
            raise MotionRefused(ExecutionCode.PREEMPTED, message)
        self._contact.follows()
        self._path, self._chunk = plan.path, plan.chunk
        self._newest_stamp = -np.inf if plan.chunk is None else plan.chunk.stamp
        self.clamped = plan.clamped
        self.state = ExecutorState.FOLLOWING
        self.error = (ExecutionCode.NONE, "")

    def hold(self, now: float) -> None:
        """Leaves the path at a falling speed, rests, and forgets the chunk."""
        rests = self.state is ExecutorState.HOLDING and now >= self._path.end
        if rests or self.state is ExecutorState.STOPPED or self._braking:
            return
        self._follow_clock(now)
        self._leave()

    def emergency_stop(self) -> None:
        """Brakes at the limits of the joints at once and refuses all chunks until :meth:`clear_emergency_stop`."""
        self.error = (ExecutionCode.EMERGENCY_STOP, "emergency stop; reset it before the arm moves again")
        self.state = ExecutorState.STOPPED
        if not self._braking:
            self._stop_at_once()

    def clear_emergency_stop(self) -> None:
        """Lets chunks in again; the arm rests where it stopped."""
        if self.state is ExecutorState.STOPPED:
            self.state = ExecutorState.HOLDING
            self.error = (ExecutionCode.NONE, "")

    def measured(self, joint_positions: np.ndarray, gripper: float, now: float, gives_way: bool = True) -> None:
        """Takes joint states (n,) rad and the gripper's opening, for the watchdogs; unusable ones count as silence.

        An arm that something holds off its path gives way to where it is measured, and rests until the next chunk:
        motors that give all they have push no more for being asked to go farther, but the arm would spring farther when
        it comes free. Again and again, or beyond ``watchdogs.tracking_error``, it counts as not following. The gripper
        is not watched: a grasped object keeps it from its target.

        Args:
            joint_positions: (n,) rad.
            gripper: opening.
            now: seconds, when they were measured.
            gives_way: False where the arm follows the commands by other ways and later, as through MoveIt Servo.
        """
        position = np.asarray(joint_positions, dtype=float)
        try:
            safety.check_positions(position, self.contract)
        except MotionRefused:
            return
        self._contact.measure(position, now)
        if gives_way and self.state is not ExecutorState.FOLLOWING:
            self._path = self._contact.brakes(self._path, self._committed) or self._path
        if self._braking:
            return
        limit, held = self.contract.watchdogs.tracking_error, self.error[0] in HELD
        yields = held or self.state is ExecutorState.STOPPED or self._yielding(now)
        if self.tracking_error > limit and not yields:
            joint = self.contract.joints[int(np.abs(position - self._contact.commanded_for(now)).argmax())]
            message = (
                f"{joint} is {self.tracking_error:.2f} rad from its command; watchdogs.tracking_error is {limit} rad"
            )
            self.error = (ExecutionCode.TRACKING_ERROR, message)
            self.state = ExecutorState.HOLDING
            self._stop_at_once()
        elif not gives_way:
            return
        elif self.state is not ExecutorState.FOLLOWING:
            self._path = self._contact.rests(self._path, self._committed, at_once=held) or self._path
        elif obstruction := self._contact.obstruction(now):
            self._leave()
            self.error = (ExecutionCode.OBSTRUCTED, f"{obstruction}. It gives way")
            if self._contact.gives_way(now, self._path.end):
                self.error = (ExecutionCode.TRACKING_ERROR, f"{obstruction}. It gave way again and again")

    def step(self, now: float) -> JointCommand:
        """The next command, to be reached at ``now + period``. Call it once per period.

        After a pause, or when the clock is set, the arm goes on from where it was.
        """
        self._watch(now)
        self._follow_clock(now)
        self._committed = now + self.settings.period
        motion = self._path.at(self._committed)
        self._command, self._gripper = motion[:, :-1], self._towards(motion[0, -1], self._gripper)
        self._contact.command(self._committed, self._command[0])
        if self._braking and self._committed >= self._path.end:
            self._braking = False
            self._settle()
        return self.present

    def preview(self, now: float, count: int) -> list[JointCommand]:
        """What the next ``count`` calls of :meth:`step` would return, from ``now`` on, if nothing new came."""
        gripper, commands = self._gripper, []
        motions = self._path.sample(now + self.settings.period * np.arange(1, count + 1)).swapaxes(0, 1)
        for motion in motions:
            gripper = self._towards(motion[0, -1], gripper)
            commands.append(_joint_command(motion[:, :-1], gripper))
        return commands

    def braking(self, start: JointCommand, spacing: float) -> list[JointCommand]:
        """How the arm is brought to rest from ``start`` at the limits of its joints, straight on in joint space.

        Args:
            start: a command with its accelerations.
            spacing: seconds between two of the returned commands.

        Returns:
            One command per ``spacing`` after ``start``; the last one is at rest. Empty when ``start`` is.
        """
        way = self._brake.way(np.array([start.positions, start.velocities, start.accelerations]), spacing)
        return [_joint_command(motion, start.gripper) for motion in way.swapaxes(0, 1)]

    def resume(self, way: Sequence[tuple[float, JointCommand]]) -> None:
        """Goes on from the state that the arm was brought into meanwhile.

        What it has missed of its path it follows later, where a way back to it keeps all limits; else it rests.

        Args:
            way: seconds, and where the arm was meant to be then; it goes on from the last one.
        """
        self._contact.replace_commands((time, command.positions) for time, command in way)
        now, command = way[-1]
        self._command = np.array([command.positions, command.velocities, command.accelerations])
        self._committed, self._gripper = now, command.gripper
        if np.abs(self._path.at(now)[:, :-1] - self._command).max() < 1e-6:
            return
        following = self.state is ExecutorState.FOLLOWING and not self._braking  # else it was to come to rest
        if following and (path := self._way_back(now)) is not None:
            self._path = path
            return
        self._stop_at_once()
        if self.state is ExecutorState.FOLLOWING:
            self.state = ExecutorState.HOLDING
            self.error = (ExecutionCode.PREEMPTED, "commands were not given in time, and the arm was brought to rest")

    def _way_back(self, now: float) -> JointPath | None:
        """From the present state to where the path was last near it; None when that is nowhere, or breaks a limit."""
        delays = np.linspace(0.0, LONGEST_DELAY, 501)  # a millisecond apart: catching up would be a step in speed
        away = np.abs(self._path.sample(now - delays)[0][:, :-1] - self._command[0]).max(axis=1)
        if away.min() > ON_PATH:
            return None
        later = self._path.delayed(float(delays[away.argmin()]))
        state = np.append(self._command, [[self._gripper], [0.0], [0.0]], axis=1)
        seconds = self.settings.blend
        for _ in range(ATTEMPTS):
            path = later.joined(state, now, seconds)
            try:
                self._check.clearance(self._check.limits(*path.ahead(now)))
            except MotionRefused:
                seconds *= LONGER
            else:
                return path
        return None

    def _follow_clock(self, now: float) -> None:
        """After missed periods the path goes on from the last command, instead of jumping to where it would be.

        Where it would be there, as before it begins, it stays on time.
        """
        missed, slip = now - self._committed, CLOCK_SLIP * self.settings.period
        jumps = np.abs(self._path.at(now)[:, :-1] - self._command).max() > 1e-9
        if missed < -slip or (missed > slip and jumps):
            self._path = self._path.delayed(missed)
        if missed < -2 * self.settings.period:  # the clock was set back: no stamp from before can be told from new ones
            self._newest_stamp = -np.inf
            self._contact.clock_set_back(now)
        self._committed = now

    def _towards(self, opening: float, gripper: float) -> float:
        """The gripper's opening a period later, on its way to another one."""
        opening = min(max(float(opening), 0.0), 1.0)
        return gripper + min(max(opening - gripper, -self._gripper_step), self._gripper_step)

    @property
    def present(self) -> JointCommand:
        """The last command, or where the arm was placed."""
        return _joint_command(self._command, self._gripper)

    def deviation(self, joint_positions: np.ndarray, time: float) -> float:
        """Radians by which the farthest joint of (n,) positions is away from what was commanded for a time."""
        return self._contact.deviation(np.asarray(joint_positions, dtype=float), time)

    def _leave(self) -> None:
        """Leaves the path at a falling speed, rests where the arm is, and forgets the chunk."""
        rates = np.abs(self._command[1])
        # Speed falls as a smoothstep, at most by 1.5 times its mean.
        seconds = max(SHORTEST_HOLD, float((1.5 * rates / np.array(self.contract.limits.acceleration)).max()))
        while seconds <= LONGEST_HOLD:
            path = self._path.stopped(self._committed, seconds)
            if self._keeps_limits(path):
                self._path = self._relieved(path)
                break
            seconds *= LONGER
        else:
            self._stop_at_once()
        self._chunk, self._newest_stamp = None, -np.inf
        self.state = ExecutorState.HOLDING

    def _stop_at_once(self) -> None:
        """Replaces the path by the brake from the last command on."""
        self._braking = True
        way = np.concatenate([self._command[:, None], self._brake.way(self._command, self.settings.period)], axis=1)
        knots = np.zeros((3, max(way.shape[1], 2), way.shape[2] + 1))
        knots[:, :, :-1], knots[0, :, -1] = way, self._gripper
        times = self._committed + self.settings.period * np.arange(knots.shape[1])
        self._path = self._relieved(JointPath.through(times, knots))

    def _relieved(self, path: JointPath) -> JointPath:
        return self._contact.stops(path, self._committed - self.settings.lead)

    def _keeps_limits(self, path: JointPath) -> bool:
        return bool(safety.needed_slowdown(path.times, path.knots, self.contract, HOLD_SHARE).max() <= 1.0)

    def _check_ready(self, now: float) -> None:
        """Whether any motion may be planned."""
        if self.state is ExecutorState.STOPPED:
            raise MotionRefused(ExecutionCode.EMERGENCY_STOP, self.error[1])
        safety.check_joint_states(self._contact.measured_at, now, self.contract)
        limit = self.contract.watchdogs.tracking_error
        if self.tracking_error > limit:
            raise MotionRefused(
                ExecutionCode.TRACKING_ERROR,
                f"the arm is {self.tracking_error:.3f} rad from its command; watchdogs.tracking_error is {limit} rad",
            )
        if self._braking:
            raise MotionRefused(ExecutionCode.PREEMPTED, "the arm brakes; ask again when it rests")

    def _watch(self, now: float) -> None:
        if self.state is not ExecutorState.FOLLOWING:
            return
        try:
            safety.check_joint_states(self._contact.measured_at, now - self.settings.lead, self.contract)
        except MotionRefused as refusal:
            self.hold(now)
            self.error = (refusal.code, str(refusal))
            return
        if now > self._path.end + self.contract.watchdogs.silence and self.at_rest:
            self.state = ExecutorState.HOLDING
            self._chunk = None

    def _yielding(self, now: float) -> bool:
        return self.state is ExecutorState.HOLDING and self._chunk is None and now < self._path.end

    def _settle(self) -> None:
        """Rests on the last command."""
        self._chunk = None
        self._newest_stamp = -np.inf
        self._path = JointPath.rest(np.append(self._command[0], self._gripper), self._committed)


def _joint_command(motion: np.ndarray, gripper: float) -> JointCommand:
    """Of the joints' motion (3, n)."""
    positions, velocities, accelerations = motion.copy()
    return JointCommand(positions, velocities, gripper, accelerations)
