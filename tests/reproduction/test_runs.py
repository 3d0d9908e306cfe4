"""Rows and seeds: finished ones are not run again, failures and gaps stand in the table."""

import dataclasses
import json

import pytest

from faq_keras.reproduction.cells import Measured
from faq_keras.reproduction.experiments import PLANS
from faq_keras.reproduction.results import results
from faq_keras.reproduction.runs import Runs
from faq_keras.training.interruption import Interrupted
from tests.training import runs as stripes


class Trainer:
    """Writes what a training would leave, without one."""

    def __init__(self, failing=(), stop_at=None):
        self.failing, self.stop_at = failing, stop_at
        self.calls = []

    def __call__(self, config, folder):
        place = f"{folder.parent.name}/{folder.name}"
        self.calls.append(place)
        if place == self.stop_at:
            raise Interrupted(15, "Stopped by signal 15.")
        if folder.parent.name in self.failing:
            raise ValueError("The weights file resnet18.pth does not exist.")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.keras").write_bytes(b"")
        (folder / "config.json").write_text(config.to_json_best_effort())
        share = {"accuracy": 0.9 + config.seed / 1000, "top5": 0.99}
        result = {"status": "finished", "epochs": 1, "seconds": 60.0}
        result |= dict.fromkeys(("float", "quantized", "trained"), share)
        (folder / "result.json").write_text(json.dumps(result))


def made(tmp_path, name="table2", scale="small", seeds=(1, 2), only=None, **options):
    trainer = Trainer(**options)
    return Runs(PLANS[name](scale), tmp_path / scale, seeds, trainer, only), trainer


def document(name, scale, runs, seeds=(1, 2)):
    return results(name, scale, runs, seeds, f"faq reproduce {name}")


def test_every_seed_of_a_row_is_run_once_and_the_shared_start_only_with_the_first(tmp_path):
    runs, trainer = made(tmp_path)
    runs.run()
    assert trainer.calls[0] == "pretrained/seed1"
    assert trainer.calls.count("standard/seed2") == 1
    assert "pretrained/seed2" not in trainer.calls
    assert len(trainer.calls) == 1 + 9 * 2
    again, trainer = made(tmp_path)
    again.run()
    assert trainer.calls == []


def test_an_interrupted_series_goes_on_with_the_row_it_stopped_in(tmp_path):
    runs, _ = made(tmp_path, stop_at="step/seed1")
    with pytest.raises(Interrupted):
        runs.run()
    rest, trainer = made(tmp_path)
    rest.run()
    assert trainer.calls[0] == "step/seed1"
    assert "standard/seed1" not in trainer.calls


def test_a_row_that_fails_leaves_its_reason_and_the_others_their_turn(tmp_path):
    runs, trainer = made(tmp_path, failing=("step",))
    runs.run()
    assert runs.failed
    assert "uncalibrated/seed2" in trainer.calls
    section = document("table2", "small", runs).sections[0]
    assert (
        "learning rate in steps, seed 1: failed (The weights file resnet18.pth does not exist.)."
        in section.notices
    )
    row = next(row for row in section.tables[0].rows if row[0] == "learning rate in steps")
    assert (row[3], row[-1]) == ("not run", "failed")


def test_rows_whose_start_failed_say_so(tmp_path):
    runs, _ = made(tmp_path, failing=("pretrained",))
    runs.run()
    (outcome, _) = runs.outcomes("standard")
    assert outcome.reason == "It starts from 'pretrained', which is not finished."
    assert runs.outcomes("from_scratch")[0].status == "finished"


def test_a_part_of_the_rows_runs_with_what_it_starts_from_and_the_table_has_all(tmp_path):
    runs, trainer = made(tmp_path, only=["weight_decay"])
    runs.run()
    assert trainer.calls == ["pretrained/seed1", "weight_decay/seed1", "weight_decay/seed2"]
    section = document("table2", "small", runs).sections[0]
    states = {row[0]: row[-1] for row in section.tables[0].rows}
    assert states["weight decay 1e-4"] == "finished"
    assert states["not pretrained"] == "not run"
    assert len(states) == 9


def test_an_unfinished_run_says_how_far_it_came(tmp_path):
    runs, _ = made(tmp_path, only=["standard"])
    runs.run()
    folder = tmp_path / "small" / "standard" / "seed2"
    (folder / "result.json").write_text('{"status": "running", "epochs": 4}')
    (folder / "metrics.jsonl").write_text('{"epoch": 0}\n{"epoch": 1}\n{"epo')
    outcome = runs.outcomes("standard")[1]
    assert (outcome.status, outcome.reason) == ("not finished", "2 of 4 epochs")


def test_finished_runs_of_another_configuration_are_refused(tmp_path):
    made(tmp_path, only=["standard"])[0].run()
    path = tmp_path / "small" / "standard" / "seed1" / "config.json"
    path.write_text(path.read_text().replace('"epochs": 4', '"epochs": 3'))
    runs, trainer = made(tmp_path, only=["standard"])
    runs.run()
    assert trainer.calls == []
    assert runs.failed
    notices = document("table2", "small", runs).sections[0].notices
    assert any("epochs was 3 and is 4 now" in notice for notice in notices)


def test_mean_and_spread_over_the_seeds(tmp_path):
    runs, _ = made(tmp_path)
    runs.run()
    section = document("table2", "small", runs).sections[0]
    assert section.tables[0].rows[0][1:5] == ("69.82", "+0.00", "90.15 ± 0.07 (2 seeds)", "+0.00")
    assert section.data["standard"]["trained"]["values"] == pytest.approx([90.1, 90.2])
    assert Measured((1.0,)).text == "1.00 (1 seed)"
    assert Measured(()).text == "not run"


def test_table_1_lists_competitors_and_what_was_not_run(tmp_path):
    runs, _ = made(tmp_path, "table1", "full", (1,), only=["resnet18_w8a8"])
    runs.run()
    rows = document("table1", "full", runs, (1,)).sections[0].tables[0].rows
    assert ("resnet18", "Apprentice", "4, 8", "70.40", "", "", "", "published only") in rows
    assert rows[0][:6] == ("resnet18", "fp32", "32, 32", "69.76", "89.08", "90.10 (1 seed)")
    assert ("resnet50", "FAQ W4A4", "4, 4", "76.27", "92.89", "not run", "not run", "not run") in (
        rows
    )
    small, _ = made(tmp_path, "table1")
    small.run()
    rows = document("table1", "small", small).sections[0].tables[0].rows
    assert [row[1] for row in rows[:3]] == ["fp32", "FAQ W8A8", "FAQ W4A4"]
    assert "not run at this scale" in {row[-1] for row in rows}


@pytest.mark.parametrize("name", ["table1", "table2", "cifar10", "figure1", "figure2"])
@pytest.mark.parametrize("scale", ["smoke", "small", "full"])
def test_without_any_run_everything_is_said_to_be_not_run(tmp_path, name, scale):
    runs, trainer = made(tmp_path, name, scale)
    section = document(name, scale, runs).sections[0]
    assert trainer.calls == []
    assert len(section.notices) == sum(len(runs.outcomes(row.name)) for row in runs.rows)
    assert all("not run" in notice for notice in section.notices)


def test_figures_1_and_2_of_real_trainings(tmp_path):
    """The whole way with a tiny network, whose rows differ in bits and start."""
    from faq_keras.diagnostics import GradientNoise
    from faq_keras.training.experiment import run

    def train(config, folder):
        experiment = stripes.experiment(
            bits=config.bits or None,
            recipe=stripes.course(epochs=1),
            pretraining=None,
            calibration_batches=0 if config.from_scratch else 5,
            callbacks=lambda place: [GradientNoise(place / "gradient_noise.jsonl", every=4)],
        )
        run(experiment, str(folder), json.loads(config.to_json_best_effort()), resume=True)

    plan = [dataclasses.replace(row, start=None) for row in PLANS["figure1"]("smoke")]
    runs = Runs(plan, tmp_path / "smoke", (1,), train)
    runs.run()
    section = document("figure1", "smoke", runs, (1,)).sections[0]
    assert section.notices == ()
    assert {name: list(layers) for name, layers in section.data.items()} == {
        name: ["conv1", "conv2", "head"] for name in ("8 bits", "4 bits", "2 bits")
    }
    assert section.pictures[0].name == "noise-over-layers"

    names = ("pretrained", "noise_4_bits"), ("standard", "from_scratch")
    for old, new in zip(*names, strict=True):
        (tmp_path / "smoke" / old).rename(tmp_path / "smoke" / new)
    runs = Runs(PLANS["figure2"]("smoke"), tmp_path / "smoke", (1,), train, only=())
    section = document("figure2", "smoke", runs, (1,)).sections[0]
    assert all(0 < section.data[name]["mean"] < 1 for name in ("standard", "from_scratch"))
    assert section.data["standard"]["published"] == 0.994
