"""Gradients of passes between two processes (gloo): what the exchange costs, beside two other ways.

    python benchmarks/exchange.py

Each pass leaves other parameters without a gradient. `train` averages those that are there, in one message, when the
backward pass is over. The other ways: `DistributedDataParallel` that walks the graph for unused parameters in each step
(`find_unused_parameters`), and no exchange at all.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import timm
import torch
from measure import interleaved, ratio, report
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import adaptive_depth as ad
from adaptive_depth.core.distributed import Distributed

ROUNDS, BATCH = 21, 8


class _Loss(nn.Module):
    """A pass as a module that returns its loss alone, for DDP looks for unused parameters in what is returned."""

    def __init__(self, network: ad.AdaptiveNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, y: Tensor, skip: str) -> Tensor:
        return nn.functional.cross_entropy(self.network(x, skip=skip), y)


def work(out: Path) -> None:
    torch.set_num_threads(1)
    processes = Distributed()
    torch.manual_seed(0)
    network = ad.adapt(timm.create_model("resnet18", channels=(32, 64, 128, 256), num_classes=10)).train()
    x, y = torch.randn(BATCH, 3, 64, 64), torch.randint(10, (BATCH,))
    module = _Loss(network)
    wrapped = DistributedDataParallel(_Loss(_copy(network)), find_unused_parameters=True, broadcast_buffers=False)
    skips = [network.skips[0], network.skips[-1], network.skips[5]]

    def round_of(call: Callable[..., Tensor], parameters: list[Tensor], average: bool) -> None:
        for skip in skips:
            for parameter in parameters:
                parameter.grad = None
            call(x, y, skip).backward()
            if average:
                processes.average_gradients(parameters)  # type: ignore[arg-type]
        processes.wait()

    own, theirs = list(network.parameters()), list(wrapped.parameters())
    ways = {
        "one message": partial(round_of, module, own, True),
        "walking the graph": partial(round_of, wrapped, theirs, False),
        "none": partial(round_of, module, own, False),
    }
    seconds = interleaved(ways, ROUNDS)
    if processes.is_first:
        out.write_text(json.dumps(seconds))


def _copy(network: ad.AdaptiveNetwork) -> ad.AdaptiveNetwork:
    other = ad.adapt(timm.create_model("resnet18", channels=(32, 64, 128, 256), num_classes=10)).train()
    other.load_state_dict(network.state_dict())
    return other


def main() -> None:
    out = Path(__file__).parent / "results" / "exchange.part"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*launcher, __file__, str(out)], check=True)
    seconds = json.loads(out.read_text())
    out.unlink()
    result = {
        "processes": 2,
        "network": "ResNet-18 of half the width, batches of 8 images of 64 px each, passes S, B, R",
        "with the exchange over without": ratio(seconds, ["one message"], ["none"]),
        "walking the graph (DDP) over one message": ratio(seconds, ["walking the graph"], ["one message"]),
    }
    report("exchange", result, passed=result["walking the graph (DDP) over one message"]["median"] >= 0.95)


if __name__ == "__main__":
    work(Path(sys.argv[1])) if "RANK" in os.environ else main()
