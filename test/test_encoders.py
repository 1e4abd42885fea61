# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Frozen encoders by name, their fast mode, and the latency benchmark; random weights, without network."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from arvrm_ros.errors import ArvrmError, CheckpointError, DataError
from arvrm_ros.perception import encoders, optional
from arvrm_ros.perception.cameras import resize
from arvrm_ros.perception.encoders import load_image_encoder, load_text_encoder
from arvrm_ros.perception.fast import Int8Linear, accelerate
from arvrm_ros.perception.image_encoder import ImageEncoder, ImageEncoderConfig
from arvrm_ros.resources import resource
from arvrm_ros.simulation.tabletop import Tabletop

ROOT = Path(__file__).resolve().parent.parent
NAME = "vit_tiny_patch16_224"
TINY = f"timm:{NAME}"
CLIP = "open_clip:ViT-B-32/openai"
SMALL = resource("checkpoints", "image_encoder.safetensors")


@pytest.fixture(scope="module")
def tiny():
    return load_image_encoder(TINY, seed=0)


@pytest.fixture(scope="module")
def clip():
    return load_text_encoder(CLIP, seed=0)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 255, (3, 96, 128, 3), np.uint8)


@pytest.fixture
def offline(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "smal",
        "timm",
        "timm:",
        "timm:no_such_model",
        "timm:resnet18",
        "timm:vit_wee_patch16_reg1_gap_256",
        "minilm",
        CLIP,
    ],
)
def test_an_unknown_image_encoder_is_named(spec):
    with pytest.raises(DataError, match=spec.removeprefix("timm:") or "unknown"):
        load_image_encoder(spec, seed=0)


@pytest.mark.parametrize("spec", ["", "clip", "open_clip:ViT-B-32", "open_clip:ViT-B-32/none", "open_clip:none/openai"])
def test_an_unknown_text_encoder_is_named(spec):
    with pytest.raises(DataError, match=spec.removeprefix("open_clip:") or "''"):
        load_text_encoder(spec, seed=0)


@pytest.mark.parametrize(
    ("package", "load", "small"),
    [("timm", lambda: load_image_encoder(TINY), "small"), ("open_clip", lambda: load_text_encoder(CLIP), "minilm")],
)
def test_an_absent_package_is_named_with_what_installs_it_and_what_does_without(monkeypatch, package, load, small):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        DataError, match=rf"{package} cannot .*requirements/paper.txt.*arvrm_ros\[paper\].* {small} enc"
    ):
        load()


@pytest.mark.parametrize(
    ("load", "small"), [(lambda: load_image_encoder(TINY), "small"), (lambda: load_text_encoder(CLIP), "minilm")]
)
def test_weights_that_cannot_be_fetched_may_come_from_a_file(monkeypatch, tmp_path, offline, load, small):
    for hub in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(f"huggingface_hub.constants.{hub}", str(tmp_path))
    with pytest.raises(DataError, match=rf"cannot be had: .*give a file that has them, or take the {small} encoder"):
        load()


def test_missing_damaged_and_wrong_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no file .*none\.pth"):
        load_image_encoder(TINY, tmp_path / "none.pth")
    for name, content in {"empty.pth": b"", "noise.pth": b"noise", "noise.safetensors": b"noise"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name} is damaged, or does not hold the weights of {TINY}"):
            load_image_encoder(TINY, tmp_path / name)
    for load, spec in ((load_image_encoder, TINY), (load_text_encoder, CLIP)):
        with pytest.raises(CheckpointError, match=f"{SMALL.name} is damaged, or does not hold the weights of {spec}"):
            load(spec, SMALL)


def test_the_small_encoder_is_the_shipped_one_and_says_which_file_it_is(tmp_path, images):
    encoder = load_image_encoder()
    assert isinstance(encoder, ImageEncoder)
    assert encoder.identity == hashlib.sha256(SMALL.read_bytes()).hexdigest()
    assert encoder.encode(images).shape == (3, encoder.tokens, encoder.width)
    other = ImageEncoder(ImageEncoderConfig(width=32))
    other.save(tmp_path / "other.safetensors")
    assert load_image_encoder("small", tmp_path / "other.safetensors").width == 32


def test_shifting_tokens_is_shifting_the_image(contract):
    """The things on the table, seen by the static camera: the image shifted and encoded, against the tokens shifted."""
    tabletop, encoder = Tabletop(contract), ImageEncoder.load()
    tabletop.reset(7)
    image = tabletop.render("static", 128, 128)
    tabletop.close()
    by = np.array([9, -6])
    moved = cv2.warpAffine(
        image, np.array([[1.0, 0, by[0]], [0, 1, by[1]]]), (128, 128), borderMode=cv2.BORDER_REPLICATE
    )
    before, encoded = encoder.encode(np.stack([image, moved]))
    flat = torch.from_numpy(encoder.standardised(before[None])).view(1, encoder.tokens, encoder.width)
    with torch.no_grad():
        tokens = encoder.shifted(flat, torch.from_numpy(by / 128).float()[None])[0]
        tokens = tokens * encoder.scale + encoder.mean
    seen = (before[1:, 2] > 0.9) & (encoded[1:, 2] > 0.9)
    assert seen.sum() >= 5
    pixels = 128 * (tokens.numpy() - encoded)[1:, :2][seen]
    assert np.abs(pixels).max() < 2.0
    assert 128 * np.abs((before - encoded)[1:, :2][seen]).max() > 6
    torch.testing.assert_close(tokens[:, 2:], torch.from_numpy(before[:, 2:]), atol=1e-4, rtol=1e-4)


def test_a_timm_encoder_gives_what_timm_gives(tiny, images):
    tokens = tiny.encode(images, batch=2)
    assert (tokens.shape, tokens.dtype) == ((3, 197, 192), np.float32)
    assert (tiny.tokens, tiny.width) == (197, 192)
    described = tiny.model.pretrained_cfg
    pixels = torch.from_numpy(np.stack([resize(image, 224, 224) for image in images])).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(described[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        expected = tiny.model.forward_features((pixels - mean) / std)
    np.testing.assert_allclose(tokens, expected, atol=1e-5)
    np.testing.assert_array_equal(tiny.standardised(tokens), tokens.reshape(3, -1))
    features = tiny.visual_feature(tokens)
    assert features.shape == (3, 10 * 192)  # CLS, and the patches pooled to 3 x 3
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
    patches = tokens[0, 1:].reshape(14, 14, 192)
    cosine = features[0].reshape(10, 192)[5] @ (middle := patches[4:10, 4:10].mean((0, 1))) / np.linalg.norm(middle)
    assert cosine == pytest.approx(np.linalg.norm(features[0].reshape(10, 192)[5]), rel=1e-4)


def test_random_weights_depend_on_the_seed_alone(tiny):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    again, other = load_image_encoder(TINY, seed=0), load_image_encoder(TINY, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert tiny.identity == again.identity != other.identity
    assert tiny.identity.startswith(f"{TINY} ")


def test_weights_of_a_file_are_those_of_the_file(tmp_path, tiny):
    import timm

    torch.manual_seed(3)
    model = timm.create_model(NAME)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "vit.safetensors")
    torch.save({"model": model.state_dict()}, tmp_path / "vit.pth")
    files = [load_image_encoder(TINY, tmp_path / name) for name in ("vit.safetensors", "vit.pth")]
    assert files[0].identity == files[1].identity != tiny.identity
    assert torch.equal(files[0].model.blocks[0].attn.qkv.weight, model.blocks[0].attn.qkv.weight)
    del (state := model.state_dict())["norm.weight"]
    safetensors.torch.save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(CheckpointError, match=r"norm\.weight"):
        load_image_encoder(TINY, tmp_path / "less.safetensors")


def test_clip_texts_are_unit_features(clip):
    features = clip.encode(["open the drawer", "lift the red block", "open the drawer"])
    assert (features.shape, features.dtype, clip.width) == ((3, 512), np.float32, 512)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(features[0], features[2])
    assert not np.allclose(features[0], features[1], atol=1e-3)
    assert clip.encode([]).shape == (0, 512)
    assert clip.identity.startswith(f"{CLIP} ")


def test_openais_clip_has_the_gelu_it_was_trained_with(clip):
    assert any(type(module).__name__ == "QuickGELU" for module in clip._model.transformer.modules())
    assert clip._model.visual is None


def test_minilm_takes_no_other_weights():
    with pytest.raises(ArvrmError, match="minilm"):
        load_text_encoder("minilm", SMALL)


def test_a_torchvision_for_another_torch_can_be_imported_or_says_so(monkeypatch):
    optional.import_torchvision()  # twice does no harm
    optional.import_torchvision()
    import torchvision

    assert torchvision.__version__
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(DataError, match="advice"):
        optional.optional("timm.no_such_module", "advice")


def test_eight_bit_layers_are_close_and_narrow_ones_stay():
    torch.manual_seed(0)
    wide = nn.Linear(512, 64)
    x = torch.randn(3, 7, 512)
    with torch.inference_mode():
        exact, fast = wide(x), Int8Linear(wide)(x)
    assert fast.shape == exact.shape
    assert (fast - exact).abs().mean() < 0.02 * exact.std()

    nn.init.ones_(wide.weight)  # the largest sums there can be: nothing overflows
    with torch.inference_mode():
        torch.testing.assert_close(Int8Linear(wide)(x.abs() + 100), wide(x.abs() + 100), rtol=0.01, atol=0)

    network = nn.Sequential(nn.Linear(8, 512), nn.GELU(), nn.Sequential(nn.Linear(512, 2, bias=False)))
    exact = network(torch.ones(1, 8))
    accelerate(network)
    assert [type(module).__name__ for module in network.modules()].count("Int8Linear") == 1
    torch.testing.assert_close(network(torch.ones(1, 8)), exact, atol=0.02, rtol=0)


def test_an_accelerated_encoder_is_nearly_the_same_and_keeps_its_identity(tiny, images):
    fast = load_image_encoder(TINY, seed=0)
    accelerate(fast)
    assert fast.identity == tiny.identity
    exact = tiny.encode(images)
    assert 0 < np.abs(fast.encode(images) - exact).mean() < 0.05


def test_digest_tells_names_shapes_and_values_apart():
    layers = [nn.Linear(2, 3), nn.Linear(3, 2), nn.Bilinear(1, 2, 3)]
    assert len({encoders.digest(layer) for layer in layers}) == 3
    same = nn.Linear(2, 3)
    same.load_state_dict(layers[0].state_dict())
    assert encoders.digest(same) == encoders.digest(layers[0])


@pytest.mark.slow
def test_the_latency_benchmark_gives_its_figures(tmp_path):
    command = [
        sys.executable,
        "benchmarks/policy_latency.py",
        "--quick",
        "--device",
        "cpu",
        "--json",
        tmp_path / "f.json",
    ]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["max_abs_diff"] <= 1e-4
    for key in ("ratio_feature_cache", "ratio_fast_mode", "fast_mode_action_error", "step_ms_p50"):
        assert figures[key] > 0, key
    assert "whole / it" in done.stdout
