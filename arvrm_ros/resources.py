# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where the package's own files are: ``config/``, ``urdf/``, ``checkpoints/``, in a checkout or an installation."""

import sys
from pathlib import Path


def package_share() -> Path:
    """The folder that holds ``config/`` and ``urdf/``: the repository's root, or ``share/arvrm_ros`` of the prefix."""
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / "package.xml").is_file():
        return checkout
    for parent in [*Path(__file__).resolve().parents, Path(sys.prefix)]:
        if (parent / "share" / "arvrm_ros" / "package.xml").is_file():
            return parent / "share" / "arvrm_ros"
    raise FileNotFoundError("arvrm_ros is installed without its share/arvrm_ros folder; install it again")


def resource(*parts: str) -> Path:
    """A path below :func:`package_share`; it need not exist."""
    return package_share().joinpath(*parts)
