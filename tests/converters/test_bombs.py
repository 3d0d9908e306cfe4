"""ONNX files that ask for far more than they hold: refused in 4 GiB and 30 s, or converted."""

import itertools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from faq_keras.converters import ConversionError, from_onnx
from tests.reliability import limited


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs.split(), output.split(), f"/{output}", **attributes)


def ints(*values):
    return np.array(values, np.int64)


def doubled(op, first, times, **attributes):
    """A value joined with itself again and again; the last one is called `last`."""
    names = [first, *(f"v{i}" for i in range(times - 1)), "last"]
    return [node(op, f"{a} {a}", b, **attributes) for a, b in itertools.pairwise(names)]


def chain(op, count, **attributes):
    names = ["x", *(f"v{i}" for i in range(count - 1)), "y"]
    return [node(op, a, b, **attributes) for a, b in itertools.pairwise(names)]


def one_of(name, axes):
    """Adds one number of a constant to x."""
    names = [name, *(f"one{i}" for i in range(axes))]
    taken = [node("Gather", f"{a} i", b, axis=0) for a, b in itertools.pairwise(names)]
    return [*taken, node("Add", f"x {names[-1]}", "y")]


RELU = [node("Relu", "x", "y")]
SHAPED = [node("Shape", "x", "shape")]
MANY = ints(2048, 2048)
BOMBS = {
    "concatenated shapes": ([*SHAPED, *doubled("Concat", "shape", 30, axis=0),
                             node("Reshape", "x last", "y")], {}),
    "concatenated integers": ([*doubled("Concat", "c", 34, axis=0),
                               node("Reshape", "x last", "y")], {"c": ints(1, 2)}),
    "concatenated numbers": ([*doubled("Concat", "c", 34, axis=0), *one_of("last", 1)],
                             {"c": np.ones(3, np.float32), "i": np.int64(1)}),
    "concatenated images": ([*doubled("Concat", "x", 40, axis=1), node("Relu", "last", "y")], {}),
    "dead shapes": ([*SHAPED, *doubled("Concat", "shape", 34, axis=0), *RELU], {}),
    "dead numbers": ([*doubled("Concat", "c", 34, axis=0), *RELU], {"c": np.ones(3, np.float32)}),
    "gathered": ([node("Gather", "c k", "g", axis=0),
                  node("Gather", "g k", "h", axis=1),
                  *one_of("h", 3)],
                 {"c": np.ones((2, 2, 4096), np.float32), "k": np.zeros(4096, np.int64),
                  "i": np.int64(1)}),
    "broadcast": ([node("Add", "a b", "c"), *one_of("c", 2)],
                  {"i": np.int64(1), "a": np.ones((1, 65536), np.float32),
                   "b": np.ones((65536, 1), np.float32)}),
    "many constants": (
        [*(node("ConstantOfShape", "s", f"c{i}") for i in range(2000)),
         node("Concat", " ".join(f"c{i}" for i in range(2000)), "d", axis=0),
         *one_of("d", 2)],
        {"s": MANY, "i": np.int64(1)},
    ),
    "one weight used often": (
        [node("Flatten", "x", "v"),
         *(node("MatMul", f"v{i or ''} w", f"v{i + 1}") for i in range(1500)),
         node("Relu", "v1500", "y")],
        {"w": np.ones((360, 360), np.float32)},
    ),
    "expanded weights": (
        [node("Flatten", "x", "v"), node("Expand", "o s", "w"),
         *(node("MatMul", "v w", f"v{i + 1}") for i in range(500)),
         node("Concat", " ".join(f"v{i + 1}" for i in range(500)), "y", axis=1)],
        {"o": np.ones((1, 1), np.float32), "s": ints(360, 360 * 100)},
    ),
    "axes": ([node("Unsqueeze", f"{f'u{i}' if i else 'x'} a", f"u{i + 1}") for i in range(3000)]
             + [node("Relu", "u3000", "y")], {"a": ints(*range(4, 60))}),
    "axes at once": ([node("Reshape", "x s", "r"), *chain("Relu", 900)], {"s": np.ones(4000, int)}),
    "a constant of axes": (
        [helper.make_node("Constant", [], ["s"], value_ints=[1] * 200_000),
         node("Reshape", "x s", "r"),
         *(node("Relu", f"r{i or ''}", f"r{i + 1}") for i in range(900)),
         node("Relu", "r900", "y")], {}),
    "100,000 nodes": (chain("Relu", 100_000), {}),
    "6,000 nodes": (chain("Relu", 6_000), {}),
    "1,500 nodes": (chain("Relu", 1_500), {}),
    "pads": ([node("Pad", "x p", "y")], {"p": ints(0, 0, 2**40, 0, 0, 0, 0, 0)}),
    "pads of channels": ([node("Pad", "x p", "y")], {"p": ints(0, 2**40, 0, 0, 0, 0, 0, 0)}),
    "pads of a convolution": ([node("Conv", "x w", "y", pads=[2**40] * 4)],
                              {"w": np.ones((2, 4, 3, 3), np.float32)}),
    "pads of a pooling": (
        [node("MaxPool", "x", "y", kernel_shape=[2**41] * 2, pads=[2**40] * 4)], {}),
    "strides": ([node("MaxPool", "x", "y", kernel_shape=[2, 2], strides=[2**62, 2**62])], {}),
    "steps": ([node("Slice", "x s e a t", "y")],
              {"s": ints(0, 0), "e": ints(2**62, 2**62), "a": ints(2, 3), "t": ints(2**62, 2**61)}),
    "parts": ([node("Reshape", "x s", "r"), node("SplitToSequence", "r one", "p", axis=1),
               node("SequenceAt", "p one", "y")], {"s": ints(0, 360, 1, 1), "one": np.int64(1)}),
    "many parts": ([node("Concat", "x " * 4096, "c", axis=1),
                    node("SplitToSequence", "c one", "p", axis=1),
                    node("SequenceAt", "p one", "y")], {"one": np.int64(1)}),
    "ceil_mode": ([node("MaxPool", "x" if not i else f"m{i}", f"m{i + 1}", kernel_shape=[1, 1],
                        strides=[1, 1], ceil_mode=1) for i in range(4000)]
                  + [node("Relu", "m4000", "y")], {}),
}  # fmt: skip
INPUTS = {
    "a batch of 2^40": (2**40, 4, 9, 10),
    "an image of 2^40 rows": ("batch", 4, 2**40, 10),
    "an image of 2^32 pixels": ("batch", 3, 2**16, 2**16),
    "channels": ("batch", 2**40, 1, 1),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Of `faq convert` of every file, from one child."""
    folder = tmp_path_factory.mktemp("bombs")
    for name, (nodes, weights) in BOMBS.items():
        rank = 2 if any(node.op_type == "MatMul" for node in nodes) else 4
        onnx.save(model_of(nodes, weights, rank=rank), folder / f"{name}.onnx")
    for name, shape in INPUTS.items():
        onnx.save(model_of(RELU, {}, shape), folder / f"{name}.onnx")
    onnx.save(with_functions(), folder / "functions.onnx")
    names = [*BOMBS, *INPUTS, "functions"]
    found = limited.commands(
        *(["convert", folder / f"{name}.onnx", f"--output={folder}/{name}.keras"] for name in names)
    )
    assert all((folder / f"{n}.onnx").stat().st_size < 6e6 for n in names)
    return dict(zip(names, found, strict=True))


def model_of(nodes, weights, shape=("batch", 4, 9, 10), rank=4):
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [info("x", TensorProto.FLOAT, shape)],
        [info("y", TensorProto.FLOAT, [None] * rank)],
        [onnx.numpy_helper.from_array(np.asarray(a), key) for key, a in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def with_functions(depth=40):
    """Functions of two calls of the one before: 2^40 calls."""
    model = model_of(RELU, {})
    inner = "Identity"
    for number in range(depth):
        calls = [node(inner, "a", "b"), node(inner, "b", "c")]
        for call in calls:
            call.domain = "" if not number else "f"
        name = f"F{number}" if number < depth - 1 else "Relu"
        domain = "f" if number < depth - 1 else ""
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
        model.functions.append(helper.make_function(domain, name, ["a"], ["c"], calls, imports))
        inner = name
    model.opset_import.append(helper.make_opsetid("f", 1))
    return model


# What is well-formed and small once it is seen that nothing depends on it.
CONVERTED = {"dead shapes", "dead numbers", "steps"}


@pytest.mark.parametrize("name", [*BOMBS, *INPUTS, "functions"])
def test_bombs_end_soon_in_one_sentence(outcomes, name):
    outcome = outcomes[name]
    assert outcome.seconds < limited.SECONDS
    if name in CONVERTED:
        assert outcome.status == 0, outcome.err
        return
    message = limited.refusal(outcome, "convert")
    print(f"{outcome.seconds:.1f} s", message)
    assert f"{name}.onnx" in message or "node '/" in message, message


@pytest.mark.parametrize("asked", [(24, 24, 3), (12, 12, 4), (6, 12, 3)])
def test_another_size_than_the_file_has_is_refused(tmp_path, asked):
    path = tmp_path / "m.onnx"
    onnx.save(model_of(RELU, {}, ("batch", 3, 12, 12)), path)
    with pytest.raises(ConversionError, match=r"'x' of shape .*3, 12, 12.* does not fit input_sh"):
        from_onnx(path, input_shape=asked)
    assert from_onnx(path, input_shape=(12, 12, 3)).input_shape == (None, 12, 12, 3)
    size = ",".join(map(str, asked))
    (outcome,) = limited.commands(
        ["convert", path, f"--output={tmp_path}/m.keras", f"--input_shape={size}"]
    )
    assert "input_shape" in limited.refusal(outcome, "convert")


def test_external_data_that_overlap_are_refused(tmp_path):
    """A thousand weights in one and the same megabyte."""
    model = model_of(RELU, {})
    (tmp_path / "data").write_bytes(bytes(2**20))
    for number in range(1000):
        tensor = model.graph.initializer.add(
            name=f"w{number}", data_type=TensorProto.FLOAT, dims=[2**18],
            data_location=TensorProto.EXTERNAL,
        )  # fmt: skip
        tensor.external_data.add(key="location", value="data")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ConversionError, match="share the same bytes"):
        from_onnx(tmp_path / "m.onnx")
