# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Chains of five: how they are drawn, run, resumed, counted and filmed. The policy is the scripted expert."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from scripted_policy import ScriptedPolicy

from arvrm_ros.cli import main
from arvrm_ros.contract import load_contract
from arvrm_ros.data.types import ActionChunk
from arvrm_ros.data.video import read_video
from arvrm_ros.errors import ArvrmError, DataError
from arvrm_ros.evaluation import chains as module
from arvrm_ros.evaluation import rollout
from arvrm_ros.evaluation.chains import (
    Chain,
    ChainOutcome,
    bootstrap_interval,
    captioned,
    draw_chains,
    evaluate_chains,
    expert_finishes,
    plot_success,
    propose,
    read_rows,
    run_chain,
    summarise,
    worth_filming,
)
from arvrm_ros.evaluation.rollout import EvaluationOptions, Setup
from arvrm_ros.policies import PolicyError
from arvrm_ros.simulation import scene
from arvrm_ros.simulation.tabletop import Tabletop
from arvrm_ros.simulation.tasks import TASKS
from arvrm_ros.simulation.world import EVALUATION_SEEDS

CONTRACT = load_contract("tabletop")
OPTIONS = EvaluationOptions("", "unused.lance", "none", 3)


@pytest.fixture(scope="module")
def tabletop():
    tabletop = Tabletop(CONTRACT)
    yield tabletop
    tabletop.close()


@pytest.fixture(scope="module")
def drawn():
    return draw_chains(CONTRACT, 3, seed=1)


@pytest.fixture
def scripted(monkeypatch, tabletop):
    """In place of a checkpoint, the expert, that cannot do what ``unable`` has; the policies that were set up."""

    class SetUps(list):
        unable: tuple[str, ...] = ()

    made = SetUps()

    def set_up(contract, options):
        made.append(ScriptedPolicy(tabletop, made.unable))
        return Setup(options, tabletop, made[-1], None)

    monkeypatch.setattr(rollout, "set_up", set_up)
    monkeypatch.setattr(tabletop, "close", lambda: None)  # shared by the tests
    return made


def outcome(index: int, completed: int, steps: list[int] | None = None) -> ChainOutcome:
    tasks = ("open_drawer", "turn_on_led", "push_red_block_left", "close_drawer", "lift_red_block")
    steps = steps or [20] * min(completed + 1, 5)
    return ChainOutcome(index, 0, "D", tasks, tasks, completed, steps, "" if completed == 5 else "not done")


# Drawing


def ready(task: str, state: scene.SceneState) -> bool:
    """Whether a task can be done and is not done yet, told from the physical state alone."""
    within = [color for color, (_, _, z, _) in state.blocks.items() if z < scene.TABLE_TOP - 0.02]
    held = [color for color, (_, _, z, _) in state.blocks.items() if z > scene.TABLE_TOP + 0.04]
    block, kind = TASKS[task].block, TASKS[task].kind
    if held:
        return kind == "put" and held == [block] and state.drawer > 0.07
    if kind == "put":
        return state.drawer > 0.07 and not within
    if block:
        return block not in within
    return {
        "open_drawer": state.drawer < 0.02, "close_drawer": state.drawer > 0.07,
        "move_slider_left": state.slider < 0, "move_slider_right": state.slider > 0,
        "turn_on_led": not state.led, "turn_off_led": state.led,
        "turn_on_lightbulb": not state.bulb, "turn_off_lightbulb": state.bulb,
    }[task]  # fmt: skip


def test_drawn_chains_can_be_done_one_task_after_the_other(tabletop, drawn):
    for chain in drawn:
        assert len(set(chain.tasks)) == 5
        assert chain.seed >= EVALUATION_SEEDS
        assert all(text in TASKS[task].instructions for task, text in zip(chain.tasks, chain.instructions, strict=True))
        rng = np.random.default_rng(99)  # not the expert's that chose the chains
        tabletop.reset(chain.seed, None, chain.variant)
        for task in chain.tasks:
            assert ready(task, tabletop.state()), (chain, task, tabletop.state())
            assert expert_finishes(tabletop, [task], rng), (chain, task)


def test_all_tasks_come_up_and_none_twice_in_a_chain(tabletop):
    proposed = [propose(tabletop, EVALUATION_SEEDS + seed, "D") for seed in range(80)]
    assert {task for tasks in proposed for task in tasks} == set(TASKS)
    assert all(len(set(tasks)) == 5 for tasks in proposed)
    first = {tasks[0] for tasks in proposed}
    assert len(first) > 10, "chains begin with few tasks only"


def test_fewer_chains_are_a_part_of_more_and_wordings_leave_the_scenes(drawn):
    assert draw_chains(CONTRACT, 1, seed=1) == drawn[:1]
    unseen = draw_chains(CONTRACT, 1, seed=1, held_out=True)[0]
    assert replace(unseen, instructions=drawn[0].instructions) == drawn[0]
    assert all(text in TASKS[task].held_out for task, text in zip(unseen.tasks, unseen.instructions, strict=True))


def test_impossible_chains_are_left_out(tabletop, drawn):
    tabletop.reset(drawn[0].seed, None, "D")
    done = "turn_on_led" if tabletop.state().led else "turn_off_led"  # pressing the button undoes it
    assert not expert_finishes(tabletop, [done], np.random.default_rng(0))


@pytest.mark.parametrize(("count", "variants", "message"), [(0, "D", "at least one chain"), (1, "DX", "'DX'.*ABCD"),
                                                            (1, "", "unknown variants")])  # fmt: skip
def test_wrong_arguments_say_what_is_wrong(count, variants, message):
    with pytest.raises(ArvrmError, match=message):
        draw_chains(CONTRACT, count, 0, variants)


# Running


def test_the_expert_behind_a_policy_gets_far_through_the_same_loop(tabletop, drawn):
    """Its commands go through chunks, the executor and its delay; nothing is reset in between."""
    policy = ScriptedPolicy(tabletop)
    outcomes = [run_chain(tabletop, policy, None, chain, max_steps=120) for chain in drawn[:2]]
    assert sum(o.completed for o in outcomes) >= 8, outcomes
    assert policy.heard == [text for o in outcomes for text in o.instructions[: len(o.steps)]]
    assert all(len(o.steps) == min(o.completed + 1, 5) for o in outcomes)
    assert tabletop.time > 0.1 * (sum(outcomes[-1].steps) - 1), "the clock was reset within a chain"


def test_a_chain_ends_where_a_task_is_not_done_and_others_before_it_change_nothing(tabletop, drawn):
    chain = drawn[0]
    kind = TASKS[chain.tasks[1]].kind
    other = run_chain(tabletop, ScriptedPolicy(tabletop, (kind,)), None, chain, max_steps=50)
    run_chain(tabletop, ScriptedPolicy(tabletop), None, replace(drawn[1], variant="A"), max_steps=4)
    again = run_chain(tabletop, ScriptedPolicy(tabletop, (kind,)), None, chain, max_steps=50)
    assert other == again
    assert other.completed == 1
    assert other.steps[1:] == [50]
    assert other.failed_kind == kind
    assert other.failure == f"{chain.tasks[1]} not done in 50 steps"


def test_refused_chunks_and_a_failing_policy_end_in_the_row(tabletop, drawn):
    class Far(ScriptedPolicy):
        def predict_chunk(self, observation):
            if observation.stamp > 0.25:
                raise PolicyError("the policy's output is not finite")
            return ActionChunk(
                observation.stamp, 0.1, np.full((2, 3), 5.0), np.tile([1.0, 0, 0, 0], (2, 1)), np.ones(2)
            )

    result = run_chain(tabletop, Far(tabletop), None, drawn[0], max_steps=10)
    assert (result.completed, result.steps, result.refused) == (0, [3], 3)
    assert result.failure.endswith("not done in 3 steps, 3 chunks refused: the policy's output is not finite")


# Evaluating, with rows on disk


def test_an_interrupted_evaluation_goes_on_to_the_same_result(scripted, drawn, tmp_path, monkeypatch):
    whole = evaluate_chains(CONTRACT, OPTIONS, drawn, 1, tmp_path / "whole.jsonl")
    rows = tmp_path / "parts" / "rows.jsonl"

    def killed(setup, chain):
        if chain.index == 2:
            raise KeyboardInterrupt
        return real(setup, chain)

    real = module._chain
    monkeypatch.setattr(module, "_chain", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate_chains(CONTRACT, OPTIONS, drawn, 1, rows)
    lines = rows.read_bytes().splitlines(keepends=True)
    assert len(lines) == 2
    rows.write_bytes(lines[0] + lines[1][:40])  # as a crash in the middle of writing leaves it
    assert [row.index for row in read_rows(rows)] == [0]
    ran = []
    monkeypatch.setattr(module, "_chain", lambda setup, chain: ran.append(chain.index) or real(setup, chain))
    assert evaluate_chains(CONTRACT, OPTIONS, drawn, 1, rows) == whole
    assert ran == [1, 2]
    assert rows.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert summarise(read_rows(rows)) == summarise(whole)
    started = len(scripted)
    assert evaluate_chains(CONTRACT, OPTIONS, drawn[:2], 1, rows) == whole[:2], "fewer of them were run again"
    assert len(scripted) == started, "a policy was loaded for nothing"


def test_rows_of_something_else_are_refused(scripted, drawn, tmp_path):
    rows = tmp_path / "rows.jsonl"
    evaluate_chains(CONTRACT, OPTIONS, drawn[:1], 1, rows)
    with pytest.raises(DataError, match="made with max_steps 3, now 4"):
        evaluate_chains(CONTRACT, replace(OPTIONS, max_steps=4), drawn, 1, rows)
    with pytest.raises(DataError, match="env None, now 'calvin'"):
        evaluate_chains(CONTRACT, replace(OPTIONS, env="calvin"), drawn, 1, rows)
    with pytest.raises(DataError, match=r"holds other chains \(see index 0\)"):
        evaluate_chains(CONTRACT, OPTIONS, [replace(drawn[0], seed=5)], 1, rows)
    good = rows.read_text()
    rows.write_text("{}\n" + good)
    with pytest.raises(DataError, match="line 1 of"):
        evaluate_chains(CONTRACT, OPTIONS, drawn, 1, rows)
    rows.write_text(good + "\0" * 50 + "\n")  # after a power failure
    assert len(evaluate_chains(CONTRACT, OPTIONS, drawn[:2], 1, rows)) == 2
    assert len(read_rows(rows)) == 2


@pytest.mark.slow
def test_the_number_of_workers_does_not_change_the_rows(drawn):
    """With the shipped policy, which the processes load themselves."""
    options = replace(OPTIONS, max_steps=12)
    chains = [replace(chain, index=10 + chain.index) for chain in drawn[:2]]
    assert evaluate_chains(CONTRACT, options, chains, 2) == evaluate_chains(CONTRACT, options, chains, 1)


# Counting


def test_figures_against_a_count_by_hand():
    summary = summarise([outcome(0, 5, [10, 20, 30, 40, 50]), outcome(1, 2), outcome(2, 0), outcome(3, 5)])
    assert summary["chains"] == 4
    assert summary["success"] == [0.75, 0.75, 0.5, 0.5, 0.5]
    assert summary["average_length"] == 3.0
    assert summary["success_intervals"][2] == pytest.approx((0.150, 0.850), abs=1e-3)  # Wilson, 2 of 4
    kinds = {kind: (row["tried"], row["success_rate"]) for kind, row in summary["kinds"].items()}
    # Drawer: opened in chains 0, 1 and 3 but not in 2, closed in 0 and 3.
    assert kinds == {"drawer": (6, 5 / 6), "button": (3, 1.0), "push": (3, 2 / 3), "lift": (2, 1.0)}
    assert summary["failed_tasks"] == {"push_red_block_left": 1, "open_drawer": 1}
    assert summary["steps"] == (150 + 2 * 20 + 5 * 20) / 12
    assert summary["retrieved_right"] is None
    with pytest.raises(ArvrmError, match="no chains"):
        summarise([])


def test_bootstrap_interval_is_that_of_the_mean():
    values = np.random.default_rng(3).integers(0, 6, 400)
    low, high = bootstrap_interval(values)
    spread = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - spread, values.mean() + spread), abs=0.02)
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval(np.array([4, 4, 4])) == (4.0, 4.0)


# Films and the command


@pytest.mark.parametrize("completed", [0, 5])
@pytest.mark.parametrize("count", [1, 10, 30])
def test_extreme_results_can_be_drawn(completed, count, tmp_path):
    plot_success(tmp_path / "x.png", summarise([outcome(i, completed) for i in range(count)]), "x")
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_some_successes_and_each_kind_of_failure_are_worth_filming():
    outcomes = [outcome(i, completed) for i, completed in enumerate((5, 5, 1, 5, 1, 5, 0, 2, 3))]
    # Chains 2 and 4 end at the button, 6 and 8 at the drawer, 7 at a push.
    assert worth_filming(outcomes) == {0, 1, 3, 2, 6, 7}


def test_captions_are_drawn_and_tell_the_outcome():
    chain = Chain(3, 7, "D", ("open_drawer",) * 5, ("open the drawer",) * 5)
    image = np.full((360, 480, 3), 128, np.uint8)
    plain, failed = (captioned(image, chain, 1, verdict) for verdict in ("", "not done"))
    assert (image == 128).all()
    assert (plain[60:300] == 128).all()
    assert plain[:28].max() > 200
    assert (plain[-28:] != failed[-28:]).any()


def test_the_command_writes_figures_plot_and_films(scripted, drawn, tmp_path, capsys):
    # The second chain ends at its first task.
    first = [TASKS[chain.tasks[0]].kind for chain in drawn]
    scripted.unable = (first[1],)
    out, plot, films, rows = (tmp_path / name for name in ("x.json", "x.png", "films", "rows.jsonl"))
    command = ["evaluate", "--chains", "2", "--seed", "1", "--retrieval", "none", "--max-steps", "30", "--workers", "1",
               "--json", str(out), "--plot", str(plot), "--videos", str(films), "--rows", str(rows)]  # fmt: skip
    assert main(command) == 0
    printed = capsys.readouterr().out
    result = json.loads(out.read_text())
    assert [row["index"] for row in result["outcomes"]] == [0, 1]
    assert result["average_length"] == np.mean([row["completed"] for row in result["outcomes"]])
    assert f"{result['average_length']:10.2f}" in printed
    assert result["options"]["variants"] == "D"
    assert plot.read_bytes()[:4] == b"\x89PNG"
    assert len(read_rows(rows)) == 2
    names = [path.name for path in films.iterdir()]
    assert not [name for name in names if name.startswith(".")], "an unfinished film was left behind"
    assert f"chain_0001_failed_{first[1]}.mp4" in names
    frames, period = read_video(films / f"chain_0001_failed_{first[1]}.mp4")
    assert frames.shape == (30 + module.VERDICT_STEPS, 360, 480, 3)
    assert period == pytest.approx(0.1)


def test_the_command_says_why_chunks_were_refused(monkeypatch, drawn, capsys):
    """With chains that were rolled out elsewhere: the scripted policy asks for nothing that is refused."""
    stuck, done = (
        ChainOutcome(**asdict(chain), completed=count) for chain, count in zip(drawn[:2], (0, 5), strict=True)
    )
    stuck.refused, stuck.failure = 41, "open_drawer not done in 120 steps, 41 chunks refused: no joint solution"
    done.refused = 1
    monkeypatch.setattr(module, "draw_chains", lambda *_, **__: drawn)
    monkeypatch.setattr(module, "evaluate_chains", lambda *_: [stuck, done])
    assert main(["evaluate", "--chains", "2"]) == 0
    assert f"chunks refused: 42\n  chain {stuck.index}: {stuck.failure}\n" in capsys.readouterr().out


def test_options_of_chains_need_chains(capsys, tmp_path):
    assert main(["evaluate", "--rows", str(tmp_path / "x")]) == 1
    assert "--rows need --chains" in capsys.readouterr().err
