"""Section 3.2: which knobs change the result, one at a time, on validation images; the best one on test images."""

import sys
from dataclasses import replace
from statistics import mean
from typing import Any

from command import command
from plans import accuracies, adaptive, alone, compared, comparison, markdown, of_all_seeds, said
from run import Place, Run, results

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
    """The first seed chooses, on validation images; all seeds are then tried on test images."""
    return [*_tries().values(), *of_all_seeds(*_chosen(place).values(), adaptive(), alone(), alone(skip="TTT"))(place)]


def _chosen(place: Place) -> dict[str, Run]:
    tries, found = _tries(), results(_tries().values(), place)
    if len(found) < len(tries):
        return {}
    best = max(tries, key=lambda case: mean(found[tries[case]]["accuracy"].values()))
    return {best: replace(tries[best], measured_on="test")}


def summary(place: Place) -> dict[str, Any]:
    found = results(_tries().values(), place)
    return {
        "tried": {case: found[run]["accuracy"] for case, run in _tries().items() if run in found},
        "cases": compared({"as published": adaptive()} | _chosen(place), place),
        "alone": {
            skip: values for run in (alone(), alone(skip="TTT")) for skip, values in accuracies(run, place).items()
        },
    }


def table(found: dict[str, Any]) -> str:
    rows = [
        [case, *(f"{value:.1f}" for value in (values[0], values[-1], mean(values), min(values)))]
        for case, values in ((case, list(each.values())) for case, each in found["tried"].items())
    ]
    tried = markdown(["knob, validation images", "super-net", "base-net", "mean of all", "worst"], rows)
    told = ", ".join(f"{skip} {said(values)} %" for skip, values in found["alone"].items())
    return f"{tried}\n\n{comparison(found['cases'], 'the best knob, test images')}\n\nAlone: {told}."


if __name__ == "__main__":
    command(sys.modules[__name__])
