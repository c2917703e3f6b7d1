"""`deploy/openvino/quantization.py`: every depth in int8, by NNCF."""

from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from torch import nn

import adaptive_depth as ad
from adaptive_depth.deploy.artifact import Artifact
from adaptive_depth.deploy.openvino.quantization import quantize
from adaptive_depth.deploy.openvino.run import open_backend
from adaptive_depth.deploy.session import open_session
from adaptive_depth.errors import DataError, ExportError


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.norm(self.conv(x)))


def small(width: int = 32) -> ad.AdaptiveNetwork:
    torch.manual_seed(0)
    stages = [nn.Sequential(Block(width), Block(width)) for _ in range(2)]
    model = nn.Sequential(nn.Conv2d(3, width, 1), *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))
    network = ad.adapt(model, [ad.Stage((f"{s}.0",), (f"{s}.1",)) for s in (1, 2)], example=torch.randn(2, 3, 8, 8))
    network.eval()
    network.reset_statistics(per_context=True)
    for tensor in (*network.skip_norms.parameters(), *network.statistics.buffers()):
        if tensor.is_floating_point():
            tensor.data += 0.5 * torch.rand(tensor.shape)
    return network


def described(network: ad.AdaptiveNetwork) -> Artifact:
    return Artifact("openvino", network.stages.to_json(), network.skips, (None, 3, 8, 8))


def images(number: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((number, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> tuple[ad.AdaptiveNetwork, Path, Artifact]:
    network, path = small(), tmp_path_factory.mktemp("int8") / "model.xml"
    labels = np.arange(20) % 4
    artifact = quantize(network, path, images(40), described(network), labelled=[(images(20), labels)])
    return network, path, artifact


def test_every_depth_is_near_its_own_float_output(quantized: tuple[ad.AdaptiveNetwork, Path, Artifact]) -> None:
    network, path, _ = quantized
    session, x = open_session(path), torch.from_numpy(images(64))
    with torch.no_grad():
        float_outputs = {skip: network(x, skip=skip).numpy() for skip in network.skips}
    for skip in network.skips:
        got = session(x, skip)
        errors = {other: np.abs(got - output).mean() for other, output in float_outputs.items()}
        assert min(errors, key=lambda other: errors[other]) == skip
        assert errors[skip] < 0.2 * float_outputs[skip].std()


def test_int8_weights_stand_in_the_file_once(quantized: tuple[ad.AdaptiveNetwork, Path, Artifact]) -> None:
    network, path, _ = quantized
    kernels = sum(module.weight.numel() for module in network.model.modules() if isinstance(module, nn.Conv2d))
    per_channel = 4 * 32 * 10 * 10  # scales, shifts and bias corrections of ten layers in branches: generous
    assert kernels < path.with_suffix(".bin").stat().st_size < kernels + per_channel


def test_convolutions_behind_the_first_compute_in_int8(quantized: tuple[ad.AdaptiveNetwork, Path, Artifact]) -> None:
    model = openvino.Core().read_model(quantized[1])
    found = []
    while (choice := next((op for op in model.get_ops() if op.get_type_name() == "If"), None)) is not None:
        model = choice.get_function(1)
        found += [op for op in model.get_ops() if op.get_type_name() == "Convolution"]
    read = [op.input_value(0).get_node().get_type_name() for op in found]
    assert sorted(read) == ["FakeQuantize"] * 4 + ["Parameter"]  # the first layer reads the image, in float


def test_accuracies_are_those_of_the_file(quantized: tuple[ad.AdaptiveNetwork, Path, Artifact]) -> None:
    network, path, artifact = quantized
    session, labels = open_session(path), np.arange(20) % 4
    assert session.artifact.precision == artifact.precision == "int8"
    expected = {skip: 100 * float((session(images(20), skip).argmax(1) == labels).mean()) for skip in network.skips}
    assert session.artifact.accuracy == artifact.accuracy == pytest.approx(expected)


def test_another_task_measures_int8_and_float_on_the_same_batches(tmp_path: Path) -> None:
    network, given = small(), images(30)
    numbers = np.random.default_rng(1).standard_normal((30, 4)).astype(np.float32)
    batches = [(given[:20], numbers[:20]), (torch.from_numpy(given[20:]), torch.from_numpy(numbers[20:]))]
    task = ad.tasks.Regression(unit="m")
    artifact = ad.quantize_network(network, tmp_path / "m.xml", given, labelled=batches, task=task)
    session = open_session(tmp_path / "m.xml")
    assert session.artifact == artifact
    assert str(artifact.quality) == "RMSE (m, lower is better)"
    for skip in network.skips:
        with torch.no_grad():
            outputs = {"int8": session(given, skip), "float": network(torch.from_numpy(given), skip=skip).numpy()}
        error = {name: float(np.sqrt(np.mean((output - numbers) ** 2))) for name, output in outputs.items()}
        assert artifact.accuracy is not None
        assert artifact.accuracy[skip] == pytest.approx(error["int8"], rel=1e-4)
        assert artifact.float_accuracy is not None
        assert artifact.float_accuracy[skip] == pytest.approx(error["float"], rel=1e-4)
        assert artifact.accuracy[skip] != artifact.float_accuracy[skip]


def test_a_metric_of_ones_own_and_several_labels(tmp_path: Path) -> None:
    network, given, truth = small(), images(20), np.arange(80).reshape(20, 4) % 3 == 0

    def missed(predictions: torch.Tensor, targets: torch.Tensor) -> float:
        return float((predictions - targets).abs().max())

    task = ad.tasks.MultiLabel().with_metric(missed, ad.tasks.Quality("missed", higher_is_better=False))
    labelled = [(given, truth.astype(np.float32))]
    artifact = ad.quantize_network(network, tmp_path / "m.xml", given, labelled=labelled, skips=["TT"], task=task)
    logits = open_session(tmp_path / "m.xml")(given, "TT")
    expected = np.abs(1 / (1 + np.exp(-logits)) - truth).max()
    assert artifact.accuracy == pytest.approx({"TT": expected}, rel=1e-4)
    assert artifact.quality.name == "missed"


def test_classification_named_gives_the_figures_that_it_gives_unnamed(
    quantized: tuple[ad.AdaptiveNetwork, Path, Artifact], tmp_path: Path
) -> None:
    network, _, artifact = quantized
    labelled = [(images(20), np.arange(20, dtype=np.uint8) % 4)]
    task = ad.tasks.Classification()
    named = quantize(network, tmp_path / "m.xml", images(40), described(network), labelled=labelled, task=task)
    assert named.accuracy == artifact.accuracy
    assert artifact.float_accuracy is None
    x, y = torch.from_numpy(images(20)), torch.arange(20) % 4
    assert named.float_accuracy == pytest.approx(ad.evaluate(network, [(x, y)]))


def test_labels_that_do_not_fit_the_task(tmp_path: Path) -> None:
    network, message = (
        small(),
        r"labels that do not fit: regression: the network returned \[10, 4\] for a target \[10\]",
    )
    labelled, task = [(images(10), np.zeros(10, np.float32))], ad.tasks.Regression()
    with pytest.raises(DataError, match=message):
        quantize(network, tmp_path / "m.xml", images(10), described(network), labelled=labelled, task=task)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("width", "threads"), [(24, 1), (32, 2)])
def test_partial_blocks_of_channels_are_computed_by_one_thread(tmp_path: Path, width: int, threads: int) -> None:
    """With several, OpenVINO computes some images of a batch wrong now and then (seen with ResNet-18s)."""
    network, path = small(width), tmp_path / "model.xml"
    quantize(network, path, images(40), described(network))
    backend = open_backend(path, threads=2, backend="openvino")
    assert backend._compiled.get_property("INFERENCE_NUM_THREADS") == threads


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((2, 3, 8, 9)), r"images of shape \[2, 3, 8, 9\]: expected \[samples, 3, 8, 8\]"),
        (np.zeros((0, 3, 8, 8)), r"images of shape \[0, 3, 8, 8\]: expected \[samples, 3, 8, 8\]"),
        (np.zeros((3, 8, 8)), r"images of shape \[3, 8, 8\]: expected \[samples, 3, 8, 8\]"),
        (np.full((2, 3, 8, 8), np.nan), "non-finite numbers"),
    ],
)
def test_images_that_do_not_fit(given: np.ndarray, message: str, tmp_path: Path) -> None:
    network = small()
    with pytest.raises(DataError, match=message):
        quantize(network, tmp_path / "m.xml", given, described(network))
    assert not list(tmp_path.iterdir())


def test_no_labelled_images(tmp_path: Path) -> None:
    network = small()
    artifact = Artifact("openvino", network.stages.to_json(), ("TT",), (None, 3, 8, 8))
    with pytest.raises(DataError, match="received no labelled images: expected batches of images and labels, or None"):
        quantize(network, tmp_path / "m.xml", images(10), artifact, labelled=[])
    assert not list(tmp_path.iterdir())


def test_what_nncf_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no statistics")

    monkeypatch.setattr("nncf.quantize", refuse)
    network = small()
    with pytest.raises(ExportError, match="NNCF cannot quantise the network: no statistics"):
        quantize(network, tmp_path / "m.xml", images(10), described(network))
    assert not list(tmp_path.iterdir())
