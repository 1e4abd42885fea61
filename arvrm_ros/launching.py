# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the launch files share: the launch description of a suite of :mod:`arvrm_ros.suite`. Needs ROS 2's launch."""

from __future__ import annotations

import sys
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction, SetEnvironmentVariable
from launch_ros.actions import Node

from arvrm_ros.suite import (
    Process,
    SuiteError,
    arguments_of,
    environment,
    missing,
    processes,
    resolve,
)


def describe(suite: str) -> LaunchDescription:
    """The launch description of a suite: its arguments, each with a description, and one process per node.

    The launch ends with status 1 when any process ends by itself; what is missing on the machine is named before
    anything starts.
    """
    arguments = arguments_of(suite)

    def start(context: LaunchContext) -> list[Action]:
        values = resolve(suite, {name: context.launch_configurations[name] for name in arguments})
        if problems := missing(suite, values):
            raise SuiteError(f"{suite} cannot start: " + "; ".join(problems))
        return [_start(process) for process in processes(suite, values)]

    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(a.name, default_value=str(a.default), description=a.description)
                for a in arguments.values()
            ),
            *(SetEnvironmentVariable(name, value) for name, value in environment(suite).items()),
            OpaqueFunction(function=start),
        ]
    )


def _start(process: Process) -> ExecuteProcess:
    shared: dict[str, Any] = {
        "name": process.name,
        "output": "screen",
        "emulate_tty": True,
        "on_exit": OpaqueFunction(function=_stop_suite, args=[process.name]),
    }
    if process.program:
        return ExecuteProcess(cmd=list(process.program), **shared)
    is_file = not process.package
    return Node(
        package=process.package or None,
        executable=sys.executable if is_file else process.executable,
        arguments=[process.executable] if is_file else list(process.arguments),
        parameters=[process.parameters],
        **shared,
    )


def _stop_suite(context: LaunchContext, name: str) -> None:
    """An exception, not a Shutdown action: it stops the launch as well, and makes ``ros2 launch`` exit with 1."""
    if not context.is_shutdown:
        raise SuiteError(f"{name} ended; the suite was stopped")
