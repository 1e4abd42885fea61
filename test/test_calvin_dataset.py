# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Robot episodes from CALVIN's datasets: from one that is made here as CALVIN's are, and from spoilt ones."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy

from arvrm_ros.cli import main
from arvrm_ros.contract import RobotContract
from arvrm_ros.data.episodes import Episode, read_episode
from arvrm_ros.errors import DataError
from arvrm_ros.motion.kinematics import Kinematics
from arvrm_ros.training.calvin import ANNOTATIONS, import_dataset, is_dataset, read_annotations, read_demonstration
from arvrm_ros.training.importing import episode_of

START, COUNT = 100, 60
SPANS = [(100, 130), (118, 150)]
"""They overlap, as CALVIN's do."""

SENTENCES, TASKS = ["open the drawer", "push the switch up "], ["open_drawer", "turn_on_lightbulb"]
CLOSES = 121
"""The frame whose action closes the gripper; the fingers are seen to be shut from the next one on."""


def joints_of(contract: RobotContract, number: int) -> np.ndarray:
    return np.array(contract.home) + 0.01 * (number - START) * np.array([1.0, 0.5, 0.3, 0.2, 0.1, 0.4, 0.6])


def colours_of(camera: str, number: int) -> np.ndarray:
    """(2, 3) RGB of the left and the right half."""
    shade = 10 + 4 * (number - START)
    return np.array([[shade, 40, 200], [220, shade, 20]] if camera == "static" else [[90, 160, shade], [0, 0, shade]])


def frame_of(contract: RobotContract, number: int) -> dict[str, np.ndarray]:
    grip, width = (1.0, 0.06) if number < CLOSES else (-1.0, 0.02)
    frame = {}
    for camera, size in (("static", 200), ("gripper", 84)):
        image = np.zeros((size, size, 3), np.uint8)
        image[:, : size // 2], image[:, size // 2 :] = colours_of(camera, number)
        frame[f"rgb_{camera}"] = image
    tool = [0.1, 0.2, 0.3, 3.1, 0.0, 1.5]
    return frame | {
        "robot_obs": np.array([*tool, width, *joints_of(contract, number), 1.0 if number <= CLOSES else -1.0]),
        "rel_actions": np.array([0.5, -0.5, 0.1, 0.0, 0.2, 0.3, grip]),
        "actions": np.array([*tool, grip]),
        "scene_obs": np.zeros(24),
    }


def path_of(folder: Path, number: int) -> Path:
    return folder / f"episode_{number:07d}.npz"


def annotations() -> dict[str, dict]:
    emb = np.zeros((2, 1, 384), np.float32)
    spans = [(np.int64(first), last) for first, last in SPANS]
    return {"language": {"ann": SENTENCES, "task": TASKS, "emb": emb}, "info": {"episodes": [], "indx": spans}}


def annotate(folder: Path, content: object) -> None:
    (folder / ANNOTATIONS).parent.mkdir(exist_ok=True)
    np.save(folder / ANNOTATIONS, np.array(content, object), allow_pickle=True)


def change_frame(folder: Path, number: int, **changes: object) -> None:
    path = path_of(folder, number)
    with np.load(path) as file:
        frame = dict(file)
    np.savez_compressed(path, **{key: value for key, value in (frame | changes).items() if value is not None})


@pytest.fixture
def dataset(tmp_path: Path, contract: RobotContract) -> Path:
    folder = tmp_path / "task_D_D" / "training"
    folder.mkdir(parents=True)
    for number in range(START, START + COUNT):
        np.savez_compressed(path_of(folder, number), **frame_of(contract, number))
    annotate(folder, annotations())
    return folder


def read(folder: Path, contract: RobotContract, number: int = 0) -> Episode:
    return episode_of(read_demonstration(folder, read_annotations(folder)[number], contract), contract, trim=False)


def test_an_annotation_is_read_at_the_contracts_steps(dataset: Path, contract: RobotContract) -> None:
    kinematics = Kinematics(contract)
    for number, (first, steps, words, task) in enumerate(
        [(100, 10, "open the drawer", "open_drawer"), (118, 10, "push the switch up", "turn_on_lightbulb")]
    ):
        episode, frames = read(dataset, contract, number), first + 3 * np.arange(steps)
        assert (episode.instruction, episode.task, len(episode)) == (words, task, steps)
        np.testing.assert_allclose(episode.stamp, 0.1 * np.arange(steps), atol=1e-9)
        np.testing.assert_allclose(episode.joint_positions, [joints_of(contract, frame) for frame in frames])
        np.testing.assert_allclose(episode.gripper, np.where(frames < CLOSES, 0.75, 0.25))
        np.testing.assert_array_equal(episode.command_gripper, frames < CLOSES)
        for step, frame in enumerate(frames):
            position, quaternion = kinematics.forward(joints_of(contract, frame + 3))
            np.testing.assert_allclose(episode.command_positions[step], position, atol=1e-9)
            np.testing.assert_allclose(episode.command_quaternions[step], quaternion, atol=1e-9)
            for camera in ("static", "gripper"):
                image = episode.image(camera, step).astype(int)
                assert image.shape == (128, 128, 3)
                for half, colour in zip((image[:, :50], image[:, 78:]), colours_of(camera, frame), strict=True):
                    assert np.abs(half - colour).max() <= 3


def test_the_gripper_is_as_open_as_it_can_be_at_most(dataset: Path, contract: RobotContract) -> None:
    state = frame_of(contract, 100)["robot_obs"]
    state[6] = 0.0801
    change_frame(dataset, 100, robot_obs=state)
    assert read(dataset, contract).gripper[0] == 1.0


def test_steps_are_as_long_as_the_contract_says(dataset: Path, contract: RobotContract) -> None:
    def of(period: float) -> RobotContract:
        return replace(contract, action=replace(contract.action, step_period=period))

    slower = read(dataset, of(0.2))
    np.testing.assert_allclose(slower.joint_positions, [joints_of(contract, n) for n in (100, 106, 112, 118, 124)])
    assert slower.stamp[-1] == pytest.approx(0.8)
    assert len(read(dataset, of(0.0333))) == 30
    for period in (0.05, 0.03, 0.01, 0.102):
        with pytest.raises(DataError, match=rf"30 frames a second; the contract has a step each {period:g} s"):
            import_dataset(dataset, dataset, of(period))


def test_names_of_numpy_1_are_read(dataset: Path, contract: RobotContract) -> None:
    """As CALVIN's own files have them."""
    known = read_annotations(dataset)
    data = pickle.dumps(np.array(annotations(), object), protocol=3).replace(b"numpy._core", b"numpy.core")
    write_pickle(dataset, data)
    assert read_annotations(dataset) == known


def test_the_command_imports_once_goes_on_and_says_what_is_rejected(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["episodes", "import", str(dataset), "--out", str(out), "--workers", "1"]
    path_of(dataset, 142).rename(tmp_path / "moved")  # of the second annotation alone
    assert main(words) == 1
    said = capsys.readouterr().out
    assert f"{dataset}, annotation 1: there is no frame episode_0000142.npz" in said
    assert "1 imported (e.g. task_D_D_training_000000)" in said
    assert "1 rejected (e.g. task_D_D_training_000001)" in said
    first = out / "episode_task_D_D_training_000000.npz"
    assert [path.name for path in out.iterdir()] == [first.name]
    written = first.stat().st_mtime_ns

    (tmp_path / "moved").rename(path_of(dataset, 142))
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "1 imported (e.g. task_D_D_training_000001)" in said
    assert "1 there already" in said
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "2 there already" in said
    assert "imported" not in said
    assert first.stat().st_mtime_ns == written
    episodes = [read_episode(path) for path in sorted(out.iterdir())]
    assert [episode.instruction for episode in episodes] == ["open the drawer", "push the switch up"]
    assert {episode.contract.name for episode in episodes} == {"calvin"}


def test_the_command_says_which_folder_to_give(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["episodes", "import", str(dataset.parent), "--out", str(tmp_path / "out")]) == 1
    assert f"holds CALVIN's {dataset}: give one of them" in capsys.readouterr().err


def test_a_dataset_is_told_from_other_folders(dataset: Path, tmp_path: Path) -> None:
    assert is_dataset(dataset)
    assert is_dataset(dataset.parent)
    (dataset / ANNOTATIONS).unlink()
    assert is_dataset(dataset)
    own = tmp_path / "own"
    own.mkdir()
    (own / "episode_000100.npz").touch()
    for other in (own, tmp_path / "nothing", path_of(dataset, 100)):
        assert not is_dataset(other)


def truncated(folder: Path) -> None:
    path = path_of(folder, 103)
    path.write_bytes(path.read_bytes()[:-100])


def damaged(folder: Path) -> None:
    path = path_of(folder, 103)
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)


def an_array(folder: Path) -> None:
    with path_of(folder, 103).open("wb") as file:
        np.save(file, np.zeros(3))


def not_finite(key: str, size: int):
    return lambda folder: change_frame(folder, 103, **{key: np.full(size, np.nan)})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: path_of(folder, 103).unlink(), "there is no frame episode_0000103.npz"),
        (truncated, "episode_0000103.npz is not a frame, or is damaged"),
        (damaged, "episode_0000103.npz is not a frame, or is damaged"),
        (an_array, "episode_0000103.npz is not a frame, or is damaged"),
        (lambda folder: change_frame(folder, 103, robot_obs=None), "episode_0000103.npz is not a frame.*robot_obs"),
        (lambda folder: change_frame(folder, 103, rgb_gripper=None), "episode_0000103.npz is not a frame.*rgb_gripper"),
        (not_finite("robot_obs", 15), "robot_obs of episode_0000103.npz is not finite"),
        (not_finite("rel_actions", 7), "rel_actions of episode_0000103.npz is not finite"),
        (not_finite("robot_obs", 8), r"robot_obs of episode_0000103.npz has the shape \(8,\), not \(15,\)"),
        (not_finite("rel_actions", 8), r"rel_actions of episode_0000103.npz has the shape \(8,\), not \(7,\)"),
        (
            lambda folder: change_frame(folder, 103, rgb_static=np.zeros((200, 200), np.uint8)),
            r"rgb_static of episode_0000103.npz is no colour image: uint8 \(200, 200\)",
        ),
        (
            lambda folder: change_frame(folder, 103, rgb_static=np.zeros((200, 200, 3))),
            r"rgb_static of episode_0000103.npz is no colour image: float64 \(200, 200, 3\)",
        ),
        (
            lambda folder: change_frame(folder, 103, rgb_static=np.zeros((0, 200, 3), np.uint8)),
            r"rgb_static of episode_0000103.npz is no colour image: uint8 \(0, 200, 3\)",
        ),
    ],
)
def test_what_is_wrong_with_a_frame_rejects_its_annotation_alone(
    dataset: Path, contract: RobotContract, spoil, said: str
) -> None:
    spoil(dataset)
    with pytest.raises(DataError, match=f"training, annotation 0: {said}"):
        read(dataset, contract, 0)
    assert len(read(dataset, contract, 1)) == 10


def test_what_is_wrong_with_an_annotation_rejects_it_alone(dataset: Path, contract: RobotContract) -> None:
    content = annotations()
    content["info"]["indx"] = [(100, 105), (100, 106)]
    annotate(dataset, content)
    with pytest.raises(DataError, match="annotation 0: from frame 100 to 105 are less than two steps"):
        read(dataset, contract, 0)
    assert len(read(dataset, contract, 1)) == 2
    content["language"]["ann"] = [" ", "close the drawer"]
    annotate(dataset, content)
    with pytest.raises(DataError, match="annotation 0 has no instruction"):
        read(dataset, contract, 0)


class Malice:
    """A pickle that makes a file as it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


def write_pickle(folder: Path, data: bytes) -> None:
    with (folder / ANNOTATIONS).open("wb") as file:
        npy.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(data)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("where", ["alone", "within"])
def test_what_is_pickled_is_not_run(
    dataset: Path, contract: RobotContract, tmp_path: Path, protocol: int, where: str
) -> None:
    mark = tmp_path / "mark"
    content = Malice(mark) if where == "alone" else annotations() | {"more": [Malice(mark)]}
    data = pickle.dumps(np.array(content, object) if where == "within" else content, protocol=protocol)
    write_pickle(dataset, data)
    with pytest.raises(DataError, match=r"holds something else than annotations \(\w+.*\): nothing of it was run"):
        import_dataset(dataset, tmp_path / "out", contract)
    assert not mark.exists()
    pickle.loads(data)
    assert mark.exists()  # it would have been


class Lie:
    """An array of objects that are addresses, by a dtype that denies it."""

    def __reduce__(self) -> tuple:
        class Dtype:
            def __reduce__(self) -> tuple:
                state = (3, "|", None, ("f0",), {"f0": (np.dtype("O"), 0)}, 8, 1, 0)
                return np.dtype, ("V8", False, True), state

        state = (1, (), Dtype(), False, b"AAAAAAAA")
        return np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), state


def test_what_is_pickled_does_not_reach_into_memory(dataset: Path) -> None:
    write_pickle(dataset, pickle.dumps(Lie(), protocol=4))
    code = (
        "import pathlib as p, sys; from arvrm_ros.training import calvin as c; c.read_annotations(p.Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code, dataset], capture_output=True, text=True)
    assert done.returncode == 1  # not ended by a signal
    assert "holds something else than annotations" in done.stderr


def without(part: str, key: str) -> dict:
    content = annotations()
    del content[part][key]
    return content


def with_words(*words: object) -> dict:
    content = annotations()
    content["language"]["ann"] = list(words)
    return content


def with_spans(*spans: object) -> dict:
    content = annotations()
    content["info"]["indx"] = list(spans)
    return content


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        "annotations",
        without("language", "task"),
        without("info", "indx"),
        with_words("only one"),
        with_words("one", 2),
        with_words("one", b"two"),
        with_spans((100, 130), (100,)),
        with_spans((100, 130), (100.5, 130)),
        with_spans((100, 130), ("a", "b")),
    ],
)
def test_other_things_than_annotations_are_refused(dataset: Path, content: object) -> None:
    annotate(dataset, content)
    with pytest.raises(DataError, match=r"auto_lang_ann\.npy holds something else than annotations"):
        read_annotations(dataset)


def test_numbers_and_damage_are_no_annotations(dataset: Path) -> None:
    path = dataset / ANNOTATIONS
    whole = path.read_bytes()
    for size in (0, 5, 60, 140, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"auto_lang_ann\.npy cannot be read or is damaged"):
            read_annotations(dataset)
    np.save(path, np.zeros(3))
    with pytest.raises(DataError, match=r"auto_lang_ann\.npy cannot be read or is damaged"):
        read_annotations(dataset)
    annotate(dataset, with_spans() | {"language": {"ann": [], "task": []}})
    with pytest.raises(DataError, match="annotates nothing"):
        read_annotations(dataset)


def test_what_is_wrong_with_a_dataset_is_said_before_frames_are_read(
    dataset: Path, contract: RobotContract, tmp_path: Path
) -> None:
    def imported(folder: Path = dataset, contract: RobotContract = contract) -> None:
        import_dataset(folder, tmp_path / "out", contract)

    cameras = contract.observation.cameras
    wrist = replace(contract.observation, cameras={"wrist": cameras["gripper"]})
    with pytest.raises(DataError, match=r"no images rgb_wrist for the camera wrist; it has rgb_gripper, rgb_static"):
        imported(contract=replace(contract, observation=wrist))
    keys = ("position_min", "position_max", "velocity", "acceleration", "jerk")
    limits = replace(contract.limits, **{key: getattr(contract.limits, key)[:6] for key in keys})
    with pytest.raises(DataError, match="CALVIN's arm has 7 joints, the contract 6"):
        imported(contract=replace(contract, joints=contract.joints[:6], home=contract.home[:6], limits=limits))
    for folder in (tmp_path, tmp_path / "nothing", path_of(dataset, 100)):
        with pytest.raises(DataError, match="is no CALVIN dataset: give the folder with lang_annotations"):
            imported(folder)
    for path in dataset.glob("*.npz"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="annotations, but no frame that can be read"):
        imported()
    (dataset / ANNOTATIONS).unlink()
    with pytest.raises(DataError, match=r"has no lang_annotations/auto_lang_ann\.npy, and so no instructions"):
        imported()
    assert not (tmp_path / "out").exists()
