"""Every depth in int8: agreement with the float network, accuracies and sizes, on a trained network and real data.

RUN is a folder of `adaptive-depth train` on Fashion-MNIST at 28 pixels. On Debian, `apt-get install
dataset-fashion-mnist`; elsewhere give the folder of the four *-ubyte.gz files.
"""

import argparse
import gzip
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from measure import interleaved, ratio, report

import adaptive_depth as ad
from adaptive_depth.deploy.session import Session, open_session

KINDS = ("float32", "int8")
# By the file: a folder is one of onnx-files.
NAMES = {f"{kind}.xml": f"OpenVINO, {kind}" for kind in KINDS} | {kind: f"ONNX Runtime, {kind}" for kind in KINDS}
FASHION_MNIST = "/usr/share/datasets/fashion-mnist"


def load(folder: Path, part: str, mean: float, std: float) -> tuple[np.ndarray, np.ndarray]:
    """Images `[samples, 1, 28, 28]`, normalised, and labels `[samples]`."""

    def read(kind: str, header: int) -> np.ndarray:
        return np.frombuffer(
            gzip.decompress((folder / f"{part}-{kind}-ubyte.gz").read_bytes()), np.uint8, offset=header
        )

    images = read("images-idx3", 16).reshape(-1, 1, 28, 28) / np.float32(255)
    return ((images - mean) / std).astype(np.float32), read("labels-idx1", 8).astype(np.int64)


def answers(session: Session, images: np.ndarray) -> dict[str, np.ndarray]:
    """The class that each depth gives each image."""
    parts = np.array_split(images, len(images) // 500)
    return {skip: np.concatenate([session(part, skip).argmax(1) for part in parts]) for skip in session.skips}


def weights(file: Path) -> Path:
    return file / "weights.bin" if file.is_dir() else file.with_suffix(".bin")


def speed_of_resnet50() -> dict[str, object]:
    """Latencies of the super-net for one image of 224 px, one thread; weights are random, which costs as much."""
    network = ad.adapt(ad.create_model("torchvision/resnet50")).eval()
    x = np.random.default_rng(0).standard_normal((20, 3, 224, 224)).astype(np.float32)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in NAMES:
            path, to = folder / name, "openvino" if name.endswith(".xml") else "onnx-files"
            if name.startswith("int8"):
                ad.quantize_network(network, path, x, to=to, skips="FFFF")
            else:
                ad.export_network(network, path, torch.from_numpy(x[:1]), to=to, skips="FFFF")
        sessions = {NAMES[name]: open_session(folder / name, threads=1) for name in NAMES}
        runs = {name: (lambda s=session: s(x[:1], "FFFF")) for name, session in sessions.items()}
        return ratios(interleaved(runs, 15, warmup=3))


def ratios(seconds: dict[str, list[float]]) -> dict[str, object]:
    return {
        "OpenVINO, int8 / float32": ratio(seconds, [NAMES["int8.xml"]], [NAMES["float32.xml"]]),
        "ONNX Runtime, int8 / float32": ratio(seconds, [NAMES["int8"]], [NAMES["float32"]]),
        "int8, ONNX Runtime / OpenVINO": ratio(seconds, [NAMES["int8"]], [NAMES["int8.xml"]]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, default=FASHION_MNIST)
    parser.add_argument("--images", type=int, default=1000, help="for the calibration of ranges")
    options = parser.parse_args()

    network = ad.load(options.run).eval()
    prepared = json.loads((options.run / "data.json").read_text())
    train, _ = load(options.data, "train", prepared["mean"][0], prepared["std"][0])
    test, labels = load(options.data, "t10k", prepared["mean"][0], prepared["std"][0])
    chosen = train[np.random.default_rng(0).permutation(len(train))[: options.images]]
    example = torch.from_numpy(chosen[:1])
    with tempfile.TemporaryDirectory() as temporary:
        files = {name: Path(temporary, name) for name in (*(f"{kind}.xml" for kind in KINDS), *KINDS)}
        ad.export_network(network, files["float32.xml"], example)
        ad.export_network(network, files["float32"], example, to="onnx-files")
        ad.quantize_network(network, files["int8.xml"], chosen)
        ad.quantize_network(network, files["int8"], chosen, to="onnx-files")
        sessions = {NAMES[name]: open_session(file, threads=1) for name, file in files.items()}
        given = {name: answers(session, test) for name, session in sessions.items()}
        runs = {name: (lambda s=session: s(test[:64], network.skips[0])) for name, session in sessions.items()}
        seconds = interleaved(runs, 30, warmup=3)
        megabytes = {NAMES[name]: weights(file).stat().st_size / 1e6 for name, file in files.items()}
    right = given[NAMES["float32"]]
    agreement = {
        name: {skip: 100 * float((right[skip] == given[name][skip]).mean()) for skip in network.skips}
        for name in (NAMES["int8.xml"], NAMES["int8"])
    }
    least = {name: min(found.values()) for name, found in agreement.items()}
    result = {
        "target": "the class of the float network for at least 99 % of the test images, at every depth",
        "least agreement in percent": least,
        "agreement in percent": agreement,
        "accuracy in percent": {
            name: {skip: 100 * float((classes == labels).mean()) for skip, classes in found.items()}
            for name, found in given.items()
        },
        "weights in MB": megabytes,
        "latency of this super-net, 64 images, one thread": ratios(seconds),
        "latency of ResNet-50, an image of 224 px, one thread": speed_of_resnet50(),
        "calibration images": options.images,
    }
    report("quantization", result, passed=min(least.values()) >= 99)


if __name__ == "__main__":
    main()
