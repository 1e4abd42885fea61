# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Threads that must not wait for others, where the kernel permits it (SCHED_FIFO): Linux, CAP_SYS_NICE or rtprio.

A process asks for it with :func:`run_in_real_time` before it starts its threads, which inherit it; those that are in
less of a hurry then :func:`give_way`.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

CONTROL = 50
"""Of SCHED_FIFO, as ros2_control's controller manager."""

PLANNING = 40

RENDERING = 10
"""Before every process without a priority: a thread that waits for the processor while it holds Python's lock has the
others of its process wait, too."""

GIL_SWITCH = 0.0005
"""s; with Python's default a busy thread would delay a more urgent one by 5 ms."""


def run_in_real_time(priority: int = CONTROL, thread: int = 0) -> bool:
    """Has the kernel prefer a thread, the calling one if 0, and those it will start.

    Returns:
        False where that is not permitted: it then competes as any other.
    """
    sys.setswitchinterval(GIL_SWITCH)
    try:
        os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(priority))
    except OSError:
        return False
    return True


def prefer_threads(name: str, priority: int = CONTROL) -> None:
    """Has the kernel prefer the threads of this process whose names begin like this, where it permits that.

    They should do little, and be no threads of Python's.
    """
    for comm in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):
            if comm.read_text().startswith(name):
                os.sched_setscheduler(int(comm.parent.name), os.SCHED_FIFO, os.sched_param(priority))


def in_real_time() -> bool:
    """Whether the calling thread is preferred."""
    return os.sched_getscheduler(0) == os.SCHED_FIFO


@contextlib.contextmanager
def out_of_real_time() -> Iterator[None]:
    """Processes begun within have no priority: what they import would keep all others waiting for seconds.

    The calling thread has none meanwhile, either.
    """
    if not in_real_time():
        yield
        return
    priority = os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_FIFO, priority)


def keep_what_is_there() -> None:
    """Has the garbage collector leave alone all objects that exist by now, once it has looked through them.

    Call it when a process is set up: it would else look through every library again and again, 50 ms for the execution
    node and 100 for PyTorch, in which no thread goes on.
    """
    gc.collect()
    gc.freeze()


def give_way(priority: int) -> None:
    """Lowers the calling thread's priority, where it has one; 0 takes it away."""
    if in_real_time():
        os.sched_setscheduler(0, os.SCHED_FIFO if priority else os.SCHED_OTHER, os.sched_param(priority))
