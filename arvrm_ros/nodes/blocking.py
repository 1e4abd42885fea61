# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Actions and services of other nodes, called from a thread that waits for their answers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future as ThreadFuture
from typing import Any, TypeVar

import numpy as np
from rclpy.action.client import ActionClient
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.client import Client
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future

from arvrm_ros.errors import ExecutionCode, MotionRefused

T = TypeVar("T")

ANSWER = 5.0
"""Wall-clock seconds in which a service, or an action server asked for a goal or a cancel, has to answer."""


def longest_execution(times: np.ndarray) -> float:
    """Wall-clock seconds after which a motion at (T,) seconds that another node executes counts as stuck."""
    return 2.0 * float(times[-1]) + ANSWER


def run_in(executor: Executor, function: Callable[[], T]) -> T:
    """Calls a function in the thread in which an executor spins, another one than this, and waits for its result.

    Clients are to be called there alone: an answer that comes before a request is noted down is lost (rclpy 9.1).
    """
    done: ThreadFuture[T] = ThreadFuture()

    def call() -> None:
        try:
            done.set_result(function())
        except Exception as error:
            done.set_exception(error)

    executor.create_task(call)
    return done.result(timeout=ANSWER)


class Companion:
    """A node beside another one, with an executor thread of its own: rclpy's events executor, in which this suite's
    nodes run, locks up when a goal is sent or canceled from another thread. Clients are called by :meth:`run`.

    Args:
        node: whose name it takes, and whose context it is in.
    """

    def __init__(self, node: Node) -> None:
        self.node = Node(
            f"{node.get_name()}_client",
            context=node.context,
            use_global_arguments=False,
            start_parameter_services=False,
            enable_rosout=False,
        )
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, name="client", daemon=True)
        self._thread.start()

    def run(self, function: Callable[[], T]) -> T:
        """See :func:`run_in`."""
        return run_in(self._executor, function)

    def post(self, function: Callable[[], Any]) -> None:
        """Calls a function in the executor's thread, without waiting for it."""
        self._executor.create_task(function)

    def close(self) -> None:
        """Harmless when repeated."""
        self._executor.shutdown()
        self._thread.join(timeout=5.0)
        self.node.destroy_node()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()


class BlockingService:
    """A service of another node.

    Args:
        companion: whose client it is.
        kind: of the service.
        name: of the service.
        owner: what the user calls the other node, e.g. "move_group".
    """

    def __init__(self, companion: Companion, kind: Any, name: str, owner: str) -> None:
        self._companion, self._name, self._owner = companion, name, owner
        self._client: Client = companion.node.create_client(kind, name, callback_group=ReentrantCallbackGroup())

    def require(self, patience: float, advice: str) -> None:
        """As :meth:`BlockingAction.require`."""
        if not self._client.wait_for_service(timeout_sec=patience):
            raise _absent(self._owner, self._name, patience, advice)

    def call(self, request: Any) -> Any:
        """The response.

        Raises:
            MotionRefused: BACKEND_UNAVAILABLE, nobody answers.
        """
        if not self._client.service_is_ready():
            raise _gone(self._owner, self._name)
        future = self._companion.run(lambda: self._client.call_async(request))
        return _wait(future, self._client.service_is_ready, self._owner, self._name, ANSWER)


class BlockingAction:
    """An action of another node, one goal at a time; the arguments are those of :class:`BlockingService`."""

    def __init__(self, companion: Companion, kind: Any, name: str, owner: str) -> None:
        self._companion, self._name, self._owner = companion, name, owner
        self._client: ActionClient = ActionClient(companion.node, kind, name, callback_group=ReentrantCallbackGroup())
        self._goal: Any = None

    def require(self, patience: float, advice: str) -> None:
        """Waits for the server, for ``patience`` seconds; needs no spinning executor.

        Raises:
            MotionRefused: BACKEND_UNAVAILABLE; the message ends with the advice.
        """
        if not self._client.wait_for_server(timeout_sec=patience):
            raise _absent(self._owner, self._name, patience, advice)

    def call(self, goal: Any, seconds: float) -> Any:
        """The result of a goal.

        Args:
            goal: of the action's type.
            seconds: wall clock, in which the result has to come once the goal is accepted; the goal is canceled then.

        Raises:
            MotionRefused: BACKEND_UNAVAILABLE, nobody answers, the goal is rejected, or the server went away.
        """
        if not self._client.server_is_ready():
            raise _gone(self._owner, self._name)
        alive = self._client.server_is_ready
        sent = self._companion.run(lambda: self._client.send_goal_async(goal))
        handle = _wait(sent, alive, self._owner, self._name, ANSWER)
        if not handle.accepted:
            raise MotionRefused(ExecutionCode.BACKEND_UNAVAILABLE, f"{self._owner} rejected the goal of {self._name}")
        self._goal = handle
        try:
            result = self._companion.run(handle.get_result_async)
            return _wait(result, alive, self._owner, self._name, seconds).result
        except MotionRefused:
            self._companion.post(handle.cancel_goal_async)
            raise
        finally:
            self._goal = None

    def cancel(self) -> None:
        """Asks for the end of the goal in progress, if there is one, from any thread; :meth:`call` then returns."""
        if (goal := self._goal) is not None:
            self._companion.post(goal.cancel_goal_async)


def _wait(future: Future, alive: Callable[[], bool], owner: str, name: str, seconds: float) -> Any:
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    give_up = time.monotonic() + seconds
    while not done.wait(0.1):
        if not alive():
            raise _gone(owner, name)
        if time.monotonic() > give_up:
            raise MotionRefused(
                ExecutionCode.BACKEND_UNAVAILABLE, f"{owner} did not answer on {name} within {seconds:g} s"
            )
    return future.result()


def _absent(owner: str, name: str, patience: float, advice: str) -> MotionRefused:
    return MotionRefused(ExecutionCode.BACKEND_UNAVAILABLE, f"no {owner} serves {name} after {patience:g} s: {advice}")


def _gone(owner: str, name: str) -> MotionRefused:
    return MotionRefused(ExecutionCode.BACKEND_UNAVAILABLE, f"{owner} does not serve {name} (any more): start it again")
