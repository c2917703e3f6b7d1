"""Prepared with Pillow and NumPy as timm and torchvision do it in evaluation, number for number."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from adaptive_depth.data.sets.indexed import decode
from adaptive_depth.deploy.preparing import prepare, read_image
from adaptive_depth.errors import DataError
from adaptive_depth.preprocessing import Preprocessing

COLOUR = Preprocessing(48, 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", 0.875)
GREY = Preprocessing(48, 1, (0.449,), (0.226,), "bilinear", 1.0)


@pytest.fixture(scope="module")
def photograph():
    return Image.fromarray(load_sample_image("flower.jpg"))  # 640 x 427


def wanted(image, preprocessing):
    return preprocessing.transform()(image).numpy()


def check(image, preprocessing):
    x = prepare(image, preprocessing)
    size = preprocessing.image_size
    assert x.dtype == np.float32
    assert x.shape == (preprocessing.channels, size, size)
    assert x.flags.c_contiguous
    np.testing.assert_allclose(x, wanted(image, preprocessing), rtol=0, atol=1e-6)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
# 48 / (48 / 59) is a little less than 59: timm resizes to 58
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 0.95, 1.0, 48 / 50, 48 / 59])
@pytest.mark.parametrize(
    "size", [(640, 427), (427, 640), (101, 99), (99, 101), (48, 48), (48, 200), (7, 5), (3, 90), (333, 334)]
)
def test_every_size_interpolation_and_crop(photograph, size, crop_pct, interpolation):
    left, top = (640 - size[0]) // 2 if size[0] <= 640 else 0, 0
    image = photograph.transpose(Image.Transpose.TRANSPOSE) if size == (427, 640) else photograph
    image = image.crop((left, top, left + size[0], top + size[1])) if size[1] <= 427 else image
    assert image.size == size
    check(image, replace(COLOUR, crop_pct=crop_pct, interpolation=interpolation))


@pytest.mark.parametrize("preprocessing", [COLOUR, GREY], ids=["colour", "grey"])
@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "1"])
def test_every_mode(photograph, mode, preprocessing):
    check(photograph.resize((91, 60)).convert(mode), preprocessing)


def test_an_image_is_read_as_in_evaluation(photograph, tmp_path):
    """Turned by EXIF only, transparent, with a palette, for printers: read from files as the data sets read them."""
    small = photograph.resize((91, 60))
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: a quarter turn
    small.save(tmp_path / "turned.jpg", exif=turned)
    transparent = small.convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize(small.size))
    transparent.save(tmp_path / "transparent.png")
    small.convert("P").save(tmp_path / "palette.gif")
    small.convert("CMYK").save(tmp_path / "printed.jpg")
    small.convert("LA").save(tmp_path / "grey.png")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 5
    for file in files:
        image = read_image(file)
        assert image.mode == "RGB"
        assert image.size == (91, 60)
        for preprocessing in (COLOUR, GREY):
            in_evaluation = wanted(decode(file.open("rb")), preprocessing)
            np.testing.assert_allclose(prepare(image, preprocessing), in_evaluation, rtol=0, atol=1e-6)


def test_normalised_by_hand():
    """51 of 255 is 0.2: (0.2 - 0.5) / 0.25 = -1.2; each channel with its own numbers."""
    image = Image.new("RGB", (8, 8), (51, 102, 255))
    x = prepare(image, Preprocessing(4, 3, (0.5, 0.4, 0.0), (0.25, 0.5, 0.5)))
    np.testing.assert_allclose(x[:, 0, 0], [-1.2, 0.0, 2.0], atol=1e-6)


def test_a_damaged_image_is_named(tmp_path):
    damaged = tmp_path / "cut.jpg"
    Image.new("RGB", (64, 64), "red").save(damaged)
    damaged.write_bytes(damaged.read_bytes()[:300])
    with pytest.raises(DataError, match=r"cut\.jpg cannot be read \(.+\): remove it or replace it with an intact one"):
        read_image(damaged)


@pytest.mark.parametrize("given", ["x.jpg", np.zeros((4, 4, 3), np.uint8)])
def test_only_images_are_prepared(given) -> None:
    with pytest.raises(DataError, match=rf"received a {type(given).__name__}: expected a Pillow image; read a file wi"):
        prepare(given, COLOUR)
