# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How close the arm comes to itself and to the contract's keep-out boxes along a path (Pinocchio and coal)."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from dataclasses import dataclass

import coal
import numpy as np
import pinocchio as pin

from arvrm_ros.contract import RobotContract
from arvrm_ros.errors import ContractError

KEEP_OUT = "limits.keep_out."  # and the name of a box
RESOLUTION = 1e-5  # m, of the distances


@dataclass(frozen=True)
class Pair:
    """Two bodies that have to stay apart: their indices, metres, and the contract's key that says so."""

    link: int
    other: int
    bound: float
    key: str


@dataclass(frozen=True)
class TooClose:
    """Two bodies that are nearer to each other than they may be.

    Attributes:
        link: of the arm.
        other: another link, or ``limits.keep_out.NAME``.
        distance: metres between them where they are closest; negative where they overlap.
        bound: metres asked for.
        key: where the contract says so.
        away: (3,) unit vector in the base frame, the way on which the link parts from the other one soonest.
    """

    link: str
    other: str
    distance: float
    bound: float
    key: str
    away: np.ndarray

    def __str__(self) -> str:
        return f"{self.link} would come within {self.distance:.4f} m of {self.other}; {self.key} is {self.bound} m"


class Clearance:
    """The shapes of the contract's URDF and its keep-out boxes, and which of them have to stay apart.

    Left out are links that one joint joins, those that an SRDF beside the URDF disables (same name, ``.srdf``), and
    those nearer to each other at home than ``limits.self_clearance``: they are so by construction. The gripper's links
    are there twice, closed and open, as an object may hold them anywhere between. The object itself is not known.

    Raises:
        ContractError: at home the arm is too close to a keep-out box.
    """

    def __init__(self, contract: RobotContract) -> None:
        self._model, self._shapes, self._base = _arm(contract)
        self._order = np.array([self._model.joints[self._model.getJointId(j)].idx_q for j in contract.joints])
        self._data = self._model.createData()
        links, limits = self._shapes.ngeoms, contract.limits
        touching = [Pair(a, b, limits.self_clearance, "limits.self_clearance") for a, b in self._apart(contract)]
        boxes = []
        for name, box in limits.keep_out.items():
            low, high = np.array(box.min), np.array(box.max)
            placement = self._base * pin.SE3(np.eye(3), (low + high) / 2)
            index = self._shapes.addGeometryObject(
                pin.GeometryObject(KEEP_OUT + name, 0, placement, coal.Box(*(high - low)))
            )
            key = f"{KEEP_OUT}{name}.clearance"
            boxes += [Pair(link, index, box.clearance, key) for link in range(links) if self._joint(link)]
        self._set_pairs(touching + boxes)
        home = np.array(contract.home)
        distances = self._distances(home, range(len(self._pairs)))
        for index in range(len(touching), len(self._pairs)):
            if distances[index] < self._bounds[index]:
                found = self._found(index, home[None])
                raise ContractError(
                    f"contract {contract.name}: at home {found.link} is {found.distance:.3f} m from {found.other}; "
                    f"{found.key} is {found.bound} m"
                )
        self._set_pairs([p for p, d in zip(touching, distances, strict=False) if d >= p.bound] + boxes)

    @property
    def apart(self) -> set[frozenset[str]]:
        """The pairs of links, or of a link and ``limits.keep_out.NAME``, that have to stay apart."""
        return {frozenset((self._body(pair.link), self._body(pair.other))) for pair in self._pairs}

    def along(self, joint_positions: np.ndarray) -> TooClose | None:
        """Two bodies that come too close at some of (T, n) joint positions in rad, None where none do.

        Bodies that are too close at the first one may stay so, or part. A pair's distance at one sample clears all
        samples that the joints cannot near it enough to reach (as in conservative advancement, Mirtich 1996, but
        forwards and back): every sample is covered, few are looked at.
        """
        bounds, unknown = self._bounds.copy(), np.ones((len(self._pairs), len(joint_positions)), bool)
        while len(samples := np.flatnonzero(unknown.any(axis=0))):
            at = samples[len(samples) // 2]
            due = np.flatnonzero(unknown[:, at])
            distances = self._distances(joint_positions[at], due)
            if len(close := due[distances < bounds[due]]):
                bounds[close] = np.minimum(bounds[close], self._distances(joint_positions[0], close) - RESOLUTION)
            left = distances - bounds[due]
            if left.min() < 0:
                return self._found(int(due[left.argmin()]), joint_positions)
            nearing = self._reach[due] @ np.abs(joint_positions - joint_positions[at]).T
            unknown[due] &= nearing > left[:, None]
        return None

    def _distances(self, joint_positions: np.ndarray, pairs: Iterable[int]) -> np.ndarray:
        self._place(joint_positions)
        return np.array([pin.computeDistance(self._shapes, self._shapes_data, int(p)).min_distance for p in pairs])

    def _place(self, joint_positions: np.ndarray) -> None:
        q = np.empty(len(self._order))
        q[self._order] = joint_positions
        pin.updateGeometryPlacements(self._model, self._data, self._shapes, self._shapes_data, q)

    def _set_pairs(self, pairs: list[Pair]) -> None:
        self._pairs = pairs
        self._bounds = np.array([pair.bound for pair in pairs])
        self._shapes.removeAllCollisionPairs()
        for pair in pairs:
            self._shapes.addCollisionPair(pin.CollisionPair(pair.link, pair.other))
        self._shapes_data = self._shapes.createData()
        reach = np.array([self._approach(pair) for pair in pairs]).reshape(-1, len(self._order))
        self._reach = reach[:, self._order]  # (P, n), the contract's order

    def _apart(self, contract: RobotContract) -> list[tuple[int, int]]:
        """The pairs of shapes that have to stay apart, except those that touch at home."""
        self._shapes.addAllCollisionPairs()
        if (srdf := contract.urdf_path().with_suffix(".srdf")).is_file():
            pin.removeCollisionPairs(self._model, self._shapes, str(srdf))
        pairs = [(pair.first, pair.second) for pair in self._shapes.collisionPairs]
        parents = self._model.parents
        return [
            (first, second)
            for first, second in pairs
            if (a := self._joint(first)) != (b := self._joint(second)) and parents[a] != b and parents[b] != a
        ]

    def _joint(self, shape: int) -> int:
        """Pinocchio's joint that moves a shape, 0 where none does."""
        return self._shapes.geometryObjects[shape].parentJoint

    def _approach(self, pair: Pair) -> np.ndarray:
        """Metres per radian (metres per metre) by which a pair can near when one joint moves, in Pinocchio's order."""
        result = np.zeros(self._model.nq)
        for shape, fixed in ((pair.link, pair.other), (pair.other, pair.link)):
            others = self._model.supports[self._joint(fixed)]
            item = self._shapes.geometryObjects[shape]
            item.geometry.computeLocalAABB()
            radius = item.geometry.aabb_radius + float(np.linalg.norm(item.geometry.aabb_center))
            distance = float(np.linalg.norm(item.placement.translation)) + radius
            for joint in reversed(list(self._model.supports[self._joint(shape)])[1:]):
                model = self._model.joints[joint]
                prismatic = model.shortname().startswith("JointModelP")
                if joint not in others:
                    result[model.idx_q] = 1.0 if prismatic else distance
                distance += float(np.linalg.norm(self._model.jointPlacements[joint].translation))
                if prismatic:
                    limits = self._model.lowerPositionLimit[model.idx_q], self._model.upperPositionLimit[model.idx_q]
                    distance += max(map(abs, limits))
        return result

    def _found(self, index: int, joint_positions: np.ndarray) -> TooClose:
        """A pair where it is closest along (T, n) joint positions."""
        distances = [self._distances(positions, [index])[0] for positions in joint_positions]
        self._place(joint_positions[int(np.argmin(distances))])
        result, pair = pin.computeDistance(self._shapes, self._shapes_data, index), self._pairs[index]
        away = self._base.rotation.T @ -result.normal  # coal's points from the first body to the second
        return TooClose(self._body(pair.link), self._body(pair.other), result.min_distance, pair.bound, pair.key, away)

    def _body(self, shape: int) -> str:
        item = self._shapes.geometryObjects[shape]
        boxes = item.name.startswith(KEEP_OUT)
        return item.name if boxes else self._model.frames[item.parentFrame].name


def _arm(contract: RobotContract) -> tuple[pin.Model, pin.GeometryModel, pin.SE3]:
    """Model and shapes of the arm, the base; the gripper is closed, the shapes that an open one has elsewhere added."""
    urdf = str(contract.urdf_path())
    full = pin.buildModelFromUrdf(urdf)
    shapes = pin.buildGeomFromUrdf(full, urdf, pin.GeometryType.COLLISION)
    locked = [i for i in range(1, full.njoints) if full.names[i] not in contract.joints]
    openings = (contract.gripper.closed, contract.gripper.open)
    (model, closed), (_, opened) = (
        pin.buildReducedModel(full, shapes, locked, _with_gripper(full, contract, opening)) for opening in openings
    )
    for before, after in zip(list(closed.geometryObjects), opened.geometryObjects, strict=True):
        if not before.placement.isApprox(after.placement):
            after.name += "_open"
            closed.addGeometryObject(after)
    data = model.createData()
    pin.framesForwardKinematics(model, data, pin.neutral(model))
    return model, closed, data.oMf[model.getFrameId(contract.base_frame)].copy()


def _with_gripper(full: pin.Model, contract: RobotContract, position: float) -> np.ndarray:
    """A configuration with the gripper's joint, and those that mimic it, at a position in metres."""
    q = pin.neutral(full)
    for joint in ElementTree.parse(contract.urdf_path()).getroot().iter("joint"):
        mimic, name = joint.find("mimic"), joint.get("name")
        if name == contract.gripper.joint:
            q[full.joints[full.getJointId(name)].idx_q] = position
        elif mimic is not None and mimic.get("joint") == contract.gripper.joint:
            value = float(mimic.get("multiplier", 1.0)) * position + float(mimic.get("offset", 0.0))
            q[full.joints[full.getJointId(name)].idx_q] = value
    return q
