"""ONNX -> Keras: an editable, trainable Keras 3 model that equals the file.

The one idea: the nodes of the file are converted one after another by a table of small handlers
(`network.HANDLERS`; the modules `ops_*` fill it) into standard Keras layers, channels last, with
convolution and batch normalisation kept apart, and no Lambda anywhere:

    model = faq_keras.converters.from_onnx("resnet18.onnx")
    model.get_layer("layer1_0_bn1")      # named after the weights of the original
    model.save("resnet18.keras")         # loads without this package

Needs only `onnx` and numpy beside Keras. Layers that carry weights are named after these, so that
`layer1.0.conv1.weight` is found in `layer1_0_conv1`.
"""

from __future__ import annotations

import os

import keras
import numpy as np

from faq_keras.converters import (  # noqa: F401  these fill the table of handlers
    ops_constant,
    ops_elementwise,
    ops_linear,
    ops_pooling,
    ops_shape,
)
from faq_keras.converters.errors import ConversionError
from faq_keras.converters.network import HANDLERS, Network, readable, run
from faq_keras.converters.onnx_file import read_onnx, refuse_folded
from faq_keras.converters.values import Value, image


def from_onnx(
    path: str | os.PathLike[str],
    input_shape: tuple[int, int, int] | None = None,
    *,
    allow_folded: bool = False,
) -> keras.Model:
    """Converts an ONNX file into a Keras model.

    Args:
        path: The `.onnx` file of a float32 image network [batch, channels, height, width], opset 11
            to 23. External data have to lie beside it.
        input_shape: `(height, width, channels)`; only needed when the file leaves them open.
        allow_folded: Accept a file whose BatchNorms the exporter has folded into convolutions.

    Returns:
        A functional model from float32 [batch, height, width, channels] to what the file returns.
        Outputs that are images are channels-last, too.

    Raises:
        ConversionError: What is wrong with the file, or which of its ops cannot be converted.
        OSError: The file cannot be read.
    """
    if keras.config.image_data_format() != "channels_last":
        raise ConversionError(
            "Keras is set to channels_first, but converted networks are channels-last. "
            "Call keras.config.set_image_data_format('channels_last')."
        )
    file, constants = read_onnx(path, frozenset(HANDLERS), input_shape)
    if not allow_folded:
        refuse_folded(file, path)
    channels, height, width = file.input_shape
    name = readable(file.input_name) or "image"
    source = keras.Input((height, width, channels), name=name, dtype="float32")
    network = Network(file, constants, image(source))
    del constants
    try:
        _convert(network)
        outputs = [_output(network, name) for name in file.outputs]
        model_name = readable(file.name) or "network"
        return keras.Model(source, outputs[0] if len(outputs) == 1 else outputs, name=model_name)
    except RecursionError as error:
        raise ConversionError(
            f"{os.fspath(path)} is deeper than Keras can build: its {len(file.nodes):,} nodes "
            "follow one another. Keras walks through a network recursively, to a depth of about "
            "300 layers per 1,000 of sys.getrecursionlimit()."
        ) from error


def _convert(network: Network) -> None:
    """Converts the nodes in order; drops each constant after its last use, so that memory stays."""
    for node in network.file.nodes:
        run(network, node)
        network.uses.subtract(node.inputs)
        for name in set(node.inputs):
            if not network.uses[name] and isinstance(network.values.get(name), np.ndarray):
                del network.values[name]


def _output(network: Network, name: str) -> keras.KerasTensor:
    value = network.values.get(name)
    if not isinstance(value, Value):
        raise ConversionError(
            f"{network.file.name!r}: output {name!r} does not depend on the image. "
            "Export only outputs that do."
        )
    is_image = len(value.shape) == 3
    return (network.channels_last(value) if is_image else network.plain(value)).tensor
