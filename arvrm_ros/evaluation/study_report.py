# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a study has shown, as ``docs/results.md`` with plots: tables in the paper's layout, and intervals.

All arms and seeds run the same chains, so that seeds and chains are crossed factors. Both are resampled, each on its
own, and a resample's mean is taken over all their crossings (the pigeonhole bootstrap: Owen 2007, "The pigeonhole
bootstrap", Annals of Applied Statistics 1(2)). Resampling the chains within each seed instead would take a chain that
is hard for every seed for that many independent ones, and give intervals that are too narrow.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arvrm_ros.evaluation.study import FULL, PRETRAINING, SMALL, Cell, Study, StudyError, chain_count, planned
from arvrm_ros.evaluation.study_runner import Results
from arvrm_ros.files import replace_atomically, write_text

LENGTH = 5
RESAMPLES = 10_000
FEWEST_CHAINS = 20
"""Below this number of chains no verdict is given."""

NOTES = ("<!-- notes:begin -->", "<!-- notes:end -->")
COLOURS = {FULL: "#0072B2", SMALL: "#D55E00"}
"""Of Okabe and Ito's palette, told apart with every kind of colour vision."""


# Statistics


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A paired difference of average chain lengths: what it rests on, and what it says."""

    estimate: Estimate
    seeds: int
    chains: int
    verdict: str


@functools.lru_cache(maxsize=32)
def _weights(seeds: int, chains: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each seed (B, S) and each chain (B, C) is in a resample, as shares."""
    rng = np.random.default_rng(0)
    return (
        rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds,
        rng.multinomial(chains, np.full(chains, 1 / chains), RESAMPLES) / chains,
    )


def interval(values: np.ndarray) -> Estimate:
    """Mean of (S, C) values, one per seed and chain, with the 95 % percentile interval of the pigeonhole bootstrap.

    The deviations of the seeds from each other are widened by sqrt(S / (S - 1)): with the three seeds one can afford,
    resampling alone understates how much seeds differ. With one seed the interval is about that seed only.
    """
    seeds, chains = values.shape
    if seeds > 1:
        middle = values.mean(0)
        spread = middle + (values - middle) * np.sqrt(seeds / (seeds - 1))
    else:
        spread = values
    of_seeds, of_chains = _weights(seeds, chains)
    means = ((spread @ of_chains.T) * of_seeds.T).sum(0)  # (B,)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high))


def share(values: np.ndarray, largest: float) -> Estimate:
    """As :func:`interval`, for values from 0 to ``largest``.

    Where all values lie at one end a bootstrap cannot know better than that; the interval is then Wilson's for as many
    trials as there are chains, the seeds' repetitions not counted.
    """
    estimate = interval(values)
    low, high = max(0.0, estimate.low), min(largest, estimate.high)
    if values.min() == values.max() and values.min() in (0, largest):
        from scipy.stats import binomtest

        chains = values.shape[1]
        wilson = binomtest(chains if values.min() else 0, chains).proportion_ci(method="wilson")
        low, high = largest * float(wilson.low), largest * float(wilson.high)
    return Estimate(estimate.value, low, high)


def contrast(plus: Sequence[Figures], minus: Sequence[Figures]) -> Difference | None:
    """The sum of some figures minus that of others, paired over the seeds and chains all of them have.

    Returns:
        None when there are no such seeds, or the figures are of other scenes. The verdict says "higher" or "lower" only
        when the interval leaves out 0 and every single seed says the same.
    """
    figures = [*plus, *minus]
    seeds = sorted(set.intersection(*(set(f.by_seed) for f in figures)))
    if not seeds or len({f.scenes for f in figures}) > 1:
        return None
    chains = min(len(f.by_seed[seed]) for f in figures for seed in seeds)
    signs = [1] * len(plus) + [-1] * len(minus)
    values = sum(
        sign * np.array([f.by_seed[seed][:chains] for seed in seeds]) for sign, f in zip(signs, figures, strict=True)
    )
    assert isinstance(values, np.ndarray)
    estimate = interval(values)
    each = values.mean(1)
    if chains < FEWEST_CHAINS:
        verdict = "too few chains to tell"
    elif estimate.low > 0 and each.min() > 0:
        verdict = "higher"
    elif estimate.high < 0 and each.max() < 0:
        verdict = "lower"
    else:
        verdict = "no difference shown"
    if verdict in ("higher", "lower") and len(seeds) == 1:
        verdict += ", for one seed"
    return Difference(estimate, len(seeds), chains, verdict)


@dataclass(frozen=True)
class Figures:
    """The chains of one arm under one condition.

    Attributes:
        by_seed: tasks in a row per chain, (C,), by seed of training.
        scenes: see :func:`arvrm_ros.evaluation.study.scenes`.
    """

    by_seed: dict[int, np.ndarray]
    scenes: str

    @functools.cached_property
    def values(self) -> np.ndarray:
        """(S, C) tasks in a row."""
        return np.stack([self.by_seed[seed] for seed in sorted(self.by_seed)])

    @functools.cached_property
    def length(self) -> Estimate:
        """Average chain length."""
        return share(self.values, LENGTH)

    @functools.cached_property
    def success(self) -> list[Estimate]:
        """Shares of the chains with 1..5 tasks in a row."""
        return [share((self.values >= k).astype(float), 1) for k in range(1, LENGTH + 1)]


# The questions


@dataclass(frozen=True)
class Paper:
    """The paper's figures on CALVIN: average length, and the shares of 1..5 tasks in a row where it gives them."""

    length: float
    success: tuple[float, ...] = ()


ALL_LOOKS = "ABCD"


@dataclass(frozen=True)
class Row:
    """A line of a table: an arm under a condition; on all looks of the table that the study's data have, or on some."""

    label: str
    arm: str
    data: str = FULL
    variants: str = ALL_LOOKS
    evaluation: str = "seen"
    paper: Paper | None = None


@dataclass(frozen=True)
class Comparison:
    """A sentence about rows of a table, by their places: the sum of ``plus`` minus that of ``minus``."""

    label: str
    plus: tuple[int, ...]
    minus: tuple[int, ...]


@dataclass(frozen=True)
class Question:
    """A table with its plot. The first comparisons, as many as ``answers``, are what the question is about."""

    letter: str
    title: str
    text: str
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    answers: int = 1


GR1_FULL = Paper(4.21, (0.949, 0.896, 0.844, 0.789, 0.731))
ARVRM_FULL = Paper(4.27, (0.951, 0.915, 0.855, 0.800, 0.751))
GR1_SMALL = Paper(2.00, (0.778, 0.533, 0.332, 0.218, 0.139))
ARVRM_SMALL = Paper(2.28, (0.809, 0.589, 0.381, 0.287, 0.213))
GR1_UNSEEN = Paper(2.17, (0.764, 0.555, 0.381, 0.270, 0.196))
ARVRM_UNSEEN = Paper(2.33, (0.802, 0.575, 0.430, 0.313, 0.209))
GR1_ABC = Paper(3.06, (0.854, 0.712, 0.596, 0.497, 0.401))
ARVRM_ABC = Paper(3.29, (0.901, 0.759, 0.642, 0.531, 0.461))

AMOUNTS = ((SMALL, "little data"), (FULL, "full data"))


def _with_both(rows: int, *pairs: tuple[str, int, int]) -> tuple[Comparison, ...]:
    """Comparisons (label, plus, minus) within the first ``rows`` of a table, of little data, and the rest."""
    return tuple(
        Comparison(f"{label}, {amount}", (first + plus,), (first + minus,))
        for first, (_, amount) in zip((0, rows), AMOUNTS, strict=True)
        for label, plus, minus in pairs
    )


PARTS = ("none", "pretraining", "retrieval", "full", "conditional")
PART_LABELS = ("none", "+ pretraining", "+ retrieval", "+ AR map (AR-VRM)", "conditional AR map m(l, o)")
PAPER_PARTS = (Paper(3.00), Paper(4.06), Paper(4.21), ARVRM_FULL, None)

QUESTIONS = (
    Question(
        "a",
        "Does each part add?",
        "Nothing, then the parts one after the other. The paper's ablation is on the full data.",
        (
            *(Row(f"{label}, little data", arm, SMALL) for label, arm in zip(PART_LABELS, PARTS, strict=True)),
            *(
                Row(f"{label}, full data", arm, paper=paper)
                for label, arm, paper in zip(PART_LABELS, PARTS, PAPER_PARTS, strict=True)
            ),
        ),
        _with_both(
            len(PARTS),
            ("AR-VRM against none", 3, 0),
            ("pretraining adds", 1, 0),
            ("retrieval adds", 2, 1),
            ("the AR map adds", 3, 2),
            ("conditional map against the global one", 4, 3),
        ),
    ),
    Question(
        "b",
        "Is AR-VRM better than GR-1's recipe?",
        "The same backbone, data and number of steps; GR-1's recipe predicts future images and knows no keypoints. "
        "With the map, the robot's state also goes straight to AR-VRM's action head; GR-1's can be given that way as "
        "well. The paper's little data is 10 % of CALVIN's.",
        (
            Row("GR-1, little data", "gr1", SMALL, paper=GR1_SMALL),
            Row("GR-1 with the state's direct way, little data", "gr1_direct_state", SMALL),
            Row("AR-VRM, little data", "full", SMALL, paper=ARVRM_SMALL),
            Row("GR-1, full data", "gr1", paper=GR1_FULL),
            Row("GR-1 with the state's direct way, full data", "gr1_direct_state"),
            Row("AR-VRM, full data", "full", paper=ARVRM_FULL),
        ),
        _with_both(
            3,
            ("AR-VRM against GR-1", 2, 0),
            ("AR-VRM against GR-1 with the state's direct way", 2, 1),
            ("the state's direct way adds to GR-1", 1, 0),
        ),
        answers=2,
    ),
    Question(
        "c",
        "Do the parts add most when robot data is scarce?",
        "A gain is AR-VRM's average length minus the other's; the comparisons are of gains.",
        (
            Row("none, little data", "none", SMALL),
            Row("GR-1, little data", "gr1", SMALL, paper=GR1_SMALL),
            Row("AR-VRM, little data", "full", SMALL, paper=ARVRM_SMALL),
            Row("none, full data", "none", paper=Paper(3.00)),
            Row("GR-1, full data", "gr1", paper=GR1_FULL),
            Row("AR-VRM, full data", "full", paper=ARVRM_FULL),
        ),
        (
            Comparison("AR-VRM's gain over none, little minus full data", (2, 3), (0, 5)),
            Comparison("AR-VRM's gain over GR-1, little minus full data", (2, 4), (1, 5)),
        ),
    ),
    Question(
        "d",
        "Does it understand unseen wordings?",
        "The same scenes and tasks, asked for in paraphrases that training never saw. AR-VRM reads them in the words "
        "of the best clip's caption (not in the paper; without it: (f)). The paper's figures are of full data.",
        (
            Row("none, little data", "none", SMALL, evaluation="held_out"),
            Row("GR-1, little data", "gr1", SMALL, evaluation="held_out"),
            Row("AR-VRM, little data", "full", SMALL, evaluation="held_out"),
            Row("AR-VRM, little data, seen wordings", "full", SMALL, paper=ARVRM_SMALL),
            Row("none, full data", "none", evaluation="held_out"),
            Row("GR-1, full data", "gr1", evaluation="held_out", paper=GR1_UNSEEN),
            Row("AR-VRM, full data", "full", evaluation="held_out", paper=ARVRM_UNSEEN),
            Row("AR-VRM, full data, seen wordings", "full", paper=ARVRM_FULL),
        ),
        _with_both(
            4,
            ("AR-VRM against GR-1, unseen wordings", 2, 1),
            ("AR-VRM against none, unseen wordings", 2, 0),
            ("AR-VRM: unseen against seen wordings", 2, 3),
        ),
    ),
    Question(
        "e",
        "Does it carry over to a look it never saw?",
        "Evaluated on look D; ABC→D is trained without it, on three quarters of the episodes. The paper's figures are "
        "of full data.",
        tuple(
            Row(f"{label}, {variants}→D, {amount}", arm, data, variants, paper=paper if data == FULL else None)
            for data, amount in AMOUNTS
            for label, arm, variants, paper in (
                ("none", "none", "ABCD", Paper(3.00)),
                ("GR-1", "gr1", "ABCD", GR1_FULL),
                ("AR-VRM", "full", "ABCD", ARVRM_FULL),
                ("none", "none", "ABC", None),
                ("GR-1", "gr1", "ABC", GR1_ABC),
                ("AR-VRM", "full", "ABC", ARVRM_ABC),
            )
        ),
        _with_both(
            6,
            ("AR-VRM against GR-1, ABC→D", 5, 4),
            ("AR-VRM against none, ABC→D", 5, 3),
            ("AR-VRM: ABC→D against ABCD→D", 5, 2),
        ),
    ),
    Question(
        "f",
        "Does retrieval matter at all?",
        "AR-VRM given other clips than the retrieved ones: when it acts only, or in training too. If clips of a wrong "
        "task did no harm, what the clips show would not be used.",
        tuple(
            Row(f"{label}, {amount}", arm, data, evaluation=evaluation)
            for data, amount in AMOUNTS
            for label, arm, evaluation in (
                ("retrieved clips", "full", "seen"),
                ("random clips when acting", "full", "random"),
                ("a wrong task's clips when acting", "full", "wrong_task"),
                ("no clips when acting", "full", "no_clips"),
                ("random clips in training too", "random_clips", "seen"),
                ("a wrong task's clips in training too", "wrong_clips", "seen"),
                ("no clips in training too", "own_features", "seen"),
                ("unseen wordings, retrieved clips", "full", "held_out"),
                ("unseen wordings, not read in captions' words", "full", "held_out_own_words"),
                ("unseen wordings, no clips when acting", "full", "held_out_no_clips"),
            )
        ),
        _with_both(
            10,
            ("retrieved against random clips in training too", 0, 4),
            ("unseen wordings read in captions' words against their own", 7, 8),
            ("retrieved against a wrong task's clips in training too", 0, 5),
            ("retrieved against no clips in training too", 0, 6),
            ("retrieved against random clips when acting", 0, 1),
            ("retrieved against a wrong task's clips when acting", 0, 2),
            ("retrieved against no clips when acting", 0, 3),
            ("unseen wordings, retrieved against no clips when acting", 7, 9),
        ),
        answers=2,
    ),
)

ASKED = tuple(dict.fromkeys(row.arm for question in QUESTIONS for row in question.rows))
"""The arms of questions (a) to (f)."""


def other_arms(study: Study) -> Question | None:
    """A table of the arms the questions do not know, each against AR-VRM: what was tried."""
    rows: list[Row] = []
    comparisons: list[Comparison] = []
    for data, amount in AMOUNTS:
        tried = [
            Row(f"{arm}, {amount}, {runs.variants}, {evaluation}", arm, data, runs.variants, evaluation)
            for runs in study.runs
            for arm in runs.arms
            for evaluation in runs.evaluations
            if arm not in ASKED and runs.data == data
        ]
        for row in tried:
            base = Row(
                f"AR-VRM, {amount}, {row.variants}, {row.evaluation}", "full", data, row.variants, row.evaluation
            )
            if base not in rows:
                rows.append(base)
            rows.append(row)
            comparisons.append(Comparison(f"{row.label} against AR-VRM", (len(rows) - 1,), (rows.index(base),)))
    if not comparisons:
        return None
    text = "Other settings, with what they change: " + "; ".join(
        f"`{arm}` {_changes(study, arm)}" for arm in dict.fromkeys(row.arm for row in rows) if arm not in ASKED
    )
    return Question("g", "What else was tried", f"{text}.", tuple(rows), tuple(comparisons), answers=0)


def _changes(study: Study, name: str) -> str:
    arm = study.arms[name]
    parts = [f"{key}: {value}" for key, value in arm.changes.items()]
    parts += [] if arm.policy == "arvrm_small" else [arm.policy]
    parts += [] if arm.pretrained else ["no pretraining"]
    parts += [] if arm.human_clips else ["no human clips in fine-tuning"]
    parts += [] if arm.mode == "database" else [f"{arm.mode} clips"]
    return ", ".join(parts) or "no change"


# The report


class Report:
    """Writes the page and its plots.

    Args:
        study: its plan decides what is missing.
        path: the page; plots go into ``images`` beside it.
        command: how the page was made, for its head.

    Raises:
        StudyError: the file that is there was not made by this, or nothing can be drawn.
    """

    def __init__(self, study: Study, path: Path, command: str) -> None:
        if importlib.util.find_spec("matplotlib") is None:  # told now, not after the first hours of training
            raise StudyError("the plots need matplotlib: pip install 'arvrm_ros[report]'")
        self._study, self._path, self._command = study, path, command
        self._notes()
        self._cells = planned(study)
        self._made: dict[Row, Figures | None] = {}

    def write(self, results: Results) -> None:
        """Writes what the results show."""
        rows = results.matching(self._cells)
        self._made.clear()
        asked = [*QUESTIONS, *([other] if (other := other_arms(self._study)) else [])]
        questions = [part for question in asked if (part := self._planned_part(question)).comparisons]
        lines = [*self._head(results, rows), *self._in_short(questions, rows)]
        for question in questions:
            lines += self._section(question, rows)
        for letter in {question.letter for question in asked} - {question.letter for question in questions}:
            self._image(letter).unlink(missing_ok=True)
        lines += [*_pretraining(rows), *self._cost(rows), "## Notes", "", NOTES[0] + self._notes() + NOTES[1]]
        write_text(self._path, "\n".join(lines) + "\n")

    def _notes(self) -> str:
        """What stands between the marks of the page that is there."""
        if not self._path.is_file():
            return "\n\n"
        text = self._path.read_text(encoding="utf-8")
        before, begin, rest = text.partition(NOTES[0])
        notes, end, _ = rest.partition(NOTES[1])
        if not (begin and end) or NOTES[1] in before:
            raise StudyError(
                f"{self._path} has no {NOTES[0]} and {NOTES[1]}, so it was not written by arvrm ablate: move it away, "
                "or give another --report"
            )
        return notes

    def _head(self, results: Results, rows: dict[Cell, Any]) -> list[str]:
        study, cells = self._study, [cell for cell in self._cells if cell.evaluation != PRETRAINING]
        there = [cell for cell in cells if cell in rows]
        stale = sum(cell in results.rows and cell not in rows for cell in cells)
        chains = sorted({chain_count(study, cell.evaluation) for cell in cells})
        data, chosen = study.data, study.evaluation
        return [
            "# Results",
            "",
            f"<!-- Written by `{self._command}`; what is changed outside the notes is lost. -->",
            f"Written by `{self._command}` from `{results.path.name}`; only the notes at the end are written by hand. "
            "Other measurements: [measurements.md](measurements.md).",
            "",
            f"{len(there)} of {len(cells)} evaluations are done"
            + (f"; {stale} with other settings are left out" if stale else "")
            + f". Seeds of training: {', '.join(map(str, study.seeds))}. Chains per seed and evaluation: "
            f"{' or '.join(map(str, chains))}, the same ones for all, of five instructions with up to "
            f"{chosen.max_steps} control steps each (0.1 s), on look {chosen.variants}. Full data: {data.episodes} "
            f"robot episodes; little: {data.small_episodes} ({100 * data.small_episodes / data.episodes:.0f} %); "
            f"human clips: {data.clips}.",
            "",
            "What the arms of (a) to (f) change in the small policies: "
            + "; ".join(f"`{name}` {_changes(study, name)}" for name in ASKED if name in study.arms)
            + ".",
            "",
            "Intervals are 95 %: a bootstrap that resamples seeds and chains, each on its own. Differences are paired, "
            'chain by chain and seed by seed. "Higher" and "lower" are said when the interval leaves out 0 and every '
            'seed agrees; "no difference shown" does not say that there is none. With three seeds the intervals tell '
            "little about how much seeds can differ. The paper's figures are CALVIN's, with another robot and other "
            "data: they are for the shape.",
            "",
        ]

    def _planned_part(self, question: Question) -> Question:
        """Without the rows that the study does not plan, and the comparisons with them."""
        kept = [place for place, row in enumerate(question.rows) if self._cells.keys() & set(self._cells_of(row))]
        now = {place: index for index, place in enumerate(kept)}
        comparisons = [
            (number, Comparison(c.label, tuple(now[p] for p in c.plus), tuple(now[p] for p in c.minus)))
            for number, c in enumerate(question.comparisons)
            if now.keys() >= {*c.plus, *c.minus}
        ]
        return dataclasses.replace(
            question,
            rows=tuple(question.rows[place] for place in kept),
            comparisons=tuple(comparison for _, comparison in comparisons),
            answers=sum(number < question.answers for number, _ in comparisons),
        )

    def _image(self, letter: str) -> Path:
        return self._path.parent / "images" / f"{self._path.stem}_{letter}.png"

    def _in_short(self, questions: list[Question], rows: dict[Cell, Any]) -> list[str]:
        lines = ["## In short", "", "| | difference in average length | |", "|---|---|---|"]
        for question in questions:
            for comparison in question.comparisons[: question.answers]:
                lines.append(f"| ({question.letter}) {' | '.join(self._compared(question, comparison, rows)[:3])} |")
        return [*lines, ""]

    def _section(self, question: Question, rows: dict[Cell, Any]) -> list[str]:
        lines = [f"## ({question.letter}) {question.title}", "", question.text, ""]
        image = self._image(question.letter)
        figures = [self._figures(row, rows) for row in question.rows]
        if any(figures):
            _plot(image, question, figures)
            lines += [f"![Average chain length, question {question.letter}](images/{image.name})", ""]
        else:
            image.unlink(missing_ok=True)
        lines += [
            "| | 1 | 2 | 3 | 4 | 5 | average length | seeds | paper |",
            "|---|---|---|---|---|---|---|---|---|",
            *(self._row(row, found) for row, found in zip(question.rows, figures, strict=True)),
            "",
            "| comparison | difference | | seeds × chains |",
            "|---|---|---|---|",
            *(f"| {' | '.join(self._compared(question, c, rows))} |" for c in question.comparisons),
            "",
        ]
        return lines

    def _cells_of(self, row: Row) -> list[Cell]:
        variants = self._study.data.variants if row.variants == ALL_LOOKS else row.variants
        return [Cell(row.arm, row.data, variants, row.evaluation, seed) for seed in self._study.seeds]

    def _figures(self, row: Row, rows: dict[Cell, Any]) -> Figures | None:
        if row not in self._made:  # the questions share many
            found = {cell.seed: rows[cell] for cell in self._cells_of(row) if cell in rows}
            by_seed = {seed: np.array([int(digit) for digit in values["completed"]]) for seed, values in found.items()}
            self._made[row] = Figures(by_seed, next(iter(found.values()))["scenes"]) if found else None
        return self._made[row]

    def _row(self, row: Row, figures: Figures | None) -> str:
        paper = ""
        if row.paper:
            paper = f"{row.paper.length:.2f}" + (f" ({_fractions(row.paper.success)})" if row.paper.success else "")
        if figures is None:
            return f"| {row.label} | | | | | | not run yet | | {paper} |"
        success = " | ".join(f"{_fraction(e.value)} ({_fraction(e.low)}–{_fraction(e.high)})" for e in figures.success)
        length = f"**{figures.length.value:.2f}** ({figures.length.low:.2f}–{figures.length.high:.2f})"
        seeds = f"{len(figures.by_seed)} of {len(self._study.seeds)}"
        return f"| {row.label} | {success} | {length} | {seeds} | {paper} |"

    def _compared(self, question: Question, comparison: Comparison, rows: dict[Cell, Any]) -> list[str]:
        plus, minus = (
            [self._figures(question.rows[place], rows) for place in places]
            for places in (comparison.plus, comparison.minus)
        )
        there = [f for f in (*plus, *minus) if f]
        difference = None
        if len(there) == len(plus) + len(minus):
            difference = contrast([f for f in plus if f], [f for f in minus if f])
        if difference is None:
            return [comparison.label, "", "not run yet", ""]
        e = difference.estimate
        return [
            comparison.label,
            f"{e.value:+.2f} ({e.low:+.2f} to {e.high:+.2f})",
            difference.verdict,
            f"{difference.seeds} × {difference.chains}",
        ]

    def _cost(self, rows: dict[Cell, Any]) -> list[str]:
        lines = [
            "## What it cost", "",
            "Means over what was run, each job on one core; what ran before an interruption is not counted.", "",
            "| arm | data | training | evaluation, per 100 chains | memory |", "|---|---|---|---|---|",
        ]  # fmt: skip
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for cell in self._cells:
            if cell in rows:
                groups.setdefault((cell.arm, cell.data or "human clips"), []).append(rows[cell])
        for (arm, data), group in groups.items():
            training = np.mean([row["seconds"]["training"] for row in group]) / 60
            rolled = [row for row in group if "evaluation" in row["seconds"]]
            evaluation = ""
            if rolled:
                seconds = sum(row["seconds"]["evaluation"] for row in rolled)
                evaluation = f"{seconds / sum(len(row['completed']) for row in rolled) * 100 / 60:.1f} min"
            memory = max(row["max_rss_mb"] for row in group) / 1024
            lines.append(f"| {arm} | {data} | {training:.1f} min | {evaluation} | {memory:.1f} GB |")
        return [*lines, ""] if groups else []


def _pretraining(rows: dict[Cell, Any]) -> list[str]:
    """The validation figures of stage 1, means over the seeds."""
    by_arm: dict[str, list[dict[str, float]]] = {}
    for cell, row in rows.items():
        if cell.evaluation == PRETRAINING:
            by_arm.setdefault(cell.arm, []).append(row["training"])
    lines = []
    for arm, figures in by_arm.items():
        lines += [f"| {arm} | {name} | {_range([f[name] for f in figures if name in f])} |" for name in figures[0]]
    if not lines:
        return []
    text = "Validation on human clips left out: mean over the seeds, smallest and largest."
    return ["## Pretraining", "", text, "", "| policy | figure | |", "|---|---|---|", *lines, ""]


def _range(values: list[float]) -> str:
    return f"{np.mean(values):.4g} ({min(values):.4g}–{max(values):.4g})"


def _fraction(value: float) -> str:
    """As the paper writes it, without the 0 before the point."""
    return f"{value:.2f}".removeprefix("0")


def _fractions(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}".removeprefix("0") for value in values)


def _plot(path: Path, question: Question, figures: list[Figures | None]) -> None:
    """Average lengths with their intervals, each seed as a small ring, the paper's figure as a cross."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(7.5, 1.1 + 0.34 * len(question.rows)), layout="constrained")
    axes = figure.add_subplot()
    for place, (row, found) in enumerate(zip(question.rows, figures, strict=True)):
        if row.paper:
            axes.plot(row.paper.length, place, "x", color="0.55", markersize=7, zorder=2)
        if found is None:
            axes.annotate("no result", (0.05, place), va="center", color="0.5", fontsize=8)
            continue
        colour, length = COLOURS[row.data], found.length
        error = np.maximum([[length.value - length.low], [length.high - length.value]], 0)
        axes.errorbar(length.value, place, xerr=error, fmt="o", color=colour, capsize=4, markersize=7, zorder=4)
        for values in found.by_seed.values():
            axes.plot(values.mean(), place + 0.24, "o", color=colour, fillstyle="none", markersize=4, zorder=3)
    axes.set_yticks(range(len(question.rows)), [row.label for row in question.rows])
    axes.set(xlim=(0, LENGTH + 0.05), ylim=(len(question.rows) - 0.5, -0.5), xlabel="average chain length, of 5")
    axes.set_title(question.title, loc="left", fontsize=11)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    handles = [
        Line2D([], [], marker="o", color="0.2", markersize=7, label="mean, 95 % interval"),
        Line2D([], [], marker="o", color="0.2", linestyle="", fillstyle="none", markersize=4, label="one seed"),
        Line2D([], [], marker="x", color="0.55", linestyle="", markersize=7, label="paper (CALVIN)"),
    ]
    figure.legend(handles=handles, loc="outside lower right", ncols=3, fontsize=8, frameon=False)
    with replace_atomically(path) as partial:
        # Without the library's version the same results give the same file.
        FigureCanvasAgg(figure).print_png(partial, metadata={"Software": None})
