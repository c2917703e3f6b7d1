"""`sidecar.py`: the description beside a file, and the files that it is of."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch

from adaptive_depth.deploy.exporting import export_network
from adaptive_depth.deploy.session import open_session
from adaptive_depth.deploy.sidecar import read_sidecar, sidecar_of
from adaptive_depth.errors import ArtifactError

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def written(two_stages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "model.onnx"
    export_network(two_stages(), path, X, skips=["FF", "TT"])
    return path


@pytest.fixture
def exported(written: Path, tmp_path: Path) -> Path:
    """A copy, to damage."""
    return copytree(written.parent, tmp_path / "export") / "model.onnx"


def test_it_says_what_the_file_says_and_which_bytes_are_meant(exported: Path) -> None:
    place = sidecar_of(exported)
    assert sorted(exported.parent.iterdir()) == [exported, place]
    plain = json.loads(place.read_text())
    content = exported.read_bytes()
    assert plain.pop("files") == {"model.onnx": {"bytes": len(content), "crc32": f"{zlib.crc32(content):08x}"}}
    artifact = open_session(exported).artifact
    assert plain == json.loads(json.dumps(artifact.to_json()))
    assert read_sidecar(exported) == read_sidecar(str(exported)) == read_sidecar(place) == artifact


@pytest.mark.parametrize(
    ("to", "files"), [("model.xml", ["model.bin", "model.xml"]), ("", ["TT.pt2", "TT.safetensors"])]
)
def test_all_files_of_an_export(to: str, files: list[str], two_stages, tmp_path: Path) -> None:
    path = tmp_path / "export" / to
    artifact = export_network(two_stages(), path, X, to=None if to else "torch", skips=["TT"])
    assert read_sidecar(path) == artifact
    assert sorted(json.loads(sidecar_of(path).read_text())["files"]) == files
    (tmp_path / "export" / files[0]).write_bytes(b"another")
    with pytest.raises(ArtifactError, match=rf"{files[0]} does not match its description \(7 bytes, checksum"):
        read_sidecar(path)


def test_an_export_anew_is_described_anew(exported: Path, two_stages) -> None:
    export_network(two_stages(classes=7), exported, X)
    assert read_sidecar(exported).skips == ("FF", "FT", "TF", "TT")


def changed(**entries: Any) -> Callable[[Path], object]:
    def change(place: Path) -> object:
        return place.write_text(json.dumps(json.loads(place.read_text()) | entries))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, r"model\.onnx\.json does not exist: export the network again, or copy all files"),
        (lambda place: place.write_text("{"), r"model\.onnx\.json cannot be read"),
        (lambda place: place.write_text("[1]"), "does not name the files it describes"),
        (changed(files={}), "does not name the files it describes"),
        (changed(files={"other.onnx": {"bytes": 1, "crc32": "0" * 8}}), r"describes other\.onnx, not model\.onnx"),
        (changed(files={"model.onnx": {"bytes": 1, "crc32": "0" * 8}}), "is damaged, or of another export"),
        (changed(files={"model.onnx": {"bytes": 1, "crc32": "?"}}), "8 hexadecimal digits"),
        (changed(files={"model.onnx": 3}), r"files in .*model\.onnx\.json"),
        (changed(files={"../model.onnx": {"bytes": 1, "crc32": "0" * 8}}), "not model.onnx"),
        (changed(skips=["FF", "FF"]), "each once"),
        (changed(version=99), "has version 99, but this library reads up to"),
        (changed(format="another"), "was not written by this library"),
    ],
)
def test_what_is_damaged_is_refused(damage: Callable[[Path], object], message: str, exported: Path) -> None:
    damage(sidecar_of(exported))
    with pytest.raises(ArtifactError, match=message):
        read_sidecar(exported)
    assert open_session(exported).skips == ("FF", "TT")  # which reads the file itself


def test_a_file_elsewhere_is_none_of_an_export(exported: Path) -> None:
    entries = json.loads(sidecar_of(exported).read_text())["files"]
    changed(files={**entries, "../elsewhere": {"bytes": 1, "crc32": "0" * 8}})(sidecar_of(exported))
    with pytest.raises(ArtifactError, match=r"'\.\./elsewhere': expected a file beside its description"):
        read_sidecar(exported)
