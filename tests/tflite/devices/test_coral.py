"""Coral's compiler, played by a fake that keeps what it is given and prints a transcript."""

import numpy as np
import pytest

from faq_keras.tflite import devices, flatbuffer, model_file, writer
from tests.integer.programs import Builder, signed, unsigned
from tests.tflite.devices import transcripts

COMPILER = """
folder = pathlib.Path(arguments[arguments.index("-o") + 1])
model = pathlib.Path(arguments[-1])
shutil.copy(model, ROOT / "seen.tflite")
print(TRANSCRIPT)
if STATUS == 0:
    (folder / (model.stem + "_edgetpu.tflite")).write_bytes(bytes(82340))
sys.exit(STATUS)
"""


def compiler(bench, transcript, status=0):
    bench.install("edgetpu_compiler", f"TRANSCRIPT, STATUS = {transcript!r}, {status}\n{COMPILER}")


@pytest.fixture(scope="module")
def eight_bits(tmp_path_factory):
    """A file with 8-bit logits: what the Edge TPU's documentation asks for."""
    b = Builder(0)
    x = b.conv(b.input((8, 8, 3)), 4, out=unsigned(4, -1))
    x = b.global_pool(x, unsigned(8, -7))
    path = tmp_path_factory.mktemp("coral") / "eight.tflite"
    writer.write(b.build(b.dense(x, 3, out=signed(-3))), path)
    return path


def test_all_operators_mapped(bench, eight_bits):
    compiler(bench, transcripts.EDGE_TPU_ALL)
    result = devices.measure(eight_bits, "coral")
    assert result.accelerator_ops == 7 and result.cpu_ops == ()
    assert result.compiled_bytes == 82340 and result.sram_bytes == 12800
    assert result.runtime == "edgetpu_compiler 16.0.384591198"
    assert result.mean_us is None and "nothing was run" in str(result)
    assert "left to the CPU: none" in "\n".join(result.details())


def test_operators_on_the_cpu_are_listed_with_the_compilers_reason(bench, eight_bits):
    compiler(bench, transcripts.EDGE_TPU_SOME)
    result = devices.measure(eight_bits, "coral")
    assert result.accelerator_ops == 6
    assert result.cpu_ops == (
        "1 QUANTIZE (Operation is otherwise supported, but not mapped due to some unspecified "
        "limitation)",
    )


def test_the_compiler_sees_constant_sizes_and_the_same_constants(bench, eight_bits):
    compiler(bench, transcripts.EDGE_TPU_ALL)
    devices.measure(eight_bits, "coral")
    seen, given = model_file.read(bench.disk / "seen.tflite"), model_file.read(eight_bits)
    shapes = [flatbuffer.shape(tensor) for tensor in seen.graph.tensors]
    assert shapes[0] == (1, 8, 8, 3) and not any(-1 in shape for shape in shapes)
    for ours, theirs in zip(given.graph.tensors, seen.graph.tensors, strict=True):
        expected = flatbuffer.constant(given.model, ours)
        if expected is not None:
            np.testing.assert_array_equal(flatbuffer.constant(seen.model, theirs), expected)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("int8", ("int16 ('widen_16' and 1 more)", "logits_bits=8")),
        ("int4", ("int16", "int4 (", "logits_bits=8", "`faq unpack`")),
    ],
)
def test_files_that_cannot_be_mapped_are_refused_with_all_reasons(bench, files, weights, words):
    compiler(bench, transcripts.EDGE_TPU_ALL)
    with pytest.raises(ValueError, match="fully 8-bit quantized") as caught:
        devices.measure(files[weights], "coral")
    for word in words:
        assert word in str(caught.value)
    assert bench.calls("edgetpu_compiler") == []


def test_float_inputs_are_left_to_the_compiler(bench, tmp_path):
    b = Builder(0)
    x = b.quantize(b.input((8, 8, 3), dtype="float32"), unsigned(8, -7))
    path = tmp_path / "float_input.tflite"
    writer.write(b.build(b.conv(x, 4)), path)
    compiler(bench, transcripts.EDGE_TPU_SOME)
    assert devices.measure(path, "coral").accelerator_ops == 6


def test_a_compiler_that_fails_is_an_error_with_its_words(bench, eight_bits):
    compiler(bench, "ERROR: Internal compiler error. Aborting!", status=1)
    with pytest.raises(ValueError, match=r"status 1 .*Internal compiler error. Aborting!"):
        devices.measure(eight_bits, "coral")


def test_a_missing_compiler_says_how_to_get_it(empty_path, eight_bits):
    with pytest.raises(ValueError, match=r"'edgetpu_compiler' is not on PATH. Install the package"):
        devices.measure(eight_bits, "coral")
