# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How long the stages of a node take and how often they run, for its diagnostics."""

from __future__ import annotations

import threading
import time
from collections import deque

WINDOW = 10.0
"""Seconds that the figures are about."""

MOST = 2000
"""Samples kept per stage."""


class StageTimes:
    """Rolling latencies and rates by stage; any thread may add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._samples: dict[str, deque[tuple[float, float]]] = {}

    def add(self, stage: str, seconds: float) -> None:
        """One run of a stage that took this long."""
        with self._lock:
            self._samples.setdefault(stage, deque(maxlen=MOST)).append((time.monotonic(), seconds))

    def figures(self) -> dict[str, float]:
        """``STAGE_p50_ms``, ``STAGE_p95_ms`` and ``STAGE_hz`` of the stages that ran in the last seconds."""
        since = time.monotonic() - WINDOW
        with self._lock:
            recent = {name: [s for at, s in samples if at > since] for name, samples in self._samples.items()}
            first = {name: samples[0][0] for name, samples in self._samples.items()}
        figures = {}
        for name, seconds in recent.items():
            if seconds:
                seconds.sort()  # and no interpolation: the control thread does this, and NumPy takes a millisecond
                for percent in (50, 95):
                    rank = -(-(len(seconds) - 1) * percent // 100)  # the higher one, where it falls between two
                    figures[f"{name}_p{percent}_ms"] = round(1e3 * seconds[rank], 2)
                figures[f"{name}_hz"] = round(len(seconds) / max(time.monotonic() - max(since, first[name]), 1.0), 1)
        return figures
