"""Whole networks of the paper and beyond, at native resolution: 0 mismatches on every runtime.

The rows are those of `benchmarks/exactness.py`, each in a process of its own. Squeeze-and-excite
networks and channel shuffles are refused, with every layer that is in the way.
"""

import exactness
import measure
import pytest

import faq_keras

torch = pytest.importorskip("torch", reason="needs the extra [torch]")


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", exactness.NETWORKS)
def test_network_equals_its_file_on_every_runtime(name, bits):
    found = measure.alone(exactness.row, name, bits, 2, 0, exactness.RUNTIMES)
    print(exactness.line(found, list(exactness.RUNTIMES)))
    assert found["mismatches"] == dict.fromkeys(exactness.RUNTIMES, 0)
    assert min(found["values"].values()) > 100_000


@pytest.mark.parametrize(
    "name, kinds",
    [
        ("mobilenet_v3_small", {"Activation": 28, "Multiply": 9}),
        ("shufflenet_v2_x0_5", {"Permute": 16, "Cropping2D": 26}),
    ],
)
def test_every_layer_that_cannot_be_quantized_is_listed(name, kinds):
    model = exactness.float_network(name, 64)
    with pytest.raises(ValueError, match="cannot be quantized") as error:
        faq_keras.apply(model, 8, calibration_data=[])
    listed = [line for line in str(error.value).splitlines() if line.startswith("  - Layer")]
    found = {kind: sum(f"({kind})" in line for line in listed) for kind in kinds}
    assert found == kinds and len(listed) == sum(kinds.values())
