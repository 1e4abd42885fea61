# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""An unfamiliar instruction is read in a caption's words where one says the same, and in its own where none does."""

import numpy as np
import pytest
from learning_data import human_clip

from arvrm_ros.data.types import RetrievedMotion
from arvrm_ros.perception.text_encoder import TextEncoder
from arvrm_ros.resources import resource
from arvrm_ros.retrieval.database import MotionDatabase
from arvrm_ros.retrieval.search import CONFIDENCE_CENTER, MotionSearch
from arvrm_ros.retrieval.wording import familiar_wording
from arvrm_ros.simulation.tasks import TASKS, task_of

NEAR, FAR = CONFIDENCE_CENTER, CONFIDENCE_CENTER - 0.01
SEEN = {words for task in TASKS.values() for words in task.instructions}


def motion(caption: str, language_score: float) -> RetrievedMotion:
    clip = human_clip(0, np.random.default_rng(0))
    clip.caption = caption
    return RetrievedMotion(clip, 1.0, language_score, 0.5)


@pytest.mark.parametrize(
    ("instruction", "captions", "read"),
    [
        ("tug the drawer", [("open the drawer", NEAR), ("pull the handle", 0.9)], "open the drawer"),
        ("tug the drawer", [("lift the block", FAR), ("pull the handle", 0.9)], "pull the handle"),
        ("shut the drawer", [("open the drawer", 0.95), ("close the drawer", 0.7)], "close the drawer"),
        ("shut the drawer", [("open the drawer", 0.95)], "shut the drawer"),
        ("zorble the flimflam", [("open the drawer", FAR)], "zorble the flimflam"),
        ("tug the drawer", [("", NEAR)], "tug the drawer"),
        ("tug the drawer", [], "tug the drawer"),
        ("lift the red block", [("pick up the red block", 0.95)], "lift the red block"),  # familiar
        ("Lift  the red block.", [("pick up the red block", 0.95)], "lift the red block"),
    ],
)
def test_the_first_caption_that_says_the_same_is_followed(instruction, captions, read):
    motions = [motion(*caption) for caption in captions]
    assert familiar_wording(instruction, motions, frozenset({"lift the red block"})) == read


def test_wordings_that_training_never_saw_are_read_as_ones_it_saw():
    """With the shipped clips, by language alone: nearly all held-out wordings as one of the same task."""
    search, texts = MotionSearch(MotionDatabase.open(resource("checkpoints", "human_motions.lance"))), TextEncoder()
    held_out = [words for task in TASKS.values() for words in task.held_out]
    read = {}
    for words, language in zip(held_out, texts.encode(held_out), strict=True):
        found = search.search(language, np.zeros((1, 640), np.float32), 4, instruction=words).motions
        read[words] = familiar_wording(words, found, SEEN)
    wrong = {words: to for words, to in read.items() if to in SEEN and task_of(to) != task_of(words)}
    same = [words for words, to in read.items() if to in SEEN and task_of(to) == task_of(words)]
    assert not SEEN & set(held_out)
    assert len(wrong) <= 0.03 * len(held_out), wrong
    assert len(same) >= 0.9 * len(held_out), {words: to for words, to in read.items() if to not in SEEN}
