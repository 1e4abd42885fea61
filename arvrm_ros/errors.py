# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The package's exceptions and the error codes of its actions (the same numbers as in ``action/``)."""

from enum import IntEnum


class ArvrmError(Exception):
    """An error a user can act on: the command line prints its message alone and exits with 1."""


class ContractError(ArvrmError):
    """A robot contract is invalid, or two contracts that have to agree do not."""


class CheckpointError(ArvrmError):
    """A checkpoint is missing, corrupt, or made for another contract or policy."""


class DataError(ArvrmError):
    """An episode, clip, database or model file is missing, incomplete or malformed."""


class ExecutionCode(IntEnum):
    """Codes of ``ExecuteChunk``, ``MoveTo`` and ``ExecutionStatus``."""

    NONE = 0
    CANCELED = 100
    PREEMPTED = 101
    INVALID_CHUNK = 102
    CHUNK_TOO_OLD = 103
    STEP_TOO_LARGE = 104
    OUT_OF_WORKSPACE = 105
    JOINT_LIMIT = 106
    STALE_JOINT_STATES = 107
    TRACKING_ERROR = 108
    EMERGENCY_STOP = 109
    BACKEND_UNAVAILABLE = 110
    NOT_ACTIVE = 111
    NO_PATH = 112
    OBSTRUCTED = 113


class InstructionCode(IntEnum):
    """Codes of ``FollowInstruction``."""

    NONE = 0
    CANCELED = 200
    PREEMPTED = 201
    TIMEOUT = 202
    EMPTY_INSTRUCTION = 203
    STALE_IMAGES = 204
    STALE_JOINT_STATES = 205
    EXECUTION_REFUSED = 206
    POLICY_FAILED = 207
    NOT_ACTIVE = 208


class MotionRefused(ArvrmError):
    """A chunk or command was refused whole by the safety layer; the arm holds.

    Attributes:
        code: why, as the action reports it.
    """

    def __init__(self, code: ExecutionCode, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type, tuple[ExecutionCode, str]]:
        return type(self), (self.code, str(self))  # from one process to another
