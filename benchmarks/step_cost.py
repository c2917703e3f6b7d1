"""Cost of a training step of the paper's transformers, as `training_step.py` has it for ResNet-50: against one step of
the super-net plus one of the base-net alone, and against the plain two-pass algorithm with all else equal."""

import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from measure import interleaved, ratio, report
from torch import nn
from torchvision.models import SwinTransformer, VisionTransformer
from training_step import Worker, distilled_step, step_of

import adaptive_depth as ad

BATCH = 4


def plain(network: str, depth: str) -> nn.Module:
    """The super-net or the base-net, built by hand from torchvision's classes; without stochastic depth."""
    if network == "vit_b_16":
        layers = 12 if depth == "super" else 8
        return VisionTransformer(224, 16, layers, 12, 768, 3072)
    depths = [2, 2, 6, 2] if depth == "super" else [1, 1, 3, 1]
    return SwinTransformer([4, 4], 96, depths, [3, 6, 12, 24], [7, 7], stochastic_depth_prob=0.0)


def make_step(kind: str) -> Callable[[], None]:
    """`kind`: a network and one of super, base, one backward, low memory, naive."""
    name, _, kind = kind.partition(" ")
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(BATCH, 3, 224, 224, generator=generator), torch.arange(BATCH)
    torch.manual_seed(0)
    if kind in ("super", "base"):
        module = plain(name, kind)
        return step_of(module, lambda: F.cross_entropy(module(x), y).backward())
    return distilled_step(kind, ad.adapt(plain(name, "super")), x, y)


def main(rounds: int = 13) -> None:
    cost, passed = {}, True
    for name in sys.argv[1:] or ["vit_b_16", "swin_t"]:
        kinds = [f"{name} {kind}" for kind in ("super", "base", "one backward", "low memory", "naive")]
        workers = {kind: Worker(kind, "step_cost") for kind in kinds}
        seconds = interleaved(workers, rounds, warmup=2)
        for worker in workers.values():
            worker.close()
        below = kinds[:2]
        cost[name] = {
            "against super + base": {kind: ratio(seconds, [kind], below) for kind in kinds[2:]},
            "one backward against the naive two passes": ratio(seconds, kinds[2:3], kinds[4:]),
        }
        ours = cost[name]["against super + base"][kinds[2]]["median"]
        passed &= ours <= 1.0 and cost[name]["one backward against the naive two passes"]["median"] < 1.0
    result = {"targets": "at most 1.00, and ahead of the naive two passes", "batch": BATCH, "cost": cost}
    report("step_cost", result, passed=passed)


if __name__ == "__main__":
    main()
