#!/usr/bin/env bash
# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
# Names, in one line, every system package that the set-up needs and this machine lacks; silent when none is missing.
#   scripts/check_system.sh PYTHON
set -uo pipefail
python=$1
missing=()
has() { command -v "$1" >/dev/null 2>&1; }
library() { "$python" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$1" >/dev/null 2>&1; }

has git || missing+=(git)
has make || missing+=(make)
has g++ || missing+=(g++)
if ! has "$python"; then
  missing+=(python3 python3-venv python3-dev libegl1 libgl1 libgles2)
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
  missing+=("python>=3.10 (make PYTHON=python3.11 names another)")
else
  "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || missing+=(python3-venv)
  "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
    missing+=(python3-dev)
  library libEGL.so.1 || missing+=(libegl1)
  library libGL.so.1 || missing+=(libgl1)
  library libGLESv2.so.2 || missing+=(libgles2)
fi
if ((${#missing[@]})); then
  echo "missing system packages, install them first: ${missing[*]}  (Debian/Ubuntu: sudo apt install NAME ...)" >&2
  exit 1
fi
