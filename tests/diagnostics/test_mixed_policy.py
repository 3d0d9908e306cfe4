"""A suggested policy keeps its budget, and spends it where the divergence is."""

import re

import keras
import pytest

import faq_keras
from faq_keras import Policy
from faq_keras.diagnostics import LayerSensitivity, Sensitivity, suggest_policy
from tests import networks

# Divergence added by each layer at 2, 4 and 6 bits; "a" and "e" are the ends.
COSTS = {
    "a": (9.0, 9.0, 9.0),
    "b": (0.9, 0.5, 0.1),
    "c": (0.3, 0.01, 0.0),
    "d": (0.2, 0.1, -0.01),
    "e": (9.0, 9.0, 9.0),
}
WEIGHTS = {"a": 100, "b": 1000, "c": 2000, "d": 501, "e": 50}


def measured(parts="weights", costs=COSTS, weights=WEIGHTS, after="apply"):
    rows = [
        LayerSensitivity(name, "conv", bits, 0.9 - cost / 10, cost / 10, 0.05 + cost)
        for name, values in costs.items()
        for bits, cost in zip((2, 4, 6), values, strict=True)
    ]
    ends = (next(iter(weights)), list(weights)[-1])
    return Sensitivity("net", 10, parts, 1.0, 0.9, 0.05, tuple(rows), weights, ends, after)


def bits_of(policy, weights=WEIGHTS):
    bits = dict.fromkeys(weights, 8)
    for pattern, (width, activations) in policy.overrides.items():
        assert activations is None
        bits |= {name: width for name in weights if re.fullmatch(pattern, name)}
    return bits


def size(bits, stored=lambda width: width):
    return sum(-(-WEIGHTS[name] * stored(width) // 8) for name, width in bits.items())


def cost(bits):
    return sum(
        max(0, COSTS[name][(2, 4, 6).index(width)]) for name, width in bits.items() if width < 8
    )


@pytest.mark.parametrize("budget", [*range(1028, 3700, 211), 3652, 3651])
def test_the_budget_is_kept_and_more_budget_is_never_worse(budget):
    bits = bits_of(suggest_policy(measured(), budget))
    assert bits["a"] == bits["e"] == 8
    assert size(bits) <= budget
    assert cost(bits) >= cost(bits_of(suggest_policy(measured(), budget + 250)))
    # Nothing that is left would still buy something.
    for name in "bcd":
        for width in (4, 6, 8):
            better = bits | {name: width}
            assert size(better) > budget or cost(better) >= cost(bits)


def test_at_the_size_of_uniform_4_bits_the_sensitive_layer_gets_more():
    budget = measured().uniform_bytes(4)
    assert budget == 100 + 500 + 1000 + 251 + 50
    bits = bits_of(suggest_policy(measured(), budget))
    assert size(bits) <= budget
    assert bits["b"] > 4 and cost(bits) < cost({"b": 4, "c": 4, "d": 4})


def test_a_large_budget_needs_no_overrides_unless_fewer_bits_are_free():
    assert bits_of(suggest_policy(measured(), 10**6)) == dict.fromkeys(WEIGHTS, 8)
    assert suggest_policy(measured(), 10**6) == Policy()


def test_average_bits_are_bits_per_weight():
    total = sum(WEIGHTS.values())
    by_bits = suggest_policy(measured(), average_bits=5.0)
    assert by_bits == suggest_policy(measured(), budget_bytes=5 * total / 8)
    assert size(bits_of(by_bits)) <= 5 * total / 8


def test_the_file_stores_4_or_8_bits():
    def stored(width):
        return 4 if width <= 4 else 8

    budget = measured().uniform_bytes(4) + 510
    bits = bits_of(suggest_policy(measured(), budget, storage="tflite"))
    assert bits == {"a": 8, "b": 8, "c": 4, "d": 4, "e": 8}
    assert size(bits, stored) <= budget


@pytest.mark.parametrize("floor", [0.9, 0.899, 0.89, 0.87, 0.85, 0.8, 0.76, 0.75, 0.0])
def test_the_floor_is_kept_and_nothing_smaller_would_keep_it(floor):
    bits = bits_of(suggest_policy(measured(), least_accuracy=floor))
    assert bits["a"] == bits["e"] == 8
    assert 0.9 - cost(bits) / 10 >= floor - 1e-9
    assert size(bits) <= size(bits_of(suggest_policy(measured(), least_accuracy=0.9)))
    for name in "bcd":
        for width in (2, 4, 6):
            smaller = bits | {name: width}
            assert width >= bits[name] or 0.9 - cost(smaller) / 10 < floor


def test_drops_add_up():
    found = measured(costs=COSTS | {"b": (9.0, 9.0, 9.0)})
    for lost, expected in ((0.031, (2, 6)), (0.029, (4, 2)), (0.051, (2, 2))):
        bits = bits_of(suggest_policy(found, least_accuracy=0.9 - lost))
        assert (bits["b"], bits["c"], bits["d"]) == (8, *expected)


def test_a_floor_at_8_bits_lowers_what_costs_nothing_and_zero_lowers_all():
    free = bits_of(suggest_policy(measured(), least_accuracy=0.9))
    assert free == {"a": 8, "b": 8, "c": 6, "d": 6, "e": 8}
    least = bits_of(suggest_policy(measured(), least_accuracy=0))
    assert least == {"a": 8, "b": 2, "c": 2, "d": 2, "e": 8}


def test_a_floor_in_a_file_of_4_and_8_bits_takes_the_wider_of_equal_size():
    bits = bits_of(suggest_policy(measured(), least_accuracy=0, storage="tflite"))
    assert bits == {"a": 8, "b": 4, "c": 4, "d": 4, "e": 8}


@pytest.mark.parametrize("after", ["apply", "reconstruct"])
def test_a_sensitivity_is_used_for_what_it_was_measured_for(after):
    found = measured(after=after)
    expected = suggest_policy(found, average_bits=5)
    assert suggest_policy(found, average_bits=5, after=after) == expected
    other = {"apply": "reconstruct", "reconstruct": "apply"}[after]
    with pytest.raises(ValueError, match=f"measured after '{after}', not after '{other}'"):
        suggest_policy(found, average_bits=5, after=other)


def test_widths_of_whole_layers_cover_their_outputs():
    overrides = suggest_policy(measured("layer"), 2000).overrides
    assert all(isinstance(bits, int) for bits in overrides.values())


@pytest.mark.parametrize(
    ("parts", "options", "message"),
    [
        ("weights", {}, "either budget_bytes or average_bits or least_accuracy"),
        ("weights", {"budget_bytes": 1, "least_accuracy": 0.5}, "or average_bits or least"),
        ("weights", {"least_accuracy": 80}, "from 0 to 1. Received: 80"),
        ("weights", {"least_accuracy": 0.95}, r"0.95 cannot be kept.* has 0.9 on the 10 images"),
        ("weights", {"average_bits": 4, "after": "tuning"}, "one of apply, reconstruct, or None"),
        (
            "weights",
            {"average_bits": 4, "after": "reconstruct"},
            "measured after 'apply', not.* parts='weights', after='reconstruct'",
        ),
        ("weights", {"budget_bytes": 1, "average_bits": 2}, "either budget_bytes or"),
        ("weights", {"budget_bytes": 1000}, r"1,000 bytes is too small.* take 1,026 bytes"),
        ("weights", {"average_bits": 4, "storage": "zip"}, "one of packed, tflite"),
        ("activations", {"average_bits": 4}, "says nothing about the size of the weights"),
    ],
)
def test_bad_requests_are_refused(parts, options, message):
    with pytest.raises(ValueError, match=message):
        suggest_policy(measured(parts), **options)


def test_the_policy_gives_a_network_these_widths_and_this_size():
    model = networks.tiny_resnet()
    kernels = {la.name: la.kernel for la in model.layers if hasattr(la, "kernel")}
    weights = {name: int(keras.ops.size(kernel)) for name, kernel in kernels.items()}
    costs = {name: (0.3, 0.1 * (number % 3), 0.0) for number, name in enumerate(weights)}
    found = measured(costs=costs, weights=weights)
    budget = found.uniform_bytes(4)
    policy = suggest_policy(found, budget)
    q = faq_keras.apply(model, 4, calibration_data=networks.images(8), policy=policy)
    plan = faq_keras.plan_of(q)
    widths = {name: plan[name].kernel.bits for name in weights}
    assert widths == bits_of(policy, weights)
    assert sum(weights[name] * bits for name, bits in widths.items()) / 8 <= budget
    assert len(set(widths.values())) > 2
    uniform = faq_keras.plan_of(faq_keras.apply(model, 4, calibration_data=networks.images(8)))
    assert [layer.output for layer in plan.layers] == [layer.output for layer in uniform.layers]
