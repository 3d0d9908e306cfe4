"""The commands on good files, as a user calls them."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from faq_keras.cli.main import COMMANDS
from faq_keras.plan import QuantPlan
from faq_keras.tflite import load


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_the_overview_lists_every_command(faq, word):
    outcome = faq(word)
    assert outcome.status == 0
    assert "Example: faq " in outcome.out
    for command in COMMANDS:
        assert f"  {command} " in outcome.out


def test_no_command_shows_the_overview_and_is_an_error(faq):
    outcome = faq()
    assert outcome.status == 1
    assert "Usage: faq COMMAND" in outcome.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(faq, command):
    outcome = faq(command, "--help")
    assert outcome.status == 0
    assert f"Example: faq {command} " in outcome.out
    assert "Flags:" in outcome.out
    assert "--debug: " in outcome.out


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_export_compares_random_inputs(faq, files, tmp_path, weights):
    target = tmp_path / "m.tflite"
    outcome = faq("export", files["model"], f"--output={target}", f"--weights={weights}")
    assert outcome.status == 0
    assert f"Wrote {target}" in outcome.out
    assert "0 mismatches" in outcome.out
    assert target.read_bytes() == Path(files[weights]).read_bytes()
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"m.tflite", "m.model_card.md", "m.model_card.json"}


def test_export_compares_given_inputs(faq, files, tmp_path):
    target = tmp_path / "m.tflite"
    outcome = faq("export", files["model"], f"--output={target}", f"--verify_data={files['data']}")
    assert outcome.status == 0
    assert "0 mismatches" in outcome.out
    assert target.exists()


def test_flags_do_not_outlive_a_call(faq, files, tmp_path):
    """The second call has the defaults again, whatever the first one said."""
    first, second = tmp_path / "first.tflite", tmp_path / "second.tflite"
    flags = ("--weights=int4", "--input_type=float32")
    assert faq("export", files["model"], f"--output={first}", *flags).status == 0
    assert faq("export", files["model"], f"--output={second}").status == 0
    assert second.read_bytes() == Path(files["int8"]).read_bytes() != first.read_bytes()


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_verify_accepts_the_own_file(faq, files, tmp_path, weights):
    report = tmp_path / "report.json"
    outcome = faq(
        "verify", files["model"], files[weights], f"--data={files['data']}", f"--json={report}"
    )
    assert outcome.status == 0
    assert "0 mismatches" in outcome.out
    assert json.loads(report.read_text())


def test_verify_is_1_for_the_file_of_another_fine_tuning(faq, files):
    outcome = faq("verify", files["other"], files["int8"], f"--data={files['data']}")
    assert outcome.status == 1
    assert "Traceback" not in outcome.err


def test_unpack_writes_the_int8_twin(faq, files, tmp_path):
    target = tmp_path / "unpacked.tflite"
    outcome = faq("unpack", files["int4"], target)
    assert outcome.status == 0
    assert f"Wrote {target}" in outcome.out
    unpacked, packed = load(target), load(files["int4"])
    x = packed.random_inputs(4)
    assert (unpacked.run_int8(x) == packed.run_int8(x)).all()
    before, after = Path(files["int4"]).stat().st_size, target.stat().st_size
    assert before < after
    assert f"{after:,} bytes (packed: {before:,})" in outcome.out
    assert "model card" not in outcome.out


def test_unpack_tells_both_sizes_and_that_the_card_is_of_the_packed_file(faq, files, tmp_path):
    packed, target = tmp_path / "m.tflite", tmp_path / "unpacked" / "m.tflite"
    target.parent.mkdir()
    assert faq("export", files["model"], f"--output={packed}", "--weights=int4").status == 0
    shutil.copy(tmp_path / "m.model_card.json", target.parent)
    before = packed.stat().st_size
    outcome = faq("unpack", packed, target)
    assert outcome.status == 0
    assert f"{target.stat().st_size:,} bytes (packed: {before:,})" in outcome.out
    assert f"card {target.parent / 'm.model_card.json'} describes another file" in outcome.out


@pytest.mark.parametrize("card", ["", "[]", "{}", '{"sha256": 3}'])
def test_unpack_beside_a_damaged_card(faq, files, tmp_path, card):
    (tmp_path / "m.model_card.json").write_text(card)
    assert "describes another file" in faq("unpack", files["int4"], tmp_path / "m.tflite").out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("int8", ("CONV_2D", "2^", "int16")),
        ("int4", ("CONV_2D", "2^", "int4")),
        ("model", ("QuantPlan", "conv2d", "accumulator bound")),
        ("plan", ("QuantPlan", "conv2d", "W4A4")),
    ],
)
def test_inspect_shows_a_table(faq, files, name, words):
    outcome = faq("inspect", files[name])
    assert outcome.status == 0
    for word in words:
        assert word in outcome.out
    assert "candidates" not in outcome.out


@pytest.mark.parametrize("name", ["model", "plan"])
def test_inspect_shows_how_scales_were_chosen(faq, files, name):
    outcome = faq("inspect", files[name], "--fits")
    assert outcome.status == 0
    fits = [
        (tensor, fit)
        for layer in QuantPlan.load(files["plan"]).layers
        for tensor, fit in (
            (f"{layer.name}/kernel", layer.kernel_fit),
            (layer.name, layer.output_fit),
        )
        if fit is not None
    ]
    assert fits
    lines = outcome.out.splitlines()
    for tensor, fit in fits:
        (line,) = [line for line in lines if str(fit) in line and tensor in line.split()]
        assert f"2^{fit.chosen}" in line and f"{fit.error:.3g}" in line


def test_inspect_says_that_no_scale_was_fitted(faq, files, tmp_path):
    plan = QuantPlan.load(files["plan"])
    layers = [dataclasses.replace(la, kernel_fit=None, output_fit=None) for la in plan.layers]
    path = tmp_path / "paper.json"
    dataclasses.replace(plan, layers=tuple(layers)).save(path)
    assert "No exponent was fitted" in faq("inspect", path, "--fits").out


def test_a_tflite_file_has_no_fits(refused, files):
    assert "has no plan: --fits is for" in refused("inspect", files["int8"], "--fits")
