"""One module that computes every depth: the choice is an input, so that an exporter sees all depths at once.

Both sides of each choice are computed and one is kept (`torch.where`): a graph without branches, which any exporter
and any quantiser accepts. Each choice can be turned into a branch afterwards.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..batches import taken_from
from ..core.network import AdaptiveNetwork
from ..core.stand_in import stand_in
from ..core.views import build_view
from ..modes import evaluating
from ..plan import Stage
from ..skip import all_skips
from .inputs import Call
from .tracing import apart


class Switching(nn.Module):
    """An adapted network with its skip as an input; the weights are the network's own.

    `forward(x, skip)` takes `[batch, ...]`, or several tensors, and booleans `[stages]` (True skips), and returns
    logits `[batch, classes]`, or what `outputs` names.

    Arguments:
        network: an adapted network; it shares its parts with this module, and must be in eval mode when this one runs.
        folded: compute blocks once for each context, each with its own norms, which can then be folded into
            convolutions; by default blocks run once, and the parameters of their norms are looked up.
        skips: with `folded`, the depths that are needed; all by default.
        outputs: the names of the network's outputs that are returned; only its logits by default.
        call: how the network takes its inputs; one tensor by default.
    """

    def __init__(
        self,
        network: AdaptiveNetwork,
        *,
        folded: bool = False,
        skips: Iterable[str] | None = None,
        outputs: Sequence[str] = (),
        call: Call | None = None,
    ) -> None:
        super().__init__()
        self.outputs, self.call = tuple(outputs), call or Call()
        self.flags = flags = _Flags()
        self.stages = len(network.stages)
        wanted = tuple(network.skips if skips is None else skips)
        with evaluating(network):
            norms = _looked_up(network, flags, outside_blocks=folded)
            view = build_view(network.model, norms).module
            blocks: dict[str, nn.Module] = {}
            for number, stage in enumerate(network.stages):
                for path in stage.blocks:
                    block = _variants(network, path, number, wanted, flags) if folded else view.get_submodule(path)
                    blocks[path] = _Skippable(block, stage, number, flags) if path in stage.skippable else block
            self.view = build_view(view, blocks).module
            self.eval()  # this module's own parts; those of the network get their modes back

    def forward(self, *given: Tensor) -> Any:
        *inputs, skip = given
        self.flags.now = [skip[number] for number in range(self.stages)]
        return apart(taken_from(self.call(self.view, inputs), self.outputs), inputs)


class _Flags:
    """The current call's skip, where the parts of a `Switching` find it."""

    now: list[Tensor]

    def context(self, places: Sequence[int]) -> Tensor:
        """The flags of some stages as one number `[1]`, the first flag the most significant."""
        number = self.now[places[0]].to(torch.int64)
        for place in places[1:]:
            number = 2 * number + self.now[place].to(torch.int64)
        return number.reshape(1)


class _Skippable(nn.Module):
    """A block that is left out if its stage is skipped."""

    def __init__(self, block: nn.Module, stage: Stage, number: int, flags: _Flags) -> None:
        super().__init__()
        self.skippable_block, self.number, self.flags = block, number, flags
        self.instead = stand_in(block, stage.returns)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return _where(self.flags.now[self.number], self.instead(*args, **kwargs), self.skippable_block(*args, **kwargs))


class _Variants(nn.Module):
    """A block, once for each context with that context's norms."""

    def __init__(self, blocks: Mapping[str, nn.Module], places: Sequence[int], flags: _Flags) -> None:
        super().__init__()
        self.by_context, self.places, self.flags = nn.ModuleDict(blocks), tuple(places), flags

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._choose(tuple(self.by_context), lambda context: self.by_context[context](*args, **kwargs))

    def _choose(self, contexts: Sequence[str], compute: Callable[[str], Any]) -> Any:
        if len(contexts) == 1:
            return compute(contexts[0])
        # The stage's own flag, the last, is the outermost choice, so that its skippable blocks' can be merged with it.
        place = max(i for i in range(len(self.places)) if len({context[i] for context in contexts}) > 1)
        skipped, kept = ([context for context in contexts if context[place] == flag] for flag in "TF")
        flag = self.flags.now[self.places[place]]
        return _where(flag, self._choose(skipped, compute), self._choose(kept, compute))


class _LookedUp(nn.Module):
    """A norm whose parameters and statistics are looked up by context, unless they are equal in all."""

    def __init__(self, norms: Sequence[nn.Module], places: Sequence[int], flags: _Flags) -> None:
        super().__init__()
        self.__dict__["norm"] = norms[0]  # not a child: its tensors are replaced, and must not be exported as well
        self.places, self.flags = tuple(places), flags
        self.tables: list[str] = []
        for name, first in _floating(norms[0]).items():
            rows = [_floating(norm)[name] for norm in norms]
            if not all(torch.equal(row, first) for row in rows):
                self.tables.append(name)
                first = torch.stack(rows)
            self.register_buffer(name, first)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        tensors = dict(self.named_buffers())
        norm: nn.Module = self.__dict__["norm"]
        if self.tables:
            context = self.flags.context(self.places)
            tensors |= {name: tensors[name].index_select(0, context).squeeze(0) for name in self.tables}
        return torch.func.functional_call(norm, tensors, args, kwargs)


def _looked_up(network: AdaptiveNetwork, flags: _Flags, *, outside_blocks: bool) -> dict[str, nn.Module]:
    """The norms that differ between contexts; with `outside_blocks`, only those outside all blocks."""
    inside = tuple(f"{path}." for stage in network.stages for path in stage.blocks)
    found = {}
    for path, home in network.homes.items():
        if not (outside_blocks and f"{path}.".startswith(inside)):
            per_context = network.calibrated and network.gathers(path)
            skippable = _within(path, network.stages[home - 1].skippable)
            places = range(home) if per_context else range(home - 1, home)
            norms = [_norm(network, path, context, home, skippable) for context in all_skips(len(places))]
            if any(norm is not network.model.get_submodule(path) for norm in norms):
                found[path] = _LookedUp(norms, places, flags)
    return found


def _norm(network: AdaptiveNetwork, path: str, context: str, home: int, skippable: bool) -> nn.Module:
    """A norm as in the sub-networks of one context; in a block that is left out, any will do."""
    flags = context[:-1] + "F" if skippable else context
    # Flags outside the context do not matter to this norm, so any will do.
    return network.view(flags.rjust(home, "F").ljust(len(network.stages), "F")).module.get_submodule(path)


def _variants(network: AdaptiveNetwork, path: str, number: int, skips: Sequence[str], flags: _Flags) -> nn.Module:
    """A block with the norms of each context that occurs in `skips`; a plain one if one fits all."""
    skippable = path in network.stages[number].skippable
    norms = [norm for norm in network.homes if _within(norm, (path,))]
    statistics = any(map(network.gathers, norms))
    places = range(number + 1) if network.calibrated and statistics else range(number, number + 1)
    blocks: dict[str, nn.Module] = {}
    for skip in skips if norms else ():
        if not (skippable and skip[number] == "T"):  # it is left out there
            blocks.setdefault("".join(skip[place] for place in places), network.view(skip).module.get_submodule(path))
    if not blocks:
        return network.model.get_submodule(path)
    return _Variants(blocks, places, flags) if len(blocks) > 1 else next(iter(blocks.values()))


def _within(path: str, blocks: Iterable[str]) -> bool:
    return any(f"{path}.".startswith(f"{block}.") for block in blocks)


def _floating(norm: nn.Module) -> dict[str, Tensor]:
    named = dict(norm.named_parameters()) | dict(norm.named_buffers())
    return {name: tensor.detach() for name, tensor in named.items() if tensor.is_floating_point()}


def _where(flag: Tensor, skipped: Any, kept: Any) -> Any:
    return tree_map(lambda a, b: torch.where(flag, a, b) if isinstance(a, Tensor) else a, skipped, kept)
