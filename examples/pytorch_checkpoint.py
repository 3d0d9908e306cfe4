"""A PyTorch checkpoint ships as integer files, is checked at each step, and comes back to torch.

    python examples/pytorch_checkpoint.py --data_dir=cifar-10-batches-py --weights=resnet20.pth

Your `nn.Module` and its `.pth` file are all that is needed: the module goes through ONNX into an
ordinary, trainable Keras model, which must give the logits of PyTorch. That model is quantized to 8
and to 4 bits, exported, and each file is compared with its model, integer by integer. To win back
what 4 bits cost, fine-tune the quantized model: `cifar_resnet.py`. At the end the 8-bit network
becomes a QDQ ONNX file, and its float weights a `torch.nn.Module` again.

Needs `pip install 'faq_keras[torch]'`. The module here is the ResNet-20 for CIFAR-10; put your own
in its place, with the preprocessing that it was trained with.
"""

import argparse
import pathlib
import sys

import numpy as np
import torch

import faq_keras
from faq_keras.converters.torch_networks import resnet20_cifar10
from faq_keras.data import cifar10

SOURCES = {
    "data_dir": "https://www.cs.toronto.edu/~kriz/cifar.html (the python version, unpacked)",
    "weights": "https://github.com/akamaster/pytorch_resnet_cifar10 (pretrained_models)",
}
# A wrong preprocessing costs accuracy and raises no error: take the training script's.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TOLERANCE = 1e-5  # of the largest logit: two float runtimes differ in the order of their sums


def arguments() -> argparse.Namespace:
    """What the command line says; ends the program if a file is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=pathlib.Path, default="cifar-10-batches-py")
    parser.add_argument("--weights", type=pathlib.Path, default="resnet20-12fca82f.th")
    parser.add_argument("--output", type=pathlib.Path, default=".", help="folder for the files")
    parser.add_argument("--test_images", type=int, default=10_000)
    args = parser.parse_args()
    for name, source in SOURCES.items():
        if not getattr(args, name).exists():
            sys.exit(f"--{name}={getattr(args, name)} is missing; get it from {source}.")
    args.output.mkdir(parents=True, exist_ok=True)
    return args


def normalised(pixels: np.ndarray) -> np.ndarray:
    """Images as the network wants them, channels last."""
    return ((pixels / 255.0 - MEAN) / STD).astype(np.float32)


def torch_logits(module: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """Logits of a torch module, which takes channels first."""
    with torch.inference_mode():
        batches = torch.from_numpy(images).permute(0, 3, 1, 2).split(500)
        return torch.cat([module.eval()(batch) for batch in batches]).numpy()


def check_equal(found: np.ndarray, expected: np.ndarray) -> None:
    """Raises unless Keras gives the logits and the classes of torch."""
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    others = int(np.sum(found.argmax(axis=1) != expected.argmax(axis=1)))
    print(f"Keras and torch: relative error {error:.1e}, {others} of {len(found):,} classes differ")
    if error > TOLERANCE or others:
        raise ValueError(f"Keras is further than {TOLERANCE} of the largest logit from torch.")


def main() -> None:
    """PyTorch, Keras, 8 and 4 bits, ONNX, PyTorch."""
    args = arguments()
    data = cifar10.read(args.data_dir)
    x, y = normalised(data.x_test[: args.test_images]), data.y_test[: args.test_images]
    calibration = normalised(data.x_train[:1280])

    # Loads the checkpoint into the module, too; wrapped and prefixed ones, without running code.
    module = resnet20_cifar10()
    model, report = faq_keras.converters.from_torch(module, args.weights, (32, 32, 3))
    print(report)  # on photographs, since the converter knows no data of yours
    expected = torch_logits(module, x)
    check_equal(model.predict(x, batch_size=500, verbose=0), expected)

    summary = {"torch, float": (expected, None)}
    for bits in (4, 8):  # the last one goes back to ONNX and torch below
        q = faq_keras.apply(model, bits, calibration_data=calibration)
        faq_keras.reconstruct(q, calibration[:256])  # no labels, no training
        path = args.output / f"resnet20_w{bits}a{bits}.tflite"
        weights = "int4" if bits == 4 else "int8"
        print(faq_keras.export_tflite(q, path, weights, verify=x[:200]))
        summary[f"tflite, {bits} bits"] = (faq_keras.tflite.load(path, num_threads=2)(x), path)

    # Back: the quantized network for ONNX runtimes, and its float weights for torch.
    print(faq_keras.export_onnx(q, args.output / "resnet20_w8a8.onnx", verify=x[:100]))
    back = args.output / "resnet20_float.onnx"  # onnx2torch.convert(back) is a torch.nn.Module
    print(faq_keras.converters.to_onnx(faq_keras.to_float(q), back, images=x[:500]))

    for name, (logits, path) in summary.items():
        right, same = (100 * np.mean(logits.argmax(axis=1) == z) for z in (y, expected.argmax(1)))
        size = "" if path is None else f", {path.stat().st_size:,} bytes"
        print(f"accuracy, {name}: {right:.2f} % (the class of torch: {same:.2f} %){size}")


if __name__ == "__main__":
    main()
