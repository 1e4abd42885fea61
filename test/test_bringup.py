# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Suites of real processes: they come up, they go down, and nothing is left behind however they end."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="nodes need ROS 2")

import psutil
from node_process import wait_for

from arvrm_ros import bringup, suite
from arvrm_ros.suite import SUITE_UP, SuiteError

QUIET = str(Path(__file__).with_name("quiet_node.py"))
CAMERA, EXECUTION, RETRIEVAL = (f"{name}:={QUIET}" for name in ("camera", "execution", "retrieval"))
QUIET_NODES = (CAMERA, EXECUTION, RETRIEVAL, "hand_keypoints:=none", "policy:=none")


class Up:
    """``arvrm up`` in a process of its own; its output is read line by line, so that nothing waits on time."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "arvrm_ros", "up", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        self.nodes: list[psutil.Process] = []
        self.output = ""

    def wait_for_line(self, text: str) -> str:
        for line in self.process.stdout:
            self.output += line
            if text in line:
                self.nodes = psutil.Process(self.process.pid).children(recursive=True)
                return line
        pytest.fail(f"ended without saying {text!r}:\n{self.output}")

    def node(self, name: str) -> psutil.Process:
        return next(p for p in self.nodes if f"__node:={name}" in p.cmdline())

    def end(self) -> int:
        """Reads to the end; returns the exit status."""
        self.output += self.process.communicate()[0]
        return self.process.returncode

    def assert_nothing_left(self) -> None:
        assert self.nodes
        wait_for(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in self.nodes), "the end")


def segments(process: psutil.Process) -> list[Path]:
    """Files of the shared memory that Fast DDS has in a process: it keeps those open beside which they are locked."""
    locks = [Path(os.readlink(path)) for path in Path(f"/proc/{process.pid}/fd").iterdir() if path.is_symlink()]
    found = [lock for lock in locks if re.fullmatch(r"fastdds_[0-9a-f]{16}_el", lock.name)]
    return found + [lock.with_name(lock.name.removesuffix("_el")) for lock in found]


@pytest.fixture
def up():
    started: list[Up] = []

    def start(*arguments: str) -> Up:
        started.append(Up(*arguments))
        return started[-1]

    yield start
    for one in started:
        for process in [*one.nodes, one.process]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        one.process.wait()


def test_ctrl_c_takes_the_suite_down_in_reverse_order_and_leaves_nothing(up):
    running = up("real_robot", *QUIET_NODES)
    running.wait_for_line(SUITE_UP)
    assert len(running.nodes) == 4  # the lifecycle manager and three stand-ins
    shared_memory = [path for node in running.nodes for path in segments(node)]
    assert len(shared_memory) >= 4
    running.process.send_signal(signal.SIGINT)
    assert running.end() == 0
    running.assert_nothing_left()
    at_rest = [line.split("]")[0] for line in running.output.splitlines() if line.endswith("at rest")]
    assert at_rest == ["[execution_node", "[retrieval_node", "[camera_node"]
    assert not [path for path in shared_memory if path.exists()]


def test_a_crashed_node_takes_the_suite_down_and_its_shared_memory_is_removed(up, monkeypatch):
    running = up("real_robot", *QUIET_NODES)
    running.wait_for_line(SUITE_UP)
    monkeypatch.setattr(bringup, "SEGMENT_BEGINS", 0.0)
    crashing, going_on = segments(running.node("execution_node")), segments(running.node("camera_node"))
    bringup.remove_dead_segments()
    assert all(path.exists() for path in crashing + going_on)
    running.node("execution_node").kill()
    assert running.end() == 1
    assert "execution_node was killed by SIGKILL; the suite was stopped" in running.output
    running.assert_nothing_left()
    bringup.remove_dead_segments()
    assert not [path for path in crashing if path.exists()]


def test_a_killed_supervisor_leaves_nothing(up):
    running = up("real_robot", *QUIET_NODES)
    running.wait_for_line(SUITE_UP)
    running.process.kill()
    running.assert_nothing_left()


def test_a_second_suite_is_refused_and_a_silent_node_stops_the_arm(up):
    first = up("simulation", "hand_keypoints:=none", "retrieval:=none", "policy:=none")
    first.wait_for_line(SUITE_UP)

    second = up("simulation", "hand_keypoints:=none", "retrieval:=none", "policy:=none")
    second.wait_for_line("another suite is running on ROS_DOMAIN_ID")
    assert any(f"pid {node.pid}" in second.output for node in first.nodes)  # the manager's, or those heard before it
    assert second.end() == 1
    second.assert_nothing_left()
    assert first.process.poll() is None

    first.node("camera_node").suspend()  # it does not end, it only falls silent
    first.wait_for_line("emergency stop")
    first.wait_for_line("camera_node has been silent for")
    assert first.end() == 1
    first.assert_nothing_left()


def test_a_node_that_cannot_be_configured_ends_the_suite_with_its_reason(up):
    running = up("real_robot", CAMERA, EXECUTION, "hand_keypoints:=none", "policy:=none", "retrieval:=nonsense")
    line = running.wait_for_line("retrieval_node could not configure: ")
    assert "parameter mode: 'nonsense' is not one of database, random, none" in line
    assert running.end() == 1
    running.assert_nothing_left()


def test_one_table_gives_the_nodes_of_every_suite():
    every = [node.name for node in suite.NODES if not {"simulation", "real_robot"}.isdisjoint(node.suites)]
    values = suite.resolve("simulation", {})
    assert [p.name for p in suite.processes("simulation", values)] == ["lifecycle_manager", *every]
    values = suite.resolve("real_robot", {})
    assert [p.name for p in suite.processes("real_robot", values)] == ["lifecycle_manager", *every[1:]]
    values = suite.resolve("gazebo", {})
    around = ["lifecycle_manager", "gazebo", "gazebo_bridge", "gazebo_node"]
    assert [p.name for p in suite.processes("gazebo", values)] == [*around, *every[1:]]


@pytest.mark.parametrize("ablation", sorted(suite.ABLATIONS))
def test_an_ablation_is_the_simulation_with_other_arguments(ablation):
    changed = suite.processes("simulation", suite.resolve("simulation", suite.ABLATIONS[ablation]))
    assert suite.processes("ablation", suite.resolve("ablation", {"ablation": ablation})) == changed


def process_of(name: str, **given: str) -> suite.Process | None:
    found = suite.processes("simulation", suite.resolve("simulation", given))
    return next((process for process in found if process.name == name), None)


def test_an_argument_replaces_its_node():
    assert process_of("policy_node", policy="none") is None
    assert process_of("policy_node", policy=QUIET).command()[1:4] == [QUIET, "--ros-args", "-r"]
    other = process_of("policy_node", policy="other_package/fancy_policy")
    assert (other.package, other.executable, other.name) == ("other_package", "fancy_policy", "policy_node")
    with pytest.raises(SuiteError, match="no executable fancy_policy of package other_package"):
        other.command()
    assert process_of("retrieval_node", retrieval="none").parameters["mode"] == "none"
    assert process_of("camera_node", human_video="hand.mp4").parameters["sources"] == ["human=hand.mp4"]


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("simulaton", {}, "choose one of real_robot, simulation, gazebo, ablation"),
        ("simulation", {"polciy": "x"}, "has no argument polciy; it has robot"),
        ("simulation", {"seed": "one"}, "seed:=one is not of type int"),
        ("simulation", {"camera": "usb"}, "camera:=usb: give default, none, NODE.py or package/executable"),
        ("simulation", {"policy": "mine.py"}, "policy:=mine.py: no such file"),
        ("ablation", {"ablation": "all"}, "is not one of full, no_retrieval"),
        ("gazebo", {"gui": "yes"}, "gui:=yes is not one of true, false"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(name, given, says):
    with pytest.raises(SuiteError) as caught:
        suite.processes(name, suite.resolve(name, given))
    assert says in str(caught.value)


def test_what_a_real_robot_lacks_is_named_all_at_once(monkeypatch):
    monkeypatch.setattr(suite.importlib.util, "find_spec", lambda name: None if name.startswith("moveit") else object())
    problems = suite.missing(
        "real_robot", suite.resolve("real_robot", {"cameras": "static=/dev/video_none gripper=/wrist"})
    )
    assert [p.split(":")[0] for p in problems] == ["MoveIt is not installed", "static camera"]
    assert "moveit-py" in problems[0]
    assert "/dev/video_none does not exist" in problems[1]


def test_a_real_robot_waits_for_the_raw_topics_of_its_cameras():
    values = suite.resolve("real_robot", {"cameras": "gripper=/wrist/color/image_raw"})
    assert suite.required_topics(values) == ["/joint_states", "/static_camera/image_raw", "/wrist/color/image_raw"]
