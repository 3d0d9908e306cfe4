"""Images of a folder: which ones, in which size, with which values."""

import numpy as np
import pytest
from PIL import Image

from faq_keras.data.unlabelled_images import shuffled, unlabelled_images


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def grey(value, height=8, width=8):
    return np.full((height, width), value, np.uint8)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_all_images_below_the_folder_are_read_as_they_are(tmp_path):
    for number, name in enumerate(["a.png", "cats/b.bmp", "cats/deep/c.PNG"]):
        write(tmp_path / name, noise(8, 8, number))
    write(tmp_path / ".hidden.png", noise(8, 8, 7))
    write(tmp_path / ".cache" / "d.png", noise(8, 8, 8))
    (tmp_path / "notes.txt").write_text("no image")
    x = unlabelled_images(tmp_path, (8, 8, 3))
    assert x.dtype == np.float32 and x.shape == (3, 8, 8, 3)
    expected = {noise(8, 8, number).astype(np.float32).tobytes() for number in range(3)}
    assert {image.tobytes() for image in x} == expected


def test_some_are_drawn_from_all_and_always_the_same(tmp_path):
    for number in range(40):
        write(tmp_path / f"class_{number // 10}" / f"{number:02}.png", grey(number))
    drawn = [unlabelled_images(tmp_path, (8, 8, 1), most=12)[:, 0, 0, 0] for _ in range(2)]
    np.testing.assert_array_equal(*drawn)
    assert len(set(drawn[0])) == 12
    assert {int(number) // 10 for number in drawn[0]} == {0, 1, 2, 3}
    assert sorted(shuffled(range(40), None)) == list(range(40))


@pytest.mark.parametrize(("height", "width"), [(16, 40), (40, 16), (11, 13), (64, 64)])
def test_another_size_is_covered_and_its_centre_cut_out(tmp_path, height, width):
    pixels = noise(height, width)
    write(tmp_path / "a.png", pixels)
    (image,) = unlabelled_images(tmp_path, (16, 16, 3))
    scale = max(16 / height, 16 / width)
    size = (max(16, round(width * scale)), max(16, round(height * scale)))
    whole = np.asarray(Image.fromarray(pixels).resize(size, Image.BILINEAR), np.float32)
    top, left = (whole.shape[0] - 16) // 2, (whole.shape[1] - 16) // 2
    assert np.abs(image - whole[top : top + 16, left : left + 16]).max() <= 1
    assert image.min() >= 0 and image.max() <= 255 and np.array_equal(image, np.round(image))


def test_the_model_says_how_many_channels(tmp_path):
    write(tmp_path / "a.png", grey(7))
    np.testing.assert_array_equal(unlabelled_images(tmp_path, (8, 8, 3)), np.full((1, 8, 8, 3), 7))
    write(tmp_path / "a.png", np.stack([grey(60), grey(120), grey(240)], -1))
    assert unlabelled_images(tmp_path, (8, 8, 1)).shape == (1, 8, 8, 1)


@pytest.mark.parametrize("shape", [(49, 10, 2), (64,), (None, None, 3)])
def test_inputs_that_are_no_images_are_refused(tmp_path, shape):
    with pytest.raises(ValueError, match=r"known height and width .* as an array instead"):
        unlabelled_images(tmp_path, shape)


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="none does not exist"):
        unlabelled_images(tmp_path / "none", (8, 8, 3))
    with pytest.raises(ValueError, match=r"holds no images \(.jpg, .jpeg, .png, .bmp\)"):
        unlabelled_images(tmp_path, (8, 8, 3))


def test_images_that_cannot_be_read_are_named(tmp_path):
    write(tmp_path / "good.png", noise(8, 8))
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    with pytest.raises(ValueError, match=r"torn\.jpg is corrupt .* Replace or remove it"):
        unlabelled_images(tmp_path, (8, 8, 3))
    (tmp_path / "torn.jpg").rename(tmp_path / "scan.tiff")
    with pytest.raises(ValueError, match=r"1 images in .* for example scan\.tiff, have a format"):
        unlabelled_images(tmp_path, (8, 8, 3))
