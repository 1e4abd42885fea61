# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Goal moves through MoveIt's Python package, in a process of its own: what happens to MoveIt does not reach the arm.

:class:`MoveItProcess` is the node's side; :class:`_MoveIt`, which alone imports ``moveit``, is the other one.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from arvrm_ros.contract import RobotContract
from arvrm_ros.errors import MotionRefused
from arvrm_ros.motion.backends import moveit
from arvrm_ros.motion.planning_process import PlanningProcess
from arvrm_ros.nodes import conversions
from arvrm_ros.nodes.blocking import longest_execution

NODE_NAME = "arvrm_moveit"
PLANNING_LIMIT = 15.0  # s after which a plan counts as lost; MoveIt's own limit is in its parameters


class MoveItProcess:
    """MoveItPy in a process of its own, started at once, and again when it is gone.

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
        make = partial(
            _MoveIt, contract.joints, contract.base_frame, group, parameters, moveit.may_touch_boxes(contract)
        )
        self._process = PlanningProcess("runs MoveIt", make, PLANNING_LIMIT, starts_within=patience)
        try:
            self._process.wait()
        except MotionRefused:
            self.close()
            raise

    def way(self, start: np.ndarray, goal: np.ndarray, margin: float) -> np.ndarray:
        """See :meth:`arvrm_ros.motion.goals.GoalPlanner.way`."""
        self._process.renew()
        return self._process.call(_MoveIt.way, start, goal, moveit.boxes(self._contract, margin))

    def execute(self, times: np.ndarray, motion: np.ndarray) -> None:
        """Has a motion (3, T, n) at (T,) seconds executed by MoveIt, and waits for its end.

        Raises:
            MotionRefused: it did not get there.
        """
        self._process.call_within(longest_execution(times), _MoveIt.execute, times, motion)

    def stop(self) -> None:
        """Ends :meth:`execute`; the controller stops in its own way."""
        self._process.tell(_MoveIt.stop)

    def close(self) -> None:
        """Ends what is executed, and the process; harmless when repeated."""
        self._process.close()


class _MoveIt:
    """MoveItPy itself."""

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
