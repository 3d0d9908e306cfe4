import gzip
import re

import numpy as np
import pytest

from faq_keras import tflite
from faq_keras.integer import reference
from faq_keras.tflite import flatbuffer, model_file, writer
from tests.integer.programs import Builder, signed


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_codes_are_those_of_the_integer_reference(files, program, feed, weights, num_threads):
    runner = tflite.load(files[weights], num_threads=num_threads)
    want = reference.run(program, feed)
    for name, found in runner.tensors(feed["input_0"]).items():
        np.testing.assert_array_equal(found, want[name])
    np.testing.assert_array_equal(runner.run_int8(feed["input_0"]), want[program.outputs[0]])


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_floats_go_in_and_come_out(files, program, weights):
    runner = tflite.load(files[weights])
    x = np.random.default_rng(0).uniform(-0.5, 2.5, (7, 16, 16, 3))
    codes = np.clip(np.rint(x.astype(np.float32) * 128) - 128, -128, 127).astype(np.int8)
    want = reference.run(program, codes)[program.outputs[0]].astype(np.float32) * 2.0**-8
    found = runner(x)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, want)


def test_batches_of_changing_size(files, program, feed):
    runner = tflite.load(files["int4"])
    want = reference.run(program, feed)[program.outputs[0]]
    for batch in (1, 20, 3, 1, 7):
        np.testing.assert_array_equal(runner.run_int8(feed["input_0"][:batch]), want[:batch])


def test_several_inputs_and_outputs(tmp_path):
    b = Builder(1)
    x, y = b.input((4, 4, 2), signed(-5)), b.input((4, 4, 2), signed(-4))
    z = b.add(x, y, signed(-3), None)
    program = b.build(z, b.pool(z, "max_pool_2d"))
    writer.write(program, tmp_path / "m.tflite")
    runner = tflite.load(tmp_path / "m.tflite")
    feed = b.images(program, 3)
    want, found = reference.run(program, feed), runner.run_int8(feed)
    assert list(found) == list(program.outputs)
    for name in program.outputs:
        np.testing.assert_array_equal(found[name], want[name])
    floats = {name: codes * np.float32(2.0**-5) for name, codes in feed.items()}
    assert list(runner(floats)) == list(program.outputs)
    with pytest.raises(ValueError, match="has the inputs input_0, input_1; received input_0"):
        runner.run_int8({"input_0": feed["input_0"]})


def test_packed_files_are_delegated_like_int8_ones(files):
    both = [tflite.load(files[weights]).undelegated for weights in ("int8", "int4")]
    assert both[0] == both[1]
    slow = [re.sub(r"_\d+$", "", name) for name in both[0]]
    assert slow == ["average_pool_2d", "widen", "fully_connected"]


def test_unpacking_writes_the_int8_file(files, tmp_path):
    tflite.unpack(files["int4"], tmp_path / "unpacked.tflite")
    unpacked, whole = (model_file.read(p) for p in (tmp_path / "unpacked.tflite", files["int8"]))
    assert [vars(c) for c in unpacked.model.operatorCodes] == [
        vars(c) for c in whole.model.operatorCodes
    ]
    for found, want in zip(unpacked.graph.tensors, whole.graph.tensors, strict=True):
        assert flatbuffer.tensor_name(found) == flatbuffer.tensor_name(want)
        assert flatbuffer.type_name(found) == flatbuffer.type_name(want)
        data = (flatbuffer.constant(f.model, t) for f, t in ((unpacked, found), (whole, want)))
        np.testing.assert_array_equal(*data)
    sizes = [(tmp_path / "unpacked.tflite").stat().st_size, files["int8"].stat().st_size]
    assert abs(sizes[0] - sizes[1]) < 300
    assert unpacked.metadata == whole.metadata


def test_unpacking_an_int8_file_copies_it(files, tmp_path):
    tflite.unpack(files["int8"], tmp_path / "same.tflite")
    assert (tmp_path / "same.tflite").read_bytes() == files["int8"].read_bytes()


def test_packed_files_are_smaller_also_when_compressed(files):
    whole, packed = files["int8"].read_bytes(), files["int4"].read_bytes()
    print(f"int8 {len(whole):,}, int4 {len(packed):,} bytes")
    assert len(packed) < len(whole) and len(gzip.compress(packed)) < len(gzip.compress(whole))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((1, 16, 16, 3)), r"must be int8 \[batch, 16, 16, 3\]; received float64"),
        (np.zeros((1, 8, 16, 3), np.int8), r"received int8 \[1, 8, 16, 3\]"),
        (np.zeros((16, 16, 3), np.int8), r"received int8 \[16, 16, 3\]"),
        (np.zeros((0, 16, 16, 3), np.int8), r"received int8 \[0, 16, 16, 3\]"),
    ],
)
def test_codes_of_another_shape_or_type_are_refused(files, x, message):
    with pytest.raises(ValueError, match=message):
        tflite.load(files["int8"]).run_int8(x)


def test_floats_that_are_no_numbers_are_refused(files):
    runner = tflite.load(files["int8"])
    x = np.zeros((1, 16, 16, 3), np.float32)
    x[0, 3, 2, 1] = np.nan
    with pytest.raises(ValueError, match="must be numbers without NaN"):
        runner(x)
    with pytest.raises(ValueError, match="complex128 values, not real numbers"):
        runner(np.zeros((1, 16, 16, 3), complex))
    with pytest.raises(ValueError, match=r"received int8 \[1, 16, 16\]"):
        runner(np.zeros((1, 16, 16)))
    x[0, 3, 2, 1] = np.inf
    assert np.isfinite(runner(x)).all()


def test_unknown_runtimes_and_thread_counts_are_refused(files):
    with pytest.raises(ValueError, match="Unknown runtime 'cuda'; expected one of xnnpack"):
        tflite.load(files["int8"], runtime="cuda")
    with pytest.raises(ValueError, match="num_threads must be at least 1, not 0"):
        tflite.load(files["int8"], num_threads=0)
