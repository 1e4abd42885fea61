# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The tabletop as a world of Gazebo: what is where, what moves how, and what the bridge carries."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from arvrm_ros import cli, suite
from arvrm_ros.contract import RobotContract
from arvrm_ros.simulation import gazebo, scene
from arvrm_ros.simulation.scene import ROBOT
from arvrm_ros.simulation.tabletop import Tabletop

SEED, VARIANT = 3, "B"


@pytest.fixture(scope="module")
def tabletop(contract: RobotContract) -> Tabletop:
    tabletop = Tabletop(contract, VARIANT, render=False)
    tabletop.reset(SEED)
    return tabletop


@pytest.fixture(scope="module")
def world(tabletop: Tabletop) -> Element:
    return ElementTree.fromstring(gazebo.world(tabletop))


@pytest.fixture(scope="module")
def upright(contract: RobotContract) -> Tabletop:
    """The same scene with the arm's joints at zero, as Gazebo begins."""
    upright = Tabletop(contract, VARIANT, render=False)
    upright.reset(SEED)
    upright.mirror(0.0, dict.fromkeys((*contract.joints, *upright.finger_joints), 0.0), {})
    return upright


def pose_of(element: Element) -> np.ndarray:
    """(4, 4) of an element's own <pose>."""
    matrix = np.eye(4)
    pose = element.find("pose")
    if pose is not None:
        numbers = np.array([float(word) for word in pose.text.split()])
        matrix[:3, 3] = numbers[:3]
        if pose.get("rotation_format") == "quat_xyzw":
            matrix[:3, :3] = Rotation.from_quat(numbers[3:]).as_matrix()
        else:
            assert not numbers[3:].any()
    return matrix


def link_poses(model: Element) -> dict[str, np.ndarray]:
    """(4, 4) in the world of each link of a model whose joints are all at zero."""
    poses: dict[str, np.ndarray] = {}
    for link in model.findall("link"):
        above = None if link.find("pose") is None else link.find("pose").get("relative_to")
        poses[link.get("name")] = (poses[above] if above else pose_of(model)) @ pose_of(link)
    return poses


def model_named(world: Element, name: str) -> Element:
    return world.find(f"world/model[@name='{name}']")


def test_everything_that_is_seen_or_touched_is_where_mujoco_has_it(world: Element, upright: Tabletop) -> None:
    model, data = upright.model, upright.data
    shapes: list[tuple[str, np.ndarray, str]] = []
    for element in world.findall("world/model"):
        for name, pose in link_poses(element).items():
            for kind in ("visual", "collision"):
                link = element.find(f"link[@name='{name}']")
                shapes += [(part.get("name"), pose @ pose_of(part), kind) for part in link.findall(kind)]
    assert sum(kind == "visual" for _, _, kind in shapes) == model.ngeom
    assert sum(kind == "collision" for _, _, kind in shapes) == np.count_nonzero(model.geom_contype)
    names = {model.geom(i).name or f"geom_{i}": i for i in range(model.ngeom)}
    for name, pose, _ in shapes:
        geom = names[name]
        np.testing.assert_allclose(pose[:3, 3], data.geom_xpos[geom], atol=2e-5, err_msg=name)
        np.testing.assert_allclose(pose[:3, :3], data.geom_xmat[geom].reshape(3, 3), atol=2e-5, err_msg=name)


def test_no_two_parts_of_a_model_have_one_name(world: Element) -> None:
    """As SDFormat wants it: links and joints of a model share one set of names, and so do the shapes of a link."""
    for model in world.findall("world/model"):
        names = [part.get("name") for kind in ("link", "joint") for part in model.findall(kind)]
        assert len(set(names)) == len(names), model.get("name")
        for link in model.findall("link"):
            for kind in ("visual", "collision", "sensor"):
                shapes = [part.get("name") for part in link.findall(kind)]
                assert len(set(shapes)) == len(shapes)


def test_cameras_look_where_those_of_the_tabletop_do(world: Element, upright: Tabletop) -> None:
    poses = {}
    for element in world.findall("world/model"):
        for name, pose in link_poses(element).items():
            for sensor in element.findall(f"link[@name='{name}']/sensor"):
                poses[sensor.get("name")] = pose @ pose_of(sensor)
                fov = float(sensor.find("camera/horizontal_fov").text)
                focal, _ = upright.camera_matrix(sensor.get("name"), 128, 128)
                assert 64 / np.tan(fov / 2) == pytest.approx(focal[0, 0], rel=1e-4)
    assert poses.keys() == upright.contract.observation.cameras.keys()
    for name, pose in poses.items():
        _, optical = upright.camera_matrix(name, 128, 128)
        forward, left, up = pose[:3, :3].T
        np.testing.assert_allclose(np.column_stack([-left, -up, forward]), optical[:3, :3], atol=2e-5, err_msg=name)
        np.testing.assert_allclose(pose[:3, 3], optical[:3, 3], atol=2e-5, err_msg=name)


def test_joints_turn_about_the_same_axes_within_the_same_limits(world: Element, tabletop: Tabletop) -> None:
    mj = tabletop.model
    zeros = gazebo.fixture_joints(tabletop)
    assert zeros.keys() == {"drawer", "slider", "button", "switch"}
    joints = [j for m in world.findall("world/model") for j in m.findall("joint") if j.get("type") != "fixed"]
    assert len(joints) == len(zeros) + len(tabletop.contract.joints) + 2
    for joint in joints:
        name = joint.get("name")
        there = mj.joint(name if name in zeros else ROBOT + name)
        axis = joint.find("axis")
        np.testing.assert_allclose([float(w) for w in axis.find("xyz").text.split()], there.axis, atol=1e-6)
        limits = [float(axis.find(f"limit/{end}").text) + zeros.get(name, 0.0) for end in ("lower", "upper")]
        np.testing.assert_allclose(limits, there.range, atol=1e-5)


def test_servos_lag_as_those_of_the_tabletop_and_have_their_drives_force(world: Element, tabletop: Tabletop) -> None:
    """Both fingers of Gazebo together are the one gripper of MuJoCo."""
    robot = model_named(world, "robot")
    controller = next(p for p in robot.findall("plugin") if "trajectory" in p.get("filename"))
    names = [element.text for element in controller.findall("joint_name")]
    assert names == [*tabletop.contract.joints, *tabletop.finger_joints]
    stiffness, most = (
        np.array([float(element.text) for element in controller.findall(tag)])
        for tag in ("position_p_gain", "position_cmd_max")
    )
    axes = [robot.find(f"joint[@name='{name}']/axis") for name in names]
    damping = np.array([float(axis.find("dynamics/damping").text) for axis in axes])
    np.testing.assert_allclose(damping, scene.SERVO_LAG * stiffness, rtol=1e-4)
    np.testing.assert_allclose([float(axis.find("limit/effort").text) for axis in axes], most, rtol=1e-4)
    mj, limits = tabletop.model, tabletop.contract.limits
    drives = [mj.jnt_actfrcrange[mj.joint(ROBOT + name).id][1] for name in tabletop.contract.joints]
    assert np.all(stiffness[:7] * tabletop.contract.watchdogs.obstruction <= np.array(drives) * 1.001)
    at_speed = most - damping * 1.04 * np.array([*limits.velocity, *[tabletop.contract.gripper.max_velocity] * 2])
    np.testing.assert_allclose(at_speed, [*drives, *[limits.gripper_effort / 2] * 2], rtol=1e-4)


def test_joint_states_are_those_of_the_joints_that_move(world: Element, tabletop: Tabletop) -> None:
    said = {}
    for name in ("robot", "table"):
        plugins = model_named(world, name).findall("plugin")
        states = next(plugin for plugin in plugins if "joint-state" in plugin.get("filename"))
        said[name] = [element.text for element in states.findall("joint_name")]
    assert said["robot"] == [*tabletop.contract.joints, *tabletop.finger_joints]
    assert said["table"] == list(gazebo.fixture_joints(tabletop))


def test_the_bridge_carries_every_topic_of_the_world_and_no_other(world: Element, contract: RobotContract) -> None:
    bridged = {word.split("@")[0] for word in gazebo.bridges(contract)}
    topics = {element.text for element in world.iter("topic")}
    infos = {topic.replace("image_raw", "camera_info") for topic in topics if topic.endswith("image_raw")}
    assert bridged == topics | infos | {gazebo.MATERIAL_COLOR}


def test_a_mirror_tells_the_state_and_the_lamps_of_the_scene_that_it_mirrors(contract: RobotContract) -> None:
    there, mirror = (Tabletop(contract, "D", render=False) for _ in range(2))
    there.reset(5, "turn_on_led")
    mirror.reset(5, "turn_on_led")
    there.data.joint("button").qpos = 0.009
    there.data.joint("drawer").qpos = 0.05
    there.data.joint("block_red").qpos[:3] = there.end_effector()[0]  # between the fingers
    there.command(np.array(contract.home), 0.0)
    joints = [*contract.joints, *there.finger_joints]
    for _ in range(20):
        there.advance(0.006)
        positions = dict(zip(joints, there.joint_state()[0], strict=True))
        positions |= {name: float(there.data.joint(name).qpos[0]) for name in ("drawer", "slider", "button", "switch")}
        blocks = {color: there.data.joint(f"block_{color}").qpos for color in scene.BLOCKS}
        mirror.mirror(there.time, positions, blocks)
    state, expected = mirror.state(), there.state()
    assert (state.led, state.bulb) == (expected.led, expected.bulb) == mirror.lamps
    assert state.led
    assert "red" in expected.touched
    assert set(expected.touched) <= set(state.touched)
    for color in scene.BLOCKS:
        np.testing.assert_allclose(state.blocks[color], expected.blocks[color], atol=1e-6)
    assert state.drawer == pytest.approx(expected.drawer)


def test_the_command_writes_the_world_and_names_what_is_missing_to_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tabletop.sdf"
    assert cli.main(["gazebo", "world", "--out", str(file), "--seed", "4", "--render-engine", "ogre2"]) == 0
    written = ElementTree.parse(file)
    assert written.find("world/plugin/render_engine").text == "ogre2"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["gazebo", "run"]) == 1
    assert "install Gazebo" in capsys.readouterr().err
    problems = suite.missing("gazebo", suite.resolve("gazebo", {}))
    assert any("ros-gz" in problem for problem in problems)


def test_the_suite_starts_gazebo_and_its_bridge_with_the_scene_that_the_node_is_told(tmp_path: Path) -> None:
    values = suite.resolve("gazebo", {"seed": "8", "variant": "C", "gui": "true"})
    found = {process.name: process for process in suite.processes("gazebo", values)}
    assert "simulation_node" not in found
    assert list(found)[:4] == ["lifecycle_manager", "gazebo", "gazebo_bridge", "gazebo_node"]
    command = found["gazebo"].command()
    assert command[command.index("--seed") + 1] == "8"
    assert command[command.index("--variant") + 1] == "C"
    assert "--gui" in command
    assert found["gazebo_node"].parameters == {"robot": "tabletop", "variant": "C", "seed": 8}
    assert found["policy_node"].parameters["use_sim_time"]
    assert "gazebo" not in found["lifecycle_manager"].parameters["managed_nodes"]
    assert any("/static_camera/image_raw@" in word for word in found["gazebo_bridge"].arguments)
