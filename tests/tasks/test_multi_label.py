"""Yes or no for each label: values by hand and by scikit-learn."""

from math import log

import pytest
import torch
from sklearn.metrics import average_precision_score

import adaptive_depth as ad
from adaptive_depth.tasks import MultiLabel


def test_the_loss_on_paper() -> None:
    """A logit of log 3 is a probability of 3/4."""
    logits = torch.tensor([[log(3.0), 0.0]])
    assert MultiLabel().loss(logits, torch.tensor([[1, 0]])).item() == pytest.approx(
        (log(4 / 3) + log(2)) / 2, rel=1e-6
    )


def test_distillation_is_of_bernoulli_and_not_of_a_softmax() -> None:
    """Two labels of probability 3/4 each, and 1/2 for the student: KL 0.130812. A softmax would see no difference."""
    student, teacher = torch.zeros(1, 2, requires_grad=True), torch.full((1, 2), log(3.0), requires_grad=True)
    loss = MultiLabel().distil(student, teacher, None)
    assert loss.item() == pytest.approx(0.130812, abs=1e-6)
    loss.backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.flatten().tolist() == pytest.approx([(0.5 - 0.75) / 2] * 2)  # (q - p) / labels
    assert MultiLabel().distil(teacher, teacher, None).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("labels", [1, 3])
def test_map_agrees_with_scikit_learn(labels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, labels, generator=generator)
    target = torch.randint(2, (40, labels), generator=generator)
    task = MultiLabel()
    metric = task.metric(logits)
    task.measure(metric, logits[:30], target[:30].float())
    task.measure(metric, logits[30:], target[30:].float())
    expected = average_precision_score(target.numpy(), logits.numpy(), average="macro")
    assert task.value(metric) == pytest.approx(100 * expected, rel=1e-4)


@pytest.mark.parametrize(
    ("output", "target", "said"),
    [
        (torch.zeros(2, 3), torch.zeros(2), r"multi-label: the network returned \[2, 3\] for a target \[2\]: expected"),
        (torch.zeros(2, 3), torch.full((2, 3), 2.0), "targets from 2 to 2: expected 0"),
        (torch.zeros(2, 3), torch.full((2, 3), float("nan")), "a target is not a finite number"),
        (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.complex64), "the target has complex numbers"),
        ({"logits": None}, torch.zeros(2, 3), "the network's output is a dict: expected one tensor"),
        (torch.zeros(2), torch.zeros(2), r"the network returned \[2\]: expected logits \[batch, labels, ...\]"),
    ],
)
def test_what_does_not_fit(output, target, said: str) -> None:
    for asked in (MultiLabel().loss, MultiLabel().check):  # in training, in evaluation
        with pytest.raises(ad.TrainingError, match=said):
            asked(output, target)
