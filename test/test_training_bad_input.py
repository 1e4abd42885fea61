# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Bad data and bad luck in training: each ends in one clear message, or in what an undisturbed run gives."""

import json
import os
import resource as limits
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from learning_data import TINY, human_clip, write_database, write_episodes

from arvrm_ros.cli import main
from arvrm_ros.contract import load_contract
from arvrm_ros.data.clips import Clip, write_clip
from arvrm_ros.data.episodes import read_episode, write_episode
from arvrm_ros.errors import DataError
from arvrm_ros.perception.text_encoder import TextEncoder
from arvrm_ros.policies import load_policy
from arvrm_ros.policies.arvrm.model import ArvrmModel
from arvrm_ros.resources import package_share, resource
from arvrm_ros.retrieval.building import build
from arvrm_ros.retrieval.database import MotionDatabase
from arvrm_ros.retrieval.extraction import ExtractionOptions
from arvrm_ros.retrieval.search import MotionSearch
from arvrm_ros.training.dataset import HumanClips, RobotEpisodes
from arvrm_ros.training.finetune import _choose, _keypoint_features, finetune
from arvrm_ros.training.loop import Schedule
from arvrm_ros.training.pretrain import pretrain

ENCODER = resource("checkpoints", "image_encoder.safetensors")


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return write_database(tmp_path_factory.mktemp("database") / "clips.lance")


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


# Clips


def test_a_task_with_few_clips_is_trained_with_those_there_are(tmp_path):
    """The true task of every other episode has a single clip, that of the others has five."""
    rng = np.random.default_rng(0)
    clips = [human_clip(i, rng) for i in range(6)]
    for i, clip in enumerate(clips):
        clip.task = "lift_red_block" if i == 4 else "open_drawer"
    robot = RobotEpisodes(write_episodes(tmp_path, 2), ENCODER, load_contract("tabletop"), TINY)
    robot.tasks = ["open_drawer", "lift_red_block"]
    database = MotionDatabase.create(tmp_path / "clips.lance")
    database.add(clips)
    search = MotionSearch(database)
    robot.retrieve(search, 2 * TINY.retrieved, "oracle_task")
    assert robot.clips.shape == (2, 4)
    assert (robot.clips[0] >= 0).all()
    of_lift = [i for i, clip in enumerate(search.clips) if clip.task == "lift_red_block"]
    assert robot.clips[1].tolist() == [*of_lift, -1, -1, -1]
    features = _keypoint_features(ArvrmModel(TINY).eval(), HumanClips(search.clips, TINY))
    chosen = _choose(features, robot.clips[:, ::-1], TINY.retrieved)
    assert chosen.present.tolist() == [[1, 1], [1, 0]]
    torch.testing.assert_close(chosen.tokens[1, 0], features.tokens[of_lift[0]])


def test_clips_of_another_image_encoder_are_not_learned_from(tmp_path):
    database = MotionDatabase.create(tmp_path / "clips.lance", {"image_encoder": "0123456789abcdef"})
    database.add([human_clip(0, np.random.default_rng(0))])
    with pytest.raises(DataError, match="made with another image encoder"):
        pretrain(database, ENCODER, tmp_path / "pretrain", TINY, Schedule(2), batch=2)
    robot, contract = write_episodes(tmp_path, 2), load_contract("tabletop")
    with pytest.raises(DataError, match="made with another image encoder"):
        finetune(robot, database, ENCODER, None, tmp_path / "finetune", contract, TINY, Schedule(2), batch=2)


def test_a_clip_without_a_hand_is_rejected_and_one_of_a_single_frame_kept(tmp_path):
    from rendered_hand import rendered_hand

    hand, table = rendered_hand()[0], np.full((240, 320, 3), 120, np.uint8)
    write_clip(tmp_path / "clips", Clip("empty_table", "open the drawer"), [table] * 5, 0.1)
    write_clip(tmp_path / "clips", Clip("one_frame", "öffne die Schublade"), [hand], 0.1)
    database = MotionDatabase.create(tmp_path / "clips.lance")
    tally = build(database, tmp_path / "clips", ExtractionOptions(), workers=1, progress=False)
    assert tally.counts == {"added": 1, "hand found in less than 50% of the frames": 1}
    (clip,) = database.clips()
    assert clip.keypoints.shape == (1, 21, 3)
    assert clip.caption == "öffne die Schublade"
    with pytest.raises(DataError, match="no motion to learn"):
        pretrain(database, None, tmp_path / "run", TINY, Schedule(2, warmup=1), batch=2)


def test_a_clip_of_one_frame_is_counted_and_never_learned_from(tmp_path):
    rng = np.random.default_rng(0)
    database = MotionDatabase.create(tmp_path / "clips.lance")
    database.add([human_clip(i, rng) for i in range(6)])
    schedule = Schedule(6, 1e-3, warmup=1, save_every=3)
    pretrain(database, None, tmp_path / "without", TINY, schedule, batch=4)
    single = human_clip(6, rng, frames=1)
    database.add([single])
    figures = pretrain(MotionDatabase.open(database.uri), None, tmp_path / "with", TINY, schedule, batch=4)
    assert (figures["clips"], figures["clips_without_motion"]) == (6, 1)
    assert log(tmp_path / "with") == log(tmp_path / "without")


def test_a_caption_in_another_language_is_learned_from_and_hardly_trusted(tmp_path):
    database = write_database(tmp_path / "clips.lance", 4)
    texts = TextEncoder()
    foreign = human_clip(9, np.random.default_rng(9))
    foreign.caption = "打开抽屉"
    foreign.language = texts.encode([foreign.caption])[0]
    database.add([foreign])
    schedule = Schedule(2, 1e-3, warmup=1)
    pretrain(MotionDatabase.open(database.uri), None, tmp_path / "run", TINY, schedule, batch=4)
    (captions,) = [MotionDatabase.open(resource("checkpoints", "human_motions.lance"))]
    search = MotionSearch(captions)
    nothing = np.zeros((1, search.clips[0].visual.shape[1]), np.float32)
    own, other = (
        search.search(language, nothing, 4).confidence for language in texts.encode(["open the drawer", "打开抽屉"])
    )
    assert own > 0.9
    assert other < 0.5


# Episodes


def damaged(folder, change):
    """Episodes, the second of which was changed; and the name of its file."""
    write_episodes(folder, 3)
    path = folder / "episode_000001.npz"
    episode = read_episode(path)
    change(episode)
    write_episode(path, episode)
    return path


def not_finite(episode):
    episode.joint_positions[3, 2] = np.nan


def frames_missing(episode):
    episode.images["gripper"] = episode.images["gripper"][:-2]


def camera_missing(episode):
    del episode.images["gripper"]


def not_an_image(episode):
    episode.images["static"][2] = b"not a JPEG"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (not_finite, "joint_positions has values that are not finite"),
        (frames_missing, "camera gripper has 6 frames, stamp has 8"),
        (camera_missing, "no images of camera gripper"),
        (not_an_image, "is not an image"),
    ],
)
def test_a_bad_episode_is_named(tmp_path, capsys, change, reason):
    path = damaged(tmp_path / "episodes", change)
    assert main(["finetune", "--episodes", str(path.parent), "--out", str(tmp_path / "run"), "--steps", "1"]) == 1
    *_, said = capsys.readouterr().err.strip().splitlines()
    assert said.startswith("arvrm finetune: ")
    assert str(path) in said
    assert reason in said


def test_a_truncated_episode_is_named(tmp_path, capsys):
    path = damaged(tmp_path / "episodes", lambda episode: None)
    path.write_bytes(path.read_bytes()[:5000])
    assert main(["finetune", "--episodes", str(path.parent), "--out", str(tmp_path / "run"), "--steps", "1"]) == 1
    assert f"{path} is not an episode, or is damaged" in capsys.readouterr().err


def test_features_of_an_episode_that_was_replaced_are_made_anew(tmp_path):
    contract, schedule = load_contract("tabletop"), Schedule(2, warmup=1)
    write_episodes(tmp_path / "episodes", 3)
    finetune(tmp_path / "episodes", None, ENCODER, None, tmp_path / "short", contract, TINY, schedule, batch=4)
    write_episodes(tmp_path / "episodes", 3, steps=12)
    finetune(tmp_path / "episodes", None, ENCODER, None, tmp_path / "long", contract, TINY, schedule, batch=4)


# Retrieval


def test_nothing_retrieved_still_trains_and_predicts(tmp_path, database):
    episodes, contract, schedule = (
        write_episodes(tmp_path / "episodes"),
        load_contract("tabletop"),
        Schedule(2, warmup=1),
    )
    finetune(episodes, database, ENCODER, None, tmp_path / "run", contract, TINY, schedule, batch=4, mode="none")
    policy = load_policy(tmp_path / "run" / "checkpoint", contract)
    policy.reset("open the drawer")
    policy.set_retrieved([])
    from test_policy import observation

    assert np.isfinite(policy.predict_chunk(observation(contract, 0)).positions).all()
    empty = MotionDatabase.create(tmp_path / "empty.lance")
    assert MotionSearch(empty).search(np.zeros(384), np.zeros((1, 640)), 4).motions == []
    with pytest.raises(DataError, match=r"is empty: build it with 'arvrm db build'"):
        finetune(episodes, empty, ENCODER, None, tmp_path / "none", contract, TINY, schedule, batch=4)


# Runs

RUN = """
import sys
from pathlib import Path

from learning_data import TINY

from arvrm_ros.retrieval.database import MotionDatabase
from arvrm_ros.training.loop import Schedule
from arvrm_ros.training.pretrain import pretrain

schedule = Schedule(60, 1e-3, warmup=2, save_every=5)
pretrain(MotionDatabase.open(sys.argv[1]), None, Path(sys.argv[2]), TINY, schedule, batch=4)
"""


@pytest.mark.slow
def test_a_killed_run_ends_where_an_undisturbed_one_does(tmp_path, database):
    paths = os.pathsep.join(map(str, (package_share(), package_share() / "test")))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}

    def start(out):
        return subprocess.Popen([sys.executable, "-c", RUN, database.uri, out], env=environment, stderr=subprocess.PIPE)

    whole = start(tmp_path / "whole")
    assert whole.wait(200) == 0, whole.stderr.read()[-2000:]
    out = tmp_path / "killed"
    for lines in (1, 4):  # killed twice, each time with some progress
        run = start(out)
        while run.poll() is None and (not (out / "state.pt").is_file() or len(log(out)) < lines):
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
        assert run.wait(20) == -signal.SIGKILL
    saved = torch.load(out / "state.pt", weights_only=True)["step"]
    with (out / "log.jsonl").open("a") as file:  # as if it had been killed between the log and the state, and in a line
        file.write(json.dumps({"step": saved + 5, "total": 1.0}) + '\\n{"step": 5')
    (out / ".state.pt.123.part").write_bytes(b"half a state")
    last = start(out)
    assert last.wait(200) == 0, last.stderr.read()[-2000:]
    assert (out / "log.jsonl").read_text() == (tmp_path / "whole" / "log.jsonl").read_text()
    one, other = ((folder / "pretrained.safetensors").read_bytes() for folder in (out, tmp_path / "whole"))
    assert one == other
    assert not list(out.glob(".*"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of TensorBoard's writer
@pytest.mark.parametrize("room", [300, 200_000], ids=["not even for the log", "for half a state"])
def test_a_full_disk_leaves_the_last_state(tmp_path, database, room, capsys):  # capsys: the bar is written to memory
    def run(steps):
        pretrain(database, None, tmp_path, TINY, Schedule(steps, 1e-3, warmup=1, save_every=5), batch=4)

    run(10)
    saved = (tmp_path / "state.pt").read_bytes()
    assert len(saved) > 2 * room
    soft, hard = limits.getrlimit(limits.RLIMIT_FSIZE)
    limits.setrlimit(limits.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(DataError, match=r"make room there .* goes on from step 10"):
            run(20)
    finally:
        limits.setrlimit(limits.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "state.pt").read_bytes() == saved
    assert not list(tmp_path.glob(".*"))
    run(20)
    assert [line["step"] for line in log(tmp_path)] == [5, 10, 15, 20]
