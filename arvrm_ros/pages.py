# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the self-contained HTML pages have in common: how templates are read, and how pictures are put into them."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import numpy as np

BINS = 24
CAPTIONS = 30
"""Captions that a page names, the most frequent ones."""


def environment(templates: Path) -> jinja2.Environment:
    """Templates of a folder; what is put in is escaped, and a value that is missing is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def data_uri(kind: str, data: bytes) -> str:
    """A picture or film, by its MIME type, as a URI that holds all of it; "" when there is nothing."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}" if data else ""


@dataclass(frozen=True)
class Histogram:
    """Shares per bin, the largest is 1; and the values of the borders on the left and on the right."""

    title: str
    heights: list[float]
    low: str
    high: str

    @classmethod
    def of(cls, title: str, values: np.ndarray, span: tuple[float, float] | None = None) -> Histogram:
        """Of (N,) values, N > 0, from 0 to the largest if no ``span`` is given."""
        low, high = span or (0.0, max(float(values.max()), 1e-3))
        counts, _ = np.histogram(values, BINS, (low, high))
        return cls(title, (counts / counts.max()).tolist(), f"{low:g}", f"{high:.3g}")


@dataclass(frozen=True)
class Line:
    """A line in a unit square, y downwards, as the points of an SVG polyline, and its colour."""

    points: str
    color: str

    @classmethod
    def through(cls, xy: Iterable[Sequence[float]], color: str) -> Line:
        """Through points (T, 2)."""
        return cls(" ".join(f"{x:.3f},{y:.3f}" for x, y in xy), color)


@dataclass(frozen=True)
class View:
    """One item of a collection.

    Attributes:
        caption: what is done.
        name, source: what it is called, and where it comes from.
        facts: of it, some words each.
        picture_jpeg: its frames side by side; empty when there is none.
        paths: lines to draw beside it.
        scores: of a search: together, of the text and of the image.
    """

    caption: str
    name: str
    facts: list[str]
    picture_jpeg: bytes = b""
    source: str = ""
    paths: list[Line] = field(default_factory=list)
    scores: tuple[float, float, float] | None = None

    @property
    def picture(self) -> str:
        """The picture as a URI."""
        return data_uri("image/jpeg", self.picture_jpeg)


def collection(
    title: str,
    name: str,
    views: Sequence[View],
    kind: str,
    chosen: str,
    legend: str,
    facts: dict[str, str],
    about: str = "",
    histograms: Sequence[Histogram] = (),
    captions: Counter[str] | None = None,
) -> str:
    """A page of things that were done: what there is, and some or all of them in pictures.

    Args:
        title, name: of the collection.
        views: what is shown, ``kind`` in the plural.
        chosen, legend: how these were chosen, and what their lines are.
        facts: figures by what they count.
        about: heading of the histograms.
        histograms: of what there is.
        captions: how often each occurs.
    """
    captions = captions or Counter()
    return (
        environment(Path(__file__).parent / "templates")
        .get_template("collection.html")
        .render(
            title=title, name=name, views=views, kind=kind, chosen=chosen, legend=legend, facts=facts, about=about,
            histograms=histograms, captions=captions.most_common(CAPTIONS), others=max(0, len(captions) - CAPTIONS),
        )
    )  # fmt: skip
