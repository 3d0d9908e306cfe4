"""The constants of a layer as integers, and what its accumulators can reach; who is refused."""

import types

import numpy as np
import pytest

from faq_keras.integer import lowering, pools
from faq_keras.integer.builder import ProgramBuilder, activation_tensor
from faq_keras.integer.constants import layer_constants
from faq_keras.plan import TensorSpec
from tests.integer.programs import exactly


class FakeLayer:
    """What `layer_constants` reads of a quantized layer."""

    name = "conv1"

    def __init__(self, kernel, multiplier=None, bias=None, kernel_exponent=-2, exponent=-3):
        self.input_specs = [TensorSpec(8, exponent, False)]
        self.folded = types.SimpleNamespace(
            kernel=kernel, multiplier=multiplier, bias=bias, kernel_exponent=kernel_exponent
        )

    def fold(self):
        return self.folded


def test_constants_are_divided_by_their_steps_and_lose_their_signs():
    kernel = np.arange(12, dtype=float).reshape(1, 2, 3, 2) / 4
    found = layer_constants(FakeLayer(kernel, np.array([0.5, -0.25]), np.array([1.0, 3.0])), 1)
    assert found.codes.dtype == found.bias.dtype == np.int64
    assert found.codes[0].tolist() == [[[0, 2, 4], [6, 8, 10]]]
    assert found.codes[1].tolist() == [[[-1, -3, -5], [-7, -9, -11]]]
    assert found.bias.tolist() == [32, -96] and found.scale.tolist() == [0.125, 0.0625]


def test_constants_without_bias_and_multiplier():
    found = layer_constants(FakeLayer(np.ones((2, 3))), 1)
    assert found.codes.tolist() == [[4, 4]] * 3
    assert found.bias.tolist() == [0] * 3 and found.scale.tolist() == [0.25] * 3
    depthwise = layer_constants(FakeLayer(np.arange(8.0).reshape(1, 2, 2, 2)), 2)
    assert depthwise.codes.tolist() == [[[0, 16]], [[4, 20]], [[8, 24]], [[12, 28]]]


NAN_WEIGHTS = "Layer 'conv1' has NaN or infinite weights: the training diverged."
NAN_CONSTANTS = (
    "Layer 'conv1' has NaN or infinite biases or batch normalization statistics: "
    "the training diverged."
)
OFF_GRID = "Layer 'conv1': its inference constants do not lie on the plan's grid."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": np.float64([[np.nan, 1.0]])}, NAN_WEIGHTS),
        ({"kernel": np.float64([[np.inf, 1.0]])}, NAN_WEIGHTS),
        ({"multiplier": np.array([1.0, np.nan])}, NAN_CONSTANTS),
        ({"bias": np.array([1.0, np.inf])}, NAN_CONSTANTS),
        ({"kernel": np.float64([[0.125, 1.0]])}, OFF_GRID),
        ({"bias": np.array([1 / 64, 1.0])}, OFF_GRID),
    ],
)
def test_constants_off_their_grid_are_refused(options, message):
    with pytest.raises(ValueError, match=exactly(message)):
        layer_constants(FakeLayer(**{"kernel": np.ones((1, 2))} | options), 1)


# ----------------------------------------------------------------------------------- the builder


def bounds(codes, bias, spec):
    builder = ProgramBuilder("int8")
    builder.tensor(activation_tensor("x", (None, 4), spec))
    builder.bound(types.SimpleNamespace(name="conv1"), "x", np.array(codes), np.array(bias))
    return builder.bounds


@pytest.mark.parametrize("spec", [TensorSpec(4, 0, False), TensorSpec(8, -2, True)])
@pytest.mark.parametrize(
    ("codes", "bias"),
    [
        ([[1, 2]], [0]),
        ([[1, -2]], [4]),
        ([[1, -2]], [-4]),
        ([[-3, -2]], [1]),
        ([[1, 2], [5, -5]], [1, 2]),
        ([[5, -5], [1, 2]], [-1, 2]),
        ([[1, 1]], [-100]),  # products of zeros, at the border: the bias alone
        ([[-1, -1]], [100]),
        ([[0, 0]], [0]),
    ],
)
def test_bounds_are_the_worst_sums(codes, bias, spec):
    """A code is at either end of its range, or a zero of the border."""
    ends = [spec.lowest, 0, spec.highest]
    inputs = np.array([(a, b) for a in ends for b in ends]).T
    sums = np.array(codes) @ inputs + np.array(bias)[:, None]
    (bound,) = bounds(codes, bias, spec)
    assert (bound.op, bound.bound) == ("conv1", np.abs(sums).max())


def test_accumulators_of_31_bits_are_allowed_and_no_more():
    spec, limit = TensorSpec(2, 0, False), 2**31 - 1
    assert bounds([[1]], [limit - 3], spec)[0].bound == limit
    assert not bounds([[1]], [limit - 3], spec)[0].exact_in_float32
    assert bounds([[1]], [2**24 - 4], spec)[0].exact_in_float32
    assert not bounds([[1]], [2**24 - 3], spec)[0].exact_in_float32
    for codes, bias, worst, remedy in (
        ([[2**30 + 1]], [0], 3 * 2**30 + 3, "Use fewer bits for its weights or its input."),
        (
            [[1]],
            [limit - 2],
            limit + 1,
            f"Its bias alone takes {limit - 2}: beside it, its inputs are tiny. Train the float "
            "network first, and calibrate with images like its training images.",
        ),
    ):
        message = (
            "Layer 'conv1' (SimpleNamespace) could overflow its 32-bit accumulator: its weights "
            f"and input range allow a sum of {worst} (limit {limit}). {remedy}"
        )
        with pytest.raises(ValueError, match=exactly(message)):
            bounds(codes, bias, spec)


@pytest.mark.parametrize("handler", [lowering._add, lowering._requantize, pools._pool_with_ones])
def test_limits_are_checked_under_the_name_of_the_layer(handler):
    """A fake layer whose output's step is tiny beside its input's."""
    shapes = types.SimpleNamespace(shape=(None, 2, 3, 4))
    layer = types.SimpleNamespace(
        name="layer_7",
        plan=types.SimpleNamespace(output=TensorSpec(8, -20, True)),
        input=shapes,
        output=shapes,
        float_layers=[types.SimpleNamespace(keepdims=False)],
    )
    builder = ProgramBuilder("int8")
    source = builder.tensor(activation_tensor("x", shapes.shape, TensorSpec(8, 0, True)))
    with pytest.raises(ValueError, match=r"^Layer 'layer_7'"):
        handler(builder, layer, source if handler is pools._pool_with_ones else [source, source])


def test_names_of_tensors_are_unique():
    builder = ProgramBuilder("int8")
    builder.tensor(activation_tensor("x", (None, 4), TensorSpec(4, 0, False)))
    message = "Two layers of the model produce the tensor 'x': rename one."
    with pytest.raises(ValueError, match=exactly(message)):
        builder.tensor(activation_tensor("x", (None, 5), TensorSpec(4, 0, False)))
