# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the simulated robots share, whoever moves them: parameters, the task's verdict, and trajectory controllers.

Beyond what ros2_control's do, ``/simulation/controller_state`` says what the arm's asks of the joints at each tick, for
whoever judges the motion.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from arvrm_ros.msg import TaskStatus
from arvrm_ros.nodes import qos
from arvrm_ros.nodes.conversions import header, to_seconds, to_time
from arvrm_ros.nodes.lifecycle import ManagedNode
from arvrm_ros.nodes.parameters import Parameters, parameter
from arvrm_ros.simulation import scene
from arvrm_ros.simulation.scene import SceneState
from arvrm_ros.simulation.tasks import Judge
from arvrm_ros.simulation.trajectory_controller import TrajectoryController, TrajectoryError, TrajectoryPoint


@dataclass(frozen=True)
class SimulatedRobotParameters(Parameters):
    """Parameters of every simulated robot."""

    seed: int = parameter(0, "seed of the first scene", low=0)
    variant: str = parameter("D", "look of the table", choices=tuple(scene.VARIANTS))
    end_velocity: bool = parameter(
        False, "whether a trajectory's last point may move (allow_nonzero_velocity_at_trajectory_end of ros2_control)"
    )
    status_rate: float = parameter(10.0, "task judgements per simulated second", unit="Hz", low=0.5, high=100.0)


class SimulatedRobotNode(ManagedNode):
    """A node that is a robot to the others; what it makes in configure is freed in cleanup."""

    params: SimulatedRobotParameters

    def __init__(self, name: str, parameters: type[SimulatedRobotParameters]) -> None:
        super().__init__(name, parameters)
        self._entities: list[Callable[[], Any]] = []

    def cleanup(self) -> None:
        for destroy in self._entities:
            destroy()
        self._entities = []

    def _publisher(self, kind: type, topic: str, profile: Any) -> Any:
        publisher: Any = self.create_lifecycle_publisher(kind, topic, profile)
        self._entities.append(lambda: self.destroy_lifecycle_publisher(publisher))
        return publisher

    def _verdict(self, judge: Judge, state: SceneState, now: float) -> TaskStatus:
        """What the oracle says of a state."""
        success = judge.look(state)
        return TaskStatus(header=header(now), task=judge.task, success=success, scene=state.to_json())


def trajectory_points(message: JointTrajectory) -> list[TrajectoryPoint]:
    """The points of a trajectory, as its controller takes them."""
    return [
        TrajectoryPoint(
            np.array(point.positions),
            np.array(point.velocities) if point.velocities else None,
            to_seconds(point.time_from_start),
            np.array(point.accelerations) if point.accelerations else None,
        )
        for point in message.points
    ]


class RobotControllers:
    """Follows the trajectories on the contract's two topics; any thread may sample them.

    Args:
        node: whose contract, topics and log they use.
        end_velocity: whether a trajectory's last point may move.
        clock: seconds of the time in which trajectories are stamped.
    """

    def __init__(self, node: ManagedNode, end_velocity: bool, clock: Callable[[], float]) -> None:
        self._node = node
        self._clock = clock
        self._deaf_until = -np.inf
        self._lock = threading.Lock()
        contract = node.contract
        self._arm = TrajectoryController(contract.joints, end_velocity)
        self._gripper = TrajectoryController((contract.gripper.joint,), end_velocity)
        self._state = node.create_publisher(JointState, "/simulation/controller_state", qos.RELIABLE)
        self._subscriptions = [
            node.create_subscription(
                JointTrajectory, topic, partial(self._on_trajectory, topic, controller), qos.COMMANDS
            )
            for topic, controller in (
                (contract.action.arm_topic, self._arm),
                (contract.action.gripper_topic, self._gripper),
            )
        ]

    def destroy(self) -> None:
        """Frees topics."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._node.destroy_publisher(self._state)

    def hold(self, arm: np.ndarray, finger: float, deaf: float = 0.0) -> None:
        """Holds a position from now on, and drops what comes within ``deaf`` seconds: it was meant for another.

        Args:
            arm: (n,) radians.
            finger: metres, of the contract's gripper joint.
        """
        now = self._clock()
        with self._lock:
            self._deaf_until = now + deaf
            self._arm.reset(arm, now)
            self._gripper.reset(np.array([finger]), now)

    def lead(self, arm: np.ndarray, finger: float, seconds: float) -> None:
        """Brings arm and finger to rest elsewhere from where they are commanded to be; drops all else till then."""
        now = self._clock()
        with self._lock:
            self._deaf_until = now + seconds
            for controller, end in ((self._arm, arm), (self._gripper, np.array([finger]))):
                still = np.zeros(len(end))
                controller.accept(list(controller.joints), [TrajectoryPoint(end, still, seconds)], None, now)

    def sample(self, now: float) -> tuple[np.ndarray, float]:
        """What is asked of the arm's joints, (n,) radians, and of the finger, metres."""
        with self._lock:
            arm, velocity = self._arm.sample(now)
            finger, _ = self._gripper.sample(now)
        if self._state.get_subscription_count():
            message = JointState(name=list(self._arm.joints), position=arm.tolist(), velocity=velocity.tolist())
            message.header.stamp = to_time(now)
            self._state.publish(message)
        return arm, float(finger[0])

    def _on_trajectory(self, topic: str, controller: TrajectoryController, message: JointTrajectory) -> None:
        points = trajectory_points(message)
        start = to_seconds(message.header.stamp) or None
        now = self._clock()
        try:
            with self._lock:
                if now < self._deaf_until:
                    return
                controller.accept(list(message.joint_names), points, start, now)
        except TrajectoryError as error:
            self._node.edges.update(topic, f"rejected: {error}")
        else:
            self._node.edges.update(topic, None)
