"""The main job with what is installed, for a wheel in a clean environment: `make test-wheel`.

Needs nothing of the repository and none of the extras. Prints what it did; any failure is raised.
"""

import pathlib
import subprocess
import sys
import tempfile

import keras
import numpy as np
import tf_keras

import faq_keras


def network(library):
    """A float network with a residual block, in either Keras."""
    layers = library.layers
    inputs = library.Input((16, 16, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv1")(inputs)
    x = layers.ReLU(name="relu1")(layers.BatchNormalization(name="bn1")(x))
    y = layers.Conv2D(8, 3, padding="same", name="conv2")(x)
    x = layers.ReLU(name="relu2")(layers.Add(name="add")([x, y]))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return library.Model(inputs, layers.Dense(4, name="head")(x), name="smoke")


def main_job(library, folder: pathlib.Path) -> bytes:
    """apply -> fine_tune -> export -> verify; the file."""
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(1)
    x = rng.normal(0, 0.5, (64, 16, 16, 3)).astype(np.float32)
    q = faq_keras.apply(network(library), bits=4, calibration_data=x)
    recipe = faq_keras.recipe("w4a4", epochs=1, learning_rate=0.01)
    faq_keras.fine_tune(q, (x, np.arange(64) % 4), recipe, verbose=0)
    path = folder / f"{library.__name__}.tflite"
    report = faq_keras.export_tflite(q, path, weights="int4", verify=x).check()
    logits = faq_keras.tflite.load(path)(x)
    if not np.array_equal(logits, q.predict(x, verbose=0)):
        raise AssertionError(f"{path} gives other logits than {library.__name__}")
    print(f"{library.__name__}: {report}")
    return path.read_bytes()


def main() -> None:
    """The main job in both Kerases, and the command line."""
    environment = pathlib.Path(sys.prefix)
    if not pathlib.Path(faq_keras.__file__).is_relative_to(environment):
        raise AssertionError(f"{faq_keras.__file__} is not what is installed in {environment}")
    with tempfile.TemporaryDirectory() as folder:
        for library in (keras, tf_keras):
            main_job(library, pathlib.Path(folder))
        command = [environment / "bin" / "faq", "inspect", f"{folder}/keras.tflite"]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"Python {sys.version.split()[0]}, faq_keras {faq_keras.__version__}: passed")


if __name__ == "__main__":
    main()
