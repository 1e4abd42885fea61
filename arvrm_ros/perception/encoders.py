# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Frozen encoders by name: the small ones that ship with the package, or the paper's, through timm and open_clip.

    images  "small"     the encoder of ``image_encoder.py``         "timm:vit_base_patch16_224.mae"   MAE's ViT-B/16
    texts   "minilm"    all-MiniLM-L6-v2                            "open_clip:ViT-B-32/openai"       CLIP's text tower

Weights come from a local file or, by name, from where timm and open_clip keep them; ``seed`` gives random ones instead,
for benchmarks and tests.
"""

from __future__ import annotations

import hashlib
import math
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arvrm_ros.errors import CheckpointError, DataError
from arvrm_ros.perception.cameras import resize
from arvrm_ros.perception.image_encoder import ImageEncoder
from arvrm_ros.perception.optional import optional
from arvrm_ros.perception.text_encoder import Remembering, TextEncoder

INSTALL = (
    "run 'pip install -r requirements/paper.txt' (or 'arvrm_ros[paper]'), or take the {} encoder, which needs none"
)
ELSEWHERE = "give a file that has them, or take the {} encoder, which needs no download"


class FrozenImageEncoder(Protocol):
    """What image encoders have in common; I tokens of width w per image, the first of them for the whole image.

    Attributes:
        image: pixels of the side of the square that it looks at; other images are resized.
        tokens, width: I and w.
        identity: which weights these are; a policy only works with those it was trained with.
    """

    @property
    def image(self) -> int: ...  # noqa: D102

    @property
    def tokens(self) -> int: ...  # noqa: D102

    @property
    def width(self) -> int: ...  # noqa: D102

    @property
    def identity(self) -> str: ...  # noqa: D102

    def encode(self, images: np.ndarray, batch: int = ...) -> np.ndarray:
        """Tokens (N, I, w) float32 of images (N, H, W, 3) uint8 RGB of any size."""
        ...

    def standardised(self, tokens: np.ndarray) -> np.ndarray:
        """Flat tokens (N, I w) float32 of about unit scale, for the policy."""
        ...

    def visual_feature(self, tokens: np.ndarray) -> np.ndarray:
        """Unit features z_o (N, d) float32 of tokens, for the retrieval's cosine."""
        ...


class FrozenTextEncoder(Protocol):
    """What text encoders have in common; ``width`` and ``identity`` as with images."""

    @property
    def width(self) -> int: ...  # noqa: D102

    @property
    def identity(self) -> str: ...  # noqa: D102

    def encode(self, texts: list[str]) -> np.ndarray:
        """(N, width) float32 unit features of N texts."""
        ...


def load_image_encoder(spec: str = "small", weights: Path | None = None, seed: int | None = None) -> FrozenImageEncoder:
    """The image encoder of a name.

    Args:
        spec: "small" or "timm:MODEL".
        weights: their file; None takes those that ship with the package, or fetches them by name.
        seed: random weights from this seed instead.

    Raises:
        CheckpointError: the file is missing, damaged, or of another encoder.
        DataError: an unknown name, a package that is not installed, or weights that cannot be fetched.
    """
    kind, _, name = spec.partition(":")
    if spec == "small":
        with _seeded(seed):
            return ImageEncoder.load(weights) if seed is None else ImageEncoder().eval()
    if kind == "timm" and name:
        return TimmEncoder.load(name, weights, seed)
    raise DataError(
        f"image encoder {spec!r} is unknown: use 'small' or 'timm:MODEL', MODEL as in timm's list of models"
    )


def load_text_encoder(spec: str = "minilm", weights: Path | None = None, seed: int | None = None) -> FrozenTextEncoder:
    """The text encoder of a name: "minilm" or "open_clip:MODEL/TAG". Otherwise as :func:`load_image_encoder`.

    Raises:
        CheckpointError: the file is missing, damaged, or of another encoder.
        DataError: an unknown name, a package that is not installed, or weights that cannot be fetched.
    """
    kind, _, name = spec.partition(":")
    if spec == "minilm":
        if weights is not None or seed is not None:
            raise DataError("text encoder 'minilm' comes with its weights and takes no others")
        return TextEncoder()
    if kind == "open_clip" and "/" in name:
        return OpenClipText.load(name, weights, seed)
    raise DataError(f"text encoder {spec!r} is unknown: use 'minilm' or 'open_clip:MODEL/TAG', as open_clip names them")


class TimmEncoder(nn.Module):
    """A frozen vision transformer of timm: the CLS token and one token per patch, after the last LayerNorm."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, model: nn.Module) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.identity = f"timm:{name} {digest(model)}"
        described: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
        self.image = int(described["input_size"][-1])
        # The images' mean and standard deviation, for pixels of 0 to 255.
        self.register_buffer("mean", 255 * torch.tensor(described["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(described["std"]).view(3, 1, 1), persistent=False)

    @property
    def tokens(self) -> int:
        """I, one and the patches."""
        return 1 + int(self.model.patch_embed.num_patches)  # type: ignore[union-attr, arg-type]

    @property
    def width(self) -> int:
        """w, of each token."""
        return int(self.model.embed_dim)  # type: ignore[arg-type]

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, H, W) of 0 to 255, of the model's own size, to tokens (N, I, w)."""
        return self.model.forward_features((pixels - self.mean) / self.std)  # type: ignore[operator]

    @torch.inference_mode()
    def encode(self, images: np.ndarray, batch: int = 32) -> np.ndarray:
        """Tokens (N, I, w) float32 of images (N, H, W, 3) uint8 RGB of any size; the whole image, none cut off."""
        images = np.stack([resize(image, self.image, self.image) for image in images])
        tokens = []
        for i in range(0, len(images), batch):
            pixels = torch.from_numpy(images[i : i + batch]).to(self.mean.device)
            tokens.append(self(pixels.permute(0, 3, 1, 2).float()).float().cpu().numpy())
        return np.concatenate(tokens)

    def standardised(self, tokens: np.ndarray) -> np.ndarray:
        """Flat tokens (N, I w) float32; the last LayerNorm has given them their scale."""
        return tokens.reshape(len(tokens), -1)

    def visual_feature(self, tokens: np.ndarray) -> np.ndarray:
        """Unit features z_o (N, 10 w) float32: CLS and the patches pooled to 3 x 3, few enough for a database."""
        patches = torch.from_numpy(tokens[:, 1:]).transpose(1, 2)  # (N, w, I - 1)
        side = math.isqrt(patches.shape[2])
        pooled = F.adaptive_avg_pool2d(patches.unflatten(2, (side, side)), 3)  # (N, w, 3, 3)
        flat = np.concatenate([tokens[:, :1], pooled.flatten(2).transpose(1, 2).numpy()], 1).reshape(len(tokens), -1)
        return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)

    @classmethod
    def load(cls, name: str, weights: Path | None = None, seed: int | None = None) -> TimmEncoder:
        """See :func:`load_image_encoder`."""
        timm = optional("timm", INSTALL.format("small"))
        if not timm.is_model(name.partition(".")[0]):
            raise DataError(f"timm has no model {name!r}; timm.list_models('vit*') names them")
        _require_file(weights)
        try:
            with _seeded(seed):
                # With its classifier: without, timm takes any file and leaves random what that lacks.
                model = timm.create_model(
                    name,
                    pretrained=seed is None,
                    pretrained_cfg_overlay={"file": str(weights)} if weights else None,
                )
                model.reset_classifier(0)
        except Exception as error:  # what the hub's client and damaged files raise has no common base
            raise _refusal(f"timm:{name}", "small", weights, error) from None
        fits = isinstance(model, timm.models.VisionTransformer) and model.has_class_token
        if not fits or model.num_prefix_tokens != 1 or isinstance(model.norm, nn.Identity):
            raise DataError(f"timm:{name} gives no CLS token and one token per patch, after a LayerNorm over all")
        return cls(name, model)


class OpenClipText(Remembering):
    """The frozen text tower of an open_clip model."""

    def __init__(self, name: str, model: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        model.visual = None  # type: ignore[assignment]
        self._model, self._tokenizer = model.eval().requires_grad_(False), tokenizer
        self.width = self._embed([""]).shape[1]
        self.identity = f"open_clip:{name} {digest(model)}"

    @torch.inference_mode()
    def _embed(self, texts: list[str]) -> np.ndarray:
        return self._model.encode_text(self._tokenizer(texts), normalize=True).numpy()  # type: ignore[operator]

    @classmethod
    def load(cls, name: str, weights: Path | None = None, seed: int | None = None) -> OpenClipText:
        """See :func:`load_text_encoder`."""
        open_clip = optional("open_clip", INSTALL.format("minilm"))
        _require_file(weights)
        architecture, _, tag = name.rpartition("/")
        known = open_clip.get_pretrained_cfg(architecture, tag)
        if not known:
            raise DataError(f"open_clip knows no weights {name!r}; open_clip.list_pretrained() names them")
        try:
            with _seeded(seed), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = open_clip.create_model(
                    architecture,
                    pretrained=None if seed is not None else str(weights or tag),
                    pretrained_text=seed is None,
                    # Some weights were trained with another GELU than the architecture's; open_clip only warns of it.
                    force_quick_gelu=bool(known.get("quick_gelu")),
                )
            return cls(name, model, open_clip.get_tokenizer(architecture))
        except Exception as error:  # as in TimmEncoder.load
            raise _refusal(f"open_clip:{name}", "minilm", weights, error) from None


def digest(module: nn.Module) -> str:
    """SHA-256 of all weights and buffers of a module, with their names and shapes."""
    sha = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        sha.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        sha.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return sha.hexdigest()


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Random numbers from a seed, without touching anyone else's; None changes nothing."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _require_file(weights: Path | None) -> None:
    if weights is not None and not weights.is_file():
        raise CheckpointError(f"there is no file {weights} with an encoder's weights")


def _refusal(spec: str, small: str, weights: Path | None, error: Exception) -> CheckpointError | DataError:
    """What to tell of weights that could not be had."""
    reason = textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" ...")
    if weights is not None:
        return CheckpointError(f"{weights} is damaged, or does not hold the weights of {spec}: {reason}")
    return DataError(f"the weights of {spec} cannot be had: {reason}; {ELSEWHERE.format(small)}")
