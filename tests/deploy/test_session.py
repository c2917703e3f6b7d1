"""`deploy/session.py`: what is checked before a backend runs, and what is said when it fails."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adaptive_depth.deploy.artifact import Artifact
from adaptive_depth.deploy.session import BACKENDS, Session, open_session
from adaptive_depth.errors import ArtifactError, DataError, SkipError
from adaptive_depth.preprocessing import Preprocessing

STAGES = ({"name": "one"}, {"name": "two"})


class Recording:
    """A backend that keeps what it is given; fails where `error` is set."""

    def __init__(self, error: Exception | None = None, shape: tuple[int | None, ...] = (None, 3, 8, 8)) -> None:
        self.artifact = Artifact("onnx", STAGES, ("FF", "FT", "TT"), shape)
        self.calls: list[tuple[Any, str]] = []
        self.error = error

    def run(self, x: Any, skip: str) -> Any:
        self.calls.append((x, skip))
        if self.error is not None:
            raise self.error
        return np.zeros((len(x), 4), np.float32)


X = np.zeros((2, 3, 8, 8), np.float32)


def test_depths_by_letters_by_booleans_and_by_default() -> None:
    backend = Recording()
    session = Session("test", backend)
    for skip in ("TT", [True, True], (False, True), None):
        assert session(X, skip).shape == (2, 4)
    assert [skip for _, skip in backend.calls] == ["TT", "TT", "FT", "FF"]
    assert session.skips == ("FF", "FT", "TT")


@pytest.mark.parametrize(
    ("skip", "message"),
    [
        ("TF", "skip 'TF' is not in this file: expected one of FF, FT, TT"),
        ([True, False], "skip 'TF' is not in this file"),
        ("TTT", "skip 'TTT' is for 3 stages, but the network has 2"),
        ("tf", "skip 'tf' has the letters 'ft'"),
        (3, "skip 3 is a int"),
        ([1, 0], "has elements that are not booleans"),
        (np.array([True, True]), "has elements that are not booleans"),
    ],
)
def test_a_depth_that_is_none(skip: Any, message: str) -> None:
    backend = Recording()
    with pytest.raises(SkipError, match=message):
        Session("test", backend)(X, skip)
    assert not backend.calls


def test_inputs_are_taken_as_float32_arrays() -> None:
    backend = Recording()
    session = Session("test", backend)
    given = [X, X.tolist(), torch.zeros(2, 3, 8, 8), X.astype(np.float64), X.astype(np.uint8), X.transpose(0, 1, 3, 2)]
    for x in given:
        session(x)
    assert {(x.dtype, x.shape, x.flags.c_contiguous) for x, _ in backend.calls} == {
        (np.dtype("float32"), X.shape, True)
    }
    assert backend.calls[0][0] is X  # nothing is copied that is right already


@pytest.mark.parametrize("pixels", [X.astype(np.uint8), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)])
def test_raw_pixels_are_refused_where_images_are_normalised(pixels: Any) -> None:
    backend = Recording()
    backend.artifact = replace(backend.artifact, preprocessing=Preprocessing(8, 3, (0.5,) * 3, (0.5,) * 3))
    session = Session("test", backend)
    with pytest.raises(DataError, match=r"a session received pixels \(uint8\): expected what prepare\(image, "):
        session(pixels)
    session(np.zeros(X.shape, int))
    assert len(backend.calls) == 1


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((3, 8, 8)), r"an input of shape \[3, 8, 8\]: expected \[batch, 3, 8, 8\]"),
        (np.zeros((2, 1, 8, 8)), r"shape \[2, 1, 8, 8\]: expected \[batch, 3, 8, 8\]"),
        (np.zeros((0, 3, 8, 8)), r"shape \[0, 3, 8, 8\]: expected \[batch, 3, 8, 8\]"),
        (np.zeros((2, 3, 8, 9)), r"shape \[2, 3, 8, 9\]"),
        (np.zeros((1, 2, 3, 8, 8)), r"shape \[1, 2, 3, 8, 8\]"),
        (3.0, r"shape \[1\]: expected"),
        ("cat.jpg", "a session received a str that is not an array"),
        ([[1, 2], [3]], "a session received a list that is not an array"),
        (object(), "a session received a object that is not an array"),
        (torch.zeros(2, 3, 8, 8, requires_grad=True), "a session received a Tensor that is not an array .*requires"),
    ],
)
def test_an_input_of_another_kind(x: Any, message: str) -> None:
    backend = Recording()
    with pytest.raises(DataError, match=message):
        Session("test", backend)(x)
    assert not backend.calls


def test_sides_that_are_free() -> None:
    session = Session("test", Recording(shape=(None, 3, None, None)))
    session(np.zeros((1, 3, 5, 7)))
    with pytest.raises(DataError, match=r"shape \[1, 1, 5, 7\]: expected \[batch, 3, any, any\]"):
        session(np.zeros((1, 1, 5, 7)))


def test_a_backend_that_fails_is_named_with_depth_and_input() -> None:
    cause = RuntimeError("out of\n  memory")
    with pytest.raises(
        ArtifactError, match=r"^test failed at depth FT with input \[2, 3, 8, 8\]: out of memory$"
    ) as caught:
        Session("test", Recording(cause))(X, "FT")
    assert caught.value.__cause__ is cause
    with pytest.raises(ArtifactError, match=r"\[2, 3, 8, 8\]: KeyError$"):
        Session("test", Recording(KeyError()))(X)
    with pytest.raises(DataError, match=r"^an error of our own$"):  # stays as it is
        Session("test", Recording(DataError("an error of our own")))(X)


def test_warm_up() -> None:
    backend = Recording(shape=(None, 3, None, 8))
    session = Session("test", backend)
    session.warm_up()
    assert [skip for _, skip in backend.calls] == ["FF", "FF", "FT", "FT", "TT", "TT"]
    assert {x.shape for x, _ in backend.calls} == {(1, 3, 1, 8)}
    for skips in (["TT", [False, True]], "TT"):
        backend.calls.clear()
        session.warm_up(skips, passes=1)
        assert [skip for _, skip in backend.calls] == (["TT"] if skips == "TT" else ["TT", "FT"])


def test_it_prints_what_it_is() -> None:
    said = "Session of test: onnx of 3 depths, float32, norms shared, input any x 3 x 8 x 8"
    assert repr(Session("test", Recording())) == said


def test_sources_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "model.zip").touch()
    sources: list[tuple[Any, str]] = [
        (tmp_path / "none.onnx", r"none\.onnx does not exist: expected a file that adaptive-depth export wrote"),
        (str(tmp_path), r"is a folder: expected a file that ends in \.onnx, \.pte, \.xml, or a folder of onnx-files"),
        (tmp_path / "model.zip", r"model\.zip has an unknown ending: expected \.onnx, \.pte, \.xml"),
    ]
    for source, message in sources:
        with pytest.raises(ArtifactError, match=message):
            open_session(source)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"backend": "tensorrt"},
            "backend='tensorrt': expected one of eager, compiled, onnxruntime, openvino, executorch",
        ),
        ({"threads": 0}, "threads=0: expected a whole number of at least 1"),
        ({"threads": 1.5}, r"threads=1\.5: expected a whole number"),
        ({"threads": "2"}, "threads='2': expected a whole number"),
        ({"providers": []}, r"providers=\[\] is empty: expected execution providers of onnxruntime"),
        (
            {"providers": ["NowhereExecutionProvider"]},
            "'NowhereExecutionProvider' is not in this onnxruntime, which has",
        ),
        ({"providers": [("Nowhere", {})]}, "'Nowhere' is not in this onnxruntime, which has .*CPUExecutionProvider"),
    ],
)
def test_options_that_are_none(options: dict[str, Any], message: str, exported) -> None:
    with pytest.raises(ArtifactError, match=message):
        open_session(exported[1], **options)


def test_a_network_runs_where_its_weights_are(exported) -> None:
    with pytest.raises(ArtifactError, match="providers='CPU' for eager: it runs where its network is; leave it out"):
        open_session(exported[0], providers="CPU")


MISSING = [
    ("onnxruntime", "onnxruntime", 'pip install "adaptive-depth[onnx]"'),
    ("openvino", "openvino", 'pip install "adaptive-depth[openvino]"'),
    ("eager", "torch", 'pip install "adaptive-depth[train]"'),
]


def test_more_threads_than_a_machine_can_use(exported) -> None:
    with pytest.raises(ArtifactError, match=r"threads=99999: expected at most \d+ on a machine with \d+ processors"):
        open_session(exported[1], threads=99999)


def test_a_missing_package_is_named_with_what_to_install(tmp_path: Path) -> None:
    assert {backend for backend, *_ in MISSING} == BACKENDS.keys() - {
        "compiled",
        "executorch",
    }  # which reads the file first
    (tmp_path / "model").write_bytes(b"")
    code = f"""
import sys
for name in {[package for _, package, _ in MISSING]!r}:
    sys.modules[name] = None
from adaptive_depth.errors import ArtifactError
from adaptive_depth.deploy.session import open_session
for backend in {[backend for backend, *_ in MISSING]!r}:
    try:
        open_session({str(tmp_path / "model")!r}, backend=backend)
    except ArtifactError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for line, (backend, package, mend) in zip(done.stdout.splitlines(), MISSING, strict=True):
        assert line.startswith(f"{backend} needs a package that is not installed (")
        assert package in line
        assert line.endswith(f": {mend}")
