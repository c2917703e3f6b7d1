"""Beyond the paper: a network trained alone, then adapted and trained for a small part of that budget."""

import sys
from typing import Any

from command import command
from plans import accuracies, adaptive, alone, best_first, compared, comparison, long, of_all_seeds, said
from run import Place, Run

PARTS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.3)
RATES = (0.005, 0.015, 0.05, 0.15)  # tried on validation images, with a tenth of the budget
KNOBS: tuple[tuple[str, Any], ...] = (  # the same, one at a time at the best of these rates
    ("alpha", 0.3),
    ("alpha", 0.7),
    ("temperature", 2.0),
    ("temperature", 4.0),
    ("learn_from", "labels"),
    ("feature_weight", 0.1),
)
Changes = tuple[tuple[str, Any], ...]


def plan(place: Place) -> list[Run]:
    """What the tries decide is known once they have been made."""
    tried = [*_rates(place).values(), *_knobs(place).values(), *_cases(place).values()]
    return of_all_seeds(*(long(run, place.setting) for run in (alone(), adaptive())), *tried)(place)


def _tuned(place: Place, part: float, changes: Changes, measured_on: str = "test") -> Run:
    start = long(alone(), place.setting)
    budget = part * start.budget
    return Run("resnet", budget=budget, start=start, changes=changes if part else (), measured_on=measured_on)


def _rates(place: Place) -> dict[float, Run]:
    return {lr: _tuned(place, 0.1, (("lr", lr),), "validation") for lr in RATES}


def _knobs(place: Place) -> dict[Changes, Run]:
    """With the best learning rate alone, and one knob more; once the learning rates have been tried."""
    best = best_first(_rates(place), place)
    if not best:
        return {}
    kept = ("lr", best[0])
    return {changes: _tuned(place, 0.1, changes, "validation") for changes in ((kept,), *((kept, k) for k in KNOBS))}


def _cases(place: Place) -> dict[str, Run]:
    """All budgets with the two best learning rates, and with the best knob where one is better than none."""
    rates, knobs = best_first(_rates(place), place), best_first(_knobs(place), place)
    if not knobs:
        return {}
    chosen = dict.fromkeys([knobs[0], *((("lr", lr),) for lr in rates[:2])])
    cases = {f"{PARTS[0]:g} %": _tuned(place, PARTS[0], ())}
    for changes in chosen:
        cases |= {f"{100 * part:g} %, {_said(changes)}": _tuned(place, part, changes) for part in PARTS[1:]}
    return cases


def _said(changes: Changes) -> str:
    return ", ".join(f"{name} {value}" for name, value in changes)


def summary(place: Place) -> dict[str, Any]:
    rates = {f"lr {lr:g}": run for lr, run in _rates(place).items()}
    return {
        "tried on validation images": compared(
            rates | {_said(what): run for what, run in _knobs(place).items()}, place
        ),
        "alone": next(iter(accuracies(long(alone(), place.setting), place).values()), []),
        "cases": compared(_cases(place) | {"adaptive from the start, 100 %": long(adaptive(), place.setting)}, place),
    }


def table(found: dict[str, Any]) -> str:
    tried = comparison(found["tried on validation images"], "a tenth of the budget, validation images")
    told = f"Alone: {said(found['alone'])} %."
    return f"{tried}\n\n{comparison(found['cases'], 'budget of fine-tuning, test images')}\n\n{told}"


if __name__ == "__main__":
    command(sys.modules[__name__])
