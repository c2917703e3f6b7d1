"""Table 3: what distillation and skip-aware norms add, and the feature term."""

import sys
from typing import Any

from command import command
from plans import adaptive, compared, comparison, of_all_seeds
from run import Place, Run

CASES = {
    "distillation, skip-aware norms": adaptive(),
    "distillation, one set of norms": adaptive(skip_aware_norms=False),
    "labels, skip-aware norms": adaptive(learn_from="labels"),
    "labels, one set of norms": adaptive(learn_from="labels", skip_aware_norms=False),
    "distillation, skip-aware norms, feature term 0.1": adaptive(feature_weight=0.1),
    "distillation, skip-aware norms, feature term 1": adaptive(feature_weight=1.0),
}


def plan(place: Place) -> list[Run]:
    return of_all_seeds(*CASES.values())(place)


def summary(place: Place) -> dict[str, Any]:
    return {"cases": compared(CASES, place)}


def table(found: dict[str, Any]) -> str:
    return comparison(found["cases"], "the base-net learns from")


if __name__ == "__main__":
    command(sys.modules[__name__])
