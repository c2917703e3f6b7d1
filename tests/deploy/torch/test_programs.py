"""`deploy/torch/programs.py`: what users of torch load without this library."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer as TimmVit
from torch import nn
from torchvision.models import MobileNetV2, SwinTransformer, VisionTransformer
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

import adaptive_depth as ad
from adaptive_depth.deploy.artifact import Artifact
from adaptive_depth.deploy.exporting import export_network
from adaptive_depth.deploy.torch import programs
from adaptive_depth.deploy.torch.programs import plain_state_dict
from adaptive_depth.errors import ExportError, SkipError


def tv_vit(layers: int) -> nn.Module:
    return VisionTransformer(32, 16, layers, 2, 24, 48, num_classes=10)


def timm_vit(depth: int) -> nn.Module:
    return TimmVit(img_size=32, embed_dim=24, depth=depth, num_heads=2, num_classes=10)


def timm_swin(*depths: int) -> nn.Module:
    size: dict[str, Any] = {"img_size": 64, "window_size": 2, "embed_dim": 8, "num_heads": (1, 1, 2, 2)}
    return timm.create_model("swin_tiny_patch4_window7_224", depths=depths, num_classes=10, **size)


def mobilenet(two: int, three: int) -> nn.Module:
    setting = [[1, 16, 1, 1], [6, 24, two, 2], [6, 32, three, 2], [6, 64, 1, 1]]
    return MobileNetV2(10, width_mult=0.25, inverted_residual_setting=setting)


def tv_swin(*depths: int) -> nn.Module:
    return SwinTransformer([4, 4], 8, list(depths), [1, 1, 2, 2], [4, 4], num_classes=10)


# The network, a depth, and the plain network of that depth: how many blocks are left is counted by hand.
CASES: list[tuple[Callable[[], nn.Module], str, Callable[[], nn.Module], int]] = [
    (lambda: ResNet(BasicBlock, [2, 2, 2, 2]), "TTTT", lambda: ResNet(BasicBlock, [1, 1, 1, 1]), 32),
    (lambda: ResNet(Bottleneck, [3, 2, 4, 2]), "TFTF", lambda: ResNet(Bottleneck, [2, 2, 2, 2]), 32),
    (lambda: mobilenet(2, 3), "TT", lambda: mobilenet(1, 2), 32),
    (lambda: mobilenet(2, 3), "TF", lambda: mobilenet(1, 3), 32),
    (lambda: timm_vit(12), "TTTT", lambda: timm_vit(8), 32),
    (lambda: timm_vit(12), "TFTF", lambda: timm_vit(10), 32),
    (lambda: tv_vit(12), "FTFT", lambda: tv_vit(10), 32),
    (lambda: timm_swin(2, 2, 4, 2), "TFTF", lambda: timm_swin(1, 2, 2, 2), 64),
    (lambda: tv_swin(2, 2, 2, 2), "FTTF", lambda: tv_swin(2, 1, 1, 2), 64),
]


@pytest.mark.parametrize(
    ("build", "skip", "build_plain", "side"), CASES, ids=[f"{i}-{c[1]}" for i, c in enumerate(CASES)]
)
def test_a_plain_class_of_that_depth_loads_the_weights(build, skip: str, build_plain, side: int, differing) -> None:
    network = differing(ad.adapt(build()))
    plain = build_plain().eval()
    weights = plain_state_dict(network, skip)
    plain.load_state_dict(weights)  # strictly
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), network(x, skip=skip), rtol=1e-5, atol=1e-5)
    own = {tensor.data_ptr() for tensor in network.state_dict().values()}
    assert not own & {tensor.data_ptr() for tensor in weights.values()}


def test_statistics_per_context_go_along(two_stages) -> None:
    network = two_stages(calibrated=True)
    weights = plain_state_dict(network, "TF")
    wanted = network.statistics.get_submodule("TF.two.0.norm").running_mean
    assert torch.equal(weights["two.0.norm.running_mean"], wanted)
    assert not torch.equal(wanted, network.model.two[0].norm.running_mean)
    assert not [name for name in weights if name.startswith("one.1")]


def test_blocks_move_up_among_their_like_only() -> None:
    class Named(nn.Module):
        """Blocks and other numbered parts, side by side."""

        def __init__(self) -> None:
            super().__init__()
            for number in range(4):
                setattr(self, f"block{number}", Add())
            self.norm0, self.norm1 = nn.LayerNorm(4), nn.LayerNorm(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm0(self.block1(self.block0(x)))
            return self.norm1(self.block3(self.block2(x)))

    class Add(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.mix(x)

    stages = [ad.Stage((f"block{i}",), (f"block{i + 1}",)) for i in (0, 2)]
    network = ad.adapt(Named(), stages, example=torch.randn(2, 4))
    weights = plain_state_dict(network, "TF")
    assert sorted({name.split(".")[0] for name in weights}) == ["block0", "block1", "block2", "norm0", "norm1"]
    assert torch.equal(weights["block1.mix.weight"], network.model.block2.mix.weight)
    assert torch.equal(weights["block2.mix.weight"], network.model.block3.mix.weight)


def test_a_skip_that_does_not_fit(two_stages) -> None:
    with pytest.raises(SkipError, match="skip 'TTT' is for 3 stages, but the network has 2"):
        plain_state_dict(two_stages(), "TTT")


def test_a_folder_of_programs(two_stages, unchanged, tmp_path: Path) -> None:
    network = two_stages(calibrated=True)
    folder = tmp_path / "programs"
    with unchanged(network):
        artifact = export_network(network, folder, torch.randn(1, 3, 8, 8), to="torch", skips=["FF", "TF"])
    assert str(artifact) == "torch of 2 depths, float32, norms folded, input any x 3 x 8 x 8"
    assert sorted(file.name for file in folder.iterdir()) == [
        "FF.pt2", "FF.safetensors", "TF.pt2", "TF.safetensors", "artifact.json"
    ]  # fmt: skip
    assert Artifact.from_json(json.loads((folder / "artifact.json").read_text())) == artifact
    x = torch.randn(3, 3, 8, 8)
    for skip in artifact.skips:
        with torch.no_grad():
            wanted = network(x, skip=skip)
            found = torch.export.load(folder / f"{skip}.pt2").module()(x)
        torch.testing.assert_close(found, wanted)
        weights = load_file(folder / f"{skip}.safetensors")
        assert weights.keys() == plain_state_dict(network, skip).keys()
    session = programs.open_written(folder)
    assert (session.skips, session(x, "TF").shape) == (("FF", "TF"), (3, 4))


def test_the_form_of_a_program(two_stages, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="form='shared' for torch: expected 'folded', because each depth"):
        programs.write(two_stages(), tmp_path / "new", torch.zeros(1), Artifact("torch", (), (), ()), form="shared")


def test_a_compiler_that_does_not_work(two_stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler\n found")

    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", fails)
    message = (
        r"AOTInductor cannot compile TT\.aoti\.pt2 here: no C\+\+ compiler found; install a C\+\+ compiler, or leave "
        r"out the packages \(compiled=False\)"
    )
    with pytest.raises(ExportError, match=message):
        export_network(two_stages(), tmp_path / "new", torch.zeros(1, 3, 8, 8), to="torch", skips="TT", compiled=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.filterwarnings("ignore")  # of compilers
def test_packages_of_machine_code(two_stages, tmp_path: Path) -> None:
    network = two_stages()
    folder = tmp_path / "programs"
    export_network(network, folder, torch.zeros(1, 3, 8, 8), to="torch", skips="TT", compiled=True)
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        found = torch._inductor.aoti_load_package(str(folder / "TT.aoti.pt2"))(x)
        torch.testing.assert_close(found, network(x, skip="TT"), rtol=1e-4, atol=1e-5)
