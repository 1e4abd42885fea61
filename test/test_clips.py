# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Human clips: the folder format, their collection, and the landmarker measured on them."""

import json
import shutil
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from arvrm_ros.cli import main
from arvrm_ros.contract import load_contract
from arvrm_ros.data.clips import Clip, Truth, clip_folders, project, read_clip, write_clip
from arvrm_ros.data.video import read_video, write_video
from arvrm_ros.errors import DataError
from arvrm_ros.evaluation import keypoint_report
from arvrm_ros.simulation import human
from arvrm_ros.simulation.tasks import TASKS


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Two clips made by the command line, in a worker process as a user's are."""
    out = tmp_path_factory.mktemp("clips")
    assert main(["collect", "human", "--out", str(out), "--clips", "2", "--seed", "5", "--workers", "1"]) == 0
    return out


def gradient(t, height=48, width=64):
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = np.linspace(0, 255, width), 20 * t, 128
    return image


def a_truth(frames):
    return Truth(
        np.arange(frames * 63, dtype=np.float32).reshape(frames, 21, 3),
        np.zeros((frames, 21, 3), np.float32),
        np.diag([500.0, 500.0, 1.0]),
        np.eye(4),
    )


def test_a_video_comes_back_as_it_was(tmp_path):
    images = [gradient(t) for t in range(7)]
    write_video(tmp_path / "v.mp4", images, 0.1)
    back, period = read_video(tmp_path / "v.mp4")
    assert back.shape == (7, 48, 64, 3)
    assert period == pytest.approx(0.1)
    assert np.abs(back.astype(int) - images).mean() < 3


def test_a_file_that_is_no_video_is_refused(tmp_path):
    (tmp_path / "v.mp4").write_bytes(b"not a video")
    for name in ("v.mp4", "missing.mp4"):
        with pytest.raises(DataError, match="cannot read the video"):
            read_video(tmp_path / name)


def test_a_clip_comes_back_as_it_was(tmp_path):
    clip = Clip("clip_000007", "open the drawer", "open_drawer", "left", {"view": "side"}, truth=a_truth(3))
    folder = write_clip(tmp_path, clip, [gradient(t) for t in range(3)], 0.1)
    back = read_clip(folder)
    assert (back.name, back.caption, back.task, back.handedness) == (
        "clip_000007",
        "open the drawer",
        "open_drawer",
        "left",
    )
    assert back.attributes == {"view": "side"}
    np.testing.assert_array_equal(back.truth.keypoints_world, clip.truth.keypoints_world)
    frames, period = back.frames()
    assert len(frames) == 3
    assert period == pytest.approx(0.1)
    assert clip_folders(tmp_path) == [folder]


def test_a_clip_that_fails_half_way_leaves_nothing_that_looks_like_a_clip(tmp_path):
    def frames():
        yield gradient(0)
        raise RuntimeError("camera gone")

    with pytest.raises(RuntimeError, match="camera gone"):
        write_clip(tmp_path, Clip("clip_000000", "x"), frames(), 0.1)
    with pytest.raises(DataError, match="no clips"):
        clip_folders(tmp_path)
    write_clip(tmp_path, Clip("clip_000000", "x"), [gradient(0)], 0.1)  # the leftovers are no obstacle
    assert [f.name for f in tmp_path.iterdir()] == ["clip_000000"]


def test_a_users_own_video_needs_a_caption_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    write_video(tmp_path / "mine" / "video.mp4", [gradient(0)], 0.1)
    with pytest.raises(DataError, match=r"no clip\.json"):
        read_clip(tmp_path / "mine")
    (tmp_path / "mine" / "clip.json").write_text(json.dumps({"caption": "close the drawer"}))
    clip = read_clip(tmp_path / "mine")
    assert clip.caption == "close the drawer"
    assert clip.truth is None
    with pytest.raises(DataError, match="only simulated clips"):
        keypoint_report.measure_clip(tmp_path / "mine")


def test_malformed_files_are_named(tmp_path):
    folder = write_clip(tmp_path, Clip("c", "x", truth=a_truth(1)), [gradient(0)], 0.1)
    (folder / "truth.npz").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"truth\.npz is malformed"):
        read_clip(folder)
    (folder / "clip.json").write_text("{")
    with pytest.raises(DataError, match=r"clip\.json is malformed"):
        read_clip(folder)


def test_projection_of_known_points():
    intrinsics = np.array([[100.0, 0, 50], [0, 100.0, 40], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, 3] = (0, 0, -1)  # the camera stands one metre behind the world's origin
    points = np.zeros((21, 3))
    points[1] = (0.1, -0.2, 0.0)
    points[2] = (0.0, 0.0, 1.0)
    image = project(points, intrinsics, pose, 100, 80)
    np.testing.assert_allclose(image[0], (0.5, 0.5, 0.0))
    np.testing.assert_allclose(image[1], (0.6, 0.25, 0.0))
    np.testing.assert_allclose(image[2], (0.5, 0.5, 1.0))  # one metre is 100 pixels, one image width


def test_the_projection_is_mujocos():
    """A free camera's pose as computed here agrees with the one MuJoCo renders from."""
    import mujoco

    camera = mujoco.MjvCamera()
    camera.lookat[:], camera.distance, camera.azimuth, camera.elevation = (0.5, 0.1, 0.2), 0.7, 71, -45
    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    scene = mujoco.MjvScene(model, maxgeom=10)
    mujoco.mjv_updateScene(model, mujoco.MjData(model), mujoco.MjvOption(), None, camera, 1, scene)
    _, pose = human.camera_pose(camera, 45.0)
    eyes = np.mean([scene.camera[i].pos for i in range(2)], axis=0)
    np.testing.assert_allclose(pose[:3, 3], eyes, atol=1e-5)
    np.testing.assert_allclose(pose[:3, 2], scene.camera[0].forward, atol=1e-5)
    np.testing.assert_allclose(-pose[:3, 1], scene.camera[0].up, atol=1e-5)


def test_the_robot_view_looks_as_the_robots_static_camera_does():
    from arvrm_ros.simulation.tabletop import Tabletop

    tabletop = Tabletop(load_contract("tabletop"), render=False)
    tabletop.reset(0, None, "A")
    _, static = tabletop.camera_matrix("static", 128, 128)
    keypoints = np.random.default_rng(0).normal((0.55, 0.0, 0.2), 0.05, (10, 21, 3))
    drawn = [human.draw_camera(keypoints, "robot", 45.0, np.random.default_rng(i))[2] for i in range(30)]
    forward = np.mean([pose[:3, 2] for pose in drawn], axis=0)
    assert forward @ static[:3, 2] / np.linalg.norm(forward) > np.cos(np.deg2rad(5))


def test_collected_clips_are_complete(collection):
    for folder in clip_folders(collection):
        clip = read_clip(folder)
        frames, period = clip.frames()
        assert frames.shape[1:] == (human.HEIGHT, human.WIDTH, 3)
        assert period == pytest.approx(1 / human.RATE)
        assert len(frames) == len(clip.truth.keypoints_world) == len(clip.truth.keypoints_image)
        assert 1.5 < len(frames) * period < 8.0
        assert clip.caption in TASKS[clip.task].instructions
        assert clip.caption not in TASKS[clip.task].held_out
    names = [read_clip(folder).task for folder in clip_folders(collection)]
    assert names == list(TASKS)[:2]


def test_the_hand_follows_the_task(collection):
    """While the drawer is opened, the hand's contact point goes away from the table."""
    clip = read_clip(collection / "clip_000000")
    assert clip.task == "open_drawer"
    keypoints = clip.truth.keypoints_world
    contact = keypoints[:, 8] if clip.attributes["gesture"] == "point" else (keypoints[:, 4] + keypoints[:, 8]) / 2
    low = contact[contact[:, 2] < 0.11]
    assert len(low) > 5
    assert low[0, 0] - low[-1, 0] > 0.08


def test_a_clip_can_be_made_again(collection, tmp_path):
    folder = human.make_clip(tmp_path, 1, 5, load_contract("tabletop"))
    again, first = read_clip(folder), read_clip(collection / "clip_000001")
    assert again.attributes == first.attributes
    assert again.caption == first.caption
    np.testing.assert_allclose(again.truth.keypoints_world, first.truth.keypoints_world, atol=1e-6)


def test_an_interrupted_collection_goes_on(collection, tmp_path):
    out = tmp_path / "clips"
    shutil.copytree(collection, out)
    kept = (out / "clip_000000" / "video.mp4").stat().st_mtime_ns
    shutil.rmtree(out / "clip_000001")
    (out / ".clip_000001.part").mkdir()  # what a killed worker leaves
    assert human.collect_human(out, 2, 5, 1) == 1
    assert (out / "clip_000000" / "video.mp4").stat().st_mtime_ns == kept
    assert [folder.name for folder in clip_folders(out)] == ["clip_000000", "clip_000001"]
    assert not (out / ".clip_000001.part").exists()
    assert human.collect_human(out, 2, 5, 1) == 0


def test_workers_end_when_the_collection_is_killed(tmp_path):
    command = [sys.executable, "-m", "arvrm_ros", "collect", "human", "--out", str(tmp_path), "--clips", "50"]
    collection = subprocess.Popen([*command, "--workers", "1"], stderr=subprocess.DEVNULL)
    try:
        while not list(tmp_path.glob("clip_*")):  # the worker is at work
            assert collection.poll() is None
            time.sleep(0.1)
        workers = psutil.Process(collection.pid).children(recursive=True)
        assert workers
    finally:
        collection.kill()
        collection.wait()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive


def test_two_collections_do_not_mix(collection, capsys):
    assert main(["collect", "human", "--out", str(collection), "--clips", "2", "--seed", "6", "--workers", "1"]) == 1
    assert "holds clips of seed 5, not 6" in capsys.readouterr().err


def test_an_expert_that_always_fails_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(human, "LONGEST", 0.1)
    with pytest.raises(DataError, match="failed 20 times at open_drawer"):
        human.make_clip(tmp_path, 0, 0, load_contract("tabletop"))
    assert list(tmp_path.iterdir()) == []


def test_shape_error_removes_what_it_says():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(21, 3))
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    turned = 3 * truth @ quarter.T + [1, 2, 3]
    np.testing.assert_allclose(keypoint_report.shape_error(turned, truth, rotate=True), 0, atol=1e-9)
    assert keypoint_report.shape_error(turned, truth, rotate=False).mean() > 0.5
    np.testing.assert_allclose(keypoint_report.shape_error(3 * truth + 1, truth, rotate=False), 0, atol=1e-9)
    # A mirror image is another hand, not a rotated one.
    assert keypoint_report.shape_error(truth * [-1, 1, 1], truth, rotate=True).mean() > 0.1


def test_the_landmarker_is_measured_on_collected_clips(collection, tmp_path, capsys):
    out, figures = tmp_path / "report", tmp_path / "figures.json"
    assert main(["keypoints", str(collection), "--out", str(out), "--json", str(figures), "--workers", "1"]) == 0
    found = json.loads(figures.read_text())
    overall = found["overall"]
    assert overall["clips"] == 2
    assert overall["frames"] == sum(len(read_clip(f).truth.keypoints_world) for f in clip_folders(collection))
    assert overall["detection_rate"] > 0.4
    assert 0.5 < overall["pixels"]["median"] < 40
    assert 1 < overall["aligned_mm"]["median"] <= overall["camera_mm"]["median"] < 60
    raw, smooth = found["tracks"]["as found"], found["tracks"]["smoothed"]
    assert raw["pixels"] == pytest.approx(overall["pixels"]["mean"])
    assert smooth["jitter"] < raw["jitter"]
    assert smooth["pixels"] < raw["pixels"] + 1
    assert abs(smooth["lag_ms"] - raw["lag_ms"]) < 10
    for members in found["groups"].values():
        assert sum(summary["clips"] for summary in members.values()) == 2
    page = (out / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 4
    assert "http" not in page
    assert "detection" in page or "found" in page
    assert "all" in capsys.readouterr().out


def test_a_clip_without_a_hand_counts_as_missed(collection, tmp_path):
    clip = read_clip(collection / "clip_000000")
    clip.name = "clip_000000"
    frames = len(clip.truth.keypoints_world)
    write_clip(tmp_path, clip, [np.full((120, 160, 3), 90, np.uint8)] * frames, 0.1)
    measurements = keypoint_report.measure(tmp_path)
    overall = keypoint_report.report(measurements)["overall"]
    assert overall["detection_rate"] == 0.0
    assert overall["pixels"]["median"] is None
    assert keypoint_report.report(measurements)["tracks"]["smoothed"]["jitter"] is None
    assert "No hand found" in keypoint_report.render_html(measurements)


def test_measuring_an_empty_folder_says_what_to_do(tmp_path, capsys):
    assert main(["keypoints", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "arvrm collect human" in capsys.readouterr().err
