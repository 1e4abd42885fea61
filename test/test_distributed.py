# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Training in two processes gives what one process gives, and goes on after either was killed."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from learning_data import TINY, write_database, write_episodes

from arvrm_ros.resources import package_share
from arvrm_ros.training.loop import mean, rank_slice

# Masks leave the two slices of a batch with very different numbers of values; `seldom` is used by one process alone,
# in some steps by none; `frozen` never.
TRAINING = """
import sys
from pathlib import Path

import numpy as np
import torch

from arvrm_ros.training.loop import Schedule, is_first, mean, processes, rank_slice, train

torch.manual_seed(0)
model = torch.nn.ModuleDict({name: torch.nn.Linear(6, 3) for name in ("often", "seldom", "frozen")})
model["frozen"].requires_grad_(False)


def losses(rng):
    x = torch.from_numpy(rng.normal(size=(9, 6)).astype(np.float32))
    mask = torch.from_numpy((rng.random((9, 1)) < np.linspace(0, 1, 9)[:, None]).astype(np.float32))
    part = rank_slice(9)
    x, mask = x[part], mask[part]
    values = {"error": mean((model["often"](model["frozen"](x).repeat(1, 2)) - x[:, :3]) ** 2, mask)}
    values["total"] = values["error"]
    if (x[:, 0] > 1.2).any():
        values["total"] = values["total"] + model["seldom"](x[x[:, 0] > 1.2]).sum() / (9 / processes()[1])
    return values


train(Path(sys.argv[1]), model, losses, Schedule(40, 1e-2, warmup=2, save_every=10), "test", lambda: {"first": 1.0})
if is_first():
    print("written once")
"""


def run(*command, processes=1, check=True):
    """One process, or several as torchrun starts them, over loopback."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone", "--local-addr",
                "127.0.0.1"] if processes > 1 else []  # fmt: skip
    paths = os.pathsep.join(map(str, (package_share(), package_share() / "test")))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, *launcher, *map(str, command)], capture_output=True, text=True, timeout=200, env=environment
    )
    if check:
        assert done.returncode == 0, done.stderr[-3000:]
    return done


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_same_log(one, other, relative=1e-5):
    assert [line["step"] for line in one] == [line["step"] for line in other]
    for a, b in zip(one, other, strict=True):
        assert a == pytest.approx(b, rel=relative, abs=0)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A run in one process."""
    folder = tmp_path_factory.mktemp("one")
    (folder / "training.py").write_text(TRAINING)
    run(folder / "training.py", folder / "one")
    return folder / "one"


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path, one):
    script = tmp_path / "training.py"
    script.write_text(TRAINING)
    shutil.copytree(one, tmp_path / "one")
    done = run(script, tmp_path / "two", processes=2)
    assert done.stdout.count("written once") == 1
    assert done.stderr.count("| 0/40") == 1, "one progress bar, not two"
    assert_same_log(log(tmp_path / "one"), log(tmp_path / "two"))
    one, two = (torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("one", "two"))
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=1e-4, atol=1e-6)
    assert len(list((tmp_path / "two").glob("events.*"))) == 1

    # The state of two processes is that of one: either goes on from the other's.
    script.write_text(TRAINING.replace("Schedule(40", "Schedule(50"))
    for name, processes in (("one", 2), ("two", 1)):
        run(script, tmp_path / name, processes=processes)
    assert_same_log(log(tmp_path / "one"), log(tmp_path / "two"))
    assert len(log(tmp_path / "one")) == 5


@pytest.mark.slow
def test_processes_that_see_different_folders_stop(tmp_path, one):
    script = tmp_path / "training.py"
    script.write_text(TRAINING.replace("sys.argv[1]", "sys.argv[1] + str(processes()[0])"))
    shutil.copytree(one, tmp_path / "run0")  # which only rank 0 will see
    done = run(script, tmp_path / "run", processes=2, check=False)
    assert done.returncode != 0
    assert "one folder that all machines share" in done.stderr


@pytest.mark.slow
def test_pretraining_in_two_processes(tmp_path):
    write_database(tmp_path / "clips.lance", 12)
    config = tmp_path / "tiny.yaml"
    config.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(TINY, dropout=0.0))))  # YAML reads JSON
    for name, number in (("one", 1), ("two", 2)):
        command = ["-m", "arvrm_ros", "pretrain", "--database", tmp_path / "clips.lance", "--out", tmp_path / name]
        run(*command, "--policy", config, "--steps", 12, "--batch", 6,
            "--json", tmp_path / f"{name}.json", processes=number)  # fmt: skip
    assert_same_log(log(tmp_path / "one"), log(tmp_path / "two"))
    figures = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two")]
    assert figures[0] == pytest.approx(figures[1], rel=1e-4)


# Noise on the image tokens and dropout are drawn by each process for its own slice.
FINE_TUNING = """
import dataclasses
import sys
from pathlib import Path

from learning_data import TINY

from arvrm_ros.contract import load_contract
from arvrm_ros.resources import resource
from arvrm_ros.retrieval.database import MotionDatabase
from arvrm_ros.training import finetune as stage
from arvrm_ros.training.loop import Schedule

stage.TOKEN_NOISE = 0.0
episodes, database, out = sys.argv[1:]
stage.finetune(
    Path(episodes), MotionDatabase.open(database), resource("checkpoints", "image_encoder.safetensors"), None,
    Path(out), load_contract("tabletop"), dataclasses.replace(TINY, dropout=0.0),
    Schedule(12, warmup=2, save_every=4), batch=9,
)
"""


@pytest.mark.slow
def test_fine_tuning_in_two_processes(tmp_path):
    episodes = write_episodes(tmp_path / "episodes")
    database = write_database(tmp_path / "clips.lance", 12)
    (tmp_path / "script.py").write_text(FINE_TUNING)
    for name, number in (("one", 1), ("two", 2)):
        run(tmp_path / "script.py", episodes, database.uri, tmp_path / name, processes=number)
    assert_same_log(log(tmp_path / "one"), log(tmp_path / "two"))


def test_one_process_has_the_whole_batch_and_plain_means():
    assert rank_slice(5) == slice(0, 5)
    values = torch.arange(6.0).view(3, 2)
    assert mean(values) == values.mean()
    assert mean(values, torch.tensor([[1.0], [0.0], [1.0]])) == 2.5
    assert mean(values, torch.zeros(3, 1)) == 0
