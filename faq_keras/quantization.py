"""From a float model to a quantized one and back: `apply`, `plan_of`, `to_float`.

q = faq_keras.apply(model, bits=4, calibration_data=train_ds)
print(faq_keras.plan_of(q))
f = faq_keras.to_float(q)
"""

from __future__ import annotations

from typing import Any

import keras

from faq_keras.calibration import calibrate
from faq_keras.compat import is_tf_keras
from faq_keras.graph_reader import read_graph
from faq_keras.plan import PlanSettings, QuantPlan
from faq_keras.policy import Policy, check_bits, layer_bits, make_plan, percentiles
from faq_keras.rewrite.bridge import to_keras3, to_tf_keras
from faq_keras.rewrite.keras3 import float_model, plan_of, quantize_model
from faq_keras.rewrite.rebuild import LayerCopies

__all__ = ["apply", "plan_of", "to_float"]


def apply(
    model: Any,
    bits: int | tuple[int, int] = 8,
    calibration_data: Any = None,
    calibration_batches: int = 5,
    percentile: float | None = None,
    logits_bits: int = 16,
    policy: Policy | None = None,
    plan: QuantPlan | None = None,
) -> Any:
    """Quantizes a pretrained network (paper sections 3.1 and 3.2); fine-tune the result.

    Args:
        model: A built functional or sequential model of Keras 3 or tf_keras, nested models too, in
            any dtype policy. It is left untouched.
        bits: 2 to 8, or `(weight_bits, activation_bits)`. First and last layer and the last ReLU
            have 8 bits (`policy`).
        calibration_data: Training inputs as the model takes them: a `tf.data.Dataset`, a numpy
            array `[images, height, width, channels]`, or an iterable of `x` or `(x, y)` batches.
            None only with `plan`.
        calibration_batches: Batches to run (the paper's 5).
        percentile: Percentile of the activations that sets their range; None: 99.9 below 8
            activation bits, else 99.99.
        logits_bits: 16 (int16 head, no loss) or 8 (int8 head for runtimes without int16 kernels;
            costs accuracy).
        policy: Deviations from the paper's rules.
        plan: A plan to use as it is, instead of calibrating.

    Returns:
        An uncompiled model of the same Keras, with the same inputs, outputs and weights. Inference
        computes what the exported integer file computes, in float32.

    Raises:
        ValueError: If the model has no graph, is not built, contains unsupported layers (all are
            listed); if bits are out of range; if the calibration data is missing, empty, not finite
            or of another shape; if an activation is dead; if the plan does not fit.
    """
    if plan is None:
        weight_bits, activation_bits = _split_bits(bits)
        _check_options(logits_bits, percentile, calibration_batches)
    twin = _float32_twin(model)
    graph = read_graph(twin)
    if plan is None:
        if calibration_data is None:
            raise ValueError(
                "calibration_data is missing: pass some batches of training inputs (a "
                "tf.data.Dataset or an array), or a "
                "finished plan=."
            )
        settings = PlanSettings(
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            logits_bits=logits_bits,
            percentile=percentile,
            calibration_batches=calibration_batches,
        )
        policy = policy or Policy()
        chosen = percentiles(graph, layer_bits(graph, settings, policy), percentile)
        ranges = calibrate(graph, calibration_data, calibration_batches, chosen)
        plan = make_plan(graph, ranges, settings, policy)
    quantized = quantize_model(twin, graph, plan)
    return to_tf_keras(quantized) if is_tf_keras(model) else quantized


def to_float(model: Any) -> Any:
    """The ordinary float model, convolution and batch normalization separate, fine-tuned weights.

    Args:
        model: A model that `apply` made.

    Raises:
        ValueError: If the model carries no plan.
    """
    float_twin = float_model(to_keras3(model))
    return to_tf_keras(float_twin) if is_tf_keras(model) else float_twin


def _float32_twin(model: Any) -> keras.Model:
    """The model itself, or a Keras 3 copy if it is of tf_keras or computes in mixed precision."""
    twin = to_keras3(model)
    layers = twin._flatten_layers(include_self=False)
    if all(layer.compute_dtype not in ("float16", "bfloat16", "float64") for layer in layers):
        return twin
    copies = LayerCopies()
    twin = keras.models.clone_model(twin, clone_function=copies, recursive=True)
    copies.transfer_weights()
    return twin


def _split_bits(bits: Any) -> tuple[int, int]:
    if isinstance(bits, (tuple, list)):
        if len(bits) != 2:
            raise ValueError(
                f"bits must be one width or (weight_bits, activation_bits), received {bits!r}."
            )
        return check_bits(bits[0], "The weight width"), check_bits(bits[1], "The activation width")
    width = check_bits(bits, "bits")
    return width, width


def _check_options(logits_bits: int, percentile: float | None, batches: int) -> None:
    if logits_bits not in (8, 16):
        raise ValueError(f"logits_bits must be 16 or 8, received {logits_bits!r}.")
    if percentile is not None and not 50 <= percentile <= 100:
        raise ValueError(f"percentile must lie between 50 and 100, received {percentile!r}.")
    if batches < 1:
        raise ValueError(f"calibration_batches must be at least 1, received {batches!r}.")
