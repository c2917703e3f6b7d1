"""`deploy/openvino/write.py` and `deploy/openvino/branches.py`: one OpenVINO model that computes every depth."""

import json
import logging
from functools import cache
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import adaptive_depth as ad
from adaptive_depth.deploy.artifact import Artifact
from adaptive_depth.deploy.inputs import image_of
from adaptive_depth.deploy.openvino.write import write
from adaptive_depth.errors import ExportError
from adaptive_depth.files import checksum


def differing(network: ad.AdaptiveNetwork, *, calibrated: bool) -> ad.AdaptiveNetwork:
    """Every norm of every context with numbers of its own, so that one taken for another is seen."""
    network.eval()
    network.reset_statistics(per_context=calibrated)
    generator = torch.Generator().manual_seed(1)
    tensors = [*network.skip_norms.parameters(), *network.skip_norms.buffers(), *network.statistics.buffers()]
    for tensor in tensors:
        if tensor.is_floating_point():
            tensor.data += 0.2 * torch.rand(tensor.shape, generator=generator)
    return network


def small(calibrated: bool = True) -> ad.AdaptiveNetwork:
    torch.manual_seed(0)
    model = ad.create_model("resnet18", num_classes=10, channels=(8, 16, 24, 32))
    return differing(ad.adapt(model), calibrated=calibrated)


def artifact_of(network: ad.AdaptiveNetwork, skips: tuple[str, ...], *sides: int | None) -> Artifact:
    return Artifact("openvino", network.stages.to_json(), skips, (None, *sides))


@cache
def compiled_from(path: Path) -> openvino.CompiledModel:
    """As any program that knows OpenVINO alone would load the file."""
    return openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def outputs(path: Path, x: Tensor, skip: str) -> NDArray[np.float32]:
    flags = np.array([letter == "T" for letter in skip])
    return compiled_from(path)({"image": x.numpy(), "skip": flags})["logits"]


def farthest(network: ad.AdaptiveNetwork, path: Path, x: Tensor, skips: tuple[str, ...]) -> float:
    """The largest difference to the network at any depth, in standard deviations of its logits."""
    differences = []
    for skip in skips:
        with torch.no_grad():
            expected = network(x, skip=skip).numpy()
        got = outputs(path, x, skip)
        assert got.shape == expected.shape
        differences.append(float(np.abs(got - expected).max() / expected.std()))
    return max(differences)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[ad.AdaptiveNetwork, Path]:
    network, path = small(), tmp_path_factory.mktemp("openvino") / "model.xml"
    write(
        network,
        path,
        image_of(torch.randn(1, 3, 64, 64)),
        artifact_of(network, network.skips, 3, 64, 64),
        form="shared",
    )
    return network, path


def test_every_depth_computes_what_the_network_computes_for_any_batch(
    exported: tuple[ad.AdaptiveNetwork, Path],
) -> None:
    network, path = exported
    assert farthest(network, path, torch.randn(3, 3, 64, 64), network.skips) < 1e-4
    assert farthest(network, path, torch.randn(1, 3, 64, 64), ("TFTF",)) < 1e-4


def test_the_depths_differ_so_that_the_comparison_means_something(exported: tuple[ad.AdaptiveNetwork, Path]) -> None:
    _, path = exported
    x = torch.randn(2, 3, 64, 64)
    found = [outputs(path, x, skip) for skip in ("FFFF", "TFFF", "FFFT", "TTTT")]
    assert all(np.abs(a - b).max() > 1e-2 for i, a in enumerate(found) for b in found[:i])


def test_weights_stand_in_the_file_once(exported: tuple[ad.AdaptiveNetwork, Path]) -> None:
    network, path = exported
    weights = sum(4 * parameter.numel() for parameter in network.model.parameters())
    statistics = sum(4 * tensor.numel() for tensor in network.statistics.buffers() if tensor.is_floating_point())
    size = path.with_suffix(".bin").stat().st_size
    assert weights < size < weights + 3 * statistics


def test_memory_holds_the_weights_once(exported: tuple[ad.AdaptiveNetwork, Path]) -> None:
    """OpenVINO folds a norm into the weights before it, a copy for each branch, unless an identity stands between."""
    network, path = exported
    model = openvino.Core().read_model(path)
    behind = []
    while (choice := next((op for op in model.get_ops() if op.get_type_name() == "If"), None)) is not None:
        model = choice.get_function(1)
        for convolution in (op for op in model.get_ordered_ops() if op.get_type_name() == "Convolution"):
            (target,) = convolution.output(0).get_target_inputs()
            behind.append(target.get_node().get_type_name())
    # Folded: the norms of the stem and of the block that the first stage skips, which one context alone has.
    convolutions = sum(isinstance(module, nn.Conv2d) for module in network.model.modules())
    assert (len(behind), behind.count("PRelu")) == (convolutions, convolutions - 3)


def test_the_file_describes_itself(exported: tuple[ad.AdaptiveNetwork, Path]) -> None:
    network, path = exported
    model = openvino.Core().read_model(path)
    described = json.loads(model.get_rt_info(["adaptive_depth"]).astype(str))
    assert described == json.loads(json.dumps(artifact_of(network, network.skips, 3, 64, 64).to_json()))
    assert model.get_rt_info(["adaptive_depth_weights"]).astype(str) == checksum(path.with_suffix(".bin"))
    assert [port.get_any_name() for port in model.inputs] == ["image", "skip"]
    assert model.outputs[0].get_any_name() == "logits"


def test_skipped_blocks_do_not_run(exported: tuple[ad.AdaptiveNetwork, Path]) -> None:
    """Counted in the file: the branch of TTTT holds the convolutions of the base-net and no others."""
    network, path = exported
    for letter, branch in (("T", "then"), ("F", "else")):
        model, found = openvino.Core().read_model(path), 0
        while True:
            operations = model.get_ops()
            found += sum(op.get_type_name() == "Convolution" for op in operations)
            choice = next((op for op in operations if op.get_type_name() == "If"), None)
            if choice is None:
                break
            model = choice.get_function(0 if branch == "then" else 1)
        alone = network.extract(letter * 4)
        assert found == sum(isinstance(module, nn.Conv2d) for module in alone.modules())


def test_some_depths_only(tmp_path: Path) -> None:
    network, skips = small(calibrated=False), ("FFFF", "FFTT", "TTTT")
    write(
        network,
        tmp_path / "m.xml",
        image_of(torch.randn(2, 3, 64, 64)),
        artifact_of(network, skips, 3, 64, 64),
        form="shared",
    )
    assert farthest(network, tmp_path / "m.xml", torch.randn(2, 3, 64, 64), skips) < 1e-4
    assert (tmp_path / "m.xml").read_text().count('type="If"') == 2  # after nothing, and after FF


def test_one_depth_and_images_of_any_size(tmp_path: Path) -> None:
    network = small()
    artifact = artifact_of(network, ("TFTF",), 3, None, None)
    write(network, tmp_path / "m.xml", image_of(torch.randn(2, 3, 64, 64)), artifact, form="shared")
    assert farthest(network, tmp_path / "m.xml", torch.randn(2, 3, 96, 80), ("TFTF",)) < 1e-4


def test_a_transformer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ad.create_model(
        "vit_tiny_patch16_224", num_classes=10, img_size=32, patch_size=8, embed_dim=48, depth=12, num_heads=3
    )
    network = differing(ad.adapt(model), calibrated=False)
    skips = ("FFFF", "FTFT", "TTTT")
    write(
        network,
        tmp_path / "m.xml",
        image_of(torch.randn(2, 3, 32, 32)),
        artifact_of(network, skips, 3, 32, 32),
        form="shared",
    )
    assert farthest(network, tmp_path / "m.xml", torch.randn(3, 3, 32, 32), skips) < 1e-4


def test_the_network_is_left_as_it_was(tmp_path: Path) -> None:
    network = small().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    artifact = artifact_of(network, ("TTTT",), 3, 32, 32)
    write(network, tmp_path / "m.xml", image_of(torch.randn(2, 3, 32, 32)), artifact, form="shared")
    assert all(part.training for part in network.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_there_is_one_form(tmp_path: Path) -> None:
    network = small()
    with pytest.raises(ExportError, match="form='folded': expected 'shared' for OpenVINO"):
        write(
            network, tmp_path / "m.xml", torch.zeros(1), artifact_of(network, network.skips, 3, 64, 64), form="folded"
        )


class Refused(nn.Module):
    """A block with an operator that OpenVINO does not convert."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.special.i1(self.conv(x))


def refused_network(block: type[nn.Module]) -> ad.AdaptiveNetwork:
    layers = [nn.Sequential(block(), block()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)]
    stages = [ad.Stage(("0.0",), ("0.1",))]
    return ad.adapt(nn.Sequential(*layers), stages, example=torch.randn(2, 3, 8, 8)).eval()


def test_an_unknown_operator_is_named_with_its_block_and_nothing_is_written(tmp_path: Path) -> None:
    network = refused_network(Refused)
    artifact = artifact_of(network, network.skips, 3, 8, 8)
    named = r"OpenVINO cannot take the operator aten::special_i1 of 0\.0 and aten::special_i1 of 0\.1: .*special_i1"
    before = logging.getLogger().level, [*logging.getLogger().handlers]
    with pytest.raises(ExportError, match=named):
        write(network, tmp_path / "m.xml", image_of(torch.zeros(1, 3, 8, 8)), artifact, form="shared")
    assert not list(tmp_path.iterdir())
    assert (logging.getLogger().level, logging.getLogger().handlers) == before  # of the converter's, nothing stays


class Untraceable(nn.Module):
    """A block that looks at its numbers to decide what it does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.conv(x) if float(x.sum()) > 1e9 else 2 * self.conv(x))


def test_what_torch_cannot_follow_is_an_export_error(tmp_path: Path) -> None:
    network = refused_network(Untraceable)
    artifact = artifact_of(network, network.skips, 3, 8, 8)
    with pytest.raises(ExportError, match=r"torch\.export cannot trace 0\.0: "):
        write(network, tmp_path / "m.xml", image_of(torch.zeros(1, 3, 8, 8)), artifact, form="shared")
    assert not list(tmp_path.iterdir())


def test_where_writing_fails_the_former_files_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = small()
    (tmp_path / "m.xml").write_text("former")
    (tmp_path / "m.bin").write_text("weights")

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(openvino, "save_model", full)
    artifact = artifact_of(network, ("TTTT",), 3, 32, 32)
    with pytest.raises(OSError, match="no space left"):
        write(network, tmp_path / "m.xml", image_of(torch.zeros(1, 3, 32, 32)), artifact, form="shared")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"m.xml": "former", "m.bin": "weights"}
