"""Sessions over a `.pte` file, run by ExecuTorch; depths share the weights that XNNPACK has packed for its kernels."""

import ctypes
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from ...errors import ArtifactError, one_line
from ..artifact import Artifact

DESCRIPTION = "artifact"  # the method of the file that returns its description, as JSON
LOADED = 5  # depths that stay loaded: beside the shared weights each holds tables of its own (7 MB for ResNet-50)
_MARK = b"adaptive-depth:"
_CHUNK = 1 << 22
_LOCK = Lock()  # ExecuTorch has one pool of threads and XNNPACK one workspace: one call at a time in a process


def open_backend(source: Any, *, threads: int | None, backend: str) -> "ExecuTorchBackend":
    """The backend of a session; see `open_session`.

    Arguments:
        source: the path of a `.pte` that `adaptive-depth export` wrote.
        threads: of every session of this process, for ExecuTorch has one pool.
        backend: `"executorch"`.

    Raises:
        ArtifactError: no path, or a file that is truncated, damaged or foreign.
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
    """A `.pte` with a method for each depth. Threads may share it; calls run one after the other.

    A depth is loaded when it is first used, and the `LOADED` last used stay loaded: the depths of one file mostly
    share their weights, so that loading another takes a small part of a call.

    Attributes:
        artifact: what the file says of itself.
        shares_weights: do loaded depths share packed weights? Where this build of ExecuTorch does not let us ask
            for it, every loaded depth has its own.
    """

    def __init__(self, path: Path, threads: int | None) -> None:
        runtime = _runtime()
        with _LOCK, _saying(f"{path} cannot be loaded"):
            self.shares_weights = share_weights()
            self._program = runtime._load_program(
                str(path), program_verification=runtime.Verification.InternalConsistency
            )
            description = self._program.load_method(DESCRIPTION)([])[0]
            if threads is not None and threads != runtime._threadpool_get_thread_count():
                runtime._unsafe_reset_threadpool(threads)
                for opened in _OPENED:  # what is loaded holds the former threads
                    opened._methods.clear()
        self.artifact = Artifact.from_json(description, path)
        self._methods: OrderedDict[str, Any] = OrderedDict()
        _OPENED.add(self)

    def run(self, x: NDArray[np.float32], skip: str) -> NDArray[np.float32]:
        """The output of one depth for `[batch, channels, height, width]`: `[batch, classes]` of a classifier."""
        import torch

        writable = x if x.flags.writeable else x.copy()  # as torch asks, although nothing is written
        with _LOCK:
            return self._method(skip)([torch.from_numpy(writable)])[0].numpy()

    def _method(self, skip: str) -> Any:
        if skip not in self._methods:
            if len(self._methods) >= LOADED:
                self._methods.popitem(last=False)
            self._methods[skip] = self._program.load_method(skip)
        self._methods.move_to_end(skip)
        return self._methods[skip]


_OPENED: WeakSet[ExecuTorchBackend] = WeakSet()


# -- the file ---------------------------------------------------------------------------------------------------


def ending(checksum: int) -> bytes:
    """The last bytes of a file, for the checksum (`zlib.crc32`) of all that stands before them."""
    return _MARK + f"{checksum:08x}".encode()


def check_whole(path: Path) -> None:
    """Raise an ArtifactError where a file does not end as its content says: ExecuTorch may crash on a damaged one."""
    length = len(ending(0))
    try:
        with path.open("rb") as file:
            rest = max(0, path.stat().st_size - length)
            checksum = 0
            while chunk := file.read(min(rest, _CHUNK)):
                checksum = zlib.crc32(chunk, checksum)
                rest -= len(chunk)
            end = file.read()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error
    if not end.startswith(_MARK):
        raise ArtifactError(
            f"{path} does not end as a file of adaptive-depth does: it is truncated, or another program wrote it; "
            "export it again with adaptive-depth export RUN --to executorch"
        )
    if end != ending(checksum):
        raise ArtifactError(f"{path} does not have the checksum that stands at its end: it is damaged; export it again")


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


class _Option(ctypes.Structure):
    """`executorch::runtime::BackendOption`: a name, and a variant of a boolean, an integer and a text."""

    _fields_ = [("key", ctypes.c_char * 64), ("value", ctypes.c_ubyte * 256), ("kind", ctypes.c_uint32)]


class _Room(ctypes.Structure):
    """An option, with room behind it for a build in which it is larger."""

    _fields_ = [("option", _Option), ("room", ctypes.c_ubyte * 4096)]


class _Span(ctypes.Structure):
    _fields_ = [("data", ctypes.POINTER(_Room)), ("length", ctypes.c_size_t)]


_BOOLEAN, _TEXT = 0, 2
_SYMBOL = "_ZN10executorch7runtime10{}_optionEPKcNS0_4SpanINS0_13BackendOptionEEE"


def share_weights() -> bool:
    """Ask XNNPACK to keep one packed copy of equal weights for all methods that are loaded from now on.

    It is off by default, and ExecuTorch's Python interface does not reach the option, its C++ library does. False
    where the library is built in another way: then nothing was changed.
    """
    spec = find_spec("executorch")
    folders = [] if spec is None else spec.submodule_search_locations or []
    for library in (file for folder in folders for file in Path(folder, "lib").glob("libexecutorch.*")):
        try:
            loaded = ctypes.CDLL(str(library))
            get, set_ = (getattr(loaded, _SYMBOL.format(name)) for name in ("get", "set"))
        except (OSError, AttributeError):
            continue
        if _asked(get, kind=_TEXT) is not None:  # the option exists, and is laid out as we expect
            return _asked(set_, kind=_BOOLEAN, value=1) is not None and _asked(get, kind=_TEXT) == 1
    return False


def _asked(call: Any, *, kind: int, value: int = 0) -> int | None:
    """The boolean after a call; None where it failed or the option is no boolean."""
    asked = _Room()
    asked.option.key, asked.option.kind, asked.option.value[0] = b"weight_cache_enabled", kind, value
    call.argtypes, call.restype = [ctypes.c_char_p, _Span], ctypes.c_uint32
    failed = call(b"XnnpackBackend", _Span(ctypes.pointer(asked), 1))
    return None if failed or asked.option.kind != _BOOLEAN else asked.option.value[0]
