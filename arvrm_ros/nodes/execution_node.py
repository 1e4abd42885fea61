# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Executes action chunks: checks them, follows them with joint commands, holds when none come, stops on request.

The control timer runs on the ROS clock, so that in simulation the arm moves at the simulation's speed; a simulator that
publishes /clock at the control rate or faster ticks it once per period. What is sent reaches a little into the future
and ends at rest (:mod:`arvrm_ros.motion.stream`), so that neither a late tick nor the death of this process is a jerk.
Chunks and goal moves are planned in processes of their own, so that they do not delay the commands.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from rclpy.action.server import ActionServer, ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.timer import Timer
from sensor_msgs.msg import JointState
from std_msgs.msg import Empty
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from arvrm_ros import msg as messages
from arvrm_ros import real_time
from arvrm_ros.action import ExecuteChunk
from arvrm_ros.data.messages import MessageError, joint_state_to_arrays
from arvrm_ros.errors import ExecutionCode, MotionRefused
from arvrm_ros.motion import chunk_planner, safety
from arvrm_ros.motion.backends import Backend, TrajectoryPoint, make_backend, moveit
from arvrm_ros.motion.chunk_planner import ChunkPlanner
from arvrm_ros.motion.executor import ChunkExecutor, ExecutorSettings, ExecutorState, Plan
from arvrm_ros.motion.planning import Planner
from arvrm_ros.motion.planning_process import PlanningProcess
from arvrm_ros.motion.plausibility import ClockCheck, JointStateCheck
from arvrm_ros.motion.stream import COMMITTED, FORESEEN, JOIN, REST, CommandStream, StreamedTrajectory
from arvrm_ros.nodes import conversions, qos
from arvrm_ros.nodes.goal_moves import GoalMoves, GoalParameters
from arvrm_ros.nodes.lifecycle import ManagedNode, PeerWatch, StreamWatch, run_node
from arvrm_ros.nodes.parameters import ParameterError, parameter
from arvrm_ros.nodes.serving import give_result, serve_goals

if TYPE_CHECKING:
    from arvrm_ros.nodes.servo_stream import ServoStream  # needs MoveIt's messages

STATUS_PERIOD = 0.1  # s
PATIENCE = 5.0  # s for a chunk, of which planning it takes some milliseconds
TAKEN_UP = 2  # control periods from a plan, at most, until it is taken up
REJOIN = 0.005  # rad between command and measurement, at rest, from which MoveIt Servo's joints are taken over
PLACED_JOIN = 0.7  # s; as motion.stream.JOIN, once a simulator has placed the arm, which hears nothing for 0.3 s then
STOP_PERIODS = 40  # control periods in which every motion ends; the last message before a shut-down holds them


@dataclass(frozen=True)
class ExecutionParameters(GoalParameters):
    """Parameters of the execution node."""

    blend: float = parameter(0.1, "fade from the present motion into a new chunk", unit="s", low=0.02, high=1.0)
    newest_weight: float = parameter(
        1.0, "weight of a new chunk against the ones before it (temporal ensembling); 1 follows it alone",
        low=0.05, high=1.0,
    )  # fmt: skip
    foreseen: float = parameter(
        FORESEEN, "motion sent ahead, at most: by how much a command may be late, how long a dead node's arm goes on",
        unit="s", low=0.01, high=0.5,
    )  # fmt: skip
    rest: float = parameter(
        REST, "time in which the arm of a dead node rests, where less than 'foreseen' is sent ahead for that",
        unit="s", low=0.1, high=1.0,
    )  # fmt: skip
    lag: float = parameter(
        0.1, "by which the arm is behind its commands, at most, if nothing holds it; less notices a contact sooner",
        unit="s", low=0.0, high=0.5,
    )  # fmt: skip
    reference_topic: str = parameter(
        "",
        "joint states (sensor_msgs/JointState) that the arm's controller asks for, by which it is seen to follow; "
        "empty: by the measured ones alone",
    )
    chunk_stream: str = parameter(
        "controller", "where chunks go: to the controller, or to MoveIt Servo as twists or as poses",
        choices=("controller", "servo_twist", "servo_pose"),
    )  # fmt: skip
    watched_nodes: tuple[str, ...] = parameter(("",), "nodes whose death or deactivation brings the arm to rest")


class _Request:
    """A chunk to execute: from the topic, or a goal."""

    def __init__(self, chunk: messages.ActionChunk, handle: ServerGoalHandle | None = None) -> None:
        self.chunk = chunk
        self.handle = handle
        self.canceling = False
        self._done = False
        self.not_before = -np.inf  # s: a goal move has come to rest

    def finish(self, code: ExecutionCode, message: str) -> None:
        """Ends it, and its goal with a result; harmless when repeated."""
        if self._done:
            return
        self._done = True

        if self.handle is not None:
            give_result(self.handle, ExecuteChunk.Result, code, message)


class ExecutionNode(ManagedNode):
    """See the module."""

    params: ExecutionParameters

    def __init__(self) -> None:
        super().__init__("execution_node", ExecutionParameters)
        self._chunk_executor: ChunkExecutor | None = None
        self._stream: CommandStream | None = None
        self._timer: Timer | None = None
        self._actions: ActionServer | None = None
        self._moves: GoalMoves | None = None
        self._servo: ServoStream | None = None
        self._goal: _Request | None = None
        self._early: _Request | None = None  # the newest chunk, while the stream begins
        self._planning: PlanningProcess[ChunkPlanner] | None = None
        self._planner: Planner[_Request] | None = None
        self._peers = PeerWatch(self, self._on_peer_lost)
        # In every state: an emergency stop that comes before the node is up has to be there when it is.
        self._stop_latched = False
        self.create_subscription(Empty, "/emergency_stop", lambda _: self._emergency_stop(), qos.RELIABLE)
        self.create_service(Trigger, "/execution/emergency_stop", self._on_emergency_stop)
        self.create_service(Trigger, "/execution/reset", self._on_reset)

    def configure(self) -> None:
        self._backend: Backend = make_backend(self.params.backend)
        self._period = 1.0 / self.params.rate
        settings = ExecutorSettings(
            self._period,
            self.params.blend,
            self.params.newest_weight,
            lead=COMMITTED * self._period,
            lag=self.params.lag,
        )
        make = partial(ChunkPlanner, self.contract, settings)
        self._planning = planning = PlanningProcess(chunk_planner.PROCESS, make, PATIENCE, real_time.PLANNING)
        planning.wait()
        self._chunk_executor = ChunkExecutor(
            self.contract, settings, lambda *chunk: planning.call(ChunkPlanner.solve, *chunk)
        )
        if self._stop_latched:
            self._chunk_executor.emergency_stop()
        self._chunk_executor.warm_up()
        self._moves = GoalMoves(self, self.params)
        self._servo = self._make_servo()
        source = self.contract.observation.joint_states
        self._watch = StreamWatch(source.topic, source.max_age, self.edges)
        action = self.contract.action
        self._arm = self.create_publisher(JointTrajectory, action.arm_topic, qos.COMMANDS)
        self._gripper = self.create_publisher(JointTrajectory, action.gripper_topic, qos.COMMANDS)
        self._status = self.create_publisher(messages.ExecutionStatus, "/execution_status", qos.RELIABLE)
        self._subscriptions_made = [
            self.create_subscription(JointState, source.topic, self._on_joint_states, qos.SENSOR),
            *(
                [self.create_subscription(JointState, self.params.reference_topic, self._on_reference, qos.RELIABLE)]
                if self.params.reference_topic
                else []
            ),
            self.create_subscription(messages.ActionChunk, "/action_chunk", self._on_chunk, qos.RELIABLE),
            self.create_subscription(JointState, "/simulation/arm_placed", self._on_placed, qos.RELIABLE),
        ]
        self._peers.watch([name for name in self.params.watched_nodes if name])
        self._actions = serve_goals(self, ExecuteChunk, "/execute_chunk", self._on_goal, ReentrantCallbackGroup())

    def activate(self) -> None:
        self._stream = None  # until the first joint states say where the arm is
        self._joint_states = JointStateCheck(self.contract)
        max_age = self.contract.observation.joint_states.max_age
        self._clock_check = ClockCheck(self.params.foreseen + self._period, max_age, self.now())
        self._last_status = -np.inf
        self._rejoins_at = -np.inf
        self._shown: tuple[ExecutorState, ExecutionCode] | None = None
        self._sequence = 0
        self._capture_to_command = 0.0
        self._accepted: tuple[float, float] | None = None  # capture stamp, and when, until it is commanded
        self._planner = Planner(self._plan, partial(self.stages.add, "plan"))
        self._timer = self.create_timer(self._period, self._tick)

    def deactivate(self) -> None:
        if self._timer is not None:
            self.destroy_timer(self._timer)
            self._timer = None
        if self._stream is not None:
            self._come_to_rest()
        self._end_all(ExecutionCode.NOT_ACTIVE, "the execution node was deactivated")
        self._goal_moves.leave()
        self._stream = None
        if self._planner is not None:
            self._planner.close()
            self._planner = None

    def cleanup(self) -> None:
        if self._moves is not None:
            self._moves.close()
            self._moves = None
        if self._servo is not None:
            self._servo.close()
            self._servo = None
        if self._planning is not None:
            self._planning.close()
            self._planning = None
        if self._actions is None:
            return
        self._actions.destroy()
        self._actions = None
        for subscription in self._subscriptions_made:
            self.destroy_subscription(subscription)
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
            "lost_nodes": ", ".join(self._peers.lost()),
            "tracking_error_rad": round(self._motion.tracking_error, 4),
            "lag_s": round(self._motion.measured_lag, 3),
        }

    @property
    def _motion(self) -> ChunkExecutor:
        assert self._chunk_executor is not None, "not configured"
        return self._chunk_executor

    @property
    def _goal_moves(self) -> GoalMoves:
        assert self._moves is not None, "not configured"
        return self._moves

    # What goal moves ask of the node; one of the two commands the arm at a time.

    @property
    def motion(self) -> ChunkExecutor:
        """What the arm follows."""
        return self._motion

    @property
    def handed_over(self) -> bool:
        """Another moves the arm, and this node sends nothing."""
        return self._rejoins_at == np.inf

    def check_ready(self) -> None:
        """Raises MotionRefused when nothing may move."""
        if not self.is_active:
            raise MotionRefused(ExecutionCode.NOT_ACTIVE, "the execution node is not active")
        if self.handed_over:
            message = "another executes a goal move, which is stopped now; ask again"
            raise MotionRefused(ExecutionCode.PREEMPTED, message)
        if self._stream is None:
            raise self._not_ready()
        if lost := self._peers.lost():
            raise MotionRefused(ExecutionCode.NOT_ACTIVE, f"{', '.join(lost)}: dead or not active any more")

    def rest(self) -> None:
        """Brings the arm to rest on its path."""
        if self._stream is not None:
            stream = self._stream
            self._change(lambda: self._motion.hold(stream.until))

    def hold(self, code: ExecutionCode, message: str) -> None:
        """Brings the arm to rest on its path and drops every chunk and goal move."""
        self._drop_waiting(code, message)
        self.rest()
        self._end_all(code, message)

    def decided_until(self) -> float:
        """Seconds, ROS time, up to which commands are decided."""
        return self.now() if self._stream is None else self._stream.until

    def measured(self) -> tuple[np.ndarray, float]:
        """The newest joint positions (n,) rad, and their stamp in seconds."""
        assert self._joint_states.last is not None
        return self._joint_states.last

    def begin_move(self) -> np.ndarray:
        """(n,) rad at which the arm rests, and from which it is commanded by this node, whatever Servo did before."""
        if self._servo is not None:
            positions, stamp = self.measured()
            self._start_from(positions, self._gripper_opening, stamp)
        return self._motion.commanded

    def hand_over(self) -> None:
        """Sends nothing, until :meth:`take_back`."""
        self._stream, self._rejoins_at = None, np.inf

    def take_back(self) -> None:
        """Sends commands again, from where the next joint states say that the arm is."""
        self._rejoins_at = self.now()

    # Joint states.

    def _on_joint_states(self, message: JointState) -> None:
        if not self.is_active:
            return
        try:
            positions, _, gripper = joint_state_to_arrays(message, self.contract)
            stamp = conversions.to_seconds(message.header.stamp)
            if not self._joint_states.is_newer(stamp, self.now()):
                return
            if self._joint_states.last is None:  # these are the first, or the clock was set back
                self._stream, self._rejoins_at = None, np.inf if self.handed_over else -np.inf
            deviation = min(self._motion.deviation(positions, stamp), self._goal_moves.deviation(positions))
            self._joint_states.believe(positions, stamp, deviation)
        except MessageError as error:
            self.edges.update("joint states", str(error))
            return
        self.edges.update("joint states", None)
        self._watch.seen(stamp)
        self._gripper_opening = gripper
        if self._stream is None and stamp > self._rejoins_at and self._sound(self.now()):
            self._start_from(positions, gripper, stamp)
        if self._to_servo:
            assert self._servo is not None
            positions = self._servo.seen_from_the_end_effector(positions, self._motion.commanded)
        if not self.handed_over:
            self._motion.measured(positions, gripper, stamp, gives_way=not self._to_servo)
        if self._stream is not None and self._motion.error[0] is ExecutionCode.TRACKING_ERROR:
            self._lose(self._motion.error[1])

    def _on_reference(self, message: JointState) -> None:
        if self._stream is None or not self.is_active:
            return
        if self._stream.is_lost(np.array(message.position), conversions.to_seconds(message.header.stamp)):
            self._lose("the controller does not follow what it is sent")

    def _lose(self, problem: str) -> None:
        """Sends nothing, by which the arm comes to rest, and then goes on from where it is."""
        self.edges.update("controller", problem)
        self._end_all(ExecutionCode.TRACKING_ERROR, problem)
        self._stream, self._rejoins_at = None, self.now() + 2 * self.params.rest
        if self._motion.state is not ExecutorState.STOPPED:
            self._motion.hold(self.now())
            self._motion.error = (ExecutionCode.TRACKING_ERROR, problem)

    def _on_placed(self, message: JointState) -> None:
        """A simulator was reset: the arm is somewhere else, at rest."""
        if not self.is_active:
            return
        positions, _, gripper = joint_state_to_arrays(message, self.contract)
        stamp = conversions.to_seconds(message.header.stamp)
        self._end_all(ExecutionCode.PREEMPTED, "the simulator was reset")
        self._joint_states.last = positions, stamp
        if not self.handed_over:
            self._start_from(positions, gripper, stamp, PLACED_JOIN)

    def _start_from(self, positions: np.ndarray, gripper: float, stamp: float, join: float = JOIN) -> None:
        self._motion.reset(positions, gripper, stamp)
        now = self.now()
        self._clock_check.goes_on(now)
        self.edges.update("controller", None)
        self._stream = CommandStream(self._motion, now, self.params.foreseen, self.params.rest, join)

    # Chunks.

    def _on_chunk(self, message: messages.ActionChunk) -> None:
        if not self.is_active:
            return
        if message.poses:
            self._submit(_Request(message))
        elif not self._goal_moves.active:  # the policy asks for rest: its instruction is over
            self.hold(ExecutionCode.PREEMPTED, "the policy asked for rest")

    def _on_goal(self, handle: ServerGoalHandle) -> None:
        request = _Request(handle.request.chunk, handle)
        if self.is_active:
            self._submit(request)
        else:
            request.finish(ExecutionCode.NOT_ACTIVE, "the execution node is not active")

    def _submit(self, request: _Request) -> None:
        """Hands a chunk to the planning thread, once the stream has begun; one that still waits is out of date."""
        try:
            if self._goal_moves.active:
                safety.check_values(conversions.message_to_chunk(request.chunk))
                self.hold(ExecutionCode.PREEMPTED, "a chunk took over")
                request.not_before = self._motion.ends_at
            self._check_ready(request.chunk)
        except MotionRefused as refusal:
            self._refuse(request, refusal)
            return
        if self._stream is not None and self.now() < self._stream.begins:
            outdated, self._early = self._early, request
        else:
            outdated = self._planner.submit(request) if self._planner is not None else None
        if outdated is not None:
            outdated.finish(ExecutionCode.PREEMPTED, "a newer chunk took over")

    def _check_ready(self, chunk: messages.ActionChunk) -> None:
        if chunk.header.frame_id != self.contract.base_frame:
            raise MotionRefused(
                ExecutionCode.INVALID_CHUNK,
                f"its frame is {chunk.header.frame_id!r} instead of {self.contract.base_frame!r}",
            )
        self.check_ready()
        if self._servo is not None:
            self._servo.check(self.now())

    def _not_ready(self) -> MotionRefused:
        code, problem = self._motion.error
        if code is ExecutionCode.TRACKING_ERROR:
            return MotionRefused(code, problem)
        return MotionRefused(ExecutionCode.STALE_JOINT_STATES, f"no joint states on {self._watch.name} yet")

    def _plan(self, request: _Request, seconds: float) -> Plan:
        """In the planning thread."""
        stream = self._stream
        if stream is None:
            raise self._not_ready()
        start = max(stream.changes_at + seconds + TAKEN_UP * self._period, request.not_before)
        return self._motion.plan(conversions.message_to_chunk(request.chunk), start, self.now())

    def _follow_planned(self) -> None:
        """Follows what has been planned; up to where it begins, that is what moves already."""
        planner = self._planner
        if planner is None or (planned := planner.take()) is None:
            return
        request, plan = planned
        try:
            if isinstance(plan, MotionRefused):
                raise plan
            self._check_ready(request.chunk)
            chunk = plan.chunk
            assert chunk is not None
            self._motion.adopt(plan)
        except MotionRefused as refusal:
            if refusal.code is not ExecutionCode.PREEMPTED:
                self._refuse(request, refusal)
            elif not planner.submit_again(request):  # too late, but not past: a chunk ends by its own stamps
                request.finish(ExecutionCode.PREEMPTED, "a newer chunk took over")
            return
        self.edges.update("chunk refused", None)
        self.edges.update("chunk clamped", self._motion.clamped or None)
        self._sequence = chunk.sequence
        self._finish(ExecutionCode.PREEMPTED, "a newer chunk took over")
        self._goal = request
        self._accepted = (chunk.stamp, time.perf_counter())

    def _refuse(self, request: _Request, refusal: MotionRefused) -> None:
        if self._motion.state is not ExecutorState.STOPPED:
            self._motion.error = (refusal.code, str(refusal))
        self.edges.update("chunk refused", f"{refusal.code.name}: {refusal}")
        self._publish_status(self.now())
        request.finish(refusal.code, str(refusal))

    def _drop_waiting(self, code: ExecutionCode, message: str) -> None:
        """Forgets chunks that are not followed yet."""
        early, self._early = self._early, None
        for request in (early, *(self._planner.drop() if self._planner is not None else ())):
            if request is not None:
                request.finish(code, message)

    def _finish(self, code: ExecutionCode, message: str) -> None:
        """Ends the chunk that is followed, if there is one."""
        if self._goal is not None:
            goal, self._goal = self._goal, None
            goal.finish(code, message)

    def _end_all(self, code: ExecutionCode, message: str) -> None:
        """Ends what waits, what is followed, and goal moves."""
        self._drop_waiting(code, message)
        self._finish(code, message)
        self._goal_moves.end(code, message)

    # Rest.

    def _change(self, motion: Callable[[], None]) -> None:
        """Changes the motion from where it is now, and sends it at once."""
        now, stream = self.now(), self._stream
        if stream is None or not self._sound(now):
            motion()
            return
        stream.advance(now)
        motion()
        self._send(now)

    def _on_peer_lost(self, name: str) -> None:
        if not self.is_active:
            return
        message = f"{name} is dead or not active any more"
        self.hold(ExecutionCode.NOT_ACTIVE, message)
        if self._motion.state is not ExecutorState.STOPPED:
            self._motion.error = (ExecutionCode.NOT_ACTIVE, message)
        self.get_logger().warning(f"{message}: the arm comes to rest")

    def _come_to_rest(self) -> None:
        """Sends the way to rest in one piece, and waits as long as it takes, on the wall clock: /clock waits, too."""
        assert self._stream is not None
        now = self.now()
        if not self._sound(now):
            time.sleep(self.params.foreseen + self.params.rest)  # it rests by what was sent before
            return
        self._stream.advance(now)
        self._motion.hold(self._stream.until)
        trajectory = self._stream.trajectory(now, STOP_PERIODS)
        self._publish(trajectory)
        moving = [time for time, command in trajectory.points if np.abs(command.velocities).max() > 1e-3]
        time.sleep(moving[-1] + self.params.lag if moving else 0.0)

    def _emergency_stop(self) -> None:
        latched, self._stop_latched = self._stop_latched, True
        if self._chunk_executor is not None:
            self._change(self._motion.emergency_stop)
            self._end_all(*self._motion.error)
        if not latched:
            self.get_logger().warning("emergency stop; call /execution/reset before the arm moves again")

    def _on_emergency_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._emergency_stop()
        response.success, response.message = True, "the arm brakes and stays; call /execution/reset to go on"
        return response

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = True
        response.message = "the arm takes chunks again" if self._stop_latched else "no emergency stop was latched"
        if self._stop_latched:
            self.get_logger().info("emergency stop cleared")
        self._stop_latched = False
        if self._chunk_executor is not None:
            self._motion.clear_emergency_stop()
        return response

    # Commands.

    def _tick(self) -> None:
        now = self.now()
        self.stages.add("tick", self._clock_check.tick(time.monotonic()))
        self._watch.fresh(now)
        sound = self._stream is not None and self._sound(now)
        stopped = self._clock_check.stopped_for(now) if sound else 0.0
        if stopped and not (self._motion.at_rest and now >= self._motion.ends_at):
            self._lose(f"it may have missed commands, as this process was stopped for {stopped:.2f} s")
        if sound and self._stream is not None:
            self._stream.advance(now)
            self._clock_check.goes_on(now)
            if self._early is not None and now >= self._stream.begins:
                early, self._early = self._early, None
                self._submit(early)
            self._follow_planned()
            self._watch_goal(now, self._stream)
            if self._stream.due(now):
                self._send(now)
            if self._to_servo:
                self._watch_servo(now)
        if sound or self._stream is None:  # nothing begins by a clock that is not believed
            self._goal_moves.tick(now)
        shown = (self._motion.state, self._motion.error[0])
        if shown != self._shown or not 0 <= now - self._last_status < STATUS_PERIOD - self._period / 2:
            self._publish_status(now)

    def _sound(self, now: float) -> bool:
        """Whether the clock can be believed; while not, nothing is sent: the arm rests by what was sent before."""
        last = self._joint_states.last
        problem = self._clock_check.problem(now, time.monotonic(), None if last is None else last[1])
        self.edges.update("clock", problem)
        return problem is None

    def _watch_goal(self, now: float, stream: CommandStream) -> None:
        goal, motion = self._goal, self._motion
        if goal is None:
            return
        rests = motion.at_rest and now >= motion.ends_at
        if goal.handle is not None and goal.handle.is_cancel_requested and not goal.canceling:
            goal.canceling = True
            motion.hold(stream.until)
        elif goal.canceling:
            if rests:
                self._finish(ExecutionCode.CANCELED, "canceled; the arm rests")
        elif motion.state is not ExecutorState.FOLLOWING:
            self._finish(*motion.error)
        elif rests:
            self._finish(ExecutionCode.NONE, "")

    def _send(self, now: float) -> None:
        assert self._stream is not None
        self._publish(self._stream.trajectory(now))
        if self._accepted is not None:
            captured, accepted = self._accepted
            self._capture_to_command, self._accepted = self.now() - captured, None
            self.stages.add("capture_to_command", self._capture_to_command)
            self.stages.add("accepted_to_command", time.perf_counter() - accepted)

    def _publish(self, trajectory: StreamedTrajectory) -> None:
        gripper, points = self.contract.gripper, trajectory.points
        if not self._to_servo:
            arm = [self._backend.arm_point(command, after) for after, command in points]
            self._arm.publish(_trajectory(self.contract.joints, trajectory.start, arm))
        elif not self._rests(trajectory.start):  # at rest, Servo may fall silent: the controller holds the arm
            assert self._servo is not None
            follows = self._motion.state is ExecutorState.FOLLOWING
            self._servo.send(points[0][1], trajectory.start, to_the_pose=follows)
        finger = [
            self._backend.gripper_point(gripper.position(opening), after) for after, opening in trajectory.gripper
        ]
        self._gripper.publish(_trajectory((gripper.joint,), trajectory.start, finger))

    # MoveIt Servo.

    def _make_servo(self) -> ServoStream | None:
        if self.params.chunk_stream == "controller":
            return None
        if self.params.backend != "moveit":
            raise ParameterError(f"chunk_stream {self.params.chunk_stream!r} needs the backend 'moveit'")
        moveit.interface("move_group")  # MoveIt's messages
        from arvrm_ros.nodes.servo_stream import ServoStream

        return ServoStream(self, self.contract, self.params.chunk_stream == "servo_pose", self.params.patience)

    @property
    def _to_servo(self) -> bool:
        """Whether commands go to MoveIt Servo: those of chunks, not those of goal moves."""
        return self._servo is not None and not self._goal_moves.active

    def _rests(self, now: float) -> bool:
        motion = self._motion
        return motion.at_rest and now >= motion.ends_at and motion.state is not ExecutorState.FOLLOWING

    def _watch_servo(self, now: float) -> None:
        assert self._servo is not None
        if self._rests(now):
            positions, stamp = self.measured()
            if np.abs(positions - self._motion.commanded).max() > REJOIN:  # Servo's way through the joints is its own
                error = self._motion.error
                self._start_from(positions, self._gripper_opening, stamp, join=0.0)
                self._motion.error = error
            return
        try:
            self._servo.check(now)
        except MotionRefused as refusal:
            if self._motion.state is ExecutorState.FOLLOWING:
                self.hold(refusal.code, str(refusal))
                self._motion.error = (refusal.code, str(refusal))

    def _publish_status(self, now: float) -> None:
        code, message = self._motion.error
        self._shown, self._last_status = (self._motion.state, code), now
        self._status.publish(
            messages.ExecutionStatus(
                header=conversions.header(now, self.contract.base_frame),
                state=int(self._motion.state),
                error_code=int(code),
                error_msg=message or (f"clamped: {self._motion.clamped}" if self._motion.clamped else ""),
                sequence=self._sequence,
                tracking_error=self._motion.tracking_error,
                capture_to_command=self._capture_to_command,
            )
        )
        if self.is_active:
            self._goal_moves.publish_feedback()
        goal = self._goal
        if goal is not None and goal.handle is not None and goal.handle.is_active:
            goal.handle.publish_feedback(
                ExecuteChunk.Feedback(step=self._motion.step_index(now), tracking_error=self._motion.tracking_error)
            )


def _trajectory(joints: tuple[str, ...], start: float, points: list[TrajectoryPoint]) -> JointTrajectory:
    return JointTrajectory(
        header=conversions.header(start),
        joint_names=list(joints),
        points=[
            JointTrajectoryPoint(
                positions=array("d", point.positions),
                velocities=array("d", point.velocities),
                accelerations=array("d", point.accelerations),
                time_from_start=conversions.to_duration(point.time_from_start),
            )
            for point in points
        ],
    )


def main() -> int:
    """Runs the node."""
    return run_node(ExecutionNode, real_time=True)


if __name__ == "__main__":
    raise SystemExit(main())
