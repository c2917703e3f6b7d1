"""Images to run a network on: files, folders of them, a camera."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ..errors import DataError
from ..packages import hint
from .preparing import read_image

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


class Picture(NamedTuple):
    """An image in colour, and its name."""

    name: str
    image: Image.Image


@dataclass(frozen=True)
class Camera:
    """What OpenCV opens: a camera by number, or a video file or stream by address."""

    address: int | str

    def __str__(self) -> str:
        return f"camera:{self.address}"


Source = Path | Camera


def find_images(names: Iterable[str]) -> tuple[Source, ...]:
    """The image files and cameras that names stand for; nothing is opened.

    Arguments:
        names: image files; folders, searched recursively for files with one of `ENDINGS`, in order of name, without
            hidden ones; `"camera"`, `"camera:1"`, `"camera:film.mp4"`.

    Raises:
        DataError: a name that does not exist, a folder without images, or a camera without OpenCV.
    """
    found: list[Source] = []
    for name in names:
        word, colon, address = name.partition(":")
        if word == "camera" and not (colon and Path(name).exists()):  # a file may have such a name
            found.append(_camera(address or "0"))
        else:
            found.extend(_files(Path(name).expanduser()))
    if not found:
        raise DataError("no images were named: expected files, folders, camera or camera:1")
    return tuple(found)


def read_images(
    sources: Iterable[Source], on_damaged: Callable[[DataError], None], *, repeat: int | None = 1
) -> Iterator[Picture]:
    """The images of sources, one after the other; a camera's until it ends.

    Arguments:
        sources: what `find_images` returned.
        on_damaged: called with the error for each unreadable image, which is left out.
        repeat: how many times; None repeats forever, as long as any image is readable.
    """
    sources = tuple(sources)
    for _ in count() if repeat is None else range(repeat):
        some = False
        for picture in _once(sources, on_damaged):
            some = True
            yield picture
        if not some:
            return


def _once(sources: tuple[Source, ...], on_damaged: Callable[[DataError], None]) -> Iterator[Picture]:
    for source in sources:
        try:
            if isinstance(source, Camera):
                yield from _frames(source)
            else:
                yield Picture(str(source), read_image(source))
        except DataError as error:
            on_damaged(error)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path} does not exist: expected an image, a folder of images, camera or camera:1")
    files = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in ENDINGS and not file.name.startswith(".") and file.is_file()
    )
    if not files:
        raise DataError(f"folder {path} contains no images: expected files that end in {', '.join(ENDINGS)}")
    return files


# -- cameras ----------------------------------------------------------------------------------------------------


def _camera(address: str) -> Camera:
    _opencv()
    return Camera(int(address) if address.isdecimal() else address)


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise DataError(f"a camera needs {hint(error, 'camera')}") from error
    return cv2


def _frames(camera: Camera) -> Iterator[Picture]:
    opencv = _opencv()
    level = opencv.utils.logging.getLogLevel()
    opencv.utils.logging.setLogLevel(opencv.utils.logging.LOG_LEVEL_SILENT)  # the error below reports it
    try:
        opened = opencv.VideoCapture(camera.address)
    finally:
        opencv.utils.logging.setLogLevel(level)
    try:
        opened.set(opencv.CAP_PROP_BUFFERSIZE, 1)  # only the newest image, if the camera supports it
        for number in count(1):
            there, pixels = opened.read()
            if not there:
                if number == 1:
                    raise DataError(f"{camera} delivers no images: expected the number of an unused camera, or a video")
                if isinstance(camera.address, int):  # a film ends, a device does not
                    raise DataError(f"{camera} stopped after {number - 1} images: is it still connected?")
                return
            yield Picture(f"{camera} {number}", Image.fromarray(opencv.cvtColor(pixels, opencv.COLOR_BGR2RGB)))
    finally:
        opened.release()
