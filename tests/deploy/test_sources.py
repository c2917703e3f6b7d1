"""Which images some names stand for, in which order, and what happens to those that cannot be read."""

import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adaptive_depth.deploy.sources import Camera, find_images, read_images
from adaptive_depth.errors import DataError


def _never(error):
    pytest.fail(str(error))


@pytest.fixture
def folder(tmp_path):
    """Images of one colour each, at three depths, beside other things."""
    for number, name in enumerate(("b.PNG", "a.jpg", "deep/deeper/c.webp", "deep/d.bmp", "deep/e.tiff")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (40 * number, 0, 0)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    return tmp_path


def test_folders_are_searched_at_every_depth_in_order(folder):
    names = [path.relative_to(folder).as_posix() for path in find_images([str(folder)])]
    assert names == ["a.jpg", "b.PNG", "deep/d.bmp", "deep/deeper/c.webp", "deep/e.tiff"]


def test_names_keep_their_order_and_a_named_file_may_end_as_it_likes(folder):
    odd = folder / "picture.data"
    Image.new("RGB", (4, 4), (200, 0, 0)).save(odd, format="png")
    found = find_images([str(odd), str(folder / "deep" / "deeper"), str(folder / "b.PNG")])
    assert found == (odd, folder / "deep/deeper/c.webp", folder / "b.PNG")
    pictures = list(read_images(found, _never))
    assert [picture.name for picture in pictures] == [str(path) for path in found]
    assert [picture.image.getpixel((0, 0))[0] for picture in pictures][::2] == [200, 0]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no images were named: expected files, folders, camera or camera:1"),
        (["nothing.png"], "nothing.png does not exist: expected an image, a folder of images, camera or camera:1"),
    ],
)
def test_nothing_to_read(names, message):
    with pytest.raises(DataError, match=message):
        find_images(names)


def test_a_folder_without_images_says_what_was_looked_for(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"folder .*empty contains no images: expected files .*\.jpg, .*\.png"):
        find_images([str(folder), str(tmp_path / "empty")])


def test_a_damaged_image_is_told_and_left_out(folder):
    (folder / "a.jpg").write_text("no image")
    told = []
    names = [Path(picture.name).name for picture in read_images(find_images([str(folder)]), told.append)]
    assert names == ["b.PNG", "d.bmp", "c.webp", "e.tiff"]
    assert len(told) == 1
    assert "a.jpg cannot be read" in str(told[0])


def test_repeated(folder):
    found = find_images([str(folder / "deep")])
    assert len(list(read_images(found, _never))) == 3
    twice = [picture.name for picture in read_images(found, _never, repeat=2)]
    assert twice == 2 * [str(path) for path in found]
    assert len(list(islice(read_images(found, _never, repeat=None), 10))) == 10


def test_nothing_that_can_be_read_is_not_repeated_for_ever(folder):
    (folder / "a.jpg").write_text("no image")
    told = []
    assert list(read_images([folder / "a.jpg"], told.append, repeat=None)) == []
    assert len(told) == 1


# -- cameras ----------------------------------------------------------------------------------------------------


def test_a_camera_by_its_number_or_address():
    pytest.importorskip("cv2")
    assert find_images(["camera", "camera:1", "camera:film.mp4"]) == (Camera(0), Camera(1), Camera("film.mp4"))


def test_a_camera_without_opencv_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(DataError, match=r'not installed .*: pip install "adaptive-depth\[camera\]"'):
        find_images(["camera"])


def test_a_film_through_the_camera(tmp_path):
    """Five frames, red first and blue last, in this order, also in the order of their colours."""
    opencv = pytest.importorskip("cv2")
    film = tmp_path / "film.avi"
    writer = opencv.VideoWriter(str(film), opencv.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for number in range(5):
        writer.write(np.full((48, 64, 3), (50 * number, 0, 200 - 50 * number), np.uint8))  # blue, green, red
    writer.release()
    pictures = list(read_images(find_images([f"camera:{film}"]), _never))
    assert [picture.name for picture in pictures] == [f"camera:{film} {number}" for number in (1, 2, 3, 4, 5)]
    assert pictures[0].image.size == (64, 48)
    seen = [picture.image.getpixel((20, 20)) for picture in pictures]
    for number, (red, green, blue) in enumerate(seen):
        assert (red, green, blue) == pytest.approx((200 - 50 * number, 0, 50 * number), abs=8)


@pytest.mark.parametrize("address", ["97", "nothing.avi"])
def test_a_camera_that_is_not_there_is_told(address, capfd):
    pytest.importorskip("cv2")
    told = []
    assert list(read_images(find_images([f"camera:{address}"]), told.append)) == []
    wanted = f"camera:{address} delivers no images: expected the number of an unused camera, or a video"
    assert [str(error) for error in told] == [wanted]
    assert capfd.readouterr().err == ""  # OpenCV would say it in its own words


def test_a_camera_that_stops_is_an_error_and_a_film_that_ends_is_none(monkeypatch):
    opencv = pytest.importorskip("cv2")

    class Stopping:
        def __init__(self, address) -> None:
            self.left = 2

        def set(self, *_) -> None: ...

        def release(self) -> None: ...

        def read(self):
            self.left -= 1
            return self.left >= 0, np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(opencv, "VideoCapture", Stopping)
    told = []
    assert len(list(read_images(find_images(["camera:3"]), told.append))) == 2
    assert [str(error) for error in told] == ["camera:3 stopped after 2 images: is it still connected?"]
    assert len(list(read_images(find_images(["camera:film.avi"]), _never))) == 2
