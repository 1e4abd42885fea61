# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Films a hand in front of a camera, and says meanwhile whether it is seen."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
from tqdm import tqdm

from arvrm_ros.data.video import write_video
from arvrm_ros.errors import DataError
from arvrm_ros.files import replace_atomically
from arvrm_ros.perception.cameras import CameraSource
from arvrm_ros.perception.landmarker import HandLandmarker


def record(
    source: CameraSource, folder: Path, caption: str, seconds: float, rate: float, progress: bool = True
) -> tuple[Path, float]:
    """Films until the source ends, ``seconds`` are over, or Ctrl-C; what was filmed until then is kept.

    Args:
        source: a camera.
        folder: of videos; made when missing. The file's name says the caption.
        caption: what the hand does.
        seconds: length at most.
        rate: frames per second of the video, whatever the camera gives.
        progress: show a bar with how often the hand was found.

    Returns:
        The video, and the share of its frames in which the landmarker found a hand.

    Raises:
        DataError: no caption, no frames, or the camera or the disk failed.
    """
    words = "_".join(re.findall(r"\w+", caption.lower()))
    if not words:
        raise DataError("a recording needs a caption: say what the hand does")
    found: list[bool] = []
    ended = threading.Event()

    def frames(landmarker: HandLandmarker) -> Iterator[np.ndarray]:
        with tqdm(total=round(seconds * rate), unit="frame", desc=caption, disable=not progress) as bar:
            count, first = 0, None
            for frame in source:
                first = frame.seconds if first is None else first
                time = frame.seconds - first
                if time >= seconds or ended.is_set():
                    return
                image = frame.image[: frame.image.shape[0] // 2 * 2, : frame.image.shape[1] // 2 * 2]
                found.append(bool(landmarker.detect(image, time)))
                # A camera slower than asked for has its frames repeated, a faster one has some left out.
                while count <= time * rate:
                    yield image
                    count += 1
                    bar.update()
                bar.set_postfix_str(f"hand {'seen' if found[-1] else 'NOT SEEN'}, {np.mean(found):.0%} so far")

    folder.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now().strftime("%Y%m%d %H%M%S %f")
    path = folder / f"{words} {stamp}.mp4"
    with _ctrl_c_sets(ended), HandLandmarker(video=True) as landmarker, replace_atomically(path) as partial:
        write_video(partial, frames(landmarker), 1 / rate)
        if not found:
            raise DataError("the camera gave no images")
    return path, float(np.mean(found))


@contextlib.contextmanager
def _ctrl_c_sets(event: threading.Event) -> Iterator[None]:
    """An exception might come while a frame is written, and would cost the video."""
    before = signal.signal(signal.SIGINT, lambda *_: event.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
