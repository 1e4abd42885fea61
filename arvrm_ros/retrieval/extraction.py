# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From one video to hand-motion clips: landmarks, gaps filled, smoothed, poor ones rejected with a reason.

Memory is bounded, however long the video is.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from arvrm_ros.data.bags import BAG_SUFFIX, bag_seconds, read_bag
from arvrm_ros.data.types import HAND_KEYPOINTS, HandDetection, HumanClip
from arvrm_ros.data.video import probe, read_frames
from arvrm_ros.errors import DataError
from arvrm_ros.perception.cameras import resize
from arvrm_ros.perception.landmarker import HandFollower
from arvrm_ros.perception.overlay import draw_hand
from arvrm_ros.retrieval.search import resample
from arvrm_ros.retrieval.sources import Span, Video

if TYPE_CHECKING:
    from arvrm_ros.perception.encoders import FrozenImageEncoder

TRACKING_RATE = 30.0
"""Frames per second the landmarker sees at most: hands do not move faster than it can follow at this rate."""

SAME_HAND, HAND_SPEED = 0.25, 1.0
"""A hand's middle is farther from where it was seen last by no more than this part of the image, and as much again for
each second since."""

UNREADABLE, NO_FRAMES = "unreadable", "no frames"
"""Reasons for which a video is rejected."""

PORTION_SECONDS, PORTION_SPANS = 600, 50
"""What is looked through at once: so much of a video, or so many parts that annotations name."""

THUMBNAIL_FRAMES, THUMBNAIL_SIZE = 4, (96, 128)  # height, width of each


@dataclass(frozen=True)
class ExtractionOptions:
    """What becomes of a video.

    Attributes:
        rate: frames per second of the track; faster videos are thinned out after tracking.
        min_visible: share of the frames in which a hand must have been found.
        max_gap: longest time in seconds without a hand that is filled.
        smoothing: seconds of the track over which each of its points is smoothed, see :func:`hand_track`; 0 for none.
        trim: a clip begins and ends where the hand is seen, else where the video or the part of it does.
        shortest, longest: seconds of a clip. A video of which nobody says where something is done is one clip if it is
            not longer, else it is cut where the hand comes and goes.
        hands: followed at most; of several, the one that moves most is kept.
        visual_frames: image features kept per clip, evenly spread; 0 keeps one per frame.
        detection_confidence: of the palm detector.
        encoder: name of the image encoder, as of ``load_image_encoder``.
        image_encoder: its weights, a file; None for those that ship, or are fetched by name.
    """

    rate: float = 10.0
    min_visible: float = 0.5
    max_gap: float = 1.0
    smoothing: float = 0.4
    trim: bool = True
    shortest: float = 1.0
    longest: float = 20.0
    hands: int = 3
    visual_frames: int = 0
    detection_confidence: float = 0.3
    encoder: str = "small"
    image_encoder: Path | None = None

    def summary(self) -> str:
        """What of this a track depends on, as JSON: the database keeps it with each clip."""
        known = asdict(self)
        return json.dumps({name: known[name] for name in ("rate", "smoothing", "trim", "max_gap", "hands")})


class RejectedClipError(DataError):
    """A clip is not fit for the database; the message is the reason, the same text for all clips of that kind."""


@dataclass
class Extracted:
    """A clip without its language feature, and its thumbnail (JPEG)."""

    clip: HumanClip
    thumbnail: bytes


@dataclass
class Rejected:
    """Why a part of a video is no clip."""

    reason: str
    name: str


def portions(video: Video) -> list[Video]:
    """A long video in parts that are looked through apart, which bounds what is in memory and done again after a stop.

    A motion that goes on over the end of a part is cut there.
    """
    if not video.whole:
        spans = video.spans
        return [replace(video, spans=spans[i : i + PORTION_SPANS]) for i in range(0, len(spans), PORTION_SPANS)]
    try:
        seconds = 0.0 if video.path.suffix == BAG_SUFFIX else probe(video.path).seconds
    except DataError:
        return [video]  # whoever looks at it says what is wrong
    starts = range(0, max(1, math.ceil(seconds)), PORTION_SECONDS)
    if len(starts) == 1:
        return [video]
    return [replace(video, part=(float(start), float(start + PORTION_SECONDS))) for start in starts]


def extract(video: Video, options: ExtractionOptions, known: Collection[str] = ()) -> Iterator[Extracted | Rejected]:
    """The clips of a video, one after the other, and a reason for each part that is none.

    Args:
        video: of a source.
        options: see there.
        known: ids of clips that are there already and are left out.
    """
    try:
        seconds = bag_seconds(video.path) if video.path.suffix == BAG_SUFFIX else probe(video.path).seconds
    except DataError as error:
        yield Rejected(UNREADABLE, str(error))
        return
    # What was streamed does not say how long it is.
    if video.whole and not 0 < seconds <= options.longest:
        yield from _cut_by_activity(video, options, known)
        return
    for span in video.spans:
        clip_id = video.name if video.whole else part_name(video, span.start, span)
        if clip_id in known:
            continue
        take = _Take(options)
        try:
            if not video.whole and span.end - span.start > options.longest:
                raise RejectedClipError(f"longer than {options.longest:g} s")
            for time, image, hands in _watch(video, options, span.start, span.end):
                take.add(time, image, hands)
            yield take.clip(clip_id, video, span)
        except RejectedClipError as reason:
            yield Rejected(str(reason), clip_id)
        except DataError as error:
            yield Rejected(UNREADABLE, str(error))


def _cut_by_activity(
    video: Video, options: ExtractionOptions, known: Collection[str]
) -> Iterator[Extracted | Rejected]:
    """One clip for each time in which a hand is there, from its coming to its going, or as long as a clip may be."""
    span, take, last_seen, time = video.spans[0], _Take(options), -np.inf, None

    def end(take: _Take) -> Iterator[Extracted | Rejected]:
        start = take.times[0]
        clip_id = part_name(video, start)
        take.drop_after(last_seen)
        if clip_id in known:
            return
        try:
            if last_seen - start < options.shortest:
                raise RejectedClipError(_too_short(options))
            yield take.clip(clip_id, video, Span(start, last_seen, span.caption, span.task))
        except RejectedClipError as reason:
            yield Rejected(str(reason), clip_id)

    try:
        for time, image, hands in _watch(video, options, *video.part):
            if take.times and (time - last_seen > options.max_gap or time - take.times[0] >= options.longest):
                yield from end(take)
                take = _Take(options)
            if hands:
                last_seen = time
            if hands or take.times:
                take.add(time, image, hands)
        if time is None and not video.part[0]:
            yield Rejected(NO_FRAMES, video.name)
    except DataError as error:
        yield Rejected(UNREADABLE, str(error))
    if take.times:
        yield from end(take)


def part_name(video: Video, start: float, said: Span | None = None) -> str:
    """Id of a clip that is a part of a video; several things may be said of the same part."""
    digest = f"-{hashlib.sha256(repr(said).encode()).hexdigest()[:6]}" if said else ""
    return f"{video.name}@{start:.1f}s{digest}"


def _watch(
    video: Video, options: ExtractionOptions, start: float, end: float
) -> Iterator[tuple[float, np.ndarray, list[HandDetection]]]:
    """Time, image and hands of each frame of a part; the hands as a bag has them, else by the landmarker."""
    frames: Iterable[tuple[float, np.ndarray, list[HandDetection] | None]]
    if video.path.suffix == BAG_SUFFIX:
        frames = read_bag(video.path, start, end)
    else:
        frames = ((time, image, None) for time, image in read_frames(video.path, start, end, TRACKING_RATE))
    with contextlib.ExitStack() as stack:
        follower: HandFollower | None = None
        for time, image, hands in frames:
            if hands is None:
                follower = follower or stack.enter_context(
                    HandFollower(min(video.hands, options.hands), options.detection_confidence)
                )
                hands = follower.detect(image, time)
            yield time, image, hands


@dataclass
class _Take:
    """What has been seen of a clip so far: the hands of every frame, and some of the frames, made small."""

    options: ExtractionOptions
    times: list[float] = field(default_factory=list)
    hands: list[list[HandDetection]] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)  # indices of the frames that are kept
    frames: list[np.ndarray] = field(default_factory=list)  # these, as the image encoder takes them
    _due: float = 0.0

    def add(self, time: float, image: np.ndarray, hands: list[HandDetection]) -> None:
        """Another frame, (H, W, 3) uint8 RGB, at a time in seconds.

        Raises:
            RejectedClipError: the video goes on longer than its header says.
        """
        period = 1 / self.options.rate
        if self.times and time - self.times[0] > self.options.longest + period:
            raise RejectedClipError(f"longer than {self.options.longest:g} s")
        if not self.times:
            self._due = time
        if time >= self._due - 0.25 * period:
            self._due = max(self._due + period, time + 0.75 * period)
            side = _image_encoder(self.options.encoder, self.options.image_encoder).image
            self.kept.append(len(self.times))
            self.frames.append(resize(image, side, side))
        self.times.append(time)
        self.hands.append(hands)

    def drop_after(self, time: float) -> None:
        """Forgets the frames after a time."""
        self._keep(0, int(np.searchsorted(self.times, time, side="right")))

    def trim(self) -> None:
        """Forgets the frames before the hand comes and after it has gone.

        Raises:
            RejectedClipError: too little is left.
        """
        seen = [i for i, hands in enumerate(self.hands) if hands]
        if not seen or len(seen) == len(self.hands):
            return
        seconds = self.times[-1] - self.times[0]
        self._keep(seen[0], seen[-1] + 1)
        if not self.kept or self.times[-1] - self.times[0] < min(
            self.options.shortest, self.options.min_visible * seconds
        ):
            raise RejectedClipError(_too_short(self.options))

    def _keep(self, first: int, end: int) -> None:
        chosen = [n for n, i in enumerate(self.kept) if first <= i < end]
        self.times, self.hands = self.times[first:end], self.hands[first:end]
        self.frames = [self.frames[n] for n in chosen]
        self.kept = [self.kept[n] - first for n in chosen]

    def clip(self, clip_id: str, video: Video, span: Span) -> Extracted:
        """The clip that was seen.

        Raises:
            RejectedClipError: it is not fit for the database.
        """
        if not self.times:
            raise RejectedClipError(NO_FRAMES)
        options = self.options
        if min(video.hands, options.hands) > 1:
            self.hands = main_hand(self.hands, self.times)
        if options.trim:
            self.trim()
        keypoints, world, visible = (values[self.kept] for values in hand_track(self.hands, self.times, options))
        seen = [frame[0] for frame in self.hands if frame]
        # MediaPipe's label of a single frame is often wrong; that of most frames is not.
        handedness = Counter(hand.handedness for hand in seen).most_common(1)[0][0]
        times = np.array(self.times)[self.kept]
        encoder = _image_encoder(options.encoder, options.image_encoder)
        frames = resample(np.stack(self.frames), options.visual_frames or len(self.frames))
        human = HumanClip(
            clip_id=clip_id,
            caption=span.caption,
            frame_period=round(float(np.ptp(times)) / (len(times) - 1), 6) if len(times) > 1 else 1 / options.rate,
            keypoints=keypoints,
            visible=visible,
            language=np.zeros(0, np.float32),
            visual=encoder.visual_feature(encoder.encode(frames)),
            video=video.reference,
            task=span.task,
            start=float(times[0]),
            handedness=handedness,
            world=world,
            quality=sum(hand.score for hand in seen) / len(self.hands),
            extraction=options.summary(),
        )
        return Extracted(human, thumbnail(self.frames, keypoints, visible))


def main_hand(found: list[list[HandDetection]], times: list[float]) -> list[list[HandDetection]]:
    """Follows every hand by where it is, and gives the one that moves most; per frame one hand or none.

    MediaPipe's "left" and "right" flip from frame to frame, so that they are not looked at.

    Args:
        found: the hands of each frame, in any order.
        times: of the frames, seconds.
    """
    tracks: list[dict[int, HandDetection]] = []
    for i, hands in enumerate(found):
        last = [max(track) for track in tracks]
        pairs = sorted(
            (float(np.linalg.norm(_middle(hand) - _middle(tracks[t][j]))), h, t)
            for h, hand in enumerate(hands)
            for t, j in enumerate(last)
        )
        left, free = set(range(len(hands))), set(range(len(tracks)))
        for distance, h, t in pairs:
            if h in left and t in free and distance < SAME_HAND + HAND_SPEED * (times[i] - times[last[t]]):
                tracks[t][i] = hands[h]
                left.remove(h)
                free.remove(t)
        tracks += [{i: hands[h]} for h in sorted(left)]
    if not tracks:
        return [[] for _ in found]

    def way(track: dict[int, HandDetection]) -> tuple[float, int]:
        points = np.stack([track[i].keypoints[:, :2] for i in sorted(track)])  # (A, 21, 2)
        return float(np.linalg.norm(np.diff(points, axis=0), axis=-1).sum()), len(track)

    main = max(tracks, key=way)
    return [[main[i]] if i in main else [] for i in range(len(found))]


def _middle(hand: HandDetection) -> np.ndarray:
    return hand.keypoints[:, :2].mean(0)


def hand_track(
    found: list[list[HandDetection]], times: list[float], options: ExtractionOptions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first hand of each frame as a track: gaps filled linearly, at the ends with the nearest hand, and smoothed.

    The filter is Savitzky and Golay's (1964): a parabola through the points before and after each; nothing lags.

    Args:
        found: the hands of each frame.
        times: of the frames, seconds; the distances may vary.
        options: see there.

    Returns:
        keypoints and world (T, 21, 3) float32 as in ``HandDetection``, and (T,) bool, where the hand was really found.

    Raises:
        RejectedClipError: too few detections.
    """
    visible = np.array([bool(hands) for hands in found])
    if visible.mean() < options.min_visible:
        raise RejectedClipError(f"hand found in less than {options.min_visible:.0%} of the frames")
    at, known = np.array(times), np.flatnonzero(visible)
    period = float(np.median(np.diff(at))) if len(at) > 1 else 1 / options.rate
    if np.diff([at[0] - period, *at[known], at[-1] + period]).max() - period > options.max_gap:
        raise RejectedClipError(f"hand lost for more than {options.max_gap:g} s")

    values = np.array([[found[i][0].keypoints, found[i][0].world] for i in known]).reshape(len(known), -1)
    even = at[0] + period * np.arange(round((at[-1] - at[0]) / period) + 1)
    points = round(options.smoothing / period) // 2 * 2 + 1
    if 3 < points <= len(even):
        from scipy.signal import savgol_filter  # late: it takes half a second

        values = savgol_filter(_at(even, at[known], values), points, 2, axis=0)
        values = _at(at, even, values)
    else:
        values = _at(at, at[known], values)
    track = values.reshape(len(at), 2, len(HAND_KEYPOINTS), 3).astype(np.float32)
    return track[:, 0], track[:, 1], visible


def _at(wanted: np.ndarray, times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Rows of values (A, C) at times (A,) as rows (T, C) at other times, linearly between."""
    return np.stack([np.interp(wanted, times, column) for column in values.T], axis=1)


def _too_short(options: ExtractionOptions) -> str:
    return f"a hand is there for less than {options.shortest:g} s"


def start_worker() -> None:
    """Prepares a process that extracts: one thread, and quiet."""
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    # MediaPipe's native code prints several lines per video over the progress bar. Exceptions still reach the parent.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


def thumbnail(frames: list[np.ndarray], keypoints: np.ndarray, visible: np.ndarray) -> bytes:
    """JPEG of four frames of a clip side by side, with the hand where the landmarker found it."""
    height, width = THUMBNAIL_SIZE
    pictures = []
    for i in resample(np.arange(len(frames)), THUMBNAIL_FRAMES):
        picture = resize(frames[i], height, width).copy()
        if visible[i]:
            draw_hand(picture, keypoints[i])
        pictures.append(picture)
    strip = np.ascontiguousarray(np.concatenate(pictures, axis=1)[:, :, ::-1])
    return cv2.imencode(".jpg", strip, [cv2.IMWRITE_JPEG_QUALITY, 75])[1].tobytes()


@functools.cache
def _image_encoder(name: str, weights: Path | None) -> FrozenImageEncoder:
    """The image encoder, loaded once per process; PyTorch is imported only when it is needed."""
    from arvrm_ros.perception.encoders import load_image_encoder

    return load_image_encoder(name, weights)
