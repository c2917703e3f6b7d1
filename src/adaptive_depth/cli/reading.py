"""The files of a run folder, read."""

from pathlib import Path
from typing import Any

from .. import schema
from ..errors import DataError


def read_json(path: Path, mend: str) -> Any:
    """A file of a run folder.

    Raises:
        DataError: missing or damaged; says how to get it.
    """
    return schema.read_json(path, DataError, mend)
