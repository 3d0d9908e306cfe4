"""Poolings against onnxruntime: windows beyond the image, and sizes that onnx gets wrong."""

import onnx
import pytest

from faq_keras.converters import ConversionError, from_onnx
from tests.converters.test_ops import ints, node, weight


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 0, 0]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_shape": [5, 5], "strides": [3, 3], "pads": [2, 2, 2, 2]},
        {"kernel_shape": [1, 1]},
    ],
)
@pytest.mark.parametrize("after_relu", [True, False])
def test_pool(write_onnx, assert_equal_to_onnxruntime, op, attributes, after_relu):
    nodes = [node("Relu", outputs=["r"]), node(op, ["r" if after_relu else "x"], **attributes)]
    assert_equal_to_onnxruntime(write_onnx(nodes))


#: Poolings whose last window would begin beyond the image: onnx counts it (below opset 22).
CEILED = [
    {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [3, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    {"kernel_shape": [1, 1], "strides": [2, 3], "ceil_mode": 1},
]


@pytest.mark.parametrize("attributes", CEILED)
@pytest.mark.parametrize("edge", [7, 8])
@pytest.mark.parametrize("opset", [11, 17, 23])
def test_pools_whose_size_onnx_infers_wrongly(
    write_onnx, assert_equal_to_onnxruntime, attributes, edge, opset
):
    """Two in a row; the second one's input is what the first one really gives."""
    nodes = [
        node("Relu", outputs=["r"]),
        node("MaxPool", ["r"], ["p"], **attributes),
        node("MaxPool", ["p"], ["y"], kernel_shape=[1, 1], strides=[2, 2], ceil_mode=1),
    ]
    path = write_onnx(nodes, shape=("batch", 4, edge, edge), opset=opset)
    assert_equal_to_onnxruntime(path)


@pytest.mark.parametrize(
    ("nodes", "weights", "shape"),
    [
        (
            [
                node("Conv", ["x", "w"], ["c"], strides=[2, 2]),
                node("Concat", ["p", "c"], axis=1),
            ],
            {"w": weight(2, 4, 3, 3)},
            (3, 3, 6),
        ),
        ([node("Flatten", ["p"], ["f"]), node("Gemm", ["f", "w"])], {"w": weight(36, 5)}, (5,)),
        ([node("Flatten", ["p"], ["f"]), node("MatMul", ["f", "w"])], {"w": weight(36, 5)}, (5,)),
        ([node("Reshape", ["p", "to"])], {"to": ints(-1, 36)}, (36,)),
    ],
)
def test_what_follows_such_a_pool_is_inferred_from_its_real_size(write_onnx, nodes, weights, shape):
    """To onnx 4 x 4; onnxruntime, which infers alike, refuses most of these files."""
    pool = [node("Relu", outputs=["r"]), node("MaxPool", ["r"], ["p"], **CEILED[0])]
    rank = len(shape) + 1
    path = write_onnx([*pool, *nodes], weights, ("batch", 4, 7, 7), output_rank=rank)
    assert from_onnx(path).output_shape == (None, *shape)


@pytest.mark.parametrize(("edge", "is_right"), [(3, True), (4, True), (2, False), (5, False)])
def test_the_size_of_such_a_pool_that_stands_in_the_file_is_checked(write_onnx, edge, is_right):
    """PyTorch's exporter writes 4, what onnx infers, although PyTorch computes 3."""
    nodes = [node("Relu", outputs=["r"]), node("MaxPool", ["r"], **CEILED[0])]
    path = write_onnx(nodes, shape=("batch", 4, 7, 7))
    model = onnx.load(path)
    for dim in model.graph.output[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = edge
    onnx.save(model, path)
    if is_right:
        assert from_onnx(path).output_shape == (None, 3, 3, 4)
    else:
        with pytest.raises(
            ConversionError, match=rf"not a valid ONNX network: .*\(3\) vs \({edge}\)"
        ):
            from_onnx(path)


def test_average_pool_that_counts_the_padding(write_onnx, assert_equal_to_onnxruntime):
    pool = node("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)
    assert_equal_to_onnxruntime(write_onnx([pool]))
