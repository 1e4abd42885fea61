# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Makes ROS 2's wheels usable by CMake: their files name the Python of the machine that built them; this names ours."""

import re
import sys
import sysconfig
from pathlib import Path


def main() -> None:
    """Rewrites the include and library paths in ``share/*/cmake`` of this environment; harmless when repeated."""
    python = r"/opt/python/cp\d+-cp\d+t?"
    paths = {
        rf"{python}/include/python3\.\d+t?": sysconfig.get_path("include"),
        rf"{python}/lib/python3\.\d+t?/site-packages": sysconfig.get_path("purelib"),
    }
    for file in Path(sys.prefix, "share").glob("*/cmake/*.cmake"):
        before = after = file.read_text(encoding="utf-8")
        for pattern, path in paths.items():
            after = re.sub(pattern, path.replace("\\", r"\\"), after)
        if after != before:
            file.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
