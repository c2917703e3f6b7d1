"""Saving and loading: bit for bit, in one step, and never by running code."""

import hashlib
import json
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

import adaptive_depth as ad
from adaptive_depth.core import saving
from adaptive_depth.files import writing
from adaptive_depth.hub import folder as folders
from adaptive_depth.models import Source

X = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
SMALL = X[:, :, :8, :8]
ARGUMENTS = {"num_classes": 5, "channels": [8, 8, 16, 16]}


@pytest.fixture
def network(randomised) -> ad.AdaptiveNetwork:
    return randomised(ad.adapt(ad.create_model("resnet18", **ARGUMENTS))).eval()


def outputs(network: ad.AdaptiveNetwork, x: Tensor = X) -> dict[str, Tensor]:
    with torch.no_grad():
        return {skip: network(x, skip=skip) for skip in network.skips}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def weights_of(folder: Path) -> Path:
    return folder / json.loads((folder / "network.json").read_text())["weights"]


def edit(folder: Path, **changes: object) -> None:
    file = folder / "network.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# -- the round trip -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_depth_comes_back_bit_for_bit(network, tmp_path: Path, dtype, calibrated: bool, training: bool) -> None:
    if calibrated:
        ad.calibrate(network, [torch.randn(4, 3, 32, 32)])
    network.to(dtype)
    expected = outputs(network, X.to(dtype))
    folder = ad.save(network.train(training), str(tmp_path / "a" / "b"))
    assert folder == tmp_path / "a" / "b"
    again = ad.load(folder)
    assert type(again) is ad.AdaptiveNetwork
    assert type(again.model) is type(network.model)
    assert not any(module.training for module in again.modules())
    assert again.calibrated is calibrated
    assert again.stages == network.stages
    assert again.source == network.source == Source("resnet18", ARGUMENTS)
    assert same(outputs(again, X.to(dtype)), expected)
    assert same(again.state_dict(), network.state_dict())
    assert {tensor.dtype for tensor in again.state_dict().values() if tensor.is_floating_point()} == {dtype}


def test_half_precision(network, tmp_path: Path) -> None:
    ad.calibrate(network, [torch.randn(4, 3, 32, 32)])
    ad.save(network.half(), tmp_path)
    again = ad.load(tmp_path)
    assert same(again.state_dict(), network.state_dict())
    assert again.model.conv1.weight.dtype is torch.float16


@pytest.mark.parametrize(
    "make",
    [
        lambda: ResNet(BasicBlock, [2, 2, 2, 2], num_classes=5),
        lambda: timm.create_model("resnet18", num_classes=5, in_chans=3),
    ],
)
def test_models_that_others_built_by_name(randomised, tmp_path: Path, make: Callable) -> None:
    network = randomised(ad.adapt(make())).eval()
    again = ad.load(ad.save(network, tmp_path))
    assert same(outputs(again), outputs(network))
    assert json.loads((tmp_path / "network.json").read_text())["source"]["arguments"] == {"num_classes": 5}


def test_a_loaded_network_can_be_saved_and_trained_again(network, tmp_path: Path) -> None:
    first = ad.load(ad.save(network, tmp_path / "1"))
    second = ad.load(ad.save(first, tmp_path / "2"))
    assert first.proven  # before it was saved; the first input need not prove it again
    assert second.proven
    assert same(outputs(second), outputs(network))
    ad.SelfDistillation(second.train())(X, torch.tensor([0, 1])).total.backward()


def test_a_model_of_the_users_own_is_given_to_load(nets, tmp_path: Path, unchanged) -> None:
    for name in ("chain", "transformer"):
        network = getattr(nets, name)().eval()
        folder = ad.save(network, tmp_path / name)
        kind = type(network.model).__name__
        said = (
            f"contains a {kind} that no name in timm, torchvision or transformers builds: pass an instance of it, "
            f"load('{folder}', model="
        )
        with pytest.raises(ad.CheckpointError, match=re.escape(said)):
            ad.load(folder)
        model = type(network.model)(*(nets.Residual() for _ in range(4))) if name == "chain" else type(network.model)()
        again = ad.load(folder, model=model)
        assert again.model is model
        assert again.stages == network.stages
        assert same(outputs(again, SMALL), outputs(network, SMALL))


def test_a_class_instead_of_a_model_is_refused(nets, tmp_path: Path) -> None:
    folder = ad.save(nets.chain(), tmp_path / "run")
    with pytest.raises(ad.CheckpointError, match=r"model=Residual is a class: expected an instance, Residual\(...\)"):
        ad.load(folder, nets.Residual)


def test_a_model_of_another_class_is_refused_unless_it_is_said_to_be_the_same(nets, tmp_path: Path, unchanged) -> None:
    """The weights fit, and what is computed is another thing."""
    network = nets.chain().eval()

    class Twice(type(network.model)):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    ad.save(network, tmp_path / "saved")
    network.save_pretrained(tmp_path / "hub")
    given = Twice(*(nets.Residual() for _ in range(4)))
    for reader, name, file in (
        (ad.load, "saved", "network.json"),
        (ad.AdaptiveNetwork.from_pretrained, "hub", "config.json"),
    ):
        folder = tmp_path / name
        said = f"{folder / file} contains a Chain, but the given model is a Twice: "
        way = rf"load|from_pretrained\('{folder}', model=\.\.\., another_class=True\)"
        with unchanged(given), pytest.raises(ad.CheckpointError, match=rf"{re.escape(said)}.*({way})"):
            reader(folder, model=given)
        again = reader(folder, model=Twice(*(nets.Residual() for _ in range(4))), another_class=True)
        assert type(again.model) is Twice
        assert torch.equal(again(SMALL), 2 * network(SMALL))
    edit(tmp_path / "saved", model="model")  # what a folder that names no class is read as
    assert type(ad.load(tmp_path / "saved", model=given).model) is Twice


def test_a_replaced_head_asks_for_the_model_and_takes_it(tmp_path: Path) -> None:
    model = ad.create_model("resnet18", channels=[8, 8, 8, 8])
    model.fc = nn.Linear(8, 3)
    network = ad.adapt(model).eval()
    ad.save(network, tmp_path)
    with pytest.raises(ad.CheckpointError, match="pass an instance of it"):
        ad.load(tmp_path)
    other = ad.create_model("resnet18", channels=[8, 8, 8, 8], num_classes=3)
    assert same(outputs(ad.load(tmp_path, model=other)), outputs(network))


class Tied(nn.Module):
    """An embedding and a head with one weight; and a buffer that is a part of another."""

    def __init__(self, nets) -> None:
        super().__init__()
        self.embed = nn.Linear(16, 16, bias=False)
        self.blocks = nn.ModuleList([nets.PreNorm(), nets.PreNorm()])
        self.head = nn.Linear(16, 16, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("table", torch.randn(6, 16))
        self.register_buffer("row", self.table[2:4])

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.table + self.row.sum()
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def test_tied_weights_are_kept_once(nets, tmp_path: Path) -> None:
    stages = [ad.Stage(("blocks.0",), ("blocks.1",), channel_dim=-1)]
    x = torch.randn(2, 6, 16)
    network = ad.adapt(Tied(nets), stages, example=x).eval()
    ad.save(network, tmp_path)
    stored = load_file(weights_of(tmp_path))
    assert "model.embed.weight" in stored
    assert "model.head.weight" not in stored
    assert stored["model.row"].shape == (2, 16)
    assert json.loads((tmp_path / "network.json").read_text())["ties"] == {"model.head.weight": "model.embed.weight"}
    again = ad.load(tmp_path, model=Tied(nets))
    assert again.model.head.weight is again.model.embed.weight
    assert same(outputs(again, x), outputs(network, x))


def test_calibration_adds_less_than_4_percent_to_resnet50(tmp_path: Path) -> None:
    network = ad.adapt(ad.create_model("resnet50")).half()  # half the bytes, the same share
    before = weights_of(ad.save(network, tmp_path)).stat().st_size
    network.reset_statistics(per_context=True)
    after = weights_of(ad.save(network, tmp_path)).stat().st_size
    assert 1.01 < after / before < 1.04


def test_files_are_as_readable_as_any_other(network, tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        ad.save(network, tmp_path)
    finally:
        os.umask(mask)
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o644}


# -- precisions -----------------------------------------------------------------------------------------------------


class Mixed(nn.Module):
    """Tensors of every kind that a model may hold, in blocks of a chain."""

    KINDS = (torch.float16, torch.float64, torch.complex64, torch.complex128, torch.int8, torch.uint8, torch.bool)

    def __init__(self, nets) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(*(nets.Residual() for _ in range(4)))
        for kind in self.KINDS:
            self.register_buffer(str(kind).replace(".", "_"), torch.tensor([0, 1, 0], dtype=kind))
        self.codes = nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)
        self.register_buffer("table", torch.arange(3) / 3, persistent=False)
        self.register_buffer("rates", torch.arange(3) / 3, persistent=False)
        self.tied = self.stem.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.norm(self.stem(x)))


def precisions(module: nn.Module) -> dict[str, torch.dtype]:
    return {name: tensor.dtype for name, tensor in [*module.named_parameters(), *module.named_buffers()]}


@pytest.mark.parametrize("reader", ["load", "from_pretrained"])
def test_every_tensor_comes_back_in_its_own_precision(nets, tmp_path: Path, reader: str) -> None:
    model = Mixed(nets)
    for module in (model.stem, *model.blocks):
        module.bfloat16()
    model.blocks[0].norm.float()
    model.blocks[1].norm.double()
    model.rates.data = model.rates.bfloat16()
    network = ad.adapt(model, [ad.Stage(("blocks.0", "blocks.1"), ("blocks.2", "blocks.3"))]).eval()
    if reader == "load":
        again = ad.load(ad.save(network, tmp_path), model=Mixed(nets))
    else:
        network.save_pretrained(tmp_path)
        again = ad.AdaptiveNetwork.from_pretrained(tmp_path, model=Mixed(nets))
    assert len(set(precisions(network).values())) == 10
    assert precisions(again) == precisions(network)
    assert same(again.state_dict(), network.state_dict())
    assert again.model.tied is again.model.stem.weight


def test_a_model_built_by_name_has_every_precision_too(tmp_path: Path) -> None:
    model = ad.create_model("resnet18", **ARGUMENTS).half()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    network = ad.adapt(model).eval()
    again = ad.load(ad.save(network, tmp_path))
    assert again.model.conv1.weight.dtype is torch.float16
    assert precisions(again) == precisions(network)
    assert same(again.state_dict(), network.state_dict())


def test_buffers_that_no_file_holds_follow_an_older_file(nets, tmp_path: Path) -> None:
    model = nets.Chain(*(nets.Residual() for _ in range(4))).bfloat16()
    network = ad.adapt(model, nets.chain_stages()).eval()
    ad.save(network, tmp_path)
    model = nets.Chain(*(nets.Residual() for _ in range(4)))
    model.register_buffer("table", torch.ones(2), persistent=False)
    assert ad.load(tmp_path, model=model).model.table.dtype is torch.bfloat16


# -- wrappers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, lambda n: nn.DataParallel(torch.compile(n))])
def test_a_wrapped_network_is_saved_as_itself(network, tmp_path: Path, wrap: Callable) -> None:
    again = ad.load(ad.save(wrap(network), tmp_path))
    assert same(again.state_dict(), network.state_dict())
    other = ad.load(tmp_path, model=wrap(ad.create_model("resnet18", **ARGUMENTS)))
    assert type(other.model) is type(network.model)
    assert same(other.state_dict(), network.state_dict())


def test_parts_that_were_compiled_later_have_their_plain_names(network, tmp_path: Path) -> None:
    expected = dict(network.state_dict())
    fingerprint = network.fingerprint
    network.model.layer1 = torch.compile(network.model.layer1)
    assert network.fingerprint == fingerprint
    assert same(ad.load(ad.save(network, tmp_path)).state_dict(), expected)


def test_a_wrapped_network_is_no_plain_one_elsewhere(network) -> None:
    with pytest.raises(ad.AdaptiveDepthError, match="a OptimizedModule: pass the adapted network inside it"):
        ad.evaluate(torch.compile(network), [(X, torch.tensor([0, 1]))])
    with pytest.raises(ad.TrainingError, match="inside a OptimizedModule, where it would train one depth only"):
        ad.train(torch.compile(network), [(X, torch.tensor([0, 1]))])


# -- more than tensors ----------------------------------------------------------------------------------------------


class Scaled(nn.Conv2d):
    """A layer with an extra state, as those of quantisers are."""

    def __init__(self) -> None:
        super().__init__(8, 8, 3, padding=1)
        self.scale: object = None

    def get_extra_state(self) -> object:
        return self.scale

    def set_extra_state(self, state: object) -> None:
        self.scale = state


def scaled(nets, *scales: object) -> nn.Module:
    model = nets.Chain(*(nets.Residual() for _ in range(4)))
    for block, scale in zip(model.blocks, scales, strict=True):
        block.conv = Scaled()
        block.conv.scale = scale
    return model


SCALES = (
    None,
    torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
    {"amax": torch.ones(2), "axes": (0, [1, "x"]), "on": True, "more": {"a": (torch.zeros(1), torch.ones(1))}},
    3,
)


def equal(one: object, other: object) -> bool:
    leaves, spec = torch.utils._pytree.tree_flatten(one)
    more, other_spec = torch.utils._pytree.tree_flatten(other)
    return spec == other_spec and all(
        torch.equal(a, b) and a.dtype == b.dtype if isinstance(a, Tensor) else a == b and type(a) is type(b)
        for a, b in zip(leaves, more, strict=True)
    )


@pytest.mark.parametrize("reader", ["load", "from_pretrained"])
def test_the_extra_state_of_modules_comes_back(nets, tmp_path: Path, reader: str) -> None:
    network = ad.adapt(scaled(nets, *SCALES), nets.chain_stages()).eval()
    if reader == "load":
        again = ad.load(ad.save(network, tmp_path), model=scaled(nets, *([None] * 4)))
    else:
        network.save_pretrained(tmp_path)
        again = ad.AdaptiveNetwork.from_pretrained(tmp_path, model=scaled(nets, *([None] * 4)))
    assert equal([block.conv.scale for block in again.model.blocks], list(SCALES))


def test_an_extra_state_of_any_numbers_comes_back(nets, tmp_path: Path) -> None:
    scales = ({"amax": math.inf, "low": [-math.inf, 0.5]}, 2**200, -(2**64), (True, 2**53))
    network = ad.adapt(scaled(nets, *scales), nets.chain_stages()).eval()
    again = ad.load(ad.save(network, tmp_path), model=scaled(nets, *([None] * 4)))
    assert equal([block.conv.scale for block in again.model.blocks], list(scales))


def test_an_extra_state_that_holds_itself_is_refused(nets, tmp_path: Path) -> None:
    scale: list[object] = [1]
    scale.append({"a": scale})
    network = ad.adapt(scaled(nets, scale, None, None, None), nets.chain_stages()).eval()
    with pytest.raises(ad.CheckpointError, match=r"conv._extra_state contains values nested more than 24 levels deep"):
        ad.save(network, tmp_path)
    deep: object = 1.0
    for _ in range(12):
        deep = {"a": [deep]}
    network.model.blocks[0].conv.scale = deep
    again = ad.load(ad.save(network, tmp_path), model=scaled(nets, *([None] * 4)))
    assert again.model.blocks[0].conv.scale == deep


class Picky(Scaled):
    def set_extra_state(self, state: object) -> None:
        if state != 3:
            raise KeyError(state)


def test_what_a_module_says_of_its_extra_state_is_told(nets, tmp_path: Path) -> None:
    ad.save(ad.adapt(scaled(nets, 4, None, None, None), nets.chain_stages()).eval(), tmp_path)
    model = scaled(nets, *([None] * 4))
    model.blocks[0].conv = Picky()
    with pytest.raises(
        ad.CheckpointError, match=r"do not fit the model \(4\); pass the architecture that was saved, load"
    ):
        ad.load(tmp_path, model=model)


def test_tied_complex_numbers_come_back(nets, tmp_path: Path) -> None:
    def model() -> nn.Module:
        chain = nets.Chain(*(nets.Residual() for _ in range(4)))
        chain.one = nn.Parameter(torch.randn(3, dtype=torch.complex128))
        chain.two = chain.one
        return chain

    network = ad.adapt(model(), nets.chain_stages()).eval()
    again = ad.load(ad.save(network, tmp_path), model=model())
    assert again.model.two is again.model.one
    assert torch.equal(again.model.one, network.model.one)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"complex128": ["model.x"]}, "declares complex numbers in 'model.x', which the weights do not have"),
        ({"complex128": ["model.stem.weight"]}, "complex numbers in 'model.stem.weight', which the weights do not"),
        ({"complex128": "model.one"}, "is damaged: description .* complex128: Input should be a valid (tuple|array)"),
        ({"passing": {"a": "int64"}}, "is damaged: description .* passing.a: Input should be one of float"),
        ({"passing": {"a": "os"}}, "is damaged: description .* passing.a: Input should be one of float"),
        ({"extra_state": []}, "is damaged: description .* extra_state: Input should be a"),
        ({"extra_state": {"model.stem.weight": {"tuple": [8, 3, 3, 3]}}}, "stem.weight is not a tensor there and"),
        ({"extra_state": {"model.stem._extra_state": 1}}, r"1 unexpected \(model.stem._extra_state\)"),
    ],
)
def test_what_goes_along_is_checked_before_the_model_changes(
    nets, tmp_path: Path, unchanged, changes: dict, said: str
) -> None:
    def model() -> nn.Module:
        return nets.Chain(*(nets.Residual() for _ in range(4)))

    ad.save(ad.adapt(model(), nets.chain_stages()).eval(), tmp_path)
    edit(tmp_path, **changes)
    given = model()
    with unchanged(given), pytest.raises(ad.CheckpointError, match=said):
        ad.load(tmp_path, model=given)


@pytest.mark.parametrize("scale", [{1, 2}, {1: 2.0}, torch.float16, Path("x"), {"a": [object()]}])
def test_what_cannot_be_kept_without_running_code_is_refused(nets, tmp_path: Path, scale: object) -> None:
    network = ad.adapt(scaled(nets, scale, None, None, None), nets.chain_stages()).eval()
    said = r"model.blocks.0.conv._extra_state contains a \w+, which cannot be saved such that loading runs no code"
    for write in (ad.save, ad.AdaptiveNetwork.save_pretrained):
        with pytest.raises(ad.CheckpointError, match=said):
            write(network, tmp_path / "a")
        assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("change", [{"dict": 1}, {"tensor": "x"}, {}, {"a": 1, "b": 2}, {"tensor": []}])
def test_a_damaged_extra_state_is_told(nets, tmp_path: Path, change: object) -> None:
    network = ad.adapt(scaled(nets, *SCALES), nets.chain_stages()).eval()
    ad.save(network, tmp_path)
    edit(tmp_path, extra_state={"model.blocks.0.conv._extra_state": change})
    with pytest.raises(ad.CheckpointError, match="extra state is damaged"):
        ad.load(tmp_path, model=scaled(nets, *([None] * 4)))


class Odd(Tensor):
    """As a library for quantised weights has them."""


def test_tensors_that_are_no_plain_ones_are_refused(nets, tmp_path: Path) -> None:
    model = nets.Chain(*(nets.Residual() for _ in range(4)))
    network = ad.adapt(model, nets.chain_stages()).eval()
    for odd in (torch.eye(2).to_sparse(), torch.ones(2).as_subclass(Odd), torch.ones(2, device="meta")):
        model.register_buffer("odd", odd)
        with pytest.raises(
            ad.CheckpointError, match=r"model.odd is not a plain tensor \(.*\), so the file cannot store it"
        ):
            ad.save(network, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_that_never_ran_is_told(nets, tmp_path: Path) -> None:
    model = nets.Chain(*(nets.Residual() for _ in range(4)))
    network = ad.adapt(model, nets.chain_stages()).eval()
    model.head = nn.LazyLinear(3)
    for call in (lambda: ad.adapt(model, nets.chain_stages()), lambda: ad.find_stages(model)):
        said = (
            r"received a Chain that never ran: head.weight, head.bias have no shape yet; first run it once on an input"
        )
        with pytest.raises(ad.StagesError, match=said):
            call()
    with pytest.raises(ad.CheckpointError, match=r"that never ran: model\.head\.weight"):
        ad.save(network, tmp_path)
    other = nets.Chain(*(nets.Residual() for _ in range(4)))
    ad.save(ad.adapt(other, nets.chain_stages()).eval(), tmp_path / "other")
    with pytest.raises(ad.CheckpointError, match=r"load received a Chain that never ran: head\.weight"):
        ad.load(tmp_path / "other", model=model)
    shutil.rmtree(tmp_path / "other")
    assert isinstance(model.head, nn.LazyLinear)
    model.head(torch.ones(1, 2))
    ad.save(network, tmp_path)


# -- saving in one step ---------------------------------------------------------------------------------------------


def test_saving_again_replaces_and_leaves_the_users_files(network, tmp_path: Path) -> None:
    ad.save(network, tmp_path)
    mine = [tmp_path / name for name in ("weights-best.safetensors", "notes.txt", "other.json")]
    for file in mine:
        file.write_text("mine")
    old = weights_of(tmp_path)
    with torch.no_grad():
        network.model.fc.bias.add_(1.0)
    ad.save(network, tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([*mine, tmp_path / "network.json", weights_of(tmp_path)])
    assert not old.exists()
    assert same(outputs(ad.load(tmp_path)), outputs(network))
    ad.save(network, tmp_path)  # the same content, under the same name
    assert same(outputs(ad.load(tmp_path)), outputs(network))


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def replace_the_nth(n: int, fail: Callable) -> Callable:
    calls, real = [], Path.replace

    def replace(self: Path, target: Path) -> Path:
        calls.append(target)
        return fail() if len(calls) == n else real(self, target)

    return replace


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("where", "fail", "error"),
    [
        ("save_file", full, ad.CheckpointError),
        ("save_file", interrupted, KeyboardInterrupt),
        ("replace 1", full, ad.CheckpointError),
        ("replace 2", full, ad.CheckpointError),
        ("replace 2", interrupted, KeyboardInterrupt),
        ("fsync", full, ad.CheckpointError),
        ("write_atomically", full, ad.CheckpointError),
    ],
)
def test_a_failure_in_the_middle_leaves_the_old_network(
    network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, fail: Callable, error: type, first: bool
) -> None:
    expected = outputs(network)
    if not first:
        ad.save(network, tmp_path)
    before = sorted(tmp_path.iterdir())
    with torch.no_grad():
        network.model.fc.bias.add_(1.0)
    if where.startswith("replace"):
        monkeypatch.setattr(Path, "replace", replace_the_nth(int(where[-1]), fail))
    elif where == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(saving if where == "write_atomically" else folders, where, fail)
    said = f"{re.escape(str(tmp_path))} cannot be written .*No space left.*: expected a folder with free space; its"
    with pytest.raises(error, match=said if error is ad.CheckpointError else "^$"):
        ad.save(network, tmp_path)
    monkeypatch.undo()
    assert sorted(tmp_path.iterdir()) == before
    if not first:
        assert same(outputs(ad.load(tmp_path)), expected)
    ad.save(network, tmp_path)
    assert same(outputs(ad.load(tmp_path)), outputs(network))


def test_a_failure_while_saving_the_same_again(network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ad.save(network, tmp_path)
    monkeypatch.setattr(saving, "write_atomically", full)
    with pytest.raises(ad.CheckpointError, match="No space left"):
        ad.save(network, tmp_path)
    assert same(outputs(ad.load(tmp_path)), outputs(network))


TWO = """
import sys, torch, adaptive_depth as ad
torch.set_num_threads(1)
torch.manual_seed(int(sys.argv[2]))
network = ad.adapt(ad.create_model("resnet18", num_classes=3, channels=(4, 4, 8, 8))).eval()
print("ready", flush=True)
input()
for _ in range(40):
    with torch.no_grad():
        network.model.fc.bias.add_(1)
    ad.save(network, sys.argv[1]) if sys.argv[3] == "save" else network.save_pretrained(sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["save", "save_pretrained"])
def test_two_processes_that_save_at_once_leave_one_whole_network(tmp_path: Path, how: str) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, str(tmp_path / "x"), str(seed), how],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) for seed in (1, 2)
    ]  # fmt: skip
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.communicate("\n")
    assert [process.returncode for process in started] == [0, 0]
    ad.AdaptiveNetwork.from_pretrained(tmp_path / "x")
    names = {file.name for file in (tmp_path / "x").iterdir()}
    expected = {"network.json", weights_of(tmp_path / "x").name} if how == "save" else None
    assert names == (expected or {"config.json", "model.safetensors", "README.md"})


def test_a_save_in_the_middle_of_another_waits(network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one would delete the weights that the first one is about to name."""
    other = ad.adapt(ad.create_model("resnet18", **ARGUMENTS)).eval()
    real, started, go = saving.write_atomically, threading.Event(), threading.Event()

    def slow(path: Path, content: bytes) -> None:
        if not started.is_set():
            started.set()
            go.wait(1)
        real(path, content)

    monkeypatch.setattr(saving, "write_atomically", slow)
    first = threading.Thread(target=ad.save, args=(network, tmp_path))
    first.start()
    started.wait()
    ad.save(other, tmp_path)
    go.set()
    first.join()
    assert same(ad.load(tmp_path).state_dict(), other.state_dict())
    assert len([*tmp_path.iterdir()]) == 2


def test_who_writes_the_folder_is_named(network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaptive_depth.files._PATIENCE", 0)
    ad.save(network, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    errors: list[BaseException] = []

    def save() -> None:
        try:
            ad.save(network, tmp_path)
        except ad.CheckpointError as error:
            errors.append(error)

    with writing(tmp_path, "train", ad.CheckpointError):
        thread = threading.Thread(target=save)
        thread.start()
        thread.join()
    assert len(errors) == 1
    assert f"is being written by process {os.getpid()} on" in str(errors[0])
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_folder_that_is_a_file(network, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ad.CheckpointError, match=r"file cannot be written \(.*\): expected a folder"):
        ad.save(network, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_arguments_that_no_json_holds(tmp_path: Path) -> None:
    network = ad.adapt(ad.create_model("resnet18", channels=[8, 8, 8, 8], norm_layer=nn.BatchNorm2d))
    said = (
        r"the model's arguments .*BatchNorm2d.* cannot be written as JSON .*: build the model with arguments of plain"
    )
    with pytest.raises(ad.CheckpointError, match=said):
        ad.save(network, tmp_path)
    assert not list(tmp_path.iterdir())


# -- what cannot be loaded ------------------------------------------------------------------------------------------


def cut(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))


def rename_tensor(folder: Path, old: bytes, new: bytes) -> None:
    """Another network's weights, intact: a tensor's name is another."""
    import hashlib

    path = weights_of(folder)
    content = path.read_bytes().replace(old, new, 1)
    other = folder / f"weights-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    other.write_bytes(content)
    path.unlink()
    edit(folder, weights=other.name)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda f: [p.unlink() for p in f.iterdir()] and f.rmdir(), "is not a saved network: it does not"),
    "no json": (lambda f: (f / "network.json").unlink(), "it contains no network.json; expected a folder that save()"),
    "empty json": (lambda f: (f / "network.json").write_text(""), "network.json cannot be read"),
    "truncated json": (lambda f: cut(f / "network.json", 0.6), "it is damaged, or not a network of this library"),
    "binary json": (lambda f: (f / "network.json").write_bytes(b"\x80\x04\xff"), "network.json cannot be read"),
    "json without end": (lambda f: (f / "network.json").write_text("[" * 100_000), "network.json cannot be read"),
    "json is a folder": (
        lambda f: (f / "network.json").unlink() or (f / "network.json").mkdir(), "network.json cannot be read",
    ),
    "foreign json": (
        lambda f: (f / "network.json").write_text('{"architecture": "resnet50"}'),
        "network.json was not written by this library: expected a file with format 'adaptive-depth network'",
    ),
    "a list": (lambda f: (f / "network.json").write_text("[1, 2]"), "was not written by this library"),
    "newer": (lambda f: edit(f, version=2), "has version 2, but this library reads up to 1: pip install -U"),
    "no version": (lambda f: edit(f, version=None), "is damaged: its version is None"),
    "no stages": (lambda f: edit(f, stages=None), "stages: Input should be a valid array; received None"),
    "no ties": (lambda f: edit(f, ties=[]), "ties: Input should be an object; received []"),
    "field missing": (
        lambda f: (f / "network.json").write_text('{"format": "adaptive-depth network", "version": 1, "stages": []}'),
        "source: Field required; expected an object with source, stages, weights, ties",
    ),
    "no weights": (lambda f: weights_of(f).unlink(), "cannot be read"),
    "truncated weights": (lambda f: cut(weights_of(f), 0.7), "the weights are truncated or damaged"),
    "barely weights": (lambda f: cut(weights_of(f), 0.0001), "the weights are truncated or damaged"),
    "empty weights": (lambda f: weights_of(f).write_bytes(b""), "the weights are truncated or damaged"),
    "a huge header": (
        lambda f: weights_of(f).write_bytes(struct.pack("<Q", 2**62) + b"{}"), "the weights are truncated or damaged",
    ),
    "a flipped bit": (lambda f: flip(weights_of(f)), "does not match its name: the weights are"),
    "path traversal": (
        lambda f: edit(f, weights="../secret.safetensors"), "weights: Input should be the name of a file in the same",
    ),
    "absolute path": (lambda f: edit(f, weights="/etc/passwd"), "the same folder; received '/etc/passwd'"),
    "dots": (lambda f: edit(f, weights=".."), "cannot be read"),
    "no name": (lambda f: edit(f, weights=""), "cannot be read"),
    "a number": (lambda f: edit(f, weights=5), "weights: Input should be a valid string; received 5"),
    "a null": (lambda f: edit(f, weights="a\0b"), "the name of a file in the same folder; received 'a\\x00b'"),
    "json as weights": (lambda f: edit(f, weights="network.json"), "does not match its name"),
    "renamed tensor": (
        lambda f: rename_tensor(f, b'"model.fc.bias"', b'"model.fc.bios"'),
        "the weights do not fit the model: 1 missing (model.fc.bias), 1 unexpected (model.fc.bios)",
    ),
    "other classes": (
        lambda f: edit(f, source={"name": "resnet18", "arguments": ARGUMENTS | {"num_classes": 7}}),
        "the weights do not fit the model: model.fc.weight is [5, 16] there and [7, 16] in the model; pass the arch",
    ),
    "other depth": (
        lambda f: edit(f, source={"name": "resnet34", "arguments": ARGUMENTS}), "the weights do not fit the model: ",
    ),
    "other stages": (
        lambda f: edit(f, stages=[{"mandatory": ["layer1.0"], "skippable": ["layer1.7"]}]),
        "network.json does not fit the model: stage 'layer1' names 'layer1.7', which ResNet does not have",
    ),
    "stages of numbers": (
        lambda f: edit(f, stages=[{"mandatory": [1], "skippable": [2]}]),
        "0.mandatory.0: Input should be a valid string",
    ),
    "unknown model": (
        lambda f: edit(f, source={"name": "resnet1800", "arguments": {}}), "timm has no model 'resnet1800': similar",
    ),
    "unknown argument": (
        lambda f: edit(f, source={"name": "resnet18", "arguments": {"x": 1}}), "'resnet18' cannot be built with {'x'",
    ),
    "source is a text": (lambda f: edit(f, source="resnet18"), "Input should be an object; received 'resnet18'"),
    "name is a number": (
        lambda f: edit(f, source={"name": 5, "arguments": {}}), "source.name: Input should be a valid string",
    ),
    "pretrained": (
        lambda f: edit(f, source={"name": "resnet18", "arguments": ARGUMENTS | {"pretrained": True}}),
        "requests pretrained, but a saved network has its own weights: it is damaged or was tampered with",
    ),
    "dangling tie": (
        lambda f: edit(f, ties={"model.fc.weight": "model.x"}), "ties 'model.fc.weight' to 'model.x', which the w",
    ),
    "tie to a list": (lambda f: edit(f, ties={"a": [1]}), "ties.a: Input should be a valid string; received [1]"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_told(network, tmp_path: Path, name: str) -> None:
    folder = ad.save(network, tmp_path / "saved")
    damage, said = DAMAGE[name]
    damage(folder)
    with pytest.raises(ad.CheckpointError, match=re.escape(said)):
        ad.load(folder)


@pytest.mark.parametrize("field", ["source", "stages", "weights", "ties", "version", "format"])
@pytest.mark.parametrize(
    "junk", [None, 5, 1.5, "x", [], ["x"], [None], [{}], {"a": 1}, {"a": [1]}, {"name": "resnet18"}, "network.json"]
)
def test_junk_is_never_more_than_a_checkpoint_error(network, tmp_path: Path, field: str, junk: object) -> None:
    folder = ad.save(network, tmp_path)
    edit(folder, **{field: junk})
    with pytest.raises(ad.CheckpointError, match=re.escape(str(tmp_path))):
        ad.load(folder)


def test_a_model_that_does_not_fit_is_left_alone(nets, network, tmp_path: Path, unchanged) -> None:
    folder = ad.save(network, tmp_path)
    other = timm.create_model("resnet18", channels=(8, 8, 16, 16), num_classes=7).double().train()
    with (
        unchanged(other),
        pytest.raises(ad.CheckpointError, match=r"model\.fc\.weight is \[5, 16\] there and \[7, 16\]"),
    ):
        ad.load(folder, model=other)
    shorter = timm.create_model("resnet18", channels=(8, 8, 16, 16), num_classes=5, layers=(1, 2, 2, 2))
    with unchanged(shorter), pytest.raises(ad.CheckpointError, match=r"names 'layer1\.1', which ResNet does not have"):
        ad.load(folder, model=shorter)


# -- no code runs ---------------------------------------------------------------------------------------------------


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_a_pickle_is_not_opened(network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, sprung = ad.save(network, tmp_path / "saved"), tmp_path / "sprung"
    for name in ("network.pkl", "model.pt", "pytorch_model.bin", "weights.pth"):
        torch.save(Trap(sprung), folder / name)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was opened"))
    expected = outputs(network)
    assert same(outputs(ad.load(folder)), expected)
    good = (folder / "network.json").read_text()
    for arguments in (
        {"checkpoint_path": str(folder / "weights.pth")},
        {"pretrained": True, "pretrained_cfg_overlay": {"file": str(folder / "weights.pth")}},
        {"pretrained_cfg": {"file": str(folder / "weights.pth")}},
    ):
        edit(folder, source={"name": "resnet18", "arguments": ARGUMENTS | arguments})
        with pytest.raises(ad.CheckpointError, match="has its own weights"):
            ad.load(folder)
    for name in ("weights.pth", "network.pkl"):
        (folder / "network.json").write_text(good)
        edit(folder, weights=name)
        with pytest.raises(ad.CheckpointError, match="does not match its name"):
            ad.load(folder)
    torch.save(Trap(sprung), folder / "network.json")
    with pytest.raises(ad.CheckpointError, match=r"network\.json cannot be read"):
        ad.load(folder)
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("vit_giant_patch14_224", {}, "far larger than its weights"),  # 3.6 GB
        ("resnet18", ARGUMENTS | {"num_classes": 10**9}, "requests 'resnet18' with the number 1000000000"),
        ("resnet18", ARGUMENTS | {"layers": [16000, 1, 1, 1]}, "far larger than its weights"),
        ("vit_tiny_patch16_224", {"depth": 10**9}, "no side of its weights is longer than 16384"),
        ("resnet18", {"num_classes": 5}, "the weights do not fit the model"),  # 64 channels and more, not 8
    ],
)
def test_a_model_larger_than_its_weights_is_not_built(network, tmp_path: Path, monkeypatch, name, arguments, said):
    folder, made = ad.save(network, tmp_path), []
    build = folders.create_model

    def watched(*args, **kwargs):
        made.append(torch.empty(0).device.type)
        return build(*args, **kwargs)

    monkeypatch.setattr(folders, "create_model", watched)
    ad.load(folder)
    assert made == ["meta", "cpu"]  # what the whole file asks for is built, once it is known to fit
    made.clear()
    edit(folder, source={"name": name, "arguments": arguments})
    with pytest.raises(ad.CheckpointError, match=said):
        ad.load(folder)
    assert set(made) <= {"meta"}  # where tensors take no memory


def test_a_model_that_cannot_be_built_without_memory_is_bounded(tmp_path: Path) -> None:
    network = ad.adapt(ad.create_model("torchvision/regnet_y_400mf", num_classes=4)).eval()
    folder = ad.save(network, tmp_path)
    assert same(ad.load(folder).state_dict(), network.state_dict())
    edit(folder, source={"name": "torchvision/regnet_y_128gf", "arguments": {}})  # 645 million parameters
    with pytest.raises(ad.CheckpointError, match="far larger than its weights"):
        ad.load(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shape": [2**62, 4]}, "cannot be read"),
        ({"data_offsets": [0, 2**62]}, "cannot be read"),
        ({"dtype": "X9"}, "cannot be read"),
        ({"shape": [1, 5]}, r"model.fc.bias is \[1, 5\] there and \[5\] in the model"),
    ],
)
def test_a_header_that_lies_is_found_although_the_digest_is_right(network, tmp_path: Path, change, said) -> None:
    folder = ad.save(network, tmp_path)
    content = weights_of(folder).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["model.fc.bias"] |= change
    text = json.dumps(header).encode()
    lying = struct.pack("<Q", len(text)) + text + content[8 + length :]
    name = f"weights-{hashlib.sha256(lying).hexdigest()[:16]}.safetensors"
    (folder / name).write_bytes(lying)
    edit(folder, weights=name)
    with pytest.raises(ad.CheckpointError, match=said):
        ad.load(folder)
