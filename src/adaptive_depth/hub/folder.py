"""The one format of a network in a folder: JSON for the plan, safetensors for the numbers. Nothing there can run code.

A folder holds `network.json` and the weights file that it names. A new weights file is complete before
`network.json` is replaced, in one step, to name it; so at any moment the folder holds the old or the new network.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import AdaptiveDepthError, CheckpointError, ModelError, one_line
from ..files import move
from ..models import WEIGHT_ARGUMENTS, Source, create_model, no_larger_than, source_of
from ..plan import Stage, Stages
from ..preprocessing import Preprocessing
from ..schema import FileName, Form, Open, Such, read_json

FORMAT = "adaptive-depth network"
VERSION = 1
RUN, CONFIG = "network.json", "config.json"  # the description, as `save` and as the Hub name it
WEIGHTS = f"weights-{'[0-9a-f]' * 16}.safetensors"  # what `save` writes, and may delete: no file of the user's
_FORM = Form(FORMAT, VERSION, f"a file with format {FORMAT!r}", CheckpointError)
# What a model may have that its weights do not tell of, such as containers, and buffers that are not kept.
_PARTS, _NUMBERS = 20, 2  # times as many as are kept, and
_MORE_PARTS, _MORE_NUMBERS = 10_000, 1 << 26
_LARGEST = 1 << 14  # of an argument, such as an image's side, where no weights have a side as long

_Digest = Annotated[str, Such(lambda text: re.fullmatch("[0-9a-f]{64}", text), "64 hexadecimal digits")]


@dataclass(frozen=True)
class Description(Open):
    """What a folder says of its network; it may hold further entries.

    Attributes:
        source: what builds the model; None where no name does.
        stages: the plan.
        weights: the file of the tensors.
        ties: for each further name of a tensor, the one that it is kept under.
        model: the name of the model's class.
        proven: as in the network.
        preprocessing: None where it is not known.
        sha256: of the weights, where their name does not tell it.
    """

    reading_error = CheckpointError

    source: Source | None
    stages: tuple[Stage, ...]
    weights: FileName
    ties: dict[str, str]
    model: str = "model"
    proven: bool = True
    preprocessing: Preprocessing | None = None
    sha256: _Digest | None = None


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
        CheckpointError: arguments of the model that JSON does not hold.
    """
    tensors, ties = _unique(network.state_dict())
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
    if of_hub and description.sha256 is None:
        raise CheckpointError(f"{file} is damaged: it has no sha256, where 64 digits are expected")
    weights, sha256 = folder / description.weights, description.sha256 if of_hub else None
    check_digest(weights, sha256)
    shapes = read_shapes(weights)
    for name, first in description.ties.items():
        if first not in shapes:
            raise CheckpointError(f"{file} ties {name!r} to {first!r}, which the weights do not have")
    shapes |= {name: shapes[first] for name, first in description.ties.items()}

    def made(plain: nn.Module) -> KeptNetwork:
        network = kind.adapted(plain, Stages(description.stages))
        network.reset_statistics(per_context=any(name.startswith("statistics.") for name in shapes))
        _check_fit(network, shapes, folder, reader)
        return network

    try:
        if model is None:
            model = _build(description, file, f"{reader}({given!r}, model=MyModel())", shapes, made)
        network = made(model)
    except CheckpointError:
        raise
    except AdaptiveDepthError as error:
        raise CheckpointError(f"{file} does not fit the model: {error}") from error
    tensors = read_tensors(weights, sha256)
    tensors |= {name: tensors[first] for name, first in description.ties.items()}
    _fill(network, tensors)
    network.proven = description.proven
    if description.source is not None:
        network.source = description.source
    network.preprocessing = description.preprocessing
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


def write_tensors(tensors: dict[str, Tensor], folder: Path) -> str:
    """Put tensors into a new file of a folder in one step; its name tells its content."""
    temporary, digest = temporary_tensors(tensors, folder)
    name = f"weights-{digest[:16]}.safetensors"
    move(temporary, folder / name)
    return name


def temporary_tensors(tensors: dict[str, Tensor], folder: Path) -> tuple[Path, str]:
    """A new file of a folder with these tensors, complete on the disk, and the SHA-256 of its content."""
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".weights.")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata={"format": "pt"})
        with Path(temporary).open("rb+") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
    except safetensors.SafetensorError as error:
        Path(temporary).unlink(missing_ok=True)
        raise OSError(str(error)) from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return Path(temporary), digest


def read_description(path: Path) -> Description:
    """The description in a JSON file of this library.

    Raises:
        CheckpointError: missing, damaged, foreign or newer.
    """
    if not path.exists():
        folder = path.parent
        there = "it does not exist" if not folder.exists() else f"it holds no {path.name}"
        raise CheckpointError(f"{folder} is no saved network: {there}; expected a folder that save() wrote")
    content = _FORM.check(read_json(path, CheckpointError, "it is damaged, or no network of this library"), path)
    try:
        return Description.from_json(content)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def check_digest(path: Path, sha256: str | None = None) -> None:
    """Is a file of tensors the one that was written?

    Arguments:
        path: the file.
        sha256: of its content; by default its name tells it, as `write_tensors` gave it.

    Raises:
        CheckpointError: missing or changed.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}): the weights are missing or truncated") from error
    if sha256 is not None and digest != sha256:
        raise CheckpointError(
            f"{path} is not the file that was described (its SHA-256 is {digest[:16]}..., not {sha256[:16]}...): it is "
            "truncated or damaged, or the files of two networks were mixed, as by a save that was killed; save or "
            "fetch all anew"
        )
    if sha256 is None and digest[:16] not in path.name:
        raise CheckpointError(f"{path} holds other content than its name says: the weights are truncated or damaged")


def read_shapes(path: Path) -> dict[str, Sequence[int]]:
    """The shapes of the tensors in a safetensors file, by its header: the tensors are not read.

    Raises:
        CheckpointError: a file that is damaged, or whose header does not fit what is behind it.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping
    except Exception as error:  # of safetensors, of torch for a kind of number that it does not have, of the system
        raise CheckpointError(
            f"{path} cannot be read ({one_line(error)}): the weights are missing or truncated"
        ) from error


def read_tensors(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file; arguments and errors are those of `check_digest` and `read_shapes`."""
    check_digest(path, sha256)
    try:
        return load_file(path)
    except Exception as error:  # as in `read_shapes`
        raise CheckpointError(
            f"{path} cannot be read ({one_line(error)}): the weights are missing or truncated"
        ) from error


def _build(
    description: Description,
    file: Path,
    call: str,
    shapes: Mapping[str, Sequence[int]],
    made: Callable[[nn.Module], Any],
) -> nn.Module:
    """The model that a description names, built once it is known that the weights fit it."""
    source = description.source
    if source is None:
        raise CheckpointError(
            f"{file.parent} holds a {description.model} that no timm or torchvision name builds: give an instance of "
            f"it, {call} (a model that ad.create_model made is built again by itself)"
        )
    if wrong := {*source.arguments} & WEIGHT_ARGUMENTS:
        raise CheckpointError(
            f"{file} asks for {', '.join(sorted(wrong))}: a saved network brings its own weights; it is damaged or was "
            "tampered with, so take it from where it was saved"
        )
    longest = max(_LARGEST, len(shapes), *(side for shape in shapes.values() for side in shape))
    if large := [number for number in _integers(source.arguments) if abs(number) > longest]:
        raise CheckpointError(
            f"{file} asks for {source.name!r} with the number {large[0]} in {dict(source.arguments)!r}, and no side of "
            f"its weights is longer than {longest}: it is damaged, or the weights are of another network"
        )
    parts = _PARTS * len(shapes) + _MORE_PARTS
    numbers = _NUMBERS * sum(prod(shape) for shape in shapes.values()) + _MORE_NUMBERS
    with no_larger_than(parts, numbers):
        try:
            with torch.device("meta"):  # takes no memory
                plain = create_model(source.name, **source.arguments)
        except ModelError as error:
            if not isinstance(error.__cause__, NotImplementedError):
                raise
        else:
            made(plain)
        # Of the few that need numbers to be built (torchvision's RegNets), the size alone is known before.
        return create_model(source.name, **source.arguments)


def _integers(value: Any) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif not isinstance(value, str | float | None):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _integers(each)


def _check_fit(network: Kept, shapes: Mapping[str, Sequence[int]], folder: Path, reader: str) -> None:
    """Raise a CheckpointError where tensors of these names and shapes are not those of a network."""
    expected = network.state_dict()
    missing = [name for name in expected if name not in shapes]
    unexpected = [name for name in shapes if name not in expected]
    if missing or unexpected:
        raise CheckpointError(
            f"{folder}: the weights do not fit the model: {len(missing)} missing ({', '.join(missing[:3])}), "
            f"{len(unexpected)} unexpected ({', '.join(unexpected[:3])}); give {reader}(..., model=) the architecture "
            "that was saved"
        )
    for name, tensor in expected.items():
        if list(tensor.shape) != list(shapes[name]):
            raise CheckpointError(
                f"{folder}: the weights do not fit the model: {name} is {list(shapes[name])} there and "
                f"{list(tensor.shape)} in the model; give {reader}(..., model=) the architecture that was saved"
            )


def _fill(network: Kept, tensors: Mapping[str, Tensor]) -> None:
    """Load the weights, in the precision in which they were saved."""
    kinds = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if len(kinds) == 1:
        network.to(kinds.pop())
    network.load_state_dict(dict(tensors))
