# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A picture of the capsule hand and its true keypoints, for tests with the real landmarker."""

import os

os.environ.setdefault("MUJOCO_GL", "egl")

import mujoco
import numpy as np

from arvrm_ros.data.clips import project
from arvrm_ros.simulation.hand import CapsuleHand, pinch
from arvrm_ros.simulation.human import HEIGHT, WIDTH, camera_pose

TABLE = """<mujoco><visual><global offwidth="480" offheight="360"/><quality offsamples="0"/>
<headlight ambient=".45 .45 .45" diffuse=".5 .5 .5" specular=".1 .1 .1"/></visual><worldbody>
<light pos="0.3 -.3 1" dir="-.2 .2 -1"/><geom type="plane" size="1 1 .1" pos="0 0 -0.12" rgba=".45 .32 .22 1"/>
</worldbody></mujoco>"""
OPEN = pinch(1.0)


def rendered_hand() -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 RGB of an open hand over a brown table, and its true keypoints (21, 3) as of a landmarker."""
    camera = mujoco.MjvCamera()
    camera.lookat[:], camera.distance, camera.azimuth, camera.elevation = (0, 0.06, 0), 0.42, 45, -60
    (image,), fovy = _render(camera, [[(0.0, 0.0)]])
    return image, project(CapsuleHand().keypoints(np.eye(4), OPEN), *camera_pose(camera, fovy), WIDTH, HEIGHT)


def rendered_hands(places: list[list[tuple[float, float]]]) -> list[np.ndarray]:
    """Images (H, W, 3) uint8 RGB of open hands from above; per image where they are: x, y in metres, up to 0.25."""
    camera = mujoco.MjvCamera()
    camera.lookat[:], camera.distance, camera.azimuth, camera.elevation = (0, 0.06, 0), 0.75, 90, -60
    return _render(camera, places)[0]


def _render(camera: mujoco.MjvCamera, places: list[list[tuple[float, float]]]) -> tuple[list[np.ndarray], float]:
    model = mujoco.MjModel.from_xml_string(TABLE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    images = []
    with mujoco.Renderer(model, HEIGHT, WIDTH) as renderer:
        for hands in places:
            renderer.update_scene(data, camera)
            for x, y in hands:
                pose = np.eye(4)
                pose[:2, 3] = x, y
                CapsuleHand().add_to(renderer.scene, pose, OPEN)
            images.append(renderer.render().copy())
    return images, float(model.vis.global_.fovy)
