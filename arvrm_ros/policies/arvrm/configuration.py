# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Sizes and switches of AR-VRM."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from arvrm_ros.errors import ArvrmError
from arvrm_ros.resources import resource


@dataclass(frozen=True)
class ArvrmConfig:
    """Configuration of the model; ``config/policies/NAME.yaml``.

    Attributes:
        width, layers, heads, dropout: of the causal transformer.
        keypoint_width, keypoint_layers: of the per-joint keypoint encoder.
        history: T, robot steps the transformer sees.
        clip_frames: frames of a human clip, spread evenly over it.
        chunk: N, steps of an action chunk.
        retrieved: J, human clips per instruction.
        alpha: share of the robot's own features in f*_s = (1 - alpha) m f_k + alpha f_s.
        beta: weight of the loss of the analogical reasoning.
        replay: weight of the keypoint loss on human clips while fine-tuning.
        retrieval: whether retrieved clips are read.
        analogy: whether they reach the action head through the map m; without it their pooled features do.
        image_tokens, image_width: tokens per image (1 + M) and their width, as the image encoder gives them.
        text_width: of the text features.
        cameras: number of the robot's cameras.
    """

    width: int = 160
    layers: int = 4
    heads: int = 4
    dropout: float = 0.1
    keypoint_width: int = 48
    keypoint_layers: int = 2
    history: int = 4
    clip_frames: int = 10
    chunk: int = 10
    retrieved: int = 4
    alpha: float = 0.5
    beta: float = 0.1
    replay: float = 0.1
    retrieval: bool = True
    analogy: bool = True
    image_tokens: int = 10
    image_width: int = 64
    text_width: int = 384
    cameras: int = 2


def load_config(name_or_path: str | Path, **changes: Any) -> ArvrmConfig:
    """Reads ``config/policies/NAME.yaml`` or a file, with single values changed.

    Raises:
        ArvrmError: no such file, or a key that is unknown.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = resource("config", "policies", f"{name_or_path}.yaml")
    try:
        values = {**(yaml.safe_load(path.read_text(encoding="utf-8")) or {}), **changes}
    except FileNotFoundError:
        raise ArvrmError(f"no policy configuration {path}") from None
    unknown = values.keys() - {field.name for field in dataclasses.fields(ArvrmConfig)}
    if unknown:
        raise ArvrmError(f"{path}: unknown keys {sorted(unknown)}")
    return ArvrmConfig(**values)
