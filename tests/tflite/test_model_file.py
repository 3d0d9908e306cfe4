"""Files that are not what they claim: a readable error, never a crash of the process."""

import random
import re

import numpy as np
import pytest

from faq_keras.tflite import flatbuffer, inspect, loader, model_file


def broken(path, tmp_path, change):
    """A copy of a file whose object tree was changed."""
    model = flatbuffer.parse(path.read_bytes())
    change(model)
    target = tmp_path / "broken.tflite"
    target.write_bytes(flatbuffer.serialize(model))
    return target


def refused(path, message):
    for function in (model_file.read, inspect.table, loader.load):
        with pytest.raises(ValueError, match=re.escape(str(path))) as error:
            function(path)
        assert re.search(message, str(error.value)), str(error.value)


def test_a_missing_file(tmp_path):
    refused(tmp_path / "none.tflite", "Cannot read the TFLite file .* No such file or directory")


def test_a_folder(tmp_path):
    refused(tmp_path, "Cannot read the TFLite file .* Is a directory")


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"{}", b"PK\x03\x04 a zip file", b"\x1c\0\0\0TFL3"], ids=str
)
def test_something_else(tmp_path, content):
    path = tmp_path / "m.tflite"
    path.write_bytes(content)
    refused(path, "is empty|is not a TFLite model|is truncated or corrupt|is not a valid TFLite")


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_truncation_at_any_length(tmp_path, files, weights):
    content = files[weights].read_bytes()
    path = tmp_path / "m.tflite"
    for length in [*range(0, len(content), len(content) // 40), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"empty|not a TFLite model|truncated|not a valid"):
            loader.load(path)


def _set(owner, field, value):
    return lambda model: setattr(owner(model), field, value)


def _graph(model):
    return model.subgraphs[0]


BROKEN = {
    "no subgraph": (_set(lambda m: m, "subgraphs", []), "it has no subgraph"),
    "version": (_set(lambda m: m, "version", 2), "its schema version is 2, expected 3"),
    "op code": (_set(lambda m: _graph(m).operators[1], "opcodeIndex", 99), "has the code 99 of"),
    "op input": (
        _set(lambda m: _graph(m).operators[1], "inputs", np.array([0, 12345], np.int32)),
        r"uses tensors that do not exist: \[12345\]",
    ),
    "graph output": (
        _set(_graph, "outputs", np.array([-7], np.int32)),
        r"inputs or outputs that do not exist: \[-7\]",
    ),
    "buffer": (_set(lambda m: _graph(m).tensors[3], "buffer", 777), "points to buffer 777 of"),
    "type": (_set(lambda m: _graph(m).tensors[3], "type", 99), "has the unknown type 99"),
    "shape": (
        _set(lambda m: _graph(m).tensors[0], "shape", np.array([1, -5, 3, 3], np.int32)),
        "has the impossible shape",
    ),
    "shape signature": (
        _set(lambda m: _graph(m).tensors[0], "shapeSignature", np.array([-1, 9, 16, 3], np.int32)),
        r"has the shape \[1, 16, 16, 3\] and the signature \[-1, 9, 16, 3\]",
    ),
    "too large": (
        _set(lambda m: _graph(m).tensors[0], "shape", np.array([65536] * 4, np.int32)),
        "has the impossible shape",
    ),
    "constant size": (
        _set(lambda m: m.buffers[2], "data", np.zeros(3, np.uint8)),
        "holds 3 bytes, its shape and type need",
    ),
    "op order": (lambda m: _graph(m).operators.reverse(), "reads tensors that nothing computes"),
    "two producers": (
        lambda m: _graph(m).operators.append(_graph(m).operators[-1]),
        "writes constants, inputs or results of others",
    ),
    "nan scale": (
        lambda m: _set(lambda m: _graph(m).tensors[0].quantization, "scale", np.float32([np.nan]))(
            m
        ),
        "has a scale that is not positive and finite",
    ),
    "no scale": (
        lambda m: _set(lambda m: _graph(m).tensors[0].quantization, "scale", None)(m),
        "mixes quantized tensors with others that lack a scale",
    ),
    "zero point": (
        lambda m: _set(lambda m: _graph(m).tensors[0].quantization, "zeroPoint", np.array([999]))(
            m
        ),
        "has a zero point outside of int8",
    ),
    "stride": (
        _set(lambda m: _graph(m).operators[1].builtinOptions, "strideH", 0),
        "has the impossible strideH 0",
    ),
    "signature": (
        _set(lambda m: m.signatureDefs[0], "subgraphIndex", 5),
        "belongs to subgraph 5, which does not exist",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_structure_is_named(files, tmp_path, name):
    change, message = BROKEN[name]
    refused(broken(files["int8"], tmp_path, change), message)


def test_all_problems_are_listed_at_once(files, tmp_path):
    def change(model):
        BROKEN["type"][0](model)
        BROKEN["version"][0](model)

    refused(broken(files["int8"], tmp_path, change), "schema version is 2.*; .*unknown type 99")


def test_a_model_that_the_runtime_refuses_is_named(files, tmp_path):
    def change(model):
        for code in model.operatorCodes:
            code.version = 99

    path = broken(files["int8"], tmp_path, change)
    assert model_file.read(path).size > 0
    with pytest.raises(
        ValueError, match=r"cannot be run\. The runtime 'xnnpack' refuses the model"
    ):
        loader.load(path)


def test_a_model_that_fails_while_running_is_named(files, tmp_path):
    """A RESHAPE to batch 1 is found out only when a larger batch comes."""

    def change(model):
        operator = _graph(model).operators[-1]
        code = model.operatorCodes[operator.opcodeIndex]
        assert flatbuffer.OP_NAMES[code.builtinCode] == "FULLY_CONNECTED"
        reshape = next(
            t for t in _graph(model).tensors if flatbuffer.tensor_name(t).startswith("shape")
        )
        model.buffers[reshape.buffer].data = np.array([1, 8], np.int32).view(np.uint8)

    path = broken(files["int8"], tmp_path, change)
    runner = loader.load(path)
    with pytest.raises(ValueError, match=r"failed on the runtime 'xnnpack'|cannot be run"):
        runner.run_int8(runner.random_inputs(3))


@pytest.mark.parametrize("seed", range(20))
def test_random_damage_never_crashes_the_process(files, tmp_path, seed):
    """A taste of the fuzzing: damaged files run or are refused with a ValueError."""
    rng = random.Random(seed)
    content = bytearray(files["int4" if seed % 2 else "int8"].read_bytes())
    path = tmp_path / "m.tflite"
    for _ in range(5):
        start = rng.randrange(len(content) - 4)
        content[start : start + rng.choice([1, 4])] = rng.randbytes(rng.choice([1, 4]))
    path.write_bytes(content)
    try:
        inspect.table(path)
        runner = loader.load(path)
        runner.run_int8(runner.random_inputs(2))
    except ValueError as error:
        assert str(path) in str(error)
