# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The capsule hand: its bones, its mirror image, its reach, and that it is drawn where its keypoints project to."""

import os

os.environ.setdefault("MUJOCO_GL", "egl")

import mujoco
import numpy as np
import pytest

from arvrm_ros.data.clips import project
from arvrm_ros.perception.overlay import BONES
from arvrm_ros.simulation.hand import CapsuleHand, blend, grasp, hand_rotation, pinch, point
from arvrm_ros.simulation.human import HEIGHT, WIDTH, camera_pose

EMPTY = """<mujoco><visual><global offwidth="640" offheight="480"/><quality offsamples="0"/>
<headlight ambient="0.6 0.6 0.6"/></visual><worldbody/></mujoco>"""


def lengths(keypoints):
    return np.array([np.linalg.norm(keypoints[a] - keypoints[b]) for a, b in BONES])


def some_pose():
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = hand_rotation(0.4, 0.5, 0.3), (0.5, 0.1, 0.2)
    return pose


@pytest.mark.parametrize("posture", [pinch(0.0), pinch(0.5), point(), blend(point(), pinch(1.0), 0.3)])
def test_bones_keep_their_length_in_every_posture(posture):
    hand = CapsuleHand(size=1.1)
    open_hand = hand.keypoints(np.eye(4), pinch(1.0))
    np.testing.assert_allclose(lengths(hand.keypoints(some_pose(), posture)), lengths(open_hand), atol=1e-9)


def test_an_adult_hand_is_as_long_as_one():
    straight = blend(pinch(1.0), pinch(1.0), 0.0)
    straight.flexion[:] = 0.0
    keypoints = CapsuleHand().keypoints(np.eye(4), straight)
    assert 0.17 < np.linalg.norm(keypoints[12] - keypoints[0]) < 0.21


def test_the_left_hand_is_the_mirror_image_of_the_right():
    right, left = (CapsuleHand(handedness=side).keypoints(np.eye(4), pinch(0.4)) for side in ("right", "left"))
    np.testing.assert_allclose(left, right * [-1, 1, 1])
    # A right hand seen from its back, fingers up, has its thumb on the left.
    assert right[4, 0] < right[8, 0] < right[20, 0]


def test_an_unknown_hand_is_refused():
    with pytest.raises(ValueError, match="right or left"):
        CapsuleHand(handedness="both")


def test_rotations_are_rotations_and_palm_down_is_palm_down():
    rotation = hand_rotation(0.7, 0.4, -0.2)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    level = hand_rotation(0.0, 0.0, 0.0)
    np.testing.assert_allclose(level[:, 1], [1, 0, 0], atol=1e-12)  # the fingers
    np.testing.assert_allclose(level[:, 2], [0, 0, 1], atol=1e-12)  # the back of the hand
    assert hand_rotation(0.0, 0.5, 0.0)[2, 1] < 0  # the fingers dip


def test_the_fingers_close_with_the_gap_they_are_asked_for():
    hand = CapsuleHand()
    for gap in (0.02, 0.035, 0.05, 0.07):
        keypoints = hand.keypoints(np.eye(4), grasp(gap))
        assert np.linalg.norm(keypoints[4] - keypoints[8]) == pytest.approx(gap, abs=0.004)


def test_the_thumb_bulges_away_from_the_palm():
    for opening in (0.0, 0.5, 1.0):
        thumb = CapsuleHand().keypoints(np.eye(4), pinch(opening))[1:5]
        middle = (thumb[0] + thumb[3]) / 2
        assert ((thumb[1] + thumb[2]) / 2 - middle) @ [-1.0, 0.0, -0.6] > -1e-3


def test_pinch_point_and_index_tip_are_where_the_keypoints_say():
    hand = CapsuleHand(0.9, handedness="left")
    posture = pinch(0.3)
    keypoints = hand.keypoints(np.eye(4), posture)
    np.testing.assert_allclose(hand.pinch_point(posture), (keypoints[4] + keypoints[8]) / 2)
    np.testing.assert_allclose(hand.index_tip(posture), keypoints[8])


@pytest.mark.parametrize("handedness", ["right", "left"])
def test_the_hand_is_drawn_where_its_keypoints_project_to(handedness):
    model = mujoco.MjModel.from_xml_string(EMPTY)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    camera = mujoco.MjvCamera()
    camera.lookat[:], camera.distance, camera.azimuth, camera.elevation = (0.6, 0.1, 0.2), 0.5, 120, -80
    hand, posture = CapsuleHand(handedness=handedness), pinch(1.0)
    with mujoco.Renderer(model, HEIGHT, WIDTH) as renderer:
        renderer.update_scene(data, camera)
        assert not renderer.render().any()
        hand.add_to(renderer.scene, some_pose(), posture)
        image = renderer.render()
    drawn = image.any(axis=2)
    matrix = camera_pose(camera, float(model.vis.global_.fovy))
    keypoints = project(hand.keypoints(some_pose(), posture), *matrix, WIDTH, HEIGHT)
    columns, rows = (keypoints[:, :2] * (WIDTH, HEIGHT)).astype(int).T
    assert drawn[rows, columns].all()
    # Nothing is drawn beyond the fingers: they end where the keypoints do.
    tips = keypoints[[8, 12, 16, 20], :2] * (WIDTH, HEIGHT)
    outward = tips - keypoints[0, :2] * (WIDTH, HEIGHT)
    beyond = tips + 15 * outward / np.linalg.norm(outward, axis=1, keepdims=True)
    assert not drawn[beyond[:, 1].astype(int), beyond[:, 0].astype(int)].any()


def test_a_full_scene_is_refused():
    model = mujoco.MjModel.from_xml_string(EMPTY)
    scene = mujoco.MjvScene(model, maxgeom=10)
    with pytest.raises(ValueError, match="scene is full"):
        CapsuleHand().add_to(scene, np.eye(4), point())
