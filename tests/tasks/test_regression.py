"""Numbers: values by hand, and shapes that torch would broadcast without a word."""

import pytest
import torch
from torch import nn

import adaptive_depth as ad
from adaptive_depth.tasks import Regression


@pytest.mark.parametrize(("criterion", "expected"), [(None, 5.0), (nn.L1Loss(), 2.0)])
def test_the_loss_and_what_is_distilled(criterion, expected: float) -> None:
    """1 and 3 beside 0 and 0: squares 1 and 9, mean 5; absolute values 1 and 3, mean 2."""
    task = Regression(criterion)
    numbers = torch.tensor([[1.0], [3.0]], requires_grad=True)
    assert task.loss(numbers, torch.zeros(2, 1)).item() == expected
    assert task.loss(numbers, torch.zeros(2)).item() == expected  # and not each with every other: that would be 5, too
    teacher = torch.zeros(2, 1, requires_grad=True)
    loss = task.distil(numbers, teacher, None)
    assert loss.item() == expected
    loss.backward()
    assert teacher.grad is None


def test_an_output_of_one_number_meets_each_target_once() -> None:
    assert Regression().loss(torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 3.0])).item() == 0


def test_rmse_over_batches_in_the_unit_of_the_numbers() -> None:
    task = Regression(unit="%")
    metric = task.metric(torch.zeros(1))
    task.measure(metric, torch.tensor([[3.0], [0.0]]), torch.tensor([0.0, 0.0]))
    task.measure(metric, torch.tensor([[0.0]]), torch.tensor([[0.0]]))
    assert task.value(metric) == pytest.approx(3**0.5)  # the root of 9 / 3
    assert str(task.quality) == "RMSE (%, lower is better)"
    assert task.quality.best({"deep": 1.0, "shallow": 2.0}) == "deep"


def test_dense() -> None:
    assert Regression().loss(torch.ones(2, 1, 3, 3), torch.zeros(2, 1, 3, 3)).item() == 1


@pytest.mark.parametrize(
    ("output", "target", "said"),
    [
        (
            torch.zeros(4, 2),
            torch.zeros(4),
            r"regression: the network returned \[4, 2\] for a target \[4\]: expected the",
        ),
        (torch.zeros(4), torch.zeros(4, 1), r"the network returned \[4\] for a target \[4, 1\]"),
        (torch.zeros(2), torch.tensor([0.0, float("nan")]), "a target is not a finite number"),
        ({"size": torch.zeros(2)}, torch.zeros(2), "the network's output is a dict: expected one tensor"),
        (
            torch.zeros(2),
            torch.zeros(2, dtype=torch.complex64),
            r"complex numbers \(complex64\): expected numbers \[2\]",
        ),
        (torch.zeros(2), [0.0, 1.0], "the target is a list: expected one tensor"),
    ],
)
def test_what_does_not_fit(output, target, said: str) -> None:
    for asked in (Regression().loss, Regression().check):  # in training, in evaluation
        with pytest.raises(ad.TrainingError, match=said):
            asked(output, target)
