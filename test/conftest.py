# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of several test files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from arvrm_ros.contract import RobotContract, load_contract

if TYPE_CHECKING:
    from node_process import Graph


@pytest.fixture(scope="session")
def contract() -> RobotContract:
    return load_contract("tabletop")


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Graph]:
    """A ROS graph for one test alone."""
    pytest.importorskip("rclpy")
    from node_process import Graph

    graph = Graph(tmp_path)
    yield graph
    graph.close()
