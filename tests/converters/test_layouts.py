"""What the axes of a tensor hold, and what its layers are called, where that is easily mistaken."""

import numpy as np
import onnx
import pytest

from faq_keras.converters import from_torch, parity

torch = pytest.importorskip("torch", reason="needs the extra [torch]")

RANDOM = np.random.default_rng(7)
node = onnx.helper.make_node


def weight(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def test_a_transposed_gate_is_no_silu(write_onnx, assert_equal_to_onnxruntime):
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]),
        node("Sigmoid", ["t"], ["s"]),
        node("Mul", ["x", "s"], ["y"]),
    ]
    assert_equal_to_onnxruntime(write_onnx(nodes, shape=("batch", 3, 5, 5)))


# Square, so that numbers that were meant for another axis fit.
@pytest.mark.parametrize("sizes", [(16,), (4, 4), (4, 2, 2), (4, 4, 1, 1), (2, 2, 2, 2)])
@pytest.mark.parametrize("op", ["Mul", "Add", "BatchNormalization"])
def test_constants_per_channel_of_any_rank(write_onnx, assert_equal_to_onnxruntime, op, sizes):
    channels = sizes[0]
    constants = {"sizes": np.array([0, *sizes], np.int64)}
    if op == "BatchNormalization":
        names = ["scale", "bias", "mean", "variance"]
        constants |= {name: np.abs(weight(channels)) for name in names}
    else:
        names = ["c"]
        constants["c"] = weight(channels, *[1] * (len(sizes) - 1))
    nodes = [node("Reshape", ["x", "sizes"], ["s"]), node(op, ["s", *names], ["y"])]
    path = write_onnx(nodes, constants, ("batch", 4, 2, 2), output_rank=1 + len(sizes))
    assert_equal_to_onnxruntime(path)


@pytest.mark.parametrize("pooling", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("through", [None, "Identity"])
def test_a_pooling_that_is_read_as_image_and_as_vector(
    write_onnx, assert_equal_to_onnxruntime, pooling, through
):
    nodes = [node(pooling, ["x"], ["p"], name="/pool/Pool")]
    if through:
        nodes.append(node(through, ["p"], ["q"]))
    nodes += [
        node("Flatten", ["q" if through else "p"], ["f"], name="/flat/Flatten"),
        node("Gemm", ["f", "m"], ["a"]),
        node("Conv", ["p", "k"], ["c"]),
        node("Flatten", ["c"], ["b"]),
        node("Add", ["a", "b"], ["y"]),
    ]
    path = write_onnx(nodes, {"m": weight(4, 5), "k": weight(5, 4, 1, 1)}, output_rank=2)
    assert_equal_to_onnxruntime(path)


def test_a_pooling_that_is_flattened_twice(write_onnx, assert_equal_to_onnxruntime):
    nodes = [
        node("GlobalAveragePool", ["x"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Flatten", ["p"], ["g"]),
        node("Relu", ["g"], ["r"]),
        node("Add", ["f", "r"], ["y"]),
    ]
    assert_equal_to_onnxruntime(write_onnx(nodes, output_rank=2))


def test_a_pooling_that_is_an_output_too(write_onnx, assert_equal_to_onnxruntime):
    nodes = [node("GlobalAveragePool", ["x"], ["p"]), node("Flatten", ["p"], ["f"])]
    path = write_onnx(nodes, outputs=["p"])
    file = onnx.load(path)
    file.graph.output.append(onnx.helper.make_tensor_value_info("f", 1, [None, 4]))
    onnx.save(file, path)
    assert_equal_to_onnxruntime(path)


def test_a_layer_that_is_called_like_the_input(write_onnx, assert_equal_to_onnxruntime):
    nodes = [node("Conv", ["x", "x.weight"], ["y"])]
    model = assert_equal_to_onnxruntime(write_onnx(nodes, {"x.weight": weight(5, 4, 3, 3)}))
    assert [layer.name for layer in model.layers] == ["x", "x_1"]


class TwoHeads(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 6, 3)
        self.map = torch.nn.Conv2d(6, 4, 1)
        self.classes = torch.nn.Linear(6, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.classes(x.mean((2, 3))), self.map(x)


def test_every_output_is_compared():
    model, report = from_torch(TwoHeads(), input_shape=(8, 8, 3))
    print(report)
    found = report.agreements["onnxruntime"]
    assert [output.shape[1:] for output in model.outputs] == [(5,), (6, 6, 4)]
    assert found.values == found.images * (5 + 6 * 6 * 4)

    run, x = parity.keras_runner(model), parity.normalised_photographs((8, 8, 3), 8)
    expected, kernel = run(x), model.get_layer("map").kernel
    kernel.assign(-kernel)
    different = parity.agreement(expected, run(x))
    assert different.relative_error > 0.1 and different.same_top1 < 8
