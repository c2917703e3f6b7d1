"""Copies an adapted network into a model with the same body: weights, plan, second norms and statistics per context.

So a detector can start from a classifier that was trained with its depths. Tensors are matched by their shapes and
names, whatever their prefix in either (`features.`, `resnet.`).
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import StagesError
from ..plan import WHOLE, Stage, Stages, Within, searched
from ..plan.frozen import can_be_doubled, is_frozen
from ..tensor_files import some
from ..wrapping import plain_names
from .network import AdaptiveNetwork

_LOGGER = logging.getLogger(__name__)
_STRANGE = 0.1  # the largest share of the body's tensors that the network may lack, such as norms of its outputs
_COUNTED = "num_batches_tracked"  # frozen norms have none


@dataclass(frozen=True)
class Move:
    """A network and a body that match.

    Attributes:
        network: left unchanged.
        paths: the path in the model of each module of the network's model that the body also has.
        stages: the network's plan, with the model's module names.
    """

    network: AdaptiveNetwork
    paths: Mapping[str, str]
    stages: Stages

    def fill(self, target: AdaptiveNetwork) -> None:
        """Copy the tensors into a network with this plan."""
        network, homes = self.network, self.network.homes
        modules, ours = dict(network.model.named_modules(remove_duplicate=False)), dict(target.model.named_modules())
        with torch.no_grad():
            for path, other in self.paths.items():
                _copy(modules[path], ours[other], recurse=False)
            for path in homes.keys() & self.paths.keys():
                _copy(_at(network.skip_norms, path), _at(target.skip_norms, self.paths[path]))
            if not network.calibrated:
                return
            lost = self._lost(target, ours)
            if lost:
                _LOGGER.warning(
                    f"{len(lost)} frozen norms of the body ({some(lost)}) keep one set of statistics, but the "
                    "network has one per context: the super-net is unchanged, but the other depths need training and "
                    "calibration; build the body with nn.BatchNorm2d (norm_layer of torchvision) to keep them all"
                )
            for path, home in network.homes.items():  # a frozen norm gets those of the calibrated super-net
                if path in self.paths and is_frozen(norm := ours[self.paths[path]]):
                    _copy(_at(network.statistics, f"{'F' * home}.{path}"), norm)
            if lost:
                return
            target.reset_statistics(per_context=True)
            there = {other: path for path, other in self.paths.items()}
            for context, other in target.contexts():
                _copy(
                    _at(network.statistics, f"{context}.{there.get(other)}"),
                    _at(target.statistics, f"{context}.{other}"),
                )

    def _lost(self, target: AdaptiveNetwork, ours: Mapping[str, nn.Module]) -> list[str]:
        """Frozen norms of the target with fewer sets of statistics than the corresponding norms of the network."""
        sets = Counter(path for _, path in self.network.contexts())
        kept = Counter(path for _, path in target.contexts())
        frozen = [path for path in sets if path in self.paths and is_frozen(ours[self.paths[path]])]
        return [self.paths[path] for path in frozen if sets[path] > kept[self.paths[path]] + 1]  # one is its own


def _copy(source: nn.Module | None, target: nn.Module | None, *, recurse: bool = True) -> None:
    """Copy tensors with the same names and shapes, if both modules exist."""
    if source is None or target is None:
        return
    found = dict(source.named_parameters(recurse=recurse)) | dict(source.named_buffers(recurse=recurse))
    for tensors in (target.named_parameters(recurse=recurse), target.named_buffers(recurse=recurse)):
        for name, tensor in tensors:
            if name in found and found[name].shape == tensor.shape:
                tensor.copy_(found[name])


def _at(tree: nn.Module, path: str) -> nn.Module | None:
    try:
        return tree.get_submodule(path)
    except AttributeError:
        return None


def fitting(model: nn.Module, network: AdaptiveNetwork, within: Within = None) -> Move:
    """How to copy a network into the body of a model.

    Arguments:
        model: left unchanged.
        network: an adapted classifier, body or detector.
        within: where the body is, as for `adapt`; by default where `find_stages` would look.

    Raises:
        StagesError: the body is unknown, or differs from the network's.
    """
    places = searched(model, within)
    if places == WHOLE and within is None and not _fits_as_a_whole(model, network):
        raise StagesError(
            f"{type(model).__name__} has no known body, so it is unclear what the network replaces: "
            "name it, adapt(model, body=network, within='...')"
        )
    found = [(_matched(model, place, network), place) for place in places]
    # Of several bodies, the one that matches best.
    tensors, place = max(found, key=lambda each: len(each[0]))
    body = model.get_submodule(place)
    names = [f"{place}.{name}".lstrip(".") for name in _kept(body)]
    missing = [name for name in names if name not in tensors]
    if not tensors or len(missing) > _STRANGE * len(names):
        raise StagesError(
            f"the body of {type(model).__name__}, {place or 'the whole of it'} ({type(body).__name__}), differs from "
            f"the network: by name and shape, {len(tensors)} of its {len(names)} tensors are also in the "
            f"{type(network.model).__name__} (not {some(missing)}); pass a network of the same architecture, or "
            "name the body, within='...'"
        )
    paths = _paths(tensors)
    stages = _moved(network, paths, model, place)
    inside = tuple(f"{block}." for stage in stages for block in stage.blocks)
    if strange := [name for name in missing if name.startswith(inside)]:
        raise StagesError(
            f"blocks of the body have tensors that the network does not have ({some(strange)}): pass a network of the "
            "same architecture"
        )
    if missing:
        _LOGGER.warning(f"the network has nothing for {some(missing)} of the body, which stay unchanged")
    return Move(network, paths, stages)


@contextmanager
def taken_apart(model: nn.Module) -> Iterator[tuple[AdaptiveNetwork, str] | None]:
    """Replace an adapted network in a model by its plain one inside, and permanently if nothing is raised.

    Yields the network and its path; None if there is none.

    Raises:
        StagesError: there are several.
    """
    found = [(path, part) for path, part in model.named_modules() if path and isinstance(part, AdaptiveNetwork)]
    if len(found) > 1:
        raise StagesError(
            f"{type(model).__name__} contains {len(found)} adapted networks ({', '.join(path for path, _ in found)}): "
            "expected one; replace the others by their plain models, network.model"
        )
    if not found:
        yield None
        return
    ((path, network),) = found
    holders = [(part, name) for part in model.modules() for name, child in part._modules.items() if child is network]
    for part, name in holders:
        part._modules[name] = network.model
    try:
        yield network, path
    except BaseException:
        for part, name in holders:
            part._modules[name] = network
        raise


# -- names ------------------------------------------------------------------------------------------------------


def _kept(module: nn.Module) -> dict[str, Tensor]:
    """Its tensors by name, without counters."""
    state = module.state_dict(keep_vars=True)
    return {name: each for name, each in state.items() if isinstance(each, Tensor) and not name.endswith(_COUNTED)}


def _fits_as_a_whole(model: nn.Module, network: AdaptiveNetwork) -> bool:
    return len(_matched(model, "", network)) > (1 - _STRANGE) * len(_kept(model))


def _matched(model: nn.Module, place: str, network: AdaptiveNetwork) -> dict[str, str]:
    """The network's name for each tensor below a path of the model, if it has one.

    timm renames the layers of a list if it returns their outputs, `layers_0` for `layers.0`.
    """
    prefix = f"{place}." if place else ""
    body, names = _kept(model.get_submodule(place)), plain_names(network.model)
    theirs = {names[name].replace("_", "."): (name, each.shape) for name, each in _kept(network.model).items()}
    mine = {name.replace("_", "."): name for name in body}
    best: dict[str, str] = {}
    for start in _starts(mine):
        short = {alike.removeprefix(start): name for alike, name in mine.items()}
        for other, _ in _likely(short, theirs):
            pairs = ((name, theirs.get(f"{other}{alike}")) for alike, name in short.items())
            found = {f"{prefix}{name}": pair[0] for name, pair in pairs if pair and pair[1] == body[name].shape}
            best = max(best, found, key=len)
    return best


def _starts(names: Mapping[str, Any]) -> list[str]:
    """Prefixes of all names, the empty one first: a body may have the network as its only part."""
    starts, (first, *_) = [""], [*names, ""]
    for place, letter in enumerate(first):
        if letter == "." and all(name.startswith(first[: place + 1]) for name in names):
            starts.append(first[: place + 1])
    return starts


def _likely(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Prefixes of the network's names that otherwise match the body's, the most frequent first."""
    counts: Counter[str] = Counter()
    for name in theirs:
        parts = name.split(".")
        for place in range(len(parts)):
            if ".".join(parts[place:]) in mine:
                counts["".join(f"{part}." for part in parts[:place])] += 1
    return counts.most_common(3)


def _paths(tensors: Mapping[str, str]) -> dict[str, str]:
    """The path in the model of each module of the network, from its tensors' names; also of modules around it."""
    paths: dict[str, str] = {}
    for own, other in tensors.items():
        mine, theirs = own.split(".")[:-1], other.split(".")[:-1]
        paths[".".join(theirs)] = ".".join(mine)
        while len(mine) > 1 and len(theirs) > 1 and mine[-1] == theirs[-1]:
            mine, theirs = mine[:-1], theirs[:-1]
            paths.setdefault(".".join(theirs), ".".join(mine))
    return paths


def _moved(network: AdaptiveNetwork, paths: Mapping[str, str], model: nn.Module, place: str) -> Stages:
    """The network's plan with the model's module names; a body may lack the last stages."""
    there = [all(block in paths for block in stage.blocks) for stage in network.stages]
    number = there.index(False) if False in there else len(there)
    if not number or any(there[number:]):
        lost = next(stage for stage, is_there in zip(network.stages, there, strict=True) if not is_there)
        raise StagesError(
            f"{type(model).__name__} does not have the blocks of the network's stage {lost.name!r} "
            f"({', '.join(lost.blocks)}), but has later ones: a body may lack only the last stages of a network"
        )
    return Stages(tuple(_in_model(stage, paths, model, place) for stage in network.stages[:number]))


def _in_model(stage: Stage, paths: Mapping[str, str], model: nn.Module, place: str) -> Stage:
    def moved(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(paths[name] for name in names)

    norms = moved(tuple(norm for norm in stage.norms or () if norm in paths))
    return replace(
        stage,
        mandatory=moved(stage.mandatory),
        skippable=moved(stage.skippable),
        norms=tuple(norm for norm in norms if can_be_doubled(model.get_submodule(norm))),
        name="" if stage.name == stage.blocks[0].rpartition(".")[0] else f"{place}.{stage.name}".strip("."),
    )
