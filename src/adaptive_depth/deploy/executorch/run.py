"""Sessions over a `.pte` file, run by ExecuTorch."""

import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakSet

from ...errors import ArtifactError, one_line
from ...files import checksum
from ..artifact import Artifact
from ..session import Arrays

DESCRIPTION = "artifact"  # the method of the file that returns its description, as JSON
# Depths that stay loaded. Each has its own weights, which XNNPACK packs for its kernels at load time: with one, every
# change of depth would pack them again; with many, memory would hold as many copies.
LOADED = 2
_MARK = b"adaptive-depth:"
_LOCK = Lock()  # ExecuTorch has one thread pool and XNNPACK one workspace: one call at a time per process


def open_backend(source: Any, *, threads: int | None, backend: str) -> "ExecuTorchBackend":
    """The backend of a session; see `open_session`.

    Arguments:
        source: the path of a `.pte` that `adaptive-depth export` wrote.
        threads: for every session of this process, because ExecuTorch has one thread pool.
        backend: `"executorch"`.

    Raises:
        ArtifactError: not a path, or a file that is truncated, damaged or foreign.
        ImportError: ExecuTorch is not installed.
    """
    if not isinstance(source, str | Path):
        raise ArtifactError(
            f"{backend} received a {type(source).__name__}: expected the path of a .pte file; adaptive-depth export "
            "RUN --to executorch writes one"
        )
    path = Path(source)
    check_whole(path)
    return ExecuTorchBackend(path, threads)


class ExecuTorchBackend:
    """A `.pte` with a method for each depth. Threads may share it; calls are serialised.

    A depth is loaded on first use; the `LOADED` most recent ones stay loaded.

    Attributes:
        artifact: the file's description.
    """

    def __init__(self, path: Path, threads: int | None) -> None:
        runtime = _runtime()
        with _LOCK, _saying(f"{path} cannot be loaded"):
            self._program = runtime._load_program(
                str(path), program_verification=runtime.Verification.InternalConsistency
            )
            description = self._program.load_method(DESCRIPTION)([])[0]
            if threads is not None and threads != runtime._threadpool_get_thread_count():
                runtime._unsafe_reset_threadpool(threads)
                for opened in _OPENED:  # loaded methods keep the former threads
                    opened._methods.clear()
        self.artifact = Artifact.from_json(description, path)
        self._methods: OrderedDict[str, Any] = OrderedDict()
        _OPENED.add(self)

    def run(self, x: Any, skip: str) -> Arrays:
        """The output of one depth for `[batch, channels, height, width]`: `[batch, classes]` for a classifier."""
        import torch

        # torch requires writable arrays, although nothing is written.
        writable = [each if each.flags.writeable else each.copy() for each in self.artifact.fed(x).values()]
        with _LOCK:
            outputs = self._method(skip)([torch.from_numpy(each) for each in writable])
            return self.artifact.named([output.numpy() for output in outputs])

    def _method(self, skip: str) -> Any:
        if skip not in self._methods:
            if len(self._methods) >= LOADED:
                self._methods.popitem(last=False)
            self._methods[skip] = self._program.load_method(skip)
        self._methods.move_to_end(skip)
        return self._methods[skip]


_OPENED: WeakSet[ExecuTorchBackend] = WeakSet()


# -- the file ---------------------------------------------------------------------------------------------------


def ending(digits: str) -> bytes:
    """The last bytes of a file, for the checksum of everything before them."""
    return _MARK + digits.encode()


def check_whole(path: Path) -> None:
    """Raise an ArtifactError if a file's checksum is wrong: ExecuTorch may crash on a damaged file."""
    length = len(ending("0" * 8))
    try:
        right = ending(checksum(path, but_the_last=length))
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - length))
            end = file.read()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error
    if not end.startswith(_MARK):
        raise ArtifactError(
            f"{path} does not end like a file of adaptive-depth: it is truncated, or written by another program; "
            "export it again with adaptive-depth export RUN --to executorch"
        )
    if end != right:
        raise ArtifactError(f"{path} does not match the checksum at its end: it is damaged; export it again")


@contextmanager
def _saying(what: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ArtifactError(f"{what}: {one_line(error)[:300]}") from error


# -- ExecuTorch -------------------------------------------------------------------------------------------------


def _runtime() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "experimental"
        from executorch.extension.pybindings import portable_lib

    return portable_lib
