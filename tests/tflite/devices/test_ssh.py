"""A board behind ssh, played by fakes that run the lines here: the runner and LiteRT are real."""

import re
import sys
from pathlib import Path

import pytest

from faq_keras.tflite import devices, loader, model_file
from faq_keras.tflite.devices import Options

# The last argument is the line; LOST is the call from which on the connection is broken.
SSH = """
count = ROOT.parent / "count"
number = int(count.read_text()) + 1 if count.exists() else 0
count.write_text(str(number))
if number >= LOST:
    stop(255, "client_loop: send disconnect: Broken pipe\\n")
os.environ["TMPDIR"] = str(ROOT)
os.environ["PATH"] = BIN + os.pathsep + os.environ["PATH"]
print(GREETING, end="")
sys.stdout.flush()
sys.exit(subprocess.run(["sh", "-c", arguments[-1]]).returncode)
"""
SCP = """
separator = arguments.index("--")
*sources, target = arguments[separator + 1:]
host, folder = target.split(":", 1)
for source in sources:
    shutil.copy(source, folder)
if KEEP:
    shutil.copy(sources[0], KEEP)
sys.exit(STATUS)
"""


def board(bench, lost=10**6, greeting="", python=None, keep="", scp_status=0):
    folder = str(Path(python or sys.executable).parent)
    bench.install("ssh", f"LOST, GREETING, BIN = {lost}, {greeting!r}, {folder!r}\n{SSH}")
    bench.install("scp", f"KEEP, STATUS = {keep!r}, {scp_status}\n{SCP}")


def test_a_board_runs_the_file_with_its_own_litert_and_is_left_clean(bench, files):
    board(bench)
    options = Options(num_threads=2, num_runs=9, warmup_runs=3, memory=True)
    result = devices.measure(files["int8"], "ssh:pi@raspberry", options)
    assert re.match(r"Inference timings in us: Init: \d+, First inference: \d+", str(result))
    assert result.device == "ssh:pi@raspberry" and result.num_threads == 2
    assert len(result.runs_us) == result.num_runs == 9 and min(result.runs_us) > 0
    assert result.runtime.startswith("ai-edge-litert ") and result.peak_memory_bytes > 0
    assert result.details()[0] == f"On ssh:pi@raspberry: {result.runtime}, 2 threads"
    assert not list(bench.disk.iterdir())


def test_ssh_never_asks_and_gives_up_soon(bench, files):
    board(bench)
    devices.measure(files["int8"], "ssh:pi", Options(num_runs=1))
    for call in bench.calls("ssh") + bench.calls("scp"):
        assert "BatchMode=yes" in call and "ConnectTimeout=10" in call
        assert call[call.index("--") + 1 :]
    assert {call[-2] for call in bench.calls("ssh")} == {"pi"}


def test_packed_files_travel_unpacked_and_that_is_said(bench, files, tmp_path):
    board(bench, keep=str(tmp_path / "seen.tflite"))
    result = devices.measure(files["int4"], "ssh:pi", Options(num_runs=2))
    unpacked = loader.unpacked(model_file.read(files["int4"]))
    assert (tmp_path / "seen.tflite").read_bytes() == unpacked.content
    assert result.file_bytes == files["int4"].stat().st_size
    assert any("unpacked to int8 before it travelled" in note for note in result.notes)


# 0 is mktemp, 1 the run (the copy between them is scp's), 2 the cleaning.
@pytest.mark.parametrize("lost", [0, 1])
def test_a_connection_that_breaks_is_one_clear_error(bench, files, lost):
    board(bench, lost)
    with pytest.raises(ValueError, match="The connection to 'ssh:pi' failed or broke") as caught:
        devices.measure(files["int8"], "ssh:pi", Options(num_runs=1))
    assert "Broken pipe" in str(caught.value)
    assert "ssh -o BatchMode=yes pi true" in str(caught.value)


def test_a_copy_that_breaks_is_the_same_error_and_cleans_up(bench, files):
    board(bench, scp_status=1)
    with pytest.raises(ValueError, match="The connection to 'ssh:pi' failed or broke"):
        devices.measure(files["int8"], "ssh:pi", Options(num_runs=1))
    assert not list(bench.disk.iterdir())


def test_a_host_that_goes_away_before_the_cleaning_is_reported(bench, files):
    board(bench, lost=2)
    result = devices.measure(files["int8"], "ssh:pi", Options(num_runs=1))
    assert any("could not be removed" in note for note in result.notes)


def test_a_host_that_does_not_answer_is_not_waited_for(bench, files, monkeypatch):
    bench.install("ssh", 'subprocess.run(["sleep", "30"])')
    bench.install("scp", "")
    monkeypatch.setattr("faq_keras.tflite.devices.ssh._SHORT_TIMEOUT", 1)
    with pytest.raises(ValueError, match="'ssh:pi' did not answer within 1 s"):
        devices.measure(files["int8"], "ssh:pi")


def test_a_python_without_litert_is_named_with_the_remedy(bench, files, tmp_path):
    python = tmp_path / "bare" / "python3"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')
    python.chmod(0o755)
    board(bench, python=python)
    with pytest.raises(ValueError, match=r"'ssh:pi' cannot run .*pip install ai-edge-litert numpy"):
        devices.measure(files["int8"], "ssh:pi")
    assert not list(bench.disk.iterdir())


def test_a_machine_without_python_is_an_error_with_its_words(bench, files, tmp_path):
    python = tmp_path / "broken" / "python3"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho python3: not found >&2\nexit 127\n")
    python.chmod(0o755)
    board(bench, python=python)
    with pytest.raises(ValueError, match="status 127 on 'ssh:pi': python3: not found"):
        devices.measure(files["int8"], "ssh:pi")


def test_a_shell_that_greets_is_not_taken_for_a_folder(bench, files):
    board(bench, greeting="Welcome to Raspberry Pi OS\n")
    with pytest.raises(ValueError, match="its shell prints nothing at login"):
        devices.measure(files["int8"], "ssh:pi")
    lines = [call[-1] for call in bench.calls("ssh")]
    assert not [line for line in lines if line.startswith("rm")]


def test_a_file_that_litert_refuses_over_there_is_an_error(bench, tmp_path, files):
    board(bench)
    bench.install("scp", SCP.replace("shutil.copy(source, folder)", COPY_TRUNCATED))
    with pytest.raises(ValueError, match=r"'ssh:pi' cannot run .*refuses the file"):
        devices.measure(files["int8"], "ssh:pi")


COPY_TRUNCATED = """
    STATUS, KEEP = 0, ""
    content = pathlib.Path(source).read_bytes()
    short = content[:100] if source.endswith(".tflite") else content
    (pathlib.Path(folder) / pathlib.Path(source).name).write_bytes(short)"""


def test_a_missing_ssh_says_how_to_get_it(empty_path, files):
    with pytest.raises(ValueError, match=r"'ssh' is not on PATH. Install OpenSSH"):
        devices.measure(files["int8"], "ssh:pi")


def test_the_runner_needs_nothing_of_this_package():
    source = (Path(devices.__file__).parent / "ssh_runner.py").read_text()
    code = source.split('"""', 2)[2]
    assert "faq_keras" not in code
