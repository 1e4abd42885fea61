# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Executes action chunks: checks them, follows them with joint commands, holds when none come, stops on request.

The control timer runs on the ROS clock, so that in simulation the arm moves at the simulation's speed; a simulator that
publishes /clock at the control rate or faster ticks it once per period, and periods that were missed (a lost clock
message) are made up for in the next tick, so that the motion does not stretch.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from rclpy.action.server import ActionServer, CancelResponse, ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.task import Future
from rclpy.timer import Timer
from sensor_msgs.msg import JointState
from std_msgs.msg import Empty
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from arvrm_ros import msg as messages
from arvrm_ros.action import ExecuteChunk
from arvrm_ros.data.messages import MessageError
from arvrm_ros.data.types import ActionChunk
from arvrm_ros.errors import ExecutionCode, MotionRefused
from arvrm_ros.motion.backends import BACKENDS, Backend, TrajectoryPoint, make_backend
from arvrm_ros.motion.executor import ChunkExecutor, ExecutorSettings, ExecutorState, JointCommand
from arvrm_ros.nodes import conversions, qos
from arvrm_ros.nodes.lifecycle import ManagedNode, StreamWatch, run_node
from arvrm_ros.nodes.parameters import Parameters, parameter

STATUS_PERIOD = 0.1  # s
MOST_MISSED = 5  # control periods made up for in one tick
JUMP = 0.1  # rad between two joint states beyond what the velocity limits allow: the arm was put somewhere else


@dataclass(frozen=True)
class ExecutionParameters(Parameters):
    """Parameters of the execution node."""

    backend: str = parameter("embedded", "how commands reach the robot", choices=BACKENDS)
    rate: float = parameter(100.0, "joint commands per second", unit="Hz", low=20.0, high=1000.0)
    blend: float = parameter(0.1, "fade from the present motion into a new chunk", unit="s", low=0.02, high=1.0)
    newest_weight: float = parameter(
        1.0, "weight of a new chunk against the ones before it (temporal ensembling); 1 follows it alone",
        low=0.05, high=1.0,
    )  # fmt: skip


@dataclass
class _Goal:
    """The ExecuteChunk goal in progress; ``done`` resolves to (code, message)."""

    handle: ServerGoalHandle
    done: Future
    canceling: bool = False


class ExecutionNode(ManagedNode):
    """See the module."""

    params: ExecutionParameters

    def __init__(self) -> None:
        super().__init__("execution_node", ExecutionParameters)
        self._chunk_executor: ChunkExecutor | None = None
        self._entities: list[tuple[object, object]] = []
        self._timer: Timer | None = None
        self._actions: ActionServer | None = None
        self._goal: _Goal | None = None

    def configure(self) -> None:
        self._backend: Backend = make_backend(self.params.backend)
        self._period = 1.0 / self.params.rate
        self._simulated = bool(self.get_parameter("use_sim_time").value)
        settings = ExecutorSettings(self._period, self.params.blend, self.params.newest_weight)
        self._chunk_executor = ChunkExecutor(self.contract, settings)
        source = self.contract.observation.joint_states
        self._watch = StreamWatch(source.topic, source.max_age, self.edges)
        action = self.contract.action
        self._arm = self.create_publisher(JointTrajectory, action.arm_topic, qos.RELIABLE)
        self._gripper = self.create_publisher(JointTrajectory, action.gripper_topic, qos.RELIABLE)
        self._status = self.create_publisher(messages.ExecutionStatus, "/execution_status", qos.RELIABLE)
        self._subscriptions_made = [
            self.create_subscription(JointState, source.topic, self._on_joint_states, qos.SENSOR),
            self.create_subscription(messages.ActionChunk, "/action_chunk", self._on_chunk, qos.RELIABLE),
            self.create_subscription(Empty, "/emergency_stop", lambda _: self._emergency_stop(), qos.RELIABLE),
        ]
        self._services_made = [
            self.create_service(Trigger, "/execution/emergency_stop", self._on_emergency_stop),
            self.create_service(Trigger, "/execution/reset", self._on_reset),
        ]
        self._actions = ActionServer(
            self,
            ExecuteChunk,
            "/execute_chunk",
            self._on_goal,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
            callback_group=ReentrantCallbackGroup(),
        )

    def activate(self) -> None:
        self._tracking = False  # until the first joint states say where the arm is
        self._last_positions: tuple[np.ndarray, float] | None = None
        self._last_tick, self._last_status = self.now(), -np.inf
        self._shown: tuple[ExecutorState, ExecutionCode] | None = None
        self._sequence = 0
        self._capture_to_command = 0.0
        self._uncommanded: ActionChunk | None = None
        self._timer = self.create_timer(self._period, self._tick)

    def deactivate(self) -> None:
        if self._timer is not None:
            self.destroy_timer(self._timer)
            self._timer = None
        if self._tracking:
            self._come_to_rest()
        self._finish(ExecutionCode.NOT_ACTIVE, "the execution node was deactivated")

    def cleanup(self) -> None:
        if self._actions is None:
            return
        self._actions.destroy()
        self._actions = None
        for subscription in self._subscriptions_made:
            self.destroy_subscription(subscription)
        for service in self._services_made:
            self.destroy_service(service)
        for publisher in (self._arm, self._gripper, self._status):
            self.destroy_publisher(publisher)
        self._chunk_executor = None

    def diagnose(self) -> dict[str, str | float]:
        code, message = self._motion.error
        return {
            "backend": self.params.backend,
            "motion": self._motion.state.name,
            "error": f"{code.name}: {message}" if code else "",
            "sequence": self._sequence,
            "tracking_error_rad": round(self._motion.tracking_error, 4),
            "capture_to_command_ms": round(self._capture_to_command * 1e3, 1),
        }

    @property
    def _motion(self) -> ChunkExecutor:
        assert self._chunk_executor is not None, "not configured"
        return self._chunk_executor

    def _on_joint_states(self, message: JointState) -> None:
        if not self.is_active:
            return
        try:
            positions, _, gripper = conversions.joint_state_to_arrays(message, self.contract)
        except MessageError as error:
            self.edges.update("joint states", str(error))
            return
        self.edges.update("joint states", None)
        stamp = conversions.to_seconds(message.header.stamp)
        self._watch.seen(stamp)
        if not self._tracking or self._jumped(positions, stamp):
            self._motion.reset(positions, gripper, stamp)
            self._finish(ExecutionCode.TRACKING_ERROR, "the arm was put somewhere else")
            self._tracking = True
        self._last_positions = (positions, stamp)
        self._motion.measured(positions, gripper, stamp)

    def _jumped(self, positions: np.ndarray, stamp: float) -> bool:
        """Whether a simulator was reset: the arm is where it cannot have moved to, or time runs backwards.

        Starting over drops the present velocity, so a real arm never does: there, the tracking error brakes it.
        """
        if self._last_positions is None or not self._simulated:
            return False
        before, then = self._last_positions
        allowed = JUMP + 2 * np.array(self.contract.limits.velocity) * max(0.0, stamp - then)
        jumped = stamp < then - self._period or bool(np.any(np.abs(positions - before) > allowed))
        if jumped:
            self.get_logger().info("the arm was put somewhere else; starting over from where it is")
        return jumped

    def _on_chunk(self, message: messages.ActionChunk) -> None:
        if not self.is_active:
            return
        if not message.poses:  # the policy asks for rest: its instruction is over
            if self._tracking:
                self._motion.hold(self.now())
                self._finish(ExecutionCode.PREEMPTED, "the policy asked for rest")
            return
        try:
            self._accept(message)
        except MotionRefused:
            return  # logged, and published with the status

    def _accept(self, message: messages.ActionChunk) -> None:
        """Hands a chunk to the executor; what was moving is preempted. Raises MotionRefused."""
        try:
            if message.header.frame_id != self.contract.base_frame:
                raise MotionRefused(
                    ExecutionCode.INVALID_CHUNK,
                    f"its frame is {message.header.frame_id!r} instead of {self.contract.base_frame!r}",
                )
            if not self._tracking:
                raise MotionRefused(ExecutionCode.STALE_JOINT_STATES, f"no joint states on {self._watch.name} yet")
            chunk = conversions.message_to_chunk(message)
            self._motion.accept(chunk, self.now())
        except MotionRefused as refusal:
            if self._motion.state is not ExecutorState.STOPPED:
                self._motion.error = (refusal.code, str(refusal))
            self.edges.update("chunk refused", f"{refusal.code.name}: {refusal}")
            self._publish_status(self.now())
            raise
        self.edges.update("chunk refused", None)
        self._sequence = chunk.sequence
        self._uncommanded = chunk
        self._finish(ExecutionCode.PREEMPTED, "a newer chunk took over")

    async def _on_goal(self, handle: ServerGoalHandle) -> ExecuteChunk.Result:
        try:
            if not self.is_active:
                raise MotionRefused(ExecutionCode.NOT_ACTIVE, "the execution node is not active")
            self._accept(handle.request.chunk)
        except MotionRefused as refusal:
            handle.abort()
            return ExecuteChunk.Result(error_code=int(refusal.code), error_msg=str(refusal))
        self._goal = _Goal(handle, Future())
        code, message = await self._goal.done  # type: ignore[misc]  # rclpy types a Future by no result
        if code is ExecutionCode.NONE:
            handle.succeed()
        elif code is ExecutionCode.CANCELED:
            handle.canceled()
        else:
            handle.abort()
        return ExecuteChunk.Result(error_code=int(code), error_msg=message)

    def _finish(self, code: ExecutionCode, message: str) -> None:
        """Ends the goal in progress, if there is one."""
        if self._goal is not None:
            goal, self._goal = self._goal, None
            goal.done.set_result((code, message))

    def _tick(self) -> None:
        now = self.now()
        self._watch.fresh(now)
        if self._tracking:
            elapsed = min(max(now - self._last_tick, 0.0), MOST_MISSED * self._period)
            for i in reversed(range(max(1, round(elapsed / self._period)))):
                command = self._motion.step(now - i * self._period)
            self._last_tick = now
            self._publish(command)
            if self._uncommanded is not None:
                self._capture_to_command = self.now() - self._uncommanded.stamp
                self._uncommanded = None
            self._watch_goal(now)
        shown = (self._motion.state, self._motion.error[0])
        if shown != self._shown or not 0 <= now - self._last_status < STATUS_PERIOD - self._period / 2:
            self._publish_status(now)

    def _watch_goal(self, now: float) -> None:
        goal, motion = self._goal, self._motion
        if goal is None:
            return
        if goal.handle.is_cancel_requested and not goal.canceling:
            goal.canceling = True
            motion.hold(now)
        if goal.canceling:
            if motion.at_rest and now >= motion.ends_at:
                self._finish(ExecutionCode.CANCELED, "canceled; the arm rests")
        elif motion.state is not ExecutorState.FOLLOWING:
            self._finish(*motion.error)
        elif motion.at_rest and now >= motion.ends_at:
            self._finish(ExecutionCode.NONE, "")

    def _publish(self, command: JointCommand) -> None:
        gripper = self.contract.gripper
        position = gripper.position(command.gripper)
        arm_point = self._backend.arm_point(command, self._period)
        self._arm.publish(_trajectory(self.contract.joints, arm_point))
        self._gripper.publish(_trajectory((gripper.joint,), self._backend.gripper_point(position, self._period)))

    def _publish_status(self, now: float) -> None:
        code, message = self._motion.error
        self._shown, self._last_status = (self._motion.state, code), now
        self._status.publish(
            messages.ExecutionStatus(
                header=conversions.header(now, self.contract.base_frame),
                state=int(self._motion.state),
                error_code=int(code),
                error_msg=message,
                sequence=self._sequence,
                tracking_error=self._motion.tracking_error,
                capture_to_command=self._capture_to_command,
            )
        )
        goal = self._goal
        if goal is not None and goal.handle.is_active:
            goal.handle.publish_feedback(
                ExecuteChunk.Feedback(step=self._motion.step_index(now), tracking_error=self._motion.tracking_error)
            )

    def _come_to_rest(self) -> None:
        """Brings the arm to rest before this returns. On the wall clock: callbacks, /clock's too, wait meanwhile."""
        now, give_up = self.now(), time.monotonic() + 2.0
        self._motion.hold(now)
        while time.monotonic() < give_up:
            self._publish(self._motion.step(now))
            if self._motion.at_rest and now >= self._motion.ends_at:
                return
            now += self._period
            time.sleep(self._period)
        self.get_logger().error("the arm did not come to rest within 2 s")

    def _emergency_stop(self) -> None:
        if self._motion.state is not ExecutorState.STOPPED:
            self.get_logger().warning("emergency stop; call /execution/reset before the arm moves again")
        self._motion.emergency_stop()
        self._finish(*self._motion.error)

    def _on_emergency_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._emergency_stop()
        response.success, response.message = True, "the arm brakes and stays; call /execution/reset to go on"
        return response

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        stopped = self._motion.state is ExecutorState.STOPPED
        self._motion.clear_emergency_stop()
        response.success = True
        response.message = "the arm takes chunks again" if stopped else "no emergency stop was latched"
        if stopped:
            self.get_logger().info("emergency stop cleared")
        return response


def _trajectory(joints: tuple[str, ...], point: TrajectoryPoint) -> JointTrajectory:
    """A one-point trajectory. A zero stamp means: start at once."""
    return JointTrajectory(
        joint_names=list(joints),
        points=[
            JointTrajectoryPoint(
                positions=list(point.positions),
                velocities=list(point.velocities),
                time_from_start=conversions.to_duration(point.time_from_start),
            )
        ],
    )


def main() -> int:
    """Runs the node."""
    return run_node(ExecutionNode)


if __name__ == "__main__":
    raise SystemExit(main())
