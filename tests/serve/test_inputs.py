"""Bodies of requests: images, tensors, and everything that is neither."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from adaptive_depth.deploy.preparing import prepare
from adaptive_depth.preprocessing import Preprocessing
from adaptive_depth.serve.inputs import Limits, read_input
from adaptive_depth.serve.problems import Problem

COLOUR = Preprocessing(image_size=8, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
SHAPE = (3, 8, 8)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.fixture
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8))


@pytest.mark.parametrize("kind", ["", "image/png", "application/octet-stream", "application/x-www-form-urlencoded"])
def test_an_image_is_prepared_as_in_evaluation_whatever_its_type_says(photo: Image.Image, kind: str) -> None:
    found = read_input(encoded(photo), kind, COLOUR, SHAPE)
    assert np.array_equal(found.x, prepare(photo, COLOUR))
    assert found.placement == COLOUR.place(30, 20)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "PNG", "PPM", "TIFF", "WEBP", "JPEG"])
def test_kinds_of_images(photo: Image.Image, kind: str) -> None:
    assert read_input(encoded(photo, kind), "", COLOUR, SHAPE).x.shape == SHAPE


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int64, np.float16, ">f4"])
@pytest.mark.parametrize("batch", [False, True])
def test_a_tensor_as_npy(dtype: str, batch: bool) -> None:
    x = np.asfortranarray(np.arange(192).reshape(SHAPE).astype(dtype))
    found = read_input(npy(x[None] if batch else x), "application/octet-stream", None, SHAPE)
    assert found.placement is None
    assert found.x.dtype == np.float32
    assert np.array_equal(found.x, x.astype(np.float32))


def test_raw_pixels_are_refused_where_images_are_normalised() -> None:
    pixels = np.zeros(SHAPE, np.uint8)
    with pytest.raises(Problem, match=r"the .npy contains pixels \(uint8\): send the image file"):
        read_input(npy(pixels), "", COLOUR, SHAPE)
    assert read_input(npy(pixels.astype(np.int64)), "", COLOUR, SHAPE).x.dtype == np.float32


@pytest.mark.parametrize("named", [False, True])
def test_a_tensor_as_json(named: bool) -> None:
    x = np.arange(192.0).reshape(SHAPE)
    content = {"inputs": x[None].tolist()} if named else x.tolist()
    found = read_input(json.dumps(content).encode(), "Application/JSON; charset=utf-8", None, SHAPE)
    assert np.array_equal(found.x, x.astype(np.float32))


def header(shape: tuple[int, ...], numbers: int = 10) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue() + bytes(numbers)


@pytest.mark.parametrize(
    ("body", "kind", "status", "said"),
    [
        (b"", "", 415, "the body is empty"),
        (b"hello", "image/png", 415, "5 bytes of image/png that start with b'hello': expected an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "", 415, "expected an image"),
        (npy(np.zeros((2, *SHAPE), np.float32)), "", 422, "expected .3, 8, 8.; send each as a separate request"),
        (npy(np.zeros((3, 9, 8), np.float32)), "", 422, r"a tensor of shape \[3, 9, 8\]: expected \[3, 8, 8\]"),
        (npy(np.full(SHAPE, np.nan, np.float32)), "", 422, "not finite"),
        (npy(np.full(SHAPE, 1e300)), "", 422, "not finite"),
        (npy(np.zeros(SHAPE, "U1")), "", 422, "the .npy contains <U1: expected numbers"),
        (npy(np.zeros(SHAPE, complex)), "", 422, "expected numbers"),
        (npy(np.zeros(SHAPE, np.float32))[:-1], "", 422, "768 bytes, but contains 767: it was truncated"),
        (npy(np.zeros(SHAPE, np.float32))[:20], "", 422, "the .npy cannot be read"),
        (header((1 << 40, 8, 8)), "", 422, r"expected \[3, 8, 8\]"),
        (header(SHAPE), "", 422, "768 bytes, but contains 10"),
        (b"{", "application/json", 422, "the body cannot be read"),
        (b'{"skip": "F"}', "application/json", 422, 'the body has skip: expected {"inputs"'),
        (b"[[[1, 2]]]", "application/json", 422, r"a tensor of shape \[1, 1, 2\]"),
        (b"3", "application/json", 422, r"a tensor of shape \[\]"),
        (b"[" * 100_000, "application/json", 422, "the body"),
    ],
)
def test_what_is_neither_image_nor_tensor(body: bytes, kind: str, status: int, said: str) -> None:
    with pytest.raises(Problem, match=said) as raised:
        read_input(body, kind, COLOUR, SHAPE)
    assert raised.value.status == status


def test_lists_that_are_no_tensor() -> None:
    ragged = [[[0.0] * 8] * 8, [[0.0] * 8] * 8, [[0.0] * 7] * 8]
    with pytest.raises(Problem, match="the lists in the body are not all of"):
        read_input(json.dumps(ragged).encode(), "application/json", None, SHAPE)
    words = np.full(SHAPE, "1").tolist()
    with pytest.raises(Problem, match="something other than numbers"):
        read_input(json.dumps(words).encode(), "application/json", None, SHAPE)


def test_an_image_that_is_cut_off(photo: Image.Image) -> None:
    with pytest.raises(Problem, match="the image cannot be read") as raised:
        read_input(encoded(photo)[:-200], "image/png", COLOUR, SHAPE)
    assert raised.value.status == 422


def test_an_image_that_unpacks_to_more_than_its_size_promises() -> None:
    small = encoded(Image.new("1", (3000, 3000)))
    assert len(small) < 5000
    with pytest.raises(Problem, match="the image has 3000 x 3000 pixels: expected at most 1,000,000") as raised:
        read_input(small, "", COLOUR, SHAPE, Limits(pixels=1_000_000))
    assert raised.value.status == 413


def test_an_image_that_pillow_itself_finds_too_large() -> None:
    with pytest.raises(Problem, match="too large") as raised:
        read_input(encoded(Image.new("1", (20_000, 20_000))), "", COLOUR, SHAPE)
    assert raised.value.status == 413


def test_a_long_thin_image_would_grow() -> None:
    with pytest.raises(Problem, match="9000 x 1 pixels, 72000 x 8 once its shorter side fits") as raised:
        read_input(encoded(Image.new("L", (9000, 1))), "", COLOUR, SHAPE, Limits(pixels=100_000))
    assert raised.value.status == 413


def test_a_network_that_takes_no_images(photo: Image.Image) -> None:
    with pytest.raises(Problem, match=r"send a tensor of shape \[3, 8, 8\]"):
        read_input(encoded(photo), "image/png", None, SHAPE)
