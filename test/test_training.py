# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Both training stages on small made-up data: they learn, go on where they stopped, and refuse bad data."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from learning_data import TINY, write_database, write_episodes

from arvrm_ros.cli import main
from arvrm_ros.contract import load_contract
from arvrm_ros.data.episodes import read_episode, write_episode
from arvrm_ros.errors import CheckpointError, DataError
from arvrm_ros.perception.image_encoder import ImageEncoder
from arvrm_ros.policies import load_policy
from arvrm_ros.policies.arvrm.processor import KEYPOINT_SCALE
from arvrm_ros.resources import resource
from arvrm_ros.retrieval.database import MotionDatabase
from arvrm_ros.training.dataset import HumanClips, RobotEpisodes, encode_episodes
from arvrm_ros.training.finetune import finetune
from arvrm_ros.training.loop import Schedule
from arvrm_ros.training.pretrain import pretrain

ENCODER = resource("checkpoints", "image_encoder.safetensors")


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    return write_episodes(tmp_path_factory.mktemp("episodes"))


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return write_database(tmp_path_factory.mktemp("database") / "clips.lance")


def losses(folder):
    return [json.loads(line)["total"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_both_stages_learn_and_the_checkpoint_loads(tmp_path, episodes, database):
    schedule = Schedule(60, 3e-3, warmup=5, save_every=10)
    pretrain(database, None, tmp_path / "pretrain", TINY, schedule, batch=4)
    first, *_, last = losses(tmp_path / "pretrain")
    assert last < first
    contract = load_contract("tabletop")
    pretrained = tmp_path / "pretrain" / "pretrained.safetensors"
    finetune(episodes, database, ENCODER, pretrained, tmp_path / "finetune", contract, TINY, schedule, batch=8)
    first, *_, last = losses(tmp_path / "finetune")
    assert last < 0.7 * first
    policy = load_policy(tmp_path / "finetune" / "checkpoint", contract)
    assert policy.analogy_map is not None
    assert np.abs(policy.analogy_map - 1 / 21).max() > 1e-3, "the map was not trained"
    frozen = torch.load(tmp_path / "pretrain" / "state.pt", weights_only=True)["model"]
    tuned = policy.model.state_dict()
    for name, value in frozen.items():
        if name.startswith(("keypoint_encoder", "keypoint_head")):
            torch.testing.assert_close(tuned[name], value, msg=f"{name} was not frozen")


def test_a_policy_that_is_trained_without_clips_asks_for_none(tmp_path, episodes):
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(dataclasses.asdict(TINY)))
    run = ["--episodes", str(episodes), "--policy", str(config), "--out", str(tmp_path / "run"), "--steps", "1"]
    assert main(["finetune", *run, "--batch", "2"]) == 0
    assert TINY.retrieval
    assert load_policy(tmp_path / "run" / "checkpoint", load_contract("tabletop")).retrieves == 0


def test_clips_are_shifted_with_what_is_in_them(database):
    clips, scale = HumanClips(database.clips(), TINY, ENCODER), ImageEncoder.load(ENCODER).scale
    still, drawn = clips.take(np.array([2, 2, 2])), clips.draw(np.random.default_rng(0), np.array([2]), 3)
    hand = (drawn.keypoints - still.keypoints)[..., :2] / KEYPOINT_SCALE  # (3, F, K, 2)
    things = (drawn.images - still.images)[..., 1:, :2] * scale[1:, :2]  # (3, F, I - 1, 2)
    by = hand.mean((1, 2))  # (3, 2)
    assert by.std(0).min() > 0.01, "all by the same"
    torch.testing.assert_close(hand, by[:, None, None].expand_as(hand), atol=1e-5, rtol=0)
    torch.testing.assert_close(things, by[:, None, None].expand_as(things), atol=1e-5, rtol=0)
    torch.testing.assert_close(drawn.images[..., 2:], still.images[..., 2:])
    torch.testing.assert_close(drawn.keypoints[..., 2:], still.keypoints[..., 2:])


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path, database):
    schedule = Schedule(20, 1e-3, warmup=2, save_every=5)
    pretrain(database, None, tmp_path / "whole", TINY, schedule, batch=4)
    calls = 0

    def stop_at_step_13(self, *args):
        nonlocal calls
        calls += 1
        if calls == 13:
            raise KeyboardInterrupt
        return original(self, *args)

    from arvrm_ros.policies.arvrm.model import Backbone

    original = Backbone.human_errors
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Backbone, "human_errors", stop_at_step_13)
        with pytest.raises(KeyboardInterrupt):
            pretrain(database, None, tmp_path / "parts", TINY, schedule, batch=4)
    pretrain(database, None, tmp_path / "parts", TINY, schedule, batch=4)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_damaged_state_is_not_silently_started_anew(tmp_path, database):
    (tmp_path / "state.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="remove the folder"):
        pretrain(database, None, tmp_path, TINY, Schedule(2, warmup=1), batch=2)


def test_disturbed_steps_are_never_learned(episodes):
    robot = RobotEpisodes(episodes, ENCODER, load_contract("tabletop"), TINY)
    valid = robot._valid[0]  # step 2 is a disturbance
    assert valid[3:].all()
    assert not valid[2].any()
    assert valid[1].tolist() == [True] + [False] * 9
    assert valid[0].tolist() == [True, True] + [False] * 8


def test_an_episode_that_was_cut_teaches_nothing_beyond_its_end(tmp_path, episodes):
    path = next(iter(sorted(episodes.glob("*.npz"))))
    write_episode(tmp_path / path.name, dataclasses.replace(read_episode(path), completed=False))
    robot = RobotEpisodes(tmp_path, ENCODER, load_contract("tabletop"), TINY)
    assert robot._valid[0][5].tolist() == [True] * 3 + [False] * 7, "8 steps: only 5, 6 and 7 are known"
    batch = robot.batch(np.random.default_rng(0), 4, np.array([0]))
    assert not batch.progress.isfinite().any(), "how far it was from its end is not known either"


def test_tasks_are_left_out_of_as_many_episodes(tmp_path, episodes):
    for index, path in enumerate(sorted(episodes.glob("*.npz"))):
        task = ("open_drawer", "lift_red_block")[index % 2]
        write_episode(tmp_path / path.name, dataclasses.replace(read_episode(path), task=task))
    contract = load_contract("tabletop")
    robot = RobotEpisodes(tmp_path, ENCODER, contract, TINY, limit=4, without=["lift_red_block"])
    assert robot.tasks == ["open_drawer"] * 2, "those that are left out count towards the limit"
    with pytest.raises(DataError, match="no episodes of the task lift_blue_block"):
        RobotEpisodes(tmp_path, ENCODER, contract, TINY, without=["lift_red_block", "lift_blue_block"])
    with pytest.raises(DataError, match="not left out"):
        RobotEpisodes(tmp_path, ENCODER, contract, TINY, without=["lift_red_block", "open_drawer"])


def test_features_made_beforehand_are_those_that_training_makes(tmp_path, episodes):
    for path in episodes.glob("*.npz"):
        shutil.copy(path, tmp_path)
    encode_episodes(tmp_path, TINY.image_encoder, ENCODER, workers=2)
    (folder,) = tmp_path.glob("features-*")
    made = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(made) == len(list(episodes.glob("*.npz")))
    ours, theirs = (RobotEpisodes(at, ENCODER, load_contract("tabletop"), TINY).images for at in (tmp_path, episodes))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=0.02)  # of about 1; the number of threads changes the last digits
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == made


def test_empty_data_says_what_to_do(tmp_path, episodes):
    with pytest.raises(DataError, match="arvrm collect robot"):
        RobotEpisodes(tmp_path, ENCODER, load_contract("tabletop"), TINY)
    empty = MotionDatabase.create(tmp_path / "empty.lance")
    with pytest.raises(DataError, match="arvrm db build"):
        pretrain(empty, None, tmp_path / "out", TINY, Schedule(2), batch=2)
