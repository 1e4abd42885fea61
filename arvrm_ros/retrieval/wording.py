# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The instruction in words that training knows.

A policy has heard a few wordings of each task, and an unfamiliar one reaches it as features that it never saw. What it
was trained with, and the captions of the human clips that the search finds, say the same in words that it knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from arvrm_ros.data.types import RetrievedMotion
from arvrm_ros.retrieval.opposites import opposite, sides
from arvrm_ros.retrieval.search import CONFIDENCE_CENTER

NEARLY_SAID, FAVOUR = 0.9, 0.05
"""Cosine from which an instruction counts as one of training's said a little differently, and by which it is then put
before captions: those of other tasks come as near ("take it from the drawer", "put it in the drawer": 0.96)."""


def familiar_wording(instruction: str, motions: Sequence[RetrievedMotion], familiar: Mapping[str, float]) -> str:
    """The words to follow in place of an instruction's; its own where none are near enough, or all say the opposite.

    Captions alone would not do: a task that the robot was shown and no clip shows has the caption of another one next
    to it. Nor would training alone: what only people showed has its words in captions.

    Args:
        instruction: as it was said.
        motions: retrieved for it, best first.
        familiar: instructions that the policy was trained with, and the cosine of each one's features and this one's;
            one that differs at most in capitals and stops is it.
    """
    for words in familiar:
        if _plain(words) == _plain(instruction):
            return words
    near = [(motion.language_score, motion.clip.caption) for motion in motions if motion.clip.caption]
    near += [(score + FAVOUR * (score >= NEARLY_SAID), words) for words, score in familiar.items()]
    against = opposite(instruction)
    for score, words in sorted(near, key=lambda candidate: -candidate[0]):
        if score < CONFIDENCE_CENTER:
            break
        if not int(sides([words])[0]) & against:
            return words
    return instruction


def _plain(words: str) -> str:
    return " ".join(words.casefold().split()).rstrip(" .!")
