"""Writes what other languages are tested with: what the Python library does, value by value.

    python tests/vectors/write.py

`governor.json` holds tables, settings and the logs of governors on a device that is slow now and then;
`preprocessing.json` images, settings and the checksums of the inputs that are made of them.
"""

import json
import random
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from adaptive_depth import Row, TradeOffs
from adaptive_depth.deploy.preparing import prepare
from adaptive_depth.governor.governor import Governor
from adaptive_depth.preprocessing import Preprocessing
from adaptive_depth.quality import Quality

HERE = Path(__file__).parent

TOP_1 = TradeOffs(
    tuple(
        Row(skip, quality, macs, 9, latency_ms=latency, energy_mj=3 * latency)
        for skip, quality, macs, latency in [
            ("FFF", 77.6, 4_110, 50.0),
            ("TFF", 77.1, 3_900, 47.0),
            ("FTF", 76.0, 3_500, 48.0),  # not on the front
            ("TTF", 76.4, 3_100, 38.5),
            ("TTT", 75.2, 2_580, 31.1),
        ]
    )
)
RMSE = TradeOffs(
    (Row("F", 0.031, 400, 9, latency_ms=12.5), Row("T", 0.042, 200, 5, latency_ms=7.25)),
    quality=Quality("RMSE", "m", higher_is_better=False),
)
GOVERNED: list[tuple[str, TradeOffs, dict[str, Any]]] = [
    ("a deadline", TOP_1, {"target_ms": 65.0}),
    ("few misses", TOP_1, {"target_ms": 55.0, "met": 0.99, "hold_s": 0.25}),
    ("a stream", RMSE, {"images_per_s": 60.0}),
    ("limits alone", TOP_1, {}),
]


def logged(table: TradeOffs, settings: dict[str, Any], seed: int, inputs: int = 160) -> list[dict[str, Any]]:
    """The log of a governor, on a device whose load comes and goes."""
    rng, now = random.Random(seed), [0.0]
    limits: list[dict[str, float]] = [{}, {"energy_mj": 120.0}, {"macs": 3_200.0}, {"energy_mj": 10.0}]
    more: dict[str, Any] = {} if settings else {"limit": lambda: limits[int(now[0]) % len(limits)]}
    governor = Governor(table, **settings, **more, keep=None, clock=lambda: now[0])
    slow = 1.0
    for number in range(inputs):
        if number % 20 == 0:
            slow = rng.choice([0.9, 1.0, 1.2, 1.6, 2.5])
        waited = rng.choice([0.0, 0.0, 0.0, rng.uniform(0, 20)])
        work = rng.choice([1.0, 1.0, 1.0, rng.uniform(0.5, 2)])
        skip = governor.choose(waited, work=work)
        latency = governor.latency_ms(skip) * work * slow * rng.lognormvariate(0, 0.08)
        now[0] += latency / 1000 + rng.choice([0.0, 0.0, 0.2])
        governor.observe(skip, latency, waited, work=work)
        if number % 17 == 0:
            now[0] -= rng.uniform(0, 5)  # a clock that is set back
    return [asdict(decision) for decision in governor.log]


PREPARED: list[tuple[dict[str, Any], tuple[int, int]]] = [
    ({"image_size": 24, "channels": 3, "interpolation": name, "crop_pct": 0.875}, size)
    for name in ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
    for size in ((61, 40), (17, 29), (24, 24))
] + [
    ({"image_size": 20, "channels": 1, "interpolation": "bilinear", "crop_pct": 1.0}, (33, 47)),
    ({"image_size": [18, 30], "channels": 3, "interpolation": "bicubic", "resize": "stretch"}, (50, 21)),
    ({"image_size": [25, 32], "channels": 3, "interpolation": "bilinear", "resize": "letterbox"}, (64, 45)),
    ({"image_size": 32, "channels": 3, "interpolation": "box", "resize": "letterbox", "fill": [0, 0.5, 1]}, (9, 70)),
]  # fmt: skip


def pixels(width: int, height: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """RGBA `[height, width, 4]`: edges and slopes, by whole numbers, so that every language makes the same."""
    y, x = np.mgrid[:height, :width]
    parts = [x * 7 % 256, (x * y + 3 * y) % 256, 255 * ((x // 5 + y // 3) % 2), np.full_like(x, 255)]
    return np.stack(parts, axis=-1).astype(np.uint8)


def prepared(settings: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    channels = settings["channels"]
    means = {"mean": [0.485, 0.456, 0.406][:channels], "std": [0.229, 0.224, 0.225][:channels]}
    preprocessing = Preprocessing.of({**means, **settings})
    x = prepare(Image.fromarray(pixels(*size), "RGBA").convert("RGB"), preprocessing)
    return {
        "preprocessing": preprocessing.to_json(),
        "image": list(size),
        "crc32": f"{zlib.crc32(x.astype('<f4').tobytes()):08x}",
        "first": [float(value) for value in x.reshape(-1)[:4]],
    }


def main() -> None:
    governors = [
        {"name": name, "table": table.to_json(), "settings": settings, "log": logged(table, settings, seed)}
        for seed, (name, table, settings) in enumerate(GOVERNED)
    ]
    images = [prepared(*each) for each in PREPARED]
    for name, cases in (("governor", governors), ("preprocessing", images)):
        (HERE / f"{name}.json").write_text("[\n" + ",\n".join(map(json.dumps, cases)) + "\n]\n")


if __name__ == "__main__":
    main()
