"""Prepared images: functions of the seed and the record; broken ones are named and counted."""

import hashlib
import itertools
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from faq_keras.data.preparation import CorruptImages, prepare
from faq_keras.data.sources import load_source
from faq_keras.data.transforms import transform

AUGMENT = transform("imagenet", True, 24)
PLAIN = transform("imagenet", False, 24)


def images(source, split="train", how=AUGMENT, **options):
    """(pixels as bytes, label) of every image."""
    pairs = prepare(source, split, how, **options).as_numpy_iterator()
    return [(pixels.tobytes(), int(label)) for pixels, label in pairs]


@pytest.fixture
def source(tree):
    return load_source("image_folder", str(tree))


@pytest.fixture
def damaged(tree):
    """A tree in which two training images are broken, and their names."""
    first, second = sorted((tree / "train").rglob("*.JPEG"))[2:8:5]
    first.write_bytes(first.read_bytes()[:3000])
    second.write_bytes(b"this is no image")
    return tree, {str(path.relative_to(tree)) for path in (first, second)}


def test_images_have_the_transforms_form(source):
    dataset = prepare(source, "train", AUGMENT, seed=1)
    assert dataset.element_spec[0].shape == (24, 24, 3)
    assert dataset.element_spec[0].dtype == np.float32
    pixels, label = next(dataset.as_numpy_iterator())
    assert pixels.min() >= 0
    assert 100 < pixels.max() <= 255
    assert label.dtype == np.int64


def test_an_epoch_is_a_function_of_its_seed_alone(source):
    keras.utils.set_random_seed(1)
    first = images(source, seed=5)
    keras.utils.set_random_seed(2)
    assert images(source, seed=5) == first
    other = images(source, seed=6)
    assert not {pixels for pixels, _ in other} & {pixels for pixels, _ in first}


def test_an_epoch_is_the_same_in_another_process(tree, source):
    code = f"""
import hashlib
from faq_keras.data.preparation import prepare
from faq_keras.data.sources import load_source
from faq_keras.data.transforms import transform
source = load_source("image_folder", {str(tree)!r})
images = prepare(source, "train", transform("imagenet", True, 24), seed=5).as_numpy_iterator()
print(*[hashlib.sha256(pixels.tobytes()).hexdigest() for pixels, _ in images])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = [hashlib.sha256(pixels).hexdigest() for pixels, _ in images(source, seed=5)]
    assert run.stdout.split() == expected


@pytest.mark.parametrize("policy", ["error", "skip"])
@pytest.mark.parametrize("skip", [1, 12])
def test_resuming_gives_the_rest_of_the_epoch(source, policy, skip):
    whole = images(source, seed=5)
    rest = images(source, seed=5, skip=skip, corrupt=CorruptImages(policy))
    assert rest == whole[skip:]


@pytest.mark.parametrize("skip", [1, 9])
def test_resuming_counts_only_images_that_came(damaged, skip):
    source = load_source("image_folder", str(damaged[0]))
    whole = images(source, seed=5, corrupt=CorruptImages("skip"))
    assert images(source, seed=5, skip=skip, corrupt=CorruptImages("skip")) == whole[skip:]


def test_an_image_is_augmented_alike_whoever_takes_it(tree, source, workers=3):
    shards = [
        load_source("image_folder", str(tree), shard=(index, workers)) for index in range(workers)
    ]
    parts = itertools.chain(*(images(shard, seed=5) for shard in shards))
    assert sorted(parts) == sorted(images(source, seed=5))


def test_validation_comes_in_the_stored_order(source):
    found = [label for _, label in images(source, "validation", PLAIN)]
    assert found == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", [None, 5])
def test_corrupt_images_are_left_out_named_and_counted(damaged, caplog, seed):
    tree, names = damaged
    source = load_source("image_folder", str(tree))
    corrupt = CorruptImages("skip")
    assert len(images(source, seed=seed, corrupt=corrupt)) == 10
    assert corrupt.names == names
    assert str(corrupt) == "2 corrupt images left out"
    for name in names:
        assert f"Image {name} in {tree} is corrupt" in caplog.text
    caplog.clear()
    images(source, seed=6, corrupt=corrupt)
    assert corrupt.names == names
    assert not caplog.text, "an image is named once, not in every epoch"


def test_the_good_images_do_not_change_beside_broken_ones(tree, source, damaged):
    after = images(load_source("image_folder", str(tree)), seed=5, corrupt=CorruptImages("skip"))
    whole = load_source("image_folder", str(tree))
    names = [record["name"].decode() for record in whole.records("train", 5).as_numpy_iterator()]
    good = [number for number, name in enumerate(names) if name not in damaged[1]]
    labels = [int(r["label"]) for r in whole.records("train", 5).as_numpy_iterator()]
    assert [label for _, label in after] == [labels[number] for number in good]


def test_a_corrupt_image_ends_the_run_and_is_named(damaged):
    tree, names = damaged
    source = load_source("image_folder", str(tree))
    corrupt = CorruptImages("error")
    expected = pytest.raises(ValueError, match=r"Image train/.* is corrupt: its \d+ bytes")
    with expected as caught, corrupt.named():
        images(source, seed=5, corrupt=corrupt)
    message = str(caught.value)
    assert any(name in message for name in names)
    assert str(tree) in message
    assert "\n" not in message
    assert "corrupt=skip" in message


def test_the_error_is_readable_out_of_keras_too(damaged):
    source = load_source("image_folder", str(damaged[0]))
    corrupt = CorruptImages("error")
    batches = prepare(source, "train", AUGMENT, seed=5, corrupt=corrupt).batch(4)
    model = keras.Sequential([keras.Input((24, 24, 3)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(4))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, jit_compile=False)
    with pytest.raises(ValueError, match=r"Image train/.* is corrupt"), corrupt.named():
        model.fit(batches, verbose=0)


def test_too_many_corrupt_images_end_the_run(tree):
    for path in (tree / "train").rglob("*.JPEG"):
        path.write_bytes(b"no image")
    source = load_source("image_folder", str(tree))
    corrupt = CorruptImages("skip", limit=3)
    message = r"is corrupt: its 8 bytes .*, and so are 3 others\. Check the whole data set"
    with pytest.raises(ValueError, match=message), corrupt.named():
        images(source, corrupt=corrupt)


def test_other_errors_of_tensorflow_stay_what_they_are(source, tree):
    corrupt = CorruptImages("skip")
    next((tree / "train").rglob("*.JPEG")).unlink()
    with pytest.raises(tf.errors.NotFoundError), corrupt.named():
        images(source, corrupt=corrupt)


@pytest.mark.parametrize("name", ["none", "cifar"])
@pytest.mark.parametrize("policy", ["error", "skip"])
def test_an_image_of_another_size_is_named_whatever_the_policy(source, name, policy):
    corrupt = CorruptImages(policy)
    message = (
        rf"Image train/n\d+/0.JPEG in .* is 280 x 300 pixels, but the transform '{name}' takes "
        r"images of 24 x 24 as they are\. Use the transform 'imagenet'"
    )
    with pytest.raises(ValueError, match=message), corrupt.named():
        images(source, how=transform(name, True, 24), corrupt=corrupt)


def test_stored_pixels_of_another_size_and_of_other_channels(cifar10_python):
    source = load_source("cifar10", str(cifar10_python))
    corrupt = CorruptImages()
    message = r"Image train/0 in .* is 32 x 32 pixels, but the transform 'none' takes .* 28 x 28"
    with pytest.raises(ValueError, match=message), corrupt.named():
        images(source, how=transform("none", False, 28), corrupt=corrupt)
    with pytest.raises(ValueError, match=r"cifar10 have 3 channels, .* set channels to 3"):
        prepare(source, "train", transform("none", False, 32, channels=1))


def test_an_unknown_policy():
    with pytest.raises(ValueError, match=r"Unknown policy 'ignore' .*: use error or skip"):
        CorruptImages("ignore")
