# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Brings nodes up in order, watches their heartbeats, stops the arm when one goes silent, takes them down in reverse.

Exit status: 0 after SIGINT or SIGTERM, 1 when the suite could not be brought up or a node was lost. Whoever started the
suite ends the other processes when this one ends.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.client import Client
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from std_msgs.msg import Empty
from std_srvs.srv import Trigger

from arvrm_ros.errors import ArvrmError
from arvrm_ros.nodes import qos
from arvrm_ros.nodes.lifecycle import HEARTBEAT_PERIOD, EdgeLogger, announce_active, stop_on_signals
from arvrm_ros.nodes.parameters import Parameters, declare, parameter, read
from arvrm_ros.suite import MANAGER, SUITE_UP

TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
}
MANAGER_TIMEOUT = 10 * HEARTBEAT_PERIOD  # s; for another suite's manager to be discovered once its nodes were
UNDO_TIMEOUT = 1.5  # s; a killed node stays in the graph, but does not answer
UNDO_TIMEOUT_MORE = 0.4  # s; for each further one once the patience is used up: ros2 launch waits 5 s for this process
IN_USE = ("inactive", "active")  # states of a configured node
UNDO = {"configure": "cleanup", "activate": "deactivate"}


class SuiteFailed(ArvrmError):
    """The suite cannot be brought up or kept up; the message names the node and the reason."""


class Interrupted(Exception):
    """A signal asked for the end while something was waited for."""


@dataclass(frozen=True)
class ManagerParameters(Parameters):
    """Parameters of :class:`LifecycleManager`."""

    managed_nodes: tuple[str, ...] = parameter(("",), "names of the nodes in the order in which they are brought up")
    required_topics: tuple[str, ...] = parameter(
        ("",), "topics that must have a publisher before anything is configured"
    )
    heartbeat_timeout: float = parameter(
        4.0, "a node without heartbeat for longer is lost", unit="s", low=2 * HEARTBEAT_PERIOD, high=60.0
    )
    discovery_timeout: float = parameter(60.0, "wait for a node to start", unit="s", low=1.0, high=600.0)
    topics_timeout: float = parameter(15.0, "wait for the required topics", unit="s", low=0.1, high=600.0)
    transition_timeout: float = parameter(120.0, "wait for one transition of a node", unit="s", low=1.0, high=600.0)


@dataclass
class _Heartbeat:
    """The newest heartbeat of one node: when it came (monotonic seconds) and what it said."""

    at: float
    pid: str
    state: str
    problem: str


class LifecycleManager(Node):
    """Callbacks only keep notes; :meth:`run` does the work in the main thread."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__(MANAGER)
        declare(self, ManagerParameters)
        self._stop = stop
        self._params = read(self, ManagerParameters)
        self._nodes = [name for name in self._params.managed_nodes if name]
        self._edges = EdgeLogger(self.get_logger())
        self._heartbeats: dict[str, _Heartbeat] = {}
        self._pids: dict[str, str] = {}  # of our nodes; a second suite that is about to be refused has the same names
        self._identity = f"pid {os.getpid()} on {socket.gethostname()}"
        self._other = ""
        self._state = "starting"
        self._brought: list[tuple[str, str]] = []  # (node, transition) to undo, newest last
        self._change: dict[str, Client[Any, Any]] = {
            name: self.create_client(ChangeState, f"/{name}/change_state") for name in self._nodes
        }
        self._stop_service: Client[Any, Any] = self.create_client(Trigger, "/execution/emergency_stop")
        self._stop_topic = self.create_publisher(Empty, "/emergency_stop", qos.RELIABLE)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.RELIABLE)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.RELIABLE)
        self.create_timer(HEARTBEAT_PERIOD, self._publish_diagnostics)

    def run(self) -> int:
        """Brings the suite up, watches it until a signal or a loss, takes it down; returns the exit status."""
        try:
            self._await_nodes()
            self._await_topics()
            for transition in ("configure", "activate"):
                for name in self._nodes:
                    self._bring(name, transition)
            self._state = "active"
            announce_active(self)
            self.get_logger().info(f"{SUITE_UP}: {', '.join(self._nodes)}")
            self._watch()
            status = 0
        except Interrupted:
            status = 0
        except SuiteFailed as error:
            self.get_logger().fatal(str(error))
            status = 1
        self._state = "stopping"
        self._take_down()
        return status

    def _await_nodes(self) -> None:
        """Waits until every node is heard, and refuses to share them with another suite.

        Heartbeats tell, not the graph, which shows a killed suite for a while longer. Once our own nodes are heard,
        those of another suite are heard as well, however long discovery takes on a busy machine.
        """

        def silent() -> list[str]:
            return [name for name in self._nodes if name not in self._heartbeats]

        if not self._wait(lambda: bool(self._other) or not silent(), self._params.discovery_timeout):
            raise SuiteFailed(f"{', '.join(silent())} did not start")
        self._wait(lambda: bool(self._other), 2 * HEARTBEAT_PERIOD)
        taken = [
            f"{name} pid {heartbeat.pid}"
            for name, heartbeat in self._heartbeats.items()
            if name in self._nodes and heartbeat.state in IN_USE
        ]
        if taken:  # its manager is heard a little later, or never: it was killed
            self._wait(lambda: bool(self._other), MANAGER_TIMEOUT)
        if self._other or taken:
            domain = os.environ.get("ROS_DOMAIN_ID", "0")
            raise SuiteFailed(
                f"another suite is running on ROS_DOMAIN_ID {domain} ({self._other or ', '.join(taken)}): stop it, or "
                "set another ROS_DOMAIN_ID"
            )
        self._pids = {name: self._heartbeats[name].pid for name in self._nodes}

    def _await_topics(self) -> None:
        def absent() -> list[str]:
            return [topic for topic in self._params.required_topics if topic and not self.count_publishers(topic)]

        if not self._wait(lambda: not absent(), self._params.topics_timeout):
            raise SuiteFailed(
                f"nobody publishes {', '.join(absent())}: start the robot's and the cameras' drivers, or name other "
                "cameras with cameras:="
            )

    def _bring(self, name: str, transition: str) -> None:
        if not self._wait(self._change[name].service_is_ready, self._params.discovery_timeout):
            raise SuiteFailed(f"{name} did not start")
        problem = self._transition(name, transition)
        if problem:
            raise SuiteFailed(f"{name} could not {transition}: {problem}")
        self._brought.append((name, transition))

    def _transition(self, name: str, transition: str) -> str:
        """Changes one node's state; returns what is wrong, or ""."""
        request = ChangeState.Request(transition=Transition(id=TRANSITIONS[transition]))
        future = self._change[name].call_async(request)
        if not self._wait(future.done, self._params.transition_timeout):
            return f"no answer for {self._params.transition_timeout:g} s"
        answer = future.result()
        if answer is not None and answer.success:
            return ""
        self._wait(lambda: bool(self._problem_of(name)), HEARTBEAT_PERIOD)  # the reason travels with the heartbeat
        return self._problem_of(name) or "see its log"

    def _problem_of(self, name: str) -> str:
        heartbeat = self._heartbeats.get(name)
        return heartbeat.problem if heartbeat else ""

    def _watch(self) -> None:
        """Returns on a signal.

        Raises:
            SuiteFailed: a node is lost; the arm has been stopped.
        """
        started = time.monotonic()
        while not self._stop.wait(0.1):
            for name in self._nodes:
                heartbeat = self._heartbeats.get(name)
                silent = time.monotonic() - (heartbeat.at if heartbeat else started)
                state = heartbeat.state if heartbeat and heartbeat.at > started else "active"
                if silent <= self._params.heartbeat_timeout and state in IN_USE:
                    self._edges.update(name, None if state == "active" else f"is {state}; somebody deactivated it")
                    continue
                self._emergency_stop()
                self._brought = [step for step in self._brought if step[0] != name]
                lost = f"has been silent for {silent:.1f} s" if state in IN_USE else f"is {state}"
                raise SuiteFailed(f"{name} {lost}: the arm was told to stop, the suite goes down")

    def _emergency_stop(self) -> None:
        self._stop_topic.publish(Empty())
        if self._stop_service.service_is_ready():
            answer = self._stop_service.call_async(Trigger.Request())
            self._wait(answer.done, 1.0, interruptible=False)

    def _take_down(self) -> None:
        """Undoes what was brought up in reverse order, with whatever nodes still answer."""
        gone = set()
        patience = UNDO_TIMEOUT
        for name, transition in reversed(self._brought):
            client = self._change[name]
            if name in gone or not client.service_is_ready():
                continue
            request = ChangeState.Request(transition=Transition(id=TRANSITIONS[UNDO[transition]]))
            answer = client.call_async(request)
            if not self._wait(partial(_answered_or_gone, client, answer), patience, interruptible=False):
                gone.add(name)
                patience = UNDO_TIMEOUT_MORE

    def _wait(self, condition: Callable[[], bool], timeout: float, interruptible: bool = True) -> bool:
        """Waits until the condition holds; False when time ran out.

        Raises:
            Interrupted: a signal came, unless ``interruptible`` is False.
        """
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                return False
            if interruptible and self._stop.wait(0.02):
                raise Interrupted
            if not interruptible:
                time.sleep(0.02)
        return True

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {item.key: item.value for item in status.values}
            if status.name == MANAGER:
                if values.get("identity", self._identity) != self._identity and values["state"] != "stopping":
                    self._other = values["identity"]
            elif "state" in values and self._pids.get(status.name) in (None, values.get("pid")):
                problem = status.message if status.level == DiagnosticStatus.ERROR else ""
                heartbeat = _Heartbeat(time.monotonic(), values.get("pid", ""), values["state"], problem)
                self._heartbeats[status.name] = heartbeat

    def _publish_diagnostics(self) -> None:
        values: dict[str, Any] = {"state": self._state, "identity": self._identity, "pid": os.getpid()}
        status = DiagnosticStatus(
            level=DiagnosticStatus.OK,
            name=MANAGER,
            message=self._state,
            hardware_id="arvrm_ros",
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def _answered_or_gone(client: Client[Any, Any], answer: Future) -> bool:
    """Whoever started the suite may end the nodes at the same time as this manager."""
    return answer.done() or not client.service_is_ready()


def main() -> int:
    """Runs the manager."""
    stop = stop_on_signals()
    rclpy.init(args=sys.argv, signal_handler_options=SignalHandlerOptions.NO)
    manager = LifecycleManager(stop)
    executor = SingleThreadedExecutor()
    executor.add_node(manager)
    done = threading.Event()

    def spin() -> None:
        while not done.is_set():
            executor.spin_once(timeout_sec=0.2)

    thread = threading.Thread(target=spin, name="executor")
    thread.start()
    try:
        return manager.run()
    finally:
        done.set()
        thread.join()
        executor.shutdown()
        manager.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
