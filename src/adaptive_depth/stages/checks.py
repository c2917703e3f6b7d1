"""Do stages fit a model? First what its modules tell (`complete`), then what running it tells (`prove`)."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import StagesError
from ..modes import evaluating
from .plan import Stage, Stages

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def is_norm(module: nn.Module) -> bool:
    """Is it a normalisation layer: one of torch's classes, or named so (`FrozenBatchNorm2d`, `LayerNorm2d`, ...)?"""
    return isinstance(module, _NORMS) or ("norm" in type(module).__name__.lower() and not any(module.children()))


def has_statistics(module: nn.Module) -> bool:
    """Does it gather running statistics, as BatchNorm does?"""
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None


def norms_inside(model: nn.Module, paths: Sequence[str]) -> tuple[str, ...]:
    """Paths of the normalisation layers inside the modules `paths`."""
    return tuple(
        f"{path}.{name}".rstrip(".")
        for path in paths
        for name, module in model.get_submodule(path).named_modules()
        if is_norm(module)
    )


def complete(model: nn.Module, stages: Stages) -> Stages:
    """Check stages against the modules of `model` and fill in the norms that were left to us.

    Raises:
        StagesError: no stage at all, a module that does not exist, modules that overlap or stand at two places,
            a "norm" that is no normalisation layer or belongs to a skippable block.
    """
    if not len(stages):
        raise StagesError("no stages were given: expected at least one Stage(mandatory=(...), skippable=(...))")
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
    completed = Stages(
        tuple(
            stage if stage.norms is not None else replace(stage, norms=norms_inside(model, stage.mandatory))
            for stage in stages
        )
    )
    _reject_wrong_norms(completed, modules)
    return completed


def _reject_overlaps(stages: Stages, modules: Mapping[str, nn.Module]) -> None:
    blocks = [path for stage in stages for path in stage.blocks]
    for path, count in Counter(blocks).items():
        if count > 1:
            raise StagesError(f"block {path!r} is named {count} times: stages must not overlap, name it once")
    for path in blocks:
        outer = next((other for other in blocks if path.startswith(other + ".")), None)
        if outer:
            raise StagesError(f"block {path!r} lies inside block {outer!r}: stages must not overlap, name one of them")
    places: dict[int, list[str]] = {}
    for path, module in modules.items():
        places.setdefault(id(module), []).append(path)
    for path in blocks:
        if len(places[id(modules[path])]) > 1:
            raise StagesError(
                f"block {path!r} is one module at several places ({', '.join(places[id(modules[path])])}): "
                "a block that the model uses twice cannot be part of a stage"
            )


def _reject_wrong_norms(stages: Stages, modules: Mapping[str, nn.Module]) -> None:
    norms = [path for stage in stages for path in stage.norms or ()]
    for path, count in Counter(norms).items():
        if count > 1:
            raise StagesError(f"norm {path!r} is named {count} times: a norm follows one stage, name it once")
        if not is_norm(modules[path]):
            raise StagesError(
                f"norms name {path!r}, which is a {type(modules[path]).__name__}: expected a normalisation layer"
            )
        for stage in stages:
            inside = next((block for block in stage.skippable if path == block or path.startswith(block + ".")), None)
            if inside:
                raise StagesError(
                    f"norm {path!r} lies inside the skippable block {inside!r}, which does not run when its stage is "
                    "skipped: only norms of mandatory sub-paths are doubled"
                )


def homes(model: nn.Module, stages: Stages) -> dict[str, int]:
    """The stage (1 to N) whose flag each doubled norm and each norm with running statistics follows.

    A norm inside a stage's blocks, or doubled for it, follows that stage; one between two stages, or behind the
    last, follows the stage before it, in the order in which the model registers its modules. What stands before
    the first stage sees the same in every sub-network and follows none.
    """
    explicit = {path: number for number, stage in enumerate(stages, 1) for path in stage.norms or ()}
    homes: dict[str, int] = {}
    current = 0
    blocks = {block: number for number, stage in enumerate(stages, 1) for block in stage.blocks}
    for path, module in model.named_modules():
        inside = next((number for block, number in blocks.items() if f"{path}.".startswith(f"{block}.")), None)
        current = inside or current
        if path in explicit:
            homes[path] = explicit[path]
        elif current and has_statistics(module):
            homes[path] = current
    return homes


def _reject_replaced_forwards(stages: Stages, modules: Mapping[str, nn.Module]) -> None:
    """A sub-network is made of twins of the containers around its blocks, and they must run their own children."""
    blocks = [path for stage in stages for path in stage.blocks]
    for path, module in modules.items():
        forward = module.__dict__.get("forward")
        around = not path or any(block.startswith(f"{path}.") for block in blocks)
        if around and forward is not None and getattr(forward, "__self__", None) is not module:
            raise StagesError(
                f"the forward of {path or type(module).__name__!r} was replaced by a function that calls the original "
                "module, so every sub-network would run all blocks: adapt the model before wrapping its forward, or "
                "bind the function with types.MethodType"
            )


@dataclass
class _Call:
    path: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


def prove(model: nn.Module, stages: Stages, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Run `model` once on an input and check that its skippable blocks can be left out.

    Arguments:
        model: the super-net; it runs in eval mode without gradients and is left as it was.
        stages: completed stages.
        args, kwargs: the input, as the model's forward takes it.

    Raises:
        StagesError: a block does not run exactly once and in the given order, or a skippable block takes or
            returns something else than one tensor, changes its shape, or does not add to its input (it returns
            something unrelated when its weights are zero).
    """
    calls: list[_Call] = []
    blocks = [path for stage in stages for path in stage.blocks]

    def watch(path: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            calls.append(_Call(path, args, kwargs, output))

        return hook

    known = homes(model, stages)
    strays = [path for path, part in model.named_modules() if path not in known and has_statistics(part)]
    handles = [
        model.get_submodule(path).register_forward_hook(watch(path), with_kwargs=True) for path in blocks + strays
    ]
    with evaluating(model), torch.no_grad():
        try:
            model(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        counts = Counter(call.path for call in calls)
        for path in blocks:
            if counts[path] != 1:
                raise StagesError(
                    f"block {path!r} ran {counts[path]} times in one forward pass: a block of a stage must run once"
                )
        _reject_stray_norms([call.path for call in calls], strays, stages)
        order = [call.path for call in calls if call.path not in strays]
        if order != blocks:
            first = next(i for i in range(len(order)) if order[i] != blocks[i])
            raise StagesError(
                f"the model runs {order[first]!r} where the stages name {blocks[first]!r}: list stages and blocks in "
                "the order in which they run"
            )
        by_path = {call.path: call for call in calls}
        for stage in stages:
            for path in stage.skippable:
                _prove_skippable(model.get_submodule(path), by_path[path], stage)


def _reject_stray_norms(order: Sequence[str], strays: Sequence[str], stages: Stages) -> None:
    """Norms that are registered before all stages, but run behind one: their statistics would mix."""
    ends = {stage.blocks[0]: stage for stage in stages}
    behind: Stage | None = None
    for path in order:
        behind = ends.get(path, behind)
        if path in strays and behind is not None:
            raise StagesError(
                f"norm {path!r} is registered before the stages but runs behind the first block of stage "
                f"{behind.name!r}: add it to that stage's norms, or register it behind the stages"
            )


def _prove_skippable(block: nn.Module, call: _Call, stage: Stage) -> None:
    said = f"stage {stage.name!r}: block {call.path!r} is not skippable: "
    if not (call.args and isinstance(call.args[0], Tensor) and isinstance(call.output, Tensor)):
        received = type(call.args[0]).__name__ if call.args else "keywords only"
        raise StagesError(
            f"{said}it takes {received} and returns {type(call.output).__name__}, where one tensor each is expected"
        )
    received = call.args[0]
    if len(call.args) > 1 or call.kwargs:
        others = [type(value).__name__ for value in call.args[1:]] + list(call.kwargs)
        raise StagesError(
            f"{said}it is called with more than one input ({', '.join(others)}), and only blocks of one input can be "
            "left out so far; let the block hold the others as attributes"
        )
    if received.shape != call.output.shape:
        raise StagesError(
            f"{said}it turns {list(received.shape)} into {list(call.output.shape)}; name it in the mandatory sub-path"
        )
    if not (_returns_input(block, call) or _follows_input(block, call)):
        raise StagesError(
            f"{said}it does not add to its input, so leaving it out would leave something else than its input; "
            "only residual blocks can be skipped"
        )


def _returns_input(block: nn.Module, call: _Call) -> bool:
    """h + F(h) with every parameter of F zero is h. (For a positive h: an activation may stand behind the sum.)"""
    zeros = {name: torch.zeros_like(parameter) for name, parameter in block.named_parameters()}
    given = _noise(call.args[0], seed=0)
    output = torch.func.functional_call(block, zeros, (given.clone(), *call.args[1:]), call.kwargs)
    return torch.allclose(output, given, rtol=1e-3, atol=1e-4)


def _follows_input(block: nn.Module, call: _Call) -> bool:
    """With zero weights but its norms kept (post-norm blocks), a change of the input still comes out."""
    norms = {f"{path}." for path, module in block.named_modules() if is_norm(module)}
    zeros = {
        name: torch.zeros_like(parameter)
        for name, parameter in block.named_parameters()
        if not any(name.startswith(norm) for norm in norms)
    }
    given = _noise(call.args[0], seed=0)
    change = 2 * _noise(call.args[0], seed=1) - 1  # around zero: a norm takes a mean away
    before = torch.func.functional_call(block, zeros, (given.clone(), *call.args[1:]), call.kwargs)
    after = torch.func.functional_call(block, zeros, (given + change, *call.args[1:]), call.kwargs)
    answer = (after - before).flatten().float()
    return bool(nn.functional.cosine_similarity(answer, change.flatten().float(), dim=0) > 0.5)


def _noise(like: Tensor, seed: int) -> Tensor:
    """Numbers from 0 to 1: unlike the input of the model (zeros, say) they can tell h from any F(h)."""
    generator = torch.Generator(like.device).manual_seed(seed)
    return torch.rand(like.shape, generator=generator, device=like.device).to(like.dtype)
