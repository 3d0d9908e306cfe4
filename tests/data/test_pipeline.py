"""Epochs that can be repeated from any batch on."""

import numpy as np
import pytest

from tests.training import runs


def batches(dataset):
    return [(np.array(x), np.array(y)) for x, y in dataset]


def same(one, other):
    return len(one) == len(other) and all(
        np.array_equal(a, b) and np.array_equal(c, d)
        for (a, c), (b, d) in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("skip", [0, 3, 9, 10])
def test_an_epoch_goes_on_from_any_batch(skip):
    whole = batches(runs.pipeline().train(4))
    assert len(whole) == runs.pipeline().steps_per_epoch == 10
    assert same(batches(runs.pipeline().train(4, skip)), whole[skip:])


def test_epochs_and_seeds_have_orders_and_augmentations_of_their_own():
    first = batches(runs.pipeline().train(0))
    assert not same(first, batches(runs.pipeline().train(1)))
    assert not same(first, batches(runs.pipeline(seed=4).train(0)))
    labels = np.concatenate([y for _, y in first])
    again = np.concatenate([y for _, y in batches(runs.pipeline().train(1))])
    assert not np.array_equal(labels, again)
    assert np.array_equal(np.sort(labels), np.sort(again))


def test_training_batches_are_full_and_the_validation_is_complete():
    data = runs.pipeline(batch_size=16, source=runs.striped_source(train=100, validation=30))
    assert data.steps_per_epoch == 6
    train = batches(data.train(0))
    assert [len(x) for x, _ in train] == [16] * 6
    x, y = runs.striped_images(30, seed=1)
    validation = batches(data.validation())
    assert [len(x) for x, _ in validation] == [16, 14]
    assert np.array_equal(np.concatenate([v for v, _ in validation]), x.astype(np.float32))
    assert np.array_equal(np.concatenate([labels for _, labels in validation]), y)
    assert int(data.train(0, 2).cardinality()) == 4
    assert int(data.validation().cardinality()) == 2


def test_calibration_takes_training_images_as_they_are():
    data = runs.pipeline()
    found = list(data.calibration(3))
    assert [x.shape for x in found] == [(10, 8, 8, 1)] * 3
    stored = {image.tobytes() for image in runs.striped_images(100)[0].astype(np.float32)}
    assert {image.tobytes() for batch in found for image in batch} <= stored
    again = list(runs.pipeline().calibration(3))
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))


def test_one_hot_labels():
    labels = batches(runs.pipeline(one_hot=True).validation())[0][1]
    expected = batches(runs.pipeline().validation())[0][1]
    assert labels.shape == (10, runs.CLASSES)
    assert np.array_equal(labels.argmax(1), expected)
    assert np.array_equal(labels.sum(1), np.ones(10))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 0}, "batch_size has to be at least 1"),
        ({"batch_size": 101}, "100 training images, fewer than one batch of 101"),
        ({"source": runs.striped_source(100, 0)}, "has no validation images"),
    ],
)
def test_data_without_a_batch_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        runs.pipeline(**fields)
