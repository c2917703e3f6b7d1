"""Beyond the paper: a step for each sub-network. Is every depth as good as the network of that depth trained alone?"""

import sys
from dataclasses import replace
from statistics import mean
from typing import Any

from command import command
from networks import NETWORKS
from plans import accuracies, adaptive, alone, clearly, macs, markdown, of_all_seeds, passes, said
from run import Place, Run
from setting import Setting

FAMILIES = ("resnet", "mobilenet_v2", "vit", "swin")
WITHOUT_BETWEEN = 16.0  # one seed of one network at this budget: does the gain vanish?


def plan(place: Place) -> list[Run]:
    compared = [run for budget in budgets(place.setting) for name in FAMILIES for run in _compared(name, budget)]
    return [*of_all_seeds(*compared)(place), *(_longest() if place.setting.name == "night" else ())]


def budgets(setting: Setting) -> list[float]:
    """The main budget and the smallest one."""
    return sorted({setting.budgets[0], setting.budgets[-1]}, reverse=True)


def _compared(name: str, budget: float) -> list[Run]:
    return [replace(run, budget=budget) for run in (passes(name), *_alone(name).values())]


def _alone(name: str) -> dict[str, Run]:
    return {skip: alone(name, skip) for skip in NETWORKS[name].depths}


def _longest() -> list[Run]:
    ends = (alone("resnet", skip) for skip in ("FFF", "TTT"))
    return [replace(run, budget=WITHOUT_BETWEEN) for run in (passes("resnet"), *ends)]


def summary(place: Place) -> dict[str, Any]:
    """By budget and family: accuracies of all sub-networks, with Algorithm 1, and of networks trained alone."""
    found = {f"{budget:.0%}": _families(budget, place) for budget in budgets(place.setting)}
    first = replace(place, setting=replace(place.setting, seeds=place.setting.seeds[:1]))
    longest = _family("resnet", WITHOUT_BETWEEN, first)
    if longest and longest["alone"]:
        found[f"{WITHOUT_BETWEEN:.0%}, one seed"] = {"resnet": longest}
    return {"budgets": found}


def _families(budget: float, place: Place) -> dict[str, Any]:
    return {name: family for name in FAMILIES if (family := _family(name, budget, place))}


def _family(name: str, budget: float, place: Place) -> dict[str, Any]:
    """With the available seeds, and their number; networks trained alone are only listed once all their seeds are."""
    run = replace(passes(name), budget=budget)
    seeds = tuple(seed for seed in place.setting.seeds if place.result(replace(run, seed=seed)).exists())
    if not seeds:
        return {}
    ours = accuracies(run, replace(place, setting=replace(place.setting, seeds=seeds)))
    theirs = {}
    for skip, run in _alone(name).items():
        if found := accuracies(replace(run, budget=budget), place):
            theirs |= {skip: found[skip]}
    return {
        "title": NETWORKS[name].title,
        "seeds": len(seeds),
        "macs": macs(place, adaptive(name)),
        "passes": ours,
        "algorithm 1": accuracies(replace(adaptive(name), budget=budget), place),
        "alone": theirs,
        "gain": {skip: mean(ours[skip]) - mean(values) for skip, values in theirs.items()},
        "clear": {skip: clearly(ours[skip], values) for skip, values in theirs.items()},
    }


def table(found: dict[str, Any]) -> str:
    """The depths that were also trained alone; `worst` is of all sub-networks."""
    rows = []
    for budget, families in found["budgets"].items():
        for family in families.values():
            title = f"{family['title'].split(',')[0]}, {budget}, seeds: {family['seeds']}"
            for skip in list(family["alone"]) or list(family["passes"])[:1]:
                rows.append([title, skip, *_cells(family, skip)])
                title = ""
            worst = min(family["passes"], key=lambda skip, values=family["passes"]: mean(values[skip]))
            rows.append(["", f"worst of {len(family['passes'])}: {worst}", *_cells(family, worst)])
    head = ["network, budget", "skip", "MMACs", "one step each", "alone", "gain", "Algorithm 1"]
    return markdown(head, rows)


def _cells(family: dict[str, Any], skip: str) -> list[str]:
    gain = family["gain"].get(skip)
    return [
        f"{family['macs'][skip] / 1e6:.2f}",
        said(family["passes"][skip]),
        said(family["alone"].get(skip, [])),
        "" if gain is None else f"{gain:+.1f}{'' if family['clear'][skip] or gain < 0 else ' (within variation)'}",
        said(family["algorithm 1"].get(skip, [])),
    ]


if __name__ == "__main__":
    command(sys.modules[__name__])
