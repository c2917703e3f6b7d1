"""Beyond the paper: a network trained alone, then adapted and trained for a small part of that budget."""

import sys
from statistics import mean
from typing import Any

from command import command
from plans import accuracies, adaptive, alone, compared, comparison, long, of_all_seeds, said
from run import Place, Run, results

PARTS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.3)
RATES = (0.005, 0.015, 0.05, 0.15)  # tried on validation images, with a tenth of the budget and the first seed


def plan(place: Place) -> list[Run]:
    """The last part is known once the learning rates have been tried: all budgets with the two best of them."""
    return [
        *of_all_seeds(*(long(run, place.setting) for run in (alone(), adaptive())))(place),
        *_tries(place).values(),
        *of_all_seeds(*_cases(place).values())(place),
    ]


def _tuned(place: Place, part: float, lr: float, measured_on: str = "test") -> Run:
    start, changes = long(alone(), place.setting), (("lr", lr),) if part else ()
    return Run("resnet", budget=part * start.budget, start=start, changes=changes, measured_on=measured_on)


def _tries(place: Place) -> dict[float, Run]:
    return {lr: _tuned(place, 0.1, lr, "validation") for lr in RATES}


def _tried(place: Place) -> dict[float, float]:
    """Mean accuracy of all sub-networks on validation images by learning rate, of those tried so far."""
    tries = _tries(place)
    found = results(tries.values(), place)
    return {lr: mean(found[run]["accuracy"].values()) for lr, run in tries.items() if run in found}


def _cases(place: Place) -> dict[str, Run]:
    tried = _tried(place)
    if len(tried) < len(RATES):
        return {}
    cases = {f"{PARTS[0]:g} %": _tuned(place, PARTS[0], RATES[0])}
    for lr in sorted(RATES, key=lambda lr: -tried[lr])[:2]:
        cases |= {f"{100 * part:g} %, lr {lr:g}": _tuned(place, part, lr) for part in PARTS[1:]}
    return cases


def summary(place: Place) -> dict[str, Any]:
    return {
        "mean accuracy on validation images by learning rate": _tried(place),
        "alone": next(iter(accuracies(long(alone(), place.setting), place).values()), []),
        "cases": compared(_cases(place) | {"adaptive from the start, 100 %": long(adaptive(), place.setting)}, place),
    }


def table(found: dict[str, Any]) -> str:
    tried = found["mean accuracy on validation images by learning rate"]
    text = ", ".join(f"{lr}: {value:.1f} %" for lr, value in tried.items())
    told = f"Alone: {said(found['alone'])} %. Learning rates tried (all sub-networks, validation images): {text}."
    return f"{comparison(found['cases'], 'budget of fine-tuning')}\n\n{told}"


if __name__ == "__main__":
    command(sys.modules[__name__])
