# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The tabletop as a MuJoCo model: table, drawer, sliding door, button with LED, switch with bulb, blocks, the arm.

Everything is drawn from primitives. The arm is attached from the contract's URDF, so that simulator and motion layer
share one set of numbers. Frame: the arm's base, x forward, y left, z up; metres and radians.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import mujoco
import numpy as np

from arvrm_ros.contract import RobotContract

ROBOT = "robot/"
"""Prefix of the names of the arm's bodies, joints and geoms in the MuJoCo model."""

TABLE_TOP = 0.12
TABLE_FRONT = 0.46
DRAWER_TRAVEL = 0.11
SLIDER_TRAVEL = 0.09
BUTTON_TOP = TABLE_TOP + 0.03
BLOCKS = {"red": 0.020, "blue": 0.022, "pink": 0.018}
"""Half edge lengths of the cubes, metres."""

BLOCK_REGION = ((0.50, 0.63), (-0.17, 0.17))
"""Where blocks start: x and y ranges, metres."""

HANDLE_OFFSET = 0.06
"""From the drawer's front to the middle of its handle bar, metres."""

POINTS = ("block_red", "block_blue", "block_pink", "handle", "knob", "button", "lever", "led", "bulb")
"""Geoms whose places in the image the small image encoder learns to find."""

STATIC_CAMERA = ((1.20, -0.42, 0.95), (0.50, 0.01, 0.10))
"""Where the robot's static camera stands and what it looks at, metres."""

SERVO_LAG = 0.03
"""Seconds by which the arm's position servos are behind what is commanded."""

_BLOCK_COLORS = {"red": (0.85, 0.12, 0.10), "blue": (0.10, 0.25, 0.85), "pink": (0.95, 0.45, 0.70)}
_LED = {False: (0.25, 0.30, 0.25, 1.0), True: (0.15, 1.0, 0.25, 1.0)}
_BULB = {False: (0.45, 0.42, 0.35, 1.0), True: (1.0, 0.95, 0.25, 1.0)}


@dataclass(frozen=True)
class Variant:
    """Looks and layout of one table, in the spirit of CALVIN's environments A to D (colours RGB in [0, 1], metres)."""

    table: tuple[float, float, float]
    floor: tuple[float, float, float]
    drawer: tuple[float, float, float]
    slider: tuple[float, float, float]
    light: tuple[float, float, float]
    drawer_y: float
    slider_y: float
    button_xy: tuple[float, float]
    switch_xy: tuple[float, float]


VARIANTS: dict[str, Variant] = {
    "A": Variant((0.72, 0.55, 0.38), (0.35, 0.38, 0.42), (0.50, 0.34, 0.20), (0.55, 0.40, 0.28), (0.3, -0.4, 1.6),
                 0.00, 0.02, (0.53, 0.30), (0.53, -0.30)),
    "B": Variant((0.55, 0.58, 0.60), (0.42, 0.36, 0.30), (0.30, 0.42, 0.48), (0.34, 0.44, 0.40), (0.9, 0.5, 1.5),
                 0.05, -0.02, (0.56, 0.28), (0.55, -0.29)),
    "C": Variant((0.80, 0.76, 0.68), (0.28, 0.33, 0.30), (0.62, 0.58, 0.40), (0.45, 0.52, 0.62), (0.1, 0.5, 1.7),
                 -0.05, 0.00, (0.55, 0.31), (0.51, -0.28)),
    "D": Variant((0.44, 0.35, 0.30), (0.50, 0.50, 0.52), (0.66, 0.60, 0.55), (0.62, 0.50, 0.42), (0.8, -0.5, 1.4),
                 0.03, 0.04, (0.51, 0.29), (0.56, -0.31)),
}  # fmt: skip
"""The four visual variants. Fixtures stand a few centimetres apart from one variant to the next."""


@dataclass(frozen=True)
class SceneState:
    """Privileged state, for the oracle, the scripted experts and the pictures; never an input of a policy.

    Attributes:
        drawer: metres the drawer stands open.
        slider: metres of the sliding door from its middle, left positive.
        led, bulb: whether they shine.
        blocks: per colour, x, y, z in metres and yaw in radians, base frame.
        touched: colours of the blocks a finger touches.
        button, switch: pressed depth in metres, lever angle in radians (forward positive).
    """

    drawer: float
    slider: float
    led: bool
    bulb: bool
    blocks: dict[str, tuple[float, float, float, float]]
    touched: tuple[str, ...]
    button: float
    switch: float

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))


def build_model(contract: RobotContract, variant: str) -> mujoco.MjModel:
    """The compiled scene.

    Args:
        contract: whose URDF and home position are used.
        variant: a key of :data:`VARIANTS`.
    """
    look = VARIANTS[variant]
    spec = mujoco.MjSpec.from_string(_world_xml(look))
    robot = mujoco.MjSpec.from_file(str(contract.urdf_path()))
    _prepare_robot(robot)
    spec.worldbody.add_frame().attach_body(robot.worldbody.first_body(), ROBOT, "")
    # Beside the hand, tilted towards the fingertips, as a wrist camera is usually mounted.
    spec.body(ROBOT + "panda_hand").add_camera(
        name="gripper", pos=(0.075, 0.0, 0.045), fovy=80, euler=(np.pi, 0.40, 0.0)
    )
    _actuate(spec, contract)
    return spec.compile()


def lamp_colors(led: bool, bulb: bool) -> dict[str, tuple[float, float, float, float]]:
    """Colour (RGBA in [0, 1]) of the geoms of LED and bulb by their state."""
    return {"led": _LED[led], "bulb": _BULB[bulb]}


def set_lights(model: mujoco.MjModel, led: bool, bulb: bool) -> None:
    """Colours the LED and the bulb by their state."""
    for name, color in lamp_colors(led, bulb).items():
        model.geom(name).rgba = color


def _prepare_robot(robot: mujoco.MjSpec) -> None:
    """Colours, friction, and gravity compensation (the arm's controller does it in reality)."""
    base = robot.worldbody.first_body()
    for body in [base, *base.find_all("body")]:
        body.gravcomp = 1.0
        dark = "finger" in body.name or body.name in ("panda_hand", "panda_link7")
        for geom in body.geoms:
            geom.rgba = (0.22, 0.23, 0.26, 1.0) if dark else (0.93, 0.93, 0.91, 1.0)
            geom.group = 2
            # The arm's own links overlap at the joints; it collides with the world only.
            geom.contype, geom.conaffinity = 2, 1
            if "finger" in body.name:
                geom.friction = (1.6, 0.02, 0.001)
                geom.condim = 4
                geom.priority = 1
    for joint in base.find_all("joint"):
        joint.armature = 0.1 if "finger" not in joint.name else 0.01
        joint.damping = (1.0, 0, 0) if "finger" not in joint.name else (2.0, 0, 0)


def _actuate(spec: mujoco.MjSpec, contract: RobotContract) -> None:
    """Stiff position servos on the arm and a force-limited one on the gripper, whose fingers mirror each other.

    The tabletop limits the speed at which those of the arm move it.
    """
    stiffness = (4500.0, 4500.0, 3500.0, 3500.0, 2000.0, 2000.0, 2000.0)
    for name, kp in zip(contract.joints, stiffness, strict=True):
        servo = spec.add_actuator(name=name, target=ROBOT + name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        servo.set_to_position(kp=kp, kv=SERVO_LAG * kp)
    finger = contract.gripper.joint
    servo = spec.add_actuator(name=finger, target=ROBOT + finger, trntype=mujoco.mjtTrn.mjTRN_JOINT)
    if effort := contract.limits.gripper_effort:
        servo.forcerange = (-effort, effort)
    servo.set_to_position(kp=2000.0, kv=60.0)
    spec.add_equality(
        type=mujoco.mjtEq.mjEQ_JOINT, objtype=mujoco.mjtObj.mjOBJ_JOINT,
        name1=ROBOT + "panda_finger_joint2", name2=ROBOT + finger,
        data=[0, 1, *[0] * 10],
    )  # fmt: skip


def _rgba(color: tuple[float, float, float], shade: float = 1.0) -> str:
    return " ".join(f"{min(1.0, c * shade):.3f}" for c in color) + " 1"


def _world_xml(look: Variant) -> str:
    front, top, (eye, _) = TABLE_FRONT, TABLE_TOP, STATIC_CAMERA
    handle = -HANDLE_OFFSET
    button_x, button_y = look.button_xy
    switch_x, switch_y = look.switch_xy
    table_dark = _rgba(look.table, 0.8)
    drawer, drawer_dark = _rgba(look.drawer), _rgba(look.drawer, 0.6)
    slider, slider_dark = _rgba(look.slider), _rgba(look.slider, 0.55)
    metal = 'rgba="0.75 0.76 0.78 1"'
    blocks = "".join(
        f'<body name="block_{color}" pos="0.55 0 0.3"><freejoint name="block_{color}"/>'
        f'<geom name="block_{color}" type="box" size="{half} {half} {half}" rgba="{_rgba(_BLOCK_COLORS[color])}" '
        f'mass="0.06" friction="0.9 0.01 0.001" condim="4"/></body>'
        for color, half in BLOCKS.items()
    )
    return f"""
<mujoco model="tabletop">
  <compiler angle="radian"/>
  <option timestep="0.002" integrator="implicitfast" cone="elliptic" impratio="10"/>
  <visual>
    <global offwidth="1280" offheight="960" fovy="45"/><quality offsamples="0" shadowsize="0"/>
    <headlight ambient="0.42 0.42 0.42" diffuse="0.35 0.35 0.35" specular="0.05 0.05 0.05"/>
    <map znear="0.02" zfar="8"/>
  </visual>
  <default>
    <geom solref="0.005 1" friction="0.8 0.01 0.001" contype="1" conaffinity="3" group="0"/>
  </default>
  <worldbody>
    <light name="lamp" pos="{look.light[0]} {look.light[1]} {look.light[2]}"
           dir="{0.55 - look.light[0]} {-look.light[1]} -1.4"
           diffuse="0.55 0.55 0.52" specular="0.1 0.1 0.1" castshadow="false"/>
    <camera name="static" pos="{eye[0]} {eye[1]} {eye[2]}" xyaxes="{_look_at(*STATIC_CAMERA)}" fovy="41"/>
    <camera name="side" pos="0.22 -0.85 0.80" xyaxes="{_look_at((0.22, -0.85, 0.80), (0.52, 0.0, 0.11))}" fovy="45"/>
    <geom name="floor" type="plane" size="3 3 0.1" rgba="{_rgba(look.floor)}"/>

    <geom name="table" type="box" pos="{front + 0.2} 0 {top - 0.005}" size="0.2 0.42 0.005" rgba="{_rgba(look.table)}"/>
    <geom name="table_left" type="box" pos="{front + 0.2} 0.29 0.055" size="0.195 0.13 0.055" rgba="{table_dark}"/>
    <geom name="table_right" type="box" pos="{front + 0.2} -0.29 0.055" size="0.195 0.13 0.055" rgba="{table_dark}"/>
    <geom name="table_back" type="box" pos="{front + 0.33} 0 0.055" size="0.07 0.42 0.055" rgba="{table_dark}"/>
    <geom name="rail" type="box" pos="0.755 {look.slider_y} {top + 0.008}" size="0.02 0.20 0.008" rgba="{slider_dark}"/>

    <body name="drawer" pos="{front} {look.drawer_y * 0.4} 0">
      <joint name="drawer" type="slide" axis="-1 0 0" range="0 {DRAWER_TRAVEL}" damping="4" frictionloss="1.0"/>
      <inertial pos="0.05 0 0.06" mass="0.6" diaginertia="0.003 0.003 0.003"/>
      <geom type="box" pos="-0.006 0 0.058" size="0.006 0.125 0.046" rgba="{drawer}"/>
      <geom type="box" pos="0.085 0 0.02" size="0.085 0.12 0.004" rgba="{drawer_dark}"/>
      <geom type="box" pos="0.085 0.12 0.05" size="0.085 0.004 0.034" rgba="{drawer_dark}"/>
      <geom type="box" pos="0.085 -0.12 0.05" size="0.085 0.004 0.034" rgba="{drawer_dark}"/>
      <geom type="box" pos="0.172 0 0.05" size="0.004 0.12 0.034" rgba="{drawer_dark}"/>
      <geom name="handle" type="capsule" fromto="{handle} -0.055 0.085 {handle} 0.055 0.085" size="0.008" {metal}/>
      <geom type="capsule" fromto="{handle} -0.055 0.085 -0.01 -0.055 0.085" size="0.006" {metal}/>
      <geom type="capsule" fromto="{handle} 0.055 0.085 -0.01 0.055 0.085" size="0.006" {metal}/>
    </body>

    <body name="slider" pos="0.755 {look.slider_y} {top}">
      <joint name="slider" type="slide" axis="0 1 0" range="-{SLIDER_TRAVEL} {SLIDER_TRAVEL}"
             damping="3" frictionloss="0.8"/>
      <inertial pos="0 0 0.06" mass="0.4" diaginertia="0.001 0.001 0.001"/>
      <geom type="box" pos="0 0 0.075" size="0.008 0.09 0.055" rgba="{slider}"/>
      <geom name="knob" type="capsule" fromto="-0.055 0 0.035 -0.055 0 0.095" size="0.010" {metal}/>
      <geom type="capsule" fromto="-0.055 0 0.085 0 0 0.085" size="0.007" {metal}/>
    </body>

    <geom type="cylinder" pos="{button_x} {button_y} {top + 0.006}" size="0.032 0.006" rgba="0.2 0.2 0.22 1"
          contype="0" conaffinity="0"/>
    <body name="button" pos="{button_x} {button_y} {top + 0.020}">
      <joint name="button" type="slide" axis="0 0 -1" range="0 0.012" stiffness="150" springref="0" damping="1.5"/>
      <inertial pos="0 0 0" mass="0.05" diaginertia="0.00001 0.00001 0.00001"/>
      <geom name="button" type="cylinder" size="0.024 0.010" rgba="0.80 0.65 0.10 1"/>
    </body>
    <geom name="led" type="sphere" pos="{button_x + 0.075} {button_y + 0.02} {top + 0.015}" size="0.020"
          contype="0" conaffinity="0"/>

    <geom type="box" pos="{switch_x} {switch_y} {top + 0.008}" size="0.045 0.025 0.008" rgba="0.2 0.2 0.22 1"/>
    <body name="switch" pos="{switch_x} {switch_y} {top + 0.012}">
      <joint name="switch" type="hinge" axis="0 1 0" range="-0.5 0.5" damping="0.02" frictionloss="0.06"/>
      <inertial pos="0 0 0.03" mass="0.05" diaginertia="0.00004 0.00004 0.00001"/>
      <geom name="lever" type="capsule" fromto="0 0 0.008 0 0 0.068" size="0.010" rgba="0.90 0.50 0.15 1"/>
    </body>
    <geom name="bulb" type="sphere" pos="{switch_x + 0.105} {switch_y - 0.02} {top + 0.03}" size="0.028"
          contype="0" conaffinity="0"/>
    {blocks}
  </worldbody>
</mujoco>"""


def _look_at(eye: tuple[float, float, float], target: tuple[float, float, float]) -> str:
    """MuJoCo's ``xyaxes`` of a camera at ``eye`` that looks at ``target`` with the world's z up in the image."""
    backward = np.subtract(eye, target)
    backward /= np.linalg.norm(backward)
    right = np.cross((0, 0, 1.0), backward)
    right /= np.linalg.norm(right)
    up = np.cross(backward, right)
    return " ".join(f"{v:.5f}" for v in (*right, *up))
