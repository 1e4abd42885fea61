# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A node that stands in for another by ``camera:=test/quiet_node.py``: it only publishes joint states."""

import sys

from sensor_msgs.msg import JointState

from arvrm_ros.nodes import qos
from arvrm_ros.nodes.lifecycle import ManagedNode, run_node


class QuietNode(ManagedNode):
    def __init__(self) -> None:
        super().__init__("quiet_node")
        joint_states = self.create_publisher(JointState, "/joint_states", qos.SENSOR)
        self.create_timer(0.1, lambda: joint_states.publish(JointState()))

    def deactivate(self) -> None:
        self.get_logger().info("at rest")


if __name__ == "__main__":
    sys.exit(run_node(QuietNode))
