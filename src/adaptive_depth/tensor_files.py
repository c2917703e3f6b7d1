"""Tensor files of other libraries, read without running code: state dicts, alone, in entries, or in shards."""

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from .errors import CheckpointError
from .schema import read_json

_EXTRA = "_extra_state"  # name of a module's get_extra_state in a state dict
_DEEPEST = 3  # levels of nested entries
_WHOLE = ("model.safetensors", "pytorch_model.bin", "diffusion_pytorch_model.safetensors")
_ENDINGS = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")


class Ignored:
    """Replaces every object that is neither a tensor nor plain: its class is neither imported nor called."""

    def __new__(cls, *_: Any, **__: Any) -> "Ignored":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


@dataclass(frozen=True)
class Part:
    """A state dict in a file.

    Attributes:
        entry: its place, `"state_dict"` or `"ema/module"`; empty if it is the whole file.
        state: names and tensors; the extra state of a module may be something else.
    """

    entry: str
    state: Mapping[str, Any]


def read_parts(path: Path) -> list[Part]:
    """All state dicts of a file or folder.

    Raises:
        CheckpointError: as for `load_weights`.
    """
    content, strange = _read(path)
    parts = list(_state_dicts(content))
    if parts:
        return parts
    if strange:
        raise CheckpointError(more_than_tensors(path, strange))
    raise CheckpointError(
        f"{path} holds no state dict: expected names and tensors, alone or under 'model', 'state_dict', 'ema' or "
        "similar"
    )


def _state_dicts(content: Any, entry: str = "", depth: int = 0) -> Iterator[Part]:
    if not isinstance(content, Mapping) or depth > _DEEPEST:
        return
    named = {name: value for name, value in content.items() if isinstance(name, str)}
    if any(isinstance(value, Tensor) for value in named.values()):
        yield Part(entry, {name: each for name, each in named.items() if is_extra(name) or _is_object(each)})
    for name, value in named.items():
        if not is_extra(name):
            yield from _state_dicts(value, f"{entry}/{name}".lstrip("/"), depth + 1)


def is_extra(name: str) -> bool:
    return name.rpartition(".")[2] == _EXTRA


def _is_object(value: Any) -> bool:
    """Not a number, text or list, which are options."""
    return isinstance(value, Tensor | Ignored)


def _read(path: Path) -> tuple[Any, list[str]]:
    """The content of a file, or of a folder's files together; and the classes of objects that were left out."""
    if path.is_dir():
        path = _weights_in(path)
    try:
        if path.name.endswith(".index.json"):
            return _sharded(path)
        if path.suffix == ".safetensors":
            return load_file(path), []
        return _unpickled(path)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(more_than_tensors(path, [])) from error
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read ({first_line(error)}): expected a .pth or safetensors file"
        ) from error


def _unpickled(path: Path) -> tuple[Any, list[str]]:
    """torch's own reader, which builds only tensors and plain values; of other classes only the names are read."""
    _check_unpacked(path)
    try:
        strange = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (ValueError, RuntimeError, OSError):  # not a zip file: written by torch 1.5, or no checkpoint
        strange = []
    stand_ins: list[Any] = [(Ignored, name) for name in {*strange, "argparse.Namespace"}]
    with torch.serialization.safe_globals(stand_ins):
        return torch.load(path, map_location="cpu", weights_only=True), strange


def _check_unpacked(path: Path) -> None:
    """Raise a CheckpointError if a file would take more memory than its length, which `torch.save` never writes."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            unpacked = sum(each.file_size for each in packed.infolist())
        if unpacked > path.stat().st_size:
            raise CheckpointError(
                f"{path} is compressed, {unpacked:,} bytes in {path.stat().st_size:,}: expected a file from "
                "torch.save; save the weights again"
            )


def check_dense(path: Path, state: Mapping[str, Any]) -> None:
    """Raise a CheckpointError for tensors of a file without plain numbers: meta tensors or sparse ones."""
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if strange := [name for name, each in tensors.items() if each.layout is not torch.strided or each.is_meta]:
        raise CheckpointError(f"{path} holds tensors without plain numbers, {some(strange)}: expected dense ones")


def _weights_in(folder: Path) -> Path:
    """The weights file of a folder: with the name used by transformers, accelerate and diffusers, or the only one.

    Raises:
        CheckpointError: none, or several.
    """
    for name in (each for whole in _WHOLE for each in (whole, f"{whole}.index.json")):
        more = [file.name for file in folder.glob(name.replace(".", "_[0-9]*.", 1))]  # accelerate writes one per model
        if (folder / name).is_file() and not more:
            return folder / name
    found = sorted(file for file in folder.iterdir() if file.suffix in _ENDINGS and not file.name.startswith("."))
    if len(found) == 1:
        return found[0]
    if any(folder.glob("*.distcp")):
        raise CheckpointError(
            f"{folder} holds a sharded checkpoint: merge it first, python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {folder} whole.pth"
        )
    said = f"several files, {some([file.name for file in found])}: name the one to read" if found else "no weights"
    raise CheckpointError(f"{folder} holds {said}; expected {', '.join(_WHOLE)} or an index of such files")


def _sharded(index: Path) -> tuple[dict[str, Any], list[str]]:
    """The tensors of all files in an index."""
    content = read_json(index, CheckpointError, "expected an index of weights, with a weight_map")
    try:
        shards = content["weight_map"]
        files = sorted({str(file) for file in shards.values()})
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not a weights index ({first_line(error)}): expected a weight_map") from error
    # An index must not make us read other folders.
    if outside := [file for file in files if Path(file).name != file]:
        raise CheckpointError(f"{index} names files outside its folder ({some(outside)}): it is damaged")
    if lost := [file for file in files if not (index.parent / file).is_file()]:
        raise CheckpointError(f"{index} names {some(lost)}, missing in {index.parent}: download all of its files")
    state: dict[str, Any] = {}
    strange: list[str] = []
    for file in files:
        content, more = _read(index.parent / file)
        state |= content
        strange += more
    if lost := [name for name in shards if name not in state]:
        raise CheckpointError(f"{index} names {some(lost)}, which are in none of its files: download all of them again")
    return state, strange


def more_than_tensors(path: Path, classes: list[str]) -> str:
    named = f"; it holds {some(classes)}" * bool(classes)
    return (
        f"{path} holds more than tensors (such as a whole model), which is not read because it could run code: save "
        "only its state dict, torch.save(model.state_dict(), ...); if you trust the file, "
        f"torch.load({str(path)!r}, weights_only=False) reads it{named}"
    )


def some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "none"


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
