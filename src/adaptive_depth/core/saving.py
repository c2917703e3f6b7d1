"""Save and load a network."""

import json
import os
from pathlib import Path

from torch import nn

from ..errors import CheckpointError
from ..files import write_atomically, writing
from ..hub.folder import RUN, WEIGHTS, describe, read_folder, write_tensors
from ..wrapping import unwrapped
from .network import AdaptiveNetwork, check_adapted


def save(network: AdaptiveNetwork | nn.Module, folder: str | os.PathLike[str]) -> Path:
    """Write a network into a folder; former content is replaced atomically.

    Stages, skip-aware norms, statistics per context and all weights are saved, each tensor once and in its precision;
    a network inside torch.compile or DDP is unwrapped. A model that `create_model`, timm or torchvision built by name
    is rebuilt by `load`; any other must be passed to it.

    Returns:
        The folder.

    Raises:
        CheckpointError: the folder is a file, cannot be written, or is being written by another process; a network
            that holds more than tensors and plain values, or adapters of peft, which must be merged first.

    Example:
        >>> import tempfile, timm, adaptive_depth as ad
        >>> net = ad.adapt(timm.create_model("resnet18", num_classes=10))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     same = load(save(net, folder))
        >>> len(same.skips)
        16
    """
    if "_fsdp_wrapped_module" in getattr(network, "_modules", ()):
        raise CheckpointError(
            "save received a network that FSDP sharded over processes: load its full state dict into the unsharded "
            "network, and save that"
        )
    if isinstance(network, nn.Module) and isinstance(inside := unwrapped(network), AdaptiveNetwork):
        network = inside
    check_adapted(network, "save", CheckpointError)
    assert isinstance(network, AdaptiveNetwork)
    folder = Path(folder)
    description, tensors = describe(network)
    try:
        with writing(folder, "save", CheckpointError):
            before = set(folder.glob(WEIGHTS))
            # The weights first: a description must never name a file that is missing.
            weights = write_tensors(tensors, folder)
            try:
                write_atomically(folder / RUN, json.dumps(description | {"weights": weights}, indent=2).encode())
            except BaseException:
                if folder / weights not in before:
                    (folder / weights).unlink(missing_ok=True)
                raise
            for old in before - {folder / weights}:
                old.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be written ({error}): expected a folder with free space; its contents are unchanged"
        ) from error
    return folder


def load(
    folder: str | os.PathLike[str], model: nn.Module | None = None, *, another_class: bool = False
) -> AdaptiveNetwork:
    """Read a network that `save` or `save_pretrained` wrote, in eval mode on the CPU.

    Arguments:
        folder: the folder that was passed to it.
        model: a model of the same architecture, if it cannot be built by name; its weights are replaced.
        another_class: allow a model whose class has another name than the saved one.

    Raises:
        CheckpointError: no network there, a file that is truncated, foreign or of a newer version, or weights that
            do not fit the model; a model of another class.
    """
    return read_folder(AdaptiveNetwork, Path(folder), model, another_class=another_class)
