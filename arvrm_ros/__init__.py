# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""AR-VRM for ROS 2: a robot that follows plain-language instructions by imitating human motion."""

from pathlib import Path
from pkgutil import extend_path

__version__ = "0.1.0"

# The sources and the interfaces built from msg/, srv/ and action/ may lie in two folders: a checkout beside the
# environment it was built into, or an installation by --symlink-install, where this file is a link to the checkout.
__path__ = extend_path(__path__, __name__)
if (_sources := str(Path(__file__).resolve().parent)) not in __path__:
    __path__.append(_sources)
