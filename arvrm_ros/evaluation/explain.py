# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a policy's analogical-reasoning map says: which keypoints of a human hand drive which component of the robot.

A weight alone does not say what a keypoint does, for the features it weighs differ in size and know of their
neighbours. So each keypoint is also moved, by one centimetre, and the change of what arrives at the robot is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.patches import FancyBboxPatch, Polygon, Rectangle

from arvrm_ros.contract import contract_from_dict, load_contract
from arvrm_ros.data.types import HAND_KEYPOINTS, ROBOT_COMPONENTS, HumanClip
from arvrm_ros.errors import ArvrmError, CheckpointError, DataError
from arvrm_ros.files import replace_atomically
from arvrm_ros.perception.overlay import BONES, keypoint_color
from arvrm_ros.policies import DEFAULT_CHECKPOINT, checkpoint_folder, load_policy, read_header
from arvrm_ros.policies.arvrm.policy import ArvrmPolicy
from arvrm_ros.policies.arvrm.processor import clip_keypoints
from arvrm_ros.retrieval.database import MotionDatabase
from arvrm_ros.simulation.world import TABLETOP

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

K, S = len(HAND_KEYPOINTS), len(ROBOT_COMPONENTS)
START = 1 / K
"""What every weight is before training: the mean of all keypoints."""

FAINT = 0.25
"""A map is faint when no weight is further from its row's mean than this share of :data:`START`."""

GRIPPER = ROBOT_COMPONENTS.index("gripper")
FINGERTIPS = tuple(i for i, name in enumerate(HAND_KEYPOINTS) if name.endswith(" 4"))
CLIPS = 24
"""Clips whose keypoints are moved."""

PALM_CM = 9.5
"""Centimetres from wrist to middle knuckle of an adult's hand: the ruler in an image of a hand."""


@dataclass
class Effect:
    """What one centimetre of a single keypoint does, averaged over the frames of some clips.

    Attributes:
        clips: how many.
        change: (S, K) change of each component's mapped feature, as a share of how much that varies over the clips.
        uniform: (K,) the same if all weights were still :data:`START`.
    """

    clips: int
    change: np.ndarray
    uniform: np.ndarray


@dataclass
class Explanation:
    """A map and its figures.

    Attributes:
        checkpoint: name or folder it is from.
        weights: (S, K) m, rows ``ROBOT_COMPONENTS``, columns ``HAND_KEYPOINTS``.
        instruction: what the map depends on; "" for a global one.
        effect: None without clips.
    """

    checkpoint: str
    weights: np.ndarray
    instruction: str = ""
    effect: Effect | None = None

    @property
    def z(self) -> np.ndarray:
        """(S, K) weights in standard deviations from their row's mean."""
        centred = self.weights - self.weights.mean(1, keepdims=True)
        return centred / np.maximum(self.weights.std(1, keepdims=True), 1e-12)

    @property
    def contrast(self) -> np.ndarray:
        """(S,) largest distance of a weight from its row's mean, as a share of :data:`START`."""
        return np.abs(self.weights - self.weights.mean(1, keepdims=True)).max(1) / START

    @property
    def neutral(self) -> float:
        """What the picture leaves white: the start while the weights are near it, 0 once they have left it."""
        return START if np.abs(self.weights - START).mean() < np.abs(self.weights).mean() else 0.0

    @property
    def faint(self) -> bool:
        """Whether training has hardly told keypoints apart."""
        return bool(self.contrast.max() < FAINT)

    def strongest(self, component: int, count: int = 3) -> list[int]:
        """The keypoints with the largest weights, of either sign."""
        return np.argsort(-np.abs(self.weights[component]), kind="stable")[:count].tolist()


def explain(checkpoint: Path | str | None, database: MotionDatabase | None, instruction: str = "") -> Explanation:
    """Reads the map of a checkpoint, and measures what its keypoints do.

    Args:
        checkpoint: folder or shipped name; None is the default one.
        database: clips to move keypoints in; None leaves the effect out.
        instruction: for a conditional map only: what the robot is told, in the simulator's first scene.

    Raises:
        CheckpointError: the checkpoint is damaged, or has no map.
        ArvrmError: an instruction for a global map; none for a conditional one, or its robot is not the simulator's.
        DataError: the database is empty, or needed and missing.
    """
    folder = checkpoint_folder(checkpoint)
    header = read_header(folder)
    if "contract" not in header:
        raise CheckpointError(f"{folder}/checkpoint.json carries no contract; train it again")
    policy = load_policy(folder, contract_from_dict(header["contract"], f"{folder}/checkpoint.json"))
    weights = policy.analogy_map
    if weights is None or not isinstance(policy, ArvrmPolicy):
        raise CheckpointError(
            f"{folder} has no analogical-reasoning map: it was trained without retrieval, or without the map"
        )
    if policy.config.conditional and not instruction:
        raise ArvrmError(f"the map of {folder} depends on the instruction: give one with --instruction")
    if instruction and not policy.config.conditional:
        raise ArvrmError(f"the map of {folder} is the same for all instructions: leave --instruction out")
    if policy.config.conditional:
        if database is None:
            raise DataError("a conditional map needs clips to be retrieved: give a --database")
        weights = _conditional(policy, folder, database, instruction)
    effect = None
    if database is not None:
        clips = database.clips()
        if not clips:
            raise DataError(f"{database.uri} is empty: build it with 'arvrm db build'")
        # Evenly over the database, which is ordered by task in parts.
        effect = measure_effect(policy, weights, [clips[i] for i in np.linspace(0, len(clips) - 1, CLIPS).astype(int)])
    return Explanation(str(checkpoint or DEFAULT_CHECKPOINT), weights, instruction, effect)


@torch.inference_mode()
def measure_effect(policy: ArvrmPolicy, weights: np.ndarray, clips: list[HumanClip]) -> Effect:
    """Moves each keypoint of each frame by 1 cm left, right, up and down, and measures how the mapped features change.

    Args:
        weights: (S, K).
        clips: with at least one frame each. A centimetre is taken from the palm's length in each frame.
    """
    all_frames = np.concatenate([clip_keypoints(clip, policy.config.clip_frames) for clip in clips])
    frames = torch.from_numpy(all_frames[all_frames[:, 0, 3] > 0])  # (A, K, 4), those where a hand was seen
    if not len(frames):
        raise DataError("no hand was seen in the clips of the database: build it anew")
    rows = torch.from_numpy(np.concatenate([weights, np.full((1, K), START)])).to(frames)  # (S + 1, K)
    encoder = policy.model.keypoint_encoder

    def mapped(keypoints: torch.Tensor) -> torch.Tensor:
        return rows @ encoder(keypoints.to(policy.model.analogy_map.device))[0].cpu()  # (..., S + 1, d)

    plain = mapped(frames)  # (A, S + 1, d)
    variation = (plain - plain.mean(0)).norm(dim=-1).square().mean(0).sqrt().clamp(min=1e-9)  # (S + 1,)
    centimetre = (frames[:, 9, :2] - frames[:, 0, :2]).norm(dim=-1) / PALM_CM  # (A,)
    directions = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    changes = []
    for k in range(K):
        moved = frames.repeat(len(directions), 1, 1, 1)  # (4, A, K, 4)
        moved[:, :, k, :2] += directions[:, None] * centimetre[:, None]
        changes.append((mapped(moved) - plain).norm(dim=-1).mean((0, 1)) / variation)
    change = torch.stack(changes, -1).numpy()  # (S + 1, K)
    return Effect(len(clips), change[:-1], change[-1])


def _conditional(policy: ArvrmPolicy, folder: Path, database: MotionDatabase, instruction: str) -> np.ndarray:
    """m(l, o) (S, K) at the first step of an instruction in the simulator's first scene."""
    from arvrm_ros.evaluation.rollout import Retriever
    from arvrm_ros.policies.arvrm.policy import IMAGE_ENCODER
    from arvrm_ros.simulation.tabletop import Tabletop

    if differences := policy.contract.differences(load_contract(TABLETOP)):
        raise ArvrmError(
            f"the map of {folder} depends on what is seen, which would be the simulator's first scene, but it is of "
            f"another robot than the simulator's: {differences[0]}"
        )
    tabletop = Tabletop(policy.contract)
    tabletop.reset(0, None, "D")
    observation = tabletop.observation()
    own_encoder = folder / IMAGE_ENCODER
    retrieve = Retriever(database, image_encoder=own_encoder if own_encoder.is_file() else None)
    policy.reset(instruction)
    first_camera = next(iter(policy.contract.observation.cameras))
    policy.set_retrieved(retrieve(instruction, observation.images[first_camera], policy.retrieves))
    seen: list[torch.Tensor] = []
    hook = policy.model.map_gate.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        policy.predict_chunk(observation)
    finally:
        hook.remove()
    if not seen:
        raise DataError(f"{database.uri} has no clips for {instruction!r}: build it with 'arvrm db build'")
    with torch.inference_mode():
        return policy.model.conditional_map(seen[0][0, -1]).cpu().numpy()


def figures(explanation: Explanation) -> dict[str, Any]:
    """All numbers as plain data."""
    weights, z, effect = explanation.weights, explanation.z, explanation.effect

    def named(values: np.ndarray) -> dict[str, dict[str, float]]:
        return {
            component: dict(zip(HAND_KEYPOINTS, row.round(6).tolist(), strict=True))
            for component, row in zip(ROBOT_COMPONENTS, values.astype(float), strict=True)
        }

    values: dict[str, Any] = {
        "checkpoint": explanation.checkpoint,
        "instruction": explanation.instruction,
        "start": START,
        "faint": explanation.faint,
        "contrast": dict(zip(ROBOT_COMPONENTS, explanation.contrast.round(4).tolist(), strict=True)),
        "strongest": {
            component: [HAND_KEYPOINTS[k] for k in explanation.strongest(i)]
            for i, component in enumerate(ROBOT_COMPONENTS)
        },
        "weights": named(weights),
        "z": named(z),
    }
    if effect is not None:
        values["effect_per_cm"] = named(effect.change)
        values["effect_per_cm_uniform"] = dict(zip(HAND_KEYPOINTS, effect.uniform.round(6).tolist(), strict=True))
        values["effect_clips"] = effect.clips
    return values


def describe(explanation: Explanation) -> str:
    """The figures in words, for the terminal."""
    weights, z, effect = explanation.weights, explanation.z, explanation.effect
    told = f", told {explanation.instruction!r}" if explanation.instruction else ""
    lines = [f"{explanation.checkpoint}{told}: analogy map of {S} robot components x {K} hand keypoints", ""]
    if explanation.faint:
        lines += [
            f"The map is FAINT: no weight is further from its row's mean than {explanation.contrast.max():.0%} of the "
            f"start, 1/{K} = {START:.3f}.",
            "The robot gets little more than the mean of all keypoints; the order below may be chance.",
            "",
        ]
    head = "  1 cm changes the gripper's feature by (uniform map)" if effect else ""
    lines.append(f"What drives the gripper  weight      z{head}")
    order = explanation.strongest(GRIPPER, K)
    for k in [*order[:5], *(k for k in order[5:] if k in FINGERTIPS)]:
        change = f"{effect.change[GRIPPER, k]:10.1%} of its variation ({effect.uniform[k]:.1%})" if effect else ""
        mark = " (tip)" if k in FINGERTIPS else ""
        lines.append(f"  {HAND_KEYPOINTS[k] + mark:20}  {weights[GRIPPER, k]:+7.4f}  {z[GRIPPER, k]:+5.1f}{change}")
    lines.append(f"z: in standard deviations of the row; of {K} random numbers the largest is about 2")
    if effect:
        lines.append(f"changes: the keypoint alone is moved, in all frames with a hand of {effect.clips} clips")
    lines += ["", "component   contrast  strongest keypoints (z)"]
    for s, component in enumerate(ROBOT_COMPONENTS):
        strongest = explanation.strongest(s)
        names = ", ".join(f"{HAND_KEYPOINTS[k]} {weights[s, k]:+.3f} ({z[s, k]:+.1f})" for k in strongest)
        lines.append(f"{component:10}  {explanation.contrast[s]:8.2f}  {names}")
    lines.append("contrast: largest distance of a weight from its row's mean, 1 is the start")
    return "\n".join(lines)


# The picture

HAND = np.array(
    [(0, 0),
     (-0.33, 0.22), (-0.62, 0.45), (-0.83, 0.68), (-1.00, 0.88),
     (-0.32, 0.95), (-0.42, 1.36), (-0.47, 1.62), (-0.51, 1.85),
     (-0.06, 1.00), (-0.08, 1.47), (-0.09, 1.76), (-0.10, 2.01),
     (0.19, 0.94), (0.26, 1.36), (0.30, 1.63), (0.33, 1.86),
     (0.42, 0.81), (0.56, 1.11), (0.65, 1.31), (0.73, 1.50)]
)  # fmt: skip
"""(K, 2) an open hand, palm towards the viewer, fingers up."""

SKIN, METAL, EDGE, INK, MUTED = "#f1e8df", "#dfe3e8", "#b4bac3", "#2b2f36", "#6a717c"
COLORS = "RdBu_r"
"""Diverging, and told apart by people who confuse red and green."""


def draw(explanation: Explanation, out: Path) -> None:
    """Writes the map as a picture: a table of all weights; below it a hand, and the robot's components.

    Args:
        out: a name that ends in .png, .svg or .pdf.

    Raises:
        DataError: another ending.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    if out.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise DataError(f"cannot draw {out}: use a name that ends in .png, .svg or .pdf")
    neutral = explanation.neutral
    limit = max(float(np.abs(explanation.weights - neutral).max()), START)
    colors = ScalarMappable(Normalize(neutral - limit, neutral + limit), COLORS)
    figure = Figure(figsize=(13, 9), facecolor="white")
    heading = "Which keypoints of the human hand drive which part of the robot"
    figure.text(0.03, 0.95, heading, fontsize=17, color=INK)
    told = f", told “{explanation.instruction}”" if explanation.instruction else ""
    figure.text(0.03, 0.918, f"analogy map of {explanation.checkpoint}{told}", fontsize=10, color=MUTED)
    if explanation.faint:
        warning = f"faint: no weight is further than {explanation.contrast.max():.0%} of 1/{K} from its row's mean"
        figure.text(0.97, 0.918, warning, fontsize=11, color="#a03020", ha="right")
    table = (0.085, 0.53, 0.815, 0.305)
    _draw_table(figure.add_axes(table), explanation, colors)
    bar = figure.colorbar(colors, cax=figure.add_axes((0.915, table[1], 0.013, table[3])))
    ticks = {value: _number(value) for value in (neutral - limit, neutral + limit)}
    ticks = {value: text for value, text in ticks.items() if abs(value - START) > 0.1 * limit}
    ticks |= {0.0: "0", START: f"1/{K}, start"}
    bar.set_ticks(list(ticks), labels=list(ticks.values()), fontsize=8, color=INK)
    bar.ax.axhline(START, color=INK, linewidth=1.5)
    bar.outline.set_visible(False)
    for x, text in ((0.03, "The gripper's row on the hand"), (0.43, "The strongest keypoints of each component")):
        figure.text(x, 0.44, text, fontsize=13, color=INK)
    _draw_hand(figure.add_axes((0.03, 0.015, 0.36, 0.415)), explanation, colors)
    _draw_robot(figure.add_axes((0.43, 0.015, 0.54, 0.415)), explanation, colors)
    with replace_atomically(out) as partial:
        figure.savefig(partial, dpi=150, format=out.suffix[1:].lower())


def _number(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _ink(color: np.ndarray) -> str:
    """Colour of a text on top of an RGBA colour."""
    return INK if color[:3] @ (0.3, 0.59, 0.11) > 0.5 else "white"


def _draw_table(axes: Axes, explanation: Explanation, colors: ScalarMappable) -> None:
    weights = explanation.weights
    shades = np.asarray(colors.to_rgba(weights))
    axes.imshow(shades, aspect="auto")
    for edge in (0.5, *(4.5 + 4 * finger for finger in range(4))):
        axes.axvline(edge, color="white", linewidth=6)
    for edge in range(1, S):
        axes.axhline(edge - 0.5, color="white", linewidth=1)
    for s in range(S):
        strongest = explanation.strongest(s)
        for k in range(K):
            text = f"{100 * weights[s, k]:.1f}".replace("-0.0", "0.0").replace("-", "−")
            axes.text(k, s, text, ha="center", va="center", fontsize=8.5, color=_ink(shades[s, k]),
                      fontweight="bold" if k in strongest else "normal")  # fmt: skip
            if k in strongest:
                axes.add_patch(Rectangle((k - 0.41, s - 0.42), 0.82, 0.84, fill=False, edgecolor=_ink(shades[s, k])))
    axes.set_yticks(range(S), ROBOT_COMPONENTS, fontsize=11, color=INK)
    axes.set_xticks(range(1, K), [name.split()[1] for name in HAND_KEYPOINTS[1:]], fontsize=8.5, color=MUTED)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, pad=2)
    axes.spines[:].set_visible(False)
    for first in (0, *range(1, K, 4)):
        name, reach = HAND_KEYPOINTS[first].split()[0], 1.85 if first else 0.35
        middle, color = first + (1.5 if first else 0), np.array(keypoint_color(first)) / 255 if first else MUTED
        axes.plot([middle - reach, middle + reach], [-1.02] * 2, color=color, linewidth=3, clip_on=False)
        axes.text(middle, -1.14, name, ha="center", fontsize=10.5, color=INK)
    axes.set(xlim=(-0.5, K - 0.5), ylim=(S - 0.5, -0.5))
    note = "weights × 100; the three strongest of each row are framed; 4 is the fingertip"
    axes.text(-0.5, S - 0.38, note, fontsize=8.5, color=MUTED, va="top")


def _draw_hand(axes: Axes, explanation: Explanation, colors: ScalarMappable) -> None:
    weights = explanation.weights[GRIPPER]
    axes.set(xlim=(-1.7, 1.5), ylim=(-0.42, 2.42), aspect="equal", anchor="W")
    axes.axis("off")
    palm = HAND[[0, 1, 5, 9, 13, 17]]
    axes.add_patch(Polygon(palm, facecolor=SKIN, edgecolor=SKIN, linewidth=30, joinstyle="round"))
    axes.add_patch(Polygon([(-0.25, -0.6), (0.27, -0.6), (0.27, 0.2), (-0.25, 0.2)], facecolor=SKIN))
    for finger in range(1, K, 4):
        bones = HAND[finger : finger + 4]
        axes.plot(*bones.T, color=SKIN, linewidth=25, solid_capstyle="round", solid_joinstyle="round")
    for start, end in BONES:
        axes.plot(*HAND[[start, end]].T, color=EDGE, linewidth=1.6, zorder=2)
    off = np.abs(weights - explanation.neutral)
    sizes = 30 + 600 * off / max(float(off.max()), START / 2)
    x, y = HAND.T
    axes.scatter(x, y, s=sizes, c=colors.to_rgba(weights), edgecolors=INK, linewidths=0.8, zorder=3)
    strongest = explanation.strongest(GRIPPER)
    free = 1.45  # below the little finger's name
    for k in sorted({*strongest, *FINGERTIPS}, key=lambda k: -y[k]):
        style: dict[str, Any] = {"va": "center", "fontsize": 8.5, "color": INK, "linespacing": 1.1, "zorder": 4,
                 "fontweight": "bold" if k in strongest else "normal"}  # fmt: skip
        label = f"{HAND_KEYPOINTS[k]}\n{_number(weights[k])}"
        if k in FINGERTIPS[1:]:
            axes.text(x[k], y[k] + 0.23, label, ha="center", **style)
        elif k < 9:
            axes.text(x[k] - 0.18, y[k], label, ha="right", **style)
        else:  # within the hand: to its right, one below the other
            free = min(y[k], free - 0.3)
            axes.plot([x[k], 1.02], [y[k], free], color=MUTED, linewidth=0.8, zorder=2.5)
            axes.text(1.05, free, label, ha="left", **style)


def _draw_robot(axes: Axes, explanation: Explanation, colors: ScalarMappable) -> None:
    axes.set(xlim=(0, 11.6), ylim=(0.1, 6.9), aspect="equal", anchor="W")
    axes.axis("off")
    _draw_arm(axes)
    shades = np.asarray(colors.to_rgba(explanation.weights))
    for s, name in enumerate(ROBOT_COMPONENTS):
        y = 6.4 - 0.95 * s
        axes.text(6.5, y, name, ha="right", va="center", fontsize=11, color=INK)
        for column, k in enumerate(explanation.strongest(s)):
            x = 6.8 + 1.6 * column
            axes.add_patch(FancyBboxPatch((x, y - 0.33), 1.42, 0.66, boxstyle="round,pad=0,rounding_size=0.14",
                                          facecolor=shades[s, k], edgecolor=EDGE, linewidth=0.8))  # fmt: skip
            label = f"{HAND_KEYPOINTS[k]}\n{_number(explanation.weights[s, k])}"
            axes.text(x + 0.71, y, label, ha="center", va="center", fontsize=8, linespacing=1.1,
                      color=_ink(shades[s, k]))  # fmt: skip


def _draw_arm(axes: Axes) -> None:
    """A side view of an arm, and the axes of the base that the components are measured in."""
    joints = np.array([(0.9, 0.9), (0.9, 2.5), (1.6, 5.1), (3.7, 5.6), (3.7, 4.8)])
    axes.add_patch(FancyBboxPatch((0.3, 0.25), 1.2, 0.5, boxstyle="round,pad=0,rounding_size=0.12", facecolor=EDGE,
                                  edgecolor="none"))  # fmt: skip
    for width, color in ((19, EDGE), (16, METAL)):
        axes.plot(*joints.T, color=color, linewidth=width, solid_capstyle="round", solid_joinstyle="round")
    axes.scatter(joints[1:4, 0], joints[1:4, 1], s=80, color="white", edgecolors=EDGE, linewidths=1.2, zorder=3)
    axes.add_patch(Rectangle((3.15, 4.25), 1.1, 0.32, facecolor=MUTED, edgecolor="none", zorder=3))
    for x, outside in ((3.25, -0.5), (4.15, 0.5)):
        axes.add_patch(Rectangle((x - 0.08, 3.5), 0.16, 0.8, facecolor=MUTED, edgecolor="none", zorder=3))
        _arrow(axes, np.array([x + 1.3 * outside, 3.8]), np.array([x + 0.3 * outside, 3.8]), arrowstyle="->", color=INK)
    axes.text(4.45, 4.4, "gripper", fontsize=10, color=INK, va="center")
    origin = np.array([3.3, 1.1])
    # Tip of each axis in the picture, the half axes of the ellipse that turns about it, and where its name goes.
    for name, turn, tip, ellipse, beside in (
        ("x", "roll", (1.6, 0.0), (0.14, 0.36), (0.0, -0.58)),
        ("z", "yaw", (0.0, 1.6), (0.36, 0.14), (0.72, 0.0)),
        ("y", "pitch", (-1.1, 0.65), (0.16, 0.36), (-0.35, -0.55)),
    ):
        along = np.array(tip) / np.hypot(*tip)
        _arrow(axes, origin, origin + tip, arrowstyle="-|>", color=INK, linewidth=1.6)
        _label(axes, origin + tip + 0.2 * along, name, fontsize=10, color=INK)
        middle, angle = origin + 0.6 * np.array(tip), np.linspace(-0.3, 1.45, 40) * np.pi
        circle = np.stack([ellipse[0] * np.cos(angle), ellipse[1] * np.sin(angle)], 1)
        if name == "y":
            circle = circle @ np.array([[along[0], along[1]], [-along[1], along[0]]])
        axes.plot(*(middle + circle[:-2]).T, color=MUTED, linewidth=1.2)
        _arrow(axes, middle + circle[-3], middle + circle[-1], arrowstyle="->", color=MUTED)
        _label(axes, middle + beside, turn, fontsize=9, color=MUTED)


def _arrow(axes: Axes, start: np.ndarray, end: np.ndarray, **style: Any) -> None:
    axes.annotate("", (end[0], end[1]), (start[0], start[1]), arrowprops={"shrinkA": 0, "shrinkB": 0, **style})


def _label(axes: Axes, at: np.ndarray, text: str, **style: Any) -> None:
    axes.text(at[0], at[1], text, ha="center", va="center", **style)
