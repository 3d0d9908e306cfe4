"""Image classifiers of KerasHub are functional Keras 3 models, and become integers like others."""

import keras
import numpy as np
import pytest

import faq_keras
from tests import networks

pytestmark = pytest.mark.slow  # importing KerasHub takes a while


def resnet(models):
    return models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 128],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        use_pre_activation=False,
        image_shape=(32, 32, 3),
    )


def vgg(models):
    return models.VGGBackbone([1, 1], [8, 16], image_shape=(32, 32, 3))


def densenet(models):
    return models.DenseNetBackbone(
        stackwise_num_repeats=[2, 2], image_shape=(32, 32, 3), growth_rate=4
    )


CLASSIFIERS = {
    "ResNetImageClassifier": (resnet, {}),
    "VGGImageClassifier": (vgg, {"pooling": "avg"}),
    "DenseNetImageClassifier": (densenet, {}),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_image_classifiers_are_exact_files(name, tmp_path):
    keras_hub = pytest.importorskip("keras_hub", reason="needs the extra [dev]")
    backbone, options = CLASSIFIERS[name]
    classifier = getattr(keras_hub.models, name)
    model = classifier(
        backbone=backbone(keras_hub.models), num_classes=5, preprocessor=None, **options
    )
    networks.randomize(model)
    x = networks.images(16, (32, 32, 3))
    q = faq_keras.apply(model, 4, calibration_data=x)
    assert isinstance(q, keras.Model) and q.output_shape == (None, 5)
    report = faq_keras.export_tflite(q, tmp_path / "m.tflite", "int4", verify=x)
    print(f"{name}: {report}")
    assert report.mismatches == 0 and report.values > 0
    logits = faq_keras.tflite.load(tmp_path / "m.tflite")(x)
    assert np.array_equal(logits, q.predict(x, verbose=0))
