"""Shape inference by onnx, with the sizes that runtimes compute.

The one idea: of a pooling with ceil_mode, onnx counts (in opsets below 22) a last window that
begins beyond the image and would see nothing but padding; PyTorch and onnxruntime leave it out. So
inference sees such a pooling without ceil_mode and with as much padding after the image as its
windows reach over:

    MaxPool(2, stride 3, pads 1, ceil_mode) of 7 rows    onnx: 4, everybody else: 3
    MaxPool(2, stride 3, pads 1, 0)                      everybody: 3
"""

from __future__ import annotations

import itertools
from typing import Any

import onnx

Shape = tuple[int | None, ...]


def inferred_shapes(model: onnx.ModelProto, data_prop: bool = True) -> dict[str, Shape]:
    """Shapes by tensor name, batch first, None for unknown sizes.

    Args:
        model: The model.
        data_prop: Whether shapes that the graph computes are computed along.

    Raises:
        Exception: onnx finds something wrong with the model, and has types of its own for that.
    """
    model = _copy(model)
    ceiled = [node for node in model.graph.node if _attributes(node).get("ceil_mode", 0)]
    if ceiled:
        _forget_outputs_inferred_wrongly(model, data_prop)
    for node in ceiled:
        # Earlier ones are corrected; what later ones upset is of no interest yet.
        shape = _shapes(onnx.shape_inference.infer_shapes(model)).get(node.input[0], ())
        pads = _explicit_pads(_attributes(node), shape[2:])
        if pads is not None:
            kept = [a for a in node.attribute if a.name not in ("pads", "ceil_mode")]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute("pads", pads)])
    return _shapes(
        onnx.shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=data_prop
        )
    )


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _forget_outputs_inferred_wrongly(model: onnx.ModelProto, data_prop: bool) -> None:
    """Clears outputs that have the shape that onnx infers: exporters write it into the file."""
    bare = _copy(model)
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = _shapes(onnx.shape_inference.infer_shapes(bare, data_prop=data_prop))
    for output in model.graph.output:
        known = inferred.get(output.name)
        if known is not None and _agree(sizes(output), known):
            output.type.tensor_type.ClearField("shape")


def _agree(first: Shape, second: Shape) -> bool:
    pairs = itertools.zip_longest(first, second, fillvalue=-1)
    return all(a is None or b is None or a == b for a, b in pairs)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def ceiled_padding(size: int, before: int, after: int, extent: int, stride: int) -> int:
    """Padding after an axis that gives as many windows as ceil_mode does.

    Args:
        size: Rows or columns of the image.
        before: Padding in front of them.
        after: Padding behind them without ceil_mode.
        extent: Rows from the first to the last one of a window.
        stride: Rows from one window to the next.
    """
    windows = -(-(size + before + after - extent) // stride) + 1
    if (windows - 1) * stride >= size + before:
        windows -= 1  # no window may start in the padding after the image
    return max((windows - 1) * stride + extent - size - before, 0)


def _explicit_pads(attributes: dict[str, Any], sizes: Shape) -> list[int] | None:
    """The padding that stands for ceil_mode; None if sizes are unknown or it is not explicit."""
    rank = len(sizes)
    kernel = attributes.get("kernel_shape", ())
    strides = attributes.get("strides", (1,) * rank)
    dilations = attributes.get("dilations", (1,) * rank)
    pads = list(attributes.get("pads", (0,) * 2 * rank))
    fits = {len(kernel), len(strides), len(dilations), len(pads) // 2} == {rank}
    if attributes.get("auto_pad", b"NOTSET") != b"NOTSET" or not fits or min(strides) < 1:
        return None
    for axis, size in enumerate(sizes):
        if size is None:
            return None
        extent = (kernel[axis] - 1) * dilations[axis] + 1
        pads[rank + axis] = ceiled_padding(
            size, pads[axis], pads[rank + axis], extent, strides[axis]
        )
    return pads


def _shapes(inferred: onnx.ModelProto) -> dict[str, Shape]:
    graph = inferred.graph
    return {
        value.name: sizes(value)
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }


def sizes(value: onnx.ValueInfoProto) -> Shape:
    """The declared sizes of a tensor; none if it has no shape."""
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)
