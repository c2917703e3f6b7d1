"""A folder with programs of torch: for each depth a `torch.export` program and plain weights, and AOTInductor packages.

These files are for users of torch: in C++ (AOTInductor), in other tools (`torch.export`), or in a timm or torchvision
class of that depth. Each depth has its own weights. No session of this library opens them, because
`torch.export.load` unpickles what it reads: load only files that you trust.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ...core.network import AdaptiveNetwork
from ...errors import ExportError, one_line
from ...skip import Skip, parse_skip
from ..artifact import FILE, Artifact
from ..inputs import Example
from ..session import Arrays, Session
from ..tracing import MOST_SAID, Outputs, exported, with_free_sides


def write(
    network: AdaptiveNetwork, path: Path, example: Example, artifact: Artifact, *, form: str, compiled: bool = False
) -> None:
    """Write a folder with `TTFF.pt2` and `TTFF.safetensors` for each depth, and `artifact.json`.

    Arguments:
        network: an adapted network, on the device on which the programs will run.
        path: a folder that does not exist.
        example: an input of the network; the programs' batch is free if the artifact's `input_shape` says so.
        artifact: the folder's description; its `skips` are the depths.
        form: `"folded"`: every program is a plain network of its depth.
        compiled: also write `TTFF.aoti.pt2`, packages of machine code for this kind of processor (AOTInductor), which
            requires a C++ compiler and about a minute per depth.

    Raises:
        FixedBatchError: a network whose code fixes a batch that should be free.
        ExportError: code that `torch.export` cannot trace, with the block it is in; no working compiler.
    """
    if form != "folded":
        raise ExportError(f"form={form!r} for torch: expected 'folded', because each depth is a separate network")
    path.mkdir(exist_ok=True)
    tensors, free = with_free_sides(example.tensors, artifact.takes)
    for skip in artifact.skips:
        module = Outputs(network.extract(skip), artifact.outputs, example.call).eval()
        with torch.no_grad():
            program = exported(module, tensors, dynamic_shapes=(free,))  # of one parameter, *inputs
        torch.export.save(program, path / f"{skip}.pt2")
        # Required by transformers.
        save_file(plain_state_dict(network, skip), path / f"{skip}.safetensors", metadata={"format": "pt"})
        if compiled:
            _compile(program, path / f"{skip}.aoti.pt2")
    (path / FILE).write_text(json.dumps(artifact.to_json()))


def open_written(path: Path) -> Session:
    """A session for what `write` has just written; for other folders, see the warning above."""
    return Session("torch", _Programs(path))


def plain_state_dict(network: AdaptiveNetwork, skip: Skip) -> dict[str, Tensor]:
    """The weights of one depth under the names that an ordinary network of that depth gives them.

    Blocks after an omitted one move up: in a ViT with 12 blocks, `blocks.3` of the base-net becomes `blocks.2` of a ViT
    with 8. A timm or torchvision class built with that many blocks loads it unchanged, such as
    `ResNet(Bottleneck, [2, 2, 3, 2])` for the base-net of ResNet-50.

    Arguments:
        network: an adapted network.
        skip: which depth.

    Returns:
        Tensors by name, on the CPU, independent of the network.

    Raises:
        SkipError: a skip that does not fit the stages.
        ExportError: modules with an extra state that is not a tensor.

    Example:
        >>> import adaptive_depth as ad, timm
        >>> net = ad.adapt(timm.create_model("vit_tiny_patch16_224"))
        >>> plain = timm.create_model("vit_tiny_patch16_224", depth=8)
        >>> plain.load_state_dict(plain_state_dict(net, "TTTT"))
        <All keys matched successfully>
    """
    letters = parse_skip(skip, len(network.stages))
    left_out = [
        path for stage, flag in zip(network.stages, letters, strict=True) if flag == "T" for path in stage.skippable
    ]
    names = _moved_up(network.model, left_out)
    weights = network.extract(letters).state_dict()
    if extra := [name for name, value in weights.items() if not isinstance(value, Tensor)]:
        raise ExportError(
            f"{', '.join(extra[:3])} is not a tensor, so torch's weight files cannot store it: choose another format"
        )
    return {_renamed(name, names): tensor.detach().cpu().contiguous() for name, tensor in weights.items()}


def _moved_up(model: nn.Module, left_out: Iterable[str]) -> dict[str, str]:
    """New paths of the modules after an omitted one, in a container that numbers its modules."""
    gone = set(left_out)
    renamed = {}
    for container in {path.rpartition(".")[0] for path in gone}:
        children = [name for name, _ in model.get_submodule(container).named_children()]
        numbered = [match for name in children if (match := re.fullmatch(r"(.*?)(\d+)", name))]
        for words in {match[1] for match in numbered}:  # "block" of block1, block2: norm1 does not become block2
            places = [f"{container}.{match[0]}".lstrip(".") for match in numbered if match[1] == words]
            left = [place for place in places if place not in gone]
            renamed |= {old: new for old, new in zip(left, places, strict=False) if old != new}
    return renamed


def _renamed(name: str, paths: dict[str, str]) -> str:
    old = next((path for path in paths if name.startswith(f"{path}.")), None)
    return name if old is None else paths[old] + name[len(old) :]


def _compile(program: torch.export.ExportedProgram, path: Path) -> None:
    from torch._inductor import aoti_compile_and_package

    try:
        aoti_compile_and_package(program, package_path=str(path))
    except Exception as error:  # its compilers raise many types
        raise ExportError(
            f"AOTInductor cannot compile {path.name} here: {one_line(error)[:MOST_SAID]}; install a C++ compiler, or "
            "leave out the packages (compiled=False)"
        ) from error


class _Programs:
    """Runs the programs of a folder and, if there are packages, compares the two."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.artifact = Artifact.from_json((path / FILE).read_bytes(), path)
        self._loaded: dict[str, list[Any]] = {}

    def run(self, x: Any, skip: str) -> Arrays:
        if skip not in self._loaded:
            self._loaded = {skip: self._load(skip)}  # one depth at a time: each has its own weights
        with torch.no_grad():
            tensors = [torch.from_numpy(each) for each in self.artifact.fed(x).values()]
            outputs = [run(*tensors) for run in self._loaded[skip]]
        wanted, *others = [list(output.values()) if isinstance(output, dict) else [output] for output in outputs]
        for other in others:
            for one, same in zip(other, wanted, strict=True):
                torch.testing.assert_close(one, same, rtol=1e-3, atol=1e-4 * float(same.double().std()))
        return self.artifact.named([output.numpy() for output in wanted])

    def _load(self, skip: str) -> list[Any]:
        program = torch.export.load(self.path / f"{skip}.pt2").module()
        package = self.path / f"{skip}.aoti.pt2"
        if not package.exists():
            return [program]
        return [program, torch._inductor.aoti_load_package(str(package))]
