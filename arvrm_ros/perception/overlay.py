# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Drawing hand skeletons on images."""

from __future__ import annotations

import cv2
import numpy as np

BONES: tuple[tuple[int, int], ...] = (
    *((first + i - 1 if i else 0, first + i) for first in (1, 5, 9, 13, 17) for i in range(4)),
    (5, 9),
    (9, 13),
    (13, 17),
)
"""Pairs of keypoint indices that are joined: five fingers from the wrist, and the palm."""

FINGER_COLORS: tuple[tuple[int, int, int], ...] = (
    (230, 85, 60),
    (240, 185, 50),
    (80, 185, 90),
    (60, 140, 225),
    (165, 95, 205),
)
"""RGB of thumb, index, middle, ring, little; the wrist and the palm are white."""


def keypoint_color(index: int) -> tuple[int, int, int]:
    """RGB of one of the 21 keypoints."""
    return FINGER_COLORS[(index - 1) // 4] if index else (255, 255, 255)


def draw_hand(image: np.ndarray, keypoints: np.ndarray) -> None:
    """Draws one hand's skeleton into an image.

    Args:
        image: (H, W, 3) uint8 RGB, drawn into.
        keypoints: (21, 2) or (21, 3); x, y in [0, 1] of the image. Points outside the image are cut off.
    """
    height, width = image.shape[:2]
    # Beyond a few image sizes nothing of the hand is visible, and OpenCV wants numbers that fit into 16 bits.
    scaled = np.clip(np.nan_to_num(keypoints[:, :2]), -4, 4) * (width, height)
    points = [(round(float(x)), round(float(y))) for x, y in scaled]
    thickness = max(1, round(height / 240))
    for start, end in BONES:
        palm = start == 0 or (start, end) in BONES[-3:]
        color = (255, 255, 255) if palm else keypoint_color(end)
        cv2.line(image, points[start], points[end], color, thickness, cv2.LINE_AA)
    for index, point in enumerate(points):
        cv2.circle(image, point, thickness + 1, keypoint_color(index), -1, cv2.LINE_AA)
