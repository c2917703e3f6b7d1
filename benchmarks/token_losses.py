"""Memory and time of the losses of LanguageModel, against torch's own on all rows at once.

    python benchmarks/token_losses.py

1,024 tokens over a vocabulary of 150,000, forward and backward, on the CPU. `peak` is the process's largest resident
memory, of logits, gradient and all else, above what it had before there were logits; each run is a process of its own.
"""

import json
import resource
import subprocess
import sys
from collections import defaultdict
from itertools import product
from statistics import median
from time import perf_counter
from typing import Any

from measure import report

TOKENS, VOCABULARY = 1024, 150_000
LOSSES = ("cross-entropy", "distillation")
KINDS = ("float32", "bfloat16")
HOW = ("torch", "rows at a time")


def measured(loss: str, kind: str, how: str) -> dict[str, float]:
    """One forward and backward pass in this process."""
    import torch
    import torch.nn.functional as F

    from adaptive_depth.tasks.token_losses import token_cross_entropy, token_divergence

    def run(logits: Any, teacher: Any, labels: Any, rows: Any) -> None:
        if loss == "cross-entropy":
            value = (
                F.cross_entropy(logits.float(), labels) if how == "torch" else token_cross_entropy(logits, rows, labels)
            )
        elif how == "torch":
            logs = logits.float().log_softmax(1), teacher.float().log_softmax(1)
            value = F.kl_div(*logs, reduction="batchmean", log_target=True)
        else:
            value = token_divergence(teacher, logits, rows)
        value.backward()

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def given(tokens: int) -> tuple[Any, ...]:
        logits, teacher = (torch.empty(tokens, VOCABULARY, dtype=getattr(torch, kind)) for _ in range(2))
        labels = torch.randint(VOCABULARY, (tokens,))
        return logits.normal_().requires_grad_(), teacher.normal_(), labels, torch.arange(tokens)

    torch.manual_seed(0)
    run(*given(4))  # what is loaded and allocated once
    before = peak()
    inputs = given(TOKENS)
    start = perf_counter()
    run(*inputs)
    seconds = perf_counter() - start
    unused = 0 if loss == "distillation" else inputs[1].numel() * inputs[1].element_size() / 2**20
    return {"peak_mb": peak() - before - unused, "logits_mb": inputs[0].nbytes / 2**20, "seconds": seconds}


def main() -> None:
    found: dict[tuple[str, str, str], list[dict[str, float]]] = defaultdict(list)
    for _ in range(3):  # in turn, so that what else the machine does meets all alike
        for which in product(LOSSES, KINDS, HOW):
            command = [sys.executable, __file__, *which]
            line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            found[which].append(json.loads(line))
    result: dict[str, Any] = {"tokens": TOKENS, "vocabulary": VOCABULARY, "logits_mb": {}}
    for loss, kind in product(LOSSES, KINDS):
        result["logits_mb"][kind] = round(found[loss, kind, HOW[0]][0]["logits_mb"])
        for name in ("peak_mb", "seconds"):
            plain, ours = (median(run[name] for run in found[loss, kind, how]) for how in HOW)
            of = f"{loss}, {kind}, {name}"
            result[of] = {HOW[0]: round(plain, 2), HOW[1]: round(ours, 2), "ratio": round(ours / plain, 3)}
    # Logits (of the teacher, too), their gradient, and a few rows.
    least = {loss: 2 + (loss == "distillation") for loss in LOSSES}
    passed = all(
        result[f"{loss}, {kind}, peak_mb"][HOW[1]] < (least[loss] + 0.5) * result["logits_mb"][kind]
        for loss, kind in product(LOSSES, KINDS)
    )
    report("token_losses", result, passed=passed)


if __name__ == "__main__":
    print(json.dumps(measured(*sys.argv[1:]))) if sys.argv[1:] else main()
