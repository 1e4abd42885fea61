# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The tabletop in Gazebo as a robot: between Gazebo's own topics, bridged, and what the other nodes know of a robot.

Gazebo moves the arm and the things, and renders. This node follows the trajectories that a robot's controllers would,
asks Gazebo's servos for the positions, passes clock and joint states on, switches the lamps, and judges the task that
the present instruction asks for, from where Gazebo says that things are.

At first it brings the arm from upright, as it stands in a new world, to its home; joint states begin after that.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.clock import Clock as NodeClock
from rclpy.clock_type import ClockType
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import ColorRGBA, String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from arvrm_ros.msg import TaskStatus
from arvrm_ros.nodes import qos
from arvrm_ros.nodes.conversions import to_seconds
from arvrm_ros.nodes.lifecycle import run_node
from arvrm_ros.nodes.simulated_robot import RobotControllers, SimulatedRobotNode, SimulatedRobotParameters
from arvrm_ros.simulation import gazebo, scene
from arvrm_ros.simulation.tabletop import Tabletop
from arvrm_ros.simulation.tasks import Judge, task_of

TICK = 0.01
"""Simulated seconds between two clock and joint-state messages, and between two positions asked of the servos."""

HOMING_SHARE = 0.4
"""Share of the contract's joint velocities at which the arm is brought home."""

AT_HOME = 0.01
"""Radians and metres from home from which joint states are passed on."""

SILENCE = 5.0
"""Wall-clock seconds without a word from Gazebo after which it is said."""


class GazeboNode(SimulatedRobotNode):
    """Lifecycle node; all of it runs in the executor's thread, at the pace of Gazebo's joint states.

    Its seed and variant have to be those of the world that Gazebo runs.
    """

    def __init__(self) -> None:
        super().__init__("gazebo_node", SimulatedRobotParameters)

    def configure(self) -> None:
        contract = self.contract
        self._scene = Tabletop(contract, self.params.variant, render=False)
        self._scene.reset(self.params.seed)
        self._begins_at = gazebo.fixture_joints(self._scene)
        self._judge = Judge("", self._scene.state())
        self._lamps: tuple[bool, bool] | None = None
        self._fixtures: dict[str, float] = {}  # where Gazebo last said that things are, mirrored at the next tick
        self._blocks: dict[str, np.ndarray] = {}
        self._now = 0.0  # simulated seconds of Gazebo's newest joint states
        self._next_tick = 0.0
        self._heard = time.monotonic()
        self._home = False
        self._home_at: float | None = None  # simulated seconds at which the way home ends, once it has begun
        self._controllers = RobotControllers(self, self.params.end_velocity, lambda: self._now)
        self._entities.append(self._controllers.destroy)

        self._clock_publisher = self._publisher(Clock, "/clock", qos.CLOCK)
        self._joint_publisher = self._publisher(JointState, contract.observation.joint_states.topic, qos.SENSOR)
        self._status_publisher = self._publisher(TaskStatus, "/task_status", qos.RELIABLE)
        self._servos = self._publisher(JointTrajectory, gazebo.SETPOINTS, qos.RELIABLE)
        self._colors = self._color_publisher()
        self._subscribe(JointState, gazebo.ROBOT_STATES, self._on_robot, qos.SENSOR)
        self._subscribe(JointState, gazebo.FIXTURE_STATES, self._on_fixtures, qos.SENSOR)
        for color in scene.BLOCKS:
            self._subscribe(PoseStamped, gazebo.block_pose_topic(color), partial(self._on_block, color), qos.SENSOR)
        self._subscribe(String, "/instruction", self._on_instruction, qos.LATCHED)
        timer = self.create_timer(1.0, self._listen, clock=NodeClock(clock_type=ClockType.STEADY_TIME))
        self._entities.append(lambda: self.destroy_timer(timer))

    def activate(self) -> None:
        self._heard = time.monotonic()
        self._home, self._home_at = False, None
        self._lamps = None

    def deactivate(self) -> None:
        if self._home_at is not None:
            self._controllers.hold(self._scene.joint_positions, self._scene.finger_position)
            self._ask_servos()

    def diagnose(self) -> Mapping[str, str | float]:
        return {"simulated_seconds": round(self._now, 2), "task": self._judge.task, "home": str(self._home)}

    def _subscribe(self, kind: type, topic: str, callback: Callable[[Any], None], profile: Any) -> None:
        subscription = self.create_subscription(kind, topic, callback, profile)
        self._entities.append(lambda: self.destroy_subscription(subscription))

    def _color_publisher(self) -> Any:
        try:
            from ros_gz_interfaces.msg import MaterialColor
        except ImportError:
            self.get_logger().warning("ros_gz_interfaces is not installed: Gazebo's lamps will not change their colour")
            return None
        return self._publisher(MaterialColor, gazebo.MATERIAL_COLOR, qos.RELIABLE)

    # What Gazebo says.

    def _on_robot(self, message: JointState) -> None:
        if not self.is_active:
            return
        self._heard = time.monotonic()
        now = to_seconds(message.header.stamp)
        if now < self._now:  # the world was reset
            self._next_tick, self._home, self._home_at = now, False, None
        self._now = now
        if now < self._next_tick - 1e-6:
            return
        self._next_tick = TICK * (np.floor(now / TICK + 1e-6) + 1)
        joints = dict(zip(message.name, message.position, strict=True))
        self._scene.mirror(now, joints | self._fixtures, self._blocks)
        self._lead_home()
        self._ask_servos()
        self._clock_publisher.publish(Clock(clock=message.header.stamp))
        if self._home:
            self._joint_publisher.publish(message)
        self._switch_lamps()
        if round(now / TICK) % max(1, round(1 / (self.params.status_rate * TICK))) == 0:
            self._status_publisher.publish(self._verdict(self._judge, self._scene.state(), now))

    def _on_fixtures(self, message: JointState) -> None:
        positions = dict(zip(message.name, message.position, strict=True))
        self._fixtures = {name: positions[name] + zero for name, zero in self._begins_at.items()}

    def _on_block(self, color: str, message: PoseStamped) -> None:
        place, turn = message.pose.position, message.pose.orientation
        self._blocks[color] = np.array([place.x, place.y, place.z, turn.w, turn.x, turn.y, turn.z])

    def _listen(self) -> None:
        silent = self.is_active and time.monotonic() - self._heard > SILENCE
        problem = f"silent on {gazebo.ROBOT_STATES}: is it running, and ros_gz_bridge?" if silent else None
        self.edges.update("Gazebo", problem)

    # What is done about it.

    def _lead_home(self) -> None:
        if self._home:
            return
        home, opening = np.array(self.contract.home), self.contract.gripper.open
        present, finger = self._scene.joint_positions, self._scene.finger_position
        if self._home_at is None:
            slowest = float(np.max(np.abs(home - present) / (HOMING_SHARE * np.array(self.contract.limits.velocity))))
            seconds = max(1.0, 1.5 * slowest)  # a cubic's middle is 1.5 times as fast
            self._controllers.hold(present, finger)
            self._controllers.lead(home, opening, seconds)
            self._home_at = self._now + seconds
            self.get_logger().info(f"the arm is brought to its home position, in {seconds:.1f} s")
        off = np.append(present - home, finger - opening)
        self._home = self._now > self._home_at and bool(np.all(np.abs(off) < AT_HOME))

    def _ask_servos(self) -> None:
        arm, finger = self._controllers.sample(self._now)
        point = JointTrajectoryPoint()
        point.positions = [*self._scene.within_speed(arm).tolist(), finger, finger]
        names = [*self.contract.joints, *self._scene.finger_joints]
        self._servos.publish(JointTrajectory(joint_names=names, points=[point]))

    def _switch_lamps(self) -> None:
        lamps = self._scene.lamps
        if self._colors is None or lamps == self._lamps:
            return
        from ros_gz_interfaces.msg import Entity, MaterialColor

        self._lamps = lamps
        for name, color in scene.lamp_colors(*lamps).items():
            rgba = ColorRGBA(**dict(zip("rgba", map(float, color), strict=True)))
            entity = Entity(name=gazebo.lamp_visual(name), type=Entity.VISUAL)
            self._colors.publish(MaterialColor(entity=entity, ambient=rgba, diffuse=rgba, specular=ColorRGBA(a=1.0)))

    def _on_instruction(self, message: String) -> None:
        self._judge = Judge(task_of(message.data) or "", self._scene.state())


def main() -> int:
    """Runs the node."""
    return run_node(GazeboNode, real_time=True)


if __name__ == "__main__":
    sys.exit(main())
