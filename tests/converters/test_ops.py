"""Every op handler against onnxruntime: small graphs written by hand, all opsets that differ."""

import keras
import numpy as np
import onnx
import pytest

from faq_keras.converters import ConversionError, from_onnx

RANDOM = np.random.default_rng(0)
OPSETS = (11, 12, 13, 14, 17, 18, 21, 23)


def node(op, inputs=("x",), outputs=("y",), **attributes):
    return onnx.helper.make_node(op, list(inputs), list(outputs), **attributes)


def weight(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def ints(*values):
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    "kernel, attributes",
    [
        ((6, 4, 3, 3), {}),
        ((6, 4, 3, 3), {"pads": [1, 1, 1, 1]}),
        ((6, 4, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ((6, 4, 3, 3), {"pads": [0, 1, 2, 0], "strides": [1, 2]}),
        ((6, 4, 3, 3), {"pads": [2, 2, 2, 2], "dilations": [2, 2]}),
        ((6, 4, 1, 7), {"pads": [0, 3, 0, 3]}),
        ((6, 4, 1, 1), {"strides": [2, 2]}),
        ((6, 4, 4, 4), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((6, 4, 4, 4), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
        ((6, 4, 3, 3), {"auto_pad": "VALID"}),
        ((6, 2, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
        ((4, 1, 3, 3), {"group": 4, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ((8, 1, 3, 3), {"group": 4}),
        ((4, 1, 3, 3), {"group": 4, "pads": [2, 2, 2, 2], "dilations": [2, 2]}),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_conv(write_onnx, assert_equal_to_onnxruntime, kernel, attributes, bias):
    weights = {"block.0.weight": weight(*kernel)}
    if bias:
        weights["block.0.bias"] = weight(kernel[0])
    path = write_onnx([node("Conv", ["x", *weights], **attributes)], weights)
    model = assert_equal_to_onnxruntime(path)
    assert model.get_layer("block_0").use_bias == bias


def test_batch_norm_keeps_the_decimals_that_were_meant(write_onnx, assert_equal_to_onnxruntime):
    weights = {
        f"bn1.{key}": np.abs(weight(4)) for key in ("weight", "bias", "running_mean", "running_var")
    }
    batch_norm = node("BatchNormalization", ["x", *weights], epsilon=1e-3, momentum=0.9)
    model = assert_equal_to_onnxruntime(write_onnx([batch_norm], weights))
    layer = model.get_layer("bn1")
    assert (layer.epsilon, layer.momentum) == (1e-3, 0.9)


def test_batch_norm_of_a_flattened_image(write_onnx, assert_equal_to_onnxruntime):
    weights = {key: np.abs(weight(360)) for key in ("scale", "bias", "mean", "variance")}
    nodes = [
        node("Flatten", outputs=["f"]),
        node("BatchNormalization", ["f", *weights], ["b"]),
        node("Gemm", ["b", "m"]),
    ]
    assert_equal_to_onnxruntime(write_onnx(nodes, {**weights, "m": weight(360, 5)}, output_rank=2))


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("keep", [0, 1])
def test_mean_over_height_and_width(write_onnx, assert_equal_to_onnxruntime, opset, keep):
    if opset < 18:
        mean, weights = node("ReduceMean", axes=[2, 3], keepdims=keep), {}
    else:
        mean, weights = node("ReduceMean", ["x", "a"], keepdims=keep), {"a": ints(-1, -2)}
    path = write_onnx([mean], weights, opset=opset, output_rank=4 if keep else 2)
    assert_equal_to_onnxruntime(path)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("how", ["Flatten", "Reshape", "Squeeze", "nothing"])
def test_global_pooling_before_a_dense_layer(write_onnx, assert_equal_to_onnxruntime, op, how):
    flatten = {
        "Flatten": node("Flatten", ["p"], ["f"]),
        "Reshape": node("Reshape", ["p", "to"], ["f"]),
        "Squeeze": node("Squeeze", ["p", "axes"], ["f"]),
    }
    weights = {"to": ints(0, -1), "axes": ints(2, 3), "fc.weight": weight(4, 5)}
    if how == "nothing":
        nodes = [node(op)]
    else:
        nodes = [node(op, outputs=["p"]), flatten[how], node("Gemm", ["f", "fc.weight"])]
    model = assert_equal_to_onnxruntime(
        write_onnx(nodes, weights, output_rank=4 if how == "nothing" else 2)
    )
    if how != "nothing":
        assert [type(layer).__name__ for layer in model.layers[1:]] == [
            op.replace("Pool", "Pooling2D"),
            "Dense",
        ]


@pytest.mark.parametrize("options", [{}, {"transB": 1}, {"alpha": 0.5, "beta": 2.0}])
def test_gemm_behind_flatten_permutes_rows(write_onnx, assert_equal_to_onnxruntime, options):
    matrix = weight(5, 360) if options.get("transB") else weight(360, 5)
    nodes = [node("Flatten", outputs=["f"]), node("Gemm", ["f", "fc.weight", "fc.bias"], **options)]
    path = write_onnx(nodes, {"fc.weight": matrix, "fc.bias": weight(5)}, output_rank=2)
    model = assert_equal_to_onnxruntime(path)
    assert [layer.name for layer in model.layers[1:]] == ["flatten_0", "fc"]


def test_matmul_and_relu_behind_flatten(write_onnx, assert_equal_to_onnxruntime):
    nodes = [
        node("Flatten", outputs=["f"]),
        node("Relu", ["f"], ["r"]),
        node("MatMul", ["r", "w"]),
    ]
    assert_equal_to_onnxruntime(write_onnx(nodes, {"w": weight(360, 5)}, output_rank=2))


def test_flattened_output_has_the_order_of_the_original(write_onnx, assert_equal_to_onnxruntime):
    assert_equal_to_onnxruntime(write_onnx([node("Flatten")], output_rank=2))


@pytest.mark.parametrize(
    "op, attributes",
    [
        ("Relu", {}),
        ("LeakyRelu", {"alpha": 0.1}),
        ("Sigmoid", {}),
        ("Tanh", {}),
        ("HardSwish", {}),
        ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    ],
)
def test_activation(write_onnx, assert_equal_to_onnxruntime, op, attributes):
    assert_equal_to_onnxruntime(write_onnx([node(op, **attributes)]))


@pytest.mark.parametrize("opset", OPSETS)
def test_relu6(write_onnx, assert_equal_to_onnxruntime, opset):
    bounds = {"low": np.float32(0), "high": np.float32(6)}
    weights = {key: np.asarray(value) for key, value in bounds.items()}
    path = write_onnx([node("Clip", ["x", *weights])], weights, opset=opset)
    model = assert_equal_to_onnxruntime(path)
    assert model.layers[-1].max_value == 6.0


@pytest.mark.parametrize("opset", OPSETS)
def test_softmax(write_onnx, assert_equal_to_onnxruntime, opset):
    nodes = [node("Flatten", outputs=["f"]), node("Softmax", ["f"])]
    assert_equal_to_onnxruntime(write_onnx(nodes, opset=opset, output_rank=2))


@pytest.mark.parametrize("gate, name", [("Sigmoid", "silu"), ("HardSigmoid", "hard_silu")])
def test_gated_activations_become_one_layer(write_onnx, assert_equal_to_onnxruntime, gate, name):
    attributes = {} if gate == "Sigmoid" else {"alpha": 1 / 6}
    nodes = [node(gate, outputs=["s"], **attributes), node("Mul", ["x", "s"])]
    model = assert_equal_to_onnxruntime(write_onnx(nodes))
    assert [layer.activation.__name__ for layer in model.layers[1:]] == [name]


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul"])
def test_merge_of_an_image_with_its_channel_means(write_onnx, assert_equal_to_onnxruntime, op):
    nodes = [node("GlobalAveragePool", outputs=["p"]), node(op, ["x", "p"])]
    assert_equal_to_onnxruntime(write_onnx(nodes))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("shape", [(), (1,), (4, 1, 1), (1, 4, 1, 1)])
@pytest.mark.parametrize("first", [True, False])
def test_constant_per_channel(write_onnx, assert_equal_to_onnxruntime, op, shape, first):
    if op == "Div" and not first:
        pytest.skip("a quotient by a tensor has no layer: test_unsupported_arguments_say_why")
    path = write_onnx(
        [node(op, ["x", "c"] if first else ["c", "x"])], {"c": weight(*shape)}, output_rank=4
    )
    model = assert_equal_to_onnxruntime(path)
    assert isinstance(model.layers[-1], keras.layers.Rescaling)


def test_transform_input_becomes_one_layer(write_onnx, assert_equal_to_onnxruntime):
    nodes, weights = [], {"axis": ints(1)}
    for i in range(3):
        weights |= {f"i{i}": np.array(i), f"a{i}": weight(), f"b{i}": weight()}
        nodes += [
            node("Gather", ["x", f"i{i}"], [f"g{i}"], axis=1),
            node("Unsqueeze", [f"g{i}", "axis"], [f"u{i}"]),
            node("Mul", [f"u{i}", f"a{i}"], [f"m{i}"]),
            node("Add", [f"m{i}", f"b{i}"], [f"s{i}"]),
        ]
    nodes.append(node("Concat", ["s0", "s1", "s2"], axis=1))
    path = write_onnx(nodes, weights, ("batch", 3, 8, 8))
    model = assert_equal_to_onnxruntime(path)
    assert [layer.name for layer in model.layers[1:]] == ["transform_input"]


@pytest.mark.parametrize("opset", OPSETS)
def test_split_and_concat_of_channels(write_onnx, assert_equal_to_onnxruntime, opset):
    if opset < 13:
        split, weights = node("Split", outputs=["a", "b"], axis=1, split=[1, 3]), {}
    else:
        split, weights = node("Split", ["x", "s"], ["a", "b"], axis=1), {"s": ints(1, 3)}
    nodes = [split, node("Concat", ["b", "a"], axis=-3)]
    assert_equal_to_onnxruntime(write_onnx(nodes, weights, opset=opset))


@pytest.mark.parametrize(
    "starts, ends, axes, steps",
    [
        ([0, 0], [9, 10], [2, 3], [2, 2]),
        ([1, 3], [2**63 - 1, -1], [2, 3], [2, 3]),
        ([1], [3], [1], [1]),
        ([-2], [2**63 - 1], [-3], [1]),
        ([0, 1, 2, 0], [2**31, 3, 8, 10], [0, 1, 2, 3], [1, 1, 1, 2]),
    ],
)
def test_slice(write_onnx, assert_equal_to_onnxruntime, starts, ends, axes, steps):
    if 0 in axes:
        starts, ends, axes, steps = starts[1:], ends[1:], axes[1:], steps[1:]
    weights = {"s": ints(*starts), "e": ints(*ends), "a": ints(*axes), "t": ints(*steps)}
    path = write_onnx([node("Slice", ["x", *weights])], weights)
    assert_equal_to_onnxruntime(path)


def test_option_a_shortcut_is_standard_layers(write_onnx, assert_equal_to_onnxruntime):
    weights = {
        "s": ints(0, 0),
        "e": ints(2**31, 2**31),
        "a": ints(2, 3),
        "t": ints(2, 2),
        "p": ints(0, 2, 0, 0, 0, 2, 0, 0),
    }
    nodes = [node("Slice", ["x", "s", "e", "a", "t"], ["h"]), node("Pad", ["h", "p"])]
    model = assert_equal_to_onnxruntime(write_onnx(nodes, weights))
    assert [type(layer).__name__ for layer in model.layers[1:]] == [
        "MaxPooling2D",
        "Reshape",
        "ZeroPadding2D",
        "Reshape",
    ]


@pytest.mark.parametrize(
    "pads", [(0, 0, 1, 2, 0, 0, 3, 4), (0, 1, 0, 0, 0, 2, 0, 0), (0, 1, 1, 0, 0, 0, 0, 1)]
)
def test_pad(write_onnx, assert_equal_to_onnxruntime, pads):
    path = write_onnx([node("Pad", ["x", "p"])], {"p": ints(*pads)})
    assert_equal_to_onnxruntime(path)


@pytest.mark.parametrize("sizes", [(0, 2, 2, 9, 10), (-1, 2, 2, 9, 10), (1, 2, 2, 9, 10)])
def test_channel_shuffle_is_three_layers(write_onnx, assert_equal_to_onnxruntime, sizes):
    weights = {"split": ints(*sizes), "join": ints(sizes[0], 4, 9, 10)}
    nodes = [
        node("Reshape", ["x", "split"], ["g"]),
        node("Transpose", ["g"], ["t"], perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["t", "join"]),
    ]
    batch = 1 if sizes[0] == 1 else "batch"
    path = write_onnx(nodes, weights, (batch, 4, 9, 10))
    model = assert_equal_to_onnxruntime(path, images=1 if batch == 1 else 3)
    assert [type(layer).__name__ for layer in model.layers[1:]] == ["Reshape", "Permute", "Reshape"]


def test_any_reshape_and_transpose(write_onnx, assert_equal_to_onnxruntime):
    nodes = [
        node("Transpose", outputs=["t"], perm=[0, 2, 3, 1]),
        node("Reshape", ["t", "a"], ["u"]),
        node("Transpose", ["u"], ["v"], perm=[0, 2, 1, 3]),
        node("Reshape", ["v", "b"], ["w"]),
        node("MatMul", ["w", "m"]),
    ]
    weights = {"a": ints(0, 3, 15, 8), "b": ints(0, -1), "m": weight(360, 7)}
    assert_equal_to_onnxruntime(write_onnx(nodes, weights, output_rank=2))


def test_shape_arithmetic_with_a_dynamic_batch(write_onnx, assert_equal_to_onnxruntime):
    weights = {"zero": np.array(0), "one": np.array(1), "axes": ints(0), "rest": ints(-1)}
    nodes = [
        node("Shape", outputs=["s"]),
        node("Gather", ["s", "zero"], ["n"], axis=0),
        node("Unsqueeze", ["n", "axes"], ["b"]),
        node("Concat", ["b", "rest"], ["to"], axis=0),
        node("Reshape", ["x", "to"]),
    ]
    assert_equal_to_onnxruntime(write_onnx(nodes, weights, output_rank=2))


@pytest.mark.parametrize("batch", [1, 2, "batch"])
def test_batch_of_the_file(write_onnx, assert_equal_to_onnxruntime, batch):
    rows = 1 if batch == "batch" else batch
    nodes = [node("Reshape", ["x", "to"], ["f"]), node("Gemm", ["f", "m"])]
    weights = {"to": ints(rows if batch != "batch" else -1, 360), "m": weight(360, 3)}
    path = write_onnx(nodes, weights, (batch, 4, 9, 10), output_rank=2)
    model = assert_equal_to_onnxruntime(path, images=2)
    assert model.input_shape == (None, 9, 10, 4)


def test_dead_nodes_are_not_converted(write_onnx, assert_equal_to_onnxruntime):
    nodes = [node("Tanh", outputs=["dead"]), node("Relu")]
    model = assert_equal_to_onnxruntime(write_onnx(nodes))
    assert len(model.layers) == 2


@pytest.mark.parametrize(
    "nodes, weights, message",
    [
        (
            [node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, ceil_mode=1)],
            {},
            "too large",
        ),
        ([node("Clip", ["x", "c"])], {"c": np.float32(-1)}, "minimum of 0"),
        ([node("Div", ["c", "x"])], {"c": np.float32(1)}, "division by a tensor"),
        ([node("Add", ["x", "c"])], {"c": weight(1, 1, 9, 10)}, "one per channel"),
        ([node("HardSigmoid", alpha=0.2)], {}, "1/6"),
        ([node("Softmax", axis=1)], {}, r"\[batch, classes\]"),
        ([node("Transpose", perm=[1, 0, 2, 3])], {}, "moves the batch"),
        ([node("Reshape", ["x", "to"])], {"to": ints(-1, 4, 3, 5)}, "rearrange"),
        ([node("ReduceMean", axes=[1])], {}, "only height and width"),
        ([node("Concat", ["x", "x"], axis=0)], {}, "axis 0"),
        (
            [node("MaxPool", kernel_shape=[2, 2], dilations=[2, 2])],
            {},
            "dilations",
        ),
        (
            [node("Conv", ["x", "w"], strides=[2, 2], dilations=[2, 2])],
            {"w": weight(4, 4, 2, 2)},
            "at once",
        ),
        (
            [node("Conv", ["x", "w"], strides=[1, 2], group=4)],
            {"w": weight(4, 1, 2, 2)},
            "equal strides",
        ),
        ([node("Pad", ["x", "p"], mode="reflect")], {"p": ints(*[0] * 8)}, "only zeros"),
    ],
)
def test_unsupported_arguments_say_why(write_onnx, nodes, weights, message):
    weights = {key: np.asarray(value) for key, value in weights.items()}
    with pytest.raises(ConversionError, match=message) as caught:
        from_onnx(write_onnx(nodes, weights))
    assert "node '/" in str(caught.value)
