"""The programs of examples/ run as a user starts them: real images, every depth good, and a training that goes on."""

import csv
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

import adaptive_depth as ad
from adaptive_depth.data import configure, create_loader, open_data

EXAMPLES = Path(__file__).parent.parent / "examples"
LIGHTNING, TRANSFORMERS = EXAMPLES / "train_with_lightning.py", EXAMPLES / "train_with_transformers.py"
ONE_IMAGE = 0.21  # of 500, in percent: numbers of threads may decide a tie

# What other libraries do when they are imported is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


def run(example: Path, folder: Path, epochs: int) -> str:
    """What the program printed, on one CPU thread and without a network."""
    settings = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(example), "--epochs", str(epochs), "--folder", str(folder)]
    ended = subprocess.run(command, env=os.environ | settings, cwd=folder.parent, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def accuracies(printed: str) -> dict[str, float]:
    """The lines `TTFF 93.4 %`, one a sub-network."""
    found = re.findall(r"^([TF]{4}) (\d+\.\d) %$", printed, flags=re.MULTILINE)
    assert tuple(skip for skip, _ in found) == ad.all_skips(4)
    return {skip: float(percent) for skip, percent in found}


def at_chosen_depth(printed: str) -> float:
    """What the loop of the other library measured with TTFF."""
    [percent] = re.findall(r"^(?:Lightning tests|The Trainer predicts with) TTFF: (\d+\.\d) %$", printed, re.MULTILINE)
    return float(percent)


def modified(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


# -- PyTorch Lightning ------------------------------------------------------------------------------------------


def lines(folder: Path, version: int) -> Iterator[dict[str, float]]:
    """What Lightning logged, one dict an epoch of training."""
    epochs: dict[str, dict[str, float]] = {}
    with (folder / "lightning_logs" / f"version_{version}" / "metrics.csv").open() as file:
        for line in csv.DictReader(file):
            epochs.setdefault(line["epoch"], {}).update({k: float(v) for k, v in line.items() if v})
    yield from (epoch for epoch in epochs.values() if "train_loss" in epoch)


@pytest.mark.slow
def test_lightning_trains_every_depth_and_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("pytorch_lightning")
    folder = tmp_path / "run"
    printed = run(LIGHTNING, folder, epochs=2)
    measured = accuracies(printed)
    assert min(measured.values()) > 80  # chance: 10
    assert at_chosen_depth(printed) == pytest.approx(measured["TTFF"], abs=0.06)

    first, last = lines(folder, 0)
    assert last["train_loss"] < first["train_loss"] / 2
    assert last["super_net_loss"] < first["super_net_loss"] / 2
    assert last["base_net_loss"] > 0
    assert last["train_loss"] == pytest.approx((last["super_net_loss"] + last["base_net_loss"]) / 2)

    network = ad.load(folder / "network")
    images = create_loader(configure("digits", network.model), "validation", batch_size=250)
    assert network.calibrated
    assert ad.evaluate(network, images) == pytest.approx(measured, abs=ONE_IMAGE)

    kept = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    before = {name.removeprefix("objective.network."): value for name, value in kept["state_dict"].items()}
    network.load_state_dict(before)  # of the training: each tensor once, and not calibrated
    validated = {"FFFF": last["super_net_accuracy"], "TTTT": last["base_net_accuracy"]}
    assert ad.evaluate(network, images, validated) == pytest.approx(validated, abs=ONE_IMAGE)

    assert min(accuracies(run(LIGHTNING, folder, epochs=3)).values()) > 80
    [third] = lines(folder, 1)
    assert third["epoch"] == 2
    assert third["super_net_loss"] < last["super_net_loss"]
    later = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert (kept["global_step"], later["global_step"]) == (40, 60)
    assert later["lr_schedulers"][0]["last_epoch"] == 60
    assert {int(state["step"]) for state in later["optimizer_states"][0]["state"].values()} == {60}


def test_lightning_holds_the_network_once_and_predicts_at_the_chosen_depth(nets: Any) -> None:
    pytest.importorskip("pytorch_lightning")
    network = nets.resnet(classes=10).eval()
    module = runpy.run_path(str(LIGHTNING))["AdaptiveClassifier"](network, lr=0.1).eval()
    assert [name.removeprefix("objective.network.") for name in module.state_dict()] == list(network.state_dict())
    assert [id(each) for each in module.parameters()] == [id(each) for each in network.parameters()]
    batch = torch.randn(64, 3, 32, 32), torch.zeros(64)
    super_net, shallow = (network.extract(skip)(batch[0]).argmax(1) for skip in ("FFFF", "TTFF"))
    assert not torch.equal(super_net, shallow)
    assert torch.equal(module.predict_step(batch), super_net)
    module.skip = "TTFF"
    assert torch.equal(module.predict_step(batch), shallow)


# -- the Trainer of Hugging Face --------------------------------------------------------------------------------


@pytest.mark.slow
def test_transformers_trains_every_depth_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder = tmp_path / "run"
    printed = run(TRANSFORMERS, folder, epochs=2)
    measured = accuracies(printed)
    assert min(measured.values()) > 80  # chance: 10
    assert at_chosen_depth(printed) == pytest.approx(measured["TTFF"], abs=0.06)

    halfway, end = folder / "checkpoint-21", folder / "checkpoint-42"
    said = json.loads((end / "trainer_state.json").read_text())["log_history"]
    steps = [line for line in said if "loss" in line]
    assert steps[-1]["loss"] < steps[0]["loss"] / 2
    assert steps[-1]["super_net_loss"] < steps[0]["super_net_loss"] / 2
    for line in steps:
        assert line["base_net_loss"] > 0
        assert line["loss"] == pytest.approx((line["super_net_loss"] + line["base_net_loss"]) / 2, abs=1e-4)

    example = runpy.run_path(str(TRANSFORMERS))
    network = ad.load(folder / "network", example["build"]())
    data = open_data(configure("digits", network.model), "validation")
    images = DataLoader(data, batch_size=250, collate_fn=example["collate"])
    assert network.calibrated
    assert ad.evaluate(network, images) == pytest.approx(measured, abs=ONE_IMAGE)

    ad.SelfDistillation(network).load_state_dict(load_file(halfway / "model.safetensors"))  # not calibrated
    evaluated, _ = (line for line in said if "eval_loss" in line)
    validated = {"FFFF": evaluated["eval_super_net_accuracy"], "TTTT": evaluated["eval_base_net_accuracy"]}
    assert ad.evaluate(network, images, validated) == pytest.approx(validated, abs=ONE_IMAGE)

    weights = {path.name: path.read_bytes() for path in (end / "model.safetensors", *folder.glob("network/weights-*"))}
    before = modified(halfway)
    shutil.rmtree(end)  # as if it had been killed in the second epoch
    shutil.rmtree(folder / "network")
    assert accuracies(run(TRANSFORMERS, folder, epochs=2)) == measured
    assert modified(halfway) == before  # or else it started from scratch
    again = {path.name: path.read_bytes() for path in (end / "model.safetensors", *folder.glob("network/weights-*"))}
    assert again == weights
