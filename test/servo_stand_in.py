# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Stands in for MoveIt Servo in a process of its own: its topics, service and message types.

It solves for the joints, has the arm's controller move there step by step, and halts before it would come too close to
what the contract keeps out. docs/moveit.md says how the real one was tried.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped, TwistStamped
from moveit_msgs.msg import ServoStatus
from moveit_msgs.srv import ServoCommandType
from rclpy.node import Node
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from arvrm_ros.contract import load_contract
from arvrm_ros.data.messages import joint_state_to_arrays
from arvrm_ros.errors import MotionRefused
from arvrm_ros.motion.goals import GoalPlanner
from arvrm_ros.motion.kinematics import Kinematics
from arvrm_ros.nodes import conversions, qos

PERIOD = 0.01  # s
TIMEOUT = 0.1  # s from a command until it is too old to be followed: incoming_command_timeout
APPROACH = 8.0  # 1/s by which a pose is approached


class ServoStandIn(Node):
    """Follows twists or poses, whichever it was switched to."""

    def __init__(self, contract: str) -> None:
        super().__init__("servo_node")
        self._contract = load_contract(contract)
        self._kinematics = Kinematics(self._contract)
        self._planner = GoalPlanner(self._contract)
        self._kind: int | None = None
        self._command: tuple[int, TwistStamped | PoseStamped, float] | None = None
        self._joints: np.ndarray | None = None
        self._arm = self.create_publisher(JointTrajectory, self._contract.action.arm_topic, qos.COMMANDS)
        self._status = self.create_publisher(ServoStatus, "~/status", 10)
        self.create_service(ServoCommandType, "~/switch_command_type", self._switch)
        for kind, message, topic in (
            (ServoCommandType.Request.TWIST, TwistStamped, "~/delta_twist_cmds"),
            (ServoCommandType.Request.POSE, PoseStamped, "~/pose_target_cmds"),
        ):
            self.create_subscription(message, topic, lambda command, kind=kind: self._on_command(kind, command), 10)
        source = self._contract.observation.joint_states
        self.create_subscription(JointState, source.topic, self._on_joint_states, qos.SENSOR)
        self.create_timer(PERIOD, self._tick)

    def _switch(self, request: ServoCommandType.Request, response: ServoCommandType.Response) -> object:
        self._kind, response.success = request.command_type, True
        return response

    def _on_command(self, kind: int, command: TwistStamped | PoseStamped) -> None:
        assert command.header.frame_id == self._contract.base_frame
        self._command = (kind, command, time.monotonic())

    def _on_joint_states(self, message: JointState) -> None:
        if self._fresh() is None:  # while it moves the arm, it goes on from its own commands
            self._joints = joint_state_to_arrays(message, self._contract)[0]

    def _fresh(self) -> TwistStamped | PoseStamped | None:
        if self._command is None:
            return None
        kind, command, came = self._command
        return command if kind == self._kind and time.monotonic() - came < TIMEOUT else None

    def _tick(self) -> None:
        status = ServoStatus(code=ServoStatus.NO_WARNING)
        command = self._fresh()
        if command is not None and self._joints is not None:
            jacobian = self._kinematics.jacobian(self._joints)
            joints = self._joints + np.linalg.pinv(jacobian, rcond=1e-2) @ self._twist(command) * PERIOD
            try:
                self._planner.check(joints)
            except MotionRefused as refusal:
                status = ServoStatus(code=ServoStatus.HALT_FOR_COLLISION, message=str(refusal))
            else:
                self._joints = joints
                point = JointTrajectoryPoint(positions=joints.tolist(), time_from_start=conversions.to_duration(PERIOD))
                self._arm.publish(JointTrajectory(joint_names=list(self._contract.joints), points=[point]))
        self._status.publish(status)

    def _twist(self, command: TwistStamped | PoseStamped) -> np.ndarray:
        """(6,) m/s and rad/s of the end effector, in the base frame."""
        if isinstance(command, TwistStamped):
            linear, angular = command.twist.linear, command.twist.angular
            return np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])
        position, quaternion = self._kinematics.forward(self._joints)
        at, turn = command.pose.position, command.pose.orientation
        turned = Rotation.from_quat([turn.x, turn.y, turn.z, turn.w]) * Rotation.from_quat(quaternion).inv()
        return APPROACH * np.concatenate([np.array([at.x, at.y, at.z]) - position, turned.as_rotvec()])


def main() -> None:
    """Argument: the contract."""
    rclpy.init()
    rclpy.spin(ServoStandIn(sys.argv[1]))


if __name__ == "__main__":
    main()
