"""Checkpoints to resume a training from: everything that determines its future, without pickle.

A checkpoint is `NAME.json` and the tensor file that it names, both written atomically, the JSON last. So every
`NAME.json` in a folder is always complete, whatever was interrupted.
"""

import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..core.distributed import gather, load_whole, shard_like
from ..errors import AdaptiveDepthError, CheckpointError, one_line
from ..files import write_atomically
from ..hub.extra_state import apart, together
from ..hub.folder import as_pairs, from_pairs, read_tensors, write_tensors
from ..schema import Count, FileName, NotNegative, Number, Open, Plain, Size, Such, one_of, read_json
from ..tensor_files import is_extra
from .history import Epoch

FORMAT, VERSION = "adaptive-depth training state", 2
_Byte = Annotated[int, Such(lambda value: 0 <= value < 256, "a byte, from 0 to 255")]
_Kind = Annotated[str, one_of("float64", "float32", "float16", "bfloat16", "int64", "int32")]


@dataclass(frozen=True)
class RandomState(Plain):
    """What `random_state` returns."""

    torch: tuple[_Byte, ...]
    numpy: tuple[str, tuple[Count, ...], Count, Count, Number]
    python: tuple[Count, tuple[Count, ...], Number | None]
    cuda: tuple[_Byte, ...] | None = None


@dataclass(frozen=True)
class Sums(Plain):
    """What `Meter.to_json` returns."""

    images: Count
    sums: dict[str, tuple[Number | int, _Kind]]
    base_images: Count = 0


@dataclass(frozen=True)
class Numbers(Plain):
    """What `numbers_of` returns besides tensors."""

    values: dict[str, Any]
    groups: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Waiting(Plain):
    """What `Passes.state` returns besides tensors."""

    loaded: Count
    steps: Count
    waiting: Count
    kept: tuple[tuple[Count, dict[str, Any]], ...]


@dataclass(frozen=True)
class Facts(Open):
    """The plain values of a checkpoint; lists have one entry for each process.

    Attributes:
        tensors: the file of the tensors.
        recipe: of the training.
        epoch, step, batch: the position: the current epoch, from 1; steps done; batches done in this epoch.
        batches: per epoch.
        lr, optimizer, scaler, meters, random, random_at_start, passes, best: the state of these parts.
        history: the finished epochs.
        extra_state: of the network's modules, as `apart` returns it.
        complex128: names of tensors that the file holds as pairs of numbers.
    """

    reading_error = CheckpointError

    tensors: FileName
    recipe: dict[str, Any]
    epoch: Size
    step: Count
    batch: Count
    batches: Size
    meters: tuple[Sums, ...]
    lr: NotNegative
    optimizer: Numbers
    scaler: dict[str, Any]
    random: tuple[RandomState, ...]
    random_at_start: tuple[RandomState | None, ...]
    history: tuple[Epoch, ...]
    best: Number | None
    passes: tuple[Waiting, ...] | None = None
    extra_state: dict[str, Any] = field(default_factory=dict)
    complex128: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        processes = {len(each) for each in (self.meters, self.random, self.random_at_start, self.passes or self.random)}
        if [each.epoch for each in self.history] != [*range(1, self.epoch)] or self.batch > self.batches:
            raise CheckpointError(
                f"a checkpoint of epoch {self.epoch}, batch {self.batch} of {self.batches}, has a history of "
                f"{len(self.history)} epochs: expected every earlier epoch"
            )
        if len(processes) != 1 or not self.random:
            raise CheckpointError("a checkpoint has entries for different numbers of processes: expected one number")


def save_state(folder: Path, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Write a checkpoint.

    Arguments:
        folder: of checkpoints; created if missing.
        name: of this one, such as `"step-00000100"`.
        tensors: the tensors, by name.
        facts: plain values, saved as JSON.

    Raises:
        CheckpointError: a place that cannot be written; earlier files there are unchanged.
    """
    path = folder / f"{name}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        kept = dict(tensors)
        pairs = as_pairs(kept)
        file = write_tensors(kept, folder)
        content = {"format": FORMAT, "version": VERSION, "tensors": file, "complex128": pairs, **facts}
        write_atomically(path, json.dumps(content).encode())
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {path} cannot be written ({error}): free disk space and resume from the last one with --resume"
        ) from error
    return path


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the plain values of a checkpoint.

    Raises:
        CheckpointError: a file that is damaged, foreign or of a newer version.
    """
    others = [other.name for other in sorted(path.parent.glob("*.json")) if other != path]
    fix = f"remove it to resume from {others[-1]}" if others else "there is no other one, so start again"
    try:
        facts = read_json(path, CheckpointError, "it is damaged")
        _check_format(path, facts)
        told = Facts.from_json(facts)
        tensors = read_tensors(path.parent / told.tensors)
        from_pairs(tensors, told.complex128, path)
        return tensors, facts
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {fix}") from error


@contextmanager
def put_back(path: Path) -> Iterator[None]:
    """Turn every error of restoring a checkpoint inside into a `CheckpointError`.

    Raises:
        CheckpointError: for an error of any kind inside.
    """
    try:
        yield
    except AdaptiveDepthError:
        raise
    except Exception as error:  # torch, NumPy and optimisers raise different kinds
        raise CheckpointError(
            f"{path} does not fit this training ({one_line(error)}): it is damaged, or from another network; resume "
            "with the same one, or start again"
        ) from error


def _check_format(path: Path, facts: Any) -> None:
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a training checkpoint of this library")
    if facts.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has version {facts.get('version')!r}, but this library resumes from {VERSION} only"
        )


def newest(folder: Path) -> Path | None:
    """The checkpoint that a training resumes from; None if there is none."""
    steps = sorted(folder.glob("step-*.json"))
    return steps[-1] if steps else None


def forget_old(folder: Path, keep: int) -> None:
    """Remove all but the newest step checkpoints, and tensor files that no checkpoint names any more."""
    for path in sorted(folder.glob("step-*.json"))[: -keep or None]:
        path.unlink(missing_ok=True)
    try:
        facts = [read_json(path, CheckpointError, "remove it") for path in folder.glob("*.json")]
    except CheckpointError:
        return  # a damaged one may need any of the tensors
    named = {each.get("tensors") for each in facts if isinstance(each, dict)}
    for path in folder.glob("weights-*.safetensors"):
        if path.name not in named:
            path.unlink(missing_ok=True)


# -- what is saved ----------------------------------------------------------------------------------------------


def numbers_of(optimizer: torch.optim.Optimizer, *, keep: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state: its tensors by name, and the rest as plain values. Without `keep` there are no tensors, but
    this process still contributes its shards to those that keep them."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}
    for number, values in state["state"].items():
        for name, value in values.items():
            key = f"{number}.{name}"
            if isinstance(value, Tensor):
                in_one = gather(value.detach())
                if keep:
                    tensors[key] = in_one.cpu().contiguous()
            else:
                rest[key] = value
    groups = [{key: value for key, value in group.items() if key != "params"} for group in state["param_groups"]]
    return tensors, {"values": rest, "groups": groups}


def put_numbers(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """The inverse of `numbers_of`, into an optimiser of the same parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *rest["values"].items()]:
        number, _, name = key.partition(".")
        own = parameters[int(number)] if int(number) < len(parameters) else None
        if own is not None and isinstance(value, Tensor) and value.shape == own.shape:
            value = shard_like(value, own)
        state.setdefault(int(number), {})[name] = value
    now = optimizer.state_dict()["param_groups"]
    groups = [{**before, "params": group["params"]} for before, group in zip(rest["groups"], now, strict=True)]
    for group in groups:
        # JSON made lists of tuples.
        if isinstance(group.get("betas"), list):
            group["betas"] = tuple(group["betas"])
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for number, values in state.items():  # load_state_dict casts to the parameter's dtype: restore the saved one
        kept = optimizer.state[parameters[number]] if number < len(parameters) else {}
        for name, value in values.items():
            if isinstance(value, Tensor) and isinstance(kept.get(name), Tensor) and kept[name].dtype != value.dtype:
                kept[name] = value.to(kept[name].device)


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of all random number generators, as plain values."""
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - transforms draw from it
    version, internal, gauss = random.getstate()
    state = {
        "torch": torch.get_rng_state().tolist(),
        "numpy": [kind, keys.tolist(), position, has_gauss, cached],  # type: ignore[union-attr]
        "python": [version, list(internal), gauss],
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device).tolist()
    return state


def put_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """The inverse of `random_state`."""
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))  # noqa: NPY002
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(torch.tensor(state["cuda"], dtype=torch.uint8), device)


def state_of_module(module: nn.Module, prefix: str, *, keep: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A module's state under a prefix: its tensors, tied ones once, and everything else as JSON.

    Raises:
        CheckpointError: an extra state that JSON cannot hold.
    """
    state, extra = apart(module.state_dict())
    found, seen = {}, set()
    for name, tensor in state.items():
        spread = isinstance(tensor, DTensor)
        # Tied tensors share memory; shards have no common pointer, and all empty tensors have the same.
        key = name if spread or not tensor.numel() else (tensor.data_ptr(), tensor.shape)
        if key not in seen:
            seen.add(key)
            in_one = gather(tensor.detach())
            if keep:
                found[f"{prefix}{name}"] = in_one.cpu().clone(memory_format=torch.contiguous_format)
    return found, {f"{prefix}{name}": value for name, value in extra.items()} if keep else {}


def put_state(
    module: nn.Module, tensors: Mapping[str, Tensor], prefix: str, extra: Mapping[str, Any] | None = None
) -> None:
    """The inverse of `state_of_module`.

    Raises:
        CheckpointError: a state of another network, or of one in another precision.
    """
    own = together(_within(tensors, prefix), _within(extra or {}, prefix))
    expected = module.state_dict(keep_vars=True)
    tied = {name for name in expected if name not in own}
    there = {id(tensor) for name, tensor in expected.items() if name in own}
    lost = [name for name, tensor in expected.items() if name in tied and id(tensor) not in there]
    strange = [name for name, value in own.items() if name not in expected or not _fits(name, value, expected[name])]
    if lost or strange:
        raise CheckpointError(f"the checkpoint is from another network: {', '.join((lost or strange)[:3])} do not fit")
    for name, value in own.items():
        if isinstance(value, Tensor) and isinstance(expected[name], Tensor) and value.dtype != expected[name].dtype:
            raise CheckpointError(
                f"the checkpoint is from a network in another precision: {name} is {value.dtype} there and "
                f"{expected[name].dtype} now; resume with the network as it was"
            )
    load_whole(module, own)


def _fits(name: str, value: Any, expected: Any) -> bool:
    """Can it be loaded there? An extra state may have any form."""
    if is_extra(name) or not isinstance(expected, Tensor):
        return isinstance(value, Tensor) or not isinstance(expected, Tensor)
    return isinstance(value, Tensor) and value.shape == expected.shape


def _within(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
