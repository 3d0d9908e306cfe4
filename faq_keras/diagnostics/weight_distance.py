"""How far a training moved the weights (paper 4.8, Figure 2).

The measure is the cosine of the angle between a neuron's weights before and after, averaged over
all neurons (output channels) of the network. The paper finds 0.994 after fine-tuning a pretrained
ResNet-18 at 4 bits, and 0.023 when it is trained from random weights: fine-tuning looks for a
solution next to the pretrained one, so it needs a small learning rate and no more.

    similarity = weight_similarity(float_model, q)
    similarity.network                     # 0.994
    similarity.layers["conv1"]             # mean of its neurons
    similarity.neurons["conv1"]            # float64 [out]
    print(similarity)                      # a table

The paper does not say whether the 4-bit network's weights are the float copies, which training
moves, or their quantized values, which run. The default is the copies; the rounding of the others
lowers the cosine even where nothing moved.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from faq_keras.diagnostics.kernels import Kernel, kernels_of

Cosines = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class WeightSimilarity:
    """Cosine similarity of the weights of two networks.

    Attributes:
        neurons: Cosine of each output channel, by layer, `[out]`; NaN where one of the two has only
            zero weights.
        layers: Mean of a layer's neurons; NaN if none has a cosine.
        network: Mean of all neurons of the network (not of the layers).
    """

    neurons: Mapping[str, Cosines]
    layers: Mapping[str, float]
    network: float

    @classmethod
    def of_neurons(cls, neurons: Mapping[str, Cosines]) -> WeightSimilarity:
        """With the means of the neurons' cosines."""
        layers = {name: _mean(cosines) for name, cosines in neurons.items()}
        return cls(dict(neurons), layers, _mean(np.concatenate(list(neurons.values()))))

    def to_json(self) -> str:
        """As JSON text; null where there is no cosine."""
        data = {
            "network": _null(self.network),
            "layers": {name: _null(value) for name, value in self.layers.items()},
            "neurons": {n: [_null(float(v)) for v in values] for n, values in self.neurons.items()},
        }
        return json.dumps(data, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> WeightSimilarity:
        """The inverse of `to_json`."""
        neurons = json.loads(text)["neurons"]
        return cls.of_neurons({n: np.array(v, np.float64) for n, v in neurons.items()})

    def __str__(self) -> str:
        width = max(len(name) for name in ("network", *self.layers))
        lines = [f"{'layer':<{width}}  neurons  cosine  lowest"]
        for name, cosines in self.neurons.items():
            known = cosines[~np.isnan(cosines)]
            lowest = f"{known.min():7.4f}" if known.size else "      -"
            lines.append(f"{name:<{width}}  {cosines.size:7d} {self.layers[name]:7.4f} {lowest}")
        total = sum(cosines.size for cosines in self.neurons.values())
        return "\n".join([*lines, f"{'network':<{width}}  {total:7d} {self.network:7.4f}"])


def weight_similarity(
    start: keras.Model, end: keras.Model, quantized: bool = False
) -> WeightSimilarity:
    """Compares the weights of two networks, layer by layer of the same name.

    Args:
        start: The network before the training: float or quantized, Keras 3.
        end: The network after it; either kind, too.
        quantized: Compare the quantized values of quantized networks, instead of the float weights
            that they are made from.

    Raises:
        ValueError: The networks' layers differ in names or shapes (all are listed), or weights are
            not finite.
    """
    before, after = ({k.name: k for k in kernels_of(model)} for model in (start, end))
    _check_match(start.name, before, end.name, after)
    rows: dict[str, tuple[Any, Any]] = {}
    for name, kernel in before.items():
        rows[name] = _rows(kernel, quantized), _rows(after[name], quantized)
    broken = [name for name, pair in rows.items() if not all(np.isfinite(w).all() for w in pair)]
    if broken:
        raise ValueError(
            f"These layers have weights that are not finite: {', '.join(broken)}. The training "
            "diverged; compare an earlier checkpoint."
        )
    return WeightSimilarity.of_neurons({name: _cosines(*pair) for name, pair in rows.items()})


def _check_match(
    start: str, before: Mapping[str, Kernel], end: str, after: Mapping[str, Kernel]
) -> None:
    problems = [f"{name!r} is only in {start!r} (start)" for name in before if name not in after]
    problems += [f"{name!r} is only in {end!r} (end)" for name in after if name not in before]
    for name in before.keys() & after.keys():
        old, new = (tuple(kernels[name].variable.shape) for kernels in (before, after))
        if old != new or before[name].neurons != after[name].neurons:
            problems.append(f"{name!r} has the shape {old} at the start and {new} at the end")
    if problems:
        raise ValueError(
            f"The weights cannot be compared: {'; '.join(problems)}. Give the same network before "
            "and after training."
        )


def _rows(kernel: Kernel, quantized: bool) -> npt.NDArray[np.float64]:
    """One column of weights per neuron."""
    values = kernel.quantized(kernel.variable) if quantized else kernel.variable
    weights = np.asarray(keras.ops.convert_to_numpy(values), np.float64)
    return weights.reshape(-1, kernel.neurons)


def _cosines(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> Cosines:
    lengths = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    products = np.sum(a * b, axis=0)
    return np.divide(products, lengths, out=np.full_like(products, np.nan), where=lengths > 0)


def _mean(values: Cosines | Sequence[float]) -> float:
    known = np.asarray(values)[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _null(value: float) -> float | None:
    return None if math.isnan(value) else value
