# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The fault campaign without ROS: what is broken and how, who judges the arm, and what is kept of each fault.

The judge believes nothing that the nodes say of themselves: it looks at what the simulated robot's controller asks of
the joints at each tick, at where the joints are, and at the trajectories that are sent.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from arvrm_ros import files
from arvrm_ros.contract import RobotContract
from arvrm_ros.motion.kinematics import Kinematics
from arvrm_ros.simulation import MOST_LAG

TICK = 0.01  # s between two states of the simulated controller
AT_REST = 0.02  # rad/s; a held arm trembles by less
REST = 0.3  # s of simulated time, from a stop of any kind to rest
WORKSPACE_MARGIN = 0.02  # m: what a stop off the path, and the servos' lag, may carry the end effector out of its box
LAG = 1.1  # times a limit that the measured joints may reach: the simulated servos swing a little behind their command

LINKS = ("joint_states", "camera_images", "gripper_images", "chunks", "trajectories", "retrieved_motions")
"""What the relay carries. ``camera_images`` are those of all cameras."""

NODES = (
    "policy_node",
    "camera_node",
    "retrieval_node",
    "hand_keypoint_node",
    "execution_node",
    "lifecycle_manager",
    "simulation_node",
)


class Traffic:
    """One message on its way through the relay, for an :data:`Effect` to act on.

    Attributes:
        raw: its bytes.
        rng: of the fault.
        memory: of the fault and the topic, empty at first.
    """

    def __init__(self, raw: bytes, decode: Callable[[bytes], Any], rng: np.random.Generator, memory: dict) -> None:
        self.raw, self.rng, self.memory = raw, rng, memory
        self._decode = decode

    @cached_property
    def message(self) -> Any:
        """The message itself, to be read or changed."""
        return self._decode(self.raw)


Effect = Callable[[Traffic], list[tuple[float, Any]]]
"""What comes of a message: (seconds later, bytes or message) for each one that is passed on."""


@dataclass(frozen=True)
class Fault:
    """One way to break something.

    Attributes:
        kind: its name in the table.
        target: a link, a node, or "" where neither is meant.
        action: "relay", or what :mod:`arvrm_ros.nodes.fault_campaign` does.
        effect: of a relayed message.
        seconds: how long it lasts, simulated time.
        rest: simulated seconds from its beginning within which the arm has to be at rest; None where it may go on.
        ends_suite: the suite is expected to go down, and to come up again.
    """

    kind: str
    target: str
    action: str = "relay"
    effect: Effect | None = None
    seconds: float = 1.5
    rest: float | None = None
    ends_suite: bool = False


@dataclass
class Outcome:
    """What came of one injected fault.

    Attributes:
        number: in the campaign.
        kind: of the fault.
        speed: of the fastest joint when it began, rad/s.
        violations: limits that the arm exceeded, one line each.
        rested_after: simulated seconds from its beginning to rest; None when the arm did not rest, or need not.
        at_rest: whether it rested in time; None where it need not.
        recovered: whether the arm followed an instruction again afterwards.
        note: what else is worth knowing.
        injected: False where the suite did not get as far.
        commanded_rest_after: as ``rested_after``, of the commands alone, which the joints follow with a lag.
        pushed: rad by which a joint was off its command, at most, beyond its lag: by what the arm touched.
    """

    number: int
    kind: str
    speed: float
    violations: list[str] = field(default_factory=list)
    rested_after: float | None = None
    at_rest: bool | None = None
    recovered: bool = False
    note: str = ""
    injected: bool = True
    commanded_rest_after: float | None = None
    pushed: float = 0.0


# Effects.


def lost(share: float, traffic: Traffic) -> list[tuple[float, Any]]:
    """Loses a share of the messages."""
    return [] if traffic.rng.random() < share else [(0.0, traffic.raw)]


def delayed(seconds: float, traffic: Traffic) -> list[tuple[float, Any]]:
    """Each message comes later."""
    return [(seconds, traffic.raw)]


def jittered(most: float, traffic: Traffic) -> list[tuple[float, Any]]:
    """Each message comes later by a random time; they overtake each other."""
    return [(float(traffic.rng.uniform(0, most)), traffic.raw)]


def swapped(traffic: Traffic) -> list[tuple[float, Any]]:
    """Every second message comes before the one that it followed."""
    held = traffic.memory.pop("held", None)
    if held is None:
        traffic.memory["held"] = traffic.raw
        return []
    return [(0.0, traffic.raw), (0.0, held)]


def repeated(times: int, traffic: Traffic) -> list[tuple[float, Any]]:
    """Each message comes several times."""
    return [(0.0, traffic.raw)] * times


def same_stamp(traffic: Traffic) -> list[tuple[float, Any]]:
    """New contents, the stamp of the first message."""
    stamp = traffic.memory.setdefault("stamp", traffic.message.header.stamp)
    traffic.message.header.stamp = stamp
    return [(0.0, traffic.message)]


def frozen(traffic: Traffic) -> list[tuple[float, Any]]:
    """The contents of the first message, new stamps."""
    first = traffic.memory.setdefault("first", traffic.message)
    first.header.stamp = traffic.message.header.stamp
    return [(0.0, first)]


def truncated(traffic: Traffic) -> list[tuple[float, Any]]:
    """The first half of the bytes."""
    return [(0.0, traffic.raw[: len(traffic.raw) // 2])]


def changed(change: Callable[[Any, np.random.Generator], None], traffic: Traffic) -> list[tuple[float, Any]]:
    """The message after a change."""
    change(traffic.message, traffic.rng)
    return [(0.0, traffic.message)]


def shifted(seconds: float, message: Any, _: np.random.Generator) -> None:
    """Another stamp."""
    message.header.stamp.sec = max(0, message.header.stamp.sec + round(seconds))


def _joints_nan(message: Any, rng: np.random.Generator) -> None:
    message.position[int(rng.integers(7))] = float("nan")


def _joints_out_of_range(message: Any, rng: np.random.Generator) -> None:
    message.position[int(rng.integers(7))] = 17.0


def _joints_in_wrong_order(message: Any, _: np.random.Generator) -> None:
    message.position = message.position[::-1]


def _joint_missing(message: Any, _: np.random.Generator) -> None:
    message.name = [name + "_x" for name in message.name]


def _joint_noise(message: Any, rng: np.random.Generator) -> None:
    message.position = [value + float(rng.normal(0, 0.5)) for value in message.position]


def _image_cut(message: Any, _: np.random.Generator) -> None:
    message.data = message.data[: len(message.data) // 2]


def _image_encoding(message: Any, _: np.random.Generator) -> None:
    message.encoding = "bayer_of_nothing"


def _image_black(message: Any, _: np.random.Generator) -> None:
    message.data = type(message.data)("B", bytes(len(message.data)))


def _chunk_nan(message: Any, rng: np.random.Generator) -> None:
    for pose in message.poses:
        pose.position.y = float(rng.choice([np.nan, np.inf, -np.inf]))


def _chunk_outside(message: Any, _: np.random.Generator) -> None:
    for pose in message.poses:
        pose.position.z = -0.4


def _chunk_jump(message: Any, rng: np.random.Generator) -> None:
    for pose in message.poses:
        pose.position.x += float(rng.choice([-0.2, 0.2]))


def _chunk_fast(message: Any, _: np.random.Generator) -> None:
    message.step_period.sec, message.step_period.nanosec = 0, 1_000_000


def _chunk_quaternion(message: Any, _: np.random.Generator) -> None:
    for pose in message.poses:
        for part in "xyzw":  # of all: w alone is next to nothing when the gripper points down
            setattr(pose.orientation, part, 3.0 * getattr(pose.orientation, part))


def _chunk_lengths(message: Any, _: np.random.Generator) -> None:
    message.gripper = message.gripper[:-3]


def _chunk_frame(message: Any, _: np.random.Generator) -> None:
    message.header.frame_id = "map"


def _chunk_noise(message: Any, rng: np.random.Generator) -> None:
    for pose in message.poses:
        pose.position.x += float(rng.normal(0, 0.03))
        pose.position.y += float(rng.normal(0, 0.03))


def _trajectory_names(message: Any, _: np.random.Generator) -> None:
    message.joint_names = [name + "_x" for name in message.joint_names]


def _motions_cut(message: Any, _: np.random.Generator) -> None:
    for motion in message.motions:
        motion.keypoints = motion.keypoints[:5]


# What a fault of an input means for the arm: joint states are old after max_age, then the arm holds; without new images
# or chunks the last good chunk, a second long and at most twice as slow, is followed to its end.
NO_JOINTS, NO_CHUNKS = 0.7, 2.4


PLANNING = "planning process"
"""A target beside the nodes: the execution node's child in which chunks are solved."""


def catalogue() -> list[Fault]:
    """Every kind of fault once."""

    def relay(link: str, kinds: dict[str, tuple[Effect, float | None]]) -> list[Fault]:
        return [
            Fault(f"{link}: {kind}", link, effect=effect, rest=rest, seconds=1.5 if rest is None else rest + 0.6)
            for kind, (effect, rest) in kinds.items()
        ]

    def change(function: Callable[[Any, np.random.Generator], None]) -> Effect:
        return partial(changed, function)

    def operate(action: str, nodes: Sequence[str], **kwargs: Any) -> list[Fault]:
        return [Fault(f"{action} {node}".strip(), node, action, **kwargs) for node in nodes]

    managed = [node for node in NODES if node not in ("lifecycle_manager", "simulation_node")]
    watched = [node for node in NODES if node != "simulation_node"]
    return [
        *relay(
            "joint_states",
            {
                "30 % lost": (partial(lost, 0.3), None),
                "silent": (partial(lost, 1.0), NO_JOINTS),
                "500 ms late": (partial(delayed, 0.5), NO_JOINTS),
                "overtaking each other, up to 50 ms": (partial(jittered, 0.05), None),
                "swapped in pairs": (swapped, None),
                "each one three times": (partial(repeated, 3), None),
                "stamps repeated": (same_stamp, NO_JOINTS),
                "frozen encoders": (frozen, None),
                "stamped 10 s ahead": (change(partial(shifted, 10.0)), NO_JOINTS),
                "stamped 10 s back": (change(partial(shifted, -10.0)), NO_JOINTS),
                "not a number": (change(_joints_nan), NO_JOINTS),
                "out of range": (change(_joints_out_of_range), NO_JOINTS),
                "wrong joint order": (change(_joints_in_wrong_order), NO_JOINTS),
                "other joint names": (change(_joint_missing), NO_JOINTS),
                "noise of 0.5 rad": (change(_joint_noise), NO_JOINTS),
                "half of the bytes": (truncated, None),
            },
        ),
        *relay(
            "camera_images",
            {
                "30 % lost": (partial(lost, 0.3), None),
                "unplugged and back": (partial(lost, 1.0), NO_CHUNKS),
                "500 ms late": (partial(delayed, 0.5), NO_CHUNKS),
                "overtaking each other, up to 150 ms": (partial(jittered, 0.15), None),
                "swapped in pairs": (swapped, None),
                "stamps repeated": (same_stamp, NO_CHUNKS),
                "stamped 10 s ahead": (change(partial(shifted, 10.0)), NO_CHUNKS),
                "frozen": (frozen, NO_CHUNKS + 1.0),
                "black": (change(_image_black), None),
                "half of the pixels": (change(_image_cut), NO_CHUNKS),
                "unknown encoding": (change(_image_encoding), NO_CHUNKS),
            },
        ),
        *relay("gripper_images", {"one camera unplugged and back": (partial(lost, 1.0), NO_CHUNKS)}),
        *relay(
            "chunks",
            {
                "30 % lost": (partial(lost, 0.3), None),
                "silent": (partial(lost, 1.0), NO_CHUNKS),
                "500 ms late": (partial(delayed, 0.5), None),
                "overtaking each other, up to 400 ms": (partial(jittered, 0.4), None),
                "swapped in pairs": (swapped, None),
                "each one 100 times": (partial(repeated, 100), None),
                "stamps repeated": (same_stamp, NO_CHUNKS),
                "stamped 10 s ahead": (change(partial(shifted, 10.0)), NO_CHUNKS),
                "not a number": (change(_chunk_nan), NO_CHUNKS),
                "below the table": (change(_chunk_outside), NO_CHUNKS),
                "0.2 m away": (change(_chunk_jump), NO_CHUNKS),
                "100 times too fast": (change(_chunk_fast), NO_CHUNKS),
                "quaternions of length 3": (change(_chunk_quaternion), NO_CHUNKS),
                "fewer openings than poses": (change(_chunk_lengths), NO_CHUNKS),
                "another frame": (change(_chunk_frame), NO_CHUNKS),
                "noise of 30 mm": (change(_chunk_noise), None),
                "half of the bytes": (truncated, None),
            },
        ),
        *relay(
            "trajectories",
            {
                "30 % lost": (partial(lost, 0.3), None),
                "lost": (partial(lost, 1.0), REST),
                "up to 10 ms late": (partial(jittered, 0.01), None),
                "each one three times": (partial(repeated, 3), None),
                "rejected by the controller": (change(_trajectory_names), REST),
            },
        ),
        *relay(
            "retrieved_motions",
            {"lost": (partial(lost, 1.0), None), "keypoints missing": (change(_motions_cut), None)},
        ),
        Fault("clock 5 s ahead, once", "", "jump clock", seconds=5.0),
        Fault("clock 5 s back, once", "", "jump clock", seconds=-5.0),
        Fault("clock jumping for 1 s", "", "shake clock"),
        Fault("cancel", "", "cancel", rest=REST),
        Fault("cancel storm", "", "cancel storm", rest=REST),
        Fault("preemption storm", "", "preemption storm"),
        Fault("emergency stop by topic", "", "stop by topic", rest=REST),
        Fault("emergency stop by service", "", "stop by service", rest=REST),
        *operate("deactivate", managed, rest=REST),
        *operate("freeze for 1 s", [node for node in watched if node != "lifecycle_manager"], seconds=1.0, rest=REST),
        # Another one is started, and the last good chunk is followed to its end meanwhile.
        *operate("kill", [PLANNING]),
        *operate("freeze for 1 s", [PLANNING], seconds=1.0),
        *operate("kill", watched, rest=REST, ends_suite=True),
        *operate("kill", ["simulation_node"], ends_suite=True),
        *operate("SIGTERM to", watched, rest=REST, ends_suite=True),
        *operate("SIGINT to", ["execution_node", "policy_node"], rest=REST, ends_suite=True),
    ]


def campaign(injections: int, kinds: Iterable[str] = ()) -> list[Fault]:
    """Every kind (or those that begin with one of ``kinds``) in turn, at least ``injections`` in all.

    Those that end the suite come once: it has to be brought up again after each.
    """
    chosen = [fault for fault in catalogue() if not kinds or fault.kind.startswith(tuple(kinds))]
    ending = [fault for fault in chosen if fault.ends_suite]
    others = [fault for fault in chosen if not fault.ends_suite]
    rounds = max(1, -(-(injections - len(ending)) // len(others))) if others else 1
    return others + ending + others * (rounds - 1)


class Judge:
    """Keeps what the simulated robot does and says where it broke a limit; any thread may add.

    Args:
        contract: whose limits hold.
    """

    def __init__(self, contract: RobotContract) -> None:
        self._contract = contract
        self._kinematics = Kinematics(contract)
        self._lock = threading.Lock()
        self._commanded: list[tuple[float, np.ndarray, np.ndarray]] = []
        self._measured: list[tuple[float, np.ndarray, np.ndarray]] = []
        self._placed: list[float] = []
        self._refused_commands: list[tuple[float, str]] = []
        self.now = -np.inf

    def commanded(self, stamp: float, positions: np.ndarray, velocities: np.ndarray) -> None:
        """What the controller asks of the joints: (n,) rad and rad/s."""
        with self._lock:
            self.now = stamp
            self._commanded.append((stamp, positions, velocities))

    def measured(self, stamp: float, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Where the joints are: (n,) rad and rad/s."""
        with self._lock:
            self._measured.append((stamp, positions, velocities))

    def placed(self, stamp: float) -> None:
        """The simulator put the arm somewhere else."""
        with self._lock:
            self._placed.append(stamp)

    def trajectory(self, names: Sequence[str], times: np.ndarray, motion: list[np.ndarray]) -> None:
        """A trajectory that was sent: (P,) seconds, and (P, n) positions and velocities."""
        problem = self._trajectory_problem(names, times, *motion)
        if problem:
            with self._lock:
                self._refused_commands.append((self.now, problem))

    def _trajectory_problem(
        self, names: Sequence[str], times: np.ndarray, positions: np.ndarray, velocities: np.ndarray
    ) -> str:
        limits = self._contract.limits
        if tuple(names) != self._contract.joints:
            return f"a trajectory of the joints {', '.join(names)}"
        if not (np.all(np.isfinite(positions)) and np.all(np.isfinite(velocities))):
            return "a trajectory that is not finite"
        if times[0] <= 0 or np.any(np.diff(times) <= 0):
            return "a trajectory whose times do not increase"
        if np.abs(velocities[-1]).max() > 1e-6:
            return "a trajectory that does not end at rest"
        for what, values, low, high in (
            ("position", positions, np.array(limits.position_min), np.array(limits.position_max)),
            ("velocity", velocities, -np.array(limits.velocity), np.array(limits.velocity)),
        ):
            excess = np.maximum(low - values, values - high).max(axis=0)
            if excess.max() > 2e-3:
                joint = self._contract.joints[int(excess.argmax())]
                return f"a trajectory in which the {what} of {joint} exceeds its limit by {excess.max():.4f}"
        return ""

    def forget(self) -> None:
        """Starts anew, as after a new start of the suite."""
        with self._lock:
            self._commanded, self._measured, self._placed, self._refused_commands = [], [], [], []
            self.now = -np.inf

    def speed(self) -> float:
        """Of the fastest joint now, rad/s, as the controller commands it."""
        with self._lock:
            return float(np.abs(self._commanded[-1][2]).max()) if self._commanded else 0.0

    def rest_since(self, begin: float, measured: bool = True) -> float | None:
        """Simulated time from which on the arm has rested until now, commanded and measured; None when it moves.

        Without ``measured``, as it is commanded alone.
        """
        with self._lock:
            series = [s for s in (*self._commanded, *(self._measured if measured else ())) if s[0] >= begin]
        moving = [stamp for stamp, _, velocities in series if np.abs(velocities).max() > AT_REST]
        last = max(moving, default=begin)
        return last if self.now > last + 5 * TICK else None

    def pushed(self, begin: float) -> float:
        """Radians by which a joint was off what was commanded within its lag, at most, since a simulated time."""
        with self._lock:
            commanded = [s for s in self._commanded if s[0] >= begin - MOST_LAG]
            measured = [s for s in self._measured if s[0] >= begin]
        if not commanded:
            return 0.0
        times, positions = np.array([s[0] for s in commanded]), np.array([s[1] for s in commanded])
        most = 0.0
        for stamp, position, _ in measured:
            recent = positions[(times >= stamp - MOST_LAG - TICK) & (times <= stamp + TICK)]
            if len(recent):
                off = np.maximum(recent.min(axis=0) - position, position - recent.max(axis=0))
                most = max(most, float(off.max()))
        return most

    def judge(self, outcome: Outcome, begin: float) -> None:
        """Adds what happened since a simulated time."""
        outcome.violations, outcome.pushed = self.violations(begin), round(self.pushed(begin), 3)

    def violations(self, begin: float, end: float = np.inf) -> list[str]:
        """Limits that were exceeded between two simulated times; one line for each kind of limit and joint."""
        with self._lock:
            commanded = [s for s in self._commanded if begin <= s[0] <= end]
            measured = [s for s in self._measured if begin <= s[0] <= end]
            placed = [stamp for stamp in self._placed if begin - 1.0 <= stamp <= end]
            found = [text for stamp, text in self._refused_commands if begin <= stamp <= end]
        for piece in _pieces(commanded, placed, TICK):
            found += self._commanded_violations(*piece)
        for piece in _pieces(measured, placed, np.inf):
            found += self._measured_violations(*piece)
        return sorted(set(found))

    def _commanded_violations(self, times: np.ndarray, positions: np.ndarray, _: np.ndarray) -> list[str]:
        limits, found = self._contract.limits, []
        found += self._beyond("commanded position", times, positions, limits.position_min, limits.position_max)
        # Differences of samples never exceed the largest derivative between them.
        derivative = positions
        for what, bound in (
            ("velocity", limits.velocity),
            ("acceleration", limits.acceleration),
            ("jerk", limits.jerk),
        ):
            derivative = np.diff(derivative, axis=0) / TICK
            high = np.array(bound) * 1.002 + 1e-6
            found += self._beyond(f"commanded {what}", times, derivative, -high, high)
        return found

    def _measured_violations(self, times: np.ndarray, positions: np.ndarray, velocities: np.ndarray) -> list[str]:
        limits, found = self._contract.limits, []
        found += self._beyond("measured position", times, positions, limits.position_min, limits.position_max)
        high = LAG * np.array(limits.velocity)
        found += self._beyond("measured velocity", times, velocities, -high, high)
        tips = np.array([self._kinematics.forward(row)[0] for row in positions])
        speeds = np.linalg.norm(np.diff(tips, axis=0), axis=1) / np.maximum(np.diff(times), TICK)
        if len(speeds) and speeds.max() > LAG * limits.cartesian_velocity:
            found.append(f"end effector at {speeds.max():.2f} m/s; the limit is {limits.cartesian_velocity}")
        outside = np.maximum(np.array(limits.workspace_min) - tips, tips - np.array(limits.workspace_max)).max(axis=1)
        # An arm that was placed outside may come back in.
        if len(outside) and outside.max() > max(WORKSPACE_MARGIN, outside[0] + 1e-3):
            found.append(f"end effector {outside.max():.3f} m outside the workspace")
        return found

    def _beyond(self, what: str, times: np.ndarray, values: np.ndarray, low: Any, high: Any) -> list[str]:
        if not len(values):
            return []
        excess = np.maximum(np.array(low) - values, values - np.array(high))
        i, joint = np.unravel_index(int(excess.argmax()), excess.shape)
        if excess[i, joint] <= 1e-6:
            return []
        bound = np.array(high if values[i, joint] > 0 else low)[joint]
        name = self._contract.joints[joint]
        return [f"{what} of {name} {values[i, joint]:.3f} at {times[i]:.2f} s; the limit is {bound:.3f}"]


def _pieces(
    series: list[tuple[float, np.ndarray, np.ndarray]], breaks: list[float], gap: float
) -> Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Stretches without a missing sample, and without the arm being put somewhere else."""
    if not series:
        return
    times = np.array([stamp for stamp, _, _ in series])
    ends = np.diff(times) > gap * 1.5
    for stamp in breaks:
        ends |= (times[:-1] <= stamp + TICK) & (times[1:] >= stamp - TICK)
    for part in np.split(np.arange(len(series)), np.flatnonzero(ends) + 1):
        yield times[part], np.array([series[i][1] for i in part]), np.array([series[i][2] for i in part])


class Results:
    """Outcomes on disk: written whole after each fault, so that an interrupted campaign goes on where it was.

    Args:
        folder: of ``results.json`` and ``summary.json``.
        faults: the campaign; results of another one are left behind.
    """

    def __init__(self, folder: Path, faults: list[Fault]) -> None:
        self._path = folder / "results.json"
        self._summary = folder / "summary.json"
        self._kinds = [fault.kind for fault in faults]
        kept = json.loads(self._path.read_text(encoding="utf-8")) if self._path.is_file() else {}
        same = kept.get("campaign") == self._kinds
        self.outcomes = [Outcome(**outcome) for outcome in kept["outcomes"]] if same else []

    def add(self, outcome: Outcome) -> None:
        """Keeps one more outcome."""
        self.outcomes.append(outcome)
        files.write_json(
            self._path, {"campaign": self._kinds, "outcomes": [asdict(outcome) for outcome in self.outcomes]}
        )
        files.write_json(self._summary, self.summary())

    def summary(self) -> dict[str, Any]:
        """The figures: all whole numbers count faults."""
        outcomes = [outcome for outcome in self.outcomes if outcome.injected]
        rests = [o.rested_after for o in outcomes if o.rested_after is not None and o.at_rest]
        return {
            "injected": len(outcomes),
            "not_injected": len(self.outcomes) - len(outcomes),
            "kinds": len({o.kind for o in outcomes}),
            "limit_violations": sum(bool(o.violations) for o in outcomes),
            "not_at_rest": sum(o.at_rest is False for o in outcomes),
            "recovered": sum(o.recovered for o in outcomes),
            "not_recovered": sum(not o.recovered for o in outcomes),
            "moving_when_injected": sum(o.speed > AT_REST for o in outcomes),
            "slowest_rest_s": round(max(rests, default=0.0), 3),
        }

    def table(self) -> str:
        """A Markdown table with one row per kind."""
        rows = ["| fault | injected | limit broken | not at rest in time | rest after, at most | recovered |"]
        rows.append("|---|---|---|---|---|---|")
        for kind, count in Counter(o.kind for o in self.outcomes if o.injected).items():
            of_kind = [o for o in self.outcomes if o.injected and o.kind == kind]
            rests = [o.rested_after for o in of_kind if o.rested_after is not None]
            rest = f"{max(rests):.2f} s" if rests else ""
            broken, moving = sum(bool(o.violations) for o in of_kind), sum(o.at_rest is False for o in of_kind)
            rows.append(f"| {kind} | {count} | {broken} | {moving} | {rest} | {sum(o.recovered for o in of_kind)} |")
        return "\n".join(rows) + "\n"
