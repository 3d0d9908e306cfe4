"""Valid files of others are read and run, and give what LiteRT alone gives."""

import os
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from faq_keras.cli.main import dispatch
from faq_keras.tflite import load, model_file
from tests.tflite.programs_of_others import softmax_file, stateful_file

FOLDER = Path(os.environ.get("FAQ_TEST_DATA", "data")) / "real-models"
PUBLISHED = ["mww_okay_nabu.tflite", "tfm_kw_scrambled.tflite"]
MADE = {"softmax.tflite": softmax_file, "stateful.tflite": stateful_file}


@pytest.fixture(params=[*PUBLISHED, *MADE])
def path(request, tmp_path):
    if request.param in MADE:
        (tmp_path / request.param).write_bytes(MADE[request.param]())
        return tmp_path / request.param
    if not (FOLDER / request.param).is_file():
        pytest.skip("set FAQ_TEST_DATA to the folder of real-models")
    return FOLDER / request.param


def alone(path, feeds):
    """Outputs of LiteRT without this library."""
    interpreter = Interpreter(
        model_path=str(path),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    outputs = []
    for feed in feeds:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], feed)
        interpreter.invoke()
        details = interpreter.get_output_details()[0]
        outputs.append(interpreter.get_tensor(details["index"]).copy())
    return outputs


def test_files_of_others_are_valid_and_run(path, capsys):
    file = model_file.read(path)
    runner = load(path, "builtin")
    (index,) = file.graph.inputs
    tensor = file.graph.tensors[int(index)]
    dtype = {"int8": np.int8, "int16": np.int16, "float32": np.float32}[file.input_types[0]]
    rng = np.random.default_rng(0)
    feed = rng.integers(-100, 100, [int(size) for size in tensor.shape]).astype(dtype)
    (expected,) = alone(path, [feed])
    np.testing.assert_array_equal(runner.run_int8(feed), expected)
    assert dispatch(["inspect", str(path)]) == 0
    assert "bytes" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["no output", "int16 to int8", "int8 to int32"])
def test_what_is_no_such_file_is_still_refused(damage):
    with pytest.raises(ValueError, match="not a valid TFLite model"):
        model_file.from_bytes(softmax_file(damage), "m.tflite")
