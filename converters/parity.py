"""Does the converted network equal the original? Numbers, measured on photographs.

The one idea: conversion is accepted on the *relative* error, the largest difference of a logit
divided by the largest logit, at most 1e-5, **and** on equal top-1. Float networks in two runtimes
differ in the order of their sums, so an absolute bound would say nothing.

    report = compare(model, {"torch": run_torch, "onnxruntime": run_onnx}, images)
    print(report)         # onnxruntime: relative error 9.5e-07, top-1 equal on 64 of 64 ...
    report.require()      # raises ConversionError, with the numbers
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import keras
import numpy as np

from faq_keras.converters.errors import ConversionError, first_line

LARGEST_RELATIVE_ERROR = 1e-5
_BATCH = 8
_MOST_PIXELS = 1 << 26  # of all photographs together

Outputs = tuple[np.ndarray, ...]
"""What a network returns: logits [batch, classes], images channels-last."""
Runner = Callable[[np.ndarray], Outputs]
"""From float32 images [batch, height, width, channels] to the outputs."""


@dataclass(frozen=True)
class Agreement:
    """The converted network against one runtime of the original.

    Attributes:
        relative_error: Largest difference of an output's values over its largest value; of
            several outputs, that of the worst.
        same_top1: Number of images on which the largest value is the same one, in every output.
        images: Number of images compared.
        values: Number of output values compared.
    """

    relative_error: float
    same_top1: int
    images: int
    values: int


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion gave.

    Attributes:
        network: Its name.
        agreements: By runtime of the original, such as `torch` and `onnxruntime`.
        parameters: Number of weights of the Keras model.
        layers: Number of its layers.
        seconds: Duration of the conversion itself, from the ONNX file to the Keras model.
        peak_memory_mb: Largest memory of this process so far, in megabytes; None where the system
            does not say it.
        versions: Of the libraries that took part.
    """

    network: str
    agreements: Mapping[str, Agreement]
    parameters: int
    layers: int
    seconds: float
    peak_memory_mb: float | None
    versions: Mapping[str, str]

    def require(self) -> None:
        """Raises unless the converted network equals the original.

        Raises:
            ConversionError: Which runtime differs and by how much; or there was none.
        """
        if not self.agreements:
            raise ConversionError(
                f"The converted {self.network!r} was compared with nothing: it needs a runtime of "
                "its original, such as onnxruntime (pip install 'faq_keras[torch]')."
            )
        bad = [
            f"{runtime}: {_line(agreement)}"
            for runtime, agreement in self.agreements.items()
            if not agreement.relative_error <= LARGEST_RELATIVE_ERROR
            or agreement.same_top1 != agreement.images
        ]
        if bad:
            raise ConversionError(
                f"The converted {self.network!r} does not equal its original (allowed: relative "
                f"error {LARGEST_RELATIVE_ERROR:g}, equal top-1). {'; '.join(bad)}. "
                "Please report the network as a bug."
            )

    def to_json(self) -> str:
        """All numbers, for machines."""
        return json.dumps(asdict(self), indent=2)

    def __str__(self) -> str:
        lines = [
            f"{self.network}: {self.layers} layers, {self.parameters:,} parameters, converted in "
            f"{self.seconds:.1f} s, peak memory {_megabytes(self.peak_memory_mb)}"
        ]
        lines += [f"  {runtime}: {_line(a)}" for runtime, a in self.agreements.items()]
        if not self.agreements:
            lines.append("  NOT compared with its original: onnxruntime is not installed")
        return "\n".join(lines)


def _megabytes(number: float | None) -> str:
    return "unknown" if number is None else f"{number:.0f} MB"


def _line(agreement: Agreement) -> str:
    return (
        f"relative error {agreement.relative_error:.1e} in {agreement.values:,} values, "
        f"top-1 equal on {agreement.same_top1} of {agreement.images} images"
    )


def agreement(expected: Outputs, got: Outputs) -> Agreement:
    """Compares the outputs [images, ...] of the original and of the converted network.

    Raises:
        ConversionError: They differ in number or shape, or there is nothing in them.
    """
    shapes = [[output.shape for output in outputs] for outputs in (expected, got)]
    if not any(output.size for output in expected):
        raise ConversionError(f"There is nothing to compare: outputs of the shapes {shapes[0]}.")
    if shapes[0] != shapes[1]:
        raise ConversionError(f"The original returns shapes {shapes[0]}, Keras {shapes[1]}.")
    errors, same = [], np.ones(len(expected[0]), bool)
    for ours, theirs in zip(got, expected, strict=True):
        largest = float(np.abs(theirs).max()) or 1.0
        errors.append(float(np.abs(theirs.astype(np.float64) - ours).max()) / largest)
        flat = [array.reshape(len(array), -1).argmax(axis=1) for array in (ours, theirs)]
        same &= flat[0] == flat[1]
    worst = float(np.max(errors))  # NaN, if one is
    return Agreement(worst, int(same.sum()), len(same), sum(output.size for output in expected))


def compare(
    model: keras.Model, originals: Mapping[str, Runner], images: np.ndarray, seconds: float
) -> ConversionReport:
    """Runs the converted model and the original on the same images.

    Args:
        model: The converted model.
        originals: The original's runtimes by name.
        images: float32 [images, height, width, channels], as the network wants them.
        seconds: How long the conversion took, for the report.
    """
    got = in_batches(keras_runner(model), images)
    return ConversionReport(
        network=model.name,
        agreements={
            name: agreement(in_batches(run, images), got) for name, run in originals.items()
        },
        parameters=model.count_params(),
        layers=len(model.layers),
        seconds=seconds,
        peak_memory_mb=peak_memory_mb(),
        versions={"keras": keras.__version__, "numpy": np.__version__, **_versions(originals)},
    )


def _versions(originals: Mapping[str, Runner]) -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in originals}


def in_batches(run: Runner, images: np.ndarray) -> Outputs:
    """Runs a network on images, a few at a time, so that memory stays small.

    Raises:
        ConversionError: There is no image.
    """
    if not len(images):
        raise ConversionError("There is nothing to compare: no image was given.")
    return _joined([run(images[i : i + _BATCH]) for i in range(0, len(images), _BATCH)])


def _joined(parts: Sequence[Outputs]) -> Outputs:
    return tuple(np.concatenate(output) for output in zip(*parts, strict=True))


def image_last(output: np.ndarray) -> np.ndarray:
    """An output of the original as Keras has it: images [batch, channels, ...] channels-last."""
    return output.transpose(0, 2, 3, 1) if output.ndim == 4 else output


def peak_memory_mb() -> float | None:
    """Largest memory that this process has had, in megabytes (10^6 bytes); None if unknown."""
    try:
        import resource
    except ImportError:  # not POSIX
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def keras_runner(model: keras.Model) -> Runner:
    """The converted model in inference."""

    def run(images: np.ndarray) -> Outputs:
        outputs = model(images, training=False)
        return tuple(map(np.asarray, outputs if isinstance(outputs, list | tuple) else [outputs]))

    return run


def onnx_runner(path: str | os.PathLike[str], threads: int = 0) -> Runner:
    """The ONNX file in onnxruntime, taking channels-last images.

    Args:
        path: The `.onnx` file.
        threads: Number of threads; 0 lets onnxruntime choose.

    Raises:
        ConversionError: onnxruntime refuses the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            _living(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime raises its own C++ exception types
        raise ConversionError(
            f"onnxruntime does not run {os.fspath(path)}, so that there is nothing to compare the "
            f"network with: {first_line(error)}. Export it again, with another opset_version."
        ) from error
    source = session.get_inputs()[0]
    fixed = source.shape[0] if isinstance(source.shape[0], int) else None

    def run(images: np.ndarray) -> Outputs:
        batch = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        parts = [batch] if fixed is None else np.split(batch, range(fixed, len(batch), fixed))
        outputs = []
        for part in parts:
            missing = 0 if fixed is None else fixed - len(part)
            full = np.concatenate([part, np.zeros((missing, *part.shape[1:]), part.dtype)])
            try:
                found = session.run(None, {source.name: full})
            except Exception as error:
                raise ConversionError(
                    f"onnxruntime cannot run {os.fspath(path)} on images of the shape "
                    f"{images.shape[1:]}: {first_line(error)}. Was it exported for another size?"
                ) from error
            outputs.append(tuple(image_last(output[: len(part)]) for output in found))
        return _joined(outputs)

    return run


def _living(path: str | os.PathLike[str]) -> str | bytes:
    """The file, or a copy without nodes that no output depends on: onnxruntime computes those."""
    import onnx

    model = onnx.load(os.fspath(path), load_external_data=False)
    wanted, living = {output.name for output in model.graph.output}, []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            living.append(node)
    if len(living) == len(model.graph.node):
        return os.fspath(path)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(living)]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    onnx.load_external_data_for_model(model, os.path.dirname(os.path.abspath(path)))
    content: bytes = model.SerializeToString()
    return content


def photographs(input_shape: tuple[int, int, int], count: int = 64, seed: int = 0) -> np.ndarray:
    """Random crops of the two photographs that scikit-learn ships.

    Args:
        input_shape: `(height, width, channels)`.
        count: How many crops.
        seed: Of the crops.

    Returns:
        uint8 [count, height, width, channels]; other than three channels repeat the grey image.
    """
    from PIL import Image
    from sklearn.datasets import load_sample_images

    height, width, channels = input_shape
    sources = [Image.fromarray(image) for image in load_sample_images().images]
    random = np.random.default_rng(seed)
    crops = np.empty((count, height, width, 3), np.uint8)
    for i in range(count):
        source = sources[i % len(sources)]
        side = int(random.integers(64, min(source.size) + 1))
        left, top = (int(random.integers(0, edge - side + 1)) for edge in source.size)
        box = (left, top, left + side, top + side)
        crops[i] = np.asarray(source.resize((width, height), Image.Resampling.BILINEAR, box=box))
    if channels == 3:
        return crops
    grey = crops.mean(axis=-1, keepdims=True).astype(np.uint8)
    return np.repeat(grey, channels, axis=-1)


def normalised_photographs(
    input_shape: tuple[int, int, int], count: int | None = None
) -> np.ndarray:
    """Photographs for networks of unknown preprocessing: parity needs sensible inputs only.

    Args:
        input_shape: `(height, width, channels)`.
        count: How many crops; None: 64, or fewer of large ones.

    Returns:
        float32 [count, height, width, channels] in [-2, 2].
    """
    if count is None:
        count = max(1, min(64, _MOST_PIXELS // math.prod(input_shape)))
    return (photographs(input_shape, count).astype(np.float32) - 127.5) / 63.75
