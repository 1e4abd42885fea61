# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""CALVIN's environment as a world. With CALVIN_ROOT naming CALVIN's clone, the real one; without, what is said then."""

import os
import zlib

import numpy as np
import pytest

from arvrm_ros.cli import main
from arvrm_ros.contract import load_contract
from arvrm_ros.errors import ArvrmError
from arvrm_ros.evaluation.chains import expert_finishes, official_chains, run_chain
from arvrm_ros.evaluation.study import StudyError, load_study, study_from_dict
from arvrm_ros.simulation import calvin, scene
from arvrm_ros.simulation.tasks import kind_of
from arvrm_ros.simulation.world import EVALUATION_SEEDS, WORLDS, load_world

CONTRACT = load_contract("calvin")
real = pytest.mark.skipif(not os.environ.get(calvin.ROOT), reason="CALVIN_ROOT names no clone of CALVIN")


# Without CALVIN


@pytest.fixture
def nowhere(monkeypatch):
    monkeypatch.delenv(calvin.ROOT, raising=False)
    calvin.modules.cache_clear()
    yield
    calvin.modules.cache_clear()


@pytest.mark.usefixtures("nowhere")
def test_says_how_to_get_calvin_where_it_is_not(capsys, tmp_path):
    assert main(["collect", "robot", "--env", "calvin", "--out", str(tmp_path), "--workers", "1"]) == 1
    assert "CALVIN_ROOT" in capsys.readouterr().err
    with pytest.raises(ArvrmError, match=r"clone .*mees/calvin.*requirements/calvin.txt"):
        official_chains(3)
    with pytest.raises(ArvrmError, match="CALVIN_ROOT"):
        load_world("calvin", CONTRACT)


def test_says_what_a_folder_lacks_that_is_no_clone(monkeypatch, tmp_path, nowhere):
    monkeypatch.setenv(calvin.ROOT, str(tmp_path))
    with pytest.raises(ArvrmError, match=rf"{tmp_path}, which has no calvin_models/conf"):
        calvin.root()
    (tmp_path / "calvin_models" / "conf").mkdir(parents=True)
    with pytest.raises(ArvrmError, match=r"no calvin_env.*recurse-submodules"):
        calvin.root()


def test_single_tasks_are_the_tabletops_alone(capsys):
    assert main(["evaluate", "--env", "calvin", "--episodes", "3"]) == 1
    assert "--chains" in capsys.readouterr().err


@pytest.mark.parametrize("count", [0, 1001])
def test_there_are_a_thousand_chains(count):
    with pytest.raises(ArvrmError, match="1 to 1000"):
        official_chains(count)


def test_unknown_worlds_are_named():
    with pytest.raises(ArvrmError, match=r"'libero'.*tabletop, calvin"):
        load_world("libero", CONTRACT)


def test_hash_is_pyhashs():
    # FNV-1's published test vectors have the offset basis 0x811c9dc5; from 0 on, of no bytes and of one it is these.
    assert calvin._fnv1_32("") == 0
    assert calvin._fnv1_32("a") == (0x61 * 0x01000193) % 2**32, "UTF-16: the letter's byte, and then 0"


def test_kinds_of_calvins_tasks():
    kinds = {task: kind_of(task) for task in ("open_drawer", "turn_on_led", "rotate_red_block_left", "stack_block")}
    assert kinds == {
        "open_drawer": "drawer",
        "turn_on_led": "button",
        "rotate_red_block_left": "rotate",
        "stack_block": "stack",
    }


def test_a_study_in_calvin_has_no_held_out_wordings_and_other_results_than_the_tabletops():
    study = load_study("calvin")
    assert (study.env, study.robot) == ("calvin", "calvin")
    assert study.shared_settings["env"] == "calvin"
    with pytest.raises(StudyError, match="env: unknown 'moon'"):
        study_from_dict(_plain() | {"env": "moon"})
    with pytest.raises(StudyError, match="held_out"):
        study_from_dict(_plain() | {"evaluations": {"seen": None, "other": {"held_out": True}}})


def _plain():
    import yaml

    from arvrm_ros.resources import resource

    return yaml.safe_load(resource("config", "studies", "calvin.yaml").read_text(encoding="utf-8"))


# With CALVIN


@pytest.fixture(scope="module")
def world():
    world = load_world("calvin", CONTRACT)
    yield world
    world.close()


def seen(world) -> int:
    """Checksum of what can be seen and measured."""
    observation = world.observation()
    data = [image.tobytes() for image in observation.images.values()]
    return zlib.crc32(b"".join([*data, np.round(observation.joint_positions, 6).tobytes()]))


@real
def test_a_seed_is_a_scene(world):
    world.reset(3)
    first = seen(world)
    world.reset(4)
    assert seen(world) != first
    world.reset(3)
    assert seen(world) == first
    assert world.time == 0.0
    assert world.gripper == pytest.approx(1.0, abs=0.02)


@real
def test_images_are_those_of_the_contract(world):
    world.reset(0)
    images = world.observation().images
    assert {name: image.shape for name, image in images.items()} == {
        name: (camera.height, camera.width, 3) for name, camera in CONTRACT.observation.cameras.items()
    }
    assert all(image.dtype == np.uint8 and image.std() > 20 for image in images.values())


@real
def test_commands_lead_the_arm_and_its_kinematics_are_the_contracts(world):
    world.reset(0)
    target = world.joint_positions + 0.1
    world.command(target, 0.0)
    world.advance(1.0)
    assert world.time == pytest.approx(1.0)
    np.testing.assert_allclose(world.joint_positions, target, atol=0.01)
    assert world.gripper < 0.05
    position, rotation = world.end_effector()
    tool = np.array(world._env.robot.get_observation()[0][:3])
    np.testing.assert_allclose(position + rotation @ [0, 0, 0.0366] + world.base, tool, atol=2e-3)


@real
def test_points_are_where_they_are_drawn(world):
    world.reset(2)  # nothing stands before the two blocks
    points = world.project(world.points(), "static")
    image = world.render("static", 200, 200).astype(int)
    for name, strong in {"block_red": 0, "block_blue": 2}.items():
        x, y, within = points[scene.POINTS.index(name)]
        assert within
        here = image[int(y * 200) - 2 : int(y * 200) + 3, int(x * 200) - 2 : int(x * 200) + 3].reshape(-1, 3)
        others = np.delete(here, strong, axis=1).max(axis=1)
        assert (here[:, strong] > others + 60).mean() > 0.8, name


@real
def test_an_expert_does_what_calvins_oracle_judges(world):
    done = 0
    for seed in range(4):
        world.reset(seed)
        rng = np.random.default_rng(seed)
        tasks = world.draw_chain(rng)
        assert len(set(tasks)) == 5
        for task in tasks:
            if not expert_finishes(world, [task], rng):
                break
            done += 1
    assert done >= 12, f"{done} of 20 tasks"


@real
def test_nothing_is_done_by_waiting(world):
    world.reset(0)
    done = world.judge(world.draw_chain(np.random.default_rng(0))[0])
    world.advance(1.0)
    assert not done()


@real
def test_official_chains_begin_and_are_asked_for_as_calvin_does(world):
    chains = official_chains(5)
    assert [chain.seed for chain in chains] == [EVALUATION_SEEDS + i for i in range(5)]
    start, tasks = calvin.sequences()[2]
    assert chains[2].tasks == tasks
    assert chains[2].instructions == tuple(calvin.validation_wording(task) for task in tasks)
    world.reset(chains[2].seed)
    assert world.lamps == (bool(start["led"]), bool(start["lightbulb"]))
    assert (world.part("drawer_link")[0, 1] < -0.4) == (start["drawer"] == "open")
    with pytest.raises(ArvrmError, match="1000 sequences"):
        world.reset(EVALUATION_SEEDS + 1000)


@real
def test_a_chain_is_run_through_the_executor(world):
    from scripted_policy import ScriptedPolicy

    class Told(ScriptedPolicy):
        """Knows the task by its sentence."""

        def task_of(self, instruction):
            return next(task for task in tasks if calvin.validation_wording(task) == instruction)

    chains = official_chains(6)
    tasks = {task for chain in chains for task in chain.tasks}
    outcomes = [run_chain(world, Told(world), None, chain, 120) for chain in chains]
    assert sum(outcome.completed for outcome in outcomes) >= 12, outcomes


def test_worlds_have_contracts():
    for name in set(WORLDS.values()):
        assert load_contract(name).name == name
