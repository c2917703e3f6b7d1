"""A training loop for an adaptive network, and for a plain one to compare it with."""

import csv
import io
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from timm.optim import create_optimizer_v2, list_optimizers, param_groups_weight_decay  # pyright: ignore[reportPrivateImportUsage]
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import Tensor, nn

from ..batches import device_of, split_batch
from ..errors import DataError, TrainingError
from ..network import AdaptiveNetwork
from .self_distillation import SelfDistillation, check_finite, check_labels, logits_of


@dataclass(frozen=True)
class StepResult:
    """What one training step saw, without graphs; `base_...` is None for a plain network.

    Attributes:
        loss: the criterion of the super-net, or of the plain network.
        output: what it returned, `[batch, classes]`.
        base_loss: KL(super-net ‖ base-net).
        base_output: what the base-net returned, `[batch, classes]`.
    """

    loss: Tensor
    output: Tensor
    base_loss: Tensor | None = None
    base_output: Tensor | None = None


Step = Callable[[Tensor, Tensor], StepResult]  # forward and backward on one batch; gradients are added to `.grad`


class Loader(Sized, Protocol):
    """Batches (input, labels) that can be gone through once an epoch, such as a DataLoader."""

    def __iter__(self) -> Iterator[Any]: ...


@dataclass(frozen=True)
class Epoch:
    """One line of a history. Losses and accuracies (percent) are means over the epoch's training images.

    Attributes:
        epoch: counted from 1.
        lr: the learning rate of the last step.
        loss, accuracy: of the super-net, or of the plain network.
        base_loss, base_accuracy: of the base-net; None for a plain network.
        images_per_s: training throughput.
    """

    epoch: int
    lr: float
    loss: float
    accuracy: float
    base_loss: float | None
    base_accuracy: float | None
    images_per_s: float


@dataclass(frozen=True)
class History:
    """How a training went, epoch by epoch: a plain value that survives JSON and prints as CSV."""

    epochs: tuple[Epoch, ...]

    def to_csv(self) -> str:
        """A header and one line an epoch."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(Epoch)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.to_json())
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


# -- steps ------------------------------------------------------------------------------------------------------


def distil(objective: SelfDistillation, *, low_memory: bool = False) -> Step:
    """The step of Algorithm 1: the super-net learns from the labels, the base-net from the super-net.

    Arguments:
        objective: the network and its losses.
        low_memory: in the memory of the super-net's pass alone, with two backward passes.
    """

    def step(x: Tensor, y: Tensor) -> StepResult:
        if low_memory:
            losses = objective.backward(x, y)
        else:
            losses = objective(x, y)
            losses.total.backward()
        return StepResult(losses.super_net.detach(), losses.super_output, losses.base_net.detach(), losses.base_output)

    return step


def supervise(network: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor] | None = None) -> Step:
    """The usual step of a plain network: cross-entropy (or `criterion`) of its output and the labels."""
    criterion = nn.CrossEntropyLoss() if criterion is None else criterion

    def step(x: Tensor, y: Tensor) -> StepResult:
        output = logits_of(network(x))
        check_labels(criterion, output, y)
        loss = criterion(output, y)
        check_finite("the loss", loss)
        loss.backward()
        return StepResult(loss.detach(), output.detach())

    return step


# -- the loop ---------------------------------------------------------------------------------------------------


def train(
    network: nn.Module,
    batches: Loader,
    *,
    epochs: int,
    step: Step | None = None,
    optimizer: str = "sgd",
    lr: float = 0.1,
    weight_decay: float = 1e-4,
    warmup_epochs: float | None = None,
    seed: int | None = None,
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> History:
    """Train a network, adaptive or plain; the learning rate follows a cosine, and weights alone decay.

    Arguments:
        network: trained where it is (`network.to(device)` before); in eval mode afterwards.
        batches: pairs of input `[batch, ...]` and labels `[batch]`, such as a DataLoader.
        epochs: how often to go through them.
        step: what to do with a batch; by default `distil(SelfDistillation(network))` for an adaptive network,
            `supervise(network)` for a plain one.
        optimizer: a name of timm's, such as `"sgd"` (momentum 0.9, Nesterov) or `"adamw"`.
        lr: the highest learning rate, reached after the warm-up; it falls to 0 at the end.
        weight_decay: not applied to norms, biases and what the model itself exempts.
        warmup_epochs: of a learning rate that rises linearly; by default a tenth of the epochs, at most 5.
        seed: makes a training repeatable, on one machine and device: random numbers start from it, and those of
            the program around it go on afterwards as if nothing had been drawn.
        on_step: called with (steps done, steps in all) after each step.
        on_epoch: called with each finished epoch.

    Raises:
        TrainingError: settings out of range, labels out of range or a loss that is not finite.
        DataError: no batches, or batches without labels.

    Example:
        >>> import timm, torch, adaptive_depth as ad
        >>> net = ad.adapt(timm.create_model("resnet18", num_classes=10))
        >>> train(net, [(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3]))], epochs=2).epochs[-1].epoch
        2
    """
    _check(network, batches, epochs, lr)
    if step is None:
        step = distil(SelfDistillation(network)) if isinstance(network, AdaptiveNetwork) else supervise(network)
    steps = epochs * len(batches)
    optimiser = _optimiser(network, optimizer, lr, weight_decay)
    warmup = min(5, epochs / 10) if warmup_epochs is None else min(warmup_epochs, epochs)
    schedule = _schedule(optimiser, steps, round(warmup * len(batches)))
    device, done, history = device_of(network), 0, []
    with seeded(seed):
        for epoch in range(1, epochs + 1):
            network.train()
            meter = _Meter()
            for batch in batches:
                x, y = split_batch(batch, device)
                if y is None:
                    raise DataError("the loader yielded inputs without labels: expected pairs (input, labels)")
                optimiser.zero_grad()
                meter.add(step(x, y), y)
                optimiser.step()
                meter.lr = optimiser.param_groups[0]["lr"]
                schedule.step_update(done := done + 1)
                if on_step:
                    on_step(done, steps)
            history.append(meter.epoch(epoch))
            if on_epoch:
                on_epoch(history[-1])
    optimiser.zero_grad()
    network.eval()
    return History(tuple(history))


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Random numbers (torch, NumPy, Python) that start from `seed`; their state before is put back afterwards."""
    if seed is None:
        yield
        return
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the state that transforms draw from
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


class _Meter:
    """Sums over one epoch, kept on the device so that no step waits for them."""

    def __init__(self) -> None:
        self.start, self.images, self.lr = perf_counter(), 0, 0.0
        self.sums: dict[str, Any] = {}

    def add(self, result: StepResult, y: Tensor) -> None:
        self.images += len(y)
        self._count("loss", result.loss * len(y))
        self._count("accuracy", 100 * _hits(result.output, y))
        if result.base_loss is not None and result.base_output is not None:
            self._count("base_loss", result.base_loss * len(y))
            self._count("base_accuracy", 100 * _hits(result.base_output, y))

    def _count(self, name: str, value: Tensor) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value

    def epoch(self, number: int) -> Epoch:
        if not self.images:
            raise DataError("the loader yielded no batch in this epoch: expected one that can be gone through again")
        means = dict.fromkeys(("loss", "accuracy", "base_loss", "base_accuracy"))
        means |= {name: float(value) / self.images for name, value in self.sums.items()}
        return Epoch(number, self.lr, images_per_s=self.images / (perf_counter() - self.start), **means)  # type: ignore[arg-type]


def _hits(output: Tensor, y: Tensor) -> Tensor:
    labels = y if y.ndim == 1 else y.argmax(dim=1)  # of soft labels the largest
    return (output.argmax(dim=1) == labels).sum()


def _check(network: nn.Module, batches: Loader, epochs: int, lr: float) -> None:
    if not isinstance(network, nn.Module):
        raise TrainingError(f"train received a {type(network).__name__}: expected a network, adapt(model) or plain")
    if not (isinstance(epochs, int) and epochs >= 1):
        raise TrainingError(f"epochs={epochs!r}: expected a whole number of at least 1")
    if not (lr > 0 and math.isfinite(lr)):
        raise TrainingError(f"lr={lr!r}: expected a learning rate above 0, such as 0.1 for SGD or 0.001 for AdamW")
    if not isinstance(batches, Sized):
        raise DataError(
            f"train received batches without a length ({type(batches).__name__}): pass a list or DataLoader"
        )
    if not len(batches):
        raise DataError("train received an empty loader: expected at least one batch of (input, labels)")


def _optimiser(network: nn.Module, name: str, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """No weight decay on norms, biases (all that has one dimension) and what a module's `no_weight_decay` names."""
    if not weight_decay >= 0:
        raise TrainingError(f"weight_decay={weight_decay!r}: expected 0 (off) or more, such as 0.0001")
    if name.lower() not in list_optimizers():
        raise TrainingError(f"optimizer {name!r} is not one of timm's: expected sgd, adamw, lamb, ...")
    exempt = [
        f"{path}.{own}".lstrip(".")
        for path, module in network.named_modules()
        for own in getattr(module, "no_weight_decay", set)()
    ]
    groups = param_groups_weight_decay(network, weight_decay, no_weight_decay_list=exempt)
    return create_optimizer_v2(groups, name, lr=lr)


def _schedule(optimiser: torch.optim.Optimizer, steps: int, warmup: int) -> CosineLRScheduler:
    first = optimiser.param_groups[0]["lr"] / max(1, warmup)
    # (timm logs a complaint about a single step)
    return CosineLRScheduler(
        optimiser, t_initial=max(2, steps), warmup_t=warmup, warmup_lr_init=first, t_in_epochs=False
    )
