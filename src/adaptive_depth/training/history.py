"""What a training tells of itself: a step, where it is, an epoch, its history."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError, TrainingError
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


@dataclass(frozen=True)
class Epoch:
    """One line of a history. Losses and accuracies (percent) are means over the epoch's training images.

    Attributes:
        epoch: counted from 1.
        lr: the learning rate of the last step.
        loss, accuracy: of the super-net, or of the plain network.
        base_loss, base_accuracy: of the base-net; None for a plain network.
        images_per_s: training throughput, over all processes.
        waiting: the part of the time, from 0 to 1, that the first process waited for the loader.
        validation: accuracy of some sub-networks on the validation images, where that was measured.
    """

    epoch: int
    lr: float
    loss: float
    accuracy: float
    base_loss: float | None
    base_accuracy: float | None
    images_per_s: float
    waiting: float = 0.0
    validation: dict[str, float] | None = None


@dataclass(frozen=True)
class Progress:
    """Where a training is after a step.

    Attributes:
        epoch, epochs: the one under way, from 1, and how many there are.
        step, steps: steps done, and how many there are, of all epochs.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    _so_far: Callable[[], Epoch] = field(repr=False)

    def so_far(self) -> Epoch:
        """Means over what this process saw of the epoch; to ask for them waits for the device."""
        return self._so_far()


@dataclass(frozen=True)
class History:
    """How a training went, epoch by epoch: a plain value that survives JSON and prints as CSV."""

    epochs: tuple[Epoch, ...]

    def to_csv(self) -> str:
        """A header and one line an epoch."""
        text = io.StringIO()
        skips = list(dict.fromkeys(skip for epoch in self.epochs for skip in epoch.validation or ()))
        plain = [field.name for field in fields(Epoch) if field.name != "validation"]
        writer = csv.DictWriter(text, [*plain, *(f"validation {skip}" for skip in skips)], lineterminator="\n")
        writer.writeheader()
        for epoch in self.to_json():
            measured = epoch.pop("validation") or {}
            writer.writerow(epoch | {f"validation {skip}": accuracy for skip, accuracy in measured.items()})
        return text.getvalue()

    def to_json(self) -> list[dict[str, Any]]:
        """Numbers and None only, as `from_json` reads them."""
        return [asdict(epoch) for epoch in self.epochs]

    @classmethod
    def from_json(cls, epochs: list[Mapping[str, Any]]) -> "History":
        """The inverse of `to_json`.

        Raises:
            TrainingError: a field that no epoch has, or one that is missing.
        """
        try:
            return cls(tuple(Epoch(**epoch) for epoch in epochs))
        except TypeError as error:
            raise TrainingError(
                f"history {epochs!r}: {error}; expected objects with {', '.join(Epoch.__dataclass_fields__)}"
            ) from error


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
