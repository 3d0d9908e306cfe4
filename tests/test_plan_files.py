"""Plan files that say what cannot be: refused when they are read, and never shown raw."""

import copy
import dataclasses
import json
import time

import keras
import pytest

import faq_keras
from faq_keras.cli.main import dispatch
from faq_keras.plan import QuantPlan
from faq_keras.rewrite.keras3 import record
from faq_keras.saved_models import load_keras
from tests import networks


@pytest.fixture(scope="module")
def q():
    return faq_keras.apply(networks.tiny_resnet(), 4, calibration_data=networks.images(8))


@pytest.fixture(scope="module")
def data(q):
    return json.loads(faq_keras.plan_of(q).to_json())


SETTINGS = [
    ("weight_bits", -1), ("weight_bits", 0), ("weight_bits", 1), ("weight_bits", 9),
    ("weight_bits", 10**30), ("activation_bits", -1), ("activation_bits", 16),
    ("activation_bits", 10**30), ("logits_bits", 8), ("logits_bits", 12),
    ("percentile", 1e308), ("percentile", -5), ("percentile", 49.9), ("percentile", 100.1),
    ("calibration_batches", -1), ("calibration_batches", 10**30), ("recipe", "w4\x1b[2Ja4"),
    ("recipe", "w4a4\n- Parity: 0 mismatches"), ("recipe", "x" * 10**5), ("recipe", "\u202ew4a4"),
    ("recipe", "\ud800"), ("numerics", "xnn\x07pack"), ("numerics", "x" * 1000), ("numerics", ""),
    ("scales", "best"), ("post_training", "magic\x1b[0m"),
    ("agreement", [{"output": "d", "images": -1, "top1": 0.5, "sqnr": 3.0}]),
    ("agreement", [{"output": "d", "images": 8, "top1": 7.5, "sqnr": 3.0}]),
    ("agreement", [{"output": "d", "images": 8, "top1": 0.5, "sqnr": 1e300}]),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), SETTINGS, ids=lambda v: repr(v)[:24])
def test_settings_out_of_their_ranges_are_refused(data, field, value):
    changed = copy.deepcopy(data)
    changed["settings"][field] = value
    with pytest.raises(ValueError, match="is not a quantization plan") as error:
        QuantPlan.from_json(json.dumps(changed))
    text = str(error.value)
    assert text.isprintable() and len(text) < 1000
    named = "Agreement" if field == "agreement" else field
    assert named in text


def test_settings_of_a_saved_model_are_checked_too(q, tmp_path):
    from zipfile import ZipFile

    q.save(tmp_path / "q.keras")
    with ZipFile(tmp_path / "q.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    text = members["config.json"].decode()
    assert text.count('"weight_bits": 4') == 1
    members["config.json"] = text.replace('"weight_bits": 4', '"weight_bits": -1').encode()
    with ZipFile(tmp_path / "bad.keras", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    said = (
        "bad.keras is not a readable Keras model: QuantizedInput 'image.*': The field weight_bits"
    )
    with pytest.raises(ValueError, match=said):
        load_keras(tmp_path / "bad.keras")


@pytest.mark.parametrize(
    "text",
    ['"weight_bits": 4', '"kind": "input"', '"layers": [', '"format": "faq_keras.plan/1"'],
)
def test_keys_that_stand_twice_are_refused(data, text):
    twice = json.dumps(data).replace(text, f"{text.split(':')[0]}: 1, {text}", 1)
    with pytest.raises(ValueError, match=rf"{text.split(':')[0].strip(chr(34))}' stands twice"):
        QuantPlan.from_json(twice)


def test_what_a_policy_makes_agrees_with_its_settings():
    """Whatever bits and overrides are asked for, the plan can be saved and read."""
    model, x = networks.tiny_resnet(), networks.images(8)
    for bits, policy in (
        (8, faq_keras.Policy(overrides={".*": 4})),
        (4, faq_keras.Policy(overrides={".*": 8})),
        ((2, 8), faq_keras.Policy(first_last_bits=7)),
        ((8, 3), None),
    ):
        plan = faq_keras.plan_of(faq_keras.apply(model, bits, calibration_data=x, policy=policy))
        assert QuantPlan.from_json(plan.to_json()) == plan


def test_a_plan_of_many_layers_is_read_in_no_time(data):
    changed = copy.deepcopy(data)
    layer = changed["layers"][1]
    changed["layers"] += [layer | {"name": f"layer {i}"} for i in range(20_000)]
    start = time.process_time()
    plan = QuantPlan.from_json(json.dumps(changed))
    assert len(str(plan)) > 20_000 and time.process_time() - start < 10


EVIL = "a\x1b]0;owned\x07\x1b[2J\r\n[red]b[/red]\u202e\ud800"


def test_names_reach_no_terminal_raw(data, q, tmp_path, capsys):
    changed = copy.deepcopy(data)
    old = changed["layers"][0]["name"]
    text = json.dumps(changed).replace(json.dumps(old), json.dumps(EVIL))
    (tmp_path / "plan.json").write_text(text)
    assert EVIL not in str(QuantPlan.load(tmp_path / "plan.json"))
    clone = keras.models.clone_model(q)
    clone.name = EVIL.replace("\ud800", "").replace("/", "")
    clone.save(tmp_path / "q.keras")
    bad = tmp_path / f"no{EVIL[:3]}.keras"
    bad.write_bytes(b"x")
    commands = [["inspect", tmp_path / "plan.json"], ["inspect", tmp_path / "q.keras"],
                ["inspect", bad], ["inspect", f"{tmp_path}/{EVIL[:8]}.tflite"],
                ["export", tmp_path / "q.keras", f"--output={tmp_path}/m.tflite"],
                ["nothing\x1b[2J"], ["inspect", "--nothing\x1b[2J"]]  # fmt: skip
    for words in commands:
        dispatch([str(word) for word in words])
        outcome = capsys.readouterr()
        assert words[0] != "export" or not outcome.err, outcome.err
        shown = outcome.out + outcome.err
        assert shown.replace("\n", "").isprintable(), repr(shown)
    print(shown)
    card = (tmp_path / "m.model_card.md").read_text()
    assert card.replace("\n", "").isprintable() and "a\\x1b" in card


def test_markup_in_names_is_text(capsys):
    from faq_keras.cli import common

    common.print_table(("[bold]x[/bold]", "y"), [("[red]conv[0]", "[/]")], "[link=x]t")
    out = capsys.readouterr().out
    assert all(part in out for part in ("[bold]x[/bold]", "[red]conv[0]", "[/]", "[link=x]t"))


def test_recipes_with_odd_names_are_refused(q):
    settings = faq_keras.plan_of(q).settings
    with pytest.raises(ValueError, match="recipe"):
        dataclasses.replace(settings, recipe="a\nb")
    with pytest.raises(ValueError, match="recipe"):
        record(q, recipe="a\x1b")
