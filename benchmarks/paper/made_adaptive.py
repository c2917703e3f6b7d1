"""Beyond the paper: a network trained alone, made adaptive by a schedule of passes in a part of that budget."""

import sys
from dataclasses import replace
from typing import Any

from command import command
from plans import accuracies, alone, best_first, compared, comparison, long, of_all_seeds, passes, said
from run import Place, Run

PARTS = (0.02, 0.05, 0.1, 0.2, 0.3)
TEACHER = {"teacher_start": 0.0}  # the super-net is trained already
TRIED: dict[str, dict[str, Any]] = {  # on validation images with a tenth of the budget
    "lr 0.015": {"lr": 0.015},
    "lr 0.05": {"lr": 0.05},
    "lr 0.15": {"lr": 0.15},
    "lr 0.05, teacher 0.5": {"lr": 0.05, "teacher_share": 0.5, **TEACHER},
    "lr 0.05, teacher 1": {"lr": 0.05, "teacher_share": 1.0, **TEACHER},
    "lr 0.15, teacher 0.5": {"lr": 0.15, "teacher_share": 0.5, **TEACHER},
    "lr 0.15, teacher 1": {"lr": 0.15, "teacher_share": 1.0, **TEACHER},
}


def _tuned(place: Place, part: float, changes: dict[str, Any], measured_on: str = "test") -> Run:
    start = long(alone(), place.setting)
    return replace(passes(**changes), budget=part * start.budget, start=start, measured_on=measured_on)


def _tries(place: Place) -> dict[str, Run]:
    return {what: _tuned(place, 0.1, changes, "validation") for what, changes in TRIED.items()}


def _first_seed(place: Place) -> Place:
    return replace(place, setting=replace(place.setting, seeds=place.setting.seeds[:1]))


def _cases(place: Place) -> dict[str, Run]:
    best = best_first(_tries(place), _first_seed(place))[:1]
    return {f"{part:.0%}, {what}": _tuned(place, part, TRIED[what]) for what in best for part in PARTS}


def plan(place: Place) -> list[Run]:
    return [*_tries(place).values(), *of_all_seeds(*_cases(place).values())(place)]


def summary(place: Place) -> dict[str, Any]:
    ends = {skip: accuracies(long(alone("resnet", skip), place.setting), place) for skip in ("FFF", "TTT")}
    return {
        "tried on validation images": compared(_tries(place), _first_seed(place)),
        "cases": compared(_cases(place), place),
        "alone": {skip: found[skip] for skip, found in ends.items() if found},
    }


def table(found: dict[str, Any]) -> str:
    told = "; ".join(f"{skip} {said(values)} %" for skip, values in found["alone"].items())
    tried = comparison(found["tried on validation images"], "a tenth of the budget, validation images")
    cases = comparison(found["cases"], "fraction of the budget, test images")
    return f"{tried}\n\n{cases}\n\nAlone, full budget: {told}."


if __name__ == "__main__":
    command(sys.modules[__name__])
