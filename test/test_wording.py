# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""An unfamiliar instruction is read in words that training or a caption has, and in its own where none say the same."""

import os
from collections.abc import Sequence

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


class Reader:
    """Reads with the shipped clips, by language alone."""

    def __init__(self):
        self._search = MotionSearch(MotionDatabase.open(resource("checkpoints", "human_motions.lance")))
        self._texts = TextEncoder()

    def __call__(self, words: str, trained: Sequence[str]) -> str:
        language = self._texts.encode([words])[0]
        found = self._search.search(language, np.zeros((1, 640), np.float32), 4, instruction=words).motions
        near = (self._texts.encode(list(trained)) @ language).tolist()
        return familiar_wording(words, found, dict(zip(trained, near, strict=True)))


@pytest.fixture(scope="module")
def reader():
    return Reader()


def motion(caption: str, language_score: float) -> RetrievedMotion:
    clip = human_clip(0, np.random.default_rng(0))
    clip.caption = caption
    return RetrievedMotion(clip, 1.0, language_score, 0.5)


@pytest.mark.parametrize(
    ("instruction", "captions", "read"),
    [
        ("tug the drawer", [("open the drawer", NEAR), ("pull the handle", 0.9)], "pull the handle"),
        ("tug the drawer", [("open the drawer", 0.9), ("pull the handle", 0.9)], "open the drawer"),
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
def test_the_nearest_caption_that_says_the_same_is_followed(instruction, captions, read):
    motions = [motion(*caption) for caption in captions]
    assert familiar_wording(instruction, motions, {"lift the red block": 0.1}) == read


@pytest.mark.parametrize(
    ("familiar", "read"),
    [
        ({"pick up the red block from the drawer": 0.95}, "pick up the red block from the drawer"),
        ({"pick up the red block": 0.89}, "put the red block in the drawer"),
        ({"close the drawer": FAR}, "put the red block in the drawer"),
    ],
)
def test_training_says_what_is_meant_where_the_captions_are_of_another_task(familiar, read):
    motions = [motion("put the red block in the drawer", 0.96)]
    assert familiar_wording("take the red block from the drawer", motions, familiar) == read


def test_training_that_says_the_opposite_is_not_followed():
    familiar = {"go push the block right": 0.97, "slide the block left": 0.8}
    assert familiar_wording("go push the block left", [], familiar) == "slide the block left"


def test_wordings_that_training_never_saw_are_read_as_ones_it_saw(reader):
    """Nearly all held-out wordings as one of the same task."""
    held_out = [words for task in TASKS.values() for words in task.held_out]
    read = {words: reader(words, sorted(SEEN)) for words in held_out}
    wrong = {words: to for words, to in read.items() if to in SEEN and task_of(to) != task_of(words)}
    same = [words for words, to in read.items() if to in SEEN and task_of(to) == task_of(words)]
    assert not SEEN & set(held_out)
    assert len(wrong) <= 0.03 * len(held_out), wrong
    assert len(same) >= 0.9 * len(held_out), {words: to for words, to in read.items() if to not in SEEN}


def test_what_only_people_showed_is_read_in_the_captions_words(reader):
    """No task's words are among the training's, neither those of all tasks of its kind."""
    for task in TASKS.values():
        for shown in (
            [t for t in TASKS.values() if t.id != task.id],
            [t for t in TASKS.values() if t.kind != task.kind],
        ):
            trained = [words for t in shown for words in t.instructions]
            for words in (*task.instructions, *task.held_out):
                assert task_of(reader(words, trained)) == task.id, words


@pytest.mark.skipif(not os.environ.get("CALVIN_ROOT"), reason="CALVIN_ROOT names no clone of CALVIN")
def test_calvins_evaluation_is_understood_by_a_policy_that_was_trained_in_calvins_words(reader):
    from arvrm_ros.simulation import calvin

    trained = {words: task for task, texts in calvin._wordings("new_playtable").items() for words in texts}
    meaning = {
        words: f"{task.id}_table" if task.kind == "lift" else "place_in_drawer" if task.kind == "put" else task.id
        for task in TASKS.values()
        for words in task.instructions
    } | trained
    for task in set(trained.values()):
        words = calvin.validation_wording(task)
        assert meaning[reader(words, list(trained))] == task, words
