# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The human-motion database: clips with caption, features and hand keypoints in one LanceDB table."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from textwrap import shorten
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa

from arvrm_ros.data.types import HAND_KEYPOINTS, HumanClip
from arvrm_ros.errors import DataError
from arvrm_ros.files import replace_atomically

SCHEMA_VERSION = 3
_VERSION_KEY, _FEATURES_KEY = b"arvrm_schema_version", b"arvrm_features"

# Lists are flat; `frames` and the number of keypoints give the shapes back. Keypoints in float16 are exact to
# 0.0005 of the image, a quarter of a pixel at 640 pixels and below the landmarker's own error.
_COLUMNS = [
    pa.field("clip_id", pa.string(), nullable=False),
    pa.field("caption", pa.string(), nullable=False),
    pa.field("task", pa.string(), nullable=False),
    pa.field("video", pa.string(), nullable=False),
    pa.field("frame_period", pa.float64(), nullable=False),
    pa.field("frames", pa.int32(), nullable=False),
    pa.field("keypoints", pa.list_(pa.float16()), nullable=False),
    pa.field("visible", pa.list_(pa.bool_()), nullable=False),
    pa.field("language", pa.list_(pa.float32()), nullable=False),
    pa.field("visual", pa.list_(pa.float16()), nullable=False),
    pa.field("visual_frames", pa.int32(), nullable=False),
    pa.field("thumbnail", pa.binary(), nullable=False),
    # Since version 2:
    pa.field("start", pa.float64(), nullable=False),
    pa.field("handedness", pa.string(), nullable=False),
    pa.field("world", pa.list_(pa.float32()), nullable=False),
    pa.field("quality", pa.float32(), nullable=False),
    # Since version 3; may be missing from a database that an older one began:
    pa.field("extraction", pa.string()),
]

COARSE = "coarse"
"""Column with [z_l ; mean of z_o]: the inner product with a query's is nearly the score, and can be indexed. It comes
with the first clips, when the features' sizes are known."""

INDEX_FROM = 20_000
"""Clips from which on an index pays; fewer are scored one by one in less than ten milliseconds."""

_SOURCE_COLUMNS = [
    pa.field("name", pa.string(), nullable=False),
    pa.field("options", pa.string(), nullable=False),
    pa.field("counts", pa.string(), nullable=False),
]


@dataclass
class Candidates:
    """Rows of a database, and their features: (d_l,) and (t, d_o) each."""

    rows: list[int]
    language: list[np.ndarray]
    visual: list[np.ndarray]


class MotionDatabase:
    """Human clips in a LanceDB table; the path or URI ends in ``NAME.lance``. Every :meth:`add` is one transaction.

    ``NAME_sources.lance`` beside it remembers which videos were looked through, so that a build can go on where it was;
    without it all that is lost is time.

    Attributes:
        uri: where it is.
        features: what the stored features were made with, e.g. the image encoder's fingerprint.
    """

    def __init__(self, uri: str, connection: Any, table: Any) -> None:
        """For :meth:`open` and :meth:`create`."""
        self.uri = uri
        self._connection = connection
        self._table = table
        self._ids: set[str] | None = None
        self._version: int | None = None  # while it is built where nothing can be locked
        self.features: dict[str, str] = json.loads(table.schema.metadata[_FEATURES_KEY])
        self._clips: list[HumanClip] | None = None

    @classmethod
    def create(cls, uri: str | Path, features: dict[str, str] | None = None) -> MotionDatabase:
        """Makes an empty database.

        Args:
            uri: path or URI ending in ``.lance``.
            features: see the attribute.

        Raises:
            DataError: there is one already, or the place cannot be written.
        """
        path = _path(uri)
        free = path is not None and not path.exists()
        connection, name = _connect(uri)
        metadata = {_VERSION_KEY: str(SCHEMA_VERSION).encode(), _FEATURES_KEY: json.dumps(features or {}).encode()}
        try:
            table = connection.create_table(name, schema=pa.schema(_COLUMNS, metadata=metadata))
        except (OSError, ValueError, RuntimeError) as error:
            # What a full disk leaves behind would be in the way of the next try; another builder's table stays.
            if path is not None and free and not any(path.glob("_versions/*.manifest")):
                shutil.rmtree(path, ignore_errors=True)
            raise DataError(f"cannot make the motion database {uri}: {_first_line(error)}") from None
        return cls(str(uri), connection, table)

    @classmethod
    def exists(cls, uri: str | Path) -> bool:
        """Whether there is something of that name, which may be damaged.

        Raises:
            DataError: the object storage cannot be reached.
        """
        if (path := _path(uri)) is not None:
            return path.exists()
        connection, name = _connect(uri)
        try:
            return name in connection.list_tables(limit=1_000_000).tables
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(f"cannot reach {uri}: {_first_line(error)}") from None

    @classmethod
    def open(cls, uri: str | Path) -> MotionDatabase:
        """Opens a database, which may be empty.

        Raises:
            DataError: there is none, it is not one of ours, damaged, or written by a newer version.
        """
        connection, name = _connect(uri, make=False)
        try:
            table = connection.open_table(name)
            metadata = table.schema.metadata or {}
        except (OSError, ValueError, RuntimeError) as error:
            if cls.exists(uri):
                raise DataError(f"the motion database {uri} cannot be opened: {_first_line(error)}") from None
            raise _missing(uri) from None
        version = int(metadata.get(_VERSION_KEY, b"0"))
        if version == 0:
            raise DataError(f"{uri} is a Lance table but not a motion database: make one with `arvrm db build`")
        if version > SCHEMA_VERSION:
            raise DataError(
                f"the motion database {uri} has schema version {version}, this arvrm_ros reads up to "
                f"{SCHEMA_VERSION}: update arvrm_ros, or build the database again"
            )
        return cls(str(uri), connection, table)

    def add(self, clips: Sequence[HumanClip], thumbnails: Sequence[bytes] | None = None) -> None:
        """Appends clips in one transaction.

        Args:
            clips: their features must have the same sizes as those already there.
            thumbnails: per clip a JPEG for reports; b"" when there is none.

        Raises:
            DataError: a clip is malformed, its id is taken, or the disk is full; nothing is added then.
        """
        if not clips:
            return
        known = set(self.ids())
        first = self.first() or clips[0]
        for clip in clips:
            check_clip(clip)
            if clip.clip_id in known:
                raise DataError(f"clip {clip.clip_id} is in {self.uri} already")
            if (clip.language.shape, clip.visual.shape[1]) != (first.language.shape, first.visual.shape[1]):
                raise DataError(f"clip {clip.clip_id} has features of another size than the rest of {self.uri}")
            known.add(clip.clip_id)
        coarse = np.stack([coarse_vector(clip.language, clip.visual) for clip in clips])
        there = self._table.schema.names
        if COARSE not in there and len(self):
            raise DataError(f"{self.uri} was made by an older version, which stored less: build it again")
        later = [pa.field(COARSE, pa.list_(pa.float32(), coarse.shape[1])), _COLUMNS[-1]]
        rows = [
            {
                "clip_id": clip.clip_id,
                "caption": clip.caption,
                "task": clip.task,
                "video": clip.video,
                "frame_period": clip.frame_period,
                "frames": len(clip.keypoints),
                "keypoints": np.asarray(clip.keypoints, np.float16).ravel(),
                "visible": np.asarray(clip.visible, bool),
                "language": np.asarray(clip.language, np.float32),
                "visual": np.asarray(clip.visual, np.float16).ravel(),
                "visual_frames": len(clip.visual),
                "thumbnail": thumbnail,
                "start": clip.start,
                "handedness": clip.handedness,
                "world": np.asarray(clip.world, np.float32).ravel(),
                "quality": clip.quality,
                "extraction": clip.extraction,
            }
            for clip, thumbnail in zip(clips, thumbnails or [b""] * len(clips), strict=True)
        ]
        table = pa.Table.from_pylist(rows, schema=pa.schema(_COLUMNS))
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(coarse.ravel()), coarse.shape[1])
        with self._writing():
            if missing := [field for field in later if field.name not in there]:
                self._table.add_columns(pa.schema(missing))
            self._table.add(table.append_column(COARSE, vectors))
        self._clips, self._ids = None, known

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Around what changes the tables: sees to it that nobody else has, and says in one line what went wrong."""
        try:
            if self._version is not None:
                self._table.checkout_latest()
                if self._table.version != self._version:
                    raise DataError(f"another process is building {self.uri} too: run it again when that has ended")
            yield
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(f"cannot write to {self.uri}: {_first_line(error)}; run it again to go on") from None
        if self._version is not None:
            self._version = self._table.version

    def remember_sources(self, counts: dict[str, dict[str, int]], options: str) -> None:
        """Notes that videos were looked through.

        Args:
            counts: per video's name, how many clips came of it and how many were rejected for which reason.
            options: fingerprint of how they were looked at.
        """
        if not counts:
            return
        schema = pa.schema(_SOURCE_COLUMNS)
        rows = [{"name": name, "options": options, "counts": json.dumps(count)} for name, count in counts.items()]
        with self._writing():
            table = self._connection.create_table(self._sources_name, schema=schema, exist_ok=True)
            table.add(pa.Table.from_pylist(rows, schema=schema))

    def sources(self, options: str) -> dict[str, dict[str, int]]:
        """What :meth:`remember_sources` has noted of the videos that were looked at in this way."""
        try:
            table = self._connection.open_table(self._sources_name)
        except (OSError, ValueError, RuntimeError):
            return {}  # nothing was looked through yet, or it was lost
        rows = table.search().limit(None).to_arrow().to_pylist()
        return {row["name"]: json.loads(row["counts"]) for row in rows if row["options"] == options}

    @property
    def _sources_name(self) -> str:
        return f"{self._table.name}_sources"

    @contextlib.contextmanager
    def building(self) -> Iterator[None]:
        """Keeps a second builder out, on this machine; on object storage :meth:`add` notices one, nearly always.

        Raises:
            DataError: another process builds this database, or its place cannot be written.
        """
        path = _path(self.uri)
        if path is None:
            # Nothing there can be locked for as long as a process lives. What another has written is seen before each
            # write; of two at the same instant both are kept, and `verify` names the clips that are there twice.
            self._table.checkout_latest()
            self._version = self._table.version
            try:
                yield
            finally:
                self._version = None
            return
        try:
            lock = path.with_name(f"{path.name}.lock").open("w")
        except OSError as error:
            raise DataError(
                f"{self.uri} cannot be written here ({error.strerror}): copy it to where it can, or give another --out"
            ) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise DataError(f"another process is building {self.uri}: wait for it, or give another --out") from None
            yield

    def compact(self) -> None:
        """Merges the files that many :meth:`add` left behind and drops old versions."""
        with self._writing(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "optimize")  # that readers of old versions fail is wanted here
            self._table.optimize(cleanup_older_than=timedelta(0))

    def index(self) -> None:
        """Builds the index for :meth:`nearest`, or anew. Minutes for hundreds of thousands of clips.

        Raises:
            DataError: there are fewer clips than an index can be trained on, or the place cannot be written.
        """
        from lancedb.index import IvfPq  # late, as in _connect

        if len(self) < 256:
            raise DataError(
                f"{self.uri} has {len(self)} clips; an index needs 256 at least, and pays from {INDEX_FROM}"
            )
        width = self._table.schema.field(COARSE).type.list_size
        # Eight dimensions to a byte; partitions of some thousand clips, so that a query reads a few of them.
        parts = next(n for n in (width // 8, *range(width // 8, 0, -1)) if width % n == 0)
        partitions = max(1, round(len(self) ** 0.5 / 2))
        try:
            self._table.create_index(
                COARSE, config=IvfPq(distance_type="dot", num_partitions=partitions, num_sub_vectors=parts)
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(f"cannot index {self.uri}: {_first_line(error)}") from None

    @property
    def indexed(self) -> bool:
        """Whether there is an index; clips that were added later are found too, more slowly, until it is made anew."""
        return any(COARSE in index.columns for index in self._table.list_indices())

    def nearest(self, vector: np.ndarray, count: int, probes: int) -> Candidates:
        """The clips whose coarse vectors have the largest inner products with a vector, nearly.

        Args:
            vector: (d_l + d_o,) as of :func:`coarse_vector`, each part with its weight.
            count: clips wanted.
            probes: partitions of the index that are looked through.
        """
        query = self._table.search(vector.astype(np.float32), vector_column_name=COARSE).distance_type("dot")
        columns = ["_rowid", "_distance", "language", "visual", "visual_frames"]
        rows = _rows(query.nprobes(probes).select(columns).limit(count).to_arrow())
        return Candidates(
            [row["_rowid"] for row in rows],
            [row["language"] for row in rows],
            [row["visual"].reshape(row["visual_frames"], -1) for row in rows],
        )

    def take(self, rows: list[int]) -> list[HumanClip]:
        """The clips of some :class:`Candidates`, by their rows, in that order."""
        columns = [*self._clip_columns, "_rowid"]
        found = {row["_rowid"]: row for row in _rows(self._table.take_row_ids(rows).select(columns).to_arrow())}
        return [_clip(found[row]) for row in rows]

    def sample(self, rng: np.random.Generator, count: int) -> list[HumanClip]:
        """Some clips, drawn at random."""
        rows = rng.choice(len(self), min(count, len(self)), replace=False)
        return [_clip(r) for r in _rows(self._table.take_offsets(rows.tolist()).select(self._clip_columns).to_arrow())]

    def __len__(self) -> int:
        return int(self._table.count_rows())

    def ids(self) -> set[str]:
        """The ids of all clips; read once, then kept."""
        if self._ids is None:
            self._ids = set(self._table.search().select(["clip_id"]).limit(None).to_arrow()["clip_id"].to_pylist())
        return self._ids

    def clips(self) -> list[HumanClip]:
        """All clips in the order they were added; read once, then kept."""
        if self._clips is None:
            self._clips = self._read()
        return self._clips

    def first(self) -> HumanClip | None:
        """The first clip, which tells the sizes of the features; None when there is none."""
        return next(iter(self._read(limit=1)), None)

    def _read(self, limit: int | None = None) -> list[HumanClip]:
        return [_clip(row) for row in _rows(self._table.search().select(self._clip_columns).limit(limit).to_arrow())]

    @property
    def _clip_columns(self) -> list[str]:
        there = set(self._table.schema.names)
        return [field.name for field in _COLUMNS if field.name in there and field.name != "thumbnail"]

    def verify(self, videos: Path | None = None) -> list[str]:
        """What is wrong with the clips, one line each: malformed rows, ids given twice, broken thumbnails.

        Args:
            videos: the source's folder, to name videos that are not there any more.
        """
        import cv2

        problems: list[str] = []
        seen: Counter[str] = Counter()
        sizes: Counter[tuple[int, int]] = Counter()
        missing: set[str] = set()
        for batch in self._table.search().limit(None).to_batches(1024):
            for row in _rows(pa.Table.from_batches([batch])):
                name = row["clip_id"] or "(no id)"
                seen[name] += 1
                try:
                    clip = _clip(row)
                    check_clip(clip)
                except (DataError, ValueError) as error:
                    problems.append(f"{name}: {error}")
                    continue
                sizes[len(clip.language), clip.visual.shape[1]] += 1
                jpeg = np.frombuffer(row["thumbnail"], np.uint8)
                if len(jpeg) and cv2.imdecode(jpeg, cv2.IMREAD_COLOR) is None:
                    problems.append(f"{name}: its thumbnail is not a picture")
                if videos is not None and clip.video and not (videos / clip.video).is_file():
                    missing.add(clip.video)
        problems += [f"{name}: is there {count} times" for name, count in seen.items() if count > 1]
        if len(sizes) > 1:
            listed = ", ".join(f"{a} and {b} ({count} clips)" for (a, b), count in sizes.most_common())
            problems.append(f"features of texts and images have several sizes: {listed}")
        return problems + [f"{video}: the video is not in {videos}" for video in sorted(missing)]

    def export(self, path: Path) -> int:
        """Writes all clips but their thumbnails to a Parquet file, as they are stored; returns how many."""
        import pyarrow.parquet as pq

        columns = [name for name in self._table.schema.names if name not in ("thumbnail", COARSE)]
        count = 0
        with replace_atomically(path) as partial, contextlib.ExitStack() as stack:
            writer: Any = None
            for batch in self._table.search().select(columns).limit(None).to_batches(1024):
                writer = writer or stack.enter_context(pq.ParquetWriter(partial, batch.schema, compression="zstd"))
                writer.write_batch(batch)
                count += len(batch)
            if writer is None:
                raise DataError(f"{self.uri} is empty: there is nothing to export")
        return count

    def thumbnails(self, ids: Sequence[str]) -> dict[str, bytes]:
        """JPEGs of some clips: four frames side by side with the hand that the landmarker found."""
        wanted = ", ".join("'" + i.replace("'", "''") + "'" for i in ids)
        if not wanted:
            return {}
        query = self._table.search().where(f"clip_id IN ({wanted})").select(["clip_id", "thumbnail"]).limit(None)
        return {row["clip_id"]: row["thumbnail"] for row in query.to_arrow().to_pylist()}


def coarse_vector(language: np.ndarray, visual: np.ndarray) -> np.ndarray:
    """(d_l + d_o,) float32: the unit text feature, and the mean over (t, d_o) of the unit image features."""
    return np.concatenate([unit(language), unit(visual).mean(0)]).astype(np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., d) at length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


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


def _path(uri: str | Path) -> Path | None:
    """Where a database is on this machine; None when it is on object storage."""
    if "://" not in str(uri):
        return Path(uri)
    parts = urlsplit(str(uri))
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _connect(uri: str | Path, make: bool = True) -> tuple[Any, str]:
    import lancedb  # imported late: it takes a second

    path = _path(uri)
    text = str(path or uri).rstrip("/")
    folder, _, file = text.rpartition("/")
    if not file.endswith(".lance") or file == ".lance":
        raise DataError(f"a motion database is named NAME.lance, not {file!r}")
    if not make and path is not None and not path.exists():
        raise _missing(uri)  # connecting would make the folder
    try:
        return lancedb.connect(folder or ("/" if text.startswith("/") else ".")), file.removesuffix(".lance")
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"cannot reach {uri}: {_first_line(error)}") from None


def _missing(uri: str | Path) -> DataError:
    return DataError(f"there is no motion database {uri}: make one with `arvrm db build CLIPS_FOLDER --out {uri}`")


def _first_line(error: BaseException) -> str:
    """What an error of Lance says, without where in its source."""
    line = next(iter(str(error).splitlines()), type(error).__name__)
    line = re.sub(r"^(lance error: )?(LanceError\(\w+\): )?", "", line)
    return shorten(re.sub(r",? ?\S+\.rs:\d+:\d+", "", line), 240)


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


def _clip(row: dict[str, Any]) -> HumanClip:
    frames = row["frames"]
    return HumanClip(
        clip_id=row["clip_id"],
        caption=row["caption"],
        frame_period=row["frame_period"],
        keypoints=row["keypoints"].reshape(frames, len(HAND_KEYPOINTS), 3).astype(np.float32),
        visible=row["visible"].astype(bool),
        language=row["language"].astype(np.float32),
        visual=row["visual"].reshape(row["visual_frames"], -1).astype(np.float32),
        video=row["video"],
        task=row["task"],
        **({} if "world" not in row else _since_version_2(row)),
    )


def _since_version_2(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "start": row["start"],
        "handedness": row["handedness"],
        "world": row["world"].reshape(-1, len(HAND_KEYPOINTS), 3).astype(np.float32),
        "quality": row["quality"],
        "extraction": row.get("extraction") or "",
    }
