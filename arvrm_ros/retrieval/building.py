# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From a folder of human clips to the motion database: landmarker, encoders, gaps filled, poor clips left out."""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from tqdm import tqdm

from arvrm_ros.data.clips import clip_folders, read_clip
from arvrm_ros.data.types import HAND_KEYPOINTS, HandDetection, HumanClip
from arvrm_ros.errors import DataError
from arvrm_ros.perception.cameras import resize
from arvrm_ros.perception.landmarker import HandLandmarker
from arvrm_ros.perception.models import require_hand_landmarker
from arvrm_ros.perception.overlay import draw_hand
from arvrm_ros.resources import resource
from arvrm_ros.retrieval.database import MotionDatabase
from arvrm_ros.retrieval.search import resample

if TYPE_CHECKING:
    from arvrm_ros.perception.image_encoder import ImageEncoder

BATCH = 16
"""Clips added in one transaction; as many are done again when a build is interrupted."""
THUMBNAIL_FRAMES, THUMBNAIL_SIZE = 4, (96, 128)  # height, width of each


@dataclass(frozen=True)
class BuildOptions:
    """What becomes of a video.

    Attributes:
        rate: frames per second of the track; faster videos are thinned out after tracking.
        min_visible: share of the frames in which a hand must have been found.
        max_gap: longest time in seconds without a hand that is filled.
        visual_frames: image features kept per clip, evenly spread; 0 keeps one per frame.
        detection_confidence: of the palm detector.
        image_encoder: weights file; None for the shipped one.
    """

    rate: float = 10.0
    min_visible: float = 0.5
    max_gap: float = 1.0
    visual_frames: int = 0
    detection_confidence: float = 0.3
    image_encoder: Path | None = None


class RejectedClipError(DataError):
    """A clip is not fit for the database; the message is the reason, the same text for all clips of that kind."""


def build(
    database: MotionDatabase, clips_folder: Path, options: BuildOptions, workers: int, progress: bool = True
) -> Counter[str]:
    """Adds the clips of a folder that are not in the database yet.

    Args:
        database: clips are known by their folder's name; interrupted builds go on where they were.
        clips_folder: as ``arvrm collect human`` writes it.
        options: see there.
        workers: processes.
        progress: show a bar.

    Returns:
        How many clips were added (key ``added``), were there already (``already there``), and per reason were rejected.

    Raises:
        DataError: no clips, no landmark model, or the encoders are missing.
    """
    from arvrm_ros.perception.text_encoder import TextEncoder

    require_hand_landmarker()
    _image_encoder(options.image_encoder)  # a missing file is told here, once, not by every worker
    text_encoder = TextEncoder()
    known = database.ids()
    folders = clip_folders(clips_folder)
    new = [folder for folder in folders if folder.name not in known]
    counts: Counter[str] = Counter({"already there": len(folders) - len(new)} if len(new) < len(folders) else {})
    clips: list[HumanClip] = []
    thumbnails: list[bytes] = []

    def flush() -> None:
        for clip, feature in zip(clips, text_encoder.encode([clip.caption for clip in clips]), strict=True):
            clip.language = feature
        database.add(clips, thumbnails)
        counts["added"] += len(clips)
        clips.clear()
        thumbnails.clear()

    for result in tqdm(_process(new, options, workers), total=len(new), unit="clip", disable=not progress):
        if isinstance(result, str):
            counts[result] += 1
        else:
            clips.append(result[0])
            thumbnails.append(result[1])
        if len(clips) == BATCH:
            flush()
    flush()
    database.compact()
    return counts


def track(frames: np.ndarray, frame_period: float, options: BuildOptions) -> tuple[np.ndarray, np.ndarray]:
    """Follows the hand through a video.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        frame_period: seconds between two frames.
        options: see there.

    Returns:
        keypoints (T, 21, 3) float32 with gaps filled, and (T,) bool, where the hand was really found.

    Raises:
        RejectedClipError: too few detections.
    """
    with HandLandmarker(video=True, min_detection_confidence=options.detection_confidence) as landmarker:
        found = [landmarker.detect(frame, i * frame_period) for i, frame in enumerate(frames)]
    return fill_gaps(found, frame_period, options)


def fill_gaps(
    found: list[list[HandDetection]], frame_period: float, options: BuildOptions
) -> tuple[np.ndarray, np.ndarray]:
    """The first hand of each frame as a track; short gaps are filled linearly, at the ends with the nearest hand.

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
    seen = np.stack([hands[0].keypoints for hands in found if hands]).reshape(len(times), -1)
    filled = np.stack([np.interp(np.arange(len(found)), times, column) for column in seen.T], axis=1)
    return filled.reshape(-1, len(HAND_KEYPOINTS), 3).astype(np.float32), visible


def encoder_fingerprints(image_encoder: Path | None = None) -> dict[str, str]:
    """What makes features comparable: the encoders' names, or the start of the SHA-256 of their weights.

    Raises:
        DataError: the image encoder's file is missing.
    """
    path = image_encoder or resource("checkpoints", "image_encoder.safetensors")
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(
            f"cannot read the image encoder {path} ({error.strerror}): train one with `arvrm encoder`"
        ) from None
    return {"image_encoder": digest[:16], "text_encoder": "all-MiniLM-L6-v2"}


def check_encoders(database: MotionDatabase, present: dict[str, str]) -> None:
    """Checks that a database was made with the present encoders.

    Raises:
        DataError: its features and a query's could not be compared.
    """
    for name, fingerprint in database.features.items():
        if present.get(name, fingerprint) != fingerprint:
            raise DataError(
                f"the motion database {database.uri} was made with another {name.replace('_', ' ')} ({fingerprint}, "
                f"here {present[name]}): build it again with `arvrm db build`"
            )


def _process(folders: list[Path], options: BuildOptions, workers: int) -> Iterator[tuple[HumanClip, bytes] | str]:
    if not folders:
        return
    # Spawned, not forked: LanceDB, PyTorch and MediaPipe run threads of their own.
    with multiprocessing.get_context("spawn").Pool(min(workers, len(folders)), _start_worker) as pool:
        yield from pool.imap(_process_one, [(folder, options) for folder in folders])


def _start_worker() -> None:
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    # MediaPipe's native code prints several lines per video over the progress bar. Exceptions still reach the parent.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


def _process_one(job: tuple[Path, BuildOptions]) -> tuple[HumanClip, bytes] | str:
    """One clip without its language feature, and its thumbnail; or why it was rejected."""
    folder, options = job
    try:
        clip = read_clip(folder)
        frames, frame_period = clip.frames()
    except DataError:
        return "unreadable"
    if not clip.caption.strip():
        return "no caption"
    try:
        keypoints, visible = track(frames, frame_period, options)
    except RejectedClipError as reason:
        return str(reason)
    stride = max(1, round(1 / (options.rate * frame_period)))
    kept = resample(frames[::stride], options.visual_frames) if options.visual_frames else frames[::stride]
    encoder = _image_encoder(options.image_encoder)
    human = HumanClip(
        clip_id=clip.name,
        caption=clip.caption.strip(),
        frame_period=frame_period * stride,
        keypoints=keypoints[::stride],
        visible=visible[::stride],
        language=np.zeros(0, np.float32),
        visual=encoder.visual_feature(encoder.encode(kept)),
        video=f"{folder.name}/{clip.video.name}",
        task=clip.task,
    )
    return human, thumbnail(frames, keypoints, visible)


def thumbnail(frames: np.ndarray, keypoints: np.ndarray, visible: np.ndarray) -> bytes:
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
def _image_encoder(path: Path | None) -> ImageEncoder:
    """The image encoder, loaded once per process; PyTorch is imported only when it is needed."""
    from arvrm_ros.perception.image_encoder import ImageEncoder

    return ImageEncoder.load(path)
