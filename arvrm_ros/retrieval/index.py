# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The coarse stage of a search: which of very many clips may be the best, from about a kilobyte of memory each.

A clip's coarse vector is [z_l ; mean_t z_ot]; its inner product with a query's [w z_l ; T mean_t z_ot] is nearly the
score. Either half is stored as the nearest of K centres, and what is left as 8 bits a number. A query is first compared
with the centres, and a clip's two centres score it roughly; the best by that are scored with what is left. With centres
for either half (Babenko and Lempitsky 2012, "The inverted multi-index") a search finds its clips whether it goes by the
words or by the pictures.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np

CENTRES = 2048
"""K at most; a 32nd of the clips where that is less."""

SHORTLIST = 1024
"""Clips that are scored with what is left. Of the ten best of 800,000, with 512 four in a hundred are missed, with 256
twenty."""

SAMPLE = 32
"""Clips per centre that the centres are found from."""

ROUNDS = 8
"""Of k-means."""

LAST = np.float32(1e4)
"""Taken off the score of what shall come after all others; larger than any score."""

SPREAD = 32
"""Every so many clips one is looked at to guess how high the shortlist's scores are."""

_BLOCK = 256  # clips scored at a time, so that the numbers stay in the processor's cache


@dataclass
class Codebooks:
    """The halves' centres, (K, d_l) of texts and (K, d_o) of images, and what a count is worth, (d_l + d_o,)."""

    text: np.ndarray
    image: np.ndarray
    step: np.ndarray

    @classmethod
    def train(cls, vectors: np.ndarray, text_width: int, rng: np.random.Generator) -> Codebooks:
        """Finds the centres of coarse vectors (N, d_l + d_o)."""
        from scipy.cluster.vq import kmeans2  # late: only builds need it

        count = max(1, min(CENTRES, len(vectors) // SAMPLE))
        books: list[np.ndarray] = []
        for half in np.split(vectors, [text_width], axis=1):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "One of the clusters is empty")  # of captions that are the same
                books.append(kmeans2(np.ascontiguousarray(half), count, ROUNDS, minit="points", rng=rng)[0])
        text, image = books
        found = cls(text, image, np.ones(vectors.shape[1], np.float32))
        left = np.abs(vectors - found._centres(found._nearest(vectors))).max(0)
        return cls(text, image, np.maximum(left / 127, 1e-12).astype(np.float32))

    def encode(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coarse vectors (N, d_l + d_o) as their centres (N, 2) uint16 and counts (N, d_l + d_o) int8."""
        parts = self._nearest(vectors)
        codes = np.rint((vectors - self._centres(parts)) / self.step)
        return parts, np.clip(codes, -127, 127).astype(np.int8)

    def to_bytes(self) -> bytes:
        """For :meth:`from_bytes`."""
        buffer = io.BytesIO()
        np.savez(buffer, text=self.text, image=self.image, step=self.step)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Codebooks:
        """What :meth:`to_bytes` gave.

        Raises:
            ValueError, KeyError, OSError: it is something else.
        """
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return cls(arrays["text"], arrays["image"], arrays["step"])

    def _nearest(self, vectors: np.ndarray) -> np.ndarray:
        halves = zip(np.split(vectors, [self.text.shape[1]], axis=1), (self.text, self.image), strict=True)
        # |v - c|^2 without what is the same for all centres
        columns = [np.argmax(half @ centres.T - (centres**2).sum(1) / 2, axis=1) for half, centres in halves]
        return np.stack(columns, 1).astype(np.uint16)

    def _centres(self, parts: np.ndarray) -> np.ndarray:
        return np.concatenate([self.text[parts[:, 0]], self.image[parts[:, 1]]], axis=1)


class CoarseIndex:
    """Clips in memory as :meth:`Codebooks.encode` has them, and under each centre a list of the clips nearest to it.

    Attributes:
        sides: (N,) of the clips' captions, see :mod:`arvrm_ros.retrieval.opposites`.
    """

    def __init__(self, books: Codebooks, parts: np.ndarray, codes: np.ndarray, sides: np.ndarray) -> None:
        """Takes ``parts`` (2, N) uint16, ``codes`` (N, d_l + d_o) int8 and ``sides`` (N,) uint16."""
        self.sides = sides
        self._books, self._codes = books, codes
        self._lists = (_Lists(parts[0], parts[1], len(books.text)), _Lists(parts[1], parts[0], len(books.image)))
        self._some = np.arange(0, parts.shape[1], SPREAD)
        self._parts_of_some = parts[:, self._some]

    def nearest(self, query: np.ndarray, count: int, last: int = 0) -> np.ndarray:
        """The clips whose coarse vectors have the largest inner products with a vector, nearly.

        Args:
            query: (d_l + d_o,).
            count: clips wanted.
            last: clips whose :attr:`sides` have one of these bits come after all others.

        Returns:
            (count,) numbers of clips, fewer when there are fewer; the best first.
        """
        books, width = self._books, self._books.text.shape[1]
        halves = books.text @ query[:width], books.image @ query[width:]
        wanted = max(SHORTLIST, count)
        rows, scores = self._above(self._guess(halves, wanted, last), halves, last)
        if len(rows) < count:
            rows, scores = self._above(-np.inf, halves, last)
        likely = largest(scores, 2 * wanted)  # as many clips as there are may have the very same score
        rows, scores = rows[likely], scores[likely]
        scaled = query * books.step
        for i in range(0, len(rows), _BLOCK):
            scores[i : i + _BLOCK] += self._codes[rows[i : i + _BLOCK]].astype(np.float32) @ scaled
        return rows[np.argsort(-scores, kind="stable")[:count]]

    def _guess(self, halves: tuple[np.ndarray, np.ndarray], wanted: int, last: int) -> float:
        """A rough score that about so many clips reach."""
        if wanted // SPREAD >= len(self._some):
            return -np.inf
        scores = halves[0][self._parts_of_some[0]] + halves[1][self._parts_of_some[1]]
        self._put_last(scores, self._some, last)
        return float(np.partition(scores, -wanted // SPREAD)[-wanted // SPREAD])

    def _above(self, bound: float, halves: tuple[np.ndarray, np.ndarray], last: int) -> tuple[np.ndarray, np.ndarray]:
        """The clips whose rough scores reach a bound, and these scores.

        A centre's clips cannot, when it does not with the other half's best centre; so few have to be scored.
        """
        centres = [np.flatnonzero(own + other.max() >= bound) for own, other in (halves, halves[::-1])]
        half = int(np.argmin([lists.lengths[near].sum() for lists, near in zip(self._lists, centres, strict=True)]))
        lists, near = self._lists[half], centres[half]
        scores = np.take(halves[1 - half], lists.gather(lists.others, near), mode="clip")
        scores += np.repeat(halves[half][near], lists.lengths[near])
        rows = lists.gather(lists.rows, near)
        self._put_last(scores, rows, last)
        reached = np.flatnonzero(scores >= bound)
        return rows[reached], scores[reached]

    def _put_last(self, scores: np.ndarray, rows: np.ndarray, last: int) -> None:
        if last:
            scores[(self.sides[rows] & last) != 0] -= LAST


class _Lists:
    """The clips under each centre of one half, list after list.

    Attributes:
        rows: (N,) numbers of the clips.
        others: (N,) the same clips' centres of the other half.
        lengths: (K,) of the lists.
    """

    def __init__(self, parts: np.ndarray, others: np.ndarray, count: int) -> None:
        self.rows = np.argsort(parts, kind="stable").astype(np.int32)
        self.others = others[self.rows]
        self.lengths = np.bincount(parts, minlength=count)
        ends = np.cumsum(self.lengths)
        self._slices = list(map(slice, ends - self.lengths, ends))

    def gather(self, values: np.ndarray, centres: np.ndarray) -> np.ndarray:
        """Of (N,) values those in the lists of some centres."""
        return np.concatenate([values[:0], *(values[self._slices[centre]] for centre in centres)])


def largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Where the ``count`` largest of (N,) scores are, in no order; all when there are no more."""
    if len(scores) <= count:
        return np.arange(len(scores))
    return np.argpartition(scores, -count)[-count:]


def coarse_vector(language: np.ndarray, visual: np.ndarray) -> np.ndarray:
    """(d_l + d_o,) float32: the unit text feature, and the mean over (t, d_o) of the unit image features."""
    return np.concatenate([unit(language), unit(visual).mean(0)]).astype(np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., d) at length 1."""
    lengths = np.sqrt(np.vecdot(vectors, vectors))[..., None]
    return vectors / np.maximum(lengths, 1e-12)
