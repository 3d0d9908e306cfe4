"""A quantized model as a list of steps: one layer call each, in topological order.

The model's own layers are kept, so what a step computes changes with the layer's weights. A step
knows which steps it reads, on which grid its values lie, and whether they become the logits:

    network = trace(q)
    for step in network.steps:
        print(step.name, [network.steps[i].name for i in step.inputs], step.grid)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from faq_keras import arithmetic
from faq_keras.compat import keras_of
from faq_keras.graph import LIST_KINDS, layer_calls
from faq_keras.layers import QuantizedFoldedLayer, QuantizedKernelLayer
from faq_keras.plan import TensorSpec
from faq_keras.quantized_layer import QuantizedLayer


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One call of a layer.

    Attributes:
        layer: The model's layer.
        name: Its name in the plan; the layer's own if the plan has none.
        inputs: Numbers of the steps that it reads.
        shape: Shape of its output, batch first and None.
        grid: The grid of its values; None for the images and what lies after the logits.
        logits: Whether its values are the network's outputs, up to pools and softmax.
    """

    layer: Any
    name: str
    inputs: tuple[int, ...]
    shape: tuple[int | None, ...]
    grid: TensorSpec | None
    logits: bool

    @property
    def is_input(self) -> bool:
        """Whether these are the images as the user has them."""
        return isinstance(self.layer, keras_of(self.layer).layers.InputLayer)

    @property
    def is_quantized(self) -> bool:
        """Whether it has an entry in the plan."""
        return isinstance(self.layer, QuantizedLayer)

    @property
    def is_folded(self) -> bool:
        """Whether it adds constants: a kernel layer or a batch normalization that stands alone."""
        return isinstance(self.layer, QuantizedFoldedLayer)

    @property
    def has_kernel(self) -> bool:
        """Whether it is a convolution or a dense layer."""
        return isinstance(self.layer, QuantizedKernelLayer)

    @property
    def has_relu(self) -> bool:
        """Whether its constants are followed by a ReLU, which is the clip of its output."""
        return self.is_folded and not self.layer.plan.output.signed

    @property
    def dtype(self) -> npt.DTypeLike:
        """The type that holds its codes; float32 without a grid."""
        if self.grid is None:
            return np.float32
        if self.grid.bits > 8:
            return np.int16
        return np.int8 if self.grid.signed else np.uint8

    def bytes_of(self, images: int) -> int:
        """Size of its values for so many images."""
        return (
            images * math.prod(size or 1 for size in self.shape[1:]) * np.dtype(self.dtype).itemsize
        )

    def frozen(self) -> Callable[[Sequence[Any]], Any]:
        """What the layer computes in inference, as long as its weights stay what they are.

        The integer constants are made once, not for every batch.
        """
        if not self.is_folded:
            takes_list = self.is_quantized and self.layer.plan.kind in LIST_KINDS
            return lambda inputs: self.layer(list(inputs) if takes_list else inputs[0])
        folded = self.layer.fold()
        quantizer = self.layer.quantize_config.output_quantizer
        return lambda inputs: quantizer(self.before_relu(inputs[0], folded))

    def before_relu(self, value: Any, folded: arithmetic.Folded) -> Any:
        """What a layer with constants computes before it rounds and clips."""
        return arithmetic.apply_folded(self.layer.accumulate(value, folded.kernel), folded)


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """The steps of a model.

    Attributes:
        steps: In topological order.
        inputs: Numbers of the input steps, in the order of the model's inputs.
        outputs: Numbers of the steps by which each of the model's outputs is judged: the logits
            before a softmax, otherwise what the model returns.
        output_names: Names of the layers that give the outputs.
        classifiers: Whether each output scores several classes.
    """

    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    output_names: tuple[str, ...]
    classifiers: tuple[bool, ...]

    @property
    def input_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Shape of each input by its name, batch first."""
        return {self.steps[number].name: self.steps[number].shape for number in self.inputs}

    def readers(self) -> list[int]:
        """How many steps read each step."""
        counts = [0] * len(self.steps)
        for step in self.steps:
            for number in set(step.inputs):
                counts[number] += 1
        return counts

    def evaluate(
        self, images: Mapping[str, Any], call: Callable[[int, Step, list[Any]], Any]
    ) -> list[Any]:
        """Walks through the steps; what no later one reads is forgotten.

        Args:
            images: The model's inputs by name.
            call: `call(number, step, inputs)` gives the value of a step that is no input.

        Returns:
            The values of `outputs`.
        """
        values: dict[int, Any] = {}
        left = self.readers()
        for number, step in enumerate(self.steps):
            read = [values[i] for i in step.inputs]
            values[number] = images[step.name] if step.is_input else call(number, step, read)
            for source in set(step.inputs):
                left[source] -= 1
                if not left[source] and source not in self.outputs:
                    del values[source]
        return [values[number] for number in self.outputs]

    def peak_bytes(self, images: int) -> int:
        """The largest size of all values that a walk has to hold at the same time."""
        left = self.readers()
        held = sum(self.steps[i].bytes_of(images) for i in (*self.inputs, *self.outputs))
        peak = held
        for step in self.steps:
            held += 0 if step.is_input else step.bytes_of(images)
            peak = max(peak, held)
            for number in set(step.inputs):
                left[number] -= 1
                held -= 0 if left[number] else self.steps[number].bytes_of(images)
        return peak


def trace(model: Any) -> Network:
    """The steps of a quantized model of either Keras.

    Args:
        model: A model that `faq_keras.apply` made.
    """
    calls = list(layer_calls(model))
    numbers = {id(tensor): n for n, call in enumerate(calls) for tensor in call.outputs}
    inputs = [tuple(numbers[id(tensor)] for tensor in call.input_tensors) for call in calls]
    layers = [call.operation for call in calls]
    returned = [numbers[id(tensor)] for tensor in model.outputs]
    outputs = tuple(_scored(layers, inputs, number) for number in returned)
    grids = _grids(layers, inputs)
    logits = _logits(layers, inputs, outputs)
    steps = tuple(
        Step(
            layer=layer,
            name=layer.plan.name if isinstance(layer, QuantizedLayer) else layer.name,
            inputs=inputs[n],
            shape=tuple(calls[n].outputs[0].shape),
            grid=grids[n],
            logits=n in logits,
        )
        for n, layer in enumerate(layers)
    )
    return Network(
        steps,
        tuple(numbers[id(tensor)] for tensor in model.inputs),
        outputs,
        tuple(steps[number].name for number in returned),
        tuple(_is_classifier(steps[number]) for number in returned),
    )


def _scored(layers: list[Any], inputs: list[tuple[int, ...]], number: int) -> int:
    """The quantized layer whose values an output hands on, or makes probabilities of."""
    while not isinstance(layers[number], QuantizedLayer) and inputs[number]:
        (number,) = inputs[number]
    return number


def _is_classifier(step: Step) -> bool:
    """Whether an output is a vector of scores that compete, as those of a sigmoid do not."""
    activation = getattr(step.layer, "activation", None)
    is_sigmoid = getattr(activation, "__name__", "") == "sigmoid"
    return len(step.shape) == 2 and (step.shape[-1] or 0) > 1 and not is_sigmoid


def _grids(layers: list[Any], inputs: list[tuple[int, ...]]) -> list[TensorSpec | None]:
    """A layer that hands codes on has the grid of its input, if a quantized layer reads it."""
    needed: set[int] = set()
    for number in reversed(range(len(layers))):
        if isinstance(layers[number], QuantizedLayer) or number in needed:
            needed.update(inputs[number])
    grids: list[TensorSpec | None] = []
    for number, layer in enumerate(layers):
        if isinstance(layer, QuantizedLayer):
            grids.append(layer.plan.output)
        else:
            carried = number in needed and bool(inputs[number])
            grids.append(grids[inputs[number][0]] if carried else None)
    return grids


def _logits(layers: list[Any], inputs: list[tuple[int, ...]], outputs: tuple[int, ...]) -> set[int]:
    """Everything from the outputs back to the kernels whose sums they are.

    Pools, additions and normalizations after a kernel layer change nothing about what the mean of
    its channels says: the class. Beyond a second addition begins a network's residual trunk.
    """
    found: set[int] = set()
    waiting = [(number, 1) for number in outputs]
    while waiting:
        number, additions = waiting.pop()
        layer = layers[number]
        found.add(number)
        if isinstance(layer, QuantizedKernelLayer):
            continue
        if isinstance(layer, QuantizedLayer) and layer.plan.kind == "add":
            additions -= 1
        if additions >= 0:
            waiting += [(source, additions) for source in inputs[number]]
    return found
