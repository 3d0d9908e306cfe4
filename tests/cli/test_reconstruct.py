"""`faq reconstruct`: from a file and images without labels to a better file."""

import keras
import numpy as np
import pytest
from PIL import Image

import faq_keras
from faq_keras.rewrite.keras3 import record
from tests.networks import images


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, x=images(80))
    return path


@pytest.fixture
def q_file(files, tmp_path):
    """A copy of the quantized model, to be replaced."""
    path = tmp_path / "q.keras"
    with open(files["model"], "rb") as source:
        path.write_bytes(source.read())
    return path


def weights(path):
    model = keras.saving.load_model(path, compile=False)
    return {variable.path: np.asarray(variable) for variable in model.weights}


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def test_the_output_is_what_the_function_makes(faq, q_file, data, tmp_path):
    before, target = q_file.read_bytes(), tmp_path / "q2.keras"
    outcome = faq("reconstruct", q_file, f"--data={data}", f"--output={target}", "--images=64")
    assert outcome.status == 0, outcome.err
    assert outcome.out.splitlines()[0].startswith("64 images, values -")
    assert "Reconstructed on 64 images" in outcome.out
    assert outcome.out.splitlines()[-1] == f"Wrote {target}"
    assert q_file.read_bytes() == before
    q = keras.saving.load_model(q_file)
    faq_keras.reconstruct(q, np.load(data)["x"][np.random.RandomState(0).permutation(80)[:64]])
    made = {variable.path: np.asarray(variable) for variable in q.weights}
    assert same(made, weights(target)) and not same(made, weights(q_file))


def test_without_output_the_file_is_replaced_and_distilled_after(faq, q_file, data, tmp_path):
    before = weights(q_file)
    flags = (f"--data={data}", "--distill_steps=8", "--noaugment")
    outcome = faq("reconstruct", q_file, *flags)
    assert outcome.status == 0, outcome.err
    assert "Distilled 8 steps on 80 images" in outcome.out
    assert "teacher: the float model 'tiny_resnet' that was quantized" in outcome.out
    assert outcome.out.splitlines()[-1] == f"Replaced {q_file}"
    assert [path.name for path in tmp_path.iterdir()] == ["q.keras"]
    assert not same(before, weights(q_file))


@pytest.mark.parametrize("method", ["reconstruct", "distill"])
def test_a_file_without_its_float_network_is_refused(refused, q_file, data, method):
    q = keras.saving.load_model(q_file)
    record(q, post_training=method)
    q.save(q_file)
    error = refused("reconstruct", q_file, f"--data={data}")
    assert f"q.keras went through {method} already" in error
    assert "start from the file that was saved before" in error


def write_images(folder, count=36):
    for number in range(count):
        pixels = np.random.default_rng(number).choice([0, 255], (8, 8, 3)).astype(np.uint8)
        (folder / f"class_{number % 3}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"class_{number % 3}" / f"{number}.png")


def test_a_folder_of_images_is_scaled_and_its_range_printed(faq, q_file, tmp_path):
    write_images(tmp_path / "photographs")
    flags = ("--scale=1/127.5", "--offset=-1,-1,-1", f"--output={tmp_path / 'q2.keras'}")
    outcome = faq("reconstruct", q_file, f"--data={tmp_path / 'photographs'}", *flags)
    assert outcome.status == 0, outcome.err
    first = outcome.out.splitlines()[0]
    assert first.startswith("36 images, values -1 to 1, mean ")
    assert abs(float(first.split()[-1])) < 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected the arguments: q.keras"),
        (("{q}",), "--data is missing"),
        (("{q}", "--data={none}.npz"), "does not exist"),
        (("{q}", "--data={data}", "--output={none}.h5"), "does not end in .keras"),
        (("{q}", "--data={data}", "--output={none}/deep/q.keras"), "does not exist: create it"),
        (("{none}.keras", "--data={data}"), "does not exist"),
        (("{float}", "--data={data}"), "carries no quantization plan"),
        (("{q}", "--data={data}", "--scale=2"), "--scale apply to a folder of images only"),
        (("{q}", "--data={empty}"), "holds no images"),
        (("{q}", "--data={pictures}", "--scale=1/0"), "--scale=1/0 has to be one number, or 3"),
        (("{q}", "--data={pictures}", "--offset=1,2"), "--offset=1,2 has to be one number, or 3"),
        (("{q}", "--data={data}", "--images=0"), "images"),
    ],
)
def test_mistakes_are_one_sentence(refused, files, q_file, data, tmp_path, arguments, message):
    empty, pictures = tmp_path / "empty", tmp_path / "pictures"
    empty.mkdir()
    write_images(pictures, count=3)
    names = {"q": q_file, "data": data, "none": tmp_path / "none", "float": files["float"]}
    names |= {"empty": empty, "pictures": pictures}
    before = q_file.read_bytes()
    assert message in refused("reconstruct", *(text.format(**names) for text in arguments))
    assert q_file.read_bytes() == before


def test_a_failure_in_the_middle_leaves_the_file(faq, q_file, data):
    before = q_file.read_bytes()
    outcome = faq("reconstruct", q_file, f"--data={data}", "--images=8")
    assert outcome.status == 1 and "8 images" in outcome.err
    assert q_file.read_bytes() == before and len(list(q_file.parent.iterdir())) == 1
