# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Large packages that only some encoders need: imported late, and with one clear message where they are absent."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch

from arvrm_ros.errors import DataError

_declared: list[torch.library.Library] = []  # a library's declarations go when it goes


def optional(package: str, advice: str) -> Any:
    """Imports a package.

    Raises:
        DataError: it is not installed, or something that it needs is not; ``advice`` says what to do.
    """
    try:
        import_torchvision()
        return importlib.import_module(package)
    except ImportError as error:
        raise DataError(f"{package} cannot be imported ({error}): {advice}") from None


def import_torchvision() -> None:
    """Imports torchvision if it is there, also one that was built for another torch than ours.

    Beside a CPU build of torch, pip puts PyPI's torchvision, which is built for CUDA. Its operators do not load, and
    its import ends where it describes the first of them; sentence_transformers, timm and open_clip end with it. None of
    them needs those operators for what is done here, so it is enough that they have been declared.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "operator torchvision::" not in str(error) or _declared:
            raise ImportError(f"torchvision does not fit torch {torch.__version__}: {error}") from None
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
        import_torchvision()
