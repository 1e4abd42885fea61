# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Whether something holds the arm off its commands, and how it gives way.

Motors that give all they have push no more for being asked to go farther, but the arm springs the farther when it comes
free. An arm that rests off its command goes on pressing, and springs later.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable

import numpy as np

from arvrm_ros.contract import RobotContract
from arvrm_ros.motion import chunks, safety
from arvrm_ros.motion.braking import Brake
from arvrm_ros.motion.chunks import JointPath

PRESSES = 0.008  # rad off its command from which an arm that is to rest gives way to what holds it; a free one is 0.003
SETTLES = 0.05  # s after its commands rest in which a free arm does
AGE = 2.0  # times the age that joint states may have, to give way by them: an arm also stops because they are missing
LONGEST_RELIEF = 0.3  # s in which an arm that stops gives way; else it rests as it is
LONGER = 1.25  # times that this takes longer from one attempt to the next
REST = 0.22  # s after a stop in which commands may move; with the way to the arm and its lag it rests within 0.3 s
SHARES = (1.0, 0.75, 0.5, 0.25)  # of the way to the arm that is tried while it still has to come to rest
RELIEFS = 3  # times that an arm at rest gives way: one that sags under its own weight does not sink for ever
CREEP = 0.015  # rad/s, at most, with which it does once it has to rest
SLOWER = 4.0  # times slower than it could an arm does that has to rest nowhere
SLOWEST = 0.5  # s that this takes at least
OBSTRUCTIONS = 5  # in a row after which an arm counts as not following, instead of giving way to something
IN_A_ROW = 3.0  # s in which they come then
REMEMBERED = 64  # commands, to compare a measurement with what was commanded for its time
FREE = 0.003  # rad off its way within which an arm counts as free
MOVES = 0.02  # rad that a joint is commanded to go within LOOKED_BACK, at least, to tell by how much the arm is late
LOOKED_BACK = 0.3  # s
LAGS = 500  # measurements of a moving arm by which that is told


class Contact:
    """Compares where the arm is with what it was commanded, and leads it to where it is held.

    Attributes:
        positions: (n,) rad, measured last.
        measured_at: seconds, their stamp; None before the first.
        tracking_error: rad, largest difference between command and measurement.

    Args:
        contract: of the robot.
        brake: of the robot.
        period: seconds between two commands.
        lag: seconds by which a free arm is behind its commands, at most.
    """

    def __init__(self, contract: RobotContract, brake: Brake, period: float, lag: float) -> None:
        self._contract, self._brake, self._period, self._lag = contract, brake, period, lag
        self._commands: deque[tuple[float, np.ndarray]] = deque(maxlen=REMEMBERED)
        self._obstructions: deque[float] = deque(maxlen=OBSTRUCTIONS)
        self._lags: deque[float] = deque(maxlen=LAGS)
        self.measured_at: float | None
        self.begin(np.array(contract.home), 0.0)
        self.measured_at = None

    def begin(self, positions: np.ndarray, now: float) -> None:
        """The arm rests, and is commanded to, at (n,) rad."""
        self.positions, self.measured_at, self.tracking_error = positions.copy(), now, 0.0
        self._commands.clear()
        self._obstructions.clear()
        self._last = now, positions.copy()
        self._gives_way_until = self._rests_by = -np.inf
        self._reliefs = 0

    # What was commanded and measured.

    def command(self, time: float, positions: np.ndarray) -> None:
        """Notes (n,) rad commanded for a time."""
        self._last = time, positions
        self._commands.append(self._last)

    def replace_commands(self, commands: Iterable[tuple[float, np.ndarray]]) -> None:
        """The controller went on by these meanwhile, times and (n,) rad."""
        self._commands.clear()
        for time, positions in commands:
            self.command(time, positions)

    def clock_set_back(self, now: float) -> None:
        """No time from before can be compared with one from now on."""
        self._commands.clear()
        self._last = now, self._last[1]
        self._gives_way_until = self._rests_by = -np.inf
        self.measured_at = None if self.measured_at is None else min(self.measured_at, now)

    def measure(self, positions: np.ndarray, now: float) -> None:
        """Takes (n,) rad measured at a time."""
        self.positions, self.measured_at = positions, now
        self.tracking_error = self.deviation(positions, now)
        recent = [(time, there) for time, there in self._commands if -LOOKED_BACK <= time - now <= self._period]
        if not recent or np.abs(recent[-1][1] - recent[0][1]).max() < MOVES:
            return
        off = np.abs(np.array([there for _, there in recent]) - positions).max(axis=1)
        nearest = len(off) - 1 - int(off[::-1].argmin())
        if off[nearest] < FREE:
            self._lags.append(max(now - recent[nearest][0], 0.0))

    @property
    def measured_lag(self) -> float:
        """Seconds by which the moving arm was behind its commands, nearly at most (95 %); 0 before it has moved."""
        return float(np.percentile(self._lags, 95)) if self._lags else 0.0

    def commanded_for(self, time: float) -> np.ndarray:
        """(n,) rad commanded for a time: commands may be given ahead of it."""
        if not self._commands:
            return self._last[1]
        times, positions = zip(*self._commands, strict=True)
        i = min(max(bisect_right(times, time), 1), len(times) - 1)
        if len(times) == 1 or time <= times[0]:
            return positions[0]
        share = min((time - times[i - 1]) / (times[i] - times[i - 1]), 1.0)
        return np.asarray(positions[i - 1] + share * (positions[i] - positions[i - 1]))

    def deviation(self, positions: np.ndarray, time: float) -> float:
        """Radians by which the farthest joint of (n,) positions is away from what was commanded for a time."""
        return float(np.abs(positions - self.commanded_for(time)).max())

    def off(self) -> np.ndarray:
        """(n,) rad by which the joints are measured outside of where a free arm, which lags, would be.

        0 where that is not known, as after a pause: the arm went on by what it had been sent.
        """
        at, nowhere = self.measured_at, np.zeros_like(self.positions)
        if at is None or self._last[0] < at - self._period:
            return nowhere
        recent = [positions for time, positions in self._commands if -self._lag <= time - at <= self._period]
        if not recent:
            return nowhere
        low, high = np.min(recent, axis=0), np.max(recent, axis=0)
        return np.asarray(np.minimum(self.positions - low, 0.0) + np.maximum(self.positions - high, 0.0))

    # While it follows a path.

    def obstruction(self, now: float) -> str:
        """What holds an arm that follows a path off it, "" for nothing; not asked again while it gives way."""
        limit = self._contract.watchdogs.obstruction
        if self.tracking_error <= limit or now <= self._gives_way_until:
            return ""
        off = np.abs(self.off())
        if off.max() <= limit:
            return ""
        joint = self._contract.joints[int(off.argmax())]
        return f"{joint} is held {off.max():.3f} rad off its path; watchdogs.obstruction is {limit} rad"

    def gives_way(self, now: float, until: float) -> bool:
        """Notes that the arm gives way to an obstruction; whether it has done so too often to be following."""
        self._gives_way_until = until
        self._obstructions.append(now)
        again = len(self._obstructions) == OBSTRUCTIONS and now - self._obstructions[0] < IN_A_ROW
        if again:
            self._obstructions.clear()
        return again

    # When it is to rest.

    def follows(self) -> None:
        """The arm moves again: what holds it is :meth:`obstruction`'s business."""
        self._reliefs = 0

    def stops(self, path: JointPath, now: float) -> JointPath:
        """A way to rest that gives way to what holds the arm off its command.

        As it is where it goes to, or was a moment ago, nothing is nearer. Joint states that are missing for longer, or
        a way that would take too long or break a limit, leave it as it is.

        Args:
            path: to rest.
            now: seconds, of the arm; the path begins a little later where commands are given ahead.
        """
        self._reliefs, self._rests_by = RELIEFS, path.times[0] + REST
        max_age = AGE * self._contract.observation.joint_states.max_age
        off = self.off()
        if self.measured_at is None or now - self.measured_at > max_age or np.abs(off).max() < PRESSES:
            return path
        end = path.at(path.end)[0][:-1]
        off = self._within_limits(end + off) - end
        seconds = chunks.seconds_between(np.abs(off), self._contract)
        while seconds <= LONGEST_RELIEF:
            relieved = path.shifted(np.append(off, 0.0), seconds)
            if safety.needed_slowdown(relieved.times, relieved.knots, self._contract).max() <= 1.0:
                return relieved
            seconds *= LONGER
        return path

    def brakes(self, path: JointPath, start: float) -> JointPath | None:
        """Another way to rest, where the arm was caught since it was stopped; None when it was not, or it is too late.

        As much of the way to the arm as there is time for: the less it is pressed, the less it slips.

        Args:
            path: to rest, as :meth:`stops` or this gave it.
            start: seconds, when that is left.
        """
        if start >= self._rests_by or np.abs(self.off()).max() < PRESSES:
            return None
        here, end, there = path.at(start), path.at(path.end)[0], self._within_limits(self.positions)
        pressed = float(np.abs(there - end[:-1]).max())
        for share in SHARES:
            target = end[:-1] + share * (there - end[:-1])
            if share * pressed < PRESSES:
                return None
            way = self._brake.way_to(here[:, :-1], target, self._period)
            if way is None or not 0 < way.shape[1] * self._period <= self._rests_by - start:
                continue
            knots = np.zeros((3, way.shape[1] + 1, len(end)))
            knots[:, 0, :-1], knots[:, 1:, :-1], knots[0, :, -1] = here[:, :-1], way, end[-1]
            relieved = JointPath.through(start + self._period * np.arange(knots.shape[1]), knots)
            if safety.needed_slowdown(relieved.times, relieved.knots, self._contract).max() <= 1.0:
                return relieved
        return None

    def rests(self, path: JointPath, start: float, at_once: bool) -> JointPath | None:
        """The way to where the arm is held, once it was stopped; None when it does not press, or gave way often enough.

        Args:
            path: at whose end it rests.
            start: seconds, when that is left.
            at_once: whether it may be fast after the time in which a stop has to be over.
        """
        assert self.measured_at is not None
        if not self._reliefs or self.tracking_error < PRESSES or self.measured_at < path.end + SETTLES:
            return None
        self._reliefs -= 1
        here = path.at(path.end)[0]
        there = np.append(self._within_limits(self.positions), here[-1])
        off = np.abs(there - here)[:-1]
        seconds = 1.1 * chunks.seconds_between(off, self._contract)
        if start + seconds > self._rests_by:
            seconds = max(SLOWER * seconds, SLOWEST)
            if not at_once:
                seconds = max(seconds, 1.875 * float(off.max()) / CREEP)
        return JointPath.between(here, there, start, seconds)

    def _within_limits(self, positions: np.ndarray) -> np.ndarray:
        limits = self._contract.limits
        return np.clip(positions, limits.position_min, limits.position_max)
