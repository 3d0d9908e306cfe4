"""From a float model to a quantized one and back: `apply`, `plan_of`, `to_float`.

q = faq_keras.apply(model, bits=4, calibration_data=train_ds)
print(faq_keras.plan_of(q))
f = faq_keras.to_float(q)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from faq_keras.activity_regularizers import check_configurations
from faq_keras.compat import is_tf_keras
from faq_keras.graph import functional_of
from faq_keras.graph_reader import read_graph
from faq_keras.plan import QuantPlan
from faq_keras.planning import PlanRequest
from faq_keras.policy import Policy
from faq_keras.post_training import reconstruction
from faq_keras.post_training.teachers import remember
from faq_keras.rewrite.agreement import FirstImages, judge
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
    plan: QuantPlan | str | Path | None = None,
    reconstruct: Any = None,
) -> Any:
    """Quantizes a pretrained network (paper sections 3.1 and 3.2).

    The exponents have the least squared error on weights and calibration data, and each channel of
    a convolution's weights a real scale of its own (`Policy.scales`). The result is compared with
    the float network on up to 128 of the calibration images; the plan keeps the figures
    (`plan_of(q).settings.agreement`).

    Args:
        model: A built functional or sequential model of Keras 3 or tf_keras, nested models too, in
            any dtype policy. It is left untouched.
        bits: 2 to 8, or `(weight_bits, activation_bits)`. First and last layer and the last ReLU
            have 8 bits (`policy`).
        calibration_data: Training inputs as the model takes them: a `tf.data.Dataset`, a numpy
            array `[images, height, width, channels]`, or an iterable of `x` or `(x, y)` batches.
            None only with `plan`.
        calibration_batches: Batches to run (the paper's 5).
        percentile: Percentile of the activations that sets their range, rounded up to a power of
            two. None: the exponents of least squared error, or with `Policy(scales="paper")` 99.9
            below 8 activation bits, else 99.99.
        logits_bits: 16 (int16 head, no loss) or 8 (int8 head for runtimes without int16 kernels;
            costs accuracy).
        policy: The rules for bits and scales.
        plan: A plan, or the path of one, to use as it is instead of calibrating.
        reconstruct: 64 to 512 unlabelled images: `faq_keras.reconstruct` is run on the result.

    Returns:
        An uncompiled model of the same Keras, with the same inputs, outputs and weights. Inference
        computes what the exported integer file computes, in float32.

    Warns:
        UserWarning: If an output is far from the float network's; the layers that add the most
            noise are named, and what to do.

    Raises:
        ValueError: If the model has no graph, is not built, contains unsupported layers (all are
            listed); if bits are out of range; if the calibration data is missing, empty, not finite
            or of another shape; if an activation is dead; if the plan does not fit; if an activity
            regularizer acts on a tensor that the quantized network does not have.
    """
    request = PlanRequest(
        bits, calibration_data, calibration_batches, percentile, logits_bits, policy, plan
    )
    twin = _float32_twin(model)
    check_configurations(model)
    graph = read_graph(twin)
    seen = FirstImages()
    quantized = quantize_model(twin, graph, request.plan_for(graph, seen))
    judge(graph, quantized, seen.images, warn=reconstruct is None)
    if reconstruct is not None:
        reconstruction.reconstruct(quantized, reconstruct)
    quantized = to_tf_keras(quantized) if is_tf_keras(model) else quantized
    remember(quantized, twin)
    return quantized


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
    functional_of(model)  # raises if it is no model with a graph
    twin = to_keras3(model)
    layers = twin._flatten_layers(include_self=False)
    if all(layer.compute_dtype not in ("float16", "bfloat16", "float64") for layer in layers):
        return twin
    copies = LayerCopies()
    twin = keras.models.clone_model(twin, clone_function=copies, recursive=True)
    copies.transfer_weights()
    return twin
