# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The tabletop: its numbers against the URDF's, its oracle against its experts, its cameras, its episodes."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from arvrm_ros.contract import load_contract
from arvrm_ros.data.episodes import encode_image, read_episode, write_episode
from arvrm_ros.errors import ArvrmError, DataError
from arvrm_ros.motion.kinematics import Kinematics
from arvrm_ros.simulation.demonstrations import record_episode
from arvrm_ros.simulation.scene import POINTS, VARIANTS
from arvrm_ros.simulation.tabletop import Tabletop
from arvrm_ros.simulation.tasks import TASKS, task_of


@pytest.fixture(scope="module")
def tabletop():
    tabletop = Tabletop(load_contract("tabletop"))
    yield tabletop
    tabletop.close()


def test_simulated_arm_has_the_kinematics_of_the_urdf(tabletop):
    kinematics = Kinematics(tabletop.contract)
    for seed in range(5):
        tabletop.reset(seed)
        position, rotation = tabletop.end_effector()
        expected, quaternion = kinematics.forward(tabletop.joint_positions)
        np.testing.assert_allclose(position, expected, atol=1e-5)
        np.testing.assert_allclose(rotation, Rotation.from_quat(quaternion).as_matrix(), atol=1e-5)


@pytest.mark.parametrize("joint", range(7))
def test_an_arm_that_is_asked_to_jump_stays_within_its_speeds(tabletop, joint):
    limits = tabletop.contract.limits
    tabletop.reset(0)
    there = tabletop.joint_positions
    there[joint] += 0.3 if joint != 3 else -0.3  # up and about: towards nothing that it might touch
    tabletop.command(there, 1.0)
    before, speeds = tabletop.end_effector()[0], []
    for _ in range(100):
        tabletop.advance(0.01)
        assert np.all(np.abs(tabletop.joint_velocities) <= 1.1 * np.array(limits.velocity))
        now = tabletop.end_effector()[0]
        speeds.append(np.linalg.norm(now - before) / 0.01)
        before = now
    assert max(speeds) <= 1.1 * limits.cartesian_velocity
    assert tabletop.joint_positions == pytest.approx(there, abs=5e-3)


def test_same_seed_same_scene_and_no_task_is_done_at_the_start(tabletop):
    for index, (name, task) in enumerate(TASKS.items()):
        variant = list(VARIANTS)[index % 4]
        tabletop.reset(7, name, variant)
        first = tabletop.state()
        assert not task.succeeded(first, first)
        tabletop.advance(0.5)
        tabletop.reset(7, name, variant)
        assert tabletop.state() == first


@pytest.mark.parametrize("task", ["open_drawer", "move_slider_left", "turn_on_led", "turn_off_lightbulb",
                                  "lift_pink_block", "push_blue_block_right", "put_red_block_in_drawer"])  # fmt: skip
def test_expert_does_the_task_and_the_oracle_sees_it(tabletop, task, tmp_path):
    tabletop.reset(3, task, "B")
    episode = record_episode(tabletop, task, np.random.default_rng(3))
    assert episode is not None, "the expert failed"
    assert task_of(episode.instruction) == task
    write_episode(tmp_path / "episode_000000.npz", episode)
    again = read_episode(tmp_path / "episode_000000.npz")
    assert again.contract == episode.contract
    assert again.completed == episode.completed
    np.testing.assert_array_equal(again.command_positions, episode.command_positions)
    np.testing.assert_array_equal(again.image("gripper", -1), episode.image("gripper", -1))
    assert again.points["static"].shape == (len(again), len(POINTS), 3)
    assert not list(tmp_path.glob(".*")), "a partial file was left behind"


def test_oracle_wants_the_named_block_and_the_named_direction(tabletop):
    tabletop.reset(5, "push_red_block_left", "A")
    start = tabletop.state()

    def moved(color: str, dy: float, dz: float = 0.0):
        x, y, z, yaw = start.blocks[color]
        return dataclasses.replace(start, blocks=start.blocks | {color: (x, y + dy, z + dz, yaw)})

    assert TASKS["push_red_block_left"].succeeded(start, moved("red", 0.08))
    assert not TASKS["push_red_block_left"].succeeded(start, moved("red", -0.08))
    assert not TASKS["push_red_block_left"].succeeded(start, moved("blue", 0.08))
    lifted = moved("red", 0.0, 0.08)
    assert not TASKS["lift_red_block"].succeeded(start, lifted), "nothing holds the block"
    assert TASKS["lift_red_block"].succeeded(start, dataclasses.replace(lifted, touched=("red",)))


def test_every_press_toggles_the_led_however_slowly_the_button_comes_up(tabletop):
    tabletop.reset(4, "turn_on_led", "A")
    button = tabletop.data.joint("button")
    seen = []
    for _ in range(3):
        for force in np.linspace(2.0, 0.0, 41):  # N; let go in small steps, so that it does not swing back
            button.qfrc_applied = force
            tabletop.advance(0.1)
        seen.append(tabletop.state().led)
    assert seen == [True, False, True]


def test_projected_points_are_where_the_camera_sees_them(tabletop):
    """The red block's projection falls on red pixels."""
    tabletop.reset(11, None, "A")
    image = tabletop.render("static").astype(int)
    x, y, within = tabletop.project(tabletop.points(), "static")[POINTS.index("block_red")]
    assert within
    red, green, blue = image[int(y * image.shape[0]), int(x * image.shape[1])]
    assert red > 2 * green
    assert red > 2 * blue


def test_paraphrases_name_one_task_each():
    texts = [text for task in TASKS.values() for text in (*task.instructions, *task.held_out)]
    assert len(texts) == len(set(texts))
    assert all(task.held_out and len(task.instructions) >= 3 for task in TASKS.values())
    assert task_of("make coffee") is None


def test_unknown_task_and_variant_say_what_there_is(tabletop):
    with pytest.raises(ArvrmError, match="open_drawer"):
        tabletop.reset(0, "dance")
    with pytest.raises(ArvrmError, match="A, B, C, D"):
        tabletop.reset(0, None, "Z")


def test_damaged_episodes_are_refused(tabletop, tmp_path):
    tabletop.reset(4, "turn_on_led", "A")
    episode = record_episode(tabletop, "turn_on_led", np.random.default_rng(4))
    assert episode is not None
    path = tmp_path / "episode_000000.npz"
    with pytest.raises(DataError, match="no episode"):
        read_episode(path)
    write_episode(path, episode)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DataError, match="damaged"):
        read_episode(path)
    write_episode(path, dataclasses.replace(episode, gripper=episode.gripper * np.nan))
    with pytest.raises(DataError, match="not finite"):
        read_episode(path)
    write_episode(path, dataclasses.replace(episode, images=episode.images | {"static": episode.images["static"][:-1]}))
    with pytest.raises(DataError, match="static has"):
        read_episode(path)
    assert encode_image(episode.image("static", 0))[:2] == b"\xff\xd8"
