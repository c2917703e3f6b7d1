"""One small interface to everything that runs a network with many depths."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import AdaptiveDepthError, ArtifactError, DataError, SkipError
from ..packages import hint
from ..registry import Registry
from ..skip import Skip, parse_skip
from .artifact import FILE, Artifact, Input

WEIGHTS = "weights.bin"  # in a folder with one file per depth
Arrays = NDArray[np.float32] | dict[str, NDArray[np.float32]]  # one output, or several by name


class Backend(Protocol):
    """Runs the computation. Inputs and skips are already checked; several threads may call it at once."""

    artifact: Artifact

    def run(self, x: Any, skip: str) -> Arrays:
        """The output of one depth for an array `[batch, channels, height, width]`, `[batch, classes]` for a classifier;
        for a file with `inputs`, `x` is a dictionary of arrays by name.
        """
        ...


@dataclass(frozen=True)
class Runtime:
    """Opens a network with many depths.

    Attributes:
        module: the one of this package whose `open_backend(source, threads=..., backend=...)` opens it; imported on
            demand.
        extra: of this package, with what the module needs.
        suffix: of the files that it opens; empty if it opens a network.
        providers: what `providers` of `open_session` selects; empty if a backend has none.
    """

    module: str
    extra: str = "train"
    suffix: str = ""
    providers: str = ""


BACKENDS: Registry[Runtime] = Registry("backend", ArtifactError)
BACKENDS.register("eager")(Runtime("torch.run"))
BACKENDS.register("compiled")(Runtime("torch.run"))
BACKENDS.register("onnxruntime")(Runtime("onnx.run", "onnx", ".onnx", "execution providers"))
BACKENDS.register("openvino")(Runtime("openvino.run", "openvino", ".xml", "devices"))
BACKENDS.register("executorch")(Runtime("executorch.run", "executorch", ".pte"))


class Session:
    """A network with many depths, ready to run; made by `open_session`. Threads may share one.

    Attributes:
        artifact: the file's description: depths, labels, preprocessing, trade-offs. If a network is a detector, its
            `detections` are those of the size that ran last, and None before that.
        backend: its name.
    """

    def __init__(self, backend: str, opened: Backend) -> None:
        self.backend = backend
        self._opened = opened
        # A network of the user's own says itself what does not fit; nothing describes its inputs.
        self._takes_any = getattr(opened, "takes_any", False)

    @property
    def artifact(self) -> Artifact:
        return self._opened.artifact

    @property
    def skips(self) -> tuple[str, ...]:
        """The depths that it can run, super-net first."""
        return self.artifact.skips

    def __call__(self, x: Any, skip: Skip | None = None) -> Any:
        """The output of one depth.

        Arguments:
            x: `[batch, channels, height, width]`, an array or a CPU tensor, taken as float32. For a file with other
                inputs (`artifact.inputs`), a dictionary of them by name, or the only one. For a network, whatever its
                forward takes: an array, a tuple (positional arguments) or a dictionary (keyword arguments).
            skip: which depth, such as `"TTFF"`; by default the deepest that the session has.

        Returns:
            The output, an array, `[batch, classes]` for a classifier; if the network returns several, a dictionary of
            arrays by name (`artifact.outputs`).

        Raises:
            SkipError: a skip that does not fit the stages, or a depth that was not exported.
            DataError: an input of another shape.
            ArtifactError: the backend failed.
        """
        depth = self.skips[0] if skip is None else skip
        # A valid skip is not parsed, because this runs for every input.
        if not isinstance(depth, str) or depth not in self.skips:
            depth = parse_skip(depth, len(self.artifact.stages))
            if depth not in self.skips:
                raise SkipError(f"skip {depth!r} is not in this file: expected one of {', '.join(self.skips)}")
        array = self._checked(x)
        try:
            return self._opened.run(array, depth)
        except AdaptiveDepthError:
            raise
        except Exception as error:
            said = " ".join(str(error).split())[:300] or type(error).__name__
            shapes = ", ".join(str(list(part.shape)) for part in _parts(array))
            raise ArtifactError(f"{self.backend} failed at depth {depth} with input {shapes}: {said}") from error

    def _checked(self, x: Any) -> Any:
        inputs = self.artifact.inputs
        if self.artifact.preprocessing is not None and str(getattr(x, "dtype", "")) in ("uint8", "torch.uint8"):
            raise DataError(
                "a session received pixels (uint8): expected what prepare(image, session.artifact.preprocessing) "
                "returns, in a batch, prepare(...)[None]"
            )
        if self._takes_any and (isinstance(x, Mapping | tuple) or np.ndim(x) != 4):
            return _as_given(x)
        if not inputs:
            return _array_of(x, self.artifact.takes[0], "an input")
        given = x if isinstance(x, Mapping) else {inputs[0].name: x} if len(inputs) == 1 else None
        names = [each.name for each in inputs]
        if given is None or {*given} != {*names}:
            received = f"a {type(x).__name__}" if given is None else f"inputs named {', '.join(map(str, given))}"
            raise DataError(f"a session received {received}: expected a dictionary with {', '.join(names)}")
        arrays = {each.name: _array_of(given[each.name], each, repr(each.name)) for each in inputs}
        sizes = {len(arrays[each.name]) for each in inputs if each.shape and each.shape[0] is None}
        if len(sizes) > 1:
            found = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
            raise DataError(f"a session received inputs of different batch sizes ({found}): expected the same size")
        return arrays

    def warm_up(self, skips: Iterable[Skip] | None = None, passes: int = 2) -> None:
        """Run depths on one sample of zeros to get one-time work done; all depths by default."""
        empty = {each.name: np.zeros([side or 1 for side in each.shape], each.dtype) for each in self.artifact.takes}
        zeros: Any = empty if self.artifact.inputs else next(iter(empty.values()))
        try:
            for skip in self.skips if skips is None else [skips] if isinstance(skips, str) else skips:
                for _ in range(passes):
                    self(zeros, skip)
        except ArtifactError as error:
            if not self._takes_any:
                raise
            raise DataError(
                f"warm_up tried an image, which this network does not take ({error}): run each depth once on an input "
                "of yours, session(x, skip)"
            ) from error

    def __repr__(self) -> str:
        return f"Session of {self.backend}: {self.artifact}"


def open_session(
    source: Any,
    *,
    backend: str | None = None,
    threads: int | None = None,
    providers: str | Sequence[Any] | None = None,
) -> Session:
    """A session for an exported file or a network.

    Arguments:
        source: what `export` wrote (`model.onnx`, `model.xml`, `model.pte`, the folder of onnx-files), or an adapted
            network.
        backend: one of `BACKENDS`; by default implied by the file's name, or `eager` for a network.
        threads: CPU threads of one call; by default the backend's own choice.
        providers: where it runs, by the runtime's own names: execution providers of ONNX Runtime, the preferred one
            first (`["CUDAExecutionProvider", "CPUExecutionProvider"]`, or pairs of a name and its options), or a device
            of OpenVINO (`"GPU"`, `"NPU"`). The CPU by default; a network runs where its weights are.

    Raises:
        ArtifactError: a file that is missing, truncated or foreign; a backend that is unknown, does not match the
            source or is not installed (the message says what to install); a provider that is unavailable.
    """
    if isinstance(source, str | Path) and not Path(source).exists():
        raise ArtifactError(f"{source} does not exist: expected a file that adaptive-depth export wrote")
    name = _backend_of(source) if backend is None else backend
    runtime = BACKENDS.take(name)
    if threads is not None and not (isinstance(threads, int) and threads >= 1):
        raise ArtifactError(f"threads={threads!r}: expected a whole number of at least 1")
    most = 8 * (os.cpu_count() or 1)  # with far more, a runtime starts them for minutes
    if threads is not None and threads > most:
        raise ArtifactError(f"threads={threads}: expected at most {most} on a machine with {os.cpu_count()} processors")
    given: dict[str, Any] = {}
    if providers is not None:
        if not runtime.providers:
            raise ArtifactError(
                f"providers={providers!r} for {name}: it runs where its network is; leave it out, or export to onnx or "
                "openvino"
            )
        given["providers"] = [providers] if isinstance(providers, str) else list(providers)
        if not given["providers"]:
            raise ArtifactError(f"providers=[] is empty: expected {runtime.providers} of {name}")
    try:
        opener: Callable[..., Backend] = import_module(f".{runtime.module}", __package__).open_backend
        return Session(name, opener(source, threads=threads, backend=name, **given))
    except ImportError as error:
        raise ArtifactError(f"{name} needs {hint(error, runtime.extra)}") from error


def _as_given(x: Any) -> Any:
    """Arrays in a dictionary, a tuple or alone; floats as float32."""
    if isinstance(x, Mapping):
        return {str(name): _as_given(value) for name, value in x.items()}
    if isinstance(x, tuple):
        return tuple(map(_as_given, x))
    array = _as_array(x)
    kept = array if array.dtype.kind in "iub" else _as_array(array, np.float32)
    return np.ascontiguousarray(kept) if kept.ndim else kept


def _as_array(x: Any, dtype: Any = None) -> NDArray[Any]:
    try:
        return np.asarray(x, dtype=dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"a session received a {type(x).__name__} that is not an array ({error})") from error


def _parts(x: Any) -> list[NDArray[Any]]:
    """The arrays of an input."""
    return [*x.values()] if isinstance(x, Mapping) else [*x] if isinstance(x, tuple) else [x]


def _array_of(x: Any, wanted: Input, what: str) -> NDArray[Any]:
    """An input as an array of the type that the file takes.

    Raises:
        DataError: no array, another shape, or numbers that would change with their type, such as 0.5 as an integer.
    """
    array = _as_array(x, np.float32 if wanted.dtype == "float32" else None)
    if array.dtype != wanted.dtype and array.dtype.kind not in ("b" if wanted.dtype == "bool" else "iub"):
        raise DataError(f"a session received {what} as {array.dtype}: expected {wanted.dtype}")
    # ascontiguousarray makes a scalar `[1]`, so the shape of a single number is put back after it.
    array = np.ascontiguousarray(array, dtype=wanted.dtype)
    if not wanted.shape and array.size == 1:
        array = array.reshape(())
    fits = array.ndim == len(wanted.shape) and all(
        size > 0 and side in (None, size) for side, size in zip(wanted.shape, array.shape, strict=True)
    )
    if not fits:
        shape = ", ".join(
            "batch" if side is None and not i else "any" if side is None else str(side)
            for i, side in enumerate(wanted.shape)
        )
        raise DataError(f"a session received {what} of shape {list(array.shape)}: expected [{shape}]")
    return array


def _backend_of(source: Any) -> str:
    if not isinstance(source, str | Path):
        return "eager"
    path = Path(source)
    by_suffix = {runtime.suffix: name for name, runtime in BACKENDS.items() if runtime.suffix}
    endings = ", ".join(sorted(by_suffix))
    if path.is_dir():
        if (path / FILE).is_file() and (path / WEIGHTS).is_file():
            return "onnxruntime"
        raise ArtifactError(
            f"{path} is a folder: expected a file that ends in {endings}, or a folder of onnx-files. Programs of torch "
            "are for torch.export.load, which runs code that it reads; for a run, open the network: "
            "open_session(load(...))"
        )
    if path.suffix not in by_suffix:
        raise ArtifactError(f"{path} has an unknown ending: expected {endings}")
    return by_suffix[path.suffix]
