"""Beyond the paper: is it only more updates? All the cost on one network, images again, smaller batches, rivals."""

import sys
from dataclasses import replace
from typing import Any

from command import command
from plans import accuracies, adaptive, alone, best_first, compared, comparison, markdown, of_all_seeds, passes, said
from run import Place, Run

# A round of SBSBR costs 1.25 of (super-net + base-net); of a ResNet's super-net alone that is 1.85, of its base-net
# 3.95 trainings.
ALL_THE_COST = {"FFF": 1.85, "TTT": 3.95}
RATES = (0.05, 0.1, 0.2)  # of Algorithm 1 with the labels' weight 1, tried on validation images


def _alone(skip: str) -> dict[str, Run]:
    plain = alone("resnet", skip)
    return {
        f"{skip} alone": plain,
        f"{skip} alone, all the cost": replace(plain, budget=ALL_THE_COST[skip]),
        f"{skip} alone, each batch twice": replace(plain, method="replayed"),
        f"{skip} alone, batches of half the size": replace(plain, changes=(("batch_size", 32),)),
    }


def _together(place: Place) -> dict[str, Run]:
    cases = {
        "SBSBR, the default": passes(),
        "SB": passes(passes="SB"),
        "the sandwich rule, a step for each": passes(passes="SBRR", delay=0, teacher_share=1.0, teacher_start=0.0),
        "Algorithm 1, weights of a half": adaptive(),
        "Algorithm 1, weights of 1": replace(adaptive(keep_scale=True), also_at=()),
    }
    best = best_first(_rates(), _first_seed(place))[:1]
    return cases | {f"Algorithm 1, weights of 1, its best learning rate ({lr})": _rate(lr, "test") for lr in best}


def _rate(lr: float, measured_on: str) -> Run:
    return replace(adaptive(keep_scale=True, lr=lr), also_at=(), measured_on=measured_on)


def _rates() -> dict[float, Run]:
    return {lr: _rate(lr, "validation") for lr in RATES}


def _first_seed(place: Place) -> Place:
    return replace(place, setting=replace(place.setting, seeds=place.setting.seeds[:1]))


def plan(place: Place) -> list[Run]:
    plain = [run for skip in ALL_THE_COST for run in _alone(skip).values()]
    return [*_rates().values(), *of_all_seeds(*plain, *_together(place).values())(place)]


def summary(place: Place) -> dict[str, Any]:
    plain = {case: run for skip in ALL_THE_COST for case, run in _alone(skip).items()}
    found = {case: accuracies(run, place) for case, run in plain.items()}
    return {
        "alone": {case: next(iter(by_skip.values())) for case, by_skip in found.items() if by_skip},
        "together": compared(_together(place), place),
        "learning rates of Algorithm 1, validation images": compared(
            {f"{lr}": run for lr, run in _rates().items()}, _first_seed(place)
        ),
    }


def table(found: dict[str, Any]) -> str:
    plain = markdown(["one network", "accuracy"], [[case, said(values)] for case, values in found["alone"].items()])
    rates = comparison(found["learning rates of Algorithm 1, validation images"], "learning rate, validation images")
    return f"{plain}\n\n{comparison(found['together'], 'all depths in one network')}\n\n{rates}"


if __name__ == "__main__":
    command(sys.modules[__name__])
