# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Has the newest chunk planned, in a thread that waits for it while the commands go on."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from arvrm_ros.errors import MotionRefused
from arvrm_ros.motion.executor import Plan

RECENT = 10
"""Plans by which the time of the next one is foreseen: the second longest of theirs. A single long one, because the
planning process was frozen or begun anew, would else have chunks begin when they are past."""

FIRST = 0.02  # s foreseen for the first plans

T = TypeVar("T")


class Planner(Generic[T]):
    """Plans the newest request; one that still waits when a newer one comes is out of date.

    Args:
        solve: plans a request that it is expected to take this many seconds for; may raise MotionRefused.
        done: called, in the thread, with the seconds that a plan took.
    """

    def __init__(self, solve: Callable[[T, float], Plan], done: Callable[[float], None]) -> None:
        self._solve, self._done = solve, done
        self._took = deque([FIRST, FIRST], RECENT)
        self._changed = threading.Condition()  # guards the four below
        self._waiting: T | None = None
        self._solved: T | None = None  # the one that is being solved
        self._planned: tuple[T, Plan | MotionRefused] | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="planning", daemon=True)
        self._thread.start()

    def submit(self, request: T) -> T | None:
        """Takes a request, and returns the one that is out of date by it."""
        with self._changed:
            outdated, self._waiting = self._waiting, request
            self._changed.notify_all()
        return outdated

    def submit_again(self, request: T) -> bool:
        """Takes a request whose plan came too late; False, and nothing done, when it is out of date meanwhile."""
        with self._changed:
            if self._waiting is not None or self._solved is not None or self._planned is not None:
                return False
            self._waiting = request
            self._changed.notify_all()
        return True

    def take(self) -> tuple[T, Plan | MotionRefused] | None:
        """The request that was planned; each one is given once."""
        with self._changed:
            planned = self._planned
            if planned is None:
                return None
            self._planned = None
            self._changed.notify_all()
        return planned

    def drop(self) -> list[T]:
        """Forgets what is not taken yet, and returns it."""
        with self._changed:
            planned = self._planned and self._planned[0]
            dropped = [request for request in (self._waiting, self._solved, planned) if request is not None]
            self._waiting = self._solved = self._planned = None
            self._changed.notify_all()
        return dropped

    def close(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or (self._waiting is not None and self._planned is None))
                request, self._waiting = self._waiting, None
                self._solved = request
            if self._closed or request is None:
                return
            began = time.perf_counter()
            plan: Plan | MotionRefused
            try:
                plan = self._solve(request, sorted(self._took)[-2])
            except MotionRefused as refusal:
                plan = refusal
            seconds = time.perf_counter() - began
            self._took.append(seconds)
            self._done(seconds)
            with self._changed:
                if self._solved is request:  # else it was dropped meanwhile
                    self._planned = request, plan
                self._solved = None
