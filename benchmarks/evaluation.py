"""`evaluate` on all 16 sub-networks against one after the other, for three of the paper's networks: time, and
bit-identical outputs."""

import sys

import torch
from measure import interleaved, ratio, report

import adaptive_depth as ad
from adaptive_depth.core.sharing import SharedForward

TARGETS = {"resnet50": 2.2, "vit_b_16": 1.9, "swin_t": 1.8}


def measure(name: str, rounds: int) -> dict[str, object]:
    torch.manual_seed(0)
    network = ad.adapt(ad.create_model(f"torchvision/{name}")).eval()
    for parameter in network.skip_norms.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x, y = torch.randn(8, 3, 224, 224), torch.randint(1000, (8,))

    def one_after_the_other() -> None:
        for skip in network.skips:
            (network(x, skip=skip).argmax(1) == y).sum()

    with torch.no_grad():
        shared = SharedForward(network).outputs(network.skips, x)
        identical = all(torch.equal(output, network(x, skip=skip)) for skip, output, _ in shared)
        seconds = interleaved(
            {"evaluate": lambda: ad.evaluate(network, [(x, y)]), "one after the other": one_after_the_other}, rounds
        )
    speed = ratio(seconds, ["one after the other"], ["evaluate"])
    return {"times faster": speed, "at least": TARGETS[name], "identical": identical}


def main(rounds: int = 3) -> None:
    found = {name: measure(name, rounds) for name in sys.argv[1:] or TARGETS}
    passed = all(one["times faster"]["median"] >= one["at least"] and one["identical"] for one in found.values())  # type: ignore[index]
    report("evaluation", {"target": "times faster, bit-identical", "networks": found}, passed=passed)


if __name__ == "__main__":
    main()
