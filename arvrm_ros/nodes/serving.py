# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Action servers whose goals last: they are taken at once, and end when their result is known.

rclpy "executes" a goal when its result is known: a callback that awaits keeps a whole core busy until then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.action.server import ActionServer, CancelResponse, ServerGoalHandle
from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node

from arvrm_ros.errors import ExecutionCode


def serve_goals(
    node: Node,
    kind: Any,
    name: str,
    on_goal: Callable[[ServerGoalHandle], None],
    callback_group: CallbackGroup | None = None,
) -> ActionServer:
    """Serves an action; every goal is accepted and every cancel taken, and each goal is to be ended by its owner."""
    return ActionServer(
        node,
        kind,
        name,
        _not_executed,
        handle_accepted_callback=on_goal,
        cancel_callback=lambda _: CancelResponse.ACCEPT,
        callback_group=callback_group,
    )


def give_result(handle: ServerGoalHandle, kind: Any, code: ExecutionCode, message: str) -> None:
    """Ends a goal with a result of its kind."""

    def hand_over(handle: ServerGoalHandle) -> Any:
        if code is ExecutionCode.NONE:
            handle.succeed()
        elif code is ExecutionCode.CANCELED:
            handle.canceled()
        else:
            handle.abort()
        return kind(error_code=int(code), error_msg=message)

    handle.execute(hand_over)


def _not_executed(_: ServerGoalHandle) -> Any:
    raise RuntimeError("goals are executed with their own callback")
