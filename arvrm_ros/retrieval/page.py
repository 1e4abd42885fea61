# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A motion database, or what a search found in it, as one HTML page to look at: pictures, hands, distributions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from arvrm_ros import pages
from arvrm_ros.data.types import HumanClip, RetrievedMotion
from arvrm_ros.perception.overlay import keypoint_color
from arvrm_ros.retrieval.database import MotionDatabase

BINS = 24
FINGERTIPS = (4, 8, 12, 16, 20)


@dataclass(frozen=True)
class Histogram:
    """Shares of clips per bin, the largest is 1; and the values of the borders on the left and on the right."""

    title: str
    heights: list[float]
    low: str
    high: str


def database_page(database: MotionDatabase, count: int, caption: str = "", order: str = "spread") -> str:
    """The page of a database.

    Args:
        database: not empty.
        count: clips to show.
        caption: only clips whose caption has this in it.
        order: ``spread`` evenly over the database, or ``worst`` first by quality.
    """
    clips = database.overview()
    rows, seconds, quality, frames, found = (
        clips[name].to_numpy() for name in ("_rowid", "seconds", "quality", "frames", "found")
    )
    visible = found / frames
    eligible = np.flatnonzero(pc.match_substring(clips["caption"], caption, ignore_case=True).to_numpy())
    if order == "worst":
        shown = eligible[np.lexsort((visible[eligible], quality[eligible]))][:count]
    else:
        shown = eligible[np.linspace(0, len(eligible) - 1, min(count, len(eligible))).astype(int)]
    captions = Counter(clips["caption"].to_pylist())
    return _page(
        database,
        database.take(rows[shown]),
        title=f"{len(clips)} hand motions",
        facts={
            "clips": f"{len(clips)}",
            "minutes of motion": f"{seconds.sum() / 60:.1f}",
            "captions": f"{len(captions)}",
            "frames with a hand": f"{found.sum() / frames.sum():.1%}",
        },
        histograms=[
            _histogram("seconds per clip", seconds),
            _histogram("frames with a hand, share per clip", visible, (0.0, 1.0)),
            _histogram("landmarker's confidence, mean per clip", quality, (0.0, 1.0)),
        ],
        captions=captions.most_common(30),
        others=max(0, len(captions) - 30),
        chosen=f"{len(shown)} of {len(eligible)} clips"
        + (f" with “{caption}”" if caption else "")
        + (", worst first" if order == "worst" else ", evenly over the database"),
    )


def search_page(database: MotionDatabase, query: str, motions: Sequence[RetrievedMotion], confidence: float) -> str:
    """The page of a search: what would be retrieved, and why, text and image apart."""
    return _page(
        database,
        [motion.clip for motion in motions],
        title=f"“{query}”",
        facts={"confidence": f"{confidence:.2f}", "clips found": f"{len(motions)}"},
        scores=[(motion.score, motion.language_score, motion.visual_score) for motion in motions],
        chosen="Best first; the score is the paper's, the sum of what the texts and the images have in common.",
    )


def _page(database: MotionDatabase, shown: Sequence[HumanClip], **values: Any) -> str:
    pictures = database.thumbnails([clip.clip_id for clip in shown])
    scores = values.pop("scores", None)
    views = [
        {
            "clip": clip,
            "seconds": len(clip.keypoints) * clip.frame_period,
            "picture": pages.data_uri("image/jpeg", pictures.get(clip.clip_id, b"")),
            "paths": _paths(clip),
            "scores": scores[i] if scores else None,
        }
        for i, clip in enumerate(shown)
    ]
    common = {
        "histograms": [],
        "captions": [],
        "others": 0,
        "features": database.features,
        "name": Path(database.uri).name,
    }
    return (
        pages.environment(Path(__file__).parent / "templates")
        .get_template("database.html")
        .render(common | values | {"views": views})
    )


def _histogram(title: str, values: np.ndarray, span: tuple[float, float] | None = None) -> Histogram:
    low, high = span or (0.0, max(float(values.max()), 1e-3))
    counts, _ = np.histogram(values, BINS, (low, high))
    return Histogram(title, (counts / counts.max()).tolist(), f"{low:g}", f"{high:.3g}")


def _paths(clip: HumanClip) -> list[dict[str, str]]:
    """The way of each fingertip as the points of an SVG line in a unit square, with its colour."""
    return [
        {
            "points": " ".join(f"{x:.3f},{y:.3f}" for x, y in np.clip(clip.keypoints[:, k, :2], -0.2, 1.2)),
            "color": "#{:02x}{:02x}{:02x}".format(*keypoint_color(k)),
        }
        for k in FINGERTIPS
    ]
