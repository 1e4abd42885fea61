# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Policies by name, one folder each: ``configuration``, ``model``, ``processor``, ``policy``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from arvrm_ros.contract import RobotContract, contract_from_dict
from arvrm_ros.data.types import ActionChunk, Observation, RetrievedMotion
from arvrm_ros.errors import ArvrmError, CheckpointError
from arvrm_ros.resources import resource

POLICIES = {"arvrm": "arvrm_ros.policies.arvrm.policy:ArvrmPolicy"}
"""Policies by name: ``module:class``; the class has ``load(folder, header, contract)``."""

DEFAULT_CHECKPOINT = "arvrm_tabletop"


class PolicyError(ArvrmError):
    """Inference failed: the output was not finite, or an observation does not fit the contract."""


class Policy(Protocol):
    """What the policy node and the evaluation need of a policy.

    Attributes:
        name: in :data:`POLICIES`.
        contract: the robot it was trained for.
        retrieves: human clips it wants per instruction; 0 when it uses none.
        analogy_map: (S, K) float32, rows ``ROBOT_COMPONENTS``, columns ``HAND_KEYPOINTS``; None when it has none.
    """

    name: str
    contract: RobotContract
    retrieves: int
    analogy_map: np.ndarray | None

    def reset(self, instruction: str) -> None:
        """Starts a new instruction: the history is forgotten."""

    def familiar(self, instruction: str) -> Mapping[str, float]:
        """Instructions that it was trained with, as far as that is known; how near each is to one, as a cosine."""

    def set_retrieved(self, motions: list[RetrievedMotion], wording: str = "") -> None:
        """Takes the retrieved clips; may come at any time, also empty.

        Args:
            motions: the clips, best first.
            wording: the instruction in other words, by which it is followed from now on; "" for its own.
        """

    def accelerate(self) -> None:
        """Trades a small error of the actions for speed, once and for good; see ``perception/fast.py``."""

    def predict_chunk(self, observation: Observation) -> ActionChunk:
        """The next steps. Raises PolicyError when they are not finite or the observation does not fit."""


def checkpoint_folder(checkpoint: Path | str | None) -> Path:
    """The folder of a checkpoint: a path, or the name of one that ships with the package; None is the default one."""
    if checkpoint is None or not str(checkpoint):
        checkpoint = DEFAULT_CHECKPOINT
    shipped = resource("checkpoints", str(checkpoint))
    return shipped if shipped.is_dir() and not Path(checkpoint).is_dir() else Path(checkpoint)


def read_header(folder: Path) -> dict[str, Any]:
    """``checkpoint.json`` of a checkpoint: policy, configuration, contract, normalisation, training.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        return json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint in {folder}: train one with 'arvrm finetune'") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}/checkpoint.json is damaged: {error}") from None


def load_policy(checkpoint: Path | str | None, contract: RobotContract) -> Policy:
    """Loads a policy and checks that it was made for this robot.

    Raises:
        CheckpointError: missing, damaged, of an unknown policy, or made for another contract.
    """
    import importlib

    folder = checkpoint_folder(checkpoint)
    header = read_header(folder)
    name = header.get("policy")
    if name not in POLICIES:
        raise CheckpointError(f"{folder} holds policy {name!r}; known are {', '.join(POLICIES)}")
    if "contract" not in header:
        raise CheckpointError(f"{folder}/checkpoint.json carries no contract; train it again")
    trained = contract_from_dict(header["contract"], f"{folder}/checkpoint.json")
    if differences := contract.differences(trained):
        raise CheckpointError(
            f"{folder} was trained for contract {trained.name!r}, which differs from {contract.name!r}: "
            + "; ".join(differences)
        )
    module, _, kind = POLICIES[name].partition(":")
    return getattr(importlib.import_module(module), kind).load(folder, header, contract)
