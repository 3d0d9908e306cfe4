"""The emulated process and its installation: what happens when something goes wrong."""

import dataclasses
import gc
import json
import os
import re
import shutil
import signal
import stat

import numpy as np
import pytest

from faq_keras.tflite import devices, emulation, emulation_setup, flatbuffer, loader
from faq_keras.tflite.devices import Options
from faq_keras.tflite.runtimes import RUNTIMES


@pytest.fixture
def session(aarch64, files):
    """The small network in the emulator."""
    content = loader.unpacked(loader.model_file.read(files["int8"])).content
    session = RUNTIMES["aarch64"].open(content)
    yield session
    session.close()


def test_a_session_describes_and_runs_the_model_as_the_own_interpreter_does(session, files, feed):
    own = loader.load(files["int8"])
    assert [d["name"] for d in session.input_details] == list(feed)
    (details,) = session.output_details
    assert details["dtype"] is np.int16 and details["quantization"] == (2.0**-8, 0)
    for batch in (3, 1, 20):  # one process takes any batch size, one after the other
        part = {name: codes[:batch] for name, codes in feed.items()}
        (found,) = session.run(part).values()
        assert np.array_equal(found, own.run_int8(part))
    session.invoke()


def test_the_process_and_its_files_end_with_the_session(aarch64, files):
    content = loader.model_file.read(files["int8"]).content
    session = RUNTIMES["aarch64-builtin"].open(content)
    process, folder = session._process, session._files
    assert process.poll() is None and folder.is_dir()
    del session
    gc.collect()
    assert process.returncode == -signal.SIGKILL
    assert not folder.exists()


def test_a_crash_of_the_emulator_is_an_error_of_one_sentence(session, feed):
    os.kill(session._process.pid, signal.SIGSEGV)
    with pytest.raises(ValueError, match="of the runtime 'aarch64' ended with status -11"):
        session.run(feed)
    assert not session._files.exists()


def test_the_last_line_of_a_failing_process_is_told(aarch64, files):
    """An emulated Python that cannot even start LiteRT: threads must be a number."""
    content = loader.model_file.read(files["int8"]).content
    with pytest.raises(ValueError, match=r"ended with status 1; .*invalid literal for int"):
        emulation.EmulatedSession(content, RUNTIMES["aarch64"], aarch64, "two")


def test_a_run_that_takes_too_long_is_ended(aarch64, files, feed):
    hasty = dataclasses.replace(RUNTIMES["aarch64"], run_seconds=0.001)
    session = hasty.open(loader.model_file.read(files["int8"]).content)
    with pytest.raises(ValueError, match=r"took longer than 0\.001 s and was ended"):
        session.run(feed)
    assert session._process.returncode is not None


def test_a_model_that_the_runtime_refuses(aarch64, files, tmp_path):
    model = flatbuffer.parse(files["int8"].read_bytes())
    for code in model.operatorCodes:
        code.version = 99
    path = tmp_path / "m.tflite"
    path.write_bytes(flatbuffer.serialize(model))
    with pytest.raises(ValueError, match=r"m\.tflite' cannot be run\. .*version '99'"):
        loader.load(path, "aarch64-builtin")


def test_the_device_prints_the_usual_line_and_says_that_it_is_emulated(aarch64, files):
    result = devices.measure(files["int4"], "aarch64", Options(num_runs=3, warmup_runs=2))
    assert re.fullmatch(
        r"Inference timings in us: Init: \d+, First inference: \d+, Warmup \(avg\): [\d.e+]+, "
        r"Inference \(avg\): [\d.e+]+",
        str(result),
    )
    assert result.num_runs == len(result.runs_us) == 3 and min(result.runs_us) > 0
    assert result.init_us > result.median_us
    kinds = [name.rsplit("_", 1)[0] for name in result.undelegated]
    assert kinds == ["average_pool_2d", "widen", "fully_connected"]  # as on x86-64
    assert any("Emulated (qemu-user-static" in note for note in result.notes)


def test_the_device_refuses_what_it_cannot_honour(files):
    with pytest.raises(ValueError, match="'aarch64' cannot honour profile=True"):
        devices.measure(files["int8"], "aarch64", Options(profile=True))


@pytest.mark.parametrize("name", ["aarch64", "aarch64-builtin"])
def test_what_is_not_installed_names_the_command(files, tmp_path, monkeypatch, name):
    monkeypatch.setenv(emulation.FOLDER_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(ValueError, match=rf"'{name}' is not installed: .*Run `faq setup aarch64`"):
        loader.load(files["int8"], name)


def test_the_folder_is_chosen_by_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv(emulation.FOLDER_VARIABLE, str(tmp_path))
    assert emulation.folder() == tmp_path
    monkeypatch.delenv(emulation.FOLDER_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert emulation.folder() == tmp_path / "faq_keras" / "aarch64"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"versions": 1}'])
def test_an_incomplete_installation_counts_as_none(tmp_path, content):
    assert emulation.installed(tmp_path) is None
    (tmp_path / emulation.FACTS).write_text(content)
    assert emulation.installed(tmp_path) is None


# ------------------------------------------------------------------------------------ installation


def script(folder, name, text):
    """A command on PATH."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_missing_tools_are_all_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="needs apt-get, apt-config, dpkg, dpkg-deb, which this"):
        emulation_setup.setup(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_installation_leaves_nothing_behind(tmp_path, monkeypatch):
    commands = tmp_path / "commands"
    commands.mkdir()
    script(commands, "apt-get", "echo 'E: Unable to locate package' >&2; exit 100")
    script(commands, "apt-config", "echo 'APT::Architecture \"amd64\";'")
    script(commands, "dpkg", "echo amd64")
    script(commands, "dpkg-deb", "exit 1")
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    with pytest.raises(ValueError, match=r"apt cannot download .*: E: Unable to locate package"):
        emulation_setup.setup(tmp_path / "cache" / "aarch64")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_folder_with_other_contents_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="exists and is no installation of the emulation"):
        emulation_setup.setup(tmp_path, force=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_complete_installation_is_kept(aarch64):
    lines = []
    before = (aarch64 / emulation.FACTS).stat()
    assert emulation_setup.setup(aarch64, log=lines.append) == emulation.installed(aarch64)
    assert lines == [f"{aarch64} is complete already."]
    assert (aarch64 / emulation.FACTS).stat() == before


def test_private_lists_leave_the_system_alone(tmp_path):
    """apt reads this machine's sources, but writes into the temporary folder only."""
    if shutil.which("apt-config") is None:
        pytest.skip("needs apt")
    config = emulation_setup._private_apt(tmp_path, "amd64")
    variables = os.environ | {"APT_CONFIG": str(config)}
    keys = {"state": "Dir::State/d", "status": "Dir::State::status/f", "cache": "Dir::Cache/d"}
    words = [word for pair in keys.items() for word in pair]
    said = emulation_setup._run(["apt-config", "shell", *words], "apt-config fails", variables)
    found = dict(line.split("=", 1) for line in said.strip().splitlines())
    assert set(found) == set(keys)
    assert all(str(tmp_path) in value for value in found.values())
    said = emulation_setup._run(["apt-config", "dump"], "apt-config fails", variables)
    assert "Post-Invoke::" not in said
    assert 'APT::Architecture "arm64";' in said.splitlines()


@pytest.mark.slow
def test_the_whole_installation(tmp_path, monkeypatch, files, feed):
    """Through this machine's apt and pip: needs the network."""
    folder = tmp_path / "aarch64"
    lines = []
    versions = emulation_setup.setup(folder, log=lines.append)
    print(versions, *lines, sep="\n")
    assert json.loads((folder / emulation.FACTS).read_text())["versions"] == versions
    assert [path.name for path in tmp_path.iterdir()] == ["aarch64"]
    megabytes = sum(path.lstat().st_size for path in folder.rglob("*")) / 2**20
    assert 100 < megabytes < 250
    moved = tmp_path / "moved"
    folder.rename(moved)  # a copy for a machine without apt
    monkeypatch.setenv(emulation.FOLDER_VARIABLE, str(moved))
    found = loader.load(files["int8"], "aarch64").run_int8(feed)
    assert np.array_equal(found, loader.load(files["int8"]).run_int8(feed))
    emulation_setup.setup(moved, force=True)
    assert emulation.installed(moved) == versions
