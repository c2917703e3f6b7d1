"""The files of a run folder, read."""

import json
from pathlib import Path
from typing import Any

from ..errors import DataError


def read_json(path: Path, mend: str) -> Any:
    """A file of a run folder.

    Raises:
        DataError: missing or damaged; says how to get it.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: {mend}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): {mend}") from error
