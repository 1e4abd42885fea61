# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Robot episodes from ROS 2 bags (MCAP) in which somebody shows a real robot what to do, by teleoperation or by hand.

Images are brought into step and to size as the camera node does it, and joint states are chosen as the policy node
does, so that a policy learns from what it will see. What was commanded is read from the trajectories that the arm's and
the gripper's controllers were sent; where there are none (an arm led by hand, another interface), the arm was commanded
to where it was a step later, and the gripper to open or to close from when it did.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from arvrm_ros.contract import RobotContract
from arvrm_ros.data.bags import BAG_SUFFIX, bag_topics, image_of, read_messages
from arvrm_ros.data.episodes import encode_image
from arvrm_ros.data.messages import MessageError, joint_state_to_arrays, stamp_of, to_seconds
from arvrm_ros.errors import DataError
from arvrm_ros.perception.cameras import FrameSets, resize
from arvrm_ros.retrieval.sources import Span, Tally, find_videos
from arvrm_ros.training.importing import Demonstration, Job, grips_of, import_all

PAUSE = 0.5
"""Seconds without a trajectory after which the next one begins where the arm is measured."""


def topics_to_record(contract: RobotContract) -> list[str]:
    """What a bag of demonstrations has to hold, and the controllers' topics, which it may lack."""
    cameras = [camera.raw_topic for camera in contract.observation.cameras.values()]
    return [contract.observation.joint_states.topic, *cameras, contract.action.arm_topic, contract.action.gripper_topic]


def import_recordings(source: Path, out: Path, contract: RobotContract, trim: bool = True, workers: int = 1) -> Tally:
    """Makes an episode of each demonstration of a source that is not in a folder yet.

    Args:
        source: a bag, or a folder of bags at any depth. The instructions are their names (``open_the_drawer_0.mcap``),
            or in ``captions.csv`` or ``captions.jsonl`` in the folder: columns video, caption, and start and end in
            seconds where one bag holds several demonstrations.
        out: folder of episodes.
        trim: leave out the time before the first motion and after the last one.
        workers: processes.

    Returns:
        How many came of what; what is wrong with a bag is printed as it is found.

    Raises:
        DataError: there are no bags, the captions are malformed, or the folder cannot be written to.
    """
    found = find_videos(source)
    tally, jobs = found.left_out, []
    for bag in found.videos:
        if bag.path.suffix != BAG_SUFFIX:
            tally.add("no bag", bag.path.name)
            continue
        for i, span in enumerate(bag.spans):
            read = partial(read_recording, bag.path, contract, span)
            jobs.append(Job(bag.reference, read, out / f"episode_{bag.name}_{i:02d}.npz"))
    if not jobs:
        left = ", ".join(f"{count} {reason}" for reason, count in tally.counts.items())
        command = " ".join(["ros2 bag record --storage mcap", *topics_to_record(contract)])
        raise DataError(f"{source} holds no bag with an instruction ({left}): record some with `{command}`")
    return import_all(jobs, contract, trim, workers, tally)


def read_recording(path: Path, contract: RobotContract, span: Span) -> Demonstration:
    """One demonstration of a bag.

    Args:
        path: of the MCAP file.
        contract: names the topics and the joints; a camera's images may be on its topic or on the driver's
            ``image_raw`` beside it, compressed or not.
        span: the part of it, seconds from the first image of all cameras, and the instruction.

    Raises:
        DataError: a topic or a joint is missing, images or joint states are missing for longer than the contract
            allows, or the bag is damaged.
    """
    try:
        recording = _Recording(path, contract, span)
    except MessageError as error:
        raise DataError(f"{path}: {error}") from None
    stamps, period = recording.stamps, contract.action.step_period
    return Demonstration(
        name=str(path),
        instruction=span.caption,
        task=span.task,
        stamps=stamps,
        images=recording.images,
        joints=recording.joints_at(stamps),
        openings=recording.openings_at(stamps),
        commanded_joints=recording.commanded(stamps + period),
        commanded_openings=recording.grips(stamps, period),
    )


class _Timeline:
    """Values commanded for times; a later message replaces what earlier ones said of the time from its beginning on."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.values: list[np.ndarray] = []

    def add(self, times: Sequence[float], values: np.ndarray, now: float, measured: np.ndarray) -> None:
        kept = bisect_left(self.times, times[0])
        del self.times[kept:], self.values[kept:]
        if (not self.times or now > self.times[-1] + PAUSE) and now < times[0]:
            self.times.append(now)
            self.values.append(measured)
        self.times.extend(times)
        self.values.extend(values)

    def at(self, times: np.ndarray) -> np.ndarray:
        """(T, n) at (T,) seconds, straight between what is known, and the first and the last beyond it."""
        columns = np.array(self.values).T
        return np.stack([np.interp(times, self.times, column) for column in columns], axis=1)


class _Recording:
    """What a bag holds, by the stamps of its messages.

    Attributes:
        stamps: (T,) seconds of the sets of images.
        images: per camera, T JPEG files.
    """

    def __init__(self, path: Path, contract: RobotContract, span: Span) -> None:
        self._path, self._contract = path, contract
        self._joints, self._arm, self._gripper = _Timeline(), _Timeline(), _Timeline()  # the first: with the opening
        sets = list(self._read(span))
        self.stamps = np.array([min(stamp for stamp, _ in images.values()) for images in sets])
        self.images = {name: [images[name][1] for images in sets] for name in contract.observation.cameras}
        self._check()

    def _read(self, span: Span) -> Iterator[dict[str, tuple[float, bytes]]]:
        """The sets of images of the part that is wanted; keeps joint states and trajectories."""
        contract, known = self._contract, bag_topics(self._path)
        joints, action = contract.observation.joint_states.topic, contract.action
        if joints not in known:
            raise DataError(f"{self._path} holds no joint states on {joints}; it holds {', '.join(sorted(known))}")
        cameras = {self._camera_topic(name, known): name for name in contract.observation.cameras}
        controllers = {action.arm_topic: (self._arm, contract.joints)}
        controllers[action.gripper_topic] = (self._gripper, (contract.gripper.joint,))
        in_step = FrameSets(cameras.values(), action.step_period)
        begin: float | None = None
        for topic, message in read_messages(self._path, [joints, *cameras, *controllers]):
            if topic == joints:
                positions, _, opening = joint_state_to_arrays(message, contract)
                stamp = stamp_of(message)
                if not self._joints.times or stamp > self._joints.times[-1]:
                    self._joints.times.append(stamp)
                    self._joints.values.append(np.append(positions, opening))
            elif topic in controllers:
                self._add_trajectory(topic, message, *controllers[topic])
            elif (images := in_step.add(cameras[topic], stamp_of(message), message)) is not None:
                stamp = min(stamp for stamp, _ in images.values())
                begin = stamp if begin is None else begin
                if span.start <= stamp - begin < span.end:
                    yield {name: (at, self._encoded(name, image)) for name, (at, image) in images.items()}

    def _camera_topic(self, name: str, known: dict[str, str]) -> str:
        camera = self._contract.observation.cameras[name]
        topics = [t + kind for t in (camera.topic, camera.raw_topic) for kind in ("", "/compressed")]
        found = next((topic for topic in topics if topic in known), None)
        if found is None:
            raise DataError(
                f"{self._path} holds no images of the camera {name}: record one of {', '.join(topics)}; it holds "
                f"{', '.join(sorted(known))}"
            )
        return found

    def _encoded(self, name: str, message: Any) -> bytes:
        camera = self._contract.observation.cameras[name]
        return encode_image(resize(image_of(message), camera.height, camera.width))

    def _add_trajectory(self, topic: str, message: Any, timeline: _Timeline, joints: tuple[str, ...]) -> None:
        order = {name: i for i, name in enumerate(message.joint_names)}
        if missing := [joint for joint in joints if joint not in order]:
            raise DataError(f"{self._path}: a trajectory on {topic} lacks {', '.join(missing)}")
        if not self._joints.times or not message.points:
            return
        now, measured = self._joints.times[-1], self._joints.values[-1]
        start = stamp_of(message) or now  # a stamp of 0 means: at once
        values = np.array([[point.positions[order[joint]] for joint in joints] for point in message.points])
        if timeline is self._gripper:
            values, measured = np.array([[self._contract.gripper.opening(v)] for (v,) in values]), measured[-1:]
        else:
            measured = measured[:-1]
        times = [start + to_seconds(point.time_from_start) for point in message.points]
        if not np.isfinite(values).all() or np.any(np.diff(times) <= 0):
            raise DataError(f"{self._path}: a trajectory on {topic} is not finite, or its times do not increase")
        timeline.add(times, values, now, measured)

    def _check(self) -> None:
        """That nothing is missing for long."""
        observation, cameras = self._contract.observation, ", ".join(self._contract.observation.cameras)
        if len(self.stamps) < 2:
            raise DataError(f"{self._path}: the cameras {cameras} give no two sets of images taken at the same times")
        limit = min(camera.max_age for camera in observation.cameras.values())
        gaps = np.diff(self.stamps)
        if gaps.max() > limit:
            raise DataError(
                f"{self._path}: no images of {cameras} for {gaps.max():.2f} s, "
                f"{self.stamps[gaps.argmax()] - self.stamps[0]:.1f} s from the beginning; the limit is {limit} s"
            )
        if not self._joints.times:
            raise DataError(f"{self._path} holds no joint states on {observation.joint_states.topic}")
        times = np.array(self._joints.times)
        away = np.abs(times[self._nearest(self.stamps)] - self.stamps)
        if away.max() > observation.joint_states.max_age:
            raise DataError(
                f"{self._path}: the joint states nearest to an image are {away.max():.2f} s away, "
                f"{self.stamps[away.argmax()] - self.stamps[0]:.1f} s from the beginning; the limit is "
                f"{observation.joint_states.max_age} s. Do cameras and arm use the same clock?"
            )

    def _nearest(self, stamps: np.ndarray) -> np.ndarray:
        times = np.array(self._joints.times)
        after = np.minimum(np.searchsorted(times, stamps), len(times) - 1)
        before = np.maximum(after - 1, 0)
        return np.where(stamps - times[before] <= times[after] - stamps, before, after)

    def joints_at(self, stamps: np.ndarray) -> np.ndarray:
        """(T, n) rad, measured."""
        return np.array(self._joints.values)[self._nearest(stamps), :-1]

    def openings_at(self, stamps: np.ndarray) -> np.ndarray:
        """(T,) of the gripper in [0, 1], measured."""
        return np.array(self._joints.values)[self._nearest(stamps), -1]

    def commanded(self, times: np.ndarray) -> np.ndarray:
        """(T, n) rad, commanded for (T,) seconds."""
        return self._arm.at(times) if self._arm.times else self._joints.at(times)[:, :-1]

    def grips(self, stamps: np.ndarray, period: float) -> np.ndarray:
        """(T,) openings commanded for a step later."""
        if self._gripper.times:
            return self._gripper.at(stamps + period)[:, 0]
        return grips_of(self._joints.at(np.append(stamps, stamps[-1] + period))[:, -1])
