# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The coarse stage of a search: which of very many clips may be the best, from about a kilobyte of memory each.

A clip's coarse vector is [z_l ; mean_t z_ot]; its inner product with a query's [w z_l ; T mean_t z_ot] is nearly the
score. Either half is stored as the nearest of K centres, and what is left as 8 bits a number. A query is first compared
with the centres, which scores every clip roughly by two look-ups; the best of them are scored with what is left. With
centres for either half (Babenko and Lempitsky 2012, "The inverted multi-index") a search finds its clips whether it
goes by the words or by the pictures.
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
    """Clips in memory as :meth:`Codebooks.encode` has them: ``parts`` (2, N) uint16 and ``codes`` (N, d_l + d_o) int8.

    ``sides`` (N,) are those of their captions, see :mod:`arvrm_ros.retrieval.opposites`.
    """

    def __init__(self, books: Codebooks, parts: np.ndarray, codes: np.ndarray, sides: np.ndarray) -> None:
        self._books, self._parts, self._codes, self._sides = books, parts, codes, sides

    def nearest(self, query: np.ndarray, count: int, last: int = 0) -> np.ndarray:
        """The clips whose coarse vectors have the largest inner products with a vector, nearly.

        Args:
            query: (d_l + d_o,).
            count: clips wanted.
            last: clips whose ``sides`` have one of these bits come after all others.

        Returns:
            (count,) numbers of clips, fewer when there are fewer; the best first.
        """
        books, width = self._books, self._books.text.shape[1]
        # With "clip" take need not check the numbers, and with "out" it need not allocate: half the time.
        rough = np.take(books.text @ query[:width], self._parts[0], mode="clip")
        rough += np.take(books.image @ query[width:], self._parts[1], mode="clip")
        if last:
            np.subtract(rough, LAST, out=rough, where=(self._sides & last) != 0)
        rows = largest(rough, max(SHORTLIST, count))
        scores = rough[rows]
        scaled = query * books.step
        for i in range(0, len(rows), _BLOCK):
            scores[i : i + _BLOCK] += self._codes[rows[i : i + _BLOCK]].astype(np.float32) @ scaled
        return rows[np.argsort(-scores, kind="stable")[:count]]


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
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
