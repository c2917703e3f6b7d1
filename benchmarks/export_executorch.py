"""One .pte with all 16 depths: size, latency, memory and changes of depth, against exports of one depth alone.

224 px, batch 1: `python benchmarks/export_executorch.py "resnet50 shared" [FOLDER]`, or another of `ARTIFACTS`:
ResNet-50 in the shared form (calibrated) or folded (two norm sets), ViT-B/16. Exporting takes minutes; a FOLDER keeps
the files.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from measure import interleaved, ratio, report

import adaptive_depth as ad
from adaptive_depth.deploy.artifact import Artifact
from adaptive_depth.deploy.executorch.run import LOADED
from adaptive_depth.deploy.executorch.write import write
from adaptive_depth.deploy.inputs import image_of
from adaptive_depth.deploy.session import Session, open_session

X = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
DEPTHS = ("FFFF", "TTFF", "TTTT")
NETWORKS = {"resnet50": "torchvision/resnet50", "vit": "vit_base_patch16_224"}
# The one artifact: its network, is it calibrated, its form; then what must be reached: size, latency, memory.
ARTIFACTS = {
    "resnet50 shared": ("resnet50", True, "shared", 1.06, 1.25, 1.3),
    "resnet50 folded": ("resnet50", False, "folded", 1.75, 1.05, 1.8),
    "vit": ("vit", False, "shared", 1.03, 1.05, 1.3),
}
_MEMORY = """
import json, sys
import numpy as np
from adaptive_depth.deploy.session import open_session
def resident():
    return {line.split(":")[0]: int(line.split()[1]) / 1024 for line in open("/proc/self/status") if "VmRSS" in line}
path, depths = sys.argv[1], int(sys.argv[2])
x = np.zeros((1, 3, 224, 224), np.float32)
session = open_session(path)  # ExecuTorch and torch are loaded here, the weights at the first call
before = resident()
for skip in session.skips[:depths]:
    for _ in range(2):
        session(x, skip)
print(json.dumps({"before": before, "after": resident()}))
"""


def network(name: str, calibrated: bool) -> ad.AdaptiveNetwork:
    """Random weights; norms and statistics all different, as after training."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    net = ad.adapt(ad.create_model(NETWORKS[name])).eval()
    if calibrated:
        net.reset_statistics(per_context=True)
    for path, buffer in net.named_buffers():
        if path.endswith("running_mean"):
            buffer.add_(0.1 * torch.randn(buffer.shape, generator=generator))
        if path.endswith("running_var"):
            buffer.mul_(0.8 + 0.4 * torch.rand(buffer.shape, generator=generator))
    for parameter in net.skip_norms.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return net


def exported(folder: Path, net: ad.AdaptiveNetwork, name: str, skips: tuple[str, ...], form: str) -> Path:
    path = folder / f"{name}.pte"
    if not path.exists():
        write(
            net, path, image_of(X), Artifact("executorch", net.stages.to_json(), skips, X.shape, form=form), form=form
        )
    return path


def worst_difference(net: ad.AdaptiveNetwork, session: Session) -> float:
    """Of all depths, the largest difference from the network, in standard deviations of its logits."""
    with torch.inference_mode():
        expected = {skip: net(X, skip=skip).numpy() for skip in session.skips}
    return max(float(abs(session(X, skip) - y).max() / y.std()) for skip, y in expected.items())


def memory(path: Path, depths: int) -> dict[str, float]:
    """MB that one process holds after the first `depths` were used: in all, and more than before the first call."""
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _MEMORY, str(path), str(depths)],
        capture_output=True,
        check=True,
        text=True,
    )
    found = json.loads(answer.stdout.splitlines()[-1])
    grown = found["after"]["VmRSS"] - found["before"]["VmRSS"]
    return {"process": found["after"]["VmRSS"], "grown": grown}


def changes(session: Session, rounds: int) -> dict[str, float]:
    """Median ratios of a call at TTTT after one at FFFF, and of one whose depth had to be loaded again, to a second."""
    changed, again = [], []
    for _ in range(rounds):
        session(X, "FFFF")
        first, second = timed(session, "TTTT"), timed(session, "TTTT")
        changed.append(first / second)
    for skip in session.skips * 3:  # more than stay loaded
        first, second = timed(session, skip), timed(session, skip)
        again.append(first / second)
    return {"changed / same": statistics.median(changed), "loaded again / loaded": statistics.median(again)}


def timed(session: Session, skip: str) -> float:
    start = time.perf_counter()
    session(X, skip)
    return time.perf_counter() - start


def measured(folder: Path, title: str, rounds: int) -> tuple[dict[str, object], bool]:
    """What the one artifact reaches, and whether that is what it must."""
    name, calibrated, form, most_size, most_latency, most_memory = ARTIFACTS[title]
    net = network(name, calibrated)
    start = time.perf_counter()
    one = exported(folder, net, title.replace(" ", "_"), net.skips, form)
    print(f"{one}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    kind = f"{name}_calibrated" if calibrated else name
    alone = {skip: exported(folder, net, f"{kind}_{skip}", (skip,), "folded") for skip in DEPTHS}
    size = one.stat().st_size / alone["FFFF"].stat().st_size

    session, dedicated = open_session(one), {skip: open_session(path) for skip, path in alone.items()}
    difference = worst_difference(net, session)
    opened = {skip: open_session(one) for skip in DEPTHS}  # more depths than stay loaded in one session
    runs = {f"one {skip}": lambda s=skip: opened[s](X, s) for skip in DEPTHS}
    runs |= {f"alone {skip}": lambda s=skip: dedicated[s](X) for skip in DEPTHS}
    seconds = interleaved(runs, rounds, warmup=3)
    latency = {skip: ratio(seconds, [f"one {skip}"], [f"alone {skip}"]) for skip in DEPTHS}
    shallow = ratio(seconds, ["one TTTT"], ["one FFFF"])
    costs = ad.profile(net, X, skips=["FFFF", "TTTT"], latency=False).costs
    macs = costs["TTTT"].macs / costs["FFFF"].macs
    change = changes(session, rounds)

    held, alone_held = memory(one, 16), memory(alone["FFFF"], 1)
    grown, process = (held[kind] / alone_held[kind] for kind in ("grown", "process"))
    passed = {
        "size": size <= most_size,
        "outputs": difference <= 1e-4,
        "latency": all(row["median"] <= most_latency for row in latency.values()),
        "TTTT / FFFF": shallow["median"] <= macs + 0.05,
        "memory": grown <= most_memory,
        "change": change["changed / same"] <= 1.03,
    }
    return {
        "size": {"MB": one.stat().st_size / 1e6, "ratio": size, "at most": most_size},
        "worst difference": difference,
        "latency, one / alone": latency | {"at most": most_latency},
        "latency, TTTT / FFFF": shallow | {"multiply-adds": macs},
        "change of depth": change,
        "memory": {"one": held, "alone": alone_held, "grown": grown, "process": process, "at most": most_memory},
        "reached": passed,
    }, all(passed.values())


def main(title: str, folder: Path, rounds: int = 25) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    result, passed = measured(folder, title, rounds)
    name = title.replace(" ", "_")
    report(f"export_executorch_{name}", {"artifact": title, "kept loaded": LOADED, **result}, passed=passed)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        main(sys.argv[1], Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(sys.argv[1], Path(temporary))
