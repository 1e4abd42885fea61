# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A pool of worker processes that never outlives its parent."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor


def process_pool(workers: int, prepare: Callable[[], None] | None = None) -> ProcessPoolExecutor:
    """A pool of ``workers`` fresh interpreters: threads and OpenGL contexts do not survive a fork.

    ``prepare`` is called once in each.
    """
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(max(1, workers), mp_context=context, initializer=_begin, initargs=(prepare,))


def _begin(prepare: Callable[[], None] | None) -> None:
    end_with_parent()
    if prepare is not None:
        prepare()


def end_with_parent() -> None:
    """Ends this process when its parent is gone; a killed parent would otherwise leave it waiting for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
