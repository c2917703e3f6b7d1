"""Weights in files of others: read without unpickling anything but tensors."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .errors import CheckpointError

_STRANGE = 0.1  # the largest part of tensors that may find no place: a head for other classes, say


class _Ignored:
    """Takes the place of a training script's options, which are no tensors and are not wanted."""

    def __setstate__(self, _: Any) -> None:
        pass


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state dict in a `.pth` or safetensors file: alone, or under `"model"` or `"state_dict"`.

    Raises:
        CheckpointError: a file that cannot be read, that holds other things, or that could run code.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            _check_unpacked(path)
            with torch.serialization.safe_globals([(_Ignored, "argparse.Namespace")]):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors (a whole model, say), which is not read because it could run code: save "
            "its state dict alone, torch.save(model.state_dict(), ...)"
        ) from error
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read ({_first_line(error)}): expected a .pth or safetensors file"
        ) from error
    for wrapper in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content or not all(isinstance(each, Tensor) for each in content.values()):
        raise CheckpointError(f"{path} holds no state dict: expected names and tensors, alone or under 'model'")
    if strange := [str(key) for key, each in content.items() if each.layout is not torch.strided or each.is_meta]:
        raise CheckpointError(f"{path} holds tensors without plain numbers, {_some(strange)}: expected dense ones")
    return {str(key).removeprefix("module."): tensor for key, tensor in content.items()}


def _check_unpacked(path: Path) -> None:
    """Raise a CheckpointError where a file would take more memory than it is long, as `torch.save` never writes one."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            unpacked = sum(each.file_size for each in packed.infolist())
        if unpacked > path.stat().st_size:
            raise CheckpointError(
                f"{path} is compressed, {unpacked:,} bytes in {path.stat().st_size:,}: expected a file as torch.save "
                "writes it; save the weights again"
            )


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> list[str]:
    """Start a model from weights that were trained for another number of classes, say.

    Tensors of the same name and shape are taken over; those of another shape (a head for other classes) stay as they
    are in `model`.

    Returns:
        The names that stayed.

    Raises:
        CheckpointError: a file that cannot be read, or that is of another model: more than a tenth of the model's
            tensors, or of the file's, find no place.

    Example:
        >>> import tempfile, torch, adaptive_depth as ad
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(ad.create_model("resnet18").state_dict(), f"{folder}/a.pth")
        ...     load_weights(ad.create_model("resnet18", num_classes=5), f"{folder}/a.pth")
        ['fc.weight', 'fc.bias']
    """
    theirs, ours = read_state_dict(path), model.state_dict()
    fitting = {name: tensor for name, tensor in theirs.items() if name in ours and ours[name].shape == tensor.shape}
    stayed = [name for name in ours if name not in fitting]
    unused = [name for name in theirs if name not in fitting]
    if max(len(stayed) / len(ours), len(unused) / len(theirs)) > _STRANGE:
        raise CheckpointError(
            f"{path} is of another model: {len(fitting)} of its {len(theirs)} tensors fit the model's {len(ours)} "
            f"(missing or of another shape: {_some(stayed)}; not in the model, or of another shape: {_some(unused)})"
        )
    model.load_state_dict(fitting, strict=False)
    return stayed


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "none"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
