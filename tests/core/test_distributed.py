"""Two processes that train together: real ones, started by torchrun, with gloo."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import adaptive_depth as ad
from adaptive_depth.core import distributed as module
from adaptive_depth.core.distributed import Distributed, synchronised

SCRIPT = """
import json, os, sys, timm, torch, adaptive_depth as ad
from pathlib import Path
from adaptive_depth.training.interrupting import seeded
torch.set_num_threads(1)
rank, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))

def work(kind, out, fields, alone):
    with seeded(0):
        if kind == "layernorm":
            small = dict(img_size=32, embed_dim=24, num_heads=2, depth=4, num_classes=3)
            model = timm.create_model("vit_tiny_patch16_224", **small)
            network = ad.adapt(model, group_size=2)
        else:
            network = ad.adapt(timm.create_model("resnet18", channels=(4, 4, 8, 8), num_classes=3))
        x, y = torch.randn(10, 8, 3, 32, 32), torch.randint(3, (10, 8))
        test, labels = torch.randn(11, 3, 32, 32), torch.randint(3, (11,))
    cuda = fields.pop("cuda", False)
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    network.double().to(device); x = x.double(); test = test.double()
    halves = [(images.chunk(2), labels.chunk(2)) for images, labels in zip(x, y)]
    resume, broken, epochs = fields.pop("resume", False), fields.pop("break", 0), fields.pop("epochs", 1)
    recipe = ad.Recipe(epochs=epochs, batch_size=8, lr=0.05, warmup_epochs=0).changed(fields)
    if not alone:
        batches = [(images[rank], labels[rank]) for images, labels in halves]
    elif kind == "layernorm" or cuda:  # accelerators normalise together
        batches = list(zip(x, y))
    else:  # one process that normalises the two halves apart: as two parts of one step
        batches = [part for images, labels in halves for part in zip(images, labels)]
        recipe = recipe.changed({"accumulate": 2})
    if recipe.accumulate == 2 and not alone:  # in parts: each process has two of two images
        batches = [part for images, labels in batches for part in zip(images.chunk(2), labels.chunk(2))]
    validation = [(test[rank::count], labels[rank::count])] if not alone else [(test, labels)]

    def on_step(now):
        if now.step == broken:
            os._exit(3)

    history = ad.train(network, batches, recipe, validation=validation, folder=out.with_suffix(".state"),
                       resume=resume, on_step=on_step)
    trained = {name: value.detach().clone() for name, value in network.state_dict().items()}
    before = out.parent / f"{out.stem.removesuffix(' alone')}.before"
    if alone and kind == "batchnorm":  # what precedes the first stage has gathered other statistics, see below
        network.load_state_dict(torch.load(before, weights_only=True))
    elif rank == 0:
        torch.save(network.state_dict(), before)
    measured = ad.calibrate(network, [x for x, _ in batches], limit=4 if alone else 2, across_processes=True)
    accuracy = ad.evaluate(network, validation, across_processes=True)
    if rank == 0:
        calibrated = {name: value for name, value in network.state_dict().items() if name.startswith("statistics.")}
        tensors = {name: value.cpu() for name, value in (trained | calibrated).items()}
        kinds = sorted({type(value).__name__ for value in network.parameters()})
        told = {"history": history.to_json(), "accuracy": accuracy, "measured": measured, "kinds": kinds}
        torch.save({"tensors": tensors, "told": json.dumps(told)}, out)

for kind, name, fields in json.loads(sys.argv[2]):
    work(kind, Path(sys.argv[1]) / f"{name}.pth", fields, count == 1)
"""


def launch(folder: Path, *jobs: tuple[str, str, dict], processes: int, dies: bool = False) -> None:
    """Train one after the other, in the same processes: starting them takes longer than what they train."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    arguments = [sys.executable, *launcher, str(script), str(folder), json.dumps(jobs)]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert (done.returncode != 0) == dies, done.stderr[-3000:]


def read(folder: Path, name: str) -> tuple[dict, dict]:
    content = torch.load(folder / f"{name}.pth", weights_only=True)
    return content["tensors"], json.loads(content["told"])


ONE = {"passes": "algorithm 1"}
FORMS = {
    "fast": ONE,
    "low memory": {**ONE, "low_memory": True},
    "spread": {**ONE, "fsdp": True},
    "spread and averaged": {**ONE, "fsdp": True, "ema": 0.9, "clip_grad": 0.5, "optimizer": "adamw", "lr": 0.01},
    "averaged": {**ONE, "ema": 0.9, "clip_grad": 0.5, "grad_checkpointing": True, "distil_share": 0.5},
    # Each step leaves the parameters of other sub-networks without a gradient.
    "passes": {"delay": 2},
    "passes, averaged": {"delay": 1, "ema": 0.9, "clip_grad": 0.5, "grad_checkpointing": True, "teacher_share": 0.5},
    "passes, spread": {"delay": 1, "fsdp": True, "ema": 0.9, "clip_grad": 0.5, "optimizer": "adamw", "lr": 0.01},
}


def statistics(name: str) -> bool:
    return "running_" in name or "num_batches" in name


PAIRS = [
    (kind, form)
    for kind in ("layernorm", "batchnorm")
    for form in FORMS
    if (kind, form) != ("layernorm", "averaged")  # of a whole batch, another part is distilled than of its two halves
]
LONGER = {
    form: {**FORMS[form], "epochs": 2, "checkpoint_every": 4, "accumulate": 2}
    for form in ("fast", "spread and averaged", "passes", "passes, spread")
}


@pytest.fixture(scope="module")
def trained(made_once) -> Path:
    """What two processes trained, and for each pair what one process trained."""

    def make(folder: Path) -> None:
        together = [(kind, f"{kind} {form}", FORMS[form]) for kind, form in PAIRS]
        whole = [("batchnorm", f"whole {form}", fields) for form, fields in LONGER.items()]
        launch(folder, *together, *whole, processes=2)
        fields = {form: {name: value for name, value in FORMS[form].items() if name != "fsdp"} for form in FORMS}
        launch(folder, *((kind, f"{kind} {form} alone", fields[form]) for kind, form in PAIRS), processes=1)

    return made_once("two_processes", make)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "form"), PAIRS)
def test_two_processes_train_like_one(kind: str, form: str, trained: Path) -> None:
    """Ten steps in float64: sums in another order may differ by rounding, and by nothing else."""
    together, told = read(trained, f"{kind} {form}")
    alone, expected = read(trained, f"{kind} {form} alone")
    assert together.keys() == alone.keys()
    assert told["kinds"] == ["Parameter"]  # whole ones, also where they were spread in training
    for name, value in together.items():
        # Running statistics of training are means over the two processes here, one after the other there. Those of
        # `calibrate` are means over the same four batches in both.
        if not statistics(name) or (kind == "batchnorm" and name.startswith("statistics.") and "num" not in name):
            torch.testing.assert_close(value, alone[name], rtol=1e-9, atol=1e-11, msg=lambda _, name=name: name)
    for field in ("loss", "accuracy", "base_loss", "base_accuracy"):
        assert told["history"][0][field] == pytest.approx(expected["history"][0][field], rel=1e-9)
    assert told["measured"] == expected["measured"] == (4 if kind == "batchnorm" else 0)
    assert told["accuracy"] == pytest.approx(expected["accuracy"])  # of 11 images, 6 and 5: none is counted twice
    if kind == "layernorm":
        assert told["history"][0]["validation"] == pytest.approx(expected["history"][0]["validation"])


@pytest.mark.slow
@pytest.mark.parametrize("form", LONGER)
def test_two_processes_go_on_bit_for_bit(form: str, trained: Path, tmp_path: Path) -> None:
    """Each has its own random numbers; the first dies in the second epoch, and with it the launcher stops both."""
    launch(tmp_path, ("batchnorm", "broken", LONGER[form] | {"break": 15}), processes=2, dies=True)
    launch(tmp_path, ("batchnorm", "broken", LONGER[form] | {"resume": True}), processes=2)
    whole, expected = read(trained, f"whole {form}")
    gone_on, told = read(tmp_path, "broken")
    assert all(torch.equal(whole[name], gone_on[name]) for name in whole)
    for a, b in zip(told["history"], expected["history"], strict=True):
        assert a | {"images_per_s": 0, "waiting": 0} == b | {"images_per_s": 0, "waiting": 0}


def test_one_process_needs_no_launcher(nets) -> None:
    processes, network = Distributed(), nets.chain()
    assert (processes.count, processes.index, processes.is_first) == (1, 0, True)
    assert processes.wrap(network) is network
    assert processes.sum(torch.tensor(3)) == 3
    assert processes.any(True, torch.device("cpu"))
    assert processes.all_gather("mine") == ["mine"]
    processes.average_gradients(network.parameters())
    processes.average_statistics(network)
    processes.wait()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {**ONE, "teacher": "random"},
            "a random teacher or student leaves norms without gradients: train it in one process",
        ),
        ({"sync_batchnorm": True}, "sync_batchnorm needs accelerators: leave it out on CPUs"),
        (
            {**ONE, "fsdp": True, "low_memory": True},
            "fsdp and low_memory cannot be combined yet: leave one of them out",
        ),
        ({"fsdp": True, "compile": True}, "fsdp and compile cannot be combined yet"),
        ({"fsdp": True, "precision": "fp16"}, "fsdp with fp16: .* use bf16"),
    ],
)
def test_what_does_not_go_together(fields, said, nets, unchanged, monkeypatch) -> None:
    monkeypatch.setattr(module.Distributed, "__init__", lambda self: vars(self).update(count=2, index=0))
    network = nets.chain()
    with unchanged(network), pytest.raises(ad.TrainingError, match=said):
        ad.train(network, [(torch.zeros(4, 3, 8, 8), torch.arange(4))], epochs=1, **fields)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_batchnorms_of_all_processes_are_put_back(name, unchanged) -> None:
    """efficientnet_b0 has norms with an activation inside, timm's own class."""
    network = ad.adapt(timm.create_model(name, num_classes=3)).train()
    x = torch.randn(2, 3, 64, 64)
    norms = {path: part for path, part in network.named_modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)}
    network.eval()
    before = {skip: network(x, skip=skip) for skip in (network.skips[0], network.skips[-1])}
    with unchanged(network):
        with synchronised(network):
            for path in norms:
                now = network.get_submodule(path)
                assert isinstance(now, nn.SyncBatchNorm)
                assert now.weight is norms[path].weight
                assert now.running_mean is norms[path].running_mean
            for skip, output in before.items():
                torch.testing.assert_close(network(x, skip=skip), output)
            assert any(isinstance(part, nn.SyncBatchNorm) for part in network.subnet(network.skips[-1]).modules())
        assert {path: network.get_submodule(path) for path in norms} == norms
        for skip, output in before.items():
            assert torch.equal(network(x, skip=skip), output)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="SyncBatchNorm needs two accelerators")
@pytest.mark.slow
def test_two_accelerators_normalise_together(tmp_path: Path) -> None:
    """As one process does that sees the whole batch, to what kernels that add in another order leave of float64."""
    launch(tmp_path, ("batchnorm", "seen", {"sync_batchnorm": True, "cuda": True}), processes=2)
    launch(tmp_path, ("batchnorm", "seen alone", {"cuda": True}), processes=1)
    (together, told), (alone, expected) = read(tmp_path, "seen"), read(tmp_path, "seen alone")
    for name, value in together.items():
        if not statistics(name):
            torch.testing.assert_close(value, alone[name], rtol=1e-6, atol=1e-8, msg=lambda _, name=name: name)
    for field in ("loss", "base_loss"):
        assert told["history"][0][field] == pytest.approx(expected["history"][0][field], rel=1e-6)


def test_recipes_are_public() -> None:
    assert ad.load_recipe("resnet50").changed({"epochs": 3}) == ad.load_recipe("resnet50").changed({"epochs": 3})
