"""The programs of examples/ run as a user starts them: real images, every depth good, and a training that goes on."""

import csv
import importlib.util
import json
import math
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
LANGUAGE, ACCELERATE = EXAMPLES / "transformers_language_model.py", EXAMPLES / "accelerate_language_model.py"
TIMM, TIMM_SCRIPT = EXAMPLES / "train_with_timm.py", EXAMPLES / "run_timm_script.py"
ONE_IMAGE = 0.21  # of 500, in percent: numbers of threads may decide a tie

# What other libraries do when they are imported is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


def start(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A program that ran to its end, with one CPU thread and without a network."""
    settings = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=os.environ | settings, cwd=folder.parent, capture_output=True, text=True)


def run(example: Path, folder: Path, epochs: int, *more: str, by: tuple[str, ...] = (sys.executable,)) -> str:
    """What the program printed."""
    ended = start([*by, str(example), "--epochs", str(epochs), "--folder", str(folder), *more], folder)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


KILLED = """
import os, runpy, sys
import adaptive_depth as ad

def learn(self, *arguments, learn=ad.Passes.learn):
    return os._exit(9) if self.steps_done == 60 else learn(self, *arguments)

ad.Passes.learn = learn
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_until_killed(example: Path, folder: Path, epochs: int) -> None:
    """The program ends without notice in step 60."""
    command = [sys.executable, "-c", KILLED, str(example), "--epochs", str(epochs), "--folder", str(folder)]
    ended = start(command, folder)
    assert ended.returncode == 9, ended.stderr


def accuracies(printed: str) -> dict[str, float]:
    """The lines `TTFF 93.4 %`, one a sub-network."""
    found = re.findall(r"^([TF]{4}) (\d+\.\d) %$", printed, flags=re.MULTILINE)
    assert tuple(skip for skip, _ in found) == ad.all_skips(4)
    return {skip: float(percent) for skip, percent in found}


def at_chosen_depth(printed: str) -> float:
    """What the loop of the other library measured with TTFF."""
    [percent] = re.findall(r"^(?:Lightning tests|The Trainer predicts with) TTFF: (\d+\.\d) %$", printed, re.MULTILINE)
    return float(percent)


def contents(*files: Path) -> dict[str, bytes]:
    assert files
    return {file.name: file.read_bytes() for file in files}


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


# Epochs of 20 batches, delay 4: the first has 20 passes of the super-net, 16 of the base-net (from batch 4 on) and 6
# of others (with every second batch, from 8 on), 42 in all; each later one 20 + 20 + 10.
@pytest.mark.slow
def test_lightning_trains_every_depth_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    pytest.importorskip("pytorch_lightning")
    folder = tmp_path / "run"
    printed = run(LIGHTNING, folder, epochs=2)
    measured = accuracies(printed)
    assert min(measured.values()) > 85  # chance: 10
    assert at_chosen_depth(printed) == pytest.approx(measured["TTFF"], abs=0.06)

    first, last = lines(folder, 0)
    for epoch, (deep, shallow, between) in ((first, (20, 16, 6)), (last, (20, 20, 10))):
        total = deep * epoch["super_net_loss"] + shallow * epoch["base_net_loss"] + between * epoch["intermediate_loss"]
        assert epoch["train_loss"] == pytest.approx(total / (deep + shallow + between), rel=1e-4)
        assert 5 < epoch["base_net_accuracy"] <= 100  # the first epoch was validated, too, at chance as yet
    assert last["super_net_loss"] < first["super_net_loss"] / 2
    assert last["base_net_loss"] < first["base_net_loss"] / 2

    network = ad.load(folder / "network")
    images = create_loader(configure("digits", network.model), "validation", batch_size=250)
    assert network.calibrated
    assert ad.evaluate(network, images) == pytest.approx(measured, abs=ONE_IMAGE)

    kept = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    before = {name.removeprefix("objective.network."): value for name, value in kept["state_dict"].items()}
    network.load_state_dict(before)  # of the training: each tensor once, and not calibrated
    validated = {"FFFF": last["super_net_accuracy"], "TTTT": last["base_net_accuracy"]}
    assert ad.evaluate(network, images, validated) == pytest.approx(validated, abs=ONE_IMAGE)
    assert kept["global_step"] == kept["lr_schedulers"][0]["last_epoch"] == 92
    rate = kept["optimizer_states"][0]["param_groups"][0]["lr"]
    assert rate == 0  # it fell over all steps, and no further
    steps = {int(state["step"]) for state in kept["optimizer_states"][0]["state"].values()}
    assert max(steps) == 92  # what all sub-networks have, the stem for one
    assert min(steps) < 60  # what a pass leaves out is not updated

    again = tmp_path / "again"
    run_until_killed(LIGHTNING, again, epochs=2)  # in the second epoch
    assert torch.load(again / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 42
    assert accuracies(run(LIGHTNING, again, epochs=2)) == measured
    [second] = lines(again, 1)  # or else it started from scratch
    assert second == last
    assert contents(*again.glob("network/weights-*")) == contents(*folder.glob("network/weights-*"))


@pytest.mark.slow
def test_lightning_trains_with_algorithm_1(tmp_path: Path) -> None:
    pytest.importorskip("pytorch_lightning")
    folder = tmp_path / "run"
    assert min(accuracies(run(LIGHTNING, folder, 2, "--passes", "algorithm 1")).values()) > 80
    first, last = lines(folder, 0)
    assert last["train_loss"] < first["train_loss"] / 2
    assert last["train_loss"] == pytest.approx(last["super_net_loss"] + last["base_net_loss"], rel=1e-4)
    kept = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert {int(state["step"]) for state in kept["optimizer_states"][0]["state"].values()} == {40}


@pytest.mark.slow
def test_lightning_trains_in_two_processes(tmp_path: Path) -> None:
    pytest.importorskip("pytorch_lightning")
    folder = tmp_path / "run"
    accuracies(run(LIGHTNING, folder, 1, "--devices", "2"))
    kept = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    # 10 batches in each process: 10 + 6 passes, and one of another sub-network with batch 9. Some norms belong to the
    # base-net alone, and DDP must not update them in the steps that leave them out.
    assert kept["global_step"] == 17
    steps = {int(state["step"]) for state in kept["optimizer_states"][0]["state"].values()}
    assert max(steps) == 17
    assert min(steps) == 6
    (one, facts), (other, same) = kept["passes"]
    assert facts == same
    assert all(not torch.equal(one[name], other[name]) for name in one)  # each has images of its own


@pytest.mark.parametrize("schedule", [ad.Schedule(), None])
def test_lightning_holds_the_network_once_and_predicts_at_the_chosen_depth(schedule: Any, nets: Any) -> None:
    pytest.importorskip("pytorch_lightning")
    network = nets.resnet(classes=10).eval()
    module = runpy.run_path(str(LIGHTNING))["AdaptiveClassifier"](network, [], 0.1, schedule).eval()
    assert [name.removeprefix("objective.network.") for name in module.state_dict()] == list(network.state_dict())
    assert [id(each) for each in module.parameters()] == [id(each) for each in network.parameters()]
    batch = torch.randn(64, 3, 32, 32), torch.zeros(64)
    super_net, shallow = (network.extract(skip)(batch[0]).argmax(1) for skip in ("FFFF", "TTFF"))
    assert not torch.equal(super_net, shallow)
    assert torch.equal(module.predict_step(batch), super_net)
    module.skip = "TTFF"
    assert torch.equal(module.predict_step(batch), shallow)


# -- the Trainer of Hugging Face --------------------------------------------------------------------------------


# Epochs of 21 batches, delay 4: the first has 21 + 17 + 6 passes, the second 21 + 21 + 11.
@pytest.mark.slow
def test_transformers_trains_every_depth_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder = tmp_path / "run"
    printed = run(TRANSFORMERS, folder, epochs=2)
    measured = accuracies(printed)
    assert min(measured.values()) > 85  # chance: 10
    assert at_chosen_depth(printed) == pytest.approx(measured["TTFF"], abs=0.06)

    halfway, end = folder / "checkpoint-44", folder / "checkpoint-97"
    said = json.loads((end / "trainer_state.json").read_text())["log_history"]
    steps = [line for line in said if "loss" in line]
    assert steps[-1]["super_net_loss"] < steps[0]["super_net_loss"] / 2
    for line in steps[2:]:  # two rounds each
        parts = 0.4 * line["super_net_loss"] + 0.4 * line["base_net_loss"] + 0.2 * line["intermediate_loss"]
        assert line["loss"] == pytest.approx(parts, abs=1e-4)
        assert line["learning_rate"] == pytest.approx(0.01 * (98 - line["step"]) / 97)  # over all steps
    assert [line["epoch"] for line in said if "eval_loss" in line] == [1, 2]

    example = runpy.run_path(str(TRANSFORMERS))
    network = ad.load(folder / "network", example["build"]())
    data = open_data(configure("digits", network.model), "validation")
    images = DataLoader(data, batch_size=250, collate_fn=example["collate"])
    assert network.calibrated
    assert ad.evaluate(network, images) == pytest.approx(measured, abs=ONE_IMAGE)

    ad.Passes(network).module.load_state_dict(load_file(halfway / "model.safetensors"))  # not calibrated
    evaluated, _ = (line for line in said if "eval_loss" in line)
    validated = {"FFFF": evaluated["eval_super_net_accuracy"], "TTTT": evaluated["eval_base_net_accuracy"]}
    assert ad.evaluate(network, images, validated) == pytest.approx(validated, abs=ONE_IMAGE)

    weights = contents(end / "model.safetensors", *folder.glob("network/weights-*"))
    before = modified(halfway)
    shutil.rmtree(end)  # as if it had been killed in the second epoch
    shutil.rmtree(folder / "network")
    assert accuracies(run(TRANSFORMERS, folder, epochs=2)) == measured
    assert modified(halfway) == before  # or else it started from scratch
    assert contents(end / "model.safetensors", *folder.glob("network/weights-*")) == weights

    shutil.rmtree(folder / "network")
    assert accuracies(run(TRANSFORMERS, folder, epochs=2)) == measured  # one that is finished makes no further step
    assert sorted(folder.glob("checkpoint-*")) == [halfway, end]
    assert contents(end / "model.safetensors", *folder.glob("network/weights-*")) == weights


@pytest.mark.slow
def test_transformers_trains_with_algorithm_1(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder = tmp_path / "run"
    assert min(accuracies(run(TRANSFORMERS, folder, 2, "--passes", "algorithm 1")).values()) > 80
    said = json.loads((folder / "checkpoint-42" / "trainer_state.json").read_text())["log_history"]
    steps = [line for line in said if "loss" in line]
    assert steps[-1]["loss"] < steps[0]["loss"] / 2
    for line in steps:
        assert line["loss"] == pytest.approx(line["super_net_loss"] + line["base_net_loss"], abs=1e-4)
    assert [line["epoch"] for line in said if "eval_base_net_accuracy" in line] == [1, 2]


def perplexities(printed: str, when: str) -> dict[str, float]:
    """The line `after FF 12.34 FT 12.56 ...`."""
    [line] = re.findall(rf"^{when} (.*)$", printed, re.MULTILINE)
    words = line.split()
    return {skip: float(value) for skip, value in zip(words[::2], words[1::2], strict=True)}


@pytest.mark.slow
def test_transformers_trains_a_language_model_at_every_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(EXAMPLES)
    text, folder = tmp_path / "text.txt", tmp_path / "run"
    pages = sorted((EXAMPLES.parent / "docs").glob("*.md"))
    text.write_text("\n\n".join(page.read_text() for page in pages)[:60_000])
    printed = run(LANGUAGE, folder, 1, "--text", str(text))
    before, after = perplexities(printed, "before"), perplexities(printed, "after")
    assert tuple(after) == tuple(before) == ad.all_skips(2)
    # From a guess among 259 bytes to better than how often each occurs.
    assert all(before[skip] > 200 and after[skip] < 60 for skip in after), (before, after)
    said = json.loads(max(folder.glob("checkpoint-*/trainer_state.json")).read_text())["log_history"]
    [judged] = [line["eval_loss"] for line in said if "eval_loss" in line]
    ends = [math.log(after[skip]) for skip in ("FF", "TT")]
    assert judged == pytest.approx(sum(ends) / 2, rel=0.05)  # a mean of batches there, of tokens here

    example = runpy.run_path(str(LANGUAGE), {"__name__": "example"})
    model, tokenizer = example["small_llama"]()
    texts = example["texts_of"](text, tokenizer, 128)
    held_out = [dict(example["DataCollatorForLanguageModeling"](tokenizer, mlm=False)(texts[-(len(texts) // 10) :]))]
    network = ad.load(folder / "network", model)
    assert ad.evaluate(network, held_out) == pytest.approx(after, abs=0.006)


@pytest.mark.slow
def test_transformers_trains_in_two_processes(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder = tmp_path / "run"
    by = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    accuracies(run(TRANSFORMERS, folder, 1, "--cpu", by=by))
    # 11 batches in each process: 11 + 7 passes, and one of another sub-network with batch 9.
    kept = folder / "checkpoint-19"
    states = torch.load(kept / "optimizer.pt", weights_only=True)["state"].values()
    assert {max(int(state["step"]) for state in states), min(int(state["step"]) for state in states)} == {19, 7}
    one, other = (load_file(kept / f"passes-{number}-of-2.safetensors") for number in (0, 1))
    assert one.keys() == other.keys()
    assert all(not torch.equal(one[name], other[name]) for name in one)  # each has images of its own


# -- accelerate -------------------------------------------------------------------------------------------------

TWO_PROCESSES = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.mark.slow
def test_accelerate_trains_alike_in_parts_in_two_processes_and_nearly_so_in_bf16(tmp_path: Path) -> None:
    """13 batches of 16 rows: 13 + 9 passes, and 2 of an intermediate sub-network."""
    pytest.importorskip("transformers")
    text = tmp_path / "text.txt"
    text.write_text((EXAMPLES.parent / "LICENSE").read_text()[:5600])  # which nobody edits
    common = "--cpu", "--text", str(text), "--length", "24", "--batch-size"
    ways = {
        "one": ((sys.executable,), "16"),
        "parts": ((sys.executable,), "8", "--accumulate", "2"),
        "two": (TWO_PROCESSES, "8"),
        "all": (TWO_PROCESSES, "4", "--accumulate", "2", "--precision", "bf16"),
    }
    found, weights = {}, {}
    for name, (by, *more) in ways.items():
        printed = run(ACCELERATE, tmp_path / name, 1, *common, *more, by=by)
        assert "step 24:" in printed
        found[name] = perplexities(printed, "after")
        [file] = (tmp_path / name / "network").glob("weights-*")
        weights[name] = load_file(file)
    expected = found.pop("one")
    assert all(value < 60 for value in expected.values())  # a guess among 259 bytes: 259
    for name, after in found.items():
        assert after == pytest.approx(expected, rel=0.02 if name == "all" else 1e-3)
    # A step of AdamW is as long for the smallest gradient, whose sign is rounding, as for any: no difference of every
    # element is small, but their mean is.
    apart = {name: mean_distance(weights["one"], weights[name]) for name in found}
    assert apart["parts"] < 5e-5
    assert apart["two"] < 5e-5
    assert 2e-4 < apart["all"] < 1e-2  # bfloat16 has three digits: or else nothing ran in it


def mean_distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    apart = [(one[name] - other[name]).abs().flatten() for name in one]
    return float(torch.cat(apart).mean())


# -- timm -------------------------------------------------------------------------------------------------------


def epochs_of(printed: str) -> list[dict[str, float]]:
    """The lines `epoch 1, step 42: loss 0.9724, ..., FFFF 38.4 %, TTTT 15.0 %`."""
    lines = re.findall(r"^epoch (\d+), step (\d+): (.*)$", printed, flags=re.MULTILINE)
    return [
        {"epoch": int(epoch), "step": int(step)}
        | {name: float(value) for name, value in re.findall(r"(\w+) (\d+\.\d+)", said)}
        for epoch, step, said in lines
    ]


# Epochs of 20 batches, delay 4: 20 + 16 + 6 passes and 20 + 20 + 10, as above.
@pytest.mark.slow
def test_timm_trains_every_depth_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    printed = run(TIMM, folder, epochs=2)
    measured = accuracies(printed)
    assert min(measured.values()) > 85  # chance: 10
    first, last = epochs_of(printed)
    assert (first["step"], last["step"]) == (42, 92)
    for epoch, (deep, shallow, between) in ((first, (20, 16, 6)), (last, (20, 20, 10))):
        total = deep * epoch["super_net_loss"] + shallow * epoch["base_net_loss"] + between * epoch["intermediate_loss"]
        assert epoch["loss"] == pytest.approx(total / (deep + shallow + between), abs=2e-4)
    assert last["super_net_loss"] < first["super_net_loss"] / 2
    assert last["base_net_loss"] < first["base_net_loss"] / 2

    example = runpy.run_path(str(TIMM))
    images = list(example["loader_of"](folder / "digits", "validation", torch.device("cpu")))
    assert sum(len(labels) for _, labels in images) == 500
    network = ad.load(folder / "network")
    assert network.calibrated
    assert ad.evaluate(network, images) == pytest.approx(measured, abs=ONE_IMAGE)

    kept = torch.load(folder / "last.pth.tar", weights_only=True)
    network.load_state_dict(kept["state_dict_ema"])  # of the training, and not calibrated
    validated = {skip: last[skip] for skip in ("FFFF", "TTTT")}
    assert ad.evaluate(network, images, validated) == pytest.approx(validated, abs=ONE_IMAGE)
    assert kept["task_state"]["passes"]["facts"]["steps"] == 92
    steps = {int(state["step"]) for state in kept["optimizer"]["state"].values()}
    assert max(steps) == 92  # what all sub-networks have, the stem for one
    assert min(steps) < 60  # what a pass leaves out is not updated
    for group in kept["optimizer"]["param_groups"]:
        assert 0 < group["lr"] < 1e-4  # a cosine over all steps

    again = tmp_path / "again"
    run_until_killed(TIMM, again, epochs=2)  # in the second epoch
    assert torch.load(again / "last.pth.tar", weights_only=True)["epoch"] == 0
    resumed = run(TIMM, again, epochs=2)
    assert accuracies(resumed) == measured
    assert epochs_of(resumed) == [last]  # or else it started from scratch
    assert contents(*again.glob("network/weights-*")) == contents(*folder.glob("network/weights-*"))


@pytest.mark.slow
def test_timm_trains_with_algorithm_1_in_mixed_precision(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    printed = run(TIMM, folder, 2, "--passes", "algorithm 1", "--amp")
    assert min(accuracies(printed).values()) > 80
    first, last = epochs_of(printed)
    assert (first["step"], last["step"]) == (20, 40)
    assert last["loss"] < first["loss"] / 2
    assert last["loss"] == pytest.approx(last["super_net_loss"] + last["base_net_loss"], abs=2e-4)
    assert "task_state" not in torch.load(folder / "last.pth.tar", weights_only=True)


# What timm's script does, in its order: it is not part of the package. TIMM_TRAIN_SCRIPT names a copy of it.
STAND_IN = """
import argparse
from timm.data import create_dataset, create_loader
from timm.models import create_model
from timm.optim import create_optimizer_v2
from timm.task import ClassificationTask
from timm.utils import ParseKwargs, random_seed

parser = argparse.ArgumentParser()
for name in ("--data-dir", "--model", "--num-classes", "--epochs", "--batch-size", "--lr"):
    parser.add_argument(name)
parser.add_argument("--model-kwargs", nargs="*", action=ParseKwargs)
options = parser.parse_known_args()[0]
random_seed(0)
model = create_model(options.model, num_classes=int(options.num_classes), **options.model_kwargs)
loader, test = (
    create_loader(
        create_dataset("", root=options.data_dir, split=split), (3, 32, 32), int(options.batch_size), no_aug=True,
        is_training=split == "train", num_workers=0, persistent_workers=False, use_prefetcher=False,
    )
    for split in ("train", "validation")
)
task = ClassificationTask(model=model, criterion_kwargs={"smoothing": 0.1}, verbose=False)
optimizer = create_optimizer_v2(task.get_trainable_module(), "adamw", lr=float(options.lr))
task.setup_ema(decay=0.9)
for epoch in range(int(options.epochs)):
    task.get_trainable_module().train()
    print("Train:", epoch, len(loader))
    for images, labels in loader:
        task(images, labels)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        task.update_ema()
    evaluator = task.create_evaluator()
    for images, labels in test:
        evaluator.update(task.get_eval_model().eval()(images), labels)
    print("Test:", evaluator.compute()["top1"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("passes", ["SBSBR", "algorithm 1"])
@pytest.mark.parametrize("which", ["a stand-in", "timm's"])
def test_the_script_of_timm_trains_every_depth(which: str, passes: str, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(STAND_IN)
    if which == "timm's":
        if "TIMM_TRAIN_SCRIPT" not in os.environ:
            pytest.skip("TIMM_TRAIN_SCRIPT names no copy of timm's train.py")
        script = Path(os.environ["TIMM_TRAIN_SCRIPT"])
    example = runpy.run_path(str(TIMM))
    digits = example["write_digits"](tmp_path / "digits")
    folder = tmp_path / "network"
    shape = "--model resnet18 --num-classes 10 --model-kwargs channels=(8,16,32,64)"
    settings = f"{shape} --data-dir {digits} --no-aug -j 0"
    settings += f" --input-size 3 32 32 --batch-size 64 --opt adamw --lr 0.01 --warmup-epochs 0 --output {tmp_path}"
    settings += " --model-ema --model-ema-decay 0.9 --device cpu --experiment run --log-interval 1000 --epochs 2"
    settings += f" --delay 4 --folder {folder}"
    ended = start([sys.executable, str(TIMM_SCRIPT), str(script), "--passes", passes, *settings.split()], folder)
    assert ended.returncode == 0, ended.stderr
    network = ad.load(folder, ad.create_model("resnet18", num_classes=10, channels=(8, 16, 32, 64)))
    assert network.calibrated
    images = list(example["loader_of"](digits, "validation", torch.device("cpu")))
    assert min(ad.evaluate(network, images).values()) > 80
    if which == "a stand-in":
        steps = (42, 50) if passes == "SBSBR" else (20, 20)
        assert [int(number) for number in re.findall(r"^Train: \d (\d+)$", ended.stdout, re.MULTILINE)] == list(steps)
    else:
        kept = torch.load(tmp_path / "run" / "last.pth.tar", weights_only=False)
        assert ("task_state" in kept) == (passes == "SBSBR")


def test_the_script_of_timm_comes_first(tmp_path: Path) -> None:
    ended = start([sys.executable, str(TIMM_SCRIPT), "--epochs", "2", "train.py"], tmp_path)
    assert ended.returncode == 2
    assert "the first argument is '--epochs': expected a file, your copy of timm's train.py" in ended.stderr


# -- what all rely on ------------------------------------------------------------------------------------------


def test_a_loader_of_passes_tells_the_length_of_each_epoch(nets: Any) -> None:
    """Of 5 batches: S, SB, SB, SBR, SB | SBR, SB, SBR, SB, SBR | SB, SBR, SB, SBR, SB."""
    passes = ad.Passes(nets.transformer(), schedule=ad.Schedule("SBSBR", delay=1))
    loader = passes.over([(torch.randn(2, 3, 8, 8), torch.tensor([0, 1]))] * 5)
    for expected in (10, 13, 12):
        assert len(loader) == len(list(loader)) == expected
    assert passes.steps_done == 35


def test_a_loader_of_passes_goes_on_inside_an_epoch(nets: Any) -> None:
    """Wherever its loop saved a checkpoint, between a step and the next item."""
    data = [(torch.randn(2, 3, 8, 8), torch.tensor([0, 1])) for _ in range(5)]
    network, schedule = nets.transformer(), ad.Schedule("SBSBR", delay=1)

    def seen(passes: ad.Passes) -> list[tuple[Any, ...]]:
        return [
            (item["letter"], item["batch"], item["skip"], item["x"].sum().item(), passes.state())
            for item in passes.over(data)
        ]

    whole = ad.Passes(network, schedule=schedule)
    items = [*seen(whole), *seen(whole)]
    for number, (*_, state) in enumerate(items[:-1]):
        again = ad.Passes(network, schedule=schedule)
        again.put_state(*state)
        # After the last item of an epoch the next one is due.
        rest = items[number + 1 : 10] if number < 9 else items[number + 1 :]
        assert len(again.over(data)) == (10 if number < 9 else 13)
        assert [item[:4] for item in seen(again)] == [item[:4] for item in rest]
        assert again.steps_done == number + 1 + len(rest)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps=4 would add up the gradients of different"),
        ({"gradient_checkpointing": True}, r"call model\.gradient_checkpointing_enable\(\) before adapt"),
    ],
)
def test_the_trainer_refuses_what_would_mix_passes(tmp_path: Path, options: dict, message: str, nets) -> None:
    transformers = pytest.importorskip("transformers")
    spec = importlib.util.spec_from_file_location("train_with_transformers", EXAMPLES / "train_with_transformers.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    network = nets.chain()
    passes = ad.Passes(network, ad.tasks.Classification(), ad.Schedule("SB"))
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **options)
    with pytest.raises(ValueError, match=message):
        example.DepthTrainer(network, passes, args=arguments)
