"""The measuring harness of `benchmarks/post_training`: splits, scores, and every kind of loader."""

import keras
import numpy as np
import pytest
from post_training import figures, methods, networks, rows

import faq_keras

# One of each kind: Keras 3, tf_keras, softmax layers and activations, labels or none, embeddings.
LOADED = ["tm_cifar10", "tm_mnist_resnet", "ml_vww96", "ml_strww", "mltk_fingerprint"]


@pytest.mark.parametrize("count, parts", [(100, 2), (45, 5), (7, 2)])
def test_folds_test_every_image_once(count, parts):
    cuts = [networks.folds(count, parts, seed) for seed in range(parts)]
    for calibration, test in cuts:
        assert sorted([*calibration, *test]) == list(range(count))
    assert sorted(np.concatenate([test for _, test in cuts])) == list(range(count))
    assert not np.array_equal(cuts[0][1], networks.folds(count, parts, parts)[1])


@pytest.mark.parametrize("name", LOADED)
def test_networks_load_with_images_that_are_not_calibrated_on(data_dir, tmp_path, name):
    material = networks.load(name, networks.Files(data_dir, tmp_path), seed=1)
    split, few = material.split, networks.shortened(material.split, 5)
    assert split.images.dtype == split.calibration.dtype == np.float32
    assert split.images.shape[1:] == material.model.input_shape[1:]
    used = {image.tobytes() for image in split.calibration}
    assert not any(image.tobytes() in used for image in split.images)
    assert split.labels is None or len(split.labels) == len(split.images) == len(split.ids)
    answers = figures.float_answers(material.model, few.images, name, tmp_path)
    assert answers.shape == (5, material.model.output_shape[-1])
    assert np.array_equal(answers, figures.answers(material.model, few.images))


def test_what_is_listed_as_refused_is_refused(data_dir, tmp_path):
    files = networks.Files(data_dir, tmp_path)
    with pytest.raises(ValueError, match=r"stw_har.*Conv1D"):
        networks.load("stw_har", files, 0)
    model = keras.models.load_model(data_dir / "real-models" / "stw_har.h5", compile=False)
    with pytest.raises(ValueError, match="Conv1D"):
        faq_keras.apply(model, 8, np.zeros((4, *model.input_shape[1:]), np.float32))


def test_an_unknown_network_or_folder_is_named(data_dir, tmp_path):
    with pytest.raises(ValueError, match="no network 'resnet21'"):
        networks.load("resnet21", networks.Files(data_dir, tmp_path), 0)
    with pytest.raises(ValueError, match="no folder real-models"):
        networks.Files(tmp_path, tmp_path)


def test_differences_are_paired():
    labels = np.array([0, 1, 2, 0])
    floats = np.eye(3, dtype=np.float32)[[0, 1, 0, 0]]
    quantized = np.eye(3, dtype=np.float32)[[0, 0, 2, 0]]
    score = figures.score(floats, quantized, labels)
    assert (score.float_top1, score.top1, score.agreement) == (75, 75, 50)
    assert score.change.tolist() == [0, -1, 1, 0] and score.difference == 0
    assert score.error == pytest.approx(100 * np.sqrt(0.5) / 2)
    assert figures.score(floats, floats, None).sqnr == np.inf
    with pytest.raises(ValueError, match="quantized network gives NaN"):
        figures.score(floats, np.full_like(quantized, np.nan), labels)


def test_signal_to_noise_does_not_see_what_no_prediction_depends_on():
    floats = np.random.default_rng(0).normal(size=(20, 10)).astype(np.float32)
    assert figures.signal_to_noise(floats, floats + 4) > 100
    noise = np.tile(np.float32([0.1, -0.1]), (20, 5))
    power = np.sum((floats - floats.mean(-1, keepdims=True)) ** 2)
    assert figures.signal_to_noise(floats, floats + noise) == pytest.approx(
        10 * np.log10(power / 2), abs=0.01
    )


@pytest.mark.parametrize("separate", [True, False])
def test_logits_are_read_before_the_softmax(separate):
    layers = keras.layers
    last = [layers.Dense(4), layers.Softmax()] if separate else [layers.Dense(4, "softmax")]
    if separate:
        last[1] = layers.Activation("softmax")
    model = keras.Sequential([layers.Input((3,)), *last])
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    kernel, bias = model.get_weights()
    assert np.allclose(figures.answers(model, x), x @ kernel + bias, atol=1e-6)
    assert np.allclose(model.predict(x, verbose=0).sum(-1), 1)


def test_seeds_are_summed_image_by_image():
    def row(seed, ids, change, difference):
        same = {"seconds": {"apply": 1.0}, "peak_mb": {"apply": 2.0}, "bytes": 3}
        same |= {"float_top1": 50.0, "top1": 50.0 + difference, "agreement": 90.0, "sqnr_db": 20.0}
        same |= {"test_images": len(ids), "difference": difference}
        return same | {"seed": seed, "ids": ids, "change": change}

    halves = [row(0, [0, 1], [1, 0], 50.0), row(1, [2, 3, 4, 5], [0, -1, 0, 0], -25.0)]
    total = rows.summed(halves)
    assert total["test_images"] == 6 and total["seed"] == "0,1"
    assert total["difference"] == pytest.approx(0)
    assert total["error"] == pytest.approx(100 * np.std([1, 0, 0, -1, 0, 0]) / np.sqrt(6))
    again = rows.summed([row(0, [0, 1], [1, 0], 50.0), row(1, [0, 1], [-1, 0], -50.0)])
    assert again["test_images"] == 2 and again["error"] == 0


@pytest.mark.parametrize(
    "text, bits, title", [("8", (8, 8), "W8A8"), ("4x8", (4, 8), "W4A8"), ("W2A4", (2, 4), "W2A4")]
)
def test_bits_on_the_command_line(text, bits, title):
    assert methods.parse_bits(text) == bits and methods.title(bits) == title


@pytest.mark.parametrize("text", ["", "x8", "4x4x4", "four"])
def test_other_bits_are_refused(text):
    with pytest.raises(ValueError, match="--bits"):
        methods.parse_bits(text)


def test_a_row_has_the_figures_of_every_method_and_a_proof(data_dir, tmp_path):
    order = rows.Order(
        "ml_strww", (8, 8), ("paper", "fitted"), 0, networks.Files(data_dir, tmp_path),
        runtimes=("xnnpack",), verify_images=2,
    )  # fmt: skip
    paper, fitted = rows.rows_of(order)
    assert [paper["method"], fitted["method"]] == ["paper", "fitted"]
    assert paper["calibration_images"] == {"apply": 36} and paper["test_images"] == 9
    assert fitted["sqnr_db"] > paper["sqnr_db"] > 20
    for found in (paper, fitted):
        assert found["mismatches"] == {"xnnpack": 0} and found["values"]["xnnpack"] > 10_000
        assert found["bytes"] > 40_000 and found["seconds"]["apply"] > 0


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match="no method 'adaround'"):
        methods.check(["fitted", "adaround"])
