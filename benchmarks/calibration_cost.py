"""What `calibrate` costs: what the statistics per context add to the checkpoint of ResNet-50, and the time of
calibrating its 16 sub-networks against a forward pass of each."""

import tempfile
from pathlib import Path

import torch
from measure import interleaved, ratio, report

import adaptive_depth as ad


def checkpoint_growth() -> float:
    """The relative growth of ResNet-50's saved weights by its statistics per context."""
    network = ad.adapt(ad.create_model("torchvision/resnet50"))
    sizes = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            ad.save(network, folder)
            sizes.append(sum(file.stat().st_size for file in Path(folder).iterdir()))
        ad.calibrate(network, [torch.randn(2, 3, 64, 64)])
    return sizes[1] / sizes[0] - 1


def main(rounds: int = 3) -> None:
    growth = checkpoint_growth()
    network = ad.adapt(ad.create_model("torchvision/resnet50")).eval()
    x = torch.randn(8, 3, 224, 224)

    def forward_each() -> None:
        with torch.no_grad():
            for skip in network.skips:
                network(x, skip=skip)

    runs = {"calibrate": lambda: ad.calibrate(network, [x]), "a forward pass each": forward_each}
    cost = ratio(interleaved(runs, rounds), ["calibrate"], ["a forward pass each"])
    result = {
        "targets": "checkpoint less than 4 % larger, time at most 0.5",
        "checkpoint growth": growth,
        "time against a forward pass each": cost,
    }
    report("calibration_cost", result, passed=growth < 0.04 and cost["median"] <= 0.5)


if __name__ == "__main__":
    main()
