"""`profile` of all 16 sub-networks of ResNet-50 at batch 1: its time, whether two profiles minutes apart agree, and how
much of the work that skipping saves is saved in time, for each backend (the paper: 0.92 on a Jetson Orin Nano).

    python benchmarks/profiling.py [minutes between the two, 3 by default]
"""

import sys
import time
from itertools import pairwise

import torch
from measure import report

import adaptive_depth as ad


def ratios(profile: ad.Profile) -> dict[str, float]:
    """Latencies against the super-net's."""
    full = profile.costs["FFFF"].latency_ms or 0.0
    return {skip: (cost.latency_ms or 0.0) / full for skip, cost in profile.costs.items()}


def main() -> None:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    torch.manual_seed(0)
    network = ad.adapt(ad.create_model("torchvision/resnet50")).eval()
    image = torch.randn(1, 3, 224, 224)
    profiles, seconds = [], []
    for turn in range(2):
        if turn:
            time.sleep(60 * minutes)
        start = time.perf_counter()
        profiles.append(ad.profile(network, image))
        seconds.append(time.perf_counter() - start)
        print(profiles[-1], f"\n{seconds[-1]:.0f} s", file=sys.stderr)
    (first, second), *_ = pairwise([ratios(profile) for profile in profiles])
    apart = {skip: second[skip] / first[skip] - 1 for skip in first}
    start = time.perf_counter()
    compiled = ad.profile(network, image, backend="compiled")
    compiling = time.perf_counter() - start
    last = torch.channels_last
    channels_last = ad.profile(network.to(memory_format=last), image.to(memory_format=last))
    print(compiled, channels_last, sep="\n", file=sys.stderr)
    share = {
        "eager": [profile.time_per_work() for profile in profiles],
        "eager with channels last": [channels_last.time_per_work()],
        "compiled": [compiled.time_per_work()],
    }
    worst = max(apart.values(), key=abs)
    best = max(value or 0.0 for values in share.values() for value in values)
    result = {
        "targets": "within 3 %; at most 60 s; 0.95 on one backend",
        "minutes between": minutes,
        "ratios to FFFF, second against first": apart,
        "largest difference": worst,
        "seconds": seconds,
        "seconds with compiling": compiling,
        "time saved over work saved": share,
        "latency against eager": {
            name: {
                skip: (other.costs[skip].latency_ms or 0.0) / (profiles[1].costs[skip].latency_ms or 1.0)
                for skip in ("FFFF", "TTTT")
            }
            for name, other in (("compiled", compiled), ("channels last", channels_last))
        },
        "cannot be told apart": [len(profile.ties()) for profile in profiles],
        "conditions": [profile.conditions for profile in profiles],
    }
    report("profiling", result, passed=abs(worst) <= 0.03 and max(seconds) <= 60 and best >= 0.95)


if __name__ == "__main__":
    main()
