# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Robot episodes from the scripted experts, with disturbances that the experts recover from."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from arvrm_ros.contract import RobotContract
from arvrm_ros.data.episodes import Episode, encode_image, write_episode
from arvrm_ros.errors import MotionRefused
from arvrm_ros.motion.kinematics import Kinematics
from arvrm_ros.simulation.chains import LENGTH
from arvrm_ros.simulation.scene import VARIANTS
from arvrm_ros.simulation.servo import PoseServo
from arvrm_ros.simulation.world import EVALUATION_SEEDS, TABLETOP, World, load_world
from arvrm_ros.workers import process_pool

MAX_STEPS = 120
ATTEMPTS = 8


def record_episode(world: World, task: str, rng: np.random.Generator, seed: int = 0) -> Episode | None:
    """Lets the expert do a task once, from the state the world is in.

    Half of the episodes are disturbed once, while nothing is touched: for a few steps the arm drifts off in a random
    direction, and the expert finds its way back. Those steps are marked. Half of the episodes end as soon as the task
    has succeeded, as they do in an evaluation, so that the task after it is shown from there too.

    Args:
        rng: of the expert, the disturbance, the wording and the end.
        seed: noted in the episode.

    Returns:
        The episode, or None when the expert failed.
    """
    contract, period = world.contract, world.contract.action.step_period
    done = world.judge(task)
    expert = world.expert(task, rng, period)
    servo = PoseServo(world, Kinematics(contract))
    drift_at = int(rng.integers(1, 12)) if rng.random() < 0.5 else -1
    drift_steps, drift = 0, np.zeros(3)
    cameras = list(contract.observation.cameras)
    images: dict[str, list[bytes]] = {camera: [] for camera in cameras}
    points: dict[str, list[np.ndarray]] = {camera: [] for camera in cameras}
    rows: list[tuple] = []
    succeeded, hurried = False, rng.random() < 0.5
    for step in range(MAX_STEPS):
        observation = world.observation()
        lamps = world.lamps
        if step == drift_at and expert.free:
            drift_steps = int(rng.integers(2, 6))
            drift = rng.normal(0.0, 1.0, 3)
            drift *= rng.uniform(0.01, 0.025) / np.linalg.norm(drift)
        disturbed = drift_steps > 0
        if disturbed:
            drift_steps -= 1
            expert.position = expert.position + drift
            expert.position[2] = max(expert.position[2], expert.safe_height)
            position, quaternion, gripper = expert.command()
        else:
            position, quaternion, gripper = expert.act()
        for camera in cameras:
            images[camera].append(encode_image(observation.images[camera]))
            points[camera].append(world.project(world.points(), camera))
        rows.append((observation.stamp, observation.joint_positions, observation.gripper, position, quaternion, gripper,
                     disturbed, lamps))  # fmt: skip
        try:
            servo.move(position, quaternion, gripper, period)
        except MotionRefused:
            return None
        if disturbed and drift_steps == 0:
            expert.disturbed()
        succeeded = done()
        if expert.done or (succeeded and hurried):
            break
    if not succeeded:
        return None
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    stamp, joints, openings, positions, quaternions, command_openings, drifting, lights = columns
    return Episode(
        contract=contract,
        instruction=str(rng.choice(world.wordings(task))),
        stamp=stamp,
        images=images,
        joint_positions=joints,
        gripper=openings,
        command_positions=positions,
        command_quaternions=quaternions,
        command_gripper=command_openings,
        disturbed=drifting,
        task=task,
        variant=world.variant,
        seed=seed,
        completed=expert.done,
        points={camera: np.stack(rows) for camera, rows in points.items()},
        lights=lights.astype(np.float32),
    )


_world: World | None = None


def _record_chain(out: Path, env: str, contract: RobotContract, variants: str, seed: int, chain: int) -> int:
    """Records the episodes of chain ``chain``; the scene is reset where the expert fails. Returns those missing."""
    global _world  # one simulator per worker process: an OpenGL context is expensive to make
    paths = [out / f"episode_{chain * LENGTH + k:06d}.npz" for k in range(LENGTH)]
    if all(path.is_file() for path in paths):
        return 0
    if _world is None:
        _world = load_world(env, contract)
    variant = variants[chain % len(variants)]
    missing = list(paths)
    for attempt in range(ATTEMPTS):
        scene_seed = (seed + chain * ATTEMPTS + attempt) % EVALUATION_SEEDS
        rng = np.random.default_rng(scene_seed)
        _world.reset(scene_seed, None, variant)
        for task in _world.draw_chain(rng)[: len(missing)]:
            episode = record_episode(_world, task, rng, scene_seed)
            if episode is None:
                break
            write_episode(missing.pop(0), episode)
        if not missing:
            break
    return len(missing)


def collect_robot(
    out: Path,
    contract: RobotContract,
    episodes: int,
    seed: int,
    workers: int,
    variants: str = "".join(VARIANTS),
    env: str = TABLETOP,
) -> int:
    """Records chains of episodes into a folder, variants in turn; chains that are there already are kept.

    Args:
        episodes: how many there shall be, rounded up to whole chains.
        env: a name in ``WORLDS``.

    Returns:
        How many could not be made because the expert failed at every attempt.
    """
    work = partial(_record_chain, out, env, contract, variants, seed)
    missing = 0
    chains = math.ceil(episodes / LENGTH)
    with process_pool(workers) as pool, tqdm(total=chains * LENGTH, unit="episode", desc="robot episodes") as bar:
        for failed in pool.map(work, range(chains)):
            missing += failed
            bar.update(LENGTH)
    return missing
