# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The planning thread, and which joint states are believed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event

import numpy as np
import psutil
import pytest
from node_process import wait_for
from test_motion import line

from arvrm_ros.contract import RobotContract
from arvrm_ros.data.messages import MessageError
from arvrm_ros.errors import ExecutionCode, MotionRefused
from arvrm_ros.motion.chunk_planner import ChunkPlanner
from arvrm_ros.motion.executor import ChunkExecutor, ExecutorSettings, Plan
from arvrm_ros.motion.planning import Planner
from arvrm_ros.motion.planning_process import PlanningProcess, planning_process
from arvrm_ros.motion.plausibility import CATCHES_UP, STARTS_OVER, ClockCheck, JointStateCheck


class Solver:
    """Plans a real chunk, or refuses "bad", once it is let."""

    def __init__(self, contract: RobotContract) -> None:
        executor = ChunkExecutor(contract)
        executor.reset(np.array(contract.home), 1.0, 0.0)
        self.plan = executor.plan(line(contract, (0.0, 0.1, 0.0)), 0.0)
        self.begun: list[str] = []
        self.let = threading.Semaphore(0)

    def __call__(self, request: str, _: float) -> Plan:
        self.begun.append(request)
        self.let.acquire()
        if request == "bad":
            raise MotionRefused(ExecutionCode.INVALID_CHUNK, "bad")
        return self.plan


class TestPlanner:
    def test_the_newest_waits_and_a_plan_is_given_once(self, contract: RobotContract) -> None:
        solver, took = Solver(contract), list[float]()
        planner = Planner(solver, took.append)
        assert planner.submit("one") is None
        wait_for(lambda: solver.begun == ["one"], "the first to be begun")
        assert planner.submit("two") is None
        assert planner.submit("bad") == "two"
        solver.let.release()
        assert wait_for(planner.take, "the plan") == ("one", solver.plan)
        assert took
        assert planner.take() is None
        solver.let.release()
        request, refusal = wait_for(lambda: planner.take(), "the refusal")
        assert request == "bad"
        assert isinstance(refusal, MotionRefused)
        planner.close()

    def test_one_that_is_planned_again_never_takes_the_place_of_a_newer_one(self, contract: RobotContract) -> None:
        solver = Solver(contract)
        planner = Planner(solver, [].append)
        planner.submit("one")
        solver.let.release()
        wait_for(planner.take, "the first plan")
        assert planner.submit_again("one")
        wait_for(lambda: solver.begun == ["one", "one"], "the first to be planned again")
        planner.submit("two")
        solver.let.release()
        wait_for(planner.take, "the first plan, again")
        assert not planner.submit_again("one")  # the second waits, or is being planned
        solver.let.release()
        request, _ = wait_for(planner.take, "the second plan")
        assert request == "two"
        planner.close()

    def test_a_single_long_plan_does_not_count(self, contract: RobotContract) -> None:
        foreseen: list[float] = []

        def solve(seconds: float, expected: float) -> Plan:
            foreseen.append(expected)
            time.sleep(seconds)
            raise MotionRefused(ExecutionCode.INVALID_CHUNK, "bad")

        planner = Planner(solve, [].append)
        for seconds in (0.0, 0.5, 0.0, 0.2, 0.0):
            planner.submit(seconds)
            wait_for(planner.take, "the plan")
        planner.close()
        assert max(foreseen[:4]) < 0.1
        assert 0.2 <= foreseen[4] < 0.5

    def test_what_is_dropped_while_it_is_planned_is_never_followed(self, contract: RobotContract) -> None:
        solver, took = Solver(contract), list[float]()
        planner = Planner(solver, took.append)
        planner.submit("one")
        wait_for(lambda: solver.begun, "the first to be begun")
        planner.submit("two")
        assert sorted(planner.drop()) == ["one", "two"]
        planner.submit("three")
        solver.let.release(2)
        request, _ = wait_for(lambda: planner.take(), "the third")
        assert request == "three"
        assert solver.begun == ["one", "three"]
        planner.close()


@pytest.fixture
def sleeper() -> Iterator[PlanningProcess[Event]]:
    """An event, to be waited for, instead of a planner."""
    process = PlanningProcess("sleeps", Event, patience=2.0)
    yield process
    process.close()
    with pytest.raises(StopIteration):
        planning_process(os.getpid(), "sleeps")


class TestPlanningProcess:
    def test_it_plans_as_here(self, contract: RobotContract) -> None:
        process = PlanningProcess("plans", partial(ChunkPlanner, contract, ExecutorSettings()), patience=20.0)
        try:
            here = ChunkExecutor(contract)
            there = ChunkExecutor(contract, solve=partial(process.call, ChunkPlanner.solve))
            for executor in (here, there):
                executor.reset(np.array(contract.home), 1.0, 0.0)
            chunk = line(contract, (0.0, 0.1, 0.0))
            one, other = here.plan(chunk, 0.0), there.plan(chunk, 0.0)
            np.testing.assert_array_equal(one.path.times, other.path.times)
            np.testing.assert_array_equal(one.path.knots, other.path.knots)
            with pytest.raises(MotionRefused, match=r"outside the workspace|limits\.workspace") as refused:
                there.plan(line(contract, (0.0, 0.0, -0.9)), 0.0)
            assert refused.value.code is ExecutionCode.OUT_OF_WORKSPACE
        finally:
            process.close()

    def test_one_that_dies_is_replaced(self, sleeper: PlanningProcess[Event]) -> None:
        sleeper.wait()
        planning_process(os.getpid(), "sleeps").kill()
        with pytest.raises(MotionRefused, match=r"that sleeps died \(status -9\); a new one was started") as died:
            sleeper.call(Event.is_set)
        assert died.value.code is ExecutionCode.BACKEND_UNAVAILABLE
        assert not sleeper.call(Event.is_set)

    def test_one_that_died_meanwhile_can_be_renewed(self, sleeper: PlanningProcess[Event]) -> None:
        sleeper.wait()
        process = planning_process(os.getpid(), "sleeps")
        process.kill()
        wait_for(lambda: process.status() == psutil.STATUS_ZOMBIE, "its death")
        sleeper.renew()
        assert not sleeper.call(Event.is_set)
        process = planning_process(os.getpid(), "sleeps")
        sleeper.renew()
        assert process.is_running()

    def test_one_that_hangs_is_replaced(self, sleeper: PlanningProcess[Event]) -> None:
        sleeper.wait()
        process = planning_process(os.getpid(), "sleeps")
        process.suspend()
        with pytest.raises(MotionRefused, match="did not answer within 2 s; a new one was started") as hung:
            sleeper.call(Event.is_set)
        assert hung.value.code is ExecutionCode.BACKEND_UNAVAILABLE
        assert not process.is_running()
        assert not sleeper.call(Event.is_set)

    def test_closing_waits_for_no_plan_and_begins_no_new_process(self, sleeper: PlanningProcess[Event]) -> None:
        sleeper.wait()
        with ThreadPoolExecutor() as threads:
            lost = threads.submit(sleeper.call, Event.wait, 1000.0)
            sleeper.close()
            with pytest.raises(MotionRefused, match="the process that sleeps died; it was ended"):
                lost.result()
        with pytest.raises(MotionRefused, match="it was ended"):
            sleeper.call(Event.is_set)

    def test_it_can_be_told_something_meanwhile(self, sleeper: PlanningProcess[Event]) -> None:
        sleeper.wait()
        with ThreadPoolExecutor() as threads:
            waits = threads.submit(sleeper.call, Event.wait, 1000.0)
            time.sleep(0.2)
            sleeper.tell(Event.set)
            assert waits.result()

    def test_what_goes_wrong_there_is_said_here(self) -> None:
        process = PlanningProcess("counts", partial(int, "three"), patience=2.0)
        try:
            for _ in range(2):
                with pytest.raises(MotionRefused, match="that counts: ValueError: invalid literal") as wrong:
                    process.call(int.bit_length)
                assert wrong.value.code is ExecutionCode.BACKEND_UNAVAILABLE
        finally:
            process.close()

    def test_it_ends_with_its_parent(self) -> None:
        parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
        assert parent.stdout is not None
        process = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.communicate()
        wait_for(lambda: not process.is_running(), "its end")


PARENT = """
import os, threading, time
from arvrm_ros.motion.planning_process import PlanningProcess, planning_process

process = PlanningProcess("sleeps", threading.Event, patience=1000.0)
process.wait()
print(planning_process(os.getpid(), "sleeps").pid, flush=True)
process.call(threading.Event.wait, 1000.0)
"""


class TestJointStateCheck:
    def test_only_newer_ones_count_until_the_clock_is_set_back(self, contract: RobotContract) -> None:
        check = JointStateCheck(contract)
        home = np.array(contract.home)
        assert check.is_newer(100.0, 100.0)
        check.believe(home, 100.0)
        assert not check.is_newer(100.0, 100.0)
        assert not check.is_newer(99.9, 100.0)
        with pytest.raises(MessageError, match="in the future"):
            check.is_newer(110.0, 100.0)
        newer = [check.is_newer(1.0 + 0.01 * i, 1.0 + 0.01 * i) for i in range(STARTS_OVER)]
        assert newer == [False] * (STARTS_OVER - 1) + [True]
        assert check.last is None

    def test_an_arm_does_not_jump_nor_leave_its_range(self, contract: RobotContract) -> None:
        check = JointStateCheck(contract)
        home = np.array(contract.home)
        check.believe(home, 1.0)
        check.believe(home + 0.02, 1.01)
        with pytest.raises(MessageError, match=r"panda_joint1 jumped by 0\.50 rad"):
            check.believe(home + 0.52, 1.02)
        with pytest.raises(MessageError, match="panda_joint4 at 17"):
            check.believe(np.array([*home[:3], 17.0, *home[4:]]), 1.02)
        np.testing.assert_array_equal(check.last[0], home + 0.02)
        check.believe(home + 0.5, 3.0, deviation=0.01)  # after a gap, where it was sent meanwhile


class TestClockCheck:
    def test_a_jump_is_believed_once_the_joint_states_have_the_same_time(self) -> None:
        check = ClockCheck(longest=0.1, max_age=0.15, now=5.0)
        assert check.problem(5.1, 0.0, None) is None
        assert "jumped" in str(check.problem(7.0, 0.1, 5.0))
        assert check.problem(7.0, 0.1, 6.9) is None
        assert "jumped" in str(check.problem(4.9, 0.2, None)), "back"
        check.goes_on(7.0)
        assert check.problem(7.1, 0.2, None) is None

    def test_after_a_stop_it_waits_until_the_queues_are_empty(self) -> None:
        check = ClockCheck(longest=0.1, max_age=0.15, now=5.0)
        assert check.tick(0.0) == 0.0
        assert check.tick(0.01) == pytest.approx(0.01)
        assert check.problem(5.01, 0.01, None) is None
        for wall in (1.0, 1.0 + 0.9 * CATCHES_UP):  # the first is asked between two ticks
            assert "stopped" in str(check.problem(5.02, wall, 5.02))
            check.tick(wall)
        assert check.problem(5.02, 1.0 + 1.1 * CATCHES_UP, 5.02) is None
        assert check.stopped_for(6.1) == pytest.approx(0.99)
        assert check.stopped_for(6.1) == 0.0, "it is told once"
        check.goes_on(6.1)
        check.tick(3.0)
        assert check.stopped_for(6.11) == 0.0, "time stood still as well"

    def test_a_slow_simulation_is_no_stop(self) -> None:
        check = ClockCheck(longest=0.1, max_age=0.15, now=5.0)
        for i in range(20):
            check.tick(0.2 * i)
            if i == 10:
                check.stopped_for(9.0)  # until it is known to be slow
        assert check.stopped_for(9.0) == 0.0
        assert check.problem(5.01, 0.2 * 20, None) is None
