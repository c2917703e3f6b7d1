"""One OpenVINO model with every depth against models of single depths: size, latency, memory; and why norms stay apart.

Networks have random weights, norms that differ in every context and, where there are any, statistics per context.
Compared are the one model (norms beside their layers), the same with norms folded, and models of three depths alone.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from measure import interleaved, ratio, report
from torch import Tensor

import adaptive_depth as ad
from adaptive_depth.deploy.artifact import Artifact
from adaptive_depth.deploy.inputs import image_of
from adaptive_depth.deploy.openvino.write import converted, save, write

DEPTHS = ("FFFF", "TTFF", "TTTT")
SETTINGS: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
SHAPE = (1, 3, 224, 224)


def network_of(name: str) -> ad.AdaptiveNetwork:
    torch.manual_seed(0)
    network = ad.adapt(ad.create_model(name)).eval()
    network.reset_statistics(per_context=True)  # none for a transformer
    for tensor in (*network.skip_norms.parameters(), *network.skip_norms.buffers(), *network.statistics.buffers()):
        if tensor.is_floating_point():
            tensor.data += 0.1 * torch.rand(tensor.shape)
    return network


def write_all(network: ad.AdaptiveNetwork, folder: Path, x: Tensor) -> None:
    """`shared.xml`, `folded.xml`, and one a depth, as OpenVINO itself converts it."""
    artifact = Artifact("openvino", network.stages.to_json(), network.skips, (None, *SHAPE[1:]))
    write(network, folder / "shared.xml", image_of(x), artifact, form="shared")
    save(converted(network, image_of(x), artifact, keep_norms=False), folder / "folded.xml", artifact)
    for skip in DEPTHS:
        program = torch.export.export(
            network.extract(skip), (x.expand(2, -1, -1, -1),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
        )
        model = openvino.convert_model(program)
        model.reshape([-1, *SHAPE[1:]])
        openvino.save_model(model, folder / f"{skip}.xml", compress_to_fp16=False)


def flags(skip: str) -> np.ndarray:
    return np.array([letter == "T" for letter in skip])


def largest_difference(network: ad.AdaptiveNetwork, file: Path, x: Tensor) -> float:
    """To the network, over all depths, in standard deviations of its logits."""
    compiled = openvino.compile_model(file, "CPU", SETTINGS)
    differences = []
    for skip in network.skips:
        with torch.no_grad():
            expected = network(x, skip=skip).numpy()
        got = compiled({"image": x.numpy(), "skip": flags(skip)})["logits"]
        differences.append(float(np.abs(got - expected).max() / expected.std()))
    return max(differences)


def latencies(folder: Path, x: np.ndarray, rounds: int) -> dict[str, dict[str, float]]:
    requests = {
        file.stem: openvino.compile_model(file, "CPU", SETTINGS).create_infer_request()
        for file in folder.glob("*.xml")
        if file.stem != "folded"
    }
    runs = {f"alone {skip}": (lambda s=skip: requests[s].infer([x], share_inputs=True)) for skip in DEPTHS}
    runs |= {
        f"one {skip}": (lambda s=skip: requests["shared"].infer([x, flags(s)], share_inputs=True)) for skip in DEPTHS
    }
    seconds = interleaved(runs, rounds, warmup=3)
    found = {f"{skip}, one model / alone": ratio(seconds, [f"one {skip}"], [f"alone {skip}"]) for skip in DEPTHS}
    return found | {"TTTT / FFFF": ratio(seconds, ["one TTTT"], ["one FFFF"])}


def memory(files: list[Path]) -> float:
    """Megabytes resident in a process without torch that has loaded models and run every depth of them."""
    command = [sys.executable, str(Path(__file__).with_name("openvino_memory.py")), *map(str, files)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(name: str, rounds: int) -> dict[str, Any]:
    network, x = network_of(name), torch.randn(SHAPE)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_all(network, folder, x)
        size = {
            file.stem: (file.stat().st_size + file.with_suffix(".bin").stat().st_size) / 1e6
            for file in folder.glob("*.xml")
        }
        sets = {
            "FFFF": ["FFFF"],
            "shared": ["shared"],
            "folded": ["folded"],
            "three models": list(DEPTHS),
            "no model": [],
        }
        megabytes = {what: memory([folder / f"{stem}.xml" for stem in stems]) for what, stems in sets.items()}
        macs = ad.profile(network, x, latency=False)
        work = {skip: cost.macs for skip, cost in macs.costs.items()}
        return {
            "size in MB": size,
            "size, shared / FFFF": size["shared"] / size["FFFF"],
            "resident memory in MB, every depth used": megabytes,
            "memory, shared / FFFF": megabytes["shared"] / megabytes["FFFF"],
            "latency ratios": latencies(folder, x.numpy(), rounds),
            "multiply-adds, TTTT / FFFF": work["TTTT"] / work["FFFF"],
            "largest difference in standard deviations": largest_difference(network, folder / "shared.xml", x),
        }


def passes(result: dict[str, Any]) -> bool:
    found = {what: values["median"] for what, values in result["latency ratios"].items()}
    return (
        result["size, shared / FFFF"] <= 1.05
        and result["memory, shared / FFFF"] <= 1.3
        and all(value <= 1.25 for value in found.values())
        and found["TTTT / FFFF"] <= result["multiply-adds, TTTT / FFFF"] + 0.05
        and result["largest difference in standard deviations"] <= 1e-4
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=["resnet50", "vit_base_patch16_224"])
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    found = {name: measure(name, options.rounds) for name in options.networks}
    target = "size 1.05, memory 1.3, latency 1.25 of a model of the depth alone; TTTT / FFFF at most MACs + 0.05; 1e-4"
    report("export_openvino", {"target": target, **found}, passed=all(map(passes, found.values())))


if __name__ == "__main__":
    main()
