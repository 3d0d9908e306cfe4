"""A finished training run with everything that a report shows."""

import json
import shutil

import pytest

from faq_keras.diagnostics import GradientNoise
from faq_keras.report.measurements import Measurements
from faq_keras.report.runs import NOISE
from faq_keras.training.experiment import run
from tests.training import runs


def images_of(_run, count):
    """So many images and their classes."""
    return runs.striped_images(count, seed=2)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of a run, with its measurements. Do not change it."""
    folder = tmp_path_factory.mktemp("runs") / "stripes"
    experiment = runs.experiment(
        pretraining=None, callbacks=lambda place: [GradientNoise(place / NOISE, every=5)]
    )
    run(experiment, str(folder), {"bits": 4, "seed": 3, "data": {"source": "stripes"}})
    measurements = Measurements(folder, lambda count: images_of(folder, count))
    for measure in (measurements.similarity, measurements.activations, measurements.deployment):
        measure()
    return folder


@pytest.fixture
def workdir(finished, tmp_path):
    """A copy of it that may be damaged."""
    return shutil.copytree(finished, tmp_path / "stripes")


def rewrite(path, change):
    """Changes the object in a JSON file."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
