# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the work of a study. They are here, and not in the test, because each job imports them anew."""

import os
import signal

import numpy as np

from arvrm_ros.evaluation.study import StudyError
from arvrm_ros.evaluation.study_runner import Stages


def no_data(study, out, workers, episodes):
    with (out / "asked").open("a") as asked:
        print(episodes, file=asked)


def fake_pretrain(study, job, folder):
    (folder / "pretrained.safetensors").write_text("weights")
    return {"model_px": 30.0 + job.cell.seed}


def fake_finetune(study, job, folder, pretrained):
    with (folder / "trainings").open("a") as file:
        file.write(f"{pretrained is not None and pretrained.read_text()}\n")
    (folder / "state.pt").write_text("large")
    (folder / "checkpoint").mkdir(exist_ok=True)
    return {"gripper": 0.9}


def fake_evaluate(study, job, folder, evaluation, rows):
    rng = np.random.default_rng([job.cell.seed, len(job.cell.arm)])
    count = study.evaluations[evaluation].chains or study.evaluation.chains
    better = 2 if job.cell.arm == "full" else 0
    with rows.open("a") as file:
        file.write("chain\n" * (count - len(rows.read_text().splitlines())))
    return [int(n) + better for n in rng.integers(0, 4, count)], {"refused": 0}


def evaluation_killed_once(study, job, folder, evaluation, rows):
    if job.cell.arm == "full" and job.cell.seed == 0 and not (folder / "was_killed").exists():
        (folder / "was_killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return fake_evaluate(study, job, folder, evaluation, rows)


def pretraining_fails(study, job, folder):
    raise StudyError("no clip shows a hand")


FAKE = Stages(no_data, fake_pretrain, fake_finetune, fake_evaluate)
