"""What a user asks for when a network is quantized, and the plan that answers it.

`apply` and tfmot's `quantize_apply` with a `FAQScheme` take the same arguments and make the same
plan, because both make this request:

    request = PlanRequest(bits=4, calibration_data=train_ds)
    plan = request.plan_for(read_graph(model))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faq_keras.activity_regularizers import check_graph
from faq_keras.calibration import calibrate
from faq_keras.compat import check_backend
from faq_keras.data.batches import Batch
from faq_keras.graph import Graph
from faq_keras.plan import PlanSettings, QuantPlan
from faq_keras.plan_maker import make_plan
from faq_keras.policy import Policy, layer_bits, percentiles
from faq_keras.policy_fields import check_bits


@dataclasses.dataclass(frozen=True, eq=False)
class PlanRequest:
    """The arguments of `faq_keras.apply`, which explains them.

    Raises:
        ValueError: If bits or another argument is out of range, or Keras 3 does not run on
            TensorFlow.
    """

    bits: int | tuple[int, int] = 8
    calibration_data: Any = None
    calibration_batches: int = 5
    percentile: float | None = None
    logits_bits: int = 16
    policy: Policy | None = None
    plan: QuantPlan | str | Path | None = None

    def __post_init__(self) -> None:
        check_backend()
        if self.plan is not None:
            return
        _split_bits(self.bits)
        if self.logits_bits not in (8, 16):
            raise ValueError(f"logits_bits must be 16 or 8, received {self.logits_bits!r}.")
        if self.percentile is not None and not 50 <= self.percentile <= 100:
            raise ValueError(
                f"percentile must lie between 50 and 100, received {self.percentile!r}."
            )
        if self.calibration_batches < 1:
            raise ValueError(
                f"calibration_batches must be at least 1, received {self.calibration_batches!r}."
            )

    def plan_for(self, graph: Graph, look: Callable[[Batch], None] | None = None) -> QuantPlan:
        """The given plan, or one for the float network's activations on the calibration data.

        Args:
            graph: The float network.
            look: Is shown each batch of the calibration data.

        Raises:
            ValueError: If the calibration data is missing, empty, not finite or of another shape,
                if an activation is dead, or if an activity regularizer would be lost.
        """
        check_graph(graph)
        if self.plan is not None:
            return self.plan if isinstance(self.plan, QuantPlan) else QuantPlan.load(self.plan)
        if self.calibration_data is None:
            raise ValueError(
                "calibration_data is missing: pass some batches of training inputs (a "
                "tf.data.Dataset or an array), or a "
                "finished plan=."
            )
        weight_bits, activation_bits = _split_bits(self.bits)
        policy = self.policy or Policy()
        settings = PlanSettings(
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            logits_bits=self.logits_bits,
            percentile=self.percentile,
            calibration_batches=self.calibration_batches,
            scales=policy.scales,
        )
        chosen = percentiles(graph, layer_bits(graph, settings, policy), self.percentile)
        ranges = calibrate(graph, self.calibration_data, self.calibration_batches, chosen, look)
        return make_plan(graph, ranges, settings, policy)


def _split_bits(bits: Any) -> tuple[int, int]:
    if isinstance(bits, (tuple, list)):
        if len(bits) != 2:
            raise ValueError(
                f"bits must be one width or (weight_bits, activation_bits), received {bits!r}."
            )
        return check_bits(bits[0], "The weight width"), check_bits(bits[1], "The activation width")
    width = check_bits(bits, "bits")
    return width, width
