# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where images come from besides ROS topics: V4L2 devices, video files, bags, folders of images. No ROS in here."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from arvrm_ros.data.bags import BAG_SUFFIX, bag_seconds, read_bag
from arvrm_ros.data.video import probe, read_frames
from arvrm_ros.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass
class Frame:
    """One image, and how many seconds after the start of its source it was taken."""

    image: np.ndarray
    seconds: float


class CameraSource(ABC):
    """A source of (H, W, 3) uint8 RGB frames in order. Use it from one thread and close it after use."""

    @abstractmethod
    def read(self) -> Frame | None:
        """The next frame; None when the source is at its end.

        Raises:
            DataError: the source broke.
        """

    @abstractmethod
    def close(self) -> None:
        """Frees the device or file."""

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.read()) is not None:
            yield frame


class _Pace:
    """Makes a recording run in real time."""

    def __init__(self) -> None:
        self._started: float | None = None

    def wait(self, seconds: float) -> None:
        """Sleeps until ``seconds`` after the first call's frame are due."""
        now = time.monotonic()
        if self._started is None:
            self._started = now - seconds
        time.sleep(max(0.0, self._started + seconds - now))


class VideoSource(CameraSource):
    """A video file, or a bag in an MCAP file."""

    def __init__(self, path: Path | str, loop: bool = False, real_time: bool = False) -> None:
        """Opens the file.

        Args:
            path: anything FFmpeg reads, or a ``.mcap`` file with the images of one camera.
            loop: begin anew at the end; times go on growing.
            real_time: :meth:`read` waits until the frame is due, as a camera would.

        Raises:
            DataError: no such file, or no video in it.
        """
        self._path, self._loop = Path(path), loop
        self._pace = _Pace() if real_time else None
        self.period = 1 / 30.0
        """Seconds between two frames, on average."""
        if self._path.suffix == BAG_SUFFIX:
            bag_seconds(self._path)  # tells what is wrong with it
        else:
            self.period = 1 / (probe(path).rate or 30.0)
        self._frames = self._open()
        self._offset, self._last = 0.0, -1.0

    def read(self) -> Frame | None:
        """The next frame; None at the end of a file that does not loop."""
        frame = next(self._frames, None)
        if frame is None and self._loop and self._last >= 0:
            self._offset, self._frames = self._last + self.period, self._open()
            frame = next(self._frames, None)
        if frame is None:
            return None
        self._last = self._offset + frame[0]
        if self._pace:
            self._pace.wait(self._last)
        return Frame(frame[1], self._last)

    def close(self) -> None:
        """Closes the file."""
        self._frames.close()

    def _open(self) -> Generator[tuple[Any, ...]]:
        """Time and image of each frame, first."""
        return read_bag(self._path, hands=False) if self._path.suffix == BAG_SUFFIX else read_frames(self._path)


class DeviceSource(CameraSource):
    """A V4L2 device, e.g. ``/dev/video0``, through OpenCV."""

    def __init__(self, device: str, height: int = 480, width: int = 640, rate: float = 30.0) -> None:
        """Opens the device and asks it for an image size (pixels) and rate (Hz); it may give another one.

        Raises:
            DataError: no such device, no permission, or it is in use.
        """
        if not Path(device).exists():
            known = ", ".join(sorted(str(p) for p in Path("/dev").glob("video*"))) or "none"
            raise DataError(f"there is no camera {device} (devices found: {known})")
        self._device = device
        self._capture = cv2.VideoCapture(device, cv2.CAP_V4L2)
        if not self._capture.isOpened():
            raise DataError(f"cannot open the camera {device}: it is in use, no camera, or you are not in group video")
        for key, value in (
            (cv2.CAP_PROP_FRAME_WIDTH, width),
            (cv2.CAP_PROP_FRAME_HEIGHT, height),
            (cv2.CAP_PROP_FPS, rate),
            (cv2.CAP_PROP_BUFFERSIZE, 1),  # the newest image, not the oldest one waiting
        ):
            self._capture.set(key, value)
        self._started = time.monotonic()

    def read(self) -> Frame | None:
        """Waits for the next image.

        Raises:
            DataError: the device gives no images any more (unplugged).
        """
        good, image = self._capture.read()
        if not good:
            raise DataError(f"the camera {self._device} gives no images any more")
        return Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), time.monotonic() - self._started)

    def close(self) -> None:
        """Frees the device."""
        self._capture.release()


class FolderSource(CameraSource):
    """A folder of JPEG or PNG images in the order of their names."""

    def __init__(self, path: Path | str, rate: float = 10.0, loop: bool = False, real_time: bool = False) -> None:
        """Lists the folder.

        Args:
            path: the folder.
            rate: images per second.
            loop: begin anew at the end.
            real_time: :meth:`read` waits until the image is due.

        Raises:
            DataError: no images there.
        """
        self._files = sorted(p for p in Path(path).glob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if not self._files:
            raise DataError(f"there are no images ({', '.join(IMAGE_SUFFIXES)}) in {path}")
        self._rate, self._loop = rate, loop
        self._pace = _Pace() if real_time else None
        self._count = 0

    def read(self) -> Frame | None:
        """The next image.

        Raises:
            DataError: a file is not an image.
        """
        if self._count >= len(self._files) and not self._loop:
            return None
        file = self._files[self._count % len(self._files)]
        image = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if image is None:
            raise DataError(f"{file} is not an image")
        seconds = self._count / self._rate
        self._count += 1
        if self._pace:
            self._pace.wait(seconds)
        return Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), seconds)

    def close(self) -> None:
        """Nothing is kept open."""


def open_source(uri: str, loop: bool = False, rate: float = 30.0) -> CameraSource:
    """Opens a source that runs in real time, by what its name says.

    Args:
        uri: ``/dev/videoN``, a folder of images, a video file, or a bag (``.mcap``).
        loop: videos and folders begin anew at their end.
        rate: frames per second asked of a device, or of a folder.

    Raises:
        DataError: there is nothing of that name, or it cannot be opened.
    """
    if uri.startswith("/dev/"):
        return DeviceSource(uri, rate=rate)
    if Path(uri).is_dir():
        return FolderSource(uri, rate, loop, real_time=True)
    return VideoSource(uri, loop, real_time=True)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes (H, W, 3) to (height, width, 3): by area when it shrinks, so that nothing flickers, else linearly."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


class FrameSets:
    """Joins the frames of several cameras into sets whose capture times lie close together, at a limited rate.

    The newest frame of each camera waits for the others. A set is complete when all its times lie within half a
    period; nothing of an incomplete set ever comes out.
    """

    def __init__(self, names: Iterable[str], period: float) -> None:
        """Begins with nothing.

        Args:
            names: the cameras.
            period: seconds between two sets. Cameras that are faster are thinned out.
        """
        self._newest: dict[str, tuple[float, Any] | None] = dict.fromkeys(names)
        self._period = period
        self._last = -float("inf")

    def add(self, name: str, stamp: float, frame: Any) -> dict[str, tuple[float, Any]] | None:
        """Takes a camera's frame; when that completes a set, gives it: per camera the capture time and the frame.

        Args:
            name: of the camera.
            stamp: capture time, seconds. When it goes back by more than a period, time has begun anew.
            frame: anything.
        """
        if stamp < self._last - self._period:
            self._newest = dict.fromkeys(self._newest)
            self._last = -float("inf")
        # A quarter of a period of jitter is let through: a camera of exactly the wanted rate loses nothing.
        if stamp - self._last < 0.75 * self._period:
            return None
        self._newest[name] = (stamp, frame)
        found = {name: entry for name, entry in self._newest.items() if entry is not None}
        stamps = [stamp for stamp, _ in found.values()]
        if len(found) < len(self._newest) or max(stamps) - min(stamps) > 0.5 * self._period:
            return None
        self._last = min(stamps)
        self._newest = dict.fromkeys(self._newest)
        return found
