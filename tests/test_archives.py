"""What an archive says about itself is checked before anything of it is unpacked."""

import gzip
import io
import pickle
import stat
import zipfile

import numpy as np
import pytest

from faq_keras import archives


def zipped(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


@pytest.fixture
def small_limit(monkeypatch):
    monkeypatch.setattr(archives, "FREE_BYTES", 1000)


def test_sound_archives_pass(tmp_path, small_limit):
    archives.check_archive(zipped(tmp_path / "a.keras", [("config.json", b"x" * 900)]))
    stored = zipped(tmp_path / "b.keras", [("w.h5", b"x" * 9000)], zipfile.ZIP_STORED)
    archives.check_archive(stored)
    archives.check_archive(zipped(tmp_path / "c.keras", [("ü n/ö.json", b"{}"), ("a..b", b"")]))


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/../../x", "..\\x", "C:\\x", "C:x", "\\\\host\\share\\x", "a/.."]
)
def test_members_that_point_out_are_refused(tmp_path, name):
    path = zipped(tmp_path / "a.zip", [("fine", b""), (name, b"x")])
    with pytest.raises(ValueError, match="points out of it"):
        archives.check_archive(path)


def test_links_are_refused(tmp_path):
    link = zipfile.ZipInfo("harmless")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(ValueError, match="'harmless' points out of it"):
        archives.check_archive(zipped(tmp_path / "a.zip", [(link, "/etc/passwd")]))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(tmp_path):
    path = zipped(tmp_path / "a.zip", [("config.json", b"1"), ("config.json", b"2")])
    with pytest.raises(ValueError, match="several members of one name"):
        archives.check_archive(path)


@pytest.mark.parametrize("members", [1, 50], ids=["one", "many small ones"])
def test_a_bomb_is_refused_by_what_it_declares(tmp_path, small_limit, members):
    parts = [(f"m{i}", bytes(3_000_000 // members)) for i in range(members)]
    with pytest.raises(ValueError, match="would unpack to 3,000,000 or more"):
        archives.check_archive(zipped(tmp_path / "a.zip", parts))


def test_a_bomb_that_declares_too_little_never_gives_more(tmp_path, small_limit):
    """The reader stops at the declared size, and the checksum tells."""
    path = zipped(tmp_path / "a.npz", [("x.npy", npy(np.zeros(1_000_000, np.uint8)))])
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x01\x02")
    content[at + 24 : at + 28] = (500).to_bytes(4, "little")
    path.write_bytes(content)
    archives.check_archive(path)
    with pytest.raises(ValueError, match=r"CRC|declares|EOF|size"):
        archives.read_arrays(path)


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_arrays_come_back(tmp_path):
    x, y = np.arange(6.0).reshape(2, 3), np.arange(2)
    np.savez_compressed(tmp_path / "a.npz", x=x, y=y)
    np.save(tmp_path / "b.npy", y)
    found = archives.read_arrays(tmp_path / "a.npz")
    assert set(found) == {"x", "y"} and np.array_equal(found["x"], x)
    assert np.array_equal(archives.read_arrays(tmp_path / "b.npy")["x"], y)


@pytest.mark.parametrize("shape", ["(1000000000000000,)", "(99999999999999999999,)", "(-4,)"])
@pytest.mark.parametrize("packed", [True, False], ids=["npz", "npy"])
def test_a_header_that_declares_too_much_is_refused(tmp_path, shape, packed):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(8)
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    if packed:
        path = zipped(tmp_path / "a.npz", [("x.npy", content)])
    with pytest.raises(ValueError, match=r"\w"):
        archives.read_arrays(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is something else, or empty"),
        (b"text", "it is something else, or empty"),
        (pickle.dumps([1]), "it is something else, or empty"),
        (b"\x93NUMPY", r"\w"),
        (b"PK\x03\x04", r"\w"),
        (b"PK\x05\x06", r"\w"),
    ],
)
def test_what_is_no_array_is_refused_without_advice_to_load_it_unsafely(tmp_path, content, message):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        archives.read_arrays(tmp_path / "a.npz")
    assert "pickle" not in str(caught.value)


def test_gzip_files_are_read_up_to_the_limit(tmp_path, small_limit):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"x" * 1000))
    assert archives.read_gzip(path) == b"x" * 1000
    path.write_bytes(gzip.compress(bytes(3_000_000)))
    with pytest.raises(ValueError, match="looks like a decompression bomb"):
        archives.read_gzip(path)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no gzip", "empty"])
def test_damaged_gzip_files_are_refused_or_empty(tmp_path, damage):
    content = bytearray(gzip.compress(bytes(range(256)) * 4))
    if damage == "truncated":
        del content[-9:]
    elif damage == "flipped":
        content[len(content) // 2] ^= 0x55
    elif damage == "no gzip":
        content = bytearray(b"text, no gzip")
    else:
        content = bytearray()
    path = tmp_path / "a.gz"
    path.write_bytes(content)
    if damage == "empty":
        assert archives.read_gzip(path) == b""
        return
    with pytest.raises((ValueError, OSError), match=r"\w"):
        archives.read_gzip(path)
