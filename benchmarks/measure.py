"""What all benchmarks share: interleaved timing, ratios of one run, and results with the machine's description."""

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """The machine and the versions that a result belongs to."""
    processor = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        processor = names[0] if names else processor
    return {
        "processor": f"{processor}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
    }


def interleaved(runs: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of each run in each round; every round runs all of them once, in an order that rotates."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for number in range(warmup + rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.perf_counter()
            runs[name]()
            if number >= warmup:
                seconds[name].append(time.perf_counter() - start)
        print(f"\r{number + 1}/{warmup + rounds} rounds", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return seconds


def ratio(seconds: Mapping[str, list[float]], above: list[str], below: list[str]) -> dict[str, float]:
    """The sum of some runs against the sum of others, round by round: the median ratio and its middle half."""
    rounds = range(len(seconds[above[0]]))
    ratios = sorted(sum(seconds[n][i] for n in above) / sum(seconds[n][i] for n in below) for i in rounds)
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    return {"median": statistics.median(ratios), "low": quartiles[0], "high": quartiles[2], "rounds": len(ratios)}


def top1(network: Any, batches: Iterable[Any]) -> float:
    """Top-1 accuracy in percent of a network that returns logits `[batch, classes]`."""
    right = count = 0
    with torch.no_grad():
        for x, y in batches:
            right, count = right + int((network(x).argmax(1) == y).sum()), count + len(y)
    return 100 * right / count


def spread(values: Sequence[float]) -> float:
    """Their standard deviation; 0 of one value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def said(values: Sequence[float], digits: int = 1) -> str:
    """Mean ± standard deviation; a single value by itself."""
    scatter = f" ± {spread(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{scatter}" if values else ""


def write(file: Path, content: Mapping[str, Any]) -> None:
    """A result's file, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.rename(file)


def report(name: str, result: Mapping[str, Any], *, passed: bool) -> None:
    """Print a result, keep it under results/, and end with status 1 where the target was missed."""
    content = {"benchmark": name, "passed": passed, **result, "machine": machine()}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    print(json.dumps(content, indent=2))
    sys.exit(0 if passed else 1)
