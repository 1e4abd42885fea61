# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From demonstrations of a real robot to robot episodes, whatever they were recorded with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from arvrm_ros.contract import RobotContract
from arvrm_ros.data.episodes import Episode, write_episode
from arvrm_ros.errors import DataError
from arvrm_ros.motion.kinematics import Kinematics
from arvrm_ros.retrieval.sources import Tally
from arvrm_ros.workers import process_pool

IMPORTED, KNOWN, OUTSIDE = "imported", "there already", "imported, but it leaves limits.workspace"
REJECTED = "rejected"

MOVES = 0.004
"""Radians of a joint from one step to the next from which the arm counts as moving."""

TURNS = 0.03
"""Of the gripper's opening from one step to the next, from which it counts as opening or closing."""

BEFORE, AFTER = 2, 5
"""Steps that are kept before the first motion and after the last one: a policy learns to be done as well."""


@dataclass(frozen=True)
class Demonstration:
    """What was seen, measured and commanded at T steps, ``step_period`` apart.

    Attributes:
        name: for messages.
        instruction, task: a sentence for it, and a short name.
        stamps: (T,) seconds.
        images: per camera, T JPEG files of the contract's size.
        joints: (T, n) rad, measured.
        openings: (T,) of the gripper in [0, 1], measured.
        commanded_joints: (T, n) rad, commanded for the end of the step.
        commanded_openings: (T,) the same of the gripper.
    """

    name: str
    instruction: str
    task: str
    stamps: np.ndarray
    images: dict[str, list[bytes]]
    joints: np.ndarray
    openings: np.ndarray
    commanded_joints: np.ndarray
    commanded_openings: np.ndarray


@dataclass(frozen=True)
class Job:
    """A demonstration to read, and the episode to write."""

    name: str
    read: Callable[[], Demonstration]
    out: Path


def episode_of(demonstration: Demonstration, contract: RobotContract, trim: bool = True) -> Episode:
    """A demonstration as an episode.

    Args:
        demonstration: of this contract's robot.
        contract: its kinematics say where the end effector was commanded to be.
        trim: leave out the time before the first motion and after the last one.

    Raises:
        DataError: nothing moves.
    """
    joints, grips = demonstration.commanded_joints, demonstration.commanded_openings
    moving = np.abs(np.diff(joints, axis=0, prepend=joints[:1])).max(axis=1) > MOVES
    moving |= np.abs(np.diff(grips, prepend=grips[:1])) > 0
    if not moving.any():
        raise DataError(f"{demonstration.name}: neither arm nor gripper is commanded to move")
    first, last = (int(moving.argmax()), len(moving) - int(moving[::-1].argmax())) if trim else (0, len(moving))
    kept = slice(max(first - BEFORE, 0), last + AFTER)
    kinematics = Kinematics(contract)
    poses = [kinematics.forward(commanded) for commanded in joints[kept]]
    return Episode(
        contract=contract,
        instruction=demonstration.instruction,
        stamp=demonstration.stamps[kept],
        images={name: frames[kept] for name, frames in demonstration.images.items()},
        joint_positions=demonstration.joints[kept],
        gripper=demonstration.openings[kept],
        command_positions=np.array([position for position, _ in poses]),
        command_quaternions=np.array([quaternion for _, quaternion in poses]),
        command_gripper=grips[kept],
        disturbed=np.zeros(len(poses), bool),
        task=demonstration.task,
    )


def grips_of(openings: np.ndarray) -> np.ndarray:
    """(T,) openings commanded, of (T + 1,) measured ones, the last one a step after the others.

    A gripper that holds something is not as wide as it was commanded to be: it counts as shut from when it closes until
    it opens.
    """
    grip, grips = float(openings[0] > 0.5), []
    for turn in np.diff(openings):
        grip = grip if math.fabs(turn) < TURNS else float(turn > 0)
        grips.append(grip)
    return np.array(grips)


def import_all(jobs: list[Job], contract: RobotContract, trim: bool, workers: int, tally: Tally) -> Tally:
    """Writes the episodes that are not there yet; counts what came of each, and prints what is wrong with one.

    Raises:
        DataError: the folder cannot be written to.
    """
    wanted = []
    for job in jobs:
        if job.out.is_file():
            tally.add(KNOWN, job.name)
        else:
            wanted.append(job)
    with process_pool(workers) as pool, tqdm(total=len(wanted), unit="episode") as bar:
        done = pool.map(partial(_import_one, contract, trim), wanted)
        for job, (outcome, remark) in zip(wanted, done, strict=True):
            tally.add(outcome, job.name)
            if remark:
                tqdm.write(remark)
            bar.update()
    return tally


def _import_one(contract: RobotContract, trim: bool, job: Job) -> tuple[str, str]:
    """What came of a demonstration, and what is to be said of it."""
    try:
        episode = episode_of(job.read(), contract, trim)
    except DataError as error:
        return REJECTED, str(error)
    try:
        write_episode(job.out, episode)
    except OSError as error:
        raise DataError(
            f"cannot write {job.out} ({error.strerror}): make room there, and run the same command again"
        ) from None
    at, limits = episode.command_positions, contract.limits
    excess = np.maximum(limits.workspace_min - at, at - limits.workspace_max)
    if excess.max() > 0:
        axis = "xyz"[int(excess.max(axis=0).argmax())]
        return OUTSIDE, (
            f"{job.name} leaves limits.workspace by {excess.max():.3f} m in {axis}; chunks that do are "
            "refused when a policy acts, so widen the limits if that is safe, or show it within them"
        )
    return IMPORTED, ""
