"""Table 2: what an epoch costs, against networks trained one by one and two rivals, and what these reach."""

import sys
from collections.abc import Callable
from functools import partial
from statistics import mean
from typing import Any

import rivals
import torch
from command import command
from networks import NETWORKS
from plans import accuracies, adaptive, alone, macs, markdown, of_all_seeds, said, worst
from run import Place, Run, interleaved, new, ratio

import adaptive_depth as ad
from adaptive_depth.measuring.macs import count_macs

RIVALS = {
    "adaptive depth": adaptive(),
    "slimmable (3 widths)": Run("resnet", "slimmable"),
    "sandwich rule (8 depths)": Run("resnet", "sandwich"),
}
FAMILIES = ("resnet", "mobilenet_v2", "vit", "swin")
STEPS = 4  # timed together


def plan(place: Place) -> list[Run]:
    return of_all_seeds(*RIVALS.values())(place)


def summary(place: Place) -> dict[str, Any]:
    """Ratios to the time of one super-net and one base-net, each trained alone, from one interleaved run a family."""
    rounds = 3 if place.setting.name == "quick" else 15
    times = {name: _times(name, place, rounds) for name in FAMILIES}
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


def _times(name: str, place: Place, rounds: int) -> dict[str, Any]:
    size = place.setting.size
    x = torch.randn(place.setting.batch_size, 3, size, size).contiguous(memory_format=torch.channels_last)
    y = torch.randint(10, (len(x),))
    skips = list(macs(place, adaptive(name)))
    ours: Any = new(adaptive(name), place.setting)
    steps = {skip: _step(plain := new(alone(name, skip), place.setting), ad.supervise(plain), x, y) for skip in skips}
    steps["adaptive"] = _step(ours, ad.distil(ad.SelfDistillation(ours)), x, y)
    if name == "resnet":
        slim, sandwich = (new(RIVALS[title], place.setting) for title in list(RIVALS)[1:])
        assert isinstance(slim, rivals.Slimmable)
        assert isinstance(sandwich, ad.AdaptiveNetwork)
        steps["slimmable"] = _step(slim, rivals.slimmable_step(slim), x, y)
        steps["sandwich"] = _step(sandwich, rivals.sandwich_step(sandwich), x, y)
    seconds, two = interleaved(steps, rounds), [skips[0], skips[-1]]
    above = {each: [each] for each in ("adaptive", "slimmable", "sandwich") if each in steps}
    above |= {"super-net alone": skips[:1], "base-net alone": skips[-1:], "every depth alone": skips}
    return {what: ratio(seconds, names, two) for what, names in above.items()}


def _step(network: torch.nn.Module, step: Callable[..., Any], x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def steps() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad()
            step(x, y, torch.Tensor.backward)
            optimizer.step()

    return steps


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
    head = ["time of an epoch over that of super-net and base-net, each alone", *columns]
    return (
        f"{markdown(head, rows)}\n\n{markdown(['method', 'sub-network', 'MMACs', 'accuracy'], reached)}\n\n"
        f"Mean of all sub-networks: {told}."
    )


if __name__ == "__main__":
    command(sys.modules[__name__])
