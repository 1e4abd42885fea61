# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Hand landmarks of images and videos: a thin layer over MediaPipe's hand landmarker (Tasks API)."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from arvrm_ros.data.types import HandDetection
from arvrm_ros.errors import DataError
from arvrm_ros.perception.models import require_hand_landmarker


class HandLandmarker:
    """Finds hands and their 21 keypoints. Use one instance per video and per thread, and close it after use.

    In image mode every image stands alone. In video mode hands are tracked from frame to frame, which is faster and
    steadier; the images are then the consecutive frames of one video.
    """

    def __init__(
        self,
        video: bool = False,
        max_hands: int = 1,
        min_detection_confidence: float = 0.3,
        min_presence_confidence: float = 0.5,
        min_tracking_confidence: float = 0.5,
        model: Path | str | None = None,
    ) -> None:
        """Loads the model.

        Args:
            video: video mode instead of image mode.
            max_hands: hands looked for in one image, at least 1.
            min_detection_confidence: of the palm detector, in [0, 1].
            min_presence_confidence: of the landmark network, in [0, 1]; below it a tracked hand is lost.
            min_tracking_confidence: overlap in [0, 1] between a hand and where it was one frame before.
            model: ``hand_landmarker.task`` file; None for the one that ``arvrm models fetch`` keeps.

        Raises:
            DataError: the model is missing or is not a hand-landmark model.
        """
        self._model = require_hand_landmarker(model)
        self._video = video
        self._settings = {
            "num_hands": max_hands,
            "min_hand_detection_confidence": min_detection_confidence,
            "min_hand_presence_confidence": min_presence_confidence,
            "min_tracking_confidence": min_tracking_confidence,
        }
        self._landmarker: Any = None
        self._milliseconds = -1
        self.reset()

    def reset(self) -> None:
        """Forgets the tracked hands: the next image begins a new video."""
        # Imported late: MediaPipe takes a second to import and most of the package does without it.
        from mediapipe.tasks.python import BaseOptions, vision

        self.close()
        mode = vision.RunningMode.VIDEO if self._video else vision.RunningMode.IMAGE
        options = vision.HandLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(self._model)),
            running_mode=mode,
            **self._settings,
        )
        try:
            self._landmarker = vision.HandLandmarker.create_from_options(options)
        except (RuntimeError, ValueError) as error:
            raise DataError(
                f"{self._model} is not a hand-landmark model ({error}): run `arvrm models fetch --force`"
            ) from None
        self._milliseconds = -1

    def detect(self, image: np.ndarray, seconds: float | None = None) -> list[HandDetection]:
        """Finds the hands of one image.

        Args:
            image: (H, W, 3) uint8 RGB.
            seconds: in video mode the frame's time. When it goes back, a new video is taken to have begun.

        Returns:
            The hands; empty when there is none.
        """
        import mediapipe as mp

        frame = mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(image))
        if self._video:
            if seconds is None:
                raise ValueError("video mode needs the time of each frame")
            milliseconds = round(seconds * 1000)
            if milliseconds < self._milliseconds:
                self.reset()
            # MediaPipe wants strictly growing times; two frames may fall into one millisecond.
            self._milliseconds = max(milliseconds, self._milliseconds + 1)
            result = self._landmarker.detect_for_video(frame, self._milliseconds)
        else:
            result = self._landmarker.detect(frame)
        return [
            HandDetection(
                keypoints=_points(keypoints),
                world=_points(world),
                score=float(handedness[0].score),
                handedness=str(handedness[0].category_name).lower(),
            )
            for keypoints, world, handedness in zip(
                result.hand_landmarks,
                result.hand_world_landmarks,
                result.handedness,
                strict=True,
            )
        ]

    def close(self) -> None:
        """Frees the networks; :meth:`reset` loads them again."""
        if self._landmarker is not None:
            self._landmarker.close()
            self._landmarker = None

    def __enter__(self) -> HandLandmarker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


LOOK_AROUND = 1.0
"""Seconds between two looks for more hands."""


class HandFollower:
    """Follows the hands of a video, each at its own price.

    MediaPipe searches every image in which it follows fewer hands than it may, which takes longer than following one.
    So it may follow as many as there are: once a second an image by itself is searched for more, and a hand that has
    not been seen for a second is waited for no longer. Use one instance per video, and close it after use.

    Args:
        max_hands: followed at most, at least 1.
        min_detection_confidence: of the palm detector, in [0, 1].
    """

    def __init__(self, max_hands: int, min_detection_confidence: float) -> None:
        self._max_hands = max_hands
        self._confidence = min_detection_confidence
        self._landmarkers: dict[int, HandLandmarker] = {}  # by how many they follow; the one that looks around has 0
        self._count, self._most, self._next_look = 1, 0, -float("inf")

    def detect(self, image: np.ndarray, seconds: float) -> list[HandDetection]:
        """The hands of the next frame, as of :meth:`HandLandmarker.detect`."""
        if self._max_hands > 1 and seconds >= self._next_look:
            hands = self._landmarker(0).detect(image)
            self._count, self._most = max(1, len(hands), self._most), 0
            self._next_look = seconds + LOOK_AROUND
        else:
            hands = self._landmarker(self._count).detect(image, seconds)
        self._most = max(self._most, len(hands))
        return hands

    def _landmarker(self, count: int) -> HandLandmarker:
        if count not in self._landmarkers:
            self._landmarkers[count] = HandLandmarker(count > 0, count or self._max_hands, self._confidence)
        return self._landmarkers[count]

    def close(self) -> None:
        """Frees the networks."""
        while self._landmarkers:
            self._landmarkers.popitem()[1].close()

    def __enter__(self) -> HandFollower:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _points(landmarks: list[Any]) -> np.ndarray:
    return np.array([(point.x, point.y, point.z) for point in landmarks], dtype=np.float32)
