# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Goal moves through ros2_control's ``joint_trajectory_controller``, on its action. Needs ``control_msgs``."""

from __future__ import annotations

import numpy as np
from control_msgs.action import FollowJointTrajectory
from rclpy.node import Node

from arvrm_ros.contract import RobotContract
from arvrm_ros.errors import ExecutionCode, MotionRefused
from arvrm_ros.nodes import conversions
from arvrm_ros.nodes.blocking import BlockingAction, Companion, longest_execution

_RESULT = FollowJointTrajectory.Result
_ERRORS = {
    _RESULT.INVALID_GOAL: "INVALID_GOAL",
    _RESULT.INVALID_JOINTS: "INVALID_JOINTS",
    _RESULT.OLD_HEADER_TIMESTAMP: "OLD_HEADER_TIMESTAMP",
    _RESULT.PATH_TOLERANCE_VIOLATED: "PATH_TOLERANCE_VIOLATED",
    _RESULT.GOAL_TOLERANCE_VIOLATED: "GOAL_TOLERANCE_VIOLATED",
}


class TrajectoryClient:
    """Hands whole motions to the controller whose topic the contract names.

    All methods but :meth:`stop` wait.

    Args:
        node: that asks.
        contract: of the robot.
        patience: wall-clock seconds to wait for the controller.

    Raises:
        MotionRefused: BACKEND_UNAVAILABLE, the controller is not up.
    """

    def __init__(self, node: Node, contract: RobotContract, patience: float) -> None:
        self._joints = contract.joints
        controller, _ = contract.action.arm_topic.rsplit("/", 1)
        self._companion = Companion(node)
        self._action = BlockingAction(
            self._companion, FollowJointTrajectory, f"{controller}/follow_joint_trajectory", controller
        )
        try:
            self._action.require(
                patience, "start the robot's joint_trajectory_controller, or use goal_execution:=stream"
            )
        except MotionRefused:
            self.close()
            raise

    def execute(self, times: np.ndarray, motion: np.ndarray) -> None:
        """Has a motion (3, T, n) at (T,) seconds executed, and waits for its end.

        Raises:
            MotionRefused: TRACKING_ERROR, the controller did not get there; BACKEND_UNAVAILABLE.
        """
        goal = FollowJointTrajectory.Goal(trajectory=conversions.motion_to_trajectory(self._joints, times, motion))
        result = self._action.call(goal, longest_execution(times))
        if result.error_code != _RESULT.SUCCESSFUL:
            name = _ERRORS.get(result.error_code, str(result.error_code))
            code = ExecutionCode.TRACKING_ERROR if "TOLERANCE" in name else ExecutionCode.BACKEND_UNAVAILABLE
            raise MotionRefused(code, f"the controller ended the motion with {name}: {result.error_string}")

    def stop(self) -> None:
        """Ends :meth:`execute`; the controller stops in its own way."""
        self._action.cancel()

    def close(self) -> None:
        """Leaves the graph."""
        self.stop()
        self._companion.close()
