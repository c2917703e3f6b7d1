"""Latency of a sub-network against a plain network of that depth built by hand: ResNet-50, batch 1, 224 px."""

import torch
from measure import interleaved, ratio, report
from torchvision.models.resnet import Bottleneck, ResNet

import adaptive_depth as ad

SUPER, BASE = (3, 4, 6, 3), (2, 2, 3, 2)


def main(rounds: int = 25) -> None:
    torch.manual_seed(0)
    network = ad.adapt(ad.create_model("torchvision/resnet50")).eval()
    x = torch.randn(1, 3, 224, 224)
    ratios = {}
    for skip in ("FFFF", "TTFF", "TTTT"):
        depths = [low if flag == "T" else high for flag, high, low in zip(skip, SUPER, BASE, strict=True)]
        plain = ResNet(Bottleneck, depths).eval()
        plain.load_state_dict(network.extract(skip).state_dict())
        subnet = network.subnet(skip)
        with torch.inference_mode():
            assert torch.equal(plain(x), subnet(x))
            seconds = interleaved({"subnet": lambda s=subnet: s(x), "plain": lambda p=plain: p(x)}, rounds, warmup=3)
        ratios[skip] = ratio(seconds, ["subnet"], ["plain"])
    passed = all(0.98 <= row["median"] <= 1.02 for row in ratios.values())
    report("latency", {"target": "1.00 +- 0.02", "subnet / plain": ratios}, passed=passed)


if __name__ == "__main__":
    main()
