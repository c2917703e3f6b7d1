"""Figure 6a: does less work save time and energy? Depth and width of a ResNet-50 at 224 px, one image at a time."""

import sys
from functools import partial
from typing import Any

import torch
from command import command
from plans import markdown
from run import Place, Run, interleaved, ratio
from torchvision.models.resnet import Bottleneck, ResNet

import adaptive_depth as ad
from adaptive_depth.measure.instruments.macs import count_macs

SKIPS = ("FFFF", "TFFF", "TTFF", "TTTF", "TTTT")
WIDTHS = (1.0, 0.75, 0.5, 0.25)


def plan(_: Place) -> list[Run]:
    """Nothing is trained: the values of weights do not affect the time."""
    return []


def summary(place: Place) -> dict[str, Any]:
    """Latency and multiply-adds relative to the full network's, from one interleaved run."""
    network = ad.adapt(ad.create_model("torchvision/resnet50")).eval().to(place.device)
    x = torch.randn(1, 3, 224, 224, device=place.device)
    networks = {f"depth {skip}": network.subnet(skip) for skip in SKIPS}
    networks |= {f"width {width:g}": _thinner(width).to(place.device) for width in WIDTHS}
    runs = {name: partial(_waited, each, x, place) for name, each in networks.items()}
    with torch.no_grad():
        macs, _ = count_macs(runs)
        seconds = interleaved(runs, 3 if place.setting.name == "quick" else 31, warmup=2)
    full = {"depth": f"depth {SKIPS[0]}", "width": f"width {WIDTHS[0]:g}"}
    measured = ad.profile(network, x, skips=SKIPS, rounds=3 if place.setting.name == "quick" else 31)
    drawn = {skip: cost.energy_mj for skip, cost in measured.costs.items()}
    return {
        "threads": torch.get_num_threads(),
        "ratios": {
            name: {"macs": macs[name] / macs[full[name[:5]]], "latency": ratio(seconds, [name], [full[name[:5]]])}
            for name in runs
        },
        "energy": measured.energy,
        "millijoules an image": drawn,
    }


def _waited(network: torch.nn.Module, x: torch.Tensor, place: Place) -> None:
    network(x)
    place.wait()


def _thinner(width: float) -> torch.nn.Module:
    """A ResNet-50 with a part of all channels: what a width-adaptive network computes at that width."""
    model = ResNet(Bottleneck, [3, 4, 6, 3]).eval()

    def part(channels: int) -> int:
        return round(width * channels)

    for name, module in list(model.named_modules()):
        parent, _, own = name.rpartition(".")
        owner = model.get_submodule(parent)
        if isinstance(module, torch.nn.Conv2d):
            channels = module.in_channels if name == "conv1" else part(module.in_channels)
            how: Any = (module.kernel_size, module.stride, module.padding)
            new: torch.nn.Module = torch.nn.Conv2d(channels, part(module.out_channels), *how, bias=False)
        elif isinstance(module, torch.nn.BatchNorm2d):
            new = torch.nn.BatchNorm2d(part(module.num_features))
        elif isinstance(module, torch.nn.Linear):
            new = torch.nn.Linear(part(module.in_features), module.out_features)
        else:
            continue
        setattr(owner, own, new)
    return model.eval()


def table(found: dict[str, Any]) -> str:
    rows = [
        [name, f"{1 - each['macs']:.0%}", f"{1 - each['latency']['median']:.0%}", _share(each)]
        for name, each in found["ratios"].items()
    ]
    head = ["ResNet-50", "multiply-adds saved", "latency saved", "ratio of the two"]
    drawn = {skip: value for skip, value in found["millijoules an image"].items() if value is not None}
    said = "; ".join(f"{skip} {value:.1f} mJ" for skip, value in drawn.items())
    return f"{markdown(head, rows)}\n\nEnergy: {said or found['energy']}."


def _share(each: dict[str, Any]) -> str:
    saved = 1 - each["macs"]
    return f"{(1 - each['latency']['median']) / saved:.2f}" if saved else ""


if __name__ == "__main__":
    command(sys.modules[__name__])
