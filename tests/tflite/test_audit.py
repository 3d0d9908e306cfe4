"""Every kind of difference between a file and its program is found, all of them at once."""

import dataclasses
import json

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from faq_keras.tflite import flatbuffer, writer
from faq_keras.tflite.audit import AuditError, audit
from tests.integer.programs import Builder, unsigned


def test_a_good_file_is_described_by_numbers(program, files):
    whole, packed = (audit(files[weights], program, weights) for weights in ("int8", "int4"))
    assert whole.file_bytes == files["int8"].stat().st_size
    assert whole.ops == len(program.ops) == sum(whole.operators.values())
    assert whole.operators["CONV_2D"] == 5 and whole.operators["QUANTIZE"] == 1
    assert whole.float_tensors == whole.packed_tensors == 0
    assert whole.codes == whole.weight_bytes == packed.codes
    assert packed.packed_tensors == 5
    assert packed.weight_bytes == packed.codes - packed.packed_bytes
    assert json.loads(json.dumps(whole.to_dict())) == whole.to_dict()


def test_the_way_of_storing_is_taken_from_the_file_when_not_given(program, files):
    assert audit(files["int8"], program).packed_tensors == 0
    assert audit(files["int4"], program).packed_tensors == 5


@pytest.mark.parametrize(("weights", "other"), [("int8", "int4"), ("int4", "int8")])
def test_the_wrong_way_of_storing_is_found(program, files, weights, other):
    with pytest.raises(AuditError, match=f"is {weights} instead of {other}"):
        audit(files[weights], program, other)


def test_the_inputs_conversion_is_the_only_float(tmp_path):
    b = Builder(1)
    program = b.build(b.conv(b.quantize(b.input((6, 6, 3), dtype="float32"), unsigned(8, -6)), 4))
    writer.write(program, tmp_path / "m.tflite")
    assert audit(tmp_path / "m.tflite", program).float_tensors == 1


def _tensor(model, name):
    return next(t for t in model.subgraphs[0].tensors if flatbuffer.tensor_name(t) == name)


def _kernel(model):
    return _tensor(model, "conv_2d_5/kernel")


def _change_code(model):
    data = model.buffers[_kernel(model).buffer].data.copy()
    data[7] = 100
    model.buffers[_kernel(model).buffer].data = data


def _add_cast(model):
    graph = model.subgraphs[0]
    code = schema.OperatorCodeT(builtinCode=schema.BuiltinOperator.CAST, deprecatedBuiltinCode=53)
    model.operatorCodes.append(code)
    graph.tensors.append(schema.TensorT(name=b"floats", shape=np.array([1, 10], np.int32)))
    graph.operators.append(
        schema.OperatorT(
            opcodeIndex=len(model.operatorCodes) - 1,
            inputs=graph.outputs,
            outputs=np.array([len(graph.tensors) - 1], np.int32),
        )
    )


def _set_scale(model):
    scale = _kernel(model).quantization.scale.copy()
    scale[2] = np.nextafter(scale[2], np.float32(1))
    _kernel(model).quantization.scale = scale


def _set(owner, field, value):
    return lambda model: setattr(owner(model), field, value)


def _operator(model):
    return model.subgraphs[0].operators[3]


CHANGES = {
    "a code": (_change_code, "conv_2d_5/kernel' stores 1 of 576 codes other than the model's"),
    "a code's range": (_change_code, r"codes from -7 to 100, outside of the range \[-7, 7\]"),
    "a scale": (_set_scale, "conv_2d_5/kernel' has the scales"),
    "an axis": (
        _set(lambda m: _kernel(m).quantization, "quantizedDimension", 3),
        "has its scales along axis 3 instead of 0",
    ),
    "a zero point": (
        _set(lambda m: _tensor(m, "conv_2d_5").quantization, "zeroPoint", np.array([111])),
        r"tensor 'conv_2d_5' has the zero points \[111\] instead of 112",
    ),
    "a name": (
        _set(_kernel, "name", b"other"),
        "tensor 'conv_2d_5/kernel' is missing; tensor 'other'",
    ),
    "a stride": (
        _set(lambda m: _operator(m).builtinOptions, "strideH", 2),
        r"op 'conv_2d_5' \(conv_2d\) has strideH 2 instead of 1",
    ),
    "an activation": (
        _set(lambda m: _operator(m).builtinOptions, "fusedActivationFunction", 0),
        r"op 'conv_2d_5' \(conv_2d\) has fusedActivationFunction 0 instead of 1",
    ),
    "a version": (
        _set(lambda m: m.operatorCodes[0], "version", 1),
        r"op 'pad_2' \(pad\) has version 1 instead of 2",
    ),
    "an operator more": (
        _add_cast,
        "contains the operator CAST; it has 16 operators instead of 15",
    ),
    "a float tensor": (_add_cast, "tensor 'floats' is not the model's"),
    "an output": (
        _set(lambda m: m.subgraphs[0], "outputs", np.array([3], np.int32)),
        "its outputs are .* instead of fully_connected",
    ),
    "the metadata": (_set(lambda m: m, "metadata", []), "lacks the metadata"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_file_is_found_out(program, files, tmp_path, name):
    change, message = CHANGES[name]
    model = flatbuffer.parse(files["int8"].read_bytes())
    change(model)
    path = tmp_path / "m.tflite"
    path.write_bytes(flatbuffer.serialize(model))
    with pytest.raises(AuditError, match=message) as error:
        audit(path, program, "int8")
    assert str(path) in str(error.value)


def test_all_differences_are_listed_at_once(program, files, tmp_path):
    model = flatbuffer.parse(files["int8"].read_bytes())
    _change_code(model)
    _set_scale(model)
    path = tmp_path / "m.tflite"
    path.write_bytes(flatbuffer.serialize(model))
    with pytest.raises(AuditError, match=r"differs from its model in 3 points: .*; .*; .*"):
        audit(path, program, "int8")


def test_packed_codes_are_decoded_and_compared(program, files):
    name = "conv_2d_5/kernel"
    kernel = program.tensors[name]
    other = dataclasses.replace(kernel, data=-kernel.data)
    changed = dataclasses.replace(program, tensors={**program.tensors, name: other})
    with pytest.raises(AuditError, match=rf"{name}' stores \d+ of 576 codes other than"):
        audit(files["int4"], changed, "int4")


def test_another_networks_file_is_found_out(files):
    b = Builder(1)
    program = b.build(b.conv(b.input((6, 6, 3)), 4))
    with pytest.raises(AuditError, match="has 15 operators instead of 1"):
        audit(files["int8"], program)
