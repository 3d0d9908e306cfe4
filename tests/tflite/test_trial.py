"""Operators without a rule: legitimate files run, files that would end the process are refused."""

import subprocess

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from faq_keras import tflite
from faq_keras.tflite import flatbuffer, model_file, structure, trial
from faq_keras.tflite.runtimes import runtime

FLOAT32, INT32 = (flatbuffer.TENSOR_TYPES[name] for name in ("float32", "int32"))


def split_file(path, parts=2):
    """Floats [1, 4], cut into two; `parts` is what the operator says of their number."""
    axis = np.frombuffer(np.int32([1]).tobytes(), np.uint8)

    def tensor(name, shape, kind=FLOAT32, buffer=0):
        return schema.TensorT(name=name, shape=np.int32(shape), type=kind, buffer=buffer)

    options = schema.SplitOptionsT()
    options.numSplits = parts
    code = schema.BuiltinOperator.SPLIT
    op = schema.OperatorT(
        inputs=np.int32([1, 0]),
        outputs=np.int32([2, 3]),
        builtinOptionsType=schema.BuiltinOptions.SplitOptions,
        builtinOptions=options,
    )
    graph = schema.SubGraphT(
        tensors=[
            tensor(b"x", [1, 4]),
            tensor(b"axis", [1], INT32, 1),
            tensor(b"left", [1, 2]),
            tensor(b"right", [1, 2]),
        ],
        inputs=np.int32([0]),
        outputs=np.int32([2, 3]),
        operators=[op],
    )
    model = schema.ModelT(
        version=flatbuffer.VERSION,
        operatorCodes=[
            schema.OperatorCodeT(deprecatedBuiltinCode=code, builtinCode=code, version=1)
        ],
        subgraphs=[graph],
        buffers=[schema.BufferT(), schema.BufferT(data=axis)],
    )
    path.write_bytes(flatbuffer.serialize(model))
    return path


@pytest.mark.parametrize("name", ["xnnpack", "builtin", "reference", "tflm"])
def test_a_strangers_operator_runs(name, tmp_path):
    runner = tflite.load(split_file(tmp_path / "m.tflite"), name)
    found = runner(np.float32([[1, 2, 3, 4]]))
    assert [found[key].tolist() for key in ("left", "right")] == [[[1, 2]], [[3, 4]]]


def test_a_file_that_ends_the_process_is_refused(tmp_path):
    path = split_file(tmp_path / "m.tflite", parts=0)
    assert structure.operators_without_rule(model_file.read(path).model) == ("SPLIT",)
    message = r"m.tflite' cannot be run. It ends the process of the runtime 'xnnpack' \(signal SIG"
    with pytest.raises(ValueError, match=message + r".*cannot check \(SPLIT\)"):
        tflite.load(path)


def test_what_a_runtime_refuses_in_good_order_keeps_its_reason(tmp_path):
    path = split_file(tmp_path / "m.tflite", parts=0)
    with pytest.raises(ValueError, match=r"The runtime 'builtin' refuses the model: .*SPLIT"):
        tflite.load(path, "builtin")


def test_a_trial_has_an_end(tmp_path):
    file = model_file.read(split_file(tmp_path / "m.tflite"))
    with pytest.raises(ValueError, match=r"cannot check \(SPLIT\), and did not end within 0.01 s"):
        trial.check(file, runtime("xnnpack"), timeout=0.01)


def test_files_of_known_operators_are_not_tried(files, data_dir, monkeypatch):
    """Ours, and the common ones of TensorFlow's converter: they start without delay."""
    monkeypatch.setattr(subprocess, "run", None)
    for weights in ("int8", "int4"):
        tflite.load(files[weights])
    tflite.load(data_dir / "mlperf-tiny" / "pretrainedResnet_quant.tflite")
