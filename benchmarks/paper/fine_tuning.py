"""Beyond the paper: a network trained alone, then adapted and trained for a small part of the budget."""

import sys
from statistics import mean
from typing import Any

from command import command
from plans import accuracies, adaptive, alone, compared, comparison, of_all_seeds, said
from run import Place, Run, results

BUDGETS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.3)
RATES = (0.005, 0.015, 0.05)  # tried on validation images, with a tenth of the budget and the first seed


def plan(place: Place) -> list[Run]:
    """The last part is known once the learning rates have been tried."""
    return [
        *of_all_seeds(alone(), adaptive())(place),
        *_tries().values(),
        *of_all_seeds(*_cases(place).values())(place),
    ]


def _tuned(budget: float, lr: float, measured_on: str = "test") -> Run:
    changes = (("lr", lr),) if budget else ()
    return Run("resnet", budget=budget, start=alone(), changes=changes, measured_on=measured_on)


def _tries() -> dict[float, Run]:
    return {lr: _tuned(0.1, lr, "validation") for lr in RATES}


def _tried(place: Place) -> dict[float, float]:
    """Mean accuracy of all sub-networks on validation images by learning rate, of those tried so far."""
    found, tries = results(_tries().values(), place), _tries()
    return {lr: mean(found[run]["accuracy"].values()) for lr, run in tries.items() if run in found}


def _cases(place: Place) -> dict[str, Run]:
    tried = _tried(place)
    if len(tried) < len(RATES):
        return {}
    best = max(RATES, key=lambda lr: tried[lr])
    return {f"{100 * budget:g} %": _tuned(budget, best) for budget in BUDGETS}


def summary(place: Place) -> dict[str, Any]:
    return {
        "mean accuracy on validation images by learning rate": _tried(place),
        "alone": next(iter(accuracies(alone(), place).values()), []),
        "cases": compared(_cases(place) | {"adaptive from the start, 100 %": adaptive()}, place),
    }


def table(found: dict[str, Any]) -> str:
    tried = found["mean accuracy on validation images by learning rate"]
    text = ", ".join(f"{lr}: {value:.1f} %" for lr, value in tried.items())
    told = f"Alone: {said(found['alone'])} %. Learning rates tried (all sub-networks, validation images): {text}."
    return f"{comparison(found['cases'], 'budget of fine-tuning')}\n\n{told}"


if __name__ == "__main__":
    command(sys.modules[__name__])
