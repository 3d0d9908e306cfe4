"""The plan: JSON in and out, consistency, what it refuses."""

import dataclasses

import pytest

from faq_keras.plan import (
    KernelSpec,
    LayerPlan,
    MultiplierSpec,
    PlanSettings,
    QuantPlan,
    TensorSpec,
)


@pytest.fixture
def plan():
    return QuantPlan(
        PlanSettings(weight_bits=4, activation_bits=4, recipe="w4a4"),
        (
            LayerPlan("x", "input", (), TensorSpec(8, -8, False)),
            LayerPlan(
                "conv",
                "conv",
                ("x",),
                TensorSpec(4, -1, False, limit=12),
                KernelSpec(8, 6.5),
                MultiplierSpec(8, -5),
            ),
            LayerPlan("fc", "dense", ("conv",), TensorSpec(16, -10, True), KernelSpec(8, 6.5)),
        ),
    )


def test_plan_survives_json_and_files(plan, tmp_path):
    assert QuantPlan.from_json(plan.to_json()) == plan
    plan.save(tmp_path / "plän 1.json")
    loaded = QuantPlan.load(tmp_path / "plän 1.json")
    assert loaded == plan
    assert loaded.hash == plan.hash


def test_hash_changes_with_any_exponent(plan):
    conv = dataclasses.replace(plan["conv"], output=TensorSpec(4, -2, False, limit=12))
    assert QuantPlan(plan.settings, (plan["x"], conv, plan["fc"])).hash != plan.hash


def test_table_names_every_tensor(plan):
    text = str(plan)
    for name in ("x", "conv/kernel", "conv/multiplier", "conv/bias", "conv", "fc/kernel", "fc"):
        assert f"\n{name} " in text
    assert "2^-1" in text
    assert "W4A4" in text


@pytest.mark.parametrize(
    ("spec", "zero_point", "codes"),
    [
        (TensorSpec(8, -5, False), -128, (0, 255)),
        (TensorSpec(4, -1, False), 112, (0, 15)),
        (TensorSpec(2, 0, False), 124, (0, 3)),
        (TensorSpec(4, -1, False, limit=12), 112, (0, 12)),
        (TensorSpec(8, -5, True), 0, (-128, 127)),
        (TensorSpec(16, -10, True), 0, (-32768, 32767)),
    ],
)
def test_zero_point_puts_the_highest_code_at_the_container_s_end(spec, zero_point, codes):
    assert spec.zero_point == zero_point
    assert (spec.lowest, spec.highest) == codes


@pytest.mark.parametrize(
    "arguments", [(4, 0, True), (9, 0, False), (1, 0, False), (8, 1000, False), (4, 0, False, 16)]
)
def test_impossible_tensors_are_refused(arguments):
    with pytest.raises(ValueError, match=r"bits|exponent|limit"):
        TensorSpec(*arguments)


@pytest.mark.parametrize(
    "text", ["", "{}", '{"format": "other"}', '{"format": "faq_keras.plan/1"}', "[1]", "\0"]
)
def test_what_is_no_plan_is_refused_by_name(text, tmp_path):
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"p\.json is not a quantization plan"):
        QuantPlan.load(path)


def test_missing_plan_file(tmp_path):
    with pytest.raises(ValueError, match=r"Cannot read the plan .*nowhere\.json"):
        QuantPlan.load(tmp_path / "nowhere.json")


def test_truncated_plan_is_refused(plan, tmp_path):
    path = tmp_path / "p.json"
    path.write_text(plan.to_json()[:-40])
    with pytest.raises(ValueError, match="is not a quantization plan"):
        QuantPlan.load(path)


def test_inconsistent_plans_are_refused(plan):
    with pytest.raises(ValueError, match="more than once: x"):
        QuantPlan(plan.settings, (plan["x"], plan["x"]))
    with pytest.raises(ValueError, match="lacks: x"):
        QuantPlan(plan.settings, (plan["conv"],))
