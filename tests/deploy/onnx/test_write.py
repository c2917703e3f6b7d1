"""`deploy/onnx/write.py`: one ONNX model of every depth, as any program that knows ONNX Runtime alone would load it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from torch import Tensor, nn

import adaptive_depth as ad
from adaptive_depth.deploy.artifact import Artifact
from adaptive_depth.deploy.inputs import image_of
from adaptive_depth.deploy.onnx import write as exporter
from adaptive_depth.errors import ExportError


def artifact_of(network: ad.AdaptiveNetwork, skips: tuple[str, ...], side: int, form: str) -> Artifact:
    return Artifact("onnx", tuple(network.stages.to_json()), skips, (None, 3, side, side), form=form)


def written(
    network: ad.AdaptiveNetwork, path: Path, side: int, form: str = "shared", skips: tuple[str, ...] | None = None
) -> Path:
    artifact = artifact_of(network, skips or network.skips, side, form)
    exporter.write(network, path, image_of(torch.zeros(1, 3, side, side)), artifact, form=form)
    return path


def farthest(network: ad.AdaptiveNetwork, path: Path, x: Tensor, skips: tuple[str, ...]) -> float:
    """The largest difference to the network at any depth, in standard deviations of its logits."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    differences = []
    for skip in skips:
        with torch.no_grad():
            wanted = network(x, skip=skip).numpy()
        (found,) = session.run(["logits"], {"image": x.numpy(), "skip": np.array([flag == "T" for flag in skip])})
        assert found.shape == wanted.shape
        differences.append(np.abs(found - wanted).max() / wanted.std())
    return max(differences)


def branches(graph: onnx.GraphProto) -> int:
    return sum(node.op_type == "If" for node in graph.node)


@pytest.fixture(scope="module")
def bottleneck(differing: Callable[..., ad.AdaptiveNetwork]) -> ad.AdaptiveNetwork:
    """Four stages of 1 + 1 bottleneck blocks, whose first convolution does not depend on the depth."""
    torch.manual_seed(0)
    return differing(ad.adapt(timm.create_model("resnet26", num_classes=10, channels=(4, 4, 8, 8))))


@pytest.mark.parametrize("form", ["shared", "folded"])
def test_a_bottleneck_network_is_one_branch_a_stage(bottleneck, form: str, tmp_path: Path) -> None:
    path = written(bottleneck, tmp_path / "model.onnx", 32, form)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert branches(model.graph) == 4
    named = [each.type.tensor_type.shape.dim[0].dim_param for each in (model.graph.input[0], *model.graph.output)]
    assert named == ["batch", "batch"]
    assert "Where" not in {node.op_type for node in model.graph.node}
    if form == "folded":  # each side has a first convolution of its own, with the norm that follows it
        assert [node.op_type for node in model.graph.node].count("Conv") == 1  # the stem's
    for batch in (1, 3):
        assert farthest(bottleneck, path, torch.randn(batch, 3, 32, 32), bottleneck.skips) < 1e-4


@pytest.mark.parametrize("form", ["shared", "folded"])
def test_a_calibrated_network(two_stages, form: str, tmp_path: Path) -> None:
    network = two_stages(calibrated=True)
    path = written(network, tmp_path / "model.onnx", 8, form)
    assert branches(onnx.load(path).graph) == 2
    assert farthest(network, path, torch.randn(2, 3, 8, 8), network.skips) < 1e-4


def test_a_vision_transformer_with_some_depths(differing, tmp_path: Path) -> None:
    size = {"img_size": 32, "embed_dim": 24, "depth": 4, "num_heads": 2, "num_classes": 10}
    network = differing(ad.adapt(timm.create_model("vit_tiny_patch16_224", **size)))
    skips = (network.skips[0], network.skips[-1])
    path = written(network, tmp_path / "model.onnx", 32, "folded", skips)
    assert farthest(network, path, torch.randn(2, 3, 32, 32), skips) < 1e-4


@pytest.fixture(scope="module")
def wide(two_stages, tmp_path_factory: pytest.TempPathFactory) -> tuple[ad.AdaptiveNetwork, Path]:
    """A network whose weights are most of its file: its skip-aware norms are less than a hundredth of them."""
    torch.manual_seed(0)

    def convolution(width_in: int, width: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(width_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(convolution(96, 96), convolution(96, 96))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.inner(x)

    stages = [nn.Sequential(Wide(), Wide()) for _ in range(2)]
    model = nn.Sequential(nn.Conv2d(3, 96, 1), *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 5))
    plan = [ad.Stage((f"{stage}.0",), (f"{stage}.1",)) for stage in (1, 2)]
    network = ad.adapt(model, plan, example=torch.randn(2, 3, 8, 8)).eval()
    for tensor in network.skip_norms.parameters():
        tensor.data += torch.rand(tensor.shape)
    return network, written(network, tmp_path_factory.mktemp("onnx") / "wide.onnx", 8)


def test_weights_are_stored_once(wide: tuple[ad.AdaptiveNetwork, Path], tmp_path: Path) -> None:
    network, path = wide
    alone = torch.onnx.export(
        network.extract("FF"), (torch.zeros(2, 3, 8, 8),), dynamo=True, verbose=False, dynamic_shapes=({0: "batch"},)
    )
    assert alone is not None
    alone.save(tmp_path / "alone.onnx")
    assert path.stat().st_size <= 1.05 * (tmp_path / "alone.onnx").stat().st_size
    assert list(path.parent.iterdir()) == [path]  # nothing is stored beside it


def test_inputs_and_what_the_file_says_of_itself(wide: tuple[ad.AdaptiveNetwork, Path]) -> None:
    network, path = wide
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = [(value.name, value.type, value.shape[1:]) for value in session.get_inputs()]
    assert inputs == [("image", "tensor(float)", [3, 8, 8]), ("skip", "tensor(bool)", [])]
    assert session.get_inputs()[1].shape == [2]
    assert [value.name for value in session.get_outputs()] == ["logits"]
    described = json.loads(session.get_modelmeta().custom_metadata_map["adaptive_depth"])
    assert Artifact.from_json(described) == artifact_of(network, network.skips, 8, "shared")


def test_a_network_that_ends_in_a_choice_keeps_its_outputs_name(tmp_path: Path) -> None:
    class Add(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.mix(x)

    model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4), Add(), Add())
    network = ad.adapt(model, [ad.Stage(("3",), ("4",))], example=torch.randn(2, 3, 8, 8)).eval()
    path = written(network, tmp_path / "model.onnx", 8)
    assert farthest(network, path, torch.randn(3, 3, 8, 8), network.skips) < 1e-4  # which asks for `logits`


class Bessel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.special.bessel_j0(self.inner(x))


class Looking(nn.Module):
    """Looks at its numbers to decide what it does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x) if x.sum() > 0 else x - self.inner(x)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (
            Bessel,
            r"^ONNX cannot take the operator aten::special_bessel_j0 of one\.1 and aten::special_bessel_j0 of two\.1: ",
        ),
        (Looking, r"^torch\.export cannot trace one\.1: .*data-dependent"),
    ],
)
def test_what_onnx_cannot_take_is_named_with_its_block(block, message: str, two_stages, tmp_path: Path) -> None:
    for form in ("shared", "folded"):
        with pytest.raises(ExportError, match=message):
            written(two_stages(block), tmp_path / "model.onnx", 8, form)
    assert not list(tmp_path.iterdir())


def test_a_model_that_no_onnx_file_holds(two_stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "LARGEST", 1000)
    with pytest.raises(ExportError, match=r"the model has 0\.0 GB, but an ONNX file at most 2: export to openvino"):
        written(two_stages(), tmp_path / "model.onnx", 8)
    assert not list(tmp_path.iterdir())
