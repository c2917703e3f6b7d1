"""Time of `find_stages` for ResNet-50 at 224 px with its proof over all 16 sub-networks, against a forward pass.

Both ways: the plan of the family, and the same network found by watching it run.
"""

import statistics

import torch
from measure import interleaved, report

import adaptive_depth as ad
from adaptive_depth.core.adapting import cut_runs
from adaptive_depth.core.proof import prove_every_depth
from adaptive_depth.plan import discover
from adaptive_depth.plan.checks import complete


def main(rounds: int = 7) -> None:
    torch.manual_seed(0)
    model = ad.create_model("torchvision/resnet50").eval()
    x = torch.randn(1, 3, 224, 224)

    def forward() -> None:
        with torch.no_grad():
            model(x)

    def find() -> None:
        ad.find_stages(model, x)

    def find_by_watching() -> None:
        stages = complete(model, cut_runs(discover(model, (x,), {})))
        prove_every_depth(ad.AdaptiveNetwork(model, stages), (x,), {})

    runs = {"forward": forward, "family": find, "discovery": find_by_watching}
    seconds = interleaved(runs, rounds)
    one = statistics.median(seconds["forward"])
    taken = {name: statistics.median(seconds[name]) for name in ("family", "discovery")}
    result = {
        "target": "at most 12 forward passes of the model plus 1 s",
        "forward passes beyond 1 s": {name: (time - 1) / one for name, time in taken.items()},
        "forward passes in all": {name: time / one for name, time in taken.items()},
        "seconds of a forward pass": one,
        "rounds": rounds,
    }
    report("find_stages", result, passed=all(time <= 12 * one + 1 for time in taken.values()))


if __name__ == "__main__":
    main()
