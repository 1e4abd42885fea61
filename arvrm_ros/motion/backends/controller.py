# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Streams the executor's commands to ros2_control's ``joint_trajectory_controller`` on its topic interface.

The controller drops, with one log line, a trajectory that lacks one of its joints, whose times do not increase from
above zero, or whose last point has a velocity (``allow_nonzero_velocity_at_trajectory_end`` is false since Kilted).
What is streamed ends at rest, so that velocities and accelerations can be given: it then interpolates with quintics.
"""

from __future__ import annotations

from arvrm_ros.motion.backends import embedded


class Backend(embedded.Backend):
    """As the embedded one. The controllers are other processes' business: one that does not move the arm shows as a
    tracking error.
    """

    name = "controller"
