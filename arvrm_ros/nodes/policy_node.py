# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Follows instructions: serves ``FollowInstruction``, asks for human clips, turns observations into action chunks.

The policy runs in a thread of its own, once per new set of images; callbacks only hand it inputs. Every goal ends in
one place, a timer on the wall clock, so that it also ends when simulated time stands still.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from rclpy.action.server import ServerGoalHandle
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from arvrm_ros import msg as messages
from arvrm_ros.action import FollowInstruction
from arvrm_ros.data.messages import joint_state_to_arrays
from arvrm_ros.data.types import Observation
from arvrm_ros.errors import ArvrmError, ExecutionCode, InstructionCode
from arvrm_ros.nodes import conversions, qos
from arvrm_ros.nodes.lifecycle import ManagedNode, run_node
from arvrm_ros.nodes.parameters import Parameters, parameter
from arvrm_ros.nodes.serving import serve_goals
from arvrm_ros.policies import load_policy
from arvrm_ros.policies.observing import ObservationBuffer, StaleInputError
from arvrm_ros.retrieval.wording import familiar_wording

SUPERVISION_PERIOD = 0.02  # s


@dataclass(frozen=True)
class PolicyParameters(Parameters):
    """Parameters of the policy node."""

    policy: str = parameter(
        "arvrm_tabletop", "checkpoint: NAME of checkpoints/NAME, or the path of a checkpoint's folder"
    )
    threads: int = parameter(1, "CPU threads of the inference", low=1, high=64)
    timeout: float = parameter(60.0, "time for a goal that names none", unit="s", low=1.0, high=3600.0)
    retrieval_timeout: float = parameter(
        3.0, "wait for retrieved clips before following without them; 0 does not wait", unit="s", low=0.0, high=60.0
    )
    rewords: bool = parameter(
        True, "follow an unfamiliar instruction in the nearest words of training or of the clips' captions"
    )
    stale_grace: float = parameter(
        2.0, "silence of an input, beyond its limit, that fails the goal", unit="s", low=0.1, high=60.0
    )
    refused_chunks: int = parameter(20, "chunks refused in a row that fail the goal", low=1, high=1000)
    success: str = parameter(
        "auto", "who ends an instruction with success; auto: the oracle where one judges, else the policy",
        choices=("auto", "oracle", "policy"),
    )  # fmt: skip
    progress_threshold: float = parameter(0.95, "progress at which the policy calls a task done", low=0.1, high=1.0)
    progress_chunks: int = parameter(8, "chunks in a row above the threshold", low=1, high=1000)
    fast: bool = parameter(False, "8-bit arithmetic in the large encoders: half the time, a small error of the actions")


@dataclass
class _Session:
    """One goal in progress. Guarded by the node's lock where two threads touch it."""

    goal: ServerGoalHandle
    instruction: str
    started: float  # ROS seconds
    timeout: float
    wording: str  # as which the instruction is read
    motions: list[Any] | None = None  # retrieved; None: not answered yet
    confidence: float = 0.0
    captions: list[str] = field(default_factory=list)
    following: bool = False
    steps: int = 0
    progress: float = 0.0
    above: int = 0  # chunks in a row with progress above the threshold
    last_stamp: float = -np.inf  # of the newest observation used
    since_accepted: int = 0  # chunks sent since the executor last accepted one
    accepted: int = -1  # the executor's last accepted sequence
    refusal: str = ""
    stale_since: float | None = None  # monotonic
    stale: StaleInputError | None = None
    judged: bool = False  # the oracle has said "not yet" during this goal
    succeeded: str = ""  # by whom
    failure: tuple[InstructionCode, str] | None = None


class PolicyNode(ManagedNode):
    """See the module."""

    params: PolicyParameters

    def __init__(self) -> None:
        super().__init__("policy_node", PolicyParameters)
        self._entities: list[Callable[[], Any]] = []
        self._wake = threading.Condition()  # guards the session, the buffer and the flags below
        self._session: _Session | None = None
        self._running = False
        self._thread: threading.Thread | None = None
        self._timer: Any = None
        self._sequence = 0

    def configure(self) -> None:
        self._policy = load_policy(self.params.policy, self.contract)
        if self.params.fast:
            self._policy.accelerate()
        _limit_threads(self.params.threads)
        self._warm_up()
        self._buffer = ObservationBuffer(self.contract)
        self._last_input: dict[str, float] = {}  # monotonic arrival per topic
        observation = self.contract.observation
        self._instructions = self._made(self.create_publisher(String, "/instruction", qos.LATCHED))
        self._chunks = self._made(self.create_publisher(messages.ActionChunk, "/action_chunk", qos.RELIABLE))
        self._maps = self._made(self.create_publisher(messages.AnalogyMap, "/analogy_map", qos.LATCHED))
        for name, camera in observation.cameras.items():
            self._subscribe(Image, camera.topic, partial(self._on_image, name), qos.SENSOR)
        self._subscribe(JointState, observation.joint_states.topic, self._on_joints, qos.SENSOR)
        if self.contract.limits.max_drift > 0:  # else nobody asks for them, and they are many
            self._subscribe(JointTrajectory, self.contract.action.arm_topic, self._on_commands, qos.COMMANDS)
        self._subscribe(messages.RetrievedMotions, "/retrieved_motions", self._on_retrieved, qos.LATCHED)
        self._subscribe(messages.ExecutionStatus, "/execution_status", self._on_execution, qos.RELIABLE)
        self._subscribe(messages.TaskStatus, "/task_status", self._on_task, qos.RELIABLE)
        server = serve_goals(self, FollowInstruction, "/follow_instruction", self._on_goal)
        self._entities.append(server.destroy)

    def _warm_up(self) -> None:
        """One step on black images: the first real one is not slower than the rest."""
        observation = self.contract.observation
        self._policy.reset("")
        self._policy.predict_chunk(
            Observation(
                stamp=0.0,
                images={n: np.zeros((c.height, c.width, 3), np.uint8) for n, c in observation.cameras.items()},
                joint_positions=np.array(self.contract.home),
                gripper=1.0,
            )
        )

    def activate(self) -> None:
        self._buffer.clear()
        self._running = True
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()
        self._timer = self.create_timer(
            SUPERVISION_PERIOD, self._supervise, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._instructions.publish(String(data=""))
        self._publish_map()

    def deactivate(self) -> None:
        if self._timer is not None:
            self.destroy_timer(self._timer)
            self._timer = None
        if self._session is not None:
            self._end(self._session, InstructionCode.NOT_ACTIVE, "the policy node was deactivated")
        with self._wake:
            self._running = False
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def cleanup(self) -> None:
        for destroy in reversed(self._entities):
            destroy()
        self._entities = []

    def diagnose(self) -> Mapping[str, str | float]:
        session = self._session
        return {
            "policy": self._policy.name,
            "instruction": session.instruction if session else "",
            "chunks": self._sequence,
        }

    def _made(self, publisher: Any) -> Any:
        self._entities.append(lambda: self.destroy_publisher(publisher))
        return publisher

    def _subscribe(self, kind: type, topic: str, callback: Callable[[Any], None], profile: Any) -> None:
        subscription = self.create_subscription(kind, topic, callback, profile)
        self._entities.append(lambda: self.destroy_subscription(subscription))

    # Inputs, in the executor's thread.

    def _on_image(self, camera: str, message: Image) -> None:
        topic = self.contract.observation.cameras[camera].topic
        try:
            image = conversions.message_to_image(message)
            with self._wake:
                self._buffer.add_image(camera, conversions.to_seconds(message.header.stamp), image)
                self._last_input[topic] = time.monotonic()
                self._wake.notify_all()
        except ArvrmError as error:
            self.edges.update(topic, str(error))
        else:
            self.edges.update(topic, None)

    def _on_joints(self, message: JointState) -> None:
        try:
            positions, _, gripper = joint_state_to_arrays(message, self.contract)
        except ArvrmError as error:
            self.edges.update("joint states", str(error))
            return
        self.edges.update("joint states", None)
        with self._wake:
            self._buffer.add_joints(conversions.to_seconds(message.header.stamp), positions, gripper)
            self._last_input[self.contract.observation.joint_states.topic] = time.monotonic()

    def _on_commands(self, message: JointTrajectory) -> None:
        """What the execution node sends the controller."""
        if tuple(message.joint_names) != self.contract.joints or not message.points:
            return  # not the execution node's
        start = conversions.to_seconds(message.header.stamp)
        stamps = [start + conversions.to_seconds(point.time_from_start) for point in message.points]
        with self._wake:
            self._buffer.add_commands(stamps, np.array([point.positions for point in message.points]))

    def _on_retrieved(self, message: messages.RetrievedMotions) -> None:
        with self._wake:
            session = self._session
            if session is None or message.instruction != session.instruction:
                return
            if conversions.to_seconds(message.header.stamp) < session.started - 1e-3:
                return  # the latched answer to the same words, said earlier in another scene
            try:
                session.motions = conversions.message_to_retrieved(message)
            except ArvrmError as error:
                self.edges.update("retrieved motions", str(error))
                return
            self.edges.update("retrieved motions", None)
            if not session.following:  # what was understood holds until the end
                self._read(session)
            session.confidence = message.confidence
            session.captions = [motion.caption for motion in message.motions]
            self._wake.notify_all()
        self._publish_feedback(session)

    def _read(self, session: _Session) -> None:
        """Decides in which words the instruction is followed."""
        if not self.params.rewords:
            return
        before, familiar = session.wording, self._policy.familiar(session.instruction)
        session.wording = familiar_wording(session.instruction, session.motions or [], familiar)
        if session.wording not in (before, session.instruction):
            self.get_logger().info(f'"{session.instruction}" is read as "{session.wording}"')

    def _on_execution(self, message: messages.ExecutionStatus) -> None:
        with self._wake:
            session = self._session
            if session is None:
                return
            if message.error_code == ExecutionCode.NONE or message.sequence != session.accepted:
                session.accepted, session.since_accepted = message.sequence, 0
            session.refusal = message.error_msg

    def _on_task(self, message: messages.TaskStatus) -> None:
        with self._wake:
            session = self._session
            if session is None or not message.task or self.params.success == "policy":
                return
            if conversions.to_seconds(message.header.stamp) < session.started:
                return
            if not message.success:
                session.judged = True
            elif session.judged:  # done during this goal, not before it
                session.succeeded = "oracle"

    # Goals, in the executor's thread. A goal is carried out by timer and inference thread; `execute` only at its end
    # hands the result over, so that no callback ever blocks.

    def _on_goal(self, goal: ServerGoalHandle) -> None:
        instruction = goal.request.instruction.strip()
        session = _Session(goal, instruction, self.now(), goal.request.timeout or self.params.timeout, instruction)
        if not self.is_active:
            self._conclude(session, InstructionCode.NOT_ACTIVE, "the policy node is not active")
            return
        if not instruction:
            self._conclude(session, InstructionCode.EMPTY_INSTRUCTION, "the instruction is empty")
            return
        if not (np.isfinite(session.timeout) and session.timeout > 0):
            session.timeout = self.params.timeout
        if self._session is not None:
            rest = self.contract.watchdogs.rest_between_instructions
            self._end(self._session, InstructionCode.PREEMPTED, "a newer instruction took over", rest)
        self._read(session)
        with self._wake:
            self._session = session
            self._wake.notify_all()
        self._instructions.publish(String(data=instruction))
        self.get_logger().info(f"following {instruction!r}")
        self._publish_feedback(session)

    def _supervise(self) -> None:
        session = self._session
        if session is None:
            return
        with self._wake:
            ending = self._ending(session)
        if ending is not None:
            self._end(session, *ending)

    def _ending(self, session: _Session) -> tuple[InstructionCode, str] | None:
        """Why the goal is over now, None when it goes on."""
        self._watch_inputs(session)
        if session.goal.is_cancel_requested:
            return InstructionCode.CANCELED, "canceled; the arm comes to rest"
        if session.succeeded:
            return InstructionCode.NONE, ""
        if session.failure is not None:
            return session.failure
        if self.now() - session.started > session.timeout:
            return InstructionCode.TIMEOUT, f"not done within {session.timeout:g} s"
        if session.stale is not None and time.monotonic() - (session.stale_since or 0.0) > self.params.stale_grace:
            return session.stale.code, str(session.stale)
        if session.since_accepted >= self.params.refused_chunks and session.refusal:
            return InstructionCode.EXECUTION_REFUSED, session.refusal
        return None

    def _watch_inputs(self, session: _Session) -> None:
        """Notes since when an input is missing: by its stamps or, when the clock stands still, by the wall clock."""
        try:
            self._buffer.check(self.now())
            for topic, seen in self._last_input.items():
                if time.monotonic() - seen > self.params.stale_grace:
                    images = topic != self.contract.observation.joint_states.topic
                    code = InstructionCode.STALE_IMAGES if images else InstructionCode.STALE_JOINT_STATES
                    raise StaleInputError(code, f"{topic} is silent for more than {self.params.stale_grace:g} s")
        except StaleInputError as error:
            if session.stale is None:
                session.stale_since = time.monotonic()
            session.stale = error
            self.edges.update("observation", str(error))
        else:
            session.stale = None
            self.edges.update("observation", None)

    def _end(self, session: _Session, code: InstructionCode, message: str, rest: bool = True) -> None:
        """Ends the goal in progress: the arm is asked to rest, the instruction is cleared, the result is sent."""
        with self._wake:
            self._session = None
            if rest:
                self._publish_hold(session)
        self.edges.update("observation", None)
        self._instructions.publish(String(data=""))
        self._conclude(session, code, message)
        self.get_logger().info(
            f"{session.instruction!r}: {'done' if code == InstructionCode.NONE else f'{code.name}: {message}'} "
            f"after {session.steps} chunks, {self.now() - session.started:.1f} s"
        )

    def _publish_hold(self, session: _Session) -> None:
        """An empty chunk: come to rest now instead of following the last chunk to its end."""
        hold = messages.ActionChunk(
            header=conversions.header(self.now(), self.contract.base_frame), instruction=session.instruction
        )
        self._chunks.publish(hold)

    def _conclude(self, session: _Session, code: InstructionCode, message: str) -> None:
        result = FollowInstruction.Result(
            error_code=int(code),
            error_msg=message,
            success=code == InstructionCode.NONE,
            success_source=session.succeeded or ("oracle" if session.judged else "policy"),
            steps=session.steps,
            seconds=max(0.0, self.now() - session.started),
        )

        def hand_over(goal: ServerGoalHandle) -> FollowInstruction.Result:
            if code == InstructionCode.NONE and not goal.is_cancel_requested:
                goal.succeed()
            elif goal.is_cancel_requested:
                goal.canceled()
            else:
                goal.abort()
            return result

        session.goal.execute(hand_over)

    # Inference, in a thread of its own.

    def _work(self) -> None:
        current: _Session | None = None
        used: list[Any] | None = None
        while True:
            with self._wake:
                while self._running and not self._ready():
                    self._wake.wait(timeout=0.1)
                if not self._running:
                    return
                session = self._session
                assert session is not None
                try:
                    observation = self._buffer.observation(self.now())
                except StaleInputError:
                    self._wake.wait(timeout=0.05)  # the supervision reports it
                    continue
                session.last_stamp = observation.stamp
                motions, wording = session.motions, session.wording
            try:
                if session is not current:
                    self._policy.reset(session.instruction)
                    current, used = session, None
                if motions is not used or not session.following:
                    self._policy.set_retrieved(motions or [], wording)
                    used = motions
                self._step(session, observation)
            except ArvrmError as error:
                self._fail(session, str(error))
            except Exception as error:
                self.get_logger().error(f"the policy failed: {type(error).__name__}: {error}", throttle_duration_sec=5)
                self._fail(session, f"{type(error).__name__}: {error}")

    def _ready(self) -> bool:
        """Whether there is a goal whose clips have come, or are not waited for, and an image set not used yet."""
        session = self._session
        if session is None or session.failure is not None or session.succeeded:
            return False
        waits = session.motions is None and self._policy.retrieves > 0
        if waits and self.now() - session.started < self.params.retrieval_timeout:
            return False
        stamp = self._buffer.newest_stamp()
        return stamp is not None and stamp > session.last_stamp and stamp >= session.started

    def _step(self, session: _Session, observation: Observation) -> None:
        age = self.now() - observation.stamp
        started = time.perf_counter()
        chunk = self._policy.predict_chunk(observation)
        seconds = time.perf_counter() - started
        period = self.contract.action.step_period
        slow = f"a step takes {seconds:.2f} s, longer than the {period:g} s from one step of a chunk to the next"
        self.edges.update("policy", slow if seconds > period else None)
        chunk.stages = {"image_to_policy": max(0.0, age), **chunk.stages, "policy_step": seconds}
        chunk.instruction = session.instruction
        with self._wake:
            if session is not self._session:
                return  # ended while the policy was thinking
            self._sequence += 1
            chunk.sequence = self._sequence
            session.steps += 1
            session.since_accepted += 1
            session.following = True
            session.progress = chunk.progress
            self._judge_progress(session)
            self._chunks.publish(conversions.chunk_to_message(chunk, self.contract.base_frame))
        for stage, took in chunk.stages.items():
            self.stages.add(stage, took)
        self._publish_feedback(session, seconds)
        if session.steps == 1:
            self._publish_map()

    def _publish_feedback(self, session: _Session, policy_seconds: float = 0.0) -> None:
        session.goal.publish_feedback(
            FollowInstruction.Feedback(
                phase="following" if session.following else "retrieving",
                step=session.steps,
                progress=float(session.progress),
                confidence=float(session.confidence),
                retrieved=session.captions,
                wording=session.wording,
                policy_seconds=policy_seconds,
            )
        )

    def _judge_progress(self, session: _Session) -> None:
        """Without an oracle, the policy's own estimate ends the instruction."""
        session.above = session.above + 1 if session.progress >= self.params.progress_threshold else 0
        own = self.params.success == "policy" or (self.params.success == "auto" and not session.judged)
        if own and session.above >= self.params.progress_chunks:
            session.succeeded = "policy"

    def _fail(self, session: _Session, reason: str) -> None:
        with self._wake:
            session.failure = (InstructionCode.POLICY_FAILED, reason)

    def _publish_map(self) -> None:
        weights = self._policy.analogy_map
        if weights is not None:
            self._maps.publish(conversions.analogy_map_to_message(weights, self.now()))


def _limit_threads(threads: int) -> None:
    """Limits PyTorch, if the policy uses it; more threads than cores make a step slower, not faster."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def main() -> int:
    """Runs the node."""
    return run_node(PolicyNode)


if __name__ == "__main__":
    sys.exit(main())
