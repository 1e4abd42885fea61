# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Forward and inverse kinematics of the contract's end effector (Pinocchio, from the contract's URDF)."""

from __future__ import annotations

import math

import numpy as np
import pinocchio as pin
from scipy.linalg.lapack import dposv

from arvrm_ros.contract import LEVER, RobotContract
from arvrm_ros.errors import ContractError, ExecutionCode, MotionRefused

POSITION_TOLERANCE = 1e-5  # m
ROTATION_TOLERANCE = 1e-4  # rad
LONGEST_STEP = 0.3  # rad, of all joints in one iteration: near a singularity the linear step would leave the branch
METRES = np.array([1.0] * 3 + [LEVER] * 3)  # of a pose's difference, metres and radians
NEAREST_STEPS = 30  # towards a pose that may be missed, after as many towards one that is reached
LEAST_DAMPING = 1e-9  # of these steps
NEAREST_GAIN = 1e-6  # m that such a step brings at least; then nothing is nearer


class Kinematics:
    """The arm of a contract: its joints alone, in the contract's order; every other joint (the gripper's) is locked.

    Poses are those of ``end_effector_frame`` in ``base_frame``: metres and unit quaternions x, y, z, w. Joint vectors
    are (n,) radians.

    Raises:
        ContractError: the URDF lacks a joint or frame that the contract names.
    """

    def __init__(self, contract: RobotContract) -> None:
        full = pin.buildModelFromUrdf(str(contract.urdf_path()))
        missing = [joint for joint in contract.joints if not full.existJointName(joint)]
        missing += [f for f in (contract.base_frame, contract.end_effector_frame) if not full.existFrame(f)]
        if missing:
            raise ContractError(f"contract {contract.name}: {contract.urdf} has no {', '.join(missing)}")
        locked = [i for i in range(1, full.njoints) if full.names[i] not in contract.joints]
        self.contract = contract
        self._model = pin.buildReducedModel(full, locked, pin.neutral(full))
        self._data = self._model.createData()
        self._frame = self._model.getFrameId(contract.end_effector_frame)
        # Position of each of the contract's joints in Pinocchio's vectors, whose order is that of the URDF's tree.
        self._order = np.array([self._model.joints[self._model.getJointId(j)].idx_q for j in contract.joints])
        self._home = self._to_model(np.array(contract.home))
        self._lower = self._to_model(np.array(contract.limits.position_min))
        self._upper = self._to_model(np.array(contract.limits.position_max))
        self._names = [self._model.names[i] for i in range(1, self._model.njoints)]
        base = self._model.getFrameId(contract.base_frame)
        pin.framesForwardKinematics(self._model, self._data, self._home)
        self._base_inverse = self._data.oMf[base].inverse()
        self._base = self._data.oMf[base].copy()

    def _to_model(self, joints: np.ndarray) -> np.ndarray:
        q = np.empty(len(self._order))
        q[self._order] = joints
        return q

    def forward(self, joint_positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pose of the end effector: position (3,) and quaternion (4,) with w >= 0."""
        pin.forwardKinematics(self._model, self._data, self._to_model(np.asarray(joint_positions, dtype=float)))
        pose = self._base_inverse * pin.updateFramePlacement(self._model, self._data, self._frame)
        quaternion = pin.Quaternion(pose.rotation).coeffs()
        return pose.translation.copy(), quaternion if quaternion[3] >= 0 else -quaternion

    def along(self, joint_positions: np.ndarray) -> np.ndarray:
        """Positions (T, 3) of the end effector for joint positions (T, n)."""
        rows = np.empty_like(joint_positions)
        rows[:, self._order] = joint_positions
        positions = np.empty((len(rows), 3))
        for position, q in zip(positions, rows, strict=True):
            pin.forwardKinematics(self._model, self._data, q)
            position[:] = pin.updateFramePlacement(self._model, self._data, self._frame).translation
        return (positions - self._base.translation) @ self._base.rotation

    def links(self, joint_positions: np.ndarray) -> np.ndarray:
        """(n + 2, 3) metres, base frame: where the base, each joint of the arm and the end effector are, to draw it."""
        pin.forwardKinematics(self._model, self._data, self._to_model(np.asarray(joint_positions, dtype=float)))
        end = pin.updateFramePlacement(self._model, self._data, self._frame).translation
        points = [self._base.translation, *(pose.translation for pose in self._data.oMi[1:]), end]
        return np.array([self._base_inverse.act(point) for point in points])

    def jacobian(self, joint_positions: np.ndarray) -> np.ndarray:
        """(6, n) velocity of the end effector per joint velocity: linear (m/s) then angular (rad/s), base frame."""
        q = self._to_model(np.asarray(joint_positions, dtype=float))
        jacobian = pin.computeFrameJacobian(
            self._model, self._data, q, self._frame, pin.ReferenceFrame.LOCAL_WORLD_ALIGNED
        )
        rotation = self._base_inverse.rotation
        return np.vstack([rotation @ jacobian[:3], rotation @ jacobian[3:]])[:, self._order]

    def missed(self, position: np.ndarray, quaternion: np.ndarray, joint_positions: np.ndarray) -> float:
        """Metres between a pose and the end effector at (n,) rad: the root of both squares, a rotation times LEVER."""
        pin.forwardKinematics(self._model, self._data, self._to_model(np.asarray(joint_positions, dtype=float)))
        return _norm(METRES * self._error(self._target(position, quaternion)))

    def inverse(
        self,
        position: np.ndarray,
        quaternion: np.ndarray,
        seed: np.ndarray,
        home_pull: float = 0.0,
        iterations: int = 100,
        miss: float = 0.0,
    ) -> np.ndarray:
        """Joint positions (n,) that reach a pose, near ``seed`` and within the position limits.

        Damped least squares (Nakamura and Hanafusa 1986), the damping shrinking with the error. ``home_pull`` is the
        part of the way to the contract's home that the arm's redundancy moves beforehand without moving the end
        effector; called along a path it keeps the elbow from drifting. A pose that is out of reach may be missed by
        ``miss`` metres, as :meth:`missed` counts them: then it is where the joints come nearest to it.

        Raises:
            MotionRefused: JOINT_LIMIT when no solution was found within the limits.
        """
        target = self._target(position, quaternion)
        start = q = np.clip(self._to_model(np.asarray(seed, dtype=float)), self._lower, self._upper)
        rotation_error = position_error = np.inf
        for i in range(NEAREST_STEPS if miss else iterations):
            pin.computeJointJacobians(self._model, self._data, q)
            error = self._error(target)
            position_error, rotation_error = _norm(error[:3]), _norm(error[3:])
            pull = home_pull if i == 0 else 0.0
            if not pull and position_error < POSITION_TOLERANCE and rotation_error < ROTATION_TOLERANCE:
                return q[self._order]
            size = _norm(error)
            if size > 0.3:
                error = error * (0.3 / size)  # a far target is approached in steps within the linearisation
            jacobian = pin.getFrameJacobian(self._model, self._data, self._frame, pin.ReferenceFrame.LOCAL)
            gram = jacobian @ jacobian.T
            gram.flat[::7] += 1e-8 + 1e-3 * min(size, 1.0) ** 2
            step = pull * (self._home - q)
            step += jacobian.T @ dposv(gram, error - jacobian @ step if pull else error)[1]
            if (length := _norm(step)) > LONGEST_STEP:
                step *= LONGEST_STEP / length
            q = np.minimum(np.maximum(q + step, self._lower), self._upper)
        if miss > 0:
            nearest, distance = self._nearest(target, start)
            if distance <= miss:
                return nearest[self._order]
        at_limit = [
            f"{name} is at its limit {value:.4f} rad"
            for name, value, low, high in zip(self._names, q, self._lower, self._upper, strict=True)
            if not low < value < high
        ]
        raise MotionRefused(
            ExecutionCode.JOINT_LIMIT,
            f"no joint solution for {self._model.frames[self._frame].name} at {np.round(position, 3).tolist()} m: "
            f"{position_error * 1000:.2f} mm and {rotation_error:.4f} rad remain, the tolerances are "
            f"{POSITION_TOLERANCE * 1000:g} mm and {ROTATION_TOLERANCE:g} rad"
            + "".join(f"; {joint}" for joint in at_limit),
        )

    def _target(self, position: np.ndarray, quaternion: np.ndarray) -> pin.SE3:
        x, y, z, w = (float(value) for value in quaternion)
        return self._base * pin.SE3(pin.Quaternion(w, x, y, z), np.asarray(position, dtype=float))

    def _error(self, target: pin.SE3) -> np.ndarray:
        """(6,) m and rad to a target, from where the joints were computed last."""
        return pin.log6(pin.updateFramePlacement(self._model, self._data, self._frame).actInv(target)).vector

    def _nearest(self, target: pin.SE3, q: np.ndarray) -> tuple[np.ndarray, float]:
        """Joints within their limits that come nearest to a target, from (n,) on, and by what they miss it, in metres.

        Levenberg and Marquardt's steps, of which none makes it worse; joints at a limit that a step would exceed stay.
        """

        def looked_at(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            pin.computeJointJacobians(self._model, self._data, joints)
            error = METRES * self._error(target)
            jacobian = pin.getFrameJacobian(self._model, self._data, self._frame, pin.ReferenceFrame.LOCAL)
            return error, METRES[:, None] * jacobian

        error, jacobian = looked_at(q)
        damping = 1e-2
        for _ in range(NEAREST_STEPS):
            moves = np.ones(len(q), dtype=bool)
            for _ in q:
                free = jacobian * moves
                step = free.T @ dposv(free @ free.T + damping * np.eye(6), error)[1]
                stuck = ((q <= self._lower) & (step < 0)) | ((q >= self._upper) & (step > 0))
                if not stuck.any():
                    break
                moves &= ~stuck
            there = np.clip(q + step, self._lower, self._upper)
            error_there, jacobian_there = looked_at(there)
            gain = _norm(error) - _norm(error_there)
            if gain > 0:
                q, error, jacobian = there, error_there, jacobian_there
                damping = max(0.1 * damping, LEAST_DAMPING)
                if gain < NEAREST_GAIN:
                    break
            else:
                damping *= 10.0
        return q, _norm(error)


def _norm(vector: np.ndarray) -> float:
    return math.sqrt(vector @ vector)
