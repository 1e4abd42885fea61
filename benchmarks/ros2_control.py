# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the real ros2_control does with what the execution node sends it, and how soon the arm rests.

Needs a controller manager with `arm_controller` and `gripper_controller` (joint_trajectory_controller) and the joints'
states on ROS_DOMAIN_ID; docs/real_robot.md says how to start one with mock hardware. Not for a real arm: it kills the
execution node while the arm moves, and wants to be told that there is none.

This program is the rest of the robot: cameras that look at the embedded simulator's table, whose arm is where the joint
states say, and the oracle. The suite real_robot then follows five instructions, is cancelled and stopped four times
each while the arm moves, and at last its execution node is killed.

    ROS_DOMAIN_ID=71 python benchmarks/ros2_control.py --mock-hardware --json ros2_control.json
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from arvrm_ros import files, suite
from arvrm_ros.bringup import Supervisor
from arvrm_ros.contract import load_contract
from arvrm_ros.simulation.tabletop import Tabletop
from arvrm_ros.simulation.tasks import TASKS, Judge, task_of, tasks_in_turn

TICK = 0.01  # s between two steps of the scene
IMAGES_EVERY = 3  # ticks
MOVES, RESTS = 0.25, 0.01  # rad/s of the fastest joint from which the arm counts as moving, and as resting
STOPS = 4
STOPPED_IN = "lift the blue block"  # the instruction that is stopped


class RestOfTheRobot:
    """Cameras and oracle, and a record of what the controller was asked for, each in a thread of its own."""

    def __init__(self, seed: int) -> None:
        from control_msgs.msg import JointTrajectoryControllerState
        from rclpy.context import Context
        from rclpy.experimental.events_executor import EventsExecutor
        from rclpy.node import Node
        from rclpy.qos import QoSProfile
        from sensor_msgs.msg import Image, JointState
        from std_msgs.msg import String

        from arvrm_ros.msg import TaskStatus
        from arvrm_ros.nodes import qos

        self.contract = load_contract("tabletop")
        self._seed = seed
        self._positions: dict[str, float] = {}
        self._instruction = ""
        self.states: list[tuple[float, np.ndarray]] = []  # wall-clock seconds; the arm's joints, rad
        self.references: list[tuple[np.ndarray, np.ndarray]] = []  # rad/s, rad/s^2
        context = Context()
        context.init()
        self._node = Node("rest_of_the_robot", context=context)
        executor = EventsExecutor(context=context)
        executor.add_node(self._node)
        deep = QoSProfile(depth=500)
        self._node.create_subscription(JointState, "/joint_states", self._on_joints, deep)
        controller = self.contract.action.arm_topic.rsplit("/", 1)[0]
        self._node.create_subscription(
            JointTrajectoryControllerState, f"{controller}/controller_state", self._on_reference, deep
        )
        self._node.create_subscription(String, "/instruction", self._on_instruction, qos.LATCHED)
        self._status = self._node.create_publisher(TaskStatus, "/task_status", qos.RELIABLE)
        self._images = {
            name: self._node.create_publisher(Image, camera.raw_topic, qos.SENSOR)
            for name, camera in self.contract.observation.cameras.items()
        }
        for work in (lambda: executor.spin_once(timeout_sec=0.2), self._scene()):
            threading.Thread(target=_forever, args=(work,), daemon=True).start()

    def _on_joints(self, message: Any) -> None:
        self._positions = dict(zip(message.name, message.position, strict=True))
        joints = np.array([self._positions[name] for name in self.contract.joints])
        self.states.append((time.time(), joints))

    def _on_reference(self, message: Any) -> None:
        reference = message.reference
        if len(reference.velocities) == len(reference.accelerations) == len(self.contract.joints):
            self.references.append((np.array(reference.velocities), np.array(reference.accelerations)))

    def _on_instruction(self, message: Any) -> None:
        self._instruction = message.data

    def _scene(self) -> Callable[[], None]:
        """What is to be done again and again: one tick of the scene."""
        from arvrm_ros.msg import TaskStatus
        from arvrm_ros.nodes.conversions import header, image_to_message

        world: Tabletop | None = None
        judge: Judge | None = None
        judged, ticks, due = "", 0, time.monotonic()

        def tick() -> None:
            nonlocal world, judge, judged, ticks, due
            if world is None or judge is None:  # in this thread, whose the OpenGL context is
                world = Tabletop(self.contract)
                world.reset(self._seed, variant="D")
                judge = Judge("", world.state())
            due = max(due + TICK, time.monotonic() - TICK)
            time.sleep(max(0.0, due - time.monotonic()))
            if positions := self._positions:
                joints = np.array([positions[name] for name in self.contract.joints])
                world.command(joints, self.contract.gripper.opening(positions[self.contract.gripper.joint]))
            world.advance(TICK)
            ticks += 1
            if ticks % IMAGES_EVERY:
                return
            now = self._node.get_clock().now().nanoseconds * 1e-9
            for name, publisher in self._images.items():
                publisher.publish(image_to_message(world.render(name), now, f"{name}_camera_optical_frame"))
            state = world.state()
            if judged != self._instruction:
                judged = self._instruction
                judge = Judge(task_of(judged) or "", state)
            success = judge.look(state)
            self._status.publish(
                TaskStatus(header=header(now), task=judge.task, success=success, scene=state.to_json())
            )

        return tick

    def wait_until_moving(self, timeout: float = 8.0) -> None:
        """Returns when the arm moves."""
        end = time.monotonic() + timeout
        while time.monotonic() < end and self._speeds(time.time() - 0.1)[-1] < MOVES:
            time.sleep(0.005)

    def rest_after(self, since: float) -> float:
        """Seconds from a time until the arm rests for good, by now."""
        times = np.array([at for at, _ in self.states if at > since])[1:]
        moving = times[self._speeds(since) > RESTS]
        return round(float(moving[-1] - since), 3) if len(moving) else 0.0

    def _speeds(self, since: float) -> np.ndarray:
        """(N - 1,) rad/s of the fastest joint, between the N joint states since a time."""
        states = [state for state in self.states if state[0] > since]
        if len(states) < 2:
            return np.zeros(1)
        times, joints = np.array([at for at, _ in states]), np.array([q for _, q in states])
        return np.abs(np.diff(joints, axis=0)).max(axis=1) / np.maximum(np.diff(times), 1e-3)


def _forever(work: Callable[[], object]) -> None:
    while True:
        work()


def run(robot: Any, rest: RestOfTheRobot, supervisor: Supervisor, seed: int) -> dict[str, Any]:
    """Instructions, stops, the end of the execution node."""
    scene = Tabletop(rest.contract, "D", render=False)
    scene.reset(seed)
    done = {}
    robot.home()
    for task in tasks_in_turn(scene.state(), seed):
        outcome = robot.follow(TASKS[task].instructions[0], 20.0).result(60.0)
        done[task] = bool(outcome.success and outcome.success_source == "oracle")
        robot.home()
    rests: dict[str, list[float]] = {"cancel": [], "emergency_stop": [], "kill_9": []}
    for i in range(2 * STOPS + 1):
        kind = "kill_9" if i == 2 * STOPS else ("cancel", "emergency_stop")[i % 2]
        following = robot.follow(STOPPED_IN, 20.0)
        time.sleep(0.6)
        rest.wait_until_moving()
        since = time.time()
        if kind == "cancel":
            following.cancel()
        elif kind == "emergency_stop":
            robot.emergency_stop()
        else:
            os.kill(supervisor.pids["execution_node"], signal.SIGKILL)
        time.sleep(1.0)
        rests[kind].append(rest.rest_after(since))
        if kind == "emergency_stop":
            robot.release()
        if kind != "kill_9":
            robot.home()
    velocities, accelerations = (np.abs(column) for column in zip(*rest.references, strict=True))
    limits = rest.contract.limits
    return {
        "done": done,
        "seconds_to_rest": rests,
        "velocity_of_limit": round(float(np.max(np.max(velocities, axis=0) / limits.velocity)), 3),
        "acceleration_of_limit": round(float(np.max(np.max(accelerations, axis=0) / limits.acceleration)), 3),
        "references": len(velocities),
    }


def main() -> int:
    """Runs it and prints the figures; 1 when the arm took longer than 0.3 s to rest, or a limit was not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mock-hardware", action="store_true", required=True, help="there is no real arm")
    parser.add_argument("--seed", type=int, default=19, help="of the scene (default: 19)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    os.environ.update(suite.environment("simulation"))  # all of it is on this machine
    if importlib.util.find_spec("control_msgs") is None:
        print("control_msgs is not installed: install ros-$ROS_DISTRO-ros2-controllers")
        return 1
    from arvrm_ros.nodes.commander import Commander

    rest = RestOfTheRobot(args.seed)
    with tempfile.TemporaryDirectory() as logs:
        values = suite.resolve("real_robot", {"execution": "controller"})
        with Supervisor("real_robot", values, None, Path(logs)) as supervisor, Commander() as robot:
            supervisor.wait_until_up()
            figures = run(robot, rest, supervisor, args.seed)
    print(f"done: {', '.join(f'{task} {done}' for task, done in figures['done'].items())}")
    for kind, seconds in figures["seconds_to_rest"].items():
        print(f"{kind}: at rest after {', '.join(f'{value:.2f}' for value in seconds)} s")
    for what in ("velocity", "acceleration"):
        print(f"greatest {what} that was asked of a joint / its limit: {figures[what + '_of_limit']}")
    late = max(max(seconds) for seconds in figures["seconds_to_rest"].values()) / 0.3
    print(f"longest way to rest / 0.3 s: {late:.2f}")
    if args.json:
        files.write_json(args.json, figures)
    sys.stdout.flush()
    os._exit(int(late > 1 or max(figures["velocity_of_limit"], figures["acceleration_of_limit"]) > 1))


if __name__ == "__main__":
    sys.exit(main())
