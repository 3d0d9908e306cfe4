"""From quantized Keras layers to integer programs: every layer, its tensors, its limits.

`lowered.txt` lists the programs of the networks below, tensor by tensor: what a change of the
lowering changes in the files shows there. `python -m tests.integer.test_lowering` writes it anew.
"""

import pathlib
import types

import keras
import numpy as np
import pytest

import faq_keras
from faq_keras.integer import keras_codes, lowering, reference
from faq_keras.integer.builder import ProgramBuilder, activation_tensor
from faq_keras.integer.keras_codes import KerasCodes
from faq_keras.integer.lowering import INPUT_TYPES, lower
from faq_keras.plan import TensorSpec
from tests import networks
from tests.integer.programs import exactly

layers = keras.layers
LISTING = pathlib.Path(__file__).with_name("lowered.txt")
OVERRIDES = {"kernels": {"narrow": 3}}


def kernels(inputs):
    """Convolutions of all kinds, and a head of vectors."""
    x = layers.Conv2D(6, (3, 2), (2, 1), name="strided")(inputs)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.Conv2D(4, 3, padding="same", groups=2, dilation_rate=(2, 1), name="grouped")(x)
    x = layers.ZeroPadding2D(((1, 0), (0, 2)), name="pad")(x)
    x = layers.DepthwiseConv2D((2, 3), depth_multiplier=2, activation="relu", name="depthwise")(x)
    y = layers.Conv2D(8, 1, name="twin")(x)
    x = layers.ReLU(6.0, name="relu6")(layers.Add(name="relu6_sum")([x, y]))
    x = layers.Dropout(0.5, name="drop")(layers.Flatten(name="flat")(x))
    x = layers.Dense(5, activation="relu", use_bias=False, name="narrow")(x)
    x = layers.Dense(3, name="head")(x)
    return layers.Activation("softmax", name="softmax")(x)


def joins(inputs):
    """Additions and concatenations, with grids of their own and common ones."""
    x = layers.Conv2D(3, 1, activation="relu", name="stem")(inputs)
    y = layers.Conv2D(3, 1, use_bias=False, name="branch")(x)
    total = layers.ReLU(name="relu")(layers.Add(name="sum")([x, y]))
    linear = layers.Add(name="difference")([total, y])
    x = layers.ReLU(name="positive")(layers.Add(name="last_sum")([linear, x]))
    parts = [layers.Conv2D(n, 1, activation="relu", name=f"part_{n}")(x) for n in range(1, 7)]
    joined = layers.Concatenate(name="joined")(parts)
    more = layers.Concatenate(name="more")([*parts, layers.MaxPooling2D(1, name="same")(linear)])
    maps = [layers.Conv2D(2, 1, name=f"map_{n}")(t) for n, t in enumerate((joined, more))]
    return layers.Reshape((32,), name="vector")(layers.Add(name="logits")(maps))


def pools(inputs):
    """Pools of all kinds: exact means and means by ones, with and without their dimensions."""
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="stem")(inputs)
    x = layers.MaxPooling2D((2, 1), (2, 2), "same", name="max")(x)
    x = layers.AveragePooling2D((1, 2), (1, 1), "valid", name="average")(x)
    y = layers.GlobalAveragePooling2D(keepdims=True, name="ones_kept")(x)
    y = layers.Conv2D(4, 1, activation="relu", name="after_ones")(y)
    y = layers.GlobalAveragePooling2D(name="one_pixel")(y)
    square = layers.MaxPooling2D((2, 1), (2, 1), name="square")(x)  # 2 x 3
    ones = layers.GlobalAveragePooling2D(name="ones")(square)
    row = layers.Conv2D(4, (1, 2), activation="relu", name="row")(square)  # 2 x 2
    kept = layers.GlobalAveragePooling2D(keepdims=True, name="mean_kept")(row)
    kept = layers.Flatten(name="flat")(layers.Conv2D(3, 1, name="after_mean")(kept))
    mean = layers.GlobalAveragePooling2D(name="mean")(row)
    coarse = layers.GlobalAveragePooling2D(name="coarse_ones")(x)
    coarse = layers.Dense(3, activation="relu", name="after_coarse_ones")(coarse)
    vectors = (y, ones, mean, coarse)
    heads = [layers.Dense(3, name=f"head_{n}")(t) for n, t in enumerate(vectors)]
    return [*heads, layers.Dense(2, name="head_kept")(kept)]


def affine(inputs):
    """Batch normalizations without a convolution, on images and on vectors."""
    x = layers.MaxPooling2D(2, name="max")(inputs)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(x))
    x = layers.BatchNormalization(name="linear_bn")(layers.Flatten(name="flat")(x))
    return layers.Dense(3, name="head")(x)


def lists(inputs):
    """Concatenations of lists that begin alike, as DenseNet's; more than five tensors at once."""
    x = layers.Conv2D(2, 1, activation="relu", name="stem")(inputs)
    parts = [layers.Conv2D(1, 1, activation="relu", name=f"part_{n}")(x) for n in range(12)]
    parts[0] = layers.Conv2D(2, 1, activation="relu", name="part")(x)
    chosen = [parts[:2], parts[:3], parts[5:10], parts, parts[1:], parts[:5]]
    joined = [layers.Concatenate(name=f"join_{n}")(tensors) for n, tensors in enumerate(chosen)]
    return [layers.Conv2D(1, 1, name=f"head_{n}")(tensor) for n, tensor in enumerate(joined)]


CASES = {"kernels": kernels, "joins": joins, "pools": pools, "affine": affine, "lists": lists}
SHAPES = dict.fromkeys(CASES, (6, 6, 2)) | {"joins": (4, 4, 2), "pools": (8, 8, 2)}


def quantized(name, logits_bits=16):
    """A network whose weights and images are the same on every machine."""
    inputs = keras.Input(SHAPES[name], name="image")
    model = keras.Model(inputs, CASES[name](inputs), name=name)
    rng = np.random.default_rng(7)
    for weights in model.weights:
        kind = weights.name
        low = {"gamma": -8, "kernel": -8, "moving_mean": -8, "beta": 0, "bias": 1}.get(kind, 4)
        weights.assign(rng.integers(low, 9, weights.shape) / 8)
    x = rng.integers(-8, 9, (4, *model.input_shape[1:])).astype(np.float32) / 8
    policy = faq_keras.Policy(scales="paper", overrides=OVERRIDES.get(name, {}))
    q = faq_keras.apply(model, 4, calibration_data=x, policy=policy, logits_bits=logits_bits)
    q.run_eagerly = True
    return q, x


def listing(program):
    """Everything that a program says, a line per tensor and op."""
    yield f"{program.name}: {', '.join(program.inputs)} -> {', '.join(program.outputs)}"
    for tensor in program.tensors.values():
        scale = ",".join(f"{value:.9g}" for value in dict.fromkeys(tensor.scale))
        text = (
            f"  {tensor.name}: {tensor.dtype}{list(tensor.shape)}, {len(tensor.scale)} scales "
            f"{scale or '-'}, zero {tensor.zero_point}, axis {tensor.axis}, {tensor.bits} bits in "
            f"[{tensor.lowest}, {tensor.highest}]"
        )
        if tensor.data is not None:
            flat = tensor.data.ravel().astype(np.int64)
            digest = (flat * (np.arange(flat.size) % 97 + 1)).sum()
            text += f", {tensor.data.dtype} data {digest}"
        yield text
    for op in program.ops:
        attributes = ", ".join(f"{key}={value}" for key, value in op.attributes.items())
        yield f"  {op.kind} {op.name} ({attributes}): {', '.join(op.inputs)} -> {op.outputs[0]}"
    for bound in program.bounds:
        yield f"  accumulator of {bound.op} <= {bound.bound}"


def listed(name):
    q, _ = quantized(name)
    return "\n".join(listing(lower(q)))


@pytest.mark.parametrize("name", CASES)
def test_programs_are_what_the_listing_says(name):
    expected = LISTING.read_text().split("\n\n")[list(CASES).index(name)]
    assert listed(name) == expected.strip("\n")


@pytest.mark.parametrize("name", CASES)
def test_keras_computes_the_integers_of_the_program(name):
    q, x = quantized(name)
    program = lower(q)
    model = KerasCodes(q, program)
    for codes in (model({"image": x}), model.random(5)):
        computed = reference.run(program, {name: codes[name] for name in program.inputs})
        compared = [n for n in computed if n in codes]
        assert len(compared) >= len(q.layers) - 4
        wrong = {n: int((computed[n] != codes[n]).sum()) for n in compared}
        assert not any(wrong.values()), wrong
        print(f"{name}: 0 mismatches of {sum(codes[n].size for n in compared)}")


def test_random_codes_cover_the_whole_range_and_follow_the_seed():
    q, _ = quantized("affine")
    program = lower(q)
    model = KerasCodes(q, program)
    codes, tensor = model.random(50)["image"], program.tensors["image"]
    assert codes.shape == (50, 6, 6, 2) and codes.dtype == np.int8
    assert len(np.unique(codes)) == tensor.highest - tensor.lowest + 1 == 256
    assert np.array_equal(codes, model.random(50, seed=0)["image"])
    assert not np.array_equal(codes, model.random(50, seed=1)["image"])


def test_input_types_differ_in_the_input_alone():
    programs = {kind: lower(quantized("affine")[0], kind) for kind in INPUT_TYPES}
    plain = list(listing(programs["int8"]))
    for kind in ("uint8", "float32"):
        program = programs[kind]
        assert program.inputs == (f"image/{kind}",)
        source, codes = program.tensors[f"image/{kind}"], program.tensors["image"]
        assert (source.dtype, source.shape) == (kind, codes.shape)
        first, *rest = program.ops
        assert (first.kind, first.name, first.inputs) == ("quantize", "image", (source.name,))
        assert first.outputs == ("image",)
        assert [op.name for op in rest] == [op.name for op in programs["int8"].ops]
        assert set(plain[1:]) <= set(listing(program))
    byte, codes = programs["uint8"].tensors["image/uint8"], programs["int8"].tensors["image"]
    assert byte.scale == codes.scale
    for field in ("zero_point", "lowest", "highest"):
        assert getattr(byte, field) == getattr(codes, field) + 128
    assert programs["float32"].tensors["image/float32"].scale == ()
    assert programs["float32"].tensors["image/float32"].zero_point == 0


@pytest.mark.parametrize(("kind", "zero_point"), [("int8", -128), ("uint8", 0), ("float32", 0)])
def test_inputs_without_a_sign_use_the_whole_byte(kind, zero_point):
    x = keras.Input((2, 2, 3), name="pixels")
    model = keras.Model(x, layers.Conv2D(2, 1, name="map")(x))
    pixels = np.linspace(0, 1, 48, dtype=np.float32).reshape(4, 2, 2, 3)
    tensor = lower(faq_keras.apply(model, calibration_data=pixels), kind)
    source = tensor.tensors[tensor.inputs[0]]
    assert source.zero_point == zero_point
    if kind != "float32":
        assert (source.lowest, source.highest) == (zero_point, zero_point + 255)


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_keras_codes_of_other_input_types(kind):
    q, x = quantized("affine")
    codes = KerasCodes(q, lower(q, kind))({"image": x})
    if kind == "float32":
        assert np.array_equal(codes["image/float32"], x)
    else:
        assert codes["image/uint8"].dtype == np.uint8
        assert np.array_equal(codes["image/uint8"].astype(int), codes["image"].astype(int) + 128)


@pytest.mark.parametrize(("bits", "expected"), [(16, (2.0**-15, 0, 0)), (8, (2.0**-8, -128, -128))])
def test_softmax_has_the_scale_that_tflite_fixes(bits, expected):
    q, _ = quantized("kernels", bits)
    program = lower(q, softmax=True)
    op, tensor = program.ops[-1], program.tensors["head/softmax"]
    assert (op.kind, op.name, op.inputs) == ("softmax", "head", ("head",))
    assert program.outputs == op.outputs == ("head/softmax",)
    assert (tensor.scale[0], tensor.zero_point, tensor.lowest) == expected
    assert (tensor.dtype, tensor.shape) == (program.tensors["head"].dtype, (None, 3))
    assert lower(q).outputs == ("head",)


def two_headed(*activations):
    """A quantized network with an output `head_<i>` for each activation."""
    x = keras.Input((6, 6, 2))
    y = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu")(x))
    heads = [layers.Dense(3, act, name=f"head_{i}")(y) for i, act in enumerate(activations)]
    return faq_keras.apply(keras.Model(x, heads), 8, calibration_data=networks.images(8, (6, 6, 2)))


@pytest.mark.parametrize(
    ("activations", "outputs"),
    [
        (["softmax", "softmax"], ("head_0/softmax", "head_1/softmax")),
        (["softmax", None], ("head_0/softmax", "head_1")),
        ([None, None], ("head_0/softmax", "head_1/softmax")),  # trained from logits
    ],
)
def test_softmax_stands_where_keras_has_it(activations, outputs):
    q = two_headed(*activations)
    assert lower(q, softmax=True).outputs == outputs
    assert lower(q).outputs == ("head_0", "head_1")


@pytest.mark.parametrize("shared", ["both", "one"])
def test_outputs_of_the_same_logits(shared):
    x = keras.Input((6, 6, 2))
    logits = layers.Dense(3, name="head")(layers.Flatten()(x))
    outputs = [layers.Softmax()(logits), layers.Softmax()(logits) if shared == "both" else logits]
    model = keras.Model(x, outputs)
    q = faq_keras.apply(model, 8, calibration_data=networks.images(8, (6, 6, 2)))
    last = "head/softmax" if shared == "both" else "head"
    assert lower(q, softmax=True).outputs == ("head/softmax", last)


@pytest.mark.parametrize("activations", [["sigmoid", None], ["sigmoid", "softmax"]])
def test_softmax_is_no_sigmoid(activations):
    message = (
        "Output 'head_0' ends in a sigmoid in Keras, which softmax=True would replace: export "
        "without softmax=True, and apply the activations to the logits yourself."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        lower(two_headed(*activations), softmax=True)


def test_softmax_needs_vectors():
    x = keras.Input((6, 6, 2))
    model = keras.Model(x, layers.Conv2D(3, 1, name="map")(x))
    q = faq_keras.apply(model, 8, calibration_data=networks.images(4, (6, 6, 2)))
    message = (
        "Output 'map' of shape (None, 6, 6, 3) is no vector of logits: export without softmax=True."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        lower(q, softmax=True)


# ------------------------------------------------------------------------------------- refusals


def test_unknown_input_types_are_refused():
    message = "input_type must be one of int8, uint8, float32, received 'int16'."
    with pytest.raises(ValueError, match=exactly(message)):
        lower(None, "int16")


def test_float_layers_in_a_quantized_model_are_refused_together():
    q, _ = quantized("affine")
    x = layers.Dense(2, activation="relu", name="new")(q.output)
    x = layers.UnitNormalization(name="unit")(layers.ReLU(name="float_relu")(x))
    message = (
        "Model 'stacked' has layers without an integer op:\n  - Layer 'new' (Dense)\n"
        "  - Layer 'float_relu' (ReLU)\n  - Layer 'unit' (UnitNormalization)\n"
        "Models made by faq_keras.apply have one for every layer. Quantize the float model "
        "with these layers in it, without other quantize configs, or remove them."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        lower(keras.Model(q.input, x, name="stacked"))


@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_float_activations_are_no_integer_ops(activation):
    q, _ = quantized("affine")
    x = layers.Activation(activation, name="clip")(q.output)
    with pytest.raises(ValueError, match=r"- Layer 'clip' \(Activation\)\n"):
        lower(keras.Model(q.input, x, name="stacked"))


def test_a_lowering_of_the_users_gives_the_tensor_of_its_layer(monkeypatch):
    layer = types.SimpleNamespace(name="scale", plan=types.SimpleNamespace(kind="custom:Scale"))
    calls = []

    def handler(*arguments):
        calls.append(arguments)
        return result

    monkeypatch.setitem(lowering.CUSTOM_HANDLERS, "custom:Scale", handler)
    builder, result = ProgramBuilder("int8"), "scale"
    assert lowering._custom(builder, layer, ["x"]) == "scale"
    assert calls == [(builder, layer, ["x"])]
    result = "x"
    message = (
        "The lowering of layer 'scale' (custom:Scale) gives the tensor 'x': the tensor with the "
        "layer's result must have the layer's name, so that it is compared with what Keras "
        "computes."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        lowering._custom(builder, layer, ["x"])


# ------------------------------------------------------------------------------- Keras' own codes


def test_values_off_their_grid_are_refused():
    tensor = activation_tensor("conv1", (None, 2), TensorSpec(4, -3, False))
    codes = keras_codes._to_integers(np.float32([[0.0, 0.125 * 15]]), tensor)
    assert codes.dtype == np.int8 and codes.tolist() == [[112, 127]]
    message = "Layer 'conv1' gives values off its grid of 2^-3."
    with pytest.raises(ValueError, match=exactly(message)):
        keras_codes._to_integers(np.float32([[0.0, 0.1]]), tensor)


@pytest.mark.parametrize("eager", [True, False])
def test_models_that_run_eagerly_are_computed_eagerly(eager):
    q, _ = quantized("affine")
    q.run_eagerly = eager
    assert KerasCodes(q, lower(q))._network.run_eagerly is eager


# ------------------------------------------------------------------- the listing, written anew


if __name__ == "__main__":
    LISTING.write_text("\n\n".join(map(listed, CASES)) + "\n")
