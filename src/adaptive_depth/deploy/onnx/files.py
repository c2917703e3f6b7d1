"""A folder with a plain ONNX model for each depth and one file of weights: for runtimes where an `If` is slow.

`TTFF.onnx` and so on have `image` as their only input. Tensors that several depths share are stored once in
`weights.bin`, which all of them reference as external data.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir
from onnxscript import optimizer

from ...core.network import AdaptiveNetwork
from ..artifact import Artifact
from ..inputs import Example
from ..session import WEIGHTS, Session, open_session
from ..sidecar import write_sidecar
from ..tracing import Outputs, with_free_sides
from .write import convert

_SMALL = 1024  # bytes: smaller tensors stay in the model
_ALIGNED = 4096  # so that a runtime may map the file into memory


def write(network: AdaptiveNetwork, path: Path, example: Example, artifact: Artifact, *, form: str) -> None:
    """Write the folder.

    Arguments:
        network: an adapted network.
        path: a folder that does not exist.
        example: an input of the network; the batch is free if the artifact's `input_shape` says so.
        artifact: the folder's description; its `skips` are the depths.
        form: `"folded"`: each depth is a plain network, and a runtime folds its norms.

    Raises:
        FixedBatchError: a network whose code fixes a batch that should be free.
        ExportError: an operator that ONNX does not have, with the block it came from.
    """
    path.mkdir(exist_ok=True)
    tensors, free = with_free_sides(example.tensors, artifact.takes)
    with Weights(path) as weights:
        for skip in artifact.skips:
            module = Outputs(network.extract(skip), artifact.outputs, example.call).eval()
            converted = convert(module, tensors, free, example.call.names, artifact.outputs)
            # Not `converted.optimize()`: it folds norms into convolutions, which would then differ at every depth.
            optimizer.fold_constants(converted.model)
            optimizer.remove_unused_nodes(converted.model)
            weights.store(converted.model.graph)
            onnx_ir.save(converted.model, path / f"{skip}.onnx")
    write_sidecar(path, replace(artifact, kind="onnx", form=form))


class Weights:
    """The file of weights in a folder; a tensor that it already has is referenced, not written again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[Any, int] = {}

    def __enter__(self) -> "Weights":
        self._file = (self._folder / WEIGHTS).open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def store(self, graph: onnx_ir.Graph) -> None:
        """Move the larger tensors of a graph into the file."""
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.nbytes < _SMALL:
                continue
            content = tensor.tobytes()
            # The shape is not part of the key, because each reference states its own.
            key = (tensor.dtype, hashlib.sha256(content).digest())
            if key not in self._places:
                self._file.write(bytes(-self._file.tell() % _ALIGNED))
                self._places[key] = self._file.tell()
                self._file.write(content)
            place, name, shape = self._places[key], value.name or "", onnx_ir.Shape(tensor.shape.numpy())
            value.const_value = onnx_ir.ExternalTensor(
                WEIGHTS, place, len(content), tensor.dtype, shape=shape, name=name, base_dir=self._folder
            )


def open_written(path: Path) -> Session:
    """A session for the folder."""
    return open_session(path)
