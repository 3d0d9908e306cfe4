"""Files whose parts do not fit each other: each of these once ended the process, or could."""

import flatbuffers
import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from faq_keras.tflite import flatbuffer, loader, model_file, writer
from tests import networks
from tests.tflite.fuzz import files

layers = keras.layers


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """A file with two inputs, grouped and depthwise convolutions, concatenation and softmax."""
    path = tmp_path_factory.mktemp("structure") / "joined.tflite"
    writer.write(files.joined(), path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def residual(tmp_path_factory):
    """A file with padding, addition, pooling and reshaping."""
    path = tmp_path_factory.mktemp("structure") / "residual.tflite"
    writer.write(files.float_input(), path)
    return path.read_bytes()


def op(model, name, nth=0):
    found = [o for o in model.subgraphs[0].operators if flatbuffer.op_name(model, o) == name]
    return found[nth]


def operand(model, name, number=0, nth=0):
    """A tensor that an operator reads, or writes (number -1)."""
    operator = op(model, name, nth)
    index = operator.outputs[0] if number == -1 else operator.inputs[number]
    return model.subgraphs[0].tensors[int(index)]


def drop_last_input(operator):
    operator.inputs = operator.inputs[:-1]


def resized(tensor, shape):
    """Gives a tensor another shape, fixed."""
    tensor.shape, tensor.shapeSignature = np.array(shape, np.int32), None


def changed(content, change):
    model = flatbuffer.parse(content)
    change(model)
    return flatbuffer.serialize(model)


def vector(*values):
    return np.array(values, np.int32)


def constant(model, tensor, values):
    """Gives a constant other values, and a buffer of its own."""
    data = np.frombuffer(np.asarray(values, np.int32).tobytes(), np.uint8)
    model.buffers.append(schema.BufferT(data=data))
    tensor.buffer = len(model.buffers) - 1


JOINED = {
    "no bias of a depthwise convolution": (
        lambda m: drop_last_input(op(m, "DEPTHWISE_CONV_2D")),
        r"DEPTHWISE_CONV_2D\) lacks one of its 3 inputs",
    ),
    "no target of a reshape": (
        lambda m: setattr(op(m, "RESHAPE"), "inputs", vector(op(m, "RESHAPE").inputs[0], -1)),
        r"RESHAPE\) lacks one of its 2 inputs",
    ),
    "no input of a quantize": (
        lambda m: setattr(op(m, "QUANTIZE"), "inputs", vector(-1)),
        r"QUANTIZE\) lacks one of its 1 inputs",
    ),
    "a bias for other filters": (
        lambda m: setattr(op(m, "CONV_2D"), "inputs", vector(*op(m, "CONV_2D").inputs[:2],
                                                             op(m, "CONV_2D", 1).inputs[2])),
        r"CONV_2D\) has a bias of 4 values for 8 filters",
    ),
    "a kernel of other channels": (
        lambda m: resized(operand(m, "CONV_2D", 1), (8, 3, 2, 3)),
        r"CONV_2D\) has a kernel \[8, 3, 2, 3\] on images \[\?, 6, 6, 4\]",
    ),
    "a window that leaves its image": (
        lambda m: setattr(op(m, "DEPTHWISE_CONV_2D", 1).builtinOptions, "dilationHFactor", 2),
        r"DEPTHWISE_CONV_2D\) has a window of 11 in 6 values",
    ),
    "an axis that no part has": (
        lambda m: setattr(op(m, "CONCATENATION").builtinOptions, "axis", 4),
        r"CONCATENATION\) has the axis 4 of \[\?, 6, 6, 8\]",
    ),
    "parts of other sizes": (
        lambda m: setattr(op(m, "CONCATENATION").builtinOptions, "axis", 1),
        r"CONCATENATION\) has parts \[\?, 6, 6, 8\] and \[\?, 6, 6, 4\]",
    ),
    "a kernel of another depth": (
        lambda m: resized(operand(m, "FULLY_CONNECTED", 1), (8, 15)),
        r"FULLY_CONNECTED\) has a bias of 5 values for 8 units",
    ),
    "the options of another": (
        lambda m: vars(op(m, "SOFTMAX")).update(
            builtinOptionsType=schema.BuiltinOptions.ConcatenationOptions,
            builtinOptions=schema.ConcatenationOptionsT(),
        ),
        r"SOFTMAX\) has the options of another operator instead of SoftmaxOptions",
    ),
    "no options": (
        lambda m: vars(op(m, "CONV_2D")).update(builtinOptionsType=0, builtinOptions=None),
        r"CONV_2D\) lacks its Conv2DOptions",
    ),
    "scales along another axis": (
        lambda m: setattr(operand(m, "DEPTHWISE_CONV_2D", 1, 1).quantization,
                          "quantizedDimension", 0),
        "24 scales along axis 0 of the shape",
    ),
    "intermediates that do not exist": (
        lambda m: setattr(op(m, "RESHAPE"), "intermediates", vector(10**6)),
        r"RESHAPE\) uses tensors that do not exist: \[1000000\]",
    ),
    "a custom operator without options": (
        lambda m: vars(m.operatorCodes[op(m, "QUANTIZE").opcodeIndex]).update(
            builtinCode=32, deprecatedBuiltinCode=32, customCode=b"TFLite_Detection_PostProcess"
        ),
        r"TFLite_Detection_PostProcess\) has unreadable options",
    ),
    "scales without zero points": (
        lambda m: setattr(operand(m, "SOFTMAX").quantization, "zeroPoint", None),
        "has 1 scales and 0 zero points",
    ),
    "a name that ends in the middle": (
        lambda m: setattr(operand(m, "SOFTMAX"), "name", b"a\0b"),
        r"a tensor has the unprintable name b'a\\x00b'",
    ),
    "inputs of one name": (
        lambda m: setattr(operand(m, "CONV_2D"), "name", b"input_1"),
        "subgraph 0 has several inputs of one name: input_1, input_1",
    ),
    "bytes behind the file": (
        lambda m: vars(m.buffers[3]).update(data=None, offset=2**40, size=8),
        "buffer 3 keeps its bytes behind the tree",
    ),
    "bytes in another file": (
        lambda m: setattr(operand(m, "CONV_2D", 1), "externalBuffer", 1),
        "keeps its bytes in another file",
    ),
    "no outputs": (
        lambda m: setattr(m.subgraphs[0], "outputs", vector()),
        "its main subgraph has no outputs",
    ),
    "metadata that is no text": (
        lambda m: setattr(m.buffers[m.metadata[0].buffer], "data", np.zeros(9, np.uint8)),
        "its metadata cannot be read",
    ),
    "endless metadata": (
        lambda m: setattr(m.buffers[m.metadata[0].buffer], "data", np.full(10**6, 91, np.uint8)),
        "its metadata cannot be read",
    ),
}  # fmt: skip

RESIDUAL = {
    "additions of other sizes": (
        lambda m: setattr(op(m, "ADD"), "inputs", vector(0, op(m, "ADD").inputs[1])),
        r"ADD\) (turns float32 into int8|mixes)",
    ),
    "the addition of a kernel": (
        lambda m: setattr(op(m, "ADD"), "inputs", vector(*op(m, "ADD").inputs[:1],
                                                         op(m, "CONV_2D", 1).inputs[1])),
        r"ADD\) reads a tensor with several scales as if it had one",
    ),
    "scales too far apart": (
        lambda m: setattr(operand(m, "ADD", -1).quantization, "scale", np.float32([2.0**-40])),
        r"ADD\) has scales too far apart",
    ),
    "scales beyond numbers": (
        lambda m: setattr(operand(m, "ADD", -1).quantization, "scale", np.float32([1e38])),
        "has the scale 9.99.*e\\+37, with whose ratios",
    ),
    "negative paddings": (
        lambda m: constant(m, operand(m, "PAD", 1), [0, 0, 0, -1, 1, 0, 0, 0]),
        r"PAD\) has the paddings \[\[0, 0\], \[0, -1\], \[1, 0\], \[0, 0\]\]",
    ),
    "paddings of floats": (
        lambda m: setattr(operand(m, "PAD", 1), "type", flatbuffer.TENSOR_TYPES["float32"]),
        r"PAD\) reads int8 beside float32 instead of int32 or int64",
    ),
    "an impossible target": (
        lambda m: constant(m, operand(m, "RESHAPE", 1), [-1, -1]),
        r"RESHAPE\) has the target \[-1, -1\]",
    ),
    "a pool that is larger than its image": (
        lambda m: setattr(op(m, "MAX_POOL_2D").builtinOptions, "filterHeight", 9),
        r"MAX_POOL_2D\) has a window of 9 in 3 values",
    ),
    "a bias of floats": (
        lambda m: setattr(operand(m, "CONV_2D", 2), "type", flatbuffer.TENSOR_TYPES["float32"]),
        r"CONV_2D\) reads int8 beside float32 instead of int32",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", JOINED)
def test_parts_that_do_not_fit_are_named(joined, name):
    change, message = JOINED[name]
    with pytest.raises(ValueError, match=message):
        model_file.from_bytes(changed(joined, change))


@pytest.mark.parametrize("name", RESIDUAL)
def test_residual_parts_that_do_not_fit_are_named(residual, name):
    change, message = RESIDUAL[name]
    with pytest.raises(ValueError, match=message):
        model_file.from_bytes(changed(residual, change))


def test_subgraphs_that_call_one_another_in_a_circle(joined):
    def change(model):
        graph = model.subgraphs[0]
        model.operatorCodes.append(
            schema.OperatorCodeT(
                builtinCode=schema.BuiltinOperator.WHILE, deprecatedBuiltinCode=119
            )
        )
        graph.tensors.append(schema.TensorT(name=b"end", shape=vector(1), type=0))
        options = schema.WhileOptionsT()
        options.condSubgraphIndex = 0
        graph.operators.append(
            schema.OperatorT(
                opcodeIndex=len(model.operatorCodes) - 1,
                inputs=graph.outputs[:1],
                outputs=vector(len(graph.tensors) - 1),
                builtinOptionsType=schema.BuiltinOptions.WhileOptions,
                builtinOptions=options,
            )
        )

    with pytest.raises(ValueError, match=r"its subgraphs call one another in a circle: \[0, 0\]"):
        model_file.from_bytes(changed(joined, change))


def bomb(count):
    """A list of one subgraph, over and over, with a list of one tensor, over and over."""
    builder = flatbuffers.Builder(0)
    name = builder.CreateString("tensor")
    schema.TensorStart(builder)
    schema.TensorAddName(builder, name)
    tensor = schema.TensorEnd(builder)
    schema.SubGraphStartTensorsVector(builder, count)
    for _ in range(count):
        builder.PrependUOffsetTRelative(tensor)
    tensors = builder.EndVector()
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, tensors)
    graph = schema.SubGraphEnd(builder)
    schema.ModelStartSubgraphsVector(builder, count)
    for _ in range(count):
        builder.PrependUOffsetTRelative(graph)
    graphs = builder.EndVector()
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, flatbuffer.VERSION)
    schema.ModelAddSubgraphs(builder, graphs)
    builder.Finish(schema.ModelEnd(builder), flatbuffer.IDENTIFIER)
    return bytes(builder.Output())


def test_a_few_kilobytes_that_would_unfold_into_all_memory():
    content = bomb(5000)
    assert len(content) < 50_000
    with pytest.raises(ValueError, match=r"corrupt .*its parts are used over and over again"):
        model_file.from_bytes(content)
    assert len(flatbuffer.parse(bomb(3)).subgraphs) == 3


def stored_wrong(model):
    """What the file calls resizable in every dimension is stored with another size."""
    tensor = operand(model, "CONCATENATION", -1)
    tensor.shape, tensor.shapeSignature = vector(1, 6, 6, 3), vector(-1, -1, -1, -1)


def larger_result(model):
    resized(operand(model, "SOFTMAX", -1), (1, 2**30))


def flat_softmax(model):
    op(model, "SOFTMAX").builtinOptions.beta = 2.0**-25


@pytest.mark.parametrize(
    ("change", "runtimes", "message"),
    [
        (stored_wrong, ("tflm",), r"CONCATENATION\) has a result \[1, 6, 6, 12\] in a tensor"),
        (
            flat_softmax,
            ("reference", "tflm"),
            r"SOFTMAX\) has the scale 0.125 and the factor 2.98023e-08",
        ),
    ],
)
def test_what_only_some_runtimes_trip_over(joined, tmp_path, change, runtimes, message):
    path = tmp_path / "m.tflite"
    path.write_bytes(changed(joined, change))
    for runtime in ("xnnpack", "builtin", "reference", "tflm"):
        if runtime in runtimes:
            with pytest.raises(ValueError, match=f"m.tflite' cannot be run.*{message}"):
                loader.load(path, runtime)
        else:
            runner = loader.load(path, runtime)
            runner.run_int8(runner.random_inputs(1))


def moving_window():
    """Height and width are not known; the converter stores 1 for them."""
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same")(layers.ZeroPadding2D(1)(inputs))
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))


def sequences():
    """Fully connected layers along a sequence, which keep its dimensions."""
    inputs = keras.Input((7, 3))
    return keras.Model(inputs, layers.Dense(4)(layers.Dense(5, activation="relu")(inputs)))


def zero_logits():
    """An untrained network, whose softmax gets a scale of 2^-27."""
    inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, kernel_initializer="zeros")(inputs))
    return keras.Model(inputs, layers.Dense(5, activation="softmax")(x))


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize(
    "build", [files.foreign_model, moving_window, sequences, zero_logits, networks.tiny_resnet]
)
def test_what_the_converter_writes_is_accepted_and_runs(tmp_path, build, integer):
    model, path = build(), tmp_path / "m.tflite"
    shape = tuple(8 if n is None else n for n in model.input_shape[1:])
    path.write_bytes(files.converted(model, integer, shape))
    x = networks.images(1, shape)
    found, want = loader.load(path).run_int8(x), model.predict(x, verbose=0)
    np.testing.assert_allclose(found, want, atol=0.1 * np.ptp(want) + 0.01 if integer else 1e-4)
