"""A sub-network of a transformers model as a complete transformers model: layers renumbered, with a matching config.

Code of transformers counts layers: a cache has one entry for each layer in the config, an attention writes to the entry
of its `layer_idx`, a saved model is rebuilt from its config. So a sub-network without the skipped layers needs the
numbers of a model that never had them. They are not listed here for each family: the model's class is built (on the
meta device, without memory) from the shorter config and compared, module by module, with the one from the whole config.
The differences must be such numbers; anything else is refused.
"""

import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from ..batches import logits_in
from ..errors import DepthError, StagesError, one_line
from ..models import usual_input
from ..modes import evaluating, looking_at
from ..plan import Stages
from ..plan.calls import tensors_of
from .left import OWN
from .views import Links, View, build_view

# Rates of stochastic depth depend on the number of layers that a model is built with: trained layers keep theirs.
_NEVER_COMPARED = {*OWN, "config", "generation_config", "name_or_path", "drop_prob"}


@dataclass(frozen=True)
class _Field:
    """Where a config has the length of a list of layers: the names that lead to the (nested) config, and the field; in
    a list of such numbers also the position."""

    within: tuple[str, ...]
    name: str
    place: int | None = None


@dataclass
class Whole:
    """Facts about a transformers model that all of its sub-networks share.

    Attributes:
        model: the model.
        lists: the paths of the lists with skippable layers, and their lengths.
        fields: where the config has the length of each.
        full: the model's class built from its config, on the meta device.
    """

    model: Any
    lists: dict[str, int]
    fields: dict[str, _Field]
    full: nn.Module

    @classmethod
    def of(cls, model: nn.Module, stages: Stages) -> "Whole":
        """
        Raises:
            StagesError: a model whose class cannot be built with fewer layers, with the reason.
        """
        lists = {}
        for path in (path for stage in stages for path in stage.skippable):
            holder = path.rpartition(".")[0]
            inside = model.get_submodule(holder)
            if not isinstance(inside, nn.ModuleList):
                raise StagesError(f"its layer {path} is not in a list of layers")
            lists[holder] = len(inside)
        full = _built(model, model.config)
        return cls(model, lists, {path: _field_of(model, path, number) for path, number in lists.items()}, full)

    def view(self, changes: Mapping[str, nn.Module], left_out: Sequence[str], links: Links) -> tuple[View, str | None]:
        """A view without the skipped layers.

        Arguments:
            changes: other replacements, by path.
            left_out: the paths of the skipped layers.
            links: of the model.

        Returns:
            The view, and why it cannot be saved and read back unchanged; None if it can.

        Raises:
            DepthError: the shorter model would differ in more than its numbers, with the difference.
        """
        kept = self._kept(left_out)
        numbers, configs = self._renumbered(kept)
        own = {path: dict(values) for path, values in numbers.items()}
        skipped = tuple(f"{path}." for path in left_out)
        for path, module in self.model.named_modules():
            mine = {name: configs[id(value)] for name, value in vars(module).items() if id(value) in configs}
            if mine and not f"{path}.".startswith(skipped):
                own.setdefault(path, {}).update(mine)
        own |= {path: own.get(path, {}) for path in self.lists}
        view = build_view(self.model, changes, links, own)
        for config in self._configs():  # later changes (such as of the attention implementation) apply to every depth
            if (shorter := configs.get(id(config))) is not None:
                view.add_object(shorter, config, _otherwise(config, shorter))
        for path, places in kept.items():
            layers = view.copies[id(self.model.get_submodule(path))]
            left = {str(place): layers._modules[str(was)] for place, was in enumerate(places)}
            layers._modules.clear()  # in place, because the view knows this dictionary
            layers._modules.update(left)
        return view, self._why_not_saved(view.module, kept, numbers)

    def _configs(self) -> list[Any]:
        """The configs of the model and of its modules, each once."""
        held = [value for part in self.model.modules() for value in vars(part).values()]
        found = [*(inner for _, inner in _nested(self.model.config)), *held]
        return list({id(each): each for each in found if isinstance(each, _config_class())}.values())

    def _renumbered(self, kept: Mapping[str, Sequence[int]]) -> tuple[dict[str, dict[str, Any]], dict[int, Any]]:
        """The plain attributes of the shorter model by module path, and its configs by the id of the originals."""
        reasons = []
        # The smallest change of the config first, until the class builds what is expected.
        for way in ("by layer", "in turn", "numbers"):
            memo: dict[int, Any] = {}
            config = copy.deepcopy(self.model.config, memo)  # the memo maps every nested config to its copy
            configs = {id(inner): memo.get(id(inner), inner) for _, inner in _nested(self.model.config)}
            try:
                self._shorten(config, kept, way)
                short = _built(self.model, config)
                return self._own(kept, short), configs | self._configs_inside(kept, short, configs)
            except StagesError as error:
                reasons.append(error)
        raise DepthError(str(reasons[0])) from reasons[0]

    def _why_not_saved(
        self, short: Any, kept: Mapping[str, Sequence[int]], numbers: Mapping[str, Mapping[str, Any]]
    ) -> str | None:
        """Why a shorter model would not be read back unchanged: its config changes when it is read, or its modules are
        no longer those that its class builds (adapters)."""
        config = short.config
        try:
            with TemporaryDirectory() as folder:
                config.to_json_file(file := f"{folder}/config.json")
                again = _built(self.model, type(config).from_json_file(file))
            if self._own(kept, again) != numbers:
                return "its config is read back differently"
        except StagesError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - each config validates itself in its own way
            return f"its config cannot be read back ({type(error).__name__}: {one_line(error)})"
        built, held = (_state_shapes(each) for each in (again, short))
        if other := [name for name in held if held[name] != built.get(name)] or [*(built.keys() - held.keys())]:
            return f"its class does not build these weights ({', '.join(other[:2])}{', ...' * (len(other) > 2)})"
        return None

    def _kept(self, left_out: Sequence[str]) -> dict[str, list[int]]:
        return {
            path: [number for number in range(length) if f"{path}.{number}" not in left_out]
            for path, length in self.lists.items()
        }

    def _configs_inside(
        self, kept: Mapping[str, Sequence[int]], short: nn.Module, known: Mapping[int, Any]
    ) -> dict[int, Any]:
        """Configs that modules derived from the model's own (a decoder's): each changed as its class changes it."""
        found: dict[int, Any] = {}
        parts, full = dict(self.model.named_modules()), dict(self.full.named_modules())
        for path, module in short.named_modules():
            was = self._path_before(path, kept)[0]
            for name, value in vars(parts[was]).items():
                if not isinstance(value, _config_class()) or id(value) in known or id(value) in found:
                    continue
                before, now = vars(full[was]).get(name), vars(module).get(name)
                found[id(value)] = copy.deepcopy(value)
                for field_name, new in vars(now).items() if before is not None and now is not None else ():
                    if _differ(vars(before).get(field_name), new):
                        setattr(found[id(value)], field_name, copy.deepcopy(new))
        return found

    def _shorten(self, config: Any, kept: Mapping[str, Sequence[int]], way: str) -> None:
        """Reduce the number of layers in a config.

        Arguments:
            config: the model's, which is changed.
            kept: the numbers of the remaining layers, by the path of their list.
            way: which lists are changed: those with an entry `"by layer"`; also shorter ones that are cycled through,
                `"in turn"` (kinds of blocks that alternate); also those that hold the `"numbers"` of some layers (such
                as the ones with experts).

        Raises:
            StagesError: a config that does not take it.
        """
        for path, numbers in kept.items():
            where = self.fields[path]
            try:
                _set(config, where, len(numbers))
                inner = _at(config, where.within)
                for name, value in list(vars(inner).items()) if inner is not None and where.place is None else ():
                    if isinstance(value, list | tuple):
                        setattr(inner, name, type(value)(_shorter(value, self.lists[path], numbers, way)))
                _name_the_last(inner, self.lists[path], len(numbers))
            except Exception as error:
                raise StagesError(
                    f"its config does not accept {len(numbers)} layers ({type(error).__name__}: {one_line(error)})"
                ) from error

    def _own(self, kept: Mapping[str, Sequence[int]], short: nn.Module) -> dict[str, dict[str, Any]]:
        """The plain attributes that differ in the shorter model, by module path in the whole one."""
        full = dict(self.full.named_modules())
        own: dict[str, dict[str, Any]] = {}
        for path, module in short.named_modules():
            was, numbers = self._path_before(path, kept)
            other = full.get(was)
            if _kind(other) != _kind(module) or not _holds(other, module):
                raise StagesError(
                    f"with fewer layers, its class makes {path or 'the model'} a {_said(module)} instead of a "
                    f"{_said(other)}"
                )
            for name, value in vars(module).items():
                before = vars(other).get(name)
                if name in _NEVER_COMPARED or not _differ(before, value):
                    continue
                allowed = {self.lists[p]: len(numbers) for p, numbers in kept.items()} | numbers
                number = isinstance(value, int) and (before in numbers or before in allowed)
                if not (number or _fewer_kinds(before, value) or self._by_layer(before, value, kept)):
                    raise StagesError(
                        f"with fewer layers, its class sets {name} of {path} to {value!r} instead of {before!r}"
                    )
                own.setdefault(was, {})[name] = value
        return own

    def _by_layer(self, before: Any, value: Any, kept: Mapping[str, Sequence[int]]) -> bool:
        """Is it a list with an entry per layer, reduced to the remaining layers?"""
        return isinstance(before, list | tuple) and any(
            len(before) == self.lists[path] and list(value) == [before[number] for number in numbers]
            for path, numbers in kept.items()
        )

    def _path_before(self, path: str, kept: Mapping[str, Sequence[int]]) -> tuple[str, dict[int, int]]:
        """The path in the whole model of a module of the shorter one, and its layer's number: {before: now}."""
        for holder, numbers in kept.items():
            if path.startswith(f"{holder}."):
                place, _, rest = path.removeprefix(f"{holder}.").partition(".")
                was = numbers[int(place)]
                return f"{holder}.{was}{'.' if rest else ''}{rest}", {was: int(place)}
        return path, {}


def check_same(model: nn.Module, view: nn.Module, whole: nn.Module) -> None:
    """Run both on a short input: without a cache they must return the same.

    Raises:
        DepthError: the model does not run with only these layers.
        StagesError: they return different outputs.
    """
    example = usual_input(model)
    if example is None:
        return
    try:
        with looking_at(model), evaluating(view), evaluating(whole), torch.no_grad():
            outputs = [tensors_of(logits_in(each(**example))) for each in (view, whole)]
    except Exception as error:
        raise DepthError(
            f"{type(model).__name__} does not run with only these layers ({type(error).__name__}: {one_line(error)})"
        ) from error
    same = len(outputs[0]) == len(outputs[1]) and all(map(_close, *outputs))
    if not same:
        raise StagesError("with renumbered layers it returns something else, so their numbers affect what it computes")


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one.float(), other.float(), rtol=1e-3, atol=1e-4, equal_nan=True)


def _config_class() -> Any:
    return sys.modules["transformers.configuration_utils"].PreTrainedConfig


def _nested(config: Any, within: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """A config and those inside it, each with the names that lead to it."""
    yield within, config
    for name, value in vars(config).items():
        if isinstance(value, _config_class()):
            yield from _nested(value, (*within, name))


def _shorter(value: Sequence[Any], length: int, numbers: Sequence[int], way: str) -> list[Any]:
    """A list of a config, reduced to the layers of these numbers; unchanged if it is not per layer."""
    if way == "numbers" and list(value) == sorted({each for each in value if type(each) is int and 0 <= each < length}):
        return [numbers.index(each) for each in value if each in numbers]
    if len(value) == length or (way == "in turn" and 0 < len(value) < length):
        return [value[number % len(value)] for number in numbers]
    return list(value)


def _name_the_last(config: Any, length: int, left: int) -> None:
    """Let a backbone, whose config names each layer and its outputs, still return the output of the last one."""
    names = getattr(config, "stage_names", None)
    if isinstance(names, list) and len(names) == length + 1 and config.out_features == names[-1:]:
        config.stage_names = names[: left + 1]
        config.set_output_features_output_indices(out_features=None, out_indices=None)


def _otherwise(config: Any, shorter: Any) -> dict[str, Any]:
    """The fields in which a config differs from another, and the configs inside it."""
    before = vars(config)
    return {
        name: value
        for name, value in vars(shorter).items()
        if isinstance(value, _config_class()) or _differ(before.get(name), value)
    }


def _at(config: Any, within: Sequence[str]) -> Any:
    for name in within:
        config = getattr(config, name, None)
    return config


def _set(config: Any, where: _Field, number: int) -> None:
    inner = _at(config, where.within)
    if inner is None:
        return
    if where.place is None:
        setattr(inner, where.name, number)
    else:
        values = list(getattr(inner, where.name))
        values[where.place] = number
        setattr(inner, where.name, values)


def _built(model: nn.Module, config: Any) -> nn.Module:
    """The model's class, built from a config without memory for its weights."""
    try:
        with _no_weights(), torch.device("meta"):
            return type(model)(copy.deepcopy(config)).eval()  # a constructor may change its config
    except Exception as error:
        raise StagesError(
            f"{type(model).__name__} cannot be built from its config alone ({type(error).__name__}: {one_line(error)})"
        ) from error


@contextmanager
def _no_weights() -> Iterator[None]:
    from transformers.initialization import no_init_weights

    with no_init_weights():
        yield


def _field_of(model: Any, path: str, length: int) -> _Field:
    """The field of the config with the length of a list of layers, found by changing it."""
    for within, config in _nested(model.config):
        for name, value in vars(config).items():
            if isinstance(value, list | tuple) and length in value:
                candidates = [_Field(within, name, place) for place, each in enumerate(value) if each == length]
            elif isinstance(value, int) and not isinstance(value, bool) and value == length:
                candidates = [_Field(within, name)]
            else:
                continue
            for each in candidates:
                shorter = copy.deepcopy(model.config)
                _set(shorter, each, length - 1)
                try:
                    if len(_built(model, shorter).get_submodule(path)) == length - 1:  # type: ignore[arg-type]
                        return each
                except (StagesError, AttributeError, TypeError):  # the field means something else
                    continue
    raise StagesError(f"no field of its config has the number of layers in {path}")


def _fewer_kinds(before: Any, now: Any) -> bool:
    """Is it a list of words, such as kinds of attention, or a dict with entries for them, with some removed?"""
    if isinstance(before, dict) and isinstance(now, dict):
        return now != before and all(name in before and before[name] == value for name, value in now.items())
    if not (isinstance(before, list) and isinstance(now, list) and all(isinstance(kind, str) for kind in before)):
        return False
    return len(set(before)) == len(before) and set(now) < set(before)


def _holds(full: Any, short: nn.Module) -> bool:
    """Does a module have all tensors that it has in the shorter model? Others must be computed, such as frequencies for
    a kind of attention that no layer uses any more."""
    wanted, found = _shapes(short), _shapes(full)
    computed = full._non_persistent_buffers_set
    return all(found.get(name) == shape for name, shape in wanted.items()) and all(
        name in wanted or name in computed for name in found
    )


def _state_shapes(module: nn.Module) -> dict[str, Any]:
    state = module.state_dict()
    return {name: tuple(each.shape) for name, each in state.items() if isinstance(each, torch.Tensor)}


def _shapes(module: Any) -> dict[str, Any]:
    return {
        name: tuple(each.shape)
        for name, each in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    }


def _kind(module: Any) -> tuple[str, str]:
    """By name, because parametrised modules (a weight norm) have separate classes."""
    return type(module).__module__, type(module).__qualname__


def _said(module: Any) -> str:
    return "nothing" if module is None else f"{type(module).__name__} of {_shapes(module) or 'no tensors'}"


_COMPARED = (bool, int, float, str, type(None), list, tuple, dict, set, frozenset)


def _differ(before: Any, now: Any) -> bool:
    if not (isinstance(before, _COMPARED) and isinstance(now, _COMPARED)):
        return False
    if isinstance(before, list | tuple) and isinstance(now, list | tuple):  # JSON has no tuples
        before, now = list(before), list(now)
    try:
        return bool(before != now)
    except Exception:  # noqa: BLE001 - lists of tensors and the like cannot be compared
        return False
