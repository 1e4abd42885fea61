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


def rendered_hand() -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 RGB of an open hand over a brown table, and its true keypoints (21, 3) as of a landmarker."""
    model = mujoco.MjModel.from_xml_string(TABLE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    camera = mujoco.MjvCamera()
    camera.lookat[:], camera.distance, camera.azimuth, camera.elevation = (0, 0.06, 0), 0.42, 45, -60
    hand, posture = CapsuleHand(), pinch(1.0)
    with mujoco.Renderer(model, HEIGHT, WIDTH) as renderer:
        renderer.update_scene(data, camera)
        hand.add_to(renderer.scene, np.eye(4), posture)
        image = renderer.render().copy()
    matrices = camera_pose(camera, float(model.vis.global_.fovy))
    return image, project(hand.keypoints(np.eye(4), posture), *matrices, WIDTH, HEIGHT)
