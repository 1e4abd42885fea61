# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The tests' robot with the action of ros2_control's joint_trajectory_controller beside its topic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from control_msgs.action import FollowJointTrajectory
from node_process import Graph
from rclpy.action.server import ActionServer, CancelResponse, ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from test_execution_node import Robot

from arvrm_ros.nodes.conversions import to_seconds
from arvrm_ros.nodes.simulated_robot import trajectory_points
from arvrm_ros.simulation.trajectory_controller import TrajectoryError


class FollowingRobot(Robot):
    """Follows what comes on the topic and on ``follow_joint_trajectory``, whichever came last.

    Attributes:
        goals: every trajectory that came by the action.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.goals: list[Any] = []
        self._goal: tuple[ServerGoalHandle, float] | None = None
        controller, _ = self.contract.action.arm_topic.rsplit("/", 1)
        self._server = ActionServer(
            graph.node,
            FollowJointTrajectory,
            f"{controller}/follow_joint_trajectory",
            lambda _: None,
            handle_accepted_callback=self._follow,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
            callback_group=ReentrantCallbackGroup(),
        )
        graph.node.create_timer(0.02, self._watch)

    def _follow(self, handle: ServerGoalHandle) -> None:
        trajectory = handle.request.trajectory
        self.goals.append(trajectory)
        now = self.now()
        stamp = to_seconds(trajectory.header.stamp)
        try:
            with self._lock:
                self._controller.accept(list(trajectory.joint_names), trajectory_points(trajectory), stamp or None, now)
        except TrajectoryError as error:
            code, text = FollowJointTrajectory.Result.INVALID_GOAL, str(error)
            _end(handle, handle.abort, FollowJointTrajectory.Result(error_code=code, error_string=text))
        else:
            self._goal = (handle, (stamp or now) + to_seconds(trajectory.points[-1].time_from_start))

    def _watch(self) -> None:
        if self._goal is None:
            return
        handle, end = self._goal
        if handle.is_cancel_requested:  # as the real one: it holds the position that it has
            with self._lock:
                self._controller.reset(self._controller.sample(self.now())[0], self.now())
            self._goal = None
            _end(handle, handle.canceled, FollowJointTrajectory.Result())
        elif self.now() > end:
            self._goal = None
            _end(handle, handle.succeed, FollowJointTrajectory.Result())

    def rests_at(self, joints: Any, tolerance: float = 2e-3) -> bool:
        return self.rests() and bool(np.abs(self.state()[0] - np.array(joints)).max() < tolerance)


def _end(handle: ServerGoalHandle, how: Callable[[], None], result: FollowJointTrajectory.Result) -> None:
    def give(_: ServerGoalHandle) -> FollowJointTrajectory.Result:
        how()
        return result

    handle.execute(give)
