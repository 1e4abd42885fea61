# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Stands in for move_group in a process of its own: their topics, services, actions and message types.

What it answers is worked out, not made up: it plans in the scene that it was given, executes through the controller's
action. docs/moveit.md says how the real ones were tried.
"""

from __future__ import annotations

import dataclasses
import sys
import threading
from typing import Any

import numpy as np
import rclpy
from control_msgs.action import FollowJointTrajectory
from moveit_msgs.action import ExecuteTrajectory, MoveGroup
from moveit_msgs.msg import AllowedCollisionEntry, MoveItErrorCodes, PlanningSceneComponents
from moveit_msgs.srv import ApplyPlanningScene, GetPlanningScene, GetStateValidity
from rclpy.action import ActionClient
from rclpy.action.server import ActionServer, CancelResponse, ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import String

from arvrm_ros.contract import KeepOut, load_contract
from arvrm_ros.errors import MotionRefused
from arvrm_ros.motion.goals import GoalPlanner
from arvrm_ros.nodes import conversions

GROUP = "arm"
FIXED = "panda_link0"


class MoveGroupStandIn(Node):
    """Plans in joint space, around the boxes of its scene."""

    def __init__(self, contract: str) -> None:
        super().__init__("move_group")
        self._contract = load_contract(contract)
        self._set_boxes({})
        self._matrix: dict[tuple[str, str], bool] = {(FIXED, "panda_link1"): True}
        group = ReentrantCallbackGroup()
        accept: Any = lambda _: CancelResponse.ACCEPT  # noqa: E731
        ActionServer(self, MoveGroup, "/move_action", self._plan, cancel_callback=accept, callback_group=group)
        ActionServer(
            self, ExecuteTrajectory, "/execute_trajectory", self._execute, cancel_callback=accept, callback_group=group
        )
        self.create_service(GetPlanningScene, "/get_planning_scene", self._get_scene, callback_group=group)
        self.create_service(ApplyPlanningScene, "/apply_planning_scene", self._apply_scene, callback_group=group)
        self.create_service(GetStateValidity, "/check_state_validity", self._validity, callback_group=group)
        controller, _ = self._contract.action.arm_topic.rsplit("/", 1)
        self._stopped = threading.Event()
        self.create_subscription(String, "/trajectory_execution_event", self._on_event, 10, callback_group=group)
        self._controller = ActionClient(
            self, FollowJointTrajectory, f"{controller}/follow_joint_trajectory", callback_group=group
        )

    def _on_event(self, message: String) -> None:
        if message.data == "stop":
            self._stopped.set()

    def _set_boxes(self, boxes: dict[str, KeepOut]) -> None:
        limits = dataclasses.replace(
            self._contract.limits, keep_out=boxes, workspace_min=(-2.0,) * 3, workspace_max=(2.0,) * 3
        )
        self._planner = GoalPlanner(dataclasses.replace(self._contract, limits=limits))

    def _joints(self, state: Any) -> np.ndarray:
        positions = dict(zip(state.joint_state.name, state.joint_state.position, strict=True))
        return np.array([positions[joint] for joint in self._contract.joints])

    def _plan(self, handle: ServerGoalHandle) -> MoveGroup.Result:
        request, result = handle.request.request, MoveGroup.Result()
        code = result.error_code
        assert handle.request.planning_options.plan_only
        assert request.start_state.is_diff
        if request.group_name != GROUP:
            code.val = MoveItErrorCodes.INVALID_GROUP_NAME
        else:
            wanted = {c.joint_name: c.position for c in request.goal_constraints[0].joint_constraints}
            goal = np.array([wanted[joint] for joint in self._contract.joints])
            try:
                start = self._joints(request.start_state)
                way = self._planner.way(start, goal, self._planner.margin(start, goal))
            except MotionRefused as refusal:
                code.val, code.message = MoveItErrorCodes.PLANNING_FAILED, str(refusal)
            else:
                times, motion = self._planner.timed(way)
                names = self._contract.joints[::-1]  # any order is allowed
                result.planned_trajectory.joint_trajectory = conversions.motion_to_trajectory(
                    names, times[::10], motion[:, ::10, ::-1]
                )
                code.val = MoveItErrorCodes.SUCCESS
        _end(handle, code.val)
        return result

    async def _execute(self, handle: ServerGoalHandle) -> ExecuteTrajectory.Result:
        goal = FollowJointTrajectory.Goal(trajectory=handle.request.trajectory.joint_trajectory)
        sent = await self._controller.send_goal_async(goal)
        done = sent.get_result_async()
        self._stopped.clear()
        while not done.done():  # as the real one: a cancel is accepted, and changes nothing
            if self._stopped.wait(0.005):
                sent.cancel_goal_async()
        result = ExecuteTrajectory.Result()
        good = done.result().result.error_code == FollowJointTrajectory.Result.SUCCESSFUL
        result.error_code.val = (
            MoveItErrorCodes.PREEMPTED
            if self._stopped.is_set()
            else MoveItErrorCodes.SUCCESS
            if good
            else MoveItErrorCodes.CONTROL_FAILED
        )
        _end(handle, result.error_code.val)
        return result

    def _get_scene(self, request: Any, response: Any) -> Any:
        if request.components.components & PlanningSceneComponents.ALLOWED_COLLISION_MATRIX:
            names = sorted({name for pair in self._matrix for name in pair})
            matrix = response.scene.allowed_collision_matrix
            matrix.entry_names = names
            matrix.entry_values = [
                AllowedCollisionEntry(enabled=[self._matrix.get((a, b), False) for b in names]) for a in names
            ]
        return response

    def _apply_scene(self, request: Any, response: Any) -> Any:
        scene = request.scene
        names = scene.allowed_collision_matrix.entry_names
        self._matrix = {
            (a, b): enabled
            for a, row in zip(names, scene.allowed_collision_matrix.entry_values, strict=True)
            for b, enabled in zip(names, row.enabled, strict=True)
        }
        boxes = {}
        for item in scene.world.collision_objects:
            centre = np.array([item.pose.position.x, item.pose.position.y, item.pose.position.z])
            half = np.array(item.primitives[0].dimensions) / 2
            boxes[item.id] = KeepOut(tuple(centre - half), tuple(centre + half))
        self._set_boxes(boxes)
        kept = self._matrix[FIXED, "panda_link1"]  # a diff replaces the whole matrix
        frames = {item.header.frame_id for item in scene.world.collision_objects}
        response.success = scene.is_diff and kept and frames == {self._contract.base_frame}
        response.success = response.success and all(self._matrix[name, FIXED] for name in boxes)
        return response

    def _validity(self, request: Any, response: Any) -> Any:
        try:
            self._planner.check(self._joints(request.robot_state))
            response.valid = True
        except MotionRefused:
            response.valid = False
        return response


def _end(handle: ServerGoalHandle, code: int) -> None:
    if code == MoveItErrorCodes.SUCCESS:
        handle.succeed()
    elif handle.is_cancel_requested:
        handle.canceled()
    else:
        handle.abort()


def main() -> None:
    """Argument: the contract."""
    rclpy.init()
    node = MoveGroupStandIn(sys.argv[1])
    executor = MultiThreadedExecutor(4)
    executor.add_node(node)
    executor.spin()


if __name__ == "__main__":
    main()
