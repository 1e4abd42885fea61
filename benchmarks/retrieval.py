# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The search in a database of the paper's size: time, recall against the exact formula, memory, time to build.

Clips are made up, but clustered as captions and scenes are: every clip has one of some thousand captions and scenes,
with deviations of its own, and every frame with some more. The exact ranking streams all features from the disk once
per question, as they do not fit into the memory allowed.

    benchmarks/retrieval.py                                 # 800,000 clips: 15 GB of disk, about half an hour
    benchmarks/retrieval.py --clips 20000 --folder /tmp/x   # a small one; the folder's database is used again next time
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from tqdm import tqdm

from arvrm_ros.data.types import HumanClip
from arvrm_ros.files import write_json
from arvrm_ros.retrieval.database import MotionDatabase
from arvrm_ros.retrieval.index import largest, unit
from arvrm_ros.retrieval.search import HISTORY, MotionSearch
from arvrm_ros.workers import process_pool

TEXT, IMAGE, KEPT = 512, 768, 10  # CLIP's and ViT-B's widths, best clips compared
SHARE = 0.5  # of what a clip has of its own against its cluster's centre
FRAME_SHARE = 0.25  # of what a frame has of its own
QUERIES = 400


class World:
    """Captions and scenes that clips are drawn around."""

    def __init__(self, clips: int) -> None:
        rng = np.random.default_rng(0)
        self.texts = unit(rng.normal(size=(max(50, clips // 200), TEXT)).astype(np.float32))
        self.scenes = unit(rng.normal(size=(max(50, clips // 400), IMAGE)).astype(np.float32))

    def draw(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Text features (n, d_l) and image features (n, T, d_o) of some clips."""

        def own(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape, np.float32) / np.float32(shape[-1] ** 0.5)

        text = unit(self.texts[rng.integers(len(self.texts), size=count)] + SHARE * own(count, TEXT))
        scene = self.scenes[rng.integers(len(self.scenes), size=count)] + SHARE * own(count, IMAGE)
        return text, unit(scene[:, None] + FRAME_SHARE * own(count, HISTORY, IMAGE))


def fill(database: MotionDatabase, world: World, count: int) -> None:
    """Adds clips until there are ``count``, 4,000 at a time."""
    seen = np.ones(HISTORY, bool)
    for start in tqdm(range(len(database), count, 4000), desc="making clips", unit="batch"):
        rng = np.random.default_rng([1, start])
        size = min(4000, count - start)
        text, images = world.draw(rng, size)
        tracks = rng.random((2, size, HISTORY, 21, 3), np.float32)
        database.add(
            [
                HumanClip(f"clip_{start + i}", f"caption {start + i}", 0.1, tracks[0, i], seen, text[i], images[i],
                          world=tracks[1, i])
                for i in range(size)
            ]
        )  # fmt: skip


def exact(database: MotionDatabase, text: np.ndarray, images: np.ndarray, weight: float) -> list[list[str]]:
    """The best :data:`KEPT` ids for each of Q queries by the formula itself, in one pass over the disk."""
    queries = np.concatenate([weight * text, images.reshape(len(images), -1)], 1).T  # (d_l + T d_o, Q)
    best = [[(0.0, "")] * KEPT for _ in text]
    for clips in database.batches():
        language = np.stack([clip.language for clip in clips])
        visual = unit(np.stack([clip.visual for clip in clips]))
        scores = np.concatenate([unit(language), visual.reshape(len(clips), -1)], 1) @ queries  # (n, Q)
        for query, of_query in enumerate(scores.T):
            rows = largest(of_query, KEPT)
            found = [(float(of_query[row]), clips[row].clip_id) for row in rows]
            best[query] = sorted(best[query] + found, reverse=True)[:KEPT]
    return [[clip_id for _, clip_id in found] for found in best]


def measure(uri: str, text: np.ndarray, images: np.ndarray, weight: float) -> dict[str, Any]:
    """In a fresh process: the ids found, seconds per question at the first time and at the second, resident memory."""
    started = time.perf_counter()
    search = MotionSearch(MotionDatabase.open(uri), language_weight=weight)
    opened = time.perf_counter() - started
    rounds: list[list[float]] = []
    for _ in range(2):
        found = []
        rounds.append([])
        for query in zip(text, images, strict=True):
            started = time.perf_counter()
            motions = search.search(*query, KEPT).motions
            rounds[-1].append(1000 * (time.perf_counter() - started))
            found.append([motion.clip.clip_id for motion in motions])
    memory = psutil.Process().memory_info().rss / 1e6
    return {"found": found, "first": rounds[0], "second": rounds[1], "rss_mb": memory, "opened": opened}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=800_000)
    parser.add_argument(
        "--folder", type=Path, help="where the database is made and kept; a temporary folder if not given"
    )
    parser.add_argument("--language-weight", type=float, default=1.0, help="1 is the paper's score")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="retrieval-"))
    world = World(args.clips)
    uri = str(folder / f"synthetic_{args.clips}.lance")
    database = MotionDatabase.open(uri) if Path(uri).exists() else MotionDatabase.create(uri)
    fill(database, world, args.clips)
    database.compact()
    started = time.perf_counter()
    database.index()
    built = time.perf_counter() - started
    print(f"index built in {built:.0f} s", flush=True)

    text, images = world.draw(np.random.default_rng(2), QUERIES)
    truth = exact(database, text, images, args.language_weight)
    started = time.perf_counter()
    exact(database, text[:1], images[:1], args.language_weight)
    scan = time.perf_counter() - started
    with process_pool(1) as pool:
        measured = pool.submit(measure, uri, text, images, args.language_weight).result()
    recall = np.mean([len(set(a) & set(b)) / KEPT for a, b in zip(measured["found"], truth, strict=True)])
    (first, first99), (p50, p99) = (np.percentile(measured[turn], [50, 99]).tolist() for turn in ("first", "second"))
    figures = {
        "clips": len(database), "p50_ms": p50, "p99_ms": p99, "recall_at_10": float(recall),
        "rss_mb": measured["rss_mb"], "build_seconds": built, "ratio_to_exact_scan": 1000 * scan / p50,
        "first_p50_ms": first, "first_p99_ms": first99, "open_seconds": measured["opened"],
        "load_average": os.getloadavg()[0],
    }  # fmt: skip
    print(f"{len(database)} clips, {QUERIES} queries, weight of the text {args.language_weight:g}")
    print(
        f"  p50 {p50:.1f} ms, p99 {p99:.1f} ms: {figures['ratio_to_exact_scan']:.0f} times faster than the exact scan"
    )
    print(f"  asked for the first time, as far as the disk has to be read: p50 {first:.1f} ms, p99 {first99:.1f} ms")
    print(f"  recall at {KEPT} against the exact formula {recall:.3f}, resident memory {measured['rss_mb']:.0f} MB")
    print(f"  ready after {measured['opened']:.1f} s; load average {figures['load_average']:.1f}")
    if args.json:
        write_json(args.json, figures)
    if args.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
