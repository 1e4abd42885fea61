# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The instruction in words that the human clips' captions use.

A policy has heard a few wordings of each task, and an unfamiliar one reaches it as features that it never saw. The
clips that the search finds for such words show what is meant, and their captions say it in words that training knows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from arvrm_ros.data.types import RetrievedMotion
from arvrm_ros.retrieval.opposites import opposite, sides
from arvrm_ros.retrieval.search import CONFIDENCE_CENTER


def familiar_wording(instruction: str, motions: Sequence[RetrievedMotion], familiar: Collection[str] = ()) -> str:
    """The words to follow in place of an instruction's; its own where no caption says the same.

    Args:
        instruction: as it was said.
        motions: retrieved for it, best first.
        familiar: instructions that the policy was trained with; one that differs at most in capitals and stops is it.
    """
    for words in familiar:
        if _plain(words) == _plain(instruction):
            return words
    against = opposite(instruction)
    for motion in motions:
        caption = motion.clip.caption
        near = caption and motion.language_score >= CONFIDENCE_CENTER
        if near and not int(sides([caption])[0]) & against:
            return caption
    return instruction


def _plain(words: str) -> str:
    return " ".join(words.casefold().split()).rstrip(" .!")
