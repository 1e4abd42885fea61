# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The motion database and its search, against the formula written out."""

from __future__ import annotations

from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest

from arvrm_ros.data.types import HumanClip
from arvrm_ros.errors import DataError
from arvrm_ros.retrieval.database import SCHEMA_VERSION, MotionDatabase
from arvrm_ros.retrieval.search import MotionSearch, align, confidence, resample, search


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def make_clip(index: int, frames: int = 12) -> HumanClip:
    rng = np.random.default_rng(index)
    return HumanClip(
        clip_id=f"clip_{index}",
        caption=f"it's caption {index}",
        frame_period=0.1,
        keypoints=rng.random((frames, 21, 3), dtype=np.float32),
        visible=rng.random(frames) < 0.8,
        language=unit(rng.normal(size=16)),
        visual=unit(rng.normal(size=(frames, 8))),
        video=f"videos/{index}.mp4",
        task="open_drawer",
    )


@pytest.fixture
def database(tmp_path: Path) -> MotionDatabase:
    database = MotionDatabase.create(tmp_path / "clips.lance", {"image_encoder": "abc"})
    clips = [make_clip(i, frames) for i, frames in enumerate((12, 5, 30, 1, 10, 12))]
    clips[5].visual = clips[5].visual[::3]  # fewer image features than frames
    database.add(clips[:4])
    database.add(clips[4:], [b"jpeg 4", b"jpeg 5"])
    return database


def test_what_went_in_comes_out(database: MotionDatabase) -> None:
    database.compact()
    again = MotionDatabase.open(database.uri)
    assert again.features == {"image_encoder": "abc"}
    assert len(again) == 6
    assert again.ids() == {f"clip_{i}" for i in range(6)}
    for index, clip in enumerate(again.clips()):
        expected = make_clip(index, len(clip.keypoints))
        assert (clip.clip_id, clip.caption, clip.video, clip.task, clip.frame_period) == (
            expected.clip_id, expected.caption, expected.video, expected.task, 0.1
        )  # fmt: skip
        np.testing.assert_array_equal(clip.visible, expected.visible)
        np.testing.assert_array_equal(clip.language, expected.language)
        np.testing.assert_allclose(clip.visual, expected.visual[:: 3 if index == 5 else 1], atol=5e-4)
        np.testing.assert_allclose(clip.keypoints, expected.keypoints, atol=5e-4)
    assert again.thumbnails(["clip_5", "clip_0", "it's none"]) == {"clip_5": b"jpeg 5", "clip_0": b""}


def test_search_is_the_papers_formula(database: MotionDatabase) -> None:
    rng = np.random.default_rng(99)
    for length in (1, 4, 10, 14):
        language, visual = unit(rng.normal(size=16)), unit(rng.normal(size=(length, 8)))
        history = [
            visual[max(0, length - 10 + t)] if length >= 10 else visual[max(0, t - (10 - length))] for t in range(10)
        ]
        expected = {}
        for clip in database.clips():
            frames = [clip.visual[round(t * (len(clip.visual) - 1) / 9)] for t in range(10)]
            cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(history, frames, strict=True)]
            expected[clip.clip_id] = float(clip.language @ language + sum(cosines))
        found = MotionSearch(database, language_weight=1.0).search(language, visual, k=4).motions
        assert [m.clip.clip_id for m in found] == sorted(expected, key=lambda i: -expected[i])[:4]
        for motion in found:
            assert motion.score == pytest.approx(expected[motion.clip.clip_id], abs=1e-5)
            assert motion.score == pytest.approx(motion.language_score + 10 * motion.visual_score, abs=1e-5)


def test_a_clip_finds_itself(database: MotionDatabase) -> None:
    clip = database.clips()[2]
    result = MotionSearch(database).search(clip.language, resample(clip.visual, 10), k=1)
    assert result.motions[0].clip is clip
    assert result.motions[0].language_score == pytest.approx(1, abs=1e-3)
    assert result.motions[0].visual_score == pytest.approx(1, abs=1e-3)
    assert result.confidence > 0.99


def test_language_weight_and_modes(database: MotionDatabase) -> None:
    language, visual = database.clips()[1].language, database.clips()[4].visual
    by_pictures = MotionSearch(database, language_weight=1).search(language, visual, 1).motions[0]
    assert by_pictures.clip.clip_id == "clip_4"
    assert search(database, language, visual, 1)[0].clip.clip_id == "clip_1"  # by default, words count more
    assert MotionSearch(database, language_weight=100).search(language, visual, 1).motions[0].clip.clip_id == "clip_1"
    searcher = MotionSearch(database)
    assert searcher.search(language, visual, 3, "none").motions == []
    first, second = (searcher.search(language, visual, 3, "random").motions for _ in range(2))
    assert len({m.clip.clip_id for m in first}) == 3
    assert [m.clip.clip_id for m in first] == [m.clip.clip_id for m in second]
    with pytest.raises(DataError, match="unknown retrieval mode 'best'"):
        searcher.search(language, visual, 3, "best")
    with pytest.raises(DataError, match="other encoders"):
        searcher.search(language[:7], visual, 3)


def test_modes_that_are_told_the_task(tmp_path: Path) -> None:
    database = MotionDatabase.create(tmp_path / "tasks.lance")
    clips = [make_clip(i) for i in range(12)]
    for clip, task in zip(clips, ("open_drawer", "turn_on_led", "lift_red_block", "") * 3, strict=True):
        clip.task = task
    database.add(clips)
    searcher = MotionSearch(database)
    wrong: set[str] = set()
    for seed in range(30):
        language = unit(np.random.default_rng(seed).normal(size=16))
        visual = clips[seed % 12].visual
        ranked = searcher.search(language, visual, 12).motions
        right = searcher.search(language, visual, 2, "oracle_task", "turn_on_led").motions
        expected = [m for m in ranked if m.clip.task == "turn_on_led"][:2]
        assert [(m.clip.clip_id, m.score) for m in right] == [(m.clip.clip_id, m.score) for m in expected]
        other = searcher.search(language, visual, 9, "wrong_task", "turn_on_led").motions
        (task,) = {m.clip.task for m in other}
        assert task in ("open_drawer", "lift_red_block")
        assert [m.clip.clip_id for m in other] == [m.clip.clip_id for m in ranked if m.clip.task == task]
        again = MotionSearch(database).search(language, clips[0].visual, 9, "wrong_task", "turn_on_led").motions
        assert {m.clip.task for m in again} == {task}, "another task for the same instruction"
        wrong.add(task)
    assert wrong == {"open_drawer", "lift_red_block"}
    for task, message in (
        ("", "was not told the true task"),
        ("dance", "no clip of task 'dance'; the database has lift"),
    ):
        for mode in ("oracle_task", "wrong_task"):
            with pytest.raises(DataError, match=message):
                searcher.search(language, visual, 2, mode, task)


def test_modes_that_are_told_the_task_need_clips_that_tell_theirs(database: MotionDatabase, tmp_path: Path) -> None:
    language, visual = database.clips()[1].language, database.clips()[4].visual
    assert len(MotionSearch(database).search(language, visual, 9, "oracle_task", "open_drawer").motions) == 6
    with pytest.raises(DataError, match="all clips of the database show open_drawer"):
        MotionSearch(database).search(language, visual, 3, "wrong_task", "open_drawer")
    unknown = make_clip(0)
    unknown.task = ""
    foreign = MotionDatabase.create(tmp_path / "foreign.lance")
    foreign.add([unknown])
    with pytest.raises(DataError, match="needs clips whose task is known"):
        MotionSearch(foreign).search(language, visual, 3, "oracle_task", "open_drawer")


def test_empty_database_answers_with_nothing(tmp_path: Path) -> None:
    database = MotionDatabase.create(tmp_path / "empty.lance")
    assert len(MotionDatabase.open(database.uri)) == 0
    result = MotionSearch(database).search(np.ones(16, np.float32), np.ones((1, 8), np.float32), 4)
    assert result.motions == []
    assert result.confidence == 0


def test_databases_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no motion database .* `arvrm db build"):
        MotionDatabase.open(tmp_path / "nowhere" / "x.lance")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(DataError, match=r"NAME\.lance"):
        MotionDatabase.open(tmp_path / "folder")
    (tmp_path / "damaged.lance").mkdir()
    with pytest.raises(DataError, match=r"damaged\.lance cannot be opened"):
        MotionDatabase.open(tmp_path / "damaged.lance")
    schema = pa.schema([pa.field("clip_id", pa.string())])
    connection = lancedb.connect(tmp_path)
    connection.create_table("other", schema=schema)
    with pytest.raises(DataError, match="not a motion database"):
        MotionDatabase.open(tmp_path / "other.lance")
    connection.create_table("newer", schema=schema.with_metadata({"arvrm_schema_version": str(SCHEMA_VERSION + 1)}))
    with pytest.raises(DataError, match=rf"schema version {SCHEMA_VERSION + 1}.*update arvrm_ros"):
        MotionDatabase.open(tmp_path / "newer.lance")


def test_malformed_clips_are_refused_whole(database: MotionDatabase) -> None:
    good, broken, other = make_clip(10), make_clip(11), make_clip(12)
    broken.visual[3, 2] = np.nan
    other.language = other.language[:5]
    for clips, message in (
        ([good, broken], "'clip_11' has numbers that are not finite"),
        ([good, make_clip(0)], "clip_0 is in .* already"),
        ([good, good], "clip_10 is in .* already"),
        ([good, other], "another size"),
        ([other], "another size"),
    ):
        with pytest.raises(DataError, match=message):
            database.add(clips)
    assert len(database) == 6
    with pytest.raises(DataError, match="cannot make the motion database"):
        MotionDatabase.create(database.uri)


def test_alignment_and_confidence() -> None:
    rows = np.arange(4)[:, None]
    assert align(rows, 6).ravel().tolist() == [0, 0, 0, 1, 2, 3]
    assert align(rows, 2).ravel().tolist() == [2, 3]
    assert resample(rows, 7).ravel().tolist() == [0, 0, 1, 2, 2, 2, 3]
    assert confidence(0.3) < 0.01 < 0.4 < confidence(0.66) < 0.6 < 0.99 < confidence(0.9)


def clustered(count: int, rng: np.random.Generator) -> list[HumanClip]:
    """Clips of 40 activities in 25 scenes, as captions and pictures of like clips lie close together."""
    texts, scenes = unit(rng.normal(size=(40, 32))), unit(rng.normal(size=(25, 48)))
    clips = []
    for i in range(count):
        clip = make_clip(i)
        clip.language = unit(texts[i % 40] + rng.normal(0, 0.06, 32))
        scene = scenes[rng.integers(25)] + rng.normal(0, 0.06, 48)
        clip.visual = unit(scene + rng.normal(0, 0.04, (10, 48)))
        clip.keypoints, clip.visible = clip.keypoints[:2], clip.visible[:2]
        clips.append(clip)
    return clips


def test_an_indexed_search_finds_what_the_exact_one_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    database = MotionDatabase.create(tmp_path / "large.lance")
    clips = clustered(6000, rng)
    database.add(clips[:5900])
    assert not database.indexed
    database.index()
    assert database.indexed
    database.add(clips[5900:])  # found too, though they are not in the index
    exact, indexed = MotionSearch(database, exact=True), MotionSearch(MotionDatabase.open(database.uri))
    assert not indexed.exact
    assert len(indexed) == 6000
    for weight, wanted in ((1.0, 0.95), (100.0, 0.9)):
        exact.language_weight = indexed.language_weight = weight
        shared = 0
        for query in clustered(60, np.random.default_rng(0))[::2]:
            a, b = (s.search(query.language, query.visual[:3], 10).motions for s in (exact, indexed))
            scores = {m.clip.clip_id: m.score for m in a}
            shared += sum(m.clip.clip_id in scores for m in b)
            assert [m.score for m in b] == sorted((m.score for m in b), reverse=True)
            for motion in b:  # ranked by the formula itself, not by the index
                if motion.clip.clip_id in scores:
                    assert motion.score == pytest.approx(scores[motion.clip.clip_id], rel=1e-4)
        assert shared / 300 >= wanted, f"recall at 10 with weight {weight}"
    late = clips[-1]
    assert indexed.search(late.language, late.visual, 1).motions[0].clip.clip_id == late.clip_id
    drawn = indexed.search(late.language, late.visual, 3, "random").motions
    assert len({m.clip.clip_id for m in drawn}) == 3
    assert indexed.search(late.language, late.visual, 3, "none").motions == []
    told = indexed.search(late.language, late.visual, 3, "oracle_task", "open_drawer").motions
    assert {m.clip.task for m in told} == {"open_drawer"}


def test_an_index_needs_clips(database: MotionDatabase) -> None:
    with pytest.raises(DataError, match="has 6 clips; an index needs 256"):
        database.index()
