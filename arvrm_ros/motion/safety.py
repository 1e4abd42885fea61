# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What has to hold before any motion reaches a controller, whatever the backend; docs/safety.md has the whole picture.

A chunk passes, or is cut to a limit where the contract allows it (:func:`clamped`), or is refused whole with
:class:`~arvrm_ros.errors.MotionRefused`, whose message names what is too much, its value and its bound. One that asks
for somewhat faster joints than the limits allow passes, and is followed slower: :func:`most_slowdown`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from arvrm_ros.contract import RobotContract
from arvrm_ros.data.types import ActionChunk
from arvrm_ros.errors import ExecutionCode, MotionRefused
from arvrm_ros.motion.braking import Brake
from arvrm_ros.motion.collision import KEEP_OUT, Clearance, TooClose
from arvrm_ros.motion.kinematics import Kinematics

UNIT_TOLERANCE = 1e-2  # of a quaternion's norm; messages carry doubles, but policies compute in float32
OPENING_TOLERANCE = 1e-3  # beyond [0, 1]
MOST_STEPS = 200  # of a chunk; it is solved whole before the arm moves
MOST_SECONDS = 10.0  # that a chunk lasts
BETWEEN = np.array([0.99, 0.99, 0.57])[:, None, None]
"""Shares of the joints' velocity, acceleration and jerk limits that a path may take at its samples, so that they hold
between them and for commands that fall beside them: a quintic over a sample at which the jerk reverses takes 1.75 times
that jerk."""

MOST_SLOWDOWN = 2.0  # times
SINGULAR_SLOWDOWN = 8.0  # times, near a singularity
REGULAR = 0.2  # smallest singular value of the Jacobian (m and rad per rad) below which that begins
CLOCK_TOLERANCE = 0.05  # s by which a stamp may lie in the future: two processes read a clock topic at two moments
SWING = 0.005  # m by which a corner rounded inside the workspace, or a brake, may swing out of it
OUT_BY = 1e-4  # m by which steps are moved farther out of a box than they have to be
BRAKED_EVERY = 4  # samples of a path, from which the way to rest is looked at
AXES = "xyz"


def check_values(chunk: ActionChunk) -> None:
    """Shapes, finite numbers, unit quaternions, openings in [0, 1], a positive step period, and not endless.

    Raises:
        MotionRefused: INVALID_CHUNK.
    """
    positions = _numbers(chunk, "positions", 3)
    steps = len(positions)
    quaternions, gripper = _numbers(chunk, "quaternions", 4, steps), _numbers(chunk, "gripper", None, steps)
    for key in ("stamp", "step_period"):
        if not np.isfinite(value := getattr(chunk, key)):
            raise _invalid(f"{key} is {value} s; it must be finite")
    if chunk.step_period <= 0:
        raise _invalid(f"step_period is {chunk.step_period} s; it must be above 0 s")
    if steps * chunk.step_period > MOST_SECONDS:
        raise _invalid(f"{steps} steps of {chunk.step_period:g} s last longer than the {MOST_SECONDS:g} s allowed")
    norms = np.linalg.norm(quaternions, axis=1)
    step = int(np.argmax(np.abs(norms - 1.0)))
    if np.abs(norms[step] - 1.0) > UNIT_TOLERANCE:
        raise _invalid(
            f"quaternion of step {step} has length {norms[step]:.4f}; it must be within {UNIT_TOLERANCE} of 1"
        )
    step = int(np.argmax(np.abs(gripper - 0.5)))
    if np.abs(gripper[step] - 0.5) > 0.5 + OPENING_TOLERANCE:
        raise _invalid(f"gripper opening of step {step} is {gripper[step]:.4g}; it must be in [0, 1]")


def _numbers(chunk: ActionChunk, name: str, columns: int | None, steps: int | None = None) -> np.ndarray:
    """A chunk's array of that name, of the shape it must have and finite."""
    wanted = ("N" if steps is None else steps, *(() if columns is None else (columns,)))
    try:
        values = np.asarray(getattr(chunk, name), dtype=float)
    except (TypeError, ValueError):
        raise _invalid(f"{name} is no array of numbers; its shape must be {wanted}") from None
    fits = values.ndim == len(wanted) and values.shape[1:] == wanted[1:] and steps in (None, len(values))
    if not fits or len(values) == 0:
        raise _invalid(f"{name} has shape {values.shape}; it must be {wanted}, N > 0")
    if len(values) > MOST_STEPS:
        raise _invalid(f"{name} has {len(values)} steps; the most are {MOST_STEPS}")
    if not np.all(np.isfinite(values)):
        step = int(np.argmax(~np.isfinite(values).reshape(len(values), -1).all(axis=1)))
        raise _invalid(f"{name} of step {step} is not finite")
    return values


def check_age(chunk: ActionChunk, now: float, newest_stamp: float) -> None:
    """At least one step ahead, no observation from the future, none older than the one being followed (seconds).

    Raises:
        MotionRefused: CHUNK_TOO_OLD or INVALID_CHUNK.
    """
    if chunk.stamp > now + CLOCK_TOLERANCE:
        raise _invalid(
            f"its stamp is {chunk.stamp - now:.3f} s in the future; {CLOCK_TOLERANCE} s is the most. "
            "Do all nodes use the same clock?"
        )
    end = chunk.stamp + len(chunk.positions) * chunk.step_period
    if end <= now:
        message = f"its last step was due {now - end:.3f} s ago; 0 s is the most"
        raise MotionRefused(ExecutionCode.CHUNK_TOO_OLD, message)
    if (older := newest_stamp - chunk.stamp) > 0:
        message = f"its stamp is {older:.3f} s before that of the chunk that is followed; 0 s is the most"
        raise MotionRefused(ExecutionCode.CHUNK_TOO_OLD, message)


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


def check_positions(joint_positions: np.ndarray, contract: RobotContract) -> None:
    """Measured joint positions are n finite numbers.

    Raises:
        MotionRefused: STALE_JOINT_STATES.
    """
    joints = contract.joints
    if joint_positions.shape != (len(joints),):
        message = f"joint positions have shape {joint_positions.shape} instead of ({len(joints)},)"
        raise MotionRefused(ExecutionCode.STALE_JOINT_STATES, message)
    if not np.isfinite(joint_positions).all():
        joint = int(np.argmax(~np.isfinite(joint_positions)))
        message = f"{joints[joint]} is measured at {joint_positions[joint]} rad; it must be finite"
        raise MotionRefused(ExecutionCode.STALE_JOINT_STATES, message)


def clamped(chunk: ActionChunk, contract: RobotContract) -> tuple[ActionChunk, str]:
    """The chunk with the steps cut to the workspace and to the longest step where ``limits.clamp`` allows it.

    Returns:
        The chunk, itself where nothing was cut, and what was cut to which bound, "" for nothing.
    """
    limits, positions = contract.limits, np.asarray(chunk.positions, dtype=float)
    lower, upper = np.array(limits.workspace_min), np.array(limits.workspace_max)
    done = []
    outside = np.maximum(lower - positions, positions - upper).max(axis=1)
    near = (outside > 0) & (outside <= limits.clamp.workspace)
    if near.any():
        step = int(np.argmax(np.where(near, outside, 0.0)))
        positions = np.where(near[:, None], np.clip(positions, lower, upper), positions)
        done.append(f"step {step} was {outside[step]:.4f} m outside the workspace, {int(near.sum())} cut to it")
    longest = min(limits.max_step, limits.cartesian_velocity * chunk.step_period)
    distances = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    if longest < distances.max(initial=0.0) <= longest + limits.clamp.step:
        step = int(np.argmax(distances))
        done.append(f"steps {step} and {step + 1} were {distances[step]:.4f} m apart, cut to {longest:g} m")
        positions = within_reach(positions, longest * (1 - 1e-9))
    return (replace(chunk, positions=positions), "; ".join(done)) if done else (chunk, "")


def moved_out(moved: np.ndarray, found: TooClose, contract: RobotContract) -> np.ndarray:
    """How far to move all steps so that a link stays out of a keep-out box, where ``limits.clamp`` allows it.

    Args:
        moved: (3,) metres by which they are moved already.
        found: where that brings the arm.
        contract: whose limits hold.

    Returns:
        (3,) metres, base frame.

    Raises:
        MotionRefused: OUT_OF_WORKSPACE, it is no keep-out box, or too far.
    """
    moved = moved + (found.bound - found.distance + OUT_BY) * found.away
    if not found.other.startswith(KEEP_OUT) or np.linalg.norm(moved) > contract.limits.clamp.keep_out:
        raise MotionRefused(ExecutionCode.OUT_OF_WORKSPACE, str(found))
    return moved


def within_reach(positions: np.ndarray, longest: float) -> np.ndarray:
    """Positions (N, 3) in metres of which none is farther than ``longest`` from the one before it.

    A step that asks for more goes as far as it may towards its target, and those after it catch up.
    """
    reached = positions.copy()
    for i in range(1, len(positions)):
        step = positions[i] - reached[i - 1]
        reached[i] = reached[i - 1] + step * min(1.0, longest / max(float(np.linalg.norm(step)), 1e-9))
    return reached


def check_steps(chunk: ActionChunk, first_ahead: int, commanded: np.ndarray, contract: RobotContract) -> None:
    """Workspace box, distance and speed between steps, and distance from the commanded position (3,) to the first one.

    Raises:
        MotionRefused: STEP_TOO_LARGE or OUT_OF_WORKSPACE.
    """
    limits, positions = contract.limits, np.asarray(chunk.positions, dtype=float)
    if outside := _outside(positions, np.array(limits.workspace_min), np.array(limits.workspace_max)):
        raise MotionRefused(ExecutionCode.OUT_OF_WORKSPACE, "step {}: {}".format(*outside))
    distances = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    step = int(np.argmax(distances)) if len(distances) else 0
    distance = float(distances.max(initial=0.0))
    between = f"{contract.end_effector_frame} from step {step} to {step + 1}"
    if distance > limits.max_step:
        raise _too_large(f"{between}: {distance:.4g} m", "max_step", limits.max_step, "m")
    if distance / chunk.step_period > limits.cartesian_velocity:
        speed = distance / chunk.step_period
        raise _too_large(f"{between}: {speed:.4g} m/s", "cartesian_velocity", limits.cartesian_velocity, "m/s")
    first = float(np.linalg.norm(positions[first_ahead] - commanded))
    if first > limits.max_first_step:
        what = f"{contract.end_effector_frame} from the commanded pose to step {first_ahead}: {first:.4g} m"
        raise _too_large(what, "max_first_step", limits.max_first_step, "m")


def needed_slowdown(times: np.ndarray, motion: np.ndarray, contract: RobotContract, share: float = 1.0) -> np.ndarray:
    """(T,) times slower that joint motion (3, T, n + 1) has to be for a share of what a path may take of the limits."""
    velocity, acceleration, jerk = _excess(times, motion, contract) / (share * BETWEEN)
    return np.maximum(np.maximum(velocity, np.sqrt(acceleration)), np.cbrt(jerk)).max(axis=1)


def most_slowdown(joints: np.ndarray, kinematics: Kinematics) -> float:
    """How many times slower than it asks for a chunk may be followed.

    Near a singularity modest end-effector speeds ask for fast joints. Refusing such a chunk would leave a closed-loop
    policy stuck, asking for it again; the arm follows slower instead, on the same way. A hand's speed takes joint
    speeds in inverse proportion to the smallest singular value, so :data:`MOST_SLOWDOWN` grows likewise below
    :data:`REGULAR`, up to :data:`SINGULAR_SLOWDOWN`: joints that would have to go still farther in a step jump from one
    posture to another.

    Args:
        joints: (N, n) rad, where it brings them.
        kinematics: of the arm.
    """
    smallest = min(float(np.linalg.svd(kinematics.jacobian(q), compute_uv=False)[-1]) for q in joints)
    return min(MOST_SLOWDOWN * max(REGULAR / max(smallest, 1e-9), 1.0), SINGULAR_SLOWDOWN)


def check_slowdown(
    slowdown: float, most: float, times: np.ndarray, motion: np.ndarray, contract: RobotContract
) -> None:
    """A chunk is not followed slower than :func:`most_slowdown` says.

    Args:
        slowdown, most: times slower.
        times: (T,) seconds of ``motion``.
        motion: (3, T, n + 1), what the chunk asks for.
        contract: whose limits hold.

    Raises:
        MotionRefused: JOINT_LIMIT.
    """
    if slowdown > most:
        what = _worst_joint(_excess(times, motion, contract), contract)
        message = f"{what}; it would be followed {slowdown:.2f} times slower, {most:.2f} is the most"
        raise MotionRefused(ExecutionCode.JOINT_LIMIT, message)


class PathCheck:
    """What has to hold along a path, and along every way to rest from it: the arm may be braked anywhere.

    One instance is for one thread.

    Args:
        contract: whose limits hold.
        period: seconds between two commands.

    Raises:
        ContractError: the contract does not fit its URDF, or its home comes too close to a keep-out box.
    """

    def __init__(self, contract: RobotContract, period: float) -> None:
        self._contract, self._period = contract, period
        self._kinematics, self._clearance = Kinematics(contract), Clearance(contract)
        self._brake = Brake(contract, period)

    def limits(self, times: np.ndarray, motion: np.ndarray) -> np.ndarray:
        """Position, velocity, acceleration and jerk of the joints, workspace and speed of the end effector.

        An arm that starts outside the workspace may come back in, and one that is too fast may slow down: box and speed
        limit are widened to hold the first sample.

        Args:
            times: (T,) seconds.
            motion: (3, T, n + 1).

        Returns:
            (S, n) rad, where the joints are along the path, with detours to every rest, for :meth:`clearance`.

        Raises:
            MotionRefused: JOINT_LIMIT, OUT_OF_WORKSPACE or STEP_TOO_LARGE.
        """
        contract, limits = self._contract, self._contract.limits
        way = "on the way to the steps"
        self._check_range(motion[0, :, :-1], way)
        if (excess := _excess(times, motion, contract) / BETWEEN).max() > 1.0:
            raise MotionRefused(ExecutionCode.JOINT_LIMIT, _worst_joint(excess, contract))
        positions = self._kinematics.along(motion[0, :, :-1])
        start = positions[0]
        self._check_workspace(positions, start, way)
        speeds = np.linalg.norm(np.diff(positions, axis=0), axis=1) / np.diff(times)
        fastest = max(limits.cartesian_velocity, float(speeds[0])) * (1 + 1e-6)
        self._check_speed(speeds, fastest, way)
        return self._brakes(motion[:, :, :-1], start, fastest)

    def _brakes(self, motion: np.ndarray, start: np.ndarray, fastest: float) -> np.ndarray:
        """As :meth:`limits`, of the ways to rest from joint motion (3, T, n)."""
        ways, visited = [], []
        for first in range(0, motion.shape[1], BRAKED_EVERY):
            way = np.append(motion[:, first : first + 1], self._brake.way(motion[:, first], self._period), axis=1)
            ways.append(way)
            visited += [way[0, ::2], way[0, -1:], motion[0, first : first + BRAKED_EVERY : 2]]
        when = "braking on the way to the steps"
        joints, velocities, _ = np.concatenate(ways, axis=1)
        self._check_range(joints, when)
        self._check_velocity(velocities, when)
        positions = self._kinematics.along(joints)
        self._check_workspace(positions, start, when)
        speeds = np.linalg.norm(np.diff(positions, axis=0), axis=1) / self._period
        speeds[np.cumsum([way.shape[1] for way in ways])[:-1] - 1] = 0.0  # from one way to the next
        self._check_speed(speeds, fastest, when)
        return np.concatenate(visited)

    def clearance(self, joint_positions: np.ndarray) -> None:
        """Keep-out boxes, the table among them, and the arm's own links along joint positions (S, n) rad.

        Raises:
            MotionRefused: OUT_OF_WORKSPACE.
        """
        if found := self.too_close(joint_positions):
            raise MotionRefused(ExecutionCode.OUT_OF_WORKSPACE, str(found))

    def too_close(self, joint_positions: np.ndarray) -> TooClose | None:
        """What :meth:`clearance` would refuse."""
        return self._clearance.along(joint_positions)

    def rest(self, joint_positions: np.ndarray) -> None:
        """Whether the arm may rest at (n,) rad, wherever it comes from.

        Raises:
            MotionRefused: JOINT_LIMIT or OUT_OF_WORKSPACE.
        """
        goal, when = joint_positions[None], "at the goal"
        self._check_range(goal, when)
        self._check_workspace(self._kinematics.along(goal), np.array(self._contract.limits.workspace_min), when)
        self.clearance(np.stack([np.array(self._contract.home), joint_positions]))  # what is close first may stay so

    def _check_range(self, joint_positions: np.ndarray, when: str) -> None:
        limits = self._contract.limits
        lower, upper = np.array(limits.position_min), np.array(limits.position_max)
        excess = np.maximum(lower - joint_positions, joint_positions - upper)
        row, joint = np.unravel_index(int(excess.argmax()), excess.shape)
        if excess[row, joint] > 1e-6:
            raise MotionRefused(
                ExecutionCode.JOINT_LIMIT,
                f"{self._contract.joints[joint]} would come to {joint_positions[row, joint]:.4f} rad {when}; "
                f"limits.position_min and position_max are {lower[joint]} and {upper[joint]} rad",
            )

    def _check_velocity(self, velocities: np.ndarray, when: str) -> None:
        """Of an arm that gains speed when it is braked: its acceleration does not end at once."""
        bound = np.array(self._contract.limits.velocity)
        excess = np.abs(velocities) - bound
        row, joint = np.unravel_index(int(excess.argmax()), excess.shape)
        if excess[row, joint] > 0:
            raise MotionRefused(
                ExecutionCode.JOINT_LIMIT,
                f"{self._contract.joints[joint]} would come to {abs(velocities[row, joint]):.4g} rad/s {when}; "
                f"limits.velocity is {bound[joint]} rad/s",
            )

    def _check_workspace(self, positions: np.ndarray, start: np.ndarray, when: str) -> None:
        low = np.minimum(np.array(self._contract.limits.workspace_min) - SWING, start)
        high = np.maximum(np.array(self._contract.limits.workspace_max) + SWING, start)
        if outside := _outside(positions, low, high):
            raise MotionRefused(ExecutionCode.OUT_OF_WORKSPACE, f"{when} {outside[1]}")

    def _check_speed(self, speeds: np.ndarray, fastest: float, when: str) -> None:
        speed, contract = float(speeds.max(initial=0.0)), self._contract
        if speed > fastest:
            what = f"{contract.end_effector_frame} {when}: {speed:.4g} m/s"
            raise _too_large(what, "cartesian_velocity", contract.limits.cartesian_velocity, "m/s")


def _excess(times: np.ndarray, motion: np.ndarray, contract: RobotContract) -> np.ndarray:
    """(3, T, n) shares of the velocity, acceleration and jerk limits that joint motion (3, T, n + 1) takes.

    Both what the motion says of itself and what its values do from one sample to the next count; jerk is that of the
    quintic between two samples, where it is largest.
    """
    joints = motion[:, :, :-1]
    taken = np.abs(np.append(joints[1:], np.zeros_like(joints[:1]), axis=0))
    h = np.diff(times)[:, None]
    between = np.abs(np.diff(joints, axis=1)) / h
    x, v, a = joints[:, :-1]
    d, e, f = joints[0, 1:] - x - h * v - h**2 / 2 * a, h * (joints[1, 1:] - v - h * a), h**2 * (joints[2, 1:] - a)
    c3, c4, c5 = 60 * d - 24 * e + 3 * f, 168 * e - 360 * d - 24 * f, 360 * d - 180 * e + 30 * f  # of s^0, s^1, s^2
    turn = np.clip(-c4 / np.where(c5 == 0, 1.0, 2 * c5), 0.0, 1.0)
    jerks = [np.abs(c3 + s * (c4 + s * c5)) for s in (0.0, 1.0, turn)]
    between[2] = np.maximum.reduce(jerks) / h**3
    taken[:, 1:] = np.maximum(taken[:, 1:], between)
    limits = contract.limits
    bounds = np.array([limits.velocity, limits.acceleration, limits.jerk])
    return taken / bounds[:, None]


def _worst_joint(excess: np.ndarray, contract: RobotContract) -> str:
    kind, row, joint = np.unravel_index(int(excess.argmax()), excess.shape)
    key, unit = (("velocity", "rad/s"), ("acceleration", "rad/s^2"), ("jerk", "rad/s^3"))[kind]
    bound = getattr(contract.limits, key)[joint]
    value = excess[kind, row, joint] * bound
    return f"{contract.joints[joint]} would need {value:.4g} {unit}; limits.{key} is {bound} {unit}"


def _outside(positions: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> tuple[int, str] | None:
    """The first of (T, 3) positions that lies outside a box: its index, and which axis is beyond which bound."""
    excess = np.maximum(lower - positions, positions - upper)
    if excess.max() <= 0:
        return None
    row = int(np.argmax(excess.max(axis=1) > 0))
    axis = int(excess[row].argmax())
    below = positions[row, axis] < lower[axis]
    key, bound = ("workspace_min", lower) if below else ("workspace_max", upper)
    return row, f"{AXES[axis]} is {positions[row, axis]:.4f} m; limits.{key} {AXES[axis]} is {bound[axis]:.4g} m"


def _too_large(what: str, key: str, bound: float, unit: str) -> MotionRefused:
    return MotionRefused(ExecutionCode.STEP_TOO_LARGE, f"{what}; limits.{key} is {bound:g} {unit}")


def _invalid(message: str) -> MotionRefused:
    return MotionRefused(ExecutionCode.INVALID_CHUNK, message)
