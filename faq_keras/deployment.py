"""From a quantized model to a file that provably computes the same.

`export_tflite`, `export_onnx`, and `verify` for a `.tflite` file that exists already:

    report = faq_keras.export_tflite(q, "model.tflite", weights="int4", verify=x_test[:1000])
    print(report)      # model.tflite: 0 mismatches of 22,986,000 values ...

Exporting is lowering, writing, auditing the written bytes, and running them beside the Keras model;
the file gets its name only after all of it went well.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from faq_keras import model_card
from faq_keras.compat import keras_of
from faq_keras.converters.errors import ConversionError
from faq_keras.data.batches import input_batches
from faq_keras.files import atomic_write
from faq_keras.integer import layout
from faq_keras.integer.keras_codes import KerasCodes
from faq_keras.integer.lowering import lower
from faq_keras.integer.parity_report import ParityReport
from faq_keras.integer.program import IntegerProgram
from faq_keras.layers import QuantizedInput
from faq_keras.rewrite.bridge import to_keras3
from faq_keras.rewrite.keras3 import plan_of
from faq_keras.tflite import audit, model_file, parity, writer
from faq_keras.tflite.runtimes import names_of

RANDOM_INPUTS = "random"
# Images that run through Keras at once: so many, and no more than fit this memory.
_CHUNK, _CHUNK_BYTES = 32, 512 * 2**20
_RANDOM_IMAGES = 16


def export_tflite(
    model: Any,
    path: str | os.PathLike[str],
    weights: str = "int8",
    verify: Any = RANDOM_INPUTS,
    *,
    input_type: str = "int8",
    softmax: bool = False,
    metrics: Mapping[str, float] | None = None,
    fully_connected_1x1: bool = False,
) -> ParityReport | None:
    """Writes a fully integer TFLite file and proves that it computes what the model computes.

    The file takes int8 codes and gives int16 (or int8) logits, batch 1 with a resizable batch
    dimension. Beside it, `<name>.model_card.md` and `.json` tell how to feed it.

    Args:
        model: A quantized model, of either Keras.
        path: The `.tflite` file.
        weights: "int8" (weights of 4 bits and fewer in int8 containers; runs at full speed
            everywhere) or "int4" (packed: half the bytes; load it with `faq_keras.tflite.load`,
            which unpacks it).
        verify: Model inputs to compare all tensors on: array or iterable of batches. By default
            random codes (16 images); None writes the file without running it.
        input_type: "int8", or "uint8" / "float32": a QUANTIZE op in the file converts.
        softmax: Appends the integer SOFTMAX op to the outputs that end in a softmax in Keras, or to
            all if none does (logits). Its tables round in their own way: the claim of exactness
            ends at the logits.
        metrics: Figures for the model card, such as `{"test_accuracy": 0.914}`.
        fully_connected_1x1: With weights "int4": a packed file that LiteRT's own interpreter (1.3
            and later, with XNNPACK) runs exactly and at speed, without `faq_keras.tflite.load`. 1x1
            convolutions become FULLY_CONNECTED, whose packed kernels XNNPACK takes; all other
            kernels stay int8 (`docs/packed.md`).

    Returns:
        What was compared; None with `verify=None`.

    Raises:
        ParityError: If any integer of any tensor differs; no file is left.
        ValueError: If the model is not quantized or cannot be represented; an argument is unknown.
        OSError: If the file cannot be written.
    """
    path, twin = Path(path), to_keras3(model)
    model_card.check_names(path)
    program = lower(twin, input_type, softmax)
    if fully_connected_1x1:
        program = _laid_out(program, weights)
    facts = _metadata(model, program, weights, "NHWC", "ai-edge-litert", _tensor_facts)
    if fully_connected_1x1:
        facts["fully_connected_1x1"] = True  # `verify` reads it
    program = dataclasses.replace(program, metadata=facts)
    report = None
    with atomic_write(path) as temporary:
        writer.write(program, temporary, weights)
        audited = audit.audit(temporary, program, weights)
        if verify is not None:
            found = parity.compare(_expected(model, program, verify), program, temporary)
            report = dataclasses.replace(found, path=str(path)).check()
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
    model_card.write(path, program, audited, report, metrics, digest)
    return report


def export_onnx(
    model: Any, path: str | os.PathLike[str], verify: Any = RANDOM_INPUTS
) -> ParityReport | None:
    """Writes a QDQ ONNX file (opset 21) and proves that it computes what the model computes.

    The file takes float32 images `[batch, channels, height, width]` after the model's
    preprocessing and gives float32 logits; in between stand the plan's codes, in UINT4, UINT8,
    INT8 and INT16, and weights in INT4 (up to 4 bits) and INT8. A final softmax stays in Keras.

    What is equal: every code tensor and the logits, between Keras, the integer reference and
    onnxruntime's CPU kernels, with the graph as written (ORT_DISABLE_ALL) and optimized
    (ORT_ENABLE_ALL, what sessions do by default), on the machine that exports. Both are compared.

    Args:
        model: A quantized model, of either Keras.
        path: The `.onnx` file.
        verify: Model inputs to compare on: array or iterable of batches. By default random codes
            (16 images); None writes the file without running it.

    Returns:
        What was compared, one run per optimization level; None with `verify=None`.

    Raises:
        ParityError: If any code of any tensor differs at either level; no file is left.
        ValueError: If the model is not quantized or cannot be represented, `verify` is unknown, or
            onnxruntime is not installed and there is something to verify.
        OSError: If the file cannot be written.
    """
    from faq_keras.converters import qdq  # imports onnx, which not every user needs

    compare = None if verify is None else _onnx_comparison()
    path, twin = Path(path), to_keras3(model)
    program = lower(twin, "float32")
    facts = _metadata(model, program, "int4", "NCHW", "onnx", _onnx_tensor_facts)
    program = dataclasses.replace(program, metadata=facts)
    report = None
    with atomic_write(path) as temporary:
        qdq.write(program, temporary)
        if compare is not None:
            found = compare(_expected(model, program, verify), program, temporary)
            report = dataclasses.replace(found, path=str(path)).check()
    return report


def _onnx_comparison() -> Callable[..., ParityReport]:
    try:
        from faq_keras.converters import qdq_parity
    except ModuleNotFoundError as error:
        raise ConversionError(
            f"Comparing an ONNX file with its model needs {error.name}: pip install "
            "'faq_keras[torch]', or pass verify=None to write the file without a proof."
        ) from error
    return qdq_parity.compare


def verify(
    model: Any,
    path: str | os.PathLike[str],
    x: Any,
    runtimes: str | Iterable[str] = ("xnnpack",),
    num_threads: int = 1,
    labels: Any = None,
) -> ParityReport:
    """Compares a file with the model it was exported from, tensor by tensor.

    Args:
        model: The quantized model.
        path: The `.tflite` file, packed or not.
        x: Model inputs: array or iterable of batches.
        runtimes: Names of the runtimes to run it on, at least one.
        num_threads: Threads of each runtime.
        labels: The class of each image, integers `[images]`: every run then also has the top-1
            accuracy of the runtime's logits and of the model's.

    Returns:
        The report; mismatches are counted, not raised.

    Raises:
        ValueError: If the file is missing, broken or another model's, or there is nothing to
            compare: no runtime, no image.
    """
    names = names_of(runtimes)
    file = model_file.read(path)
    program = lower(model, file.input_types[0], softmax="SOFTMAX" in file.operators)
    if file.metadata.get("fully_connected_1x1"):
        program = layout.fully_connected_1x1(program)
    audit.audit(path, program)
    expected = _expected(model, program, x)
    return parity.compare(expected, program, path, names, num_threads, labels)


def _laid_out(program: IntegerProgram, weights: str) -> IntegerProgram:
    """The program with its 1x1 convolutions as fully connected ops.

    Raises:
        ValueError: If nothing would be packed then.
    """
    if weights != "int4":
        raise ValueError(
            f"fully_connected_1x1 is a way to pack weights, but weights is {weights!r}: pass "
            "weights='int4', or leave fully_connected_1x1 out."
        )
    result = layout.fully_connected_1x1(program)
    if not layout.packed_tensors(result):
        raise ValueError(
            f"'{program.name}' has no 1x1 convolution (stride 1, an even number of input channels) "
            f"with weights of at most {layout.PACKED_BITS} bits, so fully_connected_1x1 would pack "
            "nothing. Leave it out, and run the packed file with faq_keras.tflite.load."
        )
    return result


def _expected(model: Any, program: IntegerProgram, x: Any) -> Iterator[dict[str, np.ndarray]]:
    """What the model computes in its own Keras, chunk by chunk, by tensor name."""
    codes = KerasCodes(model, program)
    if isinstance(x, str):
        if x != RANDOM_INPUTS:
            raise ValueError(
                f"verify must be {RANDOM_INPUTS!r}, None or model inputs; received {x!r}."
            )
        step = _images_per_chunk(program)
        for start in range(0, _RANDOM_IMAGES, step):
            yield codes.random(min(step, _RANDOM_IMAGES - start), seed=start)
        return
    step = _images_per_chunk(program)
    shapes = {tensor._keras_history[0].name: tuple(tensor.shape) for tensor in model.inputs}
    for batch in input_batches(x, None, shapes, "verification"):
        for start in range(0, len(next(iter(batch.values()))), step):
            yield codes({name: part[start : start + step] for name, part in batch.items()})


def _images_per_chunk(program: IntegerProgram) -> int:
    """How many images' tensors fit the working memory, as floats and as codes."""
    sizes = [program.tensors[name].shape[1:] for name in program.activations()]
    values = sum(math.prod(size or 1 for size in shape) for shape in sizes)
    return max(1, min(_CHUNK, _CHUNK_BYTES // (8 * values)))


def _metadata(
    model: Any,
    program: IntegerProgram,
    weights: str,
    layout: str,
    package: str,
    tensor_facts: Callable[[IntegerProgram, str, str], dict[str, Any]],
) -> dict[str, Any]:
    """What the file tells about itself.

    Args:
        model: The quantized model, in its own Keras.
        program: Its lowering.
        weights: Container of weights of 4 bits and fewer.
        layout: Of the file's images.
        package: The one whose version the file's format depends on.
        tensor_facts: Describes an input or output.
    """
    plan = plan_of(model)
    roles = [(name, "input") for name in program.inputs] + [
        (name, "output") for name in program.outputs
    ]
    return {
        "format": "faq_keras/1",
        "model": model.name,
        "plan_hash": plan.hash,
        "weight_bits": plan.settings.weight_bits,
        "activation_bits": plan.settings.activation_bits,
        "logits_bits": plan.settings.logits_bits,
        "numerics": plan.settings.numerics,
        "scales": plan.settings.scales,
        "post_training": plan.settings.post_training,
        "recipe": plan.settings.recipe,
        "agreement": [str(entry) for entry in plan.settings.agreement],
        "weights": weights,
        "layout": layout,
        "colour_order": "as trained",
        "preprocessing": _preprocessing(model, program),
        "tensors": [tensor_facts(program, name, role) for name, role in roles],
        "versions": {
            name: metadata.version(name) for name in ("faq_keras", "tensorflow", "keras", package)
        },
    }


def _tensor_facts(program: IntegerProgram, name: str, role: str) -> dict[str, Any]:
    tensor = program.tensors[name]
    return {
        "name": name,
        "role": role,
        "type": tensor.dtype,
        "shape": [1, *tensor.shape[1:]],
        "scale": tensor.scale[0] if tensor.scale else None,
        "zero_point": tensor.zero_point,
    }


def _onnx_tensor_facts(program: IntegerProgram, name: str, role: str) -> dict[str, Any]:
    """Of the float tensor; the scale is that of its codes."""
    from faq_keras.converters.qdq_graph import channels_first, interface_name

    codes = program.tensors[interface_name(name)]
    return {
        "name": codes.name,
        "role": role,
        "type": "float32",
        "shape": [1, *channels_first(codes.shape[1:])],
        "scale": codes.scale[0],
        "zero_point": 0,
    }


def _preprocessing(
    model: Any, program: IntegerProgram
) -> list[dict[str, Any]] | dict[str, list[dict[str, Any]]]:
    """The float layers in front of the input tensor, which the file leaves to the caller.

    With several inputs, by name of the input tensor.

    Args:
        model: The quantized model, in its own Keras, whose epsilon counts.
        program: Its lowering.
    """
    quantizers = {
        layer.plan.name: layer for layer in model.layers if isinstance(layer, QuantizedInput)
    }
    steps = []
    for tensor in model.inputs:
        parts = quantizers[tensor._keras_history[0].name].float_layers
        steps.append([_step(part, rank=len(tensor.shape)) for part in parts])
    return steps[0] if len(steps) == 1 else dict(zip(program.inputs, steps, strict=True))


def _step(layer: Any, rank: int) -> dict[str, Any]:
    """One preprocessing layer as plain numbers, which broadcast against what it reads.

    Raises:
        ValueError: If each image of a batch has numbers of its own.
    """
    library = keras_of(layer)
    if isinstance(layer, library.layers.Rescaling):
        op, numbers = "rescale", {"scale": layer.scale, "offset": layer.offset}
    else:
        deviation = np.maximum(np.sqrt(np.asarray(layer.variance)), library.backend.epsilon())
        if layer.invert:
            op, numbers = "rescale", {"scale": deviation, "offset": layer.mean}
        else:
            op, numbers = "normalize", {"mean": layer.mean, "std": deviation}
    plain = {key: _plain(value) for key, value in numbers.items()}
    shapes = [np.shape(value) for value in plain.values()]
    if any(len(shape) >= rank for shape in shapes):
        raise ValueError(
            f"Layer '{layer.name}' ({type(layer).__name__}) has other numbers for each image of a "
            f"batch (shape {max(shapes, key=len)}), which a file for single images cannot state: "
            "quantize the model without this layer, and apply it to the images yourself."
        )
    return {"op": op, **plain}


def _plain(value: Any) -> Any:
    """Numbers as JSON has them, without leading axes of size 1."""
    array = np.asarray(value, np.float64)
    while array.ndim and len(array) == 1:
        array = array[0]
    return array.item() if array.size == 1 else array.tolist()
