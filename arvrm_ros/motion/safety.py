# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What has to hold before any motion reaches a controller, whatever the backend.

No value is clamped: a chunk passes or is refused whole with :class:`~arvrm_ros.errors.MotionRefused`. One that asks
for somewhat faster joints than the limits allow passes, and is followed slower: :func:`slowdown`.
"""

from __future__ import annotations

import numpy as np

from arvrm_ros.contract import RobotContract
from arvrm_ros.data.types import ActionChunk
from arvrm_ros.errors import ExecutionCode, MotionRefused

UNIT_TOLERANCE = 1e-2  # of a quaternion's norm; messages carry doubles, but policies compute in float32
OPENING_TOLERANCE = 1e-3  # beyond [0, 1]
MOST_SLOWDOWN = 2.0  # times
CLOCK_TOLERANCE = 0.05  # s by which a stamp may lie in the future: two processes read a clock topic at two moments


def check_values(chunk: ActionChunk) -> None:
    """Shapes, finite numbers, unit quaternions, openings in [0, 1] and a positive step period.

    Raises:
        MotionRefused: INVALID_CHUNK.
    """
    steps = len(chunk.positions)
    shapes = {"positions": (steps, 3), "quaternions": (steps, 4), "gripper": (steps,)}
    for name, shape in shapes.items():
        values = np.asarray(getattr(chunk, name))
        if steps == 0 or values.shape != shape:
            raise _invalid(f"{name} has shape {values.shape}; a chunk of N > 0 steps needs {('N', *shape[1:])}")
        if not np.all(np.isfinite(values)):
            step = int(np.argmax(~np.isfinite(values).reshape(steps, -1).all(axis=1)))
            raise _invalid(f"{name} of step {step} is not finite")
    if not (np.isfinite(chunk.stamp) and np.isfinite(chunk.step_period) and chunk.step_period > 0):
        raise _invalid(f"stamp {chunk.stamp} and step_period {chunk.step_period} must be finite, the period positive")
    norms = np.linalg.norm(chunk.quaternions, axis=1)
    if np.any(np.abs(norms - 1.0) > UNIT_TOLERANCE):
        step = int(np.argmax(np.abs(norms - 1.0)))
        raise _invalid(f"quaternion of step {step} has length {norms[step]:.4f} instead of 1")
    if np.any(np.abs(np.asarray(chunk.gripper) - 0.5) > 0.5 + OPENING_TOLERANCE):
        raise _invalid("a gripper opening lies outside [0, 1]")


def check_age(chunk: ActionChunk, now: float, newest_stamp: float) -> None:
    """At least one step ahead, no observation from the future, none older than the one being followed (seconds).

    Raises:
        MotionRefused: CHUNK_TOO_OLD or INVALID_CHUNK.
    """
    if chunk.stamp > now + CLOCK_TOLERANCE:
        raise _invalid(f"its stamp is {chunk.stamp - now:.3f} s in the future; do all nodes use the same clock?")
    end = chunk.stamp + len(chunk.positions) * chunk.step_period
    if end <= now:
        raise MotionRefused(ExecutionCode.CHUNK_TOO_OLD, f"its last step was due {now - end:.3f} s ago")
    if chunk.stamp < newest_stamp:
        raise MotionRefused(
            ExecutionCode.CHUNK_TOO_OLD, f"a chunk whose observation is {newest_stamp - chunk.stamp:.3f} s newer moves"
        )


def check_steps(chunk: ActionChunk, first_ahead: int, commanded: np.ndarray, contract: RobotContract) -> None:
    """Workspace box, distance and speed between steps, and distance from the commanded position (3,) to the first one.

    Raises:
        MotionRefused: STEP_TOO_LARGE or OUT_OF_WORKSPACE.
    """
    limits = contract.limits
    positions = np.asarray(chunk.positions, dtype=float)
    lower, upper = np.array(limits.workspace_min), np.array(limits.workspace_max)
    outside = np.any((positions < lower) | (positions > upper), axis=1)
    if outside.any():
        step = int(np.argmax(outside))
        raise MotionRefused(
            ExecutionCode.OUT_OF_WORKSPACE,
            f"step {step} at {_metres(positions[step])} leaves the workspace {_metres(lower)} to {_metres(upper)}",
        )
    distances = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    if len(distances) and distances.max() > limits.max_step:
        step = int(np.argmax(distances))
        raise MotionRefused(
            ExecutionCode.STEP_TOO_LARGE,
            f"steps {step} and {step + 1} are {distances[step]:.3f} m apart; limits.max_step is {limits.max_step} m",
        )
    speed = float(distances.max(initial=0.0)) / chunk.step_period
    if speed > limits.cartesian_velocity:
        raise MotionRefused(
            ExecutionCode.STEP_TOO_LARGE,
            f"its steps ask for {speed:.2f} m/s; limits.cartesian_velocity is {limits.cartesian_velocity} m/s",
        )
    first = float(np.linalg.norm(positions[first_ahead] - commanded))
    if first > limits.max_first_step:
        raise MotionRefused(
            ExecutionCode.STEP_TOO_LARGE,
            f"step {first_ahead} is {first:.3f} m from the commanded pose; "
            f"limits.max_first_step is {limits.max_first_step} m",
        )


def slowdown(steps: np.ndarray, period: float, contract: RobotContract) -> float:
    """How many times slower than asked a chunk has to be followed for the joints to keep up; 1 when they can.

    Near a singularity modest end-effector speeds ask for fast joints. Refusing such a chunk would leave a closed-loop
    policy stuck, asking for it again; up to :data:`MOST_SLOWDOWN` the arm follows slower instead, on the same way.
    Accelerations are means over two periods: shorter peaks are smoothed by the trajectory generator, which keeps the
    commands inside the limits at every instant.

    Args:
        steps: (A, n) rad, joint positions at the steps ahead.
        period: seconds between two steps.
        contract: whose limits hold.

    Raises:
        MotionRefused: JOINT_LIMIT, more than that would be needed.
    """
    velocities = np.diff(steps, axis=0) / period
    accelerations = (velocities[2:] - velocities[:-2]) / (2 * period)
    by_velocity = np.abs(velocities) / np.array(contract.limits.velocity)
    by_acceleration = np.sqrt(np.abs(accelerations) / np.array(contract.limits.acceleration))
    factors = np.vstack([np.ones(steps.shape[1]), by_velocity, by_acceleration]).max(axis=0)
    if factors.max() > MOST_SLOWDOWN:
        joint = int(factors.argmax())
        raise MotionRefused(
            ExecutionCode.JOINT_LIMIT,
            f"its steps are {factors[joint]:.1f} times too fast for the velocity or acceleration limit of "
            f"{contract.joints[joint]}",
        )
    return float(factors.max())


def check_joint_range(positions: np.ndarray, contract: RobotContract) -> None:
    """Position limits along a joint path (T, n) rad.

    Raises:
        MotionRefused: JOINT_LIMIT.
    """
    lower, upper = np.array(contract.limits.position_min), np.array(contract.limits.position_max)
    excess = np.maximum(lower - positions, positions - upper).max(axis=0)
    if excess.max() > 1e-6:
        joint = contract.joints[int(excess.argmax())]
        raise MotionRefused(
            ExecutionCode.JOINT_LIMIT, f"the motion leaves the range of {joint} by {excess.max():.3f} rad"
        )


def check_cartesian_path(positions: np.ndarray, spacing: float, contract: RobotContract) -> None:
    """Workspace and speed of the end effector along a path, the way from the commanded pose included.

    An arm that starts outside the workspace may come back in, and one that is too fast may slow down: box and speed
    limit are widened to hold the first sample.

    Args:
        positions: (T, 3) metres, base frame.
        spacing: seconds between two samples.
        contract: whose limits hold.

    Raises:
        MotionRefused: OUT_OF_WORKSPACE or STEP_TOO_LARGE.
    """
    limits = contract.limits
    margin = 0.005  # m: rounding a corner inside the box may swing out by this much
    lower = np.minimum(np.array(limits.workspace_min) - margin, positions[0])
    upper = np.maximum(np.array(limits.workspace_max) + margin, positions[0])
    outside = np.any((positions < lower) | (positions > upper), axis=1)
    if outside.any():
        where = _metres(positions[int(np.argmax(outside))])
        raise MotionRefused(ExecutionCode.OUT_OF_WORKSPACE, f"the way to the steps leaves the workspace at {where}")
    speeds = np.linalg.norm(np.diff(positions, axis=0), axis=1) / spacing
    speed = float(speeds.max(initial=0.0))
    if speed > max(limits.cartesian_velocity, 1.05 * speeds[0]):
        raise MotionRefused(
            ExecutionCode.STEP_TOO_LARGE,
            f"the end effector would move at {speed:.2f} m/s; limits.cartesian_velocity is {limits.cartesian_velocity}",
        )


def check_joint_states(measured_at: float | None, now: float, contract: RobotContract) -> None:
    """The newest joint states are young enough to move on (seconds).

    Raises:
        MotionRefused: STALE_JOINT_STATES.
    """
    source = contract.observation.joint_states
    if measured_at is None:
        raise MotionRefused(ExecutionCode.STALE_JOINT_STATES, f"no joint states received on {source.topic} yet")
    if now - measured_at > source.max_age:
        raise MotionRefused(
            ExecutionCode.STALE_JOINT_STATES,
            f"the newest joint states on {source.topic} are {now - measured_at:.2f} s old; "
            f"the limit is {source.max_age} s",
        )


def _invalid(message: str) -> MotionRefused:
    return MotionRefused(ExecutionCode.INVALID_CHUNK, message)


def _metres(position: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.3f}" for value in position) + ") m"
