"""A training step of ResNet-50 (224 px, batch 8): its time against one step of the super-net plus one of the
base-net trained alone, its peak memory in the low-memory form against a super-net step, and its gradients against
the plain two-pass algorithm."""

import copy
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from measure import interleaved, ratio, report
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

import adaptive_depth as ad


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 3, 224, 224, generator=generator), torch.randint(1000, (8,), generator=generator)


def step_of(module: nn.Module, differentiate: Callable[[], object]) -> Callable[[], None]:
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        differentiate()
        optimizer.step()

    return step


def make_step(kind: str) -> Callable[[], None]:
    """A step of the super-net or base-net alone, or of self-distillation in one of its forms."""
    x, y = data()
    torch.manual_seed(0)
    if kind in ("super", "base"):
        plain = ResNet(Bottleneck, [3, 4, 6, 3] if kind == "super" else [2, 2, 3, 2])
        return step_of(plain, lambda: F.cross_entropy(plain(x), y).backward())
    return distilled_step(kind, ad.adapt(ResNet(Bottleneck, [3, 4, 6, 3])), x, y)


def distilled_step(kind: str, network: ad.AdaptiveNetwork, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """A step of self-distillation in one of its forms."""
    objective = ad.SelfDistillation(network, keep_scale=False)
    if kind == "naive":
        return step_of(network, lambda: two_passes(network, x, y).backward())
    if kind == "low memory":
        return step_of(network, lambda: objective.backward(x, y))
    return step_of(network, lambda: objective(x, y).total.backward())


def two_passes(network: ad.AdaptiveNetwork, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Algorithm 1 as the paper writes it: nothing shared."""
    deep, shallow = network(x), network(x, skip=network.skips[-1])
    divergence = F.kl_div(F.log_softmax(shallow, 1), F.softmax(deep.detach(), 1), reduction="batchmean")
    return 0.5 * F.cross_entropy(deep, y) + 0.5 * divergence


class Worker:
    """A process of its own for one kind of step: as in real use, the memory of one kind does not serve another."""

    def __init__(self, kind: str, script: str = "training_step", **environment: str) -> None:
        code = f"import training_step, {script}; training_step.serve({script}.make_step, {kind!r})"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parent,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self) -> int:
        """Run one step; the peak of resident bytes so far, above what the process held after its imports."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print("step", file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate()


def serve(make: Callable[[str], Callable[[], None]], kind: str) -> None:
    """Run a step for every line on stdin."""
    status = Path("/proc/self/status")

    def kilobytes(field: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field))

    F.conv2d(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 3, 3))  # the libraries' own tables
    before = kilobytes("VmRSS")
    step = make(kind)
    for _ in sys.stdin:
        step()
        print((kilobytes("VmHWM") - before) * 1024, flush=True)


def peak_memory(kind: str) -> int:
    """The peak of resident bytes in two steps, in a fresh process.

    The C library hands freed tensors back at once there, so that resident is what is alive, and not what its heap
    keeps by chance.
    """
    worker = Worker(kind, MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="65536", MALLOC_TOP_PAD_="0")
    worker()
    peak = worker()
    worker.close()
    return peak


def gradient_error() -> dict[str, float]:
    """The largest difference of any gradient to the plain two-pass algorithm, against that gradient's largest entry.

    In float64, so that only a difference of the algorithms can show, and in float32.
    """
    errors = {}
    for dtype in (torch.float64, torch.float32):
        torch.manual_seed(0)
        network = ad.adapt(ResNet(Bottleneck, [3, 4, 6, 3])).to(dtype)
        for parameter in network.skip_norms.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        x, y = data()[0][:4, :, ::2, ::2].to(dtype), data()[1][:4]
        plain, *forms = (copy.deepcopy(network) for _ in range(4))
        two_passes(plain, x, y).backward()
        again, one, two = forms
        two_passes(again, x.flip(0), y.flip(0)).backward()  # the same sum in another order: what rounding alone does
        ad.SelfDistillation(one, keep_scale=False)(x, y).total.backward()
        ad.SelfDistillation(two, keep_scale=False).backward(x, y)
        for name, form in (("rounding alone", again), ("one backward", one), ("low memory", two)):
            errors[f"{name}, {dtype}"] = max(
                float((a.grad - b.grad).abs().max() / a.grad.abs().max())
                for a, b in zip(plain.parameters(), form.parameters(), strict=True)
            )
    return errors


def main(rounds: int = 7, processes: int = 3) -> None:
    errors = gradient_error()
    kinds = ["super", "base", "one backward", "low memory", "naive"]
    workers = {kind: Worker(kind) for kind in kinds}
    seconds = interleaved(workers, rounds, warmup=2)
    for worker in workers.values():
        worker.close()
    time = {kind: ratio(seconds, [kind], ["super", "base"]) for kind in kinds[2:]}
    peaks = {kind: [peak_memory(kind) for _ in range(processes)] for kind in ("super", "low memory")}
    memory = {kind: statistics.median(each) / statistics.median(peaks["super"]) for kind, each in peaks.items()}
    exact = all(error < 1e-9 for name, error in errors.items() if "float64" in name)
    result = {
        "targets": "time <= 0.95, low memory <= 1.05, gradients equal to rounding",
        "time against super + base": time,
        "peak memory against super": memory,
        "peak bytes of each process": peaks,
        "largest relative difference of a gradient": errors,
    }
    fast = min(time["one backward"]["median"], time["low memory"]["median"]) <= 0.95
    report("training_step", result, passed=fast and memory["low memory"] <= 1.05 and exact)


if __name__ == "__main__":
    main()
