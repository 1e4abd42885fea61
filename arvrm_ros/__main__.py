# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""``python -m arvrm_ros`` is ``arvrm``."""

import sys

from arvrm_ros.cli import main

sys.exit(main())
