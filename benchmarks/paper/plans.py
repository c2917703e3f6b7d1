"""What the experiments have in common: runs by name, means over seeds, and figures as text."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from statistics import mean
from typing import Any

import torch
from networks import NETWORKS, adapted
from run import Found, Place, Run, results, said, seeded, spread
from setting import Setting

import adaptive_depth as ad

Plan = Callable[[Place], list[Run]]
SMALLER = (0.75, 0.5)  # resolutions, as parts of the setting's


def adaptive(network: str = "resnet", **changes: Any) -> Run:
    """Algorithm 1, with the recipe of the network; `changes` are fields of the recipe."""
    return Run(network, changes=tuple(changes.items()), also_at=SMALLER if network == "resnet" and not changes else ())


def passes(network: str = "resnet", **changes: Any) -> Run:
    """One step for each sub-network, with the recipe of the network; `changes` are fields of the recipe."""
    return Run(network, "passes", changes=tuple(changes.items()))


def alone(network: str = "resnet", skip: str | None = None) -> Run:
    """A plain network of one depth; the super-net's by default."""
    return Run(network, "alone", skip=skip or NETWORKS[network].depths[0])


def long(run: Run, setting: Setting) -> Run:
    """The run with the budget of the main result."""
    return replace(run, budget=setting.budgets[-1])


def longer(cases: dict[str, Run], place: Place) -> dict[str, Run]:
    """The cases with the budget of the main result, by title; none if they already have it."""
    last = place.setting.budgets[-1]
    titled = {f"{case}, budget {last:.0%}": long(run, place.setting) for case, run in cases.items()}
    return titled if last != 1 else {}


def of_all_seeds(*runs: Run) -> Plan:
    return lambda place: [each for run in runs for each in seeded(run, place.setting)]


def found_by_seed(run: Run, place: Place) -> list[Found]:
    """The results of all seeds, or nothing: fewer would look like a mean over all."""
    found = results(seeded(run, place.setting), place)
    return list(found.values()) if len(found) == len(place.setting.seeds) else []


def accuracies(run: Run, place: Place, key: str = "accuracy") -> dict[str, list[float]]:
    """By sub-network, one number per seed; without calibration, the values before it are the same."""
    found = [each.get(key, each["accuracy"]) for each in found_by_seed(run, place)]
    return {skip: [each[skip] for each in found] for skip in found[0]} if found else {}


def ends(by_skip: dict[str, list[float]]) -> tuple[str, str]:
    skips = list(by_skip)
    return skips[0], skips[-1]


def worst(by_skip: dict[str, list[float]]) -> list[float]:
    """The worst sub-network, by seed."""
    return [min(values) for values in zip(*by_skip.values(), strict=True)]


def clearly(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether the mean of `a` exceeds that of `b` by more than two standard deviations of either."""
    return mean(a) - mean(b) > 2 * max(spread(a), spread(b))


@cache
def macs(place: Place, run: Run, size: int | None = None) -> dict[str, int]:
    """Multiply-adds per image by sub-network, for the network of a run."""
    network = adapted(run.network, place.setting, 0, mandatory=run.mandatory, fine=run.fine)
    side = size or place.setting.size
    costs = ad.profile(network.eval(), torch.zeros(1, 3, side, side), latency=False, energy=False).costs
    return {skip: cost.macs for skip, cost in costs.items()}


def against_the_line(by_skip: dict[str, list[float]], cost: dict[str, int]) -> dict[str, float]:
    """Points of mean accuracy above (or below) the line joining super-net and base-net, by intermediate sub-network."""
    deep, shallow = ends(by_skip)
    low, high = mean(by_skip[shallow]), mean(by_skip[deep])
    slope = (high - low) / (cost[deep] - cost[shallow])
    return {
        skip: mean(values) - (low + slope * (cost[skip] - cost[shallow]))
        for skip, values in by_skip.items()
        if skip not in (deep, shallow)
    }


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def compared(cases: dict[str, Run], place: Place) -> list[dict[str, Any]]:
    """Super-net, base-net, mean and worst of all sub-networks, for the cases of an experiment."""
    rows = []
    for title, run in cases.items():
        by_skip, before = accuracies(run, place), accuracies(run, place, "before calibrate")
        if by_skip:
            deep, shallow = ends(by_skip)
            rows.append(
                {
                    "case": title,
                    "super-net": by_skip[deep],
                    "base-net": by_skip[shallow],
                    "mean of all": mean_of_all(run, place),
                    "worst": worst(by_skip),
                    "worst before calibrate": worst(before),
                }
            )
    return rows


def mean_of_all(run: Run, place: Place) -> list[float]:
    """The mean accuracy of all sub-networks, by seed; empty if a seed is missing."""
    return [mean(values) for values in zip(*accuracies(run, place).values(), strict=True)]


def best_first(tries: dict[Any, Run], place: Place) -> list[Any]:
    """What was tried, sorted by the mean accuracy of all sub-networks and seeds; empty while a try is missing."""
    found = {what: mean_of_all(run, place) for what, run in tries.items()}
    return sorted(found, key=lambda what: -mean(found[what])) if all(found.values()) else []


COLUMNS = ("super-net", "base-net", "mean of all", "worst", "worst before calibrate")


Column = tuple[str, Callable[[dict[str, Any]], str]]  # its title, and its cell in a row


def comparison(rows: list[dict[str, Any]], first: str, *own: Column) -> str:
    """Markdown of `compared`; the experiment's own columns come second."""
    columns = [*own, *((name, lambda row, name=name: said(row[name])) for name in COLUMNS)]
    head = [first, *(title for title, _ in columns)]
    return markdown(head, [[row["case"], *(cell(row) for _, cell in columns)] for row in rows])
