# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A thin Python client of a running suite: give it an instruction, watch what comes of it.

with Commander(domain=0) as robot:
    outcome = robot.follow("open the drawer").result()
    following = robot.follow("close the drawer")
    ...
    robot.stop()
    robot.home()
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import rclpy
from action_msgs.srv import CancelGoal
from rclpy.action.client import ActionClient
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.client import Client
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger
from typing_extensions import Self

from arvrm_ros import msg as messages
from arvrm_ros.action import FollowInstruction, MoveTo
from arvrm_ros.contract import RobotContract
from arvrm_ros.data.types import RetrievedMotion
from arvrm_ros.errors import ArvrmError, ExecutionCode
from arvrm_ros.nodes import conversions, qos
from arvrm_ros.nodes.blocking import run_in
from arvrm_ros.srv import ResetScene


class CommanderError(ArvrmError):
    """The suite does not answer; the message says which part."""


@dataclass(frozen=True)
class Outcome:
    """What came of an instruction; the fields are those of ``FollowInstruction``'s result."""

    success: bool
    error_code: int
    error_msg: str
    success_source: str
    steps: int
    seconds: float


class Following:
    """An instruction in progress.

    Attributes:
        feedback: the newest, None before the first.
    """

    def __init__(self, commander: Commander) -> None:
        self._commander = commander
        self.feedback: FollowInstruction.Feedback | None = None
        self._goal: Any = None
        self._result: Any = None

    def result(self, timeout: float | None = None) -> Outcome:
        """Waits until it is over.

        Args:
            timeout: wall seconds; None waits as long as the policy node is there.

        Raises:
            CommanderError: time ran out, or the policy node went away.
        """
        answer = self._commander.wait(self._result, timeout, f"not over after {timeout} s")
        result = answer.result
        return Outcome(
            result.success, result.error_code, result.error_msg, result.success_source, result.steps, result.seconds
        )

    def done(self) -> bool:
        """Whether it is over."""
        return bool(self._result.done())

    def cancel(self, patience: float = 5.0) -> bool:
        """Asks for its end; the arm comes to rest. False when it is over already or nobody answers."""
        if self.done():
            return False
        try:
            response = self._commander.answer(
                self._goal.cancel_goal_async, patience, "policy_node did not take the cancel"
            )
        except CommanderError:
            return False
        return response.return_code == CancelGoal.Response.ERROR_NONE

    def _start(self, goal: Any, result: Future) -> Following:
        self._goal, self._result = goal, result
        return self


class Commander:
    """Talks to the nodes of one ROS domain, with a context and an executor thread of its own.

    Args:
        domain: ROS domain; None takes ``ROS_DOMAIN_ID``.
        sim_time: follow /clock.
    """

    def __init__(self, domain: int | None = None, sim_time: bool = False) -> None:
        self._context = Context()
        rclpy.init(
            args=[], context=self._context, domain_id=domain, signal_handler_options=SignalHandlerOptions.NO
        )  # without args it would read the program's own
        self.node = Node(
            "commander",
            context=self._context,
            parameter_overrides=[Parameter("use_sim_time", Parameter.Type.BOOL, sim_time)],
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        group = ReentrantCallbackGroup()
        self._follow: ActionClient = ActionClient(
            self.node, FollowInstruction, "/follow_instruction", callback_group=group
        )
        self._move: ActionClient = ActionClient(self.node, MoveTo, "/move_to", callback_group=group)
        self._reset: Client = self.node.create_client(ResetScene, "/simulation/reset", callback_group=group)
        self._triggers: dict[str, Client] = {
            name: self.node.create_client(Trigger, f"/execution/{name}", callback_group=group)
            for name in ("emergency_stop", "reset")
        }
        self._following: Following | None = None
        self._thread = threading.Thread(target=self._spin, name="commander", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops what is being followed and leaves the graph; harmless when repeated."""
        if not self._context.ok():
            return
        self.stop()
        self._executor.shutdown()
        self._thread.join(timeout=5.0)
        self.node.destroy_node()
        self._context.try_shutdown()

    def follow(
        self,
        instruction: str,
        timeout: float = 0.0,
        on_feedback: Callable[[FollowInstruction.Feedback], None] | None = None,
        patience: float = 30.0,
    ) -> Following:
        """Has an instruction followed, in place of one in progress; ``result()`` of what it returns waits for the end.

        Args:
            instruction: plain words.
            timeout: seconds (ROS time) for the robot; 0 takes the policy node's default.
            on_feedback: called in another thread with each feedback.
            patience: wall seconds to wait for the policy node to answer at all.

        Raises:
            CommanderError: no policy node, or it did not take the instruction.
        """
        if not self._follow.wait_for_server(timeout_sec=patience):
            raise CommanderError("no policy_node serves /follow_instruction: is the suite up on this ROS_DOMAIN_ID?")
        following = Following(self)

        def take(message: Any) -> None:
            following.feedback = message.feedback
            if on_feedback is not None:
                on_feedback(message.feedback)

        goal = FollowInstruction.Goal(instruction=instruction, timeout=float(timeout))
        handle = self.answer(
            lambda: self._follow.send_goal_async(goal, feedback_callback=take),
            patience,
            "policy_node did not take the instruction",
        )
        self._following = following._start(handle, run_in(self._executor, handle.get_result_async))
        return following

    def stop(self, patience: float = 5.0) -> bool:
        """Cancels the instruction in progress, from any thread: the arm comes to rest. False when there is none."""
        return self._following is not None and self._following.cancel(patience)

    def home(self, patience: float = 60.0) -> None:
        """Ends what is followed, moves the arm home, around what is in its way, and waits until it rests there.

        Raises:
            CommanderError: no execution node, it refused, or the arm did not get there in ``patience`` seconds.
        """
        if self._following is not None and self.stop():
            self._following.result(patience)
        if not self._move.wait_for_server(timeout_sec=min(patience, 30.0)):
            raise CommanderError("no execution_node serves /move_to: is the suite up on this ROS_DOMAIN_ID?")
        home = MoveTo.Goal(target=MoveTo.Goal.HOME)
        handle = self.answer(lambda: self._move.send_goal_async(home), patience, "execution_node did not take the goal")
        try:
            answer = self.answer(handle.get_result_async, patience, f"not home after {patience:g} s").result
        except BaseException:  # Ctrl-C, too
            run_in(self._executor, handle.cancel_goal_async)
            raise
        if answer.error_code != ExecutionCode.NONE:
            raise CommanderError(f"not home: {ExecutionCode(answer.error_code).name}: {answer.error_msg}")

    def emergency_stop(self, patience: float = 5.0) -> None:
        """Brakes the arm at its limits; it stays until :meth:`release`.

        Raises:
            CommanderError: no execution node answers.
        """
        self._trigger("emergency_stop", patience)

    def release(self, patience: float = 5.0) -> None:
        """Ends an emergency stop.

        Raises:
            CommanderError: no execution node answers.
        """
        self._trigger("reset", patience)

    def reset_scene(self, seed: int, task: str = "", variant: str = "", patience: float = 30.0) -> None:
        """Puts the simulated tabletop into a fresh state.

        Raises:
            CommanderError: no simulator, or it refused.
        """
        if not self._reset.wait_for_service(timeout_sec=patience):
            raise CommanderError("no simulation_node serves /simulation/reset")
        request = ResetScene.Request(seed=seed, task=task, variant=variant)
        response = self.answer(
            lambda: self._reset.call_async(request), patience, "simulation_node did not reset the scene"
        )
        if not response.success:
            raise CommanderError(f"the scene was not reset: {response.message}")

    def answer(self, ask: Callable[[], Future], timeout: float, problem: str) -> Any:
        """What a client's call is answered; as :meth:`wait`."""
        return self.wait(run_in(self._executor, ask), timeout, problem)

    def wait(self, future: Future, timeout: float | None, problem: str) -> Any:
        """The future's result, waited for in small pieces, so that Ctrl-C is noticed and a dead server is too.

        Raises:
            CommanderError: ``problem`` after ``timeout`` seconds; without one, that the policy node went away.
        """
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        give_up = None if timeout is None else time.monotonic() + timeout
        while not done.wait(0.2):
            if give_up is not None and time.monotonic() > give_up:
                raise CommanderError(problem)
            if timeout is None and not self._follow.server_is_ready():
                raise CommanderError("policy_node went away while following")
        return future.result()

    def _trigger(self, name: str, patience: float) -> None:
        client = self._triggers[name]
        if not client.wait_for_service(timeout_sec=min(patience, 30.0)):
            raise CommanderError(f"nobody serves /execution/{name}: is the suite up on this ROS_DOMAIN_ID?")
        response = self.answer(
            lambda: client.call_async(Trigger.Request()), patience, f"/execution/{name} did not answer"
        )
        if not response.success:
            raise CommanderError(f"/execution/{name}: {response.message}")

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()


@dataclass(frozen=True)
class Sample:
    """A value and the stamp of the message it came in, seconds."""

    stamp: float
    value: Any


class Recorder:
    """Listens to everything a report shows, between :meth:`start` and :meth:`stop`.

    Streams: ``images/NAME`` (uint8 RGB), ``retrieved`` (list of RetrievedMotion, confidence, mode, instruction),
    ``chunk`` (stages, progress), ``execution`` (state, error_msg, tracking_error, capture_to_command), ``task``
    (success, scene), ``feedback`` is the caller's.
    """

    def __init__(self, commander: Commander, contract: RobotContract) -> None:
        self._lock = threading.Lock()
        self._recording = False
        self._samples: dict[str, list[Sample]] = defaultdict(list)
        self.analogy_map: np.ndarray | None = None  # (S, K), the newest
        node = commander.node
        for name, camera in contract.observation.cameras.items():
            node.create_subscription(Image, camera.topic, lambda m, n=name: self._on_image(n, m), qos.SENSOR)
        node.create_subscription(messages.RetrievedMotions, "/retrieved_motions", self._on_retrieved, qos.LATCHED)
        node.create_subscription(messages.ActionChunk, "/action_chunk", self._on_chunk, qos.RELIABLE)
        node.create_subscription(messages.ExecutionStatus, "/execution_status", self._on_execution, qos.RELIABLE)
        node.create_subscription(messages.TaskStatus, "/task_status", self._on_task, qos.RELIABLE)
        node.create_subscription(messages.AnalogyMap, "/analogy_map", self._on_map, qos.LATCHED)

    def start(self) -> None:
        """Forgets what was recorded, and records from now on."""
        with self._lock:
            self._samples = defaultdict(list)
            self._recording = True

    def stop(self) -> dict[str, list[Sample]]:
        """What was recorded, per stream."""
        with self._lock:
            self._recording = False
            return dict(self._samples)

    def _add(self, stream: str, message: Any, value: Any) -> None:
        with self._lock:
            if self._recording:
                self._samples[stream].append(Sample(conversions.to_seconds(message.header.stamp), value))

    def _on_image(self, name: str, message: Image) -> None:
        self._add(f"images/{name}", message, np.array(conversions.message_to_image(message)))

    def _on_retrieved(self, message: messages.RetrievedMotions) -> None:
        motions: list[RetrievedMotion] = conversions.message_to_retrieved(message)
        value = {"motions": motions, "confidence": message.confidence, "mode": message.mode}
        self._add("retrieved", message, value | {"instruction": message.instruction})

    def _on_chunk(self, message: messages.ActionChunk) -> None:
        if message.poses:
            stages = dict(zip(message.stage, map(float, message.stage_seconds), strict=False))
            self._add("chunk", message, {"stages": stages, "progress": message.progress})

    def _on_execution(self, message: messages.ExecutionStatus) -> None:
        value = {
            "state": message.state,
            "error_msg": message.error_msg,
            "sequence": message.sequence,
            "tracking_error": message.tracking_error,
            "capture_to_command": message.capture_to_command,
        }
        self._add("execution", message, value)

    def _on_task(self, message: messages.TaskStatus) -> None:
        self._add("task", message, {"success": message.success, "scene": message.scene})

    def _on_map(self, message: messages.AnalogyMap) -> None:
        self.analogy_map = conversions.message_to_analogy_map(message)
