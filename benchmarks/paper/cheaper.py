"""Beyond the paper: the base-net learns from a part of each batch, or in every second step."""

import sys
from typing import Any

from command import command
from plans import adaptive, compared, comparison, of_all_seeds
from run import Place, Run

CASES = {
    "every image": adaptive(),
    "half of each batch": adaptive(distil_share=0.5),
    "a quarter of each batch": adaptive(distil_share=0.25),
    "every second step": Run("resnet", "every second step"),
}


def plan(place: Place) -> list[Run]:
    return of_all_seeds(*CASES.values())(place)


def summary(place: Place) -> dict[str, Any]:
    return {"cases": compared(CASES, place)}


def table(found: dict[str, Any]) -> str:
    return comparison(found["cases"], "the base-net learns from")


if __name__ == "__main__":
    command(sys.modules[__name__])
