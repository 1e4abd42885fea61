# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Plans in a process of its own: libraries that hold Python's lock for milliseconds, or seconds, delay no command, and
one that crashes does not reach the arm.

:class:`PlanningProcess` is the caller's side. Run as a program this module is the other one. They speak over a pipe,
and a thread waits for each answer: a pool's threads would hold Python's lock at no priority, or at too high a one.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import psutil

from arvrm_ros import real_time
from arvrm_ros.errors import ExecutionCode, MotionRefused

STARTS_WITHIN = 60.0
"""Seconds, more than a planner takes to be made on the busiest of machines."""

ENDS_WITHIN = 2.0
"""Seconds that a process gets to end by itself."""

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")


@dataclass
class _Running:
    """A process and the pipe to it."""

    process: subprocess.Popen[bytes]
    connection: Connection
    ready: bool = False
    problem: MotionRefused | None = None  # for which there is no planner
    sending: threading.Lock = field(default_factory=threading.Lock)

    def send(self, *request: object) -> None:
        with self.sending:
            self.connection.send(request)

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self.send("end")
        try:
            self.process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class PlanningProcess(Generic[T]):
    """A planner in a process of its own; one that dies, or hangs, is replaced.

    It starts at once, and whoever calls first waits for it. The planner's ``stop()``, if it has one, is called when the
    process ends in good order, also because its parent is gone.

    Args:
        name: of what it does, for messages and for :func:`planning_process`.
        make: makes the planner, there. It is pickled, as all arguments and results are.
        patience: seconds after which a call counts as lost.
        priority: of SCHED_FIFO where the caller has one; 0 for none.
        starts_within: seconds in which the planner has to be made.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], T],
        patience: float,
        priority: int = 0,
        starts_within: float = STARTS_WITHIN,
    ) -> None:
        self.name, self._make, self._patience, self._starts_within = name, make, patience, starts_within
        self._priority = priority if real_time.in_real_time() else 0
        self._calling = threading.Lock()
        self._replacing = threading.Lock()  # guards the two below
        self._closed = False
        self._running = self._begin()

    def _begin(self) -> _Running:
        connection, theirs = Pipe()
        with real_time.out_of_real_time():
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, self.name, str(theirs.fileno()), str(self._priority)],
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the caller, which ends this process when it is time
            )
        theirs.close()
        running = _Running(process, connection)
        with contextlib.suppress(OSError):  # the first call will find out
            running.send("make", self._make)
        return running

    def wait(self) -> None:
        """Until the planner is there.

        Raises:
            MotionRefused: BACKEND_UNAVAILABLE, it could not be made.
        """
        with self._calling:
            self._wait(self._running)

    def renew(self) -> None:
        """Replaces a process that died since it was last called; else the next call finds out, and is lost."""
        with self._calling:
            process = self._running.process  # which cannot be waited for while a thread of it still ends
            if process.poll() is not None or psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE:
                self._lost(self._running, "died")

    def call(self, method: Callable[Concatenate[T, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What a method of the planner returns, or raises. Callers wait for each other.

        Raises:
            MotionRefused: BACKEND_UNAVAILABLE, the process died or does not answer, or the method raised something else
                than this.
        """
        return self.call_within(self._patience, method, *args, **kwargs)

    def call_within(
        self, patience: float, method: Callable[Concatenate[T, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """As :meth:`call`, with another patience."""
        with self._calling:
            running = self._running
            self._wait(running)
            try:
                running.send("call", method, args, kwargs)
            except OSError:
                raise self._lost(running, "died") from None
            return self._answer(running, patience)

    def tell(self, method: Callable[Concatenate[T, P], object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Calls a method without waiting for it, beside whatever is being called; harmless when there is no planner."""
        with contextlib.suppress(OSError):
            self._running.send("tell", method, args, kwargs)

    def close(self) -> None:
        """Ends the process, whatever it does; harmless when repeated."""
        with self._replacing:
            self._closed = True
            self._running.end()

    def _wait(self, running: _Running) -> None:
        if not running.ready and running.problem is None:
            try:
                self._answer(running, self._starts_within)
                running.ready = True
            except MotionRefused as refusal:
                running.problem = refusal
        if running.problem is not None:
            raise running.problem

    def _answer(self, running: _Running, patience: float) -> Any:
        try:
            if not running.connection.poll(patience):
                raise self._lost(running, f"did not answer within {patience:g} s")
            value, problem = running.connection.recv()
        except (EOFError, OSError):
            raise self._lost(running, "died") from None
        if problem is None:
            return value
        if isinstance(problem, MotionRefused):
            raise problem
        raise MotionRefused(ExecutionCode.BACKEND_UNAVAILABLE, f"the process that {self.name}: {problem}")

    def _lost(self, running: _Running, problem: str) -> MotionRefused:
        """Replaces a process, unless it was closed."""
        with self._replacing:
            if self._closed:
                done = "it was ended"
            else:
                running.process.kill()
                status = running.process.wait()
                running.connection.close()
                if problem == "died":
                    problem = f"died (status {status})"
                self._running = self._begin()
                done = "a new one was started"
        return MotionRefused(ExecutionCode.BACKEND_UNAVAILABLE, f"the process that {self.name} {problem}; {done}")


def planning_process(parent: int, name: str) -> psutil.Process:
    """That of the process with this id; StopIteration while there is none."""
    return next(child for child in psutil.Process(parent).children() if {__name__, name} <= set(child.cmdline()))


class _Server:
    """The other side."""

    def __init__(self, connection: Connection, priority: int) -> None:
        self._connection, self._priority = connection, priority
        self._planner: Any = None
        self._worker = ThreadPoolExecutor(1)

    def serve(self) -> None:
        """Until it is told to end, or its parent is gone."""
        with contextlib.suppress(EOFError, OSError):
            while (request := self._connection.recv())[0] != "end":
                kind, method, *arguments = request
                if kind == "make":
                    self._worker.submit(self._answer, self._make, method)
                elif kind == "call":
                    self._worker.submit(self._answer, self._call, method, *arguments)
                else:
                    self._tell(method, *arguments)
        if hasattr(self._planner, "stop"):
            self._tell(type(self._planner).stop, (), {})

    def _make(self, make: Callable[[], object]) -> None:
        self._planner = make()
        real_time.keep_what_is_there()
        if self._priority:
            real_time.run_in_real_time(self._priority)
            real_time.run_in_real_time(self._priority, os.getpid())  # the thread that serves

    def _call(self, method: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        return method(self._planner, *args, **kwargs)

    def _tell(self, *call: Any) -> None:
        with contextlib.suppress(Exception):  # nobody listens
            self._call(*call)

    def _answer(self, function: Callable[..., object], *arguments: Any) -> None:
        """Sends what a function returns, and what was wrong: a MotionRefused, a text, or None."""
        try:
            answer: tuple[object, object] = function(*arguments), None
        except MotionRefused as refusal:
            answer = None, refusal
        except Exception as error:
            answer = None, f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError):
            self._connection.send(answer)


def main() -> None:
    """Serves the pipe whose file descriptor is the second argument."""
    _, descriptor, priority = sys.argv[1:]
    _Server(Connection(int(descriptor)), int(priority)).serve()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # some planners crash, or complain, when they are torn down


if __name__ == "__main__":
    main()
