"""Two processes evaluate: each for itself, or together as one that has all samples."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
import torchmetrics
from torch import nn
import adaptive_depth as ad
from adaptive_depth.core.distributed import Distributed

torch.set_num_threads(1)
torch.manual_seed(0)

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x):
        return x + self.linear(x)

class Reader(nn.Module):
    def __init__(self, embed):
        super().__init__()
        self.embed = nn.Embedding(6, 6) if embed else nn.Identity()
        self.blocks = nn.Sequential(*(Block() for _ in range(4)))

    def forward(self, x):
        return self.blocks(self.embed(x))

example, tokens = torch.randn(2, 6), torch.randint(6, (2, 5))
plain = ad.adapt(Reader(False), example=example)
words = ad.adapt(Reader(True), example=tokens)
f1 = torchmetrics.classification.MulticlassF1Score(6)
samples = [(torch.randn(size, 6), torch.randint(6, (size,))) for size in (3, 5)]
texts = [torch.randint(6, (rows, length)) for rows, length in ((2, 5), (3, 9))]
numbers = [(x, torch.randn(len(x), 6)) for x, _ in samples]
JOBS = {
    "top-1": (plain, samples, ad.tasks.Classification()),
    "F1": (plain, samples, ad.tasks.Classification().with_metric(f1)),
    "perplexity": (words, [(x, x) for x in texts], ad.tasks.LanguageModel()),
    "error": (plain, numbers, ad.tasks.Regression()),
}
processes = Distributed()
count, rank = processes.count, processes.index
found = {}
for name, (network, batches, task) in JOBS.items():
    mine = batches if count == 1 else batches[rank : rank + 1]
    found[name] = {
        "each": [ad.evaluate(network, [batch], task=task) for batch in batches],
        "together": ad.evaluate(network, mine, task=task, across_processes=True),
    }
    if rank == 0:  # the other one asks nothing meanwhile
        found[name]["one"] = ad.evaluate(network, mine, task=task)
Path(sys.argv[1], f"{count}-{rank}.json").write_text(json.dumps(found))
"""


def evaluated(folder: Path, processes: int) -> list[dict[str, Any]]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    done = subprocess.run([sys.executable, *launcher, str(script), str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{processes}-{rank}.json").read_text()) for rank in range(processes)]


@pytest.mark.slow
def test_two_processes_evaluate_for_themselves_or_together(tmp_path: Path) -> None:
    [alone] = evaluated(tmp_path, 1)
    first, second = evaluated(tmp_path, 2)
    for task, expected in alone.items():
        assert expected["each"][0] != expected["each"][1], task
        for found in (first[task], second[task]):
            for got, by_itself in zip(found["each"], expected["each"], strict=True):
                assert got == pytest.approx(by_itself, rel=1e-6), task
            assert found["together"] == pytest.approx(expected["together"], rel=1e-6), task
        assert first[task]["one"] == pytest.approx(expected["each"][0], rel=1e-6), task
