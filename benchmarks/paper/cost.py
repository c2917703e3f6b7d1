"""Table 2: what an epoch costs, against networks trained one by one and two rivals, and what these reach."""

import sys
from functools import partial
from statistics import mean
from typing import Any

import rivals
import torch
from command import command
from networks import NETWORKS
from plans import accuracies, adaptive, macs, markdown, of_all_seeds, said, worst
from run import Place, Run, new
from step_times import against_two_alone

import adaptive_depth as ad
from adaptive_depth.measure.instruments.macs import count_macs

RIVALS = {
    "adaptive depth": adaptive(),
    "slimmable (3 widths)": Run("resnet", "slimmable"),
    "sandwich rule (8 depths)": Run("resnet", "sandwich"),
}
FAMILIES = ("resnet", "mobilenet_v2", "vit", "swin")


def plan(place: Place) -> list[Run]:
    return of_all_seeds(*RIVALS.values())(place)


def summary(place: Place) -> dict[str, Any]:
    """Ratios to the time of one super-net and one base-net, each trained alone, from one interleaved run a family."""
    times = {name: _times(name, place) for name in FAMILIES}
    reached = {
        title: {"by sub-network": found, "macs": _macs(run, place), "worst": worst(found)}
        for title, run in RIVALS.items()
        if (found := accuracies(run, place))
    }
    return {"time of an epoch, against super-net and base-net alone": times, "accuracy": reached}


def _macs(run: Run, place: Place) -> dict[str, int]:
    if run.method != "slimmable":
        return macs(place, adaptive())
    network, x = new(run, place.setting).eval(), torch.zeros(1, 3, place.setting.size, place.setting.size)
    assert isinstance(network, rivals.Slimmable)
    runs = {f"{width:g}": partial(network, x, number) for number, width in enumerate(network.widths)}
    with torch.no_grad():
        return count_macs(runs)[0]


def _times(name: str, place: Place) -> dict[str, Any]:
    ours: Any = new(adaptive(name), place.setting)
    methods: dict[str, tuple[torch.nn.Module, rivals.Step]] = {"adaptive": (ours, ad.distil(ad.SelfDistillation(ours)))}
    if name == "resnet":
        slim, sandwich = (new(RIVALS[title], place.setting) for title in list(RIVALS)[1:])
        assert isinstance(slim, rivals.Slimmable)
        assert isinstance(sandwich, ad.AdaptiveNetwork)
        methods["slimmable"] = (slim, rivals.slimmable_step(slim))
        methods["sandwich"] = (sandwich, rivals.sandwich_step(sandwich))
    return against_two_alone(name, methods, list(macs(place, adaptive(name))), place)


def table(found: dict[str, Any]) -> str:
    times = found["time of an epoch, against super-net and base-net alone"]
    columns = list(times["resnet"])
    rows = [
        [NETWORKS[name].title, *(f"{each[column]['median']:.2f}" if column in each else "" for column in columns)]
        for name, each in times.items()
    ]
    reached = []
    for title, each in found["accuracy"].items():
        for skip, values in each["by sub-network"].items():
            reached.append([title, skip, f"{each['macs'][skip] / 1e6:.2f}", said(values)])
            title = ""
    mean_of = {
        title: mean(mean(values) for values in each["by sub-network"].values())
        for title, each in found["accuracy"].items()
    }
    told = ", ".join(f"{title} {value:.1f} %" for title, value in mean_of.items())
    head = ["epoch time relative to super-net plus base-net, each trained alone", *columns]
    return (
        f"{markdown(head, rows)}\n\n{markdown(['method', 'sub-network', 'MMACs', 'accuracy'], reached)}\n\n"
        f"Mean of all sub-networks: {told}."
    )


if __name__ == "__main__":
    command(sys.modules[__name__])
