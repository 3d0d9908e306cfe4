"""What the layers do while a network trains: saturation, bits in use, exponents, dead layers.

Once per epoch one batch runs through the network. Of each quantized layer the share of its codes
at the end of their range (`saturation`), the share that is zero (`zeros`), the bits that its
distinct codes need (`bits_used`) and its kernel's exponent (with the number of changes so far) go
to TensorBoard and into `metrics.jsonl`; a layer that gives nothing but zeros is named in a warning.

    watch = LayerWatch(images, "runs/first/tensorboard/layers")
    model.fit(data, callbacks=[watch, MetricsLog("runs/first/metrics.jsonl", layers=watch)])
    watch.latest["conv1"]        # {"saturation": 0.001, "zeros": 0.4, "bits_used": 3.9, ...}
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from faq_keras.graph import layer_calls
from faq_keras.layers import QuantizedKernelLayer
from faq_keras.plan import TensorSpec
from faq_keras.quantized_layer import QuantizedLayer

_MOST_VALUES = 2**24  # of all layers' outputs together: what one look may cost

Images = npt.NDArray[np.float32]
LayerState = dict[str, float | int]


class Taps:
    """The outputs of a functional network's layers.

    Attributes:
        layers: The layers whose outputs are read, in topological order.
    """

    def __init__(self, model: keras.Model) -> None:
        calls = [
            call
            for call in layer_calls(model)
            if not isinstance(call.operation, keras.layers.InputLayer)
        ]
        self.layers: list[Any] = [call.operation for call in calls]
        tensors = [call.outputs[0] for call in calls]
        self._values_per_image = sum(math.prod(t.shape[1:]) for t in tensors)
        self._network = keras.Model(model.input, tensors)

    def __call__(self, images: Images) -> list[npt.NDArray[Any]]:
        """Outputs of each layer in inference mode, for as many of the images as are affordable."""
        count = max(1, min(len(images), _MOST_VALUES // max(1, self._values_per_image)))
        return [np.asarray(value) for value in self._network(images[:count], training=False)]


def layer_states(
    layers: Sequence[Any], outputs: Sequence[npt.NDArray[Any]]
) -> dict[str, LayerState]:
    """State of each quantized layer.

    Args:
        layers: Layers of a model; those that are not quantized are left out.
        outputs: What they gave.
    """
    found: dict[str, LayerState] = {}
    for layer, values in zip(layers, outputs, strict=True):
        if isinstance(layer, QuantizedLayer):
            spec = layer.plan.output
            found[layer.name] = state_of_counts(code_counts(values, spec), spec)
            if isinstance(layer, QuantizedKernelLayer):
                found[layer.name]["kernel_exponent"] = kernel_exponent(layer)
    return found


def code_counts(values: npt.NDArray[Any], spec: TensorSpec) -> npt.NDArray[np.int64]:
    """How often each code from `spec.lowest` to `spec.highest` occurs among quantized values."""
    codes = np.rint(values / spec.step).astype(np.int64).ravel() - spec.lowest
    return np.bincount(codes, minlength=spec.highest - spec.lowest + 1)


def state_of_counts(counts: npt.NDArray[np.int64], spec: TensorSpec) -> LayerState:
    """State of a tensor whose codes were counted."""
    limited = counts[-1] + (counts[0] if spec.signed else 0)
    return {
        "saturation": float(limited / counts.sum()),
        "zeros": float(counts[-spec.lowest] / counts.sum()),
        "bits_used": math.log2(np.count_nonzero(counts)),
    }


def kernel_exponent(layer: QuantizedKernelLayer) -> int:
    """The exponent `l` of a layer's weights as they are now."""
    return int(layer.quantize_config.kernel_quantizer.exponent(layer.kernel_layer.kernel))


def first_not_finite_output(model: keras.Model, images: Images) -> str | None:
    """The first layer whose output has NaN or infinite values, with their number; None if none."""
    taps = Taps(model)
    for layer, values in zip(taps.layers, taps(images), strict=True):
        bad = int(np.count_nonzero(~np.isfinite(values)))
        if bad:
            return f"layer {layer.name!r} ({bad} of {values.size})"
    return None


class LayerWatch(keras.callbacks.Callback):
    """Looks at the quantized layers at the end of each epoch; silent for float networks.

    Attributes:
        latest: State of each layer at the last look.
    """

    def __init__(
        self,
        images: Images,
        events: str | os.PathLike[str] | None = None,
        before: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Prepares the looks.

        Args:
            images: A batch `[images, height, width, channels]`.
            events: Folder for TensorBoard events.
            before: `latest` of the epoch before, when a run is resumed.
        """
        super().__init__()
        self.latest: dict[str, LayerState] = {k: dict(v) for k, v in (before or {}).items()}
        self._images = images
        self._events = events
        self._writer: Any = None
        self._taps: Taps | None = None

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Notes the kernels' exponents, unless they are known from before."""
        layers = [la for la in self.model._flatten_layers() if isinstance(la, QuantizedLayer)]
        if not layers:
            return
        self._taps = Taps(self.model)
        if not self.latest:
            kernels = [layer for layer in layers if isinstance(layer, QuantizedKernelLayer)]
            self.latest = {la.name: {"kernel_exponent": kernel_exponent(la)} for la in kernels}
        if self._events is not None:
            self._writer = tf.summary.create_file_writer(os.fspath(self._events))

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Takes a look and writes down what it sees."""
        if self._taps is None:
            return
        states = layer_states(self._taps.layers, self._taps(self._images))
        for name, state in states.items():
            before = self.latest.get(name, {})
            if "kernel_exponent" in state:
                moved = before.get("kernel_exponent") != state["kernel_exponent"]
                state["exponent_changes"] = int(before.get("exponent_changes", 0)) + moved
        self.latest = states
        self._warn_of_dead(epoch)
        self._write(epoch)

    def _warn_of_dead(self, epoch: int) -> None:
        dead = [name for name, state in self.latest.items() if state["zeros"] == 1.0]
        if dead:
            logging.getLogger(__name__).warning(
                "After epoch %d these layers give nothing but zeros (dead): %s. What comes behind "
                "them learns nothing any more; try a lower learning rate or more bits for them.",
                epoch + 1,
                ", ".join(dead),
            )

    def _write(self, epoch: int) -> None:
        if self._writer is None:
            return
        with self._writer.as_default(step=epoch):
            for name, state in self.latest.items():
                for key, value in state.items():
                    tf.summary.scalar(f"{key}/{name}", value)
        self._writer.flush()

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Closes the events' file."""
        if self._writer is not None:
            self._writer.close()
