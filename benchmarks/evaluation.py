"""`evaluate` on all 16 sub-networks of ResNet-50 against one after the other: time, and bit-identical outputs."""

import torch
from measure import interleaved, ratio, report

import adaptive_depth as ad
from adaptive_depth.sharing import SharedForward


def main(rounds: int = 3) -> None:
    torch.manual_seed(0)
    network = ad.adapt(ad.create_model("torchvision/resnet50")).eval()
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
    result = {"target": "at least 2.2 times faster, bit-identical", "times faster": speed, "identical": identical}
    report("evaluation", result, passed=speed["median"] >= 2.2 and identical)


if __name__ == "__main__":
    main()
