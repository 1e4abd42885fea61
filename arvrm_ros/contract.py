# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The robot contract: what is observed, what is commanded, and within which limits (``config/robots/NAME.yaml``)."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from arvrm_ros.errors import ContractError
from arvrm_ros.resources import resource

LEVER = 0.2
"""Metres, about the length of a hand with what it holds: a rotation counts as what it moves a point that far away."""


@dataclass(frozen=True)
class Camera:
    """One camera of the observation.

    Attributes:
        topic: ``sensor_msgs/Image`` topic the policy reads.
        height, width: pixels of the image the policy sees.
        max_age: seconds after capture from which an image is not used any more.
    """

    topic: str
    height: int
    width: int
    max_age: float

    @property
    def raw_topic(self) -> str:
        """Where the driver publishes its images, by ROS's convention: ``image_raw`` beside :attr:`topic`."""
        return f"{self.topic.rpartition('/')[0]}/image_raw"


@dataclass(frozen=True)
class JointStates:
    """The ``sensor_msgs/JointState`` topic and the age in seconds from which a message is not used any more."""

    topic: str
    max_age: float


@dataclass(frozen=True)
class Observation:
    """What a policy sees besides the instruction. The order of ``cameras`` is the policy's input order."""

    cameras: dict[str, Camera]
    joint_states: JointStates


@dataclass(frozen=True)
class Gripper:
    """A parallel gripper driven by one joint (metres, m/s); opening 0..1 maps linearly to ``closed``..``open``."""

    joint: str
    closed: float
    open: float
    max_velocity: float

    def position(self, opening: float) -> float:
        """Joint position in metres of an opening in [0, 1]."""
        return self.closed + float(np.clip(opening, 0.0, 1.0)) * (self.open - self.closed)

    def opening(self, position: float) -> float:
        """Opening in [0, 1] of a joint position in metres."""
        return float(np.clip((position - self.closed) / (self.open - self.closed), 0.0, 1.0))


@dataclass(frozen=True)
class Action:
    """What a policy commands: ``chunk`` steps, ``step_period`` seconds apart, and the controllers' topics."""

    representation: str
    chunk: int
    step_period: float
    arm_topic: str
    gripper_topic: str


@dataclass(frozen=True)
class KeepOut:
    """A box in the base frame (metres); everything of the arm that moves stays ``clearance`` metres away from it."""

    min: tuple[float, ...]
    max: tuple[float, ...]
    clearance: float = 0.0


@dataclass(frozen=True)
class Clamp:
    """How far a chunk may exceed a limit and still be cut to it; one that exceeds it further is refused.

    Attributes:
        workspace: metres outside the workspace box.
        step: metres between two steps beyond ``max_step`` or what ``cartesian_velocity`` allows in a step's time.
        keep_out: metres by which all steps may be moved together so that the arm stays out of a keep-out box.
        reach: metres from a step that the joints do not reach to where they come nearest to it; the distance and what
            the rotation moves a point :data:`LEVER` metres away, as the root of both squares.
    """

    workspace: float = 0.0
    step: float = 0.0
    keep_out: float = 0.0
    reach: float = 0.0


@dataclass(frozen=True)
class Limits:
    """Limits of the motion: per joint in rad, rad/s, rad/s^2, rad/s^3; Cartesian in m and m/s, base frame.

    Attributes:
        keep_out: boxes by name, such as the table, the floor, a wall.
        self_clearance: metres between links that a joint does not join; the links' shapes are the URDF's.
        max_drift: a policy's deltas are added to the commanded pose, or to the one towards it that is so many metres,
            also of a point :data:`LEVER` metres away that the rotation moves, from the measured pose. With 0, also
            where a checkpoint says nothing, they are added to the measured pose.
        gripper_effort: newtons the gripper closes with where its controller can be told; 0 leaves it to the controller.
        clamp: what is cut to a limit instead of refused; nothing by default.
    """

    position_min: tuple[float, ...]
    position_max: tuple[float, ...]
    velocity: tuple[float, ...]
    acceleration: tuple[float, ...]
    jerk: tuple[float, ...]
    cartesian_velocity: float
    workspace_min: tuple[float, ...]
    workspace_max: tuple[float, ...]
    max_step: float
    max_first_step: float
    keep_out: dict[str, KeepOut] = field(default_factory=dict)
    self_clearance: float = 0.0
    max_drift: float = 0.0
    gripper_effort: float = 0.0
    clamp: Clamp = Clamp()


@dataclass(frozen=True)
class Watchdogs:
    """When the arm is brought to rest.

    Attributes:
        silence: seconds without a chunk after the last one ran out from which the arm counts as holding.
        tracking_error: radians between command and measurement.
        obstruction: radians by which something holds the arm off its path, its lag left out; it gives way then.
        rest_between_instructions: whether the arm rests before a new instruction takes over from one in progress; else
            it goes on with the old one's last chunk until the new one's first.
    """

    silence: float
    tracking_error: float
    obstruction: float = 0.02
    rest_between_instructions: bool = True


@dataclass(frozen=True)
class RobotContract:
    """Everything recording, training, evaluation and deployment have to agree on about one robot."""

    name: str
    urdf: str
    base_frame: str
    end_effector_frame: str
    joints: tuple[str, ...]
    home: tuple[float, ...]
    gripper: Gripper
    observation: Observation
    action: Action
    limits: Limits
    watchdogs: Watchdogs

    def __post_init__(self) -> None:
        n, limits = len(self.joints), self.limits
        if n == 0 or len({*self.joints, self.gripper.joint}) != n + 1:
            raise self._error("joints", "must name each joint once, and not the gripper's")
        lengths = {"home": n, "limits.workspace_min": 3, "limits.workspace_max": 3}
        lengths |= {f"limits.{key}": n for key in ("position_min", "position_max", "velocity", "acceleration", "jerk")}
        lengths |= {f"limits.keep_out.{name}.{corner}": 3 for name in limits.keep_out for corner in ("min", "max")}
        for key, length in lengths.items():
            if len(values := self._value(key)) != length:
                raise self._error(key, f"has {len(values)} values instead of {length}")
        positive = [
            "gripper.max_velocity", "observation.joint_states.max_age", "action.chunk", "action.step_period",
            "limits.velocity", "limits.acceleration", "limits.jerk", "limits.cartesian_velocity", "limits.max_step",
            "limits.max_first_step", "watchdogs.silence", "watchdogs.tracking_error", "watchdogs.obstruction",
            *(f"observation.cameras.{name}.{key}" for name in self.observation.cameras
              for key in ("height", "width", "max_age")),
        ]  # fmt: skip
        for key in positive:
            if np.min(self._value(key)) <= 0:
                raise self._error(key, "must be positive")
        not_negative = [
            "self_clearance",
            "max_drift",
            "gripper_effort",
            "clamp.workspace",
            "clamp.step",
            "clamp.keep_out",
            "clamp.reach",
        ]
        not_negative += [f"keep_out.{name}.clearance" for name in limits.keep_out]
        for key in (f"limits.{key}" for key in not_negative):
            if self._value(key) < 0:
                raise self._error(key, "must not be negative")
        if self.gripper.open == self.gripper.closed:
            raise self._error("gripper.open", "must differ from gripper.closed")
        self._check_below("limits.position_min", "limits.position_max")
        self._check_below("limits.workspace_min", "limits.workspace_max")
        for name in limits.keep_out:
            self._check_below(f"limits.keep_out.{name}.min", f"limits.keep_out.{name}.max")
        for joint, low, value, high in zip(
            self.joints, limits.position_min, self.home, limits.position_max, strict=True
        ):
            if not low <= value <= high:
                raise self._error("home", f"puts {joint} at {value}, outside its range {low} to {high}")
        if self.action.representation != "end_effector_delta":
            raise self._error(
                "action.representation", f"{self.action.representation!r} is unknown; use end_effector_delta"
            )

    def _value(self, key: str) -> Any:
        """The value at a key such as ``limits.keep_out.table.min``."""
        value: Any = self
        for part in key.split("."):
            value = value[part] if isinstance(value, dict) else getattr(value, part)
        return value

    def _check_below(self, lower: str, upper: str) -> None:
        if np.any(np.array(self._value(lower)) >= np.array(self._value(upper))):
            raise self._error(lower, f"must lie below {upper}")

    def _error(self, key: str, problem: str) -> ContractError:
        return ContractError(f"contract {self.name}: {key} {problem}")

    def urdf_path(self) -> Path:
        """The robot's URDF file."""
        return resource("urdf", self.urdf)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in the YAML file; a checkpoint carries it."""
        return dataclasses.asdict(self)

    def differences(self, other: RobotContract) -> list[str]:
        """Where two contracts disagree in what a policy depends on (limits and watchdogs may differ).

        Returns:
            One line per difference, ``key: this value, other value``; empty when a policy may be carried over.
        """
        return [
            f"{key}: {mine!r} here, {theirs!r} there"
            for key in ("joints", "base_frame", "end_effector_frame", "gripper", "observation", "action")
            if (mine := getattr(self, key)) != (theirs := getattr(other, key))
        ]


def contract_from_dict(values: dict[str, Any], where: str = "contract") -> RobotContract:
    """Builds and validates a contract from plain data.

    Raises:
        ContractError: a key is missing, unknown, of the wrong type or out of range; the message names it.
    """
    return _build(RobotContract, values, where)


def load_contract(name_or_path: str | Path) -> RobotContract:
    """Reads ``config/robots/NAME.yaml``, or the YAML file at a path.

    Raises:
        ContractError: no such file, not YAML, or invalid.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = resource("config", "robots", f"{name_or_path}.yaml")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in resource("config", "robots").glob("*.yaml")))
        raise ContractError(f"no robot contract {name_or_path!r}: give a YAML file, or one of {known}") from None
    except yaml.YAMLError as error:
        raise ContractError(f"{path} is not YAML: {error}") from None
    return contract_from_dict(values, str(path))


def _build(kind: Any, value: Any, where: str) -> Any:
    """Converts plain data to the annotated type, naming the key of whatever does not fit."""
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ContractError(f"{where}: expected a mapping")
        hints = typing.get_type_hints(kind)
        optional = {f.name for f in dataclasses.fields(kind) if not _required(f)}
        missing, unknown = hints.keys() - optional - value.keys(), value.keys() - hints.keys()
        if missing or unknown:
            raise ContractError(f"{where}: missing {sorted(missing)}, unknown {sorted(map(str, unknown))}")
        return typing.cast(Any, kind)(
            **{key: _build(hint, value[key], f"{where}: {key}") for key, hint in hints.items() if key in value}
        )
    if origin is dict:
        if not isinstance(value, dict):
            raise ContractError(f"{where}: expected a mapping")
        return {str(key): _build(typing.get_args(kind)[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ContractError(f"{where}: expected a list")
        return tuple(_build(typing.get_args(kind)[0], item, where) for item in value)
    try:
        converted = kind(value)
    except (TypeError, ValueError, OverflowError):
        raise ContractError(f"{where}: {value!r} is not a {kind.__name__}") from None
    if kind is float and not np.isfinite(converted):
        raise ContractError(f"{where}: {value!r} is not finite")
    return converted


def _required(item: dataclasses.Field) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
