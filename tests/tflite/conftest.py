"""A small network with every op, written packed and not, for the tests of this folder."""

import os

import pytest

from faq_keras.tflite import emulation, writer
from tests.integer.programs import small_resnet


@pytest.fixture(scope="session")
def network():
    """`(builder, program)` of a W4A4 residual network."""
    return small_resnet(seed=1)


@pytest.fixture(scope="session")
def program(network):
    return network[1]


@pytest.fixture(scope="session")
def feed(network):
    """20 images of random codes, by input name."""
    builder, program = network
    return builder.images(program, 20)


@pytest.fixture(scope="session")
def files(program, tmp_path_factory):
    """Paths of the network's files: `files["int8"]`, `files["int4"]`. Do not change them."""
    folder = tmp_path_factory.mktemp("files")
    paths = {weights: folder / f"{weights}.tflite" for weights in ("int8", "int4")}
    for weights, path in paths.items():
        writer.write(program, path, weights)
    return paths


@pytest.fixture(scope="session")
def aarch64():
    """The folder of the emulation. Skips the test when it is not installed, except in CI."""
    folder = emulation.folder()
    if emulation.installed(folder) is not None:
        return folder
    reason = f"the emulation of aarch64 is not installed in {folder}: run `faq setup aarch64`"
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(reason)
    pytest.skip(reason)
