# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The study of ``arvrm ablate``: its configuration, plan, runner, statistics and report."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from learning_data import write_database, write_episodes
from study_stand_ins import FAKE, evaluation_killed_once, pretraining_fails

from arvrm_ros.cli import main
from arvrm_ros.evaluation import chains
from arvrm_ros.evaluation.study import StudyError, expand, load_study, planned, study_from_dict
from arvrm_ros.evaluation.study_report import QUESTIONS, Figures, Report, contrast, interval, share
from arvrm_ros.evaluation.study_runner import Results, remaining, run_job, run_study
from arvrm_ros.resources import resource

STUDY = {
    "data": {
        "robot": "data/robot",
        "episodes": 40,
        "small_episodes": 4,
        "human": "data/human",
        "clips": 8,
        "database": "data/clips.lance",
        "image_encoder": str(resource("checkpoints", "image_encoder.safetensors")),
    },
    "seeds": [0, 1],
    "training": {"pretrain_steps": 3, "finetune_steps": {"full": 5, "small": 2}},
    "evaluation": {"chains": 25, "max_steps": 10},
    "evaluations": {"seen": None, "random": {"mode": "random", "chains": 22}},
    "arms": {
        "none": {"pretrained": False, "human_clips": False, "changes": {"retrieval": False, "analogy": False}},
        "retrieval": {"changes": {"analogy": False}},
        "full": None,
        "gr1": {"policy": "gr1_small", "human_clips": False},
    },
    "runs": [
        {"arms": ["full"], "data": "full", "priority": 2},
        {"arms": ["none", "full"], "data": "small"},
        {"arms": ["full"], "data": "small", "evaluations": ["random"], "priority": 3},
    ],
}


def changed(path: str, value):
    values = copy.deepcopy(STUDY)
    *folders, key = path.split("/")
    inner = values
    for folder in folders:
        inner = inner[folder]
    inner[key] = value
    return values


def run(study, folder: Path, stages=FAKE, **only):
    results = Results(folder / "results.json")
    return run_study(study, folder / "out", results, 2, lambda: None, stages=stages, **only), results


def results_in_this_process(study, folder: Path) -> Results:
    results = Results(folder / "results.json")
    for job in expand(study):
        run_job(study, job, folder / "out", FAKE)
        results.harvest(folder / "out" / job.folder, planned(study))
    return results


# Configuration


@pytest.mark.parametrize("name", ["tabletop", "smoke"])
def test_the_studies_that_ship_are_valid_and_answer_every_question(name, tmp_path):
    study = load_study(name)
    assert planned(study)
    if name == "tabletop":
        report = Report(study, tmp_path / "results.md", "test")
        assert [report._planned_part(question) for question in QUESTIONS] == list(QUESTIONS)
        assert len(study.seeds) >= 3


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("arm", {}, "unknown arm; known are data, seeds"),
        ("data/epsiodes", 3, "data: unknown epsiodes; known are robot, episodes, small_episodes"),
        ("training", {"pretrain_steps": 3}, "training: missing finetune_steps"),
        ("training/finetune_steps/full", "5", "training: finetune_steps: full: '5' is not of type int"),
        ("training/batch", 0, "training: batch is 0"),
        ("data/small_episodes", 41, "small_episodes is more than episodes"),
        ("data", STUDY["data"] | {"encoder_steps": 5, "image_encoder": "e.pt"}, "called image_encoder.safetensors"),
        ("data/robot", 5, "data: robot: 5 is not a text"),
        ("seeds", [1, 1], "seeds: give at least one, and none twice"),
        ("seeds", 3, "seeds: expected a list, not 3"),
        ("arms/full", {"changes": {"alhpa": 1}}, "arms: full: .*unknown keys .*alhpa"),
        ("arms/full", {"mode": "best"}, "arms: full: unknown mode 'best'; use database, random"),
        ("arms/full", {"human_clips": False}, "arms: full: retrieval needs human_clips, or mode: none"),
        ("evaluations/seen", {"hard": True}, "evaluations: seen: unknown hard"),
        ("evaluations/pretraining", None, "choose another"),
        (
            "runs",
            [{"arms": ["none"], "data": "small"}, {"arms": ["ful"]}],
            "runs: entry 2: unknown arm 'ful'; known are none, retrieval, full",
        ),
        (
            "runs",
            [{"arms": ["none"], "data": "small"}, {"arms": ["full"], "variants": "ABE"}],
            "runs: entry 2: unknown variant 'E'",
        ),
        (
            "runs",
            [{"arms": ["none"], "data": "small"}, {"arms": ["full"], "data": "half"}],
            "runs: entry 2: unknown data 'half'; known are full, small",
        ),
        (
            "runs",
            [{"arms": ["none"], "data": "small"}, {"arms": ["none"], "data": "small"}],
            "runs: entry 2: none, small, ABCD, seen is asked for twice",
        ),
    ],
)
def test_a_mistake_in_the_configuration_is_named(path, value, message):
    with pytest.raises(StudyError, match=message):
        study_from_dict(changed(path, value), "tiny.yaml")


def test_a_missing_study_is_one_message_and_exit_1(capsys):
    assert main(["ablate", "nowhere", "--report-only"]) == 1
    assert "smoke, tabletop" in capsys.readouterr().err


# Plan


def test_jobs_come_by_priority_then_whole_seeds_each_after_its_pretraining():
    jobs = expand(study_from_dict(STUDY))
    names = [(job.cell.arm, job.cell.data, job.cell.evaluation, job.cell.seed) for job in jobs]
    assert names == [
        ("none", "small", "seen", 0),
        ("arvrm_small", "", "pretraining", 0),
        ("full", "small", "seen", 0),
        ("none", "small", "seen", 1),
        ("arvrm_small", "", "pretraining", 1),
        ("full", "small", "seen", 1),
        ("full", "full", "seen", 0),
        ("full", "full", "seen", 1),
        ("full", "small", "random", 0),
        ("full", "small", "random", 1),
    ]
    assert jobs[2].needs == jobs[1].folder
    assert jobs[2].folder == jobs[8].folder, "the same run, evaluated in two ways"
    assert not jobs[0].needs


def test_arms_that_differ_in_stage_2_alone_share_a_pretraining():
    runs = [{"arms": ["full", "retrieval", "gr1"]}]
    needs = [job.needs for job in expand(study_from_dict(changed("runs", runs))) if not job.is_pretraining]
    assert needs[0] == needs[1] != needs[2]


def test_fingerprints_change_with_what_decides_a_result_and_not_with_paths(tmp_path):
    before = planned(study_from_dict(STUDY))
    encoder = tmp_path / "elsewhere.safetensors"
    encoder.write_bytes(resource("checkpoints", "image_encoder.safetensors").read_bytes())
    same = changed("data", STUDY["data"] | {"robot": "/x", "database": "/y", "image_encoder": str(encoder)})
    assert planned(study_from_dict(same | {"out": "/z", "results": "r.json"})) == before
    assert planned(study_from_dict(changed("arms/full", {"changes": {"conditional": False}}))) == before

    def stale(path, value):
        after = planned(study_from_dict(changed(path, value)))
        return {(cell.arm, cell.data) for cell in before if after[cell] != before[cell]}

    stage_1, none, full = {("arvrm_small", "")}, {("none", "small")}, {("full", "small"), ("full", "full")}
    assert stale("training/pretrain_steps", 4) == stage_1 | full
    assert stale("training/finetune_steps/full", 6) == {("full", "full")}
    assert stale("data/small_episodes", 5) == none | {("full", "small")}
    assert stale("data/clips", 9) == stage_1 | full
    assert stale("evaluation/max_steps", 11) == none | full
    assert stale("evaluation/seed", 1) == none | full
    assert stale("arms/full", {"changes": {"alpha": 0.25}}) == full
    assert stale("arms/full", {"mode": "random"}) == full
    assert stale("evaluations/seen", {"own_words": True}) == full  # the others have no captions to read in
    encoder.write_bytes(b"other weights")
    assert stale("data/image_encoder", str(encoder)) == stage_1 | none | full


# Runner


def test_a_study_runs_and_is_not_repeated(tmp_path, capsys):
    study = study_from_dict(STUDY)
    outcome, results = run(study, tmp_path)
    assert (outcome.done, outcome.failed) == (10, [])
    cells = planned(study)
    assert results.matching(cells).keys() == cells.keys()
    rows = Results(tmp_path / "results.json").rows
    row = next(row for cell, row in rows.items() if cell[:4] == ("full", "small", "ABCD", "random"))
    assert len(row["completed"]) == 22
    assert row["training"] == {"gripper": 0.9}
    folders = [path for path in (tmp_path / "out").iterdir() if (path / "trainings").is_file()]
    assert len(folders) == 6
    for folder in folders:
        expected = "False\n" if folder.name.startswith("none") else "weights\n"
        assert (folder / "trainings").read_text() == expected, "trained once, from stage 1 where there is one"
        assert not (folder / "state.pt").exists()

    outcome, _ = run(study, tmp_path)
    assert outcome.done == 0
    (tmp_path / "out").rename(tmp_path / "gone")  # another machine: only the results came along
    outcome, _ = run(study, tmp_path)
    assert outcome.done == 0
    assert "0 jobs to do" in capsys.readouterr().out

    longer = study_from_dict(changed("evaluation/max_steps", 11))
    again = remaining(expand(longer), tmp_path / "gone", results, planned(longer))
    assert [job.is_pretraining for job in again] == [False] * 8, "what is trained is only evaluated anew"
    assert len(remaining(expand(longer), tmp_path / "out", results, planned(longer))) == 10, "nothing is trained here"


def test_more_chains_go_on_where_fewer_ended(tmp_path):
    runs = [{"arms": ["none"]}]
    results_in_this_process(study_from_dict(changed("runs", runs)), tmp_path)
    more = study_from_dict(changed("runs", runs) | {"evaluation": {"chains": 30, "max_steps": 10}})
    results = results_in_this_process(more, tmp_path)
    assert {len(row["completed"]) for row in results.rows.values()} == {30}
    files = list((tmp_path / "out").glob("*/rows-*.jsonl"))
    assert [path.read_text().count("\n") for path in files] == [30, 30], "one file per seed"
    assert {path.read_text() for path in (tmp_path / "out").glob("*/trainings")} == {"False\n"}, "trained once"


def test_a_killed_job_is_reported_stops_no_other_and_goes_on_where_it_was(tmp_path):
    study = study_from_dict(changed("runs", [{"arms": ["full", "none", "gr1"]}]) | {"seeds": [0]})
    outcome, results = run(study, tmp_path, replace(FAKE, evaluate=evaluation_killed_once))
    assert outcome.done == 4
    assert len(outcome.failed) == 1
    assert "full, full data, ABCD, seed 0: its process ended with -9" in outcome.failed[0]
    lost = planned(study).keys() - results.matching(planned(study)).keys()
    assert [cell.arm for cell in lost] == ["full"]
    outcome, results = run(study, tmp_path)
    assert (outcome.done, outcome.failed) == (1, [])
    assert len(results.matching(planned(study))) == len(planned(study))
    for path in (tmp_path / "out").glob("full-*/trainings"):
        assert path.read_text() == "weights\n", "no training is repeated"


def test_what_needs_a_failed_pretraining_is_not_started(tmp_path):
    outcome, results = run(study_from_dict(changed("seeds", [3])), tmp_path, replace(FAKE, pretrain=pretraining_fails))
    assert outcome.done == 1
    assert sum("no clip shows a hand" in message for message in outcome.failed) == 1
    assert sum("not started, as its pretraining failed" in message for message in outcome.failed) == 3
    assert {cell.arm for cell in results.rows} == {"none"}


def test_arms_and_seeds_can_be_chosen(tmp_path):
    study = study_from_dict(STUDY)
    outcome, results = run(study, tmp_path, arms=["none"], seeds=[1])
    assert outcome.done == 1
    assert [cell[:5] for cell in results.rows] == [("none", "small", "ABCD", "seen", 1)]
    with pytest.raises(StudyError, match="no arm nothing; it has none, retrieval, full"):
        run(study, tmp_path, arms=["nothing"])
    with pytest.raises(StudyError, match="no seed 7; it has 0, 1"):
        run(study, tmp_path, seeds=[7])
    with pytest.raises(StudyError, match="no data some; it has full, small"):
        run(study, tmp_path, amounts=["some"])


def test_little_data_does_not_wait_for_all(tmp_path):
    study = study_from_dict(STUDY)
    _, results = run(study, tmp_path, amounts=["small"])
    assert {cell.data for cell in results.rows if cell.evaluation != "pretraining"} == {"small"}
    run(study, tmp_path)
    assert (tmp_path / "out" / "asked").read_text().split() == ["4", "40"]
    assert len(results.rows) < len(Results(tmp_path / "results.json").rows) == len(planned(study))


def test_two_studies_do_not_work_in_one_folder(tmp_path):
    study = study_from_dict(STUDY)

    def prepare(*_):
        with pytest.raises(StudyError, match="another arvrm ablate works in"):
            run(study, tmp_path)
        raise StudyError("enough")

    with pytest.raises(StudyError, match="enough"):
        run(study, tmp_path, replace(FAKE, prepare=prepare))


def test_damaged_results_are_not_overwritten(tmp_path):
    (tmp_path / "results.json").write_text('{"rows": [{"arm": "full"}]}')
    with pytest.raises(StudyError, match="is damaged"):
        run(study_from_dict(STUDY), tmp_path)


# Statistics


def test_an_interval_matches_theory_where_there_is_one():
    """One seed: the interval of a mean of C values is 1.96 standard errors on each side."""
    values = np.random.default_rng(0).normal(2.0, 1.0, (1, 400))
    estimate = interval(values)
    error = 1.96 * values.std() / 20
    assert estimate.value == pytest.approx(values.mean())
    assert (estimate.low, estimate.high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.01)


def test_seeds_that_only_repeat_each_other_add_no_certainty():
    chains = np.random.default_rng(1).normal(0.0, 1.0, (1, 100))
    one, five = interval(chains), interval(np.repeat(chains, 5, axis=0))
    assert five.high - five.low == pytest.approx(one.high - one.low, rel=0.02)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Seeds and chains with effects of their own, of the size trainings have; 0 is the truth."""
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(100):
        seeds, chains = rng.normal(0, 0.2, (3, 1)), rng.normal(0, 1.0, (1, 60))
        estimate = interval(seeds + chains + rng.normal(0, 1.0, (3, 60)))
        covered += estimate.low <= 0 <= estimate.high
    assert covered >= 91


def test_where_all_chains_agree_the_interval_is_not_a_point():
    """Wilson's for 10 of 10: 0.722 to 1, whatever the number of seeds."""
    estimate = share(np.full((3, 10), 5.0), 5)
    assert (estimate.value, estimate.high) == (5.0, pytest.approx(5.0))
    assert estimate.low == pytest.approx(5 * 0.7225, abs=1e-3)


def figures(*seeds, scenes="x"):
    return Figures({number: np.array(chains) for number, chains in enumerate(seeds)}, scenes)


def test_verdicts_follow_from_the_intervals():
    rng = np.random.default_rng(3)
    base = [rng.integers(0, 5, 60) for _ in range(3)]
    a, better = figures(*base), figures(*(lengths + (rng.random(60) < 0.6) for lengths in base))
    up, down, same = contrast([better], [a]), contrast([a], [better]), contrast([a], [a])
    assert (up.verdict, down.verdict, same.verdict) == ("higher", "lower", "no difference shown")
    assert up.estimate.value == -down.estimate.value == pytest.approx(0.6, abs=0.1)
    assert up.estimate.high - up.estimate.low < 0.4, "pairing takes the chains' own differences out"
    assert (up.seeds, up.chains) == (3, 60)
    few = contrast([figures(better.values[0][:10])], [figures(base[0][:10])])
    assert few.verdict == "too few chains to tell"
    assert contrast([figures(better.values[0])], [figures(base[0])]).verdict == "higher, for one seed"
    # On average far above, but one of the three seeds says the opposite.
    torn = figures(base[0] + 4, base[1] + 4, base[2] - 1)
    assert contrast([torn], [a]).verdict == "no difference shown"
    assert contrast([figures(*base, scenes="y")], [a]) is None


def test_a_gain_can_be_compared_with_another():
    base = [np.array([1, 2, 3] * 10) for _ in range(2)]
    one, two, three = (figures(*(lengths + k for lengths in base)) for k in (1, 2, 3))
    assert contrast([three, one], [figures(*base), two]).estimate.value == pytest.approx(2.0)  # (3 - 0) - (2 - 1)


# Report


def test_the_report_says_what_is_missing_and_keeps_the_notes(tmp_path):
    study, path = study_from_dict(STUDY), tmp_path / "docs" / "results.md"
    report = Report(study, path, "arvrm ablate tiny")
    report.write(Results(tmp_path / "results.json"))
    empty = path.read_text()
    assert "Written by `arvrm ablate tiny`" in empty
    assert "0 of 8 evaluations are done" in empty
    assert "| none, little data | | | | | | not run yet | |  |" in empty
    assert "| GR-1, " not in empty, "the study does not plan it"
    assert [line[4] for line in empty.splitlines() if line.startswith("## (")] == ["a", "f"]
    assert not list(tmp_path.rglob("*.png"))

    kept = "\n\nWhat was tried: more clips. It helped | a little.\n\n"
    begin, end = "<!-- notes:begin -->", "<!-- notes:end -->"
    path.write_text(empty.split(begin)[0] + begin + kept + end + empty.split(end)[1])
    results = results_in_this_process(study, tmp_path)
    report.write(results)
    text = path.read_text()
    assert begin + kept + end in text
    assert "8 of 8 evaluations are done" in text
    assert "| AR-VRM against none, little data | +" in text
    assert "| higher | 2 × 25 |" in text
    assert "| arvrm_small | model_px | 30.5 (30–31) |" in text
    assert "| retrieved against random clips when acting, little data |" in text
    assert {p.name for p in path.parent.joinpath("images").iterdir()} == {f"{path.stem}_{q}.png" for q in "af"}
    pictures = [p.read_bytes() for p in sorted(path.parent.rglob("*.png"))]
    Report(study, path, "arvrm ablate tiny").write(results)
    assert path.read_text() == text
    assert [p.read_bytes() for p in sorted(path.parent.rglob("*.png"))] == pictures

    after = study_from_dict(changed("evaluation/seed", 1))
    Report(after, path, "arvrm ablate tiny").write(results)
    assert "0 of 8 evaluations are done; 8 with other settings are left out" in path.read_text()


def test_arms_of_ones_own_get_a_table_against_the_full_model(tmp_path):
    values = changed("arms/sharper", {"changes": {"alpha": 0.2}})
    values["runs"] = [{"arms": ["full", "sharper"], "data": "small"}]
    study = study_from_dict(values)
    results = results_in_this_process(study, tmp_path)
    Report(study, tmp_path / "results.md", "arvrm ablate tiny").write(results)
    text = (tmp_path / "results.md").read_text()
    assert "Other settings, with what they change: `sharper` alpha: 0.2." in text
    assert "| sharper, little data, ABCD, seen against AR-VRM | -" in text


def test_a_page_written_by_hand_is_not_overwritten(tmp_path):
    path = tmp_path / "results.md"
    path.write_text("# Results\nby hand\n")
    with pytest.raises(StudyError, match="not written by arvrm ablate"):
        Report(study_from_dict(STUDY), path, "test")
    assert path.read_text() == "# Results\nby hand\n"


# All of it, really


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_tiny_study_from_end_to_end(tmp_path, capsys, monkeypatch):
    """Two arms trained for some steps and rolled out in the simulator, in processes of their own."""
    # Whether the expert can do the chain does not matter here, and trying takes long.
    monkeypatch.setattr(chains, "expert_finishes", lambda *_: True)
    write_episodes(tmp_path / "robot", 6)
    write_database(tmp_path / "clips.lance")
    shrunk = {"width": 32, "layers": 1, "heads": 2, "keypoint_width": 16, "keypoint_layers": 1, "history": 3}
    data = STUDY["data"] | {
        "robot": str(tmp_path / "robot"),
        "human": str(tmp_path / "human"),
        "database": str(tmp_path / "clips.lance"),
        "episodes": 6,
    }
    values = STUDY | {
        "data": data,
        "seeds": [0],
        "training": {"pretrain_steps": 2, "finetune_steps": {"full": 2, "small": 2}, "batch": 4, "pretrain_batch": 2},
        "evaluation": {"chains": 1, "max_steps": 3},
        "arms": {
            "none": STUDY["arms"]["none"] | {"changes": shrunk | {"retrieval": False, "analogy": False}},
            "full": {"changes": shrunk},
        },
        "runs": [{"arms": ["none", "full"], "data": "small"}],
        "out": str(tmp_path / "out"),
        "results": str(tmp_path / "results.json"),
        "report": str(tmp_path / "results.md"),
    }
    (tmp_path / "out").mkdir()
    (tmp_path / "human").mkdir()
    settings = {**study_from_dict(values).data.__dict__, "robot_contract": "tabletop"}
    (tmp_path / "out" / "data.json").write_text(json.dumps(settings))  # the data is made above
    (tmp_path / "tiny.yaml").write_text(json.dumps(values))  # YAML contains JSON
    assert main(["ablate", str(tmp_path / "tiny.yaml"), "--workers", "1"]) == 0
    assert "2 of 2 evaluations are done" in (tmp_path / "results.md").read_text()
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [len(row["completed"]) for row in rows if "completed" in row] == [1, 1]
    capsys.readouterr()
    assert main(["ablate", str(tmp_path / "tiny.yaml")]) == 0
    assert "0 jobs to do, 3 of 3 results are there" in capsys.readouterr().out
