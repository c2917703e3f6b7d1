"""Hugging Face data sets: from the Hub, or a folder (parquet, images, or the result of `save_to_disk`)."""

import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import yaml

from ...errors import DataError, FetchError, one_line
from ...packages import hint
from .indexed import Indexed, is_path, pick_split


def open_hugging_face(
    name: str,
    root: Path | None,
    split: str,
    download: bool,
    classes: tuple[str, ...] | None,
) -> Indexed:
    """A split of what `datasets.load_dataset` finds under a name or in a folder; `root` is its cache, if given.

    Without `download` nothing is downloaded: a named set must be in the cache, and a folder must hold its own files.

    The image column is the one named "image", or the only one of its kind; the label column likewise.

    Raises:
        FetchError: a set that would have to be downloaded.
        DataError: `datasets` is not installed; a set or split that is missing; no or several image or label columns;
            classes that are not in `classes`.
    """
    what = f"data 'hfds/{name}'"
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{what} needs {hint(error, 'data')}") from error

    folder = Path(name).expanduser()
    if is_path(name) and not folder.is_dir():
        raise DataError(f"{what}: there is no folder {str(folder)!r}; expected one that datasets.load_dataset reads")
    if folder.is_dir() and not download and (url := _named_elsewhere(folder)):
        raise FetchError(
            f"{what} is a folder that refers to files elsewhere ({url}), which are downloaded only on request, train "
            "--download (download=True)"
        )
    try:
        with _progress_where_watched(datasets), nullcontext() if download else _offline(datasets):
            loaded: Any = datasets.load_dataset(
                str(folder) if folder.is_dir() else name, cache_dir=None if root is None else str(root)
            )
    except Exception as error:  # builders raise errors of any kind, and all need the same advice
        asked = (
            "" if download else "; what is not cached is downloaded only on request, train --download (download=True)"
        )
        raise (DataError if download or folder.is_dir() else FetchError)(
            f"{what} cannot be read ({one_line(error)}): expected a name on the Hugging Face hub, or a folder of "
            f"parquet files or images{asked}"
        ) from error
    rows = loaded[pick_split(loaded, split, what)]
    image = _column(rows.features, datasets.Image, "image", what)
    label = _column(rows.features, datasets.ClassLabel, "label", what)
    found = tuple(rows.features[label].names)
    # Images are decoded by `Indexed`, which names a damaged one.
    rows = rows.select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
    return Indexed(_Rows(rows, image, label, f"hfds/{name}"), found, classes, what)


class _Rows:
    """The rows of a Hugging Face set as a reader."""

    def __init__(self, rows: Any, image: str, label: str, name: str) -> None:
        self.rows, self.image, self.label, self.name = rows, image, label, name

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        row = self.rows[index]
        image = row[self.image]
        if image is None:
            raise ValueError("there is none in this row")
        return io.BytesIO(image["bytes"]) if image["bytes"] else Path(image["path"]).open("rb"), row[self.label]

    def filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:  # noqa: ARG002
        path = (self.rows[index][self.image] or {}).get("path")
        return (
            str(path) if path and Path(path).is_absolute() else f"{index} of {self.name}{f' ({path})' if path else ''}"
        )


def _column(features: Any, kind: Any, usual: str, what: str) -> str:
    """The column of a type: the one with the usual name, or the only one."""
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if usual in found:
        return usual
    if len(found) == 1:
        return found[0]
    columns = ", ".join(f"{name} ({_kind(feature)})" for name, feature in features.items())
    fix = "class_encode_column makes one from numbers or names" if usual == "label" else "cast_column makes one"
    raise DataError(
        f"{what} has {len(found) or 'no'} {kind.__name__} columns: expected one, or one named {usual!r}; there are "
        f"{columns}; " + (f"rename_column names one {usual!r}" if found else fix)
    )


def _kind(feature: Any) -> str:
    kind = type(feature).__name__
    return str(feature.dtype) if kind == "Value" else kind


@contextmanager
def _offline(datasets: Any) -> Iterator[None]:
    """Restrict both packages to their caches; they check these constants at every request."""
    from huggingface_hub import constants

    places: tuple[Any, Any] = (datasets.config, constants)
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = True
        yield
    finally:
        for place, was in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = was


def _named_elsewhere(folder: Path) -> str | None:
    """The first URL among the data files in the card of a folder: `datasets` would download it.

    Raises:
        DataError: a card with aliases, which can expand a short text into a huge one.
    """
    try:
        head = (folder / "README.md").read_text(encoding="utf-8", errors="replace").split("---")[1]
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(head, yaml.SafeLoader)):
            raise DataError(f"{folder / 'README.md'} has YAML aliases at its head: expected the values themselves")
        configs = yaml.safe_load(head)["configs"]
    except (OSError, IndexError, KeyError, TypeError, yaml.YAMLError):
        return None
    found = re.search(r"\w+://[^\s\"']+", json.dumps(configs, default=str))
    return found[0] if found else None


@contextmanager
def _progress_where_watched(datasets: Any) -> Iterator[None]:
    """Show progress bars on a terminal only; restored afterwards."""
    quiet = not (sys.stderr.isatty() or datasets.utils.are_progress_bars_disabled())
    if quiet:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if quiet:
            datasets.enable_progress_bars()
