# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Looks on: shows what every node does, as markers for RViz and Foxglove, and as a Rerun recording.

It belongs to no suite: it is started beside a running one, needs nothing of it, and nothing needs it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import ColorRGBA, Empty, String
from visualization_msgs.msg import Marker, MarkerArray

import arvrm_ros.msg as messages
from arvrm_ros.dashboard import ARM, BOX, CLOSED, OPEN, RerunDashboard
from arvrm_ros.data.messages import MessageError, joint_state_to_arrays, message_to_detections
from arvrm_ros.data.types import ActionChunk
from arvrm_ros.motion.kinematics import Kinematics
from arvrm_ros.nodes import conversions, qos
from arvrm_ros.nodes.conversions import to_seconds
from arvrm_ros.nodes.lifecycle import ManagedNode, run_node
from arvrm_ros.nodes.parameters import Parameters, parameter

MARKERS = "/dashboard/markers"
STATES = {
    messages.ExecutionStatus.HOLDING: "holding",
    messages.ExecutionStatus.FOLLOWING: "following",
    messages.ExecutionStatus.STOPPED: "STOPPED",
}


@dataclass(frozen=True)
class DashboardParameters(Parameters):
    """Parameters of :class:`DashboardNode`."""

    recording: str = parameter("", "Rerun recording (.rrd) to write; none when empty")
    view: bool = parameter(False, "open Rerun's viewer")
    human_topic: str = parameter("/human_camera/image", "images that the hand-keypoint node watches")
    rate: float = parameter(10.0, "drawings of the arm per second", unit="Hz", low=0.1, high=60.0)


class DashboardNode(ManagedNode):
    """Configures and activates itself when it is run by :func:`main`."""

    def __init__(self) -> None:
        super().__init__("dashboard_node", DashboardParameters)
        self._entities: list[tuple[Any, Any]] = []
        self._rerun: RerunDashboard | None = None
        self._joints: JointState | None = None
        self._chunk: ActionChunk | None = None
        self._state = self._instruction = ""
        self._problems: dict[str, str] = {}

    def configure(self) -> None:
        params = cast(DashboardParameters, self.params)
        self._kinematics = Kinematics(self.contract)
        if params.recording or params.view:
            self._rerun = RerunDashboard(
                self.contract, Path(params.recording) if params.recording else None, params.view
            )
        self._markers = self.create_publisher(MarkerArray, MARKERS, qos.RELIABLE)
        self._entities.append((self.destroy_publisher, self._markers))
        observation = self.contract.observation
        cameras = {camera.topic: name for name, camera in observation.cameras.items()} | {params.human_topic: "human"}
        listened: list[tuple[Any, str, Any, Any]] = [
            (JointState, observation.joint_states.topic, self._on_joints, qos.SENSOR),
            (messages.ActionChunk, "/action_chunk", self._on_chunk, qos.RELIABLE),
            (messages.ExecutionStatus, "/execution_status", self._on_status, qos.RELIABLE),
            (String, "/instruction", self._on_instruction, qos.LATCHED),
        ]
        if self._rerun is not None:
            listened += [
                *((Image, topic, self._shown(name), qos.SENSOR) for topic, name in cameras.items()),
                (messages.HandKeypoints, "/hand_keypoints", self._on_hands, qos.SENSOR),
                (messages.RetrievedMotions, "/retrieved_motions", self._on_retrieved, qos.LATCHED),
                (messages.AnalogyMap, "/analogy_map", self._on_map, qos.LATCHED),
                (Empty, "/emergency_stop", lambda _: self._tell("emergency stop", "ERROR"), qos.RELIABLE),
                (DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.RELIABLE),
            ]
        for subscription in (self.create_subscription(*args) for args in listened):
            self._entities.append((self.destroy_subscription, subscription))

    def activate(self) -> None:
        period = 1 / cast(DashboardParameters, self.params).rate
        timer = self.create_timer(period, self._draw, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._entities.append((self.destroy_timer, timer))

    def cleanup(self) -> None:
        for destroy, entity in self._entities:
            destroy(entity)
        self._entities.clear()
        if self._rerun is not None:
            self._rerun.close()
            self._rerun = None

    @property
    def _newest(self) -> float:
        """Stamp of the newest joint states, for what has none of its own."""
        return to_seconds(self._joints.header.stamp) if self._joints is not None else 0.0

    def _tell(self, text: str, level: str = "INFO") -> None:
        if self._rerun is not None:
            self._rerun.event(text, self._newest, level)

    def _shown(self, name: str) -> Any:
        def show(message: Image) -> None:
            try:
                image = conversions.message_to_image(message)
            except MessageError as error:
                self.edges.update(name, str(error))
                return
            if self._rerun is not None:
                self._rerun.image(name, image, to_seconds(message.header.stamp))

        return show

    def _on_joints(self, message: JointState) -> None:
        self._joints = message

    def _on_chunk(self, message: messages.ActionChunk) -> None:
        self._chunk = conversions.message_to_chunk(message)
        if self._rerun is not None:
            self._rerun.chunk(self._chunk)

    def _on_status(self, message: messages.ExecutionStatus) -> None:
        state = STATES.get(message.state, str(message.state)) + (f": {message.error_msg}" if message.error_code else "")
        if state != self._state:
            self._tell(f"execution: {state}", "WARN" if message.error_code else "INFO")
        self._state = state
        if self._rerun is not None:
            self._rerun.execution(
                state, message.tracking_error, message.capture_to_command, to_seconds(message.header.stamp)
            )

    def _on_instruction(self, message: String) -> None:
        self._instruction = message.data
        self._tell(f"instruction: {message.data}")

    def _on_hands(self, message: messages.HandKeypoints) -> None:
        try:
            hands = message_to_detections(message)
        except MessageError as error:
            self.edges.update("hands", str(error))
            return
        if self._rerun is not None:
            stamp = to_seconds(message.header.stamp)
            self._rerun.hands("human", hands, message.image_height, message.image_width, stamp)

    def _on_retrieved(self, message: messages.RetrievedMotions) -> None:
        try:
            motions = conversions.message_to_retrieved(message)
        except MessageError as error:
            self.edges.update("retrieved motions", str(error))
            return
        if self._rerun is not None:
            stamp = to_seconds(message.header.stamp)
            self._rerun.retrieved(motions, message.instruction, message.mode, message.confidence, stamp)

    def _on_map(self, message: messages.AnalogyMap) -> None:
        if self._rerun is not None:
            self._rerun.analogy_map(conversions.message_to_analogy_map(message), to_seconds(message.header.stamp))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            problem = status.message if status.level != DiagnosticStatus.OK else ""
            if problem != self._problems.get(status.name, ""):
                self._tell(f"{status.name}: {problem or 'well again'}", "WARN" if problem else "INFO")
            self._problems[status.name] = problem

    def _draw(self) -> None:
        if self._joints is None:
            return
        try:
            joints, velocities, gripper = joint_state_to_arrays(self._joints, self.contract)
        except MessageError as error:
            self.edges.update("joint states", str(error))
            return
        self.edges.update("joint states", None)
        links = self._kinematics.links(joints)
        if self._rerun is not None:
            self._rerun.arm(links, velocities, gripper, self._newest)
        if self._markers.get_subscription_count():
            self._markers.publish(self._drawing(links, gripper))

    def _drawing(self, links: np.ndarray, gripper: float) -> MarkerArray:
        low, high = (
            np.array(bound) for bound in (self.contract.limits.workspace_min, self.contract.limits.workspace_max)
        )
        middle = Pose(position=_point((low + high) / 2), orientation=Quaternion(w=1.0))
        box = self._marker("workspace", Marker.CUBE, BOX, tuple(high - low), alpha=0.08, pose=middle)
        arm = self._marker("arm", Marker.LINE_STRIP, ARM, (0.025, 0.0, 0.0), points=links)
        tip = self._marker(
            "end_effector", Marker.SPHERE_LIST, OPEN if gripper > 0.5 else CLOSED, (0.04,) * 3, points=links[-1:]
        )
        drawn = [box, arm, tip]
        chunk = self._chunk
        if chunk is not None and len(chunk.positions) > 1:
            drawn.append(self._marker("chunk", Marker.LINE_STRIP, BOX, (0.008, 0.0, 0.0), points=chunk.positions))
            steps = self._marker("chunk_steps", Marker.SPHERE_LIST, OPEN, (0.016,) * 3, points=chunk.positions)
            steps.colors = [_color(OPEN if opening > 0.5 else CLOSED) for opening in chunk.gripper]
            drawn.append(steps)
        above = Pose(
            position=_point(np.array([(low[0] + high[0]) / 2, 0.0, high[2] + 0.1])), orientation=Quaternion(w=1.0)
        )
        text = self._marker("text", Marker.TEXT_VIEW_FACING, ARM, (0.0, 0.0, 0.05), pose=above)
        text.text = "\n".join(line for line in (self._instruction, self._state) if line) or "waiting"
        return MarkerArray(markers=[Marker(header=arm.header, action=Marker.DELETEALL), *drawn, text])

    def _marker(
        self,
        name: str,
        kind: int,
        color: tuple[int, int, int],
        size: tuple[float, ...],
        alpha: float = 1.0,
        points: np.ndarray | None = None,
        pose: Pose | None = None,
    ) -> Marker:
        return Marker(
            header=conversions.header(self._newest, self.contract.base_frame),
            ns=name,
            type=kind,
            pose=pose or Pose(orientation=Quaternion(w=1.0)),
            scale=Vector3(x=float(size[0]), y=float(size[1]), z=float(size[2])),
            color=_color(color, alpha),
            points=[] if points is None else [_point(point) for point in points],
        )


def _point(values: np.ndarray) -> Point:
    x, y, z = map(float, values)
    return Point(x=x, y=y, z=z)


def _color(rgb: tuple[int, int, int], alpha: float = 1.0) -> ColorRGBA:
    r, g, b = (value / 255 for value in rgb)
    return ColorRGBA(r=r, g=g, b=b, a=alpha)


def started() -> DashboardNode:
    """The node, active.

    Raises:
        RuntimeError: it could not be; why is in its log.
    """
    node = DashboardNode()
    for step in (node.trigger_configure, node.trigger_activate):
        step()
    if not node.is_active:
        raise RuntimeError("the dashboard could not be started, see above")
    return node


def main() -> int:
    """Runs the node."""
    return run_node(started)


if __name__ == "__main__":
    sys.exit(main())
