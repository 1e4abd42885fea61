# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How often the retrieved clips show what was asked for: every wording of a task, in the scenes of robot episodes.

A query is what the retrieval node would ask at the start of an episode: its first view, with one wording of its task.
Precision is the share of the best clips that show the task. Of a wording all scenes see the same captions, so wordings
are what is independent: intervals are bootstrapped over them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from arvrm_ros.data.episodes import read_episode
from arvrm_ros.errors import DataError
from arvrm_ros.evaluation.chains import bootstrap_interval
from arvrm_ros.perception.encoders import FrozenImageEncoder, FrozenTextEncoder
from arvrm_ros.retrieval.search import MotionSearch
from arvrm_ros.simulation.tasks import TASKS, Task

WORDINGS: dict[str, Callable[[Task], tuple[str, ...]]] = {
    "seen": lambda task: task.instructions,
    "held_out": lambda task: task.held_out,
}
OPPOSITES = {"open": "close", "on": "off", "left": "right"}


def opposite_task(task: str) -> str:
    """The task that undoes one, e.g. ``close_drawer`` for ``open_drawer``; "" when there is none."""
    both = OPPOSITES | {second: first for first, second in OPPOSITES.items()}
    other = "_".join(both.get(word, word) for word in task.split("_"))
    return other if other != task and other in TASKS else ""


def first_views(episodes: Path, limit: int | None, encoder: FrozenImageEncoder) -> list[tuple[str, np.ndarray]]:
    """Task and image feature (d_o,) of the static camera's first view, of ``limit`` episodes spread over a folder.

    Raises:
        DataError: there are none, or one is damaged or not of the tabletop.
    """
    paths = sorted(episodes.glob("episode_*.npz"))
    if not paths:
        raise DataError(f"there are no episodes in {episodes}: make some with `arvrm collect robot`")
    chosen = np.linspace(0, len(paths) - 1, min(limit or len(paths), len(paths))).astype(int)
    views = []
    for path in tqdm([paths[i] for i in chosen], "reading", unit="episode"):
        episode = read_episode(path)
        if episode.task not in TASKS:
            raise DataError(f"{path} does not say which task of the tabletop it shows")
        image = episode.image(next(iter(episode.contract.observation.cameras)), 0)
        views.append((episode.task, encoder.visual_feature(encoder.encode(image[None]))[0]))
    return views


def precision(
    search: MotionSearch, views: list[tuple[str, np.ndarray]], texts: FrozenTextEncoder, count: int = 4
) -> dict[str, Any]:
    """Retrieves for every view and every wording of its task.

    Args:
        views: as of :func:`first_views`.
        texts: the encoder of the database's captions.
        count: clips per query.

    Returns:
        For ``seen`` and ``held_out`` wordings: ``precision`` with its 95 % ``interval``, ``opposite`` (the share
        of clips that show the opposite task, among tasks that have one), ``queries``, ``wordings``, and ``wrong``: per
        wording that was not always right, how many clips of which task it got.
    """
    figures = {}
    for name, wordings in WORDINGS.items():
        right: dict[str, list[float]] = {}
        opposite: list[float] = []
        wrong: dict[str, Counter[str]] = {}
        for task, view in tqdm(views, name.replace("_", "-"), unit="view"):
            for text in wordings(TASKS[task]):
                motions = search.search(texts.encode([text])[0], view[None], count, instruction=text).motions
                shown = [motion.clip.task for motion in motions]
                right.setdefault(text, []).append(shown.count(task) / count)
                if opposite_task(task):
                    opposite.append(shown.count(opposite_task(task)) / count)
                if others := Counter(other for other in shown if other != task):
                    wrong.setdefault(text, Counter()).update(others)
        means = np.array([np.mean(values) for values in right.values()])
        figures[name] = {
            "precision": float(means.mean()),
            "interval": bootstrap_interval(means),
            "opposite": float(np.mean(opposite)) if opposite else None,
            "queries": sum(map(len, right.values())),
            "wordings": len(right),
            "wrong": {text: dict(wrong[text]) for text in sorted(wrong, key=lambda text: -wrong[text].total())},
        }
    return figures
