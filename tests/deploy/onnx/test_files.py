"""`deploy/onnx/files.py`: a plain model for each depth, over one file of weights."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copytree

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import adaptive_depth as ad
from adaptive_depth.deploy.exporting import export_network
from adaptive_depth.deploy.session import open_session
from adaptive_depth.deploy.sidecar import read_sidecar
from adaptive_depth.errors import ArtifactError, SkipError

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SKIPS = ("FFFF", "TTFF", "TTTT")


@pytest.fixture(scope="module")
def network(small_resnet) -> ad.AdaptiveNetwork:
    return small_resnet(5, 16, 32, 48, 64)


@pytest.fixture(scope="module")
def folder(network: ad.AdaptiveNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("files") / "depths"
    artifact = export_network(network, place, X[:1], to="onnx-files", skips=SKIPS)
    assert (artifact.kind, artifact.form, artifact.skips) == ("onnx", "folded", SKIPS)
    return place


def test_every_depth_any_batch_and_several_threads(network: ad.AdaptiveNetwork, folder: Path) -> None:
    session = open_session(folder, threads=1)
    assert (session.backend, session.artifact) == ("onnxruntime", read_sidecar(folder))
    work = [(x, skip) for x in (X, X[:1]) for skip in 2 * SKIPS]
    with torch.no_grad():
        wanted = [network(x, skip=skip).numpy() for x, skip in work]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda each: session(*each), work))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    with pytest.raises(SkipError, match="skip 'FTFF' is not in this file: expected one of FFFF, TTFF, TTTT"):
        session(X, "FTFF")


def test_no_depth_has_a_branch_and_weights_stand_once(network: ad.AdaptiveNetwork, folder: Path) -> None:
    assert sorted(file.name for file in folder.iterdir()) == [
        "FFFF.onnx", "TTFF.onnx", "TTTT.onnx", "artifact.json", "weights.bin"
    ]  # fmt: skip
    for skip in SKIPS:
        model = onnx.load(folder / f"{skip}.onnx", load_external_data=False)
        assert not [node for node in model.graph.node if node.op_type == "If"]
        assert [value.name for value in model.graph.input] == ["image"]
    # Convolutions of the super-net are those of all depths; each tensor begins at a page.
    parameters = sum(4 * p.numel() for p in network.model.parameters())
    large = [tensor for tensor in network.model.parameters() if 4 * tensor.numel() >= 1024]
    assert parameters * 0.95 < (folder / "weights.bin").stat().st_size < parameters + 4096 * (len(large) + 1)


def test_stock_onnxruntime_reads_a_depth(network: ad.AdaptiveNetwork, folder: Path) -> None:
    (found,) = onnxruntime.InferenceSession(folder / "TTFF.onnx").run(None, {"image": X.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, network(X, skip="TTFF").numpy(), rtol=1e-4, atol=1e-5)


def test_a_folder_that_is_damaged(folder: Path, tmp_path: Path) -> None:
    copy = copytree(folder, tmp_path / "copy")
    content = bytearray((copy / "weights.bin").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "weights.bin").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"weights\.bin does not match its description"):
        open_session(copy)
    (copy / "TTFF.onnx").unlink()
    (copy / "weights.bin").write_bytes((folder / "weights.bin").read_bytes())
    with pytest.raises(ArtifactError, match=r"TTFF\.onnx cannot be read .*copy all files of the export again"):
        open_session(copy)
    told = json.loads((copy / "artifact.json").read_text())
    (copy / "artifact.json").write_text(json.dumps({**told, "skips": ["X"]}))
    with pytest.raises(ArtifactError, match=r"artifact\.json has an invalid description"):
        open_session(copy)
