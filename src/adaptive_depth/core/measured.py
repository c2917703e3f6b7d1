"""A measured plan: how much a network's output changes without each layer, with one pass per layer."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from ..batches import logits_in
from ..errors import StagesError
from ..modes import evaluating, looking_at, without_fast_paths
from ..plan import Mandatory, Run, Stages, cheapest_stretches, cut_runs
from ..plan.calls import fresh
from .stand_in import stand_in
from .views import build_view, links_of


def costs_of_layers(
    model: nn.Module,
    blocks: Sequence[str],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    returns: tuple[int | None, ...] | None = None,
) -> dict[str, float]:
    """How far the model's predictions move without each block: the mean KL(whole ‖ without it), in nats.

    Arguments:
        model: returns logits, `[batch, classes]` or `[batch, tokens, words]`; left unchanged.
        blocks: their paths.
        args, kwargs: an input that the model knows, such as some text.
        returns: as for `Stage`.

    Raises:
        StagesError: a model that returns no logits.
    """
    links = links_of(model)
    with looking_at(model), evaluating(model), torch.no_grad(), without_fast_paths():
        whole = _log_probabilities(model, args, kwargs)
        found = {}
        for path in blocks:
            block = stand_in(model.get_submodule(path), returns)
            without = _log_probabilities(build_view(model, {path: block}, links).module, args, kwargs)
            # Rounding can make a KL divergence slightly negative.
            found[path] = max(0.0, float((whole.exp() * (whole - without)).sum(-1).mean()))
    return found


def _log_probabilities(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    args, kwargs = fresh(args, kwargs)
    logits = logits_in(module(*args, **kwargs))
    if not isinstance(logits, Tensor) or logits.ndim not in (2, 3):
        raise StagesError(
            f"cut='measured' compares predictions, but {type(module).__name__} returned {type(logits).__name__}: "
            "expected logits [batch, classes] or [batch, tokens, words]; use the default cut, or write the stages"
        )
    return logits.float().log_softmax(-1)


def measured_stages(
    model: nn.Module,
    runs: Sequence[Run],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    mandatory: Mandatory,
    group_size: int | None,
) -> Stages:
    """As many stages as `cut_runs` would make of a flat run, with as many skippable blocks, but those that cost least.

    Raises:
        StagesError: runs that are already stages, or a model that returns no logits.
    """
    if len(runs) != 1 or not runs[0].flat:
        raise StagesError(
            f"cut='measured' needs one run of layers of one shape, but {type(model).__name__} already has {len(runs)} "
            "stages: use the default cut, with mandatory= for each stage"
        )
    (run,) = runs
    usual = cut_runs(runs, mandatory, group_size)
    first, *others = run.blocks  # a stage begins with a mandatory block
    costs = {first: inf} | costs_of_layers(model, others, args, kwargs, run.returns)
    skipped = sum(len(stage.skippable) for stage in usual)
    stages, start = [], 0
    for stretch in cheapest_stretches([costs[path] for path in run.blocks], len(usual), skipped):
        blocks = run.blocks[start : stretch.stop]
        staying = run.blocks[start : stretch.start]
        norms = None if run.norms is None else tuple(run.norms(staying))
        name = f"{run.name or 'layers'} {start}-{stretch.stop - 1}"
        stages.append(replace(usual[0], mandatory=staying, skippable=blocks[len(staying) :], norms=norms, name=name))
        start = stretch.stop
    return Stages(tuple(stages))
