# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Human-video retrieval: for each instruction, the human clips that do a similar thing in a similar scene."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from sensor_msgs.msg import Image
from std_msgs.msg import String

from arvrm_ros.data.messages import MessageError
from arvrm_ros.errors import DataError
from arvrm_ros.msg import RetrievedMotions, TaskStatus
from arvrm_ros.nodes import qos
from arvrm_ros.nodes.conversions import message_to_image, retrieved_to_message, to_seconds
from arvrm_ros.nodes.lifecycle import ManagedNode, StreamWatch, run_node
from arvrm_ros.nodes.parameters import Parameters, parameter
from arvrm_ros.resources import resource
from arvrm_ros.retrieval.database import MotionDatabase
from arvrm_ros.retrieval.encoders import encoders_of
from arvrm_ros.retrieval.index import unit
from arvrm_ros.retrieval.search import (
    DEPLOYABLE_MODES,
    HISTORY,
    LANGUAGE_WEIGHT,
    MODES,
    MotionSearch,
    SearchResult,
)
from arvrm_ros.srv import SearchMotions


@dataclass(frozen=True)
class RetrievalParameters(Parameters):
    """Parameters of :class:`RetrievalNode`."""

    mode: str = parameter(
        "database", "how clips are chosen; the others are ablations, the last two for the simulator, which tells the "
        "task on /task_status", choices=MODES
    )  # fmt: skip
    k: int = parameter(4, "clips retrieved", low=1, high=64)
    database: str = parameter("", "motion database, path or URI of a NAME.lance; empty for the shipped one")
    image_encoder: str = parameter(
        "", "weights of the database's image encoder; empty for those that ship, or are fetched by name"
    )
    language_weight: float = parameter(
        LANGUAGE_WEIGHT, "factor of the language term of the score", low=0.0, high=1000.0
    )
    opposites: bool = parameter(
        True, "clips whose captions say the opposite of the instruction (open/close, left/right) come after all others"
    )
    refresh: float = parameter(
        0.0, "search again this long after the last search, with the images since; 0: once per instruction",
        unit="s", low=0.0, high=60.0,
    )  # fmt: skip
    scene_change: float = parameter(
        0.0, "search again when the newest image differs by this much from the last search's (1 - cosine of the image "
        "features; a task done is 0.2 to 0.5); 0: never, as policies are trained with the clips of the first view",
        low=0.0, high=2.0,
    )  # fmt: skip
    silence: float = parameter(1.0, "time without an image after which it is reported", unit="s", low=0.1, high=60.0)


class RetrievalNode(ManagedNode):
    """Searches in a thread of its own, with the images that were captured after the instruction came."""

    def __init__(self) -> None:
        super().__init__("retrieval_node", RetrievalParameters)
        self._entities: list[tuple[Any, Any]] = []
        self._search: MotionSearch | None = None
        self._thread: threading.Thread | None = None
        self._timer: Any = None
        self._wake = threading.Condition()
        self._running = False
        self._instruction = ""
        self._since = 0.0  # ROS time at which the instruction came
        self._due: float | None = None  # monotonic time of the next search; None: none is due
        self._history: deque[tuple[float, np.ndarray]] = deque(maxlen=HISTORY)
        self._newest: tuple[float, np.ndarray] | None = None
        self._task = ""
        self._scene: np.ndarray | None = None  # feature of the newest image of the last search
        self._searches = 0

    def configure(self) -> None:
        params = cast(RetrievalParameters, self.params)
        if params.mode != "none":
            database = MotionDatabase.open(params.database or resource("checkpoints", "human_motions.lance"))
            weights = Path(params.image_encoder) if params.image_encoder else None
            self._image_encoder, self._text_encoder = encoders_of(database, weights)
            self._search = MotionSearch(database, language_weight=params.language_weight, opposites=params.opposites)
            if len(self._search):
                self.get_logger().info(f"{len(self._search)} clips in {database.uri}")
            else:
                self.get_logger().warning(f"the motion database {database.uri} is empty: nothing will be retrieved")
        camera = next(iter(self.contract.observation.cameras.values()))
        self._camera_topic = camera.topic
        self._motions = self.create_publisher(RetrievedMotions, "/retrieved_motions", qos.LATCHED)
        images = self.create_subscription(Image, camera.topic, self._on_image, qos.SENSOR)
        instructions = self.create_subscription(String, "/instruction", self._on_instruction, qos.LATCHED)
        service = self.create_service(SearchMotions, "/retrieval_node/search", self._on_search)
        self._entities = [
            (self.destroy_publisher, self._motions),
            (self.destroy_subscription, images),
            (self.destroy_subscription, instructions),
            (self.destroy_service, service),
        ]
        if params.mode not in DEPLOYABLE_MODES:
            tasks = self.create_subscription(TaskStatus, "/task_status", self._on_task, qos.RELIABLE)
            self._entities.append((self.destroy_subscription, tasks))

    def activate(self) -> None:
        params = cast(RetrievalParameters, self.params)
        self._watch = StreamWatch(self._camera_topic, params.silence, self.edges)
        self._watch.seen(time.monotonic())
        self._running = True
        self._thread = threading.Thread(target=self._work, name="search", daemon=True)
        self._thread.start()
        self._timer = self.create_timer(0.25, self._check, clock=Clock(clock_type=ClockType.STEADY_TIME))
        if self._instruction:  # it came before this node was active
            self._begin(self._instruction)

    def deactivate(self) -> None:
        if self._timer is not None:
            self.destroy_timer(self._timer)
            self._timer = None
        with self._wake:
            self._running = False
            self._due = None
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout=10.0)
            self._thread = None

    def cleanup(self) -> None:
        for destroy, entity in self._entities:
            destroy(entity)
        self._entities.clear()
        self._search = self._newest = self._scene = None
        self._instruction = self._task = ""

    def diagnose(self) -> dict[str, str | float]:
        clips = len(self._search) if self._search else 0
        return {"clips": clips, "searches": self._searches}

    def _check(self) -> None:
        self._watch.fresh(time.monotonic())
        allowed = cast(RetrievalParameters, self.params).scene_change
        if not allowed or self._scene is None or self._newest is None:
            return
        feature = unit(self._image_encoder.visual_feature(self._image_encoder.encode(self._newest[1][None])))[0]
        if 1 - feature @ self._scene > allowed:
            with self._wake:
                self._due = time.monotonic()
                self._wake.notify()

    def _on_instruction(self, message: String) -> None:
        self._begin(message.data.strip())

    def _on_task(self, message: TaskStatus) -> None:
        self._task = message.task

    def _on_search(self, request: SearchMotions.Request, response: SearchMotions.Response) -> SearchMotions.Response:
        params = cast(RetrievalParameters, self.params)
        mode, newest = request.mode or params.mode, self._newest
        try:
            if not self._running:
                raise DataError("the node is not active")
            if not request.instruction.strip():
                raise DataError("the instruction is empty")
            if self._search is None:
                raise DataError("the node was configured with mode none and has no database")
            if newest is None:
                raise DataError(f"no image on {self._camera_topic} yet")
            stamp, image = newest
            result, _ = self._find(
                request.instruction, [image], request.k or params.k, mode, request.task or self._task
            )
        except DataError as error:
            response.message = str(error)
        else:
            response.success = True
            response.found = retrieved_to_message(result.motions, request.instruction, mode, result.confidence, stamp)
        return response

    def _begin(self, instruction: str) -> None:
        with self._wake:
            self._instruction = instruction
            self._since = self.now()
            self._history.clear()
            self._scene = None
            self._due = time.monotonic() if instruction and self._running else None
            self._wake.notify()

    def _on_image(self, message: Image) -> None:
        with self._wake:
            if not self._running:
                return
            self._watch.seen(time.monotonic())
            stamp = to_seconds(message.header.stamp)
            try:
                self._newest = (stamp, message_to_image(message))
            except MessageError as error:
                self.edges.update("image", str(error))
                return
            self.edges.update("image", None)
            # Earlier images may show another scene: the simulator's before a reset, or the arm still moving.
            if self._instruction and stamp >= self._since:
                self._history.append(self._newest)
                self._wake.notify()

    def _ready(self) -> bool:
        if not self._running:
            return True
        blind = self._search is None or not len(self._search)
        told = self._task or cast(RetrievalParameters, self.params).mode in DEPLOYABLE_MODES
        return self._due is not None and time.monotonic() >= self._due and bool(blind or (told and self._history))

    def _work(self) -> None:
        while True:
            with self._wake:
                # The time limit is for a refresh that falls due between two images.
                while not self._ready():
                    self._wake.wait(timeout=0.1 if self._due is not None else None)
                if not self._running:
                    return
                instruction, history = self._instruction, list(self._history)
                refresh = cast(RetrievalParameters, self.params).refresh
                self._due = time.monotonic() + refresh if refresh else None
            try:
                self._answer(instruction, history)
            except Exception as error:  # the next instruction must be answered again
                self.edges.update("search", f"{type(error).__name__}: {error}")
            else:
                self.edges.update("search", None)

    def _find(
        self, instruction: str, images: list[np.ndarray], k: int, mode: str, task: str
    ) -> tuple[SearchResult, np.ndarray]:
        """The best clips, and the (t, d_o) features of the images."""
        assert self._search is not None
        visual = self._image_encoder.visual_feature(self._image_encoder.encode(np.stack(images)))
        language = self._text_encoder.encode([instruction])[0]
        return self._search.search(language, visual, k, mode, task, instruction), visual

    def _answer(self, instruction: str, history: list[tuple[float, np.ndarray]]) -> None:
        params = cast(RetrievalParameters, self.params)
        started = time.perf_counter()
        result, stamp = SearchResult([], 0.0), self.now()
        if self._search is not None and len(self._search):
            stamp = history[-1][0]
            images = [image for _, image in history]
            result, visual = self._find(instruction, images, params.k, params.mode, self._task)
            self._scene = unit(visual[-1])
        self.stages.add("search", time.perf_counter() - started)
        with self._wake:
            if instruction != self._instruction:
                return  # a newer one came meanwhile
        self._searches += 1
        self._motions.publish(retrieved_to_message(result.motions, instruction, params.mode, result.confidence, stamp))


def main() -> int:
    """Runs the node."""
    return run_node(RetrievalNode)


if __name__ == "__main__":
    sys.exit(main())
