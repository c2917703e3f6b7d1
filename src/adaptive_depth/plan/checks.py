"""Do stages fit a model? First what its modules tell (`complete`), then what running it tells (`prove`)."""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ..errors import StagesError
from ..modes import evaluating, without_fast_paths
from .plan import Stage, Stages

MOST_STAGES = 12  # 4,096 sub-networks

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
    places: dict[int, list[str]] = {}
    for path, module in modules.items():
        places.setdefault(id(module), []).append(path)
    for path, count in Counter(norms).items():
        if count > 1:
            raise StagesError(f"norm {path!r} is named {count} times: a norm follows one stage, name it once")
        if len(places[id(modules[path])]) > 1:
            raise StagesError(
                f"norm {path!r} is one module at several places ({', '.join(places[id(modules[path])])}), so it cannot "
                "be doubled for one of them: name the norms to double in the stages, without it"
            )
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


# -- what running it tells ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """One call of a module: its path, its place in the order in which calls began, what it took and returned."""

    path: str
    number: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any

    @property
    def tensor(self) -> Tensor | None:
        """The tensor that was returned, alone or first in a tuple of what can be had without the block."""
        if isinstance(self.output, Tensor):
            return self.output
        return None if self.returns is None else self.output[0]

    @property
    def output_shape(self) -> torch.Size | None:
        return None if self.tensor is None else self.tensor.shape

    @property
    def returns(self) -> tuple[int | None, ...] | None:
        """As `Stage.returns`: what stands in the places of a returned tuple; None for all else."""
        if not (isinstance(self.output, tuple) and self.output and isinstance(self.output[0], Tensor)):
            return None
        places: list[int | None] = [0]
        for value in self.output[1:]:
            same = (number for number, given in enumerate(self.args) if number and _is_same(given, value))
            place = None if value is None else next(same, -1)
            if place == -1:
                return None
            places.append(place)
        return tuple(places)

    @property
    def keeps_shape(self) -> bool:
        hidden = hidden_of(self)
        return hidden is not None and hidden.shape == self.output_shape

    @property
    def growth(self) -> int | None:
        """By how many channels (dimension 1) the output is wider; None where anything else differs."""
        hidden, shape = hidden_of(self), self.output_shape
        if hidden is None or shape is None or len(shape) < 2 or hidden.ndim != len(shape):
            return None
        same = hidden.shape[:1] == shape[:1] and hidden.shape[2:] == shape[2:]
        return shape[1] - hidden.shape[1] if same else None

    def describe(self) -> str:
        hidden = hidden_of(self)
        took = f"a {type(self.args[0]).__name__}" if self.args else "no tensor"
        took = took if hidden is None else str(list(hidden.shape))
        gave = f"a {type(self.output).__name__}" if self.output_shape is None else str(list(self.output_shape))
        return f"widens its input by {self.growth} channels" if self.growth else f"takes {took} and returns {gave}"


def _is_same(given: Any, value: Any) -> bool:
    """The same tensors, and else equal values: handed on."""
    first, second = tree_leaves(given), tree_leaves(value)
    return len(first) == len(second) and all(
        a is b if isinstance(a, Tensor) or isinstance(b, Tensor) else type(a) is type(b) and a == b
        for a, b in zip(first, second, strict=True)
    )


def hidden_of(call: Call) -> Tensor | None:
    """What a block adds to: its first input, or the first tensor among its keywords; None where that is no tensor."""
    first = call.args[0] if call.args else next((v for v in call.kwargs.values() if isinstance(v, Tensor)), None)
    return first if isinstance(first, Tensor) and first.is_floating_point() else None


def record(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], paths: Iterable[str] | None = None
) -> tuple[list[Call], Any]:
    """Run a model and write down the calls of its modules (of those at `paths`), in the order in which they began."""
    calls: list[Call] = []
    begun = itertools.count()
    open_calls: list[tuple[int, Any, Any]] = []

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        open_calls.append((next(begun), *_copied(args, kwargs)))

    def after(path: str, _: nn.Module, __: Any, output: Any) -> None:
        calls.append(Call(path, *open_calls.pop(), output))

    every = [path for path, _ in model.named_modules() if path] if paths is None else paths
    handles = []
    try:
        for path in every:
            module = model.get_submodule(path)
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(partial(after, path)))
        output = model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return sorted(calls, key=lambda call: call.number), output


def _copied(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same tensors in lists and dicts of their own, for a module may change those that it is given."""
    return tree_map(lambda leaf: leaf, (args, kwargs))


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
    blocks = [path for stage in stages for path in stage.blocks]
    known = homes(model, stages)
    strays = [path for path, part in model.named_modules() if path not in known and has_statistics(part)]
    with evaluating(model), torch.no_grad(), without_fast_paths():
        calls, _ = record(model, args, kwargs, blocks + strays)
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


def _prove_skippable(block: nn.Module, call: Call, stage: Stage) -> None:
    said = f"stage {stage.name!r}: block {call.path!r} is not skippable: "
    hidden = hidden_of(call)
    if hidden is None or call.output_shape is None:
        received = type(call.args[0]).__name__ if call.args else "no tensor"
        raise StagesError(
            f"{said}it takes {received} and returns {type(call.output).__name__}, where one tensor each is expected"
        )
    if call.returns != stage.returns:
        returned = "a tensor" if call.returns is None else f"a tuple of {len(call.returns)}"
        raise StagesError(f"{said}it returns {returned}: name that, Stage(..., returns={call.returns})")
    if not call.keeps_shape:
        raise StagesError(
            f"{said}it turns {list(hidden.shape)} into {list(call.output_shape)}; name it in the mandatory sub-path"
        )
    if not is_residual(block, call):
        raise StagesError(
            f"{said}it does not add to its input, so leaving it out would leave something else than its input; "
            "only residual blocks can be skipped"
        )


def has_weights(module: nn.Module) -> bool:
    """Has it parameters of two or more dimensions: those of convolutions, linear layers, tables?"""
    return any(parameter.ndim > 1 for parameter in module.parameters())


def is_residual(block: nn.Module, call: Call) -> bool:
    """Does a block return its input plus something? Asked of the block itself, on numbers like those that it took."""
    hidden = hidden_of(call)
    assert hidden is not None
    given, change = _like(hidden, seed=0), 0.1 * _signed_noise(hidden, seed=1)
    return (
        _returns_input(block, call, given)
        or _passes_change_on(block, call, given, change)
        or _norm_of_input(block, call, given, change)
    )


def _returns_input(block: nn.Module, call: Call, given: Tensor) -> bool:
    """h + F(h) with every parameter of F zero is h. (So is relu(h + F(h)), where h has come through a relu itself.)"""
    zeros = {name: torch.zeros_like(parameter) for name, parameter in block.named_parameters()}
    return _close(_output_on(block, zeros, call, given), given)


def _passes_change_on(block: nn.Module, call: Call, given: Tensor, change: Tensor) -> bool:
    """With weights and norms zero a change of h comes out as it is, where a scale of 1 stands on the shortcut."""
    inside = _norms_in(block)
    zeros = {
        name: torch.zeros_like(parameter)
        for name, parameter in block.named_parameters()
        if parameter.ndim > 1 or name.startswith(inside)
    }
    answer = _output_on(block, zeros, call, given + change) - _output_on(block, zeros, call, given)
    return _close(answer, change)


def _norm_of_input(block: nn.Module, call: Call, given: Tensor, change: Tensor) -> bool:
    """norm(h + F(h)): with zero weights, what the last norm returns still follows h."""
    inside = _norms_in(block)
    zeros = {
        name: torch.zeros_like(parameter)
        for name, parameter in block.named_parameters()
        if parameter.ndim > 1 and not name.startswith(inside)
    }
    returned: list[Any] = []
    norms = [module for module in block.modules() if is_norm(module)]
    handles = [norm.register_forward_hook(lambda _, __, output: returned.append(output)) for norm in norms]
    try:
        before = _output_on(block, zeros, call, given)
    finally:
        for handle in handles:
            handle.remove()
    place = before.untyped_storage().data_ptr()  # the same numbers, perhaps in another shape
    if not any(isinstance(output, Tensor) and output.untyped_storage().data_ptr() == place for output in returned):
        return False
    answer = _output_on(block, zeros, call, given + change) - before
    return bool(nn.functional.cosine_similarity(answer.flatten().float(), change.flatten().float(), dim=0) > 0.8)


def _norms_in(block: nn.Module) -> tuple[str, ...]:
    """The beginnings of the names of all parameters of norms; of none where there is no norm."""
    return tuple(f"{path}." for path, module in block.named_modules() if path and is_norm(module)) or ("\0",)


def _close(a: Tensor, b: Tensor) -> bool:
    size = float(b.abs().max())
    return torch.allclose(a, b, rtol=1e-3, atol=1e-3 * size)


def _output_on(block: nn.Module, parameters: Mapping[str, Tensor], call: Call, given: Tensor) -> Tensor:
    """What a block returns for another input and other parameters, all else as in a call."""
    given = given.clone()  # a block may change its input
    args, kwargs = _copied(call.args, call.kwargs)
    if args:
        output = torch.func.functional_call(block, dict(parameters), (given, *args[1:]), kwargs)
    else:
        name = next(name for name, value in kwargs.items() if isinstance(value, Tensor))
        output = torch.func.functional_call(block, dict(parameters), (), {**kwargs, name: given})
    return output if isinstance(output, Tensor) else output[0]


def _like(hidden: Tensor, seed: int) -> Tensor:
    """Numbers of the kind and size of those in a tensor, in other places; noise where all of them are the same.

    Of the kind: without negative ones where there are none, as behind a relu.
    """
    if not torch.isfinite(hidden).all() or float(hidden.float().std()) < 1e-6:
        noise = _signed_noise(hidden, seed)
        return noise if (hidden < 0).any() else noise.abs()
    generator = torch.Generator(hidden.device).manual_seed(seed)
    order = torch.randperm(hidden.numel(), generator=generator, device=hidden.device)
    return hidden.flatten()[order].view_as(hidden)


def _signed_noise(like: Tensor, seed: int) -> Tensor:
    """Numbers from -1 to 1."""
    generator = torch.Generator(like.device).manual_seed(seed)
    return (2 * torch.rand(like.shape, generator=generator, device=like.device) - 1).to(like.dtype)


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors in what a model returned: a tensor, or nested tuples, lists, dicts and dataclasses of them."""
    leaves = tree_leaves(output)
    if len(leaves) == 1 and leaves[0] is output and not isinstance(output, Tensor):
        leaves = [*output.values()] if isinstance(output, Mapping) else []
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def same_output(a: Any, b: Any) -> bool:
    """Are all tensors of two outputs equal, bit for bit, and finite?"""
    first, second = tensors_of(a), tensors_of(b)
    return len(first) == len(second) and all(
        x.shape == y.shape and torch.equal(x, y) for x, y in zip(first, second, strict=True)
    )
