# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where human motion comes from: videos, and who says what happens in them when.

- a folder of clips: ``*/clip.json``, as ``arvrm collect human`` writes them
- a folder of videos or MCAP bags, at any depth: captions from ``captions.csv`` or ``captions.jsonl`` in it, else from
  the files' names
- one video or bag, by its name
- EPIC-KITCHENS' annotations: ``EPIC_100_train.csv`` and its like, with ``videos`` for the folder of the videos
- Ego4D's annotations: ``fho_main.json`` or ``narration.json``, with ``videos`` for the folder of the videos
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arvrm_ros.data.bags import BAG_SUFFIX
from arvrm_ros.data.clips import read_clip
from arvrm_ros.errors import DataError

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".avi", ".webm", ".mts", BAG_SUFFIX)
CAPTION_FILES = ("captions.csv", "captions.jsonl")

NARRATION_SECONDS = (-0.5, 2.5)
"""Part of the video around an Ego4D narration, which has a single time: from just before the action to its end."""

_NUMBERED = re.compile(r"^(img|vid|mov|pxl|dsc|gopr|gh|mvi|video|clip|whatsapp|screen)?[\W_\d]*$", re.IGNORECASE)
"""File names that cameras give, which say nothing about what is to be seen."""


@dataclass(frozen=True)
class Span:
    """A part of a video in which one thing is done: seconds, and a sentence for it."""

    start: float
    end: float
    caption: str
    task: str = ""


@dataclass
class Video:
    """A video file with what is done in it.

    Attributes:
        path: the file.
        reference: how the database names it: from the source's folder, so that the folder may move.
        name: what its clips' ids begin with; other content has another name.
        spans: one clip each; a single one without an end is the whole video, and cut by the hand's activity if long.
        hands: how many there can be in the picture at most.
        part: of a whole video, what is to be looked at: seconds.
    """

    path: Path
    reference: str
    name: str
    spans: list[Span]
    hands: int = 8
    part: tuple[float, float] = (0.0, math.inf)

    @property
    def whole(self) -> bool:
        """Whether nobody has said where in the video something is done."""
        return len(self.spans) == 1 and math.isinf(self.spans[0].end)


@dataclass
class Tally:
    """What came of a source: a count for each outcome, and the first few names for each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, outcome: str, name: str) -> None:
        """Counts a clip or a video."""
        self.counts[outcome] += 1
        if len(self.examples[outcome]) < 3:
            self.examples[outcome].append(name)

    def merge(self, other: Tally) -> None:
        """Adds what another has counted."""
        self.counts += other.counts
        for outcome, names in other.examples.items():
            self.examples[outcome] = (self.examples[outcome] + names)[:3]


@dataclass
class Found:
    """Videos of a source, and what was left out, by reason."""

    videos: list[Video] = field(default_factory=list)
    left_out: Tally = field(default_factory=Tally)


def find_videos(source: Path, videos: Path | None = None) -> Found:
    """Lists the videos of a source; nothing is decoded.

    Args:
        source: a folder, a video, or a file of annotations. See the module's text.
        videos: folder of the videos of an annotation file; its own folder if not given.

    Raises:
        DataError: there is nothing there, or the annotations are malformed.
    """
    if source.is_file() and source.suffix.lower() in VIDEO_SUFFIXES:
        found, said = Found(), defaultdict[Path, list[Span]](list)
        _add_by_name(found, said, [source])
        return _named(found, said, source.parent)
    if source.is_file():
        return _annotated(source, videos or source.parent)
    if not source.is_dir():
        raise DataError(f"{source} is neither a folder of videos nor a file of annotations")
    clips = sorted(file.parent for file in source.glob("*/clip.json") if not file.parent.name.startswith("."))
    found = _clips(clips) if clips else _folder(source)
    if not found.videos and not found.left_out.counts:
        raise DataError(
            f"there are no clips in {source}: put videos there ({', '.join(VIDEO_SUFFIXES)}), or make some with "
            f"`arvrm collect human --out {source}`"
        )
    return found


def content_digest(path: Path) -> str:
    """Of a file's size and its first and last mebibyte: what a copy elsewhere shares, without reading terabytes."""
    size, chunk = path.stat().st_size, 1 << 20
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(chunk))
        file.seek(max(0, size - chunk))
        digest.update(file.read(chunk))
    return digest.hexdigest()


def caption_of(path: Path) -> str:
    """What a file's name says: ``open_the_drawer-3.mp4`` is "open the drawer"; "" for what cameras call their files."""
    if _NUMBERED.match(path.stem):
        return ""
    words = re.sub(r"[_\W]+", " ", path.stem)
    return re.sub(r"(\s+(copy|take|\d+))+$", "", words, flags=re.IGNORECASE).strip().lower()


def _clips(folders: Iterable[Path]) -> Found:
    found = Found()
    for folder in folders:
        try:
            clip = read_clip(folder)
        except DataError:
            found.left_out.add("unreadable", folder.name)
            continue
        if not clip.video.is_file():
            found.left_out.add("unreadable", folder.name)
        elif not clip.caption.strip():
            found.left_out.add("no caption", folder.name)
        else:
            span = Span(0.0, math.inf, clip.caption.strip(), clip.task)
            # Another collection has folders of the same names.
            name = f"{folder.name}-{content_digest(clip.video)[:10]}"
            found.videos.append(Video(clip.video, f"{folder.name}/{clip.video.name}", name, [span], 1))
    return found


def _folder(folder: Path) -> Found:
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and not p.name.startswith("."))
    tables = [folder / name for name in CAPTION_FILES if (folder / name).is_file()]
    if len(tables) > 1:
        raise DataError(f"{folder} has {' and '.join(t.name for t in tables)}: keep one of them")
    said: dict[Path, list[Span]] = defaultdict(list)
    found = Found()
    for row in _table(tables[0]) if tables else ():
        file = folder / str(row.get("video", ""))
        caption = str(row.get("caption") or "").strip()
        if not file.is_file():
            found.left_out.add("the captions name a video that is not there", str(row.get("video", "")))
        elif not caption:
            found.left_out.add("no caption", str(row["video"]))
        else:
            start, end = _seconds(row.get("start") or 0), _seconds(row.get("end") or math.inf)
            _add_span(found, said, file, Span(start, end, caption))
    _add_by_name(found, said, files)
    return _named(found, said, folder)


def _add_by_name(found: Found, said: dict[Path, list[Span]], files: Iterable[Path]) -> None:
    """Adds the files of which nothing is said yet, by their names."""
    for file in files:
        if file not in said and (caption := caption_of(file)):
            said[file].append(Span(0.0, math.inf, caption))
        elif file not in said:
            found.left_out.add(
                "no caption: name the file after what the hand does, or list it in captions.csv", file.name
            )


def _annotated(file: Path, folder: Path) -> Found:
    """EPIC-KITCHENS and Ego4D, told apart by what is in the file."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder of videos: say with --videos where they are")
    if file.suffix.lower() == ".csv":
        actions = _epic_kitchens(file)
    elif file.suffix.lower() == ".json":
        actions = _ego4d(file)
    else:
        raise DataError(f"{file} is not a file of annotations: EPIC-KITCHENS' are .csv, Ego4D's .json")
    known = {p.stem: p for p in sorted(folder.rglob("*")) if p.suffix.lower() in VIDEO_SUFFIXES}
    said: dict[Path, list[Span]] = defaultdict(list)
    found = Found()
    for video, span in actions:
        if video not in known:
            found.left_out.add("the annotations name a video that is not there", video)
        else:
            _add_span(found, said, known[video], span)
    if not said and not found.left_out.counts:
        raise DataError(f"{file} annotates nothing")
    return _named(found, said, folder)


def _epic_kitchens(file: Path) -> Iterator[tuple[str, Span]]:
    """Rows with video_id, start_timestamp and stop_timestamp (HH:MM:SS.ss) and narration."""
    for row in _table(file):
        try:
            start, end = _seconds(row["start_timestamp"]), _seconds(row["stop_timestamp"])
            yield str(row["video_id"]), Span(start, end, str(row["narration"]).strip())
        except KeyError as error:
            raise DataError(f"{file} is not EPIC-KITCHENS' annotations: it has no column {error}") from None


def _ego4d(file: Path) -> Iterator[tuple[str, Span]]:
    """``fho_main.json`` (actions with a start and an end), or ``narration.json`` (sentences with a time)."""
    known = _json(file)
    try:
        if isinstance(known.get("videos"), list):
            for video in known["videos"]:
                for interval in video["annotated_intervals"]:
                    for action in interval["narrated_actions"]:
                        caption = _narration(action["narration_text"])
                        yield video["video_uid"], Span(float(action["start_sec"]), float(action["end_sec"]), caption)
            return
        # Newer files have one more level, "videos".
        for uid, video in known.get("videos", known).items():
            for key, annotation in video.items():
                for said in annotation["narrations"] if key.startswith("narration_pass") else ():
                    time = float(said["timestamp_sec"])
                    start, end = (max(0.0, time + around) for around in NARRATION_SECONDS)
                    yield uid, Span(start, end, _narration(said["narration_text"]))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{file} is not Ego4D's fho_main.json or narration.json: {error!r}") from None


def _narration(text: str) -> str:
    """What is done: "opens the drawer" of "#C C opens the drawer"; "" when another than the wearer (C) does it."""
    if match := re.match(r"\s*#\s*(\w)\s+(?:\1\s+)?(.*)", text, re.DOTALL | re.IGNORECASE):
        who, text = match.groups()
        if who.upper() != "C":
            return ""
    return re.sub(r"#unsure", "", text, flags=re.IGNORECASE).strip(" .\n")


def _add_span(found: Found, said: dict[Path, list[Span]], file: Path, span: Span) -> None:
    if not span.caption:
        found.left_out.add("no caption", file.name)
    elif not 0 <= span.start < span.end:
        found.left_out.add("ends before it starts", f"{file.name} {span.start:g} to {span.end:g} s")
    elif span not in said[file]:
        said[file].append(span)


def _named(found: Found, said: dict[Path, list[Span]], folder: Path) -> Found:
    contents: set[str] = set()
    for file, spans in sorted(said.items()):
        if not spans:
            continue
        digest = content_digest(file)
        if digest in contents:
            found.left_out.add("the same video as another", file.name)
            continue
        contents.add(digest)
        spans.sort(key=lambda span: (span.start, span.end, span.caption))
        reference = file.relative_to(folder).as_posix()
        found.videos.append(Video(file, reference, f"{file.stem}-{digest[:10]}", spans))
    return found


def _seconds(value: Any) -> float:
    """Seconds of "12.5" or "00:01:02.5".

    Raises:
        DataError: it is neither.
    """
    try:
        seconds = 0.0
        for part in str(value).split(":"):
            seconds = 60 * seconds + float(part)
        return seconds
    except ValueError:
        raise DataError(f"{value!r} is not a time: give seconds, or HH:MM:SS.s") from None


def _table(file: Path) -> list[dict[str, Any]]:
    """Rows of a CSV file with a header, or of a JSON-lines file."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix.lower() == ".csv":
            return list(csv.DictReader(text.splitlines()))
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError("every line has to be an object")
        return rows
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"cannot read {file}: {error}") from None


def _json(file: Path) -> dict[str, Any]:
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {file}: {error}") from None
    if not isinstance(known, dict):
        raise DataError(f"{file} is not a file of annotations: it holds no object")
    return known
