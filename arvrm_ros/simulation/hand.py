# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A human-like hand of capsules with 21 keypoints, drawn into a MuJoCo scene without touching its physics.

The proportions are those of an adult hand of 18.5 cm. Real hands are filmed, not simulated: the hand exists only in the
rendered picture, where hand detectors trained on photographs recognise it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import mujoco
import numpy as np

# A right hand lies in its own frame palm down: origin at the wrist, x to the right (the thumb is on the left, -x),
# y along the fingers, z out of the back of the hand. Metres.
KNUCKLES = np.array([[-0.030, 0.090, 0.0], [-0.008, 0.095, 0.0], [0.014, 0.090, 0.0], [0.034, 0.080, 0.0]])
PHALANGES = np.array([[0.040, 0.025, 0.022], [0.045, 0.029, 0.024], [0.041, 0.027, 0.023], [0.033, 0.020, 0.020]])
FINGER_RADII = np.array(
    [[0.0095, 0.0085, 0.0075], [0.0097, 0.0086, 0.0076], [0.0090, 0.0080, 0.0070], [0.0080, 0.0070, 0.0063]]
)
THUMB_BASE = np.array([-0.025, 0.025, -0.005])
THUMB_BONES = np.array([0.044, 0.033, 0.028])
THUMB_RADII = np.array([0.0125, 0.0105, 0.0090])

SPREAD = np.array([-0.12, 0.0, 0.10, 0.22])  # rad, sideways turn of each finger at its knuckle

# Flexion of knuckle, middle and end joint (rad) per finger, index to little.
OPEN_FLEXION = np.array([[0.30, 0.40, 0.20], [0.30, 0.45, 0.25], [0.35, 0.50, 0.30], [0.40, 0.50, 0.30]])
PINCH_FLEXION = np.array([[0.80, 0.85, 0.35], [0.75, 0.75, 0.40], [0.65, 0.75, 0.40], [0.60, 0.70, 0.40]])
POINT_FLEXION = np.array([[0.25, 0.25, 0.15], [0.65, 0.85, 0.50], [0.80, 1.00, 0.60], [0.85, 1.05, 0.60]])
OPEN_THUMB_TIP = np.array([-0.075, 0.095, -0.035])
POINT_THUMB_TIP = np.array([-0.050, 0.095, -0.045])


@dataclass(frozen=True)
class Posture:
    """What the fingers do, in the frame of a right hand of size 1.

    Attributes:
        flexion: (4, 3) radians; index, middle, ring, little finger by knuckle, middle and end joint.
        thumb_tip: (3,) metres, where the thumb reaches to (it stops short of points out of its reach).
    """

    flexion: np.ndarray
    thumb_tip: np.ndarray


def pinch(opening: float) -> Posture:
    """Thumb and index finger as a gripper: 0 is tip on tip, 1 wide open."""
    opening = float(np.clip(opening, 0.0, 1.0))
    flexion = (1 - opening) * PINCH_FLEXION + opening * OPEN_FLEXION
    touching = _finger(0, PINCH_FLEXION[0])[-1] + [-0.006, -0.008, -0.012]
    return Posture(flexion, (1 - opening) * touching + opening * OPEN_THUMB_TIP)


def grasp(width: float) -> Posture:
    """Thumb and index finger about ``width`` metres apart, for a hand of size 1; clipped to what it can do."""
    closed, wide = 0.015, 0.076  # between the tips, at openings 0 and 1; nearly linear in between
    return pinch((width - closed) / (wide - closed))


def point() -> Posture:
    """The index finger stretched out, the others closed: how a person presses a button."""
    return Posture(POINT_FLEXION, POINT_THUMB_TIP)


def blend(a: Posture, b: Posture, share: float) -> Posture:
    """The posture ``share`` of the way from ``a`` to ``b``."""
    return Posture(
        (1 - share) * a.flexion + share * b.flexion,
        (1 - share) * a.thumb_tip + share * b.thumb_tip,
    )


def hand_rotation(heading: float, pitch: float, roll: float) -> np.ndarray:
    """The attitude of a reaching hand in a world with z up.

    Args:
        heading: direction of the fingers about z, radians; 0 points along world x.
        pitch: how far the fingers dip below the horizon, radians.
        roll: turn about the fingers' axis, radians; 0 is palm down, positive lifts the thumb's side of a right hand.

    Returns:
        (3, 3) rotation, world from hand.
    """
    forward = np.array([np.cos(heading), np.sin(heading), 0.0])
    right = np.array([np.sin(heading), -np.cos(heading), 0.0])
    y = np.cos(pitch) * forward - np.sin(pitch) * np.array([0.0, 0.0, 1.0])
    up = np.cross(right, y)
    x = np.cos(roll) * right - np.sin(roll) * up
    return np.stack([x, y, np.cross(x, y)], axis=1)


class CapsuleHand:
    """A hand of one size and colour.

    Attributes:
        size: scale; 1 is an adult hand of 18.5 cm from wrist to middle fingertip.
        skin: red, green, blue in [0, 1].
        handedness: "right" or "left" (the mirror image in the hand's x).
        sleeve: colour of the sleeve over the forearm, or None for a bare arm.
    """

    def __init__(
        self,
        size: float = 1.0,
        skin: tuple[float, float, float] = (0.87, 0.67, 0.55),
        handedness: str = "right",
        sleeve: tuple[float, float, float] | None = None,
    ) -> None:
        if handedness not in ("right", "left"):
            raise ValueError(f"handedness is right or left, not {handedness!r}")
        self.size, self.skin, self.handedness, self.sleeve = size, skin, handedness, sleeve
        self._scale = size * np.array([1.0 if handedness == "right" else -1.0, 1.0, 1.0])

    def keypoints(self, world_from_hand: np.ndarray, posture: Posture) -> np.ndarray:
        """The joints' true places: (21, 3) metres, world, in the order of ``data.types.HAND_KEYPOINTS``.

        Args:
            world_from_hand: (4, 4) rigid transform.
            posture: of the fingers.
        """
        return _transform(world_from_hand, self._scale * _joints(posture))

    def pinch_point(self, posture: Posture) -> np.ndarray:
        """Half way between the tips of thumb and index finger: (3,) metres, hand frame."""
        joints = self._scale * _joints(posture)
        return (joints[4] + joints[8]) / 2

    def index_tip(self, posture: Posture) -> np.ndarray:
        """Tip of the index finger: (3,) metres, hand frame."""
        return (self._scale * _joints(posture))[8]

    def add_to(self, scene: mujoco.MjvScene, world_from_hand: np.ndarray, posture: Posture) -> None:
        """Draws the hand into a scene that has just been updated.

        Raises:
            ValueError: the scene has no room for the hand's shapes.
        """
        joints = self.keypoints(world_from_hand, posture)
        for a, b, radius in _capsules():
            self._add_capsule(scene, _mix(joints, a), _mix(joints, b), self.size * radius, self.skin)
        rotation = world_from_hand[:3, :3]
        for centre, radii in PADS:
            geom = _next_geom(scene)
            mujoco.mjv_initGeom(
                geom,
                mujoco.mjtGeom.mjGEOM_ELLIPSOID,
                self.size * np.array(radii),
                _transform(world_from_hand, self._scale * np.array(centre)),
                rotation.flatten(),
                np.array([*self.skin, 1.0], dtype=np.float32),
            )
            _matte(geom)
        elbow, cuff = (np.array([0.0, y, -0.004]) * self._scale for y in (-0.40, -0.055))
        ends = _transform(world_from_hand, np.stack([np.zeros(3), cuff, elbow]))
        self._add_capsule(scene, ends[0], ends[2], self.size * 0.026, self.skin)
        if self.sleeve is not None:
            self._add_capsule(scene, ends[1], ends[2], self.size * 0.036, self.sleeve)

    def _add_capsule(
        self, scene: mujoco.MjvScene, a: np.ndarray, b: np.ndarray, radius: float, colour: tuple[float, float, float]
    ) -> None:
        geom = _next_geom(scene)
        mujoco.mjv_initGeom(
            geom,
            mujoco.mjtGeom.mjGEOM_CAPSULE,
            np.zeros(3),
            np.zeros(3),
            np.eye(3).flatten(),
            np.array([*colour, 1.0], dtype=np.float32),
        )
        mujoco.mjv_connector(geom, mujoco.mjtGeom.mjGEOM_CAPSULE, radius, a, b)
        _matte(geom)


# Ellipsoids that fill the palm and the ball of the thumb: centre and radii, hand frame.
PADS = (
    ((0.002, 0.052, 0.0), (0.042, 0.050, 0.013)),
    ((-0.024, 0.035, -0.006), (0.018, 0.030, 0.014)),
)


Mixture = tuple[tuple[int, float], ...]
"""A point as a weighted sum of keypoints: (index, weight) each."""


@cache
def _capsules() -> list[tuple[Mixture, Mixture, float]]:
    """The capsules as (end, end, radius)."""

    def at(keypoint: int) -> Mixture:
        return ((keypoint, 1.0),)

    capsules: list[tuple[Mixture, Mixture, float]] = [(((0, 0.6), (1, 0.4)), at(1), 0.014)]
    capsules += [(at(1 + i), at(2 + i), float(radius)) for i, radius in enumerate(THUMB_RADII)]
    for knuckle, radii in zip((5, 9, 13, 17), FINGER_RADII, strict=True):
        capsules.append((((0, 0.75), (knuckle, 0.25)), at(knuckle), 0.0115))
        capsules += [(at(knuckle + i), at(knuckle + i + 1), float(radius)) for i, radius in enumerate(radii)]
    return capsules


def _joints(posture: Posture) -> np.ndarray:
    """(21, 3) joints of a right hand of size 1, hand frame."""
    fingers = [_finger(i, flexion) for i, flexion in enumerate(posture.flexion)]
    return np.concatenate([np.zeros((1, 3)), _thumb(posture.thumb_tip), *fingers])


def _finger(finger: int, flexion: np.ndarray) -> np.ndarray:
    """(4, 3) knuckle, two joints and tip of one finger."""
    angle, spread = np.cumsum(flexion), SPREAD[finger]
    ahead = np.array([np.sin(spread), np.cos(spread), 0.0])
    bones = PHALANGES[finger, :, None] * (np.cos(angle)[:, None] * ahead + np.sin(angle)[:, None] * [0.0, 0.0, -1.0])
    return KNUCKLES[finger] + np.concatenate([np.zeros((1, 3)), np.cumsum(bones, axis=0)])


def _thumb(tip: np.ndarray) -> np.ndarray:
    """(4, 3) base, two joints and tip of the thumb, evenly bent so that it reaches for ``tip``."""
    reach = tip - THUMB_BASE
    distance = np.linalg.norm(reach)
    along = reach / distance
    outward = np.array([-1.0, 0.0, -0.6])  # the joints bulge away from the palm
    outward -= along * (outward @ along)
    outward /= np.linalg.norm(outward)

    def chain(bend: float) -> np.ndarray:
        """(3, 2) ends of the three bones in their plane, the first bone along the first axis."""
        angle = bend * np.arange(3)
        return np.cumsum(THUMB_BONES[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1), axis=0)

    low, high = 0.0, 1.2  # rad; the chord shortens as the bend grows
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if np.linalg.norm(chain(middle)[-1]) > distance else (low, middle)
    plane = chain(low)
    chord = plane[-1] / np.linalg.norm(plane[-1])
    # Turned into the frame in which the chord points along the reach; the bend opens towards the palm.
    lengthways, sideways = plane @ chord, plane @ np.array([chord[1], -chord[0]])
    return THUMB_BASE + np.concatenate([np.zeros((1, 3)), lengthways[:, None] * along + sideways[:, None] * outward])


def _mix(points: np.ndarray, weights: Mixture) -> np.ndarray:
    return sum((weight * points[index] for index, weight in weights), np.zeros(3))


def _transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _next_geom(scene: mujoco.MjvScene) -> mujoco.MjvGeom:
    if scene.ngeom >= scene.maxgeom:
        raise ValueError(f"the scene is full ({scene.maxgeom} geoms); give the renderer a larger max_geom")
    scene.ngeom += 1
    return scene.geoms[scene.ngeom - 1]


def _matte(geom: mujoco.MjvGeom) -> None:
    geom.specular, geom.shininess = 0.1, 0.3
