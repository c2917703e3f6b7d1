"""What a schedule of passes keeps at ImageNet size: memory of 33 batches of 256 images, and time beside a step.

python benchmarks/replay_buffer.py
"""

import time
from statistics import median

import timm
import torch
from measure import report

import adaptive_depth as ad
from adaptive_depth.training.replay import Replay

BATCH, SIZE, LIMIT_MB = 256, 224, 2048


def main() -> None:
    torch.manual_seed(0)
    schedule = ad.Schedule("SBSBR", delay=16)
    pixels = torch.randint(256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8)
    x, y = (pixels.float() - 120) / 60, torch.randint(1000, (BATCH,))
    replay, times = Replay(schedule.kept, LIMIT_MB), []
    for number in range(schedule.kept):
        start = time.perf_counter()
        replay.put(number, {"parts": [(x, y)], "teacher": [None]})
        back = replay.get(number, x.device)["parts"][0][0]
        times.append((time.perf_counter() - start) / BATCH)
    step = _seconds_of_an_image()
    exact = x.numel() * 4 * schedule.kept / 1e6
    result = {
        "batches kept": schedule.kept,
        "megabytes": round(replay.megabytes),
        "megabytes, if kept exactly": round(exact),
        "largest error, in steps of an 8-bit image": float((back - x).abs().max() * 60),
        "time to keep and to bring back, over that of a super-net's step (ResNet-50, one image)": median(times) / step,
    }
    report("replay_buffer", result, passed=replay.megabytes <= LIMIT_MB)


def _seconds_of_an_image(batch: int = 8) -> float:
    """Of a training step of ResNet-50, which is what a pass takes at least."""
    network = timm.create_model("resnet50").train()
    x, y, times = torch.randn(batch, 3, SIZE, SIZE), torch.randint(1000, (batch,)), []
    for _ in range(4):
        start = time.perf_counter()
        torch.nn.functional.cross_entropy(network(x), y).backward()
        times.append((time.perf_counter() - start) / batch)
    return median(times[1:])


if __name__ == "__main__":
    main()
