# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Breaks a running suite on purpose: a relay between its processes, and what is done to the processes themselves."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.client import Client
from rclpy.experimental.events_executor import EventsExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Empty
from trajectory_msgs.msg import JointTrajectory

from arvrm_ros import msg as messages
from arvrm_ros.bringup import Supervisor
from arvrm_ros.contract import RobotContract, load_contract
from arvrm_ros.errors import ArvrmError, ExecutionCode
from arvrm_ros.evaluation.demo import plan
from arvrm_ros.evaluation.faults import PLANNING, TICK, Effect, Fault, Judge, Outcome, Traffic
from arvrm_ros.motion import chunk_planner
from arvrm_ros.motion.planning_process import planning_process
from arvrm_ros.nodes import qos
from arvrm_ros.nodes.commander import Commander, CommanderError, Following
from arvrm_ros.nodes.conversions import to_seconds, to_time
from arvrm_ros.suite import SuiteError, Values

BEFORE = "/before_relay"
"""Prefix of the topics between a sender and the relay."""

MOVING = 0.1  # rad/s of the fastest joint for a fault to be worth injecting
PATIENCE = 60.0  # wall seconds for the arm to move, or to move again
STORM = 20  # goals
EVERY = QoSProfile(depth=2000, reliability=ReliabilityPolicy.RELIABLE)
"""The judge misses nothing, on a busy machine either."""


class CampaignError(ArvrmError):
    """The suite does not do what a fault needs it to do; the message says what."""


@dataclass(frozen=True)
class _Link:
    sender: str
    topics: tuple[str, ...]
    kind: Any
    profile: QoSProfile


def links(contract: RobotContract) -> dict[str, _Link]:
    """What the relay carries; images between driver and camera node, so that the camera node has its share."""
    raw = {name: camera.raw_topic for name, camera in contract.observation.cameras.items()}
    return {
        "joint_states": _Link("simulation_node", (contract.observation.joint_states.topic,), JointState, qos.SENSOR),
        "camera_images": _Link("simulation_node", tuple(raw.values()), Image, qos.SENSOR),
        "chunks": _Link("policy_node", ("/action_chunk",), messages.ActionChunk, qos.RELIABLE),
        "trajectories": _Link("execution_node", (contract.action.arm_topic,), JointTrajectory, qos.COMMANDS),
        "retrieved_motions": _Link("retrieval_node", ("/retrieved_motions",), messages.RetrievedMotions, qos.LATCHED),
    }


def remappings(contract: RobotContract) -> dict[str, dict[str, str]]:
    """Per node, what makes it send to the relay."""
    rules: dict[str, dict[str, str]] = {}
    for link in links(contract).values():
        rules.setdefault(link.sender, {}).update({topic: BEFORE + topic for topic in link.topics})
    return rules


class Relay:
    """Carries every link's messages from their senders to their receivers, and breaks those of one link.

    Args:
        node: whose executor runs it.
        contract: names the topics.
    """

    def __init__(self, node: Node, contract: RobotContract) -> None:
        self._effect: Effect | None = None
        self._broken: tuple[str, ...] = ()
        self._memory: dict[str, dict] = {}
        self._rng = np.random.default_rng(0)
        self._later: list[Any] = []  # (monotonic seconds, order, what publishes)
        self._count = itertools.count()
        self._wake = threading.Condition()
        self._topics = {name: link.topics for name, link in links(contract).items()}
        last_camera = self._topics["camera_images"][-1]
        self._topics["gripper_images"] = (last_camera,)
        for link in links(contract).values():
            for topic in link.topics:
                publisher = node.create_publisher(link.kind, topic, link.profile)
                node.create_subscription(
                    link.kind, BEFORE + topic, partial(self._carry, topic, link.kind, publisher), link.profile, raw=True
                )
        threading.Thread(target=self._send_later, name="relay", daemon=True).start()

    def break_link(self, name: str, effect: Effect, seed: int) -> None:
        """Lets an effect act on every message of a link, until :meth:`mend`."""
        self._memory = {}
        self._rng = np.random.default_rng(seed)
        self._broken, self._effect = self._topics[name], effect

    def mend(self) -> None:
        """Carries everything as it is."""
        self._effect, self._broken = None, ()

    def _carry(self, topic: str, kind: Any, publisher: Any, raw: bytes) -> None:
        effect = self._effect
        if effect is None or topic not in self._broken:
            publisher.publish(raw)
            return
        traffic = Traffic(
            raw, partial(deserialize_message, message_type=kind), self._rng, self._memory.setdefault(topic, {})
        )
        for seconds, message in effect(traffic):
            if seconds > 0:
                with self._wake:
                    due = (time.monotonic() + seconds, next(self._count), partial(publisher.publish, message))
                    heapq.heappush(self._later, due)
                    self._wake.notify()
            else:
                publisher.publish(message)

    def _send_later(self) -> None:
        while True:
            with self._wake:
                while not self._later or self._later[0][0] > time.monotonic():
                    self._wake.wait(self._later[0][0] - time.monotonic() if self._later else None)
                _, _, publish = heapq.heappop(self._later)
            with contextlib.suppress(Exception):  # the campaign has ended meanwhile
                publish()


class Campaign:
    """One suite after the other, each broken until it goes down.

    Args:
        values: arguments of the simulation suite.
        logs: folder for the logs of each suite.
        seed: of scenes, instructions and effects.
    """

    def __init__(self, values: Values, logs: Path, seed: int = 0) -> None:
        self._values, self._logs, self._seed = values, logs, seed
        self._contract = load_contract(values["robot"])
        self._assignments = itertools.cycle(plan(60, seed))
        self._suites = itertools.count(1)
        self._supervisor: Supervisor | None = None
        self._following: Following | None = None
        self._statuses: list[messages.ExecutionStatus] = []
        self._judged_until = -np.inf
        self.judge = Judge(self._contract)
        self._robot = Commander(sim_time=False)
        # Not the commander's executor: what is carried must not wait for its services, nor for a slow wait set.
        node = self._node = Node("fault_campaign", context=self._robot.node.context)
        self._executor = EventsExecutor(context=node.context)
        self._executor.add_node(node)
        self._open = True
        self._thread = threading.Thread(target=self._spin, name="campaign", daemon=True)
        self._relay = Relay(node, self._contract)
        joints = self._contract.observation.joint_states.topic
        node.create_subscription(JointState, "/simulation/controller_state", self._on_controller, EVERY)
        node.create_subscription(JointState, "/simulation/arm_placed", self._on_placed, EVERY)
        node.create_subscription(JointState, BEFORE + joints, self._on_joints, qos.SENSOR)
        node.create_subscription(
            JointTrajectory, BEFORE + self._contract.action.arm_topic, self._on_trajectory, qos.COMMANDS
        )
        node.create_subscription(messages.ExecutionStatus, "/execution_status", self._on_status, qos.RELIABLE)
        self._clock = node.create_publisher(Clock, "/clock", qos.CLOCK)
        self._stop = node.create_publisher(Empty, "/emergency_stop", qos.RELIABLE)
        self._thread.start()

    def close(self) -> None:
        """Ends the suite."""
        self._down()
        self._open = False
        self._thread.join(timeout=5.0)
        self._executor.shutdown()
        self._node.destroy_node()
        self._robot.close()

    def inject(self, number: int, fault: Fault) -> Outcome:
        """Brings the arm into motion, injects a fault, judges, and sees whether the suite goes on.

        Raises:
            CampaignError: the arm could not be brought into motion beforehand.
        """
        self._move()
        outcome = Outcome(number, fault.kind, round(self.judge.speed(), 3))
        begin, judged_until = self.judge.now, self._judged_until
        undo = self._break(fault, number)
        try:
            if fault.action in ("cancel", "cancel storm", "deactivate"):
                begin = self.judge.now  # when the last one is done
            self._wait_simulated(begin + (1.5 if fault.seconds <= 0 else fault.seconds))
            if fault.ends_suite:
                self._wait(lambda: not self._running(), 20.0)
            if fault.rest is not None:
                last, commanded = (self.judge.rest_since(begin, measured) for measured in (True, False))
                outcome.rested_after = None if last is None else round(last - begin, 3)
                outcome.commanded_rest_after = None if commanded is None else round(commanded - begin, 3)
                outcome.at_rest = last is not None and last - begin <= fault.rest
        finally:
            undo()
        if fault.ends_suite:
            outcome.note = self._ended() or "the suite went on"
            self.judge.judge(outcome, judged_until)
            self._down()
        try:
            self._move()
            outcome.recovered = True
        except (CampaignError, SuiteError) as error:
            outcome.note = str(error)
        if not fault.ends_suite:
            self.judge.judge(outcome, judged_until)
        self._judged_until = self.judge.now
        return outcome

    def _spin(self) -> None:
        while self._open:
            self._executor.spin_once(timeout_sec=0.2)

    # The suite.

    def _running(self) -> bool:
        return self._supervisor is not None and not self._supervisor.ended()

    def _ended(self) -> str:
        return self._supervisor.ended() if self._supervisor is not None else ""

    def _up(self) -> None:
        self._down()
        folder = self._logs / f"{next(self._suites):03d}"
        self._supervisor = Supervisor("simulation", self._values, None, folder, remappings(self._contract))
        self.judge.forget()
        self._judged_until = -np.inf
        self._supervisor.start()
        self._supervisor.wait_until_up()

    def _down(self) -> None:
        if self._supervisor is not None:
            self._supervisor.stop()
            self._supervisor = None
        self._following = None

    def _move(self) -> None:
        """Has instructions followed until the arm moves along a chunk that was accepted.

        Raises:
            CampaignError: it does not within the patience.
        """
        give_up = time.monotonic() + PATIENCE
        if not self._running():
            self._up()
            give_up = time.monotonic() + PATIENCE
        self._statuses.clear()
        since = self.judge.now
        while time.monotonic() < give_up and self._running():
            if self._following is None or self._following.done():
                assignment = next(self._assignments)
                with contextlib.suppress(CommanderError):  # of a suite that does not answer; it is asked again
                    self._robot.reset_scene(assignment.seed, assignment.task, patience=5.0)
                    self._following = self._robot.follow(assignment.instruction, patience=5.0)
                    since = self.judge.now
            follows = bool(self._statuses) and _follows(self._statuses[-1])
            if follows and self.judge.speed() > MOVING and self.judge.now > since + 5 * TICK:
                return
            time.sleep(TICK)
        reason = "; execution says " + self._statuses[-1].error_msg if self._statuses else ""
        raise CampaignError(self._ended() or f"the arm does not move within {PATIENCE:g} s{reason}")

    def _wait_simulated(self, until: float) -> None:
        """Waits for a simulated time, or until simulated time has stood still for a while."""
        seen, since = self.judge.now, time.monotonic()
        while self.judge.now < until and time.monotonic() - since < 3.0:
            if self.judge.now > seen:
                seen, since = self.judge.now, time.monotonic()
            time.sleep(TICK)

    @staticmethod
    def _wait(condition: Callable[[], bool], timeout: float) -> bool:
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(TICK)
        return True

    # Faults.

    def _break(self, fault: Fault, seed: int) -> Callable[[], None]:
        """Begins a fault; returns what ends it."""
        if fault.effect is not None:
            self._relay.break_link(fault.target, fault.effect, seed)
            return self._relay.mend
        return getattr(self, "_do_" + fault.action.replace(" ", "_").lower())(fault)

    def _pid(self, name: str) -> int:
        assert self._supervisor is not None
        if name == PLANNING:
            return planning_process(self._supervisor.pids["execution_node"], chunk_planner.PROCESS).pid
        return self._supervisor.pids[name]

    def _do_kill(self, fault: Fault) -> Callable[[], None]:
        os.kill(self._pid(fault.target), signal.SIGKILL)
        return _nothing

    def _do_sigterm_to(self, fault: Fault) -> Callable[[], None]:
        os.kill(self._pid(fault.target), signal.SIGTERM)
        return _nothing

    def _do_sigint_to(self, fault: Fault) -> Callable[[], None]:
        os.kill(self._pid(fault.target), signal.SIGINT)
        return _nothing

    def _do_freeze_for_1_s(self, fault: Fault) -> Callable[[], None]:
        pid = self._pid(fault.target)
        os.kill(pid, signal.SIGSTOP)
        return partial(os.kill, pid, signal.SIGCONT)

    def _do_deactivate(self, fault: Fault) -> Callable[[], None]:
        self._transition(fault.target, Transition.TRANSITION_DEACTIVATE)
        return partial(self._transition, fault.target, Transition.TRANSITION_ACTIVATE)

    def _transition(self, name: str, transition: int) -> None:
        client: Client = self._robot.node.create_client(ChangeState, f"/{name}/change_state")
        try:
            if client.wait_for_service(timeout_sec=5.0):
                request = ChangeState.Request(transition=Transition(id=transition))
                self._robot.answer(lambda: client.call_async(request), 10.0, f"{name} did not change its state")
        finally:
            self._robot.node.destroy_client(client)

    def _do_jump_clock(self, fault: Fault) -> Callable[[], None]:
        self._clock.publish(Clock(clock=to_time(max(0.0, self.judge.now + fault.seconds))))
        return _nothing

    def _do_shake_clock(self, fault: Fault) -> Callable[[], None]:
        rng = np.random.default_rng(self._seed)
        for _ in range(50):
            self._clock.publish(Clock(clock=to_time(max(0.0, self.judge.now + float(rng.uniform(-3, 3))))))
            time.sleep(2 * TICK)
        return _nothing

    def _do_cancel(self, _: Fault) -> Callable[[], None]:
        assert self._following is not None
        self._following.cancel()
        return _nothing

    def _do_cancel_storm(self, fault: Fault) -> Callable[[], None]:
        for _ in range(STORM):
            following = self._robot.follow(next(self._assignments).instruction, patience=10.0)
            following.cancel()
        return _nothing

    def _do_preemption_storm(self, fault: Fault) -> Callable[[], None]:
        for _ in range(STORM):
            self._following = self._robot.follow(next(self._assignments).instruction, patience=10.0)
        return _nothing

    def _do_stop_by_topic(self, _: Fault) -> Callable[[], None]:
        self._stop.publish(Empty())
        return self._release

    def _do_stop_by_service(self, _: Fault) -> Callable[[], None]:
        self._robot.emergency_stop()
        return self._release

    def _release(self) -> None:
        self._robot.release()

    # What the simulated robot does.

    def _on_controller(self, message: JointState) -> None:
        self.judge.commanded(to_seconds(message.header.stamp), np.array(message.position), np.array(message.velocity))

    def _on_joints(self, message: JointState) -> None:
        n = len(self._contract.joints)
        positions, velocities = np.array(message.position[:n]), np.array(message.velocity[:n])
        self.judge.measured(to_seconds(message.header.stamp), positions, velocities)

    def _on_placed(self, message: JointState) -> None:
        self.judge.placed(to_seconds(message.header.stamp))

    def _on_trajectory(self, message: JointTrajectory) -> None:
        times = np.array([to_seconds(point.time_from_start) for point in message.points])
        motion = [np.array([getattr(point, name) for point in message.points]) for name in ("positions", "velocities")]
        self.judge.trajectory(message.joint_names, times, motion)

    def _on_status(self, message: messages.ExecutionStatus) -> None:
        self._statuses.append(message)


def _follows(status: messages.ExecutionStatus) -> bool:
    return status.state == status.FOLLOWING and status.error_code == ExecutionCode.NONE


def _nothing() -> None:
    """What ends a fault that is over by itself."""
