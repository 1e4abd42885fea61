# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From one video to hand-motion clips: landmarks, gaps filled, poor ones rejected with a reason. Memory is bounded."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from arvrm_ros.data.bags import bag_seconds, read_bag
from arvrm_ros.data.types import HAND_KEYPOINTS, HandDetection, HumanClip
from arvrm_ros.data.video import probe, read_frames
from arvrm_ros.errors import DataError
from arvrm_ros.perception.cameras import resize
from arvrm_ros.perception.landmarker import HandLandmarker
from arvrm_ros.perception.overlay import draw_hand
from arvrm_ros.retrieval.search import resample
from arvrm_ros.retrieval.sources import BAG_SUFFIX, Span, Video

if TYPE_CHECKING:
    from arvrm_ros.perception.image_encoder import ImageEncoder

TRACKING_RATE = 30.0
"""Frames per second the landmarker sees at most: hands do not move faster than it can follow at this rate."""

KEPT_SIDE = 480
"""Pixels: what is kept of a frame for the image encoder and the thumbnails has no longer shorter side."""

SAME_HAND = 0.25
"""Largest way of a hand's middle between two frames in which it was found, in parts of the image."""

THUMBNAIL_FRAMES, THUMBNAIL_SIZE = 4, (96, 128)  # height, width of each


@dataclass(frozen=True)
class ExtractionOptions:
    """What becomes of a video.

    Attributes:
        rate: frames per second of the track; faster videos are thinned out after tracking.
        min_visible: share of the frames in which a hand must have been found.
        max_gap: longest time in seconds without a hand that is filled.
        shortest, longest: seconds of a clip. A video of which nobody says where something is done is one clip if it is
            not longer, else it is cut where the hand comes and goes.
        hands: looked for in a picture at most. With 1 the landmarker is faster; with 2 the one that moves most is kept.
        visual_frames: image features kept per clip, evenly spread; 0 keeps one per frame.
        detection_confidence: of the palm detector.
        image_encoder: weights file; None for the shipped one.
    """

    rate: float = 10.0
    min_visible: float = 0.5
    max_gap: float = 1.0
    shortest: float = 1.0
    longest: float = 20.0
    hands: int = 2
    visual_frames: int = 0
    detection_confidence: float = 0.3
    image_encoder: Path | None = None


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


def extract(video: Video, options: ExtractionOptions, known: Collection[str] = ()) -> Iterator[Extracted | Rejected]:
    """The clips of a video, one after the other, and a reason for each part that is none.

    Args:
        video: of a source.
        options: see there.
        known: ids of clips that are there already and are left out.
    """
    try:
        seconds = bag_seconds(video.path) if video.path.suffix == BAG_SUFFIX else probe(video.path).seconds
        if video.whole and seconds > options.longest:
            yield from _cut_by_activity(video, options, known)
            return
    except DataError:
        yield Rejected("unreadable", video.path.name)
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
        except DataError:
            yield Rejected("unreadable", video.path.name)


def _cut_by_activity(
    video: Video, options: ExtractionOptions, known: Collection[str]
) -> Iterator[Extracted | Rejected]:
    """One clip for each time in which a hand is there, from its coming to its going, or as long as a clip may be."""
    span, take, last_seen = video.spans[0], _Take(options), -np.inf

    def end(take: _Take) -> Iterator[Extracted | Rejected]:
        start = take.times[0]
        clip_id = part_name(video, start)
        take.drop_after(last_seen)
        if clip_id in known:
            return
        try:
            if last_seen - start < options.shortest:
                raise RejectedClipError(f"a hand is there for less than {options.shortest:g} s")
            yield take.clip(clip_id, video, Span(start, last_seen, span.caption, span.task))
        except RejectedClipError as reason:
            yield Rejected(str(reason), clip_id)

    try:
        for time, image, hands in _watch(video, options):
            if take.times and (time - last_seen > options.max_gap or time - take.times[0] >= options.longest):
                yield from end(take)
                take = _Take(options)
            if hands:
                last_seen = time
            if hands or take.times:
                take.add(time, image, hands)
    except DataError:
        yield Rejected("unreadable", video.path.name)
    if take.times:
        yield from end(take)


def part_name(video: Video, start: float, said: Span | None = None) -> str:
    """Id of a clip that is a part of a video; several things may be said of the same part."""
    digest = f"-{hashlib.sha256(repr(said).encode()).hexdigest()[:6]}" if said else ""
    return f"{video.name}@{start:.1f}s{digest}"


def _watch(
    video: Video, options: ExtractionOptions, start: float = 0.0, end: float = np.inf
) -> Iterator[tuple[float, np.ndarray, list[HandDetection]]]:
    """Time, image and hands of each frame of a part; the hands as a bag has them, else by the landmarker."""
    frames: Iterable[tuple[float, np.ndarray, list[HandDetection] | None]]
    if video.path.suffix == BAG_SUFFIX:
        frames = read_bag(video.path, start, end)
    else:
        frames = ((time, image, None) for time, image in read_frames(video.path, start, end, TRACKING_RATE))
    count = min(video.hands, options.hands)
    with contextlib.ExitStack() as stack:
        landmarker: HandLandmarker | None = None
        for time, image, hands in frames:
            if hands is None:
                landmarker = landmarker or stack.enter_context(
                    HandLandmarker(video=True, max_hands=count, min_detection_confidence=options.detection_confidence)
                )
                hands = landmarker.detect(image, time)
            yield time, image, hands


@dataclass
class _Take:
    """What has been seen of a clip so far: the hands of every frame, and some of the frames."""

    options: ExtractionOptions
    times: list[float] = field(default_factory=list)
    hands: list[list[HandDetection]] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)  # indices of the frames that are kept
    frames: list[np.ndarray] = field(default_factory=list)
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
            self.kept.append(len(self.times))
            self.frames.append(_shrunk(image))
        self.times.append(time)
        self.hands.append(hands)

    def drop_after(self, time: float) -> None:
        """Forgets the frames after a time."""
        count = int(np.searchsorted(self.times, time, side="right"))
        self.times, self.hands = self.times[:count], self.hands[:count]
        self.kept = [i for i in self.kept if i < count]
        self.frames = self.frames[: len(self.kept)]

    def clip(self, clip_id: str, video: Video, span: Span) -> Extracted:
        """The clip that was seen.

        Raises:
            RejectedClipError: it is not fit for the database.
        """
        if not self.times:
            raise RejectedClipError("no frames")
        options = self.options
        period = float(np.median(np.diff(self.times))) if len(self.times) > 1 else 1 / options.rate
        hands = main_hand(self.hands) if min(video.hands, options.hands) > 1 else self.hands
        keypoints, world, visible = fill_gaps(hands, period, options)
        keypoints, visible = keypoints[self.kept], visible[self.kept]
        seen = [frame[0] for frame in hands if frame]
        quality = sum(hand.score for hand in seen) / len(hands)
        # MediaPipe's label of a single frame is often wrong; that of most frames is not.
        handedness = Counter(hand.handedness for hand in seen).most_common(1)[0][0]
        times = np.array(self.times)[self.kept]
        encoder = _image_encoder(options.image_encoder)
        frames = np.stack(self.frames)
        human = HumanClip(
            clip_id=clip_id,
            caption=span.caption,
            frame_period=round(float(np.median(np.diff(times))), 6) if len(times) > 1 else 1 / options.rate,
            keypoints=keypoints,
            visible=visible,
            language=np.zeros(0, np.float32),
            visual=encoder.visual_feature(encoder.encode(resample(frames, options.visual_frames or len(frames)))),
            video=video.reference,
            task=span.task,
            start=self.times[0],
            handedness=handedness,
            world=world[self.kept],
            quality=quality,
        )
        return Extracted(human, thumbnail(self.frames, keypoints, visible))


def main_hand(found: list[list[HandDetection]]) -> list[list[HandDetection]]:
    """Follows every hand by where it is, and gives the one that moves most; per frame one hand or none.

    MediaPipe's "left" and "right" flip from frame to frame, so that they are not looked at.
    """
    tracks: list[dict[int, HandDetection]] = []
    for i, hands in enumerate(found):
        last = [track[max(track)].keypoints[:, :2].mean(0) for track in tracks]
        pairs = sorted(
            (float(np.linalg.norm(hand.keypoints[:, :2].mean(0) - middle)), h, t)
            for h, hand in enumerate(hands)
            for t, middle in enumerate(last)
        )
        left, free = set(range(len(hands))), set(range(len(tracks)))
        for distance, h, t in pairs:
            if h in left and t in free and distance < SAME_HAND:
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


def fill_gaps(
    found: list[list[HandDetection]], frame_period: float, options: ExtractionOptions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first hand of each frame as a track; short gaps are filled linearly, at the ends with the nearest hand.

    Returns:
        keypoints and world (T, 21, 3) float32 as in ``HandDetection``, with gaps filled, and (T,) bool, where the hand
        was really found.

    Raises:
        RejectedClipError: too few detections.
    """
    visible = np.array([bool(hands) for hands in found])
    if visible.mean() < options.min_visible:
        raise RejectedClipError(f"hand found in less than {options.min_visible:.0%} of the frames")
    times = np.flatnonzero(visible)
    gaps = np.diff([-1, *times, len(found)]) - 1
    if gaps.max() * frame_period > options.max_gap:
        raise RejectedClipError(f"hand lost for more than {options.max_gap:g} s")

    def filled(values: list[np.ndarray]) -> np.ndarray:
        columns = np.stack(values).reshape(len(times), -1).T
        rows = np.stack([np.interp(np.arange(len(found)), times, column) for column in columns], axis=1)
        return rows.reshape(-1, len(HAND_KEYPOINTS), 3).astype(np.float32)

    hands = [frame[0] for frame in found if frame]
    return filled([hand.keypoints for hand in hands]), filled([hand.world for hand in hands]), visible


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


def _shrunk(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    shorter = min(height, width)
    if shorter <= KEPT_SIDE:
        return image
    return resize(image, round(height * KEPT_SIDE / shorter), round(width * KEPT_SIDE / shorter))


@functools.cache
def _image_encoder(path: Path | None) -> ImageEncoder:
    """The image encoder, loaded once per process; PyTorch is imported only when it is needed."""
    from arvrm_ros.perception.image_encoder import ImageEncoder

    return ImageEncoder.load(path)
