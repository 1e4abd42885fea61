# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How well the hand landmarker sees: its landmarks on simulated clips against the hand's true keypoints.

Errors are means over the 21 keypoints of a frame in which a hand was found:

- pixels: distance in the image;
- millimetres, camera axes: the landmarker's world landmarks and the truth, both moved to their centre and the former
  scaled to the latter's size, because one camera cannot tell a small near hand from a large far one;
- millimetres, aligned: the same after the best rotation too (Procrustes; "PA-MPJPE"), the error of the hand's shape.

A detection farther from the hand than a quarter of the hand's diagonal in the image is counted as misplaced. It counts
as found, and its error counts too.

The tracks are measured as they are found and as :func:`arvrm_ros.retrieval.extraction.hand_track` smooths them:

- jitter: how far the error moves from one frame to the next, mean over the keypoints, pixels;
- lag: by how much time the track is late, from the error along the true motion (least squares).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
from tqdm import tqdm

from arvrm_ros import pages
from arvrm_ros.data.clips import Clip, Truth, clip_folders, read_clip
from arvrm_ros.data.types import HAND_KEYPOINTS, HandDetection
from arvrm_ros.errors import DataError
from arvrm_ros.perception.landmarker import HandLandmarker
from arvrm_ros.perception.overlay import draw_hand
from arvrm_ros.retrieval.extraction import ExtractionOptions, hand_track, start_worker
from arvrm_ros.workers import process_pool

MISPLACED = 0.25
EXAMPLES = 8
"""Pictures per kind in the report."""


@dataclass
class Measurement:
    """The landmarker on one clip (T frames, F of them with a hand found).

    Attributes:
        clip: the clip, with its truth.
        found: (T,) bool.
        keypoints: (T, 21, 3) landmarks in the image, NaN where no hand was found.
        pixels: (F, 21) distance to the truth, pixels.
        camera_mm: (F, 21) millimetres, camera axes.
        aligned_mm: (F, 21) millimetres, after the best rotation.
        misplaced: (F,) bool.
        handedness: (F,) whether the label agrees with the truth.
        tracks: of those with two frames found, the errors of the track as it is found and as it is smoothed.
    """

    clip: Clip
    found: np.ndarray
    keypoints: np.ndarray
    pixels: np.ndarray
    camera_mm: np.ndarray
    aligned_mm: np.ndarray
    misplaced: np.ndarray
    handedness: np.ndarray
    tracks: dict[str, TrackErrors]


@dataclass
class TrackErrors:
    """Errors of a track where the hand was found (F frames, of which J follow one in which it was found too).

    Attributes:
        pixels: (F,) mean distance to the truth.
        aligned_mm: (F,) as in :class:`Measurement`, mean.
        jitter: (J,) pixels.
        along: the error's inner product with the true velocity and the latter's with itself, for the lag.
    """

    pixels: np.ndarray
    aligned_mm: np.ndarray
    jitter: np.ndarray
    along: tuple[float, float]


def measure_clip(folder: Path) -> Measurement:
    """Runs the landmarker over one clip in video mode.

    Raises:
        DataError: the clip is malformed or has no truth, or the model is missing.
    """
    clip = read_clip(folder)
    if clip.truth is None:
        raise DataError(f"{folder} has no truth.npz: only simulated clips can be measured")
    images, period = clip.frames()
    height, width = images.shape[1:3]
    if len(images) != len(clip.truth.keypoints_image):
        raise DataError(f"{folder}: {len(images)} frames, but truth for {len(clip.truth.keypoints_image)}")
    with HandLandmarker(video=True) as landmarker:
        detections = [landmarker.detect(image, i * period) for i, image in enumerate(images)]

    found = np.array([bool(hands) for hands in detections])
    keypoints = np.full((len(images), 21, 3), np.nan, np.float32)
    pixels, camera_mm, aligned_mm, misplaced, handedness = [], [], [], [], []
    for i in np.flatnonzero(found):
        hand = detections[i][0]
        keypoints[i] = hand.keypoints
        true = clip.truth.keypoints_image[i, :, :2] * (width, height)
        pixels.append(np.linalg.norm(hand.keypoints[:, :2] * (width, height) - true, axis=1))
        misplaced.append(pixels[-1].mean() > MISPLACED * np.linalg.norm(np.ptp(true, axis=0)))
        in_camera = clip.truth.keypoints_world[i] @ clip.truth.world_from_camera[:3, :3]
        camera_mm.append(1000 * shape_error(hand.world, in_camera, rotate=False))
        aligned_mm.append(1000 * shape_error(hand.world, in_camera, rotate=True))
        handedness.append(hand.handedness == clip.handedness)
    return Measurement(
        clip,
        found,
        keypoints,
        np.array(pixels).reshape(-1, 21),
        np.array(camera_mm).reshape(-1, 21),
        np.array(aligned_mm).reshape(-1, 21),
        np.array(misplaced, bool),
        np.array(handedness, bool),
        _measure_tracks(detections, clip.truth, period, (width, height)) if found.sum() > 1 else {},
    )


def _measure_tracks(
    detections: list[list[HandDetection]], truth: Truth, period: float, size: tuple[int, int]
) -> dict[str, TrackErrors]:
    """The errors of the track as it is found, and as a database gets it."""
    known = np.flatnonzero([bool(hands) for hands in detections])
    part = slice(known[0], known[-1] + 1)
    times = [period * i for i in range(len(detections))][part]
    true = truth.keypoints_image[part, :, :2] * size
    in_camera = truth.keypoints_world[part] @ truth.world_from_camera[:3, :3]
    velocity = np.gradient(true, period, axis=0)
    errors = {}
    for name, smoothing in (("as found", 0.0), ("smoothed", ExtractionOptions().smoothing)):
        options = ExtractionOptions(min_visible=0, max_gap=np.inf, smoothing=smoothing)
        keypoints, world, visible = hand_track(detections[part], times, options)
        error = keypoints[..., :2] * size - true
        moved = np.linalg.norm(np.diff(error, axis=0), axis=-1).mean(1)
        centred = error - np.median(error, axis=0)  # what is always off by the same is no lag
        errors[name] = TrackErrors(
            np.linalg.norm(error, axis=-1).mean(1)[visible],
            np.array([1000 * shape_error(world[i], in_camera[i], rotate=True).mean() for i in np.flatnonzero(visible)]),
            moved[visible[1:] & visible[:-1]],
            (float((centred * velocity)[visible].sum()), float((velocity**2)[visible].sum())),
        )
    return errors


def shape_error(points: np.ndarray, truth: np.ndarray, rotate: bool) -> np.ndarray:
    """How far points lie from the true ones once they are moved and scaled, and perhaps rotated, onto them.

    Args:
        points: (K, 3), any unit and origin.
        truth: (K, 3) metres.
        rotate: also rotate.

    Returns:
        (K,) metres.
    """
    moved, target = points - points.mean(0), truth - truth.mean(0)
    if rotate:
        # Kabsch 1976: the rotation of least squares, reflections excluded.
        u, _, vt = np.linalg.svd(moved.T @ target)
        sign = np.sign(np.linalg.det(u @ vt))
        moved = moved @ (u * [1.0, 1.0, sign]) @ vt
    scale = np.linalg.norm(target) / max(float(np.linalg.norm(moved)), 1e-9)
    return np.linalg.norm(scale * moved - target, axis=1)


def summarise(measurements: list[Measurement]) -> dict[str, Any]:
    """Figures of a set of clips: rates in [0, 1], errors per frame as mean, median and 90th percentile."""
    found = np.concatenate([m.found for m in measurements])
    errors = {
        name: np.concatenate([getattr(m, name) for m in measurements]).mean(axis=1)
        for name in ("pixels", "camera_mm", "aligned_mm")
    }
    agreed, misplaced = (np.concatenate([getattr(m, n) for m in measurements]) for n in ("handedness", "misplaced"))
    return {
        "clips": len(measurements),
        "frames": len(found),
        "detection_rate": float(found.mean()),
        "detection_rate_per_clip": float(np.mean([m.found.mean() for m in measurements])),
        "misplaced_rate": _mean(misplaced),
        "handedness_agreement": _mean(agreed),
        **{
            name: {
                "mean": _mean(values),
                "median": float(np.median(values)) if len(values) else None,
                "p90": float(np.percentile(values, 90)) if len(values) else None,
            }
            for name, values in errors.items()
        },
    }


def summarise_tracks(measurements: list[Measurement]) -> dict[str, dict[str, float | None]]:
    """Mean errors of the tracks as they are found and as they are smoothed."""
    figures: dict[str, dict[str, float | None]] = {}
    for name in ("as found", "smoothed"):
        tracks = [m.tracks[name] for m in measurements if m.tracks]
        along = np.sum([t.along for t in tracks], axis=0) if tracks else (0.0, 0.0)
        figures[name] = {
            key: _mean(np.concatenate([getattr(t, key) for t in tracks])) if tracks else None
            for key in ("pixels", "aligned_mm", "jitter")
        }
        figures[name]["lag_ms"] = -1000 * float(along[0]) / float(along[1]) if along[1] else None
    return figures


def _mean(values: np.ndarray) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _band(key: str, width: int) -> Callable[[Clip], str]:
    def band(clip: Clip) -> str:
        low = int(np.floor(clip.attributes[key] / width) * width)
        return f"{low} to {low + width}"

    return band


GROUPS: dict[str, Callable[[Clip], str]] = {
    "view": lambda clip: clip.attributes["view"],
    "camera elevation (degrees)": _band("camera_elevation", 10),
    "hand length (pixels)": _band("hand_pixels", 25),
    "skin": lambda clip: clip.attributes["skin"],
    "handedness": lambda clip: clip.handedness,
    "gesture": lambda clip: clip.attributes["gesture"],
    "person stands": lambda clip: clip.attributes["stand"],
    "variant": lambda clip: clip.attributes["variant"],
    "task": lambda clip: clip.task,
}
"""What the figures are split by."""


def measure(root: Path | str, workers: int = 1, limit: int | None = None) -> list[Measurement]:
    """Measures the clips of a folder (the first ``limit`` by name), in ``workers`` processes.

    Raises:
        DataError: there is no clip, or one cannot be measured.
    """
    folders = clip_folders(root)[:limit]
    if workers <= 1:
        return [measure_clip(folder) for folder in tqdm(folders, "measuring", unit="clip")]
    with process_pool(workers, start_worker) as pool:
        return list(tqdm(pool.map(measure_clip, folders), "measuring", len(folders), unit="clip"))


def report(measurements: list[Measurement]) -> dict[str, Any]:
    """All figures as plain data: overall, per group of :data:`GROUPS`, per keypoint, per clip."""
    groups: dict[str, dict[str, Any]] = {}
    for name, key in GROUPS.items():
        members: dict[str, list[Measurement]] = {}
        for m in measurements:
            members.setdefault(key(m.clip), []).append(m)
        groups[name] = {value: summarise(members[value]) for value in sorted(members, key=_natural)}
    pixels, aligned = (np.concatenate([getattr(m, n) for m in measurements]) for n in ("pixels", "aligned_mm"))
    return {
        "overall": summarise(measurements),
        "tracks": summarise_tracks(measurements),
        "groups": groups,
        "keypoints": {
            name: {"pixels": _mean(pixels[:, k]), "aligned_mm": _mean(aligned[:, k])}
            for k, name in enumerate(HAND_KEYPOINTS)
        },
        "clips": {
            m.clip.name: {"detection_rate": float(m.found.mean()), "pixels": _mean(m.pixels)} for m in measurements
        },
    }


def _natural(text: str) -> tuple[int, float, str]:
    """Sorts "-30 to -20" and "100 to 125" by number, words by letter."""
    first = text.split(" ")[0]
    number = first.lstrip("-").isdigit()
    return (0, float(first), "") if number else (1, 0.0, text)


def example_frames(measurements: list[Measurement], seed: int = 0) -> dict[str, list[tuple[Measurement, int]]]:
    """Up to :data:`EXAMPLES` frames each that are typical, worst and missed, one per clip: (measurement, frame)."""
    with_hand = [m for m in measurements if m.found.any()]
    rng = np.random.default_rng(seed)

    def rank(m: Measurement, place: Callable[[np.ndarray], int]) -> int:
        return int(np.flatnonzero(m.found)[place(m.pixels.mean(axis=1))])

    typical = [(m, rank(m, lambda e: int(np.argsort(e)[len(e) // 2]))) for m in with_hand]
    worst = sorted(with_hand, key=lambda m: -float(m.pixels.mean(axis=1).max()))
    missed = [(m, int(rng.choice(np.flatnonzero(~m.found)))) for m in measurements if not m.found.all()]
    return {
        "Typical": [typical[i] for i in rng.permutation(len(typical))[:EXAMPLES]],
        "Worst": [(m, rank(m, lambda e: int(np.argmax(e)))) for m in worst[:EXAMPLES]],
        "No hand found": [missed[i] for i in rng.permutation(len(missed))[:EXAMPLES]],
    }


def overlay(measurement: Measurement, frame: int) -> np.ndarray:
    """One frame (H, W, 3) uint8 RGB with the landmarks as a skeleton and the truth as black dots on white."""
    image = measurement.clip.frames()[0][frame]
    truth = measurement.clip.truth
    if measurement.found[frame]:
        draw_hand(image, measurement.keypoints[frame])
    if truth is not None:
        for x, y in truth.keypoints_image[frame, :, :2] * (image.shape[1], image.shape[0]):
            cv2.circle(image, (round(float(x)), round(float(y))), 3, (255, 255, 255), -1, cv2.LINE_AA)
            cv2.circle(image, (round(float(x)), round(float(y))), 2, (0, 0, 0), -1, cv2.LINE_AA)
    return image


def render_html(measurements: list[Measurement]) -> str:
    """The report as one HTML page with its pictures inside."""
    examples = {
        kind: [(_data_uri(overlay(m, frame)), _describe(m, frame)) for m, frame in frames]
        for kind, frames in example_frames(measurements).items()
    }
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda v: "–" if v is None else f"{100 * v:.0f} %"
    environment.filters["number"] = lambda v: "–" if v is None else f"{v:.1f}"
    return environment.from_string(_PAGE).render(**report(measurements), examples=examples)


def _describe(measurement: Measurement, frame: int) -> str:
    attributes = measurement.clip.attributes
    error = ""
    if measurement.found[frame]:
        row = int(measurement.found[:frame].sum())
        error = f", {measurement.pixels[row].mean():.0f} px"
    return f"{measurement.clip.name} frame {frame}: {attributes['view']}, {attributes['skin']}{error}"


def _data_uri(image: np.ndarray) -> str:
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
    return pages.data_uri("image/jpeg", jpeg.tobytes())


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Hand keypoints</title><style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem } td, th { padding: 0.15rem 0.7rem; text-align: right }
th { border-bottom: 1px solid #999; font-weight: 600 } td:first-child, th:first-child { text-align: left }
tr:nth-child(even) td { background: #f5f5f5 } figure { display: inline-block; width: 16.5rem; margin: 0.3rem }
figure img { width: 100% } figcaption { font-size: 12px; color: #555 }
</style></head><body>
{% macro row(name, s) %}
<tr><td>{{ name }}</td><td>{{ s.clips }}</td><td>{{ s.frames }}</td><td>{{ s.detection_rate | percent }}</td>
<td>{{ s.misplaced_rate | percent }}</td><td>{{ s.pixels.median | number }}</td><td>{{ s.pixels.mean | number }}</td>
<td>{{ s.camera_mm.median | number }}</td><td>{{ s.camera_mm.mean | number }}</td>
<td>{{ s.aligned_mm.median | number }}</td><td>{{ s.aligned_mm.mean | number }}</td>
<td>{{ s.handedness_agreement | percent }}</td></tr>
{% endmacro %}
{% macro head(name) %}
<tr><th>{{ name }}</th><th>clips</th><th>frames</th><th>found</th><th>misplaced</th><th>px median</th><th>px mean</th>
<th>mm camera median</th><th>mean</th><th>mm aligned median</th><th>mean</th><th>handedness agrees</th></tr>
{% endmacro %}
<h1>Hand keypoints: the landmarker against the simulator's truth</h1>
<p>MediaPipe's hand landmarker in video mode. Errors are means over the 21 keypoints of the frames in which a hand was
found; "mm camera": world landmarks centred and scaled to the true size, camera axes; "mm aligned": after the best
rotation as well. Misplaced: off by more than a quarter of the hand's diagonal (share of the frames found).</p>
<table>{{ head("") }}{{ row("all clips", overall) }}</table>
<p>Found, averaged over clips: {{ overall.detection_rate_per_clip | percent }}.</p>
<table><tr><th>tracks</th><th>px mean</th><th>mm aligned mean</th><th>jitter px</th><th>lag ms</th></tr>
{% for name, s in tracks.items() %}
<tr><td>{{ name }}</td><td>{{ s.pixels | number }}</td><td>{{ s.aligned_mm | number }}</td>
<td>{{ s.jitter | number }}</td><td>{{ s.lag_ms | number }}</td></tr>
{% endfor %}
</table>
{% for kind, pictures in examples.items() %}
<h2>{{ kind }}</h2>
{% for source, caption in pictures %}
<figure><img src="{{ source }}" alt="{{ caption }}"><figcaption>{{ caption }}</figcaption></figure>
{% else %}<p>None.</p>
{% endfor %}
{% endfor %}
<p>Skeleton: the landmarker. Black dots: the truth.</p>
{% for name, members in groups.items() %}
<h2>By {{ name }}</h2>
<table>{{ head(name) }}{% for value, s in members.items() %}{{ row(value, s) }}{% endfor %}</table>
{% endfor %}
<h2>By keypoint</h2>
<table><tr><th>keypoint</th><th>px mean</th><th>mm aligned mean</th></tr>
{% for name, s in keypoints.items() %}
<tr><td>{{ name }}</td><td>{{ s.pixels | number }}</td><td>{{ s.aligned_mm | number }}</td></tr>
{% endfor %}
</table>
</body></html>
"""
