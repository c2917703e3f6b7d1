"""Inputs in every format: of any rank, several, integers and booleans; by position and by keyword."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import adaptive_depth as ad
from adaptive_depth.deploy.artifact import Artifact, Input
from adaptive_depth.deploy.inputs import another, example_of
from adaptive_depth.deploy.session import Session, open_session
from adaptive_depth.deploy.torch.programs import open_written
from adaptive_depth.errors import ArtifactError, DataError, ExportError


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.linear(self.norm(x)))


class Convolution(nn.Module):
    def __init__(self, dims: int) -> None:
        super().__init__()
        self.conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](8, 8, 3, padding=1)
        self.norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1](8)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.norm(self.conv(x)))


class Body(nn.Module):
    """Two stages of 1 + 1 blocks."""

    def __init__(self, block: Any = Block) -> None:
        super().__init__()
        self.one, self.two = (nn.Sequential(block(), block()) for _ in range(2))
        self.head = nn.Linear(8, 3)


class Rows(Body):
    """`[batch, ..., 8]`."""

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.two(self.one(rows)))


class Signals(Body):
    """`[batch, 8, ...]` of one to three dimensions."""

    def __init__(self, dims: int) -> None:
        super().__init__(lambda: Convolution(dims))

    def forward(self, signal: Tensor) -> Tensor:
        return self.head(self.two(self.one(signal)).flatten(2).mean(2))


class Pair(Body):
    """Two tensors by position, and two outputs by name."""

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        found = self.two(self.one(left + right[:, None]))
        return {"mean": self.head(found).mean(1), "each": found}


class Masked(Body):
    """Tokens, a mask as a keyword, a number for the whole batch; the mask is an output, too."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)

    def forward(self, tokens: Tensor, *, mask: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        found = self.two(self.one(self.words(tokens)))
        weights = mask.to(found.dtype)[..., None] * scale
        return self.head((found * weights).sum(1)), mask


def built(model: nn.Module, example: Any) -> ad.AdaptiveNetwork:
    plan = [ad.Stage((f"{name}.0",), (f"{name}.1",)) for name in ("one", "two")]
    network = ad.adapt(model, plan, example=example).eval()
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                part.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr]
    return network


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


WORDS = {
    "tokens": torch.arange(12).reshape(2, 6) % 20,
    "mask": torch.tensor([[True] * 6, [True] * 3 + [False] * 3]),
    "scale": torch.tensor(0.5),
}
CASES: dict[str, tuple[type[nn.Module], tuple[Any, ...], Any]] = {
    "rows": (Rows, (), noise(2, 8)),
    "sequences": (Rows, (), noise(2, 5, 8)),
    "sound": (Signals, (1,), noise(2, 8, 30)),
    "video": (Signals, (3,), noise(2, 8, 3, 6, 6)),
    "pair": (Pair, (), (noise(2, 5, 8), noise(2, 8))),
    "by keyword": (Pair, (), {"left": noise(2, 5, 8), "right": noise(2, 8)}),
}


def written(network: ad.AdaptiveNetwork, file: Path, example: Any) -> Session:
    to = {"programs": "torch", "files": "onnx-files"}.get(file.name)
    # Each depth of a .pte takes seconds, and other tests have them all.
    skips = ["FT", "TF"] if file.suffix == ".pte" else None
    artifact = ad.export_network(network, file, example, to=to, skips=skips)
    session = open_written(file) if to == "torch" else open_session(file)
    assert session.artifact == artifact
    return session


def tensors_of(output: Any) -> list[np.ndarray]:
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, tuple) else [output]
    return [np.asarray(part) for part in parts]


# Each case in the two that switch inside of one graph; the others, which trace each depth, take the one with most.
@pytest.mark.parametrize(
    ("case", "name"),
    [*product(CASES, ("model.onnx", "model.xml")), *product(("pair", "video"), ("files", "model.pte", "programs"))],
)
def test_every_depth_computes_what_the_network_does(tmp_path: Path, case: str, name: str) -> None:
    kind, arguments, example = CASES[case]
    torch.manual_seed(0)
    network = built(kind(*arguments), example)
    if (case, name) == ("video", "model.pte"):  # it converts a Conv3d, and has no kernel for it
        with pytest.raises(ExportError, match=r"executorch cannot run what it converted .*nothing was written: choose"):
            written(network, tmp_path / name, example)
        assert not [*tmp_path.iterdir()]
        return
    session = written(network, tmp_path / name, example)
    given = example_of(network.model, example)
    inputs = given.tensors if name == "model.pte" else another(given, 5, pixels=False)
    x = dict(zip(given.call.names, inputs, strict=True))
    for skip in session.skips:
        with torch.no_grad():
            wanted = tensors_of(given.call(network, inputs, skip=skip))
        found = tensors_of(session(x, skip))
        assert len(found) == len(wanted) == (2 if "pair" in case or "key" in case else 1)
        for one, other in zip(found, wanted, strict=True):
            assert one == pytest.approx(other, abs=1e-4)
    session.warm_up()


@pytest.mark.parametrize("name", ["model.onnx", "model.xml", "model.pte"])
def test_integers_booleans_and_numbers_stay_what_they_are(tmp_path: Path, name: str) -> None:
    """A number for the whole batch has no batch, so the file keeps that of the example."""
    torch.manual_seed(0)
    network = built(Masked(), WORDS)
    session = written(network, tmp_path / name, WORDS)
    assert session.artifact.inputs == (
        Input("tokens", (2, 6), "int64"),
        Input("mask", (2, 6), "bool"),
        Input("scale", ()),
    )
    assert "inputs tokens 2 x 6 int64, mask 2 x 6 bool, scale a number" in str(session.artifact)
    x = {"tokens": (WORDS["tokens"] + 7) % 20, "mask": ~WORDS["mask"], "scale": torch.tensor(2.0)}
    for skip in session.skips:
        with torch.no_grad():
            wanted, mask = network(**x, skip=skip)
        found = session({**x, "scale": 2}, skip)
        assert found["output_0"] == pytest.approx(wanted.numpy(), abs=1e-4)
        assert np.array_equal(found["output_1"], mask.numpy())


def test_a_stock_runtime_takes_the_inputs_by_name(tmp_path: Path) -> None:
    example = CASES["pair"][2]
    session = written(built(Pair(), example), tmp_path / "model.onnx", example)
    stock = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    assert [each.name for each in stock.get_inputs()] == ["left", "right", "skip"]
    x = {"left": example[0].numpy(), "right": example[1].numpy()}
    (mean,) = stock.run(["mean"], {**x, "skip": np.array([True, False])})
    assert np.array_equal(mean, session(x, "TF")["mean"])
    beside = json.loads((tmp_path / "model.onnx.json").read_text())
    assert beside["version"] == 5
    assert beside["inputs"] == [
        {"name": "left", "shape": [None, 5, 8], "dtype": "float32"},
        {"name": "right", "shape": [None, 8], "dtype": "float32"},
    ]
    assert Artifact.from_json(session.artifact.to_json()) == session.artifact


def test_one_image_is_called_image_as_before(tmp_path: Path) -> None:
    example = noise(2, 8, 6, 6)
    session = written(built(Signals(2), example), tmp_path / "model.onnx", example)
    assert (session.artifact.inputs, session.artifact.to_json()["version"]) == ((), 1)
    assert session.artifact.takes == (Input("image", (None, 8, 6, 6)),)
    keyword = written(built(Signals(2), example), tmp_path / "again.onnx", {"signal": example})
    assert keyword.artifact.inputs == (Input("signal", (None, 8, 6, 6)),)


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (
            (noise(2, 5, 8), None),
            r"the example 'right' as .*None.*: expected a tensor \[batch, ...\], or",
        ),
        ((), "expected a tensor"),
        ("text", "the example 'left' as .*str"),
        ({"left": [1, 2]}, "the example 'left' as .*list"),
        ({"skip": noise(2, 8)}, "inputs named skip: expected names other than skip"),
    ],
)
def test_an_example_of_other_things_is_refused(tmp_path: Path, example: Any, message: str) -> None:
    network = built(Pair(), CASES["pair"][2])
    with pytest.raises(ExportError, match=message):
        ad.export_network(network, tmp_path / "model.onnx", example)
    assert not [*tmp_path.iterdir()]


def test_preparation_and_int8_are_of_images(tmp_path: Path) -> None:
    network = built(Rows(), noise(2, 8))
    how = ad.Preprocessing(8, 3, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(ExportError, match=r"data= says how images are prepared, and this network takes rows \(2 x 8\)"):
        ad.export_network(network, tmp_path / "model.onnx", noise(2, 8), data=how)
    with pytest.raises(ExportError, match=r"received images \[8\] of torch.float32: expected floats \[samples"):
        ad.quantize_network(network, tmp_path / "model.xml", noise(300, 8).numpy())
    assert not [*tmp_path.iterdir()]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Session:
    example = CASES["pair"][2]
    return written(built(Pair(), example), tmp_path_factory.mktemp("pair") / "model.onnx", example)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (noise(2, 5, 8), "a session received a Tensor: expected a dictionary with left, right"),
        ({"left": noise(2, 5, 8)}, "received inputs named left: expected a dictionary with left, right"),
        ({"left": noise(2, 5, 8), "rigth": noise(2, 8)}, "received inputs named left, rigth: expected"),
        ({"left": noise(2, 5, 8), "right": noise(2, 7)}, r"'right' of shape \[2, 7\]: expected \[batch, 8\]"),
        ({"left": noise(2, 5, 8), "right": noise(3, 8)}, r"different batch sizes \(left \[2, 5, 8\], right \[3, 8\]\)"),
        ({"left": noise(2, 5, 8), "right": "x"}, "a session received a str that is not an array"),
    ],
)
def test_a_session_checks_what_it_is_given(pair: Session, x: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        pair(x)


def test_fractions_do_not_become_integers(tmp_path: Path) -> None:
    session = written(built(Masked(), WORDS), tmp_path / "model.onnx", WORDS)
    with pytest.raises(DataError, match="received 'tokens' as float32: expected int64"):
        session({**WORDS, "tokens": WORDS["tokens"] + 0.5})
    with pytest.raises(DataError, match="received 'mask' as int64: expected bool"):
        session({**WORDS, "mask": WORDS["tokens"]})
    small = {**WORDS, "tokens": WORDS["tokens"].to(torch.int16)}
    assert np.array_equal(session(small)["output_0"], session(WORDS)["output_0"])


def test_what_gives_images_says_that_this_is_for_a_program(pair: Session) -> None:
    with pytest.raises(
        ArtifactError,
        match=r"run gives a network one image .*, and this one takes left \(any x 5 x 8\), right \(any x 8",
    ):
        pair.artifact.check_image("run")


# -- the network itself ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["rows", "sound", "pair", "by keyword"])
def test_a_session_over_a_network_takes_what_the_network_takes(case: str) -> None:
    kind, arguments, example = CASES[case]
    network = built(kind(*arguments), example)
    session, given = open_session(network), example_of(network.model, example)
    for skip in network.skips:
        with torch.no_grad():
            wanted = tensors_of(given.call(network, given.tensors, skip=skip))
        for one, other in zip(tensors_of(session(example, skip)), wanted, strict=True):
            assert np.array_equal(one, other)
    assert np.asarray(session(noise(2, 8).double().numpy())).dtype == np.float32 if case == "rows" else True


def test_what_such_a_network_refuses_is_said_with_its_shapes() -> None:
    session = open_session(built(Pair(), CASES["pair"][2]))
    with pytest.raises(ArtifactError, match=r"eager failed at depth FF with input \[2, 5, 8\]: .*missing 1 required"):
        session(noise(2, 5, 8))
    with pytest.raises(DataError, match=r"warm_up tried an image, which this network .*run each depth once"):
        session.warm_up()


def test_known_networks_take_images() -> None:
    session = open_session(ad.adapt(ad.create_model("resnet18", channels=(4, 4, 8, 8))).eval())
    with pytest.raises(DataError, match=r"shape \[2, 8\]: expected \[batch, 3, any, any\]"):
        session(noise(2, 8))
