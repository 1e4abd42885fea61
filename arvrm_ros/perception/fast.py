# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Frozen networks made faster, at the price of a small error: 8 bits on a CPU, bfloat16 on a GPU.

A vision transformer spends nine tenths of its time in linear layers. On a CPU they multiply in 8 bits about twice as
fast; ``benchmarks/policy_latency.py`` compares this with ONNX Runtime, torch.compile and bfloat16, and states the error
of the actions.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

NARROW = 256
"""Number of inputs below which a linear layer stays as it is: converting what goes in would cost what 8 bits save."""


class Int8Linear(nn.Module):
    """A linear layer that multiplies in 8 bits; what goes in is scaled as a whole, at each call.

    The weights, with a scale for each output, use 7 of the 8 bits: CPUs without VNNI sum two products in 16 bits, which
    would overflow. PyTorch's own way out takes that bit from what goes in, where it is missed more.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(1).clamp(min=1e-8) / 63
        with warnings.catch_warnings():
            # Quantised tensors are to leave PyTorch; what is to come has no 8-bit product as fast as this on such CPUs.
            warnings.simplefilter("ignore", UserWarning)
            zero = torch.zeros(len(scale), dtype=torch.long)
            quantised = torch.quantize_per_channel(weight, scale.double(), zero, 0, torch.qint8)
        bias = None if linear.bias is None else linear.bias.detach().float()
        with _fastest_engine():
            self.packed = torch.ops.quantized.linear_prepack(quantised, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs), float32."""
        return torch.ops.quantized.linear_dynamic(x, self.packed, False)  # False: all 8 bits of what goes in


@contextmanager
def _fastest_engine() -> Iterator[None]:
    """Picks oneDNN where there is one: on the tested CPU (Zen 3) it is 10 % faster than the default, FBGEMM."""
    quantized = torch.backends.quantized
    before = quantized.engine
    if "onednn" in quantized.supported_engines:
        quantized.engine = "onednn"
    try:
        yield
    finally:
        quantized.engine = before


def accelerate(module: nn.Module) -> None:
    """Makes a frozen network fast where it is, in place: 8-bit linear layers on a CPU, bfloat16 on a GPU.

    On a CPU it can neither be trained nor saved nor moved afterwards.
    """
    if any(parameter.is_cuda for parameter in module.parameters()):
        module.forward = torch.autocast("cuda", torch.bfloat16)(module.forward)
        return
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            # Subclasses of Linear stay: their owners read the weights themselves.
            if type(child) is nn.Linear and child.in_features >= NARROW:
                setattr(parent, name, Int8Linear(child))
