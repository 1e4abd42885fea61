# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""CALVIN's environment (Mees et al. 2022) as a world: its simulator, its tables, its sequences and its oracle.

Nothing of CALVIN is part of this package. :data:`ROOT` names the folder of a clone of ``mees/calvin`` with its
submodule ``calvin_env``; docs/calvin.md says how to get there. CALVIN's step is a thirtieth of a second, its tasks are
judged after each, and the joint commands of the executor are its ``joint_abs`` actions. CALVIN's world has x to the
right along the table's front, y away from the robot's side of it, and z up; the robot's base is turned as the world.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from arvrm_ros.contract import RobotContract
from arvrm_ros.data.types import Observation
from arvrm_ros.errors import ArvrmError
from arvrm_ros.files import write_json
from arvrm_ros.motion.kinematics import Kinematics
from arvrm_ros.perception.cameras import resize
from arvrm_ros.perception.models import models_folder
from arvrm_ros.simulation import scene
from arvrm_ros.simulation.calvin_expert import BLOCKS, CalvinExpert
from arvrm_ros.simulation.chains import LENGTH
from arvrm_ros.simulation.experts import Expert
from arvrm_ros.simulation.world import EVALUATION_SEEDS

ROOT = "CALVIN_ROOT"
"""Environment variable, CALVIN's own name for the folder of its clone."""

INSTALL = (
    "clone https://github.com/mees/calvin with --recurse-submodules, let CALVIN_ROOT name the folder, and run "
    "'pip install -r requirements/calvin.txt' or 'arvrm_ros[calvin]' (docs/calvin.md)"
)

VARIANTS = "ABCD"
SEQUENCES = 1000
"""Of CALVIN's evaluation; which they are depends on their number."""

STEPS_PER_SECOND = 30
IN_CABINET, APART = 0.092, 0.11
"""Metres: y of blocks in the cabinet, as in CALVIN's evaluation, and from one block's middle to another's."""


class Modules(NamedTuple):
    """What is used of CALVIN's code."""

    instantiate: Any
    OmegaConf: Any
    Tasks: Any
    sequences: Any
    start_of: Callable[[dict[str, Any]], tuple[np.ndarray, np.ndarray]]


def root() -> Path:
    """The folder of CALVIN's clone.

    Raises:
        ArvrmError: none is named, or the one that is lacks CALVIN's files.
    """
    if not (named := os.environ.get(ROOT)):
        raise ArvrmError(f"CALVIN's environment is not part of arvrm_ros: {INSTALL}")
    folder = Path(named)
    for part in ("calvin_models/conf", "calvin_env/calvin_env", "calvin_env/conf"):
        if not (folder / part).is_dir():
            raise ArvrmError(f"{ROOT} is {folder}, which has no {part}: {INSTALL}")
    return folder


@functools.cache
def modules() -> Modules:
    """CALVIN's code. Its evaluation imports what it trains with, and a package that Python 3.11 cannot build: neither
    is needed, and both are left out.

    Raises:
        ArvrmError: see :func:`root`; or a package that CALVIN needs is not installed.
    """
    folder = root()
    for path in (folder / "calvin_env", folder / "calvin_models"):
        if str(path) not in sys.path:
            sys.path.append(str(path))
    absent: dict[str, dict[str, Any]] = {
        "calvin_agent.models": {"__path__": []},
        "calvin_agent.models.mcil": {"MCIL": None},
        "calvin_agent.utils": {"__path__": []},
        "calvin_agent.utils.utils": {"add_text": None, "format_sftp_path": None},
        "pyhash": {"fnv1_32": lambda: _fnv1_32},
    }
    before = {name: sys.modules.get(name) for name in absent}
    for name, content in absent.items():
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__dict__.update(content)
    try:
        with _quietly():
            import hydra.utils
            from calvin_agent.evaluation import multistep_sequences
            from calvin_agent.evaluation.utils import get_env_state_for_initial_condition
            from calvin_env.envs.tasks import Tasks
            from omegaconf import OmegaConf
    except ImportError as error:
        raise ArvrmError(f"CALVIN's environment cannot be loaded ({error}): {INSTALL}") from None
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    return Modules(hydra.utils.instantiate, OmegaConf, Tasks, multistep_sequences, get_env_state_for_initial_condition)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Drops what CALVIN's packages print as they start, of gym's age and Bullet's drivers; what is wrong is raised."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = {stream: os.dup(stream) for stream in (1, 2)}
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in kept:
        os.dup2(nowhere, stream)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, old in kept.items():
            os.dup2(old, stream)
            os.close(old)
        os.close(nowhere)


def _fnv1_32(text: str) -> int:
    """FNV-1 of UTF-16 text from 0 on, as ``pyhash`` has it: it seeds what CALVIN draws for the start of a sequence."""
    value = 0
    for byte in text.encode("utf-16-le"):
        value = (value * 0x01000193 & 0xFFFFFFFF) ^ byte
    return value


@functools.cache
def sequences() -> list[tuple[dict[str, Any], tuple[str, ...]]]:
    """The thousand sequences of CALVIN's evaluation: what the scene is like at first, and five tasks.

    CALVIN draws them for about two minutes; they are kept beside the models.

    Raises:
        ArvrmError: see :func:`modules`.
    """
    drawing = modules().sequences
    source = hashlib.sha256(Path(drawing.__file__).read_bytes()).hexdigest()[:12]
    kept = models_folder() / f"calvin_sequences_{SEQUENCES}_{source}.json"
    if not kept.is_file():
        tqdm.write(f"CALVIN draws its {SEQUENCES} sequences, once, which takes about two minutes")
        drawn = [(start, [str(task) for task in tasks]) for start, tasks in drawing.get_sequences(SEQUENCES)]
        write_json(kept, drawn)
    return [(start, tuple(tasks)) for start, tasks in json.loads(kept.read_text(encoding="utf-8"))]


@functools.cache
def _wordings(name: str) -> dict[str, list[str]]:
    """Sentences per task."""
    path = root() / "calvin_models" / "conf" / "annotations" / f"{name}.yaml"
    return modules().OmegaConf.to_container(modules().OmegaConf.load(path))


def validation_wording(task: str) -> str:
    """How CALVIN's evaluation asks for a task."""
    return _wordings("new_playtable_validation")[task][0]


def random_start(rng: np.random.Generator) -> dict[str, Any]:
    """What a scene may be like at first, drawn as evenly as CALVIN's evaluation does; no block is in the drawer."""
    blocks = rng.permutation(["table", "slider_left", "slider_right"])
    if rng.random() < 0.5:  # two blocks on the table
        blocks[rng.choice(np.flatnonzero(blocks != "table"))] = "table"
    return {
        "led": int(rng.integers(2)),
        "lightbulb": int(rng.integers(2)),
        "slider": str(rng.choice(["right", "left"])),
        "drawer": str(rng.choice(["closed", "open"])),
        **{f"{color}_block": str(place) for color, place in zip(BLOCKS, blocks, strict=True)},
        "grasped": 0,
    }


class Calvin:
    """CALVIN's environment; a ``World``.

    ``reset`` begins with a random scene for collection, and for the seeds of the evaluation, from
    ``EVALUATION_SEEDS`` on, with the scene of the sequence of that number.

    Args:
        contract: ``config/robots/calvin.yaml`` or a like one.
        variant: which of CALVIN's tables.
        egl: CALVIN's own renderer, which its published data was rendered with, in place of Bullet's software renderer,
            which needs no OpenGL. They shade differently: a policy works with the one it was trained with.

    Raises:
        ArvrmError: see :func:`root` and :func:`modules`.
    """

    cycle = 1 / STEPS_PER_SECOND
    latency = 0.0  # CALVIN's time stands while the policy thinks
    lag = 0.1

    def __init__(self, contract: RobotContract, variant: str = "D", egl: bool = False) -> None:
        self.contract, self._egl = contract, egl
        self._kinematics = Kinematics(contract)
        self._oracle = modules().Tasks(
            modules()
            .OmegaConf.load(root() / "calvin_models/conf/callbacks/rollout/tasks/new_playtable_tasks.yaml")
            .tasks
        )
        self._env: Any = None
        self._load(variant)

    def _load(self, variant: str) -> None:
        """Builds a table; Bullet has one at a time."""
        if variant not in VARIANTS:
            raise ArvrmError(f"CALVIN has no table {variant!r}: use one of {', '.join(VARIANTS)}")
        self.close()
        self.variant = variant
        settings, conf = modules().OmegaConf, root() / "calvin_env" / "conf"
        robot = settings.merge(*(settings.load(conf / "robot" / f"{name}.yaml") for name in
                                 ("panda", "panda_longer_finger")))  # fmt: skip
        robot.pop("defaults")
        cameras = {name: settings.load(conf / "cameras" / "cameras" / f"{name}.yaml") for name in ("static", "gripper")}
        config = settings.create(
            {
                "data_path": "data",
                "use_vr": False,
                "robot": robot,
                "cameras": cameras,
                "scene": settings.load(conf / "scene" / f"calvin_scene_{variant}.yaml"),
                "env": settings.load(conf / "env" / "play_table_env.yaml"),
            }
        )
        config.env.use_egl, config.env.use_scene_info = self._egl, True
        with _quietly():
            self._env = modules().instantiate(config.env)
        self._env.close = lambda: None  # it prints, and again when it is forgotten
        self._cameras = {camera.name: camera for camera in self._env.cameras}
        self._base = np.array(self._env.robot.base_position)
        self._table = self._env.scene.fixed_objects[0]
        self._begin()

    def close(self) -> None:
        """Ends the simulation."""
        if self._env is not None:
            self._env.p.disconnect(physicsClientId=self._env.cid)
            self._env = None

    def _begin(self) -> None:
        self._steps = 0
        self._command = (self.joint_positions, 1.0)
        self._look: Callable[[], bool] = lambda: False

    def reset(self, seed: int, task: str | None = None, variant: str | None = None) -> None:
        """Begins anew; see the class. The arm begins where CALVIN has it, in collection up to a few centimetres off.

        Raises:
            ArvrmError: there is no such sequence, or a task is asked for: CALVIN's scenes are for all of them.
        """
        if task is not None:
            raise ArvrmError("CALVIN's scenes are drawn for no task: leave it out")
        if variant and variant != self.variant:
            self._load(variant)
        if seed < EVALUATION_SEEDS:
            rng = np.random.default_rng(seed)
            start = random_start(rng)
            robot, objects = modules().start_of(start)
            self._vary(start, robot, objects, rng)
        elif seed - EVALUATION_SEEDS < SEQUENCES:
            start = sequences()[seed - EVALUATION_SEEDS][0]
            robot, objects = modules().start_of(start)
        else:
            raise ArvrmError(f"CALVIN's evaluation has {SEQUENCES} sequences")
        self._start = start
        self._env.scene.reset(objects)
        self._env.robot.reset(robot)
        self._env.robot.gripper_action = 1
        self._env.p.stepSimulation(physicsClientId=self._env.cid)
        self._begin()

    def _vary(self, start: dict[str, Any], robot: np.ndarray, objects: np.ndarray, rng: np.random.Generator) -> None:
        """Puts the blocks somewhere on the surfaces of this table that they are to be on; moves the arm a little."""
        blocks = objects[6:].reshape(-1, 6)  # x, y, z, roll, pitch, yaw, in the order of this table's blocks
        while True:
            for block, body in zip(blocks, self._env.scene.movable_objects, strict=True):
                place = start[f"{body.name.removeprefix('block_')}_block"]
                low, high = np.array(self._env.scene.surfaces[place])
                block[:3] = rng.uniform(low, high)
                if place != "table":  # the hand just fits beside the door, and under the cabinet's roof
                    block[:2] = (low[0] + high[0]) / 2 + rng.uniform(-0.01, 0.01), IN_CABINET
                block[5] = np.pi / 2 + rng.uniform(-0.8, 0.8)
            if min(np.linalg.norm(blocks[i, :2] - blocks[j, :2]) for i, j in ((0, 1), (0, 2), (1, 2))) > APART:
                break
        robot[7:14] += rng.normal(0.0, 0.05, 7)

    # The robot.

    @property
    def time(self) -> float:
        """Simulated seconds since the reset."""
        return self._steps * self.cycle

    @property
    def joint_positions(self) -> np.ndarray:
        """(n,) radians, in the contract's order."""
        return self._joints(self._env.robot.arm_joint_ids)

    @property
    def gripper(self) -> float:
        """Measured opening in [0, 1]."""
        return self.contract.gripper.opening(float(self._joints(self._env.robot.gripper_joint_ids).mean()))

    def _joints(self, indices: Sequence[int]) -> np.ndarray:
        robot = self._env.robot
        states = self._env.p.getJointStates(robot.robot_uid, list(indices), physicsClientId=self._env.cid)
        return np.array([state[0] for state in states])

    def end_effector(self) -> tuple[np.ndarray, np.ndarray]:
        """Measured pose in the base frame: position (3,) in metres, rotation matrix (3, 3)."""
        position, quaternion = self._kinematics.forward(self.joint_positions)
        return position, Rotation.from_quat(quaternion).as_matrix()

    def command(self, joint_positions: np.ndarray, gripper: float) -> None:
        """Sets the motors' targets: (n,) radians, and whether the gripper opens (from 0.5 on) or closes."""
        self._command = np.array(joint_positions), gripper

    def advance(self, seconds: float) -> None:
        """Runs so many of CALVIN's steps as come nearest to a time, and judges after each."""
        joints, gripper = self._command
        action = {"type": "joint_abs", "action": [*joints, 1 if gripper >= 0.5 else -1]}
        for _ in range(round(seconds / self.cycle)):
            self._env.robot.apply_action(action)
            for _ in range(self._env.action_repeat):
                self._env.p.stepSimulation(physicsClientId=self._env.cid)
            self._env.scene.step()
            self._steps += 1
            self._look()

    # What can be seen.

    @property
    def lamps(self) -> tuple[bool, bool]:
        """Whether the LED and the bulb shine."""
        lit = {light.name: bool(light.get_state()) for light in self._env.scene.lights}
        return lit["led"], lit["lightbulb"]

    def render(self, camera: str, height: int | None = None, width: int | None = None) -> np.ndarray:
        """An image (H, W, 3) uint8 RGB from the static or the gripper camera, of the contract's size if not given.

        CALVIN's own pixels, a square of them, resized; black beside it where the image is no square.
        """
        size = self.contract.observation.cameras[camera]
        height, width = height or size.height, width or size.width
        side = min(height, width)
        square = resize(np.ascontiguousarray(self._cameras[camera].render()[0], np.uint8), side, side)
        image = np.zeros((height, width, 3), np.uint8)
        top, left = (height - side) // 2, (width - side) // 2
        image[top : top + side, left : left + side] = square
        return image

    def observation(self) -> Observation:
        """Images of the contract's cameras and the robot's measurements, all of now."""
        images = {name: self.render(name) for name in self.contract.observation.cameras}
        return Observation(self.time, images, self.joint_positions, self.gripper)

    @property
    def base(self) -> np.ndarray:
        """(3,) metres, CALVIN's world: origin of the robot's base frame."""
        return self._base

    def part(self, name: str) -> np.ndarray:
        """(2, 3) metres, CALVIN's world: least and greatest corner of a link of the table. Privileged."""
        index = self._table.info_dict["links"][name]
        return np.array(self._env.p.getAABB(self._table.uid, index, physicsClientId=self._env.cid))

    def block(self, color: str) -> tuple[np.ndarray, float]:
        """Middle of a block, (3,) metres in CALVIN's world, and radians that it is turned by. Privileged."""
        body = next(body for body in self._env.scene.movable_objects if body.name == f"block_{color}")
        position, quaternion = self._env.p.getBasePositionAndOrientation(body.uid, physicsClientId=self._env.cid)
        return np.array(position), float(self._env.p.getEulerFromQuaternion(quaternion)[2])

    def held(self) -> str:
        """Colour of the block that the robot touches most, "" for none. Privileged."""
        robot, client = self._env.robot.robot_uid, self._env.cid
        touches = {
            body.name.removeprefix("block_"): len(
                self._env.p.getContactPoints(bodyA=robot, bodyB=body.uid, physicsClientId=client)
            )
            for body in self._env.scene.movable_objects
        }
        most = max(touches, key=lambda color: touches[color])
        return most if touches[most] else ""

    def points(self) -> np.ndarray:
        """(P, 3) metres, base frame: what of CALVIN's is like the things of ``scene.POINTS``. Privileged."""

        def front(part: np.ndarray) -> np.ndarray:
            return np.array([part.mean(axis=0)[0], part[0, 1], part.mean(axis=0)[2]])

        places = {f"block_{color}": self.block(color)[0] for color in BLOCKS} | {
            "handle": front(self.part("drawer_link")),
            "knob": front(self.part("slide_link")),
            "button": self.part("button_link").mean(axis=0),
            "lever": self.part("switch_link").mean(axis=0),
            "led": self.part("led_link").mean(axis=0),
            "bulb": self.part("light_link").mean(axis=0),
        }
        return np.array([places[name] for name in scene.POINTS]) - self._base

    def project(self, points: np.ndarray, camera: str) -> np.ndarray:
        """(P, 3) of points (P, 3) in the base frame: x, y in [0, 1] of the image, and 1 if within it, else 0."""
        view, projection = self._matrices(camera)
        world = np.column_stack([points + self._base, np.ones(len(points))])
        clip = world @ view @ projection  # (P, 4), row vectors: Bullet's matrices are column by column
        image = (clip[:, :2] / np.maximum(clip[:, 3:], 1e-6) * [1, -1] + 1) / 2
        within = (clip[:, 3] > 0.01) & np.all((image > 0) & (image < 1), axis=1)
        return np.column_stack([np.where(within[:, None], image, 0.0), within]).astype(np.float32)

    def _matrices(self, camera: str) -> tuple[np.ndarray, np.ndarray]:
        """View and projection (4, 4) of a camera, for row vectors."""
        bullet, there = self._env.p, self._cameras[camera]
        if camera == "static":
            return np.reshape(there.viewMatrix, (4, 4)), np.reshape(there.projectionMatrix, (4, 4))
        state = bullet.getLinkState(
            there.robot_uid, there.gripper_cam_link, computeForwardKinematics=True, physicsClientId=self._env.cid
        )
        axes = Rotation.from_quat(state[1]).as_matrix()
        view = bullet.computeViewMatrix(state[0], np.array(state[0]) + axes[:, 1], -axes[:, 2])
        projection = bullet.computeProjectionMatrixFOV(there.fov, there.aspect, there.nearval, there.farval)
        return np.reshape(view, (4, 4)), np.reshape(projection, (4, 4))

    # The tasks.

    def judge(self, task: str) -> Callable[[], bool]:
        """A function that says whether a task was done in a step between now and its call. Privileged.

        The task judged before is not any more.
        """
        start, done = self._env.get_info(), False

        def look() -> bool:
            nonlocal done
            done = done or bool(self._oracle.get_task_info_for_set(start, self._env.get_info(), {task}))
            return done

        self._look = look
        return lambda: done

    def draw_chain(self, rng: np.random.Generator) -> tuple[str, ...]:
        """Five different tasks that can be done one after the other after a reset, by CALVIN's own rules.

        Its kinds of tasks come about as often as each other, those of many tasks somewhat more often.
        """
        drawing, state = modules().sequences, self._start
        chain: list[str] = []
        while len(chain) < LENGTH:
            following = {
                task: after[0]
                for task, rules in drawing.tasks.items()
                if task not in chain and len(after := drawing.valid_task(state, rules)) == 1
            }
            if not following:  # a block is held that is to be put where one was put already
                state, chain = self._start, []
                continue
            kinds = [drawing.task_categories[task] for task in following]
            weights = np.array([kinds.count(kind) ** -0.5 for kind in kinds])
            task = str(rng.choice(list(following), p=weights / weights.sum()))
            state = following[task]
            chain.append(task)
        return tuple(chain)

    def expert(self, task: str, rng: np.random.Generator, period: float) -> Expert:
        """Does a task that can be done now, one command every ``period`` seconds. Privileged."""
        return CalvinExpert(self, task, rng, period)

    def wordings(self, task: str, held_out: bool = False) -> Sequence[str]:
        """How a task is asked for: in the words of CALVIN's annotations, or in those of its validation."""
        return _wordings("new_playtable_validation" if held_out else "new_playtable")[task]
