"""Sums over the steps of an epoch."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ..batches import entries_in, first_samples
from ..core.distributed import Distributed
from ..errors import DataError
from ..tasks import Classification, Task
from .history import Epoch


@dataclass(frozen=True)
class StepResult:
    """What one training step saw, without graphs; `base_...` is None for a plain network.

    Attributes:
        loss: the criterion of the super-net, or of the plain network.
        output: what it returned, `[batch, classes]`.
        base_loss: what the base-net learned from: with Algorithm 1 KL(super-net ‖ base-net).
        base_output: what the base-net returned, `[batch, classes]`; with `distil_share` for the first samples only.
    """

    loss: Tensor
    output: Tensor
    base_loss: Tensor | None = None
    base_output: Tensor | None = None


class Meter:
    """Sums over one epoch, kept on the device so that no step waits for them.

    Arguments:
        task: whose outputs are counted as right or wrong if they are classes; classification if None.
    """

    def __init__(self, task: Task | None = None) -> None:
        self.task = Classification() if task is None else task
        self.start, self.images, self.lr = perf_counter(), 0, 0.0
        self.images_before, self.waited = 0, 0.0  # images before an interruption; seconds
        self.sums: dict[str, Any] = {}
        self.base_images = 0  # that the base-net saw in its own passes

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside, while the network waits for the loader."""
        start = perf_counter()
        yield
        self.waited += perf_counter() - start

    def add(self, result: StepResult, y: Tensor) -> None:
        size = entries_in(y)
        self.images += size
        self._count("loss", result.loss * size)
        self._count_hits("accuracy", result.output, y)
        self._count_parts(result.output, y, size)
        if result.base_loss is not None and result.base_output is not None:
            self._count("base_loss", result.base_loss * size)
            seen = entries_in(result.base_output)  # fewer than all with distil_share
            few = seen < entries_in(result.output)
            self._count_hits("base_accuracy", result.base_output, first_samples(y, seen) if few else y)

    def add_pass(self, letter: str, loss: Tensor, output: Any, y: Any) -> None:
        """Add one pass of a schedule: `S` and `B` are counted, each by the images that it saw."""
        if letter == "R":
            return
        size, base = entries_in(y), "" if letter == "S" else "base_"
        self.images, self.base_images = self.images + size * (not base), self.base_images + size * bool(base)
        self._count(f"{base}loss", loss.detach() * size)
        self._count_hits(f"{base}accuracy", output, y)
        if letter == "S":
            self._count_parts(output, y, size)

    def to_json(self) -> dict[str, Any]:
        sums = {name: [value.item(), str(value.dtype).removeprefix("torch.")] for name, value in self.sums.items()}
        return {"images": self.images, "sums": sums, **({"base_images": self.base_images} if self.base_images else {})}

    def put(self, before: dict[str, Any], device: torch.device) -> None:
        """Continue from what `to_json` returned."""
        self.images = self.images_before = before["images"]
        self.base_images = before.get("base_images", 0)
        self.sums = {
            name: torch.tensor(value, dtype=getattr(torch, kind), device=device)
            for name, (value, kind) in before["sums"].items()
        }
        for name, images in (("accuracy", self.images), ("base_accuracy", self.base_images or self.images)):
            if name in self.sums and f"{name}_of" not in self.sums:  # from an earlier version: one class per image
                self.sums[f"{name}_of"] = torch.tensor(images, device=device)

    def _count_hits(self, name: str, output: Any, y: Any) -> None:
        hits = self.task.hits(output, y)
        if hits is not None:
            self._count(name, 100 * hits[0])
            self._count(f"{name}_of", hits[1])

    def _count_parts(self, output: Any, y: Any, size: int) -> None:
        for name, part in self.task.parts(output, y).items():
            self._count(f"{_PART}{name}", part.detach() * size)

    def _count(self, name: str, value: Tensor) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value

    def epoch(self, number: int, processes: Distributed | None) -> Epoch:
        """The means, over all `processes` or, if None, over this one alone."""
        if not self.sums:
            raise DataError("the loader yielded no batch in this epoch: expected one that can be iterated again")

        def total(value: Tensor) -> Tensor:
            return processes.sum(value) if processes else value

        device, seconds = next(iter(self.sums.values())).device, max(perf_counter() - self.start, 1e-9)
        images = int(total(torch.tensor(self.images, device=device))) or 1
        timed = int(total(torch.tensor(self.images - self.images_before, device=device)))
        base_images = int(total(torch.tensor(self.base_images, device=device))) or images
        means: dict[str, float | None] = dict.fromkeys(("loss", "accuracy", "base_loss", "base_accuracy"))
        for name in (name for name in means if name in self.sums):  # in the same order in all processes
            seen = base_images if name.startswith("base_") else images
            if f"{name}_of" in self.sums:
                seen = int(total(self.sums[f"{name}_of"])) or 1
            means[name] = float(total(self.sums[name].double())) / seen
        mine = [name for name in self.sums if name.startswith(_PART)]  # batches without boxes may have fewer
        names = sorted({name for own in (processes.all_gather(mine) if processes else [mine]) for name in own})
        nothing = torch.zeros((), device=device)
        parts = {n.removeprefix(_PART): float(total(self.sums.get(n, nothing).double())) / images for n in names}
        return Epoch(
            number,
            self.lr,
            images_per_s=timed / seconds,
            waiting=self.waited / seconds,
            parts=parts or None,
            **means,  # type: ignore[arg-type]
        )


_PART = "part "  # of the super-net's loss, among the sums
