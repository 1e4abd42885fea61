# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The policy node over DDS, with a randomly initialised policy."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from node_process import ACTIVATE, CONFIGURE, Goal, Goals, Graph, NodeProcess, wait_for
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from arvrm_ros import msg as messages
from arvrm_ros.action import FollowInstruction
from arvrm_ros.contract import load_contract
from arvrm_ros.errors import InstructionCode
from arvrm_ros.nodes import qos
from arvrm_ros.nodes.conversions import image_to_message
from arvrm_ros.perception.image_encoder import ImageEncoder
from arvrm_ros.policies.arvrm.configuration import ArvrmConfig
from arvrm_ros.policies.arvrm.model import ArvrmModel
from arvrm_ros.policies.arvrm.policy import save_checkpoint
from arvrm_ros.policies.arvrm.processor import Normalisation
from arvrm_ros.resources import resource


class Inputs:
    """Publishes images and joint states at 10 Hz; ``cameras`` and ``joints`` silence them."""

    def __init__(self, graph: Graph) -> None:
        self.contract = load_contract("tabletop")
        self.cameras = True
        self._node = graph.node
        self._images = {
            name: graph.node.create_publisher(Image, camera.topic, qos.SENSOR)
            for name, camera in self.contract.observation.cameras.items()
        }
        self._joints = graph.node.create_publisher(JointState, "/joint_states", qos.SENSOR)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        picture = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
        names = [*self.contract.joints, self.contract.gripper.joint]
        while not self._done.wait(0.1):
            now = self._node.get_clock().now()
            for publisher in self._images.values() if self.cameras else ():
                publisher.publish(image_to_message(picture, now.nanoseconds * 1e-9, "camera"))
            state = JointState(name=names, position=[*self.contract.home, 0.04])
            state.header.stamp = now.to_msg()
            self._joints.publish(state)


class Client:
    """Goals of ``/follow_instruction``."""

    def __init__(self, graph: Graph) -> None:
        self._goals = Goals(graph, FollowInstruction, "/follow_instruction")
        self.feedback = self._goals.feedback

    def send(self, instruction: str, timeout: float = 100.0) -> Goal:
        return self._goals.send(FollowInstruction.Goal(instruction=instruction, timeout=timeout))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    encoder = resource("checkpoints", "image_encoder.safetensors")
    config = ArvrmConfig(width=32, layers=1, heads=2, keypoint_width=16, keypoint_layers=1)
    normalisation = Normalisation((0.0,) * 7, (1.0,) * 7, ((0.01,) * 6,) * config.chunk)
    save_checkpoint(
        folder, ArvrmModel(config), normalisation, load_contract("tabletop"), ImageEncoder.load(encoder), encoder, {}
    )
    return folder


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    graph = Graph(tmp_path_factory.mktemp("logs"))
    yield graph
    graph.close()


@pytest.fixture(scope="module")
def inputs(graph: Graph) -> Iterator[Inputs]:
    inputs = Inputs(graph)
    yield inputs
    inputs.close()


@pytest.fixture(scope="module")
def process(graph: Graph, inputs: Inputs, checkpoint: Path) -> NodeProcess:
    text = resource("config", "robots", "tabletop.yaml").read_text()
    contract = checkpoint / "gapless.yaml"
    contract.write_text(text.replace("watchdogs:\n", "watchdogs:\n  rest_between_instructions: false\n"))
    assert not load_contract(contract).watchdogs.rest_between_instructions
    return graph.start(
        "policy_node", robot=contract, policy=checkpoint / "nowhere", retrieval_timeout=0.2, stale_grace=0.5,
        refused_chunks=3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def node(process: NodeProcess, checkpoint: Path) -> NodeProcess:
    process.set(policy=str(checkpoint))
    assert process.transition(CONFIGURE), process.log()
    return process


@pytest.fixture(scope="module")
def client(graph: Graph, node: NodeProcess) -> Client:
    """A client of the active node; before it was active, it said so."""
    client = Client(graph)
    result = client.send("open the drawer").result()
    assert result.error_code == InstructionCode.NOT_ACTIVE
    assert node.transition(ACTIVATE), node.log()
    return client


@pytest.mark.ros
def test_a_bad_checkpoint_fails_configure(process: NodeProcess, checkpoint: Path, tmp_path: Path) -> None:
    """First, because the others repair the node."""
    assert not process.transition(CONFIGURE)
    wait_for(lambda: "no checkpoint in" in process.log(), "the reason in the log")
    (tmp_path / "checkpoint.json").write_bytes((checkpoint / "checkpoint.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    process.set(policy=str(tmp_path))
    assert not process.transition(CONFIGURE)
    wait_for(lambda: "missing or damaged" in process.log(), "the reason in the log")
    assert "Traceback" not in process.log()


@pytest.mark.ros
def test_unknown_words_are_followed_until_canceled(graph: Graph, client: Client) -> None:
    chunks = graph.listen(messages.ActionChunk, "/action_chunk", qos.RELIABLE)
    instructions = graph.listen(String, "/instruction", qos.LATCHED)
    goal = client.send("zorble the flimflam")
    wait_for(lambda: len(chunks) >= 3 and len(client.feedback) >= 4, "three chunks")
    phases = [feedback.phase for feedback in client.feedback]
    assert phases[0] == "retrieving"
    assert client.feedback[-1].phase == "following"
    assert client.feedback[-1].step >= 3
    assert client.feedback[-1].policy_seconds > 0
    assert client.feedback[-1].wording == "zorble the flimflam"
    assert len(chunks[0].poses) == 10
    assert {"image_to_policy", "encode", "predict", "policy_step"} <= set(chunks[0].stage)
    assert chunks[1].header.stamp != chunks[0].header.stamp
    goal.cancel()
    result = goal.result()
    assert result.error_code == InstructionCode.CANCELED
    assert result.steps >= 3
    wait_for(lambda: instructions[-1].data == "" and not chunks[-1].poses, "the request for rest")
    assert "zorble the flimflam" in [message.data for message in instructions]


@pytest.mark.ros
def test_empty_instruction_is_refused(client: Client) -> None:
    assert client.send("  ").result().error_code == InstructionCode.EMPTY_INSTRUCTION


@pytest.mark.ros
def test_a_new_goal_takes_over_without_rest_and_times_out(graph: Graph, client: Client) -> None:
    chunks = graph.listen(messages.ActionChunk, "/action_chunk", qos.RELIABLE)
    first = client.send("open the drawer")
    wait_for(lambda: chunks, "a chunk")
    second = client.send("close the drawer", timeout=1.0)
    assert first.result().error_code == InstructionCode.PREEMPTED
    assert second.result().error_code == InstructionCode.TIMEOUT
    wait_for(lambda: not chunks[-1].poses, "the request for rest")
    assert {bool(chunk.poses) for chunk in chunks if chunk.instruction == "open the drawer"} == {True}
    assert sum(not chunk.poses for chunk in chunks) == 1, "the contract lets the first goal go on into the second"


@pytest.mark.ros
def test_retrieved_clips_are_told_and_unfamiliar_words_read_in_theirs(graph: Graph, client: Client) -> None:
    retrieved = graph.publisher(messages.RetrievedMotions, "/retrieved_motions", qos.LATCHED)
    wait_for(retrieved.get_subscription_count, "the policy node to listen")
    client.feedback.clear()
    goal = client.send("tug the drawer")
    answer = messages.RetrievedMotions(instruction="tug the drawer", confidence=0.75)
    answer.motions = [
        messages.RetrievedMotion(
            clip_id="1",
            caption="pull the drawer",
            language_score=0.9,
            frames=2,
            keypoints=[0.5] * 126,
            visible=[True] * 2,
        )
    ]

    def answered() -> bool:
        answer.header.stamp = graph.node.get_clock().now().to_msg()  # answers to earlier ones are left out
        retrieved.publish(answer)
        return any(feedback.retrieved for feedback in client.feedback)

    wait_for(answered, "the captions")
    wait_for(lambda: client.feedback[-1].phase == "following", "the instruction to be followed")
    feedback = client.feedback[-1]
    assert (feedback.retrieved, feedback.confidence) == (["pull the drawer"], 0.75)
    assert feedback.wording == "pull the drawer"
    goal.cancel()
    assert goal.result().error_code == InstructionCode.CANCELED


@pytest.mark.ros
def test_the_oracle_ends_only_what_it_saw_undone(graph: Graph, client: Client) -> None:
    oracle = graph.publisher(messages.TaskStatus, "/task_status", qos.RELIABLE)
    chunks = graph.listen(messages.ActionChunk, "/action_chunk", qos.RELIABLE)
    goal = client.send("open the drawer")
    wait_for(lambda: chunks, "a chunk")

    def say(success: bool) -> None:
        status = messages.TaskStatus(task="open_drawer", success=success)
        status.header.stamp = graph.node.get_clock().now().to_msg()
        oracle.publish(status)

    say(True)  # done before this goal
    count = len(chunks)
    wait_for(lambda: len(chunks) > count + 3, "the goal to go on")
    say(False)
    say(True)
    result = goal.result()
    assert (result.error_code, result.success, result.success_source) == (InstructionCode.NONE, True, "oracle")


@pytest.mark.ros
def test_refused_chunks_end_the_goal_with_their_reason(graph: Graph, client: Client) -> None:
    status = graph.publisher(messages.ExecutionStatus, "/execution_status", qos.RELIABLE)
    chunks = graph.listen(messages.ActionChunk, "/action_chunk", qos.RELIABLE)
    goal = client.send("open the drawer")
    wait_for(lambda: chunks, "a chunk")

    def refuse() -> bool:
        status.publish(messages.ExecutionStatus(error_code=105, error_msg="outside the workspace"))
        return goal.done()

    wait_for(refuse, "a result")
    result = goal.result()
    assert (result.error_code, result.error_msg) == (InstructionCode.EXECUTION_REFUSED, "outside the workspace")


@pytest.mark.ros
def test_a_silent_camera_fails_the_goal_and_is_forgiven(client: Client, inputs: Inputs) -> None:
    goal = client.send("open the drawer")
    inputs.cameras = False
    result = goal.result()
    inputs.cameras = True
    assert result.error_code == InstructionCode.STALE_IMAGES
    assert "/static_camera/image" in result.error_msg
    client.feedback.clear()
    goal = client.send("open the drawer")
    wait_for(lambda: client.feedback, "following again")
    goal.cancel()
    assert goal.result().error_code == InstructionCode.CANCELED
