"""What a training step takes, in ratios of one interleaved run."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from networks import NETWORKS
from plans import adaptive, alone
from rivals import Step
from run import Place, interleaved, new, ratio

import adaptive_depth as ad

STEPS = 4  # timed together; even, for a method that does something else in every second one
Timed = Callable[[], None]


def against_two_alone(
    name: str, methods: dict[str, tuple[torch.nn.Module, Step]], skips: Sequence[str], place: Place
) -> dict[str, dict[str, float]]:
    """The time of a step of each method over that of a super-net and a base-net, each trained alone.

    Arguments:
        name: of the network, in `NETWORKS`.
        methods: a network and its step, by title.
        skips: all sub-networks of the network, super-net first.
    """
    batch = _batch(place)
    plain = {skip: new(alone(name, skip), place.setting) for skip in skips}
    steps = {skip: _steps(network, ad.supervise(network), batch, place) for skip, network in plain.items()}
    steps |= {title: _steps(network, step, batch, place) for title, (network, step) in methods.items()}
    seconds = interleaved(steps, 3 if place.setting.name == "quick" else 31)
    above = {title: [title] for title in methods}
    above |= {"super-net alone": [skips[0]], "base-net alone": [skips[-1]]}
    above |= {"every depth alone": list(skips)} if len(skips) > 2 else {}
    return {what: ratio(seconds, names, [skips[0], skips[-1]]) for what, names in above.items()}


def _batch(place: Place) -> tuple[torch.Tensor, torch.Tensor]:
    setting = place.setting
    x = torch.randn(setting.batch_size, 3, setting.size, setting.size, device=place.device)
    return x.contiguous(memory_format=torch.channels_last), torch.randint(10, (len(x),), device=place.device)


def _steps(network: torch.nn.Module, step: Step, batch: tuple[Any, Any], place: Place) -> Timed:
    network.to(place.device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def steps() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad()
            step(*batch, torch.Tensor.backward)
            optimizer.step()
        place.wait()

    return steps


def of_schedules(name: str, patterns: Sequence[str], rounds: int, place: Place) -> dict[str, dict[str, float]]:
    """The time of a schedule for a batch that is loaded, over a step of super-net and one of base-net, each alone.

    Arguments:
        name: of the network, in `NETWORKS`.
        patterns: of the schedules; their networks are the default ones.
        rounds: of the interleaved run.
    """
    batch, depths = _batch(place), NETWORKS[name].depths
    ends = {skip: new(alone(name, skip), place.setting) for skip in (depths[0], depths[-1])}
    steps = {skip: _steps(network, ad.supervise(network), batch, place) for skip, network in ends.items()}
    steps |= {pattern: _passes(new(adaptive(name), place.setting), pattern, batch, place) for pattern in patterns}
    seconds = interleaved(steps, rounds)
    return {pattern: ratio(seconds, [pattern], list(ends)) for pattern in patterns}


def _passes(network: Any, pattern: str, batch: tuple[Any, Any], place: Place) -> Timed:
    """As many batches as of the others, each with all the optimiser steps that a schedule makes of it."""
    network.to(place.device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    passes = ad.Passes(network, schedule=ad.Schedule(pattern, delay=4))

    def steps() -> None:
        for _ in range(STEPS):
            for loss in passes(*batch):
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        place.wait()

    for _ in range(2 * 4 // STEPS):  # until every pass has its batch
        steps()
    return steps
