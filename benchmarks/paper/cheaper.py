"""Beyond the paper: the base-net learns from a part of each batch, or in every second step."""

import sys
from typing import Any

import rivals
from command import command
from plans import adaptive, compared, comparison, macs, of_all_seeds
from run import Place, Run, new
from step_times import against_two_alone

import adaptive_depth as ad

CASES = {
    "every image": adaptive(),
    "half of each batch": adaptive(distil_share=0.5),
    "a quarter of each batch": adaptive(distil_share=0.25),
    "every second step": Run("resnet", "every second step"),
}


def plan(place: Place) -> list[Run]:
    return of_all_seeds(*CASES.values())(place)


def summary(place: Place) -> dict[str, Any]:
    """Accuracies; and the time of a step over that of super-net and base-net, each trained alone."""
    skips = list(macs(place, adaptive()))
    times = against_two_alone("resnet", {case: _method(run, place) for case, run in CASES.items()}, skips, place)
    rows = compared(CASES, place)
    for row in rows:
        row["time"] = times[row["case"]]
    return {"cases": rows}


def _method(run: Run, place: Place) -> tuple[ad.AdaptiveNetwork, rivals.Step]:
    network = new(run, place.setting)
    assert isinstance(network, ad.AdaptiveNetwork)
    if run.method == "every second step":
        return network, rivals.every_second_step(network)
    return network, ad.distil(ad.SelfDistillation(network, keep_scale=False, **dict(run.changes)))


def table(found: dict[str, Any]) -> str:
    time = ("step time", lambda row: f"{row['time']['median']:.2f}")
    return comparison(found["cases"], "the base-net learns from", time)


if __name__ == "__main__":
    command(sys.modules[__name__])
