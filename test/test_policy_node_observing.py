# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Observations put together from messages that arrive one by one."""

from __future__ import annotations

import numpy as np
import pytest

from arvrm_ros.contract import load_contract
from arvrm_ros.errors import InstructionCode
from arvrm_ros.policies.observing import ObservationBuffer, StaleInputError


class TestObservationBuffer:
    def filled(self) -> ObservationBuffer:
        buffer = ObservationBuffer(load_contract("tabletop"))
        for i in range(20):
            buffer.add_joints(i * 0.01, np.full(7, i * 0.01), 0.5)
        for stamp in (0.0, 0.1):
            for camera in ("static", "gripper"):
                buffer.add_image(camera, stamp, np.full((128, 128, 3), round(stamp * 100), np.uint8))
        return buffer

    def test_takes_the_newest_images_and_the_joints_of_their_time(self) -> None:
        observation = self.filled().observation(0.2)
        assert observation.stamp == 0.1
        assert observation.joint_positions == pytest.approx(np.full(7, 0.1))
        assert {name: image[0, 0, 0] for name, image in observation.images.items()} == {"static": 10, "gripper": 10}

    def test_waits_for_the_slower_camera(self) -> None:
        buffer = self.filled()
        buffer.add_image("static", 0.2, np.zeros((128, 128, 3), np.uint8))
        assert buffer.newest_stamp() == 0.1

    def test_names_what_is_stale(self) -> None:
        buffer = self.filled()
        with pytest.raises(StaleInputError, match="static_camera") as error:
            buffer.observation(0.6)
        assert error.value.code is InstructionCode.STALE_IMAGES
        for camera in ("static", "gripper"):
            buffer.add_image(camera, 0.6, np.zeros((128, 128, 3), np.uint8))
        with pytest.raises(StaleInputError, match="joint_states") as error:
            buffer.observation(0.6)
        assert error.value.code is InstructionCode.STALE_JOINT_STATES
