"""What importing faq_keras does to a process, and which processes it refuses to work in."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tf_keras

import faq_keras
from tests import networks
from tests.compatibility.libraries import quantized

X = networks.images(4)


def run(script, folder, **environment):
    """Runs a script in a new process; gives the words that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_legacy_keras_as_tf_keras_module(tmp_path):
    """TF_USE_LEGACY_KERAS=1: `tf.keras` is Keras 2, stays it, and its models work."""
    q = quantized(tf_keras)
    q.save(tmp_path / "m.keras")
    q.save(tmp_path / "m.h5")
    np.save(tmp_path / "x.npy", X)
    script = """
import os
import numpy as np
import tensorflow as tf
import faq_keras

x = np.load("x.npy")
for path in ("m.keras", "m.h5"):
    np.save(path + ".npy", tf.keras.models.load_model(path).predict_on_batch(x))
q = faq_keras.apply(faq_keras.to_float(tf.keras.models.load_model("m.h5")), calibration_data=x)
library = tf.keras.Model.__module__.split(".")[0]
print(os.environ["TF_USE_LEGACY_KERAS"], library, isinstance(q, tf.keras.Model))
"""
    assert run(script, tmp_path, TF_USE_LEGACY_KERAS="1") == ["1", "tf_keras", "True"]
    for path in ("m.keras.npy", "m.h5.npy"):
        assert np.array_equal(np.load(tmp_path / path), q.predict_on_batch(X))


def test_other_backends_are_refused(tmp_path):
    pytest.importorskip("torch")
    quantized(keras).save(tmp_path / "m.keras")
    script = """
import keras
import numpy as np
import faq_keras

model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
for attempt in (
    lambda: faq_keras.apply(model, calibration_data=np.ones((2, 4), "float32")),
    lambda: keras.saving.load_model("m.keras"),
):
    try:
        attempt()
    except (TypeError, ValueError) as error:
        print("the 'torch' backend: set KERAS_BACKEND=tensorflow" in str(error))
"""
    assert run(script, tmp_path, KERAS_BACKEND="torch") == ["True", "True"]


def test_both_kerases_work_in_one_process():
    assert faq_keras.plan_of(quantized(keras)) == faq_keras.plan_of(quantized(tf_keras))
