"""The plan of a network that is not pretrained: ranges by rule instead of by measurement.

Activations of random weights say nothing about those of the trained network, so the paper's control
experiments set the range of every ReLU of `p` bits to `2**(p/2) - 1` (section 3.2), which is the
step `2**(-p/2)`.

    plan = uncalibrated_plan(model, 4, images)
    q = faq_keras.apply(model, plan=plan)
    plan["conv1"].output                  # 4 unsigned bits, step 2^-2
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from faq_keras.calibration import Range, calibrate
from faq_keras.graph_reader import read_graph
from faq_keras.graph_roles import is_logits
from faq_keras.plan import PlanSettings, QuantPlan
from faq_keras.plan_maker import make_plan
from faq_keras.policy import Policy, layer_bits, percentiles

_LINEAR_BITS = 8  # of tensors without ReLU, such as the branches of an addition
# Ours: the paper's logits have 32 bits, and 16 of them reach to 64 in steps of 1/512.
_LARGEST_LOGIT = 63.0


def uncalibrated_plan(
    model: keras.Model,
    bits: tuple[int, int],
    images: Any,
    logits_bits: int = 16,
    policy: Policy | None = None,
) -> QuantPlan:
    """A plan whose activations have the ranges of the rule; only the input is measured.

    Args:
        model: The float model.
        bits: `(weight_bits, activation_bits)`.
        images: Inputs as `faq_keras.apply` takes them as calibration data; one batch is used.
        logits_bits: 16 or 8.
        policy: Deviations from the paper's bits; scales are the paper's. A network with random
            weights wants `bn_exponent="paper"`: the multipliers that it has now are not those it
            will need.

    Raises:
        ValueError: As `faq_keras.apply`.
    """
    graph = read_graph(model)
    settings = PlanSettings(bits[0], bits[1], logits_bits)
    policy = dataclasses.replace(policy or Policy(), scales="paper")
    widths = layer_bits(graph, settings, policy)
    ranges: dict[str, Range] = {}
    for name in percentiles(graph, widths, None):
        node = graph[name]
        if node.kind == "input":
            ranges |= calibrate(graph, images, 1, {name: 100.0})
            continue
        width = widths[name].activations if node.activation else _LINEAR_BITS
        high = _LARGEST_LOGIT if is_logits(graph, node) else 2.0 ** (width / 2) - 1
        ranges[name] = Range(high, -high, high)
    return make_plan(graph, ranges, settings, policy)
