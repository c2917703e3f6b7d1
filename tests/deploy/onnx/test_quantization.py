"""`deploy/onnx/quantization.py`: every depth in int8, by ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import adaptive_depth as ad
from adaptive_depth.deploy.exporting import quantize_network
from adaptive_depth.deploy.session import open_session
from adaptive_depth.deploy.sidecar import read_sidecar
from adaptive_depth.errors import DataError, ExportError
from adaptive_depth.tasks import Classification

SKIPS = ("FFFF", "TTFF", "TTTT")


def images(number: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).standard_normal((number, 3, 16, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def network(small_resnet) -> ad.AdaptiveNetwork:
    return small_resnet(4, 32, 32, 48, 64)


@pytest.fixture(scope="module")
def quantized(network: ad.AdaptiveNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("int8") / "depths"
    x = torch.from_numpy(images(24))
    labels = network(x).argmax(1)  # so that the super-net in float is right of all
    quantize_network(
        network, place, images(40), to="onnx-files", skips=SKIPS, labelled=[(x, labels)], task=Classification()
    )
    return place


def test_every_depth_is_near_its_own_float_output(network: ad.AdaptiveNetwork, quantized: Path) -> None:
    session, x = open_session(quantized), images(32)
    for skip in SKIPS:
        with torch.no_grad():
            wanted = network(torch.from_numpy(x), skip=skip).numpy()
        found = session(x, skip)
        assert np.abs(found - wanted).max() > 0  # int8, not float
        assert np.abs(found - wanted).mean() < 0.1 * wanted.std(), skip


def test_what_it_says_of_itself(quantized: Path) -> None:
    artifact = read_sidecar(quantized)
    assert (artifact.kind, artifact.precision, artifact.skips) == ("onnx", "int8", SKIPS)
    assert artifact.accuracy is not None
    assert artifact.float_accuracy is not None
    assert artifact.accuracy.keys() == artifact.float_accuracy.keys() == {*SKIPS}
    assert artifact.float_accuracy["FFFF"] == 100
    assert artifact.accuracy["FFFF"] >= 75


def test_weights_are_int8_and_stand_once(network: ad.AdaptiveNetwork, quantized: Path) -> None:
    """Of the skippable blocks: mandatory ones have other norms folded into them at other depths."""
    model = onnx.load(quantized / "FFFF.onnx")
    large = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
    kinds = [onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in large]
    assert kinds.count("FLOAT") == 1  # the first convolution
    assert kinds.count("INT8") == len(kinds) - 1
    in_float = sum(4 * parameter.numel() for parameter in network.model.parameters())
    assert (quantized / "weights.bin").stat().st_size < 0.7 * in_float  # three depths, in less than one in float


def test_a_free_batch(quantized: Path) -> None:
    session = open_session(quantized)
    x = images(3)
    together = session(x, "TTFF")
    assert together.shape == (3, 4)
    np.testing.assert_allclose(together[1:2], session(x[1:2], "TTFF"), atol=1e-4)


class Triples(Classification):
    """Its own way to take a batch apart is wrong."""

    def inputs(self, batch: Any) -> Any:
        return (*batch, None)


def test_a_task_whose_inputs_are_no_pair_says_so(network: ad.AdaptiveNetwork, tmp_path: Path) -> None:
    batches = [(torch.from_numpy(images(2)), torch.tensor([0, 1]))]
    with pytest.raises(DataError, match=r"inputs\(\) of the task Triples returned a tuple of 3: expected a pair"):
        quantize_network(
            network, tmp_path / "p", images(2), to="onnx-files", skips="TTTT", labelled=batches, task=Triples()
        )


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"images": images(2) * np.nan, "path": "p"}, DataError, "non-finite"),
        (
            {"to": "executorch", "path": "m.pte"},
            ExportError,
            "int8 is not available for executorch: expected onnx-files or",
        ),
        ({"to": None, "path": "m.onnx"}, ExportError, "int8 is not available for onnx: expected onnx-files or"),
        ({"labelled": [], "path": "p"}, DataError, "no labelled images"),
    ],
)
def test_what_is_refused(given: dict[str, Any], error: type, message: str, network: Any, tmp_path: Path) -> None:
    told = {"images": images(2), "to": "onnx-files", "skips": "TTTT", **given}
    path, pictures = tmp_path / told.pop("path"), told.pop("images")
    with pytest.raises(error, match=message):
        quantize_network(network, path, pictures, **told)
    assert not list(tmp_path.iterdir())
