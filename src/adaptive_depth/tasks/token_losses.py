"""Losses of many tokens over a large vocabulary, computed some rows at a time.

The plain formula allocates several tensors `[tokens, vocabulary]`: for 8,192 tokens and a vocabulary of 150,000 each
takes 4.9 GB in float32. Here everything except the logits and their gradient has the size of a few rows. The backward
pass recomputes the softmax, which costs no more than reading a stored one.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_NUMBERS = 1 << 21  # logits at a time, 8 MB in float32: no size is faster on a CPU (benchmarks/token_losses.py)
_MORE = 8  # times as many on accelerators, where starting each small kernel takes microseconds


def token_nats(logits: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of each of some rows, without gradients.

    Arguments:
        logits: `[all rows, vocabulary]`.
        rows: the rows that count, `[counted]`.
        labels: their token ids, `[counted]`.

    Returns:
        `[counted]`, in nats, in float32 or better.

    Example:
        >>> token_nats(torch.zeros(3, 2), torch.tensor([0, 2]), torch.tensor([1, 1]))
        tensor([0.6931, 0.6931])
    """
    normalisers = logits.new_empty(len(rows), dtype=_exact(logits))
    chosen = torch.empty_like(normalisers)
    for part in _parts(rows, logits.shape[1]):
        some = _taken(logits, rows[part])
        normalisers[part] = some.logsumexp(1)
        chosen[part] = some.gather(1, labels[part, None]).squeeze(1)
    return normalisers - chosen


def token_cross_entropy(logits: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy of some rows; as `F.cross_entropy(logits[rows], labels)`.

    Arguments:
        logits, rows, labels: as for `token_nats`.

    Returns:
        A scalar, in nats, in float32 or better.
    """
    return _CrossEntropy.apply(logits, rows, labels)


def token_divergence(teacher: Tensor, student: Tensor, rows: Tensor, temperature: float = 1.0) -> Tensor:
    """The mean KL(teacher ‖ student) of some rows' softmax outputs, times the temperature squared.

    Arguments:
        teacher, student: logits `[all rows, vocabulary]`; no gradient flows to the teacher.
        rows: the rows that count, `[counted]`.

    Returns:
        A scalar, in nats, in float32 or better.
    """
    return _Divergence.apply(student, teacher.detach(), rows, temperature)


# Backward saves the logits, which the network's output holds anyway, not their softmax. So a graph can be
# differentiated twice, each time with its own scale.


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        ctx.save_for_backward(logits, rows, labels)
        return token_nats(logits, rows, labels).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # type: ignore[override] - of torch's decorator
        logits, rows, labels = ctx.saved_tensors
        scale, gradient = grads[0] / len(rows), torch.zeros_like(logits)
        for part in _parts(rows, logits.shape[1]):
            some = _taken(logits, rows[part]).softmax(1)
            some[torch.arange(len(some), device=some.device), labels[part]] -= 1
            gradient[rows[part]] = some.mul_(scale).to(gradient.dtype)
        return gradient, None, None


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, rows: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward(student, teacher, rows)
        ctx.temperature = temperature
        each = student.new_empty(len(rows), dtype=_exact(student))
        for part in _parts(rows, student.shape[1]):
            wanted = _taken(teacher, rows[part]).to(each.dtype).div_(temperature).log_softmax(1)
            answer = _taken(student, rows[part]).div_(temperature).log_softmax(1)
            # In place: `wanted` becomes probabilities only after the subtraction has read it.
            each[part] = answer.sub_(wanted).neg_().mul_(wanted.exp_()).sum(1)
        return each.mean() * temperature**2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # type: ignore[override] - of torch's decorator
        student, teacher, rows = ctx.saved_tensors
        # The loss's squared temperature, divided by the one inside the softmax.
        scale, gradient = grads[0] * ctx.temperature / len(rows), torch.zeros_like(student)
        for part in _parts(rows, student.shape[1]):
            some = _taken(student, rows[part]).div_(ctx.temperature).softmax(1)
            some -= _taken(teacher, rows[part]).to(some.dtype).div_(ctx.temperature).softmax(1)
            gradient[rows[part]] = some.mul_(scale).to(gradient.dtype)
        return gradient, None, None, None


def _exact(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _taken(logits: Tensor, rows: Tensor) -> Tensor:
    """A copy of some rows, in float32 or better."""
    return logits[rows].to(_exact(logits))


def _parts(rows: Tensor, vocabulary: int) -> Iterator[slice]:
    size = max(1, _NUMBERS * (1 if rows.device.type == "cpu" else _MORE) // vocabulary)
    for start in range(0, len(rows), size):
        yield slice(start, start + size)
