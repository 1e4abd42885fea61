# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Starts real nodes in processes of their own and talks to them over real DDS on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from arvrm_ros.resources import resource

os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
os.environ.setdefault("ROS_DOMAIN_ID", str(100 + os.getpid() % 100))
if resource("config", "fastdds.xml").is_file():
    os.environ.setdefault("FASTDDS_DEFAULT_PROFILES_FILE", str(resource("config", "fastdds.xml")))

import rclpy
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.experimental.events_executor import EventsExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter

from arvrm_ros.errors import ExecutionCode
from arvrm_ros.nodes.blocking import Companion

CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE = 1, 2, 3, 4  # lifecycle_msgs/Transition

T = TypeVar("T")


def wait_for(condition: Callable[[], T], what: str | Callable[[], str], timeout: float = 120.0) -> T:
    """Polls until the condition is true and gives its value; fails the test when it never is.

    What it waited for may be a function, to tell what was there at the end.

    The time limit only ends a test that hangs: on a busy machine, importing PyTorch alone may take half a minute.
    """
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {timeout:g} s for {what() if callable(what) else what}"
        time.sleep(0.01)
    return value


class Graph:
    """The test's own ROS node, spun in a thread, and the node processes it started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.node = Node("test", context=self._context)
        self._executor = EventsExecutor(context=self._context)  # the other ones are too slow for 100 messages a second
        self._executor.add_node(self.node)
        self._open = True
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self._processes: list[NodeProcess] = []
        self.companion = Companion(self.node)
        self._clients: dict[str, Any] = {}

    def _spin(self) -> None:
        while self._open:
            self._executor.spin_once(timeout_sec=0.2)

    def start(self, name: str, **parameters: object) -> NodeProcess:
        """Starts ``arvrm_ros.nodes.NAME`` and waits until its lifecycle service answers."""
        self._client(ChangeState, f"/{name}/change_state")  # before the node is there, which then finds it at once
        process = NodeProcess(self, name, self._folder / f"{name}.log", parameters)
        self._processes.append(process)
        return process

    def listen(self, kind: Any, topic: str, profile: Any) -> list[Any]:
        """A list to which every message of the topic is appended."""
        messages: list[Any] = []
        self.node.create_subscription(kind, topic, messages.append, profile)
        return messages

    def publisher(self, kind: Any, topic: str, profile: Any) -> Any:
        """A publisher that a subscriber is already connected to."""
        publisher = self.node.create_publisher(kind, topic, profile)
        wait_for(publisher.get_subscription_count, f"a subscriber of {topic}")
        return publisher

    def call(self, kind: Any, service: str, request: Any) -> Any:
        """Calls a service and waits for its response."""
        client = self._client(kind, service)
        assert client.wait_for_service(timeout_sec=120.0), f"no service {service}"
        future = self.companion.run(lambda: client.call_async(request))
        wait_for(future.done, f"a response of {service}")
        return future.result()

    def _client(self, kind: Any, service: str) -> Any:
        if service not in self._clients:  # kept: a server that has not found a new client yet drops its response
            self._clients[service] = self.companion.node.create_client(kind, service)
        return self._clients[service]

    def close(self) -> None:
        """Stops the processes and the test's node."""
        for process in self._processes:
            process.stop()
        self.companion.close()
        self._open = False
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)


class Goals:
    """Goals of an action, and all their feedback."""

    def __init__(self, graph: Graph, kind: Any, name: str) -> None:
        self._companion = graph.companion
        self._client = ActionClient(self._companion.node, kind, name)
        self.feedback: list[Any] = []
        assert self._client.wait_for_server(timeout_sec=120.0), f"no action {name}"

    def send(self, goal: Any) -> Goal:
        """A goal that was accepted."""
        future = self._companion.run(
            lambda: self._client.send_goal_async(goal, lambda message: self.feedback.append(message.feedback))
        )
        wait_for(future.done, "the goal's acceptance")
        return Goal(self._companion, future.result())


class Goal:
    """A goal that was accepted."""

    def __init__(self, companion: Companion, handle: Any) -> None:
        self._companion, self._handle = companion, handle
        self._result = companion.run(handle.get_result_async)

    def cancel(self) -> None:
        """Asks for its end, without waiting for it."""
        self._companion.run(self._handle.cancel_goal_async)

    def done(self) -> bool:
        return bool(self._result.done())

    def result(self) -> Any:
        """The result, waited for."""
        wait_for(self.done, "the result")
        return self._result.result().result

    def outcome(self) -> tuple[int, ExecutionCode, str]:
        """The goal's status, and the code and the text of its result, waited for."""
        answer = self.result()
        return self._result.result().status, ExecutionCode(answer.error_code), answer.error_msg


class NodeProcess:
    """One node in a process of its own."""

    def __init__(self, graph: Graph, name: str, log: Path, parameters: dict[str, object]) -> None:
        self._graph, self._name, self._log = graph, name, log
        arguments = [word for key, value in parameters.items() for word in ("-p", f"{key}:={value}")]
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"arvrm_ros.nodes.{name}", "--ros-args", *arguments], stdout=file, stderr=file
            )

    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text()

    def transition(self, *ids: int) -> bool:
        """Lifecycle transitions, one after the other; whether all succeeded."""
        for number in ids:
            request = ChangeState.Request()
            request.transition.id = number
            if not self._graph.call(ChangeState, f"/{self._name}/change_state", request).success:
                return False
        return True

    def set(self, **parameters: object) -> None:
        """Sets parameters, which must be accepted."""
        values = [Parameter(name, value=value).to_parameter_msg() for name, value in parameters.items()]
        request = SetParameters.Request(parameters=values)
        results = self._graph.call(SetParameters, f"/{self._name}/set_parameters", request).results
        assert all(result.successful for result in results), results

    def stop(self) -> int:
        """Ends it as a supervisor would; gives its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
