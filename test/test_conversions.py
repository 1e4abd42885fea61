# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Messages to NumPy and back: nothing is lost, nothing malformed is let in."""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="nodes need ROS 2")

from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image, JointState

import arvrm_ros.msg as messages
from arvrm_ros.contract import load_contract
from arvrm_ros.data.messages import MessageError, joint_state_to_arrays, message_to_detections, view_pixels
from arvrm_ros.data.types import ActionChunk, HandDetection, HumanClip, RetrievedMotion
from arvrm_ros.nodes import conversions

RNG = np.random.default_rng(0)
STAMP = 1_700_000_000.125


def over_the_wire(message):
    return deserialize_message(serialize_message(message), type(message))


def encoded(encoding: str, padding: int = 0) -> tuple[Image, np.ndarray]:
    """A message with random pixels in an encoding, with padding bytes per row, and the RGB image it shows."""
    rgb = RNG.integers(0, 256, (6, 5, 3), np.uint8)
    alpha = np.full((6, 5, 1), 255, np.uint8)
    if encoding == "mono8":
        rgb[:] = rgb[..., :1]
    pixels = {
        "rgb8": rgb,
        "bgr8": rgb[..., ::-1],
        "rgba8": np.concatenate([rgb, alpha], -1),
        "bgra8": np.concatenate([rgb[..., ::-1], alpha], -1),
        "mono8": rgb[..., :1],
    }[encoding]
    rows = np.pad(pixels.reshape(6, -1), ((0, 0), (0, padding)))
    message = Image(height=6, width=5, encoding=encoding, step=rows.shape[1], data=rows.tobytes())
    return message, rgb


def test_an_image_survives_the_wire():
    image = RNG.integers(0, 256, (48, 64, 3), np.uint8)
    message = over_the_wire(conversions.image_to_message(image, STAMP, "static_optical_frame"))
    np.testing.assert_array_equal(conversions.message_to_image(message), image)
    assert conversions.to_seconds(message.header.stamp) == STAMP
    assert (message.header.frame_id, message.encoding, message.step) == ("static_optical_frame", "rgb8", 192)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8"])
@pytest.mark.parametrize("padding", [0, 3])
def test_every_encoding_gives_the_same_pixels(encoding, padding):
    message, rgb = encoded(encoding, padding)
    np.testing.assert_array_equal(view_pixels(message), rgb)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8"])
def test_cv_bridge_and_the_numpy_view_give_the_same_pixels(encoding):
    cv_bridge = pytest.importorskip("cv_bridge", reason="comes with a ROS 2 installation; it has no wheel")
    message, _ = encoded(encoding)
    theirs = cv_bridge.CvBridge().imgmsg_to_cv2(message, "rgb8")
    np.testing.assert_array_equal(view_pixels(message), theirs)


def test_an_rgb_image_is_read_without_a_copy():
    message, _ = encoded("rgb8")
    assert np.shares_memory(view_pixels(message), np.frombuffer(message.data, np.uint8))


@pytest.mark.parametrize(("encoding", "drop"), [("16UC1", 0), ("rgb8", 1), ("bgr8", 20)])
def test_a_malformed_image_is_refused(encoding, drop):
    data = bytes(6 * 5 * 3 - drop)
    with pytest.raises(MessageError):
        conversions.message_to_image(Image(height=6, width=5, encoding=encoding, step=15, data=data))


def test_a_chunk_survives_the_wire():
    quaternions = RNG.normal(size=(10, 4))
    quaternions /= np.linalg.norm(quaternions, axis=1, keepdims=True)
    chunk = ActionChunk(
        STAMP, 0.1, RNG.normal(size=(10, 3)), quaternions, RNG.random(10), 7, "open the drawer", 0.25, {"encode": 0.5}
    )
    back = conversions.message_to_chunk(over_the_wire(conversions.chunk_to_message(chunk, "panda_link0")))
    for name in ("positions", "quaternions", "gripper"):
        np.testing.assert_array_equal(getattr(back, name), getattr(chunk, name))
    for name in ("stamp", "step_period", "sequence", "instruction", "progress", "stages"):
        assert getattr(back, name) == getattr(chunk, name)


@pytest.mark.parametrize("count", [0, 2])
def test_hands_survive_the_wire(count):
    hands = [
        HandDetection(RNG.random((21, 3), np.float32), RNG.random((21, 3), np.float32), 0.5, side)
        for side in ("left", "right")[:count]
    ]
    message = over_the_wire(conversions.detections_to_message(hands, STAMP, "camera", 480, 640))
    back = message_to_detections(message)
    assert message.count == len(back) == count
    for hand, other in zip(hands, back, strict=True):
        np.testing.assert_array_equal(hand.keypoints, other.keypoints)
        np.testing.assert_array_equal(hand.world, other.world)
        assert (hand.score, hand.handedness) == (other.score, other.handedness)


def test_retrieved_motions_survive_the_wire():
    clip = HumanClip(
        "c1", "a hand opens the drawer", 0.125, RNG.random((4, 21, 3), np.float32), np.array([True, True, False, True]),
        np.zeros(384, np.float32), np.zeros((4, 8), np.float32),
    )  # fmt: skip
    motions = [RetrievedMotion(clip, 1.5, 1.0, 0.5)]
    message = over_the_wire(conversions.retrieved_to_message(motions, "open the drawer", "database", 0.5, STAMP))
    (back,) = conversions.message_to_retrieved(message)
    np.testing.assert_array_equal(back.clip.keypoints, clip.keypoints)
    np.testing.assert_array_equal(back.clip.visible, clip.visible)
    assert (back.clip.clip_id, back.clip.caption, back.clip.frame_period) == ("c1", clip.caption, 0.125)
    assert (back.score, back.language_score, back.visual_score) == (1.5, 1.0, 0.5)


@pytest.mark.parametrize(
    "message",
    [
        messages.HandKeypoints(
            count=1, keypoints=[0.0] * 62, world_keypoints=[0.0] * 63, score=[1], handedness=["left"]
        ),
        messages.HandKeypoints(
            count=1, keypoints=[0.0] * 63, world_keypoints=[0.0] * 63, score=[], handedness=["left"]
        ),
    ],
)
def test_keypoints_of_the_wrong_length_are_refused(message):
    with pytest.raises(MessageError):
        message_to_detections(message)


def test_motions_of_the_wrong_length_are_refused():
    motion = messages.RetrievedMotion(frames=2, keypoints=[0.0] * 63, visible=[True, True])
    with pytest.raises(MessageError):
        conversions.message_to_retrieved(messages.RetrievedMotions(motions=[motion]))


def test_joint_states_come_in_the_contracts_order():
    contract = load_contract("tabletop")
    names = [*contract.joints, contract.gripper.joint]
    values = dict(zip(names, [*(0.1 * i for i in range(7)), 0.02], strict=True))
    shuffled = list(reversed(names))
    message = JointState(name=shuffled, position=[values[n] for n in shuffled])
    positions, velocities, opening = joint_state_to_arrays(message, contract)
    np.testing.assert_array_equal(positions, [values[n] for n in contract.joints])
    np.testing.assert_array_equal(velocities, np.zeros(7))
    assert opening == 0.5


@pytest.mark.parametrize("fault", ["missing", "short", "nan"])
def test_incomplete_joint_states_are_refused(fault):
    contract = load_contract("tabletop")
    names = [*contract.joints, contract.gripper.joint]
    positions = [0.01] * len(names)
    if fault == "missing":
        names[2] = "another_joint"
    elif fault == "short":
        positions.pop()
    else:
        positions[0] = float("nan")
    with pytest.raises(MessageError, match="/joint_states has"):
        joint_state_to_arrays(JointState(name=names, position=positions), contract)
