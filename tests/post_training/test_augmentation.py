"""Batches of images in random order; flips and shifts keep to the pixels that there are."""

import numpy as np
import pytest

from faq_keras.post_training.augmentation import augmented_batches, flipped_and_shifted, is_image
from tests.networks import images


def test_batches_hold_every_image_once_per_epoch():
    x = np.arange(10, dtype=np.float32)[:, None]
    batches = list(augmented_batches([x, -x], 5, steps=4, seed=3))
    assert all(np.array_equal(a, -b) for a, b in batches)
    for epoch in (batches[:2], batches[2:]):
        assert sorted(np.concatenate([a for a, _ in epoch]).ravel()) == list(range(10))


def test_images_are_flipped_and_shifted_within_a_reflected_border():
    x = images(3, (16, 8, 3))
    still = flipped_and_shifted(x, np.zeros(3, bool), np.full((3, 2), 0.5))
    np.testing.assert_array_equal(still, x)
    flips = np.array([True, False, True])
    found = flipped_and_shifted(x, flips, np.array([[0.5, 0.5], [0.0, 0.5], [0.5, 0.99]]))
    np.testing.assert_array_equal(found[0], x[0][:, ::-1])
    np.testing.assert_array_equal(found[1], np.concatenate([x[1][2:0:-1], x[1][:-2]]))
    moved = np.concatenate([x[2][:, 1:], x[2][:, -2:-1]], axis=1)
    np.testing.assert_array_equal(found[2], moved[:, ::-1])


@pytest.mark.parametrize(
    ("shape", "image"),
    [
        ((4, 8, 8, 3), True),
        ((4, 8, 9, 1), True),
        ((4, 49, 10, 1), True),
        ((4, 7, 8, 3), False),
        ((4, 8, 8, 12), False),
        ((4, 64), False),
    ],
)
def test_only_images_are_augmented(shape, image):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert is_image(shape) == image
    (batch,) = next(augmented_batches([x], 4, steps=1, seed=0))
    in_order = next(augmented_batches([x], 4, steps=1, seed=0, augment=False))[0]
    assert np.array_equal(batch, in_order) != image
