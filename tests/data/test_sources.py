"""What holds for every source: its order, its shards, how it resumes, what it calls things."""

import gzip
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from faq_keras.data import idx
from faq_keras.data.records import permutation
from faq_keras.data.sources import NAMES, load_source

KINDS = ("idx", "cifar10", "image_folder", "tfrecord")
TOTALS = {"idx": (20, 20), "cifar10": (40, 8), "image_folder": (12, 4), "tfrecord": (50, 10)}
CLASSES = {"idx": 10, "cifar10": 10, "image_folder": 4, "tfrecord": 5}
OPTIONS = {"tfrecord": {"classes": 5}}


@pytest.fixture
def idx_folder(data_dir, tmp_path):
    """Fashion-MNIST's first 20 images and labels, half of the files unpacked."""
    for number, name in enumerate(idx.FILES.values()):
        with gzip.open(data_dir / "fashion-mnist" / name) as file:
            head = file.read(4)
            sizes = np.frombuffer(file.read(4 * head[3]), ">i4").copy()
            sizes[0] = 20
            content = head + sizes.tobytes() + file.read(int(sizes.prod()))
        if number % 2:
            (tmp_path / name).write_bytes(gzip.compress(content))
        else:
            (tmp_path / name.removesuffix(".gz")).write_bytes(content)
    return tmp_path


@pytest.fixture
def place(request):
    """The folder of a kind of source."""
    fixtures = {
        "idx": "idx_folder",
        "cifar10": "cifar10_python",
        "image_folder": "tree",
        "tfrecord": "record_files",
    }

    def of(kind):
        return str(request.getfixturevalue(fixtures[kind]))

    return of


def opened(kind, place, **options):
    return load_source(kind, place(kind), **OPTIONS.get(kind, {}), **options)


def names(records):
    batches = records.map(lambda record: record["name"]).batch(10_000)
    return [name for batch in batches.as_numpy_iterator() for name in batch.tolist()]


@pytest.mark.parametrize("kind", KINDS)
def test_counts_and_records_are_what_they_are_called(kind, place):
    source = opened(kind, place)
    train, validation = TOTALS[kind]
    assert source.name == kind
    assert source.classes == CLASSES[kind]
    assert source.images == {"train": train, "validation": validation}
    for split, count in source.images.items():
        records = list(source.records(split).as_numpy_iterator())
        assert len(records) == count
        assert len({record["name"] for record in records}) == count
        assert all(0 <= record["label"] < source.classes for record in records)
        assert records[0]["label"].dtype == np.int64


@pytest.mark.parametrize("kind", KINDS)
def test_an_order_is_a_function_of_its_seed_alone(kind, place):
    source, again = opened(kind, place), opened(kind, place)
    keras.utils.set_random_seed(1)
    first = names(source.records("train", 7))
    keras.utils.set_random_seed(2)
    assert names(again.records("train", 7)) == first
    assert names(source.records("train", 8)) != first
    assert sorted(names(source.records("train"))) == sorted(first)
    assert names(source.records("train")) == names(again.records("train"))


@pytest.mark.parametrize(
    "kind, seed", [*((kind, 3) for kind in KINDS), ("idx", None), ("tfrecord", None)]
)
def test_skipping_gives_the_rest_of_the_same_order(kind, seed, place):
    source = opened(kind, place)
    whole = names(source.records("train", seed))
    assert names(source.records("train", seed, skip=5)) == whole[5:]
    assert names(source.records("train", seed, skip=len(whole))) == []


@pytest.mark.parametrize(
    "kind, workers", [*((kind, 3) for kind in KINDS), ("tfrecord", 2), ("image_folder", 5)]
)
def test_training_shards_are_disjoint_and_equally_long(kind, workers, place):
    shards = [opened(kind, place, shard=(index, workers)) for index in range(workers)]
    parts = [names(shard.records("train", 5)) for shard in shards]
    total = TOTALS[kind][0]
    assert [len(part) for part in parts] == [shard.images["train"] for shard in shards]
    assert len({len(part) for part in parts}) == 1
    assert total - sum(map(len, parts)) < workers
    assert len(set().union(*parts)) == sum(map(len, parts))


@pytest.mark.parametrize("kind", KINDS)
def test_validation_shards_hold_every_image_once(kind, place, workers=3):
    shards = [opened(kind, place, shard=(index, workers)) for index in range(workers)]
    parts = [names(shard.records("validation")) for shard in shards]
    assert [len(part) for part in parts] == [shard.images["validation"] for shard in shards]
    assert sorted(itertools.chain(*parts)) == sorted(
        names(opened(kind, place).records("validation"))
    )


def test_mnist5k_needs_no_folder():
    source = load_source("mnist5k", shard=(1, 2))
    assert source.images == {"train": 2250, "validation": 250}
    order = names(source.records("train", 1, skip=250))
    assert len(set(order)) == 2000
    assert source.records("train").element_spec["image"] == tf.TensorSpec((28, 28, 1), tf.uint8)


def test_an_order_can_be_had_for_ever():
    """NumPy promises never to change this stream; a change here breaks every old run."""
    assert permutation(10, 2018).tolist() == [8, 4, 2, 9, 3, 7, 6, 0, 5, 1]
    assert permutation(4, None).tolist() == [0, 1, 2, 3]


def test_images_of_arrays_are_the_stored_bytes(cifar10_python, cifar10_parts):
    source = load_source("cifar10", str(cifar10_python))
    images, labels = cifar10_parts[-1]
    records = list(source.records("validation").as_numpy_iterator())
    assert (np.stack([record["image"] for record in records]) == images).all()
    assert ([record["label"] for record in records] == labels).all()
    assert source.records("train").element_spec["image"] == tf.TensorSpec((32, 32, 3), tf.uint8)


@pytest.mark.parametrize(
    "name, data_dir, options, message",
    [
        ("imagenet", None, {}, r"Unknown data source 'imagenet'; there are mnist5k, .*tfds:NAME"),
        ("cifar10", None, {}, r"'cifar10' needs a folder: set data_dir"),
        ("tfrecord", None, {}, r"'tfrecord' needs a folder"),
        ("mnist5k", "there", {}, r"'mnist5k' is embedded: leave data_dir out"),
        ("mnist5k", None, {"classes": 10}, r"'mnist5k' has no option 'classes'; it has none"),
        ("tfrecord", "x", {"colour": 1}, r"no option 'colour'; it has classes, image_key, label_"),
        ("mnist5k", None, {"shard": (2, 2)}, r"no shard 2 of 2: .*0 <= index < count"),
        ("mnist5k", None, {"shard": (-1, 2)}, r"no shard -1 of 2"),
        ("cifar10", "nowhere", {}, r"nowhere does not exist, so it has neither cifar-10-batches"),
        ("image_folder", "nowhere", {}, r"image folder nowhere does not exist"),
        ("tfrecord", "nowhere", {}, r"folder nowhere does not exist"),
        ("idx", "nowhere", {}, r"folder nowhere lacks train-images-idx3-ubyte.gz, .* of The IDX"),
    ],
)
def test_a_wrong_call_is_one_sentence(name, data_dir, options, message):
    with pytest.raises(ValueError, match=message):
        load_source(name, data_dir, **options)


def test_a_wrong_split_and_a_wrong_seed(place):
    source = opened("cifar10", place)
    with pytest.raises(ValueError, match=r"no split 'test'; they have train, validation"):
        source.records("test")
    with pytest.raises(ValueError, match=r"seed -1 .* is negative"):
        source.records("train", -1)


def test_idx_labels_have_to_be_within_the_classes(idx_folder):
    with pytest.raises(ValueError, match=r"has a label 9, but 9 classes, counted from 0"):
        load_source("idx", str(idx_folder), classes=9)


def test_every_kind_is_tested_here():
    assert {*KINDS, "mnist5k", "fashion_mnist", "tfds:NAME"} == set(NAMES)
