"""One OpenVINO model with every depth: `model.xml`, and `model.bin` beside it, which stores each weight once.

It is one model with branches rather than a graph per depth with shared weights: OpenVINO compiles each graph
separately and folds norms into weights, so separate graphs would take the super-net's memory again for every depth
used, the single model hardly more than the super-net alone. `benchmarks/export_openvino.py` measures both.
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openvino
import torch
from torch.export import ExportedProgram

from ...core.network import AdaptiveNetwork
from ...errors import ExportError
from ...files import checksum, drafts, move
from ...modes import evaluating
from ..artifact import Artifact
from ..inputs import Example
from ..switching import Switching
from ..tracing import cannot_convert, exported, with_free_sides
from .branches import branched
from .run import CHECKSUM, DESCRIPTION


def write(network: AdaptiveNetwork, path: Path, example: Example, artifact: Artifact, *, form: str) -> None:
    """Write the depths of a network to one OpenVINO model.

    Any OpenVINO runtime reads it. Its inputs are `image`, of any batch size, and `skip`, booleans `[stages]` (True
    skips); its output is `logits`, or those that the artifact names.

    Arguments:
        network: an adapted network.
        path: the `.xml`; the weights go to the `.bin` of the same name beside it.
        example: an input `[batch, channels, height, width]`.
        artifact: the file's description: its `skips` are the depths, its `input_shape` says which sizes are free.
        form: `"shared"`, the only one: folded norms were no faster and took seven times the memory.

    Raises:
        ExportError: another form; an operator that OpenVINO does not have, with the block it came from.

    Example:
        >>> import adaptive_depth as ad, torch
        >>> network = ad.adapt(ad.create_model("resnet18", num_classes=10))
        >>> artifact = Artifact("openvino", network.stages.to_json(), network.skips, (None, 3, 64, 64))
        >>> write(network, Path("model.xml"), torch.zeros(1, 3, 64, 64), artifact, form="shared")  # doctest: +SKIP
    """
    if form != "shared":
        raise ExportError(
            f"form={form!r}: expected 'shared' for OpenVINO, whose kernels fuse norms, so that folding them gains "
            "nothing"
        )
    save(converted(network, example, artifact), path, artifact)


def converted(
    network: AdaptiveNetwork, example: Example, artifact: Artifact, *, keep_norms: bool = True
) -> openvino.Model:
    """The depths of a network as one OpenVINO model in memory; arguments and errors as for `write`.

    Arguments:
        keep_norms: keep norms that differ between depths separate from their layers, as in `branches.branched`.
    """
    with evaluating(network), torch.no_grad(), warnings.catch_warnings(), _root_logger_kept():
        warnings.simplefilter("ignore")  # deprecations inside the converters
        program = _exported(network, example, artifact)
        try:
            flat = openvino.convert_model(program)
        except Exception as error:
            raise cannot_convert("OpenVINO", [program], error) from error
    shapes = [[-1 if side is None else side for side in each.shape] for each in artifact.takes]
    flat.reshape(dict(zip(flat.inputs, [*shapes, [len(network.stages)]], strict=True)))
    return branched(flat, artifact, keep_norms=keep_norms)


def save(model: openvino.Model, path: Path, artifact: Artifact) -> None:
    """Write a model of every depth with its description; both files are replaced, or none if writing fails."""
    model.set_rt_info(json.dumps(artifact.to_json()), [DESCRIPTION])
    weights = path.with_suffix(".bin")
    with drafts(path.parent) as folder:
        new, new_weights = folder / "model.xml", folder / "model.bin"
        # The default would round weights to float16.
        openvino.save_model(model, new, compress_to_fp16=False)
        model.set_rt_info(checksum(new_weights), [CHECKSUM])
        openvino.save_model(model, new, compress_to_fp16=False)  # now with the checksum; same weights
        # Weights first: an old .xml beside new weights is noticed by its checksum.
        move(new_weights, weights)
        move(new, path)


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """Restore the root logger: if OpenVINO's converter fails, it leaves it at its own level."""
    root = logging.getLogger()
    level, filters, handlers = root.level, [*root.filters], [*root.handlers]
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters[:], root.handlers[:] = filters, handlers


def _exported(network: AdaptiveNetwork, example: Example, artifact: Artifact) -> ExportedProgram:
    skip = torch.zeros(len(network.stages), dtype=torch.bool)
    tensors, free = with_free_sides(example.tensors, artifact.takes)
    module = Switching(network, outputs=artifact.outputs, call=example.call)
    return exported(module, (*tensors, skip), dynamic_shapes=((*free, None),))  # of one parameter, *given
