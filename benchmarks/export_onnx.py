"""One ONNX model with all 16 depths: size, latency, memory and changes of depth, against exports of one depth alone.

224 px, batch 1, one thread: `python benchmarks/export_onnx.py "resnet50 shared"`, or another of `ARTIFACTS`: ResNet-50
in the shared form (calibrated) or folded (two norm sets), ViT-B/16.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import onnxruntime
import torch
from export_executorch import DEPTHS, X, changes, network, worst_difference
from measure import interleaved, ratio, report

import adaptive_depth as ad
from adaptive_depth.deploy.exporting import describe
from adaptive_depth.deploy.inputs import image_of
from adaptive_depth.deploy.onnx.write import write
from adaptive_depth.deploy.session import open_session

# The one artifact: its network, is it calibrated, its form; then what must be reached: size, latency, memory.
ARTIFACTS = {
    "resnet50 shared": ("resnet50", True, "shared", 1.05, 1.25, 1.3),
    "resnet50 folded": ("resnet50", False, "folded", 1.05, 1.05, 1.8),
    "vit": ("vit", False, "shared", 1.03, 1.05, 1.3),
}
_MEMORY = """
import sys
import numpy as np, onnxruntime
from adaptive_depth.deploy.session import open_session
from adaptive_depth.deploy.onnx import run as onnx
def resident():
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmRSS"))
x, path = np.zeros((1, 3, 224, 224), np.float32), sys.argv[1]
before = resident()
if sys.argv[2] == "one":
    session = open_session(path)
    for skip in session.skips * 2:
        session(x, skip)
else:
    session = onnxruntime.InferenceSession(path)
    for _ in range(32):
        session.run(None, {"image": x})
print(resident() - before)
"""


def alone(net: ad.AdaptiveNetwork, skip: str, path: Path) -> Path:
    """The export of a plain network of this depth by torch itself."""
    two, free = torch.cat([X, X]), ({0: torch.export.Dim.DYNAMIC},)
    program = torch.onnx.export(
        net.extract(skip), (two,), input_names=["image"], dynamic_shapes=free, dynamo=True, verbose=False
    )
    program.save(path, external_data=False)
    return path


def memory(path: Path, kind: str) -> float:
    """MB that a fresh process takes to open a model and to run each of its depths."""
    command = [sys.executable, "-W", "ignore", "-c", _MEMORY, str(path), kind]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def measured(folder: Path, title: str, rounds: int) -> tuple[dict[str, object], bool]:
    """What the one artifact reaches, and whether that is what it must."""
    name, calibrated, form, most_size, most_latency, most_memory = ARTIFACTS[title]
    net = network(name, calibrated)
    one = folder / "one.onnx"
    write(net, one, image_of(X), describe(net, "onnx", image_of(X), form=form), form=form)
    files = {skip: alone(net, skip, folder / f"{skip}.onnx") for skip in DEPTHS}
    size = one.stat().st_size / files["FFFF"].stat().st_size

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = open_session(one, threads=1)
    dedicated = {skip: onnxruntime.InferenceSession(path, options) for skip, path in files.items()}
    runs = {f"one {skip}": lambda s=skip: session(X, s) for skip in DEPTHS}
    runs |= {f"alone {skip}": lambda s=skip: dedicated[s].run(None, {"image": X.numpy()}) for skip in DEPTHS}
    seconds = interleaved(runs, rounds, warmup=3)
    latency = {skip: ratio(seconds, [f"one {skip}"], [f"alone {skip}"]) for skip in DEPTHS}
    shallow = ratio(seconds, ["one TTTT"], ["one FFFF"])
    costs = ad.profile(net, X, skips=["FFFF", "TTTT"], latency=False).costs
    macs = costs["TTTT"].macs / costs["FFFF"].macs
    difference, change = worst_difference(net, session), changes(session, rounds)["changed / same"]
    held, alone_held = memory(one, "one"), memory(files["FFFF"], "alone")
    passed = {
        "size": size <= most_size,
        "outputs": difference <= 1e-4,
        "latency": all(row["median"] <= most_latency for row in latency.values()),
        "TTTT / FFFF": shallow["median"] <= macs + 0.05,
        "memory": held / alone_held <= most_memory,
        "change": change <= 1.03,
    }
    return {
        "size": {"MB": one.stat().st_size / 1e6, "ratio": size, "at most": most_size},
        "worst difference": difference,
        "latency, one / alone": latency | {"at most": most_latency},
        "latency, TTTT / FFFF": shallow | {"multiply-adds": macs},
        "change of depth": change,
        "memory": {"one": held, "alone": alone_held, "ratio": held / alone_held, "at most": most_memory},
        "reached": passed,
    }, all(passed.values())


def main(title: str, rounds: int = 25) -> None:
    with tempfile.TemporaryDirectory() as folder:
        result, passed = measured(Path(folder), title, rounds)
    report(f"export_onnx_{title.replace(' ', '_')}", {"artifact": title, **result}, passed=passed)


if __name__ == "__main__":
    main(sys.argv[1])
