"""Small networks whose norms all differ, so that one taken for another is seen, and the ONNX file of one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

import adaptive_depth as ad
from adaptive_depth.deploy.exporting import export_network


def differing(network: ad.AdaptiveNetwork, *, calibrated: bool = False) -> ad.AdaptiveNetwork:
    """Every norm of every context, and a head of zeros, with numbers of their own; in eval mode."""
    network.eval()
    network.reset_statistics(per_context=calibrated)
    generator = torch.Generator().manual_seed(1)
    tensors = [*network.skip_norms.parameters(), *network.skip_norms.buffers(), *network.statistics.buffers()]
    heads = [tensor for tensor in network.model.parameters() if not tensor.any()]
    for tensor in tensors + heads:
        if tensor.is_floating_point():
            tensor.data += 0.2 * torch.rand(tensor.shape, generator=generator)
    return network


@pytest.fixture(scope="session", name="differing")
def _differing() -> Callable[..., ad.AdaptiveNetwork]:
    return differing


@pytest.fixture(scope="session")
def resnet() -> ad.AdaptiveNetwork:
    """Four stages of 1 + 1 basic blocks, without statistics per context."""
    torch.manual_seed(0)
    return differing(ad.adapt(timm.create_model("resnet18", num_classes=10, channels=(8, 8, 16, 16))))


class Block(nn.Module):
    """h + relu(norm(conv(h))) on `[batch, width, height, width]`."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.norm(self.conv(x)))


class TwoStages(nn.Module):
    """Images `[batch, 3, height, width]`, two stages of 1 + 1 blocks, logits `[batch, classes]`."""

    def __init__(self, block: type[nn.Module] = Block, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.one, self.two = (nn.Sequential(Block(), block()) for _ in range(2))
        self.head = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(self.stem(x))).mean((2, 3)))


@pytest.fixture(scope="session")
def two_stages() -> Callable[..., ad.AdaptiveNetwork]:
    """`two_stages(block, classes)`: a network of two stages, 8 px, whose skippable blocks are of the given class."""

    def build(block: type[nn.Module] = Block, classes: int = 4, calibrated: bool = False) -> ad.AdaptiveNetwork:
        torch.manual_seed(0)
        plan = [ad.Stage((f"{name}.0",), (f"{name}.1",), name=name) for name in ("one", "two")]
        network = ad.adapt(TwoStages(block, classes), plan)
        network.proven = True  # an input would refuse some of the blocks that tests need
        return differing(network, calibrated=calibrated)

    return build


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
