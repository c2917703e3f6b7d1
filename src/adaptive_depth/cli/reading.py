"""Reading the files of a run folder."""

from pathlib import Path
from typing import Any

from .. import schema
from ..errors import DataError


def read_json(path: Path, fix: str) -> Any:
    """The content of a JSON file of a run folder.

    Arguments:
        fix: how to get the file, for the error.

    Raises:
        DataError: missing or damaged.
    """
    return schema.read_json(path, DataError, fix)
