"""Two processes that train together: real ones, started by torchrun, with gloo."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import adaptive_depth as ad
from adaptive_depth.training.processes import Processes

SCRIPT = """
import json, os, sys, timm, torch, adaptive_depth as ad
from torch import nn
torch.set_num_threads(1)
kind, form, out, alone = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4] == "alone"
rank, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
with ad.training.loop.seeded(0):
    if kind == "layernorm":
        small = dict(img_size=32, embed_dim=24, num_heads=2, depth=4, num_classes=3)
        model = timm.create_model("vit_tiny_patch16_224", **small)
        network = ad.adapt(model, group_size=2)
    else:
        network = ad.adapt(timm.create_model("resnet18", channels=(4, 4, 8, 8), num_classes=3))
    x, y = torch.randn(10, 8, 3, 32, 32), torch.randint(3, (10, 8))
network.double(); x = x.double()
halves = [(images.chunk(2), labels.chunk(2)) for images, labels in zip(x, y)]
recipe = ad.Recipe(epochs=1, batch_size=8, lr=0.05, warmup_epochs=0, low_memory=form == "low", accumulate=1)
if not alone:
    batches = [(images[rank], labels[rank]) for images, labels in halves]
elif kind == "layernorm":
    batches = list(zip(x, y))
else:  # one process that normalises the two halves apart: as two parts of one step
    batches = [part for images, labels in halves for part in zip(images, labels)]
    recipe = recipe.changed({"accumulate": 2})
history = ad.train(network, batches, recipe)
if rank == 0:
    parameters = {name: value.detach() for name, value in network.named_parameters()}
    torch.save({"parameters": parameters, "history": json.dumps(history.to_json())}, out)
"""


def run(tmp_path: Path, kind: str, form: str, *, processes: int) -> tuple[dict, list]:
    script, out = tmp_path / "script.py", tmp_path / f"{processes}.pth"
    script.write_text(SCRIPT)
    launch = [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    arguments = [kind, form, str(out), "alone" if processes == 1 else "together"]
    done = subprocess.run([sys.executable, *launch, str(script), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    content = torch.load(out, weights_only=True)
    return content["parameters"], json.loads(content["history"])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["fast", "low"])
@pytest.mark.parametrize("kind", ["layernorm", "batchnorm"])
def test_two_processes_train_like_one(kind: str, form: str, tmp_path: Path) -> None:
    """Ten steps in float64: sums in another order may differ by rounding, and by nothing else."""
    together, history = run(tmp_path, kind, form, processes=2)
    alone, expected = run(tmp_path, kind, form, processes=1)
    assert together.keys() == alone.keys()
    for name, value in together.items():
        torch.testing.assert_close(value, alone[name], rtol=1e-9, atol=1e-11, msg=lambda _, name=name: name)
    for field in ("loss", "accuracy", "base_loss", "base_accuracy"):
        assert history[0][field] == pytest.approx(expected[0][field], rel=1e-9)


def test_one_process_needs_no_launcher(nets) -> None:
    processes, network = Processes(), nets.chain()
    assert (processes.count, processes.index, processes.is_first) == (1, 0, True)
    assert processes.wrap(network) is network
    assert processes.sum(torch.tensor(3)) == 3
    assert processes.any(True, torch.device("cpu"))
    processes.average_gradients(network.parameters())
    processes.wait()


def test_recipes_are_public() -> None:
    assert ad.load_recipe("resnet50").changed({"epochs": 3}) == ad.load_recipe("resnet50").changed({"epochs": 3})
