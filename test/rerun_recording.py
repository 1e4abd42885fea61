# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What is in a Rerun recording."""

import re
import subprocess
import sys
from pathlib import Path


def entities(recording: Path) -> set[str]:
    """The entities that something was logged to, as Rerun itself reads them."""
    command = [Path(sys.executable).with_name("rerun"), "rrd", "print", "-v", recording]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(re.findall(r"^Chunk.* - /(\S+) - ", done.stdout, re.MULTILINE))
