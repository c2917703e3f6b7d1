"""A network whose norms all differ, and the ONNX file of it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import adaptive_depth as ad
from adaptive_depth.export.exporting import export_network


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.norm(self.conv(x)))


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[ad.AdaptiveNetwork, Path]:
    """Two stages of 1 + 1 blocks, images `[batch, 3, 8, 8]`, 4 classes, and its file with FF, FT and TT."""
    torch.manual_seed(0)
    stages = [nn.Sequential(Block(), Block()) for _ in range(2)]
    model = nn.Sequential(nn.Conv2d(3, 6, 1), *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    plan = [ad.Stage((f"{stage}.0",), (f"{stage}.1",)) for stage in (1, 2)]
    network = ad.adapt(model, plan, example=torch.randn(2, 3, 8, 8)).eval()
    for tensor in [*network.skip_norms.parameters(), *network.skip_norms.buffers()]:
        if tensor.is_floating_point():
            tensor.data += torch.rand(tensor.shape)
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export_network(network, path, torch.zeros(1, 3, 8, 8), skips=["FF", "FT", "TT"])
    return network, path
