import dataclasses
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from faq_keras.integer import reference
from faq_keras.tflite import flatbuffer, model_file, writer
from tests.integer.programs import Builder, logits, small_resnet, unsigned


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_equal_programs_give_equal_files(weights):
    first, second = (writer.to_bytes(small_resnet(seed=3)[1], weights) for _ in range(2))
    assert first == second
    assert first != writer.to_bytes(small_resnet(seed=4)[1], weights)


def test_reading_and_writing_again_gives_the_same_bytes(files):
    for path in files.values():
        assert model_file.read(path).content == path.read_bytes()


def test_tensors_and_ops_have_the_programs_names_order_scales_and_codes(program, files):
    file = model_file.read(files["int8"])
    found = {flatbuffer.tensor_name(t): t for t in file.graph.tensors}
    assert list(found) == list(program.tensors)
    for name, tensor in program.tensors.items():
        if tensor.scale:
            np.testing.assert_array_equal(
                found[name].quantization.scale, np.array(tensor.scale, np.float32)
            )
            assert set(found[name].quantization.zeroPoint) == {tensor.zero_point}
        if tensor.data is not None:
            codes = flatbuffer.constant(file.model, found[name])
            np.testing.assert_array_equal(codes, tensor.data)
    assert len(file.graph.operators) == len(program.ops)


@pytest.mark.parametrize("bits", range(2, 9))
def test_kernels_of_up_to_four_bits_are_packed(bits):
    b = Builder(1)
    x = b.conv(b.input((4, 4, 3)), 5, bits=bits)
    program = b.build(b.conv(x, 0, bits=bits, depthwise=True))
    file = model_file.from_bytes(writer.to_bytes(program, "int4"))
    kinds = {flatbuffer.tensor_name(t): flatbuffer.type_name(t) for t in file.graph.tensors}
    kernels = {kinds[op.inputs[1]] for op in program.ops}
    assert kernels == {"int4" if bits <= 4 else "int8"}


def test_packed_weight_bytes_are_half(program, files):
    def kernel_bytes(path):
        file = model_file.read(path)
        return {
            flatbuffer.tensor_name(t): len(flatbuffer.raw_data(file.model, t))
            for t in file.graph.tensors
            if flatbuffer.tensor_name(t) in writer.packed_tensors(program)
        }

    whole, packed = kernel_bytes(files["int8"]), kernel_bytes(files["int4"])
    assert len(whole) == 5
    assert packed == {name: (size + 1) // 2 for name, size in whole.items()}


def test_a_16_bit_head_of_four_bits_stays_int8():
    b = Builder(1)
    program = b.build(b.dense(b.input((8,)), 3, bits=4, out=logits(-8)))
    assert writer.packed_tensors(program) == frozenset()


def test_operator_versions_are_those_that_every_runtime_takes(files):
    def versions(path):
        codes = model_file.read(path).model.operatorCodes
        return {(flatbuffer.OP_NAMES[code.builtinCode], code.version) for code in codes}

    common = {
        ("ADD", 2),
        ("AVERAGE_POOL_2D", 2),
        ("CONV_2D", 3),
        ("DEPTHWISE_CONV_2D", 3),
        ("FULLY_CONNECTED", 7),
        ("MAX_POOL_2D", 2),
        ("PAD", 2),
        ("QUANTIZE", 2),
        ("RESHAPE", 1),
    }
    assert versions(files["int8"]) == common
    assert versions(files["int4"]) == common | {("CONV_2D", 7), ("DEPTHWISE_CONV_2D", 6)}


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize(
    "resolver",
    [
        OpResolverType.AUTO,
        OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        OpResolverType.BUILTIN_REF,
    ],
)
def test_stock_interpreters_take_the_file_at_any_batch_size(files, feed, weights, resolver):
    interpreter = Interpreter(
        model_content=files[weights].read_bytes(), experimental_op_resolver_type=resolver
    )
    (image,) = interpreter.get_input_details()
    (output,) = interpreter.get_output_details()
    assert image["shape"].tolist() == [1, 16, 16, 3]
    assert image["shape_signature"].tolist() == [-1, 16, 16, 3]
    for batch in (1, 3):
        interpreter.resize_tensor_input(image["index"], (batch, 16, 16, 3))
        interpreter.allocate_tensors()
        interpreter.set_tensor(image["index"], feed["input_0"][:batch])
        interpreter.invoke()
        assert interpreter.get_tensor(output["index"]).shape == (batch, 10)


def test_the_signature_names_inputs_and_outputs(files, program, feed):
    runner = Interpreter(model_path=str(files["int8"])).get_signature_runner("serving_default")
    (found,) = runner(input_0=feed["input_0"][:1]).values()
    want = reference.run(program, feed["input_0"][:1])[program.outputs[0]]
    np.testing.assert_array_equal(found, want)


def test_metadata_and_the_oldest_runtime_are_recorded(files):
    for weights, oldest in (("int8", "2.3.0"), ("int4", "2.11.0")):
        model = model_file.read(files[weights]).model
        entries = {e.name.decode(): bytes(model.buffers[e.buffer].data) for e in model.metadata}
        assert entries["min_runtime_version"].rstrip(b"\0").decode() == oldest
        about = json.loads(entries["faq_keras"])
        assert about == {"numerics": "xnnpack", "plan_hash": "0123456789abcdef"}


def test_equal_constants_share_a_buffer_and_all_are_aligned(files):
    content = np.frombuffer(files["int8"].read_bytes(), np.uint8)
    model = schema.Model.GetRootAs(content)
    buffers = [model.Buffers(i).DataAsNumpy() for i in range(1, model.BuffersLength())]
    first = content.__array_interface__["data"][0]
    starts = [data.__array_interface__["data"][0] - first for data in buffers]
    assert len(starts) > 10 and all(start % 16 == 0 for start in starts)
    b = Builder(1)
    x = b.pool(b.pad(b.input((6, 6, 2)), 1, 1, 1, 1), "max_pool_2d")
    program = b.build(b.pad(x, 1, 1, 1, 1))
    buffers = {
        t.buffer
        for t in model_file.from_bytes(writer.to_bytes(program)).graph.tensors
        if flatbuffer.tensor_name(t).startswith("paddings")
    }
    assert len(buffers) == 1


def test_large_networks_are_written_in_well_under_a_second():
    b = Builder(1)
    x = b.input((7, 7, 512), unsigned(4, -2))
    for _ in range(5):
        x = b.conv(x, 512, bits=4, out=unsigned(4, -2))
    program = b.build(x)  # 11.8 million weights, as ResNet-18
    for weights in ("int8", "int4"):
        start = time.perf_counter()
        content = writer.to_bytes(program, weights)
        print(f"{weights}: {len(content):,} bytes in {time.perf_counter() - start:.2f} s")
        assert time.perf_counter() - start < 2  # measured 0.1; room for a busy machine


def test_unknown_weights_are_refused(program, tmp_path):
    with pytest.raises(ValueError, match="Unknown weights 'int2'; expected one of int8, int4"):
        writer.write(program, tmp_path / "m.tflite", "int2")
    assert list(tmp_path.iterdir()) == []


def test_a_packed_kernel_whose_codes_are_too_wide_is_refused(program, tmp_path):
    name = sorted(writer.packed_tensors(program))[0]
    kernel = program.tensors[name]
    wide = dataclasses.replace(kernel, data=np.full_like(kernel.data, 9))
    broken = dataclasses.replace(program, tensors={**program.tensors, name: wide})
    with pytest.raises(ValueError, match="do not fit four bits"):
        writer.write(broken, tmp_path / "m.tflite", "int4")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import pathlib, sys, time
from faq_keras.tflite import writer
from tests.integer.programs import small_resnet
program = small_resnet()[1]
original = pathlib.Path.write_bytes
def write_half_and_hang(self, content):
    original(self, content[: len(content) // 2])
    print("half", flush=True)
    time.sleep(60)
pathlib.Path.write_bytes = write_half_and_hang
writer.write(program, sys.argv[1])
"""


def test_a_kill_in_the_middle_of_writing_leaves_the_old_file(tmp_path, request):
    target = tmp_path / "m.tflite"
    target.write_bytes(b"the old file")
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(target)],
        stdout=subprocess.PIPE,
        cwd=request.config.rootpath,
    ) as process:
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    assert target.read_bytes() == b"the old file"


def test_an_interrupt_in_the_middle_of_writing_leaves_nothing(program, tmp_path, monkeypatch):
    def write_half(self, content):
        with self.open("wb") as stream:
            stream.write(content[: len(content) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.write_bytes", write_half)
    with pytest.raises(KeyboardInterrupt):
        writer.write(program, tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []
