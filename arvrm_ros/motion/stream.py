# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From the executor's commands, one per control period, to the overlapping trajectories that a controller is sent.

Each trajectory is stamped and holds three parts: commands that do not change any more, so that one that arrives late
finds the controller on the same motion; what follows if nothing new comes, so that a late or lost one is not felt; and
the way to rest. A controller that hears nothing more, because the sender was killed or the network is gone, therefore
brakes within the limits by itself.

In motion one is sent in every control period: several may be lost in a row, and a controller that has begun to brake
would take up the next one in one step. Once the controller has the motion up to its end, every second period does.

A controller takes up a trajectory wherever it is, within a period. A stream therefore begins with slow trajectories to
where it starts from, and ends for good once the controller is found elsewhere than where it was sent.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from arvrm_ros.motion.executor import ChunkExecutor, JointCommand

COMMITTED = 3
"""Control periods ahead that are decided: the time that a trajectory may take to the controller."""

CHANGE_AHEAD = 3
"""Control periods after those decided in which the motion into a new chunk is sent before it begins: were the first
trajectories that hold it all lost, the controller would take up a later one in one step. Stops do not wait for that."""

SEND_REST_EVERY = 2
"""Control periods from one trajectory to the next while all that is foreseen ends at rest, and nothing changes."""

SEND_JOIN_EVERY = 10
"""As that, while a stream begins."""

FORESEEN = 0.09
"""Seconds, at most, after those decided for which the motion is foreseen. Less a period, that is how late a trajectory
may be without being felt; an arm that is fast foresees less, to be at rest in time."""

LEAST_FORESEEN = 4
"""Control periods that are foreseen however fast the arm is."""

REST = 0.22
"""Seconds from a trajectory's start to the rest at its end, where what is foreseen may be cut down to that: a sending
period and the joints' lag behind their command later, an arm whose sender died rests within 0.3 s."""

JOIN = 1.0
"""Seconds for which a new stream brings the controller to its start. Half of it, left over for the last of the
trajectories that do, is enough for as much as the tracking error may be (0.3 rad: at most 7 rad/s^2)."""

OFF = 2e-3
"""Radians between a controller's reference and what it was sent from which it counts as elsewhere."""

OFF_TIMES = 3
"""References in a row that are off until the stream counts as lost; one late trajectory is caught up with before."""

SOONEST = 1e-4
"""Seconds after its start for which a trajectory has its first point."""

SAME_SLOPE = 1e-6
"""Of the gripper's opening, per second."""


_Timed = tuple[float, JointCommand]  # seconds, ROS time


@dataclass(frozen=True)
class StreamedTrajectory:
    """A trajectory that replaces the one before.

    Attributes:
        start: seconds, ROS time.
        points: seconds after ``start``, increasing, and the command for then; the last one is at rest.
    """

    start: float
    points: tuple[tuple[float, JointCommand], ...]

    @property
    def gripper(self) -> list[tuple[float, float]]:
        """Seconds after ``start`` and openings in [0, 1]: those between which it moves evenly."""
        openings = [(after, command.gripper) for after, command in self.points]
        inner = zip(openings, openings[1:], openings[2:], strict=False)
        kept = [here for before, here, after in inner if abs(_slope(before, here) - _slope(here, after)) > SAME_SLOPE]
        return [openings[0], *kept, *openings[1:][-1:]]


class CommandStream:
    """Runs an executor ahead of time and says what to send, and when.

    Args:
        executor: with its ``lead`` set to :data:`COMMITTED` periods.
        now: ROS time, seconds.
        foreseen: seconds of motion, at most, that are sent beyond what is decided.
        rest: seconds from a trajectory's start to rest, see :data:`REST`.
        join: seconds, see :data:`JOIN`.

    Attributes:
        until: seconds up to which commands are decided. What is asked of the executor takes effect from here on, so
            call :meth:`advance` before.
        begins: seconds from which on the motion is sent; before, the controller is brought to its start.
    """

    def __init__(
        self, executor: ChunkExecutor, now: float, foreseen: float = FORESEEN, rest: float = REST, join: float = JOIN
    ) -> None:
        self._executor = executor
        self._period = executor.settings.period
        self._foreseen = max(LEAST_FORESEEN, round(foreseen / self._period))
        self._most = round(rest / self._period)
        self._decided: deque[_Timed] = deque()
        self._sent: list[_Timed] = []
        self._foreseen_until = now
        self._motion: object = None
        self._changed_until = self._send_at = now
        self.begins, self._joined_by = now + join, now + join / 2
        self._start = executor.present
        self._off = 0
        self.until = self.begins + (COMMITTED - 1) * self._period

    @property
    def changes_at(self) -> float:
        """Seconds from which on to follow another path, see :data:`CHANGE_AHEAD`."""
        return self.until + CHANGE_AHEAD * self._period

    def advance(self, now: float) -> None:
        """Decides the commands that have come due.

        A caller that was away for longer than what it sent in advance finds the arm braking: the executor then goes on
        from there.
        """
        ahead = now + COMMITTED * self._period
        if not self._sent:
            self.until = max(self.until, ahead - self._period)
        elif ahead > self._foreseen_until + self._period / 2:
            self._decided = self._sent_until(ahead)
            self.until = self._decided[-1][0]
            self._executor.resume(self._decided)
        for _ in range(round((ahead - self.until) / self._period)):
            command = self._executor.step(self.until)
            self.until += self._period
            self._decided.append((self.until, command))

    def due(self, now: float) -> bool:
        """Whether to send: the motion is another one than what was sent, or that would run out."""
        if now < self.begins:
            return self._send_at - self._period / 2 < now < self._joined_by
        return self._changed or now > self._send_at - self._period / 2

    def is_lost(self, reference: np.ndarray, stamp: float) -> bool:
        """Whether the controller does not hear, or refuses, what it is sent; the stream must not go on then.

        Args:
            reference: (n,) rad that the controller asks of the joints.
            stamp: seconds, when it did.
        """
        off = stamp > self.begins and self._executor.deviation(reference, stamp) > OFF
        self._off = self._off + 1 if off else 0
        return self._off >= OFF_TIMES

    @property
    def _changed(self) -> bool:
        return self._executor.motion != self._motion

    def trajectory(self, now: float, foreseen: int | None = None) -> StreamedTrajectory:
        """What to send now.

        Args:
            now: ROS time, seconds.
            foreseen: control periods, if not those of the stream; after them the arm brakes straight on.
        """
        if now < self.begins:
            self._send_at = now + SEND_JOIN_EVERY * self._period
            return StreamedTrajectory(now, ((self.begins - now, self._start),))
        while self._decided and self._decided[0][0] < now + SOONEST:
            self._decided.popleft()
        preview = self._executor.preview(self.until, foreseen or self._foreseen)
        brake = self._executor.braking(preview[-1], self._period)
        while foreseen is None and LEAST_FORESEEN < len(preview) > self._most - COMMITTED - len(brake):
            preview.pop()
            brake = self._executor.braking(preview[-1], self._period)
        if self._changed:
            self._motion = self._executor.motion
            self._changed_until = now + COMMITTED * self._period
        # One of them has to arrive before a change takes effect, or before the controller brakes.
        often = brake or now < self._changed_until - self._period / 2
        self._send_at = now + (1 if often else SEND_REST_EVERY) * self._period
        self._foreseen_until = self.until + len(preview) * self._period
        before = [*self._decided, *self._after(self.until, preview)]
        after = self._after(self._foreseen_until, brake)
        self._sent = before + after
        needed = before + _needed([before[-1], *after])[1:]
        return StreamedTrajectory(now, tuple((time - now, command) for time, command in needed))

    def _after(self, time: float, commands: list[JointCommand]) -> list[_Timed]:
        return [(time + (i + 1) * self._period, command) for i, command in enumerate(commands)]

    def _sent_until(self, time: float) -> deque[_Timed]:
        """What the controller was sent up to a time, and the times for which it was meant; rest lasts for ever."""
        sent = deque(self._sent)
        while len(sent) > 1 and sent[-2][0] > time - self._period / 2:
            sent.pop()
        if sent[-1][0] < time - self._period / 2:
            sent.append((time, sent[-1][1]))
        return sent


def _needed(brake: list[_Timed]) -> list[_Timed]:
    """Without the commands amid an even acceleration, which a controller's quintic from one side to the other repeats.

    Exact for a brake, in which each joint's acceleration rises once, stays, and falls once: three equal samples are
    even in between, too.
    """
    inner = zip(brake, brake[1:], brake[2:], strict=False)
    kept = [here for before, here, after in inner if not (_same(before, here) and _same(here, after))]
    return [brake[0], *kept, brake[-1]] if len(brake) > 1 else brake


def _same(one: _Timed, other: _Timed) -> bool:
    return bool(np.abs(one[1].accelerations - other[1].accelerations).max() < 1e-9)


def _slope(one: tuple[float, float], other: tuple[float, float]) -> float:
    return (other[1] - one[1]) / (other[0] - one[0])
