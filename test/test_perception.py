# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Landmarker, its model file, camera sources, overlay: without ROS."""

from __future__ import annotations

import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from rendered_hand import rendered_hand

from arvrm_ros.cli import main
from arvrm_ros.data.types import HandDetection
from arvrm_ros.data.video import write_video
from arvrm_ros.errors import DataError
from arvrm_ros.perception import models
from arvrm_ros.perception.cameras import FolderSource, FrameSets, VideoSource, open_source, resize
from arvrm_ros.perception.landmarker import HandLandmarker
from arvrm_ros.perception.overlay import BONES, draw_hand
from arvrm_ros.retrieval.extraction import ExtractionOptions, RejectedClipError, hand_track


@pytest.fixture(scope="module")
def model() -> Path:
    """The landmark model, which `make setup` fetches; a test machine without it fetches it here."""
    return models.fetch_hand_landmarker()[0]


def test_the_landmarker_finds_a_hand_and_nothing_where_there_is_none(model: Path) -> None:
    image, truth = rendered_hand()
    with HandLandmarker() as landmarker:
        (hand,) = landmarker.detect(image)
        assert landmarker.detect(np.zeros_like(image)) == []
        assert landmarker.detect(np.full((64, 64, 3), 127, np.uint8)) == []
    assert hand.keypoints.shape == hand.world.shape == (21, 3)
    assert 0 <= hand.score <= 1
    assert hand.handedness in ("left", "right")
    height, width = image.shape[:2]
    error = np.linalg.norm((hand.keypoints - truth)[:, :2] * (width, height), axis=1)
    assert np.median(error) < 0.03 * width
    length = np.linalg.norm(hand.world[12] - hand.world[0])
    assert 0.1 < length < 0.25  # metres


def test_video_mode_follows_a_hand_and_begins_anew_when_time_goes_back(model: Path) -> None:
    image, _ = rendered_hand()
    with HandLandmarker(video=True) as landmarker:
        # Two frames of one millisecond are allowed. The tracker may lose a still picture now and then.
        found = [len(landmarker.detect(image, t)) for t in (5.0, 5.0001, 5.1, 5.2, 5.3, 5.4)]
        assert found[0] == 1
        assert sum(found) >= 3
        assert landmarker.detect(np.zeros_like(image), 5.5) == []
        assert len(landmarker.detect(image, 0.0)) == 1
        with pytest.raises(ValueError, match="time of each frame"):
            landmarker.detect(image)


def test_a_missing_or_wrong_model_is_named_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.task is missing: run `arvrm models fetch`"):
        HandLandmarker(model=tmp_path / "none.task")
    (tmp_path / "text.task").write_text("not a model")
    with pytest.raises(DataError, match="is not a hand-landmark model"):
        HandLandmarker(model=tmp_path / "text.task")


def test_fetching_from_a_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("ARVRM_MODELS", str(cache))
    assert main(["models", "fetch", "--file", str(model)]) == 0
    fetched = cache / "hand_landmarker.task"
    assert fetched.read_bytes() == model.read_bytes()
    assert main(["models", "fetch"]) == 0
    assert "already there" in capsys.readouterr().out

    # The wheel itself, as carried to a machine without network.
    wheel = tmp_path / "mediapipe-0.10.21-cp311-cp311-linux_x86_64.whl"
    with zipfile.ZipFile(model) as task, zipfile.ZipFile(wheel, "w") as archive:
        for name, (member, _) in models.MEMBERS.items():
            archive.writestr(member, task.read(name))
    assert main(["models", "fetch", "--force", "--file", str(wheel)]) == 0
    assert main(["models", "show"]) == 0

    before = fetched.read_bytes()
    damaged = tmp_path / "damaged.task"
    with zipfile.ZipFile(model) as task, zipfile.ZipFile(damaged, "w") as archive:
        for name in models.MEMBERS:
            archive.writestr(name, task.read(name)[:-1])
    (tmp_path / "text.task").write_text("not a model")
    (tmp_path / "other.whl").write_text("not a wheel")
    for file, message in (
        ("damaged.task", "is damaged or another model: hand_detector.tflite has SHA-256"),
        ("text.task", "is not a hand_landmarker.task"),
        ("other.whl", "is not the wheel of mediapipe==0.10.21"),
        ("none.task", "No such file"),
    ):
        assert main(["models", "fetch", "--force", "--file", str(tmp_path / file)]) == 1
        assert message in capsys.readouterr().err
    assert fetched.read_bytes() == before
    assert [p.name for p in cache.iterdir()] == ["hand_landmarker.task"]


def test_without_network_one_line_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ARVRM_MODELS", str(tmp_path))
    for key, value in {
        "PIP_INDEX_URL": "http://127.0.0.1:9/",
        "PIP_RETRIES": "0",
        "PIP_CONFIG_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    assert main(["models", "fetch"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip could not download mediapipe==0.10.21" in line
    assert "arvrm models fetch --file WHEEL" in line
    assert main(["models", "fetch", "--url", "http://127.0.0.1:9/x.task"]) == 1
    assert "could not download http://127.0.0.1:9/x.task" in capsys.readouterr().err
    assert main(["models", "show"]) == 1


def test_gaps_are_filled_and_poor_tracks_rejected() -> None:
    def hand(value: float) -> list[HandDetection]:
        return [HandDetection(np.full((21, 3), value, np.float32), np.zeros((21, 3)), 1.0, "left")]

    def times(count: int) -> list[float]:
        return [0.1 * i for i in range(count)]

    options = ExtractionOptions(min_visible=0.4, max_gap=0.25, smoothing=0)
    found = [[], hand(1), [], [], hand(4), hand(5), []]
    keypoints, world, visible = hand_track(found, times(7), options)
    assert keypoints[:, 7, 2].tolist() == pytest.approx([1, 1, 2, 3, 4, 5, 5])
    assert not world.any()
    assert visible.tolist() == [False, True, False, False, True, True, False]
    with pytest.raises(RejectedClipError, match=r"lost for more than 0\.25 s"):
        hand_track([hand(1), [], [], [], hand(1), hand(1)], times(6), options)
    with pytest.raises(RejectedClipError, match="less than 40%"):
        hand_track([[], hand(1), []], times(3), options)
    with pytest.raises(RejectedClipError, match="less than 40%"):
        hand_track([[], []], times(2), options)
    # By time, not by number: a phone's frames are not evenly spaced, and may be far apart without a frame between.
    keypoints, _, _ = hand_track([hand(0), [], hand(5)], [0.0, 0.02, 0.1], options)
    assert keypoints[:, 0, 0].tolist() == pytest.approx([0, 1, 5])


@pytest.mark.parametrize("rate", [10, 30])
def test_smoothing_takes_the_noise_and_neither_lags_nor_cuts_corners(rate: int) -> None:
    rng = np.random.default_rng(0)
    # As phones do: about every 1 / rate s, now and then a frame is left out.
    times = np.flatnonzero(rng.random(6 * rate) > 0.05) / rate
    x = 0.5 + 0.2 * np.sin(np.pi * times)  # there and back every two seconds
    noisy = np.repeat(x[:, None, None], 63, axis=1).reshape(-1, 21, 3) + rng.normal(0, 0.01, (len(x), 21, 3))
    found = [[HandDetection(points.astype(np.float32), 0.1 * points, 1.0, "left")] for points in noisy]
    smooth, world, _ = hand_track(found, times.tolist(), ExtractionOptions())
    error = smooth - x[:, None, None]
    assert error.std() < 0.85 * 0.01 if rate == 10 else error.std() < 0.6 * 0.01
    np.testing.assert_allclose(world, 0.1 * smooth, atol=1e-6)
    velocity = 0.2 * np.pi * np.cos(np.pi * times)
    lag = -(error.mean((1, 2)) * velocity).sum() / (velocity**2).sum()
    assert abs(lag) < 0.002, "seconds"
    turning = np.abs(velocity) < 0.1
    assert abs(error[turning].mean()) < 0.002
    few, _, _ = hand_track(found[:4], [0, 1 / rate, 2 / rate, 3 / rate], ExtractionOptions())
    np.testing.assert_allclose(few, noisy[:4], atol=1e-6, err_msg="too few for a parabola")


def test_video_source_loops_with_growing_times(tmp_path: Path) -> None:
    video = tmp_path / "steps.mp4"
    write_video(video, [np.full((48, 64, 3), 50 * i, np.uint8) for i in range(5)], 0.1)
    frames = list(VideoSource(video))
    assert [round(float(f.image.mean()) / 50) for f in frames] == [0, 1, 2, 3, 4]
    assert [f.seconds for f in frames] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    looping = VideoSource(video, loop=True)
    frames = [looping.read() for _ in range(12)]
    assert [f.seconds for f in frames if f] == pytest.approx([0.1 * i for i in range(12)])
    assert [round(float(f.image.mean()) / 50) for f in frames if f] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    looping.close()


def test_folder_source(tmp_path: Path) -> None:
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((8, 8, 3), (0, 0, 100 * i), np.uint8))
    frames = list(FolderSource(tmp_path, rate=20))
    assert [f.image[0, 0].tolist() for f in frames] == [[0, 0, 0], [100, 0, 0], [200, 0, 0]]  # RGB
    assert [f.seconds for f in frames] == [0, 0.05, 0.1]
    (tmp_path / "3.png").write_text("no image")
    with pytest.raises(DataError, match=r"3\.png is not an image"):
        list(FolderSource(tmp_path))


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    for uri, message in (
        ("/dev/video987", "there is no camera /dev/video987"),
        (str(tmp_path), "there are no images"),
        (str(tmp_path / "none.mp4"), "No such file"),
        (str(tmp_path / "text.mp4"), "cannot read the video"),
    ):
        with pytest.raises(DataError, match=message):
            open_source(uri)


def test_frame_sets() -> None:
    sets = FrameSets(["a", "b"], period=0.1)
    assert sets.add("a", 1.0, "a1") is None
    assert sets.add("b", 1.06, "b1") is None  # too far apart
    assert sets.add("a", 1.1, "a2") == {"a": (1.1, "a2"), "b": (1.06, "b1")}
    assert sets.add("b", 1.1, "b too early") is None
    assert sets.add("a", 1.2, "a3") is None
    assert sets.add("b", 1.2, "b2") == {"a": (1.2, "a3"), "b": (1.2, "b2")}
    assert sets.add("a", 0.0, "a4") is None  # time begins anew
    assert sets.add("b", 0.0, "b3") == {"a": (0.0, "a4"), "b": (0.0, "b3")}
    fast = FrameSets(["a"], period=0.1)
    assert sum(fast.add("a", i / 30, i) is not None for i in range(30)) == 10


def test_resizing_keeps_means_and_overlay_draws_where_the_hand_is() -> None:
    image = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    small = resize(image, 60, 80)
    assert small.shape == (60, 80, 3)
    np.testing.assert_allclose(small[0, 0], image[:4, :4].mean(axis=(0, 1)), atol=1)
    assert resize(image, 240, 320) is image

    black = np.zeros((100, 200, 3), np.uint8)
    keypoints = np.full((21, 3), 0.5)
    keypoints[8] = (0.75, 0.25, 0)
    draw_hand(black, keypoints)
    assert black[25, 150].any()
    assert not black[:20].any()
    draw_hand(black, np.full((21, 3), np.nan))
    assert len(BONES) == 23
    assert {i for bone in BONES for i in bone} == set(range(21))
