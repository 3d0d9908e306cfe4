"""A pretrained CIFAR-10 ResNet-20 becomes a 4-bit network, is fine-tuned, and ships as one file.

    python examples/cifar_resnet.py --data_dir=cifar-10-batches-py --weights=resnet20.pth
    python examples/cifar_resnet.py --data_dir=... --weights=... --epochs=20      # the whole course

The whole method in the order in which one meets it: measure the float network; quantize it with a
few batches of training images; see what that cost; win it back with a short fine-tuning at a small,
falling learning rate (FAQ); export packed int4 weights; prove that the file computes the integers
that were trained; measure the file itself.

`--data_dir` holds CIFAR-10 as its authors publish it. `--weights` is a PyTorch checkpoint of the
ResNet-20 of akamaster/pytorch_resnet_cifar10, or your own float network as a `.keras` file that
takes pixels 0..255. Compare a quantized network with a float one that was trained to its end on the
same images: otherwise fine-tuning also finishes the training, and looks better than it is.
"""

import argparse
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

import faq_keras
from faq_keras.converters import zoo
from faq_keras.data import cifar10

SOURCES = {
    "data_dir": "https://www.cs.toronto.edu/~kriz/cifar.html (the python version, unpacked)",
    "weights": "https://github.com/akamaster/pytorch_resnet_cifar10 (pretrained_models)",
}


def arguments() -> argparse.Namespace:
    """What the command line says; ends the program if a file is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=pathlib.Path, default="cifar-10-batches-py")
    parser.add_argument("--weights", type=pathlib.Path, default="resnet20-12fca82f.th")
    parser.add_argument("--output", type=pathlib.Path, default="resnet20_int4.tflite")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--train_images", type=int, default=50_000, help="fewer are faster")
    args = parser.parse_args()
    for name, source in SOURCES.items():
        if not getattr(args, name).exists():
            sys.exit(f"--{name}={getattr(args, name)} is missing; get it from {source}.")
    return args


def pretrained(path: pathlib.Path) -> keras.Model:
    """The float network, which takes pixels 0..255."""
    if path.suffix == ".keras":
        return keras.saving.load_model(path)
    name = "resnet20_cifar10"
    model, report = faq_keras.converters.from_torch(name, path, (32, 32, 3))
    print(report)  # Keras computes what PyTorch computes
    return zoo.with_preprocessing(model, zoo.ZOO[name].preprocessing)


def augmented(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The augmentation of CIFAR-10: a zero border of 4 pixels, a random crop, a random flip."""
    image = tf.image.random_crop(tf.pad(image, [[4, 4], [4, 4], [0, 0]]), (32, 32, 3))
    return tf.cast(tf.image.random_flip_left_right(image), tf.float32), label


def main() -> None:
    """Float, quantized, fine-tuned, exported: an accuracy for each."""
    args = arguments()
    keras.utils.set_random_seed(1)
    data = cifar10.read(args.data_dir)
    x_train, y_train = data.x_train[: args.train_images], data.y_train[: args.train_images]
    x_test, y_test = data.x_test.astype(np.float32), data.y_test

    def accuracy(predict) -> float:
        logits = [predict(x_test[i : i + 500]) for i in range(0, len(x_test), 500)]
        return 100 * float(np.mean(np.concatenate(logits).argmax(axis=1) == y_test))

    model = pretrained(args.weights)
    accuracies = {"float": accuracy(model.predict_on_batch)}

    # The paper calibrates with 5 batches of training images; none of this needs labels.
    images = x_train[:1280].astype(np.float32)
    q = faq_keras.apply(model, bits=4, calibration_data=images)
    accuracies["4 bits, calibrated"] = accuracy(q.predict_on_batch)
    faq_keras.reconstruct(q, images[:256])
    accuracies["4 bits, reconstructed"] = accuracy(q.predict_on_batch)

    # 0.0015 is the paper's first rate for ImageNet networks; this small one likes 0.01 better.
    recipe = faq_keras.recipe("w4a4", epochs=args.epochs, learning_rate=0.01, batch_size=128)
    pairs = tf.data.Dataset.from_tensor_slices((x_train, y_train)).shuffle(len(x_train))
    batches = pairs.map(augmented, tf.data.AUTOTUNE).batch(recipe.batch_size).prefetch(4)
    faq_keras.fine_tune(q, batches, recipe)
    accuracies["4 bits, fine-tuned"] = accuracy(q.predict_on_batch)

    # ParityError, and no file, if a single integer of a single tensor differs.
    report = faq_keras.export_tflite(q, args.output, weights="int4", verify=x_test[:500])
    print(report)
    accuracies["the .tflite file"] = accuracy(faq_keras.tflite.load(args.output, num_threads=2))

    for name, percent in accuracies.items():
        print(f"accuracy, {name}: {percent:.2f} %")
    floats = 4 * model.count_params()
    print(f"{args.output}: {args.output.stat().st_size:,} bytes ({floats:,} of float weights)")


if __name__ == "__main__":
    main()
