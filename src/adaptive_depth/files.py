"""Files that are written atomically, and folders that one process writes at a time.

Readers of a file see the old or the new content. Drafts are in a separate folder beside it, locked by the process that
writes them: the system releases the lock when that process ends, however it ends, so remains of a killed process can be
distinguished from drafts in progress.
"""

import json
import os
import shutil
import socket
import tempfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from .errors import AdaptiveDepthError

_DRAFTS = (".adaptive-depth-", ".unfinished")  # prefix and suffix of the name of a folder of drafts
_LOCK = ".adaptive-depth.lock"
_PATIENCE = 10.0  # seconds that a short write waits for another one
_CHUNK = 1 << 22
_held = threading.local()


def checksum(path: Path, but_the_last: int = 0) -> str:
    """CRC-32 of a file, without this many bytes at its end: eight hexadecimal digits."""
    value, rest = 0, max(0, path.stat().st_size - but_the_last)
    with path.open("rb") as file:
        while part := file.read(min(rest, _CHUNK)):
            value, rest = zlib.crc32(part, value), rest - len(part)
    return f"{value:08x}"


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file atomically: it has the old or the new content, whatever fails."""
    with drafts(path.parent) as folder:
        move(draft(folder / path.name, content), path)


@contextmanager
def drafts(folder: Path) -> Iterator[Path]:
    """A new folder inside `folder` for unfinished files; removed afterwards."""
    from filelock import FileLock

    while True:
        place = Path(tempfile.mkdtemp(dir=folder, prefix=_DRAFTS[0], suffix=_DRAFTS[1]))
        lock = FileLock(place / _LOCK)
        with suppress(FileNotFoundError):  # another process just removed it as abandoned
            lock.acquire()
            break
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        lock.release()


def draft(path: Path, content: bytes) -> Path:
    """A new file, flushed to disk; `move` puts it in its place."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return path


def move(temporary: Path, path: Path) -> None:
    """Put a finished draft in its place, with the permissions that any other new file would have."""
    try:
        umask = os.umask(0)  # can only be read by setting it
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


# -- one process at a time --------------------------------------------------------------------------------------


@contextmanager
def writing(
    folder: Path, what: str, error: type[AdaptiveDepthError], *, patience: float | None = None
) -> Iterator[None]:
    """Lock a folder for writing by this thread; it is created if missing, and drafts of killed processes are removed.

    Arguments:
        folder: to write; removed again if it was created and nothing was put into it.
        what: the activity, for the error in others.
        error: to raise.
        patience: seconds to wait for another one to finish; by default as long as a short write may take.

    Raises:
        error: another process or thread is writing it; with its name.
        OSError: a place that cannot be written.
    """
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with alone(folder / _LOCK, folder, what, error, patience=_PATIENCE if patience is None else patience):
            yield
    finally:
        for place in new:
            with suppress(OSError):  # not empty
                place.rmdir()


@contextmanager
def alone(
    lock_file: Path, place: Path, what: str, error: type[AdaptiveDepthError], *, patience: float = 0.0
) -> Iterator[None]:
    """As `writing`, for a place with a lock file elsewhere, which exists only while it is being written."""
    from filelock import FileLock, Timeout

    mine: set[tuple[int, Path]] = _held.__dict__.setdefault("places", set())
    key = (os.getpid(), lock_file.resolve())
    if key in mine:  # nested in a longer write of this thread, which holds the lock
        yield
        return
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=patience, poll_interval=0.05)
    except Timeout as late:
        raise error(
            f"{place} is being written by {_holder(lock_file)}: wait until it is done, or choose another place"
        ) from late
    mine.add(key)
    try:
        with suppress(OSError):  # Windows forbids writing to a locked file
            me = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now().isoformat(" ", "seconds")}
            lock_file.write_text(json.dumps({**me, "what": what}))
        _remove_left_drafts(lock_file.parent)
        yield
    finally:
        mine.discard(key)
        with suppress(OSError):
            os.unlink(lock_file)  # noqa: PTH108 - while locked: waiting processes check that it still exists
        lock.release()


def _holder(lock_file: Path) -> str:
    try:
        told = json.loads(lock_file.read_bytes())
        return f"process {told['pid']} on {told['host']} ({told['what']}, since {told['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _remove_left_drafts(folder: Path) -> None:
    """Remove drafts of killed processes, but not those of live ones."""
    from filelock import FileLock, Timeout

    for place in folder.glob(f"{_DRAFTS[0]}*{_DRAFTS[1]}"):
        with suppress(OSError, Timeout):
            if not (place / _LOCK).exists():
                place.rmdir()  # fails, as it should, if not empty
                continue
            with FileLock(place / _LOCK).acquire(timeout=0):
                shutil.rmtree(place, ignore_errors=True)
