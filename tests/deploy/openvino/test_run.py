"""`deploy/openvino/run.py`: sessions over an OpenVINO model of every depth."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import adaptive_depth as ad
from adaptive_depth.deploy.artifact import Artifact
from adaptive_depth.deploy.inputs import image_of
from adaptive_depth.deploy.openvino.run import open_backend
from adaptive_depth.deploy.openvino.write import write
from adaptive_depth.deploy.session import open_session
from adaptive_depth.errors import ArtifactError, DataError, SkipError


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.norm(self.conv(x)))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[ad.AdaptiveNetwork, Path]:
    torch.manual_seed(0)
    stages = [nn.Sequential(Block(), Block()) for _ in range(2)]
    model = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    plan = [ad.Stage((f"{s}.0",), (f"{s}.1",)) for s in (0, 1)]
    network = ad.adapt(model, plan, example=torch.randn(2, 3, 8, 8)).eval()
    for tensor in network.skip_norms.parameters():
        tensor.data += torch.rand(tensor.shape)
    path = tmp_path_factory.mktemp("openvino") / "model.xml"
    artifact = Artifact("openvino", network.stages.to_json(), ("FF", "FT", "TT"), (None, 3, 8, 8), labels=("a", "b"))
    write(network, path, image_of(torch.zeros(1, 3, 8, 8)), artifact, form="shared")
    return network, path


def copied(path: Path, folder: Path, xml: bytes | None = None, weights: bytes | None = None) -> Path:
    (folder / "model.xml").write_bytes(path.read_bytes() if xml is None else xml)
    (folder / "model.bin").write_bytes(path.with_suffix(".bin").read_bytes() if weights is None else weights)
    return folder / "model.xml"


def test_a_session_computes_every_depth(exported: tuple[ad.AdaptiveNetwork, Path]) -> None:
    network, path = exported
    session = open_session(path, threads=1)
    assert (session.backend, session.skips, session.artifact.labels) == ("openvino", ("FF", "FT", "TT"), ("a", "b"))
    for batch in (1, 3):
        x = torch.randn(batch, 3, 8, 8)
        for skip in session.skips:
            with torch.no_grad():
                expected = network(x, skip=skip).numpy()
            np.testing.assert_allclose(session(x, skip), expected, atol=1e-5)


def test_an_output_stays_when_the_next_is_computed(exported: tuple[ad.AdaptiveNetwork, Path]) -> None:
    session = open_session(exported[1])
    first = session(np.ones((1, 3, 8, 8)), "FF")
    kept = first.copy()
    session(np.zeros((1, 3, 8, 8)), "FF")
    np.testing.assert_array_equal(first, kept)


def test_threads_may_share_a_session(exported: tuple[ad.AdaptiveNetwork, Path]) -> None:
    network, path = exported
    session = open_session(path)
    calls = [(torch.randn(2, 3, 8, 8), session.skips[i % 3]) for i in range(200)]
    with torch.no_grad():
        expected = [network(x, skip=skip).numpy() for x, skip in calls]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda call: session(*call), calls))
    np.testing.assert_allclose(np.stack(got), np.stack(expected), atol=1e-5)


def test_threads_are_those_asked_for(exported: tuple[ad.AdaptiveNetwork, Path]) -> None:
    backend = open_backend(exported[1], threads=1, backend="openvino")
    assert backend._compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert backend._compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"


def test_depths_and_shapes_that_do_not_fit(exported: tuple[ad.AdaptiveNetwork, Path]) -> None:
    session = open_session(exported[1])
    with pytest.raises(SkipError, match="skip 'TF' is not in this file: expected one of FF, FT, TT"):
        session(np.zeros((1, 3, 8, 8)), "TF")
    with pytest.raises(DataError, match=r"shape \[1, 3, 9, 8\]: expected \[batch, 3, 8, 8\]"):
        session(np.zeros((1, 3, 9, 8)))


@pytest.mark.parametrize("part", [0.5, 0.0, 0.99])
def test_a_truncated_graph(exported: tuple[ad.AdaptiveNetwork, Path], tmp_path: Path, part: float) -> None:
    whole = exported[1].read_bytes()
    damaged = copied(exported[1], tmp_path, xml=whole[: int(part * len(whole))])
    with pytest.raises(ArtifactError, match=r"model\.xml cannot be read .*damaged, or no OpenVINO model"):
        open_session(damaged)


def test_truncated_weights(exported: tuple[ad.AdaptiveNetwork, Path], tmp_path: Path) -> None:
    weights = exported[1].with_suffix(".bin").read_bytes()
    with pytest.raises(ArtifactError, match=r"model\.xml cannot be read .* or model\.bin is damaged"):
        open_session(copied(exported[1], tmp_path, weights=weights[:-8]))


def test_weights_of_another_export(exported: tuple[ad.AdaptiveNetwork, Path], tmp_path: Path) -> None:
    weights = bytearray(exported[1].with_suffix(".bin").read_bytes())
    weights[len(weights) // 2] ^= 1
    with pytest.raises(ArtifactError, match=r"model\.bin was not written with model\.xml"):
        open_session(copied(exported[1], tmp_path, weights=bytes(weights)))


def test_missing_weights(exported: tuple[ad.AdaptiveNetwork, Path], tmp_path: Path) -> None:
    alone = copied(exported[1], tmp_path)
    alone.with_suffix(".bin").unlink()
    with pytest.raises(ArtifactError, match=r"needs its weights, model\.bin, beside it: copy both files"):
        open_session(alone)


def test_a_foreign_model(exported: tuple[ad.AdaptiveNetwork, Path], tmp_path: Path) -> None:
    foreign = copied(exported[1], tmp_path, xml=exported[1].read_bytes().replace(b"<adaptive_depth ", b"<other "))
    with pytest.raises(
        ArtifactError, match=r"model\.xml was not written by this library: expected a file that adaptive-depth"
    ):
        open_session(foreign)


def test_a_network_is_no_file(exported: tuple[ad.AdaptiveNetwork, Path]) -> None:
    with pytest.raises(ArtifactError, match=r"openvino received a AdaptiveNetwork: expected the path of an \.xml file"):
        open_session(exported[0], backend="openvino")
