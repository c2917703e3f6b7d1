"""Sessions for an OpenVINO model of every depth, `model.xml` with `model.bin` beside it."""

from collections.abc import Sequence
from pathlib import Path
from threading import local
from typing import Any

import numpy as np
import openvino

from ...errors import ArtifactError, one_line
from ...files import checksum
from ..artifact import Artifact
from ..session import Arrays

DESCRIPTION, CHECKSUM = "adaptive_depth", "adaptive_depth_weights"  # keys in the .xml's `rt_info`
_CHANNELS = 16  # per block in the CPU plugin's int8 kernels


def open_backend(
    source: Any, *, threads: int | None, backend: str, providers: Sequence[str] = ("CPU",)
) -> "OpenVINOBackend":
    """The backend of a session; see `open_session`.

    Arguments:
        source: the path of the `.xml` that `adaptive-depth export` wrote; its `.bin` is beside it.
        threads: CPU threads of one call; by default all cores.
        backend: `"openvino"`.
        providers: one device, such as `"CPU"`, `"GPU.1"` or `"AUTO:GPU,CPU"`.

    Raises:
        ArtifactError: not a path, or a file that is missing, truncated, damaged or foreign.
        ImportError: OpenVINO is not installed.
    """
    if not isinstance(source, str | Path):
        raise ArtifactError(
            f"{backend} received a {type(source).__name__}: expected the path of an .xml file; adaptive-depth export "
            "RUN --to openvino writes one"
        )
    if len(providers) != 1 or not isinstance(providers[0], str):
        raise ArtifactError(f"providers={list(providers)!r} for openvino: expected one device, or 'AUTO:GPU,CPU'")
    return OpenVINOBackend(Path(source), threads, providers[0])


class OpenVINOBackend:
    """An OpenVINO model with every depth, compiled once for a device. Threads may share it.

    Calls from several threads are serialised, each on all CPU threads of the session. Everything is computed in
    float32, or in int8 if the file says so, even if the processor has a faster, less exact precision.

    An int8 convolution whose channels are not a multiple of 16 (MobileNetV2 has some) runs on one thread: with several,
    OpenVINO 2026.4 returns wrong outputs for some images of a batch in some calls, even for stock models.

    Attributes:
        artifact: the file's description.
    """

    def __init__(self, path: Path, threads: int | None, device: str = "CPU") -> None:
        core = openvino.Core()
        if device != "CPU":  # enumerating devices loads every plugin
            _check_device(device, core.available_devices)
        model, self.artifact = _read(core, path)
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if self.artifact.precision == "int8" and _has_partial_blocks(model):
            threads = 1
        if threads is not None and device == "CPU":
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            self._compiled = core.compile_model(model, device, settings)
        except RuntimeError as error:
            raise ArtifactError(f"OpenVINO cannot run {path} here: {one_line(error)[:300]}") from error
        self._own = local()

    def run(self, x: Any, skip: str) -> Arrays:
        """The output of one depth for `[batch, channels, height, width]`: `[batch, classes]` for a classifier."""
        request: openvino.InferRequest | None = getattr(self._own, "request", None)
        if request is None:  # per thread: two threads must not share one
            request = self._own.request = self._compiled.create_infer_request()
        flags = np.array([letter == "T" for letter in skip])
        # Outputs are copied: this thread's next call overwrites the request's buffers.
        found = request.infer({**self.artifact.fed(x), "skip": flags}, share_inputs=True, share_outputs=False)
        return self.artifact.named([found[name] for name in self.artifact.outputs or ("logits",)])


def _check_device(device: str, there: Sequence[str]) -> None:
    """Raise if a device, or one of those in `AUTO:GPU,CPU`, is unavailable."""
    if missing := [each for each in device.rpartition(":")[2].split(",") if each.partition(".")[0] not in there]:
        raise ArtifactError(f"device {missing[0]!r} is unavailable: expected some of {', '.join(there)}")


def _has_partial_blocks(model: openvino.Model) -> bool:
    """Whether any convolution, in a branch or outside, has channels that do not fill whole blocks."""
    for operation in model.get_ops():
        kind = operation.get_type_name()
        if kind == "If" and any(_has_partial_blocks(operation.get_function(branch)) for branch in (0, 1)):
            return True
        if "Convolution" in kind and operation.get_output_partial_shape(0)[1].get_length() % _CHANNELS:
            return True
    return False


def _read(core: openvino.Core, path: Path) -> tuple[openvino.Model, Artifact]:
    """The model and its description, after checking that its weights were written with it."""
    weights = path.with_suffix(".bin")
    if not weights.exists():
        raise ArtifactError(f"{path} needs its weights, {weights.name}, beside it: copy both files")
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        raise ArtifactError(
            f"{path} cannot be read ({one_line(error)[:200]}): it or {weights.name} is damaged, or no OpenVINO model"
        ) from error
    if not model.has_rt_info([DESCRIPTION]) or not model.has_rt_info([CHECKSUM]):
        raise ArtifactError(f"{path} was not written by this library: expected a file that adaptive-depth export wrote")
    artifact = Artifact.from_json(model.get_rt_info([DESCRIPTION]).astype(str), path)
    if checksum(weights) != model.get_rt_info([CHECKSUM]).astype(str):
        raise ArtifactError(f"{weights} was not written with {path.name}: it is damaged, or from another export")
    return model, artifact
