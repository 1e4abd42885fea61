# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Parameters as data: what a user may write, what is refused and how."""

from dataclasses import dataclass, fields

import pytest

pytest.importorskip("rclpy", reason="nodes need ROS 2")

from arvrm_ros.nodes.parameters import ParameterError, Parameters, descriptor, parameter, validated


@dataclass(frozen=True)
class Example(Parameters):
    rate: float = parameter(10.0, "how often", unit="Hz", low=0.5, high=100.0)
    count: int = parameter(3, "how many", low=1)
    mode: str = parameter("fast", "which way", choices=("fast", "slow"))
    names: tuple[str, ...] = parameter(("",), "what they are called")
    gains: tuple[float, ...] = parameter((1.0,), "per joint", low=0.0)


def test_defaults_are_valid():
    assert validated(Example, {f.name: f.default for f in fields(Example)}) == Example()


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [("rate", 5, 5.0), ("names", ["a", "b"], ("a", "b")), ("gains", [1, 2.5], (1.0, 2.5)), ("rate", 0.5, 0.5)],
)
def test_a_value_as_a_user_writes_it_is_read(name, value, read):
    got = getattr(validated(Example, {name: value}), name)
    assert got == read
    assert type(got) is type(read)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("rate", "5", "is not of type float"),
        ("rate", 0.0, ">= 0.5 and <= 100.0"),
        ("rate", float("nan"), ">= 0.5"),
        ("count", 2.0, "is not of type int"),
        ("count", True, "is not of type int"),
        ("count", 0, ">= 1"),
        ("mode", "slwo", "one of fast, slow"),
        ("names", "a", "is not a list"),
        ("gains", [1.0, -1.0], ">= 0.0"),
    ],
)
def test_a_wrong_value_is_refused_with_name_value_and_range(name, value, says):
    with pytest.raises(ParameterError, match=f"parameter {name}: ") as caught:
        validated(Example, {name: value})
    assert says in str(caught.value)


def test_the_descriptor_carries_description_unit_and_range():
    rate, count = (descriptor(f) for f in fields(Example) if f.name in ("rate", "count"))
    assert rate.description == "how often [Hz]"
    assert (rate.floating_point_range[0].from_value, rate.floating_point_range[0].to_value) == (0.5, 100.0)
    assert count.integer_range[0].from_value == 1
