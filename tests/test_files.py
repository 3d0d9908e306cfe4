"""Output files appear whole or not at all."""

import os
import re
import signal
import stat
import subprocess
import sys

import pytest

from faq_keras import files
from faq_keras.files import PARTIAL_PREFIX, append_line, atomic_write, drop_torn_line, make_folder


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize(
    "name", ["plain.tflite", "mit Leerzeichen.json", "größe-猫-Ω.keras", "none", "ü" * 120]
)
def test_a_finished_block_leaves_the_whole_file_and_nothing_else(tmp_path, name):
    with atomic_write(tmp_path / name) as partial:
        assert partial.parent == tmp_path
        assert partial.suffix == (tmp_path / name).suffix
        assert names(tmp_path) == [partial.name]
        partial.write_bytes(b"content")
    assert names(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == b"content"


def test_a_string_path_relative_to_the_working_folder_will_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with atomic_write("a.txt") as partial:
        partial.write_text("x")
    assert (tmp_path / "a.txt").read_text() == "x"


@pytest.mark.parametrize("exception", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("before", [None, b"old"])
def test_an_exception_leaves_the_target_as_it_was(tmp_path, exception, before):
    target = tmp_path / "model.tflite"
    if before is not None:
        target.write_bytes(before)
    with pytest.raises(exception), atomic_write(target) as partial:
        partial.write_bytes(b"half")
        raise exception
    assert names(tmp_path) == ([] if before is None else [target.name])
    assert before is None or target.read_bytes() == before


def test_the_old_file_is_there_until_the_block_ends(tmp_path):
    target = tmp_path / "plan.json"
    target.write_text("old")
    with atomic_write(target) as partial:
        partial.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


@pytest.mark.skipif(os.name != "posix", reason="permission bits and links of posix")
def test_permissions_are_those_of_any_new_file_and_links_are_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "disk" / "real.txt")
    with atomic_write(link) as partial:
        partial.write_text("x")
    usual = tmp_path / "usual.txt"
    usual.write_text("x")
    assert link.is_symlink()
    assert (tmp_path / "disk" / "real.txt").read_text() == "x"
    assert stat.S_IMODE(link.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_kill_in_the_middle_leaves_targets_untouched_or_absent(tmp_path):
    old, new = tmp_path / "old.bin", tmp_path / "new.bin"
    old.write_bytes(b"old")
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(old), str(new), files.__file__],
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout.readline() == "written\n"
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert old.read_bytes() == b"old"
    assert not new.exists()
    left = [name for name in names(tmp_path) if name != "old.bin"]
    assert len(left) == 2
    assert all(name.startswith(PARTIAL_PREFIX) for name in left)


CHILD = """
import runpy, sys, time
atomic_write = runpy.run_path(sys.argv[3])["atomic_write"]  # without importing TensorFlow
with atomic_write(sys.argv[1]) as first, atomic_write(sys.argv[2]) as second:
    first.write_bytes(b"half")
    second.write_bytes(b"half")
    print("written", flush=True)
    time.sleep(60)
"""


def test_a_missing_folder_is_named(tmp_path):
    target = tmp_path / "nowhere" / "model.tflite"
    with (
        pytest.raises(FileNotFoundError, match=r"model\.tflite.*nowhere' does not exist"),
        atomic_write(target),
    ):
        pass


def test_a_file_where_the_folder_should_be_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(NotADirectoryError, match="no file can be created"),
        atomic_write(tmp_path / "file" / "model.tflite"),
    ):
        pass


def test_a_folder_is_not_a_target(tmp_path):
    with pytest.raises(IsADirectoryError, match="Name a file inside it"), atomic_write(tmp_path):
        pass
    assert names(tmp_path) == []


def test_a_read_only_folder_is_named(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):  # root writes anywhere; the kernel's own tree refuses even root
        folder = "/sys"
    if not os.path.isdir(folder):
        pytest.skip("no folder that refuses this user")
    with (
        pytest.raises(OSError, match=r"Cannot write '.*model\.json': no file can be created in"),
        atomic_write(os.path.join(folder, "model.json")),
    ):
        pass


@pytest.mark.parametrize("path", ["file", "file/a", "file/a/b"])
def test_a_folder_that_cannot_be_made_names_the_file_in_its_place(tmp_path, path):
    (tmp_path / "file").touch()
    message = f"The folder {tmp_path / path} cannot be made: {tmp_path / 'file'} is a file. Name"
    with pytest.raises(OSError, match=re.escape(message)):
        make_folder(tmp_path / path)


def test_a_folder_that_nobody_may_make(tmp_path):
    if not os.path.isdir("/proc/self"):
        pytest.skip("there is no /proc here")
    with pytest.raises(OSError, match=r"/proc/a/b cannot be made: .*\. Name another folder"):
        make_folder("/proc/a/b")


def test_folders_are_made_with_those_around_them(tmp_path):
    for _ in range(2):
        make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_log_grows_line_by_line_and_loses_a_torn_one(tmp_path):
    log = tmp_path / "log.jsonl"
    drop_torn_line(log)
    assert not log.exists()
    append_line(log, "größe")
    append_line(log, "2")
    with log.open("a") as file:
        file.write('{"torn')
    for _ in range(2):
        drop_torn_line(log)
        assert log.read_text(encoding="utf-8") == "größe\n2\n"
    log.write_text("torn")
    drop_torn_line(log)
    assert log.read_text() == ""
