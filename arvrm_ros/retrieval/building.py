# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From a source of videos to the motion database: worker processes extract, one process writes; kill it and go on."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
from collections import defaultdict, deque
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from tqdm import tqdm

from arvrm_ros.errors import DataError
from arvrm_ros.perception.models import require_hand_landmarker
from arvrm_ros.retrieval.database import MotionDatabase
from arvrm_ros.retrieval.extraction import Extracted, ExtractionOptions, Rejected, extract, portions, start_worker
from arvrm_ros.retrieval.sources import Tally, Video, find_videos
from arvrm_ros.workers import process_pool

BATCH = 16
"""Clips added in one transaction; as many are done again when a build is interrupted."""

ADDED, KNOWN = "added", "already there"

LOCAL, RAY = ENGINES = ("local", "ray")

ExtractionJob = tuple[Video, ExtractionOptions, set[str]]
"""A video, and the ids of its clips that are there already."""


def build(
    database: MotionDatabase,
    source: Path,
    options: ExtractionOptions,
    workers: int,
    videos: Path | None = None,
    engine: str = LOCAL,
    progress: bool = True,
) -> Tally:
    """Adds the clips of a source that are not in the database yet.

    Args:
        database: interrupted builds go on where they were; what was rejected before is not looked at again.
        source: as of :func:`find_videos`, and so is ``videos``.
        options: see there.
        workers: processes.
        engine: where they are: :data:`LOCAL` or :data:`RAY`.
        progress: show a bar.

    Returns:
        How many clips were added (outcome :data:`ADDED`), were there already (:data:`KNOWN`), and per reason were
        rejected.

    Raises:
        DataError: nothing to add, no landmark model, the encoders are missing, or the database cannot be written.
    """
    from arvrm_ros.retrieval.encoders import encoders_of, names_of

    found = find_videos(source, videos)
    require_hand_landmarker()
    # What is missing is told here, once, not by every worker.
    _, text_encoder = encoders_of(database, options.image_encoder)
    options = dataclasses.replace(options, encoder=names_of(database)[0])
    tally, fingerprint = found.left_out, _fingerprint(options)
    looked_at = database.sources(fingerprint)
    new: list[Video] = []

    def known(video: Video) -> bool:
        # Of a video whose name alone is known, all there is to know is there.
        before = {ADDED: 1} if video.whole and video.name in database.ids() else looked_at.get(_key(video))
        for outcome, count in (before or {}).items():
            tally.counts[KNOWN if outcome == ADDED else outcome] += count
        return before is not None

    for video in found.videos:
        if not known(video):
            new += [part for part in portions(video) if not known(part)]

    extracted: list[Extracted] = []
    finished: dict[str, dict[str, int]] = {}

    def flush() -> None:
        clips = [item.clip for item in extracted]
        for clip, feature in zip(clips, text_encoder.encode([clip.caption for clip in clips]), strict=True):
            clip.language = feature
        database.add(clips, [item.thumbnail for item in extracted])
        database.remember_sources(finished, fingerprint)
        extracted.clear()
        finished.clear()

    with database.building():
        results = _extract_all(new, options, database.ids(), workers, engine)
        bar = tqdm(results, total=len(new), unit="video", disable=not progress)
        for video, parts in zip(new, bar, strict=True):
            of_video = Tally()
            for part in parts:
                if isinstance(part, Extracted):
                    extracted.append(part)
                    of_video.add(ADDED, part.clip.clip_id)
                else:
                    of_video.add(part.reason, part.name)
            tally.merge(of_video)
            added = tally.counts[ADDED]
            bar.set_postfix_str(f"{added} clips, {added / max(bar.format_dict['elapsed'], 1e-3):.2f}/s", refresh=False)
            finished[_key(video)] = dict(of_video.counts)
            if len(extracted) >= BATCH:
                flush()
        flush()
        database.compact()
        database.keep_indexed()
    return tally


def _key(video: Video) -> str:
    """Of the video, its part and what is said of it: a caption more is something new."""
    said = hashlib.sha256(repr(video.spans).encode()).hexdigest()[:10]
    start = f"@{video.part[0]:.0f}s" if math.isfinite(video.part[1]) else ""
    return f"{video.name}{start} {said}"


def _fingerprint(options: ExtractionOptions) -> str:
    known = dataclasses.asdict(options)
    del known["image_encoder"], known["encoder"]
    # Without what came later it is what older versions have noted.
    known = {key: value for key, value in known.items() if value or key not in ("smoothing", "trim")}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:10]


def _extract_all(
    videos: list[Video], options: ExtractionOptions, known: set[str], workers: int, engine: str
) -> Iterator[list[Extracted | Rejected]]:
    """What comes of each video, in their order."""
    parts: dict[str, set[str]] = defaultdict(set)
    for clip_id in known:
        parts[clip_id.partition("@")[0]].add(clip_id)
    jobs = [(video, options, parts.get(video.name, set())) for video in videos]
    if not jobs:
        return iter(())
    return _on_ray(jobs, workers) if engine == RAY else _on_this_machine(jobs, workers)


def _on_this_machine(jobs: list[ExtractionJob], workers: int) -> Iterator[list[Extracted | Rejected]]:
    with process_pool(min(workers, len(jobs)), start_worker) as pool:
        try:
            yield from pool.map(_extract_one, jobs)
        except BrokenProcessPool:
            raise DataError("a worker process was killed, perhaps for want of memory: run it again to go on") from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _on_ray(jobs: list[ExtractionJob], workers: int) -> Iterator[list[Extracted | Rejected]]:
    """On the cluster that RAY_ADDRESS names, whose machines have to see the videos; else on one made here for it.

    Ray does the work of a worker that dies again elsewhere.
    """
    try:
        import ray
    except ImportError:
        raise DataError("the engine ray needs Ray: pip install 'arvrm_ros[ray]', or use --engine local") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report over the network
    own = not ray.is_initialized() and not os.environ.get("RAY_ADDRESS")
    if own:
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    try:
        extract_one = ray.remote(num_cpus=1, max_retries=3)(_extract_on_ray)
        waiting: deque[Any] = deque()
        for job in jobs:
            waiting.append(extract_one.remote(job))
            if len(waiting) >= 4 * workers:
                yield ray.get(waiting.popleft())
        while waiting:
            yield ray.get(waiting.popleft())
    except ray.exceptions.RayError as error:
        raise DataError(f"Ray failed ({str(error).splitlines()[0]}): run it again to go on") from None
    finally:
        if own:
            ray.shutdown()


def _extract_one(job: ExtractionJob) -> list[Extracted | Rejected]:
    return list(extract(*job))


def _extract_on_ray(job: ExtractionJob) -> list[Extracted | Rejected]:
    _start_ray_worker()
    return _extract_one(job)


@functools.cache
def _start_ray_worker() -> None:
    start_worker()
