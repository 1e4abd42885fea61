# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a step of fine-tuning keeps in memory, at any size, without the memory or the GPU for it.

Weights, gradients and AdamW's two moments, the batch, and what the forward pass keeps for the backward pass, each
counted by the sizes of the model's own tensors on PyTorch's meta device. Where there is a GPU, the step is done there
as well and its peak measured; the difference is what the backward pass needs for a moment.

usage: python benchmarks/training_memory.py [--policy arvrm_paper] [--batch 40] [--json FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from arvrm_ros.files import write_json
from arvrm_ros.policies.arvrm.configuration import ArvrmConfig, load_config
from arvrm_ros.policies.arvrm.model import ArvrmModel, Clips, K, Retrieved, S

GB = 1e9
REPLAYED = 4  # windows of a batch for each human clip that is replayed beside it, as in fine-tuning


def make_batch(config: ArvrmConfig, size: int) -> tuple[list, Clips]:
    """What a step of fine-tuning reads: text, images, states and retrieved clips; and the clips that are replayed."""
    steps, clips, frames, width = config.history, config.retrieved, config.clip_frames, config.width
    tokens = (config.image_tokens, config.image_width)
    retrieved = Retrieved(
        torch.zeros(size, clips, frames, width, K), torch.zeros(size, clips, frames, width), torch.ones(size, clips)
    )
    robot = [
        torch.zeros(size, config.text_width),
        torch.zeros(size, steps, config.cameras, *tokens),
        torch.zeros(size, steps, S),
        retrieved if config.retrieval else None,
    ]
    replayed = max(1, size // REPLAYED)
    return robot, Clips(
        torch.zeros(replayed, config.text_width),
        torch.zeros(replayed, frames, *tokens),
        torch.zeros(replayed, frames, K, 4),
    )


def make_model(config: ArvrmConfig) -> ArvrmModel:
    """To be trained; fine-tuning freezes what gives the clips' features."""
    model = ArvrmModel(config).train()
    if config.objective == "keypoints":
        model.keypoint_encoder.requires_grad_(False)
    return model


def forward(model: ArvrmModel, robot: list, clips: Clips) -> Tensor:
    """A scalar that depends on all that is learnt from."""
    text, images, state, retrieved = robot
    future = (images, images) if model.config.objective == "images" else None
    chunk, progress, extra = model(text, model.see(images), state, retrieved, future)
    errors, _ = model.human_errors(clips)
    return chunk.sum() + progress.sum() + errors.sum() + (0.0 if extra is None else extra.sum())


def counted(config: ArvrmConfig, size: int) -> dict[str, float]:
    """Gigabytes of each kind, by the tensors' sizes alone."""
    with torch.device("meta"):
        model = make_model(config)
        robot, clips = make_batch(config, size)
        given = {t.untyped_storage()._cdata for t in [*model.parameters(), *tensors_of(robot, clips)]}
        kept: dict[int, tuple[int, Tensor]] = {}  # with the tensor, so that no address is used again

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in given:
                kept[storage._cdata] = storage.nbytes(), tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            forward(model, robot, clips)
    learned = [p for p in model.parameters() if p.requires_grad]
    parts = {
        "weights_gb": sum(p.nbytes for p in model.parameters()) / GB,
        "gradients_and_moments_gb": 3 * sum(p.nbytes for p in learned) / GB,
        "batch_gb": sum(t.nbytes for t in tensors_of(robot, clips)) / GB,
        "kept_for_backward_gb": sum(size for size, _ in kept.values()) / GB,
    }
    return parts | {"together_gb": sum(parts.values())}


def tensors_of(robot: list, clips: Clips) -> list[Tensor]:
    """All tensors of a batch."""
    values = [*robot, clips]
    return [t for v in values if v is not None for t in ([v] if isinstance(v, Tensor) else vars(v).values())]


def measured(config: ArvrmConfig, size: int) -> float:
    """Gigabytes at the peak of two steps on the GPU."""
    with torch.device("cuda"):
        model = make_model(config)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        batch = make_batch(config, size)
        for _ in range(2):
            optimizer.zero_grad(set_to_none=True)
            forward(model, *batch).backward()
            optimizer.step()
    return torch.cuda.max_memory_allocated() / GB


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="arvrm_paper", help="configuration (default: arvrm_paper)")
    parser.add_argument("--batch", type=int, default=40, help="windows per step (default: 40, the paper's per GPU)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    config = load_config(args.policy)
    results = {"policy": args.policy, "batch": args.batch, **counted(config, args.batch)}
    if torch.cuda.is_available():
        results["measured_peak_gb"] = measured(config, args.batch)
    for name, value in results.items():
        print(f"{name:26} {value:.2f}" if isinstance(value, float) else f"{name:26} {value}")
    if args.json:
        write_json(args.json, results)


if __name__ == "__main__":
    main()
