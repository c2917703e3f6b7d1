"""`deploy/onnx/run.py`: sessions over an ONNX model of every depth."""

import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper, parser

from adaptive_depth.deploy.onnx import run as runtime
from adaptive_depth.deploy.session import open_session
from adaptive_depth.errors import ArtifactError


def test_every_depth_and_any_batch(exported) -> None:
    network, path = exported
    session = open_session(str(path), threads=1)
    assert (session.backend, session.skips) == ("onnxruntime", ("FF", "FT", "TT"))
    for batch in (1, 3):
        x = torch.randn(batch, 3, 8, 8)
        for skip in session.skips:
            with torch.no_grad():
                np.testing.assert_allclose(session(x, skip), network(x, skip=skip).numpy(), rtol=1e-4, atol=1e-5)


def test_threads_at_different_depths(exported) -> None:
    network, path = exported
    session = open_session(path, threads=1)
    work = [(torch.randn(2, 3, 8, 8), session.skips[number % 3]) for number in range(60)]
    with torch.no_grad():
        wanted = [network(x, skip=skip).numpy() for x, skip in work]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda each: session(*each), work))
    np.testing.assert_allclose(np.stack(found), np.stack(wanted), rtol=1e-4, atol=1e-5)


def test_threads_reach_the_library(exported, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    opened = runtime.onnxruntime.InferenceSession

    def watched(path: str, options: object, **more: object) -> object:
        given.append(options.intra_op_num_threads)  # type: ignore[attr-defined]
        return opened(path, options, **more)

    monkeypatch.setattr(runtime.onnxruntime, "InferenceSession", watched)
    for threads in (None, 2):
        open_session(exported[1], threads=threads)
    assert given == [0, 2]  # 0 is the library's own choice


def test_providers_reach_the_library_the_cpu_by_default(exported, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    opened = runtime.onnxruntime.InferenceSession

    def watched(path: str, options: object, providers: list[object]) -> object:
        given.append(providers)
        return opened(path, options, providers=providers)

    monkeypatch.setattr(runtime.onnxruntime, "InferenceSession", watched)
    pair = ("CPUExecutionProvider", {})
    for providers in (None, "CPUExecutionProvider", [pair]):
        open_session(exported[1], providers=providers)
    assert given == [["CPUExecutionProvider"], ["CPUExecutionProvider"], [pair]]


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file(exported, part: float, tmp_path: Path) -> None:
    content = exported[1].read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(
        ArtifactError, match=r"model\.onnx (cannot be loaded \(.*truncated|is not of this lib|does not have the ch)"
    ):
        open_session(path)


def test_a_changed_file_and_what_a_tool_wrote_anew(exported, tmp_path: Path) -> None:
    """ONNX Runtime computes with whatever weights it reads: the checksum at the end tells."""
    content = exported[1].read_bytes()
    assert content[-8:].decode() == f"{zlib.crc32(content[:-37]):08x}"
    path = tmp_path / "model.onnx"
    model = onnx.load(exported[1])
    onnx.save(model, path)  # the same bytes
    open_session(path)
    weight = model.graph.initializer[0]
    numbers = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array(2 * numbers, weight.name))
    onnx.save(model, path)
    with pytest.raises(ArtifactError, match=r"model\.onnx does not match the checksum .* if the change was intended"):
        open_session(path)
    kept = [entry for entry in model.metadata_props if entry.key == "adaptive_depth"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, path)  # as the message says, and as version 0.1 wrote files
    assert open_session(path).skips == ("FF", "FT", "TT")


def test_a_foreign_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"a letter to a friend")
    with pytest.raises(ArtifactError, match=r"model\.onnx cannot be loaded .*: it is truncated, or not an ONNX model"):
        open_session(path)
    foreign = parser.parse_model(
        '<ir_version: 10, opset_import: ["": 18]> g (float[n] x) => (float[n] y) { y = Neg(x) }'
    )
    onnx.save(foreign, path)
    with pytest.raises(
        ArtifactError, match=r"was not written by this library: expected a file that adaptive-depth export wrote"
    ):
        open_session(path)
    helper.set_model_props(foreign, {"adaptive_depth": '{"format": "adaptive-depth artifact", "version": 9}'})
    onnx.save(foreign, path)
    with pytest.raises(ArtifactError, match=r"model\.onnx has version 9, but this library reads up to 5"):
        open_session(path)


def test_what_is_no_path() -> None:
    with pytest.raises(
        ArtifactError, match=r"onnxruntime received a int: expected the path of an \.onnx file; adaptive"
    ):
        open_session(3, backend="onnxruntime")


def test_a_session_needs_no_torch(exported) -> None:
    code = f"""
import sys
sys.modules["torch"] = None
import numpy as np
from adaptive_depth.deploy.session import open_session
session = open_session({str(exported[1])!r}, threads=1)
session.warm_up()
print(session(np.zeros((2, 3, 8, 8)), "TT").shape, "timm" in sys.modules, "onnx" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("(2, 4) False False\n", 0), done.stderr
