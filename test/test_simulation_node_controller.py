# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The simulator's trajectory controllers: as strict as ros2_control's."""

from __future__ import annotations

import numpy as np
import pytest

from arvrm_ros.simulation.trajectory_controller import TrajectoryController, TrajectoryError, TrajectoryPoint


def point(positions: list[float], time: float, velocities: list[float] | None = None) -> TrajectoryPoint:
    return TrajectoryPoint(np.array(positions), None if velocities is None else np.array(velocities), time)


class TestTrajectoryController:
    def controller(self, **options: bool) -> TrajectoryController:
        controller = TrajectoryController(("a", "b"), **options)
        controller.reset(np.array([1.0, 2.0]), 10.0)
        return controller

    def test_goes_straight_and_holds_the_last_point(self) -> None:
        controller = self.controller()
        controller.accept(["b", "a"], [point([4.0, 3.0], 2.0)], None, 10.0)
        position, velocity = controller.sample(11.0)
        assert position == pytest.approx([2.0, 3.0])
        assert velocity == pytest.approx([1.0, 1.0])
        position, velocity = controller.sample(99.0)
        assert position == pytest.approx([3.0, 4.0])
        assert velocity == pytest.approx([0.0, 0.0])

    def test_velocity_is_continuous_with_velocities(self) -> None:
        controller = self.controller()
        points = [point([1.5, 2.0], 1.0, [0.8, 0.0]), point([2.0, 2.0], 2.0, [0.0, 0.0])]
        controller.accept(["a", "b"], points, None, 10.0)
        assert controller.sample(11.0 - 1e-6)[1] == pytest.approx([0.8, 0.0], abs=1e-4)
        assert controller.sample(11.0 + 1e-6)[1] == pytest.approx([0.8, 0.0], abs=1e-4)

    def test_replacement_starts_from_the_commanded_position(self) -> None:
        controller = self.controller()
        controller.accept(["a", "b"], [point([2.0, 2.0], 1.0)], None, 10.0)
        controller.accept(["a", "b"], [point([0.0, 2.0], 1.0)], None, 10.5)
        assert controller.sample(10.5)[0] == pytest.approx([1.5, 2.0])

    @pytest.mark.parametrize(
        ("names", "points", "reason"),
        [
            (["a"], [point([1.0], 1.0)], "not all of"),
            (["a", "c"], [point([1.0, 1.0], 1.0)], "not all of"),
            (["a", "b"], [], "no points"),
            (["a", "b"], [point([1.0], 1.0)], "does not have 2"),
            (["a", "b"], [point([1.0, np.nan], 1.0)], "not finite"),
            (["a", "b"], [point([1.0, 1.0], 1.0), point([1.0, 1.0], 1.0)], "does not increase"),
            (["a", "b"], [point([1.0, 1.0], 1.0, [0.5, 0.0])], "not zero"),
        ],
    )
    def test_refuses_what_ros2_control_refuses(
        self, names: list[str], points: list[TrajectoryPoint], reason: str
    ) -> None:
        controller = self.controller()
        with pytest.raises(TrajectoryError, match=reason):
            controller.accept(names, points, None, 10.0)
        assert controller.sample(11.0)[0] == pytest.approx([1.0, 2.0])

    def test_refuses_a_trajectory_of_the_past(self) -> None:
        with pytest.raises(TrajectoryError, match="in the past"):
            self.controller().accept(["a", "b"], [point([1.0, 1.0], 1.0)], 5.0, 10.0)

    def test_end_velocity_can_be_allowed(self) -> None:
        controller = self.controller(end_velocity=True)
        controller.accept(["a", "b"], [point([2.0, 2.0], 1.0, [0.5, 0.0])], None, 10.0)
        assert controller.sample(11.0 - 1e-6)[1] == pytest.approx([0.5, 0.0], abs=1e-4)
