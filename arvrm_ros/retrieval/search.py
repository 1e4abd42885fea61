# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which human clips do a similar thing in a similar scene.

The score is that of AR-VRM, ``cos(z_l^R, z_l^H) + sum_t cos(z_ot^R, z_ot^H)`` over T aligned frames, with a weight on
the language term (:data:`LANGUAGE_WEIGHT`; 1 is the paper's). The clips are sampled at T frames over their whole
length; a history shorter than T repeats its oldest frame. The sum of cosines is one inner product of concatenated unit
vectors, so all clips are scored by two matrix products. Databases too large for that have an index that finds
candidates, by the texts and the mean images; those are ranked by the score itself. Without an index a large database is
read through for every query.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from arvrm_ros.data.types import HumanClip, RetrievedMotion
from arvrm_ros.errors import DataError
from arvrm_ros.retrieval.database import INDEX_FROM, MotionDatabase
from arvrm_ros.retrieval.index import LAST, coarse_vector, unit
from arvrm_ros.retrieval.opposites import opposite, sides

HISTORY = 10
"""T, the aligned frames of a query and a clip."""

LANGUAGE_WEIGHT = 100.0
"""Factor of the language term. The paper's score has 1: over T = 10 frames the pictures then outweigh the words
tenfold, and with the small image encoder few of the best clips show the asked-for task (figures: docs/measurements.md).
With 100 the pictures choose among clips of like captions."""

CANDIDATES = 12
"""Clips that the index proposes for the exact ranking; a fifth more than are wanted where that is more. Each has
to be read from the disk."""

DEPLOYABLE_MODES = ("database", "random", "none")
"""What a robot can use: the search; and as ablations, clips drawn blindly and no clips."""

MODES = (*DEPLOYABLE_MODES, "oracle_task", "wrong_task")
"""All ablations; the last two must be told the true task: the best clips of that task, and of one other task."""

# Best cosine between an instruction and the captions (all-MiniLM-L6-v2, the tabletop's tasks): held-out paraphrases
# reach 0.69 to 0.97, instructions for something else 0.04 to 0.64. The middle counts as one half.
CONFIDENCE_CENTER, CONFIDENCE_SCALE = 0.66, 0.04


@dataclass
class SearchResult:
    """Retrieved motions, best first, and in [0, 1] how sure it is that the database knows the instruction."""

    motions: list[RetrievedMotion]
    confidence: float


class MotionSearch:
    """Finds the best clips of a database; thread-safe once made.

    Attributes:
        exact: whether every clip is scored; else only what the index proposes.
        opposites: whether clips whose captions say the opposite of the instruction come after all others.
    """

    def __init__(
        self,
        database: MotionDatabase,
        history: int = HISTORY,
        language_weight: float = LANGUAGE_WEIGHT,
        exact: bool | None = None,
        opposites: bool = True,
    ) -> None:
        """Reads the index, or all features of a small database.

        Args:
            database: clips added later are not seen.
            history: T.
            language_weight: factor of the language term in the score; 1 is the paper's.
            exact: None is exact unless the database has an index.
            opposites: see the attribute; the paper's ranking, which knows only features, has none.

        Raises:
            DataError: the index is damaged, or ``exact`` is False and there is none.
        """
        self.database, self.history, self.language_weight = database, history, language_weight
        self.exact = not database.indexed if exact is None else exact
        self.opposites = opposites
        self._size = len(database)
        first = database.first()
        self._widths = (len(first.language), first.visual.shape[1]) if first else (0, 0)
        self._all: _Features | None = None
        if self._size and not self.exact:
            self._index, self._rows = database.coarse_index(opposites)
        elif 0 < self._size <= INDEX_FROM:
            self._all = self._features(self.clips)

    @property
    def clips(self) -> list[HumanClip]:
        """All clips of the database, in the order they were added."""
        return self.database.clips()

    def __len__(self) -> int:
        return self._size

    @property
    def visual_width(self) -> int:
        """d_o, numbers of an image feature; 0 when the database is empty."""
        return self._widths[1]

    def search(
        self,
        language: np.ndarray,
        visual: np.ndarray,
        k: int,
        mode: str = "database",
        task: str = "",
        instruction: str = "",
    ) -> SearchResult:
        """The k best clips.

        Args:
            language: (d_l,) text feature of the instruction.
            visual: (t, d_o) image features of the history, oldest first, t at least 1.
            k: clips wanted; fewer when the database, or the task, has fewer.
            mode: one of :data:`MODES`. Clips of every mode carry their scores, so that they can be compared.
            task: id of the true task, for ``oracle_task`` and ``wrong_task`` alone.
            instruction: in words; :attr:`opposites` needs it.

        Raises:
            DataError: the features have other sizes than the database's, the mode is unknown, or it needs a task and
                there is none, or no clip of it.
        """
        if mode not in MODES:
            raise DataError(f"unknown retrieval mode {mode!r}: use {', '.join(MODES)}")
        # Drawn from the query itself: the same question gets the same clips, in every process.
        rng = np.random.default_rng(np.abs(language[:8] * 1e6).astype(np.uint32))
        wanted = "" if mode in DEPLOYABLE_MODES else self._task(mode, task, rng)
        if mode == "none" or not self._size:
            return SearchResult([], 0.0)
        if (len(language), visual.shape[1]) != self._widths:
            raise DataError(
                f"the query's features have sizes {len(language)} and {visual.shape[1]}, the database's "
                f"{self._widths[0]} and {self._widths[1]}: it was made with other encoders; build it again"
            )
        last = opposite(instruction) if self.opposites else 0
        best: list[tuple[float, RetrievedMotion]] = []
        best_language = -1.0
        for features in self._to_score(language, visual, k, mode, wanted, rng, last):
            clips = features.clips
            language_scores, visual_scores = features.scores(language, visual)
            total = self.language_weight * language_scores + self.history * visual_scores
            rank = total - LAST * ((features.sides & last) != 0) if last else total
            eligible = np.flatnonzero([clip.task == wanted for clip in clips]) if wanted else np.arange(len(total))
            if mode == "random":
                chosen = rng.permutation(eligible)[:k]
            else:
                chosen = eligible[np.argsort(-rank[eligible], kind="stable")[:k]]
            scores = zip(chosen, total[chosen], language_scores[chosen], visual_scores[chosen], strict=True)
            best += [(rank[i], RetrievedMotion(clips[i], *map(float, values))) for i, *values in scores]
            best_language = max(best_language, float(language_scores.max()))
        if mode != "random":
            best.sort(key=lambda found: -found[0])
        return SearchResult([motion for _, motion in best[:k]], confidence(best_language))

    def _to_score(
        self,
        language: np.ndarray,
        visual: np.ndarray,
        k: int,
        mode: str,
        wanted: str,
        rng: np.random.Generator,
        last: int,
    ) -> Iterator[_Features]:
        """The clips among which the best ones are."""
        if self._all is not None:
            yield self._all
        elif mode == "random":
            yield self._features(self.database.sample(rng, k))
        elif self.exact or wanted:
            yield from map(self._features, self.database.batches(wanted))
        else:
            # [w z_l ; T mean z_o]: its inner product with a coarse vector is nearly the score.
            query = coarse_vector(language, align(visual, self.history))
            query[: len(language)] *= self.language_weight
            query[len(language) :] *= self.history
            found = self._index.nearest(query, max(CANDIDATES, 6 * k // 5), last)
            features = self._features(self.database.take(self._rows[found], in_order=bool(last)))
            if last:
                features.sides = self._index.sides[found]  # to find them in the captions takes a millisecond
            yield features

    def _features(self, clips: list[HumanClip]) -> _Features:
        return _Features(clips, self.history)

    def _task(self, mode: str, task: str, rng: np.random.Generator) -> str:
        """The task whose clips are wanted: the true one, or any other."""
        known = sorted(self.database.tasks())
        if not known:
            raise DataError(f"retrieval mode {mode} needs clips whose task is known, as 'arvrm collect human' makes")
        if task not in known:
            problem = f"there is no clip of task {task!r}" if task else "it was not told the true task"
            raise DataError(f"retrieval mode {mode}: {problem}; the database has {', '.join(known)}")
        others = [other for other in known if other != task]
        if mode == "oracle_task":
            return task
        if not others:
            raise DataError(f"retrieval mode {mode}: all clips of the database show {task}")
        return others[int(rng.integers(len(others)))]


class _Features:
    """The features of N clips as they are scored."""

    def __init__(self, clips: list[HumanClip], history: int) -> None:
        self.clips = clips
        self._language = unit(np.stack([clip.language for clip in clips]))  # (N, d_l)
        frames = [c.visual if len(c.visual) == history else resample(c.visual, history) for c in clips]
        self._visual = unit(np.stack(frames))  # (N, T, d_o)

    @cached_property
    def sides(self) -> np.ndarray:
        """(N,) of the captions."""
        return sides([clip.caption for clip in self.clips])

    def scores(self, language: np.ndarray, visual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N,) cosines of the language features, and (N,) means over the T frames of the image features' cosines.

        Args:
            language: (d_l,).
            visual: (t, d_o), oldest first.
        """
        history = self._visual.shape[1]
        visual_scores = self._visual.reshape(len(self._visual), -1) @ unit(align(visual, history)).ravel() / history
        return self._language @ unit(language), visual_scores


def search(database: MotionDatabase, language: np.ndarray, visual: np.ndarray, k: int) -> list[RetrievedMotion]:
    """The k best clips with the default weight, for a single query; keep a :class:`MotionSearch` for several."""
    return MotionSearch(database).search(language, visual, k).motions


def confidence(best_language_score: float) -> float:
    """In [0, 1], how sure it is that the instruction is among what the captions describe; one half at the border."""
    return float(1 / (1 + np.exp(-(best_language_score - CONFIDENCE_CENTER) / CONFIDENCE_SCALE)))


def resample(features: np.ndarray, frames: int) -> np.ndarray:
    """Takes ``frames`` evenly spread rows of (t, d), first and last included; the nearest row, no mixing."""
    return features[np.round(np.linspace(0, len(features) - 1, frames)).astype(int)]


def align(history: np.ndarray, frames: int) -> np.ndarray:
    """The newest ``frames`` rows of (t, d), oldest first; a shorter history repeats its oldest row."""
    newest = history[-frames:]
    return np.concatenate([np.repeat(newest[:1], frames - len(newest), axis=0), newest])
