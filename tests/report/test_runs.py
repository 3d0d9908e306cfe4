"""Folders of runs that are missing, half finished, torn or edited: nothing is lost silently."""

import json

import pytest

from faq_keras.report.runs import read_run, runs_in
from faq_keras.report.schema import number


def line(epoch, accuracy=0.5, **more):
    return json.dumps({"epoch": epoch, "val_accuracy": accuracy, "loss": 1.0} | more) + "\n"


def test_a_torn_line_is_left_out_and_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(line(0) + line(1) + '{"epoch": 2, "val_acc')
    run = read_run(tmp_path)
    assert [entry["epoch"] for entry in run.epochs] == [0, 1]
    (problem,) = run.problems
    assert problem.startswith("metrics.jsonl: line 3 is torn or damaged and was left out: Untermin")


def test_of_an_epoch_that_was_run_twice_the_later_line_counts(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(line(0) + line(1, 0.1) + line(1, 0.9))
    assert [entry["val_accuracy"] for entry in read_run(tmp_path).epochs] == [0.5, 0.9]


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "much"])
def test_figures_that_are_no_finite_numbers_are_named_with_their_epochs(tmp_path, value):
    (tmp_path / "metrics.jsonl").write_text(line(0) + line(1, val_loss=value))
    (problem,) = read_run(tmp_path).problems
    assert problem == "metrics.jsonl: val_loss is not a finite number at epoch 1."
    assert number(value) is None


@pytest.mark.parametrize("content", ["{", "[1]", "\x00\x01"])
@pytest.mark.parametrize("name", ["config.json", "result.json", "plan.json"])
def test_damaged_files_are_named(tmp_path, name, content):
    (tmp_path / "metrics.jsonl").write_text(line(0))
    (tmp_path / name).write_text(content)
    (problem,) = read_run(tmp_path).problems
    assert problem.startswith(name)
    assert "left out" in problem


def test_a_half_finished_run_says_how_far_it_came(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(line(0) + line(1))
    (tmp_path / "result.json").write_text('{"status": "running", "epochs": 5}')
    run = read_run(tmp_path)
    assert not run.finished
    assert run.progress == "not finished: 2 of 5 epochs"


def test_runs_are_found_below_a_folder_and_named_by_their_places(tmp_path):
    for name in ("b/seed1", "a/seed2", "a/seed1"):
        (tmp_path / name / "pretraining").mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "pretraining" / "metrics.jsonl").write_text(line(0))
    assert [run.name for run in runs_in(tmp_path)] == ["a/seed1", "a/seed2", "b/seed1"]


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no training run in"):
        runs_in(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        runs_in(tmp_path / "nowhere")
