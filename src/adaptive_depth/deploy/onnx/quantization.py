"""A network → a folder of int8 models for ONNX Runtime, one for each depth, with one file of weights.

Each depth is a plain model with its own activation ranges, whose norms are folded into its convolutions before it is
quantised. What several depths share is stored once.
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from ...core.network import AdaptiveNetwork
from ...errors import ExportError, one_line
from ...tasks import as_task
from ..artifact import Artifact
from ..judging import Images, checked, judge, parted
from ..tracing import Outputs, with_free_sides
from .files import Weights
from .run import CPU, IMAGE, FilesBackend
from .write import convert

_LAYERS = ("Conv", "Gemm", "MatMul")


def quantize(
    network: AdaptiveNetwork,
    path: Path,
    images: Any,
    artifact: Artifact,
    *,
    labelled: Iterable[Any] | None = None,
    task: Any = None,
) -> Artifact:
    """Write the folder; arguments, return value and errors as for OpenVINO's `quantize`.

    The layers that read the image stay in float: they are cheap, and all later ones depend on their precision.
    """
    images, judged = checked(images, artifact), as_task(task)
    artifact = replace(artifact, kind="onnx", form="folded", precision="int8")
    path.mkdir(exist_ok=True)
    tensors, free = with_free_sides([torch.from_numpy(images[:1])], artifact.takes)
    with Weights(path) as weights, tempfile.TemporaryDirectory() as temporary:
        for skip in artifact.skips:
            module = Outputs(network.extract(skip), artifact.outputs).eval()
            converted = convert(module, tensors, free, [IMAGE], artifact.outputs)
            converted.optimize()  # folds the norms
            model = _quantized(converted.model, images, Path(temporary))
            weights.store(model.graph)
            onnx_ir.save(model, path / f"{skip}.onnx")
    if labelled is not None:
        backend = FilesBackend(path, artifact, None, (CPU,))
        artifact = judge(artifact, backend.run, network, images[:1], labelled, judged, in_float=task is not None)
    return artifact


class _Reader(CalibrationDataReader):
    """Images in parts."""

    def __init__(self, images: Images) -> None:
        self._parts = iter(parted(images))

    def get_next(self) -> Any:
        part = next(self._parts, None)
        return None if part is None else {IMAGE: part}


def _quantized(model: onnx_ir.Model, images: Images, folder: Path) -> onnx_ir.Model:
    first = [node for value in model.graph.inputs for node in value.consumers() if node.op_type in _LAYERS]
    in_float, prepared, quantised = (folder / f"{name}.onnx" for name in ("float", "prepared", "int8"))
    onnx_ir.save(model, in_float)
    try:
        with _quiet():
            quant_pre_process(str(in_float), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(quantised),
                _Reader(images),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                # Unsigned activations and signed weights: the combination with the fastest kernels on x86.
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=[node.name or "" for node in first],
            )
    except Exception as error:
        raise ExportError(f"ONNX Runtime cannot quantise the network: {one_line(error)[:300]}") from error
    return onnx_ir.load(quantised)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence its advice to pre-process models, which was already followed."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.root.setLevel(level)
