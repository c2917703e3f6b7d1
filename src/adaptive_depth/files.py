"""Files that are written whole: whoever reads one sees the old or the new content."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file in one step: it holds the old or the new content, whatever fails."""
    move(temporary_file(path, content), path)


def temporary_file(path: Path, content: bytes) -> Path:
    """A new file beside `path`, complete on the disk: `move` puts it in its place."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return Path(temporary)


def move(temporary: Path, path: Path) -> None:
    """Put a finished temporary file in its place, with the permissions that any other new file would have."""
    try:
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
