"""A tiny network of two depths that tells cats, dogs and hens apart, as an exported file."""

from pathlib import Path

import torch
from torch import nn

import adaptive_depth as ad
from adaptive_depth.deploy.exporting import export_network

TABLE = ad.TradeOffs((ad.Row("F", 80.0, macs=20, parameters=20), ad.Row("T", 60.0, macs=10, parameters=20)))
IMAGES = ad.Preprocessing(16, 3, mean=(0.5,) * 3, std=(0.25,) * 3, classes=("cat", "dog", "hen"))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.norm(self.conv(x))


def write_pets(path: Path) -> Path:
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Sequential(Block(), Block()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    network = ad.adapt(whole, [ad.Stage(("0.0",), ("0.1",))], example=torch.randn(2, 3, 16, 16)).eval()
    export_network(network, path, torch.randn(1, 3, 16, 16), data=IMAGES, trade_offs=TABLE)
    return path
