# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The tabletop as a world of Gazebo (SDFormat 1.9), written from its MuJoCo model: one scene, two simulators.

The arm stands upright, all joints at zero, as SDF has no other way to begin; things on the table are where a seed puts
them. Its position servos lag behind what is asked of them as those of the MuJoCo model do.

Frames and units as everywhere: the arm's base, x forward, y left, z up; metres, radians, kilograms.
"""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import mujoco
import numpy as np

from arvrm_ros.contract import RobotContract
from arvrm_ros.simulation import scene
from arvrm_ros.simulation.scene import ROBOT
from arvrm_ros.simulation.tabletop import DRIVE_SPEED, Tabletop

WORLD = "tabletop"
"""Name of the world, and so part of the names of Gazebo's own topics."""

ROBOT_STATES = "/gazebo/robot/joint_states"
SETPOINTS = "/gazebo/robot/joint_trajectory"
FIXTURE_STATES = "/gazebo/table/joint_states"
MATERIAL_COLOR = f"/world/{WORLD}/material_color"

TABLE = "table"
"""Name of the model, and of its link, that holds everything of the table that does not move."""

STEP = 0.002
"""Seconds of a step of the physics, as in MuJoCo."""

STATE_RATE = 100.0
"""Joint states per simulated second; Gazebo before its tenth release sends one every step instead."""

POSE_RATE = 20.0
"""Poses of each block per simulated second."""

_FIXED_MASS = 20.0  # kg, of the table, which is fixed to the world: any number will do


def block_pose_topic(color: str) -> str:
    """Topic on which Gazebo says where a block is."""
    return f"/gazebo/blocks/{color}/pose"


def lamp_visual(lamp: str) -> str:
    """Gazebo's name of what shows the LED or the bulb."""
    return f"{TABLE}::{TABLE}::{lamp}"


def bridges(contract: RobotContract) -> tuple[str, ...]:
    """What ``ros_gz_bridge parameter_bridge`` is told to carry: ``TOPIC@ROS type[Gazebo type``, ``]`` the other way."""
    states, image = "sensor_msgs/msg/JointState[gz.msgs.Model", "sensor_msgs/msg/Image[gz.msgs.Image"
    info = "sensor_msgs/msg/CameraInfo[gz.msgs.CameraInfo"
    kinds = {ROBOT_STATES: states, FIXTURE_STATES: states}
    kinds |= {block_pose_topic(color): "geometry_msgs/msg/PoseStamped[gz.msgs.Pose" for color in scene.BLOCKS}
    for camera in contract.observation.cameras.values():
        kinds |= {camera.raw_topic: image, camera.raw_topic.replace("image_raw", "camera_info"): info}
    kinds[SETPOINTS] = "trajectory_msgs/msg/JointTrajectory]gz.msgs.JointTrajectory"
    kinds[MATERIAL_COLOR] = "ros_gz_interfaces/msg/MaterialColor]gz.msgs.MaterialColor"
    return tuple(f"{topic}@{kind}" for topic, kind in kinds.items())


def fixture_joints(tabletop: Tabletop) -> dict[str, float]:
    """What to add to Gazebo's position of each joint of the table: its zero is where the world begins."""
    model, data = tabletop.model, tabletop.data
    return {model.joint(j).name: float(data.qpos[model.jnt_qposadr[j]]) for j in _joints_of(model, _fixtures(model))}


def world(
    tabletop: Tabletop, image_rate: float = 10.0, real_time_factor: float = 1.0, render_engine: str = "ogre"
) -> str:
    """The world as XML.

    Args:
        tabletop: whose present scene it is.
        image_rate: images per simulated second and camera.
        real_time_factor: simulated seconds per wall-clock second, at most.
        render_engine: of the cameras, ``ogre`` or ``ogre2``.
    """
    return _Writer(tabletop, image_rate).world(real_time_factor, render_engine)


def _fixtures(model: mujoco.MjModel) -> list[int]:
    """Bodies that hang on the table: drawer, door, button, lever."""
    names = [model.body(b).name for b in range(model.nbody)]
    return [b for b, name in enumerate(names) if b and not name.startswith((ROBOT, "block_"))]


def _joints_of(model: mujoco.MjModel, bodies: Iterable[int]) -> list[int]:
    return [int(j) for body in bodies for j in np.flatnonzero(model.jnt_bodyid == body)]


class _Writer:
    def __init__(self, tabletop: Tabletop, image_rate: float) -> None:
        self._tabletop = tabletop
        self._model, self._data = tabletop.model, tabletop.data
        self._contract = tabletop.contract
        self._image_rate = image_rate
        self._driven = (*self._contract.joints, *tabletop.finger_joints)

    def world(self, real_time_factor: float, render_engine: str) -> str:
        scene.set_lights(self._model, *self._tabletop.lamps)
        root = Element("sdf", version="1.9")
        world = _add(root, "world", name=WORLD)
        physics = _add(world, "physics", name="physics", type="dart", default="true")
        _add(physics, "max_step_size", STEP)
        _add(physics, "real_time_factor", real_time_factor)
        for system in ("physics", "user-commands", "scene-broadcaster"):
            _plugin(world, system)
        _add(_plugin(world, "sensors"), "render_engine", render_engine)
        self._light(world)
        self._floor(world)
        self._table(world)
        for color in scene.BLOCKS:
            self._block(world, color)
        self._robot(world)
        self._fixed_cameras(world)
        ElementTree.indent(root)
        return '<?xml version="1.0"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"

    # What is in the world.

    def _light(self, world: Element) -> None:
        """MuJoCo's lamp, and from where the static camera stands its headlight, which Gazebo does not have."""
        model = self._model
        look = _add(world, "scene")
        _add(look, "ambient", _numbers([*model.vis.headlight.ambient, 1]))
        _add(look, "background", "0 0 0 1")
        _add(look, "shadows", "false")
        lamp = _add(world, "light", name="lamp", type="spot")
        _add(lamp, "pose", _numbers([*model.light_pos[0], 0, 0, 0]))
        _add(lamp, "diffuse", _numbers([*model.light_diffuse[0], 1]))
        _add(lamp, "specular", _numbers([*model.light_specular[0], 1]))
        _add(lamp, "direction", _numbers(model.light_dir[0]))
        reach = _add(lamp, "attenuation")
        _add(reach, "range", 20)
        _add(reach, "constant", 1)
        _add(reach, "linear", 0)
        _add(reach, "quadratic", 0)
        spot = _add(lamp, "spot")
        cutoff = np.deg2rad(model.light_cutoff[0])
        # OpenGL's cosine to the tenth power, which MuJoCo has, within a few per cent.
        _add(spot, "inner_angle", 0)
        _add(spot, "outer_angle", 2 * float(cutoff))
        _add(spot, "falloff", 2.3)
        head = _add(world, "light", name="headlight", type="directional")
        (eye, target) = scene.STATIC_CAMERA
        _add(head, "pose", _numbers([*eye, 0, 0, 0]))
        _add(head, "diffuse", _numbers([*model.vis.headlight.diffuse, 1]))
        _add(head, "specular", _numbers([*model.vis.headlight.specular, 1]))
        _add(head, "direction", _numbers(np.subtract(target, eye)))
        for light in (lamp, head):
            _add(light, "cast_shadows", "false")

    def _floor(self, world: Element) -> None:
        floor = _add(world, "model", name="floor")
        _add(floor, "static", "true")
        self._geom(_add(floor, "link", name="floor"), self._model.geom("floor").id)

    def _table(self, world: Element) -> None:
        """One model, so that its joints are in one message: a base fixed to the world, and what hangs on it."""
        model = self._model
        table = _add(world, "model", name=TABLE)
        base = _add(table, "link", name=TABLE)
        _inertial(base, _FIXED_MASS, np.eye(3))
        for geom in self._geoms(0):
            if model.geom(geom).name != "floor":
                self._geom(base, geom)
        _fix_to_world(table, TABLE)
        offsets = fixture_joints(self._tabletop)
        for body in _fixtures(model):
            name = f"{model.body(body).name}_link"  # SDF has one set of names for links and joints
            link = self._link(table, name, body)
            _pose(link, self._data.xpos[body], self._data.xquat[body])
            for joint in _joints_of(model, [body]):
                self._joint(table, joint, TABLE, name, offsets[model.joint(joint).name])
        self._joint_states(table, FIXTURE_STATES, offsets)

    def _block(self, world: Element, color: str) -> None:
        body = self._model.body(f"block_{color}").id
        block = _add(world, "model", name=f"block_{color}")
        _pose(block, self._data.xpos[body], self._data.xquat[body])
        self._link(block, f"block_{color}", body)
        poses = _plugin(block, "pose-publisher")
        for what in ("link", "visual", "collision", "sensor", "nested_model"):
            _add(poses, f"publish_{what}_pose", "false")
        _add(poses, "publish_model_pose", "true")
        _add(poses, "update_frequency", POSE_RATE)
        _add(poses, "topic", block_pose_topic(color))

    def _robot(self, world: Element) -> None:
        model = self._model
        robot = _add(world, "model", name="robot")
        bodies = [b for b in range(model.nbody) if model.body(b).name.startswith(ROBOT)]
        for body in bodies:
            name = model.body(body).name.removeprefix(ROBOT)
            link = self._link(robot, name, body)
            _add(link, "gravity", "false")  # the arm's controller carries its weight
            parent = model.body_parentid[body]
            if parent == 0:
                _pose(link, model.body_pos[body], model.body_quat[body])
                _fix_to_world(robot, name)
                continue
            above = model.body(parent).name.removeprefix(ROBOT)
            _pose(link, model.body_pos[body], model.body_quat[body], above)
            joints = _joints_of(model, [body])
            for joint in joints:
                self._joint(robot, joint, above, name)
            if not joints:
                fixed = _add(robot, "joint", name=f"{name}_fixed", type="fixed")
                _add(fixed, "parent", above)
                _add(fixed, "child", name)
        self._cameras(robot, bodies)
        self._servos(robot)
        self._joint_states(robot, ROBOT_STATES, self._driven)

    def _servos(self, robot: Element) -> None:
        controller = _plugin(robot, "joint-trajectory-controller")
        _add(controller, "topic", SETPOINTS)
        for name in self._driven:
            stiffness, _, force = self._servo(name)
            _add(controller, "joint_name", name)
            _add(controller, "initial_position", float(np.clip(0.0, *self._model.joint(ROBOT + name).range)))
            _add(controller, "position_p_gain", stiffness)
            _add(controller, "position_cmd_min", -force)
            _add(controller, "position_cmd_max", force)

    def _servo(self, joint: str) -> tuple[float, float, float]:
        """Stiffness, damping and force limit of the servo that moves a joint, in N m, N and radians or metres.

        The damping is in the joint, where the physics takes it implicitly; the force limit is what the drive has and
        what the damping takes at its greatest speed. A joint that is held gives no more than its drive has until
        it is ``watchdogs.obstruction`` behind, where the executor gives way.
        """
        contract, mj = self._contract, self._model
        force = float(mj.jnt_actfrcrange[mj.joint(ROBOT + joint).id][1])
        if joint in contract.joints:
            stiffness = min(float(mj.actuator(joint).gainprm[0]), force / contract.watchdogs.obstruction)
            speed = contract.limits.velocity[contract.joints.index(joint)]
        else:  # MuJoCo's one gripper servo moves both fingers; here each has one
            gripper = mj.actuator(contract.gripper.joint)
            stiffness = float(gripper.gainprm[0]) / 2
            force = (float(gripper.forcerange[1]) or force) / 2
            speed = contract.gripper.max_velocity
        damping = scene.SERVO_LAG * stiffness
        return stiffness, damping, force + damping * DRIVE_SPEED * speed

    def _fixed_cameras(self, world: Element) -> None:
        model = _add(world, "model", name="cameras")
        _add(model, "static", "true")
        _add(model, "link", name="cameras")
        self._cameras(model, [0])

    # Parts of it.

    def _link(self, model: Element, name: str, body: int) -> Element:
        mj = self._model
        link = _add(model, "link", name=name)
        rotation = _rotation(mj.body_iquat[body])
        inertia = rotation @ np.diag(mj.body_inertia[body]) @ rotation.T
        _inertial(link, mj.body_mass[body], inertia, mj.body_ipos[body])
        for geom in self._geoms(body):
            self._geom(link, geom)
        return link

    def _geoms(self, body: int) -> list[int]:
        return [int(geom) for geom in np.flatnonzero(self._model.geom_bodyid == body)]

    def _geom(self, link: Element, geom: int) -> None:
        model = self._model
        name = model.geom(geom).name or f"geom_{geom}"
        kinds = ["visual"]
        if model.geom_contype[geom] or model.geom_conaffinity[geom]:
            kinds.append("collision")
        for kind in kinds:
            part = _add(link, kind, name=name)
            _pose(part, model.geom_pos[geom], model.geom_quat[geom])
            self._shape(_add(part, "geometry"), geom)
            if kind == "visual":
                material = _add(part, "material")
                color = _numbers(model.geom_rgba[geom])
                for light in ("ambient", "diffuse"):
                    _add(material, light, color)
                _add(material, "specular", "0.1 0.1 0.1 1")
            else:
                ode = _add(_add(_add(part, "surface"), "friction"), "ode")
                for name_of_mu in ("mu", "mu2"):
                    _add(ode, name_of_mu, float(model.geom_friction[geom][0]))

    def _shape(self, geometry: Element, geom: int) -> None:
        kind, size = mujoco.mjtGeom(self._model.geom_type[geom]), self._model.geom_size[geom]
        if kind == mujoco.mjtGeom.mjGEOM_PLANE:
            plane = _add(geometry, "plane")
            _add(plane, "normal", "0 0 1")
            _add(plane, "size", _numbers(2 * size[:2]))
        elif kind == mujoco.mjtGeom.mjGEOM_BOX:
            _add(_add(geometry, "box"), "size", _numbers(2 * size))
        elif kind == mujoco.mjtGeom.mjGEOM_SPHERE:
            _add(_add(geometry, "sphere"), "radius", float(size[0]))
        elif kind in (mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_CAPSULE):
            shape = _add(geometry, "cylinder" if kind == mujoco.mjtGeom.mjGEOM_CYLINDER else "capsule")
            _add(shape, "radius", float(size[0]))
            _add(shape, "length", float(2 * size[1]))
        else:
            raise NotImplementedError(f"no SDF shape for {kind.name}")

    def _joint(self, model: Element, joint: int, parent: str, child: str, zero: float = 0.0) -> None:
        """A joint whose zero in Gazebo is ``zero`` in MuJoCo."""
        mj = self._model
        name = mj.joint(joint).name.removeprefix(ROBOT)
        dof = mj.jnt_dofadr[joint]
        hinge = mj.jnt_type[joint] == mujoco.mjtJoint.mjJNT_HINGE
        element = _add(model, "joint", name=name, type="revolute" if hinge else "prismatic")
        _add(element, "parent", parent)
        _add(element, "child", child)
        _add(element, "pose", _numbers([*mj.jnt_pos[joint], 0, 0, 0]))
        axis = _add(element, "axis")
        _add(axis, "xyz", _numbers(mj.jnt_axis[joint]))
        limit = _add(axis, "limit")
        _add(limit, "lower", float(mj.jnt_range[joint][0] - zero))
        _add(limit, "upper", float(mj.jnt_range[joint][1] - zero))
        damping = float(mj.dof_damping[dof])
        if name in self._driven:
            _, damping, force = self._servo(name)
            _add(limit, "effort", force)
        dynamics = _add(axis, "dynamics")
        _add(dynamics, "damping", damping)
        _add(dynamics, "friction", float(mj.dof_frictionloss[dof]))
        if stiffness := float(np.atleast_1d(mj.jnt_stiffness[joint])[0]):
            _add(dynamics, "spring_stiffness", stiffness)
            _add(dynamics, "spring_reference", float(mj.qpos_spring[mj.jnt_qposadr[joint]]) - zero)

    def _cameras(self, model: Element, bodies: list[int]) -> None:
        """The contract's cameras that ride on these bodies; Gazebo's look along x, with z up."""
        mj = self._model
        for name, size in self._contract.observation.cameras.items():
            camera = mj.camera(name)
            if camera.bodyid[0] not in bodies:
                continue
            body = mj.body(camera.bodyid[0]).name.removeprefix(ROBOT) if camera.bodyid[0] else "cameras"
            link = next(link for link in model.iter("link") if link.get("name") == body)
            sensor = _add(link, "sensor", name=name, type="camera")
            right, up, back = _rotation(camera.quat).T
            quaternion = np.zeros(4)
            mujoco.mju_mat2Quat(quaternion, np.column_stack([-back, -right, up]).ravel())
            _pose(sensor, camera.pos, quaternion)
            _add(sensor, "topic", size.raw_topic)
            _add(sensor, "update_rate", self._image_rate)
            _add(sensor, "always_on", "true")
            view = _add(sensor, "camera")
            fov = 2 * np.arctan(np.tan(np.deg2rad(camera.fovy[0]) / 2) * size.width / size.height)
            _add(view, "horizontal_fov", float(fov))
            image = _add(view, "image")
            _add(image, "width", size.width)
            _add(image, "height", size.height)
            _add(image, "format", "R8G8B8")
            _add(image, "anti_aliasing", 0)
            clip = _add(view, "clip")
            _add(clip, "near", float(mj.vis.map.znear * mj.stat.extent))
            _add(clip, "far", float(mj.vis.map.zfar * mj.stat.extent))

    def _joint_states(self, model: Element, topic: str, joints: Iterable[str]) -> None:
        states = _plugin(model, "joint-state-publisher")
        _add(states, "topic", topic)
        _add(states, "update_rate", STATE_RATE)
        for joint in joints:
            _add(states, "joint_name", joint)


def _add(parent: Element, tag: str, text: object = None, /, **attributes: str) -> Element:
    child = ElementTree.SubElement(parent, tag, attributes)
    if text is not None:
        child.text = f"{text:.6g}" if isinstance(text, float) else str(text)
    return child


def _plugin(parent: Element, system: str) -> Element:
    name = "".join(word.capitalize() for word in system.split("-"))
    return _add(parent, "plugin", filename=f"gz-sim-{system}-system", name=f"gz::sim::systems::{name}")


def _pose(element: Element, position: np.ndarray, quaternion: np.ndarray, relative_to: str = "") -> None:
    """A pose: metres; quaternion as MuJoCo has it, w first."""
    w, x, y, z = quaternion
    frame = {"relative_to": relative_to} if relative_to else {}
    _add(element, "pose", _numbers([*position, x, y, z, w]), rotation_format="quat_xyzw", **frame)


def _rotation(quaternion: np.ndarray) -> np.ndarray:
    """(3, 3) of a quaternion as MuJoCo has it."""
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)


def _fix_to_world(model: Element, link: str) -> None:
    joint = _add(model, "joint", name=f"{link}_fixed", type="fixed")
    _add(joint, "parent", "world")
    _add(joint, "child", link)


def _inertial(link: Element, mass: float, inertia: np.ndarray, position: Iterable[float] = (0, 0, 0)) -> None:
    """Mass and (3, 3) inertia about the centre of mass, along the link's axes."""
    inertial = _add(link, "inertial")
    _add(inertial, "pose", _numbers([*position, 0, 0, 0]))
    _add(inertial, "mass", float(mass))
    moments = _add(inertial, "inertia")
    for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)):
        _add(moments, f"i{'xyz'[i]}{'xyz'[j]}", float(inertia[i, j]))


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.6g}" for value in values)
