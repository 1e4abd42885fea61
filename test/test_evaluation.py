# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The shipped checkpoint in the simulator, and the statistics of an evaluation."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from scripted_policy import ScriptedPolicy

from arvrm_ros.cli import main
from arvrm_ros.contract import load_contract
from arvrm_ros.errors import ArvrmError, DataError
from arvrm_ros.evaluation import rollout
from arvrm_ros.evaluation.rollout import EvaluationOptions, Retriever, Trial, roll_out, set_up, trials, wilson
from arvrm_ros.perception.image_encoder import ImageEncoder
from arvrm_ros.policies import load_policy
from arvrm_ros.resources import resource
from arvrm_ros.retrieval.database import MotionDatabase
from arvrm_ros.retrieval.encoders import encoder_fingerprints, image_fingerprint
from arvrm_ros.simulation.tabletop import Tabletop
from arvrm_ros.simulation.tasks import TASKS
from arvrm_ros.simulation.world import EVALUATION_SEEDS


def test_the_shipped_policy_does_most_of_a_few_tasks():
    """Four kinds of task at places it has never seen; one failure is allowed, as the policy is not perfect."""
    contract = load_contract("tabletop")
    policy = load_policy(None, contract)
    tabletop = Tabletop(contract)
    retrieve = Retriever(MotionDatabase.open(resource("checkpoints", "human_motions.lance")))
    chosen = [
        Trial(task, variant, EVALUATION_SEEDS + 7, held_out=task == "open_drawer")
        for task, variant in (
            ("open_drawer", "A"),
            ("turn_on_led", "B"),
            ("lift_red_block", "C"),
            ("move_slider_left", "D"),
        )
    ]
    outcomes = [roll_out(tabletop, policy, retrieve, trial, max_steps=80) for trial in chosen]
    assert sum(outcome.success for outcome in outcomes) >= 3, outcomes
    assert all(outcome.retrieved_right is not None for outcome in outcomes)


def test_the_retrieval_is_told_the_trials_task():
    class Heard:
        def __init__(self):
            self.tasks = []

        def __call__(self, instruction, image, count, task=""):
            self.tasks.append(task)
            return []

    tabletop, heard = Tabletop(load_contract("tabletop")), Heard()
    policy = ScriptedPolicy(tabletop)
    policy.retrieves = 2
    outcome = roll_out(tabletop, policy, heard, Trial("turn_on_led", "A", EVALUATION_SEEDS + 1), max_steps=60)
    tabletop.close()
    assert heard.tasks == ["turn_on_led"]
    assert outcome.success
    assert outcome.retrieved_right is None


def test_unfamiliar_words_are_read_in_those_of_training_with_and_without_clips():
    class Trained(ScriptedPolicy):
        def familiar(self, instruction):
            return {"turn on the led": 0.95}

    tabletop = Tabletop(load_contract("tabletop"))
    trial = Trial("turn_on_led", "A", EVALUATION_SEEDS + 1, held_out=True)
    read = roll_out(tabletop, Trained(tabletop), None, trial, max_steps=2)
    own = roll_out(tabletop, Trained(tabletop), None, trial, max_steps=2, rewords=False)
    tabletop.close()
    assert read.instruction in TASKS["turn_on_led"].held_out
    assert (read.wording, own.wording) == ("turn on the led", own.instruction)


def test_queries_are_encoded_as_the_database_was(tmp_path, monkeypatch):
    """By the encoder beside the checkpoint, or else the shipped one; a database of a third is refused."""
    contract = load_contract("tabletop")
    policy = ScriptedPolicy(Tabletop(contract, render=False))
    policy.retrieves = 2
    monkeypatch.setattr(rollout, "load_policy", lambda checkpoint, contract: policy)
    own = tmp_path / "image_encoder.safetensors"
    ImageEncoder().save(own)
    for name, features in (("own", encoder_fingerprints(own)), ("shipped", encoder_fingerprints()), ("third", None)):
        uri = str(tmp_path / f"{name}.lance")
        MotionDatabase.create(uri, features or {"image_encoder": "0123456789abcdef"})
        options = EvaluationOptions(str(tmp_path), uri)
        if features is None:
            with pytest.raises(DataError, match="was made with another image encoder"):
                set_up(contract, options)
        else:
            retrieve = set_up(contract, options).retrieve
            assert image_fingerprint(retrieve.image_encoder) == features["image_encoder"]
    assert set_up(contract, replace(options, mode="none")).retrieve is None


def test_trials_cover_all_tasks_and_use_seeds_of_their_own():
    chosen = trials(40, seed=3)
    assert {trial.task for trial in chosen} == set(TASKS)
    assert {trial.variant for trial in chosen} == set("ABCD")
    assert len({trial.seed for trial in chosen}) == 40
    assert min(trial.seed for trial in chosen) >= EVALUATION_SEEDS
    assert trials(40, seed=3) == chosen


def test_trials_of_some_tasks_alone():
    tasks = ["lift_red_block", "open_drawer"]
    chosen = trials(16, seed=3, tasks=tasks)
    assert {(trial.task, trial.variant) for trial in chosen} == {(task, v) for task in tasks for v in "ABCD"}
    with pytest.raises(ArvrmError, match="unknown task 'fly'"):
        trials(4, seed=3, tasks=["fly"])


def test_wilson_interval():
    """Against published values: 8 of 10 gives 0.490 to 0.943."""
    assert wilson([True] * 8 + [False] * 2) == pytest.approx((0.490, 0.943), abs=1e-3)
    low, high = wilson([True] * 10)
    assert high == pytest.approx(1.0)
    assert low < 0.8


def test_a_missing_checkpoint_is_one_message_and_exit_1(capsys, tmp_path):
    assert main(["evaluate", "--checkpoint", str(tmp_path / "nothing")]) == 1
    assert "arvrm finetune" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--held-out"], ["--variants", "A"], ["--seed", "0"]])
def test_what_calvins_evaluation_has_of_its_own_cannot_be_asked_for(capsys, option):
    assert main(["evaluate", "--env", "calvin", "--chains", "1", *option]) == 1
    assert f"leave out {option[0]}" in capsys.readouterr().err


def test_evaluate_writes_a_row_per_episode_without_a_screen(tmp_path):
    out = tmp_path / "result.json"
    options = ["--episodes", "2", "--max-steps", "3", "--workers", "1", "--json", str(out)]
    shell = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "DISPLAY")}
    subprocess.run([sys.executable, "-m", "arvrm_ros", "evaluate", *options], check=True, env=shell)
    result = json.loads(out.read_text())
    assert len(result["episodes"]) == 2
    assert result["success_rate"] == np.mean([row["success"] for row in result["episodes"]])
