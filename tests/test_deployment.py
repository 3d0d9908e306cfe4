"""Exporting: what lies beside the file, and that nothing wrong or half-written is ever left."""

import json
import signal
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest

import faq_keras
from faq_keras.integer.lowering import lower
from faq_keras.tflite import model_file, writer
from tests import networks

layers = keras.layers


@pytest.fixture(scope="module")
def x():
    return networks.images(40)


@pytest.fixture(scope="module")
def q(x):
    return faq_keras.apply(networks.tiny_resnet(), 4, calibration_data=x)


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir())


def test_file_metadata_and_model_card_tell_the_same(q, x, tmp_path):
    path = tmp_path / "mödel 1.tflite"
    report = faq_keras.export_tflite(q, path, "int4", verify=x, metrics={"top1": 0.5})
    facts = model_file.read(path).metadata
    card = json.loads((tmp_path / "mödel 1.model_card.json").read_text())
    text = (tmp_path / "mödel 1.model_card.md").read_text()
    assert facts["plan_hash"] == card["plan_hash"] == faq_keras.plan_of(q).hash
    assert facts["weights"] == "int4"
    assert facts["tensors"][0]["scale"] == faq_keras.plan_of(q)["image"].output.step
    assert card["parity"]["runs"][0]["mismatches"] == 0
    assert f"0 mismatches of {report.values:,} values" in text
    assert "top1: 0.5" in text
    assert set(facts["versions"]) == {"faq_keras", "tensorflow", "keras", "ai-edge-litert"}
    assert leftovers(tmp_path) == sorted(p.name for p in tmp_path.glob("mödel 1.*"))


def test_rescaling_by_a_list_of_one_number_travels_with_the_file(tmp_path):
    pixels = keras.Input((8, 8, 1))
    rescaled = keras.layers.Rescaling([0.5], [0.25])(pixels)
    model = keras.Model(pixels, networks.conv_bn_relu(rescaled, 4))
    x = networks.images(20, (8, 8, 1))
    q = faq_keras.apply(networks.randomize(model), 8, calibration_data=x)
    faq_keras.export_tflite(q, tmp_path / "m.tflite", verify=x)
    steps = model_file.read(tmp_path / "m.tflite").metadata["preprocessing"]
    assert steps == [{"op": "rescale", "scale": 0.5, "offset": 0.25}]
    got = faq_keras.tflite.load(tmp_path / "m.tflite")(x)
    assert np.array_equal(got, q.predict(x, verbose=0))


def test_preprocessing_travels_with_the_file(x, tmp_path):
    inputs = keras.Input((8, 8, 3), name="image")
    y = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 4.0, 9.0])(
        layers.Rescaling(0.5, offset=-1.0)(inputs)
    )
    y = layers.Dense(3)(layers.Flatten()(networks.conv_bn_relu(y, 4)))
    q = faq_keras.apply(networks.randomize(keras.Model(inputs, y)), 8, calibration_data=x)
    path = tmp_path / "m.tflite"
    faq_keras.export_tflite(q, path, verify=x)
    rescale, normalize = model_file.read(path).metadata["preprocessing"]
    assert rescale == {"op": "rescale", "scale": 0.5, "offset": -1.0}
    assert normalize["std"] == [1.0, 2.0, 3.0]
    assert np.array_equal(faq_keras.tflite.load(path)(x), q.predict(x, verbose=0))


def test_packed_weights_take_half_the_bytes(q, tmp_path):
    program = lower(q)
    packed, plain = tmp_path / "4.tflite", tmp_path / "8.tflite"
    faq_keras.export_tflite(q, packed, "int4", verify=None)
    faq_keras.export_tflite(q, plain, "int8", verify=None)
    cards = [json.loads(p.with_suffix(".model_card.json").read_text()) for p in (packed, plain)]
    narrow = [t for t in program.tensors.values() if t.name.endswith("/kernel") and t.bits <= 4]
    saved = cards[1]["audit"]["weight_bytes"] - cards[0]["audit"]["weight_bytes"]
    assert len(narrow) == 5
    assert saved == sum(t.data.size - -(-t.data.size // 2) for t in narrow)


def test_a_file_of_other_weights_is_refused(q, x, tmp_path):
    path = tmp_path / "m.tflite"
    faq_keras.export_tflite(q, path, verify=None)
    other = keras.models.clone_model(q)
    other.set_weights([w + 0.01 for w in q.get_weights()])
    with pytest.raises(ValueError, match=r"m\.tflite"):
        faq_keras.verify(other, path, x)


def test_parity_failure_leaves_no_file(q, x, tmp_path, monkeypatch):
    """A kernel that rounds differently: the written file is exact, the runtime is not."""
    from faq_keras.tflite import loader

    honest = loader.Runner.tensors

    def off_by_one(self, codes):
        tensors = dict(honest(self, codes))
        tensors["conv2d_1"] = tensors["conv2d_1"].copy()
        tensors["conv2d_1"][2, 3, 4, 5] += 1
        return tensors

    monkeypatch.setattr(loader.Runner, "tensors", off_by_one)
    with pytest.raises(faq_keras.ParityError) as error:
        faq_keras.export_tflite(q, tmp_path / "m.tflite", verify=x)
    assert "conv2d_1" in str(error.value)
    assert "(2, 3, 4, 5)" in str(error.value).replace("[", "(").replace("]", ")")
    assert leftovers(tmp_path) == []


def test_parity_failure_leaves_the_old_file_alone(q, x, tmp_path, monkeypatch):
    path = tmp_path / "m.tflite"
    path.write_bytes(b"yesterday's")
    monkeypatch.setattr(writer, "write", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        faq_keras.export_tflite(q, path, verify=x)
    assert path.read_bytes() == b"yesterday's"
    assert leftovers(tmp_path) == ["m.tflite"]


def test_kill_in_the_middle_leaves_no_file(q, tmp_path):
    q.save(tmp_path / "q.keras")
    script = textwrap.dedent("""
        import keras, faq_keras, os, signal
        from faq_keras import deployment
        q = keras.saving.load_model("q.keras")
        honest = deployment.writer.write
        def write_and_die(program, path, weights):
            honest(program, path, weights)
            os.kill(os.getpid(), signal.SIGKILL)
        deployment.writer.write = write_and_die
        faq_keras.export_tflite(q, "out.tflite")
    """)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": "int2"}, "int2"),
        ({"input_type": "int16"}, "input_type must be one of int8, uint8, float32"),
        ({"verify": "sometimes"}, "verify must be"),
    ],
)
def test_bad_arguments_are_refused_and_leave_nothing(q, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        faq_keras.export_tflite(q, tmp_path / "m.tflite", **arguments)
    assert leftovers(tmp_path) == []


def test_float_models_are_refused(tmp_path):
    with pytest.raises(ValueError, match="carries no quantization plan"):
        faq_keras.export_tflite(networks.tiny_resnet(), tmp_path / "m.tflite")


def test_diverged_weights_are_named(x, tmp_path):
    q = faq_keras.apply(networks.tiny_resnet(), 4, calibration_data=x)
    kernel = q.get_layer("conv2d_1").kernel_layer.kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.raises(ValueError, match="Layer 'conv2d_1' has NaN or infinite weights"):
        faq_keras.export_tflite(q, tmp_path / "m.tflite")


def test_an_accumulator_that_could_overflow_is_refused(x, tmp_path):
    """A bias beyond 31 bits of the accumulator's grid."""
    q = faq_keras.apply(networks.tiny_resnet(), 8, calibration_data=x)
    beta = q.get_layer("conv2d_1").batch_norm_layer.beta
    beta.assign(np.full(beta.shape, 1e9))
    with pytest.raises(ValueError, match=r"'conv2d_1' .* could overflow .* Its bias alone takes"):
        faq_keras.export_tflite(q, tmp_path / "m.tflite")


def test_accumulators_beyond_float32_are_reported(x, tmp_path):
    """Above 2^24 the file is still written and compared, and the card names the layer."""
    q = faq_keras.apply(networks.tiny_resnet(), 8, calibration_data=x)
    beta = q.get_layer("conv2d_1").batch_norm_layer.beta
    beta.assign(np.full(beta.shape, 1e4))
    report = faq_keras.export_tflite(q, tmp_path / "m.tflite", verify=x)
    card = json.loads((tmp_path / "m.model_card.json").read_text())
    assert card["accumulators"]["layers_above_2_to_24"] == ["conv2d_1"]
    assert 2**24 < card["accumulators"]["largest_bound"] < 2**31
    assert report.mismatches == 0


def test_bounds_are_reached_but_never_passed(q, x):
    """The proof against the accumulators of the worst input: all codes at an end of their range."""
    program = lower(q)
    bounds = {bound.op: bound.bound for bound in program.bounds}
    kernel = program.tensors["conv2d/kernel"].data.astype(np.int64).reshape(8, -1)
    bias = program.tensors["conv2d/bias"].data
    spec = faq_keras.plan_of(q)["image"].output
    worst = 0
    for channel, offset in zip(kernel, bias, strict=True):
        for sign in (1, -1):
            chosen = np.where(channel * sign > 0, spec.highest, spec.lowest)
            worst = max(worst, abs(int(channel @ chosen + offset)))
    assert bounds["conv2d"] == worst
    assert all(bound.exact_in_float32 for bound in program.bounds)
