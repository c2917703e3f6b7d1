"""Outputs of any shape in every format: numbers, maps, several labels; and what is no one tensor."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import adaptive_depth as ad
from adaptive_depth.deploy.session import open_session
from adaptive_depth.deploy.torch.programs import open_written
from adaptive_depth.errors import ExportError


class Block(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.norm(self.conv(x)))


class Network(nn.Module):
    """Images `[batch, 3, 8, 8]`, two stages of 1 + 1 blocks, and an output of some kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.stem = kind, nn.Conv2d(3, 16, 3, padding=1)
        self.one, self.two = (nn.Sequential(Block(), Block()) for _ in range(2))
        self.head = nn.Conv2d(16, 1 if kind in ("number", "bare number") else 3, 1)

    def forward(self, x: Tensor) -> Any:
        found = self.head(self.two(self.one(self.stem(x))))
        vector = found.mean((2, 3))
        return {
            "number": lambda: vector,
            "bare number": lambda: vector.squeeze(1),
            "map": lambda: functional.interpolate(found, size=(16, 16), mode="bilinear", align_corners=False),
            "tokens": lambda: found.flatten(2).transpose(1, 2),
            "named": lambda: {"out": found, "aux": vector},
            "pair": lambda: (found, vector),
        }[self.kind]()


SHAPES = {
    "number": (1,),
    "bare number": (),
    "map": (3, 16, 16),
    "tokens": (64, 3),
}


def built(kind: str) -> ad.AdaptiveNetwork:
    """Every norm of every context has numbers of its own; in eval mode."""
    torch.manual_seed(0)
    stages = [ad.Stage((f"{name}.0",), (f"{name}.1",), name=name) for name in ("one", "two")]
    network = ad.adapt(Network(kind), stages, example=torch.randn(2, 3, 8, 8)).eval()
    network.reset_statistics(per_context=True)
    for tensor in (*network.skip_norms.parameters(), *network.statistics.buffers()):
        if tensor.is_floating_point():
            tensor.data += 0.3 * torch.rand(tensor.shape)
    return network


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(
    "name", ["model.onnx", "model.xml", pytest.param("model.pte", marks=pytest.mark.slow), "programs"]
)
def test_an_output_of_any_shape_at_every_depth(tmp_path: Path, name: str, kind: str) -> None:
    network, images = built(kind), torch.randn(4, 3, 8, 8)
    file = tmp_path / name
    ad.export_network(network, file, images, **({"to": "torch"} if name == "programs" else {}))
    session = open_written(file) if name == "programs" else open_session(file)
    for skip in network.skips:
        with torch.no_grad():
            wanted = network(images, skip=skip)
        found = session(images, skip)
        assert found.shape == (4, *SHAPES[kind])
        assert found == pytest.approx(wanted.numpy(), abs=1e-4)
        assert np.array_equal(open_session(network)(images, skip), wanted.numpy())


@pytest.mark.parametrize(("kind", "received"), [("named", "a dict with 'out', 'aux'"), ("pair", "a tuple of 2")])
@pytest.mark.parametrize("name", ["model.onnx", "model.xml"])
def test_several_outputs_are_refused(tmp_path: Path, kind: str, received: str, name: str) -> None:
    with pytest.raises(ExportError, match=f"the network returned {received}: expected one tensor of any shape, or an"):
        ad.export_network(built(kind), tmp_path / name, torch.randn(2, 3, 8, 8))
    with pytest.raises(ExportError, match=f"the network returned {received}: expected one tensor of any shape"):
        ad.quantize_network(built(kind), tmp_path / "int8.xml", torch.randn(20, 3, 8, 8))
    assert not list(tmp_path.iterdir())


def test_a_session_of_a_network_with_several_outputs_is_refused() -> None:
    with pytest.raises(ad.ArtifactError, match="the network returned a dict with 'out', 'aux': expected one"):
        open_session(built("named"))(torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize("kind", ["bare number", "map"])
def test_an_output_of_any_shape_in_int8(tmp_path: Path, kind: str) -> None:
    network, images = built(kind), torch.randn(40, 3, 8, 8)
    ad.quantize_network(network, tmp_path / "int8.xml", images)
    session = open_session(tmp_path / "int8.xml")
    for skip in network.skips:
        with torch.no_grad():
            wanted = network(images[:7], skip=skip)
        found = session(images[:7], skip)
        assert found.shape == wanted.shape
        assert np.abs(found - wanted.numpy()).mean() < 0.2 * float(wanted.std())
