"""Checkpoints of the authors' implementation: their keys, and their outputs for every sub-network."""

import argparse
import json
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

import adaptive_depth as ad
from adaptive_depth.cli import main

GOLDEN = Path(__file__).parents[1] / "golden"  # what the authors' code printed; its README tells how
NETWORKS = ["resnet50", "mobilenet_v2", "vit_b_16", "swin_t"]


def their_state(name: str) -> dict[str, torch.Tensor]:
    """Every tensor of the authors' network, its numbers drawn from its name."""
    plain = {
        key: tensor for key, tensor in models.get_model(name).state_dict().items() if not tensor.dtype.is_floating_point
    }
    state = {}
    for key, shape, kind in json.loads((GOLDEN / f"{name}.json").read_text())["keys"]:
        if kind != "float32":  # counters, and Swin's index tables, which its constructor gives
            if "relative_position_index" in key:
                ours = key.replace("features.", "", 1)
                number, rest = ours.split(".", 1)
                state[key] = plain[f"features.{int(number) + 1}.{rest}"].clone()
            else:
                state[key] = torch.zeros(shape, dtype=getattr(torch, kind))
            continue
        z = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(shape, dtype=np.float32)
        if key.endswith("running_var"):
            z = abs(z) * np.float32(0.1) + 1
        elif len(shape) >= 2 and not key.endswith("running_mean"):
            z = z * np.float32(np.prod(shape[1:]) ** -0.5)
        elif key.endswith("weight"):
            z = z * np.float32(0.1) + 1
        else:
            z = z * np.float32(0.1)
        state[key] = torch.from_numpy(np.asarray(z, dtype=np.float32).reshape(shape))
    return state


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_sub_network_returns_what_the_authors_returns(tmp_path, name):
    torch.save(their_state(name), tmp_path / "theirs.pth")
    network = ad.load_reference(name, tmp_path / "theirs.pth")
    x = torch.from_numpy(np.random.Generator(np.random.PCG64(0)).standard_normal((1, 3, 224, 224), dtype=np.float32))
    golden = json.loads((GOLDEN / f"{name}.json").read_text())["outputs"]
    assert tuple(golden) == network.skips
    for skip, expected in golden.items():
        with torch.no_grad():
            logits = network(x, skip=skip)[0].double()
        assert logits[:8].tolist() == pytest.approx(expected["first8"], abs=2e-4), skip
        assert float(logits.mean()) == pytest.approx(expected["mean"], abs=2e-4), skip
        assert float(logits.std()) == pytest.approx(expected["std"], abs=2e-4), skip
        assert int(logits.argmax()) == expected["argmax"], skip


# -- other sizes than the golden ones ----------------------------------------------------------------------------------


def their_names(network: ad.AdaptiveNetwork, name: str) -> dict[str, torch.Tensor]:
    """The state of a network under the authors' names, written the other way round than the importer reads them."""
    doubled = {norm for stage in network.stages for norm in stage.norms}
    state: dict[str, torch.Tensor] = {}
    for key, tensor in network.state_dict().items():
        tree, _, path = key.partition(".")
        module, _, leaf = path.rpartition(".")
        if tree == "model":
            state[path] = tensor
        elif module in doubled:
            state[f"{module}_skip.{leaf}"] = tensor
    if name.startswith("swin"):
        state = {re.sub(r"^features\.0\.", "pre.", key): tensor for key, tensor in state.items()}
        state = {
            re.sub(r"^features\.(\d+)", lambda m: f"features.{int(m[1]) - 1}", key): tensor
            for key, tensor in state.items()
        }
    return state


OTHERS: Mapping[str, tuple[str, dict]] = {
    "resnet101": ("resnet101", {"num_classes": 7}),
    "resnet18": ("resnet18", {"num_classes": 3}),
    "resnext50_32x4d": ("resnext50_32x4d", {"num_classes": 2}),
    "vit_b_32": ("vit_b_32", {"num_classes": 4}),
    "swin_s": ("swin_s", {"num_classes": 6}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_depths_and_class_counts(tmp_path, randomised, name):
    short, arguments = OTHERS[name]
    network = randomised(ad.adapt(ad.create_model(f"torchvision/{short}", **arguments))).eval()
    torch.save({"model": their_names(network, name), "epoch": 3}, tmp_path / "theirs.pth")
    loaded = ad.load_reference(name, tmp_path / "theirs.pth")
    assert not loaded.training
    doubled = tuple(f"skip_norms.{norm}." for stage in network.stages for norm in stage.norms)
    compared = 0
    for key, tensor in network.state_dict().items():
        if key.startswith("model.") or key.startswith(doubled):
            assert torch.equal(tensor, loaded.state_dict()[key]), key
            compared += 1
    assert compared > 100
    same = ad.load(ad.save(loaded, tmp_path / "run"))
    assert all(torch.equal(tensor, loaded.state_dict()[key]) for key, tensor in same.state_dict().items())


def small() -> tuple[ad.AdaptiveNetwork, dict[str, torch.Tensor]]:
    network = ad.adapt(ad.create_model("torchvision/resnet18", num_classes=3))
    return network, their_names(network, "resnet18")


def test_files_of_other_kinds(tmp_path):
    network, state = small()
    save_file(state, tmp_path / "a.safetensors")
    torch.save({f"module.{key}": tensor for key, tensor in state.items()}, tmp_path / "b.pth")
    torch.save({"state_dict": state, "args": argparse.Namespace(lr=0.1, data=Path("x").name)}, tmp_path / "c.pth")
    for name in ("a.safetensors", "b.pth", "c.pth"):
        loaded = ad.load_reference("torchvision/resnet18", tmp_path / name)
        assert torch.equal(loaded.model.fc.weight, network.model.fc.weight)
        assert torch.equal(loaded.skip_norms.layer1.get_submodule("0.bn1").bias, state["layer1.0.bn1_skip.bias"])


class Harmful:
    def __reduce__(self):
        return os.system, ("touch harmed",)


def _state(**changes) -> dict:
    state = {**small()[1], **changes}
    return {key: tensor for key, tensor in state.items() if tensor is not None}


BAD = {
    "code": (lambda: {"model": _state(), "x": Harmful()}, "resnet18", "because it could run code: save only its state"),
    "text": (lambda: None, "resnet18", "cannot be read|holds more than tensors"),
    "a list": (lambda: [1, 2], "resnet18", "holds no state dict: expected names and tensors, alone or under 'model'"),
    "another": (_state, "resnet50", "does not hold the authors' resnet50: [0-9]+ tensors are missing"),
    "missing": (lambda: _state(**{"layer1.0.bn1_skip.bias": None}), "resnet18", "1 tensors are missing .skip_norms"),
    "too many": (lambda: _state(x=torch.zeros(1)), "resnet18", r"1 tensors are unexpected \(model.x\)"),
    "shape": (lambda: _state(**{"conv1.weight": torch.zeros(1)}), "resnet18", "of another shape .model.conv1"),
    "plain": (
        lambda: {k: v for k, v in small()[1].items() if "_skip" not in k}, "resnet18", "holds a plain resnet18"
    ),
    "nan": (lambda: _state(**{"fc.bias": torch.full((3,), torch.nan)}), "resnet18", "not finite, in model.fc.bias"),
    "name": (_state, "vgg11", "'vgg11' is not one of the authors' architectures: expected torchvision's name"),
    "swapped": (_state, "vit_b_16", "does not hold the authors' vit_b_16"),
    "mobilenet": (_state, "mobilenet_v2", "does not hold the authors' mobilenet_v2"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_checkpoint_of_theirs(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    make, name, said = BAD[case]
    content = make()
    if content is None:
        Path("bad.pth").write_text("hello")
    else:
        torch.save(content, "bad.pth")
    with pytest.raises(ad.CheckpointError, match=said):
        ad.load_reference(name, "bad.pth")
    assert not Path("harmed").exists()


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ad.CheckpointError, match=r"nowhere.pth cannot be read \(.*No such file"):
        ad.load_reference("resnet18", tmp_path / "nowhere.pth")


def test_on_the_command_line_a_checkpoint_becomes_a_run(tmp_path, capsys):
    network, theirs = small()
    torch.save(theirs, tmp_path / "theirs.pth")
    arguments = ["load-reference", "resnet18", str(tmp_path / "theirs.pth"), "--output", str(tmp_path / "run")]
    assert main(arguments) == 0
    assert "evaluate" in capsys.readouterr().out
    assert torch.equal(ad.load(tmp_path / "run").model.conv1.weight, network.model.conv1.weight)
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
