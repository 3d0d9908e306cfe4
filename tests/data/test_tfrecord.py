"""TFRecord files: both label conventions, damaged files, files of other things."""

import pytest
import tensorflow as tf

from faq_keras.data.preparation import CorruptImages, prepare
from faq_keras.data.sources import load_source
from faq_keras.data.transforms import transform
from tests.data.conftest import example, write_records

FIRST = "train-00000-of-00004"


def labels(folder, split="train", **options):
    source = load_source("tfrecord", str(folder), **options)
    return [int(record["label"]) for record in source.records(split).as_numpy_iterator()]


def written(folder, train, validation, jpeg):
    """Replaces the files of a folder by one for each split, with these labels."""
    for path in folder.iterdir():
        path.unlink()
    write_records(folder / "train-0", [example(jpeg, label) for label in train])
    write_records(folder / "validation-0", [example(jpeg, label) for label in validation])
    return folder


def test_stored_order_is_file_by_file(record_files, small_jpegs):
    source = load_source("tfrecord", str(record_files), classes=5)
    records = list(source.records("train").as_numpy_iterator())
    assert [record["image"] for record in records] == small_jpegs[10:]
    assert [record["label"] for record in records] == [n % 5 for n in range(10, 60)]
    assert records[0]["name"].decode() == f"{FIRST}:0"
    assert records[-1]["name"].decode() == "train-00003-of-00004:13"


def test_a_random_order_mixes_within_and_between_files(record_files):
    source = load_source("tfrecord", str(record_files), classes=5, shuffle_buffer=16)
    order = [r["name"].decode() for r in source.records("train", 0).as_numpy_iterator()]
    first_files = {name.split(":")[0] for name in order[:12]}
    assert len(first_files) >= 3
    for file in first_files:
        numbers = [int(name.split(":")[1]) for name in order if name.startswith(file)]
        assert numbers != sorted(numbers)


def test_files_may_lie_in_folders_of_the_splits(record_files):
    expected = labels(record_files, classes=5)
    for split in ("train", "validation"):
        (record_files / split).mkdir()
        for path in list(record_files.glob(f"{split}-*")):
            path.rename(record_files / split / path.name.replace(split, "part"))
    assert labels(record_files, classes=5) == expected


@pytest.mark.parametrize(
    "train, validation",
    [
        ([1, 2, 3, 4, 5], [1, 5]),
        ([5, 3], [2, 3]),
        ([2, 3], [2, 5]),
    ],
)
def test_labels_from_1_begin_at_0(record_files, small_jpegs, train, validation):
    written(record_files, train, validation, small_jpegs[0])
    assert labels(record_files, classes=5) == [label - 1 for label in train]
    assert labels(record_files, "validation", classes=5) == [label - 1 for label in validation]


@pytest.mark.parametrize("train, validation", [([0, 1, 4], [2]), ([2, 1], [0, 3])])
def test_labels_from_0_stay(record_files, small_jpegs, train, validation):
    written(record_files, train, validation, small_jpegs[0])
    assert labels(record_files, classes=5) == train


@pytest.mark.parametrize(
    "train, validation, message",
    [
        ([1, 2], [4], r"ambiguous: neither label 0 nor label 5 occurs\. Set label_offset=0 if"),
        ([0, 5], [0], r"train labels run from 0 to 5, which are neither 0\.\.4 nor 1\.\.5"),
        ([0, 7], [0], r"train labels run from 0 to 7, .* Set the right number of classes"),
        ([1, -1], [1], r"train labels run from -1 to"),
        ([0, 1], [1, 5], r"train labels begin at 0, the validation labels at 1: .* not belong"),
    ],
)
def test_labels_that_fit_nothing_or_both(record_files, small_jpegs, train, validation, message):
    written(record_files, train, validation, small_jpegs[0])
    with pytest.raises(ValueError, match=message):
        load_source("tfrecord", str(record_files), classes=5)


@pytest.mark.parametrize("offset", [0, 1])
def test_an_offset_that_is_told_is_taken(record_files, small_jpegs, offset):
    written(record_files, [1, 2], [4], small_jpegs[0])
    expected = [1 - offset, 2 - offset]
    assert labels(record_files, classes=5, label_offset=offset) == expected
    with pytest.raises(ValueError, match="label offset is 0 or 1, not 2"):
        load_source("tfrecord", str(record_files), classes=5, label_offset=2)


def test_a_label_outside_the_classes_ends_the_run_and_names_the_record(record_files, small_jpegs):
    written(record_files, [1, 5], [4], small_jpegs[0])
    source = load_source("tfrecord", str(record_files), classes=5, label_offset=0)
    corrupt = CorruptImages("skip")
    images = prepare(source, "train", transform("imagenet", False, 16), corrupt=corrupt)
    message = r"Image train-0:1 in .* has the label 5, which is not in 0\.\.4\. Check the number of"
    with pytest.raises(ValueError, match=message), corrupt.named():
        list(images)


@pytest.mark.parametrize("part", [0.0001, 0.3, 0.5, 0.9999])
def test_a_truncated_file_is_named_before_anything_starts(record_files, part):
    content = (record_files / FIRST).read_bytes()
    (record_files / FIRST).write_bytes(content[: int(len(content) * part)])
    message = rf"{FIRST} is (truncated or no TFRecord file: record \d+ at byte \d+|empty)"
    with pytest.raises(ValueError, match=message):
        load_source("tfrecord", str(record_files), classes=5)


def test_an_empty_file_and_a_file_of_something_else(record_files):
    (record_files / FIRST).write_bytes(b"")
    with pytest.raises(ValueError, match=f"The TFRecord file .*{FIRST} is empty"):
        load_source("tfrecord", str(record_files))
    (record_files / FIRST).write_bytes(b"\x89PNG\r\n\x1a\n" * 100)
    with pytest.raises(ValueError, match=f"{FIRST} is truncated or no TFRecord file: record 0 at"):
        load_source("tfrecord", str(record_files))


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"image_key": "image"},
            r"no feature 'image' with one value \(bytes\); they have im",
        ),
        ({"label_key": "label"}, r"no feature 'label' with one value \(int64\).* Set label_key"),
        ({"label_key": "image/encoded"}, r"no feature 'image/encoded' with one value \(int64\)"),
    ],
)
def test_other_features_are_listed(record_files, options, message):
    with pytest.raises(ValueError, match=message):
        load_source("tfrecord", str(record_files), classes=5, **options)


def test_records_that_are_no_examples(record_files):
    write_records(record_files / FIRST, [b"hello, this is no example"] * 11)
    with pytest.raises(ValueError, match=f"first record of .*{FIRST} is no tf.train.Example"):
        load_source("tfrecord", str(record_files), classes=5)


def test_a_folder_without_record_files(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"has no files train\* or validation\*"):
        load_source("tfrecord", str(tmp_path))


def flipped_byte(path, record):
    """Damages the content of a record, so that its checksum does not fit."""
    content = bytearray(path.read_bytes())
    sizes = [len(r) for r in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()]
    content[sum(size + 16 for size in sizes[:record]) + 12 + sizes[record] // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def test_from_a_damaged_record_on_the_rest_of_the_file_is_skipped_and_counted(record_files):
    flipped_byte(record_files / FIRST, 8)
    source = load_source("tfrecord", str(record_files), classes=5)
    corrupt = CorruptImages("skip")
    images = prepare(source, "train", transform("imagenet", False, 16), seed=1, corrupt=corrupt)
    assert len(list(images)) == 47
    assert corrupt.names == {f"{FIRST}:8", f"{FIRST}:9", f"{FIRST}:10"}


def test_a_damaged_record_is_named(record_files):
    flipped_byte(record_files / FIRST, 8)
    source = load_source("tfrecord", str(record_files), classes=5)
    corrupt = CorruptImages("error")
    images = prepare(source, "train", transform("imagenet", False, 16), corrupt=corrupt)
    with pytest.raises(ValueError, match=f"Image {FIRST}:8 in .* is corrupt"), corrupt.named():
        list(images)


def test_workers_have_files_of_their_own_where_that_loses_little(tmp_path, small_jpegs):
    for number in range(4):
        part = [example(small_jpegs[n], n % 5) for n in range(10 * number, 10 * number + 10)]
        write_records(tmp_path / f"train-{number}", part)
    files = []
    for index in range(2):
        source = load_source("tfrecord", str(tmp_path), classes=5, shard=(index, 2))
        found = [r["name"].decode() for r in source.records("train", 4).as_numpy_iterator()]
        assert len(found) == source.images["train"] == 20
        files.append({name.split(":")[0] for name in found})
    assert files == [{"train-0", "train-2"}, {"train-1", "train-3"}]
