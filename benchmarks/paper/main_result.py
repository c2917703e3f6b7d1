"""Figure 4a, Table 6: all sub-networks of four families against networks of the same depths trained alone."""

import sys
from statistics import mean
from typing import Any

from command import command
from networks import NETWORKS
from plans import (
    accuracies,
    adaptive,
    against_the_line,
    alone,
    clearly,
    ends,
    long,
    macs,
    markdown,
    of_all_seeds,
    said,
)
from run import Place, Run

FAMILIES = ("resnet", "mobilenet_v2", "vit", "swin")


def plan(place: Place) -> list[Run]:
    ends = [run for name in FAMILIES for run in (_adaptive(name, place), *_ends(name, place))]
    between = [run for name in FAMILIES for run in _alone(name, place).values()]
    return of_all_seeds(*dict.fromkeys(ends + between))(place)


def _adaptive(name: str, place: Place) -> Run:
    return long(adaptive(name), place.setting)


def _alone(name: str, place: Place) -> dict[str, Run]:
    return {skip: long(alone(name, skip), place.setting) for skip in NETWORKS[name].depths}


def _ends(name: str, place: Place) -> tuple[Run, Run]:
    deep, *_, shallow = _alone(name, place).values()
    return deep, shallow


def summary(place: Place) -> dict[str, Any]:
    """By family: accuracies of all sub-networks, those of networks trained alone, and whether the claims hold."""
    complete = [
        name
        for name in FAMILIES
        if all(accuracies(run, place) for run in (_adaptive(name, place), *_ends(name, place)))
    ]
    return {"families": {name: _family(name, place) for name in complete}}


def _family(name: str, place: Place) -> dict[str, Any]:
    run = _adaptive(name, place)
    ours, before = accuracies(run, place), accuracies(run, place, "before calibrate")
    theirs = {skip: found[skip] for skip, run in _alone(name, place).items() if (found := accuracies(run, place))}
    (deep, shallow), cost = ends(ours), macs(place, adaptive(name))
    line = against_the_line(ours, cost)
    return {
        "title": NETWORKS[name].title,
        "macs": cost,
        "adaptive": ours,
        "before calibrate": before,
        "alone": theirs,
        "depth pays, trained alone": clearly(theirs[deep], theirs[shallow]),
        "gain of the super-net": mean(ours[deep]) - mean(theirs[deep]),
        "gain of the base-net": mean(ours[shallow]) - mean(theirs[shallow]),
        "super-net exceeds base-net": mean(ours[deep]) - mean(ours[shallow]),
        "points above the line, by sub-network": line,
    }


def table(found: dict[str, Any]) -> str:
    rows = []
    for family in found["families"].values():
        title = family["title"]
        for skip, values in family["adaptive"].items():
            theirs = family["alone"].get(skip, [])
            gain = f"{mean(values) - mean(theirs):+.1f}" if theirs else ""
            line = family["points above the line, by sub-network"].get(skip)
            rows.append(
                [
                    title,
                    skip,
                    f"{family['macs'][skip] / 1e6:.2f}",
                    said(values),
                    said(family["before calibrate"][skip]),
                    said(theirs),
                    gain,
                    "" if line is None else f"{line:+.1f}",
                ]
            )
            title = ""
    head = ["network", "skip", "MMACs", "adaptive", "before `calibrate`", "alone", "gain", "above the line"]
    return f"{markdown(head, rows)}\n\nDeepest minus shallowest network, each trained alone: {_pays(found)}."


def _pays(found: dict[str, Any]) -> str:
    told = []
    for family in found["families"].values():
        theirs, (deep, shallow) = family["alone"], ends(family["adaptive"])
        clear = clearly(theirs[deep], theirs[shallow]) or clearly(theirs[shallow], theirs[deep])
        more = mean(theirs[deep]) - mean(theirs[shallow])
        told.append(f"{family['title'].split(',')[0]} {more:+.1f} points{'' if clear else ' (within variation)'}")
    return "; ".join(told)


if __name__ == "__main__":
    command(sys.modules[__name__])
