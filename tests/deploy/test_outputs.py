"""Outputs in every format: of any shape, and several by name."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import adaptive_depth as ad
from adaptive_depth.batches import outputs_in
from adaptive_depth.deploy.comparing import compare
from adaptive_depth.deploy.inputs import image_of
from adaptive_depth.deploy.session import Session, open_session
from adaptive_depth.deploy.torch.programs import open_written
from adaptive_depth.errors import ExportError
from adaptive_depth.meaning import Meaning


class Block(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.norm(self.conv(x)))


@dataclass
class Both:
    out: Tensor
    aux: Tensor


class Network(nn.Module):
    """Images `[batch, 3, 8, 8]`, two stages of 1 + 1 blocks, and an output of some kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.stem = kind, nn.Conv2d(3, 16, 3, padding=1)
        self.one, self.two = (nn.Sequential(Block(), Block()) for _ in range(2))
        self.head = nn.Conv2d(16, 1 if kind in ("number", "bare number") else 3, 1)

    def forward(self, x: Tensor) -> Any:
        middle = self.one(self.stem(x))
        found = self.head(self.two(middle))
        vector = found.mean((2, 3))
        return {
            "number": lambda: vector,
            "bare number": lambda: vector.squeeze(1),
            "map": lambda: functional.interpolate(found, size=(16, 16), mode="bilinear", align_corners=False),
            "tokens": lambda: found.flatten(2).transpose(1, 2),
            "named": lambda: {"out": found, "aux": vector},
            "pair": lambda: (found, vector),
            "dataclass": lambda: Both(found, vector),
            "with logits": lambda: {"logits": vector, "map": found},
            "one": lambda: {"out": found},
            # Of a stage in the middle, the same tensor twice, whole numbers, one that no image changes, and none.
            "odd": lambda: {
                "middle": middle,
                "found": found,
                "again": found,
                "class": vector.argmax(1),
                "anchors": torch.arange(4.0).reshape(2, 2),
                "loss": None,
            },
            "nested": lambda: {"out": found, "features": [middle, found]},
            "no tensor": lambda: {"out": 3.0},
            "like an input": lambda: {"image": found, "aux": vector},
        }[self.kind]()


TWO = {"skips": ["FT", "TF"]}  # each depth of a .pte takes seconds, and other tests have them all
SHAPES = {
    "number": (1,),
    "bare number": (),
    "map": (3, 16, 16),
    "tokens": (64, 3),
}


def built(kind: str) -> ad.AdaptiveNetwork:
    """Every norm of every context has numbers of its own; in eval mode."""
    torch.manual_seed(0)
    stages = [ad.Stage((f"{name}.0",), (f"{name}.1",), name=name) for name in ("one", "two")]
    network = ad.adapt(Network(kind), stages, example=torch.randn(2, 3, 8, 8)).eval()
    network.reset_statistics(per_context=True)
    for tensor in (*network.skip_norms.parameters(), *network.statistics.buffers()):
        if tensor.is_floating_point():
            tensor.data += 0.3 * torch.rand(tensor.shape)
    return network


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *product(("model.onnx", "model.xml", "programs"), SHAPES),
        pytest.param("model.pte", "map", marks=pytest.mark.slow),  # other shapes: among several outputs, below
    ],
)
def test_an_output_of_any_shape_at_every_depth(tmp_path: Path, name: str, kind: str) -> None:
    network, images = built(kind), torch.randn(4, 3, 8, 8)
    file = tmp_path / name
    options = {"programs": {"to": "torch"}, "model.pte": TWO}.get(name, {})
    ad.export_network(network, file, images, **options)
    session = open_written(file) if name == "programs" else open_session(file)
    for skip in session.skips:
        with torch.no_grad():
            wanted = network(images, skip=skip)
        found = session(images, skip)
        assert found.shape == (4, *SHAPES[kind])
        assert found == pytest.approx(wanted.numpy(), abs=1e-4)
        assert np.array_equal(open_session(network)(images, skip), wanted.numpy())


FORMATS = pytest.mark.parametrize(
    "name", ["model.onnx", "model.xml", pytest.param("model.pte", marks=pytest.mark.slow), "programs"]
)


def written(network: ad.AdaptiveNetwork, file: Path, **options: Any) -> Session:
    """The session of an export; `programs` is the folder of torch."""
    options |= {"to": "torch"} if file.name == "programs" else {}
    artifact = ad.export_network(network, file, IMAGES, **options)
    session = open_written(file) if file.name == "programs" else open_session(file)
    assert session.artifact == artifact
    return session


IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@FORMATS
def test_several_outputs_by_name_at_every_depth(tmp_path: Path, name: str) -> None:
    network, names = built("odd"), ("middle", "found", "again", "class", "anchors")
    session = written(network, tmp_path / name, **(TWO if name == "model.pte" else {}))
    assert session.artifact.outputs == names
    assert str(session.artifact).endswith(
        f"input {'4' if name == 'model.pte' else 'any'} x 3 x 8 x 8, outputs {', '.join(names)}"
    )
    eager = open_session(network)
    for skip in session.skips:
        with torch.no_grad():
            output = network(IMAGES, skip=skip)
        found = session(IMAGES, skip)
        assert list(found) == list(names) == list(eager(IMAGES, skip))
        for each, wanted in zip(names, output.values(), strict=False):
            assert found[each].shape == wanted.shape
            assert found[each] == pytest.approx(wanted.numpy(), abs=1e-4)
            assert np.array_equal(eager(IMAGES, skip)[each], wanted.numpy())


@pytest.mark.parametrize("form", ["shared", "folded"])
def test_several_outputs_in_both_forms_of_onnx(tmp_path: Path, form: str) -> None:
    network = built("named")
    session = written(network, tmp_path / "model.onnx", form=form)
    for skip in network.skips:
        with torch.no_grad():
            wanted = network(IMAGES, skip=skip)
        found = session(IMAGES, skip)
        assert {name: found[name] == pytest.approx(wanted[name].numpy(), abs=1e-4) for name in found} == dict.fromkeys(
            ("out", "aux"), True
        )


def test_a_stock_runtime_reads_the_outputs_by_name(tmp_path: Path) -> None:
    network = built("named")
    session = written(network, tmp_path / "model.onnx")
    stock = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    assert [output.name for output in stock.get_outputs()] == ["out", "aux"]
    (aux,) = stock.run(["aux"], {"image": IMAGES.numpy(), "skip": np.array([True, False])})
    assert np.array_equal(aux, session(IMAGES, "TF")["aux"])
    program = written(network, tmp_path / "programs")._opened._load("TF")[0]
    assert list(program(IMAGES)) == ["out", "aux"]  # for users of torch a dictionary, too


@pytest.mark.parametrize(
    ("kind", "asked", "names"),
    [
        ("dataclass", None, ("out", "aux")),
        ("one", None, ("out",)),
        ("pair", None, ("output_0", "output_1")),
        ("pair", ["output_1"], ("output_1",)),
        ("with logits", None, ()),  # as models of Hugging Face have them
        ("with logits", ["map", "logits"], ("map", "logits")),
        ("nested", "out", ("out",)),
    ],
)
def test_which_outputs_a_file_has(tmp_path: Path, kind: str, asked: Any, names: tuple[str, ...]) -> None:
    network = built(kind)
    session = written(network, tmp_path / "model.onnx", outputs=asked)
    assert session.artifact.outputs == names
    with torch.no_grad():
        wanted = network(IMAGES, skip="TF")
    wanted = outputs_in(wanted)
    found = session(IMAGES, "TF")
    for name in names or ("logits",):
        assert (found[name] if names else found) == pytest.approx(wanted[name].numpy(), abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "asked", "message"),
    [
        (
            "nested",
            None,
            r"the network's output 'features' is a list of 2: expected a tensor; leave it out, outputs=\['out'\]",
        ),
        ("no tensor", None, "the network's output 'out' is a float: expected a tensor; adapt a model whose"),
        (
            "named",
            ["out", "mask"],
            r"outputs=\['out', 'mask'\]: expected some of those that the network returns, 'out'",
        ),
        ("named", [], r"outputs=\[\]: expected some of those that the network returns, 'out', 'aux'"),
        ("named", ["out", "out"], "the outputs are named out, out: expected each once"),
        (
            "like an input",
            None,
            r"named image, aux: expected each once, and none with the name of an input .*\(image or skip",
        ),
        ("number", ["out"], r"returned a Tensor, which has no name: leave out outputs=\['out'\]"),
    ],
)
def test_outputs_that_no_file_can_have(tmp_path: Path, kind: str, asked: Any, message: str) -> None:
    network = built(kind)
    for export in (ad.export_network, ad.quantize_network):
        with pytest.raises(ExportError, match=message):
            export(network, tmp_path / "model.xml", IMAGES, outputs=asked)
    assert not list(tmp_path.iterdir())


def test_a_session_of_a_network_whose_outputs_are_no_tensors_is_refused() -> None:
    with pytest.raises(ad.ArtifactError, match="the network returned a dict with 'out', 'features': expected a tensor"):
        open_session(built("nested"))(torch.randn(2, 3, 8, 8))


def test_each_output_is_compared(tmp_path: Path) -> None:
    """One that is far larger must not hide that another is wrong."""
    network = built("named")
    session = written(network, tmp_path / "model.onnx")

    class Wrong:
        artifact = session.artifact

        def run(self, x: Any, skip: str) -> Any:
            found = session(x, skip)
            return found | {"aux": found["aux"] + (skip == "FT") * 2e-4 * found["aux"].std()}

    with pytest.raises(ExportError, match=r"at depth FT: its output 'aux' is off by 2.0e-04 of their"):
        compare(Session("test", Wrong()), network, image_of(IMAGES), lambda *_: None)


@pytest.mark.parametrize("name", ["model.onnx", "model.xml"])
def test_numbers_far_from_zero_that_vary_little(tmp_path: Path, name: str) -> None:
    """Of 1000 and a little, float32 has steps of 6e-5: no export can be nearer, and a wrong one still is further."""
    network = built("number")
    with torch.no_grad():
        network.model.head.bias.fill_(1000)
        network.model.head.weight.mul_(0.01)
        spread = float(network(IMAGES).std())
    assert spread < 0.01
    session = written(network, tmp_path / name, skips=["FF"])

    class Wrong:
        artifact = session.artifact

        def run(self, x: Any, skip: str) -> Any:
            return session(x, skip) + np.float32(2e-3)

    with pytest.raises(ExportError, match="at depth FF: its outputs are off by"):
        compare(Session("test", Wrong()), network, image_of(IMAGES), lambda *_: None)


@pytest.mark.parametrize(("kind", "judged_by", "in_float"), [("named", "out", 100.0), ("pair", "aux", 0.0)])
def test_several_heads_in_int8_are_measured_by_their_task(
    tmp_path: Path, kind: str, judged_by: str, in_float: float
) -> None:
    network, images = built(kind), torch.randn(40, 3, 8, 8)
    with torch.no_grad():  # what the float network says is right
        out = network(images)
    out = dict(zip(("out", "aux"), outputs_in(out).values(), strict=True))
    targets = {"out": out["out"].argmax(1), "aux": out["aux"]}
    pixels = ad.tasks.Segmentation().with_metric(share_right, ad.tasks.Quality("right", "%"))
    task = ad.tasks.Heads({"out": pixels, "aux": ad.tasks.Regression(unit="m")}, judged_by=judged_by)
    artifact = ad.quantize_network(
        network, tmp_path / "int8.xml", images, labelled=[(images, targets)], task=task, skips=["FF", "TT"]
    )
    assert artifact.float_accuracy is not None
    assert artifact.accuracy is not None
    assert artifact.quality == task.quality
    assert artifact.float_accuracy["FF"] == pytest.approx(in_float, abs=1e-3)
    session = open_session(tmp_path / "int8.xml")
    for skip in artifact.skips:  # the number is that of the file
        found = list(session(images, skip).values())[("out", "aux").index(judged_by)]
        by_hand = (
            100 * (found.argmax(1) == targets["out"].numpy()).mean()
            if judged_by == "out"
            else float(np.sqrt(np.square(found - targets["aux"].numpy()).mean()))
        )
        assert artifact.accuracy[skip] == pytest.approx(by_hand, rel=1e-3)
    assert abs(artifact.accuracy["FF"] - in_float) < (10 if judged_by == "out" else 0.2 * float(out["aux"].std()))


def test_a_metric_that_is_not_a_number_is_no_quality_of_a_file(tmp_path: Path) -> None:
    def undefined(predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions - targets).sum() * torch.nan

    task = ad.tasks.Regression().with_metric(undefined, ad.tasks.Quality("fit"))
    labelled = [(IMAGES, torch.zeros(4, 1))]
    with pytest.raises(ad.MeasurementError, match="fit of FF, measured on labelled=, is nan: expected a finite number"):
        ad.quantize_network(built("number"), tmp_path / "int8.xml", IMAGES, labelled=labelled, task=task, skips=["FF"])
    assert not list(tmp_path.iterdir())


def share_right(predictions: Tensor, targets: Tensor) -> Tensor:
    return (predictions.argmax(1) == targets).float().mean()


@pytest.mark.parametrize("kind", ["odd"])
def test_outputs_of_every_kind_in_int8(tmp_path: Path, kind: str) -> None:
    network, images = built(kind), torch.randn(40, 3, 8, 8)
    ad.quantize_network(network, tmp_path / "int8.xml", images)
    session = open_session(tmp_path / "int8.xml")
    for skip in network.skips:
        with torch.no_grad():
            wanted = network(images, skip=skip)
        found = session(images, skip)
        assert np.array_equal(found["anchors"], wanted["anchors"].numpy())
        assert np.array_equal(found["found"], found["again"])
        for name in ("middle", "found"):
            assert np.abs(found[name] - wanted[name].numpy()).mean() < 0.2 * float(wanted[name].std())
        assert (found["class"] == wanted["class"].numpy()).mean() > 0.7


@pytest.mark.parametrize("kind", ["bare number"])  # maps: among several outputs, above
def test_an_output_of_any_shape_in_int8(tmp_path: Path, kind: str) -> None:
    network, images = built(kind), torch.randn(40, 3, 8, 8)
    ad.quantize_network(network, tmp_path / "int8.xml", images)
    session = open_session(tmp_path / "int8.xml")
    for skip in network.skips:
        with torch.no_grad():
            wanted = network(images[:7], skip=skip)
        found = session(images[:7], skip)
        assert found.shape == wanted.shape
        assert np.abs(found - wanted.numpy()).mean() < 0.2 * float(wanted.std())


@pytest.mark.parametrize(
    ("kind", "expected"), [("named", "expected some of the network's outputs, 'out', 'aux'"), ("map", "outputs, ''")]
)
def test_a_meaning_of_an_output_that_is_not_there(tmp_path: Path, kind: str, expected: str) -> None:
    """It would be lost, and whoever reads the file would see bare numbers."""
    with pytest.raises(ExportError, match=f"meanings of 'mu': .*{expected}"):
        ad.export_network(built(kind), tmp_path / "m.onnx", IMAGES, meanings={"mu": Meaning("numbers", "m")})
    assert not [*tmp_path.iterdir()]


def test_a_meaning_of_no_kind() -> None:
    with pytest.raises(ad.TrainingError, match=r"Meaning\('number'\): expected one of 'classes', 'labels', 'numbers'"):
        Meaning("number")
