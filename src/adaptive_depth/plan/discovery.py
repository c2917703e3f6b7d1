"""The residual stages of any model, found by watching it run on an input.

A *block* is a module that ran once, took a tensor and returned one of the same shape, and is residual: it returns its
input plus something (`is_residual` tests it; names do not matter). A *run* is two or more consecutive blocks in one
container; a module of the same class right before them, which may change the shape, is its first block. Containers are
searched from the outside in, so a block that contains blocks stays whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..errors import StagesError, one_line
from ..hugging_face import layer_lists
from ..modes import evaluating, looking_at, without_fast_paths
from ..weights import first_not_finite
from .bodies import WHOLE
from .calls import Call, fresh, hidden_of, record, same_output, without_use
from .norms import norms_inside
from .plan import Run
from .residual import has_weights, is_residual, why_another_input

MOST_STAGES = 6  # so at most 64 sub-networks; of more runs, those with the most work become stages


def discover(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], within: Sequence[str] = WHOLE
) -> list[Run]:
    """The runs of residual blocks of a model, in the order in which they run.

    Arguments:
        model: runs twice in eval mode without gradients, and is left unchanged.
        args, kwargs: an input, as for the model's forward.
        within: the modules to search; by default the whole model.

    Raises:
        StagesError: no run was found, with the reason; a model that does not take the input, whose output changes
            from call to call, or whose weights are quantised.
    """
    for path in within:
        _reject_quantised(model.get_submodule(path), path)
    with looking_at(model), evaluating(model), torch.no_grad(), without_fast_paths():
        try:
            calls, output = record(model, args, kwargs, _watched(model, within))
            again_args, again_kwargs = fresh(args, kwargs)
            again = model(*again_args, **again_kwargs)
        except Exception as error:
            raise StagesError(
                f"{type(model).__name__} does not run on the example input ({type(error).__name__}: "
                f"{one_line(error)}): pass one that it takes, example=tensor, a tuple of positional or a dict of "
                "keyword arguments"
            ) from error
        if not same_output(output, again):
            if (name := first_not_finite(model)) is not None:
                raise StagesError(
                    f"{type(model).__name__} has numbers in {name} that are not finite (NaN or infinity), so its "
                    "depths cannot be compared: load finite weights"
                )
            raise StagesError(
                f"{type(model).__name__} returns different outputs for the same input in eval mode (or no finite "
                "numbers): randomness must be off in eval mode, so that depths can be compared"
            )
        search = _Search(model, without_use(model, args, kwargs, calls, output))
        found = [run for path in within for run in search.runs(path)]
        runs = sorted(found, key=lambda run: search.calls[run.blocks[0]][0].number)
        if not runs:
            where = "" if within == WHOLE else f" in {' and '.join(map(repr, within))}"
            fix = "; name another part, within='...', or search all of it, within=''" if where else ""
            raise StagesError(
                f"{type(model).__name__} has no residual stage that can be split{where}: {search.why_none()}{fix}"
            )
        for layers in layer_lists(model):
            search.check_none_lost(layers, runs)
        if len(runs) > MOST_STAGES:
            runs = _hardest_working(model, runs, args, kwargs)
    # As one stage it would give two depths only, so it is divided into groups.
    if len(runs) == 1:
        return [replace(runs[0], flat=True)]
    return runs


class _Search:
    """The observed calls, by module path."""

    def __init__(self, model: nn.Module, calls: Sequence[Call]) -> None:
        self.model = model
        self.calls: dict[str, list[Call]] = {}
        for call in calls:
            self.calls.setdefault(call.path, []).append(call)
        # By identity: a norm that several blocks share has one of its paths among the calls.
        self.ran = {id(self._at(path)): len(found) for path, found in self.calls.items()}
        self.residual: dict[str, bool] = {}
        self.failed: dict[str, str] = {}  # the error when it ran again alone

    def runs(self, container: str) -> Iterator[Run]:
        """The runs among a module's children, and inside children that belong to none."""
        taken: set[str] = set()
        found = list(self._runs_among(self._children(container)))
        for blocks in found:
            taken.update(blocks)
            yield self._run(blocks, container, alone=len(found) == 1)
        # Includes children that did not run: a ModuleList is never called, only its layers.
        for child in self._children(container, every=True):
            if child not in taken:
                yield from self.runs(child)

    def _children(self, container: str, *, every: bool = False) -> list[str]:
        """Children with parameters that ran, in the order in which they ran; or every child."""
        module = self.model.get_submodule(container)
        paths = [f"{container}.{name}" if container else name for name, _ in module.named_children()]
        if every:
            return paths
        paths = [path for path in paths if path in self.calls and any(True for _ in self._at(path).parameters())]
        return sorted(paths, key=lambda path: self.calls[path][0].number)

    def _runs_among(self, children: Sequence[str]) -> Iterator[list[str]]:
        run: list[str] = []
        for before, path in zip([None, *children], children, strict=False):
            if not self._is_block(path) or (run and not self._follows(run[-1], path)):
                yield from self._long_enough(run)
                run = []
            if self._is_block(path):
                if not run and before is not None and self._may_lead(before, path):
                    run = [before]
                run.append(path)
        yield from self._long_enough(run)

    @staticmethod
    def _long_enough(run: list[str]) -> Iterator[list[str]]:
        if len(run) > 1:
            yield run

    def _is_block(self, path: str) -> bool:
        if path not in self.residual:
            module, calls = self._at(path), self.calls.get(path, [])
            possible = (
                len(calls) == 1
                # Leaf layers of torch are parts of blocks, never blocks.
                and (any(module.children()) or not type(module).__module__.startswith("torch."))
                and has_weights(module)
                and hidden_of(calls[0]) is not None
                and calls[0].keeps_shape
                and not self._is_stage(module)
            )
            try:
                self.residual[path] = (
                    possible and is_residual(module, calls[0]) and not (calls[0].unused and self._holds_blocks(path))
                )
            except Exception as error:  # noqa: BLE001 - a module that does not run alone is not a block
                self.residual[path] = False
                self.failed[path] = f"{type(error).__name__}: {one_line(error)}"
        return self.residual[path]

    @staticmethod
    def _is_stage(module: nn.Module) -> bool:
        """An `nn.Sequential` of several modules of one class is not a block, but contains blocks."""
        kinds = [type(child) for child in module.children() if has_weights(child)]
        return isinstance(module, nn.Sequential) and len(kinds) > 1 and len(set(kinds)) == 1

    def _holds_blocks(self, path: str) -> bool:
        """A stage that also returns its output before downsampling is not a block, but contains blocks."""
        return any(
            len([inner for inner in self._children(f"{path}.{name}") if self._is_block(inner)]) > 1
            for name, _ in self._at(path).named_children()
        )

    def _follows(self, before: str, path: str) -> bool:
        """Do they have the same shape, and not run in parallel on one input?"""
        first, second = self.calls[before][0], self.calls[path][0]
        # The next block takes the same tensor after one that works in place, but is not parallel to it.
        taken, in_place = hidden_of(first), first.tensor is hidden_of(first)
        parallel = taken is hidden_of(second) and not in_place
        return not parallel and first.output_shape == second.output_shape and first.returns == second.returns

    def _may_lead(self, before: str, path: str) -> bool:
        """Can a module that is not a residual block itself be the first of a stage?"""
        calls = self.calls[before]
        # Two Sequentials have the same class but may contain anything.
        alike = type(self._at(before)) is type(self._at(path)) and not isinstance(self._at(path), nn.Sequential)
        return alike and len(calls) == 1 and not self._is_block(before) and self._follows(before, path)

    def _run(self, blocks: Sequence[str], container: str, *, alone: bool) -> Run:
        first, last = (path.rpartition(".")[2] for path in (blocks[0], blocks[-1]))
        name = container if alone and container else f"{container} {first}-{last}".strip()
        call = self.calls[blocks[-1]][0]
        shape = call.output_shape
        assert shape is not None
        channels = _channel_dim(self._at(blocks[-1]), shape)
        return Run(tuple(blocks), self._norms_that_ran, name, channels, returns=call.returns)

    def _norms_that_ran(self, mandatory: Sequence[str]) -> list[str]:
        # A norm that runs more often belongs to several blocks, and so to no stage.
        return [norm for norm in norms_inside(self.model, mandatory) if self.ran.get(id(self._at(norm))) == 1]

    def _at(self, path: str) -> nn.Module:
        return self.model.get_submodule(path)

    # -- reasons for a refusal ----------------------------------------------------------------------------------

    def check_none_lost(self, layers: Sequence[str], runs: Sequence[Run]) -> None:
        """In a list of layers, only the first may be no block: with a later one missing, stages would be lost.

        Raises:
            StagesError: with the layer and the reason.
        """
        taken = {block for run in runs for block in run.blocks}
        ran = [path for path in layers if path in self.calls]
        if not taken.intersection(layers):
            return
        lost = next((path for path in ran[1:] if path not in taken), None)
        if lost is not None:
            raise StagesError(
                f"layer {lost} ({type(self._at(lost)).__name__}) cannot be part of a stage: "
                f"{self._why_lost(lost, ran)}. Write the stages by hand, without it: "
                "adapt(model, stages=[Stage(mandatory=..., skippable=...), ...])"
            )

    def _why_lost(self, path: str, layers: Sequence[str]) -> str:
        if path in self.failed or not self.residual.get(path):
            return self._why_no_block([path])
        return f"it is residual, but no neighbour among {layers[0]} to {layers[-1]} has its shape"

    def why_none(self) -> str:
        """Why the likeliest container, the one with the most weights in modules of one class, has no run."""
        found = [path for path, residual in self.residual.items() if residual]
        single = [path for path in found if not any(other.startswith(f"{path}.") for other in found)]
        alike: dict[tuple[str, type], list[str]] = {}
        for path, module in self.model.named_modules():
            kind = path and not isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)
            if kind and path in self.calls and any(module.children()) and has_weights(module):
                alike.setdefault((path.rpartition(".")[0], type(module)), []).append(path)
        groups = [group for group in alike.values() if len(group) > 1]
        if single:
            return (
                f"{', '.join(single[:3])} {'is' if len(single) == 1 else 'are'} residual, but with no other residual "
                "block of the same shape before or after it in its container, so a stage would have only one block"
            )
        if not groups:
            return "it has no two consecutive blocks of one kind, and none that adds to its input"

        def weight(group: Sequence[str]) -> int:
            return sum(parameter.numel() for path in group for parameter in self._at(path).parameters())

        heaviest = max(groups, key=weight)
        kept = [group for group in groups if any(self.calls[path][0].keeps_shape for path in group)]
        group = max(kept, key=weight, default=heaviest)  # more like a stage, unless it is a small part
        group = group if weight(group) > 0.3 * weight(heaviest) else heaviest
        parent = group[0].rpartition(".")[0]
        kind = type(self._at(group[0])).__name__
        return f"{parent or 'its top level'} has {len(group)} {kind}, but {self._why_no_block(group)}"

    def _why_no_block(self, group: Sequence[str]) -> str:
        calls = [self.calls.get(path, []) for path in group]
        for path, each in zip(group, calls, strict=True):
            if len(each) != 1:
                return f"{path} ran {len(each)} times in one forward pass; a block must run once"
        # Starting from the last, because the first block of a group is often special.
        for path, (call,) in reversed([*zip(group, calls, strict=True)]):
            if not self._is_block(path) and (another := why_another_input(self._at(path), call)):
                return f"{path} cannot be skipped: {another}"
        for path, (call,) in zip(group, calls, strict=True):
            hidden = hidden_of(call)
            if hidden is None or call.output_shape is None:
                return f"{path} {call.describe()}; a block takes and returns one tensor"
        grown = {call.growth for (call,) in calls}
        if len(grown) == 1 and None not in grown and grown != {0}:
            return f"each widens its input by {grown.pop()} channels, so none can be skipped"
        keeping = [path for path, (call,) in zip(group, calls, strict=True) if call.keeps_shape]
        if keeping and keeping[-1] in self.failed:
            return f"{keeping[-1]} does not run again alone ({self.failed[keeping[-1]]}), so it cannot be tested"
        if keeping:
            return f"{keeping[-1]} does not add to its input, so its input cannot replace its output"
        call = self.calls[group[-1]][0]
        return f"{group[-1]} {call.describe()}, so it cannot be skipped"


def _channel_dim(block: nn.Module, shape: Sequence[int]) -> int:
    """Dimension 1 or the last, according to the block's first layer of a telling kind."""
    for part in block.modules():
        if isinstance(part, nn.modules.conv._ConvNd | nn.modules.batchnorm._NormBase | nn.GroupNorm):
            return 1
        if isinstance(part, nn.Linear) and part.in_features == shape[-1]:
            return -1
        # By exact type: timm's LayerNorm2d, a subclass, has its channels in dimension 1.
        if type(part) is nn.LayerNorm and part.normalized_shape == (shape[-1],):
            return -1
    return 1 if len(shape) == 4 else -1


def _hardest_working(model: nn.Module, runs: Sequence[Run], args: Any, kwargs: Any) -> list[Run]:
    """The runs whose blocks do the most multiply-adds, in order."""
    args, kwargs = fresh(args, kwargs)
    with FlopCounterMode(display=False) as counter:
        model(*args, **kwargs)
    counts = counter.get_flop_counts()
    # The counter prefixes all paths with the model's class.
    top = type(model).__name__

    def work(run: Run) -> int:
        # The first block is never skippable.
        return sum(sum(counts.get(f"{top}.{block}", {}).values()) for block in run.blocks[1:])

    kept = sorted(runs, key=work, reverse=True)[:MOST_STAGES]
    return [run for run in runs if run in kept]


def _watched(model: nn.Module, within: Sequence[str]) -> list[str]:
    """The modules whose calls are recorded; hooks do not see a ScriptModule run."""
    return [
        path
        for path, part in model.named_modules()
        if path
        and any(not place or f"{path}.".startswith(f"{place}.") for place in within)
        and not isinstance(part, torch.jit.ScriptModule)
    ]


def _reject_quantised(model: nn.Module, place: str) -> None:
    for path, module in model.named_modules(prefix=place):
        wrong = next(
            (
                name
                for name, tensor in module.named_parameters(recurse=False)
                if not (tensor.is_floating_point() or tensor.is_complex())
            ),
            None,
        )
        # torch's own quantised layers pack their weights, so no parameter shows them.
        if wrong is not None or ".quantized" in type(module).__module__:
            raise StagesError(
                f"{path or type(model).__name__} ({type(module).__name__}) has quantised weights, so it cannot be "
                "tested for adding to its input: adapt the model in floating point, and quantise sub-networks"
            )
