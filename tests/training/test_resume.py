"""A training that was interrupted goes on as if nothing had happened, bit for bit."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import adaptive_depth as ad
from adaptive_depth.quality import Quality
from adaptive_depth.tasks import Classification
from adaptive_depth.training import state
from adaptive_depth.training.interrupting import seeded
from adaptive_depth.training.loop import train

FAST = {"epochs": 3, "lr": 0.05, "checkpoint_every": 1, "passes": "algorithm 1"}


class Noisy(torch.utils.data.Dataset):
    """Twelve images; what is drawn of them depends on all three random number generators."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(12, 3, 8, 8, generator=generator)

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int):
        noise = torch.rand(1) + random.random() + np.random.rand()  # noqa: NPY002 - what transforms draw from
        return self.images[index] + noise.float(), index % 5


class Dropping(nn.Module):
    """A residual block that draws random numbers in training, between two batches."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv, self.drop = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1), nn.Dropout(0.2)

    def forward(self, x):
        return x + self.drop(self.conv(torch.relu(self.norm(x))))


def build(nets):
    with seeded(1):
        model = nets.Chain(*(Dropping() for _ in range(4)))
        return ad.adapt(model, nets.chain_stages(), example=torch.randn(2, 3, 8, 8))


def loader(workers=0):
    return torch.utils.data.DataLoader(Noisy(), batch_size=3, shuffle=True, num_workers=workers)


def numbers(network):
    return torch.cat([tensor.flatten().double() for tensor in network.state_dict().values()])


class Broken(Exception):
    pass


def breaking_off(at):
    def on_step(now):
        if now.step == at:
            raise Broken

    return on_step


def timeless(epoch):
    return {**vars(epoch), "images_per_s": 0, "waiting": 0}


SETTINGS = {
    "sgd": {},
    "adamw": {"optimizer": "adamw", "lr": 0.01},
    "averaged": {"ema": 0.9, "clip_grad": 0.5},
    "low memory": {"low_memory": True},
    "in parts": {"accumulate": 2},
    "bf16": {"precision": "bf16", "channels_last": True},
    "fp16": {"precision": "fp16", "clip_grad": 1.0},
    "in two random depths": {"teacher": "random", "student": "random"},
    "recomputed": {"grad_checkpointing": True, "distil_share": 0.5},
    "multistep": {"schedule": "multistep", "milestones": [1, 2], "validate_every": 1},
}


# Four batches an epoch. With a delay of 1: S, SB, S, SBR | SB, SBR, SB, SBR: an epoch of 8 steps, then of 10.
SCHEDULES = {
    "passes": {"passes": "SBSBR", "delay": 1},
    "passes, two of the super-net": {"passes": "SSB", "delay": 0, "optimizer": "adamw", "lr": 0.01},
    "passes, fresh": {"passes": "SBSBR", "fresh": True, "ema": 0.9},
    "passes, kept in bytes": {"passes": "SBSBR", "delay": 1, "buffer_mb": 0.003, "precision": "bf16"},
    "passes, teacher": {
        "passes": "SBR",
        "delay": 1,
        "teacher_share": 0.5,
        "teacher_start": 0.25,
        "channels_last": True,
    },
    "passes, in parts": {"passes": "SBSBR", "delay": 0, "accumulate": 2, "precision": "fp16", "clip_grad": 1.0},
}


@pytest.mark.parametrize(
    ("name", "at"),
    [
        *((name, at) for name in SETTINGS for at in (1, 3, 4, 5)),
        *((name, at) for name in SCHEDULES for at in ((4, 9, 11) if name == "passes, in parts" else range(2, 10))),
    ],
)
def test_a_training_goes_on_as_if_nothing_had_happened(name, at, nets, tmp_path):
    settings = {**FAST, **(SETTINGS | SCHEDULES)[name]}
    validation = [(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3)), torch.arange(4))]
    whole = build(nets)
    expected = train(whole, loader(), validation=validation, **settings)
    with pytest.raises(Broken):
        train(build(nets), loader(), folder=tmp_path, on_step=breaking_off(at), validation=validation, **settings)
    again = build(nets)
    torch.rand(5)  # the random numbers of the program around it are others now
    told = []
    history = train(
        again, loader(), folder=tmp_path, resume=True, validation=validation,
        on_step=lambda now: told.append(now.step), **settings,
    )  # fmt: skip
    assert torch.equal(numbers(again), numbers(whole))
    assert told[0] == at  # the checkpoint of the step that broke off was not written yet: one interval is lost
    for a, b in zip(history.epochs, expected.epochs, strict=True):
        assert timeless(a) == timeless(b)


def test_with_processes_that_load_images(nets, tmp_path):
    whole = build(nets)
    train(whole, loader(2), **FAST)
    with pytest.raises(Broken):
        train(build(nets), loader(2), folder=tmp_path, on_step=breaking_off(6), **FAST)
    again = build(nets)
    train(again, loader(2), folder=tmp_path, resume=True, **FAST)
    assert torch.equal(numbers(again), numbers(whole))


def test_a_finished_training_is_not_trained_again(nets, tmp_path):
    network = build(nets)
    history = train(network, loader(), folder=tmp_path, **FAST)
    again = build(nets)
    assert train(again, loader(), folder=tmp_path, resume=True, **FAST) == history
    assert torch.equal(numbers(again), numbers(network))


def test_resume_without_a_checkpoint_starts(nets, tmp_path):
    assert len(train(build(nets), loader(), folder=tmp_path / "new", resume=True, **FAST).epochs) == 3
    with pytest.raises(ad.TrainingError, match="resume=True without a folder"):
        train(build(nets), loader(), resume=True, **FAST)


def test_the_last_ones_and_the_best_are_kept(nets, tmp_path):
    validation = [(torch.randn(8, 3, 8, 8), torch.arange(8) % 5)]
    train(build(nets), loader(), folder=tmp_path, validation=validation, validate_every=1, keep=3, **FAST)
    names = sorted(path.name for path in tmp_path.glob("*.json"))
    assert names == ["best.json", "step-00000010.json", "step-00000011.json", "step-00000012.json"]
    used = {json.loads(path.read_text())["tensors"] for path in tmp_path.glob("*.json")}
    assert {path.name for path in tmp_path.glob("*.safetensors")} == used
    assert not [path for path in tmp_path.iterdir() if path.suffix not in (".json", ".safetensors")]


def test_nothing_is_unpickled(nets, tmp_path, monkeypatch):
    train(build(nets), loader(), folder=tmp_path, **FAST)
    monkeypatch.setattr("pickle.load", lambda *_: pytest.fail("unpickled"))
    monkeypatch.setattr("torch.load", lambda *_: pytest.fail("unpickled"))
    train(build(nets), loader(), folder=tmp_path, resume=True, **FAST)


# -- what can go wrong --------------------------------------------------------------------------------------------


def test_another_recipe_is_told(nets, tmp_path):
    train(build(nets), loader(), folder=tmp_path, **FAST)
    with pytest.raises(
        ad.CheckpointError, match=r"has another recipe \(lr: 0.05 there, 0.1 now\): resume with the same"
    ):
        train(build(nets), loader(), folder=tmp_path, resume=True, **{**FAST, "lr": 0.1})
    with pytest.raises(
        ad.CheckpointError, match="from 1 processes with epochs of 4 batches, but there are 1 with 2 now"
    ):
        train(build(nets), list(loader())[:2], folder=tmp_path, resume=True, **FAST)
    train(build(nets), loader(), folder=tmp_path, resume=True, **{**FAST, "keep": 1})


def test_another_network_is_told(nets, tmp_path):
    train(build(nets), loader(), folder=tmp_path, **FAST)
    other = ad.adapt(nets.Chain(*(nets.Residual() for _ in range(2))), example=torch.randn(2, 3, 8, 8))
    with pytest.raises(ad.CheckpointError, match="the checkpoint is from another network"):
        train(other, loader(), folder=tmp_path, resume=True, **FAST)


def facts() -> dict:
    """Of a training that has not begun."""
    here = {"random": [state.random_state(torch.device("cpu"))], "random_at_start": [None]}
    place = {"epoch": 1, "step": 0, "batch": 0, "batches": 1, "history": [], "best": None}
    parts = {"meters": [{"images": 0, "sums": {}}], "optimizer": {"values": {}, "groups": []}, "scaler": {}}
    return {"recipe": {}, "lr": 0.1, **here, **place, **parts}


def test_a_network_in_another_precision_is_told(nets, tmp_path):
    network = build(nets)
    network.model.blocks[0].conv.double()
    state.save_state(tmp_path, "step-1", state.state_of_module(network, "network.")[0], facts())
    tensors, _ = state.load_state(tmp_path / "step-1.json")
    same = build(nets)
    same.model.blocks[0].conv.double()
    state.put_state(same, tensors, "network.")
    assert torch.equal(same.model.blocks[0].conv.weight, network.model.blocks[0].conv.weight)
    said = r"another precision: model\.blocks\.0\.conv\.\w+ is torch\.float64 there and torch\.float32 now; resume with"
    with pytest.raises(ad.CheckpointError, match=said):
        state.put_state(build(nets), tensors, "network.")


def test_an_optimiser_keeps_the_precision_of_its_state():
    def optimiser():
        return torch.optim.SGD([nn.Parameter(torch.ones(2, dtype=torch.bfloat16))], lr=0.1, momentum=0.9)

    one, other = optimiser(), optimiser()
    momentum = torch.tensor([1.0001, 2.0002])  # more digits than its parameter
    one.state[one.param_groups[0]["params"][0]] = {"momentum_buffer": momentum}
    state.put_numbers(other, *state.numbers_of(one))
    kept = other.state[other.param_groups[0]["params"][0]]["momentum_buffer"]
    assert kept.dtype is torch.float32
    assert torch.equal(kept, momentum)


def test_numbers_that_safetensors_has_no_kind_for(tmp_path):
    tensors = {"a": torch.tensor([1 + 2j, 3.0], dtype=torch.complex128), "b": torch.ones(1), "c": torch.ones(2, 2)}
    state.save_state(tmp_path, "step-1", tensors, facts())
    again, _ = state.load_state(tmp_path / "step-1.json")
    assert {name: tensor.dtype for name, tensor in again.items()} == {
        name: tensor.dtype for name, tensor in tensors.items()
    }
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


class Counting(Dropping):
    """A block with an extra state."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = {"calls": 0, "seen": torch.zeros(1)}

    def forward(self, x):
        if self.training:
            self.extra["calls"] += 1
            self.extra["seen"] += 1
        return super().forward(x)

    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, extra) -> None:
        self.extra = extra


def counting(nets):
    with seeded(1):
        return ad.adapt(nets.Chain(*(Counting() for _ in range(4))), nets.chain_stages())


def test_the_extra_state_of_modules_is_kept(nets, tmp_path):
    first = counting(nets)
    first.prove(torch.randn(2, 3, 8, 8))
    for block in first.model.blocks:
        block.extra["calls"], block.extra["seen"] = 0, torch.zeros(1)
    train(first, loader(), **{**FAST, "epochs": 1}, folder=tmp_path)
    calls = [block.extra["calls"] for block in first.model.blocks]
    assert min(calls) > 0
    again = counting(nets)
    again.prove(torch.randn(2, 3, 8, 8))
    train(again, loader(), **{**FAST, "epochs": 1}, folder=tmp_path, resume=True)
    assert [block.extra["calls"] for block in again.model.blocks] == calls
    assert [float(block.extra["seen"]) for block in again.model.blocks] == calls


def test_an_extra_state_that_cannot_be_kept_is_told_before_the_first_step(nets, tmp_path):
    network = counting(nets)
    network.proven = True
    with pytest.raises(ad.TrainingError, match=r"ema averages tensors, but .*_extra_state.* is not one"):
        train(network, loader(), **FAST, ema=0.9)
    network.model.blocks[0].extra = {1, 2}
    with pytest.raises(ad.CheckpointError, match=r"blocks.0._extra_state contains a set, which cannot be saved"):
        train(network, loader(), **FAST, folder=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["truncated tensors", "truncated json", "foreign", "newer"])
def test_damage_is_told_and_the_one_before_is_named(damage, nets, tmp_path):
    train(build(nets), loader(), folder=tmp_path, keep=2, **FAST)
    last = tmp_path / "step-00000012.json"
    facts = json.loads(last.read_text())
    if damage == "truncated tensors":
        path = tmp_path / facts["tensors"]
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "truncated json":
        last.write_text(last.read_text()[:50])
    else:
        last.write_text(json.dumps({**facts, **({"format": "x"} if damage == "foreign" else {"version": 99})}))
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ad.CheckpointError, match=r"remove it to resume from step-00000011.json"):
        train(build(nets), loader(), folder=tmp_path, resume=True, **FAST)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    last.unlink()
    whole, again = build(nets), build(nets)
    train(whole, loader(), **FAST)
    train(again, loader(), folder=tmp_path, resume=True, **FAST)
    assert torch.equal(numbers(again), numbers(whole))


@pytest.mark.parametrize("where", ["write_tensors", "write_atomically"])
def test_a_full_disk_is_told_and_the_last_checkpoint_is_whole(where, nets, tmp_path, monkeypatch):
    write, calls = getattr(state, where), []

    def full(*arguments):
        calls.append(1)
        if len(calls) == 6:
            raise OSError(28, "No space left on device")
        return write(*arguments)

    monkeypatch.setattr(state, where, full)
    with pytest.raises(ad.CheckpointError, match=r"cannot be written .*No space left on device"):
        train(build(nets), loader(), folder=tmp_path, **FAST)
    monkeypatch.undo()
    whole, again = build(nets), build(nets)
    train(whole, loader(), **FAST)
    train(again, loader(), folder=tmp_path, resume=True, **FAST)
    assert torch.equal(numbers(again), numbers(whole))


def test_a_loss_that_is_not_finite_names_step_and_checkpoint(nets, tmp_path):
    batches = [(x, y) for x, y in loader()]
    batches[2] = (batches[2][0] * float("nan"), batches[2][1])
    where = (
        r"\(epoch 1, step 3, learning rate 0\.0467, batch 3 of 4; the last good checkpoint is .*step-00000002.json\)"
    )
    said = rf"is nan: .*{where}"
    with pytest.raises(ad.TrainingError, match=said):
        train(build(nets), batches, folder=tmp_path, **FAST)


# -- real processes -----------------------------------------------------------------------------------------------

SCRIPT = """
import sys, time, torch, timm, adaptive_depth as ad
from pathlib import Path
from adaptive_depth.training.interrupting import seeded
torch.set_num_threads(1)
folder, out = sys.argv[1:]
with seeded(0):
    network = ad.adapt(timm.create_model("resnet18", channels=(4, 4, 8, 8), num_classes=3, drop_rate=0.1))
    images = torch.randn(24, 3, 32, 32)
data = torch.utils.data.TensorDataset(images, torch.arange(24) % 3)
batches = torch.utils.data.DataLoader(data, 4, shuffle=True)
ad.train(network, batches, epochs=4, lr=0.05, ema=0.9, checkpoint_every=1, folder=Path(folder), resume=True,
         on_step=lambda now: print(now.step, flush=True))
torch.save(network.state_dict(), out)
"""


def start(tmp_path, name):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    arguments = [sys.executable, str(script), str(tmp_path / name), str(tmp_path / f"{name}.pth")]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process, step):
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= step:
            return


@pytest.mark.slow
def test_a_killed_process_goes_on_and_ends_with_the_same_weights(tmp_path):
    whole = start(tmp_path, "whole")
    generator = random.Random(0)
    for step in (2, 7, 15):  # killed some time after these: in a step, or while a checkpoint is written (not the first)
        process = start(tmp_path, "killed")
        wait_for(process, step)
        time.sleep(generator.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert state.newest(tmp_path / "killed") is not None
    last = start(tmp_path, "killed")
    _, said = last.communicate()
    assert last.returncode == 0, said
    whole.communicate()
    assert whole.returncode == 0
    a, b = (torch.load(tmp_path / f"{name}.pth", weights_only=True) for name in ("whole", "killed"))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_a_second_training_in_the_folder_is_refused_until_the_first_ends(nets, tmp_path):
    process = start(tmp_path, "one")
    wait_for(process, 2)
    said = rf"one is being written by process {process.pid} on .* \(train, since .*\): wait until it is done"
    for resume in (True, False):
        with pytest.raises(ad.CheckpointError, match=said):
            train(build(nets), loader(), **FAST, folder=tmp_path / "one", resume=resume)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    again = start(tmp_path, "one")
    _, said = again.communicate()
    assert again.returncode == 0, said
    left = [file.name for file in (tmp_path / "one").iterdir() if not file.name.endswith((".json", ".safetensors"))]
    assert left == []


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint_and_ends(tmp_path):
    process = start(tmp_path, "asked")
    wait_for(process, 5)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 130 or "KeyboardInterrupt" in said
    assert "asked to stop; a checkpoint of step" in said
    assert not os.path.exists(tmp_path / "asked.pth")  # noqa: PTH110
    path = state.newest(tmp_path / "asked")
    assert path is not None
    assert path.name >= "step-00000005.json"
    assert Path(path).is_file()


def test_a_metric_that_is_not_finite_costs_no_resuming(nets, tmp_path):
    values = iter([0.5, math.nan, 0.75, math.inf, math.inf] + [0.5] * 100)
    task = Classification().with_metric(lambda *_: next(values), Quality("mine", "%"))
    recipe = {**FAST, "epochs": 2, "validate_every": 1}
    with pytest.warns(UserWarning, match=r"metric of the validation is not finite, \{'..': \w+.*\}: left out of the"):
        history = train(build(nets), loader(), validation=loader(), task=task, folder=tmp_path, **recipe)
    assert [epoch.validation for epoch in history.epochs] == [{"TT": 75.0}, None]
    again = train(build(nets), loader(), validation=loader(), task=task, folder=tmp_path, resume=True, **recipe)
    assert again == history
