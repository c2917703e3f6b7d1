"""The time to choose another depth of ResNet-50: nothing is rebuilt, nothing is recalibrated."""

import timeit

import torch
from measure import report

import adaptive_depth as ad


def main(number: int = 20_000, repeats: int = 9) -> None:
    network = ad.adapt(ad.create_model("torchvision/resnet50")).eval()
    ad.calibrate(network, [torch.randn(2, 3, 64, 64)])
    before = {skip: network.subnet(skip) for skip in network.skips}
    skips = list(network.skips) * (number // len(network.skips))

    def choose() -> None:
        for skip in skips:
            network.subnet(skip)

    microseconds = sorted(seconds / len(skips) * 1e6 for seconds in timeit.repeat(choose, number=1, repeat=repeats))
    rebuilt = any(network.subnet(skip) is not module for skip, module in before.items())
    result = {"target": "under 5 us", "median_us": microseconds[repeats // 2], "slowest_us": microseconds[-1]}
    report("choosing", {**result, "rebuilt": rebuilt}, passed=microseconds[repeats // 2] < 5 and not rebuilt)


if __name__ == "__main__":
    main()
