# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The running tabletop: random scenes, physics, cameras, the robot's measurements, and the privileged state."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from arvrm_ros.contract import RobotContract
from arvrm_ros.data.types import Observation
from arvrm_ros.errors import ArvrmError
from arvrm_ros.simulation import MOST_LAG, scene
from arvrm_ros.simulation.chains import draw_chain
from arvrm_ros.simulation.experts import Expert, TabletopExpert
from arvrm_ros.simulation.scene import ROBOT, SceneState
from arvrm_ros.simulation.tasks import TASKS, Judge

FINGER2 = "panda_finger_joint2"  # mirrors the contract's gripper joint
TOUCH = 1e-3
"""Metres within which a finger touches a block in a mirrored scene, whose physics may let them stand a little apart."""

PRESSED, RELEASED = 0.007, 0.005
"""Metres of the button's way at which it is pressed and released; by its weight alone it goes down by 0.0033."""

DRIVE_SPEED = 1.04  # times the limits: the speeds to which the arm's drives are set; lagging servos need some more


@dataclass(frozen=True)
class Snapshot:
    """Everything a picture needs of a tabletop at one time; see :meth:`Tabletop.snapshot`."""

    variant: str
    data: mujoco.MjData
    led: bool
    bulb: bool


class Tabletop:
    """A simulated robot at a table; a ``World``.

    Args:
        contract: the robot, its cameras and its home position.
        variant: look of the table, a key of ``scene.VARIANTS``.
        render: whether cameras are needed (without them no OpenGL context is made).
    """

    cycle = 0.01
    latency = 0.05  # about what the nodes take
    lag = MOST_LAG

    def __init__(self, contract: RobotContract, variant: str = "A", render: bool = True) -> None:
        self.contract = contract
        self._render = render
        self._renderers: dict[tuple[int, int], mujoco.Renderer] = {}
        self._load(variant)

    def _load(self, variant: str) -> None:
        if variant not in scene.VARIANTS:
            raise ArvrmError(f"unknown variant {variant!r} of the tabletop: use one of {', '.join(scene.VARIANTS)}")
        self.close()
        self.variant = variant
        self.model = scene.build_model(self.contract, variant)
        self.data = mujoco.MjData(self.model)
        joints = [*self.contract.joints, self.contract.gripper.joint]
        self._q = [self.model.joint(ROBOT + name).qposadr[0] for name in joints]
        self._v = [self.model.joint(ROBOT + name).dofadr[0] for name in joints]
        self._finger2 = self.model.joint(ROBOT + FINGER2).qposadr[0]
        self._measured_v = [*self._v, self.model.joint(ROBOT + FINGER2).dofadr[0]]
        self._targets = np.array(self.contract.home)  # rad
        self._button = self.model.joint("button").qposadr[0]
        self._switch = self.model.joint("switch").qposadr[0]
        self._tcp = self.model.body(ROBOT + self.contract.end_effector_frame).id
        fingers = [self.model.body(ROBOT + name).id for name in ("panda_leftfinger", "panda_rightfinger")]
        self._fingers = set(np.flatnonzero(np.isin(self.model.geom_bodyid, fingers)))
        self._block_geoms = {self.model.geom(f"block_{color}").id: color for color in scene.BLOCKS}
        self._led = self._bulb = self._pressed = False

    def close(self) -> None:
        """Frees the OpenGL contexts."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers = {}

    def reset(self, seed: int, task: str | None = None, variant: str | None = None) -> None:
        """Puts the scene into a random state in which ``task`` is not done and can be done; the arm is near home.

        Args:
            seed: the same seed, task and variant give the same scene.
            task: a key of ``tasks.TASKS``, or None for any state.
            variant: None keeps the present look.
        """
        if task is not None and task not in TASKS:
            raise ArvrmError(f"unknown task {task!r}: use one of {', '.join(TASKS)}")
        if variant and variant != self.variant:
            self._load(variant)
        rng = np.random.default_rng([seed, *(task or "").encode()])
        mujoco.mj_resetData(self.model, self.data)
        state = {
            "drawer": rng.choice([rng.uniform(0.0, 0.01), rng.uniform(0.09, scene.DRAWER_TRAVEL)]),
            "slider": rng.choice([-1.0, 1.0]) * rng.uniform(0.065, scene.SLIDER_TRAVEL),
            "led": rng.random() < 0.5,
            "bulb": rng.random() < 0.5,
        }
        if task is not None:
            state |= TASKS[task].start(rng)
        self._set_joint("drawer", state["drawer"])
        self._set_joint("slider", state["slider"])
        self._led, self._bulb, self._pressed = bool(state["led"]), bool(state["bulb"]), False
        self._set_joint("switch", rng.uniform(0.35, 0.48) * (1 if self._bulb else -1))
        self._place_blocks(rng)
        home = np.array(self.contract.home) + rng.normal(0.0, 0.06, len(self.contract.joints)) * (rng.random() < 0.8)
        self.data.qpos[self._q[:-1]] = home
        opening = self.contract.gripper.open
        self.data.qpos[[self._q[-1], self._finger2]] = opening
        self.command(home, 1.0)
        self.advance(0.2)
        self.data.time = 0.0

    def _place_blocks(self, rng: np.random.Generator) -> None:
        (x_low, x_high), (y_low, y_high) = scene.BLOCK_REGION
        placed: list[np.ndarray] = []
        for color, half in scene.BLOCKS.items():
            while True:
                position = np.array([rng.uniform(x_low, x_high), rng.uniform(y_low, y_high)])
                if all(np.linalg.norm(position - other) > 0.105 for other in placed):
                    break
            placed.append(position)
            yaw = rng.uniform(-0.4, 0.4)
            address = self.model.joint(f"block_{color}").qposadr[0]
            self.data.qpos[address : address + 7] = [
                *position, scene.TABLE_TOP + half, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2),
            ]  # fmt: skip

    def _set_joint(self, name: str, value: float) -> None:
        self.data.qpos[self.model.joint(name).qposadr[0]] = value

    # The robot, as its controllers see it.

    @property
    def time(self) -> float:
        """Simulated seconds since the reset."""
        return float(self.data.time)

    @property
    def joint_positions(self) -> np.ndarray:
        """(n,) radians, in the contract's order."""
        return self.data.qpos[self._q[:-1]].copy()

    @property
    def joint_velocities(self) -> np.ndarray:
        """(n,) rad/s, in the contract's order."""
        return self.data.qvel[self._v[:-1]].copy()

    @property
    def finger_position(self) -> float:
        """Metres, of the contract's gripper joint."""
        return float(self.data.qpos[self._q[-1]])

    @property
    def finger_velocity(self) -> float:
        """m/s, of the contract's gripper joint."""
        return float(self.data.qvel[self._v[-1]])

    @property
    def finger_joints(self) -> tuple[str, str]:
        """Names of the two finger joints."""
        return (self.contract.gripper.joint, FINGER2)

    def joint_state(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions, velocities and efforts of the arm's joints and both fingers: (n + 2,) each, SI units."""
        v = self._measured_v
        return self.data.qpos[[*self._q, self._finger2]], self.data.qvel[v], self.data.qfrc_actuator[v]

    @property
    def gripper(self) -> float:
        """Measured opening in [0, 1]."""
        return self.contract.gripper.opening(self.finger_position)

    def end_effector(self) -> tuple[np.ndarray, np.ndarray]:
        """Measured pose in the base frame: position (3,) in metres, rotation matrix (3, 3)."""
        return self.data.xpos[self._tcp].copy(), self.data.xmat[self._tcp].reshape(3, 3).copy()

    @property
    def lamps(self) -> tuple[bool, bool]:
        """Whether the LED and the bulb shine."""
        return self._led, self._bulb

    def command(self, joint_positions: np.ndarray, gripper: float) -> None:
        """Sets the servos' targets: (n,) radians and an opening in [0, 1]."""
        self._targets = np.array(joint_positions)
        self.data.ctrl[-1] = self.contract.gripper.position(gripper)

    def advance(self, seconds: float) -> None:
        """Runs the physics for a time, in steps of 2 ms."""
        for _ in range(round(seconds / self.model.opt.timestep)):
            self.data.ctrl[:-1] = self.within_speed(self._targets)
            mujoco.mj_step(self.model, self.data)
            self._fixtures()

    def within_speed(self, targets: np.ndarray) -> np.ndarray:
        """(n,) rad to ask of the servos, so that they move neither a joint nor the end effector faster than allowed.

        Controllers of collaborative arms see to that whatever is asked of them: an arm that comes free of what held it
        off its target does not spring back. The force with which it pushes is limited elsewhere, and stays the same.
        """
        limits, present = self.contract.limits, self.data.qpos[self._q[:-1]]
        most = DRIVE_SPEED * np.array(limits.velocity)
        velocities = np.clip((targets - present) / scene.SERVO_LAG, -most, most)
        jacobian = np.zeros((3, self.model.nv))
        mujoco.mj_jacBody(self.model, self.data, jacobian, None, self._tcp)
        speed = float(np.linalg.norm(jacobian[:, self._v[:-1]] @ velocities))
        return present + velocities * scene.SERVO_LAG * min(
            1.0, DRIVE_SPEED * limits.cartesian_velocity / max(speed, 1e-9)
        )

    def mirror(self, time: float, positions: Mapping[str, float], blocks: Mapping[str, np.ndarray]) -> None:
        """Takes over what another simulator says of the scene, in place of physics of its own.

        Args:
            time: seconds.
            positions: radians or metres per joint of the arm, the gripper and the table; what is left out stays.
            blocks: per colour (7,): x, y, z in metres and the orientation as w, x, y, z; what is left out stays.
        """
        names = {self.model.joint(j).name for j in range(self.model.njnt)}
        for name, value in positions.items():
            self._set_joint(ROBOT + name if ROBOT + name in names else name, value)
        for color, pose in blocks.items():
            address = self.model.joint(f"block_{color}").qposadr[0]
            self.data.qpos[address : address + 7] = pose
        self.data.time = time
        self.model.geom_margin[:] = TOUCH
        mujoco.mj_forward(self.model, self.data)
        self._fixtures()

    def _fixtures(self) -> None:
        """The button toggles the LED once per press; the lever's side lights the bulb."""
        depth = self.data.qpos[self._button]
        if depth > PRESSED and not self._pressed:
            self._led, self._pressed = not self._led, True
        elif depth < RELEASED:
            self._pressed = False
        angle = self.data.qpos[self._switch]
        if abs(angle) > 0.2:
            self._bulb = bool(angle > 0)

    # What can be seen.

    def snapshot(self) -> Snapshot:
        """The present state, for another tabletop to render in its own thread (OpenGL contexts belong to one)."""
        return Snapshot(self.variant, copy.copy(self.data), self._led, self._bulb)

    def show(self, snapshot: Snapshot) -> None:
        """Takes over another tabletop's state."""
        if snapshot.variant != self.variant:
            self._load(snapshot.variant)
        mujoco.mj_copyData(self.data, self.model, snapshot.data)
        self._led, self._bulb = snapshot.led, snapshot.bulb

    def render(self, camera: str | mujoco.MjvCamera, height: int | None = None, width: int | None = None) -> np.ndarray:
        """An image (H, W, 3) uint8 RGB from a named camera (static, gripper, side) or a free one.

        The size defaults to the contract's for its own cameras, else 480 x 640.
        """
        renderer = self.renderer(camera, height, width)
        return renderer.render()

    def renderer(
        self, camera: str | mujoco.MjvCamera, height: int | None = None, width: int | None = None
    ) -> mujoco.Renderer:
        """The renderer with the scene as the camera sees it now, for adding geoms before ``render()``."""
        if not self._render:
            raise ArvrmError("this Tabletop was made with render=False")
        known = self.contract.observation.cameras.get(camera) if isinstance(camera, str) else None
        size = (height or (known.height if known else 480), width or (known.width if known else 640))
        if size not in self._renderers:
            self._renderers[size] = mujoco.Renderer(self.model, *size)
        scene.set_lights(self.model, *self.lamps)
        self._renderers[size].update_scene(self.data, camera)
        return self._renderers[size]

    def observation(self) -> Observation:
        """Images of the contract's cameras and the robot's measurements, all of now."""
        return Observation(
            stamp=self.time,
            images={name: self.render(name) for name in self.contract.observation.cameras},
            joint_positions=self.joint_positions,
            gripper=self.gripper,
        )

    def camera_matrix(self, camera: str, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Intrinsics K (3, 3) in pixels; pose (4, 4) of the optical frame (z forward, REP-103) in the base frame."""
        index = self.model.camera(camera).id
        focal = height / 2 / np.tan(np.deg2rad(self.model.cam_fovy[index]) / 2)
        intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        pose = np.eye(4)
        pose[:3, :3] = self.data.cam_xmat[index].reshape(3, 3) @ np.diag([1.0, -1.0, -1.0])
        pose[:3, 3] = self.data.cam_xpos[index]
        return intrinsics, pose

    def points(self) -> np.ndarray:
        """(P, 3) metres, base frame: where the things of ``scene.POINTS`` are. Privileged."""
        return np.array([self.data.geom(name).xpos for name in scene.POINTS])

    def project(self, points: np.ndarray, camera: str) -> np.ndarray:
        """(P, 3) of points (P, 3) in the base frame: x, y in [0, 1] of the image, and 1 if within it, else 0."""
        size = self.contract.observation.cameras[camera]
        intrinsics, pose = self.camera_matrix(camera, size.height, size.width)
        in_camera = (points - pose[:3, 3]) @ pose[:3, :3]  # (P, 3)
        pixels = in_camera @ intrinsics.T
        image = pixels[:, :2] / np.maximum(pixels[:, 2:], 1e-6) / [size.width, size.height]
        within = (in_camera[:, 2] > 0.01) & np.all((image > 0) & (image < 1), axis=1)
        return np.column_stack([np.where(within[:, None], image, 0.0), within]).astype(np.float32)

    def state(self) -> SceneState:
        """The privileged state of now."""
        blocks = {}
        for color in scene.BLOCKS:
            q = self.data.joint(f"block_{color}").qpos
            yaw = np.arctan2(2 * (q[3] * q[6] + q[4] * q[5]), 1 - 2 * (q[5] ** 2 + q[6] ** 2))
            blocks[color] = (float(q[0]), float(q[1]), float(q[2]), float(yaw))
        pairs = self.data.contact.geom[: self.data.ncon]
        touched = {
            self._block_geoms[b]
            for pair in pairs
            for a, b in (pair, pair[::-1])
            if a in self._fingers and b in self._block_geoms
        }
        return SceneState(
            drawer=float(self.data.joint("drawer").qpos[0]),
            slider=float(self.data.joint("slider").qpos[0]),
            led=self._led,
            bulb=self._bulb,
            blocks=blocks,
            touched=tuple(sorted(touched)),
            button=float(self.data.joint("button").qpos[0]),
            switch=float(self.data.joint("switch").qpos[0]),
        )

    def judge(self, task: str) -> Callable[[], bool]:
        """A function that says whether a task was done between now and its call. Privileged."""
        judge = Judge(task, self.state())
        return lambda: judge.look(self.state())

    def draw_chain(self, rng: np.random.Generator) -> tuple[str, ...]:
        """Five tasks that can be done one after the other from now on."""
        return draw_chain(self.state(), rng)

    def expert(self, task: str, rng: np.random.Generator, period: float) -> Expert:
        """Does a task that can be done now, one command every ``period`` seconds. Privileged."""
        return TabletopExpert(self, task, rng, period)

    def wordings(self, task: str, held_out: bool = False) -> Sequence[str]:
        """How a task is asked for, in training or never in training."""
        return TASKS[task].held_out if held_out else TASKS[task].instructions
