"""Multiply-adds of ResNet-50's and ViT-B/16's sub-networks against the paper's figures."""

import torch
from measure import report

import adaptive_depth as ad

PAPER = {
    "torchvision/resnet50": {"FFFF": 4.11, "TFFF": 3.90, "TTFF": 3.46, "TTTF": 2.80, "TTTT": 2.58},
    "torchvision/vit_b_16": {"FFFF": 17.58, "FFFT": 16.20, "TTFF": 14.67, "TTFT": 13.21, "TTTT": 11.76},
}


def vit_stages() -> list[ad.Stage]:
    """Twelve encoder blocks in four groups of three, 2 + 1 each; both LayerNorms of mandatory blocks are doubled."""
    blocks = [f"encoder.layers.encoder_layer_{number}" for number in range(12)]
    return [
        ad.Stage(
            mandatory=blocks[first : first + 2],
            skippable=blocks[first + 2 : first + 3],
            norms=[f"{block}.{norm}" for block in blocks[first : first + 2] for norm in ("ln_1", "ln_2")],
            name=f"group{first // 3 + 1}",
            channel_dim=-1,
        )
        for first in range(0, 12, 3)
    ]


def main() -> None:
    table = {}
    for name, paper in PAPER.items():
        stages = vit_stages() if "vit" in name else None
        network = ad.adapt(ad.create_model(name), stages)
        costs = ad.profile(network, torch.zeros(1, 3, 224, 224), skips=list(paper), latency=False).costs
        table[name] = {
            skip: {
                "paper": figure,
                "measured": round(costs[skip].macs / 1e9, 3),
                "error": costs[skip].macs / 1e9 / figure - 1,
            }
            for skip, figure in paper.items()
        }
    worst = max(abs(row["error"]) for rows in table.values() for row in rows.values())
    report("macs", {"target": "within 1 %", "worst": worst, "GMACs": table}, passed=worst <= 0.01)


if __name__ == "__main__":
    main()
