"""tfmot's own door: `quantize_apply` with a `FAQScheme` makes what `faq_keras.apply` makes.

    annotated = tfmot.quantization.keras.quantize_annotate_model(tf_keras_model)
    q = tfmot.quantization.keras.quantize_apply(
        annotated, scheme=faq_keras.FAQScheme(bits=4, calibration_data=x)
    )

tfmot asks a scheme for a layout transform, which may rebuild the network, and then wraps the
layers that are still to be quantized. The transform here does the whole work: it puts the layers of
this package in the place of the annotated ones, and leaves nothing to wrap but the layers that the
user annotated with a `QuantizeConfig` of another kind. A layer annotated with a quantize config of
this package is quantized as that config's plan entry says. Layers that nobody annotated stay float.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from faq_keras.compat import QuantizeLayoutTransform, QuantizeRegistry, QuantizeScheme
from faq_keras.graph import Graph, Node
from faq_keras.graph_reader import read_graph
from faq_keras.plan import QuantPlan
from faq_keras.planning import PlanRequest
from faq_keras.quantize_configs import OutputQuantizeConfig
from faq_keras.rewrite.agreement import FirstImages, judge
from faq_keras.rewrite.bridge import to_keras3, to_tf_keras, twin_name
from faq_keras.rewrite.keras3 import quantize_model


@dataclasses.dataclass(frozen=True, eq=False)
class FAQScheme(PlanRequest, QuantizeScheme):
    """FAQ quantization for `tfmot.quantization.keras.quantize_apply`.

    Takes the arguments of `faq_keras.apply`: `bits`, `calibration_data`, `calibration_batches`,
    `percentile`, `logits_bits`, `policy`, or a finished `plan`.

    Raises:
        ValueError: If an argument is out of range; later, in `quantize_apply`, for every reason
            that `faq_keras.apply` has.
    """

    def get_layout_transformer(self) -> FAQLayoutTransform:
        """The transform that rebuilds the network (tfmot's interface)."""
        return FAQLayoutTransform(self)

    def get_quantize_registry(self) -> FAQRegistry:
        """A registry without layers (tfmot's interface)."""
        return FAQRegistry()


class FAQLayoutTransform(QuantizeLayoutTransform):
    """Puts quantized layers in the place of the annotated ones.

    Args:
        request: Asks for the plan.
    """

    def __init__(self, request: PlanRequest) -> None:
        self._request = request

    def apply(
        self, model: Any, layer_quantize_map: dict[str, dict[str, Any]]
    ) -> tuple[Any, dict[str, dict[str, Any]]]:
        """The quantized network, and the layers that tfmot has to wrap (tfmot's interface).

        Args:
            model: The tf_keras model without annotations.
            layer_quantize_map: By name of each annotated layer a dict that may hold its
                "quantize_config".
        """
        configs = {
            twin_name(name): entry.get("quantize_config")
            for name, entry in layer_quantize_map.items()
        }
        foreign = {
            name: config
            for name, config in configs.items()
            if config is not None and not isinstance(config, OutputQuantizeConfig)
        }
        twin = to_keras3(model)
        graph = read_graph(twin)
        seen = FirstImages()
        plan = _with_entries(self._request.plan_for(graph, seen), graph, configs)
        left_float = {
            node.name
            for node in graph.quantized_nodes
            if node.layers and not _is_annotated(node, configs, foreign)
        }
        quantized = quantize_model(twin, graph, plan, left_float)
        if not left_float:  # else there is no quantized network as a whole
            judge(graph, quantized, seen.images)
        return to_tf_keras(quantized), {
            name: {"quantize_config": config} for name, config in foreign.items()
        }


def _is_annotated(node: Node, configs: dict[str, Any], foreign: dict[str, Any]) -> bool:
    """Whether a node is to become a layer of this package."""
    names = {layer.name for layer in node.layers}
    return bool(names & configs.keys()) and not names & foreign.keys()


def _with_entries(plan: QuantPlan, graph: Graph, configs: dict[str, Any]) -> QuantPlan:
    """The plan with the entries that quantize configs of this package bring along."""
    entries = {}
    for node in graph.quantized_nodes:
        for layer in node.layers:
            config = configs.get(layer.name)
            if not isinstance(config, OutputQuantizeConfig):
                continue
            if (config.plan.name, config.plan.kind) != (node.name, node.kind):
                raise ValueError(
                    f"Layer '{layer.name}' is annotated with the plan entry of "
                    f"'{config.plan.name}' ({config.plan.kind}), but is part of '{node.name}' "
                    f"({node.kind}). Annotate it with quantize_config(plan['{node.name}'], ...)."
                )
            entries[node.name] = config.plan
    layers = tuple(entries.get(layer.name, layer) for layer in plan.layers)
    return dataclasses.replace(plan, layers=layers)


class FAQRegistry(QuantizeRegistry):
    """Knows no layer: the layout transform leaves none without a quantize config."""

    def supports(self, layer: Any) -> bool:
        """Whether tfmot may wrap a layer by itself (tfmot's interface): never."""
        return False

    def get_quantize_config(self, layer: Any) -> None:
        """No default config for any layer (tfmot's interface)."""
