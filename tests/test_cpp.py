"""The example in C++: compiled and run, where a compiler and the headers are at hand.

ONNXRUNTIME_INCLUDE names the folder with onnxruntime_cxx_api.h; the library is that of the Python package.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import adaptive_depth as ad
from adaptive_depth.preprocessing import Preprocessing

SOURCE = Path(__file__).parents[1] / "examples" / "cpp"
X = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def includes() -> Path | None:
    """The headers of ONNX Runtime, which its Python package does not have."""
    places = [os.environ.get("ONNXRUNTIME_INCLUDE", ""), "/usr/include/onnxruntime", "/usr/local/include/onnxruntime"]
    found = (Path(place) for place in places if place and (Path(place) / "onnxruntime_cxx_api.h").is_file())
    return next(found, None)


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        includes() is None or not shutil.which("cmake") or not Path("/usr/include/nlohmann/json.hpp").exists(),
        reason="needs cmake, nlohmann-json and ONNXRUNTIME_INCLUDE, the folder with onnxruntime_cxx_api.h",
    ),
]


@pytest.fixture(scope="module")
def network(small_resnet) -> ad.AdaptiveNetwork:
    return small_resnet(3, 8, 8, 8, 8)


@pytest.fixture(scope="module")
def folder(network: ad.AdaptiveNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cpp")
    rows = tuple(ad.Row(skip, 80 - 5 * skip.count("T"), 100 - 9 * skip.count("T"), 9) for skip in network.skips)
    data = Preprocessing(16, 3, (0.5,) * 3, (0.5,) * 3, classes=("ant", "bee", "cat"))
    ad.export_network(network, folder / "model.onnx", X, data=data, trade_offs=ad.TradeOffs(rows))
    X.numpy().tofile(folder / "input.f32")
    return folder


@pytest.fixture(scope="module")
def depths(folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The compiled program: call it with its arguments."""
    (library,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")
    (folder / "libonnxruntime.so.1").symlink_to(library)  # the name that programs look for
    given = [f"-DONNXRUNTIME_INCLUDE={includes()}", f"-DONNXRUNTIME_LIBRARY={folder / 'libonnxruntime.so.1'}"]
    for command in (["cmake", "-S", SOURCE, "-B", folder / "build", *given], ["cmake", "--build", folder / "build"]):
        subprocess.run(command, check=True, capture_output=True)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
        command = [folder / "build" / "depths", *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    return run


def test_every_depth_gives_what_the_network_gives(depths, network: ad.AdaptiveNetwork) -> None:
    lines = [line.split() for line in depths("model.onnx", "input.f32").stdout.splitlines()]
    assert [line[0] for line in lines] == list(network.skips)
    for skip, _, unit, label, *numbers in lines:
        with torch.no_grad():
            expected = network(X, skip=skip)[0].numpy()
        assert (unit, label) == ("ms", ("ant", "bee", "cat")[int(expected.argmax())])
        np.testing.assert_allclose(np.array(numbers, np.float32), expected, atol=1e-4)


def test_the_best_depth_that_holds_a_deadline(depths) -> None:
    assert depths("model.onnx", "input.f32", "--target-ms", "1e6").stdout.startswith("FFFF ")
    assert not depths("model.onnx", "input.f32", "--target-ms", "1e-6").stdout.startswith("FFFF ")


def test_what_does_not_fit_is_one_line(depths, folder: Path) -> None:
    (folder / "short.f32").write_bytes(b"1234")
    (folder / "other.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-1])
    shutil.copyfile(folder / "model.onnx.json", folder / "other.onnx.json")
    shutil.copyfile(folder / "model.onnx", folder / "same.onnx")
    told = json.loads((folder / "model.onnx.json").read_text())
    for change in ({"version": 99}, {"files": {"same.onnx": {"bytes": 3, "crc32": "0" * 8}}}):
        (folder / "same.onnx.json").write_text(json.dumps({**told, **change}))
        assert "does not describe same.onnx" in depths("same.onnx", "input.f32").stderr
    for arguments, message in [
        (["model.onnx", "input.f32", "FFT"], 'skip FFT is not in this file: expected one of ["FFFF",'),
        (["model.onnx", "short.f32"], "the input has 1 numbers: expected 768"),
        (["other.onnx", "input.f32"], "other.onnx.json does not describe other.onnx"),
        (["none.onnx", "input.f32"], "none.onnx cannot be read"),
        ([], "expected depths MODEL INPUT"),
    ]:
        done = depths(*arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert message in done.stderr
