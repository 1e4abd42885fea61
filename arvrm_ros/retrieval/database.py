# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The human-motion database: clips with caption, features and hand keypoints in one LanceDB table."""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from textwrap import shorten
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from arvrm_ros.data.types import HumanClip
from arvrm_ros.errors import DataError
from arvrm_ros.files import replace_atomically
from arvrm_ros.retrieval.index import CENTRES, SAMPLE, CoarseIndex, Codebooks, coarse_vector
from arvrm_ros.retrieval.opposites import sides
from arvrm_ros.retrieval.rows import (
    COLUMNS,
    FLAT_COLUMNS,
    PACKED,
    check_clip,
    clip_columns,
    clips_of,
    flat_rows,
    packed_rows,
)

SCHEMA_VERSION = 4
_VERSION_KEY, _FEATURES_KEY = b"arvrm_schema_version", b"arvrm_features"

COARSE = "coarse"
"""Column with [z_l ; mean of z_o], of which the index is made. It comes with the first clips, when the features' sizes
are known."""

INDEX_FROM = 20_000
"""Clips from which on an index pays; fewer are scored one by one in less than ten milliseconds."""

NEW_SHARE = 0.05
"""Of the clips that may come after the index before it is made anew. Searches find them, but take longer to start."""

_AT_ONCE = 4096  # rows read

_SOURCE_COLUMNS = [
    pa.field("name", pa.string(), nullable=False),
    pa.field("options", pa.string(), nullable=False),
    pa.field("counts", pa.string(), nullable=False),
]


class MotionDatabase:
    """Human clips in a LanceDB table; the path or URI ends in ``NAME.lance``. Every :meth:`add` is one transaction.

    ``NAME_sources.lance`` beside it remembers which videos were looked through, so that a build can go on where it was;
    without it all that is lost is time. ``NAME_index.lance`` makes searches in very many clips fast. It knows them by
    their ids, so it stays right when clips come, go or move.

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
            table = connection.create_table(name, schema=COLUMNS.with_metadata(metadata))
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
        self._check_version()
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
        rows = packed_rows(clips, thumbnails or [b""] * len(clips))
        with self._writing():
            if COARSE not in self._table.schema.names:
                self._table.add_columns(pa.field(COARSE, pa.list_(pa.float32(), coarse.shape[1])))
            self._table.add(rows.append_column(COARSE, _fixed_lists(coarse)))
        self._clips, self._ids = None, known

    @property
    def older(self) -> bool:
        """Whether an older version made it: it is read, but cannot grow."""
        return PACKED not in self._table.schema.names

    def _check_version(self) -> None:
        if self.older:
            raise DataError(
                f"{self.uri} was made by an older version and can only be read: make a copy that can grow with "
                f"`arvrm db upgrade --db {self.uri} --out NEW.lance`"
            )

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
            DataError: another process builds this database, its place cannot be written, or it is :attr:`older`.
        """
        self._check_version()
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
        with self._writing():
            _optimize(self._table)

    def index(self) -> None:
        """Makes the index that :meth:`coarse_index` reads, or makes it anew, in some minutes for 800,000 clips.

        Raises:
            DataError: there are no clips, the database is :attr:`older`, or its place cannot be written.
        """
        self._check_version()
        first, rng = self.first(), np.random.default_rng(0)
        if first is None:
            raise DataError(f"{self.uri} is empty: there is nothing to index")
        drawn = np.sort(rng.choice(len(self), min(len(self), SAMPLE * CENTRES), replace=False))
        sample = [
            _fixed_rows(self._table.take_offsets(drawn[i : i + _AT_ONCE].tolist()).select([COARSE]).to_arrow()[COARSE])
            for i in range(0, len(drawn), _AT_ONCE)
        ]
        books = Codebooks.train(np.concatenate(sample), len(first.language), rng)
        del sample
        ids, encoded = [], []
        # What Lance writes cannot come from a generator that reads with Lance: they would wait for each other.
        with tqdm(desc="indexing", total=len(self), unit="clip", disable=None) as bar:
            for batch in self._table.search().select(["clip_id", COARSE]).limit(None).to_batches(_AT_ONCE):
                ids.append(batch["clip_id"])
                encoded.append(books.encode(_fixed_rows(batch[COARSE])))
                bar.update(len(batch))
        lists = [pa.chunked_array(map(_fixed_lists, arrays)) for arrays in zip(*encoded, strict=True)]
        # The codebooks are in the first row: a table's metadata would come again with every batch that is read.
        first_row = pa.array([books.to_bytes(), *[None] * (sum(map(len, ids)) - 1)], pa.large_binary())
        table = pa.table([pa.chunked_array(ids), *lists, first_row], ["clip_id", "parts", "codes", "codebooks"])
        mode = "create" if self._index_table() is None else "overwrite"
        try:
            _optimize(self._connection.create_table(self._index_name, table, mode=mode))
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(f"cannot index {self.uri}: {_first_line(error)}") from None

    def keep_indexed(self) -> None:
        """Makes the index where the database is large and has none, or where many clips came after it."""
        table = self._index_table()
        if len(self) >= INDEX_FROM and (table is None or len(self) - len(table) > NEW_SHARE * len(self)):
            self.index()

    @property
    def indexed(self) -> bool:
        """Whether there is an index."""
        return self._index_table() is not None

    def coarse_index(self, opposites: bool = False) -> tuple[CoarseIndex, np.ndarray]:
        """Reads the index into memory, with the clips that came after it and without those that went.

        Args:
            opposites: also look at the captions, so that the index can put some last.

        Returns:
            It, and (N,) the rows of its clips, for :meth:`take`.

        Raises:
            DataError: there is none, or it is damaged.
        """
        table = self._index_table()
        if table is None:
            raise DataError(f"{self.uri} has no index: make one with `arvrm db index --db {self.uri}`")
        columns = ["clip_id", "caption"] if opposites else ["clip_id"]
        clips = self._table.search().select(columns).with_row_id(True).limit(None).to_arrow()
        rows = clips["_rowid"].to_numpy()
        try:
            books = Codebooks.from_bytes(
                table.search().select(["codebooks"]).limit(1).to_arrow()["codebooks"][0].as_py()
            )
            known = table.search().select(["clip_id"]).limit(None).to_arrow()["clip_id"]
            place = pc.fill_null(pc.index_in(known, clips["clip_id"]), -1).to_numpy()  # where each is among the clips
            parts, codes = np.empty((2, len(rows)), np.uint16), np.empty((len(rows), len(books.step)), np.int8)
            new = np.ones(len(rows), bool)
            done = 0
            for batch in table.search().select(["parts", "codes"]).limit(None).to_batches(_AT_ONCE):
                to = place[done : done + len(batch)]
                there, done = to >= 0, done + len(batch)
                parts[:, to[there]] = _fixed_rows(batch["parts"])[there].T
                codes[to[there]] = _fixed_rows(batch["codes"])[there]
                new[to[there]] = False
        except (KeyError, OSError, RuntimeError, ValueError) as error:
            raise DataError(
                f"the index of {self.uri} is damaged ({_first_line(error)}): make it anew with `arvrm db index`"
            ) from None
        missing = np.flatnonzero(new)
        for i in range(0, len(missing), _AT_ONCE):
            to = missing[i : i + _AT_ONCE]
            part, codes[to] = books.encode(_fixed_rows(self._by_row(rows[to], [COARSE])[COARSE]))
            parts[:, to] = part.T
        return CoarseIndex(books, parts, codes, sides(clips["caption"]) if opposites else np.zeros(0, np.uint16)), rows

    def _index_table(self) -> Any:
        """The index's table, None when there is none."""
        try:
            return self._connection.open_table(self._index_name)
        except (OSError, ValueError, RuntimeError):
            return None

    @property
    def _index_name(self) -> str:
        return f"{self._table.name}_index"

    def take(self, rows: Sequence[int] | np.ndarray, in_order: bool = True) -> list[HumanClip]:
        """Clips by their rows, see :meth:`coarse_index`, in that order; in none, they are read a little faster."""
        return clips_of(self._by_row(rows, self._clip_columns, in_order))

    def _by_row(self, rows: Sequence[int] | np.ndarray, columns: list[str], in_order: bool = True) -> pa.Table:
        query = self._table.take_row_ids([int(row) for row in rows])
        if not in_order:
            return query.select(columns).to_arrow()
        found = query.select([*columns, "_rowid"]).to_arrow()
        return found.take(pc.index_in(pa.array(rows, pa.uint64()), found["_rowid"]))

    def sample(self, rng: np.random.Generator, count: int) -> list[HumanClip]:
        """Some clips, drawn at random."""
        rows = rng.choice(len(self), min(count, len(self)), replace=False)
        return clips_of(self._table.take_offsets(rows.tolist()).select(self._clip_columns).to_arrow())

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

    def batches(self, task: str = "") -> Iterator[list[HumanClip]]:
        """All clips, or those of a task, some at a time."""
        query = self._table.search().select(self._clip_columns).limit(None)
        if task:
            query = query.where(f"task = {_quoted(task)}")
        for batch in query.to_batches(_AT_ONCE // 4):
            yield clips_of(pa.Table.from_batches([batch]))

    def tasks(self) -> set[str]:
        """Those that clips are known to show."""
        return set(pc.unique(self._table.search().select(["task"]).limit(None).to_arrow()["task"]).to_pylist()) - {""}

    def overview(self) -> pa.Table:
        """One row per clip, without what is large: ``_rowid`` for :meth:`take`, ``caption``, ``task``, ``quality``,
        ``frames``, ``found`` (the frames in which there was a hand), ``seconds`` and ``extraction``.
        """
        columns = ["caption", "task", "quality", "frames", "found", "seconds", "extraction"]
        query = self._table.search().with_row_id(True).limit(None)
        if not self.older:
            return query.select(columns).to_arrow()
        rows = query.select(self._clip_columns).to_arrow()
        made = packed_rows(clips_of(rows), [b""] * len(rows))
        return made.select(columns).append_column("_rowid", rows["_rowid"])

    def first(self) -> HumanClip | None:
        """The first clip, which tells the sizes of the features; None when there is none."""
        return next(iter(self._read(limit=1)), None)

    def _read(self, limit: int | None = None) -> list[HumanClip]:
        return clips_of(self._table.search().select(self._clip_columns).limit(limit).to_arrow())

    @property
    def _clip_columns(self) -> list[str]:
        return clip_columns(self._table.schema.names)

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
            table = pa.Table.from_batches([batch])
            for i, row in enumerate(table.select(["clip_id", "frames", "thumbnail"]).to_pylist()):
                name = row["clip_id"] or "(no id)"
                seen[name] += 1
                try:
                    (clip,) = clips_of(table.slice(i, 1))
                    check_clip(clip)
                    if (clip.clip_id, len(clip.keypoints)) != (row["clip_id"], row["frames"]):
                        raise DataError("its row and what it holds disagree")
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
        """Writes all clips but their thumbnails to a Parquet file, a column for everything; returns how many."""
        import pyarrow.parquet as pq

        if not len(self):
            raise DataError(f"{self.uri} is empty: there is nothing to export")
        with replace_atomically(path) as partial, pq.ParquetWriter(partial, FLAT_COLUMNS, compression="zstd") as writer:
            for clips in self.batches():
                writer.write_table(flat_rows(clips))
        return len(self)

    def upgrade(self, uri: str | Path) -> MotionDatabase:
        """Copies all clips, of whichever version, to a new database of today's.

        Raises:
            DataError: there is one already, the place cannot be written, or a clip is damaged.
        """
        copy = MotionDatabase.create(uri, self.features)
        with copy.building():
            for batch in self._table.search().select([*self._clip_columns, "thumbnail"]).limit(None).to_batches(1024):
                copy.add(clips_of(pa.Table.from_batches([batch])), batch["thumbnail"].to_pylist())
            copy.compact()
            copy.keep_indexed()
        return copy

    def thumbnails(self, ids: Sequence[str]) -> dict[str, bytes]:
        """JPEGs of some clips: four frames side by side with the hand that the landmarker found."""
        wanted = ", ".join(map(_quoted, ids))
        if not wanted:
            return {}
        query = self._table.search().where(f"clip_id IN ({wanted})").select(["clip_id", "thumbnail"]).limit(None)
        return {row["clip_id"]: row["thumbnail"] for row in query.to_arrow().to_pylist()}


def _fixed_lists(array: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), array.shape[1])


def _fixed_rows(lists: pa.FixedSizeListArray | pa.ChunkedArray) -> np.ndarray:
    return pc.list_flatten(lists).to_numpy().reshape(len(lists), -1)


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


def _quoted(text: str) -> str:
    """As a string of SQL."""
    return "'" + text.replace("'", "''") + "'"


def _optimize(table: Any) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "optimize")  # that readers of old versions fail is wanted here
        table.optimize(cleanup_older_than=timedelta(0))


def _first_line(error: BaseException) -> str:
    """What an error of Lance says, without where in its source."""
    line = next(iter(str(error).splitlines()), type(error).__name__)
    line = re.sub(r"^(lance error: )?(LanceError\(\w+\): )?", "", line)
    return shorten(re.sub(r",? ?\S+\.rs:\d+:\d+", "", line), 240)
