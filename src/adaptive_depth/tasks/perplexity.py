"""Perplexity of all tokens of an evaluation, whatever the lengths of its batches."""

import torch
from torch import Tensor
from torchmetrics import Metric

from .token_losses import token_nats


class Perplexity(Metric):
    """exp of the mean cross-entropy over all tokens: sums and counts are kept in float64, over all processes.

    A mean of the batches' perplexities, or of their losses, would differ if the batches differ in length.
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False
    nats: Tensor
    tokens: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("nats", "tokens"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor, rows: Tensor | None = None) -> None:
        """Add tokens.

        Arguments:
            logits: `[all rows, vocabulary]`, or log-probabilities.
            labels: token ids `[counted]`.
            rows: the row of each label, `[counted]`; all rows if None.
        """
        rows = torch.arange(len(logits), device=logits.device) if rows is None else rows
        self.nats += token_nats(logits, rows, labels).double().sum()
        self.tokens += len(rows)

    def compute(self) -> Tensor:
        return (self.nats / self.tokens).exp()
