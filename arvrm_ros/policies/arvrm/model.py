# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The AR-VRM model: one causal transformer for human clips and robot episodes, and the map between them.

Symbols as in the paper: B batch, T steps, K = 21 hand keypoints, S = 7 robot components, J retrieved clips, F frames
of a clip, N steps of a chunk, d width. Everything is normalised before it comes here (``processor.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arvrm_ros.data.types import HAND_KEYPOINTS, ROBOT_COMPONENTS
from arvrm_ros.policies.arvrm.configuration import ArvrmConfig

K, S = len(HAND_KEYPOINTS), len(ROBOT_COMPONENTS)
KEYPOINT_VALUES = 4  # x, y, relative depth, visible
ACTION = 7  # position (3) and rotation vector (3) relative to the observation, gripper opening

SHARED = ("text", "image", "camera", "keypoint_encoder", "keypoint_head", "position", "blocks", "norm")
"""Parts that human clips train too, and that fine-tuning starts from."""


@dataclass
class Clips:
    """Human clips, ready for the model.

    Attributes:
        text: (B, text_width) caption features.
        images: (B, F, image_tokens * image_width) image tokens of each frame.
        keypoints: (B, F, K, 4) x, y, depth (centred, scaled), visible.
    """

    text: Tensor
    images: Tensor
    keypoints: Tensor


@dataclass
class Retrieved:
    """What the retrieved clips of a batch bring to the fine-tuning: features by the frozen keypoint encoder.

    Attributes:
        keypoint_features: (B, J, F, K, d) f_k.
        tokens: (B, J, F, d) z_k of each frame.
        present: (B, J) whether the clip is there.
    """

    keypoint_features: Tensor
    tokens: Tensor
    present: Tensor


class Block(nn.Module):
    """A pre-norm transformer layer with causal attention."""

    def __init__(self, width: int, heads: int, dropout: float, causal: bool = True) -> None:
        super().__init__()
        self.heads, self.dropout, self.causal = heads, dropout, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, d) to the same."""
        b, length, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, length, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=self.causal)  # (B, h, L, d / h)
        x = x + self.drop(self.out(attended.transpose(1, 2).reshape(b, length, d)))
        return x + self.drop(self.mlp(self.norm2(x)))


class KeypointEncoder(nn.Module):
    """Per-joint transformer: keypoints to per-keypoint features f_k and their pooled token z_k."""

    def __init__(self, config: ArvrmConfig) -> None:
        super().__init__()
        small = config.keypoint_width
        self.embed = nn.Linear(KEYPOINT_VALUES, small)
        self.joint = nn.Parameter(torch.randn(K, small) * 0.02)
        self.blocks = nn.Sequential(*(Block(small, 4, 0.0, causal=False) for _ in range(config.keypoint_layers)))
        self.features = nn.Linear(small, config.width)
        self.pool = nn.Sequential(nn.LayerNorm(K * small), nn.Linear(K * small, config.width), nn.GELU(),
                                  nn.Linear(config.width, config.width))  # fmt: skip

    def forward(self, keypoints: Tensor) -> tuple[Tensor, Tensor]:
        """Keypoints (..., K, 4) to f_k (..., K, d) and z_k (..., d)."""
        lead = keypoints.shape[:-2]
        x = self.embed(keypoints).flatten(0, -3) + self.joint  # (M, K, small)
        x = self.blocks(x)
        return self.features(x).view(*lead, K, -1), self.pool(x.flatten(1)).view(*lead, -1)


class ArvrmModel(nn.Module):
    """The whole model; parts are switched by the configuration."""

    def __init__(self, config: ArvrmConfig) -> None:
        super().__init__()
        self.config = config
        d = config.width
        image = config.image_tokens * config.image_width
        self.text = nn.Sequential(nn.Linear(config.text_width, d), nn.GELU(), nn.Linear(d, d))
        # The tokens of an image are folded into one: the sequence stays short and a CPU can train it.
        self.image = nn.Sequential(nn.Linear(image, 2 * d), nn.GELU(), nn.Linear(2 * d, d))
        self.camera = nn.Parameter(torch.randn(config.cameras + 1, d) * 0.02)  # the last is the human clips' camera
        # The action head looks at the single tokens of the newest images again, for what the instruction names.
        self.token = nn.Linear(config.image_width, d)
        self.place = nn.Parameter(torch.randn(config.cameras * config.image_tokens, d) * 0.02)
        self.look_query, self.look_key_value, self.look_out = nn.Linear(d, d), nn.Linear(d, 2 * d), nn.Linear(d, d)
        self.keypoint_encoder = KeypointEncoder(config)
        self.keypoint_head = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, K * 3))
        self.component_scale = nn.Parameter(torch.randn(S, d) * 0.5)
        self.component_bias = nn.Parameter(torch.randn(S, d) * 0.02)
        self.state_pool = nn.Sequential(nn.Linear(S * d, d), nn.GELU(), nn.Linear(d, d))
        self.position = nn.Parameter(torch.randn(max(config.history, config.clip_frames), d) * 0.02)
        self.blocks = nn.Sequential(*(Block(d, config.heads, config.dropout) for _ in range(config.layers)))
        self.norm = nn.LayerNorm(d)

        self.analogy_map = nn.Parameter(torch.full((S, K), 1.0 / K))
        self.query, self.key = nn.Linear(d, d), nn.Linear(d, d)
        self.frame = nn.Parameter(torch.randn(config.clip_frames, d) * 0.02)
        self.analogy_head = nn.Linear(d, 1)  # one number per component: its next state
        hint = S * d if config.analogy else d
        self.hint = nn.Sequential(nn.LayerNorm(hint), nn.Linear(hint, d), nn.GELU())
        self.action_head = nn.Sequential(
            nn.Linear(3 * d, 3 * d), nn.GELU(), nn.Linear(3 * d, 2 * d), nn.GELU(),
            nn.Linear(2 * d, config.chunk * ACTION + 1),
        )  # fmt: skip

    def shared_state(self) -> dict[str, Tensor]:
        """Weights of the :data:`SHARED` parts."""
        return {name: value for name, value in self.state_dict().items() if name.split(".")[0] in SHARED}

    def next_keypoints(self, clips: Clips) -> Tensor:
        """(B, F - 1, K, 3): what the model expects at frames 1 to F - 1, each from the frames before it."""
        _, tokens = self.keypoint_encoder(clips.keypoints)  # (B, F, d)
        z_o = self.image(clips.images) + self.camera[-1]
        pairs = torch.stack([z_o, tokens], 2) + self.position[: z_o.shape[1], None]  # (B, F, 2, d)
        sequence = torch.cat([self.text(clips.text)[:, None], pairs.flatten(1, 2)], 1)  # (B, 1 + 2 F, d)
        out = self.norm(self.blocks(sequence))[:, 2::2][:, :-1]  # at each z_k but the last: (B, F - 1, d)
        # The head predicts the change: staying where it is costs nothing to learn.
        return clips.keypoints[:, :-1, :, :3] + self.keypoint_head(out).unflatten(-1, (K, 3))

    def keypoint_loss(self, clips: Clips) -> Tensor:
        """L_pretrain: mean squared error of the next keypoints, where the hand was seen."""
        seen = (clips.keypoints[:, 1:, :, 3] * clips.keypoints[:, :-1, :, 3])[..., None]  # (B, F - 1, K, 1)
        error = (self.next_keypoints(clips) - clips.keypoints[:, 1:, :, :3]) ** 2
        return (error * seen).sum() / (3 * seen.sum()).clamp(min=1)

    # Robot

    def forward(
        self, text: Tensor, images: Tensor, state: Tensor, retrieved: Retrieved | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Robot steps to action chunks.

        Args:
            text: (B, text_width).
            images: (B, T, cameras, image_tokens * image_width), the frozen image encoder's standardised tokens.
            state: (B, T, S).
            retrieved: the clips' features, or None.

        Returns:
            Chunks (B, T, N, 7), progress logits (B, T), and the next state (B, T, J, S) each clip suggests, if any.
        """
        steps, group = state.shape[1], self.config.cameras + 1
        f_s = state[..., None] * self.component_scale + self.component_bias  # (B, T, S, d)
        z_s = self.state_pool(f_s.flatten(2))  # (B, T, d)
        z_o = self.image(images) + self.camera[:-1]  # (B, T, cameras, d)
        z_l = self.text(text)[:, None]  # (B, 1, d)
        groups = torch.cat([z_o, z_s[:, :, None]], 2) + self.position[:steps, None]  # (B, T, cameras + 1, d)
        sequence = torch.cat([z_l, groups.flatten(1, 2)], 1)  # (B, 1 + T (cameras + 1), d)
        out = self.norm(self.blocks(sequence))[:, group::group]  # at each z_s: (B, T, d)
        hint, suggested = self._hint(out, f_s, retrieved if self.config.retrieval else None)
        raw = self.action_head(torch.cat([out, self._look(out + z_l, images), hint], -1))  # (B, T, N 7 + 1)
        return raw[..., :-1].unflatten(-1, (self.config.chunk, ACTION)), raw[..., -1], suggested

    def _look(self, query: Tensor, images: Tensor) -> Tensor:
        """Attention of (B, T, d) over the image tokens of the same step: (B, T, d)."""
        b, steps, d = query.shape
        heads = self.config.heads
        tokens = images.reshape(b * steps, -1, self.config.image_width)  # (B T, cameras (1 + M), width)
        tokens = self.token(tokens) + self.place  # (B T, cameras (1 + M), d)
        q = self.look_query(query).view(b * steps, 1, heads, d // heads).transpose(1, 2)
        k, v = self.look_key_value(tokens).unflatten(-1, (2, heads, d // heads)).permute(2, 0, 3, 1, 4)
        return self.look_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, steps, d))

    def _hint(self, out: Tensor, f_s: Tensor, retrieved: Retrieved | None) -> tuple[Tensor, Tensor | None]:
        """What the retrieved clips say, (B, T, d), and the next state each suggests.

        Where in each clip the robot is now is found by attention of its token over the clip's frames; the keypoint
        features found there are carried over by the map: f*_s = (1 - alpha) m f_k + alpha f_s.
        """
        if retrieved is None:
            features = f_s.flatten(2) if self.config.analogy else out.new_zeros(out.shape)
            return self.hint(features), None
        keys = self.key(retrieved.tokens + self.frame)  # (B, J, F, d)
        weights = torch.einsum("btd,bjfd->btjf", self.query(out), keys) / keys.shape[-1] ** 0.5
        weights = weights.softmax(-1)  # over the frames of each clip
        found = torch.einsum("btjf,bjfkd->btjkd", weights, retrieved.keypoint_features)  # f_k: (B, T, J, K, d)
        present = retrieved.present[:, None, :, None, None]  # (B, 1, J, 1, 1)
        count = present.sum(2).clamp(min=1)
        if not self.config.analogy:
            return self.hint(((found * present).sum(2) / count).mean(2)), None
        alpha = self.config.alpha
        carried = torch.einsum("sk,btjkd->btjsd", self.analogy_map, found)  # (B, T, J, S, d)
        f_star = (1 - alpha) * carried + alpha * f_s[:, :, None]  # (B, T, J, S, d)
        pooled = (f_star * present).sum(2) / count  # (B, T, S, d)
        missing = (present.sum(2) == 0).to(f_s.dtype)
        pooled = pooled + missing * f_s
        return self.hint(pooled.flatten(2)), self.analogy_head(f_star).squeeze(-1)
