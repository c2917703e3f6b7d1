"""The one format of a network in a folder: JSON for the plan, safetensors for the numbers. Nothing there can run code.

A folder holds `network.json` and the weights file that it names. A new weights file is complete before
`network.json` is replaced, in one step, to name it; so at any moment the folder holds the old or the new network.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import AdaptiveDepthError, CheckpointError, DataError
from ..files import drafts, move
from ..models import WEIGHT_ARGUMENTS, Source, create_model, source_of
from ..plan import Stages
from ..preprocessing import Preprocessing
from ..wrapping import COMPILED, check_shaped, plain_names, unwrapped, without
from .extra_state import apart, together

FORMAT = "adaptive-depth network"
VERSION = 1
RUN, CONFIG = "network.json", "config.json"  # the description, as `save` and as the Hub name it
WEIGHTS = f"weights-{'[0-9a-f]' * 16}.safetensors"  # what `save` writes, and may delete: no file of the user's


class Kept(nn.Module):
    """A network that a folder can keep: what is asked of it, and how it is made of a model and a plan again."""

    model: nn.Module
    stages: Stages
    skips: tuple[str, ...]
    source: Source | None
    proven: bool
    preprocessing: Preprocessing | None = None

    @classmethod
    def adapted(cls, model: nn.Module, stages: Stages) -> Self:
        """A network of a model and its plan."""
        raise NotImplementedError

    @property
    def calibrated(self) -> bool:
        raise NotImplementedError

    def reset_statistics(self, *, per_context: bool) -> None:
        raise NotImplementedError


KeptNetwork = TypeVar("KeptNetwork", bound=Kept)


# -- a network, and the two parts that a folder keeps of it -----------------------------------------------------


def describe(network: Kept, reader: str = "load") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A network as a JSON description and its tensors, each once.

    Arguments:
        network: stays as it is; the tensors are its own where they are on the CPU.
        reader: what will read them, for the error.

    Raises:
        CheckpointError: arguments of the model, or an extra state of its modules, that JSON does not hold; tensors that
            are no plain ones.
    """
    check_shaped(network, "save received", CheckpointError)
    names = plain_names(network)
    state, extra = apart({names[name]: value for name, value in network.state_dict().items()})
    check_storable(state)
    tensors, ties = _unique(state)
    source = source_of(network.model, network.source)
    description = {
        "format": FORMAT,
        "version": VERSION,
        "source": None if source is None else {"name": source.name, "arguments": dict(source.arguments)},
        "model": type(network.model).__name__,
        "stages": network.stages.to_json(),
        "proven": network.proven,
        "ties": ties,
        "preprocessing": None if network.preprocessing is None else network.preprocessing.to_json(),
    }
    pairs = as_pairs(tensors)
    passing = {names.get(name, name): _word(buffer.dtype) for name, buffer in _passing(network)}
    more = {"extra_state": extra, "complex128": pairs, "passing": passing}
    description |= {name: value for name, value in more.items() if value}
    try:
        json.dumps(description)
    except TypeError as error:
        raise CheckpointError(
            f"the model's arguments {source} cannot be written as JSON ({error}): build the model with arguments of "
            f"plain kinds, or without create_model, and give it to {reader}(folder, model=...)"
        ) from error
    return description, tensors


def read_folder(
    kind: type[KeptNetwork],
    folder: Path,
    model: nn.Module | None = None,
    *,
    reader: str = "load",
    given: str | None = None,
) -> KeptNetwork:
    """The network in a folder that `save` or `save_pretrained` wrote, in eval mode on the CPU.

    Arguments:
        kind: the class of the network.
        folder: of its files.
        model: as for `load`.
        reader, given: the function that the user called, and with what, for the errors; by default `load(folder)`.

    Raises:
        CheckpointError: no network there, or one that is damaged, foreign, newer, or does not fit the model.
    """
    given = given or str(folder)
    of_hub = (folder / CONFIG).is_file() and not (folder / RUN).is_file()
    file = folder / (CONFIG if of_hub else RUN)
    description = read_description(file)
    sha256 = description.get("sha256")
    if of_hub and not (isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256)):
        raise CheckpointError(f"{file} is damaged: its sha256 is {sha256!r}, where 64 digits are expected")
    prepared = description.get("preprocessing")
    try:
        preprocessing = None if prepared is None else Preprocessing.of(prepared)
    except DataError as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error
    tensors = read_tensors(folder / str(description["weights"]), sha256 if of_hub else None)
    try:
        call = f"{reader}({given!r}, model=MyModel())"
        built = _build(description, file, call) if model is None else unwrapped(model)
        network = kind.adapted(built, Stages.from_json(description["stages"]))
    except CheckpointError:
        raise
    except AdaptiveDepthError as error:
        raise CheckpointError(f"{file} does not fit the model: {error}") from error
    for name, first in description["ties"].items():
        if not isinstance(first, str) or first not in tensors:
            raise CheckpointError(f"{file} ties {name!r} to {first!r}, which the weights do not have")
        tensors[name] = tensors[first]
    from_pairs(tensors, description.get("complex128") or (), file)
    _fill(network, together(tensors, description.get("extra_state") or {}), folder, reader)
    _cast_passing(network, description.get("passing") or {}, tensors)
    network.proven = description.get("proven", True) is True
    if description["source"] is not None:
        network.source = Source(**description["source"])
    network.preprocessing = preprocessing
    return network.eval()


# -- files ------------------------------------------------------------------------------------------------------


def _unique(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor once, and for tied names the name under which their tensor is kept."""
    tensors: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    first: dict[Any, str] = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else name
        if key in first:
            ties[name] = first[key]
        else:
            first[key] = name
            kept = tensor.detach().cpu().contiguous()
            tensors[name] = kept if kept.untyped_storage().nbytes() == kept.nbytes else kept.clone()
    return tensors, ties


def as_pairs(tensors: dict[str, Tensor]) -> list[str]:
    """Make pairs of numbers of those that safetensors has no kind for; returns their names."""
    names = [name for name, tensor in tensors.items() if tensor.dtype is torch.complex128]
    tensors |= {name: torch.view_as_real(tensors[name]).contiguous() for name in names}
    return names


def from_pairs(tensors: dict[str, Tensor], names: Iterable[str], file: Path) -> None:
    """The inverse of `as_pairs`.

    Raises:
        CheckpointError: names of tensors that are none or no pairs.
    """
    for name in names:
        if name not in tensors or tensors[name].shape[-1:] != (2,):
            raise CheckpointError(f"{file} speaks of complex numbers in {name!r}, which the weights do not have")
        tensors[name] = torch.view_as_complex(tensors[name].double())


def write_tensors(tensors: dict[str, Tensor], folder: Path) -> str:
    """Put tensors into a new file of a folder in one step; its name tells its content."""
    with drafts(folder) as place:
        digest = draft_tensors(tensors, place / "weights")
        name = f"weights-{digest[:16]}.safetensors"
        move(place / "weights", folder / name)
    return name


def draft_tensors(tensors: dict[str, Tensor], path: Path) -> str:
    """Write a new file with these tensors, complete on the disk; returns the SHA-256 of its content."""
    try:
        save_file(tensors, path, metadata={"format": "pt"})
        with path.open("rb+") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
    except safetensors.SafetensorError as error:
        raise OSError(str(error)) from error
    return digest


def read_description(path: Path) -> dict[str, Any]:
    """The description in a JSON file of this library: of its format, of a version that is known, with all its parts.

    Raises:
        CheckpointError: missing, damaged, foreign or newer.
    """
    try:
        description = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        folder = path.parent
        there = "it does not exist" if not folder.exists() else f"it holds no {path.name}"
        raise CheckpointError(f"{folder} is no saved network: {there}; expected a folder that save() wrote") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}): it is damaged, or no network of this library"
        ) from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not of this library: expected a file with format {FORMAT!r}")
    version = description.get("version")
    if not isinstance(version, int):
        raise CheckpointError(f"{path} is damaged: its version is {version!r}, where a number is expected")
    if version > VERSION:
        raise CheckpointError(
            f"{path} has version {version!r}, this library reads up to {VERSION}: pip install -U adaptive-depth"
        )
    missing = {"source", "stages", "weights", "ties"} - set(description)
    if missing or not isinstance(description["ties"], dict) or not isinstance(description["stages"], list):
        raise CheckpointError(f"{path} is damaged: {', '.join(sorted(missing)) or 'ties or stages'} cannot be read")
    if Path(str(description["weights"])).name != description["weights"]:
        raise CheckpointError(f"{path} names weights outside its folder ({description['weights']!r})")
    return description


def read_tensors(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Arguments:
        path: the file.
        sha256: of its content; by default its name tells it, as `write_tensors` gave it.

    Raises:
        CheckpointError: missing, truncated or changed.
    """
    try:
        tensors = load_file(path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): the weights are missing or truncated") from error
    if sha256 is not None and digest != sha256:
        raise CheckpointError(
            f"{path} is not the file that was described (its SHA-256 is {digest[:16]}..., not {sha256[:16]}...): it is "
            "damaged, or the files of two networks were mixed, as by a save that was killed; save or fetch all anew"
        )
    if sha256 is None and digest[:16] not in path.name:
        raise CheckpointError(f"{path} holds other content than its name says: the weights are damaged")
    return tensors


def _build(description: Mapping[str, Any], file: Path, call: str) -> nn.Module:
    source = description["source"]
    if source is None:
        raise CheckpointError(
            f"{file.parent} holds a {description.get('model', 'model')} that no timm or torchvision name builds: give "
            f"an instance of it, {call} (a model that ad.create_model made is built again by itself)"
        )
    try:
        name, arguments = source["name"], source["arguments"]
        wrong = set(arguments) & WEIGHT_ARGUMENTS
        if wrong:
            raise CheckpointError(
                f"{file} asks for {', '.join(sorted(wrong))}: a saved network brings its own weights; it is "
                "damaged or was tampered with, so take it from where it was saved"
            )
        return create_model(name, **arguments)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file} is damaged: source {source!r}") from error


def _fill(network: Kept, state: Mapping[str, Any], folder: Path, reader: str) -> None:
    """Load the weights, each in the precision in which it was saved; not one where not all of them fit."""
    plain = {without(name, COMPILED): value for name, value in state.items()}
    state = plain if len(plain) == len(state) else state
    network.reset_statistics(per_context=any(name.startswith("statistics.") for name in state))
    names = plain_names(network)
    expected = {names[name]: value for name, value in network.state_dict(keep_vars=True).items()}
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    if missing or unexpected:
        raise CheckpointError(
            f"{folder}: the weights do not fit the model: {len(missing)} missing ({', '.join(missing[:3])}), "
            f"{len(unexpected)} unexpected ({', '.join(unexpected[:3])}); give {reader}(..., model=) the architecture "
            "that was saved"
        )
    own = {name: tensor for name, tensor in expected.items() if not name.endswith("_extra_state")}
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise CheckpointError(
                f"{folder}: the weights do not fit the model: {name} is {list(state[name].shape)} there and "
                f"{list(tensor.shape)} in the model; give {reader}(..., model=) the architecture that was saved"
            )
    for name, tensor in own.items():
        _cast(tensor, state[name].dtype)
    network.load_state_dict({name: state[plain] for name, plain in names.items()})


def _cast(tensor: Tensor, dtype: torch.dtype) -> None:
    """Another precision for a parameter or buffer that stays the same object, wherever it is tied or shared."""
    if tensor.dtype != dtype:
        if not (dtype.is_floating_point or dtype.is_complex):
            tensor.requires_grad_(False)
        tensor.data = tensor.data.to(dtype)


def _passing(network: nn.Module) -> list[tuple[str, Tensor]]:
    """Buffers of numbers that are in no state dict: they are computed when a model is built, in its precision."""
    kept = network.state_dict(keep_vars=True)
    there = {id(tensor) for tensor in kept.values()}
    return [
        (name, buffer)
        for name, buffer in network.named_buffers()
        if id(buffer) not in there and (buffer.is_floating_point() or buffer.is_complex())
    ]


def _cast_passing(network: nn.Module, told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Buffers that no file holds, in the precision that they had; as all the rest where an older file says nothing."""
    kinds = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    for name, buffer in _passing(network):
        dtype = getattr(torch, str(told.get(name)), None)
        if isinstance(dtype, torch.dtype):
            _cast(buffer, dtype)
        elif len(kinds) == 1 and buffer.is_floating_point():
            _cast(buffer, next(iter(kinds)))


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check_storable(tensors: Mapping[str, Tensor]) -> None:
    """Raise a CheckpointError for the first tensor that safetensors cannot hold."""
    for name, tensor in tensors.items():
        plain = type(tensor) in (Tensor, nn.Parameter)
        if not plain or tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            kind = type(tensor).__name__ if not plain else f"{tensor.layout}, {tensor.dtype}, on {tensor.device}"
            raise CheckpointError(
                f"{name} is no plain tensor ({kind}), which the file cannot hold: save the network before another "
                "library quantises, prunes or spreads it, or make it plain (dequantize, to_dense, full_tensor)"
            )
