# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How long a step of the policy takes at the paper's size, on this machine, with random weights.

    python benchmarks/policy_latency.py [--json FILE] [--quick]

whole    every image of the history encoded anew, as the published code does it
cached   the new image of each camera encoded, what the model keeps of the others remembered, as ArvrmPolicy does it
fast     the same, with the encoder and the transformer as ``perception.fast.accelerate`` makes them

The three take turns, so that the load of the machine falls on all alike. Then the encoder alone, in every way that was
tried. In the JSON file:

ratio_feature_cache     whole over cached, medians
max_abs_diff            between the normalised actions of whole and cached
ratio_fast_mode         whole over fast
fast_mode_action_error  mean absolute difference between the normalised actions of fast and cached; ``fast_mode_action``
                        has the largest as well, both in millimetres, and how large the actions are
step_ms_p50             of fast
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import resource
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from arvrm_ros.contract import load_contract
from arvrm_ros.data.types import HAND_KEYPOINTS, ROBOT_COMPONENTS, HumanClip
from arvrm_ros.errors import ArvrmError
from arvrm_ros.files import write_json
from arvrm_ros.perception.encoders import TimmEncoder, load_image_encoder
from arvrm_ros.perception.fast import accelerate
from arvrm_ros.policies.arvrm.configuration import ArvrmConfig, load_config
from arvrm_ros.policies.arvrm.model import ArvrmModel, Retrieved, Seen
from arvrm_ros.policies.arvrm.policy import retrieved_features
from arvrm_ros.resources import resource as package_file

QUICK = {
    "width": 96, "layers": 2, "heads": 2, "keypoint_width": 16, "keypoint_layers": 1, "retrieved": 2,
    "image_encoder": "timm:vit_tiny_patch16_224", "image_width": 192,
}  # fmt: skip

SHORT = 3  # cached and fast steps for each whole one, which takes as long as many of them


class Stream:
    """What a robot would see and feel, made up: scenes of soft blobs that drift from step to step."""

    def __init__(self, config: ArvrmConfig, steps: int) -> None:
        rng = np.random.default_rng(0)
        shape = next(iter(load_contract("tabletop").observation.cameras.values()))
        scenes = np.cumsum(rng.normal(0, 20, (steps, config.cameras, 9, 9, 3)), 0) + rng.uniform(0, 255, (9, 9, 3))
        grow = lambda scene: cv2.resize(scene.clip(0, 255), (shape.width, shape.height), interpolation=cv2.INTER_CUBIC)  # noqa: E731
        self.images = np.stack([[grow(s) for s in step] for step in scenes]).clip(0, 255).astype(np.uint8)
        self.states = np.cumsum(rng.normal(0, 0.1, (steps, len(ROBOT_COMPONENTS))), 0).astype(np.float32)
        self.text = rng.normal(size=(1, config.text_width)).astype(np.float32)
        self.text /= np.linalg.norm(self.text)
        tracks = np.cumsum(rng.normal(0, 0.01, (config.retrieved, config.clip_frames, 1, 3)), 1)
        tracks = tracks + rng.uniform(0.3, 0.7, (config.retrieved, 1, len(HAND_KEYPOINTS), 3))
        seen = np.ones(config.clip_frames, bool)
        nothing = np.zeros((1, 1), np.float32)
        self.clips = [HumanClip("", "", 0.1, track.astype(np.float32), seen, nothing[0], nothing) for track in tracks]


class Runner:
    """One encoder and one model, over a stream."""

    def __init__(self, model: ArvrmModel, encoder: TimmEncoder, stream: Stream, device: torch.device) -> None:
        self.model, self.encoder, self.stream, self.device = model, encoder, stream, device
        self.text = torch.from_numpy(stream.text).to(device)
        self.retrieved: Retrieved | None = retrieved_features(model, stream.clips) if stream.clips else None
        self.seen: deque[Seen] = deque(maxlen=model.config.history)

    def see(self, images: np.ndarray) -> Seen:
        """What the model keeps of images (T, C, H, W, 3)."""
        tokens = self.encoder.encode(images.reshape(-1, *images.shape[2:]))
        standardised = torch.from_numpy(self.encoder.standardised(tokens)).to(self.device)
        return self.model.see(standardised.view(1, *images.shape[:2], *tokens.shape[1:]))

    def act(self, seen: Seen, step: int) -> np.ndarray:
        """The chunk (N, 7) of a step, normalised."""
        states = torch.from_numpy(self.stream.states[step + 1 - seen.tokens.shape[1] : step + 1])[None].to(self.device)
        return self.model(self.text, seen, states, self.retrieved, last=True)[0][0, 0].float().cpu().numpy()

    def remember(self, steps: range) -> None:
        """Fills the history."""
        self.seen.extend(self.see(self.stream.images[step : step + 1]) for step in steps)

    def whole(self, step: int) -> np.ndarray:
        """Everything anew."""
        return self.act(self.see(self.stream.images[step + 1 - self.model.config.history : step + 1]), step)

    def cached(self, step: int) -> np.ndarray:
        """Only the new images."""
        self.remember(range(step, step + 1))
        return self.act(Seen.concatenate(list(self.seen)), step)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds and result; the result is on the CPU, so that a GPU has finished."""
    start = time.perf_counter()
    result = function()
    return 1000 * (time.perf_counter() - start), result


def peak_memory() -> float:
    """Of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@torch.inference_mode()
def steps(config: ArvrmConfig, repetitions: int, device: torch.device) -> dict[str, Any]:
    """Times whole, cached and fast in turns."""
    torch.manual_seed(0)
    stream = Stream(config, config.history + SHORT * repetitions)
    model = ArvrmModel(config).eval().to(device)
    encoder = load(config, device)
    plain = Runner(model, encoder, stream, device)
    fast_model, fast_encoder = copy.deepcopy(model), copy.deepcopy(encoder)
    for part in (fast_encoder, fast_model.resampler, fast_model.blocks):
        accelerate(part)
    fast = Runner(fast_model, fast_encoder, stream, device)
    memory = {"loaded": peak_memory()}
    for runner in (plain, fast):
        runner.remember(range(config.history - 1))
        runner.cached(config.history - 1)  # warm
    memory["with_cached_steps"] = peak_memory()
    ways = {"whole": plain.whole, "cached": plain.cached, "fast": fast.cached}
    milliseconds: dict[str, list[float]] = {name: [] for name in ways}
    chunks: dict[str, dict[int, np.ndarray]] = {name: {} for name in ways}
    for step in range(config.history, config.history + SHORT * repetitions):
        for name, way in ways.items():
            if name == "whole" and step % SHORT:
                continue
            took, chunks[name][step] = timed(lambda way=way, step=step: way(step))
            milliseconds[name].append(took)
        measured = (f"{name} {milliseconds[name][-1]:.0f} ms" for name in ways if step in chunks[name])
        print(f"step {step}: " + ", ".join(measured), flush=True)
    memory["with_whole_steps"] = peak_memory()
    p50 = {name: float(np.median(took)) for name, took in milliseconds.items()}
    exact, approximate = (np.stack(list(chunks[name].values())) for name in ("cached", "fast"))
    error = action_error(exact, approximate)
    differences = [np.abs(chunk - chunks["cached"][step]).max() for step, chunk in chunks["whole"].items()]
    return {
        "ratio_feature_cache": p50["whole"] / p50["cached"],
        "max_abs_diff": float(max(differences)),
        "ratio_fast_mode": p50["whole"] / p50["fast"],
        "fast_mode_action_error": error["mean"],
        "step_ms_p50": p50["fast"],
        "whole_ms_p50": p50["whole"],
        "cached_ms_p50": p50["cached"],
        "fast_mode_action": error,
        "milliseconds": milliseconds,
        "peak_memory_mb": memory,
    }


def action_error(exact: np.ndarray, approximate: np.ndarray) -> dict[str, float]:
    """Of chunks (R, N, 7): normalised, and in millimetres with the action scale of the shipped checkpoint."""
    header = json.loads(package_file("checkpoints", "arvrm_tabletop", "checkpoint.json").read_text(encoding="utf-8"))
    scale = np.array(header["normalisation"]["action_scale"])[: exact.shape[1], :3]  # (N, 3) metres
    difference = np.abs(approximate - exact)
    millimetres = 1000 * np.linalg.norm((approximate - exact)[..., :3] * scale, axis=-1)
    return {
        "mean": float(difference.mean()),
        "max": float(difference.max()),
        "mean_mm": float(millimetres.mean()),
        "max_mm": float(millimetres.max()),
        # Random weights act little; a trained policy's normalised actions have an rms of about 1.
        "rms": float(np.sqrt(((approximate - exact) ** 2).mean())),
        "rms_of_actions": float(np.sqrt((exact**2).mean())),
        "rms_between_steps": float(np.sqrt((np.diff(exact, axis=0) ** 2).mean())),
    }


def load(config: ArvrmConfig, device: torch.device) -> TimmEncoder:
    """The frozen encoder with random weights."""
    encoder = load_image_encoder(config.image_encoder, seed=0)
    assert isinstance(encoder, TimmEncoder)
    return encoder.to(device)


# The encoder alone


def compiled(encoder: TimmEncoder) -> None:
    """Block by block: they are alike, so one is compiled and serves all."""
    for block in encoder.model.blocks:
        block.compile(mode="reduce-overhead" if encoder.mean.is_cuda else None)


def bfloat16(encoder: TimmEncoder) -> None:
    """Everything in bfloat16."""
    encoder.forward = torch.autocast(encoder.mean.device.type, torch.bfloat16)(encoder.forward)


def onnx(eight_bits: bool) -> Callable[[TimmEncoder], None]:
    """The whole network by ONNX Runtime, its linear layers in float32 or in 8 bits."""

    def change(encoder: TimmEncoder) -> None:
        import onnxruntime
        from onnxruntime.quantization import QuantType, quantize_dynamic

        pixels = torch.zeros(2, 3, encoder.image, encoder.image)
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "encoder.onnx")
            torch.onnx.export(
                encoder, (pixels,), file, input_names=["pixels"], dynamic_axes={"pixels": {0: "n"}}, dynamo=False
            )
            if eight_bits:
                quantize_dynamic(
                    file, file, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True,
                    op_types_to_quantize=["MatMul", "Gemm"], extra_options={"MatMulConstBOnly": True},
                )  # fmt: skip
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        encoder.forward = lambda pixels: torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0])

    return change


@torch.inference_mode()
def variants(config: ArvrmConfig, repetitions: int, device: torch.device) -> list[dict[str, Any]]:
    """Times one image of each camera through the encoder, each way in turns with plain PyTorch."""
    stream = Stream(config, 1)
    images = stream.images[0]
    plain = load(config, device)
    exact = plain.encode(images)
    ways: dict[str, Callable[[TimmEncoder], None]] = {
        "PyTorch, 8 bits (fast mode)" if device.type == "cpu" else "PyTorch, bfloat16 (fast mode)": accelerate,
        "PyTorch, float32, torch.compile": compiled,
    }
    if device.type == "cpu":
        ways |= {
            "PyTorch, bfloat16": bfloat16,
            "ONNX Runtime, float32": onnx(False),
            "ONNX Runtime, 8 bits": onnx(True),
        }
    rows: list[dict[str, Any]] = []
    for name, change in ways.items():
        row: dict[str, Any] = {"variant": name}
        encoder = copy.deepcopy(plain)
        try:
            change(encoder)
            row["first_call_ms"], tokens = timed(lambda encoder=encoder: encoder.encode(images))
        except (ImportError, RuntimeError) as error:  # an optional package, or a missing compiler
            row["not_measured"] = " ".join(str(error).split())[:200]
        else:
            pairs: list[tuple[float, float]] = []
            while len(pairs) < repetitions and sum(map(sum, pairs)) < 10_000:  # one of them is very slow
                usual = timed(lambda: plain.encode(images))[0]
                pairs.append((usual, timed(lambda encoder=encoder: encoder.encode(images))[0]))
            usual, this = np.median(pairs, axis=0)
            row |= {
                "ms_p50": float(this),
                "speed_up": float(usual / this),
                "token_error_mean": float(np.abs(tokens - exact).mean()),
            }
        rows.append(row)
        del encoder
        gc.collect()
    return rows


def describe(result: dict[str, Any]) -> str:
    """The figures as text."""
    error = result["fast_mode_action"]
    lines = [
        f"{'step':8} {'p50 ms':>9} {'whole / it':>11}",
        f"{'whole':8} {result['whole_ms_p50']:9.1f} {1:11.1f}",
        f"{'cached':8} {result['cached_ms_p50']:9.1f} {result['ratio_feature_cache']:11.1f}"
        f"   largest difference of the outputs to whole: {result['max_abs_diff']:.1e}",
        f"{'fast':8} {result['step_ms_p50']:9.1f} {result['ratio_fast_mode']:11.1f}"
        f"   action error: mean {error['mean']:.4f}, max {error['max']:.4f} (normalised); "
        f"mean {error['mean_mm']:.2f} mm, max {error['max_mm']:.2f} mm; rms {error['rms']:.4f}, "
        f"that of the actions {error['rms_of_actions']:.3f}",
        "peak memory, MB: " + ", ".join(f"{k} {v:.0f}" for k, v in result["peak_memory_mb"].items()),
    ]
    if result["variants"]:
        lines += ["", f"{'two images through the encoder':34} {'p50 ms':>9} {'speed-up':>9} {'error':>8}"]
    for row in result["variants"]:
        if "ms_p50" in row:
            figures = f"{row['ms_p50']:9.1f} {row['speed_up']:9.2f} {row['token_error_mean']:8.4f}"
        else:
            figures = f"  not measured: {row['not_measured']}"
        lines.append(f"{row['variant']:34} {figures}")
    return "\n".join(lines)


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="tiny sizes and no table: only to see that it runs")
    parser.add_argument("--repetitions", type=int, default=5, help="whole steps that are timed (default: 5)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda or cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    config = load_config("arvrm_paper", **(QUICK if args.quick else {}))
    repetitions = 2 if args.quick else args.repetitions
    try:
        result = steps(config, repetitions, device)
        result["variants"] = [] if args.quick else variants(config, repetitions, device)
    except ArvrmError as error:
        print(f"policy_latency: {error}", file=sys.stderr)
        return 1
    if device.type == "cuda":
        result["peak_memory_mb"]["on_the_gpu"] = torch.cuda.max_memory_allocated() / 2**20
    result |= {
        "size": "quick" if args.quick else "paper",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
    }
    print(describe(result))
    if args.json:
        write_json(args.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
