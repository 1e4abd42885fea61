# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The small image encoder: one CLS token and M = 9 resampled patch tokens per image, trainable on a CPU.

It stands where the paper has a frozen MAE ViT-B/16 with a Perceiver Resampler. Each of the M queries attends to the
patches of a convolutional feature map; its token says where it looked (x, y), how sure it is, and what it saw there.
The queries are trained on the simulator's own renders to find the M things on the table (``scene.POINTS``), which
gives what large-scale visual pretraining would give: features that know where things are. It is frozen afterwards.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from arvrm_ros.errors import CheckpointError
from arvrm_ros.files import replace_atomically
from arvrm_ros.resources import resource


@dataclass(frozen=True)
class ImageEncoderConfig:
    """Sizes of the encoder: ``image`` pixels square in, ``queries`` + 1 tokens of ``width`` out."""

    image: int = 128
    queries: int = 9
    width: int = 64
    channels: tuple[int, int, int, int] = (24, 32, 40, 64)


def _convolution(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class ImageEncoder(nn.Module):
    """Images to tokens. See the module's text."""

    mean: torch.Tensor
    scale: torch.Tensor
    identity = ""  # SHA-256 of the file it was loaded from

    def __init__(self, config: ImageEncoderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ImageEncoderConfig()
        c1, c2, c3, c4 = config.channels
        self.stem = nn.Sequential(_convolution(3, c1, 4, 7), _convolution(c1, c2))
        self.fine = _convolution(c2, c3)
        self.coarse = nn.Sequential(_convolution(c3, c4, 2), _convolution(c4, c4, 2), _convolution(c4, c4))
        self.top_down = nn.Conv2d(c4, c3, 1)
        self.merge = _convolution(c3, c3)
        self.attention = nn.Conv2d(c3, config.queries, 1)
        self.value = nn.Conv2d(c3, config.width - 3, 1)
        self.presence = nn.Linear(c3, config.queries)
        self.cls = nn.Linear(c4, config.width)
        self.lights = nn.Linear(2 * (config.width - 3), 2)  # training only: LED and bulb from their tokens
        tokens = config.queries + 1
        self.register_buffer("mean", torch.zeros(tokens, config.width))
        self.register_buffer("scale", torch.ones(tokens, config.width))

    @property
    def image(self) -> int:
        """Pixels of the side of the square that it looks at."""
        return self.config.image

    @property
    def tokens(self) -> int:
        """Tokens per image, 1 + M."""
        return self.config.queries + 1

    @property
    def width(self) -> int:
        """Width of each token."""
        return self.config.width

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images (N, 3, H, W) in [0, 1] to ``tokens`` (N, 1 + M, width), and what training needs beside them."""
        fine = self.fine(self.stem(images - 0.5))  # (N, c3, h, w)
        coarse = self.coarse(fine)  # (N, c4, h / 4, w / 4)
        context = F.interpolate(self.top_down(coarse), size=fine.shape[-2:], mode="nearest")
        features = self.merge(fine + context)  # (N, c3, h, w)
        logits = self.attention(features)  # (N, M, h, w)
        weights = logits.flatten(2).softmax(-1)  # (N, M, h w)
        height, width = logits.shape[-2:]
        ys = (torch.arange(height, device=images.device, dtype=images.dtype) + 0.5) / height
        xs = (torch.arange(width, device=images.device, dtype=images.dtype) + 0.5) / width
        grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1).flatten(0, 1)  # (h w, 2)
        where = weights @ grid  # (N, M, 2)
        what = weights @ self.value(features).flatten(2).transpose(1, 2)  # (N, M, width - 3)
        seen = (weights @ features.flatten(2).transpose(1, 2) * self.presence.weight).sum(-1, keepdim=True)
        seen = seen + self.presence.bias[:, None]  # (N, M, 1)
        cls = self.cls(coarse.mean((2, 3)))[:, None]  # (N, 1, width)
        tokens = torch.cat([cls, torch.cat([where, seen.sigmoid(), what], -1)], 1)
        return {
            "tokens": tokens,
            "logits": logits,
            "where": where,
            "seen": seen.squeeze(-1),
            "lights": self.lights(what[:, -2:].flatten(1)),
        }

    @torch.inference_mode()
    def encode(self, images: np.ndarray, batch: int = 256) -> np.ndarray:
        """Tokens (N, 1 + M, width) float32 of images (N, H, W, 3) uint8 RGB of any size."""
        self.eval()
        size = self.config.image
        if images.shape[1:3] != (size, size):
            images = np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) for image in images])
        device = next(self.parameters()).device
        tokens = []
        for i in range(0, len(images), batch):
            pixels = torch.from_numpy(np.ascontiguousarray(images[i : i + batch])).to(device)
            pixels = pixels.permute(0, 3, 1, 2).float().div_(255).contiguous(memory_format=torch.channels_last)
            tokens.append(self(pixels)["tokens"].float().cpu().numpy())
        return np.concatenate(tokens)

    def standardised(self, tokens: np.ndarray) -> np.ndarray:
        """Flat tokens (N, (1 + M) width) float32 with zero mean and unit scale over the training images, within ±5."""
        centred = (tokens - self.mean.cpu().numpy()) / self.scale.cpu().numpy()
        return np.clip(centred, -5, 5).reshape(len(tokens), -1).astype(np.float32)

    def visual_feature(self, tokens: np.ndarray) -> np.ndarray:
        """Unit features z_o (N, (1 + M) width) float32 of tokens, for the retrieval's cosine."""
        flat = self.standardised(tokens)
        return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)

    def shifted(self, tokens: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
        """Standardised tokens (..., 1 + M, width) as of images shifted ``by`` (..., 2), in parts of width and height.

        A token's first two numbers say where it looked, so that no image has to be encoded anew.
        """
        moved = tokens.clone()
        moved[..., 1:, :2] += by[..., None, :] / self.scale[1:, :2]
        return moved

    def save(self, path: Path) -> None:
        """Writes weights and configuration as one safetensors file, atomically."""
        with replace_atomically(path) as partial:
            metadata = {"image_encoder": json.dumps(asdict(self.config))}
            state = {name: value.contiguous() for name, value in self.state_dict().items()}
            safetensors.torch.save_file(state, partial, metadata)

    @classmethod
    def load(cls, path: Path | None = None) -> ImageEncoder:
        """The encoder of a file; None takes the one that ships with the package.

        Raises:
            CheckpointError: the file is missing, damaged, or not an image encoder.
        """
        path = path or resource("checkpoints", "image_encoder.safetensors")
        try:
            with safetensors.safe_open(path, "pt") as file:
                values = json.loads((file.metadata() or {})["image_encoder"])
            encoder = cls(ImageEncoderConfig(**{**values, "channels": tuple(values["channels"])}))
            encoder.load_state_dict(safetensors.torch.load_file(path))
            encoder.identity = hashlib.sha256(path.read_bytes()).hexdigest()
        except FileNotFoundError:
            raise CheckpointError(f"no image encoder {path}: train one with 'arvrm encoder'") from None
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
            raise CheckpointError(f"{path} is not an image encoder, or is damaged: {error}") from None
        return encoder.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
