"""Weights from files of other libraries, under whatever names they have there."""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import CheckpointError
from .tensor_files import Ignored, Part, check_dense, is_extra, more_than_tensors, read_parts, some
from .wrapping import COMPILED, check_shaped, unwrapped, without

_LOGGER = logging.getLogger(__name__)
_STRANGE = 0.1  # the largest share of tensors that may not fit, such as a head for other classes
_COUNTED = "num_batches_tracked"
_AVERAGED = {"ema", "swa", "avg", "averaged", "average", "shadow"}


# -- what fits --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Fit:
    """One way to fit a file's state dict to a model.

    Attributes:
        entry: as in its `Part`.
        prefix: before every name; empty if there is none.
        parts: components dropped from names.
        state: what fits, by the model's names.
        stayed: names of the model that the file does not fill.
        unused: names of the file that do not fit the model.
        others: names of the file that do not begin with the prefix.
        unreadable: names of the model for which the file has an object other than a plain tensor.
    """

    entry: str
    prefix: str
    parts: tuple[str, ...]
    state: Mapping[str, Any]
    stayed: list[str]
    unused: list[str]
    others: list[str]
    unreadable: list[str]

    @property
    def label(self) -> str:
        """The `entry=` that selects it."""
        return f"{self.entry}:{self.prefix}" if self.entry and self.prefix else self.entry or self.prefix or "the rest"

    @property
    def share(self) -> float:
        """The share of tensors that do not fit, in the model or in the file, whichever is larger."""
        return max(
            len(self.stayed) / max(1, len(self.stayed) + len(self.state)),
            len(self.unused) / max(1, len(self.unused) + len(self.state)),
        )

    @property
    def is_averaged(self) -> bool:
        return _averages(self.label)

    def is_same(self, other: "_Fit") -> bool:
        return self.state.keys() == other.state.keys() and all(
            isinstance(value, Tensor) and torch.equal(value, other.state[name]) for name, value in self.state.items()
        )


def _fits(part: Part, own: Mapping[str, Any]) -> list[_Fit]:
    """Every way to fit a state dict to a model: with each prefix under which most of its names are found.

    Components that wrappers insert into names (`_orig_mod`; then DDP's `module`, which the model may use itself) are
    dropped, in the file and in the model, only if names do not fit as they are.
    """
    tried: list[_Fit] = []
    for parts in ((), COMPILED, (*COMPILED, "module")):
        mine = {without(name, parts): name for name in own}
        theirs = {without(name, parts): name for name in part.state}
        if len(mine) < len(own) or len(theirs) < len(part.state):  # two names would collide
            continue
        found = [_fit(part, own, mine, theirs, prefix, inner) for prefix, inner in _prefixes(mine, theirs)]
        inside = tuple(word for word in parts if any(word in name.split(".") for name in part.state))
        found = [replace(fit, parts=inside) for fit in found]
        tried += found
        if any(fit.share <= _STRANGE for fit in found):
            return [fit for fit in found if fit.share <= _STRANGE]
    return tried


def _prefixes(mine: Mapping[str, str], theirs: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    """The prefixes to try, each with the longer ones inside it, whose names do not belong to it."""
    counts: Counter[str] = Counter()
    for name in theirs:
        parts = name.split(".")
        for place in range(len(parts)):
            if ".".join(parts[place:]) in mine:
                counts["".join(f"{part}." for part in parts[:place])] += 1
    likely = [prefix for prefix, count in counts.items() if count >= len(mine) / 2]
    for prefix in dict.fromkeys(["", *likely]):
        yield prefix, [other for other in likely if other != prefix and other.startswith(prefix)]


def _fit(
    part: Part,
    own: Mapping[str, Any],
    mine: Mapping[str, str],
    theirs: Mapping[str, str],
    prefix: str,
    inner: list[str],
) -> _Fit:
    state, unused, others, unreadable = {}, [], [], []
    for name, original in theirs.items():
        value, place = part.state[original], mine.get(name.removeprefix(prefix))
        if not name.startswith(prefix) or any(name.startswith(each) for each in inner):
            others.append(original)
        elif place is not None and _has_place(value, own[place], original):
            state[place] = value
        else:
            unused.append(original)
            unreadable += [place] * (place is not None and isinstance(value, Ignored))
    filled = {id(own[name]) for name in state if isinstance(own[name], Tensor)}  # tied weights may be saved once
    # Old files have no count of batches, which a BatchNorm with a momentum never reads.
    stayed = [
        name for name, tensor in own.items() if not (name in state or id(tensor) in filled or name.endswith(_COUNTED))
    ]
    return _Fit(part.entry, prefix.rstrip("."), (), state, stayed, unused, others, unreadable)


def _has_place(value: Any, own: Any, name: str) -> bool:
    """Same shape and kind of number: the codes of a quantised weight are not weights."""
    if not isinstance(value, Tensor) or not isinstance(own, Tensor):
        return (
            is_extra(name) and not isinstance(value, Ignored) and isinstance(value, Tensor) == isinstance(own, Tensor)
        )
    if is_extra(name):
        return True
    return value.shape == own.shape and (_kind(value) == _kind(own) or not value.ndim)


def _kind(tensor: Tensor) -> tuple[bool, ...]:
    return tensor.is_complex(), tensor.is_floating_point(), tensor.is_quantized, tensor.dtype is torch.bool


@dataclass(frozen=True)
class Taken:
    """What `take_over` did.

    Attributes:
        stayed: names of the model that the file does not fill.
        told: one line on what was chosen from the file and dropped from its names; empty if nothing was.
    """

    stayed: list[str]
    told: str


def take_over(model: nn.Module, path: str | os.PathLike[str], entry: str | None = None) -> Taken:
    """`load_weights`, with its message returned instead of logged; arguments and errors are the same."""
    path, model = Path(path), unwrapped(model)
    check_shaped(model, "load_weights received", CheckpointError)
    own = model.state_dict(keep_vars=True)
    parts = read_parts(path)
    tried = [fit for part in parts for fit in _fits(part, own)]
    fitting = [fit for fit in tried if fit.share <= _STRANGE]
    if entry is not None:
        named = [fit for fit in tried if entry in (fit.label, fit.entry, fit.prefix)]
        if not named:
            choices = list(dict.fromkeys(fit.label for fit in fitting or tried))
            raise CheckpointError(f"entry={entry!r}: {path} has no such entry; expected {_all(choices, 'or')}")
        tried, fitting = named, [fit for fit in named if fit in fitting]
    if not fitting:
        raise CheckpointError(_of_another_model(path, max(tried, key=lambda fit: len(fit.state)), model, parts))
    for each in fitting:
        check_dense(path, each.state)
    fit, rivals = _chosen(path, fitting)
    if fit.unreadable:
        raise CheckpointError(
            f"{path} holds {some(fit.unreadable)} as objects other than plain tensors, which are not read because "
            "they could run code: save a state dict of plain tensors"
        )
    model.load_state_dict(dict(fit.state), strict=False)
    return Taken(fit.stayed, _told(path, fit, rivals))


def _chosen(path: Path, fitting: list[_Fit]) -> tuple[_Fit, list[_Fit]]:
    """The trained weights, rather than averages of them, and what else fits."""
    trained = [fit for fit in fitting if not fit.is_averaged] or fitting  # a file may have averages only
    first, *more = trained
    if not all(first.is_same(other) for other in more):
        raise CheckpointError(
            f"{path} holds several sets of weights that fit the model, {_all([fit.label for fit in trained])}: "
            f"choose one, such as entry={first.label!r} (--weights-entry)"
        )
    return first, [fit for fit in fitting if fit not in trained]


def _told(path: Path, fit: _Fit, rivals: list[_Fit]) -> str:
    said = []
    if fit.entry or rivals:
        others = f", not {_all([rival.label for rival in rivals])} (entry= or --weights-entry)" if rivals else ""
        said.append(f"took {fit.label!r}{others}")
    if left := [f"{fit.prefix}."] * bool(fit.prefix) + [*fit.parts]:
        said.append(f"dropped {_all(left)} from the names")
    if fit.others and not rivals:
        said.append(f"ignored {len(fit.others)} other tensors ({some(fit.others)})")
    stayed = set(fit.stayed)
    if surplus := [
        name for name in fit.unused if name.removeprefix(f"{fit.prefix}." if fit.prefix else "") not in stayed
    ]:
        said.append(f"found no match for {len(surplus)} tensors ({some(surplus)})")
    return f"{path}: {'; '.join(said)}" if said else ""


def _of_another_model(path: Path, fit: _Fit, model: nn.Module, parts: list[Part]) -> str:
    fitting, theirs, ours = (len(fit.state) + more for more in (0, len(fit.unused), len(fit.stayed)))
    said = (
        f"{path} is from another model: {fitting} of its {theirs} tensors fit the model's {ours} (missing or of "
        f"another shape: {some(fit.stayed)}; not in the model, or of another shape: {some(fit.unused)})"
    )
    if not fit.stayed and any("statistics" in name.split(".") for name in fit.unused):
        return (
            f"{said}; it was calibrated: call network.reset_statistics(per_context=True) first, or save it with ad.save"
        )
    within = next((name for name, child in model.named_children() if _fill_one(parts, child)), None)
    if within is None:
        return said
    adapted = "skip_norms" in dict(model.named_children())
    fix = "load them into the plain model, before adapt" if adapted else f"load them into model.{within}"
    return f"{said}; they fit a part of the model, {within!r}: {fix}"


def _fill_one(parts: list[Part], child: nn.Module) -> bool:
    own = child.state_dict(keep_vars=True)
    return bool(own) and any(fit.share <= _STRANGE for part in parts for fit in _fits(part, own) if not fit.prefix)


# -- for users --------------------------------------------------------------------------------------------------


def load_weights(model: nn.Module, path: str | os.PathLike[str], *, entry: str | None = None) -> list[str]:
    """Initialise a model with trained weights, even if they are for another number of classes.

    Tensors of the same name, shape and kind of number are copied, in the model's precision; those of another shape (a
    head for other classes) keep their values in `model`. What wrappers add to names (`module.`, `_orig_mod.`, the
    attribute of a LightningModule) is dropped if the names fit then. What was chosen and dropped is logged in one line.

    Arguments:
        model: a plain model, or one inside torch.compile or DDP.
        path: a `.pth`, `.ckpt`, `.bin` or safetensors file, an index of such files, or a folder that transformers or
            accelerate wrote. Nothing but tensors is unpickled.
        entry: which of several sets of weights in a file, such as `"state_dict_ema"`; by default the trained ones, not
            averages of them.

    Returns:
        The names that kept their values.

    Raises:
        CheckpointError: a file that cannot be read; several sets of weights that fit; or weights of another model:
            more than a tenth of the model's tensors, or of the file's, do not fit.

    Example:
        >>> import tempfile, torch, adaptive_depth as ad
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(ad.create_model("resnet18").state_dict(), f"{folder}/a.pth")
        ...     load_weights(ad.create_model("resnet18", num_classes=5), f"{folder}/a.pth")
        ['fc.weight', 'fc.bias']
    """
    taken = take_over(model, path, entry)
    if taken.told:
        _LOGGER.warning(taken.told)
    return taken.stayed


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The one state dict in a file or folder, with plain names: without what wrappers add to them.

    Raises:
        CheckpointError: a file that cannot be read, that holds other things or several state dicts, or that could run
            code.
    """
    path = Path(path)
    parts = read_parts(path)
    large = [part for part in parts if 2 * len(part.state) > max(len(each.state) for each in parts)]
    trained = [part for part in large if not _averages(part.entry)] or large
    if len(trained) > 1:
        raise CheckpointError(
            f"{path} holds several state dicts, {_all([part.entry for part in trained])}: save the one to read alone"
        )
    if strange := [name for name, value in trained[0].state.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(more_than_tensors(path, strange))
    check_dense(path, trained[0].state)
    if len(large) > 1:
        others = _all([part.entry for part in large if part is not trained[0]])
        _LOGGER.warning(f"{path}: took the entry {trained[0].entry!r}, the trained weights, not {others}")
    state = {without(name, COMPILED): value for name, value in trained[0].state.items()}
    while (first := {name.partition(".")[0] for name in state}) <= {"module"} or first <= {"model"}:
        state = {name.partition(".")[2]: value for name, value in state.items()}
    return state


def _averages(label: str) -> bool:
    """Does a name indicate averaged weights?"""
    return any(word.lower() in _AVERAGED for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", label))


def _all(names: list[str], joined: str = "and") -> str:
    *first, last = [repr(name) for name in names]
    return f"{', '.join(first)} {joined} {last}" if first else last


# -- whether they are finite ------------------------------------------------------------------------------------


def first_not_finite(module: nn.Module) -> str | None:
    """The name of the first parameter, or running statistic, that holds NaN or infinity; None if none does.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 1))
        >>> first_not_finite(model)
        >>> _ = nn.init.constant_(model[0].bias, float("nan"))
        >>> first_not_finite(model)
        '0.bias'
    """
    running = ((name, buffer) for name, buffer in module.named_buffers() if "running_" in name)
    for name, tensor in (*module.named_parameters(), *running):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None
