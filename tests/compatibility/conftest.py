"""Every feature test runs once per Keras."""

import pytest

from tests.compatibility.libraries import LIBRARIES


@pytest.fixture(scope="module", params=list(LIBRARIES))
def library(request):
    """`keras` or `tf_keras`."""
    return LIBRARIES[request.param]
