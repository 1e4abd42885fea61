# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Chunks through MoveIt Servo: the executor's commands as end-effector twists or poses. Needs ``moveit_msgs``.

Servo solves for the joints by itself and slows down before collisions and singularities. Its joints therefore differ
from the executor's by what does not move the end effector, and that is not counted as a tracking error.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped, TwistStamped
from moveit_msgs.msg import ServoStatus
from moveit_msgs.srv import ServoCommandType
from rclpy.client import Client
from rclpy.node import Node
from scipy.spatial.transform import Rotation

from arvrm_ros.contract import RobotContract
from arvrm_ros.errors import ExecutionCode, MotionRefused
from arvrm_ros.motion.executor import JointCommand
from arvrm_ros.motion.kinematics import Kinematics
from arvrm_ros.nodes import conversions, qos

SERVO = "/servo_node"
SILENCE = 0.5  # s without a status from which Servo counts as gone
ASK_AGAIN = 1.0  # s between two requests to take the kind of command that is sent
PATIENCE = 0.3  # s that Servo may halt; its last status stays when it is not told to move any more
GAIN = 4.0  # 1/s: twists also take back what the end effector is off its commanded pose

_HALTS = {
    ServoStatus.HALT_FOR_SINGULARITY: (ExecutionCode.JOINT_LIMIT, "halted near a singularity"),
    ServoStatus.HALT_FOR_COLLISION: (ExecutionCode.OUT_OF_WORKSPACE, "halted before a collision"),
    ServoStatus.JOINT_BOUND: (ExecutionCode.JOINT_LIMIT, "halted at a joint's limit"),
}


class ServoStream:
    """Speaks to ``/servo_node``, and asks it again for the right kind of command when it was started anew.

    Args:
        node: that publishes.
        contract: of the robot.
        poses: commands are poses on ``~/pose_target_cmds``, else twists on ``~/delta_twist_cmds``.
        patience: wall-clock seconds to wait for Servo.

    Raises:
        MotionRefused: BACKEND_UNAVAILABLE, Servo is not up.
    """

    def __init__(self, node: Node, contract: RobotContract, poses: bool, patience: float) -> None:
        self._node, self._frame, self._poses = node, contract.base_frame, poses
        self._kinematics = Kinematics(contract)
        self._status: tuple[ServoStatus, float] | None = None
        self._asked_at = -np.inf
        self._sent_at = self._sending_since = -np.inf
        self._measured: np.ndarray | None = None
        self._switch: Client = node.create_client(ServoCommandType, f"{SERVO}/switch_command_type")
        if not self._switch.wait_for_service(timeout_sec=patience):
            node.destroy_client(self._switch)
            raise MotionRefused(
                ExecutionCode.BACKEND_UNAVAILABLE,
                f"no MoveIt Servo serves {SERVO}/switch_command_type after {patience:g} s: start it, or use "
                "chunk_stream:=controller",
            )
        kind: Any = PoseStamped if poses else TwistStamped
        topic = f"{SERVO}/pose_target_cmds" if poses else f"{SERVO}/delta_twist_cmds"
        self._commands = node.create_publisher(kind, topic, qos.COMMANDS)
        self._statuses = node.create_subscription(ServoStatus, f"{SERVO}/status", self._on_status, qos.SENSOR)

    def close(self) -> None:
        """Leaves the graph; Servo halts when it hears nothing."""
        self._node.destroy_client(self._switch)
        self._node.destroy_publisher(self._commands)
        self._node.destroy_subscription(self._statuses)

    def check(self, now: float) -> None:
        """Whether Servo does what it is told.

        Raises:
            MotionRefused: BACKEND_UNAVAILABLE, it is silent; or the reason why it halted the arm.
        """
        if self._status is None or now - self._status[1] > SILENCE:
            self._asked_at = -np.inf  # whatever comes back has to be asked anew
            raise MotionRefused(ExecutionCode.BACKEND_UNAVAILABLE, f"MoveIt Servo is silent on {SERVO}/status")
        status, seen = self._status
        told = now - self._sent_at < PATIENCE and now - self._sending_since > PATIENCE
        if status.code in _HALTS and told and seen > self._sending_since:
            code, text = _HALTS[status.code]
            raise MotionRefused(code, f"MoveIt Servo {text}: {status.message}")

    def send(self, command: JointCommand, now: float, to_the_pose: bool = True) -> None:
        """Passes a command on, for now (seconds, ROS time).

        Args:
            command: of the executor.
            now: seconds, ROS time.
            to_the_pose: twists also take back what the end effector is off its commanded pose; not when the arm is to
                rest soon, as that takes its time.
        """
        self._ask(now)
        if now - self._sent_at > PATIENCE:
            self._sending_since = now
        self._sent_at = now
        header = conversions.header(now, self._frame)
        position, quaternion = self._kinematics.forward(command.positions)
        if self._poses:
            self._commands.publish(PoseStamped(header=header, pose=conversions.pose(position, quaternion)))
            return
        twist = self._kinematics.jacobian(command.positions) @ command.velocities
        if to_the_pose and self._measured is not None:
            there, turned = self._kinematics.forward(self._measured)
            twist[:3] += GAIN * (position - there)
            twist[3:] += GAIN * (Rotation.from_quat(quaternion) * Rotation.from_quat(turned).inv()).as_rotvec()
        message = TwistStamped(header=header)
        for vector, values in ((message.twist.linear, twist[:3]), (message.twist.angular, twist[3:])):
            vector.x, vector.y, vector.z = map(float, values)
        self._commands.publish(message)

    def seen_from_the_end_effector(self, measured: np.ndarray, commanded: np.ndarray) -> np.ndarray:
        """(n,) rad where the arm would be if it differed from its command only by what moves the end effector."""
        self._measured = measured
        jacobian = self._kinematics.jacobian(commanded)
        return commanded + np.linalg.pinv(jacobian, rcond=1e-2) @ (jacobian @ (measured - commanded))

    def _ask(self, now: float) -> None:
        if now - self._asked_at > ASK_AGAIN:
            kind = ServoCommandType.Request.POSE if self._poses else ServoCommandType.Request.TWIST
            self._asked_at = now
            self._switch.call_async(ServoCommandType.Request(command_type=kind)).add_done_callback(self._on_switched)

    def _on_switched(self, future: Any) -> None:
        if future.result() is not None and future.result().success:
            self._asked_at = np.inf

    def _on_status(self, message: ServoStatus) -> None:
        self._status = (message, conversions.to_seconds(self._node.get_clock().now().to_msg()))
