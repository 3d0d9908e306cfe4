"""Keras -> ONNX in float, checked: the way back for whoever wants the network in torch again.

The one idea: tf2onnx writes the file and nothing is believed. The file is run by onnxruntime and,
through onnx2torch, by torch, on photographs, and is only kept if both equal the Keras model.

    report = faq_keras.converters.to_onnx(model, "resnet18.onnx")     # float networks only
    module = onnx2torch.convert("resnet18.onnx")                      # input [batch, 3, 224, 224]

BatchNorm is folded into the convolutions by tf2onnx. Quantized networks have a writer of their own.
"""

from __future__ import annotations

import importlib
import os
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf2onnx

from faq_keras.converters.errors import ConversionError, first_line
from faq_keras.converters.parity import (
    ConversionReport,
    compare,
    normalised_photographs,
    onnx_runner,
)
from faq_keras.converters.torch_to_keras import torch_runner
from faq_keras.converters.torch_to_onnx import import_torchvision
from faq_keras.files import atomic_write

OPSET = 15
"""onnx2torch reads no newer one in full."""


def to_onnx(
    model: keras.Model, path: str | os.PathLike[str], images: np.ndarray | None = None
) -> ConversionReport:
    """Writes a float Keras model as an ONNX file with a channels-first input.

    Args:
        model: A built model with one image input [batch, height, width, channels], one output.
        path: The `.onnx` file to write; it appears only if it equals the model.
        images: float32 images to compare on; default are crops of photographs.

    Returns:
        How well onnxruntime and torch agree with the model.

    Raises:
        ConversionError: The model has other inputs or outputs, holds an op that tf2onnx does not
            know, or the file does not equal the model.
        OSError: The file cannot be written.
    """
    if len(model.inputs) != 1 or len(model.outputs) != 1 or len(model.input_shape) != 4:
        raise ConversionError(
            f"{model.name!r} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; only "
            "one image input and one output can be written. Build a model of that form."
        )
    if images is None:
        images = normalised_photographs(model.input_shape[1:], 16)
    with atomic_write(path) as partial:
        start = time.perf_counter()
        _write(model, partial)
        seconds = time.perf_counter() - start
        module = _import_onnx2torch().convert(str(partial))
        originals = {"onnxruntime": onnx_runner(partial), "onnx2torch": torch_runner(module)}
        report = compare(model, originals, images, seconds)
        report.require()
    return report


def _write(model: keras.Model, path: Path) -> None:
    specification = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="image")
    function = tf.function(lambda image: model(image, training=False))
    images_out = ["Identity:0"] if len(model.output_shape) == 4 else None
    try:
        tf2onnx.convert.from_function(
            function,
            [specification],
            opset=OPSET,
            inputs_as_nchw=["image:0"],
            outputs_as_nchw=images_out,
            output_path=str(path),
        )
    except Exception as error:  # tf2onnx raises whatever it stumbles over
        raise ConversionError(
            f"tf2onnx cannot write {model.name!r}: {first_line(error)}. Grouped convolutions and "
            "custom layers are known not to work."
        ) from error


def _import_onnx2torch() -> Any:
    """The library; it imports torchvision, which needs the help of `import_torchvision`."""
    import_torchvision()
    return importlib.import_module("onnx2torch")
