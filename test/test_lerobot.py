# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Robot episodes from LeRobot datasets: from one that LeRobot wrote, and from variations of it."""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arvrm_ros.commands import episodes as command
from arvrm_ros.contract import RobotContract
from arvrm_ros.data.episodes import Episode, decode_image, encode_image, read_episode
from arvrm_ros.data.video import read_frames, write_video
from arvrm_ros.errors import DataError
from arvrm_ros.motion.kinematics import Kinematics
from arvrm_ros.perception.cameras import resize
from arvrm_ros.training.importing import episode_of
from arvrm_ros.training.lerobot import Dataset, Names, import_dataset, read_demonstration

WRITTEN = Path(__file__).with_name("data") / "lerobot_v3"
NAMES = Names({"static": "front", "gripper": "observation.images.wrist"})
FRAMES = 20


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(WRITTEN, tmp_path / "dataset"))


def change_info(folder: Path, **changes: object) -> None:
    path = folder / "meta" / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_features(folder: Path, changes: dict[str, dict]) -> None:
    info = json.loads((folder / "meta" / "info.json").read_text())
    features = {name: feature | changes.get(name, {}) for name, feature in info["features"].items()}
    change_info(folder, features=features)


def change_table(folder: Path, column: str, change) -> None:
    path = folder / "data" / "chunk-000" / "file-000.parquet"
    table = pq.read_table(path)
    values = change(np.array(table[column].to_pylist()))
    pq.write_table(table.set_column(table.column_names.index(column), column, pa.array(values.tolist())), path)


def read(folder: Path, contract: RobotContract, index: int = 0, names: Names = NAMES) -> Episode:
    row = Dataset(folder).episodes[index]
    return episode_of(read_demonstration(folder, row, contract, names), contract, trim=False)


def table_of(folder: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(folder / "data" / "chunk-000" / "file-000.parquet")
    return {name: np.array(table[name].to_pylist()) for name in table.column_names}


def test_what_lerobot_wrote_is_read_as_it_was_shown(contract: RobotContract) -> None:
    table, kinematics = table_of(WRITTEN), Kinematics(contract)
    for index, instruction in enumerate(("turn on the yellow lamp", "move the slider left")):
        episode = read(WRITTEN, contract, index)
        mine = table["episode_index"] == index
        assert episode.instruction == instruction
        assert len(episode) == FRAMES
        np.testing.assert_allclose(episode.joint_positions, table["observation.state"][mine, :7], atol=1e-6)
        np.testing.assert_allclose(episode.gripper, table["observation.state"][mine, 7], atol=1e-6)
        np.testing.assert_allclose(episode.command_gripper, table["action"][mine, 7], atol=1e-6)
        for step in (0, 7, FRAMES - 1):
            position, _ = kinematics.forward(table["action"][mine][step, :7])
            np.testing.assert_allclose(episode.command_positions[step], position, atol=1e-6)
        film = WRITTEN / "videos" / "observation.images.front" / "chunk-000" / "file-000.mp4"
        frames = [frame for _, frame in read_frames(film)][FRAMES * index : FRAMES * (index + 1)]
        for step in (0, 11, FRAMES - 1):
            shown = decode_image(encode_image(resize(frames[step], 128, 128)))
            np.testing.assert_array_equal(episode.image("static", step), shown)
            assert episode.image("gripper", step).shape == (128, 128, 3)


def test_a_dataset_of_an_older_format_gives_the_same_episodes(
    dataset: Path, contract: RobotContract, tmp_path: Path
) -> None:
    """2.1: a table and a film for each episode; here the frames of one camera are images in the table."""
    new = read(dataset, contract, 1)
    old = tmp_path / "old"
    (old / "meta").mkdir(parents=True)
    shutil.copy(dataset / "meta" / "info.json", old / "meta")
    data = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    video = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    change_info(old, codebase_version="v2.1", data_path=data, video_path=video)
    change_features(old, {"observation.images.wrist": {"dtype": "image"}})
    rows = []
    for index, task in enumerate(("turn on the yellow lamp", "move the slider left")):
        rows.append(json.dumps({"episode_index": index, "tasks": [task], "length": FRAMES}))
        table = pq.read_table(dataset / "data" / "chunk-000" / "file-000.parquet")
        table = table.slice(FRAMES * index, FRAMES)
        films = {}
        for key in ("observation.images.front", "observation.images.wrist"):
            frames = [frame for _, frame in read_frames(dataset / "videos" / key / "chunk-000" / "file-000.mp4")]
            films[key] = frames[FRAMES * index : FRAMES * (index + 1)]
        path = old / video.format(episode_chunk=0, episode_index=index, video_key="observation.images.front")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, films["observation.images.front"], 0.1, quality=1)
        stored = [
            {"bytes": cv2.imencode(".png", frame[:, :, ::-1])[1].tobytes(), "path": None}
            for frame in films["observation.images.wrist"]
        ]
        path = old / data.format(episode_chunk=0, episode_index=index)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.append_column("observation.images.wrist", pa.array(stored)), path)
    (old / "meta" / "episodes.jsonl").write_text("\n".join(rows) + "\n")
    same = read(old, contract, 1)
    assert same.instruction == new.instruction
    np.testing.assert_array_equal(same.joint_positions, new.joint_positions)
    np.testing.assert_array_equal(same.command_positions, new.command_positions)
    for camera in ("static", "gripper"):
        for step in (0, FRAMES - 1):
            difference = np.abs(same.image(camera, step).astype(float) - new.image(camera, step))
            assert difference.mean() < 3


def test_degrees_a_grippers_own_range_and_elements_by_index(dataset: Path, contract: RobotContract) -> None:
    """As an SO-101's driver has them: degrees, a gripper from 0 to 100, here before the arm's joints."""
    plain = read(dataset, contract)
    for column in ("observation.state", "action"):
        change_table(dataset, column, lambda v: np.column_stack([v[:, 7:] * 100, np.rad2deg(v[:, :7])]))
    change_features(dataset, {name: {"names": None} for name in ("observation.state", "action")})
    names = replace(NAMES, joints=[str(i) for i in range(1, 8)], gripper="0", degrees=True, gripper_range=(0, 100))
    same = read(dataset, contract, 0, names)
    np.testing.assert_allclose(same.joint_positions, plain.joint_positions, atol=1e-5)
    np.testing.assert_allclose(same.command_positions, plain.command_positions, atol=1e-5)
    np.testing.assert_allclose(same.gripper, plain.gripper, atol=1e-5)


def test_of_more_frames_than_steps_the_nearest_are_taken_and_what_was_commanded_by_the_steps_end(
    dataset: Path, contract: RobotContract
) -> None:
    """The same frames said to be 20 a second: every other one is a step of a tenth of a second."""
    plain, table = read(dataset, contract), table_of(dataset)
    change_info(dataset, fps=20)
    change_table(dataset, "timestamp", lambda v: v / 2)
    meta = dataset / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    rows = pq.read_table(meta)
    for key in ("front", "wrist"):
        column = f"videos/observation.images.{key}/from_timestamp"
        rows = rows.set_column(rows.column_names.index(column), column, pa.array(np.array(rows[column]) / 2))
        film = dataset / "videos" / f"observation.images.{key}" / "chunk-000" / "file-000.mp4"
        write_video(film, [frame for _, frame in read_frames(film)], 0.05, quality=1)
    pq.write_table(rows, meta)
    fewer = read(dataset, contract)
    assert len(fewer) == FRAMES // 2
    np.testing.assert_array_equal(fewer.joint_positions, plain.joint_positions[::2])
    position, _ = Kinematics(contract).forward(table["action"][5, :7])  # what is asked for from 0.25 to 0.3 s
    np.testing.assert_allclose(fewer.command_positions[2], position, atol=1e-6)
    for step in (1, 8):
        difference = np.abs(fewer.image("static", step).astype(float) - plain.image("static", 2 * step))
        assert difference.mean() < 3


def test_actions_that_are_no_joints_are_left_alone_and_where_the_arm_went_counts(
    dataset: Path, contract: RobotContract
) -> None:
    change_features(dataset, {"action": {"names": ["dx", "dy", "dz"], "shape": [3]}})
    change_table(dataset, "action", lambda v: v[:, :3])
    episode, state = read(dataset, contract), table_of(dataset)["observation.state"]
    position, _ = Kinematics(contract).forward(state[6, :7])
    np.testing.assert_allclose(episode.command_positions[5], position, atol=1e-6)
    assert set(episode.command_gripper) <= {0.0, 1.0}


def no_film(folder: Path) -> None:
    (folder / "videos" / "observation.images.front" / "chunk-000" / "file-000.mp4").unlink()


def no_numbers(folder: Path) -> None:
    change_table(folder, "observation.state", lambda v: np.where(np.arange(len(v))[:, None] == 5, np.nan, v))


def short_film(folder: Path) -> None:
    film = folder / "videos" / "observation.images.front" / "chunk-000" / "file-000.mp4"
    write_video(film, [frame for _, frame in read_frames(film)][:9], 0.1)


def no_table(folder: Path) -> None:
    path = folder / "data" / "chunk-000" / "file-000.parquet"
    path.write_bytes(path.read_bytes()[:2000])


def still(folder: Path) -> None:
    change_table(folder, "action", lambda v: np.tile(v[:1], (len(v), 1)))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_film, "cannot read the video"),
        (no_numbers, "episode 0: observation.state is not finite"),
        (short_film, "observation.images.front has 9 of 20 frames"),
        (no_table, "its frames cannot be read"),
        (still, "neither arm nor gripper is commanded to move"),
    ],
)
def test_what_is_wrong_with_an_episode_is_said(dataset: Path, contract: RobotContract, spoil, said: str) -> None:
    spoil(dataset)
    with pytest.raises(DataError, match=said):
        read(dataset, contract)


def test_what_is_wrong_with_a_dataset_is_said_before_anything_is_read(
    dataset: Path, contract: RobotContract, tmp_path: Path
) -> None:
    def imported(names: Names = NAMES) -> None:
        import_dataset(dataset, tmp_path / "out", contract, names)

    with pytest.raises(DataError, match=r"--cameras static=FEATURE.* it has observation\.images\.front"):
        imported(Names())
    with pytest.raises(DataError, match=r"no element elbow: name the joints with --joints.*panda_joint1\.pos"):
        imported(replace(NAMES, joints=["elbow"] * 7))
    with pytest.raises(DataError, match="--joints names 2 joints; the contract has 7"):
        imported(replace(NAMES, joints=["0", "1"]))
    change_info(dataset, fps=5)
    with pytest.raises(DataError, match="5 frames a second"):
        imported()
    change_info(dataset, codebase_version="v1.6")
    with pytest.raises(DataError, match=r"format v1\.6; v2\.0, v2\.1, v3\.0 are read"):
        imported()


def test_the_command_imports_once_goes_on_and_says_what_is_rejected(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    cameras = ["--cameras", "static=front", "gripper=wrist", "--workers", "1"]
    words = ["import", str(dataset), "--out", str(tmp_path / "out"), *cameras]
    assert command.run(parser.parse_args(words)) == 0
    assert command.run(parser.parse_args(words)) == 0
    said = capsys.readouterr().out
    assert "2 imported (e.g. dataset_000000, dataset_000001)" in said
    assert "2 there already" in said
    files = sorted((tmp_path / "out").glob("*.npz"))
    assert [read_episode(file).instruction for file in files] == ["turn on the yellow lamp", "move the slider left"]
    no_film(dataset)
    assert command.run(parser.parse_args([*words[:3], str(tmp_path / "other"), *cameras])) == 1
    assert "2 rejected" in capsys.readouterr().out
