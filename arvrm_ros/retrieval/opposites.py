# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Captions that say the opposite of an instruction.

To a text encoder "open the drawer" and "close the drawer" are nearly the same (cosine 0.9), no less so than two ways to
say one thing. A word of a pair on either side tells them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Push and pull are not among them: a door is opened by either.
PAIRS = (
    (r"open(s|ed|ing)?", r"clos(e|es|ed|ing)|shut(s|ting)?"),
    (r"on", r"off"),
    (r"left(wards?)?", r"right(wards?)?"),
    (r"up(wards?)?", r"down(wards?)?"),
    (r"in(to|side)?", r"out(side)?"),
    (r"forwards?", r"back(wards?)?"),
)
"""English words (regular expressions) of which a text has either one or the other."""


def sides(texts: pa.Array | pa.ChunkedArray | Sequence[str]) -> np.ndarray:
    """(N,) uint16: of pair i, bit 2 i for the first word, bit 2 i + 1 for the second, neither for a text with both."""
    texts = texts if isinstance(texts, pa.Array | pa.ChunkedArray) else pa.array(texts, pa.string())
    bits = np.zeros(len(texts), np.uint16)
    for pair, words in enumerate(PAIRS):
        first, second = (
            pc.match_substring_regex(texts, rf"\b({word})\b", ignore_case=True).to_numpy(zero_copy_only=False)
            for word in words
        )
        bits |= (first & ~second).astype(np.uint16) << 2 * pair
        bits |= (second & ~first).astype(np.uint16) << 2 * pair + 1
    return bits


@lru_cache(maxsize=64)
def opposite(instruction: str) -> int:
    """The :func:`sides` of texts that say the opposite of an instruction: they have one of these bits or more."""
    bits = int(sides([instruction])[0])
    return (bits & 0x5555) << 1 | (bits & 0xAAAA) >> 1
