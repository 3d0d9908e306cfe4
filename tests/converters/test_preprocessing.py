"""The normalisation in front of a network: one number for all channels, or one for each."""

import zipfile

import keras
import numpy as np
import pytest

from faq_keras.converters.errors import ConversionError
from faq_keras.converters.zoo import MEMBER, Preprocessing, preprocessing_of, with_preprocessing


@pytest.mark.parametrize("mean", [(3.0,), (3.0, 4.0, 5.0), (0,)])
@pytest.mark.parametrize("std", [(2.0,), (2.0, 4.0, 8.0), (np.float32(1.0),)])
def test_mean_and_std_are_repeated_each_by_itself(mean, std):
    inputs = keras.Input((2, 2, 3))
    identity = keras.Model(inputs, keras.layers.Activation("linear")(inputs))
    pixels = np.arange(12, dtype=np.float32).reshape(1, 2, 2, 3)
    preprocessing = Preprocessing(mean, std)
    result = with_preprocessing(identity, preprocessing).predict(pixels, verbose=0)
    np.testing.assert_allclose(result, preprocessing.apply(pixels), rtol=1e-6)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.0,), (0.0,), r"divides by std \(0.0,\)"),
        ((0.0,), (1.0, -1.0, 1.0), r"divides by std \(1.0, -1.0, 1.0\)"),
        ((0.0,), (), r"divides by std \(\)"),
        ((), (1.0,), r"mean \(\) has 0 numbers"),
        ((0.0, 0.0), (1.0, 1.0, 1.0), r"mean \(0.0, 0.0\) has 2 numbers for images of 3 channels"),
        ((float("nan"),), (1.0,), "needs finite numbers"),
        ((0.0,), ("1",), "needs finite numbers"),
    ],
)
def test_numbers_that_no_image_can_be_normalised_with(mean, std, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(mean, std)


def test_numbers_for_other_images():
    inputs = keras.Input((2, 2, 1))
    model = keras.Model(inputs, keras.layers.Flatten()(inputs))
    with pytest.raises(ValueError, match=r"std \(1.0, 2.0, 3.0\) has 3 numbers .* 1 channels"):
        with_preprocessing(model, Preprocessing((0.0,), (1.0, 2.0, 3.0)))


def test_a_file_with_such_numbers_is_refused(tmp_path):
    text = Preprocessing((0.0,), (1.0,)).to_json().replace("1.0", "0.0")
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr(MEMBER, text)
    with pytest.raises(ConversionError, match=r"m.keras .*divides by std \(0.0,\)"):
        preprocessing_of(tmp_path / "m.keras")
