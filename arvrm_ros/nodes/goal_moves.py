# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Goal moves of the execution node, from the goal to the arm at rest there: the action ``/move_to``.

A move goes through three phases on the node's control timer: the arm comes to rest; a thread has a way found, in
another process, and checked; the arm moves, by the node's own stream of commands or handed over to whoever executes
whole motions. Wherever the way comes from, its timing and its check are those of every motion here.
"""

from __future__ import annotations

import importlib.util
import os
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future as ThreadFuture
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup

from arvrm_ros.action import MoveTo
from arvrm_ros.errors import ExecutionCode, MotionRefused
from arvrm_ros.motion.backends import BACKENDS, moveit
from arvrm_ros.motion.executor import ExecutorState, Plan
from arvrm_ros.motion.goals import GoalPlanner
from arvrm_ros.motion.planning_process import PlanningProcess
from arvrm_ros.nodes.parameters import ParameterError, Parameters, parameter
from arvrm_ros.nodes.serving import give_result, serve_goals

if TYPE_CHECKING:
    from arvrm_ros.nodes.execution_node import ExecutionNode


@dataclass(frozen=True)
class GoalParameters(Parameters):
    """Parameters of goal moves, and of MoveIt."""

    backend: str = parameter("embedded", "how commands reach the robot", choices=BACKENDS)
    rate: float = parameter(100.0, "joint commands per second", unit="Hz", low=20.0, high=1000.0)
    goal_execution: str = parameter(
        "stream", "goal moves are sent as a stream of commands, or handed over to MoveIt or the controller as a whole",
        choices=("stream", "controller"),
    )  # fmt: skip
    moveit_interface: str = parameter("auto", "how MoveIt is spoken to", choices=moveit.INTERFACES)
    moveit_group: str = parameter("arm", "MoveIt's planning group of the arm")
    moveit_parameters: str = parameter("", "YAML file of moveit_py's ROS parameters; made from the contract when empty")
    patience: float = parameter(20.0, "for MoveIt and controllers to come up", unit="s", low=0.0, high=600.0)


LEAVE = 0.5
"""Seconds that whoever executes a motion gets to stop it; then the node holds the arm itself."""

ARRIVED = 0.05
"""Radians from its goal, per joint, within which the arm has arrived."""

ARRIVES_WITHIN = 1.0
"""Seconds after the end of its commands in which the arm has to arrive."""

PATIENCE = 60.0
"""Seconds for a step of planning, on the busiest of machines, until its process is begun anew."""

TRIES = 3
"""Ways that MoveIt is asked for until the safety layer lets one pass: they are random, and know no workspace."""

T = TypeVar("T")


class Follower(Protocol):
    """Executes whole motions in the node's stead."""

    def execute(self, times: np.ndarray, motion: np.ndarray) -> None:
        """Returns when the motion (3, T, n) at (T,) seconds is done; raises MotionRefused when it failed."""

    def stop(self) -> None:
        """Ends it early, from any thread."""

    def close(self) -> None:
        """Leaves the graph; harmless when repeated."""


class MoveIt(Follower, Protocol):
    """Plans, and executes."""

    def way(self, start: np.ndarray, goal: np.ndarray, margin: float) -> np.ndarray:
        """See :meth:`arvrm_ros.motion.goals.GoalPlanner.way`."""


@dataclass
class _Planned:
    plan: Plan
    times: np.ndarray
    motion: np.ndarray


@dataclass
class _Move:
    """One goal."""

    handle: ServerGoalHandle
    planned: ThreadFuture[_Planned] | None = None
    found: _Planned | None = None
    ending: tuple[ExecutionCode, str] | None = None  # why it ends once the arm rests
    ending_since: float = 0.0  # ROS time, s


class GoalMoves:
    """Serves the action ``/move_to``.

    Args:
        node: whose arm moves.
        params: of the node.

    Raises:
        MotionRefused: BACKEND_UNAVAILABLE, what the parameters ask for is not installed or not up.
    """

    def __init__(self, node: ExecutionNode, params: GoalParameters) -> None:
        self._node = node
        self._goals_lock = threading.Lock()  # a plan that nobody waits for any more may still be made
        self._moveit = _moveit(node, params) if params.backend == "moveit" else None
        self._follower = _follower(node, self._moveit, params)
        make = partial(GoalPlanner, node.contract, 1.0 / params.rate)
        self._goals = PlanningProcess("plans moves", make, PATIENCE)
        self._move: _Move | None = None
        self._next: _Move | None = None
        self._executed: ThreadFuture[None] | None = None  # while another executes
        self._server = serve_goals(node, MoveTo, "/move_to", self._on_goal, ReentrantCallbackGroup())

    @property
    def active(self) -> bool:
        """Whether a goal is in progress."""
        return self._move is not None or self._next is not None

    def close(self) -> None:
        """Stops serving."""
        self._server.destroy()
        self._goals.close()
        for other in (self._moveit, self._follower):
            if other is not None:
                other.close()

    def end(self, code: ExecutionCode, message: str) -> None:
        """Ends the moves in progress, if there are any: the arm does, or will do, something else."""
        if self._next is not None:
            waiting, self._next = self._next, None
            self._give_result(waiting, code, message)
        if self._move is None:
            return
        if self._executed is None:
            self._finish(code, message)
        else:
            self._ask_to_leave(self._move, code, message)

    def leave(self) -> None:
        """Waits, without a spinning executor, until nobody else executes a motion any more."""
        if self._executed is not None:
            ended = threading.Event()
            self._executed.add_done_callback(lambda _: ended.set())
            ended.wait(LEAVE)
            self._executed = None
        if self._move is not None and self._move.ending is not None:
            self._finish(*self._move.ending)

    def tick(self, now: float) -> None:
        """Goes on; once per control period, after the commands."""
        if self._move is None:
            self._move, self._next = self._next, None
        move = self._move
        if move is None:
            return
        if move.handle.is_cancel_requested and move.ending is None:
            self._cancel(move)
        motion = self._node.motion
        rests = motion.at_rest and now >= motion.ends_at and not self._node.handed_over
        if self._executed is not None:
            self._watch_executed(move, self._executed, now)
        elif move.ending is not None:
            if rests or now > move.ending_since + ARRIVES_WITHIN:
                self._finish(*move.ending)
        elif move.planned is None:
            if rests:
                start = self._node.begin_move()
                move.planned = _in_thread(lambda: self._plan(move.handle.request, start))
        elif move.found is None:
            if move.planned.done():
                self._begin(move, move.planned)
        elif motion.state is not ExecutorState.FOLLOWING and motion.error[0]:
            self._finish(*motion.error)
        elif rests and self._node.measured()[1] >= motion.ends_at and self._left(move.found) < ARRIVED:
            self._finish(ExecutionCode.NONE, "")
        elif rests and now > motion.ends_at + ARRIVES_WITHIN:
            self._finish(*self._missed(move.found))

    def deviation(self, positions: np.ndarray) -> float:
        """Radians from (n,) joint positions to the way that another executes, or was to; inf where none does."""
        if self._follower is None or self._move is None or self._move.found is None:
            return np.inf
        return float(np.abs(self._move.found.motion[0] - positions).max(axis=1).min())

    def publish_feedback(self) -> None:
        """Says how far the arm has come."""
        move = self._move
        if move is not None and move.handle.is_active:
            phase, remaining = ("planning" if move.planned else "resting"), -1.0
            if move.found is not None:
                phase, remaining = "moving", self._left(move.found)
            move.handle.publish_feedback(MoveTo.Feedback(phase=phase, remaining=remaining))

    def _on_goal(self, handle: ServerGoalHandle) -> None:
        move = _Move(handle)
        try:
            self._node.check_ready()
            self._check_frame(handle.request)
        except MotionRefused as refusal:
            self._give_result(move, refusal.code, str(refusal))
        else:
            self._node.hold(ExecutionCode.PREEMPTED, "a goal move took over")
            self._next = move

    def _give_result(self, move: _Move, code: ExecutionCode, message: str) -> None:
        if code not in (ExecutionCode.NONE, ExecutionCode.CANCELED):
            self._node.get_logger().warning(f"goal move: {code.name}: {message}")
        elif code is ExecutionCode.NONE and move.handle.is_active:  # who draws a bar sees it end
            move.handle.publish_feedback(MoveTo.Feedback(phase="moving", remaining=0.0))
        give_result(move.handle, MoveTo.Result, code, message)

    def _check_frame(self, request: MoveTo.Goal) -> None:
        frame, base_frame = request.pose.header.frame_id, self._node.contract.base_frame
        if request.target not in (MoveTo.Goal.HOME, MoveTo.Goal.JOINTS, MoveTo.Goal.POSE):
            raise MotionRefused(ExecutionCode.INVALID_CHUNK, f"unknown target {request.target}: HOME, JOINTS or POSE")
        if request.target == MoveTo.Goal.POSE and frame != base_frame:
            message = f"the goal's frame is {frame!r} instead of {base_frame!r}"
            raise MotionRefused(ExecutionCode.INVALID_CHUNK, message)

    def _plan(self, request: MoveTo.Goal, start: np.ndarray) -> _Planned:
        """In a thread of its own: MoveIt takes seconds, OMPL may."""
        with self._goals_lock:
            self._goals.renew()
            plan = self._goals.call
            if request.target == MoveTo.Goal.POSE:
                at, turn = request.pose.pose.position, request.pose.pose.orientation
                position, quaternion = np.array([at.x, at.y, at.z]), np.array([turn.x, turn.y, turn.z, turn.w])
                goal = plan(GoalPlanner.joints, position, quaternion, start)
            else:
                home = request.target == MoveTo.Goal.HOME
                goal = np.array(self._node.contract.home if home else request.joints, float)
                plan(GoalPlanner.check, goal)
            margin = plan(GoalPlanner.margin, start, goal)
            for left in reversed(range(1 if self._moveit is None else TRIES)):
                try:
                    if self._moveit is None:
                        way = plan(GoalPlanner.way, start, goal, margin)
                    else:
                        way = self._moveit.way(start, goal, margin)
                    times, motion = plan(GoalPlanner.timed, way)
                    break
                except MotionRefused as refusal:
                    if not left or refusal.code is ExecutionCode.BACKEND_UNAVAILABLE:
                        raise
            plan_move, start_at = self._node.motion.plan_move, self._node.decided_until()
            return _Planned(plan_move(times, motion, start_at, self._node.now()), times, motion)

    def _begin(self, move: _Move, planned: ThreadFuture[_Planned]) -> None:
        try:
            move.found = found = planned.result()
            plan, late = found.plan, max(0.0, self._node.decided_until() - found.plan.start)
            self._node.check_ready()
            self._node.motion.adopt(replace(plan, path=plan.path.delayed(late), start=plan.start + late))
        except MotionRefused as refusal:
            self._finish(refusal.code, str(refusal))
            return
        if (follower := self._follower) is not None:
            self._node.hand_over()
            self._executed = _in_thread(lambda: follower.execute(found.times, found.motion))

    def _cancel(self, move: _Move) -> None:
        code, message = ExecutionCode.CANCELED, "canceled; the arm rests"
        if self._executed is not None:
            self._ask_to_leave(move, code, message)
        else:
            self._node.rest()
            move.ending, move.ending_since = (code, message), self._node.now()

    def _ask_to_leave(self, move: _Move, code: ExecutionCode, message: str) -> None:
        if move.ending is None:
            assert self._follower is not None
            self._follower.stop()
            move.ending, move.ending_since = (code, message), self._node.now()

    def _watch_executed(self, move: _Move, executed: ThreadFuture[None], now: float) -> None:
        """What the executor watches when it is the one that commands: joint states, and the way."""
        assert move.found is not None
        contract, (positions, stamp) = self._node.contract, self._node.measured()
        if executed.done() or (move.ending is not None and now > move.ending_since + LEAVE):
            self._executed = None
            self._node.take_back()
            code, message = move.ending or _outcome(executed)
            if code is ExecutionCode.NONE and self._left(move.found) > ARRIVED:
                code, message = self._missed(move.found)
            move.ending, move.ending_since = (code, message), now
            return
        away = self.deviation(positions)
        if away > contract.watchdogs.tracking_error:
            self._ask_to_leave(move, ExecutionCode.TRACKING_ERROR, f"the arm left its way by {away:.2f} rad")
        elif now - stamp > contract.observation.joint_states.max_age:
            topic = contract.observation.joint_states.topic
            self._ask_to_leave(move, ExecutionCode.STALE_JOINT_STATES, f"{topic} is silent for {now - stamp:.2f} s")

    def _left(self, found: _Planned) -> float:
        """Radians of the joint that is farthest from the goal."""
        return float(np.abs(found.motion[0, -1] - self._node.measured()[0]).max())

    def _missed(self, found: _Planned) -> tuple[ExecutionCode, str]:
        return ExecutionCode.TRACKING_ERROR, f"the arm stopped {self._left(found):.3f} rad from its goal"

    def _finish(self, code: ExecutionCode, message: str) -> None:
        assert self._move is not None
        move, self._move = self._move, None
        self._give_result(move, code, message)


def _follower(node: ExecutionNode, planner: MoveIt | None, params: GoalParameters) -> Follower | None:
    """Who executes in the node's stead; None where the node does."""
    if params.goal_execution == "stream":
        return None
    if planner is not None:
        return planner
    if params.backend == "embedded":
        raise ParameterError("goal_execution 'controller' needs the backend 'controller' or 'moveit'")
    if importlib.util.find_spec("control_msgs") is None:
        raise MotionRefused(
            ExecutionCode.BACKEND_UNAVAILABLE,
            "goal_execution 'controller' needs control_msgs, which is not installed: "
            f"apt install ros-{os.environ.get('ROS_DISTRO', '<distro>')}-control-msgs, or use 'stream'",
        )
    from arvrm_ros.nodes.trajectory_client import TrajectoryClient

    return TrajectoryClient(node, node.contract, params.patience)


def _moveit(node: ExecutionNode, params: GoalParameters) -> MoveIt:
    contract = node.contract
    if moveit.interface(params.moveit_interface) == "move_group":
        from arvrm_ros.nodes.moveit_client import MoveGroupClient

        return MoveGroupClient(node, contract, params.moveit_group, params.patience)
    from arvrm_ros.nodes.moveit_process import MoveItProcess

    if params.moveit_parameters:
        parameters = moveit.read_parameters(params.moveit_parameters)
    else:
        simulated = bool(node.get_parameter("use_sim_time").value)
        parameters = moveit.parameters(contract, params.moveit_group, simulated)
    return MoveItProcess(contract, params.moveit_group, parameters, params.patience)


def _in_thread(function: Callable[[], T]) -> ThreadFuture[T]:
    future: ThreadFuture[T] = ThreadFuture()

    def run() -> None:
        try:
            future.set_result(function())
        except MotionRefused as refusal:
            future.set_exception(refusal)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
            future.set_exception(MotionRefused(ExecutionCode.BACKEND_UNAVAILABLE, problem))

    threading.Thread(target=run, name="goal move", daemon=True).start()
    return future


def _outcome(executed: ThreadFuture[Any]) -> tuple[ExecutionCode, str]:
    try:
        executed.result()
    except MotionRefused as refusal:
        return refusal.code, str(refusal)
    return ExecutionCode.NONE, ""
