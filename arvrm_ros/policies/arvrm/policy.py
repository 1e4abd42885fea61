# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""AR-VRM at run time: the feature cache, the retrieved clips, and checkpoints."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from arvrm_ros.contract import RobotContract
from arvrm_ros.data.types import ActionChunk, HumanClip, Observation, RetrievedMotion
from arvrm_ros.errors import CheckpointError
from arvrm_ros.files import replace_atomically, write_json
from arvrm_ros.motion.kinematics import Kinematics
from arvrm_ros.motion.safety import within_reach
from arvrm_ros.perception.encoders import FrozenImageEncoder, FrozenTextEncoder, load_image_encoder, load_text_encoder
from arvrm_ros.perception.fast import accelerate
from arvrm_ros.policies import PolicyError
from arvrm_ros.policies.arvrm.configuration import ArvrmConfig
from arvrm_ros.policies.arvrm.model import ArvrmModel, Retrieved, Seen
from arvrm_ros.policies.arvrm.processor import (
    Normalisation,
    absolute_targets,
    clip_keypoints,
    delta_base,
    robot_state,
)
from arvrm_ros.resources import resource

IMAGE_ENCODER = "image_encoder.safetensors"
WITHIN_LIMITS = 0.95
"""Share of the contract's Cartesian limits that the policy asks for at most."""


class ArvrmPolicy:
    """See :class:`arvrm_ros.policies.Policy`. Images are encoded once; the history keeps their features."""

    name = "arvrm"

    def __init__(
        self,
        model: ArvrmModel,
        normalisation: Normalisation,
        image_encoder: FrozenImageEncoder,
        text_encoder: FrozenTextEncoder,
        contract: RobotContract,
        max_drift: float = 0.0,
        instructions: Collection[str] = (),
    ) -> None:
        self.model, self.contract, self._max_drift = model.eval(), contract, max_drift
        self._instructions = sorted(instructions)
        self.config = model.config
        self._images, self._texts = image_encoder, text_encoder
        self._familiar = text_encoder.encode(self._instructions)  # (I, text_width)
        self._kinematics = Kinematics(contract)
        self._home = self._kinematics.forward(np.array(contract.home))[1]
        self._state_mean = np.array(normalisation.state_mean, np.float32)
        self._state_scale = np.array(normalisation.state_scale, np.float32)
        self._action_scale = np.array(normalisation.action_scale, np.float32)
        self._sequence = 0
        self._retrieved: Retrieved | None = None
        self._words: str | None = None
        self.reset("")

    @property
    def retrieves(self) -> int:
        """J, the human clips wanted per instruction."""
        return self.config.retrieved if self.config.retrieval else 0

    @property
    def analogy_map(self) -> np.ndarray | None:
        """(S, K) float32, or None when the map is switched off."""
        if not (self.config.retrieval and self.config.analogy):
            return None
        return self.model.analogy_map.detach().cpu().numpy()

    def reset(self, instruction: str) -> None:
        """Starts a new instruction."""
        self._instruction = instruction
        self._read(instruction)
        self._seen: deque[Seen] = deque(maxlen=self.config.history)  # each of one step
        self._states: deque[np.ndarray] = deque(maxlen=self.config.history)  # each (S,)
        self._retrieved = None

    def accelerate(self) -> None:
        """Frozen encoder, resampler and transformer in 8 bits; the small model has little to gain."""
        for part in (self._images, self.model.resampler, self.model.blocks):
            if isinstance(part, torch.nn.Module) and any(True for _ in part.parameters()):
                accelerate(part)

    def familiar(self, instruction: str) -> dict[str, float]:
        """See :class:`~arvrm_ros.policies.Policy`."""
        near = self._familiar @ self._texts.encode([instruction])[0]  # (I,)
        return dict(zip(self._instructions, near.tolist(), strict=True))

    @torch.inference_mode()
    def set_retrieved(self, motions: list[RetrievedMotion], wording: str = "") -> None:
        """Passes the clips through the frozen keypoint encoder, once; see :class:`~arvrm_ros.policies.Policy`."""
        self._read(wording or self._instruction)
        motions = motions[: self.retrieves]
        self._retrieved = retrieved_features(self.model, [m.clip for m in motions]) if motions else None

    def _read(self, words: str) -> None:
        if words != self._words:
            self._words, self._text = words, torch.from_numpy(self._texts.encode([words]))  # (1, text_width)

    @torch.inference_mode()
    def predict_chunk(self, observation: Observation) -> ActionChunk:
        """The next chunk; its stages are ``encode`` (new images), ``predict`` (transformer and head) and ``decode``."""
        started = time.perf_counter()
        cameras = list(self.contract.observation.cameras)
        missing = [camera for camera in cameras if camera not in observation.images]
        if missing or observation.joint_positions.shape != (len(self.contract.joints),):
            raise PolicyError(
                f"the observation lacks {', '.join(missing) or 'joints'} of contract {self.contract.name}"
            )
        if not np.isfinite(observation.joint_positions).all() or not np.isfinite(observation.gripper):
            raise PolicyError("the joint states are not finite")
        images = [observation.images[camera] for camera in cameras]
        if len({image.shape for image in images}) == 1:  # one batch is a third faster than one image at a time
            tokens = self._images.encode(np.stack(images))
        else:
            tokens = np.concatenate([self._images.encode(image[None]) for image in images])
        standardised = torch.from_numpy(self._images.standardised(tokens))
        self._seen.append(self.model.see(standardised.view(1, 1, *tokens.shape)))
        position, quaternion = self._kinematics.forward(observation.joint_positions)
        state = robot_state(position, quaternion, np.array(observation.gripper), self._home)
        self._states.append((state - self._state_mean) / self._state_scale)
        encoded = time.perf_counter()

        seen = Seen.concatenate(list(self._seen))  # (1, t, ...)
        states = torch.from_numpy(np.stack(self._states))[None]  # (1, t, S)
        chunks, progress, _ = self.model(self._text, seen, states, self._retrieved, last=True)
        raw = chunks[0, 0].numpy()  # (N, 7)
        predicted = time.perf_counter()

        if not np.isfinite(raw).all():
            raise PolicyError("the policy's output is not finite")
        if observation.commanded_positions is not None:
            commanded = self._kinematics.forward(observation.commanded_positions)
            position, quaternion = delta_base(position, quaternion, *commanded, self._max_drift)
        targets, quaternions = absolute_targets(position, quaternion, raw[:, :6] * self._action_scale)
        # A network keeps to no limit; without this, a chunk a little too fast would be refused whole, again and again.
        limits, period = self.contract.limits, self.contract.action.step_period
        targets = within_reach(targets, WITHIN_LIMITS * min(limits.cartesian_velocity * period, limits.max_step))
        gripper = 1 / (1 + np.exp(-raw[:, 6].astype(float)))
        self._sequence += 1
        return ActionChunk(
            stamp=observation.stamp,
            step_period=period,
            positions=targets,
            quaternions=quaternions,
            # The demonstrations only ever command open or closed.
            gripper=(gripper > 0.5).astype(float),
            sequence=self._sequence,
            instruction=self._instruction,
            progress=float(torch.sigmoid(progress[0, 0])),
            stages={
                "encode": encoded - started,
                "predict": predicted - encoded,
                "decode": time.perf_counter() - predicted,
            },
        )

    @classmethod
    def load(cls, folder: Path, header: dict[str, Any], contract: RobotContract) -> ArvrmPolicy:
        """Loads a checkpoint and the frozen encoders it was trained with.

        The small image encoder lies beside the weights, or is the one that ships with the package; others come by name.

        Raises:
            CheckpointError: damaged, or the image encoder is not the one the policy was trained with.
            DataError: an encoder's package or weights cannot be had.
        """
        model, normalisation = load_model(folder, header)
        beside = folder / IMAGE_ENCODER
        encoder = load_image_encoder(model.config.image_encoder, beside if beside.is_file() else None)
        if header.get("image_encoder") != encoder.identity:
            raise CheckpointError(
                f"{folder} was trained with another image encoder than the one found "
                f"({encoder.identity[:40]}); put its weights there as {IMAGE_ENCODER}"
            )
        # Of the contract it was trained with: a policy acts relative to what it learnt to act relative to.
        max_drift = float(header["contract"]["limits"].get("max_drift", 0.0))
        texts = load_text_encoder(model.config.text_encoder)
        instructions = header.get("training", {}).get("instructions", ())  # of 0.1.0 they are not known
        return cls(model, normalisation, encoder, texts, contract, max_drift, instructions)


@torch.inference_mode()
def retrieved_features(model: ArvrmModel, clips: list[HumanClip]) -> Retrieved:
    """What clips bring to the policy, as a batch of one: (1, J, ...)."""
    keypoints = np.stack([clip_keypoints(clip, model.config.clip_frames) for clip in clips])
    device = next(model.parameters()).device
    features, tokens = model.keypoint_encoder(torch.from_numpy(keypoints).to(device))  # (J, F, K, d), (J, F, d)
    return Retrieved(features.transpose(2, 3)[None], tokens[None], torch.ones(1, len(clips), device=device))


def save_checkpoint(
    folder: Path,
    model: ArvrmModel,
    normalisation: Normalisation,
    contract: RobotContract,
    image_encoder: FrozenImageEncoder,
    encoder_file: Path | None,
    training: dict[str, Any],
) -> None:
    """Writes weights and header; the image encoder's file is copied beside them unless it is the package's."""
    with replace_atomically(folder / "model.safetensors") as partial:
        safetensors.torch.save_file({k: v.cpu().contiguous() for k, v in model.state_dict().items()}, partial)
    if encoder_file is not None and encoder_file.resolve() != resource("checkpoints", IMAGE_ENCODER).resolve():
        with replace_atomically(folder / IMAGE_ENCODER) as partial:
            partial.write_bytes(encoder_file.read_bytes())
    header = {
        "policy": ArvrmPolicy.name,
        "config": asdict(model.config),
        "normalisation": normalisation.to_dict(),
        "contract": contract.to_dict(),
        "image_encoder": image_encoder.identity,
        "training": training,
    }
    write_json(folder / "checkpoint.json", header)


def load_model(folder: Path, header: dict[str, Any]) -> tuple[ArvrmModel, Normalisation]:
    """Model and normalisation of a checkpoint.

    Raises:
        CheckpointError: the weights are missing, damaged, or do not fit the configuration.
    """
    try:
        model = ArvrmModel(ArvrmConfig(**header["config"]))
        model.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
        return model.eval(), Normalisation.from_dict(header["normalisation"])
    except (OSError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{folder}/model.safetensors is missing or damaged: {error}") from None


def fingerprint(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
