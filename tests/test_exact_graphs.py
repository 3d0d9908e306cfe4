"""The claim of the product for branches, joins and stand-alone ops: 0 mismatches, every runtime.

Each case is a small network around one op of the larger architectures: concatenations on a common
grid, batch normalizations without a convolution, grouped and dilated convolutions, even windows,
several inputs and outputs, nested models, shared layers.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import faq_keras
from faq_keras.layers import QuantizedAffine
from tests import networks

layers = keras.layers
WIDTHS = [(8, 8), (4, 4), (4, 8), (2, 4)]
RUNTIMES = ("xnnpack", "builtin", "reference", "tflm")


def image(shape=(9, 9, 3)):
    return keras.Input(shape, name="image")


def head(x, classes=5):
    return layers.Dense(classes)(layers.GlobalAveragePooling2D()(x))


def bn_relu(x, relu=True):
    x = layers.BatchNormalization()(x)
    return layers.ReLU()(x) if relu else x


def inception():
    """Branches of all kinds, an average-pool branch, a max-pool branch that keeps the grid."""
    inputs = image()
    x = networks.conv_bn_relu(inputs, 6)
    pooled = layers.AveragePooling2D(3, 1, "valid")(layers.ZeroPadding2D(1)(x))
    x = layers.Concatenate()(
        [
            networks.conv_bn_relu(x, 4, 1),
            networks.conv_bn_relu(networks.conv_bn_relu(x, 3, (1, 7)), 5, (7, 1)),
            networks.conv_bn_relu(pooled, 3, 1),
        ]
    )
    y = networks.conv_bn_relu(x, 4, 3, strides=2)
    x = layers.Concatenate()([y, layers.MaxPooling2D(3, 2, "same")(x)])
    return keras.Model(inputs, head(x))


def densenet():
    """Linear features after pooled ReLUs: the pool is requantized, everything shares one grid."""
    inputs = image((12, 12, 3))
    features = [layers.MaxPooling2D(2)(networks.conv_bn_relu(inputs, 6))]
    for _ in range(3):
        x = layers.Concatenate()(features) if len(features) > 1 else features[0]
        x = networks.conv_bn_relu(bn_relu(x), 8, 1)
        features.append(layers.Conv2D(4, 3, padding="same", use_bias=False)(x))
    x = bn_relu(layers.Concatenate()(features))
    x = layers.AveragePooling2D(2)(layers.Conv2D(6, 1, use_bias=False)(x))
    x = layers.Concatenate()([x, layers.Conv2D(4, 3, padding="same")(bn_relu(x))])
    return keras.Model(inputs, head(bn_relu(x)))


def preactivation():
    inputs = image()
    x = layers.Conv2D(6, 3, padding="same")(inputs)
    for _ in range(2):
        y = networks.conv_bn_relu(bn_relu(x), 6)
        x = layers.Add()([layers.Conv2D(6, 3, padding="same")(y), x])
    return keras.Model(inputs, head(bn_relu(x)))


def grouped(groups, filters=12, batch_norm=True, relu=True, **options):
    def build():
        inputs = image()
        x = networks.conv_bn_relu(inputs, 12)
        x = layers.Conv2D(filters, 3, padding="same", groups=groups, **options)(x)
        x = layers.BatchNormalization()(x) if batch_norm else x
        return keras.Model(inputs, head(layers.ReLU(6.0)(x) if relu else x))

    return build


def lone_bn_linear():
    inputs = image()
    x = layers.BatchNormalization()(layers.MaxPooling2D(2)(networks.conv_bn_relu(inputs, 6)))
    return keras.Model(inputs, head(networks.conv_bn_relu(x, 5)))


def lone_relu():
    inputs = image()
    x = layers.Conv2D(6, 3, padding="same")(inputs)
    x = layers.Add()([layers.ReLU(6.0)(x), x])
    return keras.Model(inputs, head(layers.ReLU()(layers.MaxPooling2D(2)(x))))


def dense_bn():
    inputs = image()
    x = layers.Flatten()(layers.MaxPooling2D(3)(networks.conv_bn_relu(inputs, 6)))
    x = bn_relu(layers.Dense(20, use_bias=False)(x))
    x = layers.BatchNormalization()(layers.Dense(10, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(4)(x))


def input_bn():
    inputs = image()
    return keras.Model(inputs, head(networks.conv_bn_relu(layers.BatchNormalization()(inputs), 6)))


def concat_of_input():
    inputs = image()
    x = layers.Concatenate()([inputs, networks.conv_bn_relu(inputs, 4)])
    return keras.Model(inputs, head(networks.conv_bn_relu(x, 6)))


def concat_of_vectors():
    inputs = image()
    x = networks.conv_bn_relu(inputs, 6)
    a, b = layers.GlobalAveragePooling2D()(x), layers.Flatten()(layers.MaxPooling2D(4)(x))
    return keras.Model(inputs, layers.Dense(4)(layers.Concatenate()([a, layers.Dense(8)(b)])))


def concat_of_pooled():
    """Vectors without a sign, one of them a mean; behind them a layer that is not the last."""
    inputs = image()
    x = layers.GlobalAveragePooling2D()(networks.conv_bn_relu(inputs, 6))
    y = layers.Dense(5, activation="relu", name="wide")(layers.Flatten()(inputs))
    x = layers.Dense(6, activation="relu")(layers.Concatenate()([x, y]))
    return keras.Model(inputs, layers.Dense(4)(x))


def concat_of_pooled_input():
    """Whether the mean of the input has a sign, only the data tell."""
    inputs = image()
    positive = layers.Rescaling(0.1, offset=2.0)(inputs)
    x = layers.GlobalAveragePooling2D()(positive)
    y = layers.Dense(5)(layers.Flatten()(networks.conv_bn_relu(positive, 4)))
    return keras.Model(inputs, layers.Dense(4)(layers.Concatenate()([x, y])))


def concat_of_concats():
    inputs = image()
    x = networks.conv_bn_relu(inputs, 6)
    a = layers.Concatenate()([networks.conv_bn_relu(x, 3), networks.conv_bn_relu(x, 2)])
    b = layers.Concatenate()([networks.conv_bn_relu(x, 3, relu=False), x])
    y = networks.conv_bn_relu(a, 4)
    return keras.Model(inputs, head(networks.conv_bn_relu(layers.Concatenate()([a, b, y]), 4)))


def concat_of_many():
    """More than one kernel joins, with and without a list that an earlier one has joined."""
    inputs = image()
    x = networks.conv_bn_relu(inputs, 4)
    parts = [networks.conv_bn_relu(x, n, 1) for n in range(1, 13)]
    y = networks.conv_bn_relu(layers.Concatenate()(parts), 4, 1)
    return keras.Model(inputs, head(layers.Concatenate()([*parts, y, x])))


def concat_at_the_end():
    inputs = image()
    x = networks.conv_bn_relu(inputs, 6)
    maps = [layers.Flatten()(layers.Conv2D(n, 3, strides=3)(x)) for n in (2, 4)]
    return keras.Model(inputs, layers.Concatenate()(maps))


def two_outputs():
    inputs = image()
    x = networks.conv_bn_relu(inputs, 6)
    return keras.Model(inputs, {"a": head(x), "b": layers.Softmax()(head(x, 3))})


def two_inputs():
    """The inputs' order is not that in which the network reads them."""
    left, right = keras.Input((9, 9, 3), name="left"), keras.Input((9, 9, 1), name="right")
    x = networks.conv_bn_relu(layers.Rescaling(0.5)(left), 6)
    y = networks.conv_bn_relu(networks.conv_bn_relu(right, 4), 6, relu=False)
    return keras.Model([right, left], head(layers.ReLU()(layers.Add()([x, y]))))


def nested():
    backbone = inception()
    backbone = keras.Model(backbone.inputs, backbone.layers[-3].output, name="backbone")
    inputs = keras.Input((9, 9, 3), name="photo")
    return keras.Model(inputs, head(bn_relu(backbone(inputs))))


def dilated():
    """Dilated convolutions of both kinds, and PyTorch's padding before a strided one."""
    inputs = image()
    x = networks.conv_bn_relu(inputs, 9)
    x = bn_relu(layers.Conv2D(10, 3, padding="same", dilation_rate=2, use_bias=False)(x))
    x = bn_relu(layers.DepthwiseConv2D(3, dilation_rate=(2, 1), use_bias=False)(x))
    x = layers.Conv2D(6, 3, strides=2, use_bias=False)(layers.ZeroPadding2D(1)(x))
    return keras.Model(inputs, head(bn_relu(x)))


def even_windows():
    """Means of 4, 6 and 8 values, whose halves are frequent, with and without a sign."""
    inputs = image((12, 12, 3))
    x = networks.conv_bn_relu(inputs, 6)
    parts = [
        layers.AveragePooling2D(2)(x),
        layers.AveragePooling2D((4, 2), 2, "same")(x),
        layers.MaxPooling2D(2)(x),
    ]
    x = networks.conv_bn_relu(layers.Concatenate()(parts), 6, relu=False)
    return keras.Model(inputs, head(layers.AveragePooling2D((2, 3))(x)))


def shared_without_weights():
    """One ReLU and one pool, called twice each: every call has a step of its own."""
    inputs = image()
    relu, pool = layers.ReLU(), layers.MaxPooling2D(2, padding="same")
    x = pool(relu(layers.Conv2D(6, 3, padding="same")(inputs)))
    y = pool(relu(layers.BatchNormalization()(layers.Conv2D(6, 3, padding="same")(x))))
    return keras.Model(inputs, head(y))


def option_a():
    """A shortcut without parameters: every second pixel, zeros for the new channels."""
    inputs = image((8, 8, 3))
    x = networks.conv_bn_relu(inputs, 4)
    y = networks.conv_bn_relu(networks.conv_bn_relu(x, 8, strides=2), 8, relu=False)
    rows = layers.Reshape((16, 4, 1))(layers.MaxPooling2D(1, 2)(x))
    x = layers.Reshape((4, 4, 8))(layers.ZeroPadding2D(((0, 0), (2, 2)))(rows))
    return keras.Model(inputs, head(layers.ReLU()(layers.Add()([x, y]))))


CASES = {
    "inception": inception,
    "densenet": densenet,
    "preactivation": preactivation,
    "grouped_2": grouped(2),
    "grouped_3_linear_bias": grouped(3, 15, batch_norm=False, relu=False),
    "grouped_4_stride_2": grouped(4, strides=2),
    "grouped_12": grouped(12, use_bias=False),
    "grouped_dilated": grouped(2, dilation_rate=2),
    "lone_bn_linear": lone_bn_linear,
    "lone_relu": lone_relu,
    "dense_bn": dense_bn,
    "input_bn": input_bn,
    "concat_of_input": concat_of_input,
    "concat_of_vectors": concat_of_vectors,
    "concat_of_pooled": concat_of_pooled,
    "concat_of_pooled_input": concat_of_pooled_input,
    "concat_of_concats": concat_of_concats,
    "concat_of_many": concat_of_many,
    "concat_at_the_end": concat_at_the_end,
    "two_outputs": two_outputs,
    "two_inputs": two_inputs,
    "nested": nested,
    "dilated": dilated,
    "even_windows": even_windows,
    "shared_without_weights": shared_without_weights,
    "option_a": option_a,
}


def network(name):
    """A network and inputs for it: an array, or a list of them."""
    model = networks.randomize(CASES[name]())
    x = [networks.images(40, tensor.shape[1:], seed=i) for i, tensor in enumerate(model.inputs)]
    return model, x[0] if len(x) == 1 else x


def quantized(name, bits):
    model, x = network(name)
    return faq_keras.apply(model, bits, calibration_data=x), x


def two_widths_each():
    """Widths alternate over the cases; all of them together see every width with every kind."""
    for index, name in enumerate(CASES):
        for bits in (WIDTHS[index % 4], WIDTHS[(index + 1 + index // 4 % 3) % 4]):
            yield pytest.param(name, bits, id=f"{name}-W{bits[0]}A{bits[1]}")


@pytest.mark.parametrize("name, bits", two_widths_each())
def test_network_equals_its_file_on_every_runtime(name, bits, tmp_path):
    q, x = quantized(name, bits)
    path = tmp_path / "m.tflite"
    report = faq_keras.export_tflite(q, path, "int4")
    print(f"{name} W{bits[0]}A{bits[1]}: {report}")
    assert report.mismatches == 0 and report.values > 0
    report = faq_keras.verify(q, path, x, RUNTIMES)
    assert [run.runtime for run in report.runs] == list(RUNTIMES)
    assert report.mismatches == 0, report


@pytest.mark.parametrize("name", CASES)
def test_float_model_comes_back(name):
    model, x = network(name)
    f = faq_keras.to_float(faq_keras.apply(model, 4, calibration_data=x))
    for got, want in zip(keras.tree.flatten(f(x)), keras.tree.flatten(model(x)), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("name", ["densenet", "grouped_4_stride_2", "lone_relu", "dense_bn"])
def test_exactness_survives_training_and_reloading(name, tmp_path):
    q, x = quantized(name, 4)
    y = np.arange(len(x)) % q.output_shape[-1]
    before = [np.array(v) for v in q.trainable_variables]
    faq_keras.fine_tune(
        q, (x, y), faq_keras.recipe("w4a4", epochs=2, learning_rate=0.05), verbose=0
    )
    moved = [not np.array_equal(a, b) for a, b in zip(before, q.trainable_variables, strict=True)]
    assert all(moved), [v.path for v, m in zip(q.trainable_variables, moved, strict=True) if not m]
    q.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert np.array_equal(loaded.predict(x, verbose=0), q.predict(x, verbose=0))
    assert faq_keras.export_tflite(loaded, tmp_path / "m.tflite", verify=x).mismatches == 0


@pytest.mark.parametrize("form", ["list", "dictionary", "dataset", "pairs"])
def test_several_inputs_in_every_form(form, tmp_path):
    model, (right, left) = network("two_inputs")
    named = {"left": left, "right": right}
    dataset = tf.data.Dataset.from_tensor_slices((named, np.zeros(40))).batch(8)
    pairs = [((right[i : i + 8], left[i : i + 8]), None) for i in range(0, 40, 8)]
    data = {"list": [right, left], "dictionary": named, "dataset": dataset, "pairs": pairs}[form]
    q = faq_keras.apply(model, 8, calibration_data=data)
    expected = faq_keras.apply(model, 8, calibration_data=[right, left])
    assert faq_keras.plan_of(q).layers == faq_keras.plan_of(expected).layers
    path = tmp_path / "m.tflite"
    report = faq_keras.export_tflite(q, path, verify=data)
    assert report.mismatches == 0 and report.runs[0].images == 40
    logits = faq_keras.tflite.load(path)(named)
    assert np.array_equal(logits, q.predict([right, left], verbose=0))


def test_an_array_for_several_inputs_is_refused():
    model, (right, _) = network("two_inputs")
    with pytest.raises(ValueError, match=r"has one array per batch; .* inputs right, left"):
        faq_keras.apply(model, 8, calibration_data=right)
    with pytest.raises(ValueError, match="has the inputs right; the model has right, left"):
        faq_keras.apply(model, 8, calibration_data={"right": right})


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", ["inception", "densenet", "grouped_4_stride_2", "dense_bn"])
def test_onnx_file_equals_its_network(name, bits, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs the extra [torch]")
    q, x = quantized(name, bits)
    report = faq_keras.export_onnx(q, tmp_path / "m.onnx", verify=x)
    print(f"{name} {bits} bits: {report}")
    assert report.mismatches == 0 and report.values > 0


def test_channels_without_a_multiplier_are_constants_on_a_coarse_step(tmp_path):
    """Their bias would fill the accumulator in the finest step."""
    model, x = network("preactivation")
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.gamma.assign(np.where(np.arange(layer.gamma.shape[0]) % 2, layer.gamma, 0.0))
    q = faq_keras.apply(model, 8, calibration_data=x)
    for layer in q.layers:
        if isinstance(layer, QuantizedAffine):
            steps = np.array(layer.fold().multiplier)
            assert set(steps[::2]) == {2.0**layer.plan.multiplier.exponent}
    assert faq_keras.export_tflite(q, tmp_path / "m.tflite", verify=x).mismatches == 0


def test_a_concatenation_has_the_most_bits_of_its_inputs(tmp_path):
    """A pooled tensor has no ReLU of its own, but its width has to follow as well."""
    model, x = network("concat_of_pooled")
    policy = faq_keras.Policy(overrides={"wide": 8})
    q = faq_keras.apply(model, 4, calibration_data=x, policy=policy)
    plan = faq_keras.plan_of(q)
    joined = next(layer for layer in plan.layers if layer.kind == "concat")
    assert {plan[name].output.bits for name in joined.inputs} == {joined.output.bits} == {8}
    assert faq_keras.export_tflite(q, tmp_path / "m.tflite", verify=x).mismatches == 0
