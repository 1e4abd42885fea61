# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""``pip install .``: the Python package without ROS. The metadata is in pyproject.toml; here are the shared files."""

from pathlib import Path

from setuptools import setup

SHARED = ("package.xml", "config", "urdf", "checkpoints", "launch")


def data_files() -> list[tuple[str, list[str]]]:
    """The files of ``share/arvrm_ros``, by folder."""
    folders: dict[str, list[str]] = {}
    for top in map(Path, SHARED):
        for file in [top] if top.is_file() else top.rglob("*"):
            if file.is_file():
                folders.setdefault(str(Path("share/arvrm_ros") / file.parent), []).append(str(file))
    return sorted(folders.items())


setup(data_files=data_files())
