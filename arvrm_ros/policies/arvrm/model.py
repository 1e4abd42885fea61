# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The AR-VRM model: one causal transformer for human clips and robot episodes, and the map between them.

Symbols as in the paper: B batch, T steps, K = 21 hand keypoints, S = 7 robot components, J retrieved clips, F frames
of a clip, N steps of a chunk, C cameras, I tokens of an image as the frozen encoder gives them (1 + M or 1 + patches)
and w their width, n tokens of an image in the sequence, d width. Everything is normalised before it comes here
(``processor.py``). With ``objective: images`` the same backbone follows GR-1's recipe instead.
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
MAP_RANK = 8  # of what the conditional map adds to the global one
TARGET_TOKENS = 10  # of a predicted image: CLS, and the patches pooled to 3 x 3


@dataclass
class Clips:
    """Human clips, ready for the model.

    Attributes:
        text: (B, text_width) caption features.
        images: (B, F, I, w) image tokens of each frame.
        keypoints: (B, F, K, 4) x, y, depth (centred, scaled), visible.
    """

    text: Tensor
    images: Tensor
    keypoints: Tensor


@dataclass
class Seen:
    """What the model keeps of images; made once per image.

    Attributes:
        tokens: (B, T, C, n, d) for the transformer.
        places: (B, T, C I, d) single tokens for the look; None when the transformer has them all.
    """

    tokens: Tensor
    places: Tensor | None

    @classmethod
    def concatenate(cls, steps: list[Seen]) -> Seen:
        """Joins steps that were seen one by one, oldest first."""
        places = [step.places for step in steps if step.places is not None]
        return cls(torch.cat([step.tokens for step in steps], 1), torch.cat(places, 1) if places else None)


@dataclass
class Retrieved:
    """What the retrieved clips bring to the robot: features by the frozen keypoint encoder.

    Attributes:
        keypoint_features: (B, J, F, d, K) f_k; K last, so that the map is one matrix product.
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

    def forward(self, x: Tensor, last: bool = False) -> Tensor:
        """(B, L, d) to the same, or to the ``last`` of the L tokens alone, (B, 1, d)."""
        b, length, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, length, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        if last:  # which sees all the others
            q, x = q[:, :, -1:], x[:, -1:]
        dropout, causal = self.dropout if self.training else 0.0, self.causal and not last
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal)  # (B, h, L, d / h)
        x = x + self.drop(self.out(attended.transpose(1, 2).reshape(*x.shape)))
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


class ResamplerLayer(nn.Module):
    """Cross-attention of latents to patches and to themselves, then an MLP."""

    def __init__(self, width: int, heads: int, head: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_patches, self.norm_latents = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q = nn.Linear(width, heads * head, bias=False)
        self.kv = nn.Linear(width, 2 * heads * head, bias=False)
        self.out = nn.Linear(heads * head, width, bias=False)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, latents: Tensor, patches: Tensor) -> Tensor:
        """Latents (A, M, w) that have read patches (A, P, w)."""
        normed = self.norm_latents(latents)
        q = self.q(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (A, h, M, head)
        kv = self.kv(torch.cat([self.norm_patches(patches), normed], 1))  # (A, P + M, 2 h head)
        k, v = kv.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (A, h, P + M, head) each
        latents = latents + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return latents + self.mlp(latents)


class Resampler(nn.Module):
    """Perceiver resampler (Jaegle 2021, Alayrac 2022): a few learnt latents read the patches of an image."""

    def __init__(self, width: int, latents: int, depth: int = 3, heads: int = 4, head: int = 128) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(latents, width) * 0.02)
        self.layers = nn.ModuleList(ResamplerLayer(width, heads, head) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        """(..., I, w) to (..., 1 + M, w): the CLS token as it is, the patches resampled."""
        patches = images[..., 1:, :].flatten(0, -3)  # (A, I - 1, w)
        x = self.latents.expand(len(patches), -1, -1)  # (A, M, w)
        for layer in self.layers:
            x = layer(x, patches)
        return torch.cat([images[..., :1, :], self.norm(x).unflatten(0, images.shape[:-2])], -2)


class Backbone(nn.Module):
    """What human clips train, and fine-tuning starts from: the keypoint vision-language model (or GR-1's)."""

    def __init__(self, config: ArvrmConfig) -> None:
        super().__init__()
        self.config = config
        d = config.width
        words, meaning = nn.Linear(config.text_width, d), nn.Linear(d, d)
        # A sentence's features have norm 1. The layers' usual initialisation would make all instructions nearly the
        # same beside what is seen, and few episodes are learned by heart before words are told apart.
        nn.init.normal_(words.weight)
        nn.init.kaiming_normal_(meaning.weight)
        self.text = nn.Sequential(words, nn.GELU(), meaning)
        self.resampler = Resampler(config.image_width, config.latents) if config.latents else nn.Identity()
        tokens = 1 + config.latents if config.latents else config.image_tokens
        self.camera = nn.Parameter(torch.randn(config.cameras + 1, d) * 0.02)  # the last is the human clips' camera
        self.image: nn.Module
        if config.fold:
            # The tokens of an image are folded into one: the sequence stays short and a CPU can train it. The heads
            # look at the single tokens of the image again, for what the instruction names.
            self.image = nn.Sequential(nn.Linear(tokens * config.image_width, 2 * d), nn.GELU(), nn.Linear(2 * d, d))
            self.token = nn.Linear(config.image_width, d)
            self.place = nn.Parameter(torch.randn(config.cameras + 1, tokens, d))  # what is looked for, so not small
            self.look_query, self.look_key_value, self.look_out = nn.Linear(d, d), nn.Linear(d, 2 * d), nn.Linear(d, d)
        else:
            self.image = nn.Linear(config.image_width, d)
            self.slot = nn.Parameter(torch.randn(tokens, d) * 0.02)
        if config.objective == "keypoints":
            self.keypoint_encoder = KeypointEncoder(config)
            self.keypoint_head = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, K * 3))
        else:
            out = TARGET_TOKENS * config.image_width
            self.image_head = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, out))
        self.position = nn.Parameter(torch.randn(max(config.history, config.clip_frames), d) * 0.02)
        self.blocks = nn.Sequential(*(Block(d, config.heads, config.dropout) for _ in range(config.layers)))
        self.norm = nn.LayerNorm(d)

    def see(self, images: Tensor, human: bool = False) -> Seen:
        """Image tokens (B, T, C, I, w) of the robot's cameras, or (B, F, 1, I, w) of human clips."""
        which = slice(-1, None) if human else slice(0, -1)
        images = self.resampler(images)  # (B, T, C, 1 + M, w)
        camera = self.camera[which]  # (C, d)
        if self.config.fold:
            tokens = self.image(images.flatten(-2))  # (B, T, C, d)
            if self.training and self.config.fold_dropout:
                tokens = tokens * (torch.rand(len(tokens), 1, 1, 1, device=tokens.device) >= self.config.fold_dropout)
            return Seen((tokens + camera)[..., None, :], (self.token(images) + self.place[which]).flatten(2, 3))
        return Seen(self.image(images) + self.slot + camera[:, None], None)

    def _run(self, text: Tensor, seen: Seen, step_token: Tensor | None, last: bool = False) -> Tensor:
        """The transformer over z_l, (z_o, step token)_1..T; its outputs (B, T, d) at the last token of each step.

        With ``last``, of the last step alone, (B, 1, d).
        """
        groups = seen.tokens.flatten(2, 3)  # (B, T, C n, d)
        if step_token is not None:
            groups = torch.cat([groups, step_token[:, :, None]], 2)  # (B, T, C n + 1, d)
        steps, group = groups.shape[1:3]
        groups = groups + self.position[:steps, None]
        sequence = torch.cat([text[:, None], groups.flatten(1, 2)], 1)  # (B, 1 + T group, d)
        if last:
            return self.norm(self.blocks[-1](self.blocks[:-1](sequence), last=True))
        return self.norm(self.blocks(sequence))[:, group::group]

    def _look(self, query: Tensor, places: Tensor) -> Tensor:
        """Attention of (B, T, d) over the image tokens (B, T, C I, d) of the same step: (B, T, d)."""
        b, steps, d = query.shape
        heads = self.config.heads
        q = self.look_query(query).view(b * steps, 1, heads, d // heads).transpose(1, 2)
        k, v = self.look_key_value(places.flatten(0, 1)).unflatten(-1, (2, heads, d // heads)).permute(2, 0, 3, 1, 4)
        return self.look_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, steps, d))

    def _read(self, clips: Clips, step_token: Tensor | None) -> Tensor:
        """What the model makes of each frame of a clip: (B, F, d)."""
        z_l = self.text(clips.text)
        seen = self.see(clips.images[:, :, None], human=True)
        out = self._run(z_l, seen, step_token)
        return out if seen.places is None else out + self._look(out + z_l[:, None], seen.places)

    def next_keypoints(self, clips: Clips) -> Tensor:
        """(B, F - 1, K, 3): what the model expects at frames 1 to F - 1, each from the frames before it."""
        _, z_k = self.keypoint_encoder(clips.keypoints)  # (B, F, d)
        out = self._read(clips, z_k)[:, :-1]  # (B, F - 1, d)
        # The head predicts the change: staying where it is costs nothing to learn.
        return clips.keypoints[:, :-1, :, :3] + self.keypoint_head(out).unflatten(-1, (K, 3))

    def human_errors(self, clips: Clips) -> tuple[Tensor, Tensor | None]:
        """What pretraining minimises: squared errors of the next keypoints, and a mask, 1 where the hand was seen.

        Both expand to (B, F - 1, K, 3). For GR-1's recipe: of the next images, (B, F - 1, 1), and no mask.
        """
        if self.config.objective == "images":
            images = clips.images[:, :, None]  # (B, F, 1, I, w)
            return self._image_errors(self._read(clips, None)[:, :-1, None], images[:, :-1], images[:, 1:]), None
        true, there = clips.keypoints[..., :3], clips.keypoints[..., 3:]  # (B, F, K, 3), (B, F, K, 1)
        return (self.next_keypoints(clips) - true[:, 1:]) ** 2, there[:, 1:] * there[:, :-1]

    def _image_errors(self, out: Tensor, now: Tensor, later: Tensor) -> Tensor:
        """GR-1: mean squared errors (...) of later images (..., I, w), predicted from (..., d) as features.

        Like the keypoint head, the image head predicts the change.
        """
        change = later - now
        if change.shape[-2] != TARGET_TOKENS:
            side = round((change.shape[-2] - 1) ** 0.5)
            patches = change[..., 1:, :].transpose(-1, -2).unflatten(-1, (side, side)).flatten(0, -4)  # (A, w, s, s)
            pooled = F.adaptive_avg_pool2d(patches, 3).flatten(2).transpose(1, 2).unflatten(0, change.shape[:-2])
            change = torch.cat([change[..., :1, :], pooled], -2)  # (..., 10, w)
        return ((self.image_head(out).unflatten(-1, change.shape[-2:]) - change) ** 2).mean((-1, -2))


class ArvrmModel(Backbone):
    """The whole model; parts are switched by the configuration."""

    def __init__(self, config: ArvrmConfig) -> None:
        super().__init__(config)
        d = config.width
        self.shared = frozenset(self.state_dict())  # names of what stage 1 has trained
        self.component_scale = nn.Parameter(torch.randn(S, d) * 0.5)
        self.component_bias = nn.Parameter(torch.randn(S, d) * 0.02)
        self.state_pool = nn.Sequential(nn.Linear(S * d, d), nn.GELU(), nn.Linear(d, d))
        rows = S if config.analogy or config.direct_state else 1
        if config.retrieval:
            self.query, self.key = nn.Linear(d, d), nn.Linear(d, d)
            self.frame = nn.Parameter(torch.randn(config.clip_frames, d) * 0.02)
            # Without the map the keypoints' features are averaged.
            self.analogy_map = nn.Parameter(torch.full((rows, K), 1.0 / K), requires_grad=config.analogy)
            if config.analogy:
                self.analogy_head = nn.Linear(d, 1)  # one number per component: its later state
            if config.conditional:
                self.map_gate = nn.Linear(d, MAP_RANK)
                self.map_left = nn.Parameter(torch.zeros(S, MAP_RANK))
                self.map_right = nn.Parameter(torch.randn(MAP_RANK, K) / K**0.5)
        if hinted := config.retrieval or config.direct_state:
            self.hint = nn.Sequential(nn.LayerNorm(rows * d), nn.Linear(rows * d, d), nn.GELU())
        inputs = (1 + config.fold + hinted) * d
        self.action_head = nn.Sequential(
            nn.Linear(inputs, 3 * d), nn.GELU(), nn.Linear(3 * d, 2 * d), nn.GELU(),
            nn.Linear(2 * d, config.chunk * ACTION + 1),
        )  # fmt: skip

    def load_pretrained(self, weights: dict[str, Tensor]) -> None:
        """Starts from the weights of stage 1; what it freezes stays frozen.

        Raises:
            KeyError: they are of another configuration.
        """
        if weights.keys() != self.shared:
            raise KeyError(f"{len(self.shared ^ weights.keys())} weights are missing or unknown")
        self.load_state_dict(weights, strict=False)
        if self.config.fold:  # a token is of the same thing in every camera: the robot's begin with what clips taught
            with torch.no_grad():
                self.place[:-1] = self.place[-1]
        if self.config.objective == "keypoints":
            self.keypoint_encoder.requires_grad_(False)
            self.keypoint_head.requires_grad_(False)

    def forward(
        self,
        text: Tensor,
        seen: Seen,
        state: Tensor,
        retrieved: Retrieved | None,
        future: tuple[Tensor, Tensor] | None = None,
        last: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Robot steps to action chunks.

        Args:
            text: (B, text_width).
            seen: of the robot's images, by :meth:`see`.
            state: (B, T, S).
            retrieved: the clips' features, or None.
            future: the images (B, T, C, I, w) of now and of some steps later, for GR-1's loss in training.
            last: give the last step alone, as T = 1; what acts needs no other.

        Returns:
            Chunks (B, T, N, 7), progress logits (B, T), and in training a third: the later state (B, T, J, S) that
            each clip suggests, or GR-1's image errors (B, T, C); None when there is neither.
        """
        f_s = state[..., None] * self.component_scale + self.component_bias  # (B, T, S, d)
        z_s = self.state_pool(f_s.flatten(2))  # (B, T, d)
        z_l = self.text(text)
        out = self._run(z_l, seen, z_s, last)  # (B, T, d)
        asked = out + z_l[:, None]
        parts, extra = [out], None
        if seen.places is not None:
            parts.append(self._look(asked, seen.places[:, -out.shape[1] :]))
        if self.config.retrieval:
            hint, extra = self._hint(asked, f_s[:, -out.shape[1] :], retrieved)
            parts.append(hint)
        elif self.config.direct_state:
            parts.append(self.hint(f_s[:, -out.shape[1] :].flatten(2)))
        if future is not None:
            extra = self._image_errors(out[:, :, None] + self.camera[:-1], *future)
        raw = self.action_head(torch.cat(parts, -1))  # (B, T, N 7 + 1)
        return raw[..., :-1].unflatten(-1, (self.config.chunk, ACTION)), raw[..., -1], extra

    def conditional_map(self, context: Tensor) -> Tensor:
        """m(l, o) (..., S, K) for contexts (..., d): the global map, plus one of low rank that the context gates."""
        gate = self.map_gate(context)  # (..., r)
        return self.analogy_map + torch.einsum("sr,...r,rk->...sk", self.map_left, gate, self.map_right)

    def _hint(self, asked: Tensor, f_s: Tensor, retrieved: Retrieved | None) -> tuple[Tensor, Tensor | None]:
        """What the retrieved clips say, (B, T, d), and the later state each suggests.

        Where in each clip the robot is now is found by attention of its token over the clip's frames; the keypoint
        features found there are carried over by the map: f*_s = (1 - alpha) m f_k + alpha f_s. The map is linear and
        comes first, which is the same and costs a third.
        """
        config = self.config
        if retrieved is None:
            nothing = f_s if config.analogy else asked.new_zeros(*asked.shape[:2], 1, asked.shape[2])
            return self.hint(nothing.flatten(2)), None
        keys = self.key(retrieved.tokens + self.frame).transpose(2, 3)  # (B, J, d, F)
        weights = self.query(asked)[:, None] @ keys / keys.shape[2] ** 0.5  # (B, J, T, F)
        weights = weights.softmax(-1)  # over the frames of each clip
        to_rows: Tensor = self.analogy_map  # (S, K)
        if config.conditional:
            to_rows = torch.cat([to_rows, self.map_right])  # (S + r, K)
        mapped = retrieved.keypoint_features @ to_rows.T  # (B, J, F, d, S)
        carried = weights @ mapped.flatten(3)  # (B, J, T, d S)
        carried = carried.unflatten(3, mapped.shape[3:]).permute(0, 2, 1, 4, 3)  # (B, T, J, S, d)
        if config.conditional:
            carried, gated = carried.split([S, MAP_RANK], 3)
            gate = self.map_gate(asked)  # (B, T, r)
            carried = carried + torch.einsum("sr,btr,btjrd->btjsd", self.map_left, gate, gated)
        present = retrieved.present[:, None, :, None, None]  # (B, 1, J, 1, 1)
        count = present.sum(2)  # (B, 1, 1, 1)
        if not config.analogy:
            return self.hint(((carried * present).sum(2) / count.clamp(min=1)).flatten(2)), None
        f_star = (1 - config.alpha) * carried + config.alpha * f_s[:, :, None]  # (B, T, J, S, d)
        pooled = (f_star * present).sum(2) / count.clamp(min=1)  # (B, T, S, d)
        pooled = torch.where(count > 0, pooled, f_s)
        return self.hint(pooled.flatten(2)), self.analogy_head(f_star).squeeze(-1)
