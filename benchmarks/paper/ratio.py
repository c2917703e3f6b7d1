"""Figures 6b, 7: shorter and longer mandatory sub-paths, of stages of four blocks."""

import sys
from typing import Any

from command import command
from plans import compared, comparison, macs, of_all_seeds
from run import Place, Run

CASES = {f"{m} + {4 - m}": Run("resnet-long", mandatory=m) for m in (1, 2, 3)}


def plan(place: Place) -> list[Run]:
    return of_all_seeds(*CASES.values())(place)


def summary(place: Place) -> dict[str, Any]:
    rows = compared(CASES, place)
    for row in rows:
        cost = list(macs(place, CASES[row["case"]]).values())
        row["multiply-adds, base-net over super-net"] = cost[-1] / cost[0]
    return {"cases": rows}


def table(found: dict[str, Any]) -> str:
    part = "multiply-adds, base-net over super-net"
    return comparison(found["cases"], "mandatory + skippable blocks", (part, lambda row: f"{row[part]:.2f}"))


if __name__ == "__main__":
    command(sys.modules[__name__])
