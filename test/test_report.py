# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The demo's plan, its report, and its watch over processes."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from arvrm_ros.data.types import HumanClip, RetrievedMotion
from arvrm_ros.data.video import read_video
from arvrm_ros.evaluation.demo import FIRST_SEED, ProcessWatch, plan
from arvrm_ros.evaluation.report import DemoRecord, Episode, ProcessUse, summary, write_report
from arvrm_ros.simulation.tasks import TASKS


def motion(clip_id: str, caption: str) -> RetrievedMotion:
    keypoints = np.random.default_rng(0).random((5, 21, 3)).astype(np.float32)
    none = np.zeros(0, np.float32)
    clip = HumanClip(clip_id, caption, 0.1, keypoints, np.array([1, 1, 1, 1, 0], bool), none, none.reshape(0, 0))
    return RetrievedMotion(clip, 1.25, 0.75, 0.5)


@pytest.fixture
def record() -> DemoRecord:
    rng = np.random.default_rng(0)
    images = {
        camera: [(0.1 * i, rng.integers(0, 255, (128, 128, 3), np.uint8)) for i in range(6)]
        for camera in ("static", "gripper")
    }
    done = Episode(
        "open <b>the drawer</b>", "open_drawer", False, 1000000, True, 6, 0.6, 0, "", "oracle", images,
        [motion("clip_1", "pull the drawer open"), motion("clip_2", "slide it")], 0.8,
        [(0.1 * i, i / 6) for i in range(6)],
        {"policy_step": [0.01, 0.02, 0.03], "capture_to_command": [0.1, 0.1, 0.2]}, {"clip_1": b"\xff\xd8jpeg"},
        "slide it <out>",
    )  # fmt: skip
    failed = Episode("fly", "open_drawer", True, 1000001, False, 0, 2.0, 204, "camera is silent")
    processes = [ProcessUse("policy_node", 11, 512.34), ProcessUse("camera_node", 12, 100.0)]
    return DemoRecord([done, failed], processes, 12.34, rng.normal(size=(7, 21)).astype(np.float32), 612.0)


def test_summary_has_exactly_the_promised_fields(record: DemoRecord) -> None:
    assert summary(record) == {
        "total": 2,
        "success": 1,
        "tasks": [
            {
                "instruction": "open <b>the drawer</b>",
                "task": "open_drawer",
                "success": True,
                "steps": 6,
                "seconds": 0.6,
                "error_code": 0,
            },
            {
                "instruction": "fly",
                "task": "open_drawer",
                "success": False,
                "steps": 0,
                "seconds": 2.0,
                "error_code": 204,
            },
        ],
        "processes": [
            {"node": "policy_node", "pid": 11, "max_rss_mb": 512.3},
            {"node": "camera_node", "pid": 12, "max_rss_mb": 100.0},
        ],
        "latency_ms": {
            "policy_step": {"p50": 20.0, "p95": 29.0},
            "capture_to_command": {"p50": 100.0, "p95": 190.0},
        },
        "wall_seconds": 12.3,
    }


def test_report_holds_everything_and_needs_nothing_else(record: DemoRecord, tmp_path: Path) -> None:
    page = write_report(record, tmp_path).read_text()
    assert json.loads((tmp_path / "summary.json").read_text()) == summary(record)
    assert not re.search(r"""(src|href)=["'](?!data:|#)|url\(|@import""", page)
    for text in ("pull the drawer open", "open &lt;b&gt;the drawer", "camera is silent", "1 of 2", "0.75", "0.50"):
        assert text in page
    assert page.count("<dt>read as</dt><dd>slide it &lt;out&gt;</dd>") == page.count("read as") == 1
    assert page.count('class="hands"') == 1  # the clip without a picture is drawn
    assert page.count('class="cell"') == 7 * 21
    video = re.search(r'src="data:video/mp4;base64,([^"]+)"', page)
    assert video
    file = tmp_path / "embedded.mp4"
    file.write_bytes(base64.b64decode(video[1]))
    frames, period = read_video(file)
    assert frames.shape == (6, 288, 576, 3)
    assert period == pytest.approx(0.1)


def test_report_without_map_clips_and_images(record: DemoRecord, tmp_path: Path) -> None:
    record.analogy_map = None
    del record.episodes[0]
    page = write_report(record, tmp_path).read_text()
    assert "From hand to robot" not in page
    assert "No images were recorded" in page


def test_plan_covers_the_kinds_with_seen_and_unseen_words() -> None:
    assignments = plan(10, seed=3)
    assert assignments == plan(10, seed=3)
    assert assignments != plan(10, seed=4)
    assert len({TASKS[a.task].kind for a in assignments}) >= 4
    assert min(a.seed for a in assignments) >= FIRST_SEED
    assert len({a.seed for a in [*assignments, *plan(10, seed=4)]}) == 20
    for assignment in assignments:
        task = TASKS[assignment.task]
        assert assignment.instruction in (task.held_out if assignment.held_out else task.instructions)
    assert {a.held_out for a in assignments} == {True, False}


def test_process_watch_measures_and_finds_what_is_left() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "x = b'1' * 50_000_000; print('ready', flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout
    child.stdout.readline()
    watch = ProcessWatch({"eater": child.pid})
    uses = watch.stop()
    assert uses[0].max_rss_mb > 50
    assert watch.peak_mb == pytest.approx(uses[0].max_rss_mb)
    assert watch.left_behind()
    child.communicate(b"\n")
    assert watch.left_behind() == []
