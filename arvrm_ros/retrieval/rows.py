# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Clips as rows of the motion database's table, today's and those of older versions."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.numpy

from arvrm_ros.data.types import HAND_KEYPOINTS, HumanClip
from arvrm_ros.errors import DataError

COLUMNS = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("frames", pa.int32(), nullable=False),
        pa.field("found", pa.int32(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("quality", pa.float32(), nullable=False),
        pa.field("extraction", pa.string(), nullable=False),
        pa.field("thumbnail", pa.binary(), nullable=False),
        pa.field("clip", pa.binary(), nullable=False),
    ]
)
"""Of version 4. What is looked for, sorted by or counted has a column; ``found`` are the frames with a hand. The clip
itself is one value, as safetensors: a search reads some dozens from all over the table, and every column more would
cost it half a millisecond."""

FLAT_COLUMNS = pa.schema(
    [
        pa.field("clip_id", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("task", pa.string()),
        pa.field("video", pa.string()),
        pa.field("frame_period", pa.float64()),
        pa.field("frames", pa.int32()),
        pa.field("keypoints", pa.list_(pa.float16())),
        pa.field("visible", pa.list_(pa.bool_())),
        pa.field("language", pa.list_(pa.float32())),
        pa.field("visual", pa.list_(pa.float16())),
        pa.field("visual_frames", pa.int32()),
        # Since version 2:
        pa.field("start", pa.float64()),
        pa.field("handedness", pa.string()),
        pa.field("world", pa.list_(pa.float32())),
        pa.field("quality", pa.float32()),
        # Since version 3:
        pa.field("extraction", pa.string()),
    ]
)
"""Of versions 1 to 3, and of exports. Lists are flat; ``frames``, ``visual_frames`` and the number of keypoints give
the shapes back."""

PACKED = "clip"
"""The column that versions before 4 have not."""

# Keypoints in float16 are exact to 0.0005 of the image, a quarter of a pixel at 640 pixels and below the landmarker's
# own error.
_ARRAYS = {
    "keypoints": np.float16, "visible": bool, "language": np.float32, "visual": np.float16, "world": np.float32
}  # fmt: skip


def packed_rows(clips: Sequence[HumanClip], thumbnails: Sequence[bytes]) -> pa.Table:
    """Clips as rows of :data:`COLUMNS`."""
    columns = [
        [clip.clip_id for clip in clips],
        [clip.caption for clip in clips],
        [clip.task for clip in clips],
        [len(clip.keypoints) for clip in clips],
        [int(np.sum(clip.visible)) for clip in clips],
        [len(clip.keypoints) * clip.frame_period for clip in clips],
        [clip.quality for clip in clips],
        [clip.extraction for clip in clips],
        thumbnails,
        [_packed(clip) for clip in clips],
    ]
    return pa.table(columns, schema=COLUMNS)


def flat_rows(clips: Sequence[HumanClip]) -> pa.Table:
    """Clips as rows of :data:`FLAT_COLUMNS`."""
    rows = [
        vars(clip)
        | {name: np.asarray(getattr(clip, name), dtype).ravel() for name, dtype in _ARRAYS.items()}
        | {"frames": len(clip.keypoints), "visual_frames": len(clip.visual)}
        for clip in clips
    ]
    return pa.Table.from_pylist(rows, FLAT_COLUMNS)


def clip_columns(there: Sequence[str]) -> list[str]:
    """Of a table's columns those that :func:`clips_of` needs."""
    return [PACKED] if PACKED in there else [name for name in FLAT_COLUMNS.names if name in there]


def clips_of(table: pa.Table) -> list[HumanClip]:
    """The clips of rows of any version.

    Raises:
        DataError: one is damaged.
    """
    if PACKED in table.column_names:
        return [_unpacked(packed) for packed in table[PACKED].to_pylist()]
    return [_of_flat_row(row) for row in _rows(table)]


def check_clip(clip: HumanClip) -> None:
    """Checks a clip's shapes and numbers.

    Raises:
        DataError: what is wrong with it.
    """
    frames = len(clip.keypoints)
    problems = [
        ("no id", not clip.clip_id),
        ("no frames", frames == 0),
        ("keypoints that are not (T, 21, 3)", clip.keypoints.shape[1:] != (len(HAND_KEYPOINTS), 3)),
        ("visible that is not (T,)", clip.visible.shape != (frames,)),
        (
            "world that is not (T, 21, 3)",
            clip.world.shape not in {clip.keypoints.shape, (0, *clip.keypoints.shape[1:])},
        ),
        ("visual features that are not (T, d)", clip.visual.ndim != 2 or len(clip.visual) == 0),
        ("a language feature that is not (d,)", clip.language.ndim != 1),
        ("a frame period that is not positive", not clip.frame_period > 0),
        (
            "numbers that are not finite",
            not all(np.isfinite(a).all() for a in (clip.keypoints, clip.world, clip.language, clip.visual)),
        ),
    ]
    if wrong := [text for text, bad in problems if bad]:
        raise DataError(f"clip {clip.clip_id!r} has {', '.join(wrong)}")


def _packed(clip: HumanClip) -> bytes:
    """What is no array is JSON in the metadata."""
    arrays = {name: np.ascontiguousarray(getattr(clip, name), dtype) for name, dtype in _ARRAYS.items()}
    values = {name: value for name, value in vars(clip).items() if name not in arrays}
    return safetensors.numpy.save(arrays, {PACKED: json.dumps(values, default=float)})


def _unpacked(packed: bytes) -> HumanClip:
    """Reads safetensors' format (8 bytes with the header's length, the header as JSON, the arrays) where it lies.

    Its own reader copies every array, reads metadata from files alone, and takes half of a search's time for Python.
    """
    try:
        begin = 8 + int.from_bytes(packed[:8], "little")
        header = json.loads(packed[8:begin])
        values: dict[str, Any] = json.loads(header["__metadata__"][PACKED])
        for name, dtype in _ARRAYS.items():
            entry, size = header[name], np.dtype(dtype).itemsize
            first, end = entry["data_offsets"]
            array = np.frombuffer(packed, dtype, (end - first) // size, begin + first).reshape(entry["shape"])
            values[name] = array.astype(np.float32) if dtype is np.float16 else array
        return HumanClip(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"damaged in the motion database ({error}); `arvrm db verify` names all that is") from None


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as dictionaries, lists as NumPy views (to_pylist would make a Python object of every number)."""
    columns: dict[str, list[Any]] = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if pa.types.is_list(column.type):
            values, offsets = column.values.to_numpy(zero_copy_only=False), column.offsets.to_numpy()
            columns[name] = [values[a:b] for a, b in itertools.pairwise(offsets)]
        else:
            columns[name] = column.to_pylist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _of_flat_row(row: dict[str, Any]) -> HumanClip:
    later: dict[str, Any] = {name: row[name] for name in ("start", "handedness", "quality") if name in row}
    if "world" in row:
        later["world"] = row["world"].reshape(-1, len(HAND_KEYPOINTS), 3).astype(np.float32)
    return HumanClip(
        clip_id=row["clip_id"],
        caption=row["caption"],
        frame_period=row["frame_period"],
        keypoints=row["keypoints"].reshape(row["frames"], len(HAND_KEYPOINTS), 3).astype(np.float32),
        visible=row["visible"].astype(bool),
        language=row["language"].astype(np.float32),
        visual=row["visual"].reshape(row["visual_frames"], -1).astype(np.float32),
        video=row["video"],
        task=row["task"],
        extraction=row.get("extraction") or "",
        **later,
    )
