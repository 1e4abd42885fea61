# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Node parameters as data: one dataclass per node says name, type, default, unit, range and description of each.

    @dataclass(frozen=True)
    class CameraParameters(Parameters):
        rate: float = parameter(10.0, "images published per second", unit="Hz", low=0.1, high=120.0)

:func:`declare` turns the dataclass into ROS parameters with descriptors (``ros2 param describe`` prints them),
:func:`read` gives a validated instance back.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

from arvrm_ros.errors import ArvrmError

if TYPE_CHECKING:
    from rclpy.node import Node


class ParameterError(ArvrmError):
    """A node parameter has the wrong type or lies outside its range; the message names parameter, value and range."""


def parameter(
    default: Any,
    description: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: Iterable[str] = (),
) -> Any:
    """A dataclass field that is a ROS parameter.

    Args:
        default: str, bool, int, float, or a tuple of one of them.
        description: one sentence for the user.
        unit: of the value, e.g. "s"; part of the description.
        low: least number allowed, also of each number in a tuple.
        high: greatest number allowed.
        choices: the only strings allowed.
    """
    metadata = {"description": description, "unit": unit, "low": low, "high": high, "choices": tuple(choices)}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Parameters:
    """The parameters every node has; a node's own dataclass derives from this one."""

    robot: str = parameter("tabletop", "robot contract: NAME of config/robots/NAME.yaml, or the path of a YAML file")


P = TypeVar("P", bound=Parameters)


def declare(node: Node, kind: type[Parameters]) -> None:
    """Declares every field of a parameter dataclass on a node.

    Values are checked by :func:`read`, not here: a number written without its decimal point is still that number, and
    a wrong value is reported by the node's configure transition, not by a stack trace of its constructor.
    """
    for field in dataclasses.fields(kind):
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        node.declare_parameter(field.name, default, descriptor(field))


def descriptor(field: dataclasses.Field[Any]) -> ParameterDescriptor:
    """The ROS descriptor of one field: description with unit and choices, and the range."""
    meta = field.metadata
    description = meta["description"] + (f" [{meta['unit']}]" if meta["unit"] else "")
    message = ParameterDescriptor(name=field.name, description=description, dynamic_typing=True)
    message.additional_constraints = _constraint(field)
    low, high = meta["low"], meta["high"]
    if low is not None or high is not None:
        if isinstance(field.default, int):
            ends = (-(2**63) if low is None else int(low), 2**63 - 1 if high is None else int(high))
            message.integer_range = [IntegerRange(from_value=ends[0], to_value=ends[1])]
        elif isinstance(field.default, float):
            limits = (-math.inf if low is None else float(low), math.inf if high is None else float(high))
            message.floating_point_range = [FloatingPointRange(from_value=limits[0], to_value=limits[1])]
    return message


def read(node: Node, kind: type[P]) -> P:
    """The node's present parameter values as a validated dataclass.

    Raises:
        ParameterError: wrong type, not finite, out of range or not one of the choices.
    """
    return validated(kind, {field.name: node.get_parameter(field.name).value for field in dataclasses.fields(kind)})


def validated(kind: type[P], values: dict[str, Any]) -> P:
    """Builds a parameter dataclass from plain values; see :func:`read`."""
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    return kind(**{name: _checked(fields[name], hints[name], value) for name, value in values.items()})


def _checked(field: dataclasses.Field[Any], hint: Any, value: Any) -> Any:
    if typing.get_origin(hint) is tuple:
        items = [] if value is None else value
        if isinstance(items, (str, bytes)) or not isinstance(items, Iterable):
            raise ParameterError(f"parameter {field.name}: {value!r} is not a list")
        return tuple(_checked_item(field, typing.get_args(hint)[0], item) for item in items)
    return _checked_item(field, hint, value)


def _checked_item(field: dataclasses.Field[Any], kind: Any, value: Any) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise ParameterError(f"parameter {field.name}: {value!r} is not of type {kind.__name__}")
    low, high, choices = (field.metadata[key] for key in ("low", "high", "choices"))
    outside = (low is not None and value < low) or (high is not None and value > high)
    if outside or (choices and value not in choices) or (kind is float and not math.isfinite(value)):
        raise ParameterError(f"parameter {field.name}: {value!r} is not {_constraint(field) or 'finite'}")
    return value


def _constraint(field: dataclasses.Field[Any]) -> str:
    low, high, choices = (field.metadata[key] for key in ("low", "high", "choices"))
    if choices:
        return "one of " + ", ".join(choices)
    bounds = [f">= {low}"] * (low is not None) + [f"<= {high}"] * (high is not None)
    return " and ".join(bounds)
