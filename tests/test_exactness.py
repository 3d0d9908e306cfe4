"""The claim of the product, layer by layer: Keras = integer reference = XNNPACK, 0 mismatches.

Each case is a small network around one layer and geometry. It is quantized, exported as int8 and as
packed int4, and every tensor is compared on random codes that use the whole input range.
"""

import keras
import numpy as np
import pytest

import faq_keras
from tests import networks

layers = keras.layers


def image(shape=(9, 9, 3)):
    return keras.Input(shape, name="image")


def head(x, classes=5):
    return layers.Dense(classes)(layers.GlobalAveragePooling2D()(x))


def conv(size=3, strides=1, padding="same", bias=False, batch_norm=True, relu=6, **options):
    """A convolution between two others."""

    def build():
        inputs = image()
        x = networks.conv_bn_relu(inputs, 6)
        x = layers.Conv2D(7, size, strides, padding, use_bias=bias, **options)(x)
        if batch_norm:
            x = layers.BatchNormalization(**(batch_norm if isinstance(batch_norm, dict) else {}))(x)
        if relu is not None:
            x = layers.ReLU(relu or None)(x)
        return keras.Model(inputs, head(x))

    return build


def depthwise(strides=1, multiplier=1, relu=6, batch_norm=True, padding="same", dilation=1):
    def build():
        inputs = image()
        x = networks.conv_bn_relu(inputs, 4)
        x = layers.DepthwiseConv2D(
            3, strides, padding, multiplier, dilation_rate=dilation, use_bias=not batch_norm
        )(x)
        if batch_norm:
            x = layers.BatchNormalization()(x)
        if relu is not None:
            x = layers.ReLU(relu or None)(x)
        return keras.Model(inputs, head(x))

    return build


def add(first_relu=True, second_relu=True, relu=True):
    def build():
        inputs = image()
        x = networks.conv_bn_relu(inputs, 6)
        a = networks.conv_bn_relu(x, 6, relu=first_relu)
        b = networks.conv_bn_relu(x, 6, 1, relu=second_relu)
        x = layers.Add()([a, b])
        return keras.Model(inputs, head(layers.ReLU()(x) if relu else x))

    return build


def middle(*make):
    """Layers that touch no codes, or pool, between two convolutions."""

    def build():
        inputs = image((12, 12, 3))
        x = networks.conv_bn_relu(inputs, 6)
        for layer in make:
            x = layer()(x)
        return keras.Model(inputs, head(networks.conv_bn_relu(x, 6)))

    return build


def signed_middle(make):
    def build():
        inputs = image((12, 12, 3))
        x = networks.conv_bn_relu(inputs, 6, relu=False)
        return keras.Model(inputs, head(networks.conv_bn_relu(make()(x), 6)))

    return build


def dense_net():
    """VGG's end: flatten, hidden dense layers, dropout, softmax."""
    inputs = image()
    x = layers.MaxPooling2D()(networks.conv_bn_relu(inputs, 6))
    x = layers.Dropout(0.5)(layers.Dense(20, activation="relu")(layers.Flatten()(x)))
    x = layers.ReLU(6.0)(layers.Dense(16)(x))
    return keras.Model(inputs, layers.Dense(5, activation="softmax")(x))


def reshape_net():
    inputs = keras.Input((48,), name="image")
    x = networks.conv_bn_relu(layers.Reshape((4, 4, 3))(inputs), 6)
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


def preprocessed():
    inputs = image()
    x = layers.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.1, 0.2, 0.3])(
        layers.Rescaling(0.5, offset=0.25)(inputs)
    )
    return keras.Model(inputs, head(networks.conv_bn_relu(x, 6)))


def conv_head():
    """SqueezeNet's end: the last convolution, pooled, is the output."""
    inputs = image()
    x = networks.conv_bn_relu(networks.conv_bn_relu(inputs, 6), 5, 1)
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(x))


def keepdims_head():
    inputs = image()
    x = layers.GlobalAveragePooling2D(keepdims=True)(networks.conv_bn_relu(inputs, 6))
    return keras.Model(inputs, layers.Flatten()(layers.Conv2D(5, 1)(x)))


CASES = {
    "conv3x3": conv(),
    "conv1x1": conv(1),
    "conv5x3_stride_2": conv((5, 3), 2),
    "conv_stride_2_valid": conv(3, 2, "valid"),
    "conv_dilated": conv(3, padding="valid", dilation_rate=2),
    "conv_linear": conv(relu=None),
    "conv_relu6": conv(relu=6),
    "conv_relu": conv(relu=0),
    "conv_bias_no_bn": conv(bias=True, batch_norm=False),
    "conv_bias_and_bn": conv(bias=True),
    "conv_nothing": conv(batch_norm=False, relu=None),
    "conv_bn_without_scale": conv(batch_norm={"scale": False}),
    "conv_bn_without_center": conv(batch_norm={"center": False}),
    "conv_bn_bare": conv(batch_norm={"scale": False, "center": False}),
    "depthwise": depthwise(),
    "depthwise_stride_2": depthwise(2),
    "depthwise_multiplier_2": depthwise(multiplier=2),
    "depthwise_valid_linear": depthwise(relu=None, padding="valid"),
    "depthwise_bias": depthwise(batch_norm=False, relu=0),
    "depthwise_dilated": depthwise(dilation=2),
    "add_relu": add(False, False),
    "add_relu_of_codes_and_branch": add(True, False),
    "add_linear": add(False, False, relu=False),
    "add_of_relus": add(True, True),
    "max_pool": middle(lambda: layers.MaxPooling2D(2)),
    "max_pool_3_stride_2_same": middle(lambda: layers.MaxPooling2D(3, 2, "same")),
    "max_pool_signed": signed_middle(lambda: layers.MaxPooling2D(3, 2, "same")),
    "average_pool": middle(lambda: layers.AveragePooling2D(2)),
    "average_pool_3_same": middle(lambda: layers.AveragePooling2D(3, 1, "same")),
    "average_pool_signed": signed_middle(lambda: layers.AveragePooling2D(2)),
    "zero_padding": middle(lambda: layers.ZeroPadding2D(((1, 0), (2, 1)))),
    "zero_padding_signed": signed_middle(lambda: layers.ZeroPadding2D(1)),
    "dropouts": middle(lambda: layers.SpatialDropout2D(0.2), layers.Identity),
    "dense": dense_net,
    "reshape": reshape_net,
    "preprocessing": preprocessed,
    "conv_head": conv_head,
    "keepdims_head": keepdims_head,
    "resnet": networks.tiny_resnet,
}
WIDTHS = [(8, 8), (4, 4), (4, 8), (2, 4)]


def quantized(build, bits, **options):
    model = networks.randomize(build())
    x = networks.images(40, model.input_shape[1:])
    return faq_keras.apply(model, bits, calibration_data=x, **options), x


@pytest.mark.parametrize("name", CASES)
def test_network_equals_its_file(name, tmp_path):
    """Widths alternate over the cases: every layer at two of them, in both containers."""
    index = list(CASES).index(name)
    for bits in (WIDTHS[index % 4], WIDTHS[(index + 1 + index // 4 % 3) % 4]):
        q, x = quantized(CASES[name], bits)
        for weights in ("int8", "int4"):
            path = tmp_path / f"{weights}.tflite"
            report = faq_keras.export_tflite(q, path, weights)
            print(f"{name} W{bits[0]}A{bits[1]} {weights}: {report}")
            assert report.mismatches == 0
            assert report.values > 0
        report = faq_keras.verify(q, path, x)
        assert report.mismatches == 0, report


@pytest.mark.parametrize("bits", [2, 3, 5, 6, 7, (8, 2), (3, 8), (8, 4)])
def test_every_width(bits, tmp_path):
    q, x = quantized(networks.tiny_resnet, bits)
    report = faq_keras.export_tflite(q, tmp_path / "m.tflite", "int4", verify=x)
    print(report)
    assert report.mismatches == 0


@pytest.mark.parametrize("logits_bits", [8, 16])
@pytest.mark.parametrize("input_type", ["int8", "uint8", "float32"])
def test_heads_and_inputs(logits_bits, input_type, tmp_path):
    q, x = quantized(networks.tiny_resnet, 4, logits_bits=logits_bits)
    path = tmp_path / "m.tflite"
    report = faq_keras.export_tflite(q, path, verify=x, input_type=input_type)
    print(report)
    assert report.mismatches == 0
    runner = faq_keras.tflite.load(path)
    if input_type != "uint8":
        assert np.array_equal(runner(x), q.predict(x, verbose=0))


@pytest.mark.parametrize(
    "tail",
    [
        [layers.Activation("linear", dtype="float32")],  # as in mixed precision
        [layers.Identity(), layers.Dropout(0.5), layers.Softmax()],
        [layers.Reshape((1, 5)), layers.Flatten()],
    ],
)
@pytest.mark.parametrize("logits_bits", [8, 16])
def test_logits_are_logits_behind_layers_that_compute_nothing(logits_bits, tail, tmp_path):
    image = keras.Input((6, 6, 3))
    x = layers.Dense(5, name="logits")(layers.GlobalAveragePooling2D()(image))
    for layer in tail:
        x = type(layer).from_config(layer.get_config())(x)
    model, x = networks.randomize(keras.Model(image, x)), networks.images(20, (6, 6, 3))
    q = faq_keras.apply(model, 8, calibration_data=x, logits_bits=logits_bits)
    assert faq_keras.plan_of(q)["logits"].output.bits == logits_bits
    path = tmp_path / "m.tflite"
    assert faq_keras.export_tflite(q, path, verify=x).mismatches == 0
    runtimes = ("xnnpack", "builtin", "reference", "tflm")
    assert faq_keras.verify(q, path, x, runtimes).mismatches == 0


@pytest.mark.parametrize("logits_bits", [8, 16])
def test_appended_softmax_is_near_kerass(logits_bits, tmp_path):
    q, x = quantized(dense_net, 8, logits_bits=logits_bits)
    path = tmp_path / "m.tflite"
    report = faq_keras.export_tflite(q, path, verify=x, softmax=True)
    assert report.mismatches == 0
    assert faq_keras.verify(q, path, x).values == report.values
    shares = faq_keras.tflite.load(path)(x)
    np.testing.assert_allclose(shares, q.predict(x, verbose=0), atol=2.0**-7)


def test_softmax_beside_plain_logits(tmp_path):
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Flatten()(layers.Conv2D(4, 3, activation="relu")(inputs))
    model = keras.Model(
        inputs, [layers.Dense(3, "softmax", name="shares")(x), layers.Dense(2, name="plain")(x)]
    )
    x = networks.images(20)
    q = faq_keras.apply(networks.randomize(model), 8, calibration_data=x)
    path = tmp_path / "m.tflite"
    report = faq_keras.export_tflite(q, path, verify=x, softmax=True)
    assert report.mismatches == 0
    assert faq_keras.verify(q, path, x).values == report.values
    got, (shares, plain) = faq_keras.tflite.load(path)(x), q.predict(x, verbose=0)
    np.testing.assert_allclose(got["shares/softmax"], shares, atol=2.0**-12)
    assert np.array_equal(got["plain"], plain)


def test_channels_whose_multiplier_vanishes_are_constants(tmp_path):
    """gamma = 0 (or far below the largest) makes the channel its beta, as in Keras."""
    model = networks.tiny_resnet()
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.gamma.assign(np.where(np.arange(layer.gamma.shape[0]) % 3, layer.gamma, 0.0))
    x = networks.images(40)
    q = faq_keras.apply(model, 4, calibration_data=x)
    assert faq_keras.export_tflite(q, tmp_path / "m.tflite", verify=x).mismatches == 0


def test_exactness_survives_training(tmp_path):
    q, x = quantized(networks.tiny_resnet, 4)
    y = np.arange(40) % 5
    recipe = faq_keras.recipe("w4a4", epochs=3, learning_rate=0.05)
    faq_keras.fine_tune(q, (x, y), recipe, verbose=0)
    assert faq_keras.export_tflite(q, tmp_path / "m.tflite", "int4", verify=x).mismatches == 0


def test_xla_and_eager_compute_the_same_integers():
    """`compile` without arguments lets Keras use XLA; the claim must not depend on it."""
    q, x = quantized(networks.tiny_resnet, 4)
    expected = q.predict(x, verbose=0)
    for options in ({"jit_compile": True}, {"run_eagerly": True}):
        q.compile(**options)
        assert np.array_equal(q.predict(x, verbose=0), expected), options
