# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The whole suite: every node in its own process, an instruction in, a moved scene and a report out."""

import json
import subprocess
import sys

import psutil
import pytest


@pytest.mark.ros
@pytest.mark.slow
def test_the_suite_follows_instructions_and_leaves_a_report_and_nothing_else(tmp_path):
    command = [sys.executable, "-m", "arvrm_ros", "demo", "--episodes", "2", "--out", str(tmp_path), "--domain", "58"]
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
    page = (tmp_path / "report.html").read_text()
    assert "video/mp4" in page
    assert all(task["instruction"] in page for task in summary["tasks"])
