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
        replay: weight of the pretraining's loss on human clips while fine-tuning.
        pretrained_rate: share of the learning rate for what was pretrained; below 1, little robot data wipes out less
            of what the human clips taught (0.1 made no difference to the tasks done with 150 episodes).
        objective: "keypoints" is AR-VRM's pretraining; "images" is GR-1's recipe, which predicts future images, knows
            no keypoints, and goes on predicting images while fine-tuning, with the weight ``replay``.
        retrieval: whether retrieved clips are read.
        analogy: whether they reach the action head through the map m; without it their averaged features do.
        conditional: whether the map depends on instruction and scene, m(l, o); the paper's is global.
        direct_state: without retrieval: whether the robot's state also goes straight to the action head, where the map
            would bring it with the clips.
        image_encoder: "small", or a timm model such as "timm:vit_base_patch16_224.mae".
        text_encoder: "minilm", or an open_clip model such as "open_clip:ViT-B-32/openai".
        image_tokens, image_width: I tokens per image and their width, as the image encoder gives them.
        latents: M, to which a Perceiver resampler brings an image's patches; 0 takes the tokens as they are.
        fold: one token per image in the sequence instead of one per patch or latent.
        fold_dropout: share of the windows and clips in training whose folded token is left out: what the instruction
            names is then found by looking, where the folded token would let scenes be learned by heart.
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
    pretrained_rate: float = 1.0
    objective: str = "keypoints"
    retrieval: bool = True
    analogy: bool = True
    conditional: bool = False
    direct_state: bool = False
    image_encoder: str = "small"
    text_encoder: str = "minilm"
    image_tokens: int = 10
    image_width: int = 64
    latents: int = 0
    fold: bool = True
    fold_dropout: float = 0.0
    text_width: int = 384
    cameras: int = 2

    def __post_init__(self) -> None:
        if self.objective not in ("keypoints", "images"):
            raise ArvrmError(f"objective is {self.objective!r}: use keypoints (AR-VRM) or images (GR-1)")
        if self.objective == "images" and self.retrieval:
            raise ArvrmError("objective 'images' has no keypoints to retrieve: set retrieval to false")
        if self.conditional and not (self.retrieval and self.analogy):
            raise ArvrmError("a conditional map needs retrieval and analogy")
        if self.direct_state and self.retrieval:
            raise ArvrmError("direct_state is for policies without retrieval: the map brings the state anyway")


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
