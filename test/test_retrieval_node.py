# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`arvrm db build` on a clip with a real hand, and the retrieval node over DDS on the database it makes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rendered_hand import rendered_hand

from arvrm_ros.cli import main
from arvrm_ros.data.clips import Clip, write_clip
from arvrm_ros.perception.image_encoder import ImageEncoder
from arvrm_ros.perception.models import fetch_hand_landmarker
from arvrm_ros.perception.text_encoder import TextEncoder
from arvrm_ros.retrieval.database import MotionDatabase

CAPTIONS = {"clip_0": "open the drawer", "clip_1": "lift the red block"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image encoder with random weights: the tests are about the way of its features, not about their worth."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    ImageEncoder().save(path)
    return path


@pytest.fixture(scope="module")
def database(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    fetch_hand_landmarker()
    folder = tmp_path_factory.mktemp("human")
    clips, uri = folder / "clips", str(folder / "motions.lance")
    image, _ = rendered_hand()
    frames = [np.roll(image, 3 * i, axis=1) for i in range(6)]
    for name, caption in CAPTIONS.items():
        write_clip(clips, Clip(name, caption, task="some"), frames, 0.1)
    write_clip(clips, Clip("clip_2", "nothing to be seen"), [np.zeros_like(image)] * 6, 0.1)
    write_clip(clips, Clip("clip_3", " "), frames, 0.1)
    (clips / "clip_4").mkdir()
    (clips / "clip_4" / "clip.json").write_text("{}")
    build = ["db", "build", str(clips), "--out", uri, "--image-encoder", str(encoder), "--workers", "1"]
    assert main(build) == 0
    assert {name.partition("-")[0] for name in MotionDatabase.open(uri).ids()} == set(CAPTIONS)
    for rejected in ("clip_2", "clip_3", "clip_4"):
        shutil.rmtree(clips / rejected)
    assert main(build) == 0  # again: nothing is added twice
    return uri


def test_building_keeps_the_good_clips(
    database: str, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    motions = MotionDatabase.open(database)
    clip = next(clip for clip in motions.clips() if clip.caption == CAPTIONS["clip_0"])
    assert clip.keypoints.shape == (6, 21, 3)
    assert clip.visible.mean() > 0.5
    assert clip.video == "clip_0/video.mp4"
    np.testing.assert_allclose(clip.language, TextEncoder().encode(["open the drawer"])[0], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(clip.visual, axis=1), 1, atol=1e-3)
    assert motions.thumbnails([clip.clip_id])[clip.clip_id].startswith(b"\xff\xd8")  # a JPEG
    assert main(["db", "stats", "--db", database]) == 0
    assert "2 clips" in capsys.readouterr().out
    assert main(["db", "search", "please open up the drawer", "--db", database, "-k", "1"]) == 0
    assert f"{clip.clip_id}: open the drawer" in capsys.readouterr().out
    assert main(["db", "search", "x", "--db", str(tmp_path / "none.lance")]) == 1
    assert "there is no motion database" in capsys.readouterr().err
    assert (
        main(["db", "build", str(tmp_path), "--out", str(tmp_path / "x.lance"), "--image-encoder", str(encoder)]) == 1
    )
    assert "there are no clips" in capsys.readouterr().err


@pytest.mark.ros
def test_the_node_answers_instructions(graph, database: str, encoder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from node_process import ACTIVATE, CLEANUP, CONFIGURE, DEACTIVATE, wait_for
    from sensor_msgs.msg import Image
    from std_msgs.msg import String

    from arvrm_ros.msg import RetrievedMotions, TaskStatus
    from arvrm_ros.nodes import qos
    from arvrm_ros.nodes.conversions import image_to_message, message_to_retrieved
    from arvrm_ros.srv import SearchMotions

    node = graph.start("retrieval_node", database=str(tmp_path / "none.lance"), image_encoder=str(encoder))
    assert not node.transition(CONFIGURE)
    assert f"there is no motion database {tmp_path / 'none.lance'}: make one with `arvrm db build" in node.log()

    foreign = str(tmp_path / "foreign.lance")
    MotionDatabase.create(foreign, {"image_encoder": "0123456789abcdef"})
    node.set(database=foreign)
    assert not node.transition(CONFIGURE)
    assert "was made with another image encoder" in node.log()

    answers = graph.listen(RetrievedMotions, "/retrieved_motions", qos.LATCHED)
    instructions = graph.node.create_publisher(String, "/instruction", qos.LATCHED)
    images = graph.node.create_publisher(Image, "/static_camera/image", qos.SENSOR)
    picture, _ = rendered_hand()

    def ask(text: str, stamp_offset: float = 0.0, images_too: bool = True) -> RetrievedMotions:
        instructions.publish(String(data=text))

        def answered() -> RetrievedMotions | None:
            if images_too:
                now = graph.node.get_clock().now().nanoseconds * 1e-9
                images.publish(image_to_message(picture, now + stamp_offset, "static_optical"))
            return answers[-1] if answers and answers[-1].instruction == text else None

        return wait_for(answered, f"an answer to {text!r}")

    empty = str(tmp_path / "empty.lance")
    MotionDatabase.create(empty)
    node.set(database=empty)
    assert node.transition(CONFIGURE, ACTIVATE)
    assert f"the motion database {empty} is empty" in node.log()
    nothing = ask("open the drawer", images_too=False)
    assert (len(nothing.motions), nothing.confidence, nothing.mode) == (0, 0.0, "database")
    assert node.transition(DEACTIVATE, CLEANUP)

    node.set(database=database, k=5)
    assert node.transition(CONFIGURE, ACTIVATE)
    known = ask("please open up the drawer")
    assert sorted(m.caption for m in known.motions) == sorted(CAPTIONS.values())
    best = known.motions[0]
    assert best.caption == "open the drawer"
    assert best.score == pytest.approx(100 * best.language_score + 10 * best.visual_score, abs=1e-3)
    assert known.confidence > 0.9
    assert message_to_retrieved(known)[0].clip.keypoints.shape == (6, 21, 3)
    unknown = ask("play some music")
    assert unknown.confidence < 0.1
    assert len(unknown.motions) == 2

    def by_hand(**request: object) -> SearchMotions.Response:
        return graph.call(SearchMotions, "/retrieval_node/search", SearchMotions.Request(**request))

    answer = by_hand(instruction="open the drawer", k=1)
    assert answer.success, answer.message
    assert [motion.caption for motion in answer.found.motions] == ["open the drawer"]
    assert (answer.found.instruction, answer.found.mode) == ("open the drawer", "database")
    assert by_hand(instruction="open the drawer", mode="random").found.mode == "random"
    oracle = by_hand(instruction="x", mode="oracle_task", task="some").found.motions
    assert sorted(m.caption for m in oracle) == sorted(CAPTIONS.values())
    for request, problem in (
        ({"instruction": " "}, "the instruction is empty"),
        ({"instruction": "x", "mode": "best"}, "unknown retrieval mode 'best'"),
        ({"instruction": "x", "mode": "oracle_task"}, "it was not told the true task"),
        ({"instruction": "x", "mode": "oracle_task", "task": "y"}, "there is no clip of task 'y'"),
    ):
        answer = by_hand(**request)
        assert not answer.success
        assert problem in answer.message
    assert answers[-1].instruction == "play some music"  # what was asked by hand was not published
    assert node.transition(DEACTIVATE)
    assert by_hand(instruction="open the drawer").message == "the node is not active"
    assert node.transition(CLEANUP)

    node.set(scene_change=0.0002)  # to random weights all pictures are nearly alike
    assert node.transition(CONFIGURE, ACTIVATE)
    ask("open the drawer")
    count = len(answers)

    def moved_on(image: np.ndarray) -> bool:
        now = graph.node.get_clock().now().nanoseconds * 1e-9
        images.publish(image_to_message(image, now, "static_optical"))
        return len(answers) > count

    wait_for(lambda: moved_on(np.zeros_like(picture)), "a search in the scene that has changed")
    assert answers[-1].instruction == "open the drawer"
    assert node.transition(DEACTIVATE, CLEANUP)

    tasks = graph.node.create_publisher(TaskStatus, "/task_status", qos.RELIABLE)
    node.set(scene_change=0.0, mode="oracle_task")
    assert node.transition(CONFIGURE, ACTIVATE)
    instructions.publish(String(data="lift the red block"))

    def told() -> bool:
        tasks.publish(TaskStatus(task="some"))
        moved_on(picture)
        return answers[-1].instruction == "lift the red block"

    wait_for(told, "the clips of the true task")
    assert (answers[-1].mode, len(answers[-1].motions)) == ("oracle_task", 2)
    assert node.transition(DEACTIVATE, CLEANUP)

    node.set(mode="none", database=str(tmp_path / "none.lance"))
    assert node.transition(CONFIGURE, ACTIVATE)
    none = ask("close the drawer", images_too=False)
    assert (len(none.motions), none.mode) == (0, "none")
    assert node.stop() == 0
    assert "Traceback" not in node.log()
