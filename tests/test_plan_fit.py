"""A plan of another network is refused, with everything that differs."""

import dataclasses
import json

import keras
import pytest

import faq_keras
from faq_keras.plan import QuantPlan
from tests import networks

layers = keras.layers
X = networks.images(16, (8, 8, 3))


def network(batch_norm=True, activation="relu", pool=False, filters=(4,)):
    x = image = keras.Input((8, 8, 3), name="image")
    for number, count in enumerate(filters):
        x = layers.Conv2D(count, 3, padding="same", name=f"conv{number}")(x)
        if batch_norm:
            x = layers.BatchNormalization(name=f"bn{number}")(x)
        if activation:
            limit = 6 if activation == "relu6" else None
            x = layers.ReLU(max_value=limit, name=f"relu{number}")(x)
    if pool:
        x = layers.AveragePooling2D(2, name="average")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return networks.randomize(keras.Model(image, layers.Dense(3, name="out")(x)))


def plan_of(**options):
    return faq_keras.plan_of(faq_keras.apply(network(**options), 8, calibration_data=20 * X))


@pytest.mark.parametrize(
    "planned, built, said",
    [
        ({}, {"activation": None}, "'conv0' is behind a ReLU (unsigned) in the plan and linear"),
        ({"activation": None}, {}, "'conv0' is linear (signed) in the plan and behind a ReLU"),
        ({"activation": "relu6"}, {}, "'conv0' has the largest code "),
        ({}, {"activation": "relu6"}, "'conv0' has the largest code None in the plan and "),
        ({"batch_norm": False}, {}, "'conv0' has batch normalization in the model only"),
        ({}, {"batch_norm": False}, "'conv0' has batch normalization in the plan only"),
        ({"pool": True}, {}, "'average' (average_pool) is not in the model"),
        ({}, {"pool": True}, "'average' (average_pool) is not in the plan"),
    ],
)
def test_a_plan_of_another_network_is_refused(planned, built, said):
    with pytest.raises(ValueError, match="The plan does not fit the model: ") as error:
        faq_keras.apply(network(**built), plan=plan_of(**planned))
    assert said in str(error.value)


def test_every_difference_is_listed():
    plan = plan_of(filters=(4, 4, 4))
    with pytest.raises(ValueError, match=r"conv0.*conv1.*conv2.*linear"):
        faq_keras.apply(network(filters=(4, 4, 4), activation=None), plan=plan)


@pytest.mark.parametrize(
    "layer, change, said",
    [
        ("conv0", {"kernel": None}, "'conv0' has weights in the model only"),
        ("pool", {"kernel": {"bits": 8, "clip_stds": 6.5}}, "'pool' has weights in the plan only"),
        ("conv1", {"inputs": []}, "'conv1' reads nothing in the plan and conv0 in the model"),
        ("conv1", {"inputs": ["image"]}, "'conv1' reads image in the plan and conv0 in the model"),
        ("conv1", {"kind": "dense"}, "'conv1' is dense in the plan and conv in the model"),
        ("average", {"output": {"exponent": 3}}, "'average' has another grid"),
        ("pool", {"output": {"signed": True}}, "'pool' is linear (signed) in the plan"),
        (
            "conv1",
            {"output": {"bits": 16, "signed": True}},
            "'conv1' has 16 bits, which only logits can have",
        ),
    ],
)
def test_an_edited_plan_is_refused(layer, change, said):
    options = {"filters": (4, 4), "pool": True}
    data = json.loads(plan_of(**options).to_json())
    entry = next(entry for entry in data["layers"] if entry["name"] == layer)
    output = entry["output"] | change.get("output", {})
    entry |= change | {"output": output}
    plan = QuantPlan.from_json(json.dumps(data))
    with pytest.raises(ValueError, match="The plan does not fit the model: ") as error:
        faq_keras.apply(network(**options), plan=plan)
    assert said in str(error.value)


def test_a_relu6_on_steps_that_leave_it_nothing_is_refused_by_name():
    data = json.loads(plan_of(activation="relu6").to_json())
    data["layers"][1]["output"] |= {"exponent": 4, "limit": None}
    plan = QuantPlan.from_json(json.dumps(data))
    with pytest.raises(ValueError, match=r"does not fit the model: 'conv0' .*on the grid of steps"):
        faq_keras.apply(network(activation="relu6"), plan=plan)


@pytest.mark.parametrize("part", ["kernel", "multiplier"])
@pytest.mark.parametrize("value", [[], 0, "", {}])
def test_parts_that_are_no_specifications_are_no_plan(part, value):
    data = json.loads(plan_of().to_json())
    data["layers"][1][part] = value
    with pytest.raises(ValueError, match="is not a quantization plan"):
        QuantPlan.from_json(json.dumps(data))


def test_bits_and_exponents_are_the_plans_to_choose():
    model = network()
    plan = plan_of()
    conv = dataclasses.replace(plan["conv0"].output, bits=5, exponent=-1)
    entries = tuple(
        dataclasses.replace(entry, output=conv) if entry.name == "conv0" else entry
        for entry in plan.layers
    )
    chosen = dataclasses.replace(plan, layers=entries)
    assert faq_keras.plan_of(faq_keras.apply(model, plan=chosen)) == chosen
