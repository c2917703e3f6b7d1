"""Prints the table of figures in docs/measured.md, from the other scripts' results in results/."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
Row = tuple[str, str, str, Callable[[dict[str, Any]], str]]

ROWS: list[Row] = [
    (
        "identity",
        "super-net against the original: outputs and gradients, eval and train mode",
        "bit-identical",
        lambda r: f"bit-identical, {sum(r['identical'].values())} of {len(r['identical'])} networks",
    ),
    (
        "macs",
        "multiply-adds of sub-networks against the paper's (ResNet-50, ViT-B/16)",
        "within 1 %",
        lambda r: f"within {100 * r['worst']:.2f} %",
    ),
    (
        "latency",
        "latency of a sub-network against a plain network of that depth (ResNet-50, batch 1)",
        "1.00 ± 0.02",
        lambda r: ", ".join(f"{row['median']:.3f}" for row in r["subnet / plain"].values()),
    ),
    (
        "find_stages",
        "time of `find_stages` for ResNet-50, with its proof over 16 sub-networks: by family, by discovery",
        "12 forward passes + 1 s",
        lambda r: " and ".join(f"{passes:.1f}" for passes in r["forward passes in all"].values()) + " passes in total",
    ),
    ("choosing", "switching to another depth", "under 5 µs", lambda r: f"{r['median_us']:.2f} µs, nothing rebuilt"),
    (
        "training_step",
        "a training step against one of the super-net plus one of the base-net (ResNet-50, 224 px, batch 8)",
        "at most 0.95",
        lambda r: (
            f"{r['time against super + base']['one backward']['median']:.3f} "
            f"(low-memory form {r['time against super + base']['low memory']['median']:.3f}, "
            f"two plain passes {r['time against super + base']['naive']['median']:.3f})"
        ),
    ),
    (
        "training_step",
        "peak memory of the low-memory form against a super-net step",
        "at most 1.05",
        lambda r: f"{r['peak memory against super']['low memory']:.3f}",
    ),
    (
        "training_step",
        "largest gradient difference from the plain two-pass algorithm, in float64",
        "rounding",
        lambda r: f"{max(v for k, v in r['largest relative difference of a gradient'].items() if _form64(k)):.0e}",
    ),
    (
        "trainer_overhead",
        "`train` against the bare objective and optimiser, a small ResNet",
        "at most 1.03",
        lambda r: f"{r['train / bare loop']['median']:.3f}",
    ),
    (
        "step_cost",
        "a training step of ViT-B/16 and of Swin-T (batch 4) against both alone; little is shared before a norm",
        "at most 1.00",
        lambda r: " and ".join(
            f"{next(iter(each['against super + base'].values()))['median']:.3f} "
            f"({each['one backward against the naive two passes']['median']:.3f} of two plain passes)"
            for each in r["cost"].values()
        ),
    ),
    (
        "data_pipeline",
        "share of time that training waits for images, loaded in the same process (recipe `fashion_mnist`, 28 px)",
        "below 0.5",
        lambda r: (
            f"{r['share of the time that training waits for images, loaded in turn']:.2f} "
            f"(with one loading process {r['the same with one loading process']:.2f})"
        ),
    ),
    (
        "evaluation",
        "`evaluate` on all 16 sub-networks, compared with one after the other: ResNet-50, ViT-B/16, Swin-T",
        "2.2, 1.9, 1.8 times faster",
        lambda r: (
            ", ".join(f"{one['times faster']['median']:.2f}" for one in r["networks"].values())
            + " times faster, bit-identical"
        ),
    ),
    (
        "profiling",
        "`profile` of the 16 sub-networks of ResNet-50, batch 1: its time; latencies relative to the super-net's, "
        "in two profiles minutes apart",
        "60 s; within 3 %",
        lambda r: f"{max(r['seconds']):.0f} s; within {100 * abs(r['largest difference']):.1f} %",
    ),
    (
        "profiling",
        "share of time saved over share of multiply-adds saved, ResNet-50's base-net, batch 1 (paper: 0.92, a Jetson)",
        "0.95 on one backend",
        lambda r: ", ".join(
            f"{backend} {sum(shares) / len(shares):.2f}" for backend, shares in r["time saved over work saved"].items()
        ),
    ),
    (
        "reporting",
        "`adaptive-depth report` of a finished run: time of the whole command, size of the file",
        "5 s, 2 MB",
        lambda r: f"{r['seconds']:.1f} s, {r['megabytes']:.2f} MB",
    ),
    (
        "calibration",
        "worst sub-network below the super-net, a small CNN after 3 epochs on Fashion-MNIST, two seeds",
        "1.5 points",
        lambda r: f"{_gaps(r, 'after')} points (before `calibrate`: {_gaps(r, 'before')})",
    ),
    (
        "calibration_cost",
        "growth of ResNet-50's checkpoint by `calibrate`",
        "under 4 %",
        lambda r: f"{100 * r['checkpoint growth']:.1f} %",
    ),
    (
        "calibration_cost",
        "time of `calibrate` for 16 sub-networks against a forward pass each",
        "at most 0.5",
        lambda r: f"{r['time against a forward pass each']['median']:.2f}",
    ),
    (
        "export_onnx_resnet50_shared",
        "one ONNX file with 16 depths (ResNet-50, calibrated, norms shared) relative to the super-net's: size, memory; "
        "latency at FFFF, TTFF, TTTT relative to a file of only that depth",
        "1.05, 1.3; 1.25",
        lambda r: _artifact(r),
    ),
    ("export_onnx_resnet50_folded", "the same, two sets of norms, folded", "1.05, 1.8; 1.05", lambda r: _artifact(r)),
    ("export_onnx_vit", "the same for ViT-B/16", "1.03, 1.3; 1.05", lambda r: _artifact(r)),
    (
        "export_executorch_resnet50_shared",
        "one `.pte` with 16 depths (ResNet-50, calibrated, norms shared)",
        "1.06, 1.3; 1.25",
        lambda r: _artifact(r),
    ),
    (
        "export_executorch_resnet50_folded",
        "the same, two sets of norms, folded",
        "1.75, 1.8; 1.05",
        lambda r: _artifact(r),
    ),
    ("export_executorch_vit", "the same for ViT-B/16", "1.03, 1.3; 1.05", lambda r: _artifact(r)),
    (
        "export_openvino",
        "one OpenVINO model with 16 depths, ResNet-50 and ViT-B/16",
        "1.05, 1.3; 1.25",
        lambda r: " and ".join(_openvino(r[name]) for name in ("resnet50", "vit_base_patch16_224")),
    ),
    (
        "export_onnx_files",
        "a plain ONNX file per depth with one file of weights, relative to the single file: latency at FFFF, TTFF, "
        "TTTT; size; memory of one depth, of three",
        "1.02",
        lambda r: (
            ", ".join(f"{row['median']:.2f}" for row in r["latency, files / one"].values())
            + f"; {r['size, files / one']:.2f}; "
            + ", ".join(f"{ratio:.2f}" for ratio in r["memory, files / one"].values())
        ),
    ),
    (
        "quantization",
        "int8 vs. float, a CNN on Fashion-MNIST: equal predictions at the worst of 16 depths; OpenVINO, ONNX Runtime",
        "99 % of the images",
        lambda r: ", ".join(f"{least:.2f} %" for least in r["least agreement in percent"].values()),
    ),
    (
        "governor",
        "a competing process comes and goes: deadlines met, accuracy. Governor; super-net alone; base-net alone",
        "95 %, above the base-net's",
        lambda r: "; ".join(
            f"{r[way]['met %']:.1f} %, {r[way]['accuracy of the images %']:.1f} %"
            for way in ("governor", "super-net alone", "base-net alone")
        ),
    ),
    (
        "governor_simulation",
        "the governor on 24 traces relative to an oracle that knows them, worst trace: accuracies of 76.7 to 75.1 %; "
        "of 80 to 60 %",
        "0.98",
        lambda r: f"{_worst(r, '76.7 to 75.1 %'):.3f}; {_worst(r, '80 to 60 %'):.3f}",
    ),
    ("governor_simulation", "one decision of the governor", "20 µs", lambda r: f"{r['us a decision']:.0f} µs"),
]


def _form64(name: str) -> bool:
    return "float64" in name and "rounding" not in name


def _gaps(result: dict[str, Any], when: str) -> str:
    gaps = result["points from the super-net to the worst sub-network, a run each"][when]
    return " and ".join(f"{gap:.1f}" for gap in gaps)


def _artifact(result: dict[str, Any]) -> str:
    memory = result["memory"].get("ratio", result["memory"].get("grown"))
    latency = [row["median"] for row in result["latency, one / alone"].values() if isinstance(row, dict)]
    return f"{result['size']['ratio']:.3f}, {memory:.2f}; {', '.join(f'{value:.2f}' for value in latency)}"


def _openvino(result: dict[str, Any]) -> str:
    latency = [row["median"] for name, row in result["latency ratios"].items() if name.endswith("alone")]
    size, memory = result["size, shared / FFFF"], result["memory, shared / FFFF"]
    return f"{size:.3f}, {memory:.2f}; {', '.join(f'{value:.2f}' for value in latency)}"


def _worst(result: dict[str, Any], accuracies: str) -> float:
    return min(trace[accuracies]["of the oracle"] for trace in result["traces"].values())


def _script(name: str) -> str:
    """The script that wrote a result; if it measures several things, results have its name as a prefix."""
    return next(part for part in _shortened(name) if (Path(__file__).parent / f"{part}.py").exists())


def _shortened(name: str) -> list[str]:
    words = name.split("_")
    return ["_".join(words[:count]) for count in range(len(words), 0, -1)]


def table() -> str:
    """A Markdown table: what, the target, the measurement."""
    lines = ["| what (`benchmarks/`) | target | measured |", "|---|---|---|"]
    for name, what, target, measured in ROWS:
        result = json.loads((RESULTS / f"{name}.json").read_text())
        lines.append(f"| {what} (`{_script(name)}.py`) | {target} | {measured(result)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
