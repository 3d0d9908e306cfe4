"""PyTorch -> Keras, checked: export to ONNX, convert, compare with the original on photographs.

    model, report = faq_keras.converters.from_torch("resnet18", weights="resnet18.pth")
    print(report)

A network that differs by more than 1e-5 of its largest logit, or in a single top-1, is refused.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import torch

from faq_keras.converters.errors import ConversionError
from faq_keras.converters.onnx_to_keras import from_onnx
from faq_keras.converters.parity import (
    ConversionReport,
    Outputs,
    Runner,
    compare,
    image_last,
    normalised_photographs,
    onnx_runner,
    photographs,
)
from faq_keras.converters.torch_to_onnx import load_module, torch_to_onnx
from faq_keras.converters.zoo import ZOO


def from_torch(
    module_or_arch: torch.nn.Module | str,
    weights: str | os.PathLike[str] | None = None,
    input_shape: tuple[int, int, int] = (224, 224, 3),
    *,
    factory: str | Callable[[], torch.nn.Module] | None = None,
    images: np.ndarray | None = None,
) -> tuple[keras.Model, ConversionReport]:
    """Converts a PyTorch network and measures that it equals the original.

    Args:
        module_or_arch: A module, or the name of an architecture (`ZOO`, torchvision).
        weights: A checkpoint; without one the module's own weights are converted.
        input_shape: `(height, width, channels)` of one image.
        factory: What builds a network that has no name, `pkg.module:function`; pass "" as
            `module_or_arch`.
        images: float32 [images, height, width, channels] to compare on, preprocessed; default are
            64 crops of photographs.

    Returns:
        The Keras model and the parity report.

    Raises:
        ConversionError: The network cannot be converted, or the result is not equal.
        OSError: The checkpoint cannot be read.
    """
    if isinstance(module_or_arch, torch.nn.Module):
        module, name = module_or_arch, type(module_or_arch).__name__
        if weights is not None:
            module = load_module(factory=lambda: module_or_arch, weights=weights)
    else:
        module = load_module(module_or_arch or None, factory, weights)
        name = module_or_arch or type(module).__name__
    if images is None and name in ZOO:
        images = ZOO[name].preprocessing.apply(photographs(input_shape))
    elif images is None:
        images = normalised_photographs(input_shape)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        torch_to_onnx(module, file, input_shape)
        start = time.perf_counter()
        model = from_onnx(file)
        seconds = time.perf_counter() - start
        model.name = name
        originals = {"torch": torch_runner(module)}
        with contextlib.suppress(ConversionError):  # a second witness; PyTorch is the original
            originals["onnxruntime"] = onnx_runner(file)
        report = compare(model, originals, images, seconds)
    report.require()
    return model, report


def torch_runner(module: torch.nn.Module) -> Runner:
    """The module in eval mode, taking channels-last images; its modes are left as they were."""

    def run(images: np.ndarray) -> Outputs:
        modes = {part: part.training for part in module.modules()}
        module.eval()
        try:
            with torch.inference_mode():
                batch = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
                found = module(batch)
        finally:
            for part, training in modes.items():
                part.training = training
        outputs = found if isinstance(found, list | tuple) else [found]
        return tuple(image_last(output.numpy()) for output in outputs)

    return run
