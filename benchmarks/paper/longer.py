"""Section 4: what longer training changes, against networks trained alone for as long."""

import sys
from dataclasses import replace
from statistics import mean
from typing import Any

from command import command
from plans import accuracies, adaptive, against_the_line, alone, ends, macs, markdown, of_all_seeds, said, worst
from run import Place, Run


def plan(place: Place) -> list[Run]:
    return of_all_seeds(*(run for budget in place.setting.budgets for run in _three(budget)))(place)


def _three(budget: float) -> tuple[Run, ...]:
    """The adaptive network, and two networks alone."""
    return tuple(replace(run, budget=budget) for run in (adaptive(), alone(), alone(skip="TTT")))


def summary(place: Place) -> dict[str, Any]:
    rows = []
    for budget in place.setting.budgets:
        ours, deep, shallow = (accuracies(run, place) for run in _three(budget))
        if ours and deep and shallow:
            first, last = ends(ours)
            before = accuracies(_three(budget)[0], place, "before calibrate")
            rows.append(
                {
                    "budget": budget,
                    "super-net": ours[first],
                    "super-net alone": deep[first],
                    "base-net": ours[last],
                    "base-net alone": shallow[last],
                    "lowest against the line": min(against_the_line(ours, macs(place, adaptive())).values()),
                    "worst": worst(ours),
                    "worst before calibrate": worst(before),
                }
            )
    return {"budgets": rows}


def table(found: dict[str, Any]) -> str:
    names = ("super-net", "super-net alone", "base-net", "base-net alone", "worst", "worst before calibrate")
    rows = [
        [
            f"{row['budget']:.0%}",
            *(said(row[name]) for name in names),
            f"{mean(row['super-net']) - mean(row['super-net alone']):+.1f}, "
            f"{mean(row['base-net']) - mean(row['base-net alone']):+.1f}",
            f"{row['lowest against the line']:+.1f}",
        ]
        for row in found["budgets"]
    ]
    return markdown(["budget", *names, "gains", "lowest depth relative to the line"], rows)


if __name__ == "__main__":
    command(sys.modules[__name__])
