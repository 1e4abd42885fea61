# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Small made-up episodes and clips for tests of training and policies: real shapes, no simulator."""

from pathlib import Path

import numpy as np

from arvrm_ros.contract import load_contract
from arvrm_ros.data.episodes import Episode, encode_image, write_episode
from arvrm_ros.data.types import HumanClip
from arvrm_ros.motion.kinematics import Kinematics
from arvrm_ros.policies.arvrm.configuration import ArvrmConfig
from arvrm_ros.retrieval.database import MotionDatabase

TINY = ArvrmConfig(width=32, layers=1, heads=2, keypoint_width=16, keypoint_layers=1, history=3, retrieved=2)


def write_episodes(folder: Path, count: int = 6, steps: int = 8) -> Path:
    contract = load_contract("tabletop")
    kinematics = Kinematics(contract)
    rng = np.random.default_rng(0)
    for index in range(count):
        joints = np.array(contract.home) + np.cumsum(rng.normal(0, 0.01, (steps, 7)), 0)
        poses = [kinematics.forward(q) for q in joints]
        episode = Episode(
            contract=contract,
            instruction=("open the drawer", "lift the red block")[index % 2],
            stamp=np.arange(steps) * 0.1,
            images={
                camera: [encode_image(rng.integers(0, 255, (128, 128, 3), np.uint8)) for _ in range(steps)]
                for camera in contract.observation.cameras
            },
            joint_positions=joints,
            gripper=np.ones(steps),
            command_positions=np.stack([p for p, _ in poses]),
            command_quaternions=np.stack([q for _, q in poses]),
            command_gripper=(np.arange(steps) < 5).astype(float),
            disturbed=np.arange(steps) == 2,
        )
        write_episode(folder / f"episode_{index:06d}.npz", episode)
    return folder


def human_clip(index: int, rng: np.random.Generator, frames: int = 12) -> HumanClip:
    unit = lambda x: (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)  # noqa: E731
    track = rng.uniform(0.3, 0.7, (1, 21, 3)) + np.linspace(0, 0.2, frames)[:, None, None]
    return HumanClip(
        clip_id=f"clip_{index}",
        caption="open the drawer",
        frame_period=0.1,
        keypoints=track.astype(np.float32),
        visible=np.arange(frames) != 3,
        language=unit(rng.normal(size=384)),
        visual=unit(rng.normal(size=(frames, 640))),
    )


def write_database(path: Path, count: int = 8) -> MotionDatabase:
    rng = np.random.default_rng(1)
    database = MotionDatabase.create(path)
    database.add([human_clip(i, rng) for i in range(count)])
    return database
