# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Videos to and from arrays (PyAV): written whole, read whole or frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import av.filter
import numpy as np
from av.video.reformatter import ColorTrc

from arvrm_ros.errors import DataError

HDR_TRANSFERS = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)  # PQ, HLG


def _cause(error: Exception) -> str:
    return "it has no frames" if isinstance(error, av.error.EOFError) else getattr(error, "strerror", None) or str(error)


def write_video(path: Path | str, frames: Iterable[np.ndarray], frame_period: float, quality: int = 20) -> None:
    """Writes an H.264 MP4 that every browser plays.

    Args:
        path: of the MP4 file; overwritten.
        frames: (H, W, 3) uint8 RGB each, all of one even height and width.
        frame_period: seconds between two frames.
        quality: x264's constant rate factor, 0 (lossless) to 51; 18 looks like the original.

    Raises:
        DataError: the disk is full, or may not be written.
    """
    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
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
    except (av.error.FFmpegError, OSError) as error:
        raise DataError(f"cannot write the video {path}: {_cause(error)}") from None


@dataclass(frozen=True)
class VideoInfo:
    """What a video's header says: seconds (0 when it does not say) and frames per second."""

    seconds: float
    rate: float


def probe(path: Path | str) -> VideoInfo:
    """Reads a video's header.

    Raises:
        DataError: no such file, or no video in it.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            ticks = stream.duration * stream.time_base if stream.duration and stream.time_base else None
            seconds = float(ticks) if ticks is not None else (container.duration or 0) / av.time_base
            return VideoInfo(seconds, float(stream.average_rate or stream.base_rate or 0))
    except IndexError:
        raise DataError(f"{path} holds no video") from None
    except (av.error.FFmpegError, OSError) as error:
        raise DataError(f"cannot read the video {path}: {_cause(error)}") from None


def read_frames(
    path: Path | str, start: float = 0.0, end: float = float("inf"), rate: float = float("inf")
) -> Generator[tuple[float, np.ndarray]]:
    """The frames of a part of a video, one in memory at a time, as they are meant to be seen.

    Args:
        path: phone videos that carry a rotation are turned upright, HDR ones (PQ, HLG) are tone-mapped, 10-bit ones
            become 8-bit.
        start: seconds from the first frame.
        end: seconds, exclusive.
        rate: frames per second that are given at most; from faster videos frames are left out.

    Yields:
        Time in seconds from the video's first frame, by its time stamps, and the (H, W, 3) uint8 RGB image.

    Raises:
        DataError: no such file, no video in it, or damage, with the time of it.
    """
    time, due = 0.0, start
    to_sdr: Callable[[av.VideoFrame], av.VideoFrame] | None = None
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            first = float((stream.start_time or 0) * stream.time_base) if stream.time_base else 0.0
            if start > 0 and stream.time_base:
                container.seek(int((start + first) / stream.time_base), stream=stream)
            period = float(1 / stream.average_rate) if stream.average_rate else 0.0
            for frame in container.decode(stream):
                time = time + period if frame.time is None else frame.time - first
                if time >= end:
                    return
                # A quarter of a period early is on time: the stamps of phones jitter.
                if time < start or time < due - 0.25 / rate:
                    continue
                due = max(due + 1 / rate, time + 0.75 / rate)
                turns = round(frame.rotation / 90)
                if frame.color_trc in HDR_TRANSFERS:
                    to_sdr = to_sdr or _tone_mapper(stream)
                    frame = to_sdr(frame)
                image = frame.to_ndarray(format="rgb24", threads=1)
                yield time, np.rot90(image, turns) if turns else image
    except IndexError:
        raise DataError(f"{path} holds no video") from None
    except av.error.InvalidDataError as error:
        raise DataError(f"the video {path} is damaged after {time:.1f} s") from None
    except (av.error.FFmpegError, OSError) as error:
        raise DataError(f"cannot read the video {path}: {_cause(error)}") from None


def _tone_mapper(stream: av.VideoStream) -> Callable[[av.VideoFrame], av.VideoFrame]:
    """Brings HDR frames to what a usual screen shows, BT.709; FFmpeg's scaler takes a second to prepare for it."""
    graph = av.filter.Graph()
    graph.link_nodes(
        graph.add_buffer(template=stream),
        graph.add("scale", "out_transfer=bt709:out_primaries=bt709:out_color_matrix=bt709:out_range=pc"),
        graph.add("format", "rgb24"),
        graph.add("buffersink"),
    ).configure()

    def to_sdr(frame: av.VideoFrame) -> av.VideoFrame:
        graph.push(frame)
        return cast(av.VideoFrame, graph.pull())

    return to_sdr


def read_video(path: Path | str) -> tuple[np.ndarray, float]:
    """All frames of a short video.

    Returns:
        (T, H, W, 3) uint8 RGB, and the seconds between two frames.

    Raises:
        DataError: no such file, or no video that can be read.
    """
    rate = probe(path).rate
    frames = [image for _, image in read_frames(path)]
    if not frames or not rate:
        raise DataError(f"the video {path} has no frames")
    return np.stack(frames), 1 / rate
