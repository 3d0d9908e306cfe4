"""An Android phone, played by a fake adb whose /data/local/tmp is a folder here."""

import json
import stat
import sys

import pytest

from faq_keras.tflite import devices, loader, model_file
from faq_keras.tflite.devices import Options
from tests.tflite.devices import transcripts

# Answers as adb does; GONE is the call from which on there is no phone.
PHONE = """
HOME = "/data/local/tmp"
if arguments[:1] == ["-s"]:
    serial, arguments = arguments[1], arguments[2:]
    if serial != "R58M":
        stop(1, f"error: device '{serial}' not found\\n")
count = ROOT.parent / "count"
number = int(count.read_text()) + 1 if count.exists() else 0
count.write_text(str(number))
if number >= GONE:
    if arguments[0] == "shell" and SILENT:
        stop(255)
    stop(1, "error: device offline\\n" if not SILENT else "error: no devices/emulators found\\n")
if arguments[0] == "push":
    shutil.copyfile(arguments[1], arguments[2].replace(HOME, str(ROOT)))
elif arguments[0] == "shell":
    line = arguments[1].replace(HOME, str(ROOT))
    sys.exit(subprocess.run(["sh", "-c", line]).returncode)
elif arguments[0] != "get-state":
    stop(1, f"adb: unknown command {arguments[0]}\\n")
"""


def phone(bench, gone=10**6, silent=False):
    bench.install("adb", f"GONE, SILENT = {gone}, {silent}\n{PHONE}")


@pytest.fixture
def binary(tmp_path):
    """A `benchmark_model` that keeps its arguments and the model, and prints a transcript."""

    def write(transcript, status=0):
        path = tmp_path / "android_aarch64_benchmark_model"
        path.write_text(
            f"#!{sys.executable}\nimport json, pathlib, shutil, sys\n"
            f"flags = dict(a[2:].split('=', 1) for a in sys.argv[1:])\n"
            f"shutil.copy(flags['graph'], {str(tmp_path / 'seen.tflite')!r})\n"
            f"pathlib.Path({str(tmp_path / 'flags.json')!r}).write_text(json.dumps(flags))\n"
            f"print({transcript!r})\nsys.exit({status})\n"
        )
        return str(path)

    return write


@pytest.mark.parametrize("device", ["adb", "adb:R58M"])
def test_a_phone_runs_the_file_and_is_left_clean(bench, binary, files, tmp_path, device):
    phone(bench)
    options = Options(num_threads=2, num_runs=7, benchmark_model=binary(transcripts.PLAIN))
    result = devices.measure(files["int8"], device, options)
    assert str(result) == (
        "Inference timings in us: Init: 119515, First inference: 87112, "
        "Warmup (avg): 58147.4, Inference (avg): 52743.2"
    )
    assert result.device == device and result.median_us == 51891
    assert result.peak_memory_bytes == 8912896 and result.ops is None
    flags = json.loads((tmp_path / "flags.json").read_text())
    assert (flags["num_threads"], flags["num_runs"], flags["warmup_runs"]) == ("2", "7", "5")
    assert flags["enable_op_profiling"] == "false"
    assert (tmp_path / "seen.tflite").read_bytes() == model_file.read(files["int8"]).content
    assert not list(bench.disk.iterdir())
    serial = [["-s", "R58M"] if device != "adb" else call[:2] for call in bench.calls("adb")]
    assert [call[:2] for call in bench.calls("adb")] == serial


def test_packed_files_travel_unpacked_and_that_is_said(bench, binary, files, tmp_path):
    phone(bench)
    options = Options(benchmark_model=binary(transcripts.PLAIN))
    result = devices.measure(files["int4"], "adb", options)
    unpacked = loader.unpacked(model_file.read(files["int4"]))
    assert (tmp_path / "seen.tflite").read_bytes() == unpacked.content
    assert result.file_bytes == files["int4"].stat().st_size
    assert any("unpacked to int8 before it travelled" in note for note in result.notes)


def test_a_profile_is_asked_for_and_read(bench, binary, files, tmp_path):
    phone(bench)
    options = Options(profile=True, benchmark_model=binary(transcripts.DELEGATE_PROFILE))
    result = devices.measure(files["int8"], "adb", options)
    assert json.loads((tmp_path / "flags.json").read_text())["enable_op_profiling"] == "true"
    assert [op.op for op in result.ops][-1] == "FULLY_CONNECTED"
    assert "CONV" in "\n".join(result.details()).upper()


# 0 is the first contact, then: mkdir, two pushes, chmod, the run.
@pytest.mark.parametrize("gone", range(6))
@pytest.mark.parametrize("silent", [False, True])
def test_a_phone_that_vanishes_is_one_clear_error(bench, binary, files, gone, silent):
    phone(bench, gone, silent)
    options = Options(benchmark_model=binary(transcripts.PLAIN))
    with pytest.raises(ValueError, match="The phone 'adb' cannot be reached") as caught:
        devices.measure(files["int8"], "adb", options)
    reason = "no devices/emulators found" if silent else "device offline"
    assert reason in str(caught.value) and "adb devices" in str(caught.value)


def test_an_unknown_serial_is_named(bench, binary, files):
    phone(bench)
    options = Options(benchmark_model=binary(transcripts.PLAIN))
    with pytest.raises(ValueError, match=r"'adb:XYZ' cannot be reached .*'XYZ' not found"):
        devices.measure(files["int8"], "adb:XYZ", options)


def test_a_phone_that_does_not_answer_is_not_waited_for(bench, binary, files, monkeypatch):
    bench.install("adb", 'subprocess.run(["sleep", "30"])')
    monkeypatch.setattr("faq_keras.tflite.devices.adb._SHORT_TIMEOUT", 1)
    options = Options(benchmark_model=binary(transcripts.PLAIN))
    with pytest.raises(ValueError, match="'adb' did not answer within 1 s"):
        devices.measure(files["int8"], "adb", options)


@pytest.mark.parametrize("status", [0, 1])
def test_a_binary_that_measures_nothing_is_an_error_and_leaves_nothing(
    bench, binary, files, status
):
    phone(bench)
    options = Options(benchmark_model=binary("ERROR: failed to load the model", status))
    with pytest.raises(ValueError, match="ERROR: failed to load the model"):
        devices.measure(files["int8"], "adb", options)
    assert not list(bench.disk.iterdir())


def test_a_folder_that_cannot_be_removed_is_reported(bench, binary, files):
    phone(bench, gone=6)
    options = Options(benchmark_model=binary(transcripts.PLAIN))
    result = devices.measure(files["int8"], "adb", options)
    assert result.mean_us == 52743.2
    assert any("could not be removed" in note for note in result.notes)


def test_the_binary_pushed_is_executable_only_on_the_phone(bench, binary, files, tmp_path):
    phone(bench)
    path = binary(transcripts.PLAIN)
    devices.measure(files["int8"], "adb", Options(benchmark_model=path))
    assert not (tmp_path / path).stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize("given", [None, "no/such/binary"])
def test_a_missing_binary_says_how_to_get_one(bench, files, given):
    phone(bench)
    with pytest.raises(ValueError, match="benchmark_model=PATH") as caught:
        devices.measure(files["int8"], "adb", Options(benchmark_model=given))
    assert given is None or given in str(caught.value)
    assert bench.calls("adb") == []


def test_a_missing_adb_says_how_to_get_it(empty_path, files):
    with pytest.raises(ValueError, match=r"'adb' is not on PATH. Install the Android SDK"):
        devices.measure(files["int8"], "adb")
