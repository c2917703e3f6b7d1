"""`deploy/exporting.py`: what is checked before, compared after, and never lost in between."""

import copy
import json
import os
import re
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import adaptive_depth as ad
from adaptive_depth.data import DataConfig
from adaptive_depth.deploy import exporting
from adaptive_depth.deploy.artifact import Artifact
from adaptive_depth.deploy.comparing import compare
from adaptive_depth.deploy.exporting import FORMATS, Format, describe, export_network, into_place
from adaptive_depth.deploy.inputs import image_of
from adaptive_depth.deploy.session import Session, open_session
from adaptive_depth.errors import ExportError, SkipError
from adaptive_depth.preprocessing import Preprocessing

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(2))
DATA = DataConfig("digits", None, 8, 3, (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), "bilinear", 0.875, ("a", "b", "c", "d"))
TABLE = ad.TradeOffs(
    tuple(ad.Row(skip, accuracy, macs, 9) for skip, accuracy, macs in (("FF", 90, 4), ("FT", 89, 3), ("TT", 88, 2))),
    ties=(("FF", "FT"), ("FT", "TT")),
)


class Programs:
    """What a session runs: the network itself, or something that is not quite it."""

    def __init__(self, network: ad.AdaptiveNetwork, artifact: Artifact, off: float = 0.0, at: str = "FT") -> None:
        self.network, self.artifact, self.off, self.at = network, artifact, off, at

    def run(self, x: Any, skip: str) -> Any:
        with torch.no_grad():
            logits = self.network(torch.from_numpy(x), skip=skip).numpy()
        return logits + self.off * logits.std() * (skip == self.at)


def test_a_description_is_complete(two_stages) -> None:
    network = two_stages()
    artifact = describe(
        network, "onnx", image_of(X), skips=["TT", [False, False]], form="folded", data=DATA, trade_offs=TABLE
    )
    assert artifact == Artifact(
        kind="onnx",
        stages=tuple(network.stages.to_json()),
        skips=("FF", "TT"),  # super-net first
        input_shape=(None, 3, 8, 8),
        network=network.fingerprint,
        form="folded",
        precision="float32",
        labels=("a", "b", "c", "d"),
        preprocessing=Preprocessing(8, 3, (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), "bilinear", 0.875),
        trade_offs=ad.TradeOffs((TABLE.rows[0], TABLE.rows[2])),  # and no tie with a depth that is not there
    )
    assert describe(network, "executorch", image_of(X)).input_shape == (1, 3, 8, 8)
    bare = describe(network, "onnx", image_of(X), skips="TF", trade_offs=TABLE)
    assert (bare.skips, bare.trade_offs, bare.labels, bare.preprocessing) == (("TF",), None, (), None)


def test_onnx_by_the_name_of_the_file(two_stages, unchanged, tmp_path: Path) -> None:
    network, told = two_stages(calibrated=True).train(), []
    path = tmp_path / "new" / "folder" / "model.onnx"
    with unchanged(network):
        artifact = export_network(
            network, path, X, skips=["FF", "TT"], data=DATA, on_progress=lambda *what: told.append(what)
        )
    session = open_session(path)
    assert artifact == session.artifact == describe(network, "onnx", image_of(X), skips=["FF", "TT"], data=DATA)
    network.eval()
    for skip in session.skips:
        with torch.no_grad():
            np.testing.assert_allclose(session(X, skip), network(X, skip=skip).numpy(), atol=1e-5)
    what = "comparing every depth with the network"
    assert told == [(0, 3, "writing onnx"), (1, 3, what), (2, 3, what)]
    assert sorted(path.parent.iterdir()) == [path, path.with_name("model.onnx.json")]


class Noise(nn.Module):
    """Its output is another each time."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class Frozen(nn.Module):
    """Tracing takes the number that it draws for a constant."""

    def forward(self, x: Tensor) -> Tensor:
        return x + float(np.random.default_rng().random())


@pytest.mark.parametrize("block", [Noise, Frozen])
def test_what_does_not_compute_the_same_leaves_the_old_file(block, two_stages, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with pytest.raises(
        ExportError, match=r"does not compute what the network does at depth FF: .* nothing was written"
    ):
        export_network(two_stages(block), path, X)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_comparing(two_stages) -> None:
    network = two_stages()
    artifact = describe(network, "onnx", image_of(X))
    told: list[Any] = []
    tell = lambda *what: told.append(what[:2])  # noqa: E731
    compare(Session("test", Programs(network, artifact, off=0.9e-4)), network, image_of(X), tell)
    assert told == [(1, 5), (2, 5), (3, 5), (4, 5)]
    for off, depth in ((1.2e-4, "FT"), (float("nan"), "FF")):
        with pytest.raises(
            ExportError, match=f"at depth {depth}: its outputs are off by {off:.1e} of their standard dev"
        ):
            compare(Session("test", Programs(network, artifact, off)), network, image_of(X), tell)


class Cancels(nn.Module):
    """In float32 it loses all digits below the third of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x + ((x + 1e4) - 1e4)


def test_what_rounding_does_to_the_network_itself_is_allowed_to_its_file(two_stages) -> None:
    """Here float32 alone is off by far more than the tolerance; what is off by much more than that is still found."""
    network = two_stages(Cancels)

    class Exact(Programs):
        def run(self, x: Any, skip: str) -> Any:
            with torch.no_grad():
                logits = copy.deepcopy(self.network).double()(torch.from_numpy(x).double(), skip=skip).numpy()
            return logits + self.off * logits.std()

    artifact = describe(network, "onnx", image_of(X))
    with torch.no_grad():
        own = network(X, skip="FF").numpy()
    assert np.abs(Exact(network, artifact).run(X.numpy(), "FF") - own).max() > 2e-4 * own.std()
    compare(Session("test", Exact(network, artifact)), network, image_of(X), lambda *_: None)
    with pytest.raises(ExportError, match="does not compute what the network does at depth FF"):
        compare(Session("test", Exact(network, artifact, off=0.05)), network, image_of(X), lambda *_: None)


def test_comparing_a_single_logit(two_stages) -> None:
    network = two_stages(classes=1)  # whose standard deviation in a batch of one is zero
    artifact = describe(network, "onnx", image_of(X))
    compare(Session("test", Programs(network, artifact)), network, image_of(X), exporting._say_nothing)

    class Off(Programs):
        def run(self, x: Any, skip: str) -> Any:
            return 1.01 * super().run(x, skip)

    with pytest.raises(ExportError, match=r"at depth FF: its outputs are off by 1\.0e-02"):
        compare(Session("test", Off(network, artifact)), network, image_of(X), exporting._say_nothing)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"to": "tflite"}, "to='tflite': expected one of onnx, onnx-files, openvino, executorch, web, torch"),
        (
            {"path": "model.bin"},
            "model.bin is unclear: expected a name that ends in .onnx, .xml, .pte, or",
        ),
        ({"path": "model"}, "model is unclear: expected a name"),
        ({"path": "model.pte", "to": "onnx"}, "model.pte does not match its format: expected a name such as model"),
        ({"form": "loose"}, "form='loose' for onnx: expected shared or folded"),
        ({"to": "torch", "form": "shared"}, "form='shared' for torch: expected folded"),
        ({"example": "x"}, "export received the example 'x' as a str: expected a tensor [batch, ...]"),
        ({"example": torch.zeros(3, 8, 8)}, "the network does not take the example (x 3 x 8 x 8): expected 4D input"),
        ({"skips": []}, "skips=[] names no depth: expected some of FF, FT, TF, TT"),
        ({"compiled": True}, "onnx does not take compiled: expected no options"),
        ({"to": "torch", "path": "model", "depth": 3}, "torch does not take depth: expected compiled"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str, two_stages, tmp_path: Path) -> None:
    given: dict[str, Any] = {"path": "model.onnx", "example": X, **arguments}
    path = tmp_path / given.pop("path")
    with pytest.raises(ExportError, match=re.escape(message)):
        export_network(two_stages(), path, given.pop("example"), **given)
    assert not list(tmp_path.iterdir())


def test_a_skip_and_a_network_that_are_none(two_stages, tmp_path: Path) -> None:
    with pytest.raises(SkipError, match="skip 'TTT' is for 3 stages, but the network has 2"):
        export_network(two_stages(), tmp_path / "model.onnx", X, skips=["TTT"])
    with pytest.raises(
        ExportError, match=r"export_network received a Linear: expected an adapted network, adapt\(model\)"
    ):
        export_network(nn.Linear(2, 2), tmp_path / "model.onnx", X)  # type: ignore[arg-type]


def test_a_missing_package_is_named_with_its_extra(two_stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    monkeypatch.delitem(sys.modules, "adaptive_depth.deploy.onnx.write", raising=False)
    monkeypatch.delitem(sys.modules, "adaptive_depth.deploy.onnx.branches", raising=False)
    with pytest.raises(
        ExportError, match=r'onnx needs a package that is not .*onnx_ir.* pip install "adaptive-depth\[export'
    ):
        export_network(two_stages(), tmp_path / "model.onnx", X)


ONNX, FOLDER = FORMATS["onnx"], FORMATS["torch"]


def test_a_place_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years")
    (tmp_path / "file").write_text("old")
    places: list[tuple[str, Format, str]] = [
        ("model.onnx", ONNX, "is a folder with other contents, which would be lost: name another"),
        ("full", FOLDER, "is a folder with other contents, which would be lost: name another"),
        ("file", FOLDER, "is a file, which would be lost: expected the name of a folder"),
        ("file/model.onnx", ONNX, "cannot be written"),
    ]
    for name, kind, message in places:
        with pytest.raises(ExportError, match=message), into_place(tmp_path / name, kind):
            pytest.fail("nothing may be written")
    assert (tmp_path / "full" / "thesis.txt").read_text() == "years"
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    place = tmp_path / "programs"
    for number in (1, 2):
        with into_place(place, FOLDER) as new:
            new.mkdir()
            (new / "artifact.json").write_text(json.dumps(number))
            (new / f"{number}.pt2").touch()
    assert sorted(file.name for file in place.iterdir()) == ["2.pt2", "artifact.json"]
    with pytest.raises(FileNotFoundError), into_place(place, FOLDER) as new:
        (new / "nowhere" / "file").touch()  # something fails in the middle
    assert sorted(file.name for file in place.iterdir()) == ["2.pt2", "artifact.json"]
    assert list(tmp_path.iterdir()) == [place]


def test_one_export_at_a_time_writes_a_place(tmp_path: Path) -> None:
    """Two would mix the parts of their files."""
    place, said = tmp_path / "model.xml", []

    def write(path: Path) -> None:
        try:
            with into_place(path, FORMATS["openvino"]) as new:
                new.write_text("other")
        except ExportError as error:
            said.append(str(error))

    with into_place(place, FORMATS["openvino"]) as new:
        new.write_text("mine")
        for path in (place, tmp_path / "another.xml"):
            thread = threading.Thread(target=write, args=(path,))
            thread.start()
            thread.join()
    assert len(said) == 1
    assert said[0].startswith(f"{place} is being written by process {os.getpid()} on ")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"model.xml": "mine", "another.xml": "other"}


def test_files_that_belong_together_are_all_replaced(tmp_path: Path) -> None:
    (tmp_path / "model.xml").write_text("old")
    (tmp_path / "model.bin").write_text("old weights")
    with into_place(tmp_path / "model.xml", FORMATS["openvino"]) as new:
        new.write_text("new")
        new.with_suffix(".bin").write_text("new weights")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "model.xml": "new",
        "model.bin": "new weights",
    }
