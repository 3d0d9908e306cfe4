"""Real files of a tiny quantized network, and a way to run `faq` commands in this process."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import faq_keras
from faq_keras.cli.main import dispatch
from tests.networks import images, tiny_resnet

IMAGES = 8


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command left: exit status and what it printed."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Paths as strings by name. Do not change the files.

    `model` is quantized, `other` the same network with other weights, `float` not quantized;
    `int8` and `int4` are exports of `model`, `data` fits them all.
    """
    folder = tmp_path_factory.mktemp("files")
    model = tiny_resnet()
    x = images(IMAGES)
    q = faq_keras.apply(model, 4, calibration_data=x)
    model.save(folder / "float.keras")
    q.save(folder / "model.keras")
    faq_keras.plan_of(q).save(folder / "plan.json")
    for weights in ("int8", "int4"):
        faq_keras.export_tflite(q, folder / f"{weights}.tflite", weights, verify=None)
    kernel = q.get_layer("conv2d").kernel_layer.kernel  # as another fine-tuning would leave it
    kernel.assign(np.flip(kernel, axis=0))
    q.save(folder / "other.keras")
    np.savez(folder / "data.npz", x=x)
    return {path.stem: str(path) for path in folder.iterdir() if ".model_card" not in path.name}


@pytest.fixture
def faq(capsys, monkeypatch):
    """Runs a command in this process: `faq("inspect", path).status`.

    Deterministic ops are not switched on: the switch is the process' own and stays, and other tests
    compare what they train here with what another process trains.
    """
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        status = dispatch([str(argument) for argument in arguments])
        return Outcome(status, *capsys.readouterr())

    return run


@pytest.fixture
def refused(faq):
    """Runs a command that has to fail: status 1, nothing but one readable message on stderr."""

    def run(*arguments: object) -> str:
        outcome = faq(*arguments)
        assert outcome.status == 1
        assert outcome.out == ""
        assert outcome.err.startswith(f"faq {arguments[0]}: error: "), outcome.err
        assert "Traceback" not in outcome.err
        return outcome.err

    return run
