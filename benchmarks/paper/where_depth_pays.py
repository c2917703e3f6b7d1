"""Where depth pays: the deepest and the shallowest network, each trained alone, with growing budgets."""

import sys
from dataclasses import replace
from statistics import mean
from typing import Any

from command import command
from plans import accuracies, alone, clearly, markdown, of_all_seeds, said
from run import Place, Run

SHORTER = (0.25, 0.5)  # compared on validation images


def plan(place: Place) -> list[Run]:
    return of_all_seeds(*(run for budget in _budgets(place) for run in _pair(budget)))(place)


def _budgets(place: Place) -> list[float]:
    return sorted({*SHORTER, 1.0, *place.setting.budgets})


def _pair(budget: float) -> tuple[Run, Run]:
    where = "validation" if budget in SHORTER else "test"
    deep, shallow = (replace(alone(skip=skip), budget=budget, measured_on=where) for skip in ("FFF", "TTT"))
    return deep, shallow


def summary(place: Place) -> dict[str, Any]:
    rows = []
    for budget in _budgets(place):
        deep, shallow = (next(iter(accuracies(run, place).values()), []) for run in _pair(budget))
        if deep and shallow:
            rows.append({"budget": budget, "deep": deep, "shallow": shallow, "pays": clearly(deep, shallow)})
    return {"budgets": rows}


def table(found: dict[str, Any]) -> str:
    rows = [
        [
            f"{row['budget']:.0%}",
            said(row["deep"]),
            said(row["shallow"]),
            f"{mean(row['deep']) - mean(row['shallow']):+.1f}",
            "yes" if row["pays"] else "no",
        ]
        for row in found["budgets"]
    ]
    head = ["budget", "2 blocks per stage, alone", "1 block, alone", "difference", "more than two standard deviations"]
    return markdown(head, rows)


if __name__ == "__main__":
    command(sys.modules[__name__])
