# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The embedded MuJoCo tabletop: scene, tasks, oracle, scripted experts (robot and hand)."""

import os

# MuJoCo reads it as it is imported; without a screen it would render nothing.
os.environ.setdefault("MUJOCO_GL", "egl")

MOST_LAG = 0.06
"""Seconds by which the simulated arm is behind its commands, at most, if nothing holds it; see ``scene.SERVO_LAG``."""
