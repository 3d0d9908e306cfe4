"""A comparison of nothing proves nothing, and is an error wherever a proof is made or shown."""

import keras
import numpy as np
import pytest

import faq_keras
from faq_keras.cli.main import dispatch
from faq_keras.converters import errors
from faq_keras.converters import parity as conversion
from faq_keras.integer.parity_report import ParityReport, RuntimeRun, TensorResult
from faq_keras.report.run_report import run_report
from tests import networks

SHAPE = (6, 6, 2)
NOTHING = "no runtime was named"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A quantized model, its file and inputs, as paths by suffix."""
    inputs = keras.Input(SHAPE)
    x = keras.layers.GlobalAveragePooling2D()(networks.conv_bn_relu(inputs, 4))
    model = networks.randomize(keras.Model(inputs, keras.layers.Dense(3)(x)))
    folder, images = tmp_path_factory.mktemp("files"), networks.images(4, SHAPE)
    q = faq_keras.apply(model, 8, calibration_data=images)
    q.save(folder / "m.keras")
    np.save(folder / "m.npy", images)
    faq_keras.export_tflite(q, folder / "m.tflite", verify=None)
    return {path.suffix: path for path in folder.glob("m.*") if "model_card" not in path.name}


@pytest.mark.parametrize("runtimes", [(), [], "", {}, iter(())], ids=lambda r: type(r).__name__)
def test_verify_refuses_an_empty_list_of_runtimes(files, runtimes):
    q, x = keras.saving.load_model(files[".keras"]), np.load(files[".npy"])
    with pytest.raises(ValueError, match=NOTHING):
        faq_keras.verify(q, files[".tflite"], x, runtimes=runtimes)


def test_a_generator_of_runtimes_is_one(files):
    q, x = keras.saving.load_model(files[".keras"]), np.load(files[".npy"])
    assert faq_keras.verify(q, files[".tflite"], x, runtimes=iter(["xnnpack"])).values > 0


@pytest.mark.parametrize("inputs", [np.zeros((0, *SHAPE), np.float32), [], iter(())])
def test_no_image_is_refused_by_verify_and_export(files, inputs, tmp_path):
    q = keras.saving.load_model(files[".keras"])
    with pytest.raises(ValueError, match=r"empty|no image"):
        faq_keras.verify(q, files[".tflite"], inputs)
    for export, name in ((faq_keras.export_tflite, "n.tflite"), (faq_keras.export_onnx, "n.onnx")):
        with pytest.raises(ValueError, match=r"empty|no image"):
            export(q, tmp_path / name, verify=inputs)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", ["--runtimes=", "--runtimes=,"])
def test_an_unset_variable_on_the_command_line_is_refused(files, flag, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    model, file, data = (str(files[suffix]) for suffix in (".keras", ".tflite", ".npy"))
    for command in (["verify", model, file, f"--data={data}"], ["report", str(tmp_path)]):
        assert dispatch([*command, flag]) == 1
        outcome = capsys.readouterr()
        assert "runtime" in outcome.err and "0 mismatches" not in outcome.out
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_reports_of_nothing_do_not_exist():
    nothing = RuntimeRun("xnnpack", 3, (TensorResult("x", "pad"),), (), {})
    some = RuntimeRun("xnnpack", 3, (TensorResult("x", "pad", 5),), (), {})
    for runs in ((), (nothing,), (some, nothing)):
        with pytest.raises(ValueError, match=r"'m\.tflite' was compared .*proves nothing"):
            ParityReport("m.tflite", runs)
    assert ParityReport("m.tflite", (some,)).values == 5


def test_a_report_on_runs_refuses_an_empty_list_of_runtimes(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=NOTHING):
        run_report(tmp_path, lambda run, count: None, runtimes=())


def test_conversions_need_an_original_and_images():
    report = conversion.ConversionReport("net", {}, 1, 1, 0.1, 1.0, {})
    with pytest.raises(errors.ConversionError, match="was compared with nothing"):
        report.require()
    empty = (np.zeros((0, 3), np.float32),)
    with pytest.raises(errors.ConversionError, match="nothing to compare"):
        conversion.agreement(empty, empty)
    with pytest.raises(errors.ConversionError, match="nothing to compare"):
        conversion.agreement((), ())
    with pytest.raises(errors.ConversionError, match="nothing to compare"):
        conversion.in_batches(lambda images: empty, np.zeros((0, 4, 4, 3), np.float32))
