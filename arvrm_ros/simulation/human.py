# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Human clips made here: the scripted expert does a task out of sight, a hand is filmed in the place of its gripper.

The table, the objects and what happens to them come from the physics. The arm is left out of the pictures and the hand
drawn in, so that hand and objects move together without a model of a hand's contacts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from tqdm import tqdm

from arvrm_ros.contract import RobotContract, load_contract
from arvrm_ros.data.clips import Clip, Truth, project, write_clip
from arvrm_ros.errors import ArvrmError, DataError, MotionRefused
from arvrm_ros.files import write_json
from arvrm_ros.motion.kinematics import Kinematics
from arvrm_ros.simulation import scene
from arvrm_ros.simulation.hand import CapsuleHand, Posture, blend, grasp, hand_rotation, pinch, point
from arvrm_ros.simulation.servo import PoseServo
from arvrm_ros.simulation.tabletop import Tabletop
from arvrm_ros.simulation.tasks import TASKS
from arvrm_ros.simulation.world import EVALUATION_SEEDS
from arvrm_ros.workers import process_pool

RATE = 10.0
"""Frames per second of a collection unless it is asked for others."""

HEIGHT, WIDTH = 360, 480
LONGEST = 8.0  # seconds
ATTEMPTS = 20
ARM_GROUP = 2

SMALLEST_HAND = {"robot": 60, "across": 90, "side": 90, "shoulder": 90}
"""Per view, pixels from wrist to middle fingertip (median) that are wanted; smaller, landmarks become coarse."""


SKINS = {
    "very light": (0.94, 0.80, 0.71),
    "light": (0.87, 0.67, 0.55),
    "medium": (0.76, 0.55, 0.42),
    "tan": (0.63, 0.43, 0.31),
    "brown": (0.47, 0.31, 0.22),
    "dark": (0.35, 0.24, 0.19),
}
"""Skin tones, sRGB in [0, 1]."""

GLOVES = {
    "white glove": (0.93, 0.93, 0.92),
    "black glove": (0.08, 0.08, 0.09),
    "blue glove": (0.25, 0.45, 0.80),
    "yellow glove": (0.95, 0.80, 0.15),
    "green glove": (0.15, 0.50, 0.30),
}
"""Colours of gloves as workshops and kitchens have them, sRGB in [0, 1]."""

STANDS = {"behind": (-0.10, 0.0), "opposite": (1.20, 0.0), "left": (0.45, 0.75), "right": (0.45, -0.75)}
"""Where the person stands: x and y of the middle of the shoulders, metres; "behind" is the robot's own place."""

VIEWS = ("robot", "across", "side", "shoulder")
"""Camera views: as the robot's static camera; facing the person; from the side; past the person's shoulder."""


@dataclass
class Performance:
    """What the expert did, one row per video frame (T frames).

    Attributes:
        qpos: (T, nq) of the MuJoCo model.
        lights: (T, 2) bool, LED and bulb.
        end_effector: (T, 3) metres.
        gap: (T,) metres between the gripper's fingers.
    """

    qpos: np.ndarray
    lights: np.ndarray
    end_effector: np.ndarray
    gap: np.ndarray


def perform(
    tabletop: Tabletop,
    kinematics: Kinematics,
    task: str,
    seed: int,
    speed: float,
    rng: np.random.Generator,
    rate: float = RATE,
) -> Performance | None:
    """Lets the expert do a task, ``speed`` times as fast as real time; None when it did not succeed."""
    tabletop.reset(seed, task)
    period = round(speed / rate, 2)  # the servo works in steps of 10 ms
    done, expert, servo = tabletop.judge(task), tabletop.expert(task, rng, period), PoseServo(tabletop, kinematics)
    succeeded = False
    records: list[tuple[np.ndarray, tuple[bool, bool], np.ndarray, float]] = []
    while not expert.done and len(records) < round(LONGEST * rate):
        try:
            servo.move(*expert.act(), period)
        except MotionRefused:
            return None
        records.append(
            (
                tabletop.data.qpos.copy(),
                tabletop.lamps,
                tabletop.end_effector()[0],
                2 * tabletop.finger_position,
            )
        )
        succeeded = done()
    if not (succeeded and expert.done):
        return None
    # People do not all start from the same place.
    first = int(rng.integers(0, 6))
    return Performance(*(np.array(column)[first:] for column in zip(*records, strict=True)))


@dataclass
class Reach:
    """How one person's hand goes along with the end effector: fixed habits and a slow sway, drawn once per clip."""

    hand: CapsuleHand
    stand: str
    shoulder: np.ndarray
    heading: float
    pitch: float
    roll: float
    points: bool
    relaxed: float  # metres between thumb and index finger when there is nothing between them
    sway: np.ndarray  # (3, 2) amplitude in radians and phase of heading, pitch, roll

    @classmethod
    def draw(
        cls, task: str, rng: np.random.Generator, skins: dict[str, tuple[float, float, float]]
    ) -> tuple[Reach, str]:
        """A person for a task, and the name of the skin's colour, one of ``skins``."""
        skin_name = str(rng.choice(list(skins)))
        skin = np.clip(np.array(skins[skin_name]) * rng.uniform(0.93, 1.07) + rng.normal(0, 0.012, 3), 0, 1)
        handedness = "right" if rng.random() < 0.65 else "left"
        sleeve = tuple(rng.uniform(0.05, 0.9, 3)) if rng.random() < 0.5 else None
        hand = CapsuleHand(float(rng.uniform(0.88, 1.12)), tuple(skin), handedness, sleeve)
        # A drawer is opened from in front of it.
        stands = ["behind", "left", "right"] if TASKS[task].kind in ("drawer", "put") else list(STANDS)
        stand = str(rng.choice(stands, p=[0.6, 0.2, 0.2] if len(stands) == 3 else [0.5, 0.2, 0.15, 0.15]))
        x, y = STANDS[stand]
        towards = np.array([0.55 - x, -y]) / np.hypot(0.55 - x, y)
        to_right = np.array([towards[1], -towards[0]]) * (1 if handedness == "right" else -1)
        shoulder = np.array([x, y]) + 0.18 * to_right
        points = TASKS[task].kind not in ("lift", "put") and bool(rng.random() < 0.5)
        pitch = rng.uniform(0.35, 0.8) if points else rng.uniform(0.15, 0.7)
        sway = np.stack([rng.uniform(0.02, 0.10, 3), rng.uniform(0, 2 * np.pi, 3)], axis=1)
        heading, roll, relaxed = rng.uniform(-0.3, 0.3), rng.uniform(-0.1, 0.8), rng.uniform(0.015, 0.035)
        reach = cls(hand, stand, shoulder, heading, pitch, roll, points, relaxed, sway)
        return reach, skin_name

    def at(self, end_effector: np.ndarray, gap: float, seconds: float) -> tuple[np.ndarray, Posture]:
        """World from hand (4, 4) and posture when the end effector is at a place, its fingers ``gap`` metres apart."""
        heading, pitch, roll = np.array([self.heading, self.pitch, self.roll]) + self.sway[:, 0] * np.sin(
            2.2 * seconds + self.sway[:, 1]
        )
        side = 1 if self.hand.handedness == "right" else -1
        arm = end_effector[:2] - self.shoulder
        rotation = hand_rotation(float(np.arctan2(arm[1], arm[0])) + side * heading, pitch, side * roll)
        if self.points:
            posture = blend(point(), pinch(0.5), 0.08 * (1 + np.sin(1.7 * seconds + self.sway[0, 1])))
            contact = self.hand.index_tip(posture)
        else:
            posture = grasp(max(gap, self.relaxed) / self.hand.size)
            contact = self.hand.pinch_point(posture)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, end_effector - rotation @ contact
        return pose, posture


def camera_pose(camera: mujoco.MjvCamera, fovy: float) -> tuple[np.ndarray, np.ndarray]:
    """Intrinsics (3, 3) for :data:`WIDTH` x :data:`HEIGHT` and optical-frame pose (4, 4) of a free camera.

    Args:
        camera: lookat, distance, azimuth and elevation in degrees.
        fovy: vertical field of view, degrees.
    """
    azimuth, elevation = np.deg2rad([camera.azimuth, camera.elevation])
    forward = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    right = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = camera.lookat - camera.distance * forward
    focal = HEIGHT / 2 / np.tan(np.deg2rad(fovy) / 2)
    return np.array([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1.0]]), pose


def draw_camera(
    keypoints: np.ndarray, view: str, fovy: float, rng: np.random.Generator
) -> tuple[mujoco.MjvCamera, np.ndarray, np.ndarray]:
    """A free camera of a view that keeps the whole hand in the picture.

    Args:
        keypoints: (T, 21, 3) metres, world.
        view: one of :data:`VIEWS`.
        fovy: vertical field of view, degrees.
        rng: draws the camera.

    Returns:
        The camera, its intrinsics and its pose as of :func:`camera_pose`.
    """
    forward = (keypoints[:, 9] - keypoints[:, 0]).mean(0)
    heading = np.rad2deg(np.arctan2(forward[1], forward[0]))
    side = rng.choice([-1, 1])
    camera = mujoco.MjvCamera()
    camera.azimuth, camera.elevation = {
        "robot": lambda: tuple(_direction(*scene.STATIC_CAMERA) + rng.normal(0, (10, 6))),
        "across": lambda: (heading + 180 + rng.uniform(-40, 40), -rng.uniform(25, 55)),
        "side": lambda: (heading + side * rng.uniform(60, 120), -rng.uniform(20, 50)),
        "shoulder": lambda: (heading + side * rng.uniform(35, 60), -rng.uniform(35, 60)),
    }[view]()
    low, high = keypoints.reshape(-1, 3).min(0), keypoints.reshape(-1, 3).max(0)
    camera.lookat[:] = (low + high) / 2 + rng.uniform(-0.03, 0.03, 3)
    camera.distance = rng.uniform(0.7, 1.1) if view == "robot" else rng.uniform(0.45, 0.85)
    while True:
        intrinsics, pose = camera_pose(camera, fovy)
        image = project(keypoints, intrinsics, pose, WIDTH, HEIGHT)[..., :2]
        inside = np.all((image > 0.03) & (image < 0.97), axis=(1, 2)).mean()
        if inside > 0.97 or camera.distance > 1.3:
            return camera, intrinsics, pose
        camera.distance *= 1.08


def _direction(eye: tuple[float, float, float], target: tuple[float, float, float]) -> np.ndarray:
    """Azimuth and elevation in degrees of the look from one point to another."""
    x, y, z = np.subtract(target, eye)
    return np.rad2deg([np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))])


def film(
    tabletop: Tabletop,
    performance: Performance,
    camera: mujoco.MjvCamera,
    hand: CapsuleHand,
    poses: list[tuple[np.ndarray, Posture]],
) -> Iterator[np.ndarray]:
    """Renders a performance with the hand in and the arm out: (HEIGHT, WIDTH, 3) uint8 RGB each."""
    model, data = tabletop.model, tabletop.data
    option = mujoco.MjvOption()
    option.geomgroup[ARM_GROUP] = 0
    with mujoco.Renderer(model, HEIGHT, WIDTH, max_geom=400) as renderer:
        for qpos, lights, (pose, posture) in zip(performance.qpos, performance.lights, poses, strict=True):
            data.qpos[:] = qpos
            mujoco.mj_kinematics(model, data)
            mujoco.mj_camlight(model, data)
            scene.set_lights(model, *lights)
            renderer.update_scene(data, camera, option)
            hand.add_to(renderer.scene, pose, posture)
            yield renderer.render()


def _vary_look(model: mujoco.MjModel, rng: np.random.Generator) -> None:
    """Other light, and half of the time another floor and table top than the variant's."""
    model.vis.headlight.ambient[:] *= rng.uniform(0.75, 1.15)
    model.vis.headlight.diffuse[:] *= rng.uniform(0.7, 1.2)
    model.light_diffuse[:] *= rng.uniform(0.5, 1.1) * rng.uniform(0.92, 1.08, 3)
    model.light_pos[:] += rng.uniform(-0.5, 0.5, 3)
    if rng.random() < 0.5:
        # Rooms are rarely colourful: a grey with a tint.
        model.geom("floor").rgba[:3] = np.clip(rng.uniform(0.2, 0.8) + rng.normal(0, 0.05, 3), 0.05, 0.95)
        table = model.geom("table").rgba[:3] * rng.uniform(0.7, 1.25) + rng.normal(0, 0.04, 3)
        for name, shade in (("table", 1.0), ("table_left", 0.8), ("table_right", 0.8), ("table_back", 0.8)):
            model.geom(name).rgba[:3] = np.clip(shade * table, 0.05, 0.95)


def make_clip(
    root: Path, index: int, seed: int, contract: RobotContract, rate: float = RATE, gloves: bool = False
) -> Path:
    """Makes clip ``index`` of the collection ``seed`` in the folder ``root``; the same arguments give the same clip.

    Raises:
        DataError: the expert failed :data:`ATTEMPTS` times.
    """
    rng = np.random.default_rng([seed, index])
    task = list(TASKS)[index % len(TASKS)]
    variant = str(rng.choice(list(scene.VARIANTS)))
    tabletop, kinematics = Tabletop(contract, variant, render=False), Kinematics(contract)
    for _ in range(ATTEMPTS):
        scene_seed, speed = int(rng.integers(EVALUATION_SEEDS)), float(rng.integers(7, 14)) / 10
        performance = perform(tabletop, kinematics, task, scene_seed, speed, rng, rate)
        if performance is not None:
            break
    else:
        raise DataError(f"the scripted expert failed {ATTEMPTS} times at {task} in variant {variant}")

    reach, skin = Reach.draw(task, rng, GLOVES if gloves else SKINS)
    poses = [
        reach.at(end_effector, float(gap), i * (1 / rate))
        for i, (end_effector, gap) in enumerate(zip(performance.end_effector, performance.gap, strict=True))
    ]
    keypoints = np.stack([reach.hand.keypoints(*pose) for pose in poses])
    _vary_look(tabletop.model, rng)
    fovy = float(tabletop.model.vis.global_.fovy)
    view = str(rng.choice(VIEWS, p=[0.4, 0.25, 0.2, 0.15]))
    cameras = [draw_camera(keypoints, view, fovy, rng) for _ in range(10)]
    lengths = [_hand_pixels(project(keypoints, k, pose, WIDTH, HEIGHT)) for _, k, pose in cameras]
    # The first that shows the hand large enough, else the one that shows it largest.
    chosen = next((i for i, length in enumerate(lengths) if length >= SMALLEST_HAND[view]), int(np.argmax(lengths)))
    (camera, intrinsics, pose), length = cameras[chosen], lengths[chosen]
    image = project(keypoints, intrinsics, pose, WIDTH, HEIGHT)
    clip = Clip(
        name=clip_name(index),
        caption=str(rng.choice(TASKS[task].instructions)),
        task=task,
        handedness=reach.hand.handedness,
        attributes={
            "seed": seed,
            "scene_seed": scene_seed,
            "variant": variant,
            "view": view,
            "stand": reach.stand,
            "skin": skin,
            "hand_size": round(reach.hand.size, 3),
            "hand_pixels": round(length, 1),
            "gesture": "point" if reach.points else "pinch",
            "speed": speed,
            "camera_azimuth": round(float(camera.azimuth), 1),
            "camera_elevation": round(float(camera.elevation), 1),
            "camera_distance": round(float(camera.distance), 3),
        },
        truth=Truth(
            keypoints.astype(np.float32),
            image.astype(np.float32),
            intrinsics,
            pose,
            _scene_points(tabletop, performance, intrinsics, pose),
            np.array(performance.lights, np.float32),
        ),
    )
    frames = film(tabletop, performance, camera, reach.hand, poses)
    return write_clip(root, clip, frames, 1 / rate)


def _scene_points(tabletop: Tabletop, performance: Performance, intrinsics: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """(T, P, 3) of the things of ``scene.POINTS``: x, y in [0, 1] of the image, and 1 if within it, else 0."""
    rows = []
    for qpos in performance.qpos:
        tabletop.data.qpos[:] = qpos
        mujoco.mj_kinematics(tabletop.model, tabletop.data)
        rows.append(tabletop.points())
    points = np.array(rows)
    in_front = (points - pose[:3, 3]) @ pose[:3, 2] > 0.01
    image = project(points, intrinsics, pose, WIDTH, HEIGHT)[..., :2]
    within = in_front & np.all((image > 0) & (image < 1), axis=-1)
    return np.concatenate([image * within[..., None], within[..., None]], -1).astype(np.float32)


def _hand_pixels(image: np.ndarray) -> float:
    """Length of the hand in the picture, wrist to middle fingertip: median over keypoints (T, 21, 3)."""
    return float(np.median(np.linalg.norm((image[:, 12, :2] - image[:, 0, :2]) * (WIDTH, HEIGHT), axis=-1)))


def clip_name(index: int) -> str:
    """Folder name of a clip."""
    return f"clip_{index:06d}"


def collect_human(
    out: Path | str,
    clips: int,
    seed: int,
    workers: int,
    contract: str = "tabletop",
    rate: float = RATE,
    gloves: bool = False,
) -> int:
    """Makes human clips in parallel. Clips that are already there are kept, so an interrupted run goes on where it was.

    Args:
        out: folder of clips.
        clips: how many there shall be; tasks take turns.
        seed: of the whole collection; the clips do not depend on ``workers``.
        workers: processes.
        contract: name or path of the robot contract of the scene.
        rate: frames per second; phones film 30.
        gloves: hands in gloves, to see what the landmarker makes of them.

    Returns:
        How many clips were made now.

    Raises:
        DataError: the folder holds another collection, or some clips could not be made (the others are kept).
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, {"seed": seed, "rate": rate, "gloves": gloves})
    todo = [index for index in range(clips) if not (out / clip_name(index)).is_dir()]
    loaded, failures = load_contract(contract), []
    with process_pool(workers) as pool:
        futures = [pool.submit(make_clip, out, index, seed, loaded, rate, gloves) for index in todo]
        try:
            for future in tqdm(as_completed(futures), "human clips", clips, initial=clips - len(todo), unit="clip"):
                try:
                    future.result()
                except ArvrmError as error:
                    failures.append(str(error))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failures:
        raise DataError(f"{len(failures)} of {len(todo)} clips could not be made: {'; '.join(sorted(set(failures)))}")
    return len(todo)


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Refuses to mix collections of different settings in one folder."""
    file = out / "collection.json"
    if not file.is_file():
        write_json(file, settings)
        return
    found = {"rate": RATE, "gloves": False} | json.loads(file.read_text(encoding="utf-8"))
    if wrong := [f"{name} {found[name]}, not {value}" for name, value in settings.items() if found[name] != value]:
        raise DataError(f"{out} holds clips of {', '.join(wrong)}: go on as they were made, or use another folder")
