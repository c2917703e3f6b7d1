"""Section 3.2: which knobs change the result, one at a time, on validation images; the best one on test images."""

import sys
from dataclasses import replace
from typing import Any

from command import command
from plans import accuracies, adaptive, alone, best_first, compared, comparison, long, of_all_seeds, said
from run import Place, Run

TRIED: dict[str, tuple[float, ...]] = {
    "alpha": (0.3, 0.7, 0.85),
    "temperature": (2.0, 4.0),
    "feature_weight": (0.1,),
    "lr": (0.025, 0.1),
}


def _tries() -> dict[str, Run]:
    values = {f"{name} {value:g}": ((name, value),) for name, tried in TRIED.items() for value in tried}
    return {
        case: Run("resnet", changes=changes, measured_on="validation")
        for case, changes in ({"as published": ()} | values).items()
    }


def plan(place: Place) -> list[Run]:
    """The validation images choose; what they choose is then tried on test images, in both budgets."""
    return of_all_seeds(*_tries().values(), *_cases(place).values(), *_alone(place).values())(place)


def _cases(place: Place) -> dict[str, Run]:
    tries = _tries()
    best = best_first(tries, place)[:1]
    cases = {"as published": adaptive()} | {case: replace(tries[case], measured_on="test") for case in best}
    return _in_both_budgets(cases, place)


def _alone(place: Place) -> dict[str, Run]:
    return _in_both_budgets({"FFF": alone(), "TTT": alone(skip="TTT")}, place)


def _in_both_budgets(cases: dict[str, Run], place: Place) -> dict[str, Run]:
    last = place.setting.budgets[-1]
    longer = {f"{case}, budget {last:.0%}": long(run, place.setting) for case, run in cases.items()}
    return cases | (longer if last != 1 else {})


def summary(place: Place) -> dict[str, Any]:
    alones = {case: accuracies(run, place) for case, run in _alone(place).items()}
    return {
        "tried on validation images": compared(_tries(), place),
        "cases": compared(_cases(place), place),
        "alone": {case: next(iter(found.values())) for case, found in alones.items() if found},
    }


def table(found: dict[str, Any]) -> str:
    tried = comparison(found["tried on validation images"], "knob, validation images")
    told = "; ".join(f"{case} {said(values)} %" for case, values in found["alone"].items())
    return f"{tried}\n\n{comparison(found['cases'], 'the best knob, test images')}\n\nAlone: {told}."


if __name__ == "__main__":
    command(sys.modules[__name__])
