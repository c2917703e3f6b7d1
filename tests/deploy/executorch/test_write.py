"""One .pte with every depth: what a stock ExecuTorch runtime computes with it, how large it is, and refusals."""

import json
import warnings

import pytest
import torch
from torch import nn

import adaptive_depth as ad
from adaptive_depth.deploy.artifact import Artifact
from adaptive_depth.deploy.executorch.write import write
from adaptive_depth.deploy.inputs import image_of
from adaptive_depth.errors import ExportError

pytest.importorskip("executorch")

SKIPS = ("FF", "TT")
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """A residual block with two norms: few operators, for exports are slow."""

    def __init__(self, width_in, width):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width_in, width, 3, width // width_in, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.down = nn.Conv2d(width_in, width, 1, 2, bias=False) if width > width_in else nn.Identity()
        self.end = nn.ReLU()

    def forward(self, x):
        return self.end(self.down(x) + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())))


class TwoStages(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.layer1 = nn.Sequential(Block(16, 32), Block(32, 32))
        self.layer2 = nn.Sequential(Block(32, 64), Block(64, 64))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.layer2(self.layer1(self.stem(x))).mean((2, 3)))


def network():
    """Calibrated, with norms and statistics that all differ from each other."""
    torch.manual_seed(0)
    net = ad.adapt(TwoStages(), example=X)
    net.reset_statistics(per_context=True)
    for part in net.modules():
        for buffer in (b for n, b in part.named_buffers(recurse=False) if n in ("running_mean", "running_var")):
            buffer.add_(torch.rand_like(buffer))
    for parameter in net.skip_norms.parameters():
        parameter.data.add_(torch.rand_like(parameter))
    return net


def described(net, form="shared"):
    return Artifact("executorch", net.stages.to_json(), SKIPS, X.shape, form=form, labels=("é", "猫"))


def loaded(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from executorch.runtime import Runtime
    return Runtime.get().load_program(path)


@pytest.fixture(scope="module")
def files(made_once):
    """The network, and a file of each form."""
    net = network()

    def make(folder):
        for form in ("shared", "folded"):
            write(net, folder / f"{form}.pte", image_of(X), described(net, form), form=form)
        assert net.training  # as it came

    folder = made_once("pte_of_both_forms", make)
    return net.eval(), folder


@pytest.mark.parametrize("form", ["shared", "folded"])
def test_a_stock_runtime_computes_every_depth(files, form):
    net, folder = files
    program = loaded(folder / f"{form}.pte")
    assert program.method_names == {*SKIPS, "artifact"}
    for skip in SKIPS:
        with torch.no_grad():
            expected = net(X, skip=skip)
        (got,) = program.load_method(skip).execute([X])
        assert (got - expected).abs().max() <= 1e-4 * expected.std()


def test_the_description_survives(files):
    net, folder = files
    (text,) = loaded(folder / "shared.pte").load_method("artifact").execute([])
    assert Artifact.from_json(text) == Artifact.from_json(json.loads(json.dumps(described(net).to_json())))
    assert Artifact.from_json(text).labels == ("é", "猫")


def test_weights_are_stored_once_in_the_shared_form(files):
    """Folded, the two depths have convolutions of their own in the mandatory blocks."""
    net, folder = files
    size = {form: (folder / f"{form}.pte").stat().st_size for form in ("shared", "folded")}
    mandatory = (net.model.layer1[0], net.model.layer2[0])
    doubled = sum(p.numel() * 4 for block in mandatory for p in block.parameters() if p.ndim == 4)
    assert 0.8 * doubled < size["folded"] - size["shared"] < doubled


def test_nothing_is_left_beside_the_file(files):
    assert sorted(path.name for path in files[1].iterdir()) == ["folded.pte", "shared.pte"]


def test_an_unknown_form(tmp_path):
    net = network()
    with pytest.raises(ExportError, match="form='both': expected 'shared' or 'folded'"):
        write(net, tmp_path / "model.pte", image_of(X), described(net), form="both")


class Inverting(nn.Module):
    def forward(self, x):
        return x + 0 * torch.linalg.inv(x + 9 * torch.eye(x.shape[-1]))


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else x + 1


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Inverting(), r"ExecuTorch cannot take the operator aten::linalg_inv_ex of layer2\.1\.end: Operator torch"),
        (Branching(), r"torch\.export cannot trace layer2\.1\.end: Could not guard on data-dependent"),
    ],
)
def test_what_cannot_be_exported_is_named_with_its_block(tmp_path, module, message):
    net = network()
    net.model.layer2[1].end = module
    net.forget_views()
    (tmp_path / "model.pte").write_text("old")
    with pytest.raises(ExportError, match=message):
        write(net, tmp_path / "model.pte", image_of(X), described(net), form="shared")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
    with torch.no_grad():
        net(X)  # no hook is left behind
