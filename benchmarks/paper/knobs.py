"""Section 3.2: which knobs change the result, one at a time, on validation images and with the first seed alone."""

import sys
from statistics import mean
from typing import Any

from command import command
from plans import markdown

from runs import Place, Run, results

TRIED: dict[str, tuple[float, ...]] = {
    "alpha": (0.3, 0.7),
    "temperature": (2.0, 4.0),
    "feature_weight": (0.1,),
    "lr": (0.025, 0.1),
}


def _cases() -> dict[str, Run]:
    values = {f"{name} {value:g}": ((name, value),) for name, tried in TRIED.items() for value in tried}
    return {
        case: Run("resnet", changes=changes, measured_on="validation")
        for case, changes in ({"as published": ()} | values).items()
    }


def plan(_: Place) -> list[Run]:
    return list(_cases().values())


def summary(place: Place) -> dict[str, Any]:
    found = results(plan(place), place)
    return {"cases": {case: found[run]["accuracy"] for case, run in _cases().items() if run in found}}


def table(found: dict[str, Any]) -> str:
    rows = [
        [case, *(f"{value:.1f}" for value in (values[0], values[-1], mean(values), min(values)))]
        for case, values in ((case, list(each.values())) for case, each in found["cases"].items())
    ]
    return markdown(["knob", "super-net", "base-net", "mean of all", "worst"], rows)


if __name__ == "__main__":
    command(sys.modules[__name__])
