"""Table 3: what distillation and skip-aware norms add, and the feature term."""

import sys
from typing import Any

from command import command
from plans import adaptive, compared, comparison, long, of_all_seeds
from run import Place, Run

CELLS = {
    "distillation, skip-aware norms": adaptive(),
    "distillation, one set of norms": adaptive(skip_aware_norms=False),
    "labels, skip-aware norms": adaptive(learn_from="labels"),
    "labels, one set of norms": adaptive(learn_from="labels", skip_aware_norms=False),
}
FEATURES = {
    "distillation, skip-aware norms, feature term 0.1": adaptive(feature_weight=0.1),
    "distillation, skip-aware norms, feature term 1": adaptive(feature_weight=1.0),
}


def plan(place: Place) -> list[Run]:
    return of_all_seeds(*_cases(place).values())(place)


def _cases(place: Place) -> dict[str, Run]:
    """The four cells and the feature term; the cells with the budget of the main result, too."""
    longer = {
        f"{title}, budget {place.setting.budgets[-1]:.0%}": long(run, place.setting) for title, run in CELLS.items()
    }
    return CELLS | FEATURES | (longer if place.setting.budgets[-1] != 1 else {})


def summary(place: Place) -> dict[str, Any]:
    return {"cases": compared(_cases(place), place)}


def table(found: dict[str, Any]) -> str:
    return comparison(found["cases"], "the base-net learns from")


if __name__ == "__main__":
    command(sys.modules[__name__])
