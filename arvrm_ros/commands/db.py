# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""``arvrm db``: builds, shows, searches, checks and exports the human-motion database."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from arvrm_ros.errors import DataError
from arvrm_ros.files import write_json, write_text
from arvrm_ros.resources import resource
from arvrm_ros.retrieval.building import ADDED, ENGINES, KNOWN, LOCAL, build
from arvrm_ros.retrieval.database import INDEX_FROM, MotionDatabase
from arvrm_ros.retrieval.extraction import ExtractionOptions
from arvrm_ros.retrieval.page import database_page, search_page
from arvrm_ros.retrieval.recording import record
from arvrm_ros.retrieval.search import LANGUAGE_WEIGHT, MODES, MotionSearch

DEFAULT_POLICY = "arvrm_small"
"""Whose encoders a new database is made with."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    options = ExtractionOptions()
    style = argparse.ArgumentDefaultsHelpFormatter
    making = actions.add_parser(
        "build",
        help="make or extend a database from videos of hands",
        description="""Adds the hand motions of a source that are not in the database yet; run it again to go on after a
            stop, with another source to add that too. A source is a folder of videos or MCAP bags, at any depth, whose
            captions are in captions.csv (columns video, caption and, if only a part is meant, start and end in seconds)
            or captions.jsonl in it, or else in the files' names (open_the_drawer.mp4); or a folder of clips as `arvrm
            collect human` makes; or the annotations of EPIC-KITCHENS (EPIC_100_train.csv) or Ego4D (fho_main.json,
            narration.json), with --videos. Videos longer than --longest of which nobody says when something is done are
            cut where the hand comes and goes.""",
        formatter_class=style,
    )
    making.add_argument("source", type=Path, help="folder of videos or clips, a video, or a file of annotations")
    making.add_argument("--videos", type=Path, help="folder of the videos that annotations are about")
    making.add_argument("--out", required=True, help="the database, path or URI of a NAME.lance")
    making.add_argument("--rate", type=float, default=options.rate, help="frames per second of the tracks")
    making.add_argument(
        "--min-visible", type=float, default=options.min_visible, help="share of frames with a hand that a clip needs"
    )
    making.add_argument(
        "--max-gap", type=float, default=options.max_gap, help="seconds without a hand that are filled at most"
    )
    making.add_argument(
        "--smoothing",
        type=float,
        default=options.smoothing,
        help="seconds over which tracks are smoothed; 0: none",
    )
    making.add_argument(
        "--trim",
        action=argparse.BooleanOptionalAction,
        default=options.trim,
        help="a clip begins and ends where the hand is seen",
    )
    making.add_argument("--shortest", type=float, default=options.shortest, help="seconds of a clip at least, when cut")
    making.add_argument("--longest", type=float, default=options.longest, help="seconds of a clip at most")
    making.add_argument("--hands", type=int, default=options.hands, help="hands followed at most; the busiest is kept")
    making.add_argument(
        "--visual-frames",
        type=int,
        default=options.visual_frames,
        help="image features kept per clip; 0: one per frame (10 are enough for the search)",
    )
    _encoder_arguments(making, policy=True)
    making.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    making.add_argument(
        "--engine",
        choices=ENGINES,
        default=LOCAL,
        help="processes of this machine, or Ray: the cluster of RAY_ADDRESS, or one made here",
    )

    recording = actions.add_parser(
        "record",
        help="film a hand in front of a camera into a database: show the robot once",
        description="""Films one motion, says while it films whether the hand is seen, keeps the video in a folder and
            adds it to the database. End it with Ctrl-C, or give --seconds.""",
        formatter_class=style,
    )
    recording.add_argument("caption", help='what the hand does, as an instruction: "open the drawer"')
    recording.add_argument("--db", required=True, help="the database; made when missing")
    recording.add_argument(
        "--camera", default="/dev/video0", help="device, or a video file, bag or folder of images instead"
    )
    recording.add_argument("--videos", type=Path, default=Path("recordings"), help="folder of the recorded videos")
    recording.add_argument("--seconds", type=float, default=options.longest, help="length at most")
    recording.add_argument("--rate", type=float, default=30.0, help="frames per second")
    _encoder_arguments(recording, policy=True)

    shipped = resource("checkpoints", "human_motions.lance")
    finding = actions.add_parser("search", help="find clips by text and image", formatter_class=style)
    finding.add_argument("text", help="instruction")
    finding.add_argument("--db", default=str(shipped), help="the database")
    finding.add_argument("--image", type=Path, help="what the robot's camera sees; without it only the text counts")
    _encoder_arguments(finding)
    finding.add_argument("-k", type=int, default=4, help="clips wanted")
    finding.add_argument("--mode", choices=MODES[:2], default=MODES[0], help="how clips are chosen")
    _ranking_arguments(finding)
    finding.add_argument("--exact", action="store_true", help="score every clip, also where there is an index")
    finding.add_argument("--html", type=Path, help="also write what was found as a page, with pictures and scores")
    showing = actions.add_parser(
        "show", help="a page to look at: pictures, hands, captions, quality", formatter_class=style
    )
    showing.add_argument("--db", default=str(shipped), help="the database")
    showing.add_argument(
        "--out", type=Path, default=Path("motions.html"), help="the page; nothing else is needed with it"
    )
    showing.add_argument("--clips", type=int, default=60, help="clips on the page")
    showing.add_argument("--caption", default="", help="only clips whose caption has this in it")
    showing.add_argument("--worst", action="store_true", help="those the landmarker was least sure of, worst first")
    checking = actions.add_parser("verify", help="find what is damaged or missing", formatter_class=style)
    checking.add_argument("--db", default=str(shipped), help="the database")
    checking.add_argument("--videos", type=Path, help="the source's folder, to look for its videos too")
    exporting = actions.add_parser("export", help="write the clips to a Parquet file", formatter_class=style)
    exporting.add_argument("--db", default=str(shipped), help="the database")
    exporting.add_argument("--out", type=Path, required=True, help="the .parquet file")
    indexing = actions.add_parser(
        "index",
        help=f"make a large database fast to search (of {INDEX_FROM} clips and more, `build` does so itself)",
        formatter_class=style,
    )
    indexing.add_argument("--db", required=True, help="the database")
    upgrading = actions.add_parser(
        "upgrade", help="copy a database that an older version made, so that clips can be added", formatter_class=style
    )
    upgrading.add_argument("--db", default=str(shipped), help="the database")
    upgrading.add_argument("--out", required=True, help="the copy: a path or URI ending in .lance")
    judging = actions.add_parser(
        "precision",
        help="how often a search finds clips of the right task, in the scenes of simulated robot episodes",
        formatter_class=style,
    )
    judging.add_argument("episodes", type=Path, help="folder made by `arvrm collect robot`")
    judging.add_argument("--db", default=str(shipped), help="the database, of clips by `arvrm collect human`")
    _encoder_arguments(judging)
    judging.add_argument("--limit", type=int, help="only so many episodes, spread over the folder")
    judging.add_argument("-k", type=int, default=4, help="clips per query")
    _ranking_arguments(judging)
    judging.add_argument("--json", type=Path, help="also write all figures to this file")
    stats = actions.add_parser("stats", help="what is in a database", formatter_class=style)
    stats.add_argument("--db", default=str(shipped), help="the database")


def _encoder_arguments(parser: argparse.ArgumentParser, policy: bool = False) -> None:
    if policy:
        parser.add_argument(
            "--policy",
            default="",
            metavar="NAME",
            help="make a new database with the encoders of this policy's configuration, a name in config/policies or a "
            f"file; {DEFAULT_POLICY} if not given",
        )
    parser.add_argument(
        "--image-encoder",
        type=Path,
        help="weights of the database's image encoder; those that ship, or are fetched by name, if not given",
    )


def _ranking_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--language-weight",
        type=float,
        default=LANGUAGE_WEIGHT,
        help="factor of the text in the score; 1 is the paper's",
    )
    parser.add_argument(
        "--opposites",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="clips whose captions say the opposite (open/close, on/off, left/right) come after all others",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the chosen action; returns the exit status."""
    actions = {
        "build": _build, "search": _search, "stats": _stats, "show": _show, "verify": _verify, "export": _export,
        "index": _index, "upgrade": _upgrade, "record": _record, "precision": _precision,
    }  # fmt: skip
    return actions[args.action](args)


def _build(args: argparse.Namespace) -> int:
    options = ExtractionOptions(
        rate=args.rate,
        min_visible=args.min_visible,
        max_gap=args.max_gap,
        smoothing=args.smoothing,
        trim=args.trim,
        shortest=args.shortest,
        longest=args.longest,
        hands=args.hands,
        visual_frames=args.visual_frames,
        image_encoder=args.image_encoder,
    )
    database = _database(args.out, args.image_encoder, args.policy)
    tally = build(database, args.source, options, args.workers, args.videos, args.engine)
    for outcome, count in tally.counts.most_common():
        names = (
            f" ({', '.join(tally.examples[outcome])}{', ...' if count > 3 else ''})" if tally.examples[outcome] else ""
        )
        print(f"{count:6d}  {outcome if outcome in (ADDED, KNOWN) else f'rejected: {outcome}{names}'}")
    print(f"{len(database):6d}  clips in {args.out}")
    return 0 if len(database) else 1


def _record(args: argparse.Namespace) -> int:
    from arvrm_ros.perception.cameras import open_source

    database = _database(args.db, args.image_encoder, args.policy)
    source = open_source(args.camera, rate=args.rate)
    try:
        path, seen = record(source, args.videos, args.caption, args.seconds, args.rate)
    finally:
        source.close()
    print(f"{path}: hand found in {seen:.0%} of the frames")
    tally = build(database, path, ExtractionOptions(image_encoder=args.image_encoder), 1)
    if tally.counts[ADDED]:
        print(f"added to {args.db}: {len(database)} clips")
        return 0
    print(f"not added ({', '.join(tally.counts)}): film it again, with the whole hand in the picture", file=sys.stderr)
    return 1


def _database(uri: str, image_encoder: Path | None, policy: str) -> MotionDatabase:
    """Opens a database to add to, or makes it for a policy; what encoders one has that is there, it says itself."""
    from arvrm_ros.policies.arvrm.configuration import load_config
    from arvrm_ros.retrieval.encoders import encoder_fingerprints, names_of

    if not MotionDatabase.exists(uri):
        config = load_config(policy or DEFAULT_POLICY)
        return MotionDatabase.create(
            uri, encoder_fingerprints(image_encoder, config.image_encoder, config.text_encoder)
        )
    database = MotionDatabase.open(uri)
    wanted = load_config(policy) if policy else None
    if wanted is not None and names_of(database) != (wanted.image_encoder, wanted.text_encoder):
        raise DataError(f"{uri} was made for the encoders {' and '.join(names_of(database))}: give another --out")
    if database.features != encoder_fingerprints(image_encoder, *names_of(database)):
        raise DataError(f"{uri} was made with other encoders: give another --out, or remove it first")
    return database


def _search(args: argparse.Namespace) -> int:
    import cv2

    from arvrm_ros.retrieval.encoders import encoders_of, text_encoder_of

    database = MotionDatabase.open(args.db)
    searcher = MotionSearch(
        database,
        language_weight=args.language_weight,
        exact=True if args.exact else None,
        opposites=args.opposites,
    )
    if not len(searcher):
        print(f"{args.db} is empty")
        return 1
    language = text_encoder_of(database).encode([args.text])[0]
    visual = np.zeros((1, searcher.visual_width), np.float32)
    if args.image:
        image = cv2.imread(str(args.image), cv2.IMREAD_COLOR)
        if image is None:
            raise DataError(f"{args.image} is not an image")
        encoder, _ = encoders_of(database, args.image_encoder)
        visual = encoder.visual_feature(encoder.encode(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)[None]))
    result = searcher.search(language, visual, args.k, args.mode, instruction=args.text)
    print(f"confidence {result.confidence:.2f}")
    print(" score   text  image  clip")
    for motion in result.motions:
        print(
            f"{motion.score:6.3f} {motion.language_score:6.3f} {motion.visual_score:6.3f}  "
            f"{motion.clip.clip_id}: {motion.clip.caption}"
        )
    if args.html:
        write_text(args.html, search_page(database, args.text, result.motions, result.confidence))
        print(args.html)
    return 0


def _show(args: argparse.Namespace) -> int:
    database = MotionDatabase.open(args.db)
    if not len(database):
        raise DataError(f"{args.db} is empty: build it with 'arvrm db build'")
    order = "worst" if args.worst else "spread"
    write_text(args.out, database_page(database, args.clips, args.caption, order))
    print(args.out)
    return 0


def _verify(args: argparse.Namespace) -> int:
    database = MotionDatabase.open(args.db)
    if args.videos is not None and not args.videos.is_dir():
        raise DataError(f"{args.videos} is not a folder")
    problems = database.verify(args.videos)
    print("\n".join(problems) or f"{len(database)} clips in {args.db}: nothing is wrong")
    return 1 if problems else 0


def _export(args: argparse.Namespace) -> int:
    count = MotionDatabase.open(args.db).export(args.out)
    print(f"{count} clips in {args.out}")
    return 0


def _index(args: argparse.Namespace) -> int:
    database = MotionDatabase.open(args.db)
    started = time.monotonic()
    with database.building():
        database.index()
    print(f"{len(database)} clips indexed in {time.monotonic() - started:.0f} s")
    return 0


def _upgrade(args: argparse.Namespace) -> int:
    count = len(MotionDatabase.open(args.db).upgrade(args.out))
    print(f"{count} clips in {args.out}")
    return 0


def _precision(args: argparse.Namespace) -> int:
    from arvrm_ros.evaluation.retrieval_report import first_views, precision
    from arvrm_ros.retrieval.encoders import encoders_of

    database = MotionDatabase.open(args.db)
    images, texts = encoders_of(database, args.image_encoder)
    if not database.tasks():
        raise DataError(f"{args.db} has no clips of known tasks: build it from clips by `arvrm collect human`")
    search = MotionSearch(database, language_weight=args.language_weight, opposites=args.opposites)
    figures = precision(search, first_views(args.episodes, args.limit, images), texts, args.k)
    for name, row in figures.items():
        low, high = row["interval"]
        print(
            f"{name.replace('_', '-'):9} precision {row['precision']:.3f} ({low:.3f} to {high:.3f}), opposite "
            f"task {row['opposite']:.3f}; {row['queries']} queries, {row['wordings']} wordings"
        )
        for text, tasks in list(row["wrong"].items())[:5]:
            print(f"    {text!r}: " + ", ".join(f"{count} of {task}" for task, count in tasks.items()))
    if args.json:
        write_json(args.json, figures)
    return 0


def _stats(args: argparse.Namespace) -> int:
    database = MotionDatabase.open(args.db)
    clips = database.overview()
    print(f"{args.db}: {len(clips)} clips, {'indexed' if database.indexed else 'no index'}")
    for name, value in database.features.items():
        print(f"  {name.replace('_', ' ')}: {value}")
    if not len(clips):
        return 0
    frames, found = (clips[name].to_numpy().sum() for name in ("frames", "found"))
    print(
        f"  {clips['seconds'].to_numpy().sum():.0f} s of motion, hand found in {found / frames:.1%} of {frames} frames"
    )
    for made, count in Counter(clips["extraction"].to_pylist()).most_common():
        settings = ", ".join(f"{name} {value}" for name, value in json.loads(made or "{}").items())
        print(f"  {count} tracks extracted with {settings or 'an earlier version'}")
    print(f"  {len(clips['caption'].unique())} captions; clips per task:")
    for task, count in sorted(Counter(clips["task"].to_pylist()).items()):
        print(f"  {count:6d}  {task or 'unknown'}")
    return 0
