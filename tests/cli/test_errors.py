"""What a user gets for a mistake: exit status 1, one readable message, no output file."""

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from faq_keras.cli.main import dispatch
from tests.networks import images


def test_an_unknown_command_gets_a_hint(faq):
    outcome = faq("exprot", "m.keras")
    assert outcome.status == 1
    assert "no command 'exprot'" in outcome.err
    assert "Did you mean 'export'?" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "m.keras", "--outptu=m.tflite"), "'outptu'. Did you mean: output ?"),
        (("inspect", "m.tflite", "--output=x"), "Unknown command line flag 'output'"),
        (("export", "m.keras", "--output=m.tflite", "--weights=int3"), "<int8|int4>"),
        (("verify", "m.keras", "m.tflite", "--num_threads=0"), "num_threads"),
        (("quickstart", "--bits=9"), "bits"),
        (("quickstart", "--dataset=imagenet"), "<auto|mnist5k|fashion_mnist|cifar10>"),
    ],
)
def test_a_wrong_flag_points_to_the_help(refused, arguments, message):
    error = refused(*arguments)
    assert message in error
    assert f"(`faq {arguments[0]} --help` lists the flags)" in error


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "--output=m.tflite"),
        ("export", "a.keras", "b.keras", "--output=m.tflite"),
        ("verify", "m.keras", "--data=x.npz"),
        ("unpack", "m.tflite"),
        ("inspect",),
        ("inspect", "a.tflite", "b.tflite"),
        ("quickstart", "fashion_mnist"),
    ],
)
def test_a_wrong_number_of_arguments(refused, arguments):
    assert "expected the arguments: " in refused(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "{model}"), "--output is missing"),
        (("export", "{model}", "--output=m.h5"), "does not end in .tflite or .onnx"),
        (("export", "{model}", "--output=m.onnx", "--weights=int4"), "apply to .tflite files only"),
        (("unpack", "{int4}", "m.keras"), "m.keras does not end in .tflite"),
        (("unpack", "{int4}", "m"), "m does not end in .tflite"),
        (("verify", "{model}", "{int8}"), "--data is missing"),
    ],
)
def test_a_missing_or_wrong_flag_value(refused, files, arguments, message):
    assert message in refused(*(argument.format(**files) for argument in arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "{none}.keras", "--output={none}.tflite"),
        ("export", "{model}", "--output={none}.tflite", "--verify_data={none}.npz"),
        ("verify", "{none}.keras", "{int8}", "--data={data}"),
        ("verify", "{model}", "{none}.tflite", "--data={data}"),
        ("verify", "{model}", "{int8}", "--data={none}.npz"),
        ("unpack", "{none}.tflite", "{none}_int8.tflite"),
        ("inspect", "{none}.tflite"),
        ("inspect", "{none}.keras"),
        ("inspect", "{none}.json"),
    ],
)
def test_a_missing_file_is_named(refused, files, tmp_path, arguments):
    none = str(tmp_path / "none")
    error = refused(*(argument.format(none=none, **files) for argument in arguments))
    assert none in error
    assert "does not exist" in error or "No such file" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".h5", ".onnx", ".keras.zip", ""])
def test_a_wrong_suffix(refused, files, tmp_path, suffix):
    path = tmp_path / f"m{suffix}"
    shutil.copy(files["model"], path)
    assert str(path) in refused("inspect", path)
    assert "is not a .keras file" in refused("export", path, f"--output={tmp_path}/m.tflite")
    assert not (tmp_path / "m.tflite").exists()


def truncated(source, target, part):
    content = Path(source).read_bytes()
    Path(target).write_bytes(content[: int(len(content) * part)])
    return target


@pytest.mark.parametrize("part", [0, 0.01, 0.5, 0.99])
def test_a_truncated_model(refused, files, tmp_path, part):
    path = truncated(files["model"], tmp_path / "cut.keras", part)
    error = refused("export", path, f"--output={tmp_path}/m.tflite")
    assert str(path) in error
    assert "not a readable Keras model" in error
    assert "not a readable Keras model" in refused("inspect", path)
    assert [file.name for file in tmp_path.iterdir()] == ["cut.keras"]


@pytest.mark.parametrize("damage", ["weights", "config", "member"])
def test_a_corrupt_model(refused, files, tmp_path, damage):
    """A .keras file is a zip of three: each may be garbage or missing."""
    path = tmp_path / "corrupt.keras"
    with zipfile.ZipFile(files["model"]) as good, zipfile.ZipFile(path, "w") as bad:
        for name in good.namelist():
            content = good.read(name)
            if damage == "weights" and name.endswith(".h5"):
                content = content[: len(content) // 2]
            if damage == "config" and name == "config.json":
                content = b'{"class_name": '
            if damage != "member" or not name.endswith(".h5"):
                bad.writestr(name, content)
    error = refused("export", path, f"--output={tmp_path}/m.tflite")
    assert str(path) in error
    assert not (tmp_path / "m.tflite").exists()


def test_a_float_model_is_no_quantized_one(refused, files, tmp_path):
    error = refused("export", files["float"], f"--output={tmp_path}/m.tflite")
    assert "not made by faq_keras.apply" in error
    assert "not made by faq_keras.apply" in refused("inspect", files["float"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", [0, 0.1, 0.6, 0.99])
def test_a_truncated_tflite_file(refused, files, tmp_path, part):
    path = truncated(files["int4"], tmp_path / "cut.tflite", part)
    for arguments in (
        ("inspect", path),
        ("unpack", path, tmp_path / "m.tflite"),
        ("verify", files["model"], path, f"--data={files['data']}"),
    ):
        assert str(path) in refused(*arguments)
    assert [file.name for file in tmp_path.iterdir()] == ["cut.tflite"]


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '{"format": "faq_keras.plan/1"}', "{}"])
def test_a_broken_plan(refused, tmp_path, text):
    path = tmp_path / "plan.json"
    path.write_text(text)
    assert str(path) in refused("inspect", path)


@pytest.mark.parametrize("part", [0, 0.5, 0.99])
@pytest.mark.parametrize("command", ["export", "verify"])
def test_a_truncated_data_file(refused, files, tmp_path, part, command):
    path = truncated(files["data"], tmp_path / "cut.npz", part)
    if command == "export":
        arguments = (files["model"], f"--output={tmp_path}/m.tflite", f"--verify_data={path}")
    else:
        arguments = (files["model"], files["int8"], f"--data={path}")
    error = refused(command, *arguments)
    assert str(path) in error
    assert "not a readable .npz or .npy file" in error
    assert not (tmp_path / "m.tflite").exists()


def test_a_data_file_with_several_arrays_needs_an_x(refused, files, tmp_path):
    path = tmp_path / "two.npz"
    np.savez(path, images=images(2), labels=np.zeros(2))
    error = refused("verify", files["model"], files["int8"], f"--data={path}")
    assert "holds the arrays images, labels: name the model inputs 'x'" in error


def test_a_data_file_of_pickles_is_refused(refused, files, tmp_path):
    path = tmp_path / "objects.npy"
    np.save(path, np.array([{}]), allow_pickle=True)
    assert str(path) in refused("verify", files["model"], files["int8"], f"--data={path}")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (images(4, (9, 8, 3)), "(4, 9, 8, 3); the model 'tiny_resnet' takes (None, 8, 8, 3)"),
        (images(4, (8, 8, 1)), "(4, 8, 8, 1); the model 'tiny_resnet' takes (None, 8, 8, 3)"),
        (images(1)[0], "(8, 8, 3); the model 'tiny_resnet' takes (None, 8, 8, 3)"),
        (images(0), "(0, 8, 8, 3); the model 'tiny_resnet' takes (None, 8, 8, 3)"),
        (np.full((2, 8, 8, 3), "a"), "not all finite real numbers"),
        (np.full((2, 8, 8, 3), np.nan, np.float32), "not all finite real numbers"),
        (np.full((2, 8, 8, 3), 1j), "complex128 values that are not all finite real numbers"),
    ],
    ids=["size", "channels", "no batch", "empty", "text", "NaN", "complex"],
)
def test_inputs_that_do_not_fit_the_model(refused, files, tmp_path, x, message):
    path = tmp_path / "wrong.npz"
    np.savez(path, x=x)
    target = tmp_path / "m.tflite"
    for arguments in (
        ("verify", files["model"], files["int8"], f"--data={path}"),
        ("export", files["model"], f"--output={target}", f"--verify_data={path}"),
    ):
        error = refused(*arguments)
        assert str(path) in error
        assert message in error
    assert [file.name for file in tmp_path.iterdir()] == ["wrong.npz"]


def test_an_unknown_runtime(refused, files):
    data = f"--data={files['data']}"
    error = refused("verify", files["model"], files["int8"], data, "--runtimes=xnnpack,abacus")
    assert "'abacus'" in error
    assert "xnnpack" in error


def outputs(files, target):
    """Every command that writes a file, told to write `target`."""
    return (
        ("export", files["model"], f"--output={target}"),
        ("unpack", files["int4"], target),
        ("verify", files["model"], files["int8"], f"--data={files['data']}", f"--json={target}"),
    )


@pytest.mark.parametrize("command", range(3), ids=["export", "unpack", "verify --json"])
def test_the_output_folder_is_missing(faq, files, tmp_path, command):
    target = tmp_path / "none" / "m.tflite"
    outcome = faq(*outputs(files, target)[command])
    assert outcome.status == 1
    assert f"Cannot write '{target}': the folder" in outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", range(3), ids=["export", "unpack", "verify --json"])
def test_the_output_is_a_folder(faq, files, tmp_path, command):
    target = tmp_path / "m.tflite"
    target.mkdir()
    outcome = faq(*outputs(files, target)[command])
    assert outcome.status == 1
    assert "it is a folder" in outcome.err
    assert not list(target.iterdir())


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_the_output_folder_is_read_only(refused, files, tmp_path):
    tmp_path.chmod(0o500)
    try:
        assert "no file can be created in" in refused(
            "unpack", files["int4"], tmp_path / "m.tflite"
        )
    finally:
        tmp_path.chmod(0o700)
    assert not list(tmp_path.iterdir())


def test_the_output_folder_takes_no_files(refused, files):
    """Nobody, root included, creates files in /proc."""
    if not Path("/proc/self").is_dir():
        pytest.skip("there is no /proc here")
    error = refused("unpack", files["int4"], "/proc/m.tflite")
    assert "Cannot write '/proc/m.tflite'" in error


@pytest.mark.parametrize("command", [("train", "--config=smoke"), ("quickstart",)])
def test_the_workdir_is_a_file(faq, tmp_path, command):
    (tmp_path / "file").touch()
    outcome = faq(*command, f"--workdir={tmp_path / 'file'}")
    assert outcome.status == 1
    message = f"The folder {tmp_path}/file cannot be made: {tmp_path}/file is a file. Name another"
    assert message in outcome.err


def test_a_failed_export_leaves_the_old_file_alone(refused, files, tmp_path):
    target = tmp_path / "m.tflite"
    target.write_bytes(b"old")
    refused("export", files["float"], f"--output={target}")
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize("text", ["Unable to allocate 2.73 TiB.", ""])
def test_too_little_memory_is_one_sentence(refused, files, monkeypatch, text):
    def fails(model):
        raise MemoryError(*([text] if text else []))

    monkeypatch.setattr("faq_keras.cli.inspect.lower", fails)
    reason = text.rstrip(".") or "out of memory"
    assert f"needs more memory than there is here ({reason})." in refused("inspect", files["model"])
    with pytest.raises(MemoryError):
        dispatch(["inspect", files["model"], "--debug"])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("inspect", "none.tflite", "--debug"), ValueError),
        (("--debug", "export", "none.keras", "--output=m.tflite"), None),
        (("export", "none.keras", "--debug", "--output=m.tflite"), ValueError),
        (("export", "none.keras", "--outptu=m.tflite", "--debug"), flags.Error),
    ],
)
def test_debug_shows_the_traceback(arguments, error):
    if error is None:  # it goes behind the command
        assert dispatch(list(arguments)) == 1
        return
    with pytest.raises(error):
        dispatch(list(arguments))
