"""What every test shares: quiet TensorFlow, threads per worker, seeds, the test material."""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers that each start a thread per core spend their time waiting for one another.
    for variable in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(variable, "1")

import keras
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The folder of real data and pretrained networks: FAQ_TEST_DATA, else ../shared/data.

    Skips the test when it is absent, except in CI (`CI=true`), where it has to be there.
    """
    folder = pathlib.Path(os.environ.get("FAQ_TEST_DATA", ROOT.parent / "shared" / "data"))
    if folder.is_dir():
        return folder
    reason = f"no test data: {folder} is not a folder; set FAQ_TEST_DATA to the one that holds it"
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def seeds() -> int:
    """Every test starts from the same seed and from fresh layer names."""
    keras.utils.clear_session(free_memory=False)  # a full garbage collection takes a second
    keras.utils.set_random_seed(20180904)
    return 20180904
