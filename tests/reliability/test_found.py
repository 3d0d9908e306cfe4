"""What random networks have found, as small as it gets (`docs/reliability.md`)."""

import keras
import numpy as np
import pytest

import faq_keras


@pytest.mark.parametrize("filters", [1, 3])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_one_channel_with_different_strides_is_convolved_rightly(filters, padding, tmp_path):
    """One column comes out: oneDNN's kernel gives other numbers than the sum of products there."""
    rng = np.random.default_rng(0)
    x = rng.integers(-8, 8, (2, 6, 2, 1)).astype(np.float32)
    kernel = rng.integers(-8, 8, (1, 2, 1, filters)).astype(np.float32)
    inputs = keras.Input((6, 2, 1))
    conv = keras.layers.Conv2D(filters, (1, 2), (1, 3), padding, name="conv")
    model = keras.Model(inputs, conv(inputs))
    conv.kernel.assign(kernel)
    q = faq_keras.apply(model, 8, calibration_data=x)
    assert faq_keras.export_tflite(q, tmp_path / "m.tflite", verify=x).mismatches == 0
    quantized = q.get_layer("conv").fold().kernel.numpy()
    right = (x[:, :, :, 0] @ quantized[0, :, 0])[:, :, None]
    step = faq_keras.plan_of(q)["conv"].output.step
    np.testing.assert_allclose(q.predict(x, verbose=0), right, atol=step)


def test_a_tensor_beyond_the_reach_of_kernels_is_refused_before_anything_is_written():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(inputs))
    model.get_layer("logits").kernel.assign(np.full((4, 2), 2.0**-80))
    with pytest.raises(ValueError, match=r"'logits' \(Dense\) gives values of up to .* -9\d of"):
        faq_keras.apply(model, 8, calibration_data=np.eye(4, dtype=np.float32))


def test_multipliers_beyond_the_reach_of_kernels_are_refused_by_name():
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.BatchNormalization(name="bn")(keras.layers.Conv2D(2, 1)(inputs))
    model = keras.Model(inputs, x)
    model.get_layer("bn").gamma.assign([1e-25, 0.0])
    model.get_layer("bn").beta.assign([1.0, 2.0])
    with pytest.raises(
        ValueError, match=r"'bn' \(BatchNormalization\) has multipliers of up to 9.9\d*e-26"
    ):
        faq_keras.apply(model, 8, calibration_data=np.ones((2, 4, 4, 1), np.float32))
