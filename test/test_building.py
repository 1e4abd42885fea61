# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From videos as people have them to the motion database: real files, the real landmarker."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from bag_messages import HEADER
from mcap_ros2.writer import Writer
from rendered_hand import rendered_hand, rendered_hands

from arvrm_ros.cli import main
from arvrm_ros.data.bags import read_bag
from arvrm_ros.data.clips import Clip, write_clip
from arvrm_ros.data.types import HandDetection
from arvrm_ros.data.video import probe, read_frames, read_video, write_video
from arvrm_ros.errors import DataError
from arvrm_ros.perception.cameras import open_source
from arvrm_ros.retrieval import sources
from arvrm_ros.retrieval.building import ADDED, KNOWN, build
from arvrm_ros.retrieval.database import MotionDatabase
from arvrm_ros.retrieval.extraction import (
    Extracted,
    ExtractionOptions,
    Rejected,
    RejectedClipError,
    extract,
    hand_track,
    main_hand,
    part_name,
    portions,
)
from arvrm_ros.retrieval.sources import Span, Video, caption_of, find_videos

OPTIONS = ExtractionOptions(visual_frames=4)
EMPTY = np.full((360, 480, 3), 120, np.uint8)


@pytest.fixture(scope="module")
def hand() -> np.ndarray:
    return rendered_hand()[0]


def moving(hand: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """The hand goes slowly to the right."""
    for i in range(count):
        yield np.roll(hand, 3 * i, axis=1)


def video_of(path: Path, spans: list[Span] | None = None, hands: int = 8) -> Video:
    return Video(path, path.name, path.stem, spans or [Span(0.0, float("inf"), "open the drawer")], hands)


# Videos


def turn_clockwise(path: Path) -> None:
    """Writes a quarter turn into an MP4's track header, as phones do."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # the matrix of a header of version 0
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def test_a_phone_video_is_turned_upright(tmp_path: Path) -> None:
    lying = np.zeros((48, 64, 3), np.uint8)
    lying[:, :16] = 255  # its left side, which is the upper one when the phone is held upright
    write_video(tmp_path / "v.mp4", [lying] * 3, 0.1)
    turn_clockwise(tmp_path / "v.mp4")
    frames, _ = read_video(tmp_path / "v.mp4")
    assert frames.shape == (3, 64, 48, 3)
    assert frames[0, :12].min() > 200
    assert frames[0, 24:].max() < 50


def test_frames_of_a_part_at_a_rate(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", [np.full((48, 64, 3), 4 * i, np.uint8) for i in range(60)], 1 / 30)
    part = list(read_frames(tmp_path / "v.mp4", 0.5, 1.5, rate=10))
    assert [time for time, _ in part] == pytest.approx(np.arange(15, 45, 3) / 30)
    assert [round(float(image.mean()) / 4) for _, image in part] == list(range(15, 45, 3))
    assert probe(tmp_path / "v.mp4").seconds == pytest.approx(2.0, abs=0.05)


def test_a_variable_frame_rate_is_read_by_its_time_stamps(tmp_path: Path) -> None:
    times = [0, 0.1, 0.2, 0.5, 0.52, 0.54, 0.56, 1.0]
    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt, stream.codec_context.time_base = (
            48,
            64,
            "yuv420p",
            Fraction(1, 1000),
        )
        for time in times:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 100, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert [time for time, _ in read_frames(tmp_path / "v.mkv")] == pytest.approx(times, abs=0.002)
    thinned = [time for time, _ in read_frames(tmp_path / "v.mkv", rate=10)]
    assert thinned == pytest.approx([0, 0.1, 0.2, 0.5, 0.56, 1.0], abs=0.002)


def test_ten_bits_are_read_as_eight(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p10le"
        image = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 180, np.uint8), format="rgb24")
        for _ in range(3):
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    frames, _ = read_video(tmp_path / "v.mp4")
    assert frames.dtype == np.uint8
    assert abs(float(frames.mean()) - 180) < 4


def write_hdr(path: Path, light: np.ndarray, transfer: ColorTrc, count: int = 3) -> None:
    """A 10-bit video of an image (H, W, 3) of BT.709 light, 1 for white (203 nits, BT.2408), as phones film in HDR."""
    bt2020 = (
        light
        @ np.array(  # BT.2087
            [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
        ).T
    )
    if transfer == ColorTrc.SMPTE2084:  # PQ
        power = (bt2020 * 203 / 10000) ** 0.1593017578125
        signal = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    else:  # HLG on a screen of 1000 nits, whose gamma is 1.2
        shown = bt2020 * 0.203
        bright = np.maximum(shown @ [0.2627, 0.6780, 0.0593], 1e-6)[..., None]
        seen = shown * bright ** (1 / 1.2 - 1)
        upper = 0.17883277 * np.log(np.maximum(12 * seen - 0.28466892, 1e-6)) + 0.55991073
        signal = np.where(seen < 1 / 12, np.sqrt(3 * seen), upper)
    pixels = av.VideoFrame.from_ndarray((signal * 65535).round().astype(np.uint16), format="rgb48le")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "8"})
        stream.height, stream.width, stream.pix_fmt = *light.shape[:2], "yuv420p10le"
        context = stream.codec_context
        context.color_primaries, context.color_trc = ColorPrimaries.BT2020, transfer
        context.colorspace, context.color_range = Colorspace.BT2020, ColorRange.MPEG
        for _ in range(count):
            container.mux(
                stream.encode(
                    pixels.reformat(
                        format="yuv420p10le", dst_colorspace=Colorspace.BT2020,
                        src_color_range=ColorRange.JPEG, dst_color_range=ColorRange.MPEG,
                    )
                )
            )  # fmt: skip
        container.mux(stream.encode())


@pytest.mark.parametrize("transfer", [ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67])
def test_high_dynamic_range_is_brought_to_what_a_screen_shows(tmp_path: Path, transfer: ColorTrc) -> None:
    """Read as if it were an ordinary video, PQ is grey and dark: the white would be 148 instead of 255."""
    colors = np.array([[255, 255, 255], [222, 171, 140], [120, 80, 60], [128, 128, 128], [30, 60, 120], [0, 0, 0]])
    image = np.repeat(np.repeat(colors[None], 48, axis=0), 16, axis=1)
    srgb = image / 255
    light = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    write_hdr(tmp_path / "v.mp4", light, transfer)
    frames, _ = read_video(tmp_path / "v.mp4")
    assert len(frames) == 3
    shown = frames[1, 24, 8::16].astype(int)
    assert np.abs(shown - colors).max() < 35
    assert np.abs(shown - colors).mean() < 10


# Sources


def files(folder: Path, *names: str) -> Path:
    """Video files by name; what is in them differs, and is not looked at."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def said(found: sources.Found) -> dict[str, list[tuple[float, float, str]]]:
    return {v.reference: [(s.start, s.end, s.caption) for s in v.spans] for v in found.videos}


def test_captions_from_the_names_of_the_files(tmp_path: Path) -> None:
    files(tmp_path, "open_the_drawer.mp4", "deep/Push the red block-2.MOV", "IMG_2041.mp4", "notes.txt", ".hidden.mp4")
    found = find_videos(tmp_path)
    always = (0.0, float("inf"))
    assert said(found) == {
        "open_the_drawer.mp4": [(*always, "open the drawer")],
        "deep/Push the red block-2.MOV": [(*always, "push the red block")],
    }
    assert dict(found.left_out.examples) == {
        "no caption: name the file after what the hand does, or list it in captions.csv": ["IMG_2041.mp4"]
    }
    for name in ("VID_20260102_101010", "20260102", "video (3)", "PXL_2026.MP"):
        assert caption_of(Path(f"{name}.mp4")) == "" or name == "PXL_2026.MP"


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_captions_from_a_table(tmp_path: Path, kind: str) -> None:
    files(tmp_path, "IMG_1.mp4", "IMG_2.mp4", "turn_on.mp4")
    rows = [
        {"video": "IMG_1.mp4", "caption": "open the drawer", "start": "1.5", "end": "00:01:02.5"},
        {"video": "IMG_1.mp4", "caption": "close the drawer", "start": "63", "end": "65"},
        {"video": "IMG_2.mp4", "caption": "lift, then push"},
        {"video": "gone.mp4", "caption": "open the drawer"},
        {"video": "IMG_2.mp4", "caption": " "},
        {"video": "IMG_2.mp4", "caption": "ends early", "start": "5", "end": "4"},
    ]
    if kind == "csv":
        lines = ["video,caption,start,end"]
        lines += [",".join(f'"{row.get(k, "")}"' for k in ("video", "caption", "start", "end")) for row in rows]
    else:
        lines = [json.dumps(row) for row in rows]
    (tmp_path / f"captions.{kind}").write_text("\n".join(lines), encoding="utf-8")
    found = find_videos(tmp_path)
    assert said(found) == {
        "IMG_1.mp4": [(1.5, 62.5, "open the drawer"), (63.0, 65.0, "close the drawer")],
        "IMG_2.mp4": [(0.0, float("inf"), "lift, then push")],
        "turn_on.mp4": [(0.0, float("inf"), "turn on")],
    }
    assert dict(found.left_out.counts) == {
        "the captions name a video that is not there": 1, "no caption": 1, "ends before it starts": 1
    }  # fmt: skip


def test_the_same_video_twice_is_taken_once(tmp_path: Path) -> None:
    files(tmp_path, "open.mp4")
    shutil.copy(tmp_path / "open.mp4", tmp_path / "open_copy.mp4")
    found = find_videos(tmp_path)
    assert [video.reference for video in found.videos] == ["open.mp4"]
    assert found.left_out.counts == {"the same video as another": 1}


def test_epic_kitchens(tmp_path: Path) -> None:
    files(tmp_path / "videos", "P01/P01_01.MP4")
    (tmp_path / "EPIC_100_train.csv").write_text(
        "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
        "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
        "P01_01_0,P01,P01_01,00:00:01.089,00:00:00.14,00:00:03.37,8,202,open door,open,3,door,3,['door'],[3]\n"
        "P01_02_0,P01,P01_02,00:00:01.089,00:00:00.14,00:00:03.37,8,202,open door,open,3,door,3,['door'],[3]\n"
    )
    found = find_videos(tmp_path / "EPIC_100_train.csv", tmp_path / "videos")
    assert said(found) == {"P01/P01_01.MP4": [(0.14, 3.37, "open door")]}
    assert found.left_out.counts == {"the annotations name a video that is not there": 1}


def test_ego4d(tmp_path: Path) -> None:
    files(tmp_path, "one.mp4", "two.mp4")
    action = {"start_sec": 4.5, "end_sec": 12.5, "narration_text": "#C C picks a cup", "critical_frames": {}}
    intervals = [{"start_sec": 0, "end_sec": 300, "narrated_actions": [action]}]
    (tmp_path / "fho_main.json").write_text(
        json.dumps({"videos": [{"video_uid": "one", "annotated_intervals": intervals}]})
    )
    assert said(find_videos(tmp_path / "fho_main.json")) == {"one.mp4": [(4.5, 12.5, "picks a cup")]}
    narrations = [
        {"timestamp_sec": 10.0, "narration_text": "#C C opens the drawer."},
        {"timestamp_sec": 0.2, "narration_text": "#c c looks around #unsure"},
        {"timestamp_sec": 20.0, "narration_text": "#O man X walks"},
    ]
    passes = {"narration_pass_1": {"narrations": narrations, "summaries": []}, "status": "complete"}
    for known in ({"two": passes}, {"videos": {"two": passes}}):
        (tmp_path / "narration.json").write_text(json.dumps(known))
        found = find_videos(tmp_path / "narration.json")
        assert said(found) == {"two.mp4": [(0.0, 2.7, "looks around"), (9.5, 12.5, "opens the drawer")]}
        assert found.left_out.counts == {"no caption": 1}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "neither a folder of videos nor"),
        (lambda p: p.mkdir(), "no clips in"),
        (lambda p: (files(p, "a.mp4"), (p / "captions.csv").write_bytes(b"video,caption\n\xff")), "cannot read"),
        (lambda p: (files(p, "a.mp4"), (p / "captions.jsonl").write_text("[1]")), "every line has to be an object"),
        (
            lambda p: (files(p, "a.mp4"), (p / "captions.jsonl").write_text(""), (p / "captions.csv").write_text("")),
            "keep one of them",
        ),
        (
            lambda p: (files(p, "a.mp4"), (p / "captions.csv").write_text("video,caption,start\na.mp4,open,soon")),
            "'soon' is not a time",
        ),
    ],
)
def test_sources_that_cannot_be_used_say_why(tmp_path: Path, make, message: str) -> None:
    make(tmp_path / "source")
    with pytest.raises(DataError, match=message):
        find_videos(tmp_path / "source")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "video,caption\na,b\n", "is not EPIC-KITCHENS' annotations"),
        ("a.json", '{"videos": [{"video_uid": "x"}]}', "is not Ego4D's"),
        ("a.json", "[", "cannot read"),
        ("a.txt", "", "is not a file of annotations"),
        ("a.csv", "video_id,start_timestamp,stop_timestamp,narration\n", "annotates nothing"),
    ],
)
def test_annotations_that_cannot_be_used_say_why(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        find_videos(tmp_path / name)


# Extraction


@pytest.mark.parametrize("frames", [22, 23, 24])
def test_a_rate_that_does_not_divide_the_video_s_keeps_its_length(
    tmp_path: Path, hand: np.ndarray, frames: int
) -> None:
    write_video(tmp_path / "v.mp4", moving(hand, frames), 1 / 15)
    (item,) = extract(video_of(tmp_path / "v.mp4"), OPTIONS)
    assert isinstance(item, Extracted)
    assert len(item.clip.keypoints) * item.clip.frame_period == pytest.approx(frames / 15, abs=0.1)


def test_a_short_video_is_one_clip(tmp_path: Path, hand: np.ndarray) -> None:
    write_video(tmp_path / "v.mp4", moving(hand, 30), 1 / 30)
    (item,) = extract(video_of(tmp_path / "v.mp4"), OPTIONS)
    assert isinstance(item, Extracted)
    clip = item.clip
    assert (clip.clip_id, clip.caption, clip.start) == ("v", "open the drawer", 0.0)
    assert clip.frame_period == pytest.approx(0.1, abs=0.001)
    assert clip.keypoints.shape == clip.world.shape == (10, 21, 3)
    assert clip.visible.all()
    assert clip.visual.shape == (4, 640)
    assert clip.quality > 0.5
    assert clip.handedness in ("left", "right")
    span = np.linalg.norm(clip.world[:, 12] - clip.world[:, 0], axis=1)
    assert 0.1 < span.mean() < 0.25, "wrist to middle fingertip, metres"
    way = clip.keypoints[-1, :, 0] - clip.keypoints[0, :, 0]
    assert way.mean() == pytest.approx(3 * 27 / 480, abs=0.02)


def test_a_long_video_is_cut_where_the_hand_comes_and_goes(tmp_path: Path, hand: np.ndarray) -> None:
    shown = [*[EMPTY] * 15, *moving(hand, 20), *[EMPTY] * 15, *moving(hand, 5), *[EMPTY] * 15, *moving(hand, 35)]
    write_video(tmp_path / "v.mp4", shown, 0.1)
    options = ExtractionOptions(visual_frames=4, longest=3.0, shortest=1.0)
    items = list(extract(video_of(tmp_path / "v.mp4"), options))
    clips = [item.clip for item in items if isinstance(item, Extracted)]
    assert [clip.start for clip in clips] == pytest.approx([1.5, 7.0], abs=0.11)
    assert [len(clip.keypoints) for clip in clips] == pytest.approx([20, 30], abs=1)
    rejected = [item.reason for item in items if isinstance(item, Rejected)]
    assert rejected == ["a hand is there for less than 1 s"] * 2, "the short one, and what was left of the last"
    known = {clip.clip_id for clip in clips}
    assert not [item for item in extract(video_of(tmp_path / "v.mp4"), options, known) if isinstance(item, Extracted)]


def test_parts_that_are_named_are_clips_of_their_own(tmp_path: Path, hand: np.ndarray) -> None:
    write_video(tmp_path / "v.mp4", [*[EMPTY] * 20, *moving(hand, 20)], 0.1)
    spans = [
        Span(0.0, 1.5, "nothing"),
        Span(2.0, 4.0, "push"),
        Span(0.0, 30.0, "all"),
        Span(90.0, 91.0, "past the end"),
    ]
    clip, *rejected = sorted(
        extract(video_of(tmp_path / "v.mp4", spans), OPTIONS), key=lambda i: isinstance(i, Rejected)
    )
    assert (clip.clip.caption, clip.clip.start) == ("push", pytest.approx(2.0))
    assert clip.clip.clip_id.startswith("v@2.0s-")
    twice = [Span(2.0, 4.0, "push"), Span(2.0, 4.0, "shove")]
    assert len({part_name(video_of(tmp_path / "v.mp4"), span.start, span) for span in twice}) == 2
    assert [item.reason for item in rejected] == [
        "hand found in less than 50% of the frames", "longer than 20 s", "no frames"
    ]  # fmt: skip


def test_a_clip_begins_and_ends_with_the_hand(tmp_path: Path, hand: np.ndarray) -> None:
    write_video(tmp_path / "v.mp4", [*[EMPTY] * 25, *moving(hand, 20), *[EMPTY] * 15], 0.1)
    for spans, start in ((None, 2.5), ([Span(1.0, 5.5, "push")], 2.5)):
        (item,) = extract(video_of(tmp_path / "v.mp4", spans), OPTIONS)
        assert isinstance(item, Extracted), item
        assert item.clip.start == pytest.approx(start, abs=0.11)
        assert len(item.clip.keypoints) == pytest.approx(20, abs=2)
        assert item.clip.visible[[0, -1]].all()
        assert len(item.clip.visual) == 4
    known = json.loads(item.clip.extraction)
    assert (known["trim"], known["smoothing"], known["rate"]) == (True, 0.4, 10.0)
    (item,) = extract(video_of(tmp_path / "v.mp4"), replace(OPTIONS, trim=False, min_visible=0.2))
    assert item.reason == "hand lost for more than 1 s"
    (item,) = extract(video_of(tmp_path / "v.mp4"), replace(OPTIONS, trim=False, min_visible=0.2, max_gap=9.0))
    assert item.clip.start == 0
    assert len(item.clip.keypoints) == 60
    assert not item.clip.visible[0]
    write_video(tmp_path / "short.mp4", [*[EMPTY] * 15, *moving(hand, 4), *[EMPTY] * 15], 0.1)
    (item,) = extract(video_of(tmp_path / "short.mp4"), OPTIONS)
    assert item.reason == "a hand is there for less than 1 s"


def test_a_stream_that_does_not_say_its_length_is_cut_by_activity(tmp_path: Path, hand: np.ndarray) -> None:
    with av.open(str(tmp_path / "v.mkv"), "w", options={"live": "1"}) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = *hand.shape[:2], "yuv420p"
        for image in [*[EMPTY] * 12, *moving(hand, 15)]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    assert probe(tmp_path / "v.mkv").seconds == 0
    (item,) = extract(video_of(tmp_path / "v.mkv"), replace(OPTIONS, longest=10.0))
    assert isinstance(item, Extracted), item
    assert item.clip.start == pytest.approx(1.2, abs=0.11)


def test_of_three_hands_the_one_that_moves_is_kept(tmp_path: Path) -> None:
    still = [(-0.22, 0.0), (0.0, -0.05)]
    images = rendered_hands([[*still, (0.22, 0.06 * np.sin(i / 2))] for i in range(12)])
    write_video(tmp_path / "v.mp4", images, 0.1)
    (item,) = extract(video_of(tmp_path / "v.mp4"), OPTIONS)
    assert isinstance(item, Extracted), item
    middle = item.clip.keypoints[:, :, :2].mean(1)
    assert (middle[:, 0] > 0.65).all(), "the one on the right"
    assert np.ptp(middle[:, 1]) > 0.1
    assert item.clip.visible.mean() > 0.8


def test_memory_does_not_grow_with_the_video(tmp_path: Path, hand: np.ndarray) -> None:
    """Seven minutes at a low rate: 80 frames of 4 MB, which would take 320 MB."""
    large = cv2.resize(hand, (1280, 960))
    write_video(tmp_path / "v.mp4", (np.roll(large, 4 * (i % 20), axis=1) for i in range(80)), 5.0)
    options = replace(OPTIONS, rate=0.2, max_gap=20.0, longest=60.0, hands=1)
    process, sizes = psutil.Process(), []
    for item in extract(video_of(tmp_path / "v.mp4"), options):
        assert isinstance(item, Extracted), item
        sizes.append(process.memory_info().rss / 2**20)
    assert len(sizes) >= 5
    assert max(sizes[1:]) - sizes[1] < 80, sizes


def test_damaged_videos_are_rejected_by_name(tmp_path: Path, hand: np.ndarray) -> None:
    write_video(tmp_path / "whole.mkv", moving(hand, 20), 0.1)
    data = (tmp_path / "whole.mkv").read_bytes()
    write_video(tmp_path / "whole.mp4", moving(hand, 5), 0.1)
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:-500])
    noise = np.random.default_rng(0).bytes(len(data) // 2)
    (tmp_path / "noise.mkv").write_bytes(data[: len(data) // 4] + noise + data[3 * len(data) // 4 :])
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    for name in ("frameless.mp4", "frameless.mkv"):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("libx264", rate=30)
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            container.start_encoding()
    for name, reason, message in (
        ("cut.mp4", "unreadable", "cut.mp4 is damaged after 0.0 s"),
        ("text.mp4", "unreadable", "cannot read the video .*text.mp4: Invalid data"),
        ("empty.mp4", "unreadable", "cannot read the video .*empty.mp4: Invalid data"),
        ("sound.mp4", "unreadable", "sound.mp4 holds no video"),
        ("frameless.mp4", "unreadable", "frameless.mp4 holds no video"),
        ("frameless.mkv", "unreadable", "cannot read the video .*frameless.mkv: it has no frames"),
        ("noise.mkv", ".*", "noise"),  # half of it
    ):
        (item,) = extract(video_of(tmp_path / name), OPTIONS)
        assert isinstance(item, Rejected), name
        assert re.fullmatch(reason, item.reason), item
        assert re.search(message, item.name), item


IMAGE = HEADER.format("uint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\nuint32 step\nuint8[] data")
COMPRESSED = HEADER.format("string format\nuint8[] data")
KEYPOINTS = HEADER.format(
    "uint32 image_width\nuint32 image_height\nuint8 count\nfloat32[] keypoints\nfloat32[] world_keypoints\n"
    "float32[] score\nstring[] handedness"
)


def write_bag(path: Path, images: list[np.ndarray], hands: bool, compressed: bool = False, other: bool = False) -> None:
    """As ``ros2 bag record -s mcap`` writes it; the hands are made up, the first keypoint tells the frame's number."""
    with path.open("wb") as file:
        writer = Writer(file)
        kinds = [
            writer.register_msgdef(name, text)
            for name, text in (
                ("sensor_msgs/msg/Image", IMAGE),
                ("sensor_msgs/msg/CompressedImage", COMPRESSED),
                ("arvrm_ros/msg/HandKeypoints", KEYPOINTS),
            )
        ]
        for i, image in enumerate(images):
            stamp = {"sec": 100 + i // 10, "nanosec": i % 10 * 100_000_000}
            time = 100_000_000_000 + i * 100_000_000
            header = {"stamp": stamp, "frame_id": "camera"}
            bgr = np.ascontiguousarray(image[:, :, ::-1])
            if compressed:
                data = cv2.imencode(".png", bgr)[1].tobytes()
                writer.write_message("/image", kinds[1], {"header": header, "format": "png", "data": data}, time, time)
            else:
                message = {
                    "header": header, "height": image.shape[0], "width": image.shape[1], "encoding": "bgr8",
                    "is_bigendian": 0, "step": 3 * image.shape[1], "data": bgr.tobytes(),
                }  # fmt: skip
                writer.write_message("/image", kinds[0], message, time, time)
                if other:
                    message["header"] = {"stamp": stamp, "frame_id": "wrist"}
                    writer.write_message("/another", kinds[0], message, time, time)
            if hands:
                points = np.linspace(0.3, 0.6, 63)
                points[0] = i / 100
                writer.write_message(
                    "/hand_keypoints", kinds[2],
                    {"header": header, "image_width": 480, "image_height": 360, "count": 1,
                     "keypoints": points.tolist(),
                     "world_keypoints": (points / 10).tolist(), "score": [0.9], "handedness": ["right"]},
                    time, time,
                )  # fmt: skip
        writer.finish()


def test_a_bag_is_a_video_with_or_without_its_keypoints(tmp_path: Path, hand: np.ndarray) -> None:
    images = list(moving(hand, 12))
    write_bag(tmp_path / "open_the_drawer_0.mcap", images, hands=True, other=True)
    (video,) = find_videos(tmp_path).videos
    assert video.spans[0].caption == "open the drawer"
    (item,) = extract(video, ExtractionOptions())
    assert isinstance(item, Extracted), item
    np.testing.assert_allclose(item.clip.keypoints[:, 0, 0], np.arange(12) / 100, atol=1e-6)
    assert item.clip.quality == pytest.approx(0.9)
    assert item.clip.frame_period == pytest.approx(0.1)
    part = list(read_bag(video.path, 0.25, 0.55))
    assert [time for time, _, _ in part] == pytest.approx([0.3, 0.4, 0.5])
    assert [hands[0].keypoints[0, 0] for _, _, hands in part if hands] == pytest.approx([0.03, 0.04, 0.05])
    assert [hands for _, _, hands in read_bag(video.path, 1.0, hands=False)] == [None, None]
    write_bag(tmp_path / "plain.mcap", images, hands=False, compressed=True)
    (item,) = extract(video_of(tmp_path / "plain.mcap", [Span(0.2, 0.85, "push")]), ExtractionOptions())
    assert isinstance(item, Extracted), item
    assert item.clip.start == pytest.approx(0.2)
    assert item.clip.keypoints.shape == (7, 21, 3)
    way = item.clip.keypoints[-1, :, 0] - item.clip.keypoints[0, :, 0]
    assert way.mean() == pytest.approx(18 / 480, abs=0.02)


def test_bags_that_cannot_be_used_say_why(tmp_path: Path, hand: np.ndarray) -> None:
    write_bag(tmp_path / "two.mcap", [hand], hands=False, other=True)
    write_bag(tmp_path / "none.mcap", [], hands=False)
    whole = (tmp_path / "two.mcap").read_bytes()
    (tmp_path / "cut.mcap").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.mcap").write_text("no bag")
    for name, message in (
        ("two.mcap", "images of several cameras .*/another, /image"),
        ("none.mcap", "holds no images"),
        ("cut.mcap", "cannot read the bag"),
        ("text.mcap", "cannot read the bag"),
    ):
        with pytest.raises(DataError, match=message):
            list(read_bag(tmp_path / name))
        (item,) = extract(video_of(tmp_path / name), OPTIONS)
        assert isinstance(item, Rejected)
        assert item.reason == "unreadable"
        assert re.search(message, item.name)


def test_a_bag_plays_as_a_camera(tmp_path: Path, hand: np.ndarray) -> None:
    write_bag(tmp_path / "v.mcap", list(moving(hand, 3)), hands=False)
    source = open_source(str(tmp_path / "v.mcap"), loop=True)
    frames = [source.read() for _ in range(5)]
    source.close()
    assert [frame.seconds for frame in frames if frame] == pytest.approx([0, 0.1, 0.2, 0.233, 0.333], abs=1e-3)
    for frame, image in zip(frames, [*moving(hand, 3), *moving(hand, 2)], strict=True):
        assert frame is not None
        np.testing.assert_array_equal(frame.image, image)
    (tmp_path / "text.mcap").write_text("no bag")
    with pytest.raises(DataError, match="cannot read the bag"):
        open_source(str(tmp_path / "text.mcap"))


def test_a_hand_is_the_same_after_a_gap_in_which_it_went_on() -> None:
    """The acting hand is lost for 0.6 s in which it goes a third of the image's width; labels and order flip."""
    rng = np.random.default_rng(0)
    shape = rng.normal(0, 0.02, (21, 3)).astype(np.float32)
    shape -= shape.mean(0)

    def hand(x: float, y: float) -> HandDetection:
        at = np.array([x, y, 0], np.float32)
        return HandDetection(shape + at, shape, 1.0, str(rng.choice(["left", "right"])))

    way, found = [0.1 + 0.012 * i for i in range(60)], []
    for i, x in enumerate(way):
        hands = [hand(0.8, 0.7)] if 20 <= i < 38 else [hand(x, 0.4), hand(0.8, 0.7)]
        found.append(hands[:: int(rng.choice([-1, 1]))])
    times = [i / 30 for i in range(60)]
    track = main_hand(found, times)
    assert [bool(hands) for hands in track] == [not 20 <= i < 38 for i in range(60)]
    keypoints, _, visible = hand_track(track, times, ExtractionOptions())
    assert visible.sum() == 42
    np.testing.assert_allclose(keypoints[:, :, 0].mean(1), way, atol=0.01)
    with pytest.raises(RejectedClipError, match=r"lost for more than 0\.5 s"):
        hand_track(track, times, ExtractionOptions(max_gap=0.5))


def test_the_hand_that_moves_is_followed_through_flipping_labels() -> None:
    def found(x: float, label: str) -> HandDetection:
        points = np.random.default_rng(0).normal((x, 0.5, 0), 0.02, (21, 3)).astype(np.float32)
        return HandDetection(points, points, 1.0, label)

    frames = []
    for i in range(10):
        still, active = found(0.8, "left"), found(0.2 + 0.03 * i, "left" if i % 2 else "right")
        frames.append([still, active] if i % 3 else [active, still])
    frames[5] = [found(0.8, "right")]  # the moving one is missed once
    track = main_hand(frames, [0.1 * i for i in range(10)])
    assert [round(float(hands[0].keypoints[:, 0].mean()), 1) if hands else None for hands in track] == [
        0.2, 0.2, 0.3, 0.3, 0.3, None, 0.4, 0.4, 0.4, 0.5
    ]  # fmt: skip
    assert main_hand([[], []], [0.0, 0.1]) == [[], []]


# Databases


@pytest.fixture
def folder(tmp_path: Path, hand: np.ndarray) -> Path:
    videos = tmp_path / "videos"
    videos.mkdir()
    write_video(videos / "open_the_drawer.mp4", moving(hand, 12), 0.1)
    write_video(videos / "look_at_the_table.mp4", [EMPTY] * 12, 0.1)
    return videos


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds extract in this process: starting another and importing PyTorch there takes longer than the rest."""
    monkeypatch.setattr(
        "arvrm_ros.retrieval.building._on_this_machine", lambda jobs, _: (list(extract(*job)) for job in jobs)
    )


def test_a_second_build_looks_at_what_is_new_alone(tmp_path: Path, folder: Path, hand: np.ndarray, capfd) -> None:
    command = ["db", "build", str(folder), "--out", str(tmp_path / "m.lance"), "--workers", "1"]
    assert main(command) == 0
    out = capfd.readouterr().out
    assert "     1  added" in out
    assert "     1  rejected: hand found in less than 50% of the frames (look_at_the_table-" in out
    write_video(folder / "close_the_drawer.mp4", list(moving(hand, 12))[::-1], 0.1)
    assert main(command) == 0
    out = capfd.readouterr().out
    assert "     1  already there" in out
    assert "     1  added" in out
    database = MotionDatabase.open(tmp_path / "m.lance")
    assert sorted(clip.caption for clip in database.clips()) == ["close the drawer", "open the drawer"]
    assert {clip.video for clip in database.clips()} == {"close_the_drawer.mp4", "open_the_drawer.mp4"}

    def no_landmarker(*_: object, **__: object) -> None:
        raise AssertionError("a video was looked at again")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("arvrm_ros.retrieval.building._extract_all", lambda videos, *_: no_landmarker() if videos else ())
        tally = build(database, folder, ExtractionOptions(), 1, progress=False)
    assert tally.counts == {KNOWN: 2, "hand found in less than 50% of the frames": 1}


def test_a_second_builder_is_kept_out(tmp_path: Path, folder: Path) -> None:
    database = MotionDatabase.create(tmp_path / "m.lance")
    with database.building(), pytest.raises(DataError, match="another process is building"):
        build(database, folder, OPTIONS, 1, progress=False)


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """As a user to whom the file system says no; root may write everywhere."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_read_only_database_can_be_read(folder: Path, here: None) -> None:
    # pytest's own folders are closed to others.
    with tempfile.TemporaryDirectory() as place:
        uri = Path(place) / "m.lance"
        database = MotionDatabase.create(uri)
        build(database, folder, OPTIONS, 1, progress=False)
        for path in (Path(place), *Path(place).rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        try:
            with nobody():
                opened = MotionDatabase.open(uri)
                assert [clip.caption for clip in opened.clips()] == ["open the drawer"]
                assert opened.verify() == []
                with pytest.raises(DataError, match="cannot be written here"), opened.building():
                    pass
                with pytest.raises(DataError, match="cannot make the motion database"):
                    MotionDatabase.create(Path(place) / "new.lance")
        finally:
            Path(place).chmod(0o700)


def test_a_full_disk_is_told_and_the_build_goes_on_later(tmp_path: Path, folder: Path, here: None) -> None:
    """The system refuses files of more than some kilobytes, as it does when nothing is left."""
    database = MotionDatabase.create(tmp_path / "m.lance")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    clips = [item for item in extract(video_of(folder / "open_the_drawer.mp4"), OPTIONS) if isinstance(item, Extracted)]
    clips[0].clip.language = np.ones(384, np.float32)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(DataError, match=r"cannot write to .*m.lance: .*run it again to go on"):
            database.add([clips[0].clip], [clips[0].thumbnail])
        noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)
        with pytest.raises(DataError, match=r"cannot write the video .*: File too large"):
            write_video(tmp_path / "v.mp4", [noise] * 30, 0.1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    database = MotionDatabase.open(tmp_path / "m.lance")
    assert len(database) == 0
    assert build(database, folder, OPTIONS, 1, progress=False).counts[ADDED] == 1
    assert database.verify() == []


def test_a_database_on_object_storage_grows(tmp_path: Path, folder: Path, hand: np.ndarray, capfd, here: None) -> None:
    """By its scheme, Lance treats a folder as it does S3; there is no file to lock."""
    uri = f"file-object-store://{tmp_path}/m.lance"
    command = ["db", "build", str(folder), "--out", uri]
    assert main(command) == 0
    assert "     1  added" in capfd.readouterr().out
    write_video(folder / "close_the_drawer.mp4", list(moving(hand, 12))[::-1], 0.1)
    assert main(command) == 0
    out = capfd.readouterr().out
    for line in ("added", "already there", "rejected: hand found in less than 50% of the frames"):
        assert f"     1  {line}" in out
    assert main(["db", "verify", "--db", uri]) == 0
    assert main(["db", "stats", "--db", f"file-object-store://{tmp_path}/none.lance"]) == 1
    assert "there is no motion database" in capfd.readouterr().err
    first, second = MotionDatabase.open(uri), MotionDatabase.open(uri)
    clips = [replace(first.clips()[0], clip_id=str(i)) for i in range(3)]
    with first.building():
        first.add(clips[:1])
        second.add(clips[1:2])
        with pytest.raises(DataError, match=r"another process is building .* too: run it again"):
            first.add(clips[2:])
    assert len(MotionDatabase.open(uri)) == 4


def test_a_file_uri_is_a_path(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/my%20clips/m.lance"
    assert not MotionDatabase.exists(uri)
    database = MotionDatabase.create(uri)
    assert (tmp_path / "my clips" / "m.lance").is_dir()
    assert MotionDatabase.exists(uri)
    other = MotionDatabase.open(tmp_path / "my clips" / "m.lance")
    with database.building(), pytest.raises(DataError, match="another process is building"), other.building():
        pass


def test_a_long_video_goes_on_after_a_stop(tmp_path: Path, hand: np.ndarray, monkeypatch) -> None:
    """In parts, of which those that are done are not looked at again; so are the many things said of one video."""
    videos = tmp_path / "videos"
    videos.mkdir()
    shown = [*moving(hand, 15), *[EMPTY] * 25, *moving(hand, 15), *[EMPTY] * 5]
    write_video(videos / "push.mp4", shown, 0.1)
    monkeypatch.setattr("arvrm_ros.retrieval.extraction.PORTION_SECONDS", 2)
    options = replace(OPTIONS, longest=3.0, max_gap=0.5)
    (video,) = find_videos(videos).videos
    assert [part.part for part in portions(video)] == [(0, 2), (2, 4), (4, 6)]
    database = MotionDatabase.create(tmp_path / "m.lance")
    looked_at: list[float] = []
    stop_at = [4.0]

    def stops(jobs: list, workers: int) -> Iterator[list]:
        for part, chosen, known in jobs:
            if part.part[0] in stop_at:
                raise DataError("stopped")
            looked_at.append(part.part[0])
            yield list(extract(part, chosen, known))

    monkeypatch.setattr("arvrm_ros.retrieval.building.BATCH", 1)
    monkeypatch.setattr("arvrm_ros.retrieval.building._on_this_machine", stops)
    with pytest.raises(DataError, match="stopped"):
        build(database, videos, options, 1, progress=False)
    assert [clip.start for clip in database.clips()] == pytest.approx([0.0], abs=0.11)
    stop_at.clear()
    assert build(database, videos, options, 1, progress=False).counts == {KNOWN: 1, ADDED: 1}
    assert [clip.start for clip in database.clips()] == pytest.approx([0.0, 4.0], abs=0.11)
    assert build(database, videos, options, 1, progress=False).counts == {KNOWN: 2}
    assert looked_at == [0.0, 2.0, 2.0, 4.0], "what had not been written yet is looked at again"
    said = video_of(videos / "push.mp4", [Span(i / 100, 1 + i / 100, "push") for i in range(120)])
    assert [len(part.spans) for part in portions(said)] == [50, 50, 20]


def test_a_killed_worker_is_told_and_nothing_is_lost(tmp_path: Path, folder: Path, monkeypatch) -> None:
    database = MotionDatabase.create(tmp_path / "m.lance")
    monkeypatch.setattr("arvrm_ros.retrieval.building._extract_one", _die)
    with pytest.raises(DataError, match=r"killed.*run it again to go on"):
        build(database, folder, OPTIONS, 1, progress=False)
    monkeypatch.undo()
    assert build(database, folder, OPTIONS, 1, progress=False).counts[ADDED] == 1


def _die(_: object) -> None:
    os._exit(9)


def test_ray_does_a_killed_workers_work_again(tmp_path: Path, hand: np.ndarray, capfd) -> None:
    """A real cluster of two workers; the first that is seen at work is killed."""
    videos = tmp_path / "videos"
    videos.mkdir()
    for i in range(6):
        write_video(videos / f"push_{'abcdef'[i]}.mp4", [np.roll(f, 5 * i, 0) for f in moving(hand, 40)], 1 / 30)
    killed = threading.Event()

    def kill_one() -> None:
        while not killed.is_set():
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if "_extract_on_ray" in process.name() or "_extract_on_ray" in " ".join(process.cmdline()):
                        process.kill()
                        killed.set()
                        return
            time.sleep(0.02)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    database = MotionDatabase.create(tmp_path / "m.lance")
    tally = build(database, videos, ExtractionOptions(visual_frames=4), 2, engine="ray", progress=False)
    assert killed.wait(0), "no worker was seen at work"
    assert tally.counts == {ADDED: 6}
    assert sorted(clip.caption for clip in database.clips()) == [f"push {c}" for c in "abcdef"]
    capfd.readouterr()


def test_ray_that_is_not_there_is_told(tmp_path: Path, folder: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DataError, match="pip install"):
        build(MotionDatabase.create(tmp_path / "m.lance"), folder, OPTIONS, 1, engine="ray", progress=False)


def test_clips_of_two_collections_that_are_named_alike_are_not_confused(
    tmp_path: Path, hand: np.ndarray, here: None
) -> None:
    database = MotionDatabase.create(tmp_path / "m.lance")
    for i, caption in enumerate(("open the drawer", "close the drawer")):
        write_clip(tmp_path / caption, Clip("clip_000000", caption), list(moving(hand, 8))[:: 1 - 2 * i], 0.1)
        assert build(database, tmp_path / caption, OPTIONS, 1, progress=False).counts == {ADDED: 1}
        assert build(database, tmp_path / caption, OPTIONS, 1, progress=False).counts == {KNOWN: 1}
    assert [clip.caption for clip in database.clips()] == ["open the drawer", "close the drawer"]


# Looking at it


def test_a_page_shows_the_database_and_what_a_search_finds(
    tmp_path: Path, folder: Path, hand: np.ndarray, capfd, here: None
) -> None:
    write_video(folder / "say_<b>hi<_b>.mp4", moving(hand, 15), 0.1)
    uri = str(tmp_path / "m.lance")
    assert main(["db", "build", str(folder), "--out", uri, "--workers", "1"]) == 0
    assert main(["db", "show", "--db", uri, "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "2 hand motions" in page
    assert page.count("data:image/jpeg;base64,") == 2
    assert page.count("<polyline") == 10, "five fingertips of each clip"
    assert "<b>hi" not in page
    assert 'src="http' not in page
    assert main(["db", "show", "--db", uri, "--out", str(tmp_path / "one.html"), "--caption", "drawer", "--worst"]) == 0
    assert (tmp_path / "one.html").read_text().count("<article>") == 1
    cv2.imwrite(str(tmp_path / "frame.png"), hand)
    command = ["db", "search", "open the drawer", "--db", uri, "--image", str(tmp_path / "frame.png")]
    assert main([*command, "--html", str(tmp_path / "found.html")]) == 0
    found = (tmp_path / "found.html").read_text()
    assert found.index("open the drawer</q>") < found.index("hi b</q>")
    assert found.count('class="bar v"') == 2
    capfd.readouterr()


def test_what_is_damaged_is_found(tmp_path: Path, folder: Path, capfd, here: None) -> None:
    uri = str(tmp_path / "m.lance")
    assert main(["db", "build", str(folder), "--out", uri, "--workers", "1"]) == 0
    assert main(["db", "verify", "--db", uri, "--videos", str(folder)]) == 0
    assert "1 clips" in capfd.readouterr().out
    (folder / "open_the_drawer.mp4").unlink()
    database = MotionDatabase.open(uri)
    row = database._table.search().limit(None).to_arrow()
    broken = row.set_column(row.schema.get_field_index("frames"), row.schema.field("frames"), pa.array([7], pa.int32()))
    database._table.add(broken)
    assert main(["db", "verify", "--db", uri, "--videos", str(folder)]) == 1
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].endswith("its row and what it holds disagree")
    assert lines[1].endswith("is there 2 times")
    assert lines[2] == f"open_the_drawer.mp4: the video is not in {folder}"
    assert len(lines) == 3


def test_an_export_holds_what_the_database_does(tmp_path: Path, folder: Path, capfd, here: None) -> None:
    uri = str(tmp_path / "m.lance")
    database = MotionDatabase.create(uri)
    with pytest.raises(DataError, match="nothing to export"):
        database.export(tmp_path / "m.parquet")
    build(database, folder, OPTIONS, 1, progress=False)
    assert main(["db", "export", "--db", uri, "--out", str(tmp_path / "m.parquet")]) == 0
    (clip,) = database.clips()
    (row,) = pq.read_table(tmp_path / "m.parquet").to_pylist()
    assert (row["clip_id"], row["caption"], row["frames"]) == (clip.clip_id, clip.caption, len(clip.keypoints))
    np.testing.assert_allclose(np.reshape(row["keypoints"], (-1, 21, 3)), clip.keypoints, atol=1e-3)
    assert "thumbnail" not in row
    capfd.readouterr()


# Recording


def test_a_hand_is_filmed_into_the_database(tmp_path: Path, hand: np.ndarray, capfd, here: None) -> None:
    write_video(tmp_path / "camera.mp4", moving(hand, 30), 0.1)  # plays in real time
    uri, videos = str(tmp_path / "m.lance"), tmp_path / "recordings"
    command = ["db", "record", "Open the drawer!", "--db", uri, "--videos", str(videos)]
    assert main([*command, "--camera", str(tmp_path / "camera.mp4"), "--seconds", "1.5", "--rate", "15"]) == 0
    out = capfd.readouterr().out
    assert "hand found in 100% of the frames" in out
    (clip,) = MotionDatabase.open(uri).clips()
    assert clip.caption == "open the drawer"
    assert len(clip.keypoints) * clip.frame_period == pytest.approx(1.5, abs=0.15)
    (video,) = videos.glob("*.mp4")
    assert probe(video).rate == pytest.approx(15)

    write_video(tmp_path / "empty.mp4", [EMPTY] * 10, 0.1)
    (videos / "an_earlier_one.mp4").write_text("damaged")
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert main([*command[:2], "close", *command[3:], "--camera", str(tmp_path / "camera.mp4")]) == 0
    assert len(MotionDatabase.open(uri)) == 2
    ended = next(videos.glob("close*"))
    assert 0.5 < probe(ended).seconds < 2.5, "Ctrl-C ended it and kept what there was"
    assert main([*command, "--camera", str(tmp_path / "empty.mp4")]) == 1
    message = capfd.readouterr().err
    assert "(hand found in less than 50% of the frames): film it again, with the whole hand in the picture" in message
    assert main(["db", "record", "...", "--db", uri, "--camera", str(tmp_path / "empty.mp4")]) == 1
    assert "say what the hand does" in capfd.readouterr().err
