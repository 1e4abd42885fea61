# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The simulated tabletop as a robot: what a real arm and its cameras publish, what ros2_control listens to.

Beyond that, ``/simulation/arm_placed`` says where a reset put the arm.

Three threads: the executor's takes messages, one runs the physics and publishes every 10 ms of simulated time, one owns
the OpenGL context and renders, so that an image never delays a joint state.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any

import numpy as np
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState

from arvrm_ros.errors import ArvrmError
from arvrm_ros.msg import TaskStatus
from arvrm_ros.nodes import qos
from arvrm_ros.nodes.conversions import header, image_to_message, to_time
from arvrm_ros.nodes.lifecycle import run_node
from arvrm_ros.nodes.parameters import parameter
from arvrm_ros.nodes.simulated_robot import RobotControllers, SimulatedRobotNode, SimulatedRobotParameters
from arvrm_ros.real_time import RENDERING, give_way
from arvrm_ros.simulation.tabletop import Snapshot, Tabletop
from arvrm_ros.simulation.tasks import Judge
from arvrm_ros.srv import ResetScene

TICK = 0.01
"""Simulated seconds between two clock and joint-state messages."""

AHEAD = 0.4
"""Share of a tick by which the physics is computed ahead, so that what it takes does not make the clock uneven."""

MAX_CATCH_UP = 0.05
"""Wall seconds the physics may lag before simulated time slows down instead of catching up."""

RESET_TIMEOUT = 20.0
"""Wall seconds after which a reset is reported as failed."""

DEAF = 0.3
"""Simulated seconds after a reset for which trajectories are dropped: they were meant for where the arm was before."""


@dataclass(frozen=True)
class SimulationParameters(SimulatedRobotParameters):
    """Parameters of the simulator."""

    task: str = parameter("", "id of the task to judge from the start; empty judges none")
    real_time_factor: float = parameter(1.0, "simulated seconds per wall-clock second", low=0.05, high=20.0)
    image_rate: float = parameter(10.0, "images per simulated second and camera", unit="Hz", low=0.5, high=50.0)


class SimulationNode(SimulatedRobotNode):
    """Lifecycle node around :class:`Tabletop`; active, it runs in real time, inactive, simulated time stands still."""

    params: SimulationParameters

    def __init__(self) -> None:
        super().__init__("simulation_node", SimulationParameters)
        self._threads: list[threading.Thread] = []
        self._running = threading.Event()

    def configure(self) -> None:
        contract = self.contract
        self._world = Tabletop(contract, self.params.variant, render=False)
        self._world.reset(self.params.seed, self.params.task or None)
        self._judge = Judge(self.params.task, self._world.state())
        self._ticks = 0
        self._resets: queue.SimpleQueue[tuple[ResetScene.Request, Future]] = queue.SimpleQueue()
        self._frames: queue.Queue[tuple[float, Snapshot]] = queue.Queue(maxsize=1)
        self._lag = 0.0

        fingers = self._world.finger_joints
        self._joint_names = [*contract.joints, *fingers]
        self._controllers = RobotControllers(self, self.params.end_velocity, lambda: self._ticks * TICK)
        self._entities.append(self._controllers.destroy)
        self._hold_measured()

        self._clock_publisher = self._publisher(Clock, "/clock", qos.CLOCK)
        self._joint_publisher = self._publisher(JointState, contract.observation.joint_states.topic, qos.SENSOR)
        self._placed_publisher = self._publisher(JointState, "/simulation/arm_placed", qos.RELIABLE)
        self._status_publisher = self._publisher(TaskStatus, "/task_status", qos.RELIABLE)
        self._image_publishers = {
            name: (
                self._publisher(Image, f"/{name}_camera/image_raw", qos.SENSOR),
                self._publisher(CameraInfo, f"/{name}_camera/camera_info", qos.SENSOR),
            )
            for name in contract.observation.cameras
        }
        service = self.create_service(ResetScene, "/simulation/reset", self._on_reset)
        self._entities.append(lambda: self.destroy_service(service))

    def activate(self) -> None:
        self._running.set()
        self._threads = [
            threading.Thread(target=self._guarded, args=(loop,), name=name, daemon=True)
            for name, loop in (("physics", self._run_physics), ("rendering", self._run_rendering))
        ]
        for thread in self._threads:
            thread.start()

    def deactivate(self) -> None:
        self._running.clear()
        for thread in self._threads:
            thread.join()
        self._threads = []
        self._hold_measured()

    def diagnose(self) -> Mapping[str, str | float]:
        return {
            "simulated_seconds": round(self._ticks * TICK, 2),
            "task": self._judge.task,
            "lag_ms": round(1e3 * self._lag, 1),
        }

    # In the executor's thread.

    def _on_reset(self, request: ResetScene.Request, response: ResetScene.Response) -> ResetScene.Response:
        done: Future[None] = Future()
        if not self.is_active:
            response.message = "simulation_node is not active"
            return response
        self._resets.put((request, done))
        try:
            done.result(RESET_TIMEOUT)
            response.success = True
        except ArvrmError as error:
            response.message = str(error)
        except FutureTimeoutError:
            response.message = f"the physics did not answer within {RESET_TIMEOUT:g} s"
        return response

    # In the physics thread.

    def _run_physics(self) -> None:
        period = TICK / self.params.real_time_factor
        image_ticks = max(1, round(1.0 / (self.params.image_rate * TICK)))
        status_ticks = max(1, round(1.0 / (self.params.status_rate * TICK)))
        due = time.monotonic()
        while self._running.is_set():
            due += period
            _sleep_until(due - AHEAD * period)
            self._serve_resets()
            self._ticks += 1
            began = time.perf_counter()
            self._step()
            self.stages.add("physics", time.perf_counter() - began)
            self._lag = _sleep_until(due)
            if self._lag > MAX_CATCH_UP:
                due += self._lag  # simulated time slows down; it never jumps
            self._publish_state()
            if self._ticks % image_ticks == 0:
                self._request_images()
            if self._ticks % status_ticks == 0:
                self._status_publisher.publish(self._verdict(self._judge, self._world.state(), self._ticks * TICK))

    def _serve_resets(self) -> None:
        while not self._resets.empty():
            request, done = self._resets.get()
            try:
                self._world.reset(request.seed, request.task or None, request.variant or None)
            except ArvrmError as error:
                done.set_exception(error)
                continue
            self._judge = Judge(request.task, self._world.state())
            self._hold_measured(DEAF)
            self._placed_publisher.publish(self._joint_state())
            done.set_result(None)

    def _hold_measured(self, deaf: float = 0.0) -> None:
        self._controllers.hold(self._world.joint_positions, self._world.finger_position, deaf)

    def _step(self) -> None:
        arm, finger = self._controllers.sample(self._ticks * TICK)
        self._world.command(arm, self.contract.gripper.opening(finger))
        self._world.advance(TICK)

    def _publish_state(self) -> None:
        self._clock_publisher.publish(Clock(clock=to_time(self._ticks * TICK)))
        self._joint_publisher.publish(self._joint_state())

    def _joint_state(self) -> JointState:
        position, velocity, effort = self._world.joint_state()
        message = JointState(name=self._joint_names)
        message.header.stamp = to_time(self._ticks * TICK)
        message.position, message.velocity, message.effort = position.tolist(), velocity.tolist(), effort.tolist()
        return message

    def _request_images(self) -> None:
        try:
            self._frames.put_nowait((self._ticks * TICK, self._world.snapshot()))
            self.edges.update("rendering", None)
        except queue.Full:
            self.edges.update("rendering", "too slow for the image rate; frames are left out")

    # In the rendering thread.

    def _run_rendering(self) -> None:
        give_way(RENDERING)  # only the robot's controller is in a hurry
        view = Tabletop(self.contract, self.params.variant)
        try:
            while self._running.is_set():
                try:
                    frame = self._frames.get(timeout=0.1)
                except queue.Empty:
                    continue
                started = time.perf_counter()
                stamp, snapshot = frame
                view.show(snapshot)
                for camera, publishers in self._image_publishers.items():
                    self._publish_image(view, camera, stamp, *publishers)
                self.stages.add("render", time.perf_counter() - started)
        finally:
            view.close()

    def _publish_image(self, view: Tabletop, camera: str, stamp: float, images: Any, infos: Any) -> None:
        size = self.contract.observation.cameras[camera]
        frame_id = f"{camera}_camera_optical_frame"
        image = view.render(camera)
        matrix, _ = view.camera_matrix(camera, size.height, size.width)
        info = CameraInfo(
            header=header(stamp, frame_id),
            height=size.height,
            width=size.width,
            distortion_model="plumb_bob",
            d=[0.0] * 5,
            k=matrix.ravel().tolist(),
            r=np.eye(3).ravel().tolist(),
            p=np.hstack([matrix, np.zeros((3, 1))]).ravel().tolist(),
        )
        images.publish(image_to_message(image, stamp, frame_id))
        infos.publish(info)

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except Exception:
            self.get_logger().fatal(f"{threading.current_thread().name} failed:\n{traceback.format_exc()}")
            self._running.clear()
            self.edges.update("simulation", f"{threading.current_thread().name} failed; see the log")


def _sleep_until(due: float) -> float:
    """Sleeps until a monotonic time, and returns by how many seconds that is past."""
    if (left := due - time.monotonic()) > 0:
        time.sleep(left)
    return time.monotonic() - due


def main() -> int:
    """Runs the node."""
    return run_node(SimulationNode, real_time=True)


if __name__ == "__main__":
    sys.exit(main())
