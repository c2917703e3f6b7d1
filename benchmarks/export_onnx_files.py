"""A file for each depth over one file of weights, beside one file with an `If` for each stage: size, latency, memory.

ResNet-50, calibrated, 224 px, batch 1, one thread; the depths FFFF, TTFF and TTTT.

    python benchmarks/export_onnx_files.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from export_executorch import DEPTHS, X, network
from measure import interleaved, ratio, report

import adaptive_depth as ad

_MEMORY = """
import sys
import numpy as np
import adaptive_depth as ad
from adaptive_depth.deploy.onnx import run
from adaptive_depth.deploy.sidecar import read_sidecar
def resident():
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmRSS"))
path, skips, x = sys.argv[1], sys.argv[2].split(","), np.zeros((1, 3, 224, 224), np.float32)
read_sidecar(path)  # what reads descriptions is loaded
before = resident()
session = ad.open_session(path, threads=1)
for skip in skips * 3:
    session(x, skip)
print(resident() - before)
"""


def size(place: Path) -> int:
    return sum(file.stat().st_size for file in place.rglob("*")) if place.is_dir() else place.stat().st_size


def memory(path: Path, skips: tuple[str, ...]) -> float:
    """MB that a fresh process takes to open it and to run some depths."""
    command = [sys.executable, "-W", "ignore", "-c", _MEMORY, str(path), ",".join(skips)]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def main(rounds: int = 25) -> None:
    net = network("resnet50", True)
    with tempfile.TemporaryDirectory() as name:
        one, files = Path(name) / "model.onnx", Path(name) / "files"
        ad.export_network(net, one, X, skips=DEPTHS)
        ad.export_network(net, files, X, to="onnx-files", skips=DEPTHS)
        opened = {"one": ad.open_session(one, threads=1), "files": ad.open_session(files, threads=1)}
        runs = {
            f"{kind} {skip}": lambda s=session, d=skip: s(X, d) for kind, session in opened.items() for skip in DEPTHS
        }
        seconds = interleaved(runs, rounds, warmup=3)
        result = {
            "size, files / one": size(files) / size(one),
            "latency, files / one": {skip: ratio(seconds, [f"files {skip}"], [f"one {skip}"]) for skip in DEPTHS},
            "memory, files / one": {
                "one depth": memory(files, DEPTHS[:1]) / memory(one, DEPTHS[:1]),
                "three depths": memory(files, DEPTHS) / memory(one, DEPTHS),
            },
        }
    passed = all(row["median"] <= 1.02 for row in result["latency, files / one"].values())
    report("export_onnx_files", {"target": "no depth slower than with an If", **result}, passed=passed)


if __name__ == "__main__":
    main()
