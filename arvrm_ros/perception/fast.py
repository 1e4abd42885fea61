# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Frozen networks made faster, at the price of a small error: 8 bits on a CPU, bfloat16 on a GPU.

A vision transformer spends nine tenths of its time in linear layers. On a CPU they multiply in 8 bits about twice as
fast; ``benchmarks/policy_latency.py`` compares this with ONNX Runtime, torch.compile and bfloat16, and states the error
of the actions.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

NARROW = 256
"""Number of inputs below which a linear layer stays as it is: converting what goes in would cost what 8 bits save."""


class Int8Linear(nn.Module):
    """A linear layer with weights of 8 bits, one scale per output; what goes in is scaled as a whole, at each call."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(1).clamp(min=1e-8) / 127
        with warnings.catch_warnings():
            # Quantised tensors are to leave PyTorch; what is to come has no 8-bit product as fast as this on such CPUs.
            warnings.simplefilter("ignore", UserWarning)
            zero = torch.zeros(len(scale), dtype=torch.long)
            quantised = torch.quantize_per_channel(weight, scale.double(), zero, 0, torch.qint8)
        bias = None if linear.bias is None else linear.bias.detach().float()
        self.packed = torch.ops.quantized.linear_prepack(quantised, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs), float32."""
        # True: seven bits of the input. CPUs without VNNI sum two products in 16 bits, which eight would overflow.
        return torch.ops.quantized.linear_dynamic(x, self.packed, True)


def accelerate(module: nn.Module) -> None:
    """Makes a frozen network fast where it is, in place: 8-bit linear layers on a CPU, bfloat16 on a GPU.

    On a CPU it can neither be trained nor saved nor moved afterwards.
    """
    if next(module.parameters()).is_cuda:
        module.forward = torch.autocast("cuda", torch.bfloat16)(module.forward)
        return
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            # Subclasses of Linear stay: their owners read the weights themselves.
            if type(child) is nn.Linear and child.in_features >= NARROW:
                setattr(parent, name, Int8Linear(child))
