"""Weights in files of others."""

import argparse
import enum
import json
import math
import re
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import adaptive_depth as ad
from adaptive_depth.weights import first_not_finite, load_weights, read_state_dict

SMALL = {"channels": (4, 4, 8, 8)}


def small(classes: int = 3) -> nn.Module:
    return ad.create_model("resnet18", num_classes=classes, **SMALL)


State = dict[str, Tensor]


def renamed(state: State, prefix: str = "", **inside: str) -> State:
    """A state dict with a prefix, and with something behind a module's name."""
    for module, more in inside.items():
        state = {name.replace(f"{module}.", f"{module}.{more}.", 1): tensor for name, tensor in state.items()}
    return {prefix + name: tensor for name, tensor in state.items()}


def averaged(state: State) -> State:
    return {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def same(model: nn.Module, state: State) -> bool:
    own = model.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("kind", ["pth", "safetensors", "wrapped"])
def test_all_but_the_head_is_taken_over(tmp_path, kind):
    trained = ad.create_model("resnet18", num_classes=7, **SMALL)
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(trained.state_dict(), path)
    else:
        torch.save({"state_dict": trained.state_dict()} if kind == "wrapped" else trained.state_dict(), path)
    model = ad.create_model("resnet18", num_classes=3, **SMALL)
    before = model.fc.weight.clone()
    assert ad.load_weights(model, path) == ["fc.weight", "fc.bias"]
    assert torch.equal(model.fc.weight, before)
    assert torch.equal(model.layer2[1].conv1.weight, trained.layer2[1].conv1.weight)
    network = ad.adapt(model)
    norm = trained.layer1[0].bn1
    assert torch.equal(network.skip_norms.layer1.get_submodule("0.bn1").weight, norm.weight)  # the copies start as it


def test_old_files_have_no_count_of_batches(tmp_path, caplog):
    """Files of torch before 0.4.1, which here 21 of 128 tensors."""
    trained = small()
    state = {name: each for name, each in trained.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "w.pth")
    assert (len(trained.state_dict()), len(state)) == (128, 107)
    model = small()
    assert ad.load_weights(model, tmp_path / "w.pth") == []
    assert same(model, trained.state_dict())
    assert caplog.text == ""


def test_weights_of_another_model_change_nothing(tmp_path, unchanged):
    torch.save(ad.create_model("resnet18", channels=(16, 16, 16, 16)).state_dict(), tmp_path / "w.pth")
    model = ad.create_model("resnet18", **SMALL)
    with (
        unchanged(model),
        pytest.raises(ad.CheckpointError, match=r"is from another model: \d+ of its 128 tensors fit the model's 128"),
    ):
        ad.load_weights(model, tmp_path / "w.pth")
    (tmp_path / "x.pth").write_text("x")
    with unchanged(model), pytest.raises(ad.CheckpointError, match=r"x.pth (cannot be read|holds more than tensors)"):
        ad.load_weights(model, tmp_path / "x.pth")


# -- names, as wrappers and trainers leave them ---------------------------------------------------------------------

WRAPPED = {
    "compiled": (lambda s: renamed(s, "_orig_mod."), "dropped '_orig_mod.' from the names"),
    "DDP": (lambda s: renamed(s, "module."), "dropped 'module.' from the names"),
    "compiled DDP": (lambda s: renamed(s, "_orig_mod.module."), "dropped '_orig_mod.module.' from the names"),
    "a part compiled": (lambda s: renamed(s, layer1="_orig_mod"), "dropped '_orig_mod' from the names"),
    "parts of an attribute": (
        lambda s: renamed(s, "net.", layer2="_orig_mod", layer3="module"),
        "dropped 'net.', '_orig_mod' and 'module' from the names",
    ),
    "FSDP": (
        lambda s: renamed(s, "_fsdp_wrapped_module.", layer1="_fsdp_wrapped_module._checkpoint_wrapped_module"),
        "dropped '_fsdp_wrapped_module' and '_checkpoint_wrapped_module' from the names",
    ),
    "averaged": (
        lambda s: {"n_averaged": torch.tensor(3), **renamed(s, "module.")},
        "dropped 'module.' from the names; ignored 1 other tensors (n_averaged)",
    ),
    "Lightning": (
        lambda s: {
            "state_dict": {**renamed(s, "backbone."), "criterion.weight": torch.ones(3), "f1.tp": torch.ones(3)},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
            "epoch": 3,
        },
        "took 'state_dict:backbone'; dropped 'backbone.' from the names; ignored 2 other tensors (criterion.weight, f1",
    ),
    "DeepSpeed": (lambda s: {"module": s, "global_steps": 3}, "took 'module'"),
    "an average alone": (lambda s: {"ema": {"module": s, "decay": 0.99}}, "took 'ema/module'"),
    "timm": (
        lambda s: {"state_dict": s, "state_dict_ema": averaged(s), "arch": "resnet18", "epoch": 1},
        "took 'state_dict', not 'state_dict_ema' (entry= or --weights-entry)",
    ),
    "torchvision": (
        lambda s: {"model": s, "model_ema": {"n_averaged": torch.tensor(1), **renamed(averaged(s), "module.")}},
        "took 'model', not 'model_ema:module' (entry=",
    ),
    "BasicSR": (lambda s: {"params": s, "params_ema": averaged(s)}, "took 'params', not 'params_ema' (entry="),
    "an average beside": (
        lambda s: {**s, **renamed(averaged(s), "ema_model.module.")},
        "took 'the rest', not 'ema_model.module' (entry=",
    ),
    "twice the same": (lambda s: {"model": s, "best": dict(s)}, "took 'model'"),
    "with numbers": (lambda s: {"epoch": 3, "lr": 0.1, **s}, ""),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_wrapped_models_load_as_what_they_are_and_a_line_says_so(kind, tmp_path, caplog):
    make, said = WRAPPED[kind]
    state = small().state_dict()
    torch.save(make(state), tmp_path / "a.pth")
    model = small()
    assert ad.load_weights(model, tmp_path / "a.pth") == []
    assert same(model, state)
    assert len(caplog.messages) == bool(said)
    assert not said or caplog.messages[0].startswith(f"{tmp_path / 'a.pth'}: {said}")


def test_other_classes_and_a_prefix(tmp_path):
    torch.save({"state_dict": renamed(small(7).state_dict(), "model._orig_mod.")}, tmp_path / "a.pth")
    assert ad.load_weights(small(), tmp_path / "a.pth") == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, "a part", "checkpointed"])
def test_the_model_that_is_given_may_be_wrapped_too(wrap, tmp_path):
    trained, model = small(), small()
    torch.save(renamed(trained.state_dict(), "module."), tmp_path / "a.pth")
    if wrap == "a part":
        model.layer1 = torch.compile(model.layer1)
    elif wrap == "checkpointed":
        model.layer1 = checkpoint_wrapper(model.layer1)
    assert ad.load_weights(model if isinstance(wrap, str) else wrap(model), tmp_path / "a.pth") == []
    if wrap == "a part":
        model.layer1 = model.layer1._orig_mod
    assert same(model, trained.state_dict())


class Names(nn.Module):
    """A model whose own names are those of wrappers: nothing is left out of them."""

    def __init__(self) -> None:
        super().__init__()
        self.module, self.a = nn.Linear(2, 2), nn.ModuleDict({"module": nn.Linear(2, 2)})
        self.a.weight, self.a.bias = nn.Parameter(torch.randn(2, 2)), nn.Parameter(torch.randn(2))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_names_of_the_models_own_stay(prefix, tmp_path):
    state = Names().state_dict()
    torch.save(renamed(state, prefix), tmp_path / "a.pth")
    model = Names()
    ad.load_weights(model, tmp_path / "a.pth")
    assert same(model, state)


# -- several weights ------------------------------------------------------------------------------------------------


def test_which_weights_is_choosable(tmp_path):
    state = small().state_dict()
    torch.save({"state_dict": state, "state_dict_ema": renamed(averaged(state), "module.")}, tmp_path / "a.pth")
    for entry in ("state_dict_ema", "state_dict_ema:module", "module"):
        model = small()
        ad.load_weights(model, tmp_path / "a.pth", entry=entry)
        assert same(model, averaged(state))
    said = "entry='x': .* has no such entry; expected 'state_dict' or 'state_dict_ema:module'"
    with pytest.raises(ad.CheckpointError, match=said):
        ad.load_weights(small(), tmp_path / "a.pth", entry="x")


@pytest.mark.parametrize("flat", [True, False])
def test_nobody_guesses_which_of_two_networks_is_meant(flat, tmp_path, unchanged):
    state = small().state_dict()
    parts = {"student": state, "teacher": averaged(state)}
    flattened = {**renamed(state, "student."), **renamed(averaged(state), "teacher.")}
    torch.save(flattened if flat else parts, tmp_path / "a.pth")
    model = small()
    said = (
        "holds several sets of weights that fit the model, 'student' and 'teacher': choose one, such as entry='student'"
    )
    with unchanged(model), pytest.raises(ad.CheckpointError, match=said):
        ad.load_weights(model, tmp_path / "a.pth")
    ad.load_weights(model, tmp_path / "a.pth", entry="teacher")
    assert same(model, averaged(state))


def test_a_file_for_a_part_of_the_model_names_it(tmp_path, unchanged):
    torch.save(small().state_dict(), tmp_path / "a.pth")
    model = nn.Sequential(small())
    with unchanged(model), pytest.raises(ad.CheckpointError, match="they fit a part of the model, '0': load them into"):
        ad.load_weights(model, tmp_path / "a.pth")
    network = ad.adapt(small())
    with unchanged(network), pytest.raises(ad.CheckpointError, match="load them into the plain model, before adapt"):
        ad.load_weights(network, tmp_path / "a.pth")


def test_a_calibrated_network_inside_wrappers_says_how_it_loads(tmp_path, unchanged):
    trained, network = (ad.adapt(small()).eval() for _ in range(2))
    ad.calibrate(trained, [torch.randn(4, 3, 32, 32)])
    torch.save(renamed(trained.state_dict(), "_orig_mod.module."), tmp_path / "a.pth")
    with (
        unchanged(network),
        pytest.raises(ad.CheckpointError, match=r"it was calibrated: call network\.reset_statistics"),
    ):
        ad.load_weights(network, tmp_path / "a.pth")
    network.reset_statistics(per_context=True)
    assert ad.load_weights(network, tmp_path / "a.pth") == []
    assert same(network, trained.state_dict())


def test_codes_of_a_quantised_weight_are_no_weights(tmp_path):
    state = small().state_dict()
    torch.save({**state, "layer1.0.conv1.weight": torch.ones(4, 4, 3, 3, dtype=torch.int8)}, tmp_path / "a.pth")
    assert ad.load_weights(small(), tmp_path / "a.pth") == ["layer1.0.conv1.weight"]


def test_the_models_precision_stays(tmp_path):
    state = small().half().state_dict()
    torch.save(state, tmp_path / "a.pth")
    model = small()
    ad.load_weights(model, tmp_path / "a.pth")
    assert model.conv1.weight.dtype is torch.float32
    assert torch.equal(model.conv1.weight, state["conv1.weight"].float())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.head.weight = self.embed.weight


def test_tied_weights_may_stand_once(tmp_path):
    save_file({"embed.weight": torch.ones(4, 4)}, tmp_path / "model.safetensors")
    model = Tied()
    assert ad.load_weights(model, tmp_path) == []
    assert torch.equal(model.head.weight, torch.ones(4, 4))


# -- files and folders ----------------------------------------------------------------------------------------------


def shards(folder: Path, state: State, ending: str) -> Path:
    names = list(state)
    files = {}
    for number, part in enumerate((names[:60], names[60:])):
        file = f"model-{number}.{ending}"
        content = {name: state[name] for name in part}
        (save_file if ending == "safetensors" else torch.save)(content, folder / file)
        files |= dict.fromkeys(part, file)
    index = folder / f"{'model' if ending == 'safetensors' else 'pytorch_model'}.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return index


@pytest.mark.parametrize("form", ["model.safetensors", "pytorch_model.bin", "a.ckpt", "safetensors", "bin"])
def test_folders_of_transformers_and_accelerate(form, tmp_path):
    state = small().state_dict()
    if "." in form:
        (save_file if form.endswith("s") else torch.save)(state, tmp_path / form)
        places = [tmp_path, tmp_path / form]
    else:
        places = [tmp_path, shards(tmp_path, state, form)]
    (tmp_path / "config.json").write_text("{}")
    for place in places:
        model = small()
        assert ad.load_weights(model, place) == []
        assert same(model, state)


def test_a_folder_that_is_not_whole(tmp_path, unchanged):
    model = small()
    index = shards(tmp_path, small().state_dict(), "safetensors")
    (tmp_path / "model-1.safetensors").unlink()
    with (
        unchanged(model),
        pytest.raises(ad.CheckpointError, match=r"names model-1.safetensors, missing in .*: download"),
    ):
        ad.load_weights(model, tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(ad.CheckpointError, match="names files outside its folder"):
        ad.load_weights(model, index)
    index.write_text("[]")
    with pytest.raises(ad.CheckpointError, match="is not a weights index"):
        ad.load_weights(model, tmp_path)
    index.unlink()
    save_file({"a": torch.ones(1)}, tmp_path / "b.safetensors")
    with pytest.raises(ad.CheckpointError, match=r"holds several files, b.safetensors, model-0.safetensors: name the"):
        ad.load_weights(model, tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    save_file({"a": torch.ones(1)}, tmp_path / "model_1.safetensors")
    with pytest.raises(ad.CheckpointError, match=r"holds several files, b.safetensors, .*: name the one to read"):
        ad.load_weights(model, tmp_path)
    (tmp_path / "__0_0.distcp").write_text("")
    with pytest.raises(ad.CheckpointError, match=r"a sharded checkpoint: merge it first, python -m torch"):
        ad.load_weights(model, tmp_path)
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(ad.CheckpointError, match=r"holds no weights; expected model\.safetensors"):
        ad.load_weights(model, tmp_path)


class Options:
    """An object in a checkpoint, as hyper-parameters are: it must not even be imported."""

    def __init__(self) -> None:
        self.path, self.number = Path("x"), 1

    def __setstate__(self, state: dict) -> None:
        raise AssertionError("code of the file ran")


class Kind(enum.Enum):
    A = 1


def test_of_a_checkpoint_with_objects_only_tensors_are_taken(tmp_path):
    state = small().state_dict()
    options = {"options": Options(), "kind": Kind.A, "path": Path("x"), "arguments": argparse.Namespace(lr=0.1)}
    torch.save({"state_dict": renamed(state, "model."), "hyper_parameters": options}, tmp_path / "a.ckpt")
    model = small()
    assert ad.load_weights(model, tmp_path / "a.ckpt") == []
    assert same(model, state)


class Harmful:
    def __reduce__(self) -> tuple:
        return exec, ("raise AssertionError('code of the file ran')",)


def test_weights_that_are_objects_are_not_read(tmp_path, unchanged):
    model = small()
    torch.save({**small().state_dict(), "fc.bias": Harmful()}, tmp_path / "a.pth")
    said = "holds fc.bias as objects other than plain tensors, which are not read because they could run code"
    with unchanged(model), pytest.raises(ad.CheckpointError, match=said):
        ad.load_weights(model, tmp_path / "a.pth")
    torch.save(Harmful(), tmp_path / "a.pth")
    said = re.escape("weights_only=False) reads it; it holds builtins.exec")
    with pytest.raises(ad.CheckpointError, match=f"more than tensors .* could run code: save only its .*{said}"):
        ad.load_weights(model, tmp_path / "a.pth")


# -- modules whose state is more than tensors -----------------------------------------------------------------------


class Scaled(nn.Linear):
    scale: object = 1.0

    def get_extra_state(self) -> object:
        return self.scale

    def set_extra_state(self, state: object) -> None:
        self.scale = state


@pytest.mark.parametrize("extra", [{"scale": 2.0, "steps": [1, 2]}, torch.tensor([1, 2, 3])])
def test_extra_state_goes_along(extra, tmp_path):
    one, other = nn.Sequential(Scaled(2, 2)), nn.Sequential(Scaled(2, 2))
    one[0].scale = extra
    if isinstance(extra, Tensor):
        other[0].scale = torch.zeros(1)
    torch.save(renamed(one.state_dict(), "module."), tmp_path / "a.pth")
    assert ad.load_weights(other, tmp_path / "a.pth") == []
    assert torch.equal(other[0].scale, extra) if isinstance(extra, Tensor) else other[0].scale == extra


def test_a_model_that_never_ran_is_told(tmp_path):
    torch.save({"weight": torch.ones(1, 1)}, tmp_path / "a.pth")
    said = (
        "load_weights received a Sequential that never ran: 0.weight, 0.bias have no shape yet; first run it once on an"
    )
    with pytest.raises(ad.CheckpointError, match=said):
        ad.load_weights(nn.Sequential(nn.LazyLinear(3)), tmp_path / "a.pth")


def test_a_file_that_takes_more_memory_than_it_is_long_is_refused(tmp_path):
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as old, zipfile.ZipFile(tmp_path / "b.pth", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name), zipfile.ZIP_DEFLATED)
    assert list(read_state_dict(tmp_path / "a.pth")) == ["a"]
    with pytest.raises(
        ad.CheckpointError, match=r"b.pth is compressed, 4,\d+,\d+ bytes in [\d,]+: expected a file from"
    ):
        read_state_dict(tmp_path / "b.pth")


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize("odd", [torch.empty(3, device="meta"), torch.eye(3).to_sparse()], ids=["meta", "sparse"])
def test_tensors_without_plain_numbers_are_refused(tmp_path, odd):
    torch.save({"a": odd}, tmp_path / "a.pth")
    with pytest.raises(ad.CheckpointError, match="holds tensors without plain numbers, a: expected dense ones"):
        read_state_dict(tmp_path / "a.pth")
    model, other = nn.Sequential(nn.Linear(3, 3)), nn.Sequential(nn.Linear(3, 3))
    state = {**other.state_dict(), "0.weight" if odd.ndim == 2 else "0.bias": odd}
    torch.save({"model": state, "best": other.state_dict()}, tmp_path / "a.pth")
    with pytest.raises(ad.CheckpointError, match=r"holds tensors without plain numbers, 0.\w+: expected dense ones"):
        load_weights(model, tmp_path / "a.pth", entry="model")
    torch.save({"model": other.state_dict(), "optimizer": {"mask": odd}}, tmp_path / "a.pth")  # which is not wanted
    load_weights(model, tmp_path / "a.pth")
    assert same(model, other.state_dict())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_weight_that_is_not_finite(value):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    model.register_buffer("mask", torch.tensor(-math.inf))  # which a model may need
    assert first_not_finite(model) is None
    model[1].running_var[1] = value
    assert first_not_finite(model) == "1.running_var"
    model[2].weight.data[1, 0] = value
    assert first_not_finite(model) == "2.weight"
