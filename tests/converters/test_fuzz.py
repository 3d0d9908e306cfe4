"""Damaged files: a clear error, or a model that equals what onnxruntime makes of the same file.

Half of the mutations touch bytes, half the structure (attributes, edges, ops, shapes).
"""

import random
import time

import numpy as np
import onnx
import onnx.reference
import pytest

from faq_keras.converters import from_onnx, parity

OPS = ("Relu", "Conv", "MaxPool", "AveragePool", "Flatten", "Reshape", "Sigmoid", "Add", "Clip")
RANDOM = np.random.default_rng(0)
NUMBERS = np.random.default_rng(1)


def node(op, inputs, output, **attributes):
    return onnx.helper.make_node(op, inputs.split(), [output], name=f"/{output}", **attributes)


def seed_model():
    """Every kind of handler in a network of a few kilobytes."""
    normal = lambda *shape: RANDOM.normal(size=shape).astype(np.float32)  # noqa: E731
    weights = {
        "conv.weight": normal(4, 3, 3, 3),
        "bn.weight": normal(4),
        "bn.bias": normal(4),
        "bn.mean": normal(4),
        "bn.var": np.abs(normal(4)),
        "dw.weight": normal(4, 1, 3, 3),
        "pads": np.array([0, 2, 0, 0, 0, 2, 0, 0]),
        "starts": np.array([0, 0]),
        "ends": np.array([99, 99]),
        "axes": np.array([2, 3]),
        "steps": np.array([2, 2]),
        "groups": np.array([0, 2, 4, 4, 4]),
        "joined": np.array([0, 8, 4, 4]),
        "fc.weight": normal(8, 5),
        "fc.bias": normal(5),
    }
    nodes = [
        node("Conv", "x conv.weight", "c", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "c bn.weight bn.bias bn.mean bn.var", "b", epsilon=1e-3),
        node("Relu", "b", "r"),
        node("MaxPool", "r", "m", kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]),
        node("Conv", "m dw.weight", "d", group=4, pads=[1, 1, 1, 1]),
        node("Add", "d r", "a"),
        node("Slice", "a starts ends axes steps", "s"),
        node("Pad", "s pads", "p"),
        node("Reshape", "p groups", "g"),
        node("Transpose", "g", "t", perm=[0, 2, 1, 3, 4]),
        node("Reshape", "t joined", "j"),
        node("GlobalAveragePool", "j", "q"),
        node("Flatten", "q", "f"),
        node("Gemm", "f fc.weight fc.bias", "y", alpha=1.0),
    ]
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "seed",
        [tensor("x", onnx.TensorProto.FLOAT, ("n", 3, 8, 8))],
        [tensor("y", onnx.TensorProto.FLOAT, ("n", 5))],
        [onnx.numpy_helper.from_array(array, key) for key, array in weights.items()],
    )
    opset = onnx.helper.make_opsetid("", 17)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)


def mutate_bytes(content, rng):
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(data))
        kind = rng.randrange(5)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.randrange(256)
        elif kind == 2:
            del data[at : at + rng.randrange(1, 40)]
        elif kind == 3:
            data[at:at] = data[at : at + rng.randrange(1, 40)]
        else:
            del data[max(at, 1) :]
        if len(data) < 2:
            break
    return bytes(data)


def mutate_structure(content, rng):
    model = onnx.ModelProto.FromString(content)
    graph = model.graph
    for _ in range(rng.choice((1, 1, 2))):
        one, other = rng.choice(graph.node), rng.choice(graph.node)
        tensor = rng.choice(graph.initializer)
        kind = rng.randrange(9)
        if kind == 0 and one.attribute:
            attribute = rng.choice(one.attribute)
            for i in range(len(attribute.ints)):
                if rng.random() < 0.5:
                    attribute.ints[i] = rng.choice((-1, 0, 1, 2, 3, 7, 2**40))
            attribute.i = rng.choice((-1, 0, 1, 2, 4, 2**40)) if attribute.i else attribute.i
            attribute.f = rng.choice((0.0, -1.0, 2.0, 1e30)) if attribute.f else attribute.f
        elif kind == 1:
            one.input[rng.randrange(len(one.input))] = rng.choice(other.output)
        elif kind == 2:
            one.input[rng.randrange(len(one.input))] = tensor.name
        elif kind == 3:
            one.op_type = rng.choice(OPS)
        elif kind == 4 and tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice((0, 1, 2, 3, 8, 2**33, -1))
        elif kind == 5 and tensor.data_type == onnx.TensorProto.INT64:
            array = np.frombuffer(tensor.raw_data, np.int64)
            tensor.raw_data = (array + NUMBERS.integers(-2, 3, array.shape)).tobytes()
        elif kind == 6:
            tensor.data_type = rng.randrange(1, 17)
        elif kind == 7:
            graph.node.remove(one)
        else:
            dim = rng.choice(graph.input[0].type.tensor_type.shape.dim)
            dim.dim_value = rng.choice((0, 1, 2, 3, 7, 9, 2**40, -1))
        if not graph.node:
            break
    return model.SerializeToString()


def outcome(path):
    """`refused`, `equal`, or what is wrong."""
    try:
        model = from_onnx(path, allow_folded=True)
    except ValueError as error:
        return "refused" if "\n" not in str(error) else f"several lines: {error}"
    if np.prod(model.input_shape[1:]) > 1e6:
        return "equal"  # sizes that no runtime here can compute
    x = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:])).astype(np.float32)
    try:
        expected = parity.onnx_runner(path, threads=1)(x)
    except Exception:  # onnxruntime also refuses what ONNX allows, such as two equal node names
        expected = in_reference(path, x)
    if isinstance(expected, str):
        return expected
    got = parity.keras_runner(model)(x)
    if not all(np.isfinite(output).all() and output.any() for output in expected):
        return "equal"
    found = parity.agreement(expected, got)
    # One wild weight makes other logits vanish beside it: the bound is wider than for networks.
    return "equal" if found.relative_error <= 1e-4 else f"different: {found}"


def in_reference(path, x):
    """What onnx's own evaluator computes, or why it cannot."""
    try:
        evaluator = onnx.reference.ReferenceEvaluator(str(path))
        found = evaluator.run(None, {evaluator.input_names[0]: x.transpose(0, 3, 1, 2)})
        return tuple(map(parity.image_last, found))
    except Exception as error:
        return f"only from_onnx accepts it: {type(error).__name__} {str(error)[:200]}"


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=[pytest.mark.slow], id="2000")])
@pytest.mark.parametrize("mutate", [mutate_bytes, mutate_structure])
def test_damaged_files_are_refused_or_equal(tmp_path, count, mutate):
    path = tmp_path / "m.onnx"
    content = seed_model().SerializeToString()
    path.write_bytes(content)
    assert outcome(path) == "equal"
    rng, outcomes, slowest = random.Random(7), {}, 0.0
    for number in range(count):
        path.write_bytes(mutate(content, rng))
        start = time.perf_counter()
        result = outcome(path)
        slowest = max(slowest, time.perf_counter() - start)
        outcomes.setdefault(result, []).append(number)
    print({result: len(numbers) for result, numbers in outcomes.items()}, f"{slowest:.1f} s")
    assert set(outcomes) <= {"refused", "equal"}, outcomes
    assert len(outcomes["refused"]) > count / 4
    assert len(outcomes["equal"]) > count / 50
    assert slowest < 20.0
