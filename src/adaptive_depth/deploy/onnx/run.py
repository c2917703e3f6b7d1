"""Sessions for an ONNX model with every depth, run by ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import onnxruntime

from ...errors import ArtifactError, one_line
from ...files import checksum
from ..artifact import INPUTS, Artifact
from ..session import Arrays
from ..sidecar import read_sidecar

DESCRIPTION = "adaptive_depth"  # the name of the description in the model's metadata
IMAGE, SKIP = INPUTS

CHECKED = "adaptive_depth_checked"  # marks a file with a checksum at its end; those of version 0.1 have none
CHECKSUM = "adaptive_depth_checksum"
CPU = "CPUExecutionProvider"
_ERRORS_ONLY = 3


def open_backend(
    source: Any, *, threads: int | None, backend: str, providers: Sequence[Any] = (CPU,)
) -> "OnnxBackend | FilesBackend":
    """The backend of a session; see `open_session`.

    Arguments:
        source: the path of an `.onnx` that `adaptive-depth export` wrote, or of a folder with one for each depth.
        threads: of one call; by default one per core.
        backend: `"onnxruntime"`.
        providers: names, or pairs of a name and options, the preferred one first.

    Raises:
        ArtifactError: not a path, a file that is truncated or foreign, an unavailable provider.
    """
    if not isinstance(source, str | Path):
        raise ArtifactError(
            f"{backend} received a {type(source).__name__}: expected the path of an .onnx file; adaptive-depth export "
            "RUN --to onnx writes one"
        )
    _check_providers(providers)
    path = Path(source)
    if path.is_dir():
        return FilesBackend(path, read_sidecar(path), threads, providers)
    checked = _is_whole(path)
    session = _opened(path, threads, providers)
    try:
        said = session.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError as error:
        raise ArtifactError(
            f"the metadata of {path} cannot be read ({error}): it is damaged; export it again"
        ) from error
    if CHECKED in said and not checked:
        raise ArtifactError(
            f"{source} does not match the checksum that its export put at its end: it is damaged, or another tool "
            f"rewrote it; export it again, or remove the entries {CHECKED} and {CHECKSUM} from its metadata if the "
            "change was intended"
        )
    described = said.get(DESCRIPTION)
    if described is None:
        raise ArtifactError(
            f"{source} was not written by this library: expected a file that adaptive-depth export wrote"
        )
    return OnnxBackend(session, Artifact.from_json(described, source))


def _check_providers(providers: Sequence[Any]) -> None:
    there = onnxruntime.get_available_providers()
    for each in providers:
        name = each[0] if isinstance(each, tuple | list) and each else each
        if name not in there:
            raise ArtifactError(
                f"providers={list(providers)!r}: {name!r} is not in this onnxruntime, which has {', '.join(there)}; "
                "others come with other packages, such as onnxruntime-gpu in its place"
            )


def _opened(path: Path, threads: int | None, providers: Sequence[Any]) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # its exception classes share no other base
        raise ArtifactError(
            f"{path} cannot be loaded ({one_line(error)[:300]}): it is truncated, or not an ONNX model; export it again"
        ) from error


def ending(digits: str) -> bytes:
    """The last bytes of a file, for the checksum of everything before them: one more entry of its metadata."""
    name, value = CHECKSUM.encode(), digits.encode()
    entry = b"\x0a" + bytes([len(name)]) + name + b"\x12" + bytes([len(value)]) + value
    # Field 14 of ModelProto in protobuf encoding; repeated fields may be anywhere, even at the very end.
    return b"\x72" + bytes([len(entry)]) + entry


def _is_whole(path: Path) -> bool:
    """Whether a file ends with the checksum of its content; ONNX Runtime would compute with damaged weights."""
    length = len(ending("0" * 8))
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - length))
            end = file.read()
        return end == ending(checksum(path, but_the_last=length))
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error


class OnnxBackend:
    """A model that takes its skip with each call. Threads may share it."""

    def __init__(self, session: onnxruntime.InferenceSession, artifact: Artifact) -> None:
        self.artifact = artifact
        self._session = session
        self._flags = {skip: np.array([flag == "T" for flag in skip]) for skip in artifact.skips}

    def run(self, x: Any, skip: str) -> Arrays:
        """The output of one depth for `[batch, channels, height, width]`: `[batch, classes]` for a classifier."""
        wanted = self.artifact.outputs or None
        return self.artifact.named(self._session.run(wanted, {**self.artifact.fed(x), SKIP: self._flags[skip]}))


class FilesBackend:
    """A folder with a file for each depth, which share their weights on disk. Threads may share it.

    A depth is opened on first use, which takes as long as opening a plain model; `Session.warm_up` opens all. Open
    depths have separate copies of those weights in memory that ONNX Runtime lays out again.
    """

    def __init__(self, path: Path, artifact: Artifact, threads: int | None, providers: Sequence[Any]) -> None:
        self.artifact = artifact
        self._path, self._threads, self._providers = path, threads, providers
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._lock = Lock()

    def run(self, x: Any, skip: str) -> Arrays:
        """The output of one depth for `[batch, channels, height, width]`: `[batch, classes]` for a classifier."""
        with self._lock:
            if skip not in self._sessions:
                self._sessions[skip] = _opened(self._path / f"{skip}.onnx", self._threads, self._providers)
            session = self._sessions[skip]
        return self.artifact.named(session.run(self.artifact.outputs or None, self.artifact.fed(x)))
