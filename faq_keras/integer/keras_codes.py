"""What a quantized Keras model computes, as the integers of its program.

The values of a quantized layer are `code * 2**exponent`, so dividing by the step gives the code
exactly; a remainder means that the layer left its grid, and is an error.

    program = lower(q)
    codes = KerasCodes(q, program)
    codes({"image": x})["conv1"]                     # int8 array [images, height, width, channels]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from faq_keras import layers as quantized_layers
from faq_keras.compat import keras_of
from faq_keras.graph import layer_calls
from faq_keras.integer.program import IntegerProgram, Tensor


class KerasCodes:
    """What a quantized model computes in inference, as the integers of a program's tensors.

    A model whose user has set `run_eagerly` is computed eagerly.

    Args:
        model: The quantized model, of either Keras.
        program: Its lowering.
    """

    def __init__(self, model: Any, program: IntegerProgram) -> None:
        library = keras_of(model)
        self._program = program
        self._inputs: dict[str, Any] = {}  # the input quantizers, by name of the model's input
        grids: dict[str, Any] = {}
        outputs: dict[str, Any] = {}
        for call in layer_calls(model):
            layer = call.operation
            if isinstance(layer, quantized_layers.QuantizedInput):
                self._inputs[layer.plan.name] = layer
                grids[layer.plan.name] = call.outputs[0]
            elif layer.name in program.tensors and not isinstance(layer, library.layers.InputLayer):
                outputs[layer.name] = call.outputs[0]
        self._shapes = {name: tuple(tensor.shape[1:]) for name, tensor in grids.items()}
        self._network = library.Model(list(grids.values()), outputs)
        self._network.run_eagerly = model.run_eagerly

    def random(self, images: int, seed: int = 0) -> dict[str, npt.NDArray[np.generic]]:
        """The integers of all tensors for random input codes over their whole range."""
        rng = np.random.default_rng(seed)
        values = {}
        for name, layer in self._inputs.items():
            spec = layer.plan.output
            shape = (images, *self._shapes[name])
            codes = rng.integers(spec.lowest, spec.highest, shape, endpoint=True)
            values[name] = (codes * spec.step).astype(np.float32)
        return self._codes(values)

    def __call__(self, x: Mapping[str, Any]) -> dict[str, npt.NDArray[np.generic]]:
        """The integers of all tensors, by tensor name (float values for a float32 input tensor).

        Args:
            x: Model inputs `[images, height, width, channels]` by name.

        Raises:
            ValueError: If a value does not lie on its tensor's grid.
        """
        layers = self._inputs.items()
        return self._codes({name: np.asarray(layer.preprocess(x[name])) for name, layer in layers})

    def _codes(self, values: dict[str, npt.NDArray[np.float32]]) -> dict[str, npt.NDArray[Any]]:
        tensors = self._program.tensors
        grids = {
            name: np.asarray(self._inputs[name].quantize_config.output_quantizer(value))
            for name, value in values.items()
        }
        computed = grids | self._network.predict_on_batch(list(grids.values()))
        codes: dict[str, npt.NDArray[Any]] = {
            name: _to_integers(value, tensors[name]) for name, value in computed.items()
        }
        for name in self._inputs:
            if f"{name}/float32" in tensors:
                codes[f"{name}/float32"] = values[name]
            if f"{name}/uint8" in tensors:
                codes[f"{name}/uint8"] = (codes[name].astype(np.int16) + 128).astype(np.uint8)
        return codes


def _to_integers(value: npt.NDArray[np.floating], tensor: Tensor) -> npt.NDArray[np.integer]:
    scaled = np.asarray(value, np.float64) / tensor.scale[0] + tensor.zero_point
    codes = scaled.astype(tensor.dtype)
    if (codes != scaled).any():
        raise ValueError(
            f"Layer '{tensor.name}' gives values off its grid of 2^{np.log2(tensor.scale[0]):g}."
        )
    return codes
