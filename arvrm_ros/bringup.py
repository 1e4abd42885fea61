# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Starts a suite without ``ros2 launch``: one process per node, and none left when it ends, however it ends.

with Supervisor("simulation", resolve("simulation", {"seed": "3"})) as supervisor:
    supervisor.wait_until_up()
    ...
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO

from arvrm_ros import real_time
from arvrm_ros.suite import SUITE_UP, Process, SuiteError, Values, environment, missing, processes

GRACE = 10.0
"""Seconds a process has after SIGTERM before it is killed."""

SEGMENT_BEGINS = 5.0
"""Seconds in which a process surely has the lock on its shared memory."""

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass
class _Running:
    """One started process and the thread that copies its output."""

    name: str
    process: subprocess.Popen[str]
    reader: threading.Thread = field(repr=False)


class Supervisor:
    """Starts the processes of a suite and ends all of them when one ends, on :meth:`stop`, or when it dies itself.

    Every process leads its own group, so that Ctrl-C reaches the supervisor alone and the nodes go down in order. The
    kernel sends them SIGTERM should the supervisor be killed.

    Args:
        suite: name of the suite.
        values: of all its arguments, from :func:`arvrm_ros.suite.resolve`.
        output: where the prefixed log lines go; None for nowhere.
        log_folder: one NAME.log per node is written here as well.
        remappings: topics by node, as in :class:`arvrm_ros.suite.Process`.

    Raises:
        SuiteError: something the suite needs is missing on this machine.
    """

    def __init__(
        self,
        suite: str,
        values: Values,
        output: IO[str] | None = sys.stdout,
        log_folder: Path | None = None,
        remappings: Mapping[str, dict[str, str]] | None = None,
    ) -> None:
        if problems := missing(suite, values):
            raise SuiteError(f"{suite} cannot start:\n  " + "\n  ".join(problems))
        renamed = remappings or {}
        self._processes = [
            replace(process, remappings=renamed.get(process.name, {})) for process in processes(suite, values)
        ]
        self._environment = {**os.environ, **environment(suite)}
        self._output = output
        self._log_folder = log_folder
        self._running: list[_Running] = []
        self._up = threading.Event()
        self._output_lock = threading.Lock()

    def __enter__(self) -> Supervisor:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts every process; the lifecycle manager then brings the nodes up."""
        remove_dead_segments()
        try:
            commands = [(process, process.command()) for process in self._processes]
            for process, command in commands:
                self._running.append(self._spawn(process, command))
        except BaseException:
            self.stop()
            raise

    @property
    def pids(self) -> dict[str, int]:
        """Process id per node."""
        return {running.name: running.process.pid for running in self._running}

    def wait_until_up(self, timeout: float = 180.0) -> None:
        """Waits until every node is active.

        Raises:
            SuiteError: a process ended, or time ran out.
        """
        end = time.monotonic() + timeout
        while not self._up.wait(0.1):
            if ended := self.ended():
                raise SuiteError(f"the suite did not come up: {ended}")
            if time.monotonic() > end:
                raise SuiteError(f"the suite did not come up within {timeout:g} s")

    def ended(self) -> str:
        """Which process has ended, and how; empty while all of them run."""
        for running in self._running:
            status = running.process.poll()
            if status is not None:
                how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
                return f"{running.name} {how}"
        return ""

    def stop(self) -> None:
        """Ends every process in reverse order of the bring-up; the manager goes first and leaves the nodes at rest."""
        for running in self._running[:1] + self._running[:0:-1]:
            _signal_group(running.process, signal.SIGTERM)
            if running is self._running[0]:
                _await_end(running.process, GRACE)
        deadline = time.monotonic() + GRACE
        for running in self._running:
            if not _await_end(running.process, deadline - time.monotonic()):
                self._write(running.name, f"does not end within {GRACE:g} s: killed")
            _signal_group(running.process, signal.SIGKILL)  # also what the node itself may have started
            running.process.wait()
            running.reader.join(timeout=1.0)
        self._running.clear()

    def _spawn(self, process: Process, command: list[str]) -> _Running:
        child = subprocess.Popen(
            command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=_follow_parent(os.getpid()),
        )
        reader = threading.Thread(target=self._copy, args=(process.name, child), daemon=True)
        reader.start()
        return _Running(process.name, child, reader)

    def _copy(self, name: str, child: subprocess.Popen[str]) -> None:
        assert child.stdout is not None
        log = None
        if self._log_folder is not None:
            self._log_folder.mkdir(parents=True, exist_ok=True)
            log = (self._log_folder / f"{name}.log").open("w", encoding="utf-8")
        for line in child.stdout:
            if SUITE_UP in line and child is self._running[0].process:
                self._up.set()
            if log:
                log.write(line)
                log.flush()
            self._write(name, line.rstrip("\n"))
        if log:
            log.close()

    def _write(self, name: str, line: str) -> None:
        if self._output is not None:
            with self._output_lock:
                print(f"[{name}] {line}", file=self._output, flush=True)


def run_suite(suite: str, values: Values) -> int:
    """Runs a suite in the foreground until Ctrl-C, SIGTERM or the end of one of its processes.

    Returns:
        Exit status: 0 after a signal, 1 when a process ended by itself.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    with Supervisor(suite, values) as supervisor:
        ended = ""
        while not ended and not stop.wait(0.1):
            ended = supervisor.ended()
    if ended:
        print(f"arvrm up: {ended}; the suite was stopped", file=sys.stderr)
    return int(bool(ended))


def remove_dead_segments() -> None:
    """Removes the shared memory that Fast DDS processes left when they were killed, 18 MB each: nobody else does.

    A living process holds a lock on the file beside its segment; one that has just begun may not have it yet. Ports
    stay: they are small, and the living may share them.
    """
    for lock in Path("/dev/shm").glob(f"fastdds_{'[0-9a-f]' * 16}_el"):
        with contextlib.suppress(OSError), lock.open() as file:
            if time.time() - lock.stat().st_mtime < SEGMENT_BEGINS:
                continue
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.with_name(lock.name.removesuffix("_el")).unlink(missing_ok=True)
            lock.unlink()


def interrupt_on_sigterm() -> None:
    """Has SIGTERM end a command as Ctrl-C does: everything that it started is stopped first."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def _follow_parent(parent: int) -> Callable[[], None]:
    """What a child does before it becomes its program: asks the kernel for SIGTERM when the supervisor dies.

    And gives up a supervisor's real-time priority: a node that wants one takes it.
    """

    def prepare() -> None:
        real_time.give_way(0)
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return prepare


def _signal_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _await_end(process: subprocess.Popen[str], timeout: float) -> bool:
    try:
        process.wait(max(timeout, 0.0))
    except subprocess.TimeoutExpired:
        return False
    return True
