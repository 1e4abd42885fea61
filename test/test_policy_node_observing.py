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

    def test_leaves_out_what_comes_late_or_again(self) -> None:
        buffer = self.filled()
        for stamp in (0.05, 0.1):
            buffer.add_image("static", stamp, np.zeros((128, 128, 3), np.uint8))
            buffer.add_joints(stamp, np.ones(7), 0.0)
        observation = buffer.observation(0.2)
        assert observation.images["static"][0, 0, 0] == 10
        assert observation.joint_positions == pytest.approx(np.full(7, 0.1))

    def test_starts_anew_when_the_clock_was_set_back(self) -> None:
        buffer = self.filled()
        buffer.add_joints(-5.0, np.ones(7), 0.0)
        for camera in ("static", "gripper"):
            buffer.add_image(camera, -5.0, np.full((128, 128, 3), 7, np.uint8))
        observation = buffer.observation(-4.9)
        assert observation.images["static"][0, 0, 0] == 7

    def test_does_not_believe_stamps_of_the_future(self) -> None:
        buffer = self.filled()
        buffer.add_joints(9.0, np.full(7, 0.19), 0.0)
        with pytest.raises(StaleInputError, match=r"joint_states is stamped 8.8 s in the future"):
            buffer.observation(0.2)

    def test_a_camera_whose_picture_stays_while_the_arm_moves_is_frozen(self) -> None:
        buffer = self.filled()
        for i in range(2, 8):
            buffer.add_joints(i * 0.1, np.full(7, 0.2 + 0.05 * i), 0.5)
            for camera in ("static", "gripper"):
                picture = i if camera == "static" else 10
                buffer.add_image(camera, i * 0.1, np.full((128, 128, 3), picture, np.uint8))
        with pytest.raises(StaleInputError, match="gripper_camera/image shows the same picture") as error:
            buffer.observation(0.7)
        assert error.value.code is InstructionCode.STALE_IMAGES
        buffer.add_image("gripper", 0.8, np.full((128, 128, 3), 99, np.uint8))
        buffer.add_image("static", 0.8, np.full((128, 128, 3), 99, np.uint8))
        buffer.observation(0.8)

    def test_a_picture_may_stay_while_the_arm_rests(self) -> None:
        buffer = self.filled()
        for i in range(2, 40):
            buffer.add_joints(i * 0.1, np.full(7, 0.19), 0.5)
            for camera in ("static", "gripper"):
                buffer.add_image(camera, i * 0.1, np.full((128, 128, 3), 10, np.uint8))
        buffer.observation(3.9)
