# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Robot episodes from bags: what was recorded is what a policy would have seen, and what was commanded."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from bag_messages import HEADER
from learning_data import TINY
from mcap_ros2.writer import Writer

from arvrm_ros.commands import episodes as command
from arvrm_ros.contract import RobotContract
from arvrm_ros.data.episodes import Episode, read_episode
from arvrm_ros.errors import DataError
from arvrm_ros.motion.kinematics import Kinematics
from arvrm_ros.perception.cameras import FrameSets, resize
from arvrm_ros.policies.observing import ObservationBuffer
from arvrm_ros.retrieval.sources import Span
from arvrm_ros.training.dataset import RobotEpisodes
from arvrm_ros.training.importing import episode_of
from arvrm_ros.training.recordings import import_recordings, read_recording, topics_to_record

WHOLE = Span(0.0, float("inf"), "open the drawer")
STILL, MOVING = 1.0, 3.0  # s: the arm moves in between
KINDS = {
    "sensor_msgs/msg/Image": HEADER.format(
        "uint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\nuint32 step\nuint8[] data"
    ),
    "sensor_msgs/msg/CompressedImage": HEADER.format("string format\nuint8[] data"),
    "sensor_msgs/msg/JointState": HEADER.format(
        "string[] name\nfloat64[] position\nfloat64[] velocity\nfloat64[] effort"
    ),
    "trajectory_msgs/msg/JointTrajectory": HEADER.format(
        "string[] joint_names\ntrajectory_msgs/JointTrajectoryPoint[] points"
    )
    + "=" * 80
    + "\nMSG: trajectory_msgs/JointTrajectoryPoint\nfloat64[] positions\nfloat64[] velocities\n"
    + "float64[] accelerations\n"
    + "float64[] effort\nbuiltin_interfaces/Duration time_from_start\n"
    + "=" * 80
    + "\nMSG: builtin_interfaces/Duration\nint32 sec\nuint32 nanosec\n",
}


def seconds(value: float) -> dict[str, int]:
    nanoseconds = round(value * 1e9)
    return {"sec": nanoseconds // 10**9, "nanosec": nanoseconds % 10**9}


def read(bag: Path, contract: RobotContract, trim: bool = True) -> Episode:
    return episode_of(read_recording(bag, contract, WHOLE), contract, trim)


class Demonstration:
    """Four seconds of a robot with two cameras of 30 Hz and joint states of 100 Hz: it moves in the middle two.

    Attributes:
        lag: seconds by which the arm follows its commands.
    """

    def __init__(self, contract: RobotContract, lag: float = 0.05) -> None:
        self.contract, self.lag = contract, lag
        self.way = np.array([0.3, 0.1, 0.0, 0.2, 0.0, 0.0, 0.0])

    def asked(self, time: float) -> np.ndarray:
        share = np.clip((time - 100.0 - STILL) / (MOVING - STILL), 0.0, 1.0)
        return np.array(self.contract.home) + share * self.way

    def opening(self, time: float) -> float:
        """It closes on something of half its width, two seconds after the beginning."""
        return float(np.clip(1.0 - (time - 102.0) * 2.0, 0.5, 1.0))

    def pixels(self, camera: str, time: float) -> np.ndarray:
        """Twice as large as the policy sees it; its brightness tells the time."""
        image = np.full((256, 256, 3), 20 + round((time - 100.0) * 40), np.uint8)
        image[:, :128, 0] = {"static": 200, "gripper": 100}[camera]
        return image

    def messages(self) -> list[tuple[str, float, str, dict[str, Any]]]:
        """Topic, time, kind and content of all but the trajectories."""
        joints = [*self.contract.joints, self.contract.gripper.joint]
        found: list[tuple[str, float, str, dict[str, Any]]] = []
        for time in 100.0 + np.arange(0.0, 4.0, 0.01):
            finger = self.contract.gripper.position(self.opening(time))
            positions = [*self.asked(time - self.lag), finger]
            order = np.random.default_rng(0).permutation(len(joints))
            found.append(
                (
                    "/joint_states", time, "sensor_msgs/msg/JointState",
                    {"header": {"stamp": seconds(time), "frame_id": ""}, "name": [joints[i] for i in order],
                     "position": [positions[i] for i in order], "velocity": [], "effort": []},
                )
            )  # fmt: skip
        for camera, late in (("static", 0.0), ("gripper", 0.004)):
            for time in 100.1 + late + np.arange(0.0, 3.8, 1 / 30):
                image = self.pixels(camera, time)
                found.append(
                    (
                        f"/{camera}_camera/image_raw", time, "sensor_msgs/msg/Image",
                        {"header": {"stamp": seconds(time), "frame_id": camera}, "height": 256, "width": 256,
                         "encoding": "rgb8", "is_bigendian": 0, "step": 768, "data": image.tobytes()},
                    )
                )  # fmt: skip
        return found

    def trajectories(self) -> list[tuple[str, float, str, dict[str, Any]]]:
        """What a teleoperation at 20 Hz sends: where to be 0.1 s and 0.2 s later, and the gripper likewise."""
        found = []
        for time in 100.0 + np.arange(0.5, 3.9, 0.05):
            for topic, joints, at in (
                (self.contract.action.arm_topic, self.contract.joints, self.asked),
                (
                    self.contract.action.gripper_topic,
                    (self.contract.gripper.joint,),
                    lambda t: [self.contract.gripper.position(1.0 if t < 102.0 else 0.0)],
                ),
            ):
                points = [
                    {"positions": list(at(time + after)), "velocities": [], "accelerations": [], "effort": [],
                     "time_from_start": seconds(after)}
                    for after in (0.1, 0.2)
                ]  # fmt: skip
                content = {"header": {"stamp": seconds(time), "frame_id": ""}, "joint_names": list(joints)}
                found.append((topic, time, "trajectory_msgs/msg/JointTrajectory", content | {"points": points}))
        return found


def write_bag(path: Path, messages: list[tuple[str, float, str, dict[str, Any]]]) -> Path:
    """As ``ros2 bag record --storage mcap`` does it, 10 ms after the stamps."""
    with path.open("wb") as file:
        writer = Writer(file)
        kinds = {name: writer.register_msgdef(name, text) for name, text in KINDS.items()}
        for topic, time, kind, content in sorted(messages, key=lambda message: message[1]):
            logged = round((time + 0.01) * 1e9)
            writer.write_message(topic, kinds[kind], content, logged, logged)
        writer.finish()
    return path


@pytest.fixture(scope="module")
def shown(contract: RobotContract) -> Demonstration:
    return Demonstration(contract)


@pytest.fixture(scope="module")
def episode(shown: Demonstration, contract: RobotContract, tmp_path_factory: pytest.TempPathFactory) -> Episode:
    """Of a bag with trajectories, whole."""
    bag = tmp_path_factory.mktemp("bag") / "open_the_drawer_0.mcap"
    write_bag(bag, shown.messages() + shown.trajectories())
    return read(bag, contract, trim=False)


def test_a_bag_is_what_a_policy_would_have_seen(
    episode: Episode, shown: Demonstration, contract: RobotContract
) -> None:
    cameras, period = contract.observation.cameras, contract.action.step_period
    in_step, buffer, seen = FrameSets(cameras, period), ObservationBuffer(contract), []
    for topic, time, _, content in sorted(shown.messages(), key=lambda message: message[1]):
        if topic == "/joint_states":
            by_name = dict(zip(content["name"], content["position"], strict=True))
            positions = np.array([by_name[joint] for joint in contract.joints])
            buffer.add_joints(time, positions, contract.gripper.opening(by_name[contract.gripper.joint]))
            continue
        (name,) = (name for name, camera in cameras.items() if camera.raw_topic == topic)
        images = in_step.add(name, time, shown.pixels(name, time))
        for camera, (stamp, image) in (images or {}).items():
            buffer.add_image(camera, stamp, resize(image, cameras[camera].height, cameras[camera].width))
        if images:
            seen.append(buffer.observation(time))
    assert len(episode) == len(seen) > 35
    np.testing.assert_allclose(episode.stamp, [observation.stamp for observation in seen], atol=1e-6)
    for step, observation in enumerate(seen):
        # A live policy acts before the joint state that comes next is there.
        np.testing.assert_allclose(episode.joint_positions[step], observation.joint_positions, atol=0.004)
        for camera in cameras:
            difference = episode.image(camera, step).astype(int) - observation.images[camera]
            assert np.abs(difference).mean() < 2.0, "but for JPEG"


def test_what_was_commanded_is_that_of_the_trajectories(
    episode: Episode, shown: Demonstration, contract: RobotContract
) -> None:
    kinematics = Kinematics(contract)
    after = episode.stamp + contract.action.step_period
    for time, position, quaternion in zip(after, episode.command_positions, episode.command_quaternions, strict=True):
        wanted = kinematics.forward(shown.asked(min(time, 104.05)))
        np.testing.assert_allclose(position, wanted[0], atol=1e-3)
        np.testing.assert_allclose(quaternion, wanted[1], atol=5e-3)
    np.testing.assert_array_equal(episode.command_gripper[after > 102.2], 0.0)
    np.testing.assert_array_equal(episode.command_gripper[after < 101.9], 1.0)
    assert episode.gripper[-1] == pytest.approx(0.5), "what it holds keeps it from closing"
    assert episode.instruction == "open the drawer"


def test_without_trajectories_the_arm_was_commanded_to_where_it_was(
    shown: Demonstration, contract: RobotContract, tmp_path: Path
) -> None:
    bag = write_bag(tmp_path / "bag.mcap", shown.messages())
    episode, kinematics = read(bag, contract, trim=False), Kinematics(contract)
    for step in (10, 20, 25):
        at = kinematics.forward(shown.asked(episode.stamp[step] + contract.action.step_period - shown.lag))[0]
        np.testing.assert_allclose(episode.command_positions[step], at, atol=1e-3)
    shut = np.array([shown.opening(t + contract.action.step_period) < 1.0 for t in episode.stamp])
    assert np.abs(episode.command_gripper - ~shut).sum() <= 1, "shut from when it begins to close"
    assert len(read(bag, contract)) == pytest.approx(20 + 7, abs=3), "two seconds, and some steps more"


def test_a_folder_becomes_episodes_that_are_trained_on(
    shown: Demonstration, contract: RobotContract, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bags, out = tmp_path / "bags", tmp_path / "episodes"
    (bags / "open_the_drawer").mkdir(parents=True)
    write_bag(bags / "open_the_drawer" / "open_the_drawer_0.mcap", shown.messages() + shown.trajectories())
    write_bag(bags / "twice.mcap", replace_way(shown, [0.2, 0.0, 0.1, 0.2, 0.0, 0.1, 0.0]).messages())
    write_bag(bags / "far_away.mcap", replace_way(shown, [2.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]).messages())
    (bags / "broken_bag.mcap").write_bytes(b"no bag")
    (bags / "notes.mp4").write_bytes(b"no bag either")
    (bags / "captions.csv").write_text(
        "video,caption,start,end\ntwice.mcap,push the red block left,0,2\ntwice.mcap,push the blue block,2,\n"
    )
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args(["import", str(bags), "--out", str(out), "--workers", "1"])
    assert command.run(args) == 1, "a bag was rejected"
    said = capsys.readouterr()
    assert "3 imported (" in said.out
    assert "1 rejected (e.g. broken_bag.mcap)" in said.out
    assert "leaves limits.workspace by 0." in said.out + said.err
    instructions = sorted(read_episode(path).instruction for path in out.glob("episode_*.npz"))
    assert instructions == ["far away", "open the drawer", "push the blue block", "push the red block left"]
    assert len(RobotEpisodes(out, None, contract, TINY)) == 4
    page = tmp_path / "page.html"
    assert command.run(parser.parse_args(["show", str(out), "--out", str(page), "--caption", "push"])) == 0
    text = page.read_text()
    assert "4 robot episodes" in text
    assert "2 of 2 episodes with “push”" in text
    assert text.count("data:image/jpeg") == 2
    assert import_recordings(bags, out, contract).counts["there already"] == 4, "run again, nothing is done twice"


def replace_way(shown: Demonstration, way: list[float]) -> Demonstration:
    other = Demonstration(shown.contract, shown.lag)
    other.way = np.array(way)
    return other


def without(topic: str) -> Callable[[list], list]:
    return lambda messages: [message for message in messages if message[0] != topic]


def between(topic: str, start: float, end: float) -> Callable[[list], list]:
    return lambda messages: [m for m in messages if m[0] != topic or not start < m[1] < end]


def changed(topic: str, **values: Any) -> Callable[[list], list]:
    return lambda messages: [(t, s, k, c | values if t == topic else c) for t, s, k, c in messages]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without("/joint_states"), r"no joint states on /joint_states; it holds .*/static_camera/image_raw"),
        (without("/static_camera/image_raw"), r"no images of the camera static: record one of /static_camera/image, "),
        (
            between("/gripper_camera/image_raw", 101.0, 102.0),
            r"no images of static, gripper for 1\.\d+ s, 0\.\d s from",
        ),
        (between("/joint_states", 101.0, 102.0), r"joint states nearest to an image are 0\.\d+ s away"),
        (changed("/joint_states", name=["a"] * 8), r"/joint_states has no position of panda_joint1"),
        (changed("/static_camera/image_raw", encoding="bayer"), r"image encoding 'bayer'"),
        (
            changed("/arm_controller/joint_trajectory", joint_names=["a"] * 7),
            r"a trajectory on /arm.* lacks panda_joint1",
        ),
    ],
)
def test_what_is_wrong_with_a_bag_is_said(
    shown: Demonstration, contract: RobotContract, tmp_path: Path, spoil: Callable[[list], list], said: str
) -> None:
    bag = write_bag(tmp_path / "bag.mcap", spoil(shown.messages() + shown.trajectories()))
    with pytest.raises(DataError, match=said):
        read(bag, contract)


def test_an_arm_that_does_not_move_shows_nothing(shown: Demonstration, contract: RobotContract, tmp_path: Path) -> None:
    still = replace_way(shown, [0.0] * 7)
    still.opening = lambda time: 1.0  # type: ignore[method-assign]
    with pytest.raises(DataError, match="neither arm nor gripper is commanded to move"):
        read(write_bag(tmp_path / "bag.mcap", still.messages()), contract)


def test_compressed_images_and_a_folder_without_bags(
    shown: Demonstration, contract: RobotContract, tmp_path: Path
) -> None:
    messages = []
    for topic, time, kind, content in shown.messages():
        if kind == "sensor_msgs/msg/Image":
            pixels = np.frombuffer(content["data"], np.uint8).reshape(256, 256, 3)
            data = cv2.imencode(".png", pixels[:, :, ::-1])[1].tobytes()
            topic, kind = f"{topic}/compressed", "sensor_msgs/msg/CompressedImage"
            content = {"header": content["header"], "format": "png", "data": data}
        messages.append((topic, time, kind, content))
    episode = read(write_bag(tmp_path / "bag.mcap", messages), contract)
    assert episode.image("static", 0)[5, 5, 0] == pytest.approx(200, abs=3)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "film.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"no bag with an instruction .*ros2 bag record .*/joint_states"):
        import_recordings(tmp_path / "empty", tmp_path / "out", contract)


def test_the_topics_to_record_are_printed(contract: RobotContract, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(SimpleNamespace(action="topics", robot="tabletop")) == 0  # type: ignore[arg-type]
    printed = capsys.readouterr().out
    assert all(topic in printed for topic in topics_to_record(contract))
    renamed = replace(contract, action=replace(contract.action, arm_topic="/other/joint_trajectory"))
    assert "/other/joint_trajectory" in topics_to_record(renamed)
