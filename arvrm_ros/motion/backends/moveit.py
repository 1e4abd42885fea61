# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""MoveIt 2: which of its interfaces is installed, its parameters from the contract, what its error codes mean.

Chunks take the same way to the controller as with the backend ``controller``, or go through MoveIt Servo; goal moves
are planned by MoveIt. docs/moveit.md has the picture. What speaks to MoveIt is in ``arvrm_ros.nodes``.
"""

from __future__ import annotations

import importlib.util
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from arvrm_ros.contract import RobotContract
from arvrm_ros.errors import ExecutionCode, MotionRefused
from arvrm_ros.motion.backends import controller
from arvrm_ros.motion.collision import Clearance

INTERFACES = ("auto", "moveit_py", "move_group")
"""How MoveIt is spoken to: in a process of our own (its Python package), or the robot's move_group (messages alone)."""

_MODULES = {"moveit_py": "moveit", "move_group": "moveit_msgs"}
_PACKAGES = {"moveit_py": "moveit-py", "move_group": "moveit-msgs"}

_CODES = {  # moveit_msgs/MoveItErrorCodes; every other failure is NO_PATH
    "CONTROL_FAILED": ExecutionCode.TRACKING_ERROR,
    "UNABLE_TO_AQUIRE_SENSOR_DATA": ExecutionCode.STALE_JOINT_STATES,
    "ROBOT_STATE_STALE": ExecutionCode.STALE_JOINT_STATES,
    "PREEMPTED": ExecutionCode.PREEMPTED,
    "START_STATE_IN_COLLISION": ExecutionCode.OUT_OF_WORKSPACE,
    "GOAL_IN_COLLISION": ExecutionCode.OUT_OF_WORKSPACE,
    "NO_IK_SOLUTION": ExecutionCode.JOINT_LIMIT,
    "INVALID_GROUP_NAME": ExecutionCode.BACKEND_UNAVAILABLE,
    "INVALID_LINK_NAME": ExecutionCode.BACKEND_UNAVAILABLE,
    "INVALID_GOAL_CONSTRAINTS": ExecutionCode.BACKEND_UNAVAILABLE,
    "FRAME_TRANSFORM_FAILURE": ExecutionCode.BACKEND_UNAVAILABLE,
    "COMMUNICATION_FAILURE": ExecutionCode.BACKEND_UNAVAILABLE,
}


class Backend(controller.Backend):
    """The commands that do not go through Servo are those of ros2_control's controller."""

    name = "moveit"

    def check(self) -> None:
        """One of MoveIt's interfaces is installed."""
        interface("auto")


def interface(wanted: str) -> str:
    """The interface to use: the one that is wanted, or for "auto" the first one that is installed.

    Raises:
        MotionRefused: BACKEND_UNAVAILABLE; the message names the package to install.
    """
    for name in _MODULES if wanted == "auto" else (wanted,):
        if importlib.util.find_spec(_MODULES[name]) is not None:
            return name
    distribution = os.environ.get("ROS_DISTRO", "<distro>")
    what = {"auto": "MoveIt", "moveit_py": "MoveIt's Python package", "move_group": "MoveIt's messages"}[wanted]
    packages = _PACKAGES.values() if wanted == "auto" else [_PACKAGES[wanted]]
    raise MotionRefused(
        ExecutionCode.BACKEND_UNAVAILABLE,
        f"execution backend 'moveit' needs {what}, which is not installed: "
        f"apt install {' or '.join(f'ros-{distribution}-{package}' for package in packages)}, or use the backend "
        "'controller'",
    )


def refused(code: str, what: str, message: str = "") -> MotionRefused:
    """What a failure of MoveIt means here.

    Args:
        code: name of the constant of ``moveit_msgs/MoveItErrorCodes``.
        what: MoveIt did, e.g. "planning".
        message: MoveIt's own, if it gave one.
    """
    text = f"MoveIt: {what} failed with {code}"
    return MotionRefused(_CODES.get(code, ExecutionCode.NO_PATH), f"{text}: {message}" if message else text)


def boxes(contract: RobotContract, margin: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Centre and size (3,) in metres, base frame, of the contract's keep-out boxes, by name.

    MoveIt knows no distance to keep from an object, so the boxes are larger by their clearance and a margin (m).
    """
    grown = {
        name: (np.array(box.min) - box.clearance - margin, np.array(box.max) + box.clearance + margin)
        for name, box in contract.limits.keep_out.items()
    }
    return {name: ((low + high) / 2, high - low) for name, (low, high) in grown.items()}


def parameters(contract: RobotContract, group: str, use_sim_time: bool = False) -> dict[str, Any]:
    """ROS parameters for MoveItPy, move_group and servo_node, all of them from the contract.

    Args:
        contract: of the robot; its URDF's collision shapes are what MoveIt plans with.
        group: name of the planning group in the semantic description that is made here.
        use_sim_time: follow /clock.
    """
    limits, action = contract.limits, contract.action
    arm_controller = action.arm_topic.strip("/").rsplit("/", 1)[0]
    joint_limits = {
        joint: {
            "has_position_limits": True, "min_position": low, "max_position": high,
            "has_velocity_limits": True, "max_velocity": velocity,
            "has_acceleration_limits": True, "max_acceleration": acceleration,
        }
        for joint, low, high, velocity, acceleration in zip(
            contract.joints, limits.position_min, limits.position_max, limits.velocity, limits.acceleration, strict=True
        )
    }  # fmt: skip
    request, response = "default_planning_request_adapters/", "default_planning_response_adapters/"
    return {
        "use_sim_time": use_sim_time,
        "robot_description": contract.urdf_path().read_text(encoding="utf-8"),
        "robot_description_semantic": semantic_description(contract, group),
        "robot_description_planning": {"joint_limits": joint_limits},
        "robot_description_kinematics": {
            group: {"kinematics_solver": "kdl_kinematics_plugin/KDLKinematicsPlugin", "kinematics_solver_timeout": 0.05}
        },
        "planning_pipelines": ["ompl"],  # of move_group
        "planning_pipelines.pipeline_names": ["ompl"],  # of MoveItPy
        "default_planning_pipeline": "ompl",
        "ompl": {
            "planning_plugins": ["ompl_interface/OMPLPlanner"],
            group: {"longest_valid_segment_fraction": 0.001},  # finer than the default, past which corners are cut
            "request_adapters": [
                request + name
                for name in ("ResolveConstraintFrames", "CheckStartStateBounds", "CheckStartStateCollision")
            ],
            "response_adapters": [response + name for name in ("AddTimeOptimalParameterization", "ValidateSolution")],
        },
        "plan_request_params": {
            "planning_pipeline": "ompl", "planner_id": "", "planning_attempts": 1, "planning_time": 5.0,
            "max_velocity_scaling_factor": 1.0, "max_acceleration_scaling_factor": 1.0,
        },
        "moveit_controller_manager": "moveit_simple_controller_manager/MoveItSimpleControllerManager",
        "moveit_simple_controller_manager": {
            "controller_names": [arm_controller],
            arm_controller: {
                "type": "FollowJointTrajectory", "action_ns": "follow_joint_trajectory", "default": True,
                "joints": list(contract.joints),
            },
        },
        "trajectory_execution": {"allowed_start_tolerance": 0.05},
        "moveit_servo": {
            "move_group_name": group,
            "command_in_type": "speed_units",
            "scale": {"linear": limits.cartesian_velocity, "rotational": 2.0},
            "command_out_type": "trajectory_msgs/JointTrajectory",
            "command_out_topic": action.arm_topic,
            "publish_joint_velocities": False,  # the last point would have one, which the controller refuses
            "joint_topic": contract.observation.joint_states.topic,
            "is_primary_planning_scene_monitor": True,
        },
    }  # fmt: skip


def read_parameters(file: str) -> dict[str, Any]:
    """ROS parameters from a YAML file: those of its first node, or the whole file where it names none.

    Raises:
        MotionRefused: BACKEND_UNAVAILABLE, no such file, or not YAML.
    """
    try:
        values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise MotionRefused(ExecutionCode.BACKEND_UNAVAILABLE, f"moveit_parameters {file}: {error}") from None
    for section in values.values() if isinstance(values, dict) else ():
        if isinstance(section, dict) and "ros__parameters" in section:
            return section["ros__parameters"]
    return values


def semantic_description(contract: RobotContract, group: str) -> str:
    """The SRDF: one group from the base to the end effector, its home, and which links may touch.

    Those are the pairs that the safety layer leaves out too; an SRDF beside the contract's URDF is among its sources.
    """
    robot = ElementTree.parse(contract.urdf_path()).getroot()
    root = ElementTree.Element("robot", name=str(robot.get("name")))
    chain = ElementTree.SubElement(root, "group", name=group)
    ElementTree.SubElement(chain, "chain", base_link=contract.base_frame, tip_link=contract.end_effector_frame)
    home = ElementTree.SubElement(root, "group_state", name="home", group=group)
    for joint, value in zip(contract.joints, contract.home, strict=True):
        ElementTree.SubElement(home, "joint", name=joint, value=str(value))
    apart = Clearance(contract).apart
    links = _links(contract)
    for i, first in enumerate(links):
        for second in links[i + 1 :]:
            if frozenset((first, second)) not in apart:
                ElementTree.SubElement(root, "disable_collisions", link1=first, link2=second, reason="Adjacent")
    return ElementTree.tostring(root, encoding="unicode")


def may_touch_boxes(contract: RobotContract) -> list[str]:
    """Links that the safety layer does not keep away from keep-out boxes: the robot stands on its table."""
    apart = Clearance(contract).apart
    boxes = [f"limits.keep_out.{name}" for name in contract.limits.keep_out]
    return [link for link in _links(contract) if not any(frozenset((link, box)) in apart for box in boxes)]


def _links(contract: RobotContract) -> list[str]:
    """Of the URDF, those that can collide."""
    robot = ElementTree.parse(contract.urdf_path()).getroot()
    return [str(link.get("name")) for link in robot.iter("link") if link.find("collision") is not None]
