# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a demo recorded, as ``summary.json`` and as one self-contained HTML page."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np

from arvrm_ros import pages
from arvrm_ros.data.types import HAND_KEYPOINTS, ROBOT_COMPONENTS, RetrievedMotion
from arvrm_ros.data.video import write_video
from arvrm_ros.files import write_json, write_text
from arvrm_ros.perception.overlay import BONES, FINGER_COLORS, keypoint_color

VIDEO_HEIGHT = 288
STAGE_NAMES = {
    "image_to_policy": "image captured → policy starts",
    "policy_step": "policy step, whole",
    "capture_to_command": "image captured → command sent",
}
TARGETS_MS = {"policy_step": ("p50", 50.0), "capture_to_command": ("p95", 150.0)}
"""Stage to the percentile and the milliseconds it should stay below."""


@dataclass
class Episode:
    """One instruction and what came of it. Stamps in seconds of the robot's clock, durations in seconds.

    Attributes:
        images: per camera, (stamp, (H, W, 3) uint8 RGB) in order of time.
        progress: (stamp, the policy's estimate in [0, 1]) per chunk.
        stages: per stage, its duration for each chunk.
        thumbnails: clip id to a JPEG of the clip with its hand keypoints drawn in.
        wording: what the policy read the instruction as; "" where it never came to that.
    """

    instruction: str
    task: str
    held_out: bool
    seed: int
    success: bool
    steps: int
    seconds: float
    error_code: int
    error_msg: str = ""
    success_source: str = ""
    images: dict[str, list[tuple[float, np.ndarray]]] = field(default_factory=dict)
    retrieved: list[RetrievedMotion] = field(default_factory=list)
    confidence: float = 0.0
    progress: list[tuple[float, float]] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=dict)
    thumbnails: dict[str, bytes] = field(default_factory=dict)
    wording: str = ""


@dataclass(frozen=True)
class ProcessUse:
    """The largest resident memory a process had, MB."""

    node: str
    pid: int
    max_rss_mb: float


@dataclass
class DemoRecord:
    """A whole demo.

    Attributes:
        analogy_map: (S, K), rows ``ROBOT_COMPONENTS``, columns ``HAND_KEYPOINTS``; None when the policy has none.
        peak_rss_mb: largest resident memory of all processes together.
    """

    episodes: list[Episode]
    processes: list[ProcessUse]
    wall_seconds: float
    analogy_map: np.ndarray | None = None
    peak_rss_mb: float = 0.0
    variant: str = ""
    started: str = ""
    command: str = "arvrm demo"


def summary(record: DemoRecord) -> dict[str, Any]:
    """The machine-readable result; milliseconds are pooled over all chunks of all episodes."""
    return {
        "total": len(record.episodes),
        "success": sum(episode.success for episode in record.episodes),
        "tasks": [
            {
                "instruction": episode.instruction,
                "task": episode.task,
                "success": episode.success,
                "steps": episode.steps,
                "seconds": round(episode.seconds, 2),
                "error_code": episode.error_code,
            }
            for episode in record.episodes
        ],
        "processes": [
            {"node": process.node, "pid": process.pid, "max_rss_mb": round(process.max_rss_mb, 1)}
            for process in record.processes
        ],
        "latency_ms": {
            stage: {"p50": round(float(p50), 2), "p95": round(float(p95), 2)}
            for stage, values in _pooled(record).items()
            for p50, p95 in [np.percentile(values, [50, 95]) * 1e3]
        },
        "wall_seconds": round(record.wall_seconds, 1),
    }


def write_report(record: DemoRecord, folder: Path) -> Path:
    """Writes ``summary.json`` and ``report.html`` into a folder; returns the path of the page."""
    result = summary(record)
    page = _environment().get_template("report.html").render(
        record=record,
        result=result,
        episodes=[_episode_view(i, episode) for i, episode in enumerate(record.episodes, 1)],
        heat=_heat_view(record.analogy_map),
        latencies=_latency_view(result["latency_ms"]),
        processes=sorted(record.processes, key=lambda process: -process.max_rss_mb),
    )  # fmt: skip
    write_json(folder / "summary.json", result)
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _environment() -> jinja2.Environment:
    environment = pages.environment(Path(__file__).parent / "templates")
    environment.filters["ms"] = lambda value: f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"
    return environment


def _pooled(record: DemoRecord) -> dict[str, np.ndarray]:
    stages: dict[str, list[float]] = {}
    for episode in record.episodes:
        for stage, values in episode.stages.items():
            stages.setdefault(stage, []).extend(values)
    return {stage: np.array(values) for stage, values in stages.items() if values}


def _episode_view(number: int, episode: Episode) -> dict[str, Any]:
    frames, period = _side_by_side(episode.images)
    poster = frames[len(frames) // 2] if frames else None
    return {
        "number": number,
        "data": episode,
        "cameras": list(episode.images),
        "video": pages.data_uri("video/mp4", _encode(frames, period)) if frames else "",
        "poster": pages.data_uri("image/jpeg", _jpeg(poster)) if poster is not None else "",
        "aspect": f"{poster.shape[1]} / {poster.shape[0]}" if poster is not None else "2 / 1",
        "progress": _progress_path(episode.progress),
        "clips": [_clip_view(motion, episode.thumbnails) for motion in episode.retrieved],
    }


def _side_by_side(images: dict[str, list[tuple[float, np.ndarray]]]) -> tuple[list[np.ndarray], float]:
    """All cameras in one picture, paired by stamp with the first one's; and the seconds between two pictures."""
    streams = [stream for stream in images.values() if stream]
    if not streams:
        return [], 0.1
    stamps = [np.array([stamp for stamp, _ in stream]) for stream in streams]
    frames = []
    for stamp in stamps[0]:
        nearest = [
            stream[int(np.abs(times - stamp).argmin())][1] for stream, times in zip(streams, stamps, strict=True)
        ]
        frames.append(np.concatenate([_scaled(image, VIDEO_HEIGHT) for image in nearest], axis=1))
    period = float(np.median(np.diff(stamps[0]))) if len(stamps[0]) > 1 else 0.1
    return frames, period or 0.1


def _scaled(image: np.ndarray, height: int) -> np.ndarray:
    width = round(image.shape[1] * height / image.shape[0] / 2) * 2
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)


def _encode(frames: Iterable[np.ndarray], period: float) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "video.mp4")
        write_video(path, frames, period, quality=24)
        return path.read_bytes()


def _jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()


def _progress_path(progress: Sequence[tuple[float, float]]) -> str:
    """SVG path of the policy's progress in a box 100 wide and 20 high."""
    if len(progress) < 2:
        return ""
    times, values = np.array(progress, float).T
    x = 100 * (times - times[0]) / max(times[-1] - times[0], 1e-6)
    y = 20 - 20 * np.clip(values, 0, 1)
    return "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _clip_view(motion: RetrievedMotion, thumbnails: dict[str, bytes]) -> dict[str, Any]:
    picture = thumbnails.get(motion.clip.clip_id, b"")
    return {
        "id": motion.clip.clip_id,
        "caption": motion.clip.caption,
        "score": motion.score,
        "language": motion.language_score,
        "visual": motion.visual_score,
        "frames": len(motion.clip.keypoints),
        "seen": float(np.mean(motion.clip.visible)) if len(motion.clip.visible) else 0.0,
        "picture": pages.data_uri("image/jpeg", picture),
        "hands": _hands(motion.clip.keypoints),
    }


def _hands(keypoints: np.ndarray, count: int = 4) -> list[list[dict[str, Any]]]:
    """The bones of a few hands of a track, evenly spread over it, each in a box of 100 x 100."""
    if not len(keypoints):
        return []
    hands = []
    for i in np.linspace(0, len(keypoints) - 1, count).round().astype(int):
        points = np.clip(np.nan_to_num(keypoints[i, :, :2].astype(float)), -1, 2) * 100
        bones = []
        for start, end in BONES:
            palm = start == 0 or (start, end) in BONES[-3:]
            r, g, b = (150, 150, 150) if palm else keypoint_color(end)
            (x1, y1), (x2, y2) = points[[start, end]].round(1).tolist()
            bones.append({"x1": x1, "y1": y1, "x2": x2, "y2": y2, "color": f"rgb({r},{g},{b})"})
        hands.append(bones)
    return hands


def _heat_view(weights: np.ndarray | None) -> dict[str, Any] | None:
    """The analogy map, ready to draw: cells with opacity relative to the largest weight, and each row's peak."""
    if weights is None:
        return None
    largest = float(np.abs(weights).max()) or 1.0
    fingers = [("", "var(--muted)", 1)] + [
        (name, f"rgb({r},{g},{b})", 4)
        for name, (r, g, b) in zip(("thumb", "index", "middle", "ring", "little"), FINGER_COLORS, strict=True)
    ]
    rows = []
    for name, row in zip(ROBOT_COMPONENTS, weights, strict=True):
        peak = int(np.abs(row).argmax())
        cells = [
            {
                "title": f"{name} ← {keypoint}: {weight:+.3f}",
                "opacity": round(abs(float(weight)) / largest, 3),
                "sign": "pos" if weight >= 0 else "neg",
                "peak": i == peak,
            }
            for i, (keypoint, weight) in enumerate(zip(HAND_KEYPOINTS, row, strict=True))
        ]
        rows.append({"name": name, "cells": cells, "peak": HAND_KEYPOINTS[peak]})
    columns = ["wrist", *(name.split()[-1] for name in HAND_KEYPOINTS[1:])]
    return {"rows": rows, "columns": columns, "fingers": fingers, "largest": largest}


def _latency_view(latency_ms: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    longest = max([value["p95"] for value in latency_ms.values()] + [limit for _, limit in TARGETS_MS.values()])
    rows = []
    for stage, value in latency_ms.items():
        which, limit = TARGETS_MS.get(stage, ("", 0.0))
        rows.append(
            {
                "name": STAGE_NAMES.get(stage, stage.replace("_", " ")),
                "whole": stage in STAGE_NAMES,
                "p50": value["p50"],
                "p95": value["p95"],
                "left": 100 * value["p50"] / longest,
                "right": 100 * value["p95"] / longest,
                "target": f"{which} ≤ {limit:.0f}" if which else "",
                "mark": 100 * limit / longest,
                "kept": not which or value[which] <= limit,
            }
        )
    return rows
