# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Goal moves through the robot's own move_group: its actions and services. Needs ``moveit_msgs`` alone.

Import it only where :func:`arvrm_ros.motion.backends.moveit.interface` says "move_group".
"""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import Point, Pose
from moveit_msgs.action import ExecuteTrajectory, MoveGroup
from moveit_msgs.msg import (
    AllowedCollisionEntry,
    AllowedCollisionMatrix,
    CollisionObject,
    Constraints,
    JointConstraint,
    MotionPlanRequest,
    MoveItErrorCodes,
    PlanningOptions,
    PlanningScene,
    PlanningSceneComponents,
    RobotState,
    RobotTrajectory,
)
from moveit_msgs.srv import ApplyPlanningScene, GetPlanningScene, GetStateValidity
from rclpy.node import Node
from sensor_msgs.msg import JointState
from shape_msgs.msg import SolidPrimitive
from std_msgs.msg import String

from arvrm_ros.contract import RobotContract
from arvrm_ros.errors import ExecutionCode, MotionRefused
from arvrm_ros.motion.backends import moveit
from arvrm_ros.nodes import conversions, qos
from arvrm_ros.nodes.blocking import BlockingAction, BlockingService, Companion, longest_execution

PLANNING_TIME = 5.0
"""Seconds that move_group may look for a way."""

GOAL_TOLERANCE = 1e-4
"""Radians."""

ERRORS = {
    value: name
    for name in dir(MoveItErrorCodes)
    if name.isupper() and isinstance(value := getattr(MoveItErrorCodes, name), int)
}


class MoveGroupClient:
    """Plans and executes through ``/move_action`` and ``/execute_trajectory``.

    The contract's keep-out boxes are put into move_group's planning scene before each plan: it may have been started
    anew. All methods but :meth:`stop` wait.

    Args:
        node: that asks.
        contract: of the robot.
        group: move_group's name of the arm.
        patience: wall-clock seconds to wait for move_group.

    Raises:
        MotionRefused: BACKEND_UNAVAILABLE, move_group is not up.
    """

    def __init__(self, node: Node, contract: RobotContract, group: str, patience: float) -> None:
        self._contract, self._group = contract, group
        self._may_touch = moveit.may_touch_boxes(contract)
        self._companion = Companion(node)
        companion = self._companion
        self._plan = BlockingAction(companion, MoveGroup, "/move_action", "move_group")
        self._execute = BlockingAction(companion, ExecuteTrajectory, "/execute_trajectory", "move_group")
        self._get_scene = BlockingService(companion, GetPlanningScene, "/get_planning_scene", "move_group")
        self._apply_scene = BlockingService(companion, ApplyPlanningScene, "/apply_planning_scene", "move_group")
        self._validity = BlockingService(companion, GetStateValidity, "/check_state_validity", "move_group")
        self._events = companion.node.create_publisher(String, "/trajectory_execution_event", qos.RELIABLE)
        try:
            for part in (self._plan, self._execute, self._get_scene, self._apply_scene, self._validity):
                part.require(patience, "start the robot's MoveIt (docs/moveit.md), or use another backend")
        except MotionRefused:
            self.close()
            raise

    def way(self, start: np.ndarray, goal: np.ndarray, margin: float) -> np.ndarray:
        """See :meth:`arvrm_ros.motion.goals.GoalPlanner.way`."""
        self._put_boxes(margin)
        self._check_free(goal)
        request = MotionPlanRequest(
            group_name=self._group,
            start_state=self._state(start),
            goal_constraints=[
                Constraints(
                    joint_constraints=[
                        JointConstraint(
                            joint_name=joint, position=float(value), weight=1.0,
                            tolerance_above=GOAL_TOLERANCE, tolerance_below=GOAL_TOLERANCE,
                        )
                        for joint, value in zip(self._contract.joints, goal, strict=True)
                    ]
                )
            ],
            num_planning_attempts=1,
            allowed_planning_time=PLANNING_TIME,
            max_velocity_scaling_factor=1.0,
            max_acceleration_scaling_factor=1.0,
        )  # fmt: skip
        options = PlanningOptions(plan_only=True)
        options.planning_scene_diff.is_diff = options.planning_scene_diff.robot_state.is_diff = True
        result = self._plan.call(MoveGroup.Goal(request=request, planning_options=options), 2 * PLANNING_TIME)
        check(result.error_code, "planning")
        trajectory = result.planned_trajectory.joint_trajectory
        try:
            order = [trajectory.joint_names.index(joint) for joint in self._contract.joints]
        except ValueError as error:
            raise MotionRefused(
                ExecutionCode.BACKEND_UNAVAILABLE,
                f"move_group's group {self._group!r} does not move all joints of the contract: {error}",
            ) from None
        way = np.array([point.positions for point in trajectory.points], float).reshape(-1, len(order))[:, order]
        return np.vstack([start, way[1:-1], goal])

    def execute(self, times: np.ndarray, motion: np.ndarray) -> None:
        """Has a motion (3, T, n) at (T,) seconds executed by move_group, and waits for its end.

        Raises:
            MotionRefused: it did not get there.
        """
        trajectory = conversions.motion_to_trajectory(self._contract.joints, times, motion)
        goal = ExecuteTrajectory.Goal(trajectory=RobotTrajectory(joint_trajectory=trajectory))
        result = self._execute.call(goal, longest_execution(times))
        check(result.error_code, "execution")

    def stop(self) -> None:
        """Ends :meth:`execute`; the controller stops in its own way.

        MoveIt 2.14 accepts a cancel of ``/execute_trajectory`` and goes on with it; the event is what stops it.
        """
        self._execute.cancel()
        self._events.publish(String(data="stop"))

    def close(self) -> None:
        """Leaves the graph."""
        self.stop()
        self._companion.close()

    def _state(self, joints: np.ndarray) -> RobotState:
        state = JointState(name=list(self._contract.joints), position=joints.tolist())
        return RobotState(joint_state=state, is_diff=True)

    def _put_boxes(self, margin: float) -> None:
        boxes = moveit.boxes(self._contract, margin)
        if not boxes:
            return
        wanted = PlanningSceneComponents(components=PlanningSceneComponents.ALLOWED_COLLISION_MATRIX)
        matrix = self._get_scene.call(GetPlanningScene.Request(components=wanted)).scene.allowed_collision_matrix
        scene = PlanningScene(is_diff=True, allowed_collision_matrix=allow(matrix, list(boxes), self._may_touch))
        scene.robot_state.is_diff = True
        scene.world.collision_objects = [
            collision_object(name, centre, size, self._contract.base_frame) for name, (centre, size) in boxes.items()
        ]
        if not self._apply_scene.call(ApplyPlanningScene.Request(scene=scene)).success:
            raise MotionRefused(
                ExecutionCode.BACKEND_UNAVAILABLE,
                f"move_group did not take the contract's keep-out boxes; does it know the frame "
                f"{self._contract.base_frame!r}?",
            )

    def _check_free(self, joints: np.ndarray) -> None:
        request = GetStateValidity.Request(robot_state=self._state(joints), group_name=self._group)
        response = self._validity.call(request)
        if not response.valid:
            touching = {f"{contact.contact_body_1} and {contact.contact_body_2}" for contact in response.contacts}
            raise moveit.refused("GOAL_IN_COLLISION", "planning", ", ".join(sorted(touching)))


def collision_object(name: str, centre: np.ndarray, size: np.ndarray, frame: str) -> CollisionObject:
    """A box of some centre and size (3,) m as an object of MoveIt's planning scene; it replaces one of its name."""
    return CollisionObject(
        header=conversions.header(0.0, frame),
        id=name,
        pose=Pose(position=Point(**dict(zip("xyz", centre.tolist(), strict=True)))),
        primitives=[SolidPrimitive(type=SolidPrimitive.BOX, dimensions=size.tolist())],
        primitive_poses=[Pose()],
        operation=CollisionObject.ADD,
    )


def allow(matrix: AllowedCollisionMatrix, names: list[str], others: list[str]) -> AllowedCollisionMatrix:
    """The same matrix where each of ``names`` may touch each of ``others``; a diff replaces the whole matrix."""
    entries = list(matrix.entry_names)
    allowed = {
        (a, b): enabled
        for a, row in zip(entries, matrix.entry_values, strict=True)
        for b, enabled in zip(entries, row.enabled, strict=True)
    }
    for name in names:
        for other in others:
            allowed[name, other] = allowed[other, name] = True
    entries += [name for name in (*names, *others) if name not in entries]
    return AllowedCollisionMatrix(
        entry_names=entries,
        entry_values=[AllowedCollisionEntry(enabled=[allowed.get((a, b), False) for b in entries]) for a in entries],
        default_entry_names=matrix.default_entry_names,
        default_entry_values=matrix.default_entry_values,
    )


def check(code: MoveItErrorCodes, what: str) -> None:
    """Raises what a failure of MoveIt means here (:func:`arvrm_ros.motion.backends.moveit.refused`)."""
    if code.val != MoveItErrorCodes.SUCCESS:
        raise moveit.refused(ERRORS.get(code.val, str(code.val)), what, code.message)
