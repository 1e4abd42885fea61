# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A folder of robot episodes as one HTML page to look at, before hours of training go into them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from arvrm_ros import pages
from arvrm_ros.data.episodes import Episode, encode_image, episode_files, glance, read_episode
from arvrm_ros.perception.cameras import resize

FRAMES = 4  # of the first camera in an episode's picture
HEIGHT = 96  # pixels of it
COLORS = {"x": "#c8562b", "y": "#2f7d55", "z": "#2e62a6", "gripper": "#74777f"}


def episodes_page(folder: Path, count: int, caption: str = "") -> str:
    """The page of a folder.

    Args:
        folder: of episodes.
        count: episodes to show, evenly over the folder.
        caption: only those whose instruction has this in it.

    Raises:
        DataError: there are none, or one is damaged.
    """
    files = episode_files(folder)
    glances = [glance(path) for path in tqdm(files, desc="episodes", unit="episode")]
    seconds = np.array([length for _, length in glances])
    eligible = [i for i, (said, _) in enumerate(glances) if caption.lower() in said.lower()]
    shown = [eligible[i] for i in np.linspace(0, len(eligible) - 1, min(count, len(eligible))).astype(int)]
    said = Counter(instruction for instruction, _ in glances)
    return pages.collection(
        title=f"{len(files)} robot episodes",
        name=str(folder),
        views=[_view(files[i], read_episode(files[i])) for i in shown],
        kind="episodes",
        chosen=f"{len(shown)} of {len(eligible)} episodes"
        + (f" with “{caption}”" if caption else "")
        + ", evenly over the folder.",
        legend="Lines over time: what is commanded of the end effector's x (orange), y (green) and z (blue) within the "
        "workspace, and of the gripper's opening (grey).",
        facts={
            "episodes": f"{len(files)}",
            "minutes": f"{seconds.sum() / 60:.1f}",
            "instructions": f"{len(said)}",
        },
        about="How long",
        histograms=[pages.Histogram.of("seconds per episode", seconds)],
        captions=said,
    )


def _view(path: Path, episode: Episode) -> pages.View:
    camera, frames = next(iter(episode.images.items()))
    chosen = np.linspace(0, len(frames) - 1, FRAMES).astype(int)
    images = [episode.image(camera, step) for step in chosen]
    width = round(HEIGHT * images[0].shape[1] / images[0].shape[0])
    picture = encode_image(np.hstack([resize(image, HEIGHT, width) for image in images]))
    limits, time = episode.contract.limits, np.linspace(0.0, 1.0, len(episode))
    low, high = np.array(limits.workspace_min), np.array(limits.workspace_max)
    lines = dict(zip("xyz", ((episode.command_positions - low) / (high - low)).T, strict=True))
    lines["gripper"] = episode.command_gripper
    paths = [pages.Line.through(np.column_stack([time, 1.0 - v]), COLORS[name]) for name, v in lines.items()]
    facts = [f"{len(episode)} steps", f"{episode.stamp[-1] - episode.stamp[0]:.1f} s", episode.contract.name]
    return pages.View(episode.instruction, path.name, facts, picture, paths=paths)
