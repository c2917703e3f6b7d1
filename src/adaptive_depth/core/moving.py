"""An adapted network moves into a model that has its body: weights, plan, second norms and statistics per context.

So a classifier is trained with its depths, and a detector begins with them. Tensors are matched by their shapes and
their names, whatever comes before these in either (`features.`, `resnet.`).
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
_STRANGE = 0.1  # the largest part of the body's tensors that may have nothing in the network: norms of its outputs, say
_COUNTED = "num_batches_tracked"  # which a frozen norm does not have


@dataclass(frozen=True)
class Move:
    """A network and a body that fit.

    Attributes:
        network: stays as it is.
        paths: for each module of the network's model that the body has too, where it stands in the model.
        stages: the network's plan, as the model names its modules.
    """

    network: AdaptiveNetwork
    paths: Mapping[str, str]
    stages: Stages

    def fill(self, target: AdaptiveNetwork) -> None:
        """Give a network of this plan the numbers of the other."""
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
                    f"{len(lost)} frozen norms of the body ({some(lost)}) keep one set of statistics, where the "
                    "network has one for each context: the super-net computes what it did, the other depths do not "
                    "until the detector is trained and calibrated; build the body with nn.BatchNorm2d (norm_layer of "
                    "torchvision) to keep them all"
                )
            for path, home in network.homes.items():  # of a frozen norm: those with which the super-net was calibrated
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
        """Frozen norms of the target that have fewer sets of statistics than the network's norms in their places."""
        sets = Counter(path for _, path in self.network.contexts())
        kept = Counter(path for _, path in target.contexts())
        frozen = [path for path in sets if path in self.paths and is_frozen(ours[self.paths[path]])]
        return [self.paths[path] for path in frozen if sets[path] > kept[self.paths[path]] + 1]  # one is its own


def _copy(source: nn.Module | None, target: nn.Module | None, *, recurse: bool = True) -> None:
    """Tensors of the same names and shapes, where both are there."""
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
    """How a network moves into the body of a model.

    Arguments:
        model: stays as it is.
        network: a classifier, a body, or a detector, adapted.
        within: where the body is, as for `adapt`; by default where `find_stages` would look.

    Raises:
        StagesError: the body is not known, or is another one.
    """
    places = searched(model, within)
    if places == WHOLE and within is None and not _fits_as_a_whole(model, network):
        raise StagesError(
            f"{type(model).__name__} has no body that is known as one, so it is not known what the network replaces: "
            "name it, adapt(model, body=network, within='...')"
        )
    found = [(_matched(model, place, network), place) for place in places]
    tensors, place = max(found, key=lambda each: len(each[0]))
    body = model.get_submodule(place)
    names = [f"{place}.{name}".lstrip(".") for name in _kept(body)]
    missing = [name for name in names if name not in tensors]
    if not tensors or len(missing) > _STRANGE * len(names):
        raise StagesError(
            f"the body of {type(model).__name__}, {place or 'the whole of it'} ({type(body).__name__}), is not that of "
            f"the network: by name and shape, {len(tensors)} of its {len(names)} tensors are in the "
            f"{type(network.model).__name__} too (not {some(missing)}); give a network of the same architecture, or "
            "name the body, within='...'"
        )
    paths = _paths(tensors)
    stages = _moved(network, paths, model, place)
    inside = tuple(f"{block}." for stage in stages for block in stage.blocks)
    if strange := [name for name in missing if name.startswith(inside)]:
        raise StagesError(
            f"blocks of the body have tensors that the network does not have ({some(strange)}): give a network of the "
            "same architecture"
        )
    if missing:
        _LOGGER.warning(f"the network has nothing for {some(missing)} of the body, which stay as they are")
    return Move(network, paths, stages)


@contextmanager
def taken_apart(model: nn.Module) -> Iterator[tuple[AdaptiveNetwork, str] | None]:
    """Inside, an adapted network that stands in a model is replaced by its plain one, which stays if nothing is raised.

    Yields the network and its path; None where there is none.

    Raises:
        StagesError: there are several.
    """
    found = [(path, part) for path, part in model.named_modules() if path and isinstance(part, AdaptiveNetwork)]
    if len(found) > 1:
        raise StagesError(
            f"{type(model).__name__} holds {len(found)} adapted networks ({', '.join(path for path, _ in found)}): "
            "expected one; put plain models, network.model, in the places of the others"
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
    """Its tensors by name, but for counts."""
    state = module.state_dict(keep_vars=True)
    return {name: each for name, each in state.items() if isinstance(each, Tensor) and not name.endswith(_COUNTED)}


def _fits_as_a_whole(model: nn.Module, network: AdaptiveNetwork) -> bool:
    return len(_matched(model, "", network)) > (1 - _STRANGE) * len(_kept(model))


def _matched(model: nn.Module, place: str, network: AdaptiveNetwork) -> dict[str, str]:
    """For each tensor of the model below a path that the network has too: its name there.

    timm names the layers of a list anew where it returns their outputs, `layers_0` for `layers.0`.
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
    """What all names begin with, none first: a body may hold the network as its only part."""
    starts, (first, *_) = [""], [*names, ""]
    for place, letter in enumerate(first):
        if letter == "." and all(name.startswith(first[: place + 1]) for name in names):
            starts.append(first[: place + 1])
    return starts


def _likely(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[tuple[str, int]]:
    """What comes before names of the network's that are the body's otherwise, the most frequent first."""
    counts: Counter[str] = Counter()
    for name in theirs:
        parts = name.split(".")
        for place in range(len(parts)):
            if ".".join(parts[place:]) in mine:
                counts["".join(f"{part}." for part in parts[:place])] += 1
    return counts.most_common(3)


def _paths(tensors: Mapping[str, str]) -> dict[str, str]:
    """For each module of the network's, from its tensors' names, where it stands in the model; for those around too."""
    paths: dict[str, str] = {}
    for own, other in tensors.items():
        mine, theirs = own.split(".")[:-1], other.split(".")[:-1]
        paths[".".join(theirs)] = ".".join(mine)
        while len(mine) > 1 and len(theirs) > 1 and mine[-1] == theirs[-1]:
            mine, theirs = mine[:-1], theirs[:-1]
            paths.setdefault(".".join(theirs), ".".join(mine))
    return paths


def _moved(network: AdaptiveNetwork, paths: Mapping[str, str], model: nn.Module, place: str) -> Stages:
    """The network's plan as the model names its modules; a body may lack the last stages."""
    there = [all(block in paths for block in stage.blocks) for stage in network.stages]
    number = there.index(False) if False in there else len(there)
    if not number or any(there[number:]):
        lost = next(stage for stage, is_there in zip(network.stages, there, strict=True) if not is_there)
        raise StagesError(
            f"{type(model).__name__} does not have the blocks of the network's stage {lost.name!r} "
            f"({', '.join(lost.blocks)}), and has later ones: a body may lack the last stages of a network only"
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
