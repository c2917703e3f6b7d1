"""`deploy/drawing.py`: what a network says, drawn on an image of a size of its own; looked at pixel by pixel."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adaptive_depth.deploy.drawing import Drawer, classes_of, colour_of, coloured, draw_objects, file_name
from adaptive_depth.deploy.predictions import Prediction, Reader
from adaptive_depth.deploy.sources import Picture
from adaptive_depth.errors import DataError
from adaptive_depth.meaning import Detections, Meaning
from adaptive_depth.preprocessing import Preprocessing

GREY = (90, 90, 90)
PLACED = {
    resize: Preprocessing(8, 3, (0.0,) * 3, (1.0,) * 3, resize=resize) for resize in ("crop", "stretch", "letterbox")
}


def grey(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), GREY)


def logits_of(numbers: Any, classes: int) -> np.ndarray:
    """Logits `[classes, height, width]` of these classes."""
    return 9.0 * np.eye(classes)[np.array(numbers)].transpose(2, 0, 1)


def test_colours_differ_and_are_seen_by_all() -> None:
    """Of any two of the first seven, what a person without red or without green cones sees differs by far."""
    colours = [colour_of(number) for number in range(21)]
    assert len({*colours}) == 21
    assert colour_of(21) == colour_of(0)
    linear = (np.array(colours[:7]) / 255) ** 2.2
    to_cones = np.array([[0.3139, 0.6395, 0.0466], [0.1553, 0.7579, 0.0867], [0.0177, 0.1094, 0.8724]])
    for blind in (0, 1):  # long or middle waves
        seen = np.delete(linear @ to_cones.T, blind, axis=1)
        apart = np.abs(seen[:, None] - seen[None]).max(axis=-1)[~np.eye(7, dtype=bool)]
        assert apart.min() > 0.03


def test_a_box_is_drawn_where_it_is() -> None:
    image = grey(200, 100)
    draw_objects(image, [{"class": "ant", "number": 4, "score": 0.934, "box": [50.0, 40.0, 150.0, 90.0]}])
    pixels = np.asarray(image)
    blue = (pixels == colour_of(4)).all(axis=2)
    rows, columns = np.nonzero(blue)
    assert blue[60, [50, 51, 149, 150]].all()  # two pixels wide
    assert not blue[60, [49, 52, 148, 151]].any()
    assert (rows.max(), columns.min(), columns.max()) == (90, 50, 150)
    assert (pixels[60, 60] == GREY).all()
    assert blue[25:40, 50:80].mean() > 0.5  # its name, above it, on its colour
    assert (pixels[25:40, 50:80].min(axis=2) > 200).any()  # in white, for blue is dark


@pytest.mark.parametrize("box", [[0.0, 0.0, 200.0, 100.0], [198.0, 0.0, 200.0, 1.0], [5.0, 5.0, 5.0, 5.0]])
def test_names_stay_in_the_image(box: list[float]) -> None:
    image = grey(200, 100)
    draw_objects(image, [{"class": "ant", "number": 0, "score": 1.0, "box": box}])
    assert (np.asarray(image) == colour_of(0)).all(axis=2).sum() > 100


def test_classes_of_an_image_that_fills_the_input() -> None:
    """Two by two places of an input of 8 pixels, stretched from 16 x 4: each is 8 x 2 pixels of the image."""
    placement = PLACED["stretch"].place(16, 4)
    found = classes_of(logits_of([[0, 1], [2, 1]], 3), placement)
    assert found.shape == (4, 16)
    assert (found[0, :6] == 0).all()  # logits are interpolated between places
    assert (found[-1, :6] == 2).all()
    assert (found[:, 10:] == 1).all()


def test_classes_of_an_image_in_a_letterbox() -> None:
    """Of 16 x 8 pixels, it is the upper half of the input; what was found below is of no pixel."""
    placement = PLACED["letterbox"].place(16, 8)
    found = classes_of(logits_of([[0, 1], [2, 2]], 3), placement)
    assert found.shape == (8, 16)
    assert np.unique(found[:4]).tolist() == [0, 1]  # below, logits are interpolated with those of the rest


def test_classes_of_the_part_that_a_crop_sees() -> None:
    placement = PLACED["crop"].place(32, 8)
    found = classes_of(logits_of([[1]], 2), placement)
    assert (found[:, 12:20] == 1).all()
    assert (found[:, :12] == -1).all()
    assert (found[:, 20:] == -1).all()


def test_the_surest_of_several_labels_or_none() -> None:
    logits = np.array([[[2.0, -1.0]], [[3.0, -2.0]]])
    found = classes_of(logits, PLACED["stretch"].place(8, 8), several=True)
    assert (found[:, :2] == 1).all()
    assert (found[:, 6:] == -1).all()


def test_colours_stand_over_the_image_where_there_is_a_class() -> None:
    image = coloured(grey(2, 1), np.array([[0, -1]]))
    left, right = np.asarray(image)[0]
    assert left.tolist() == np.round(0.45 * np.array(GREY) + 0.55 * np.array(colour_of(0))).tolist()
    assert right.tolist() == list(GREY)


def drawn(tmp_path: Path, reader: Reader, output: Any, image: Image.Image, resize: str = "stretch") -> np.ndarray:
    placement = PLACED[resize].place(*image.size)
    drawer = Drawer(tmp_path / "drawn", reader.labels or (), reader.meanings)
    drawer(Picture("photos/a.png", image), placement, output, reader(output, placement))
    with Image.open(tmp_path / "drawn" / "photos_a.png.jpg") as file:
        return np.asarray(file.convert("RGB")).astype(int)


def test_boxes_are_written_in_the_image_s_own_size(tmp_path: Path) -> None:
    outputs = {"boxes": np.array([[[2.0, 2, 6, 4]]]), "scores": np.array([[[0.9]]])}
    pixels = drawn(tmp_path, Reader(("ant",), {}, Detections()), outputs, grey(400, 200))
    near = np.abs(pixels - colour_of(0)).max(axis=2) < 10  # the same in a JPEG, two pixels wide
    assert near[75, [100, 101, 299, 300]].all()  # 2 and 6 of 8 pixels
    assert near[[99, 100], 200].all()  # its lower edge, 4 of 8
    assert not near[75, [98, 103, 297, 302]].any()
    assert not near[102:].any()


def test_maps_are_written_with_the_names_of_their_classes(tmp_path: Path) -> None:
    output = {"out": logits_of([[0, 1]], 2)[None]}
    pixels = drawn(tmp_path, Reader(("road", "sky"), {"out": Meaning("classes")}), output, grey(160, 160))
    mixed = [np.round(0.45 * np.array(GREY) + 0.55 * np.array(colour_of(number))) for number in (0, 1)]
    assert np.abs(pixels[120, 40] - mixed[0]).max() < 10
    assert np.abs(pixels[120, 130] - mixed[1]).max() < 10
    assert np.abs(pixels[3, 3] - colour_of(0)).max() < 40  # the legend


def test_other_outputs_are_written_in_words(tmp_path: Path) -> None:
    pixels = drawn(tmp_path, Reader(("ant", "bee")), np.array([[0.0, 3.0]]), grey(160, 160))
    assert pixels[:14, :60].min() < 20  # black ground
    assert pixels[:14, :60].max() > 220
    assert np.abs(pixels[40:] - GREY).max() < 12


def test_what_is_there_is_not_drawn_again_or_lost(tmp_path: Path) -> None:
    drawer, placement = Drawer(tmp_path / "new" / "drawn", below=Path("photos")), PLACED["crop"].place(20, 20)
    picture = Picture("photos/left/a.png", grey(20, 20))
    drawer(picture, placement, np.zeros((1, 2)), (Prediction("", "first"),))
    file = tmp_path / "new" / "drawn" / "left_a.png.jpg"
    before = file.read_bytes()
    drawer(picture, placement, np.zeros((1, 2)), (Prediction("", "second, another text"),))
    assert file.read_bytes() == before
    with pytest.raises(DataError, match=r"drawn is not empty, and its contents could be lost: name another folder"):
        Drawer(tmp_path / "new" / "drawn")
    blocked = tmp_path / "file"
    blocked.write_text("here")
    with pytest.raises(DataError, match=r"a\.png\.jpg cannot be written"):
        Drawer(blocked)(picture, placement, np.zeros((1, 2)), ())


def test_files_are_named_like_their_pictures() -> None:
    assert file_name("camera:film.mp4 3") == "camera_film.mp4_3.jpg"
    assert file_name("../../a b?.png") == "a_b_.png.jpg"
    assert len(file_name("x" * 500)) < 255
