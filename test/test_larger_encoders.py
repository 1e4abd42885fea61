# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From videos to an action chunk with a vision transformer of timm, as at the paper's size; random weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import yaml
from learning_data import write_database, write_episodes
from rendered_hand import rendered_hand

from arvrm_ros.cli import main
from arvrm_ros.contract import load_contract
from arvrm_ros.data.types import Observation
from arvrm_ros.data.video import write_video
from arvrm_ros.errors import DataError
from arvrm_ros.evaluation.rollout import Retriever
from arvrm_ros.perception.encoders import load_image_encoder
from arvrm_ros.policies import load_policy
from arvrm_ros.policies.arvrm.configuration import load_config
from arvrm_ros.retrieval.database import MotionDatabase
from arvrm_ros.retrieval.encoders import encoders_of, made_by, names_of
from arvrm_ros.training.finetune import check_encoders

pytestmark = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
NAME = "timm:vit_tiny_patch16_224"
POLICY = {
    "width": 32, "layers": 1, "heads": 2, "keypoint_width": 16, "keypoint_layers": 1, "history": 3, "retrieved": 2,
    "image_encoder": NAME, "image_tokens": 197, "image_width": 192, "latents": 3, "fold": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With two videos of a hand, a policy's configuration, and weights of its image encoder."""
    folder = tmp_path_factory.mktemp("larger")
    (folder / "videos").mkdir()
    hand = rendered_hand()[0]
    for name, way in (("open_the_drawer", 3), ("close_the_drawer", -3)):
        frames = [np.roll(hand, way * i, axis=1) for i in range(16)]
        write_video(folder / "videos" / f"{name}.mp4", frames, 0.1)
    (folder / "policy.yaml").write_text(yaml.safe_dump(POLICY))
    model = load_image_encoder(NAME, seed=0).model  # type: ignore[attr-defined]
    model.reset_classifier(1000)
    safetensors.torch.save_file(model.state_dict(), folder / "vit.safetensors")
    return folder


def test_from_videos_to_a_chunk(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, policy = str(folder / "vit.safetensors"), str(folder / "policy.yaml")
    uri, videos = str(tmp_path / "motions.lance"), str(folder / "videos")
    common = ["--policy", policy, "--image-encoder", weights]
    build = ["db", "build", videos, "--out", uri, "--visual-frames", "4", "--workers", "1", *common]
    assert main(build) == 0
    database = MotionDatabase.open(uri)
    assert names_of(database) == (NAME, "minilm")
    assert database.clips()[0].visual.shape == (4, 10 * 192), "CLS, and the patches pooled to 3 x 3"

    steps = ["--steps", "3", "--batch", "2"]
    stage1 = ["pretrain", "--database", uri, "--out", str(tmp_path / "stage1"), *common, *steps]
    assert main(stage1) == 0
    episodes = write_episodes(tmp_path / "episodes", count=3)
    stage2 = ["finetune", "--episodes", str(episodes), "--database", uri, "--out", str(tmp_path / "stage2"), *common]
    assert main([*stage2, "--pretrained", str(tmp_path / "stage1" / "pretrained.safetensors"), *steps]) == 0

    contract = load_contract("tabletop")
    trained = load_policy(tmp_path / "stage2" / "checkpoint", contract)
    assert made_by(database, tmp_path / "stage2" / "checkpoint" / "image_encoder.safetensors")
    images = {name: np.full((c.height, c.width, 3), 90, np.uint8) for name, c in contract.observation.cameras.items()}
    motions = Retriever(database, image_encoder=folder / "vit.safetensors")("open the drawer", images["static"], 2)
    assert [motion.clip.caption for motion in motions] == ["open the drawer", "close the drawer"]
    trained.reset("open the drawer")
    trained.set_retrieved(motions)
    chunk = trained.predict_chunk(Observation(0.0, images, np.array(contract.home), 1.0))
    assert chunk.positions.shape == (10, 3)
    assert np.isfinite(chunk.positions).all()

    picture = tmp_path / "picture.png"
    cv2.imwrite(str(picture), images["static"])
    capsys.readouterr()
    search = ["db", "search", "open the drawer", "--db", uri, "--image", str(picture), "--image-encoder", weights]
    assert main(search) == 0
    assert "open the drawer" in capsys.readouterr().out
    assert main(["db", "build", videos, "--out", uri, "--policy", "arvrm_small"]) == 1
    assert f"was made for the encoders {NAME} and minilm" in capsys.readouterr().err


def test_other_encoders_are_refused(folder: Path, tmp_path: Path) -> None:
    small, config = write_database(tmp_path / "small.lance"), load_config(folder / "policy.yaml")
    with pytest.raises(DataError, match=rf"made with the encoders small and minilm, the policy reads {NAME} and"):
        check_encoders(small, config, folder / "vit.safetensors")
    other = load_image_encoder(NAME, seed=1)
    database = MotionDatabase.create(tmp_path / "other.lance", {"image_encoder": other.identity})
    assert not made_by(database, folder / "vit.safetensors")
    with pytest.raises(DataError, match="was made with another image encoder"):
        encoders_of(database, folder / "vit.safetensors")
