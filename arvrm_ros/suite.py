# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The one table of nodes. The launch files and ``arvrm up`` read it and differ only in who starts the processes.

A suite is a set of nodes brought up together. Its arguments are written ``name:=value``, as for ``ros2 launch``; the
arguments that name a node replace it:

=====================  =====================================================================================
value                  meaning
=====================  =====================================================================================
none                   the node is left out (the retrieval node stays and retrieves nothing)
path/to/node.py        this Python file runs in its place, with the node's name and parameters
package/executable     this ROS 2 executable runs in its place, with the node's name and parameters
anything else          the package's own node, with the value as its choice (policy, retrieval mode, backend)
=====================  =====================================================================================

A replacement has to be a lifecycle node that publishes its heartbeat as :class:`arvrm_ros.nodes.lifecycle.ManagedNode`
does.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arvrm_ros.contract import RobotContract, load_contract
from arvrm_ros.errors import ArvrmError
from arvrm_ros.resources import resource
from arvrm_ros.simulation import MOST_LAG

BRIDGE = "ros_gz_bridge"
"""Package of the bridge between Gazebo's topics and ROS 2's."""

MANAGER = "lifecycle_manager"
"""Name of the node that brings the others up and watches them."""

SUITE_UP = "the suite is up"
"""What the lifecycle manager logs once every node is active."""


SUITES = {
    "real_robot": "a robot with cameras, joint states and ros2_control's controllers",
    "simulation": "the embedded tabletop simulator in place of robot and cameras",
    "gazebo": "the same tabletop in Gazebo, which has to be installed",
    "ablation": "the simulation with one part of the method left out",
}


class SuiteError(ArvrmError):
    """A suite cannot be started as asked: unknown suite or argument, wrong value, or something missing."""


@dataclass(frozen=True)
class Argument:
    """One argument of a suite; the type of ``default`` is the argument's."""

    name: str
    default: str | int | float
    description: str
    suites: tuple[str, ...] = tuple(SUITES)
    choices: tuple[str, ...] = ()  # the only values allowed; empty for any


Values = Mapping[str, Any]
"""Argument name to value."""


@dataclass(frozen=True)
class Node:
    """One row of the table.

    Attributes:
        name: of the node, of its module and of its executable.
        suites: in which it runs.
        parameters: node parameter to the function of the argument values that gives it.
        argument: the argument that replaces the node; "" when it cannot be replaced.
        choice: the node parameter that takes the argument's value; "" when only the default value is known.
        keeps_none: whether ``none`` is a choice of the node itself, not its absence.
    """

    name: str
    suites: tuple[str, ...]
    parameters: Mapping[str, Callable[[Values], Any]] = field(default_factory=dict)
    argument: str = ""
    choice: str = ""
    keeps_none: bool = False


@dataclass(frozen=True)
class Process:
    """One process to start: the node of :class:`Node` ``name``, or its replacement, or a program that is no node.

    Attributes:
        name: of the node.
        package, executable: what to run; for a Python file, ``package`` is "" and ``executable`` its path.
        parameters: of the node.
        remappings: topic as the node names it to topic as the graph does.
        arguments: words of the command line before those that ROS takes.
        program: the whole command line of what is no node; nothing else than ``name`` counts then.
    """

    name: str
    package: str = ""
    executable: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    remappings: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    program: tuple[str, ...] = ()

    def command(self) -> list[str]:
        """The command line that starts the process without ``ros2``.

        Raises:
            SuiteError: no such executable on AMENT_PREFIX_PATH.
        """
        if self.program:
            return list(self.program)
        remappings = {"__node": self.name, **self.remappings}
        words = [word for rule in remappings.items() for word in ("-r", ":=".join(rule))]
        return [*self._found(), *self.arguments, "--ros-args", *words, *_parameter_arguments(self.parameters)]

    def _found(self) -> list[str]:
        if self.package == "arvrm_ros":
            return [sys.executable, "-m", f"arvrm_ros.nodes.{self.executable}"]
        if not self.package:
            return [sys.executable, self.executable]
        if path := _executable(self.package, self.executable):
            return [str(path)]
        raise SuiteError(f"{self.name}: no executable {self.executable} of package {self.package} on AMENT_PREFIX_PATH")


ABLATIONS: dict[str, dict[str, str]] = {
    "full": {"retrieval": "database"},
    "no_retrieval": {"retrieval": "none"},
    "random_retrieval": {"retrieval": "random"},
    "oracle_retrieval": {"retrieval": "oracle_task"},
    "wrong_retrieval": {"retrieval": "wrong_task"},
}
"""Values of the ablation suite's argument ``ablation``, and the arguments each one stands for."""

EMBEDDED = ("simulation", "ablation")
SIMULATED = (*EMBEDDED, "gazebo")

ARGUMENTS = (
    Argument("robot", "tabletop", "robot contract: NAME of config/robots/NAME.yaml, or the path of a YAML file"),
    Argument("camera", "default", "camera ingestion: default, none, NODE.py or package/executable"),
    Argument(
        "cameras",
        "",
        "where camera images come from, NAME=SOURCE separated by spaces; SOURCE is an image topic, /dev/videoN, a "
        "video or a folder; the contract's image_raw topics when empty",
    ),
    Argument(
        "human_video",
        "",
        "what the hand-keypoint node watches: image topic, /dev/videoN, video or folder",
        ("real_robot",),
    ),
    Argument(
        "human_video",
        str(resource("checkpoints", "human_example.mp4")),
        "what the hand-keypoint node watches: image topic, /dev/videoN, video or folder; a shipped clip by default",
        SIMULATED,
    ),
    Argument("hand_keypoints", "default", "hand landmarks: default, none, NODE.py or package/executable"),
    Argument(
        "retrieval",
        "database",
        "human-motion retrieval: database, random, none, NODE.py or package/executable; in simulation also oracle_task "
        "and wrong_task, clips of the true task or of another",
        ("real_robot", "simulation", "gazebo"),
    ),
    Argument("database", "", "human-motion database, path or URI of a NAME.lance; the shipped one when empty"),
    Argument(
        "policy",
        "arvrm_tabletop",
        "policy: NAME of checkpoints/NAME, a checkpoint's path, none, NODE.py or package/executable",
    ),
    Argument(
        "execution",
        "moveit",
        "execution backend: moveit, controller, embedded, none, NODE.py or package/executable",
        ("real_robot",),
    ),
    Argument("moveit_group", "arm", "MoveIt's planning group of the arm", ("real_robot",)),
    Argument("goal_execution", "stream", "who executes goal moves: stream or controller", ("real_robot",)),
    Argument("chunk_stream", "controller", "where chunks go: controller, servo_twist or servo_pose", ("real_robot",)),
    Argument("execution", "embedded", "execution backend: embedded, none, NODE.py or package/executable", SIMULATED),
    Argument("lag", 0.1, "seconds by which the free arm is behind its commands, at most", ("real_robot",)),
    Argument("lag", MOST_LAG, "seconds by which the free arm is behind its commands, at most", SIMULATED),
    Argument("variant", "D", "look of the simulated table: A, B, C or D", SIMULATED, ("A", "B", "C", "D")),
    Argument("seed", 0, "seed of the first simulated scene", SIMULATED),
    Argument("real_time_factor", 1.0, "simulated seconds per wall-clock second", SIMULATED),
    Argument("gui", "false", "whether Gazebo shows its window: true or false", ("gazebo",), ("true", "false")),
    Argument("render_engine", "ogre", "what draws Gazebo's cameras: ogre or ogre2", ("gazebo",), ("ogre", "ogre2")),
    Argument("ablation", "no_retrieval", "what to leave out: " + ", ".join(ABLATIONS), ("ablation",), tuple(ABLATIONS)),
)

NODES = (  # in the order in which they are brought up; the reverse is the order in which they go down
    Node(
        "simulation_node",
        EMBEDDED,
        {
            "variant": lambda a: a["variant"],
            "seed": lambda a: a["seed"],
            "real_time_factor": lambda a: a["real_time_factor"],
        },
    ),
    Node("gazebo_node", ("gazebo",), {"variant": lambda a: a["variant"], "seed": lambda a: a["seed"]}),
    Node("camera_node", tuple(SUITES), {"sources": lambda a: camera_sources(a)}, argument="camera"),
    Node("hand_keypoint_node", tuple(SUITES), argument="hand_keypoints"),
    Node(
        "retrieval_node",
        tuple(SUITES),
        {"database": lambda a: a["database"]},
        argument="retrieval",
        choice="mode",
        keeps_none=True,
    ),
    Node("execution_node", tuple(SUITES), {"lag": lambda a: a["lag"]}, argument="execution", choice="backend"),
    Node("policy_node", tuple(SUITES), argument="policy", choice="policy"),
)


def arguments_of(suite: str) -> dict[str, Argument]:
    """The arguments of one suite by name.

    Raises:
        SuiteError: no such suite.
    """
    if suite not in SUITES:
        raise SuiteError(f"no suite {suite!r}: choose one of {', '.join(SUITES)}")
    return {argument.name: argument for argument in ARGUMENTS if suite in argument.suites}


def resolve(suite: str, given: Mapping[str, str]) -> dict[str, Any]:
    """Every argument's value: the given one, else the ablation's, else the default.

    Args:
        suite: name of the suite.
        given: values as text, as on a command line.

    Raises:
        SuiteError: unknown suite or argument, or a value of the wrong type.
    """
    arguments = arguments_of(suite)
    if unknown := given.keys() - arguments.keys():
        raise SuiteError(f"{suite} has no argument {', '.join(sorted(unknown))}; it has {', '.join(arguments)}")
    values: dict[str, Any] = {}
    for name, argument in arguments.items():
        kind = type(argument.default)
        try:
            values[name] = kind(given.get(name, argument.default))
        except ValueError:
            raise SuiteError(f"{name}:={given[name]} is not of type {kind.__name__}") from None
        if argument.choices and values[name] not in argument.choices:
            raise SuiteError(f"{name}:={values[name]} is not one of {', '.join(argument.choices)}")
    if "ablation" in values:
        values |= ABLATIONS[values["ablation"]]
    return values


def processes(suite: str, values: Values) -> list[Process]:
    """The processes of a suite in the order of their bring-up, the lifecycle manager first.

    Args:
        suite: name of the suite.
        values: of all its arguments, from :func:`resolve`.

    Raises:
        SuiteError: a replacement does not exist.
    """
    nodes = [process for node in NODES if suite in node.suites and (process := _process(node, suite, values))]
    manager = Process(MANAGER, "arvrm_ros", MANAGER, {"managed_nodes": [node.name for node in nodes]})
    for node in nodes:
        if node.name == "execution_node":
            if suite in SIMULATED:
                node.parameters["reference_topic"] = "/simulation/controller_state"
            node.parameters["watched_nodes"] = [other.name for other in (manager, *nodes) if other is not node]
    if suite not in SIMULATED:
        manager.parameters["required_topics"] = required_topics(values) or [""]
    return [manager, *(_gazebo(values) if suite == "gazebo" else []), *nodes]


def camera_sources(values: Values) -> list[str]:
    """The camera node's ``sources``: NAME=SOURCE per camera that is not read from its contract's raw topic."""
    sources = str(values["cameras"]).split()
    if values["human_video"]:
        sources.append(f"human={values['human_video']}")
    return sources or [""]


def required_topics(values: Values) -> list[str]:
    """Topics that have to have a publisher before a real suite is brought up: joint states and the raw images."""
    contract = load_contract(values["robot"])
    topics = [contract.observation.joint_states.topic]
    if values["camera"] == "default":
        topics += [source for source in _raw_sources(contract, values).values() if _is_topic(source)]
    return topics


def missing(suite: str, values: Values) -> list[str]:
    """What the machine lacks for a suite, one line each, with what to do about it; empty when nothing is."""
    problems = []
    if importlib.util.find_spec("rclpy") is None:
        problems.append("rclpy is not installed: install ROS 2, or `make setup` for its wheels")
    if values["execution"] == "moveit" and not any(map(importlib.util.find_spec, ("moveit", "moveit_msgs"))):
        problems.append(
            "MoveIt is not installed: install ros-$ROS_DISTRO-moveit-py, or choose execution:=controller or "
            "execution:=embedded"
        )
    if suite == "gazebo" and not (shutil.which("gz") and _executable(BRIDGE, "parameter_bridge")):
        problems.append(
            "Gazebo or its bridge is not installed: install ros-$ROS_DISTRO-ros-gz, or choose the suite simulation, "
            "whose simulator comes with this package"
        )
    if suite not in SIMULATED and values["camera"] == "default":
        for name, source in _raw_sources(load_contract(values["robot"]), values).items():
            if not _is_topic(source) and not Path(source).exists():
                problems.append(f"{name} camera: {source} does not exist; plug it in, or name another with cameras:=")
    return problems


def environment(suite: str) -> dict[str, str]:
    """Environment variables a suite's processes want where the user has not set them.

    A simulated suite keeps its traffic on this machine, over shared memory; a real robot's may come from elsewhere.
    """
    wanted = {
        "AMENT_PREFIX_PATH": sys.prefix,
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",  # a node's PyTorch takes all cores from the others; the policy node has a parameter
    }
    if suite in SIMULATED:
        wanted["FASTDDS_DEFAULT_PROFILES_FILE"] = str(resource("config", "fastdds.xml"))
        wanted["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        wanted["GZ_IP"] = "127.0.0.1"
    return {name: value for name, value in wanted.items() if name not in os.environ}


def parse(words: Iterable[str]) -> dict[str, str]:
    """``name:=value`` words as a dictionary.

    Raises:
        SuiteError: a word is not of that form.
    """
    given = {}
    for word in words:
        name, assigned, value = word.partition(":=")
        if not assigned or not name:
            raise SuiteError(f"{word!r} is not of the form name:=value")
        given[name] = value
    return given


def _gazebo(values: Values) -> list[Process]:
    """Gazebo with the tabletop, and the bridge between its topics and ROS 2's."""
    from arvrm_ros.simulation import gazebo  # loads MuJoCo, which a real robot does not need

    arguments = ["--robot", values["robot"], "--variant", values["variant"], "--seed", str(values["seed"])]
    arguments += ["--real-time-factor", str(values["real_time_factor"]), "--render-engine", values["render_engine"]]
    if values["gui"] == "true":
        arguments.append("--gui")
    bridged = gazebo.bridges(load_contract(values["robot"]))
    return [
        Process("gazebo", program=(sys.executable, "-m", "arvrm_ros", "gazebo", "run", *arguments)),
        Process("gazebo_bridge", BRIDGE, "parameter_bridge", arguments=bridged),
    ]


def _executable(package: str, name: str) -> Path | None:
    """A ROS 2 package's executable on AMENT_PREFIX_PATH."""
    prefixes = os.environ.get("AMENT_PREFIX_PATH", sys.prefix).split(os.pathsep)
    paths = (Path(prefix, "lib", package, name) for prefix in prefixes)
    return next((path for path in paths if os.access(path, os.X_OK)), None)


def _process(node: Node, suite: str, values: Values) -> Process | None:
    parameters = {"robot": values["robot"]} | {name: value(values) for name, value in node.parameters.items()}
    if suite in SIMULATED and node.name not in ("simulation_node", "gazebo_node"):
        parameters["use_sim_time"] = True
    value = str(values[node.argument]) if node.argument else ""
    if value == "none" and not node.keeps_none:
        return None
    if value.endswith(".py"):
        if not Path(value).is_file():
            raise SuiteError(f"{node.argument}:={value}: no such file")
        return Process(node.name, "", str(Path(value).resolve()), parameters)
    if re.fullmatch(r"[a-z]\w*/[\w.-]+", value) and not Path(value).exists():
        package, executable = value.split("/")
        return Process(node.name, package, executable, parameters)
    if node.name == "execution_node" and suite not in SIMULATED:
        parameters |= {name: values[name] for name in ("moveit_group", "goal_execution", "chunk_stream")}
    if node.choice:
        parameters[node.choice] = value
    elif node.argument and value != "default":
        raise SuiteError(f"{node.argument}:={value}: give default, none, NODE.py or package/executable")
    return Process(node.name, "arvrm_ros", node.name, parameters)


def _raw_sources(contract: RobotContract, values: Values) -> dict[str, str]:
    """Source per camera of the contract: what ``cameras:=`` says, else the driver's raw topic."""
    given = dict(source.split("=", 1) for source in str(values["cameras"]).split() if "=" in source)
    return {name: given.get(name, camera.raw_topic) for name, camera in contract.observation.cameras.items()}


def _is_topic(source: str) -> bool:
    return source.startswith("/") and not source.startswith("/dev/") and not Path(source).exists()


def _parameter_arguments(parameters: Mapping[str, Any]) -> list[str]:
    """``-p name:=value`` words; a value is written as JSON, which the parameter parser reads as YAML."""
    return [word for name, value in parameters.items() for word in ("-p", f"{name}:={json.dumps(value)}")]
