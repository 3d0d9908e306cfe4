"""`reconstruct` on whole networks: what it mends, what it refuses, what it leaves alone."""

import importlib.util
import json
import pathlib
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import faq_keras
from faq_keras.post_training.result import Reconstruction
from faq_keras.rewrite.bridge import to_tf_keras
from tests import networks
from tests.post_training import nets

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "custom_layer.py"


def quantized(build=nets.residual, bits=4, count=100, **kwargs):
    model = build()
    x = nets.images(model, count)
    return faq_keras.apply(model, bits, calibration_data=x, **kwargs), x, model


def noise(q, model, x):
    """Of the first output, relative."""
    exact, found = (keras.tree.flatten(m.predict(x, verbose=0))[0] for m in (model, q))
    return float(np.sum((exact - found) ** 2) / np.sum(exact**2))


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("build", nets.ALL, ids=lambda build: build.__name__)
def test_the_network_comes_nearer_to_the_float_one_and_its_file_is_exact(build, tmp_path):
    q, x, model = quantized(build)
    other = nets.images(model, 64, seed=100)
    before = noise(q, model, other)
    r = faq_keras.reconstruct(q, x)
    assert noise(q, model, other) < before
    assert any(layer.rounded for layer in r.layers) and any(layer.means for layer in r.layers)
    assert all(o.sqnr_after > o.sqnr_before for o in r.outputs)
    report = faq_keras.export_tflite(q, tmp_path / "m.tflite", weights="int4", verify=other)
    assert report.mismatches == 0 and report.values > 0


def test_the_papers_scales_are_reconstructed_as_well(tmp_path):
    q, x, model = quantized(policy=faq_keras.Policy(scales="paper"))
    before = noise(q, model, x)
    r = faq_keras.reconstruct(q, x)
    assert noise(q, model, x) < before and any(layer.rounded for layer in r.layers)
    report = faq_keras.export_tflite(q, tmp_path / "m.tflite", weights="int4", verify=x)
    assert report.mismatches == 0


def test_a_saved_model_is_the_same_after_loading(tmp_path):
    q, x, _ = quantized(nets.no_batch_norm, count=64)
    faq_keras.reconstruct(q, x)
    q.save(tmp_path / "q.keras")
    again = keras.saving.load_model(tmp_path / "q.keras")
    assert np.array_equal(*(m.predict(x, verbose=0) for m in (q, again)))


@pytest.mark.parametrize("build", nets.ALL, ids=lambda build: build.__name__)
def test_both_kerases_get_the_same_weights(build):
    q, x, _ = quantized(build, count=64)
    twin = to_tf_keras(q)
    a, b = (faq_keras.reconstruct(model, x) for model in (q, twin))
    assert equal(q.get_weights(), twin.get_weights())
    assert [(p.noise_after, p.skipped) for p in a.layers] == [
        (p.noise_after, p.skipped) for p in b.layers
    ]


def test_a_custom_layer_is_walked_through():
    spec = importlib.util.spec_from_file_location("custom_layer", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)

    def build():
        inputs = keras.Input((8, 8, 3), name="image")
        x = networks.conv_bn_relu(inputs, 6)
        x = example.DropPath(0.5, name="drop")(example.LayerScale(name="scale")(x))
        x = networks.conv_bn_relu(x, 8)
        x = keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(x))
        return networks.randomize(keras.Model(inputs, x))

    q, x, model = quantized(build)
    scale = np.array(q.get_layer("scale").float_layers[0].scale)
    before = noise(q, model, x)
    r = faq_keras.reconstruct(q, x)
    assert noise(q, model, x) < before
    assert r["scale"].kind == "custom:example>LayerScale" and r["scale"].done == "-"
    assert np.array_equal(q.get_layer("scale").float_layers[0].scale, scale)


@pytest.mark.parametrize(("rounding", "means"), [(True, False), (False, True)])
def test_either_part_alone(rounding, means):
    q, x, _ = quantized()
    before = {v.path: np.array(v) for v in q.weights}
    r = faq_keras.reconstruct(q, x, rounding=rounding, means=means)
    changed = {v.path.split("/")[-1] for v in q.weights if not np.array_equal(v, before[v.path])}
    assert any(layer.rounded for layer in r.layers) == rounding
    assert any(layer.means for layer in r.layers) == means
    assert changed <= ({"kernel"} if rounding else {"moving_mean", "bias"})
    assert r.outputs[0].sqnr_after > r.outputs[0].sqnr_before


def test_kernels_of_eight_bits_are_not_rounded_and_the_step_stays():
    q, x, _ = quantized()
    steps = {la.name: int(la.fold().kernel_exponent) for la in q.layers if hasattr(la, "kernel")}
    kernels = {la.name: np.array(la.kernel) for la in q.layers if hasattr(la, "kernel")}
    r = faq_keras.reconstruct(q, x)
    for name, step in steps.items():
        layer = q.get_layer(name)
        assert int(layer.fold().kernel_exponent) == step
        assert r[name].rounded == (r[name].bits < 8)
        assert np.array_equal(layer.kernel, kernels[name]) == (r[name].bits == 8)


def test_a_kernel_whose_step_would_change_is_left_alone_and_said(monkeypatch):
    from faq_keras.post_training import correction

    monkeypatch.setattr(correction, "_has_codes", lambda *_: False)
    q, x, _ = quantized()
    kernels = [np.array(la.kernel) for la in q.layers if hasattr(la, "kernel")]
    r = faq_keras.reconstruct(q, x)
    assert not any(layer.rounded for layer in r.layers)
    assert equal(kernels, [la.kernel for la in q.layers if hasattr(la, "kernel")])
    assert str(r).count("rounding: the kernel's step would change") == sum(
        (layer.bits or 8) < 8 for layer in r.layers
    )


def test_weights_within_their_codes_keep_a_step_that_the_codes_alone_would_not():
    """A rule at the edge: the spread of the codes gives another power of two."""
    from faq_keras.post_training.correction import _within_cells

    rng = np.random.default_rng(0)
    weights = rng.normal(0, 3, (9, 8))
    codes = np.clip(np.rint(weights + rng.normal(0, 0.6, weights.shape)), -7, 7)
    inside = _within_cells(weights, codes, 7)
    np.testing.assert_array_equal(np.clip(np.rint(inside), -7, 7), codes)
    assert abs(inside.std() - weights.std()) < abs(codes.std() - weights.std())


def test_the_same_call_gives_the_same_bits_and_no_seed_matters():
    q, x, _ = quantized()
    start = q.get_weights()
    faq_keras.reconstruct(q, x)
    first = q.get_weights()
    q.set_weights(start)
    keras.utils.set_random_seed(5)
    faq_keras.reconstruct(q, tf.data.Dataset.from_tensor_slices(x).batch(48))
    assert equal(first, q.get_weights()) and not equal(first, start)


def test_iterables_of_batches_with_labels_are_taken():
    q, x, _ = quantized(count=64)
    r = faq_keras.reconstruct(q, [(x[:40], np.zeros(40)), (x[40:], np.zeros(24))])
    assert r.images == 64 and not r.more_images


def test_of_more_images_the_first_512_are_used_even_if_they_never_end():
    q, x, _ = quantized(count=200)
    endless = tf.data.Dataset.from_tensor_slices(x).repeat().batch(100)
    r = faq_keras.reconstruct(q, endless, rounding=False, batch_size=128)
    assert (r.images, r.more_images) == (512, True) and "the first 512 images" in str(r)


def test_too_few_images_are_refused_by_their_number_and_few_are_warned_about():
    q, x, _ = quantized(count=64)
    before = q.get_weights()
    with pytest.raises(ValueError, match=r"31 images; it needs at least 32, better 64 to 512"):
        faq_keras.reconstruct(q, x[:31])
    assert equal(before, q.get_weights())
    with pytest.warns(UserWarning, match="63 images only"):
        faq_keras.reconstruct(q, x[:63])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        faq_keras.reconstruct(q, x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: np.where(x > x.mean(), np.nan, x), "contains NaN or infinite"),
        (lambda x: x[:, :4], r"takes \(None, 8, 8, 3\)"),
        (lambda x: x[:0], "empty"),
        (lambda x: (x, np.zeros(len(x))), "tuple of arrays"),
    ],
    ids=["nan", "shape", "empty", "labels"],
)
def test_images_that_do_not_fit_are_refused(change, message):
    q, x, _ = quantized(count=64)
    before = q.get_weights()
    with pytest.raises(ValueError, match=message):
        faq_keras.reconstruct(q, change(x))
    assert equal(before, q.get_weights())


def test_what_is_not_quantized_and_what_asks_for_nothing_is_refused():
    q, x, model = quantized(count=64)
    with pytest.raises(ValueError, match="carries no quantization plan"):
        faq_keras.reconstruct(model, x)
    with pytest.raises(ValueError, match="nothing to do"):
        faq_keras.reconstruct(q, x, rounding=False, means=False)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        faq_keras.reconstruct(q, x, batch_size=0)


def test_weights_that_are_not_finite_are_named():
    q, x, _ = quantized(count=64)
    q.get_layer("conv2d_1").batch_norm_layer.gamma.assign(np.full(8, np.nan, np.float32))
    with pytest.raises(ValueError, match="'conv2d_1' gives NaN or infinite values in the float"):
        faq_keras.reconstruct(q, x)


def test_a_fine_tuned_network_is_its_own_teacher():
    q, x, _ = quantized(count=64)
    y = np.arange(64) % 5
    faq_keras.fine_tune(q, (x, y), faq_keras.recipe("w4a4", epochs=1), verbose=0)
    r = faq_keras.reconstruct(q, x)
    assert r.teacher == "the float network of q, fine-tuned by recipe w4a4"


def test_the_report_reads_as_a_table_and_comes_back_from_json():
    q, x, _ = quantized(count=64)
    r = faq_keras.reconstruct(q, x)
    assert isinstance(r, faq_keras.Reconstruction)
    assert Reconstruction.from_json(r.to_json()) == r
    assert json.loads(r.to_json())["images"] == 64
    lines = str(r).splitlines()
    assert len(lines) == 2 + len(r.layers) + len(r.outputs)
    assert lines[0].startswith("Reconstructed on 64 images in ")
    assert [layer.name for layer in r.layers] == [p.name for p in faq_keras.plan_of(q).layers]
    assert "agreement" in lines[-1] and "->" in lines[-1]


def test_the_plan_says_what_was_done_and_how_the_outputs_agree():
    q, x, model = quantized(nets.concatenated)
    before = faq_keras.plan_of(q)
    r = faq_keras.reconstruct(q, x)
    plan = faq_keras.plan_of(q)
    assert plan.layers == before.layers and before.settings.post_training is None
    assert plan.settings.post_training == "reconstruct"
    (agreement,) = plan.settings.agreement
    classes = [network.predict(x, verbose=0).argmax(axis=1) for network in (q, model)]
    same = np.mean(classes[0] == classes[1])
    assert agreement.top1 == r.outputs[0].agreement_after == same
    assert (agreement.output, agreement.images) == (before.settings.agreement[0].output, 100)
    (first,) = before.settings.agreement  # of the same images: the same figures
    assert first.sqnr == pytest.approx(r.outputs[0].sqnr_before, abs=0.02)
    assert first.top1 == r.outputs[0].agreement_before and first.images == 100


def test_two_outputs_are_compared_each_in_its_own_way():
    q, x, _ = quantized(nets.two_by_two)
    r = faq_keras.reconstruct(q, [x["a"], x["b"]])
    classes, heat = r.outputs
    assert (classes.name, heat.name) == ("classes", "heat")
    assert classes.agreement_after >= 0.5 and heat.agreement_after is None


@pytest.mark.parametrize("terminal", ["1", "0"])
def test_a_bar_is_shown_on_a_terminal_and_nothing_elsewhere(terminal, monkeypatch, capsys):
    from faq_keras.post_training.reconstruction import progress

    monkeypatch.setenv("TTY_COMPATIBLE", terminal)
    with progress(2) as advance:
        advance("conv1")
        advance("dense")
    shown = capsys.readouterr()
    assert ("reconstruct: dense" in shown.err and "2/2" in shown.err) == (terminal == "1")
    assert not shown.out and (terminal == "1" or not shown.err)
