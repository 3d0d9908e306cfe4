"""`faq report` from the command line, on a real run and on folders that are none."""

import json

import pytest

from faq_keras.training.experiment import run
from tests.training import runs

_CONFIG = {"bits": 4, "recipe": "w4a4", "seed": 3, "data": {"size": 8, "channels": 1}}


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """A short finished run whose images can be found."""
    from faq_keras.cli import experiments

    source = runs.striped_source()
    monkeypatch.setattr(experiments, "load_source", lambda *args, **options: source)
    experiment = runs.experiment(pretraining=None, recipe=runs.course(epochs=1))
    run(experiment, str(tmp_path / "run"), _CONFIG)
    return tmp_path / "run"


def test_it_writes_a_page_markdown_and_json_and_measures_once(faq, workdir):
    outcome = faq("report", workdir, "--images=16", "--runtimes=xnnpack")
    assert outcome.status == 0, outcome.err
    assert "Gradient noise: run has no gradient_noise.jsonl" in outcome.out
    page = (workdir / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    data = json.loads((workdir / "report.json").read_text())
    (parity,) = data["sections"]["parity"]["data"]["runs"]
    assert (parity["runtime"], parity["mismatches"], parity["images"]) == ("xnnpack", 0, 16)
    assert "# Report: stripes\\_net, W4A4" in (workdir / "report.md").read_text()
    assert (workdir / "measured" / "model.model_card.md").is_file()

    kept = {path: path.stat().st_mtime_ns for path in (workdir / "measured").iterdir()}
    assert faq("report", workdir, "--images=16", "--runtimes=xnnpack").status == 0
    assert {path: path.stat().st_mtime_ns for path in (workdir / "measured").iterdir()} == kept
    assert (workdir / "report.html").read_text() == page


def test_without_measuring_the_gaps_are_named(faq, workdir):
    outcome = faq("report", workdir, "--nomeasure")
    assert outcome.status == 0
    assert "It was not measured" in (workdir / "report.md").read_text()
    assert not (workdir / "measured").exists()


def test_folders_without_runs_are_refused(refused, tmp_path):
    assert "no training run in" in refused("report", tmp_path)
    assert "is not a folder" in refused("report", tmp_path / "nowhere")
    assert "expected the arguments: WORKDIR" in refused("report")
    assert "tensorrt" in refused("report", tmp_path, "--runtimes=tensorrt")
