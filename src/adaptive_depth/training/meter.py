"""What the steps of an epoch add up to."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from .history import Epoch
from .processes import Processes


@dataclass(frozen=True)
class StepResult:
    """What one training step saw, without graphs; `base_...` is None for a plain network.

    Attributes:
        loss: the criterion of the super-net, or of the plain network.
        output: what it returned, `[batch, classes]`.
        base_loss: KL(super-net ‖ base-net).
        base_output: what the base-net returned, `[batch, classes]`; with `distil_share` of the first samples only.
    """

    loss: Tensor
    output: Tensor
    base_loss: Tensor | None = None
    base_output: Tensor | None = None


class Meter:
    """Sums over one epoch, kept on the device so that no step waits for them."""

    def __init__(self) -> None:
        self.start, self.images, self.lr = perf_counter(), 0, 0.0
        self.images_before, self.waited = 0, 0.0  # images of before an interruption; seconds
        self.sums: dict[str, Any] = {}

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside, the loader works and the network waits."""
        start = perf_counter()
        yield
        self.waited += perf_counter() - start

    def add(self, result: StepResult, y: Tensor) -> None:
        self.images += len(y)
        self._count("loss", result.loss * len(y))
        self._count("accuracy", 100 * _hits(result.output, y))
        if result.base_loss is not None and result.base_output is not None:
            seen = len(result.base_output)  # fewer than all with distil_share
            self._count("base_loss", result.base_loss * len(y))
            self._count("base_accuracy", 100 * _hits(result.base_output, y[:seen]) * (len(y) / seen))

    def to_json(self) -> dict[str, Any]:
        sums = {name: [value.item(), str(value.dtype).removeprefix("torch.")] for name, value in self.sums.items()}
        return {"images": self.images, "sums": sums}

    def put(self, before: dict[str, Any], device: torch.device) -> None:
        """Go on from what `to_json` returned."""
        self.images = self.images_before = before["images"]
        self.sums = {
            name: torch.tensor(value, dtype=getattr(torch, kind), device=device)
            for name, (value, kind) in before["sums"].items()
        }

    def _count(self, name: str, value: Tensor) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value

    def epoch(self, number: int, processes: Processes | None) -> Epoch:
        """The means; over some processes, or of this one alone."""
        if not self.images:
            raise DataError("the loader yielded no batch in this epoch: expected one that can be gone through again")

        def total(value: Tensor) -> Tensor:
            return processes.sum(value) if processes else value

        device, seconds = next(iter(self.sums.values())).device, max(perf_counter() - self.start, 1e-9)
        images = int(total(torch.tensor(self.images, device=device)))
        timed = int(total(torch.tensor(self.images - self.images_before, device=device)))
        means = dict.fromkeys(("loss", "accuracy", "base_loss", "base_accuracy"))
        means |= {name: float(total(value.double())) / images for name, value in self.sums.items()}
        return Epoch(number, self.lr, images_per_s=timed / seconds, waiting=self.waited / seconds, **means)  # type: ignore[arg-type]


def _hits(output: Tensor, y: Tensor) -> Tensor:
    labels = y if y.ndim == 1 else y.argmax(dim=1)  # of soft labels the largest
    return (output.argmax(dim=1) == labels).sum()
