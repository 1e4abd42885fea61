# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How fast videos become hand motions: the landmarker alone, and the whole way from the file into the database.

A rendered hand moves through a video of 640 x 480 at 30 Hz. Both are measured in turns in this process, in one thread
each but for MediaPipe's own, by the clock and by CPU time; the latter tells what a core does on a machine that is busy
with other things too.

usage: python benchmarks/extraction.py [--seconds 15] [--turns 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("MUJOCO_GL", "egl")

import cv2
import mujoco
import numpy as np
import torch

from arvrm_ros.data.video import read_video, write_video
from arvrm_ros.files import write_json
from arvrm_ros.perception.landmarker import HandLandmarker
from arvrm_ros.perception.text_encoder import TextEncoder
from arvrm_ros.retrieval.database import MotionDatabase
from arvrm_ros.retrieval.extraction import Extracted, ExtractionOptions, extract
from arvrm_ros.retrieval.sources import find_videos
from arvrm_ros.simulation.hand import CapsuleHand, hand_rotation, pinch

HEIGHT, WIDTH, RATE = 480, 640, 30
TABLE = f"""<mujoco><visual><global offwidth="{WIDTH}" offheight="{HEIGHT}"/><quality offsamples="0"/></visual>
<worldbody><light pos="0.3 -.3 1" dir="-.2 .2 -1"/><geom type="plane" size="1 1 .1" rgba=".45 .32 .22 1"/></worldbody>
</mujoco>"""


def film(count: int) -> Iterator[np.ndarray]:
    """A hand that circles over a table, opens and closes: (480, 640, 3) uint8 RGB each."""
    model = mujoco.MjModel.from_xml_string(TABLE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    camera, hand, pose = mujoco.MjvCamera(), CapsuleHand(), np.eye(4)
    camera.lookat[:], camera.distance, camera.azimuth, camera.elevation = (0, 0.06, 0.1), 0.5, 45, -55
    with mujoco.Renderer(model, HEIGHT, WIDTH) as renderer:
        for i in range(count):
            turn = 2 * np.pi * i / RATE / 3  # in three seconds
            pose[:3, :3] = hand_rotation(np.pi / 2 + 0.2 * np.sin(turn), 0.1, 0.1)
            pose[:3, 3] = 0.06 * np.cos(turn), 0.04 * np.sin(turn), 0.12
            renderer.update_scene(data, camera)
            hand.add_to(renderer.scene, pose, pinch(0.7 + 0.3 * np.cos(turn)))
            yield renderer.render()


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds by the clock, and of CPU time over all threads."""
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - cpu


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="length of the video")
    parser.add_argument("--turns", type=int, default=5, help="measurements of each")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    count = round(args.seconds * RATE)
    found: list[bool] = []
    with tempfile.TemporaryDirectory() as folder:
        write_video(Path(folder) / "move_the_hand.mp4", film(count), 1 / RATE)
        (video,) = find_videos(Path(folder)).videos
        images, _ = read_video(video.path)
        text_encoder = TextEncoder()

        def landmarks() -> None:
            with HandLandmarker(video=True) as landmarker:
                found.extend(bool(landmarker.detect(image, i / RATE)) for i, image in enumerate(images))

        def pipeline() -> None:
            database = MotionDatabase.create(Path(folder) / f"{time.monotonic_ns()}.lance")
            (item,) = extract(video, ExtractionOptions())
            if not isinstance(item, Extracted):
                raise SystemExit(f"the video was rejected: {item.reason}")
            item.clip.language = text_encoder.encode([item.clip.caption])[0]
            database.add([item.clip], [item.thumbnail])

        for warm_up in (landmarks, pipeline):
            warm_up()
        # (turns, alone or whole, clock or CPU time)
        seconds = np.array([(timed(landmarks), timed(pipeline)) for _ in range(args.turns)])
    (alone, alone_cpu), (whole, whole_cpu) = count / np.median(seconds, axis=0)
    ratio, ratio_cpu = np.median(seconds[:, 0] / seconds[:, 1], axis=0)
    result = {
        "frames": count,
        "tracked": float(np.mean(found)),
        "landmarker_fps": alone,
        "landmarker_fps_per_cpu_second": alone_cpu,
        "pipeline_fps": whole,
        "pipeline_fps_per_cpu_second": whole_cpu,
        "ratio": ratio,
        "ratio_by_cpu_time": ratio_cpu,
        "load_average": os.getloadavg()[0],
    }
    print(
        f"{count} frames, hand tracked in {result['tracked']:.0%}, load average {result['load_average']:.1f}\n"
        f"landmarker alone: {alone:.0f} frames/s, {alone_cpu:.0f} per second of CPU time\n"
        f"from file to database: {whole:.0f} frames/s, {whole_cpu:.0f} per second of CPU time\n"
        f"ratio, median of the turns: {ratio:.2f}, by CPU time {ratio_cpu:.2f}"
    )
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    main()
