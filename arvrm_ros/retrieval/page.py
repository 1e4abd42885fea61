# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A motion database, or what a search found in it, as one HTML page to look at: pictures, hands, distributions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from arvrm_ros import pages
from arvrm_ros.data.types import HumanClip, RetrievedMotion
from arvrm_ros.perception.overlay import keypoint_color
from arvrm_ros.retrieval.database import MotionDatabase

FINGERTIPS = (4, 8, 12, 16, 20)


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
        about="How long, how well seen",
        histograms=[
            pages.Histogram.of("seconds per clip", seconds),
            pages.Histogram.of("frames with a hand, share per clip", visible, (0.0, 1.0)),
            pages.Histogram.of("landmarker's confidence, mean per clip", quality, (0.0, 1.0)),
        ],
        captions=captions,
        chosen=f"{len(shown)} of {len(eligible)} clips"
        + (f" with “{caption}”" if caption else "")
        + (", worst first" if order == "worst" else ", evenly over the database")
        + ".",
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


def _page(
    database: MotionDatabase,
    shown: Sequence[HumanClip],
    scores: Sequence[tuple[float, float, float]] | None = None,
    **values: Any,
) -> str:
    pictures = database.thumbnails([clip.clip_id for clip in shown])
    views = [
        pages.View(
            clip.caption,
            clip.clip_id,
            [
                f"{len(clip.keypoints) * clip.frame_period:.1f} s",
                f"hand in {100 * clip.visible.mean():.0f} %",
                *filter(None, [clip.handedness]),
            ],
            pictures.get(clip.clip_id, b""),
            clip.video + (f" from {clip.start:.1f} s" if clip.video and clip.start else ""),
            _paths(clip),
            scores[i] if scores else None,
        )
        for i, clip in enumerate(shown)
    ]
    features = [f"{kind.replace('_', ' ')} {value}" for kind, value in database.features.items()]
    return pages.collection(
        name=" · ".join([Path(database.uri).name, *features]),
        views=views,
        kind="clips",
        legend="Lines: the ways of the five fingertips in the picture.",
        **values,
    )


def _paths(clip: HumanClip) -> list[pages.Line]:
    """The way of each fingertip in the picture."""
    return [
        pages.Line.through(
            np.clip(clip.keypoints[:, k, :2], -0.2, 1.2), "#{:02x}{:02x}{:02x}".format(*keypoint_color(k))
        )
        for k in FINGERTIPS
    ]
