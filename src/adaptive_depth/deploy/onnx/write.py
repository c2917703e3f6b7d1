"""One ONNX model with every depth: each stage's choice is an `If` node, and the skip is an input."""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir
import torch
from torch import Tensor, nn

from ...core.network import AdaptiveNetwork
from ...errors import ExportError
from ...files import write_atomically
from ..artifact import Artifact
from ..inputs import Example
from ..switching import Switching
from ..tracing import cannot_convert, exported, quiet, with_free_sides
from .branches import add_branches, move_constants
from .run import CHECKED, CHECKSUM, DESCRIPTION, SKIP, ending

LARGEST = 2**31 - 1  # bytes: the limit of protocol buffers


def write(network: AdaptiveNetwork, path: Path, example: Example, artifact: Artifact, *, form: str) -> None:
    """Write one ONNX model of all depths; the batch is free if the artifact's `input_shape` says so.

    Its inputs are `image`, float32 `[batch, channels, height, width]`, and `skip`, booleans `[stages]`, True where a
    stage is skipped; its output is `logits`, `[batch, classes]`, or those that the artifact names. Weights are stored
    once. The last metadata entry is a checksum of everything before it.

    Arguments:
        network: an adapted network.
        path: the file; replaced atomically.
        example: an input of the network.
        artifact: the file's description, for its metadata; with `"folded"`, only its `skips` give correct outputs.
        form: `"shared"`: norms that differ between depths are looked up. `"folded"`: each context has a branch with its
            own norms, which a runtime folds into copies of the convolutions when it loads the file.

    Raises:
        FixedBatchError: a network whose code fixes a batch that should be free.
        ExportError: an operator that ONNX does not have, with the block it came from; a model above 2 GB.
    """
    asked: Any = {"skips": artifact.skips, "outputs": artifact.outputs, "call": example.call}
    module = Switching(network, folded=form == "folded", **asked)
    tensors, free = with_free_sides(example.tensors, artifact.takes)
    examples = (*tensors, torch.zeros(len(network.stages), dtype=torch.bool))
    converted = convert(module, examples, (*free, None), [*example.call.names, SKIP], artifact.outputs)
    # Branches come first: an optimiser would hoist equal first convolutions out of them, away from their norms.
    graph = converted.model.graph
    add_branches(graph, next(value for value in graph.inputs if value.name == SKIP))
    converted.optimize()
    move_constants(graph)
    converted.model.metadata_props[CHECKED] = "crc32"
    converted.model.metadata_props[DESCRIPTION] = json.dumps(artifact.to_json())
    save(converted.model, path)


def convert(
    module: nn.Module, examples: tuple[Tensor, ...], free: Any, inputs: Sequence[str], outputs: Sequence[str]
) -> Any:
    """A module as torch's ONNX program, before optimisation.

    Raises:
        FixedBatchError, ExportError: as for `write`.
    """
    with torch.no_grad(), quiet():
        program = exported(module, examples, dynamic_shapes=(free,))  # of one parameter, *inputs
        try:
            converted = torch.onnx.export(
                program,
                input_names=[*inputs],
                output_names=[*(outputs or ("logits",))],
                dynamo=True,
                optimize=False,
                verbose=False,
            )
        except Exception as error:
            raise cannot_convert("ONNX", [program], error) from error
    assert converted is not None
    shape = converted.model.graph.inputs[0].shape
    batch = shape[0] if shape else None
    if isinstance(batch, onnx_ir.SymbolicDim):
        converted.rename_axes({batch: "batch"})  # the exporter calls it s77 or similar
    return converted


def save(model: onnx_ir.Model, path: Path) -> None:
    """Write a model with a checksum at its end, replacing an earlier one.

    Raises:
        ExportError: a model above 2 GB.
    """
    model.metadata_props.pop(CHECKSUM, None)  # it must come last
    proto = onnx_ir.to_proto(model)
    size = proto.ByteSize() + len(ending("0" * 8))
    if size > LARGEST:
        raise ExportError(f"the model has {size / 1e9:.1f} GB, but an ONNX file at most 2: export to openvino")
    content = proto.SerializeToString()
    write_atomically(path, content + ending(f"{zlib.crc32(content):08x}"))
