"""Section 3.2: which knobs change the result, one at a time, on validation images; the best one on test images."""

import sys
from dataclasses import replace
from typing import Any

from command import command
from plans import (
    accuracies,
    adaptive,
    against_the_line,
    alone,
    best_first,
    compared,
    comparison,
    longer,
    macs,
    of_all_seeds,
    said,
)
from run import Place, Run

TRIED: dict[str, tuple[Any, ...]] = {
    "alpha": (0.3, 0.7, 0.85),
    "temperature": (2.0, 4.0),
    "feature_weight": (0.1,),
    "lr": (0.025, 0.1),
    "student": ("random",),
}


def _tries() -> dict[str, Run]:
    values = {f"{name} {value}": ((name, value),) for name, tried in TRIED.items() for value in tried}
    return {
        case: Run("resnet", changes=changes, measured_on="validation")
        for case, changes in ({"as published": ()} | values).items()
    }


def plan(place: Place) -> list[Run]:
    """The first seed chooses, on validation images; all seeds are then tried on test images, in both budgets."""
    return [*_tries().values(), *of_all_seeds(*_cases(place).values(), *_alone(place).values())(place)]


def _cases(place: Place) -> dict[str, Run]:
    tries = _tries()
    best = best_first(tries, _first_seed(place))[:1]
    cases = {"as published": adaptive()} | {case: replace(tries[case], measured_on="test") for case in best}
    return _in_both_budgets(cases, place)


def _first_seed(place: Place) -> Place:
    return replace(place, setting=replace(place.setting, seeds=place.setting.seeds[:1]))


def _alone(place: Place) -> dict[str, Run]:
    return _in_both_budgets({"FFF": alone(), "TTT": alone(skip="TTT")}, place)


def _in_both_budgets(cases: dict[str, Run], place: Place) -> dict[str, Run]:
    return cases | longer(cases, place)


def summary(place: Place) -> dict[str, Any]:
    alones = {case: accuracies(run, place) for case, run in _alone(place).items()}
    return {
        "tried on validation images": _compared(_tries(), _first_seed(place)),
        "cases": _compared(_cases(place), place),
        "alone": {case: next(iter(found.values())) for case, found in alones.items() if found},
    }


def _compared(cases: dict[str, Run], place: Place) -> list[dict[str, Any]]:
    rows, cost = compared(cases, place), macs(place, adaptive())
    for row in rows:
        row["lowest against the line"] = min(against_the_line(accuracies(cases[row["case"]], place), cost).values())
    return rows


def table(found: dict[str, Any]) -> str:
    line = ("lowest depth relative to the line", lambda row: f"{row['lowest against the line']:+.1f}")
    tried = comparison(found["tried on validation images"], "knob, validation images", line)
    told = "; ".join(f"{case} {said(values)} %" for case, values in found["alone"].items())
    return f"{tried}\n\n{comparison(found['cases'], 'the best knob, test images', line)}\n\nAlone: {told}."


if __name__ == "__main__":
    command(sys.modules[__name__])
