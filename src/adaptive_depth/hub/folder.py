"""The format of a network in a folder: JSON for the plan, safetensors for the numbers. Nothing in it can run code.

A folder contains `network.json` and the weights file that it names. A new weights file is complete before
`network.json` is atomically replaced to name it, so at any moment the folder has either the old or the new network.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import AdaptiveDepthError, CheckpointError, ModelError, is_a_class, one_line
from ..files import drafts, move
from ..models import WEIGHT_ARGUMENTS, Source, create_model, no_larger_than, source_of
from ..plan import Stage, Stages
from ..preprocessing import Preprocessing
from ..schema import Digest, FileName, Form, Open, one_of, parse_json, read_json
from ..tensor_files import is_extra
from ..wrapping import COMPILED, check_shaped, plain_names, unwrapped, without
from .extra_state import apart, together

FORMAT = "adaptive-depth network"
VERSION = 1
RUN, CONFIG = "network.json", "config.json"  # the description, as named by `save` and by the Hub
WEIGHTS = f"weights-{'[0-9a-f]' * 16}.safetensors"  # what `save` writes and may delete; never a user's file
_FORM = Form(FORMAT, VERSION, f"a file with format {FORMAT!r}", CheckpointError)
# Allowance for what a model has beyond its weights, such as containers, and buffers that are not saved.
_PARTS, _NUMBERS = 20, 4  # times as many as are saved (a tied embedding counts three times), plus
_MORE_PARTS, _MORE_NUMBERS = 10_000, 1 << 26
_LARGEST = 1 << 14  # the largest argument (an image's side, say), unless the weights have a longer side
_LARGEST_IN_CONFIGS = 1 << 24  # transformers configs also contain text lengths, and
_LABELS = "num_labels"  # a count for which they create as many names

_KINDS = {  # of non-integers
    str(kind).removeprefix("torch."): kind
    for kind in vars(torch).values()
    if isinstance(kind, torch.dtype) and (kind.is_floating_point or kind.is_complex)
}
_Kind = Annotated[str, one_of(*_KINDS)]


@dataclass(frozen=True)
class Description(Open):
    """A folder's description of its network; it may contain further entries.

    Attributes:
        source: what builds the model; None if it cannot be built by name.
        stages: the plan.
        weights: the file of the tensors.
        ties: for each further name of a tensor, the name it is stored under.
        model: the name of the model's class.
        proven: as in the network.
        preprocessing: None if unknown.
        sha256: of the weights, if it is not in their name.
        extra_state: of modules, as `apart` returns it.
        complex128: names of tensors that the file stores as pairs of numbers.
        passing: for each buffer that is not saved, its dtype.
    """

    reading_error = CheckpointError

    source: Source | None
    stages: tuple[Stage, ...]
    weights: FileName
    ties: dict[str, str]
    model: str = "model"
    proven: bool = True
    preprocessing: Preprocessing | None = None
    sha256: Digest | None = None
    extra_state: dict[str, Any] = field(default_factory=dict)
    complex128: tuple[str, ...] = ()
    passing: dict[str, _Kind] = field(default_factory=dict)


class Kept(nn.Module):
    """A network that a folder can store: what it must provide, and how it is rebuilt from a model and a plan."""

    model: nn.Module
    stages: Stages
    skips: tuple[str, ...]
    source: Source | None
    proven: bool
    preprocessing: Preprocessing | None = None

    @classmethod
    def adapted(cls, model: nn.Module, stages: Stages) -> Self:
        """A network from a model and its plan."""
        raise NotImplementedError

    @property
    def calibrated(self) -> bool:
        raise NotImplementedError

    def reset_statistics(self, *, per_context: bool) -> None:
        raise NotImplementedError


KeptNetwork = TypeVar("KeptNetwork", bound=Kept)


# -- a network, and its two parts in a folder --------------------------------------------------------------------


def describe(network: Kept, reader: str = "load") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A network as a JSON description and its tensors, each once.

    Arguments:
        network: not changed; the tensors are its own if they are on the CPU.
        reader: what will read them, for errors.

    Raises:
        CheckpointError: model arguments, or an extra state of modules, that JSON cannot store; tensors that are not
            plain.
    """
    check_shaped(network, "save received", CheckpointError)
    _check_no_adapters(network)
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
        written = json.dumps(description)
    except TypeError as error:
        raise CheckpointError(
            f"the model's arguments {source} cannot be written as JSON ({error}): build the model with arguments of "
            f"plain types, or without create_model, and pass it to {reader}(folder, model=...)"
        ) from error
    content = parse_json(written, CheckpointError, "the description of the network", f"{reader} could not read it")
    # As `load` will read it, before anything is written.
    Description.from_json({**content, "weights": "as it will be named"})
    return description, tensors


def _check_no_adapters(network: nn.Module) -> None:
    """Raise if there are modules of peft: a model with them cannot be built by name."""
    held = [path for path, part in network.named_modules() if type(part).__module__.startswith("peft.")]
    if held:
        raise CheckpointError(
            f"{held[0].removeprefix('model.')} contains adapters of peft, which saving a network does not support: "
            "merge them first with their wrapper (wrapper = peft.get_peft_model(network.model, config); "
            "wrapper.merge_and_unload(), then network.forget_views()), or save only the adapters with "
            "wrapper.save_pretrained(folder)"
        )


def read_folder(
    kind: type[KeptNetwork],
    folder: Path,
    model: nn.Module | None = None,
    *,
    another_class: bool = False,
    reader: str = "load",
    given: str | None = None,
) -> KeptNetwork:
    """The network in a folder that `save` or `save_pretrained` wrote, in eval mode on the CPU.

    Arguments:
        kind: the class of the network.
        folder: with its files.
        model, another_class: as for `load`.
        reader, given: the function that the user called, and its argument, for errors; by default `load(folder)`.

    Raises:
        CheckpointError: no network, or one that is damaged, foreign, newer, or does not fit the model.
    """
    if isinstance(model, type):
        raise CheckpointError(f"model={is_a_class(model)}")
    given = given or str(folder)
    of_hub = (folder / CONFIG).is_file() and not (folder / RUN).is_file()
    file = folder / (CONFIG if of_hub else RUN)
    description = read_description(file)
    if of_hub and description.sha256 is None:
        raise CheckpointError(f"{file} is damaged: it has no sha256, expected 64 digits")
    weights, sha256 = folder / description.weights, description.sha256 if of_hub else None
    check_digest(weights, sha256)
    shapes = read_shapes(weights)
    kept = _as_state(description, shapes | _shapes_of_pairs(shapes, description.complex128, file), file)

    def made(plain: nn.Module) -> KeptNetwork:
        network = kind.adapted(plain, Stages(description.stages))
        network.reset_statistics(per_context=any(name.startswith("statistics.") for name in kept))
        _check_fit(network, kept, folder, reader)
        return network

    try:
        if model is None:
            built = _build(description, file, f"{reader}({given!r}, model=MyModel())", shapes, made)
        else:
            built = unwrapped(model)
            check_shaped(built, f"{reader} received", CheckpointError)
            if not another_class:
                _check_class(built, description, file, f"{reader}({given!r}, model=..., another_class=True)")
        network = made(built)
    except CheckpointError:
        raise
    except AdaptiveDepthError as error:
        raise CheckpointError(f"{file} does not fit the model: {error}") from error
    tensors = read_tensors(weights, sha256)
    from_pairs(tensors, description.complex128, file)
    state = _as_state(description, tensors, file)
    try:
        _fill(network, state, description.passing)
    except Exception as error:  # from modules' own code, which reads their extra states
        raise CheckpointError(
            f"{folder}: the weights do not fit the model ({one_line(error)}); pass the architecture that was saved, "
            f"{reader}(..., model=)"
        ) from error
    network.proven = description.proven
    if description.source is not None:
        network.source = description.source
    network.preprocessing = description.preprocessing
    return network.eval()


def _check_class(model: nn.Module, description: Description, file: Path, way_round: str) -> None:
    """Raise for a differently named class: it may compute something else with tensors of the same names and shapes."""
    name, kept = type(model).__name__, description.model
    if name != kept and kept != Description.model:
        raise CheckpointError(
            f"{file} contains a {kept}, but the given model is a {name}: weights that fit its names may mean something "
            f"else there; pass a {kept} or, if {name} computes the same (a renamed class, a subclass), call {way_round}"
        )


# -- files ------------------------------------------------------------------------------------------------------


def _unique(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor once, and for tied names the name under which their tensor is stored."""
    tensors: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    first: dict[Any, str] = {}
    for name, tensor in state.items():
        # Empty tensors all have the same address.
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else name
        if key in first:
            ties[name] = first[key]
        else:
            first[key] = name
            kept = tensor.detach().cpu().contiguous()
            # Cloned, because safetensors rejects several views of one storage.
            tensors[name] = kept if kept.untyped_storage().nbytes() == kept.nbytes else kept.clone()
    return tensors, ties


def as_pairs(tensors: dict[str, Tensor]) -> list[str]:
    """Turn tensors of dtypes that safetensors does not have into pairs of numbers; returns their names."""
    names = [name for name, tensor in tensors.items() if tensor.dtype is torch.complex128]
    tensors |= {name: torch.view_as_real(tensors[name]).contiguous() for name in names}
    return names


def from_pairs(tensors: dict[str, Tensor], names: Iterable[str], file: Path) -> None:
    """The inverse of `as_pairs`.

    Raises:
        CheckpointError: names that are not tensors, or not pairs.
    """
    names = set(names)
    _shapes_of_pairs({name: tensor.shape for name, tensor in tensors.items()}, names, file)
    for name in names:
        if tensors[name].dtype is not torch.float64:
            raise CheckpointError(f"{file} declares complex numbers in {name!r}, which are {tensors[name].dtype}")
        # A copy is aligned for complex numbers: torch crashes on those that a file has at an offset of 8 bytes.
        tensors[name] = torch.view_as_complex(tensors[name].clone())


def _shapes_of_pairs(shapes: Mapping[str, torch.Size], names: Iterable[str], file: Path) -> dict[str, torch.Size]:
    for name in names:
        if name not in shapes or shapes[name][-1:] != (2,):
            raise CheckpointError(f"{file} declares complex numbers in {name!r}, which the weights do not have")
    return {name: shapes[name][:-1] for name in names}


def _as_state(description: Description, kept: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """A file's content, tensors or their shapes, as the state of a network, with plain names."""
    for name, first in description.ties.items():
        if first not in kept:
            raise CheckpointError(f"{file} ties {name!r} to {first!r}, which the weights do not have")
    tied = {name: kept[first] for name, first in description.ties.items()}
    state = together({**kept, **tied}, description.extra_state)
    plain = {without(name, COMPILED): value for name, value in state.items()}
    return plain if len(plain) == len(state) else state  # unless two names became one


def write_tensors(tensors: dict[str, Tensor], folder: Path) -> str:
    """Atomically write tensors to a new file of a folder; its name contains a digest."""
    with drafts(folder) as place:
        digest = draft_tensors(tensors, place / "weights")
        name = f"weights-{digest[:16]}.safetensors"
        move(place / "weights", folder / name)
    return name


def draft_tensors(tensors: dict[str, Tensor], path: Path) -> str:
    """Write a new file with these tensors, synced to disk; returns its SHA-256."""
    try:
        save_file(tensors, path, metadata={"format": "pt"})
        # Opened for writing, because Windows cannot sync other files.
        with path.open("rb+") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
    except safetensors.SafetensorError as error:
        # A full disk, say, which callers handle like any other system error.
        raise OSError(str(error)) from error
    return digest


def read_description(path: Path) -> Description:
    """The description in a JSON file.

    Raises:
        CheckpointError: missing, damaged, foreign or newer.
    """
    if not path.exists():
        folder = path.parent
        there = "it does not exist" if not folder.exists() else f"it contains no {path.name}"
        raise CheckpointError(f"{folder} is not a saved network: {there}; expected a folder that save() wrote")
    content = _FORM.check(read_json(path, CheckpointError, "it is damaged, or not a network of this library"), path)
    try:
        return Description.from_json(content)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def check_digest(path: Path, sha256: str | None = None) -> None:
    """Check that a file of tensors is the one that was written.

    Arguments:
        path: the file.
        sha256: of its content; by default it is in its name, as from `write_tensors`.

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
            f"{path} does not match its description (its SHA-256 is {digest[:16]}..., not {sha256[:16]}...): it is "
            "truncated or damaged, or the files of two networks were mixed, as by an interrupted save; save or fetch "
            "all files again"
        )
    if sha256 is None and digest[:16] not in path.name:
        raise CheckpointError(f"the content of {path} does not match its name: the weights are truncated or damaged")


def read_shapes(path: Path) -> dict[str, torch.Size]:
    """The shapes of the tensors in a safetensors file, from its header; the tensors are not read.

    Raises:
        CheckpointError: a file that is damaged, or whose header does not fit its data.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            names = list(file.keys())  # it is not a mapping
            return {name: torch.Size(file.get_slice(name).get_shape()) for name in names}
    except Exception as error:  # from safetensors, from torch for an unsupported dtype, or from the system
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
    shapes: Mapping[str, torch.Size],
    made: Callable[[nn.Module], Any],
) -> nn.Module:
    """The model that a description names, built after checking that the weights fit it."""
    source = description.source
    if source is None:
        raise CheckpointError(
            f"{file.parent} contains a {description.model} that no name in timm, torchvision or transformers builds: "
            f"pass an instance of it, {call}, in Python (its class is custom, or its modules were changed after it was "
            "built; models from ad.create_model are rebuilt automatically)"
        )
    if wrong := {*source.arguments} & WEIGHT_ARGUMENTS:
        raise CheckpointError(
            f"{file} requests {', '.join(sorted(wrong))}, but a saved network has its own weights: it is damaged or "
            "was tampered with, so copy it from where it was saved"
        )
    largest = _LARGEST_IN_CONFIGS if source.name.startswith("transformers/") else _LARGEST
    longest = max(largest, len(shapes), *(side for shape in shapes.values() for side in shape))
    large = [number for number in _integers(source.arguments) if abs(number) > longest]
    if large := large + [number for number in _named(source.arguments, _LABELS) if number > _LARGEST]:
        raise CheckpointError(
            f"{file} requests {source.name!r} with the number {large[0]} in {dict(source.arguments)!r}, but no side of "
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
    with no_larger_than(parts, numbers):
        # For the few that need real tensors to be built (torchvision's RegNets), only the size is checked before.
        return create_model(source.name, **source.arguments)


def _integers(value: Any) -> Iterator[int]:
    if isinstance(value, int):  # includes True and False, which do no harm
        yield value
    elif not isinstance(value, str | float | None):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _integers(each)


def _named(value: Any, name: str) -> list[int]:
    """The integers under a name, at any level."""
    if not isinstance(value, Mapping):
        return []
    own = [value[name]] if isinstance(value.get(name), int) else []
    return own + [number for inner in value.values() for number in _named(inner, name)]


def _check_fit(network: Kept, kept: Mapping[str, Any], folder: Path, reader: str) -> None:
    """Raise a CheckpointError if a state of these names and shapes does not fit a network."""
    expected = _expected(network)
    missing = [name for name in expected if name not in kept]
    unexpected = [name for name in kept if name not in expected]
    if missing or unexpected:
        raise CheckpointError(
            f"{folder}: the weights do not fit the model: {len(missing)} missing ({', '.join(missing[:3])}), "
            f"{len(unexpected)} unexpected ({', '.join(unexpected[:3])}); pass the architecture that was saved, "
            f"{reader}(..., model=)"
        )
    for name, tensor in expected.items():
        if is_extra(name):  # any value: its module reads it
            continue
        there = kept[name]
        if not isinstance(there, torch.Size) or there != tensor.shape:
            found = list(there) if isinstance(there, torch.Size) else "not a tensor"
            raise CheckpointError(
                f"{folder}: the weights do not fit the model: {name} is {found} there and {list(tensor.shape)} in the "
                f"model; pass the architecture that was saved, {reader}(..., model=)"
            )


def _expected(network: Kept) -> dict[str, Any]:
    """The parameters, buffers and extra states of a network by plain names."""
    names = plain_names(network)
    return {names[name]: value for name, value in network.state_dict(keep_vars=True).items()}


def _fill(network: Kept, state: Mapping[str, Any], passing: Mapping[str, str]) -> None:
    """Load weights that fit, each in its saved precision."""
    for name, tensor in _expected(network).items():
        if not is_extra(name):
            _cast(tensor, state[name].dtype)
    network.load_state_dict({name: state[plain] for name, plain in plain_names(network).items()})
    kept = [value for name, value in state.items() if not is_extra(name)]
    _cast_passing(network, passing, {tensor.dtype for tensor in kept if tensor.is_floating_point()})


def _cast(tensor: Tensor, dtype: torch.dtype) -> None:
    """Change the precision of a parameter or buffer in place, so that ties and sharing persist."""
    if tensor.dtype != dtype:
        if not (dtype.is_floating_point or dtype.is_complex):  # torch has no gradients of other dtypes
            tensor.requires_grad_(False)
        tensor.data = tensor.data.to(dtype)


def _passing(network: nn.Module) -> list[tuple[str, Tensor]]:
    """Floating-point buffers outside the state dict: they are computed when a model is built, in its precision."""
    kept = network.state_dict(keep_vars=True)
    there = {id(tensor) for tensor in kept.values()}
    return [
        (name, buffer)
        for name, buffer in network.named_buffers()
        if id(buffer) not in there and (buffer.is_floating_point() or buffer.is_complex())
    ]


def _cast_passing(network: nn.Module, told: Mapping[str, str], kinds: set[torch.dtype]) -> None:
    """Cast unsaved buffers to their earlier precision; for older files, to that of everything else."""
    for name, buffer in _passing(network):
        if name in told:
            _cast(buffer, _KINDS[told[name]])
        elif len(kinds) == 1 and buffer.is_floating_point():
            _cast(buffer, next(iter(kinds)))


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check_storable(tensors: Mapping[str, Tensor]) -> None:
    """Raise a CheckpointError for the first tensor that safetensors cannot store."""
    for name, tensor in tensors.items():
        plain = type(tensor) in (Tensor, nn.Parameter)
        if not plain or tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            kind = type(tensor).__name__ if not plain else f"{tensor.layout}, {tensor.dtype}, on {tensor.device}"
            raise CheckpointError(
                f"{name} is not a plain tensor ({kind}), so the file cannot store it: save the network before another "
                "library quantises, prunes or shards it, or make it plain (dequantize, to_dense, full_tensor)"
            )
