"""ExecuTorch's example in C++, compiled against the headers and libraries of its Python package, and run."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import adaptive_depth as ad
from adaptive_depth.preprocessing import Preprocessing

executorch = pytest.importorskip("executorch")
SOURCE = Path(__file__).parents[1] / "examples" / "executorch"
PACKAGE = Path(next(iter(executorch.__path__))) / "share" / "cmake"
X = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not shutil.which("cmake") or not (PACKAGE / "executorch-config.cmake").exists(),
        reason="needs cmake and an ExecuTorch whose Python package brings headers (1.5 or later, Linux or macOS)",
    ),
]


@pytest.fixture(scope="module")
def network(small_resnet) -> ad.AdaptiveNetwork:
    return small_resnet(3, 8, 8, 8, 8)


@pytest.fixture(scope="module")
def folder(network: ad.AdaptiveNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cpp_executorch")
    data = Preprocessing(16, 3, (0.5,) * 3, (0.5,) * 3, classes=("ant", "bee", "cat"))
    ad.export_network(network, folder / "model.pte", X, data=data, skips=("FFFF", "TFTF", "TTTT"))
    X.numpy().tofile(folder / "input.f32")
    return folder


@pytest.fixture(scope="module")
def depths(folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The compiled program: call it with its arguments."""
    build = folder / "build"
    for command in (
        ["cmake", "-S", SOURCE, "-B", build, f"-Dexecutorch_DIR={PACKAGE}"],
        ["cmake", "--build", build],
    ):
        subprocess.run(command, check=True, capture_output=True)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [build / "depths", *arguments]
        return subprocess.run(command, cwd=folder, env={**os.environ}, capture_output=True, text=True, check=False)

    return run


def test_every_depth_gives_what_the_network_gives(depths, network: ad.AdaptiveNetwork) -> None:
    lines = [line.split() for line in depths("model.pte", "input.f32").stdout.splitlines()]
    assert [line[0] for line in lines] == ["FFFF", "TFTF", "TTTT"]
    seen = []
    for skip, _, unit, *numbers in lines:
        with torch.no_grad():
            expected = network(X, skip=skip)[0].numpy()
        assert unit == "ms"
        np.testing.assert_allclose(np.array(numbers, np.float32), expected, atol=1e-4)
        seen.append(expected)
    assert np.abs(seen[0] - seen[1]).max() > 1e-3 < np.abs(seen[1] - seen[2]).max()  # the depths differ


def test_some_depths_and_what_the_file_says_of_itself(depths, folder: Path) -> None:
    assert [line[:4] for line in depths("model.pte", "input.f32", "TTTT", "FFFF").stdout.splitlines()] == [
        "TTTT",
        "FFFF",
    ]
    told = ad.open_session(folder / "model.pte").artifact
    assert f'"{told.labels[0]}"' in depths("model.pte", "--describe").stdout


def test_what_does_not_fit_is_one_line(depths, folder: Path) -> None:
    (folder / "short.f32").write_bytes(b"1234")
    (folder / "other.pte").write_bytes(b"no program" * 99)
    for arguments, message in [
        (["model.pte", "input.f32", "FFFT"], "skip FFFT is not in this file: expected one of FFFF, TFTF, TTTT"),
        (["model.pte", "short.f32"], "the input has 1 numbers: expected 768"),
        (["other.pte", "input.f32"], "other.pte cannot be loaded"),
        (["none.pte", "input.f32"], "none.pte cannot be read"),
        ([], "expected depths MODEL INPUT"),
    ]:
        done = depths(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert f"Error: {message}" in done.stderr.splitlines()[-1]
