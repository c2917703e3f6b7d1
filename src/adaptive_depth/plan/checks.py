"""Do stages fit a model? Checks first its modules (`complete`), then a run of it (`prove`)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from ..errors import StagesError, one_line
from ..modes import evaluating, looking_at, without_fast_paths
from .calls import NOWHERE, Call, hidden_of, record, without_use
from .frozen import can_be_doubled
from .norms import gathers_inside, has_statistics, is_norm, norms_inside
from .plan import Stage, Stages
from .residual import is_residual, why_another_input

MOST_STAGES = 12  # 4,096 sub-networks


def complete(model: nn.Module, stages: Stages) -> Stages:
    """Check stages against the modules of `model` and fill in norms that were left open.

    Raises:
        StagesError: no stage at all, a module that does not exist, modules that overlap or are at two places, a "norm"
            that is not a normalisation layer or belongs to a skippable block.
    """
    if not len(stages):
        raise StagesError("no stages were given: expected at least one Stage(mandatory=(...), skippable=(...))")
    if len(stages) > MOST_STAGES:
        raise StagesError(
            f"{len(stages)} stages make 2^{len(stages)} sub-networks: expected at most {MOST_STAGES}; leave some out"
        )
    modules = dict(model.named_modules(remove_duplicate=False))
    for stage in stages:
        for path in stage.blocks + (stage.norms or ()):
            if path not in modules or not path:
                near = get_close_matches(path, modules, n=3, cutoff=0.5)
                hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(list(modules)[1:6])}, ..."
                raise StagesError(
                    f"stage {stage.name!r} names {path!r}, which {type(model).__name__} does not have: {hint}"
                )
    _reject_overlaps(stages, modules)
    _reject_replaced_forwards(stages, modules)
    places, completed = _Places(stages, modules), []
    for stage in stages:
        norms = stage.norms
        if norms is None:
            inside = [path for path in norms_inside(model, stage.mandatory) if can_be_doubled(modules[path])]
            norms = [path for path in inside if places.follow_one_stage(modules[path])]
        completed.append(replace(stage, norms=tuple(places.name(modules[path]) for path in norms)))
    _reject_wrong_norms(Stages(tuple(completed)), modules, places)
    return Stages(tuple(completed))


class _Places:
    """The places of modules, some of them registered more than once: in which blocks of which stages.

    Arguments:
        stages: with blocks in `modules`.
        modules: of the model, by all of their paths.
    """

    def __init__(self, stages: Stages, modules: Mapping[str, nn.Module]) -> None:
        self.paths: dict[int, list[str]] = {}
        for path, module in modules.items():
            self.paths.setdefault(id(module), []).append(path)
        self._inside: dict[int, dict[tuple[int, bool], str]] = {}
        for number, stage in enumerate(stages, 1):
            for path in stage.blocks:
                for name, part in modules[path].named_modules():
                    sub_path = number, path in stage.skippable
                    self._inside.setdefault(id(part), {}).setdefault(sub_path, f"{path}.{name}".rstrip("."))

    def name(self, module: nn.Module) -> str:
        """Its path: within the first block that contains it, else its first."""
        return next(iter(self._inside.get(id(module), {}).values()), self.paths[id(module)][0])

    def stage(self, module: nn.Module) -> int:
        """The last stage whose blocks contain it, from 1 on; 0 if none does."""
        return max((number for number, _ in self._inside.get(id(module), ())), default=0)

    def follow_one_stage(self, module: nn.Module) -> bool:
        """Is it only in the blocks of one stage, and there in only one of the two sub-paths?"""
        return len(self._inside.get(id(module), ())) < 2


def _reject_overlaps(stages: Stages, modules: Mapping[str, nn.Module]) -> None:
    blocks = [path for stage in stages for path in stage.blocks]
    for path, count in Counter(blocks).items():
        if count > 1:
            raise StagesError(f"block {path!r} is listed {count} times: stages must not overlap, list it once")
    for path in blocks:
        outer = next((other for other in blocks if path.startswith(other + ".")), None)
        if outer:
            raise StagesError(f"block {path!r} lies inside block {outer!r}: stages must not overlap, list one of them")
    for path in blocks:
        if isinstance(modules[path], torch.jit.ScriptModule):
            raise StagesError(
                f"block {path!r} is a ScriptModule, whose code cannot be watched: adapt the model first, and script "
                "the result of network.extract(skip)"
            )
        parent = path.rpartition(".")[0]
        # An alias under another parent is harmless; twice under one parent means that it runs twice.
        beside = [other for other, module in modules.items() if module is modules[path]]
        if sum(other.rpartition(".")[0] == parent for other in beside) > 1:
            raise StagesError(
                f"block {path!r} is one module at several places ({', '.join(beside)}): "
                "a block that the model uses twice cannot be part of a stage"
            )


def _reject_wrong_norms(stages: Stages, modules: Mapping[str, nn.Module], places: _Places) -> None:
    norms = [path for stage in stages for path in stage.norms or ()]
    skippable = {id(part): path for stage in stages for path in stage.skippable for part in modules[path].modules()}
    for path, count in Counter(norms).items():
        if count > 1:
            raise StagesError(f"norm {path!r} is listed {count} times: a norm follows one stage, list it once")
        if not places.follow_one_stage(modules[path]):
            raise StagesError(
                f"norm {path!r} is one module at several places ({', '.join(places.paths[id(modules[path])])}), so it "
                "cannot be doubled for one of them: list the norms to double in the stages, without it"
            )
        if not is_norm(modules[path]):
            raise StagesError(
                f"norms has {path!r}, which is a {type(modules[path]).__name__}: expected a normalisation layer"
            )
        if not can_be_doubled(modules[path]):
            raise StagesError(
                f"norm {path!r} is frozen, and a {type(modules[path]).__name__} cannot become a BatchNorm with the "
                "same numbers, so a second one would have nothing to train: leave it out of the stage's norms, or "
                "replace it by an nn.BatchNorm2d before adapt"
            )
        if id(modules[path]) in skippable:
            raise StagesError(
                f"norm {path!r} lies inside the skippable block {skippable[id(modules[path])]!r}, which does not run "
                "when its stage is skipped: only norms of mandatory sub-paths are doubled"
            )


def homes(model: nn.Module, stages: Stages) -> dict[str, int]:
    """The stage (1 to N) whose flag each doubled norm and each norm with running statistics follows.

    A norm inside a stage's blocks, or doubled for it, follows that stage, and one that several stages share follows
    the last of them; one between two stages, or after the last, follows the stage before it, in the order in which the
    model registers its modules. Norms before the first stage see the same in every sub-network and follow none. Norms
    inside a norm follow it.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    explicit = {id(modules[path]): number for number, stage in enumerate(stages, 1) for path in stage.norms or ()}
    places, blocks = _Places(stages, modules), {path for stage in stages for path in stage.blocks}
    homes: dict[str, int] = {}
    within: set[int] = set()
    current = 0
    for module in model.modules():
        current = places.stage(module) or current  # a norm between two stages follows the one before it
        number = explicit.get(id(module), current)
        # A block may be named after a norm (PreNorm) and contain one.
        block = places.name(module) in blocks and not module._parameters and any(module.children())
        whole = is_norm(module) and not block and (id(module) in explicit or gathers_inside(module))
        if number and id(module) not in within and (whole or has_statistics(module)):
            homes[places.name(module)] = number
            within.update(map(id, module.modules()) if whole else ())
    return homes


def _reject_replaced_forwards(stages: Stages, modules: Mapping[str, nn.Module]) -> None:
    """A sub-network consists of twins of the containers around its blocks, which must run their own children."""
    blocks = [path for stage in stages for path in stage.blocks]
    for path, module in modules.items():
        forward = module.__dict__.get("forward")
        around = not path or any(block.startswith(f"{path}.") for block in blocks)
        # A function bound to the module itself calls its children by `self`, so it works on a twin.
        if around and forward is not None and getattr(forward, "__self__", None) is not module:
            raise StagesError(
                f"the forward of {path or type(module).__name__!r} was replaced by a function that calls the original "
                "module, so every sub-network would run all blocks: adapt the model before wrapping its forward, or "
                "bind the function with types.MethodType"
            )


def prove(
    model: nn.Module, stages: Stages, args: Sequence[Any], kwargs: Mapping[str, Any], *, asked: bool = False
) -> None:
    """Run `model` once on an input and check that its skippable blocks can be skipped.

    Arguments:
        model: the super-net; runs in eval mode without gradients and is left unchanged.
        stages: completed stages.
        args, kwargs: the input, as for the model's forward.
        asked: whether the blocks were already tested on this input for adding to theirs (`discover`).

    Raises:
        StagesError: a block does not run exactly once and in the given order, or a skippable block takes or
            returns anything other than one tensor, changes its shape, or does not add to its input (it returns
            something unrelated when its weights are zero).
    """
    blocks = [path for stage in stages for path in stage.blocks]
    known = {id(part) for path in homes(model, stages) for part in model.get_submodule(path).modules()}
    unassigned = [path for path, part in model.named_modules() if id(part) not in known and has_statistics(part)]
    with looking_at(model), evaluating(model), torch.no_grad(), without_fast_paths():
        calls, output = record(model, args, kwargs, blocks + unassigned)
        counts = Counter(call.path for call in calls)
        for path in blocks:
            if counts[path] != 1:
                raise StagesError(
                    f"block {path!r} ran {counts[path]} times in one forward pass: a block of a stage must run once"
                    + (
                        ", and be called as a module, block(x), because block.forward(x) is not seen"
                        if not counts[path]
                        else ""
                    )
                )
        _reject_unassigned_norms([call.path for call in calls], unassigned, stages)
        order = [call.path for call in calls if call.path not in unassigned]
        if order != blocks:
            first = next(i for i in range(len(order)) if order[i] != blocks[i])
            raise StagesError(
                f"the model runs {order[first]!r} where the stages have {blocks[first]!r}: list stages and blocks in "
                "the order in which they run"
            )
        calls = without_use(model, args, kwargs, calls, output)
        by_path = {call.path: call for call in calls}
        for stage in stages:
            for path in stage.skippable:
                _prove_skippable(model.get_submodule(path), by_path[path], stage, asked)


def _reject_unassigned_norms(order: Sequence[str], unassigned: Sequence[str], stages: Stages) -> None:
    """Refuse norms that are registered before all stages, but run after one: their statistics would mix."""
    ends = {stage.blocks[0]: stage for stage in stages}
    behind: Stage | None = None
    for path in order:
        behind = ends.get(path, behind)
        if path in unassigned and behind is not None:
            raise StagesError(
                f"norm {path!r} is registered before the stages but runs after the first block of stage "
                f"{behind.name!r}: add it to that stage's norms, or register it after the stages"
            )


def _prove_skippable(block: nn.Module, call: Call, stage: Stage, asked: bool) -> None:
    said = f"stage {stage.name!r}: block {call.path!r} is not skippable: "
    hidden = hidden_of(call)
    fits = hidden is not None and hidden.shape == call.output_shape
    # Checked first, because it is a more helpful reason than a wrong shape.
    if stage.residual and not fits and (another := why_another_input(block, call)):
        raise StagesError(f"{said}{another}")
    if stage.returns is not None and any(place is not None and place >= len(call.given) for place in stage.returns):
        raise StagesError(
            f"{said}returns={stage.returns} has an input that does not exist: it is called with {len(call.given)} "
            f"({', '.join(call.names) or 'by position'}), and numbers start at 0"
        )
    handed_on = stage.returns is not None and _hands_on(call, stage.returns)
    if hidden is None or (call.output_shape is None and not handed_on):
        received = type(call.given[0]).__name__ if call.given else "no tensor"
        raise StagesError(
            f"{said}it takes {received} and returns {type(call.output).__name__}; expected one tensor each"
            f"{_way_round(call)}"
        )
    if call.returns != stage.returns and not handed_on:
        returned = "a tensor" if call.returns is None else f"a tuple of {len(call.returns)}"
        raise StagesError(f"{said}it returns {returned}: set Stage(..., returns={call.returns})")
    output = call.output if isinstance(call.output, torch.Tensor) else call.output[0]
    if hidden.shape != output.shape:
        raise StagesError(
            f"{said}it turns {list(hidden.shape)} into {list(output.shape)}; put it into the mandatory sub-path"
        )
    try:
        residual = asked or not stage.residual or is_residual(block, call)
    except Exception as error:
        raise StagesError(
            f"{said}it does not run again alone ({type(error).__name__}: {one_line(error)}), so it cannot be "
            "tested for adding to its input; if you know that it can be skipped, set Stage(..., residual=False)"
        ) from error
    if not residual and (another := why_another_input(block, call)):
        raise StagesError(f"{said}{another}")
    if not residual:
        raise StagesError(
            f"{said}it does not add to its input, so its input cannot replace its output; only residual blocks can be "
            "skipped. If you know that it can be skipped anyway, set Stage(..., residual=False): then every depth is "
            "only run and compared in shape"
        )


def _hands_on(call: Call, returns: Sequence[int | None]) -> bool:
    """Do the entries of a returned tuple have the shapes of the inputs that the plan returns in their place?"""
    given, places = call.given, call.places
    if places is None or len(places) != len(returns):
        return False
    return all(
        place is None or getattr(given[place], "shape", None) == getattr(value, "shape", None)
        for value, place in zip(call.output, returns, strict=True)
    )


def _way_round(call: Call) -> str:
    places = call.places
    if places is None or NOWHERE not in places:
        return ""
    number = places.index(NOWHERE)
    return (
        f"; the model uses what it returns at place {number}, so define what to return there when it is skipped: "
        f"Stage(..., returns=...), with the number of the input to return at each place, or None"
    )
