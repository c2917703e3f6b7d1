"""torch.compile of every sub-network: right outputs, no recompilation on switching, no recompile limit."""

import logging
import shutil
from collections.abc import Callable, Iterator

import pytest
import timm
import torch
import torch._dynamo
from torch._dynamo.utils import counters
from torchvision.models.resnet import BasicBlock, ResNet

import adaptive_depth as ad

Maker = Callable[[], ad.AdaptiveNetwork]
Compiler = Callable[[ad.AdaptiveNetwork], dict[str, torch.nn.Module]]

pytestmark = [pytest.mark.alone, pytest.mark.slow]


@pytest.fixture(autouse=True)
def clean_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def torchvision_network() -> ad.AdaptiveNetwork:
    return ad.adapt(ResNet(BasicBlock, [2, 2, 2, 2], num_classes=5)).eval()


def calibrated_timm_network() -> ad.AdaptiveNetwork:
    network = ad.adapt(timm.create_model("resnet18", num_classes=5, channels=(8, 8, 16, 16)))
    ad.calibrate(network, [torch.randn(8, 3, 32, 32)])
    return network.eval()


def compiled_one_by_one(network: ad.AdaptiveNetwork) -> dict[str, torch.nn.Module]:
    return {skip: torch.compile(network.subnet(skip), backend="eager") for skip in network.skips}


def compiled_together(network: ad.AdaptiveNetwork) -> dict[str, torch.nn.Module]:
    network.compile(backend="eager")
    return {skip: network.subnet(skip) for skip in network.skips}


@pytest.mark.parametrize(
    ("make", "compiled_by"), [(torchvision_network, compiled_one_by_one), (calibrated_timm_network, compiled_together)]
)
def test_all_sixteen(make: Maker, compiled_by: Compiler, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    network, x = make(), torch.randn(2, 3, 32, 32)
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        expected = {skip: network(x, skip=skip) for skip in network.skips}
        compiled = compiled_by(network)
        for skip in network.skips:
            torch.testing.assert_close(compiled[skip](x), expected[skip], rtol=1e-4, atol=1e-5)
        assert counters["stats"]["unique_graphs"] == 16
        for skip in (*reversed(network.skips), *network.skips):
            compiled[skip](x)
    assert counters["stats"]["unique_graphs"] == 16  # one each: switching compiled nothing again
    assert not counters["recompiles"]
    assert "recompile" not in caplog.text


@pytest.mark.skipif(shutil.which("g++") is None, reason="the default compiler backend needs a C++ compiler")
def test_default_backend_on_two_stages() -> None:
    torch.manual_seed(0)
    network = ad.adapt(timm.create_model("resnet18", layers=(2, 2, 1, 1), num_classes=5, channels=(8, 8, 8, 8))).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = {skip: network(x, skip=skip) for skip in network.skips}
        network.compile()
        for skip in network.skips:
            torch.testing.assert_close(network(x, skip=skip), expected[skip], rtol=1e-4, atol=1e-5)
        network.model.register_forward_hook(lambda _, __, output: output + 1)  # hooks run around compiled code, too
        torch.testing.assert_close(network(x, skip="FT"), expected["FT"] + 1, rtol=1e-4, atol=1e-5)
