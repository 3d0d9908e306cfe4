"""Random networks from all supported layers: Keras = integer reference = interpreter, no mismatch.

`FAQ_RANDOM_NETWORKS=5000 FAQ_RANDOM_SEED=7 pytest tests/reliability/test_random_networks.py` runs
more of them, from another seed. `docs/reliability.md` tells what came of it.
"""

import collections
import os
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, assume, given, seed, settings
from hypothesis import strategies as st

import faq_keras
from faq_keras.integer.layout import fully_connected_1x1, packed_tensors
from faq_keras.integer.lowering import lower
from tests.reliability.random_networks import random_networks

COUNT = int(os.environ.get("FAQ_RANDOM_NETWORKS", 300))
SEED = int(os.environ.get("FAQ_RANDOM_SEED", 0))
# What a network may be refused for; everything else that is raised is a failure.
REFUSALS = (
    "is zero on all of the calibration data",
    "could overflow its 32-bit accumulator",
    "XNNPACK's kernels allow less than",
    "XNNPACK adds from",
    "XNNPACK does from",
    "has only zero or non-finite multipliers",
    "that integer kernels can compute with",
    "It has no layer that computes anything",
    "its ReLU6 would be zero everywhere",
)
OTHER_RUNTIMES = ("builtin", "reference")
_RECONSTRUCTED = 32  # images
seen: collections.Counter[str] = collections.Counter()


@st.composite
def quantize_options(draw):
    return {
        "bits": (draw(st.integers(2, 8)), draw(st.integers(2, 8))),
        "logits_bits": draw(st.sampled_from((16, 8))),
        "policy": faq_keras.Policy(
            first_last_bits=draw(st.sampled_from((8, 8, 4, 2))),
            bn_exponent=draw(st.sampled_from(("per_channel", "calibrated", "paper"))),
            scales=draw(st.sampled_from(("fitted", "fitted", "paper"))),
        ),
    }


@st.composite
def export_options(draw):
    return {
        "weights": draw(st.sampled_from(("int4", "int4", "int8"))),
        "input_type": draw(st.sampled_from(("int8", "int8", "uint8", "float32"))),
    }


class RefusedError(Exception):
    """A network that cannot be represented, for one of the `REFUSALS`."""


def compare(network, quantize, export, as_graph, runtimes, reconstruct, folder) -> int:
    """Quantizes, exports and compares a network; gives how many values were compared."""
    path = Path(folder, "m.tflite")
    try:
        q = faq_keras.apply(network.model, calibration_data=network.data, **quantize)
        if reconstruct:
            many = [np.resize(x, (_RECONSTRUCTED, *x.shape[1:])) for x in network.x]
            faq_keras.reconstruct(q, many if len(many) > 1 else many[0])
            seen["reconstructed"] += 1
        q.run_eagerly = not as_graph
        program = lower(q, export["input_type"])
    except ValueError as error:
        reason = next((r for r in REFUSALS if r in str(error)), None)
        if reason is None:
            raise
        raise RefusedError(reason) from error
    if export["weights"] == "int4" and packed_tensors(fully_connected_1x1(program)):
        export = export | {"fully_connected_1x1": as_graph}
    report = faq_keras.export_tflite(q, path, **export)
    assert report.mismatches == 0
    values = report.values
    if runtimes:
        report = faq_keras.verify(q, path, network.data, runtimes)
        assert report.mismatches == 0, report
        values += report.values
    return values


CASE = {
    "network": random_networks(),
    "quantize": quantize_options(),
    "export": export_options(),
    # Tracing a graph takes longer than everything else, and the integers are the same.
    "as_graph": st.sampled_from((*[False] * 7, True)),
    "runtimes": st.sampled_from((*[()] * 7, OTHER_RUNTIMES)),
    "reconstruct": st.sampled_from((*[False] * 9, True)),
}


@seed(SEED)
@settings(max_examples=COUNT, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(**CASE)
def test_random_networks_equal_their_files(**case):
    with tempfile.TemporaryDirectory() as folder:
        try:
            seen["values"] += compare(**case, folder=folder)
            seen["networks"] += 1
        except RefusedError as refused:
            seen[f"refused: {refused}"] += 1
            assume(False)


def test_enough_networks_were_compared():
    print(dict(seen))
    assert seen["networks"] >= COUNT
