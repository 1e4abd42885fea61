# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The motion database and its search, against the formula written out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from learning_data import write_episodes

from arvrm_ros.cli import main
from arvrm_ros.data.episodes import read_episode, write_episode
from arvrm_ros.data.types import HumanClip
from arvrm_ros.errors import DataError
from arvrm_ros.perception.text_encoder import TextEncoder
from arvrm_ros.retrieval.database import SCHEMA_VERSION, MotionDatabase
from arvrm_ros.retrieval.index import LAST, CoarseIndex, Codebooks, coarse_vector
from arvrm_ros.retrieval.opposites import opposite, sides
from arvrm_ros.retrieval.rows import flat_rows
from arvrm_ros.retrieval.search import MotionSearch, align, confidence, resample, search
from arvrm_ros.simulation.tasks import TASKS


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


@pytest.mark.parametrize("weights", [(1, 10), (100, 10), (0, 0)])  # pictures decide, words decide, all are the same
@pytest.mark.parametrize("last", [0, 1])
def test_an_index_finds_the_largest_products(weights: tuple[int, int], last: int) -> None:
    rng = np.random.default_rng(0)
    clips = clustered(6000, rng)
    vectors = np.stack([coarse_vector(clip.language, clip.visual) for clip in clips])
    says = rng.integers(0, 3, len(vectors)).astype(np.uint16)
    books = Codebooks.train(vectors[:2000], 32, rng)
    parts, codes = books.encode(vectors)
    index = CoarseIndex(books, parts.T, codes, says)
    shared = 0
    for clip in clips[:30]:
        query = coarse_vector(clip.language, clip.visual[:3]) * np.repeat(np.float32(weights), (32, 48))
        true = vectors @ query - LAST * ((says & last) != 0)
        found = index.nearest(query, 16, last)
        assert len(set(found)) == 16
        assert (true[found] > -LAST / 2).all()
        shared += int((true[found] >= np.sort(true)[-10]).sum())
    assert shared >= 0.95 * 300
    assert sorted(index.nearest(query, len(vectors), last)) == list(range(len(vectors)))


def test_an_index_needs_clips(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty: there is nothing to index"):
        MotionDatabase.create(tmp_path / "empty.lance").index()


def test_an_index_stays_right_when_clips_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arvrm_ros.retrieval.database.INDEX_FROM", 300)
    database = MotionDatabase.create(tmp_path / "large.lance")
    clips = clustered(340, np.random.default_rng(0))
    database.add(clips[:299])
    database.keep_indexed()
    assert not database.indexed
    database.add(clips[299:320])
    database.keep_indexed()
    assert database.indexed
    version = database._index_table().version
    database.add(clips[320:330])  # fewer than a twentieth
    database.keep_indexed()
    assert database._index_table().version == version
    database._table.delete("clip_id = 'clip_7'")
    database.compact()  # clips move
    indexed = MotionSearch(MotionDatabase.open(database.uri))
    assert not indexed.exact
    for clip in (clips[3], clips[310], clips[329]):
        assert indexed.search(clip.language, clip.visual, 1).motions[0].clip.clip_id == clip.clip_id
    gone = indexed.search(clips[7].language, clips[7].visual, 5).motions
    assert len(gone) == 5
    assert "clip_7" not in {motion.clip.clip_id for motion in gone}
    database.add(clips[330:])
    database.keep_indexed()
    assert database._index_table().version != version


def test_a_damaged_index_is_told(tmp_path: Path) -> None:
    database = MotionDatabase.create(tmp_path / "m.lance")
    database.add(clustered(100, np.random.default_rng(0)))
    with pytest.raises(DataError, match="has no index: make one with `arvrm db index"):
        MotionSearch(database, exact=False)
    database.index()
    for file in (tmp_path / "m_index.lance" / "data").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match=r"index of .* is damaged .*make it anew with `arvrm db index`"):
        MotionSearch(MotionDatabase.open(database.uri))
    database = MotionDatabase.open(database.uri)
    assert MotionSearch(database, exact=True).search(unit(np.ones(32)), unit(np.ones((1, 48))), 2).motions
    database.index()
    assert MotionSearch(database).search(unit(np.ones(32)), unit(np.ones((1, 48))), 2).motions


def test_a_search_that_streams_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = MotionDatabase.create(tmp_path / "m.lance")
    clips = clustered(2100, np.random.default_rng(0))
    for clip in clips:
        clip.task = "open_drawer" if int(clip.clip_id[5:]) % 3 else "close_drawer"
    database.add(clips)
    kept = MotionSearch(database)
    monkeypatch.setattr("arvrm_ros.retrieval.search.INDEX_FROM", 2000)
    streaming = MotionSearch(database)
    for mode, task in (("database", ""), ("oracle_task", "close_drawer"), ("wrong_task", "close_drawer")):
        a, b = (s.search(clips[9].language, clips[50].visual, 7, mode, task) for s in (kept, streaming))
        assert [motion.clip.clip_id for motion in a.motions] == [motion.clip.clip_id for motion in b.motions]
        assert [motion.score for motion in a.motions] == pytest.approx([motion.score for motion in b.motions])
        if not task:
            assert a.confidence == pytest.approx(b.confidence)


@pytest.mark.parametrize(
    ("instruction", "text", "against"),
    [
        ("open the drawer", "The drawer is being CLOSED", True),
        ("open the drawer", "pull the drawer shut", True),
        ("open the drawer", "opening a drawer", False),
        ("close the drawer that is open", "open the drawer", False),  # either word: nobody knows
        ("turn off the lamp", "switch the light on", True),
        ("push the block to the left", "slide it rightwards", True),
        ("lift the block", "put down the block", False),
        ("go up", "put it down", True),
        ("put the block in the drawer", "take the block out", True),
        ("press the button", "open the drawer", False),
        ("done", "off", False),  # "on" is part of a word
    ],
)
def test_captions_that_say_the_opposite(instruction: str, text: str, against: bool) -> None:
    assert bool(sides([text])[0] & opposite(instruction)) is against


@pytest.mark.parametrize("indexed", [False, True])
def test_opposites_come_last(tmp_path: Path, indexed: bool) -> None:
    database = MotionDatabase.create(tmp_path / "m.lance")
    clips = clustered(200, np.random.default_rng(0))
    for i, clip in enumerate(clips):
        clip.caption = "open the drawer" if i < 4 else "press the button" if i < 10 else "close the drawer"
    database.add(clips)
    if indexed:
        database.index()
    query = clips[20]  # a clip that closes the drawer: by its features the best
    search, paper = MotionSearch(database), MotionSearch(database, opposites=False)
    assert search.exact is not indexed
    found = search.search(query.language, query.visual, 12, instruction="open the drawer").motions
    assert {motion.clip.caption for motion in found[:10]} == {"open the drawer", "press the button"}
    assert found[10].clip.clip_id == query.clip_id  # last, not left out
    scores = [motion.score for motion in found]
    assert scores[:10] == sorted(scores[:10], reverse=True)
    for other, text in ((search, "move the drawer"), (search, ""), (paper, "open the drawer")):
        assert other.search(query.language, query.visual, 1, instruction=text).motions[0].clip.clip_id == query.clip_id


def older_database(folder: Path, version: int) -> str:
    """As versions 1 to 3 of the schema stored clips."""
    since = {1: ("start", "handedness", "world", "quality", "extraction"), 2: ("extraction",), 3: ()}[version]
    clips = [make_clip(i) for i in range(3)]
    for clip in clips:
        clip.start, clip.handedness, clip.quality, clip.extraction = 1.5, "left", 0.25, '{"smoothing": 7}'
        clip.world = clip.keypoints.copy()
    table = flat_rows(clips).drop_columns(list(since))
    table = table.append_column("thumbnail", pa.array([b"jpeg", b"", b""], pa.binary()))
    if version > 1:
        table = table.append_column("coarse", pa.array([[0.0] * 24] * 3, pa.list_(pa.float32(), 24)))
    metadata = {"arvrm_schema_version": str(version), "arvrm_features": '{"image_encoder": "abc"}'}
    lancedb.connect(folder).create_table("old", table.replace_schema_metadata(metadata))
    return str(folder / "old.lance")


@pytest.mark.parametrize("version", [1, 2, 3])
def test_databases_of_older_versions_are_read_and_upgraded(
    tmp_path: Path, version: int, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, new = older_database(tmp_path, version), str(tmp_path / "new.lance")
    database = MotionDatabase.open(uri)
    assert database.older
    for change in (lambda: database.add([make_clip(9)]), database.index, lambda: database.building().__enter__()):
        with pytest.raises(DataError, match=r"older version .*arvrm db upgrade --db .*old.lance"):
            change()
    assert main(["db", "upgrade", "--db", uri, "--out", new]) == 0
    assert main(["db", "upgrade", "--db", uri, "--out", new]) == 1
    assert "already exists" in capsys.readouterr().err
    upgraded = MotionDatabase.open(new)
    assert not upgraded.older
    assert upgraded.features == {"image_encoder": "abc"}
    query = make_clip(1)
    for opened in (database, upgraded):
        assert opened.verify() == ["clip_0: its thumbnail is not a picture"]
        overview = opened.overview()
        assert overview["frames"].to_pylist() == [12] * 3
        assert overview["found"].to_pylist() == [int(make_clip(i).visible.sum()) for i in range(3)]
        assert overview["seconds"].to_pylist() == pytest.approx([1.2] * 3)
        assert overview["extraction"].to_pylist() == ['{"smoothing": 7}' if version == 3 else ""] * 3
        (clip,) = opened.take(overview["_rowid"].to_pylist()[1:2])
        assert (clip.clip_id, clip.caption, clip.video) == (query.clip_id, query.caption, query.video)
        assert (clip.start, clip.handedness, clip.quality) == ((0.0, "", 1.0) if version == 1 else (1.5, "left", 0.25))
        np.testing.assert_allclose(clip.keypoints, query.keypoints, atol=5e-4)
        np.testing.assert_allclose(clip.world, query.keypoints[: 0 if version == 1 else None], atol=1e-6)
        assert search(opened, query.language, query.visual, 1)[0].clip.clip_id == query.clip_id
        assert opened.thumbnails(["clip_0"]) == {"clip_0": b"jpeg"}
    upgraded.add([make_clip(9)])
    assert len(MotionDatabase.open(new)) == 4


def test_a_damaged_clip_is_named(database: MotionDatabase) -> None:
    rows = database._table.search().limit(1).to_arrow()
    packed = rows["clip"][0].as_py()
    for i, damaged in enumerate((b"", packed[:50], packed[:-4], packed.replace(b"frame_period", b"frame_perioX"))):
        row = rows.set_column(0, rows.schema.field("clip_id"), pa.array([f"damaged_{i}"]))
        at = row.schema.get_field_index("clip")
        database._table.add(row.set_column(at, row.schema.field("clip"), pa.array([damaged], pa.binary())))
    problems = database.verify()
    assert [line.split(":")[0] for line in problems if line.startswith("damaged")] == [f"damaged_{i}" for i in range(4)]
    with pytest.raises(DataError, match="damaged in the motion database"):
        database.clips()


def test_precision_counts_clips_of_the_right_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in write_episodes(tmp_path / "robot", 3).iterdir():
        write_episode(path, dataclasses.replace(read_episode(path), task="open_drawer"))
    texts, database = TextEncoder(), MotionDatabase.create(tmp_path / "m.lance")
    rng, clips = np.random.default_rng(0), []
    for task in ("open_drawer", "close_drawer"):
        for i, text in enumerate(TASKS[task].instructions):
            clip = make_clip(i)
            clip.clip_id, clip.caption, clip.task = f"{task}_{i}", text, task
            clip.language, clip.visual = texts.encode([text])[0], unit(rng.normal(size=(3, 640)))
            clips.append(clip)
    database.add(clips)
    figures = {}
    for options in ("--opposites", "--no-opposites"):
        asked = ["db", "precision", str(tmp_path / "robot"), "--db", database.uri, "--limit", "2", options]
        assert main([*asked, "--json", str(tmp_path / "p.json")]) == 0
        figures[options] = json.loads((tmp_path / "p.json").read_text())
    with_words, without = figures["--opposites"]["seen"], figures["--no-opposites"]["seen"]
    assert (with_words["queries"], with_words["wordings"]) == (8, 4)  # two views, every wording of the one task
    assert figures["--opposites"]["held_out"]["queries"] == 4
    assert with_words["precision"] > without["precision"]
    assert list(with_words["wrong"]) == ["slide the drawer out"]  # "in" is its opposite, not "close"
    assert len(without["wrong"]) > 1
    for row in (with_words, without):
        assert row["opposite"] == pytest.approx(1 - row["precision"])
        assert row["interval"][0] <= row["precision"] <= row["interval"][1]
    assert sum(sum(tasks.values()) for tasks in without["wrong"].values()) == round(32 * without["opposite"])
    assert "of close_drawer" in capsys.readouterr().out
    clip.task = clip.clip_id = ""
    nameless = MotionDatabase.create(tmp_path / "n.lance")
    nameless.add([dataclasses.replace(clip, clip_id="a")])
    assert main(["db", "precision", str(tmp_path / "robot"), "--db", nameless.uri]) == 1
    assert "no clips of known tasks" in capsys.readouterr().err
    assert main(["db", "precision", str(tmp_path), "--db", database.uri]) == 1
    assert "there are no episodes" in capsys.readouterr().err
