# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How long an image takes from one process to another: the shipped Fast DDS profile against the default transports.

    python benchmarks/image_hop.py [--json FILE]

Two processes on this machine, 640x480 rgb8 at 30 Hz. Measured from before the message is filled to after its pixels are
a NumPy array, with the same conversions the nodes use; the first second is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from arvrm_ros.files import write_json
from arvrm_ros.resources import resource

HEIGHT, WIDTH, RATE, WARM_UP = 480, 640, 30, 30
TOPIC = "/image_hop"


def publish(count: int) -> None:
    """The sending process; the stamp is the monotonic clock, which all processes of a machine share."""
    import rclpy
    from sensor_msgs.msg import Image

    from arvrm_ros.nodes import qos
    from arvrm_ros.nodes.conversions import image_to_message

    rclpy.init()
    node = rclpy.create_node("image_hop_sender")
    publisher = node.create_publisher(Image, TOPIC, qos.SENSOR)
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    while not publisher.get_subscription_count():
        time.sleep(0.05)
    due = time.monotonic()
    for _ in range(count + WARM_UP):
        due += 1 / RATE
        time.sleep(max(0.0, due - time.monotonic()))
        publisher.publish(image_to_message(image, time.monotonic(), "camera"))
    rclpy.shutdown()


def measure(count: int, profile: str | None, domain: int) -> dict[str, float]:
    """Receives in this process what a child sends; milliseconds.

    Args:
        count: images measured.
        profile: Fast DDS profile file, None for the default transports.
        domain: ROS domain of the two.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("FASTRTPS_DEFAULT", "FASTDDS_DEFAULT"))}
    environment |= {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    if profile:
        environment["FASTDDS_DEFAULT_PROFILES_FILE"] = profile
    ends = [
        subprocess.Popen(
            [sys.executable, __file__, "--count", str(count), "--role", role], env=environment, stdout=subprocess.PIPE
        )
        for role in ("receiver", "sender")
    ]
    try:
        output, _ = ends[0].communicate(timeout=120 + count / RATE)
    finally:
        for process in ends:
            if process.poll() is None:
                process.terminate()
            process.wait()
    if ends[0].returncode:
        sys.exit(ends[0].returncode)
    return json.loads(output.decode().splitlines()[-1])


def receive(count: int) -> None:
    """The receiving process; prints its figures as JSON."""
    import rclpy
    from rclpy.experimental.events_executor import EventsExecutor
    from sensor_msgs.msg import Image

    from arvrm_ros.nodes import qos
    from arvrm_ros.nodes.conversions import message_to_image, to_seconds

    rclpy.init()
    node = rclpy.create_node("image_hop_receiver")
    delays: list[float] = []
    newest = [time.monotonic()]

    def on_image(message: Image) -> None:
        assert message_to_image(message).shape == (HEIGHT, WIDTH, 3)
        newest[0] = time.monotonic()
        delays.append(newest[0] - to_seconds(message.header.stamp))

    node.create_subscription(Image, TOPIC, on_image, qos.SENSOR)
    executor = EventsExecutor()
    executor.add_node(node)
    # Best effort may lose images: a second of silence after the first one is the end as well.
    end = newest[0] + 20 + (count + WARM_UP) / RATE
    while len(delays) < count + WARM_UP and not (delays and time.monotonic() - newest[0] > 1.0):
        if time.monotonic() > end:
            break
        executor.spin_once(timeout_sec=0.1)
    rclpy.shutdown()
    if len(delays) <= WARM_UP:
        sys.exit(f"image_hop: {len(delays)} images came in time; run it again, on another --domain")
    milliseconds = 1000 * np.array(delays[WARM_UP:])
    p50, p95 = np.percentile(milliseconds, [50, 95])
    print(json.dumps({"p50": round(p50, 2), "p95": round(p95, 2), "received": len(milliseconds), "sent": count}))


def main() -> int:
    """Runs both measurements and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="images measured per transport (default: 300)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--domain", type=int, default=77, help="ROS domain to use (default: 77)")
    parser.add_argument("--role", choices=("sender", "receiver"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role:
        (publish if args.role == "sender" else receive)(args.count)
        return 0
    figures = {
        "profile": measure(args.count, str(resource("config", "fastdds.xml")), args.domain),
        "default": measure(args.count, None, args.domain),
    }
    print(f"{'transport':10} {'p50 ms':>8} {'p95 ms':>8} {'received':>10}")
    for name, row in figures.items():
        print(f"{name:10} {row['p50']:8.2f} {row['p95']:8.2f} {row['received']:5.0f}/{row['sent']:.0f}")
    ratio = figures["default"]["p50"] / figures["profile"]["p50"]
    print(f"default / profile, p50: {ratio:.1f}")
    if args.json:
        result = {"height": HEIGHT, "width": WIDTH, "rate_hz": RATE, **figures, "p50_ratio": round(ratio, 2)}
        write_json(args.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
