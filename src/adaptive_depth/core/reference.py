"""Checkpoints of the authors' public implementation, loaded into torchvision's classes.

There the second copy of a norm is beside the first, with the suffix `_skip`. ResNet and ViT names are otherwise
torchvision's; Swin counts its features from the first stage, and MobileNetV2 groups the blocks of a stage.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from ..models import create_model
from ..weights import read_state_dict
from .adapting import adapt
from .network import AdaptiveNetwork

Renaming = Callable[[Iterable[str]], Mapping[str, str]]


def load_reference(name: str, path: str | os.PathLike[str], **arguments: Any) -> AdaptiveNetwork:
    """A network trained with the authors' code, in eval mode on the CPU.

    Arguments:
        name: torchvision's name of the architecture: a ResNet (`"resnet50"`), `"mobilenet_v2"`, a ViT (`"vit_b_16"`)
            or a Swin (`"swin_t"`).
        path: a `.pth` file with a state dict, alone or under `"model"` or `"state_dict"`, or a safetensors file. Only
            tensors are unpickled.
        **arguments: for torchvision's constructor; `num_classes` is read from the file.

    Raises:
        CheckpointError: a file that cannot be read, or whose tensors are not those of this architecture.
        ModelError: a name that torchvision does not have.

    Example:
        >>> import tempfile, torch, adaptive_depth as ad
        >>> theirs = {}  # what their ResNet-18 with 10 classes would contain
        >>> net = ad.adapt(ad.create_model("torchvision/resnet18", num_classes=10))
        >>> for key, tensor in net.state_dict().items():
        ...     tree, _, rest = key.partition(".")
        ...     module, _, leaf = rest.rpartition(".")
        ...     if tree == "model":
        ...         theirs[rest] = tensor
        ...     elif "downsample" not in rest and rest.count(".") == 3:
        ...         theirs[f"{module}_skip.{leaf}"] = tensor
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(theirs, f"{folder}/theirs.pth")
        ...     load_reference("resnet18", f"{folder}/theirs.pth").skips[-1]
        'TTTT'
    """
    short = name.removeprefix("torchvision/")
    rename = next((each for prefix, each in _RENAMINGS.items() if short.startswith(prefix)), None)
    if rename is None:
        raise CheckpointError(
            f"{name!r} is not one of the authors' architectures: expected torchvision's name of a ResNet, MobileNetV2, "
            "ViT or Swin, such as 'resnet50'"
        )
    path = Path(path)
    theirs = read_state_dict(path)
    names = rename(theirs)
    tensors = {names[key]: tensor for key, tensor in theirs.items()}
    # The classifier is the last matrix.
    head = [tensor for key, tensor in tensors.items() if key.startswith("model.") and tensor.ndim == 2]
    if head:
        arguments = {"num_classes": len(head[-1])} | arguments
    network = adapt(create_model(f"torchvision/{short}", **arguments))
    _fill(network, tensors, short, path)
    return network.eval()


def _fill(network: AdaptiveNetwork, tensors: dict[str, Tensor], name: str, path: Path) -> None:
    expected = network.state_dict()
    if not any(key.startswith("skip_norms.") for key in tensors):
        raise CheckpointError(
            f"{path} holds a plain {name}, without a second copy of any norm (names ending in _skip): load it with "
            "load_weights, then adapt the model"
        )
    copies = [key for key in expected if key.startswith("skip_norms.") and key not in tensors]
    doubled = {norm for stage in network.stages for norm in stage.norms or ()}
    for key in copies:  # running statistics of norms that the authors do not double: the same in both contexts
        norm = key.removeprefix("skip_norms.").rpartition(".")[0]
        if norm not in doubled and f"model.{key.removeprefix('skip_norms.')}" in tensors:
            tensors[key] = tensors[f"model.{key.removeprefix('skip_norms.')}"]
    missing = [key for key in expected if key not in tensors]
    unexpected = [key for key in tensors if key not in expected]
    misshapen = [key for key in expected if key in tensors and expected[key].shape != tensors[key].shape]
    spoilt = [key for key, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if spoilt:
        raise CheckpointError(f"{path} holds numbers that are not finite, in {', '.join(spoilt[:3])}")
    for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen)):
        if keys:
            raise CheckpointError(
                f"{path} does not hold the authors' {name}: {len(keys)} tensors are {what} "
                f"({', '.join(keys[:3])}); name the architecture that it was saved from"
            )
    network.load_state_dict(tensors)


# -- names ------------------------------------------------------------------------------------------------------


def _plain(key: str) -> str:
    """`layer1.0.bn1_skip.weight` is the second copy of `layer1.0.bn1.weight`."""
    module, _, leaf = key.rpartition(".")
    if module.endswith("_skip"):
        return f"skip_norms.{module.removesuffix('_skip')}.{leaf}"
    return f"model.{key}"


def _as_torchvision(keys: Iterable[str]) -> dict[str, str]:
    return {key: _plain(key) for key in keys}


def _swin(keys: Iterable[str]) -> dict[str, str]:
    """The patch embedding is `pre`, and the features begin after it."""

    def shifted(key: str) -> str:
        key = re.sub(r"^features\.(\d+)", lambda match: f"features.{int(match[1]) + 1}", key)
        return re.sub(r"^pre\.", "features.0.", key)

    return {key: _plain(shifted(key)) for key in keys}


def _mobilenet_v2(keys: Iterable[str]) -> dict[str, str]:
    """Blocks have the index of their stage and a second one within it; a convolution and its norm have names."""
    keys = list(keys)
    unit = re.compile(r"^features\.(\d+)(?:\.(\d+))?\.(?=conv\.|conv_layer\.|norm\.|norm_skip\.)")
    found = {key: match for key in keys if (match := unit.match(key))}
    units = sorted({(int(match[1]), int(match[2] or 0)) for match in found.values()})
    last: dict[int, int] = {}  # the last convolution of each block: torchvision does not pair it with its norm
    for key, match in found.items():
        if pair := re.match(r"conv\.(\d+)\.", key[match.end() :]):
            number = units.index((int(match[1]), int(match[2] or 0)))
            last[number] = max(last.get(number, 0), int(pair[1]))

    def renamed(key: str) -> str:
        if key not in found:
            return _plain(key)
        match = found[key]
        number, rest = units.index((int(match[1]), int(match[2] or 0))), key[match.end() :]
        *inside, layer, leaf = rest.split(".")
        second = layer.startswith("norm")
        if not inside:  # the stem's or the final pair
            place = str(int(second))
        elif int(inside[1]) < last[number]:
            place = f"conv.{inside[1]}.{int(second)}"
        else:
            place = f"conv.{int(inside[1]) + second}"
        return _plain(f"features.{number}.{place}{'_skip' if layer.endswith('_skip') else ''}.{leaf}")

    return {key: renamed(key) for key in keys}


_RENAMINGS: dict[str, Renaming] = {
    **dict.fromkeys(("resnet", "resnext", "wide_resnet", "vit_"), _as_torchvision),
    "swin_": _swin,
    "mobilenet_v2": _mobilenet_v2,
}
