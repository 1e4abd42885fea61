# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The base of every node: a lifecycle node whose subclass fills in four hooks, and the ``main`` that runs it.

rclpy drops the traceback of an exception in a lifecycle callback and leaves half-made things behind; this base logs
it, tears down exactly once on whatever path the node ends (transition, error, SIGINT, SIGTERM), and publishes the
node's state on ``/diagnostics`` once a second, which is also its heartbeat.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from functools import partial

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.event_handler import QoSLivelinessChangedInfo, SubscriptionEventCallbacks
from rclpy.executors import Executor, MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from std_msgs.msg import Empty

from arvrm_ros.contract import RobotContract, load_contract
from arvrm_ros.errors import ArvrmError
from arvrm_ros.nodes import qos
from arvrm_ros.nodes.parameters import Parameters, declare, read
from arvrm_ros.nodes.stages import StageTimes
from arvrm_ros.real_time import keep_what_is_there, prefer_threads, run_in_real_time

HEARTBEAT_PERIOD = 1.0
"""Wall-clock seconds between two diagnostics of a node."""

SHUTDOWN_LIMIT = 8.0
"""Wall-clock seconds after a signal in which a node comes to rest; one that hangs is ended then."""

ASSERT_LIVELINESS = "dds.ev"
"""Fast DDS's threads that say that a node is alive: who only has to wait for the processor must not count as dead."""

END_LIMIT = SHUTDOWN_LIMIT + 2.0
"""Wall-clock seconds after a signal in which the process ends, whatever hangs."""


class ManagedNode(LifecycleNode):
    """A lifecycle node. Subclasses override :meth:`configure`, :meth:`activate`, :meth:`deactivate`, :meth:`cleanup`.

    A hook reports a problem the user can mend by raising an :class:`ArvrmError`: it becomes one log line and fails the
    transition. Any other exception is logged with its traceback. After a failed :meth:`configure`, :meth:`cleanup`
    runs, so it has to cope with whatever was not made yet.

    Args:
        name: of the node.
        parameters: the dataclass of its parameters.

    Attributes:
        params: the validated parameters, from configure on.
        contract: the robot's contract (parameter ``robot``), from configure on.
        edges: logs a problem once when it appears and once when it is gone.
        stages: latencies and rates of what the node does; part of its diagnostics.
    """

    def __init__(self, name: str, parameters: type[Parameters] = Parameters) -> None:
        super().__init__(name)
        self._parameters_kind = parameters
        declare(self, parameters)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self.params: Parameters = parameters()
        self.contract: RobotContract
        self.edges = EdgeLogger(self.get_logger())
        self.stages = StageTimes()
        self._problem = ""
        self._active: Publisher | None = None
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.RELIABLE)
        self.create_timer(
            HEARTBEAT_PERIOD,
            self.publish_diagnostics,
            callback_group=MutuallyExclusiveCallbackGroup(),
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )

    def configure(self) -> None:
        """Reads files, loads models, makes publishers and subscriptions. May take long."""

    def activate(self) -> None:
        """Starts working."""

    def deactivate(self) -> None:
        """Stops working and leaves things at rest."""

    def cleanup(self) -> None:
        """Frees what :meth:`configure` made, also when it did not finish."""

    def diagnose(self) -> Mapping[str, str | float]:
        """What this node wants to show on ``/diagnostics``."""
        return {}

    @property
    def is_active(self) -> bool:
        """Whether the lifecycle state is active."""
        return bool(self._state_machine.current_state[1] == "active")

    def now(self) -> float:
        """ROS time in seconds: the simulator's in simulation."""
        return self.get_clock().now().nanoseconds * 1e-9

    def publish_diagnostics(self) -> None:
        """Publishes state, problem, process id and :meth:`diagnose`; called by a timer and on every transition."""
        state = self._state_machine.current_state[1]
        try:
            values = {**self.diagnose(), **self.stages.figures()} if state == "active" else {}
        except Exception:
            self.get_logger().error(f"diagnose failed:\n{traceback.format_exc()}")
            values = {}
        problem = self._problem or self.edges.summary()
        status = DiagnosticStatus(
            level=DiagnosticStatus.ERROR
            if self._problem
            else DiagnosticStatus.WARN
            if problem
            else DiagnosticStatus.OK,
            name=self.get_name(),
            message=problem or state,
            hardware_id="arvrm_ros",
            values=[KeyValue(key=k, value=str(v)) for k, v in {"state": state, "pid": os.getpid(), **values}.items()],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def shut_down(self) -> None:
        """Leaves the node at rest and finalized, from whatever state it is in; harmless when repeated."""
        if self._state_machine.current_state[1] in ("unconfigured", "inactive", "active"):
            self.trigger_shutdown()

    def destroy_node(self) -> None:
        """Frees all that the node has; rclpy leaves the state machine, and with it the node's shared memory, behind."""
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()

    # What rclpy calls. The order matters: entities of the base class become usable before the hook that may use them.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        def run() -> None:
            self.params = read(self, self._parameters_kind)
            self.contract = load_contract(self.params.robot)
            self.configure()

        if self._run("configure", run):
            # rclpy takes 0.1 s for the first line of a process, which must not be that of an emergency stop.
            self.get_logger().info(f"configured for {self.params.robot}")
            return super().on_configure(state)
        self._run("cleanup", self.cleanup, keep_problem=True)
        return TransitionCallbackReturn.FAILURE

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = super().on_activate(state)
        keep_what_is_there()
        if self._run("activate", self.activate):
            self._active = announce_active(self)
            return result
        self._run("deactivate", self.deactivate, keep_problem=True)
        super().on_deactivate(state)
        return TransitionCallbackReturn.FAILURE

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._retire()
        done = self._run("deactivate", self.deactivate)
        result = super().on_deactivate(state)
        return result if done else TransitionCallbackReturn.ERROR

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        done = self._run("cleanup", self.cleanup)
        result = super().on_cleanup(state)
        return result if done else TransitionCallbackReturn.ERROR

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._tear_down(state)
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._tear_down(state)
        return TransitionCallbackReturn.SUCCESS

    def _tear_down(self, state: LifecycleState) -> None:
        if state.label == "active":
            self._retire()
            self._run("deactivate", self.deactivate, keep_problem=True)
            super().on_deactivate(state)
        if state.label in ("active", "inactive"):
            self._run("cleanup", self.cleanup, keep_problem=True)

    def _retire(self) -> None:
        if self._active is not None:
            self.destroy_publisher(self._active)
            self._active = None

    def _run(self, what: str, hook: Callable[[], None], keep_problem: bool = False) -> bool:
        """Runs one hook; True when it did not raise."""
        problem = ""
        try:
            hook()
        except ArvrmError as error:
            problem = str(error)
            self.get_logger().error(f"{what} failed: {problem}")
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            self.get_logger().error(f"{what} failed:\n{traceback.format_exc()}")
        if not keep_problem:
            self._problem = problem
        if problem:
            self.publish_diagnostics()
        return not problem

    def _on_set_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        own = {change.name for change in changes} & self._parameters_kind.__dataclass_fields__.keys()
        if own and self._state_machine.current_state[1] in ("inactive", "active"):
            reason = f"{', '.join(sorted(own))} is read at configure: clean the node up first"
            return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)


class EdgeLogger:
    """Logs a lasting problem once when it appears and once when it is gone; any thread may report."""

    def __init__(self, logger: RcutilsLogger) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._problems: dict[str, str] = {}

    def update(self, key: str, problem: str | None) -> None:
        """Says whether something is wrong now.

        Args:
            key: what is watched, e.g. "static camera".
            problem: what is wrong with it, or None when it is well. A new wording of a lasting problem is not logged.
        """
        with self._lock:
            before = self._problems.pop(key, None)
            if problem:
                self._problems[key] = problem
        if problem and before is None:
            self._logger.warning(f"{key}: {problem}")
        elif before is not None and not problem:
            self._logger.info(f"{key}: well again")

    def summary(self) -> str:
        """The present problems in one line; empty when there are none."""
        with self._lock:
            return "; ".join(f"{key}: {problem}" for key, problem in self._problems.items())


class StreamWatch:
    """Watches the age of one input stream and logs when it is lost and when it is back.

    Args:
        name: what the user calls the stream, e.g. its topic.
        max_age: seconds from which its newest message counts as lost.
        edges: where to log.
    """

    def __init__(self, name: str, max_age: float, edges: EdgeLogger) -> None:
        self.name = name
        self.max_age = max_age
        self._edges = edges
        self._newest: float | None = None

    def seen(self, stamp: float) -> None:
        """A message with this capture stamp (seconds, ROS time) has come."""
        self._newest = stamp

    def fresh(self, now: float) -> bool:
        """Whether the newest message may still be used; logs on the change."""
        if self._newest is None:
            self._edges.update(self.name, "nothing received yet")
            return False
        lost = now - self._newest > self.max_age
        self._edges.update(self.name, f"silent for more than {self.max_age:g} s" if lost else None)
        return not lost


def announce_active(node: Node) -> Publisher:
    """Says on ``~/active`` that a node is at work, until the publisher is destroyed or its process is gone."""
    prefer_threads(ASSERT_LIVELINESS)
    return node.create_publisher(Empty, f"/{node.get_name()}/active", qos.ACTIVE)


class PeerWatch:
    """Notices within a tenth of a second when other nodes die, are stopped or are deactivated.

    By the liveliness of their ``~/active`` publishers, which the middleware keeps up without them; heartbeats, which
    need a node's own thread, take seconds.

    Its subscriptions stay until the node ends: rclpy's events executor fails, or crashes, when one with an event
    callback is destroyed while an event waits for it (ros2/rclpy issue 1644), as when a whole suite goes down.

    Args:
        node: that watches.
        on_loss: called with the name of one that is lost.
    """

    def __init__(self, node: Node, on_loss: Callable[[str], None]) -> None:
        self._node = node
        self._on_loss = on_loss
        self._names: list[str] = []
        self._alive: dict[str, bool] = {}
        self._subscriptions: dict[str, Subscription] = {}

    def watch(self, names: list[str]) -> None:
        """Watches these nodes, and no others; each one counts from when it is first seen active."""
        self._names = names
        self._alive = {name: True for name, alive in self._alive.items() if alive}
        for name in set(names) - self._subscriptions.keys():
            callbacks = SubscriptionEventCallbacks(liveliness=partial(self._on_change, name))
            self._subscriptions[name] = self._node.create_subscription(
                Empty, f"/{name}/active", lambda _: None, qos.ACTIVE, event_callbacks=callbacks
            )

    def lost(self) -> list[str]:
        """Names of those that were active and are not any more."""
        return [name for name in self._names if not self._alive.get(name, True)]

    def _on_change(self, name: str, change: QoSLivelinessChangedInfo) -> None:
        alive = change.alive_count > 0
        was, self._alive[name] = self._alive.get(name, False), alive
        if was and not alive and name in self._names:
            self._on_loss(name)


def stop_on_signals() -> threading.Event:
    """An event that SIGINT and SIGTERM set.

    Whatever hangs after that (DDS, a pipe nobody reads any more), the process ends :data:`END_LIMIT` seconds later.
    """
    stop = threading.Event()

    def on_signal(*_: object) -> None:
        if not stop.is_set():
            limit = threading.Timer(END_LIMIT, os._exit, (1,))
            limit.daemon = True
            limit.start()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    return stop


def run_node(factory: Callable[[], ManagedNode], threads: int = 1, real_time: bool = False) -> int:
    """Runs a node until SIGINT, SIGTERM or an error, leaves it at rest, ends the process; the ``main`` of every node.

    Callbacks, and the shut-down, run in one executor thread (an OpenGL context made in configure stays usable); the
    main thread only waits for signals, so that even a busy node notices them.

    Args:
        factory: makes the node.
        threads: 1 for the events executor; more for a multi-threaded one, when callbacks have to run beside each other.
        real_time: whether the kernel should prefer it to whatever else runs, where it may.

    Returns:
        1 when the node could not be made. Else the process ends: with status 0 after a signal, 1 after an error.
    """
    stop = stop_on_signals()
    preferred = real_time and run_in_real_time()
    rclpy.init(args=sys.argv, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = factory()
        if real_time and not preferred:
            node.get_logger().info("not permitted to run in real time: commands may be late on a busy machine")
    except Exception as error:
        print(f"{sys.argv[0]}: {type(error).__name__}: {error}", file=sys.stderr)
        rclpy.shutdown()
        return 1
    executor = _executor(threads)
    executor.add_node(node)
    failed = False

    def spin() -> None:
        nonlocal failed
        try:
            while not stop.is_set():
                executor.spin_once(timeout_sec=0.2)  # EventsExecutor.spin() without a timeout never calls back in 9.1.2
        except Exception:
            failed = True
            node.get_logger().fatal(f"a callback failed:\n{traceback.format_exc()}")
        finally:
            stop.set()
            executor.shutdown()
            node.shut_down()

    thread = threading.Thread(target=spin, name="executor")
    thread.start()
    while not stop.wait(timeout=1.0):  # a bounded wait, so that a signal taken by another thread is noticed as well
        pass
    thread.join(SHUTDOWN_LIMIT)
    if thread.is_alive():
        print(f"{node.get_name()}: not at rest within {SHUTDOWN_LIMIT:g} s, ended", file=sys.stderr, flush=True)
        os._exit(1)
    node.destroy_node()
    rclpy.try_shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(failed))  # all is at rest; unloading PyTorch and its like would take seconds more


def _executor(threads: int) -> Executor:
    if threads > 1:
        return MultiThreadedExecutor(num_threads=threads)
    try:
        from rclpy.experimental.events_executor import EventsExecutor
    except ImportError:  # before its backport to Jazzy
        return SingleThreadedExecutor()
    return EventsExecutor()
