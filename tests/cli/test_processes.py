"""The command line as a process of its own: exit status, streams, being killed in the middle."""

import os
import signal
import subprocess
import sys
import time

import pytest

from faq_keras.files import PARTIAL_PREFIX


def faq(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "faq_keras", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_a_process_exports_and_says_so(files, tmp_path):
    target = tmp_path / "m.tflite"
    done = faq("export", files["model"], f"--output={target}", "--weights=int4")
    assert done.returncode == 0, done.stderr
    assert "0 mismatches" in done.stdout
    assert target.exists()


def test_a_process_fails_with_one_line_and_no_traceback():
    done = faq("inspect", "none.tflite")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("faq inspect: error: Cannot read")
    assert "Traceback" not in done.stderr


def test_debug_prints_the_traceback():
    done = faq("inspect", "none.tflite", "--debug")
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr


# Stops the process (as a slow disk would) when all of the file is written, before it is renamed.
_SLOW_EXPORT = """
import sys, time
from faq_keras import deployment
from faq_keras.cli.main import run

def audit_slowly(path, *arguments):
    print(path, flush=True)
    time.sleep(60)

deployment.audit.audit = audit_slowly
run(sys.argv[1:])
"""


@pytest.mark.skipif(os.name != "posix", reason="there is no kill -9")
def test_a_kill_in_the_middle_of_an_export_leaves_no_file(files, tmp_path):
    target = tmp_path / "m.tflite"
    command = [sys.executable, "-c", _SLOW_EXPORT, "export", files["model"], f"--output={target}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        partial = process.stdout.readline().strip()
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert os.path.getsize(partial) > 0, "the kill came before the file was written"
    left = [path.name for path in tmp_path.iterdir()]
    assert left == [os.path.basename(partial)]
    assert left[0].startswith(PARTIAL_PREFIX)


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGINT to send")
def test_an_interrupted_export_cleans_up(files, tmp_path):
    target = tmp_path / "m.tflite"
    command = [sys.executable, "-c", _SLOW_EXPORT, "export", files["model"], f"--output={target}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}

    def listen_to_sigint():
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background job's children ignore it

    with subprocess.Popen(command, preexec_fn=listen_to_sigint, **pipes) as process:
        process.stdout.readline()
        time.sleep(0.5)  # until it sleeps
        process.send_signal(signal.SIGINT)
        error = process.stderr.read()
    assert process.returncode == 130
    assert error.splitlines()[-1] == "faq export: error: interrupted"
    assert not list(tmp_path.iterdir())
