"""TensorFlow Lite Micro, the real one."""

import numpy as np
import pytest
from tflite_micro.python.tflite_micro.runtime import Interpreter

from faq_keras.tflite import devices, model_file, runtimes, writer
from faq_keras.tflite.devices import Options
from tests.integer.programs import Builder, unsigned


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_the_arena_is_the_smallest_that_works(files, weights):
    arena = devices.measure(files[weights], "tflm", Options(num_runs=2)).arena_bytes
    content = model_file.read(files[weights]).content
    Interpreter.from_bytes(content, arena_size=arena)
    with pytest.raises(RuntimeError):
        Interpreter.from_bytes(content, arena_size=arena - 16)  # TFLM aligns to 16 bytes


def test_times_are_labelled_as_those_of_this_host(files):
    result = devices.measure(files["int8"], "tflm", Options(num_runs=7, warmup_runs=2))
    assert result.num_runs == 7 and min(result.runs_us) > 0
    assert str(result).startswith("Inference timings in us: Init: ")
    assert any("not of a microcontroller" in note for note in result.notes)
    assert result.runtime.startswith("tflite-micro ") and result.peak_memory_bytes is None


def test_packed_files_are_run_packed_and_that_is_said(files):
    notes = [devices.measure(files[w], "tflm", Options(num_runs=1)).notes for w in ("int8", "int4")]
    said = [any("run packed" in note for note in each) for each in notes]
    assert said == [False, True]


@pytest.mark.parametrize("kind", ["conv", "depthwise", "dense"])
def test_tflm_computes_the_same_from_packed_kernels(tmp_path, kind):
    """Why a packed file may be shipped to a microcontroller as it is."""
    b = Builder(3)
    x = b.input((6, 6, 4))
    if kind == "dense":
        x = b.dense(b.global_pool(x, unsigned(8, -7)), 5, bits=4)
    else:
        x = b.conv(x, 4, bits=4, depthwise=kind == "depthwise")
    program = b.build(x)
    feed = b.images(program, 50)
    outputs = []
    for weights in ("int8", "int4"):
        path = tmp_path / f"{weights}.tflite"
        writer.write(program, path, weights)
        session = runtimes.RUNTIMES["tflm"].open(model_file.read(path).content)
        outputs.append(session.run(feed)[x])
        assert devices.measure(path, "tflm", Options(num_runs=1)).arena_bytes > 0
    np.testing.assert_array_equal(*outputs)
    assert np.ptp(outputs[0].astype(int)) > 3


def test_a_file_that_tflm_refuses_is_an_error_with_its_words(tmp_path):
    b = Builder(0)
    x = b.input((6, 6, 3))
    program = b.build(b.concat(*(b.conv(x, 4) for _ in range(11))))  # TFLM joins ten at most
    path = tmp_path / "m.tflite"
    writer.write(program, path)
    with pytest.raises(ValueError, match="TensorFlow Lite Micro refuses"):
        devices.measure(path, "tflm")


def test_a_missing_package_says_how_to_get_it(files, monkeypatch):
    find = devices.tflm.importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "tflite_micro" else find(name)
    )
    with pytest.raises(ValueError, match=r"pip install 'faq_keras\[edge\]'"):
        devices.measure(files["int8"], "tflm")
