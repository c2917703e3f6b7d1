"""One `.pte` file with a method for each depth, for ExecuTorch with the XNNPACK backend."""

import json
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch.export import ExportedProgram

from ...core.network import AdaptiveNetwork
from ...errors import ExportError
from ...files import write_atomically
from ...modes import evaluating
from ..artifact import Artifact
from ..inputs import Example
from ..tracing import Outputs, cannot_convert, exported
from .run import DESCRIPTION, ending
from .scale_and_shift import unfolded


def write(network: AdaptiveNetwork, path: Path, example: Example, artifact: Artifact, *, form: str) -> None:
    """Write the depths of a network to one `.pte`, each as a method named after its skip.

    Any ExecuTorch runtime with XNNPACK runs it: `program.load_method("TTFF").execute([x])`. The method `artifact`
    returns the description as JSON. The last 23 bytes are a checksum, which ExecuTorch does not read.

    Arguments:
        network: an adapted network, on the CPU.
        path: the file, `.pte` by convention; replaced atomically.
        example: an input `[batch, channels, height, width]`; the file takes inputs of exactly this shape.
        artifact: the file's description; its `skips` are the depths.
        form: `"shared"`, BatchNorms that differ between depths stay separate from their convolutions, which are stored
            once; or `"folded"`, every BatchNorm is folded into its own convolution. Other norms are the same in both.

    Raises:
        ExportError: an unknown form; an operator that ExecuTorch does not have, with the block it came from.

    Example:
        >>> import adaptive_depth as ad, torch
        >>> network = ad.adapt(ad.create_model("resnet18", num_classes=10))
        >>> skips = ("FFFF", "TTTT")
        >>> artifact = Artifact("executorch", network.stages.to_json(), skips, (1, 3, 64, 64))
        >>> write(network, Path("model.pte"), torch.zeros(1, 3, 64, 64), artifact, form="shared")  # doctest: +SKIP
    """
    if form not in ("shared", "folded"):
        raise ExportError(f"form={form!r}: expected 'shared' or 'folded'")
    with evaluating(network), torch.no_grad():
        modules = (
            unfolded(network, artifact.skips)
            if form == "shared"
            else {skip: network.subnet(skip) for skip in artifact.skips}
        )
        programs = {
            skip: exported(Outputs(module, artifact.outputs, example.call), example.tensors)
            for skip, module in modules.items()
        }
    content = _lowered(programs, json.dumps(artifact.to_json()))
    write_atomically(path, content + ending(f"{zlib.crc32(content):08x}"))


def _lowered(programs: Mapping[str, ExportedProgram], description: str) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "experimental", deprecations inside ExecuTorch
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        try:
            edge = to_edge_transform_and_lower(
                dict(programs), partitioner=[XnnpackPartitioner()], constant_methods={DESCRIPTION: description}
            )
            return edge.to_executorch().buffer
        except Exception as error:
            raise cannot_convert("ExecuTorch", programs.values(), error) from error
