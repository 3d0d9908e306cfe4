"""The report of a real run: every figure, and every gap named in its place."""

import dataclasses
import json

import pytest

from faq_keras.plan import QuantPlan
from faq_keras.plan_parts import Agreement
from faq_keras.report.run_report import run_report
from tests.report.conftest import images_of, rewrite


def sections(folder, **options):
    return {part.name: part for part in run_report(folder, images_of, **options).sections}


def test_a_finished_run_fills_every_section(workdir):
    parts = sections(workdir, measure=False)  # everything was measured: see the fixture
    assert list(parts) == [
        "accuracy",
        "curves",
        "noise",
        "similarity",
        "activations",
        "layers",
        "parity",
        "provenance",
    ]
    assert [(name, part.notices) for name, part in parts.items() if part.notices] == []
    pictures = [picture.name for part in parts.values() for picture in part.pictures]
    assert pictures == [
        "training-curves",
        "noise-over-layers",
        "noise-over-updates",
        "similarity-of-layers",
        "activation-histograms",
        "signal-to-noise",
        "layer-costs",
    ]


def test_figures_are_those_of_the_files(workdir):
    parts = sections(workdir, measure=False)
    result = json.loads((workdir / "result.json").read_text())
    (row,) = parts["accuracy"].tables[0].rows
    assert row[:4] == ("stripes", "W4A4", "w4a4", "finished")
    assert row[6] == f"{100 * result['trained']['accuracy']:.2f} %"
    assert [run[:2] for run in parts["parity"].tables[0].rows] == [
        ("xnnpack", "0"),
        ("builtin", "0"),
    ]
    sizes = [int(row[5].replace(",", "")) for row in parts["layers"].pictures[0].numbers.rows]
    assert 0 < sum(sizes) < (workdir / "measured" / "model.tflite").stat().st_size
    cosines = parts["similarity"].data["stripes"]
    assert 0 < cosines["network"] < 1
    assert list(cosines["layers"]) == ["conv1", "conv2", "head"]


def test_the_choice_of_every_scale_is_shown_with_and_without_an_exported_file(workdir):
    plan = QuantPlan.load(workdir / "plan.json")
    fits = {la.name: la.output_fit for la in plan.layers if la.output_fit}
    fits |= {f"{la.name}/kernel": la.kernel_fit for la in plan.layers if la.kernel_fit}
    assert fits
    whole = sections(workdir, measure=False)["layers"]
    (workdir / "model.keras").unlink()
    alone = sections(workdir, measure=False)["layers"]
    assert alone.tables[0].caption == "The plan"
    for part in (whole, alone):
        rows = part.tables[-1].rows
        assert {row[0]: row[3] for row in rows} == {name: str(fit) for name, fit in fits.items()}
        assert all(row[2] == f"{fits[row[0]].error:.3g}" for row in rows)


@pytest.mark.parametrize("step", [None, "reconstruct"])
def test_the_summary_has_the_agreement(workdir, step):
    plan = QuantPlan.load(workdir / "plan.json")
    entry = Agreement("head", 64, 0.953, 21.4)
    settings = dataclasses.replace(plan.settings, agreement=(entry,), post_training=step)
    dataclasses.replace(plan, settings=settings).save(workdir / "plan.json")
    said = f"Agreement with the float network after {step or 'apply'}: {entry}."
    assert said in run_report(workdir, images_of, measure=False).summary
    rewrite(workdir / "result.json", lambda data: data.update(status="running"))
    assert said in run_report(workdir, images_of, measure=False).summary


def test_other_settings_are_measured_again_unless_nothing_is_to_be_measured(workdir):
    options = {"count": 3, "runtimes": ("reference",)}
    found = {}
    for measure in (False, True):
        (row, *others) = sections(workdir, measure=measure, **options)["parity"].tables[0].rows
        found[measure] = (row[0], row[4], len(others))
    assert found == {False: ("xnnpack", "64", 1), True: ("reference", "3", 0)}


def test_a_network_that_has_changed_is_measured_again(workdir):
    (workdir / "model.keras").write_bytes((workdir / "start.keras").read_bytes())
    parts = sections(workdir, measure=False)
    for name in ("similarity", "activations", "layers", "parity"):
        assert "It was not measured" in parts[name].notices[0]
    assert sections(workdir)["similarity"].data["stripes"]["network"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "where", "said"),
    [
        ("model.keras", "parity", "model.keras is missing"),
        ("start.keras", "similarity", "start.keras is missing"),
        ("metrics.jsonl", "curves", "There is no logged epoch"),
        ("gradient_noise.jsonl", "noise", "no gradient_noise.jsonl"),
        ("config.json", "provenance", "configuration is not known"),
    ],
)
def test_a_missing_file_is_named_in_its_place(workdir, name, where, said):
    (workdir / name).unlink()
    assert any(said in notice for notice in sections(workdir, measure=False)[where].notices)


def test_a_damaged_model_is_named(workdir):
    (workdir / "model.keras").write_bytes(b"PK\x03\x04 torn")
    (notice,) = sections(workdir)["similarity"].notices
    assert "model.keras cannot be read" in notice


def test_images_that_are_gone_are_named(workdir):
    def gone(_run, _count):
        raise ValueError("The folder /data does not exist.")

    rewrite(workdir / "measured" / "deployment.json", lambda data: data.update(of={}))
    parts = {part.name: part for part in run_report(workdir, gone).sections}
    assert parts["parity"].notices == (
        "stripes: Parity needs images: The folder /data does not exist.",
    )


def test_gaps_in_the_logs_leave_gaps_in_the_curves(workdir):
    log = workdir / "metrics.jsonl"
    first, second = log.read_text().splitlines()
    broken = json.loads(second) | {"val_accuracy": None, "loss": float("nan")}
    log.write_text(f"{first}\n{json.dumps(broken)}\n")
    parts = sections(workdir, measure=False)
    assert any("val_accuracy is not a finite number" in n for n in parts["accuracy"].notices)
    assert parts["curves"].pictures[0].numbers.rows[1][2:4] == ("-", "-")
    assert json.loads(json.dumps(parts["curves"].to_dict(), allow_nan=False))["notices"] == []


def test_several_runs_are_compared(workdir):
    folder = workdir.parent
    (folder / "torn").mkdir()
    (folder / "torn" / "metrics.jsonl").write_text('{"epoch"')
    document = run_report(folder, images_of, measure=False)
    parts = {part.name: part for part in document.sections}
    assert document.title == "Report: 2 training runs"
    assert [row[0] for row in parts["accuracy"].tables[0].rows] == ["stripes", "torn"]
    assert any(
        "torn: metrics.jsonl: line 1 is torn or damaged" in n for n in parts["accuracy"].notices
    )
    assert parts["layers"].tables == ()
