# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The judge of the fault campaign, its bookkeeping, and a handful of faults in a real suite."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from arvrm_ros.contract import RobotContract
from arvrm_ros.evaluation import faults
from arvrm_ros.evaluation.faults import Fault, Judge, Outcome, Results, Traffic


def judged(contract: RobotContract, offsets: np.ndarray, placed: float | None = None) -> Judge:
    """A judge that saw joint 2 move by (T,) radians from home, one per tick."""
    judge = Judge(contract)
    positions = np.tile(contract.home, (len(offsets), 1))
    positions[:, 1] += offsets
    velocities = np.gradient(positions, faults.TICK, axis=0) if placed is None else np.zeros_like(positions)
    for i, (position, velocity) in enumerate(zip(positions, velocities, strict=True)):
        judge.commanded(i * faults.TICK, position, velocity)
        judge.measured(i * faults.TICK, position, velocity)
    if placed is not None:
        judge.placed(placed)
    return judge


class TestJudge:
    def test_passes_a_motion_within_the_limits(self, contract: RobotContract) -> None:
        assert judged(contract, 0.1 * np.sin(2 * np.arange(200) * faults.TICK)).violations(0.0) == []

    def test_names_each_limit_that_is_broken(self, contract: RobotContract) -> None:
        offsets = np.zeros(100)
        offsets[50:] = 0.1
        found = " ".join(judged(contract, offsets).violations(0.0))
        for what in ("commanded velocity", "commanded acceleration", "commanded jerk", "end effector at"):
            assert what in found
        assert "panda_joint2" in found

    def test_a_stop_within_one_tick_is_an_excess(self, contract: RobotContract) -> None:
        offsets = np.minimum(np.arange(100), 50) * 0.5 * faults.TICK  # half a radian per second, then nothing
        found = " ".join(judged(contract, offsets).violations(0.3))
        assert "commanded acceleration of panda_joint2" in found

    def test_leaves_out_what_the_simulator_did(self, contract: RobotContract) -> None:
        offsets = np.zeros(100)
        offsets[50:] = 0.1
        assert judged(contract, offsets, placed=0.5).violations(0.0) == []

    def test_says_from_when_on_the_arm_rests(self, contract: RobotContract) -> None:
        offsets = 0.3 * np.minimum(np.arange(100), 40) * faults.TICK
        assert judged(contract, offsets).rest_since(0.2) == pytest.approx(0.4, abs=0.02)
        assert judged(contract, offsets[:42]).rest_since(0.2) is None
        swinging = judged(contract, offsets)
        swinging.measured(0.7, np.array(contract.home), np.full(7, 0.1))
        assert swinging.rest_since(0.2) == pytest.approx(0.7)
        assert swinging.rest_since(0.2, measured=False) == pytest.approx(0.4, abs=0.02)

    def test_tells_a_push_from_a_lag(self, contract: RobotContract) -> None:
        offsets = 0.3 * np.arange(100) * faults.TICK
        judge, joints = Judge(contract), np.tile(contract.home, (100, 1))
        joints[:, 1] += offsets
        for i, position in enumerate(joints):
            judge.commanded(i * faults.TICK, position, np.zeros(7))
            judge.measured((i + 3) * faults.TICK, position, np.zeros(7))
        assert judge.pushed(0.2) == 0.0
        judge.measured(0.9, joints[90] + 0.15, np.zeros(7))
        assert judge.pushed(0.2) == pytest.approx(0.15, abs=0.01)
        assert judge.pushed(0.95) == 0.0

    def test_refuses_trajectories_that_a_controller_would_refuse(self, contract: RobotContract) -> None:
        judge = judged(contract, np.zeros(10))
        times, still = np.array([0.01, 0.02]), np.zeros((2, 7))
        positions = np.tile(contract.home, (2, 1))
        judge.trajectory(contract.joints, times, [positions, still])
        assert judge.violations(0.0) == []
        judge.trajectory(contract.joints, times, [positions, still + 0.1])
        judge.trajectory(contract.joints, times[::-1], [positions, still])
        judge.trajectory(contract.joints, times, [positions * np.nan, still])
        assert len(judge.violations(0.0)) == 3


def test_the_catalogue_has_all_kinds_once() -> None:
    kinds = [fault.kind for fault in faults.catalogue()]
    assert len(kinds) == len(set(kinds)) >= 60
    assert {fault.target for fault in faults.catalogue() if fault.action == "relay"} == set(faults.LINKS)
    campaign = faults.campaign(200)
    assert len(campaign) >= 200
    assert {fault.kind for fault in campaign} == set(kinds)
    assert {fault.kind for fault in faults.campaign(4, ["kill execution"])} == {"kill execution_node"}


def test_effects() -> None:
    def traffic(raw: bytes, memory: dict) -> Traffic:
        return Traffic(raw, bytes.decode, np.random.default_rng(0), memory)

    assert faults.lost(1.0, traffic(b"a", {})) == []
    assert faults.delayed(0.5, traffic(b"a", {})) == [(0.5, b"a")]
    memory: dict = {}
    assert [faults.swapped(traffic(raw, memory)) for raw in (b"a", b"b")] == [[], [(0.0, b"b"), (0.0, b"a")]]
    assert faults.truncated(traffic(b"abcd", {})) == [(0.0, b"ab")]


def test_an_interrupted_campaign_goes_on(tmp_path: Path) -> None:
    campaign = [Fault("a", ""), Fault("b", "")]
    results = Results(tmp_path, campaign)
    results.add(Outcome(0, "a", 0.5, ["too fast"], 0.2, True, True))
    again = Results(tmp_path, campaign)
    assert again.outcomes == results.outcomes
    again.add(Outcome(1, "b", 0.5, rested_after=None, at_rest=False))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["injected"] == summary["kinds"] == 2
    assert (summary["limit_violations"], summary["not_at_rest"], summary["recovered"]) == (1, 1, 1)
    assert "| a | 1 | 1 | 0 | 0.20 s | 1 |" in again.table()
    assert Results(tmp_path, campaign[:1]).outcomes == []


@pytest.mark.ros
@pytest.mark.slow
def test_a_real_suite_stands_silence_and_a_kill(tmp_path: Path) -> None:
    """Without what neither fault needs, so that it is up soon; all kinds are ``make faults``."""
    kinds = ["joint_states: silent", "kill execution_node"]
    command = [
        sys.executable, "-m", "arvrm_ros", "faults", "--injections", "1", "--out", str(tmp_path), "--domain", "59",
        "--only", *kinds, "--", "retrieval:=none", "hand_keypoints:=none",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    said = done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    outcomes = {outcome["kind"]: outcome for outcome in results["outcomes"]}
    assert set(outcomes) == set(kinds), said
    for outcome in outcomes.values():
        assert outcome["speed"] > faults.AT_REST, said
        assert not outcome["violations"], said
        assert outcome["rested_after"] is not None, said
        assert outcome["recovered"], said
