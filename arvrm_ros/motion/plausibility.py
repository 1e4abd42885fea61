# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What of its inputs a motion can believe: joint states that can be true of this arm, and a clock that goes on evenly.

What cannot be believed is left out, as if it had not come.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from arvrm_ros.contract import RobotContract
from arvrm_ros.data.messages import MessageError
from arvrm_ros.motion.safety import CLOCK_TOLERANCE

JUMP = 0.1  # rad between two joint states beyond what the velocity limits allow: not a measurement of this arm
LONGEST_GAP = 0.03  # s between two joint states, at most, for which the arm is granted a motion
OUT_OF_RANGE = 0.1  # rad beyond the position limits
STARTS_OVER = 5  # joint states in a row whose clock was set back

UNUSUAL = 3  # times the usual time from one tick to the next after which the process was stopped: time may go slowly
CATCHES_UP = (
    0.1  # s after that in which what came meanwhile, the time of a simulator as well, is taken out of its queues
)


class JointStateCheck:
    """Compares joint states with the ones before.

    Args:
        contract: whose limits hold.

    Attributes:
        last: (n,) rad that were believed last, and their stamp; None before the first, and when the clock was set back.
    """

    def __init__(self, contract: RobotContract) -> None:
        self._contract = contract
        self._set_back = 0
        self.last: tuple[np.ndarray, float] | None = None

    def is_newer(self, stamp: float, now: float) -> bool:
        """Whether joint states are the newest so far; those that come out of order or again are left out.

        Raises:
            MessageError: they come from the future.
        """
        if stamp > now + max(CLOCK_TOLERANCE, self._contract.observation.joint_states.max_age):
            raise MessageError(f"stamped {stamp - now:.2f} s in the future; do the robot and this node share a clock?")
        if self.last is None or stamp > self.last[1]:
            self._set_back = 0
            return True
        # A simulator that was started anew counts from zero again.
        starts_over = self.last[1] > now + CLOCK_TOLERANCE and abs(now - stamp) < CLOCK_TOLERANCE
        self._set_back = self._set_back + 1 if starts_over else 0
        if self._set_back < STARTS_OVER:
            return False
        self.last, self._set_back = None, 0
        return True

    def believe(self, positions: np.ndarray, stamp: float, deviation: float = np.inf) -> None:
        """Takes joint states that are newer than the last ones.

        Args:
            positions: (n,) rad.
            stamp: seconds.
            deviation: rad from what was commanded; an arm that is where it was sent is there after any gap.

        Raises:
            MessageError: this arm cannot be there: a wrong order of the joints, degrees, noise.
        """
        limits, joints = self._contract.limits, self._contract.joints
        beyond = np.maximum(np.array(limits.position_min) - positions, positions - np.array(limits.position_max))
        joint = int(beyond.argmax())
        if beyond[joint] > OUT_OF_RANGE:
            raise MessageError(
                f"{joints[joint]} at {positions[joint]:.2f} rad is {beyond[joint]:.2f} rad out of its range; are the "
                "joints in the order of their names, in radians?"
            )
        if self.last is not None and deviation > JUMP:
            before, then = self.last
            jumped = np.abs(positions - before) - 2 * np.array(limits.velocity) * min(stamp - then, LONGEST_GAP)
            joint = int(jumped.argmax())
            if jumped[joint] > JUMP:
                raise MessageError(
                    f"{joints[joint]} jumped by {abs(positions[joint] - before[joint]):.2f} rad; deactivate and "
                    "activate the execution node if the arm was moved"
                )
        self.last = positions, stamp


class ClockCheck:
    """Whether the clock that commands are stamped with can be believed, judged once per control period (tick).

    A process that was stopped and goes on finds a simulator's time in its queue, which is past: commands stamped with
    it would reach a controller that is elsewhere by then.

    Args:
        longest: seconds, of either clock, from one tick to the next that commands sent in advance cover.
        max_age: seconds of joint states.
        now: seconds, of the clock that is judged.
    """

    def __init__(self, longest: float, max_age: float, now: float) -> None:
        self._longest, self._max_age, self._even = longest, max_age, now
        self._wall: float | None = None
        self._usual: deque[float] = deque(maxlen=5)
        self._caught_up = -np.inf
        self._stopped = 0.0

    def tick(self, wall: float) -> float:
        """Call it at the beginning of each tick, with the monotonic time.

        Returns:
            Seconds since the last one.
        """
        since = 0.0 if self._wall is None else wall - self._wall
        if self._is_stop(since):
            self._caught_up, self._stopped = wall + CATCHES_UP, since
        self._wall = wall
        self._usual.append(since)
        return since

    def goes_on(self, now: float) -> None:
        """The clock is believed, and what is asked for now is measured from here."""
        self._even = now

    def problem(self, now: float, wall: float, measured: float | None) -> str | None:
        """Why the clock cannot be believed; None when it can.

        Args:
            now: seconds.
            wall: monotonic time, seconds; later than the tick if something else is to be done.
            measured: stamp of the newest joint states, if there are any.
        """
        if wall < self._caught_up or (self._wall is not None and self._is_stop(wall - self._wall)):
            return "may be past, as this process was stopped; nothing is sent until it has caught up"
        even = 0 <= now - self._even <= self._longest
        if even or (measured is not None and abs(now - measured) <= self._max_age):
            return None
        return "jumped; nothing is sent until the joint states have the same time"

    def stopped_for(self, now: float) -> float:
        """Seconds that this process was stopped, told once, when its clock is believed again.

        0 where time stood still as well, as in a simulator's reset: no command was missing then.
        """
        stopped, self._stopped = self._stopped, 0.0
        return stopped if now - self._even > self._longest + CATCHES_UP else 0.0

    def _is_stop(self, since: float) -> bool:
        return since > max(self._longest, UNUSUAL * float(np.median(self._usual or [0.0])))
