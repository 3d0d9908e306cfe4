"""Reads an ONNX file into plain data, and refuses what is not a sound ONNX file.

The one idea: everything that can be wrong with a *file* is found here, before a single Keras layer
exists, so that the op handlers may rely on it. The structure goes through onnx's own checker and
its strict shape inference; weights are kept out of that, so a large network costs no extra memory.

    network, constants = read_onnx("resnet18.onnx", frozenset(HANDLERS))
    network.input_shape                  # (3, 224, 224): channels, height, width
    [node.op for node in network.nodes]  # only what the outputs depend on, in order
    constants["conv1.weight"]            # float32 [64, 3, 7, 7]
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from faq_keras.converters.errors import (
    KEEP_BATCH_NORM,
    ConversionError,
    first_line,
    listed,
)
from faq_keras.converters.onnx_bounds import (
    SHAPE_ENTRIES,
    check_bounds,
    check_image,
    lengths_are_small,
)
from faq_keras.converters.onnx_shapes import Shape, inferred_shapes, sizes
from faq_keras.converters.onnx_weights import read_constants

OPSETS = range(11, 24)
"""The opsets whose definitions the op handlers follow."""


@dataclass(frozen=True)
class Node:
    """One ONNX op.

    Attributes:
        op: The op type, such as `Conv`.
        name: The node's name; its first output's name if the file gives none.
        inputs: Names of the inputs; "" for an optional one that is left out.
        outputs: Names of the outputs.
        attributes: Python values; tensors are numpy arrays, strings are `str`.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def error(self, why: str) -> ConversionError:
        """An exception that names this node; `why` says why and what to do."""
        return ConversionError(f"{self.op} node {self.name!r} cannot be converted: {why}")

    def ints(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """An attribute that is a list of integers."""
        return tuple(int(value) for value in self.attributes.get(key, default))


@dataclass(frozen=True)
class OnnxNetwork:
    """A checked ONNX graph with one image input.

    Attributes:
        name: The graph's name.
        opset: Version of the standard op set.
        nodes: The ops that the outputs depend on, in topological order, without `Constant`.
        constants: Names of the initializers and constants that those ops read.
        input_name: Name of the image input.
        input_shape: `(channels, height, width)`.
        batch: The batch size that was baked into the file, or None.
        outputs: Names of the outputs.
        shapes: Shape inference's result by tensor name, batch first, None for unknown sizes.
        folded: Nodes whose BatchNorm was folded into them by the exporter.
    """

    name: str
    opset: int
    nodes: tuple[Node, ...]
    constants: frozenset[str]
    input_name: str
    input_shape: tuple[int, int, int]
    batch: int | None
    outputs: tuple[str, ...]
    shapes: Mapping[str, Shape]
    folded: tuple[str, ...]


def read_onnx(
    path: str | os.PathLike[str],
    supported: frozenset[str],
    input_shape: tuple[int, int, int] | None = None,
) -> tuple[OnnxNetwork, dict[str, np.ndarray]]:
    """Reads and checks a file.

    Args:
        path: The `.onnx` file; external data lie beside it.
        supported: The op types that have a handler.
        input_shape: `(height, width, channels)`; needed when the file leaves height or width open.

    Returns:
        The graph, and its constants by name: apart, so that the caller can drop each large weight
        when it has been used.

    Raises:
        ConversionError: Not an ONNX file, damaged, of an unsupported opset, with unsupported ops,
            external data outside its folder, NaN weights or an input that is not one image.
        OSError: The file cannot be read.
    """
    file = Path(path)
    try:
        return _read(file, supported, input_shape)
    except (ConversionError, OSError):
        raise
    except Exception as error:  # names that are no text, attributes without a type, ...
        raise ConversionError(
            f"{file} is damaged ({first_line(error)}). Export it again."
        ) from error


def _read(
    file: Path, supported: frozenset[str], input_shape: tuple[int, int, int] | None
) -> tuple[OnnxNetwork, dict[str, np.ndarray]]:
    model = _parse(file)
    opset = _opset(model, file)
    _refuse_unsupported(model, supported, file)
    constants = dict(read_constants(model, file))
    check_bounds(model, constants, file)
    skeleton = _skeleton(model, constants)
    folded = tuple(n.name or n.output[0] for n in model.graph.node if _has_folded_batch_norm(n))
    del model  # the weights live on in `constants` only
    name, batch, shape = _image_input(skeleton, constants, input_shape, file)
    shapes = _check(skeleton, constants, name, shape, file)
    outputs = tuple(output.name for output in skeleton.graph.output)
    nodes = _needed(skeleton, outputs)
    read = {i for node in nodes for i in node.inputs} | set(outputs)
    constants = {key: array for key, array in constants.items() if key in read}
    _refuse_nan(constants, file)
    network = OnnxNetwork(
        name=skeleton.graph.name,
        opset=opset,
        nodes=nodes,
        constants=frozenset(constants),
        input_name=name,
        input_shape=shape,
        batch=batch,
        outputs=outputs,
        shapes=shapes,
        folded=folded,
    )
    return network, constants


def _parse(file: Path) -> onnx.ModelProto:
    content = file.read_bytes()
    if not content:
        raise ConversionError(f"{file} is empty. Export the network again.")
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise ConversionError(
            f"{file} is not an ONNX file, or is truncated or damaged ({error}). Export it again."
        ) from error
    if not model.graph.node or not model.opset_import:
        raise ConversionError(
            f"{file} is not an ONNX file, or is truncated: it has no "
            f"{'opset' if model.graph.node else 'nodes'}. Export it again."
        )
    return model


def _opset(model: onnx.ModelProto, file: Path) -> int:
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    if len(versions) != 1 or versions[0] not in OPSETS:
        raise ConversionError(
            f"{file} uses ONNX opset {versions or 'none'}; supported are {OPSETS[0]} to "
            f"{OPSETS[-1]}. Re-export with opset_version=17."
        )
    return versions[0]


def _refuse_unsupported(model: onnx.ModelProto, supported: frozenset[str], file: Path) -> None:
    missing = [
        f"{'' if n.domain in ('', 'ai.onnx') else n.domain + '::'}{n.op_type} "
        f"(node {n.name or (n.output[0] if n.output else '')!r})"
        for n in model.graph.node
        if n.domain not in ("", "ai.onnx") or n.op_type not in supported | {"Constant"}
    ]
    if missing:
        raise ConversionError(
            f"{file} has {len(missing)} nodes with no Keras counterpart here: "
            f"{listed(missing)}. Replace these ops in the original network and export it again."
        )


def _skeleton(model: onnx.ModelProto, constants: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The model without its large weights: these become inputs of the same type and shape.

    So do large Constant nodes. Functions of the file's own are left out, none is called.
    """
    skeleton = onnx.ModelProto(ir_version=model.ir_version, producer_name=model.producer_name)
    skeleton.opset_import.extend(model.opset_import)
    graph, source = skeleton.graph, model.graph
    graph.name = source.name
    for node in source.node:
        if node.op_type == "Constant" and constants[node.output[0]].size > SHAPE_ENTRIES:
            array = constants[node.output[0]]
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            graph.input.append(
                onnx.helper.make_tensor_value_info(node.output[0], kind, array.shape)
            )
        else:
            graph.node.append(node)
    graph.input.extend(source.input)
    graph.output.extend(source.output)
    declared = {value.name for value in graph.input}
    for tensor in source.initializer:
        array = constants[tensor.name]
        if array.size <= SHAPE_ENTRIES:
            graph.initializer.append(onnx.numpy_helper.from_array(array, tensor.name))
        elif tensor.name not in declared:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return skeleton


def _has_folded_batch_norm(node: onnx.NodeProto) -> bool:
    """Whether an exporter folded a BatchNorm into this op.

    The TorchScript exporter renames a kernel that it computed to `onnx::Conv_193`; the newer one
    notes in the node's metadata from which modules and by which rewriting rule it came.
    """
    if node.op_type not in ("Conv", "Gemm"):
        return False
    notes = " ".join(
        entry.value
        for entry in node.metadata_props
        if entry.key.endswith(("rule_name", "class_hierarchy", "fx_node"))
    ).lower()
    renamed = len(node.input) > 1 and node.input[1].startswith("onnx::Conv_")
    return renamed or "batchnorm" in notes or "batch_norm" in notes


def _image_input(
    model: onnx.ModelProto,
    constants: Mapping[str, np.ndarray],
    asked: tuple[int, int, int] | None,
    file: Path,
) -> tuple[str, int | None, tuple[int, int, int]]:
    """Name, batch size and (channels, height, width) of the one image input."""
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise ConversionError(
            f"{file} has {len(inputs)} inputs ({listed([i.name for i in inputs])}); only networks "
            "with one image input can be converted."
        )
    tensor = inputs[0].type.tensor_type
    dims = sizes(inputs[0])
    what = f"{file}: input {inputs[0].name!r} of shape {[d or '?' for d in dims]}"
    if tensor.elem_type != onnx.TensorProto.FLOAT or len(dims) != 4:
        raise ConversionError(
            f"{what} is not a float32 image [batch, channels, height, width]. "
            "Re-export in float32 with such an input."
        )
    batch, channels, height, width = dims
    if asked is not None:
        given = zip((height, width, channels), asked, strict=False)
        if len(asked) != 3 or min(asked) < 1 or any(has and has != size for has, size in given):
            raise ConversionError(
                f"{what} does not fit input_shape={tuple(asked)}, which is "
                "(height, width, channels) of one image. Sizes that the file fixes cannot be "
                "changed: leave input_shape out, or export the network for that size."
            )
        height, width, channels = asked
    if not (channels and height and width):
        raise ConversionError(
            f"{what} leaves a size open. Pass input_shape=(height, width, channels), "
            "on the command line --input_shape=224,224,3."
        )
    if min(channels, height, width) < 1 or (batch is not None and batch < 1):
        raise ConversionError(f"{what} has a size below 1. Export the network again.")
    check_image((channels, height, width), batch, what)
    return inputs[0].name, batch, (channels, height, width)


def _check(
    model: onnx.ModelProto,
    constants: Mapping[str, np.ndarray],
    name: str,
    shape: tuple[int, int, int],
    file: Path,
) -> dict[str, Shape]:
    """Runs onnx's checker and strict shape inference for the image size in use."""
    for value in model.graph.input:
        if value.name == name:
            for dim, size in zip(value.type.tensor_type.shape.dim[1:], shape, strict=True):
                dim.dim_value = size
    try:
        onnx.checker.check_model(model)
        return inferred_shapes(model, data_prop=lengths_are_small(model, constants))
    except Exception as error:  # onnx raises its own C++ exception types
        raise ConversionError(
            f"{file} is not a valid ONNX network: {first_line(error)}. Export it again."
        ) from error


def _needed(model: onnx.ModelProto, outputs: tuple[str, ...]) -> tuple[Node, ...]:
    """The nodes that the outputs depend on: exporters leave dead ones behind."""
    wanted, nodes = set(outputs), []
    for node in reversed(model.graph.node):
        if node.op_type != "Constant" and wanted & set(node.output):
            wanted |= set(node.input)
            nodes.append(_node(node))
    return tuple(reversed(nodes))


def _node(node: onnx.NodeProto) -> Node:
    attributes = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        if isinstance(value, onnx.TensorProto):
            value = onnx.numpy_helper.to_array(value)
        attributes[attribute.name] = value
    return Node(
        node.op_type, node.name or node.output[0], tuple(node.input), tuple(node.output), attributes
    )


def _refuse_nan(constants: Mapping[str, np.ndarray], file: Path) -> None:
    """Refuses NaN anywhere and infinity in weights (a scalar infinity may be a clipping bound)."""
    bad = [
        f"{name!r} ({np.count_nonzero(~np.isfinite(array))} of {array.size} values)"
        for name, array in constants.items()
        if array.dtype.kind == "f"
        and not np.isfinite(array).all()
        and (array.ndim > 0 or np.isnan(array))
    ]
    if bad:
        raise ConversionError(
            f"{file} has weights that are NaN or infinite: {listed(bad)}. Repair the checkpoint."
        )


def refuse_folded(network: OnnxNetwork, file: str | os.PathLike[str]) -> None:
    """Raises for a file whose BatchNorms are gone, because they cannot be trained any more."""
    if network.folded:
        raise ConversionError(
            f"{os.fspath(file)}: BatchNorm is already folded into {len(network.folded)} "
            f"convolutions ({listed([repr(name) for name in network.folded], 3)}), so that it "
            f"cannot be fine-tuned. Re-export with {KEEP_BATCH_NORM}, or with dynamo=True, "
            "optimize=False; or pass allow_folded=True to convert it as it is."
        )
