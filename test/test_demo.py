# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The whole suite: every node in its own process, an instruction in, a moved scene and a report out."""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from rerun_recording import entities

from arvrm_ros.resources import resource


def shown_topics() -> set[str]:
    """What config/dashboard asks for: values that begin with a slash, to where a message's fields begin."""
    texts = [path.read_text() for path in resource("config", "dashboard").iterdir()]
    named = (re.findall(r'(?:"(?:value|topicPath|imageTopic|topicName)": "|Value: )(/[\w/]+)', text) for text in texts)
    return {topic for of_file in named for topic in of_file}


@contextlib.contextmanager
def looking_on(recording: Path, domain: str) -> Iterator[set[str]]:
    """The dashboard on a domain, recording; and the set of topics, which grows with those that are seen there."""
    import rclpy

    command = [sys.executable, "-m", "arvrm_ros", "dashboard", "--record", str(recording)]
    process = subprocess.Popen(command, env=os.environ | {"ROS_DOMAIN_ID": domain})
    context, topics, done = rclpy.Context(), set(), threading.Event()
    rclpy.init(context=context, domain_id=int(domain))
    node = rclpy.create_node("looks_on", context=context)

    def look() -> None:
        while not done.wait(0.5):
            topics.update(name for name, _ in node.get_topic_names_and_types())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield topics
    finally:
        done.set()
        thread.join()
        node.destroy_node()
        rclpy.shutdown(context=context)
        process.terminate()
        assert process.wait(timeout=60) == 0


@pytest.mark.ros
@pytest.mark.slow
def test_the_suite_follows_instructions_and_leaves_a_report_and_nothing_else(tmp_path):
    command = [sys.executable, "-m", "arvrm_ros", "demo", "--episodes", "2", "--out", str(tmp_path), "--domain", "58"]
    with looking_on(tmp_path / "run.rrd", "58") as topics:
        done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    logs = "".join(path.read_text() for path in (tmp_path / "logs").glob("*.log"))
    assert done.returncode == 0, done.stderr + logs
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["total"] == 2
    assert summary["success"] >= 1, done.stdout + logs
    assert {process["node"] for process in summary["processes"]} == {
        "simulation_node", "camera_node", "hand_keypoint_node", "retrieval_node", "execution_node", "policy_node",
        "lifecycle_manager",
    }  # fmt: skip
    assert {"encode", "predict", "capture_to_command"} <= summary["latency_ms"].keys()
    assert not [p for p in summary["processes"] if psutil.pid_exists(p["pid"])]
    # What the dashboard's layouts show is there, and was recorded.
    assert "/hand_keypoints/overlay" in shown_topics() <= topics
    assert {"cameras/static", "cameras/gripper", "world/arm", "world/chunk", "retrieved/clips"} <= entities(
        tmp_path / "run.rrd"
    )
    page = (tmp_path / "report.html").read_text()
    assert "video/mp4" in page
    assert all(task["instruction"] in page for task in summary["tasks"])
