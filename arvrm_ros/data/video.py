# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Whole short videos to and from arrays (PyAV)."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from arvrm_ros.errors import DataError


def write_video(path: Path | str, frames: Iterable[np.ndarray], frame_period: float, quality: int = 20) -> None:
    """Writes an H.264 MP4 that every browser plays.

    Args:
        path: ends in ``.mp4``; overwritten.
        frames: (H, W, 3) uint8 RGB each, all of one even height and width.
        frame_period: seconds between two frames.
        quality: x264's constant rate factor, 0 (lossless) to 51; 18 looks like the original.
    """
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        rate = Fraction(1 / frame_period).limit_denominator(1000)
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(quality), "preset": "fast"})
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for i, image in enumerate(frames):
            if i == 0:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def read_video(path: Path | str) -> tuple[np.ndarray, float]:
    """All frames of a video.

    Returns:
        (T, H, W, 3) uint8 RGB, and the seconds between two frames.

    Raises:
        DataError: no such file, or no video that can be read.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
            rate = stream.average_rate
    except (av.error.FFmpegError, OSError, IndexError) as error:
        raise DataError(f"cannot read the video {path}: {error}") from None
    if not frames or not rate:
        raise DataError(f"the video {path} has no frames")
    return np.stack(frames), float(1 / rate)
