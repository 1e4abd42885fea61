# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""``arvrm explain``: the picture and the numbers tell of the map that is in the checkpoint."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
import torch
from learning_data import TINY, human_clip, write_database

from arvrm_ros.cli import main
from arvrm_ros.contract import load_contract
from arvrm_ros.data.types import HAND_KEYPOINTS, ROBOT_COMPONENTS
from arvrm_ros.errors import ArvrmError, CheckpointError, DataError
from arvrm_ros.evaluation.explain import START, Explanation, describe, draw, explain, figures, measure_effect
from arvrm_ros.perception.image_encoder import ImageEncoder
from arvrm_ros.perception.text_encoder import TextEncoder
from arvrm_ros.policies.arvrm.model import ArvrmModel
from arvrm_ros.policies.arvrm.policy import ArvrmPolicy, save_checkpoint
from arvrm_ros.policies.arvrm.processor import Normalisation
from arvrm_ros.resources import resource
from arvrm_ros.retrieval.database import MotionDatabase
from arvrm_ros.retrieval.encoders import encoder_fingerprints

THUMB, INDEX = HAND_KEYPOINTS.index("thumb 4"), HAND_KEYPOINTS.index("index 4")
NORMALISATION = Normalisation((0.0,) * 7, (1.0,) * 7, tuple((0.01,) * 6 for _ in range(TINY.chunk)))


def pinching() -> np.ndarray:
    """A map whose gripper listens to thumb and index finger."""
    weights = np.full((7, 21), START, np.float32)
    weights[-1] = 0.001
    weights[-1, [THUMB, INDEX]] = 0.3, -0.2
    return weights


def write_checkpoint(folder, weights=None, robot="tabletop", **changes):
    torch.manual_seed(0)
    model = ArvrmModel(dataclasses.replace(TINY, **changes))
    if weights is not None:
        model.analogy_map.data[:] = torch.from_numpy(weights)
    encoder = resource("checkpoints", "image_encoder.safetensors")
    save_checkpoint(folder, model, NORMALISATION, load_contract(robot), ImageEncoder.load(encoder), encoder, {})
    return folder


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return write_database(tmp_path_factory.mktemp("database") / "clips.lance")


def test_the_command_draws_and_names_what_drives_the_gripper(tmp_path, database, capsys):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", pinching())
    picture, numbers = tmp_path / "map.png", tmp_path / "map.json"
    arguments = ["explain", str(checkpoint), "--out", str(picture), "--json", str(numbers), "--database", database.uri]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert said.index("thumb 4 (tip)") < said.index("index 4 (tip)") < said.index("little 4 (tip)")
    assert "+0.3000" in said
    assert "FAINT" not in said
    values = json.loads(numbers.read_text())
    assert values["strongest"]["gripper"][:2] == ["thumb 4", "index 4"]
    assert values["weights"]["gripper"]["index 4"] == pytest.approx(-0.2)
    assert values["z"]["gripper"]["thumb 4"] > 3
    assert values["effect_clips"] > 0
    assert set(values["effect_per_cm"]) == set(ROBOT_COMPONENTS)
    assert not values["faint"]
    image = cv2.imread(str(picture))
    assert image.shape[1] > 1000
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 100


def test_moving_a_keypoint_matters_where_its_weight_is(database):
    torch.manual_seed(0)
    policy = ArvrmPolicy(ArvrmModel(TINY), NORMALISATION, ImageEncoder.load(), TextEncoder(), load_contract("tabletop"))
    # Keypoints that do not know of one another: a plain embedding instead of the transformer.
    policy.model.keypoint_encoder.blocks = torch.nn.Identity()
    effect = measure_effect(policy, pinching(), database.clips())
    gripper = effect.change[-1]
    assert set(np.argsort(-gripper)[:2]) == {THUMB, INDEX}
    assert gripper[THUMB] / gripper[INDEX] == pytest.approx(1.5, rel=1e-3)
    np.testing.assert_allclose(effect.change[0], effect.uniform, rtol=1e-4)
    assert np.ptp(effect.uniform) < 1e-3 * effect.uniform.max(), "a uniform map of equal features prefers a keypoint"


def test_a_faint_map_is_called_faint(tmp_path):
    rng = np.random.default_rng(0)
    faint = Explanation("somewhere", START + 0.002 * rng.normal(size=(7, 21)))
    assert "FAINT" in describe(faint)
    assert figures(faint)["faint"]
    draw(faint, tmp_path / "map.svg")
    assert "faint" in (tmp_path / "map.svg").read_text()
    # Weights that only shrank together tell nothing apart either.
    assert Explanation("somewhere", np.full((7, 21), 0.001)).faint
    assert not Explanation("somewhere", pinching()).faint


def test_a_checkpoint_without_a_map_is_one_clear_error(tmp_path, database, capsys):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", analogy=False)
    assert main(["explain", str(checkpoint), "--database", database.uri, "--out", str(tmp_path / "map.png")]) == 1
    assert capsys.readouterr().err.strip() == (
        f"arvrm explain: {checkpoint} has no analogical-reasoning map: "
        "it was trained without retrieval, or without the map"
    )
    assert not (tmp_path / "map.png").exists()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        explain(tmp_path / "nowhere", None)


def test_a_conditional_map_depends_on_the_instruction(tmp_path, capsys):
    rng = np.random.default_rng(0)
    database = MotionDatabase.create(tmp_path / "clips.lance", encoder_fingerprints())
    database.add([human_clip(i, rng) for i in range(4)])
    torch.manual_seed(1)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", conditional=True)
    weights = torch.zeros(7, 8)
    weights[-1] = torch.randn(8)
    import safetensors.torch

    state = safetensors.torch.load_file(checkpoint / "model.safetensors")
    safetensors.torch.save_file(state | {"map_left": weights}, checkpoint / "model.safetensors")
    drawer, block = (explain(checkpoint, database, text) for text in ("open the drawer", "lift the red block"))
    assert drawer.instruction == "open the drawer"
    assert not np.allclose(drawer.weights[-1], block.weights[-1], atol=1e-5)
    np.testing.assert_allclose(drawer.weights[0], START, rtol=1e-5)
    assert main(["explain", str(checkpoint), "--database", database.uri, "--out", str(tmp_path / "map.png")]) == 1
    assert "give one with --instruction" in capsys.readouterr().err
    other = write_checkpoint(tmp_path / "other", robot="calvin", conditional=True)
    with pytest.raises(ArvrmError, match="another robot than the simulator's: gripper"):
        explain(other, database, "open the drawer")


def test_misuse_says_what_to_do(tmp_path, database, capsys):
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    command = ["explain", str(checkpoint), "--database", database.uri]
    assert main([*command, "--out", str(tmp_path / "m.png"), "--instruction", "open the drawer"]) == 1
    assert "leave --instruction out" in capsys.readouterr().err
    assert main([*command, "--out", str(tmp_path / "map.jpg")]) == 1
    assert ".png, .svg or .pdf" in capsys.readouterr().err
    with pytest.raises(DataError, match="is empty"):
        explain(checkpoint, MotionDatabase.create(tmp_path / "empty.lance"))
