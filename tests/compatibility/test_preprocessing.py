"""A file's metadata say what the layers in front of its input compute, in either Keras.

`faq_keras.tflite.load` follows the metadata, so its logits of float images must be the model's own.
"""

import json

import keras
import numpy as np
import pytest

import faq_keras
from faq_keras.deployment import export_onnx
from faq_keras.tflite import model_file
from tests import networks
from tests.integer.programs import exactly

# The blue channel of all images is the same number: its variance is zero.
X = networks.images(24)
X[..., 2] = 0.5
MEAN, VARIANCE = [0.2, 0.3, 0.4], [4.0, 2.0, 3.0]
PLANE = np.linspace(0.5, 2.0, 64).reshape(8, 8, 1).tolist()

# The layer, and its metadata: op, and the shape of its numbers.
LAYERS = {
    "per channel": (lambda la: la.Normalization(mean=MEAN, variance=VARIANCE), "normalize", (3,)),
    "one mean": (lambda la: la.Normalization(None, mean=0.2, variance=4.0), "normalize", ()),
    "one for all": (lambda la: la.Normalization(mean=0.2, variance=4.0), "normalize", (3,)),
    "inverted": (
        lambda la: la.Normalization(mean=MEAN, variance=VARIANCE, invert=True), "rescale", (3,)
    ),
    "adapted": (lambda la: adapted(la), "normalize", (3,)),
    "adapted, inverted": (lambda la: adapted(la, invert=True), "rescale", (3,)),
    "adapted, one number": (lambda la: adapted(la, axis=None), "normalize", ()),
    "per row": (lambda la: adapted(la, axis=1), "normalize", (8, 1, 1)),
    "per column and channel": (lambda la: adapted(la, axis=(2, -1)), "normalize", (8, 3)),
    "per pixel": (lambda la: adapted(la, axis=(1, 2, 3)), "normalize", (8, 8, 3)),
    "per pixel, inverted": (
        lambda la: adapted(la, axis=(1, 2, 3), invert=True), "rescale", (8, 8, 3)
    ),
    "rescaled per channel": (lambda la: la.Rescaling([2.0, 0.5, 1.0], -0.25), "rescale", (3,)),
    "rescaled by an array": (
        lambda la: la.Rescaling(np.array([2.0, 0.5, 1.0]), np.array([0.0, 1.0, -0.5])),
        "rescale",
        (3,),
    ),
    "rescaled per pixel": (lambda la: la.Rescaling(PLANE, -0.25), "rescale", (8, 8, 1)),
}  # fmt: skip


def adapted(layers, **arguments):
    layer = layers.Normalization(**arguments)
    layer.adapt(X)
    return layer


def quantized(library, layer, shape=(None, 8, 8, 3)):
    layers = library.layers
    image = library.Input(batch_shape=shape, name="image")
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(layer(image))
    x = layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D(name="pool")(x))
    model = networks.randomize(library.Model(image, x, name="net"))
    return faq_keras.apply(model, 8, calibration_data=X[: shape[0]])


@pytest.mark.parametrize("kind", LAYERS)
def test_the_runner_computes_what_the_model_computes(library, kind, tmp_path):
    make, op, shape = LAYERS[kind]
    q = quantized(library, make(library.layers))
    faq_keras.export_tflite(q, tmp_path / "m.tflite", verify=X)
    runner = faq_keras.tflite.load(tmp_path / "m.tflite")
    (step,) = runner.file.metadata["preprocessing"]
    assert step["op"] == op
    assert np.shape(step["scale" if op == "rescale" else "mean"]) == shape
    assert np.array_equal(runner(X), q.predict(X, verbose=0))


@pytest.mark.parametrize("input_type", ["uint8", "float32"])
@pytest.mark.parametrize("kind", ["inverted", "adapted", "per pixel"])
def test_other_input_types(library, kind, input_type, tmp_path):
    q = quantized(library, LAYERS[kind][0](library.layers))
    faq_keras.export_tflite(q, tmp_path / "m.tflite", verify=X, input_type=input_type)
    got = faq_keras.tflite.load(tmp_path / "m.tflite")(X)
    assert np.array_equal(got, q.predict(X, verbose=0))


def test_a_constant_channel_has_keras_smallest_deviation(library, tmp_path):
    q = quantized(library, adapted(library.layers))
    faq_keras.export_tflite(q, tmp_path / "m.tflite", verify=None)
    (step,) = model_file.read(tmp_path / "m.tflite").metadata["preprocessing"]
    assert step["std"][2] == np.float32(library.backend.epsilon())


def test_the_model_card_tells_a_few_numbers_and_where_many_stand(tmp_path):
    for kind in ("per channel", "per pixel"):
        q = quantized(keras, LAYERS[kind][0](keras.layers))
        faq_keras.export_tflite(q, tmp_path / f"{kind}.tflite", verify=None)
    text = (tmp_path / "per channel.model_card.md").read_text()
    assert "1. normalize: mean [0.20000000298023224, 0.30000001192092896," in text
    text = (tmp_path / "per pixel.model_card.md").read_text()
    assert "1. normalize: mean 8 x 8 x 3 numbers in the .json, std 8 x 8 x 3 numbers" in text
    card = json.loads((tmp_path / "per pixel.model_card.json").read_text())
    assert np.shape(card["preprocessing"][0]["std"]) == (8, 8, 3)


@pytest.mark.parametrize("export", [faq_keras.export_tflite, export_onnx])
def test_numbers_that_differ_from_image_to_image_are_refused(library, export, tmp_path):
    layer = library.layers.Rescaling([[[[k]]] for k in range(1, 5)], name="by_position")
    q = quantized(library, layer, (4, 8, 8, 3))
    message = (
        "Layer 'by_position' (Rescaling) has other numbers for each image of a batch (shape (4, 1, "
        "1, 1)), which a file for single images cannot state: quantize the model without this "
        "layer, and apply it to the images yourself."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        export(q, tmp_path / "m", verify=None)
    assert not list(tmp_path.iterdir())
