"""Data sets of TensorFlow Datasets; most of it needs the library."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from faq_keras.data.preparation import prepare
from faq_keras.data.sources import load_source
from faq_keras.data.transforms import transform


def test_without_the_library_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ValueError, match=r"need that library .*pip install tensorflow-datasets"):
        load_source("tfds:imagenet2012")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folder of a small data set, prepared by the library itself: 30 and 7 images."""
    tfds = pytest.importorskip("tensorflow_datasets", reason="needs tensorflow-datasets")

    class SmallPictures(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                "label": tfds.features.ClassLabel(names=["a", "b", "c"]),
                "comment": tfds.features.Text(),
            }
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {
                "train": self._generate_examples(0, 30),
                "test": self._generate_examples(100, 7),
            }

        def _generate_examples(self, start, count):
            for number in range(start, start + count):
                image = np.full((20, 16, 3), number, np.uint8)
                yield number, {"image": image, "label": number % 3, "comment": "grey"}

    folder = tmp_path_factory.mktemp("tfds")
    SmallPictures(data_dir=str(folder)).download_and_prepare()
    return str(folder)


def test_records_are_the_encoded_images(prepared):
    source = load_source("tfds:small_pictures", prepared)
    assert source.classes == 3
    assert source.class_names == ("a", "b", "c")
    assert source.images == {"train": 30, "validation": 7}
    values = []
    for record in source.records("train", 3).as_numpy_iterator():
        pixels = np.asarray(Image.open(io.BytesIO(record["image"])))
        assert record["label"] == pixels[0, 0, 0] % 3
        values.append(pixels[0, 0, 0])
    assert sorted(values) == list(range(30))
    assert values != sorted(values)


def test_images_are_prepared_as_from_any_source(prepared):
    source = load_source("tfds:small_pictures", prepared)
    pairs = prepare(source, "validation", transform("imagenet", False, 14)).as_numpy_iterator()
    found = {(int(pixels.min()), int(pixels.max()), int(label)) for pixels, label in pairs}
    assert found == {(number, number, number % 3) for number in range(100, 107)}


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("nothing", {}, r"TensorFlow Datasets has no 'nothing'"),
        ("imagenet2012", {}, r"'imagenet2012' is not prepared: .* Run `tfds build imagenet2012`"),
        ("small_pictures", {"train_split": "all"}, r"no split 'all'; it has train, test\. Set tr"),
        ("small_pictures", {"shuffle": 1}, r"has no option 'shuffle'; it has shuffle_buffer, trai"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(prepared, name, options, message):
    with pytest.raises(ValueError, match=message):
        load_source(f"tfds:{name}", prepared, **options)
