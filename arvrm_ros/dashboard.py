# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A run of the robot as a Rerun recording: cameras, hands, retrieved clips, the arm and its plans, limits, times.

All on one timeline of the messages' own stamps, so that what belongs together is seen together.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from types import ModuleType

import numpy as np

from arvrm_ros.contract import RobotContract
from arvrm_ros.data.types import HAND_KEYPOINTS, ROBOT_COMPONENTS, ActionChunk, HandDetection, RetrievedMotion
from arvrm_ros.errors import ArvrmError
from arvrm_ros.perception.overlay import BONES, keypoint_color

TIMELINE = "ros_time"
JPEG_QUALITY = 85
TRAIL = 200
"""Positions of the end effector that are kept to draw where it came from."""

ARM, OPEN, CLOSED, BOX, PAST = (225, 225, 225), (80, 200, 120), (230, 85, 60), (90, 130, 200), (150, 150, 150)
"""RGB of the arm, of steps with an open and a closed gripper, of the workspace, of the way that was gone."""

FINGERTIPS = (4, 8, 12, 16, 20)


class DashboardError(ArvrmError):
    """Rerun is not installed, or its recording cannot be written."""


class RerunDashboard:
    """Logs what it is given to a file, to a viewer, or to both.

    Args:
        contract: of the robot.
        recording: the ``.rrd`` file to write, complete up to the last moment even if the process is killed.
        view: open Rerun's viewer.

    Raises:
        DashboardError: see there.
    """

    def __init__(self, contract: RobotContract, recording: Path | None, view: bool = False) -> None:
        self._rerun = _rerun()
        self._contract = contract
        self._stream = self._rerun.RecordingStream("arvrm_ros")
        self._trail: deque[np.ndarray] = deque(maxlen=TRAIL)
        blueprint = self._blueprint()
        try:
            if recording is not None:
                recording.parent.mkdir(parents=True, exist_ok=True)
                recording.open("ab").close()  # Rerun tells of a place that cannot be written in several lines of Rust
                self._stream.save(recording, default_blueprint=blueprint)
            if view:
                self._stream.spawn(default_blueprint=blueprint)
        except (OSError, RuntimeError) as error:
            raise DashboardError(f"cannot record to {recording}: {error}") from None
        limits = contract.limits
        box = self._rerun.Boxes3D(
            mins=[limits.workspace_min], sizes=[np.subtract(limits.workspace_max, limits.workspace_min)], colors=BOX
        )
        self._stream.log("world", self._rerun.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)  # REP-103
        self._stream.log("world/workspace", box, static=True)

    def close(self) -> None:
        """Writes what is not written yet."""
        self._stream.flush()
        self._stream.disconnect()

    def image(self, camera: str, image: np.ndarray, stamp: float) -> None:
        """An image (H, W, 3) uint8 RGB."""
        self._at(stamp)
        self._stream.log(f"cameras/{camera}", self._rerun.Image(image).compress(jpeg_quality=JPEG_QUALITY))

    def hands(self, camera: str, hands: list[HandDetection], height: int, width: int, stamp: float) -> None:
        """The hands in an image of a camera, which may be none."""
        self._at(stamp)
        points = [hand.keypoints[:, :2] * (width, height) for hand in hands]
        bones = [[of_hand[a], of_hand[b]] for of_hand in points for a, b in BONES]
        colors = [keypoint_color(end) for _ in points for _, end in BONES]
        self._stream.log(f"cameras/{camera}/hands", self._rerun.LineStrips2D(bones, colors=colors))

    def retrieved(
        self, motions: list[RetrievedMotion], instruction: str, mode: str, confidence: float, stamp: float
    ) -> None:
        """What a retrieval found, best first, and how the fingertips of the best clip go."""
        self._at(stamp)
        rows = [
            f"| {m.score:.2f} | {m.language_score:.2f} | {m.visual_score:.2f} | {m.clip.caption} | {m.clip.clip_id} |"
            for m in motions
        ]
        text = [
            f"**{instruction}** (mode {mode}, confidence {confidence:.2f})", "",
            "| score | text | images | caption | clip |", "|---|---|---|---|---|", *rows,
        ]  # fmt: skip
        document = self._rerun.TextDocument("\n".join(text), media_type=self._rerun.MediaType.MARKDOWN)
        self._stream.log("retrieved/clips", document)
        tracks = [motion.clip.keypoints[:, tip, :2] for motion in motions[:1] for tip in FINGERTIPS]
        colors = [keypoint_color(tip) for _ in motions[:1] for tip in FINGERTIPS]
        self._stream.log("retrieved/best", self._rerun.LineStrips2D(tracks, colors=colors))

    def analogy_map(self, weights: np.ndarray, stamp: float) -> None:
        """m, (S, K): how much each hand keypoint speaks for each robot component."""
        self._at(stamp)
        names = [f"component ({', '.join(ROBOT_COMPONENTS)})", f"keypoint ({', '.join(HAND_KEYPOINTS)})"]
        self._stream.log("analogy_map", self._rerun.Tensor(weights, dim_names=names))

    def arm(self, links: np.ndarray, velocities: np.ndarray, gripper: float, stamp: float) -> None:
        """The arm as it is measured.

        Args:
            links: (n + 2, 3) m, of :meth:`arvrm_ros.motion.kinematics.Kinematics.links`.
            velocities: (n,) rad/s.
            gripper: opening in [0, 1].
            stamp: seconds.
        """
        self._at(stamp)
        self._trail.append(links[-1])
        color = OPEN if gripper > 0.5 else CLOSED
        self._stream.log("world/arm", self._rerun.LineStrips3D([links], colors=ARM, radii=0.012))
        self._stream.log("world/end_effector", self._rerun.Points3D(links[-1:], colors=color, radii=0.02))
        self._stream.log("world/trail", self._rerun.LineStrips3D([np.array(self._trail)], colors=PAST, radii=0.002))
        share = float(np.max(np.abs(velocities) / self._contract.limits.velocity))
        self._scalars("limits", {"velocity_share": share, "velocity_share_allowed": 1.0})
        self._scalars("gripper", {"measured": gripper})

    def chunk(self, chunk: ActionChunk) -> None:
        """Where the policy wants the end effector to go, and how long its stages took."""
        self._at(chunk.stamp)
        colors = [OPEN if opening > 0.5 else CLOSED for opening in chunk.gripper]
        path = [chunk.positions] if len(chunk.positions) else []
        self._stream.log("world/chunk", self._rerun.LineStrips3D(path, colors=BOX, radii=0.004))
        self._stream.log("world/chunk/steps", self._rerun.Points3D(chunk.positions, colors=colors, radii=0.008))
        self._scalars("milliseconds", {name: 1000 * seconds for name, seconds in chunk.stages.items()})
        self._scalars("progress", {"policy": chunk.progress})
        if len(chunk.gripper):
            self._scalars("gripper", {"wanted": float(chunk.gripper[0])})

    def execution(self, state: str, tracking_error: float, capture_to_command: float, stamp: float) -> None:
        """What the execution node is doing (rad, s)."""
        self._at(stamp)
        self._stream.log("execution/state", self._rerun.TextDocument(state))
        allowed = self._contract.watchdogs.tracking_error
        self._scalars("limits", {"tracking_error": tracking_error, "tracking_error_allowed": allowed})
        self._scalars("milliseconds", {"capture_to_command": 1000 * capture_to_command})

    def event(self, text: str, stamp: float, level: str = "INFO") -> None:
        """A line of the log; ``level`` is INFO, WARN or ERROR."""
        self._at(stamp)
        self._stream.log("log", self._rerun.TextLog(text, level=level))

    def _at(self, stamp: float) -> None:
        self._stream.set_time(TIMELINE, duration=stamp)

    def _scalars(self, plot: str, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._stream.log(f"{plot}/{name}", self._rerun.Scalars(value))

    def _blueprint(self) -> object:
        """What is where in the viewer."""
        import rerun.blueprint as views

        cameras = [
            views.Spatial2DView(origin=f"cameras/{name}", name=name)
            for name in (*self._contract.observation.cameras, "human")
        ]
        plots = [
            views.TimeSeriesView(origin=name, name=name) for name in ("milliseconds", "limits", "gripper", "progress")
        ]
        return views.Blueprint(
            views.Horizontal(
                views.Vertical(*cameras),
                views.Vertical(
                    views.Spatial3DView(origin="world", name="arm"),
                    views.TextLogView(origin="log", name="log"),
                    row_shares=[3, 1],
                ),
                views.Vertical(
                    views.TextDocumentView(origin="retrieved/clips", name="retrieved clips"),
                    views.Horizontal(
                        views.Spatial2DView(origin="retrieved/best", name="best clip's fingertips"),
                        views.TensorView(origin="analogy_map", name="analogy map"),
                    ),
                    *plots,
                ),
                column_shares=[1, 2, 2],
            ),
            collapse_panels=True,
        )


def _rerun() -> ModuleType:
    try:
        import rerun
    except ImportError:
        raise DashboardError("Rerun is not installed: pip install rerun-sdk") from None
    return rerun
