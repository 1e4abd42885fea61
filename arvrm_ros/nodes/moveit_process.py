# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Goal moves through MoveIt's Python package, in a process of its own: what happens to MoveIt does not reach the arm.

:class:`MoveItProcess` is the node's side. Run as a program this module is the other one, which alone imports
``moveit``. They speak over a pipe: requests are (name, arguments), answers (code, message, value).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from arvrm_ros import real_time
from arvrm_ros.contract import RobotContract
from arvrm_ros.errors import ExecutionCode, MotionRefused
from arvrm_ros.motion.backends import moveit
from arvrm_ros.nodes.blocking import longest_execution

NODE_NAME = "arvrm_moveit"
STOPPED_WITHIN = 2.0  # s that MoveIt's process gets to end by itself
PLANNING_LIMIT = 15.0  # s after which a plan counts as lost; MoveIt's own limit is in its parameters


class MoveItProcess:
    """MoveItPy in a process of its own, started at once and again when it is needed and gone.

    The methods but :meth:`stop` wait, one caller at a time.

    Args:
        contract: of the robot; its keep-out boxes are put into MoveIt's planning scene.
        group: of the planning group.
        parameters: of MoveIt, as :func:`arvrm_ros.motion.backends.moveit.parameters` gives them.
        patience: seconds that MoveIt may take to start.

    Raises:
        MotionRefused: BACKEND_UNAVAILABLE, it did not start.
    """

    def __init__(self, contract: RobotContract, group: str, parameters: dict[str, Any], patience: float) -> None:
        self._contract = contract
        self._setup = (contract.joints, contract.base_frame, group, parameters, moveit.may_touch_boxes(contract))
        self._patience = patience
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self._start()

    @property
    def pid(self) -> int:
        """Of the process; 0 when there is none."""
        return 0 if self._process is None else self._process.pid

    def way(self, start: np.ndarray, goal: np.ndarray, margin: float) -> np.ndarray:
        """See :class:`arvrm_ros.motion.goals.WayPlanner`."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        return self._call("way", (start, goal, moveit.boxes(self._contract, margin)), PLANNING_LIMIT)

    def execute(self, times: np.ndarray, motion: np.ndarray) -> None:
        """Has a motion (3, T, n) at (T,) seconds executed by MoveIt, and waits for its end.

        Raises:
            MotionRefused: it did not get there.
        """
        self._call("execute", (times, motion), longest_execution(times))

    def stop(self) -> None:
        """Ends :meth:`execute`; the controller stops in its own way."""
        with contextlib.suppress(OSError, AttributeError):
            self._connection.send(("stop", ()))  # type: ignore[union-attr]

    def close(self) -> None:
        """Ends the process; harmless when repeated."""
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if connection is not None:
            connection.close()  # at the end of the pipe it stops what it executes, and ends
        if process is not None:
            try:
                process.wait(STOPPED_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self) -> None:
        self.close()
        self._connection, theirs = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "arvrm_ros.nodes.moveit_process", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C is for the node, which ends this process when the arm rests
        )
        theirs.close()
        self._call("setup", self._setup, self._patience)

    def _call(self, name: str, arguments: tuple[Any, ...], seconds: float) -> Any:
        with self._lock:
            connection = self._connection
            try:
                if connection is None:
                    raise EOFError
                connection.send((name, arguments))
                if not connection.poll(seconds):
                    self.close()
                    raise MotionRefused(
                        ExecutionCode.BACKEND_UNAVAILABLE,
                        f"MoveIt's process did not answer ({name}) within {seconds:g} s",
                    )
                code, message, value = connection.recv()
            except (EOFError, OSError):
                status = None if self._process is None else self._process.wait()
                self.close()
                raise MotionRefused(
                    ExecutionCode.BACKEND_UNAVAILABLE,
                    f"MoveIt's process ended (status {status}) during {name}; the next goal starts it again",
                ) from None
        if code != ExecutionCode.NONE:
            raise MotionRefused(ExecutionCode(code), message)
        return value


class _MoveIt:
    """The other side: MoveItPy itself."""

    def __init__(
        self,
        joints: tuple[str, ...],
        base_frame: str,
        group: str,
        parameters: dict[str, Any],
        may_touch: list[str],
    ) -> None:
        from moveit.planning import MoveItPy, PlanRequestParameters

        self._joints, self._frame, self._group, self._may_touch = list(joints), base_frame, group, may_touch
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "parameters.yaml")
            file.write_text(yaml.safe_dump({NODE_NAME: {"ros__parameters": parameters}}), encoding="utf-8")
            self._moveit = MoveItPy(node_name=NODE_NAME, launch_params_filepaths=[str(file)])
        self._component = self._moveit.get_planning_component(group)
        self._request = PlanRequestParameters(self._moveit, "")
        self._execution = self._moveit.get_trajectory_execution_manager()
        self._scene = self._moveit.get_planning_scene_monitor()

    def way(self, start: np.ndarray, goal: np.ndarray, boxes: dict[str, tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        from arvrm_ros.nodes.moveit_client import collision_object

        with self._scene.read_write() as scene:
            for name, (centre, size) in boxes.items():
                scene.apply_collision_object(collision_object(name, centre, size, self._frame))
                for link in self._may_touch:
                    scene.allowed_collision_matrix.set_entry(name, link, True)
            scene.current_state.update()
        first, last = self._state(start), self._state(goal)
        with self._scene.read_only() as scene:
            if scene.is_state_colliding(last, self._group):
                raise moveit.refused("GOAL_IN_COLLISION", "planning")
        self._component.set_start_state(robot_state=first)
        self._component.set_goal_state(robot_state=last)
        response = self._component.plan(self._request)
        _check(response.error_code, "planning")
        trajectory = response.trajectory.get_robot_trajectory_msg().joint_trajectory
        order = [trajectory.joint_names.index(joint) for joint in self._joints]
        way = np.array([point.positions for point in trajectory.points], float)[:, order]
        return np.vstack([start, way[1:-1], goal])

    def execute(self, times: np.ndarray, motion: np.ndarray) -> None:
        from moveit.core.robot_trajectory import RobotTrajectory
        from moveit_msgs.msg import RobotTrajectory as RobotTrajectoryMessage

        from arvrm_ros.nodes import conversions

        model = self._moveit.get_robot_model()
        trajectory = RobotTrajectory(model)
        trajectory.joint_model_group_name = self._group
        message = conversions.motion_to_trajectory(tuple(self._joints), times, motion)
        trajectory.set_robot_trajectory_msg(self._state(motion[0, 0]), RobotTrajectoryMessage(joint_trajectory=message))
        status = self._moveit.execute(trajectory, controllers=[])
        if not status:
            code = "PREEMPTED" if status.status == "PREEMPTED" else "CONTROL_FAILED"
            raise moveit.refused(code, "execution", f"its status is {status.status}")

    def stop(self) -> None:
        self._execution.stop_execution()

    def _state(self, joints: np.ndarray) -> Any:
        from moveit.core.robot_state import RobotState

        state = RobotState(self._moveit.get_robot_model())
        state.set_to_default_values()
        state.joint_positions = dict(zip(self._joints, joints.tolist(), strict=True))
        state.update()
        return state


def _check(code: Any, what: str) -> None:
    from arvrm_ros.nodes.moveit_client import check

    check(code, what)


def main() -> None:
    """Serves the pipe whose file descriptor is the argument, until its other end is closed."""
    real_time.give_way(0)  # the node's priority is for commands
    connection = Connection(int(sys.argv[1]))
    moveit_py: list[_MoveIt] = []

    def answer(name: str, arguments: tuple[Any, ...]) -> None:
        value = None
        code, message = ExecutionCode.NONE, ""
        try:
            if name == "setup":
                moveit_py.append(_MoveIt(*arguments))
            else:
                value = getattr(moveit_py[0], name)(*arguments)
        except MotionRefused as refusal:
            code, message = refusal.code, str(refusal)
        except Exception as error:
            code, message = ExecutionCode.BACKEND_UNAVAILABLE, f"MoveIt: {name}: {type(error).__name__}: {error}"
        connection.send((int(code), message, value))

    worker = ThreadPoolExecutor(1)
    with contextlib.suppress(EOFError, OSError):
        while True:
            name, arguments = connection.recv()
            if name != "stop":
                worker.submit(answer, name, arguments)
            elif moveit_py:
                moveit_py[0].stop()
    if moveit_py:  # the node is gone: what it had executed ends
        with contextlib.suppress(Exception):
            moveit_py[0].stop()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # MoveItPy is known to crash when it is torn down


if __name__ == "__main__":
    main()
