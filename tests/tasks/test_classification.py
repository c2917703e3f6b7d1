"""Classes of samples and of places: values worked out by hand, and what does not fit."""

from math import log

import pytest
import torch
from torch import nn

import adaptive_depth as ad
from adaptive_depth.tasks import Classification

UNSURE, SURE = [0.0, 0.0], [log(3.0), 0.0]  # probabilities (1/2, 1/2) and (3/4, 1/4)


def test_the_loss_of_two_classes_on_paper() -> None:
    assert Classification().loss(torch.tensor([SURE]), torch.tensor([1])).item() == pytest.approx(log(4), rel=1e-6)
    soft = Classification().loss(torch.tensor([SURE]), torch.tensor([[0.5, 0.5]]))
    assert soft.item() == pytest.approx((log(4 / 3) + log(4)) / 2, rel=1e-6)


def test_distillation_of_two_classes_on_paper() -> None:
    """KL of (3/4, 1/4) to (1/2, 1/2): 3/4 log(3/2) + 1/4 log(1/2) = 0.130812; no gradient for the teacher."""
    student = torch.tensor([UNSURE], requires_grad=True)
    teacher = torch.tensor([SURE], requires_grad=True)
    loss = Classification().distil(student, teacher, None)
    assert loss.item() == pytest.approx(0.130812, abs=1e-6)
    loss.backward()
    assert teacher.grad is None
    assert student.grad is not None
    # At T = 2 the probabilities are (0.633975, 0.366025): 0.0363408, times 4.
    softened = Classification(temperature=2.0).distil(student, teacher, None)
    assert softened.item() == pytest.approx(0.145363, abs=1e-6)


def test_classes_stand_on_axis_1_and_not_along_the_length() -> None:
    """[batch, classes, length]: every position is one distribution, so 7 equal ones give what a single one gives."""
    student = torch.tensor(UNSURE).view(1, 2, 1).expand(2, 2, 7)
    teacher = torch.tensor(SURE).view(1, 2, 1).expand(2, 2, 7)
    assert Classification().distil(student, teacher, None).item() == pytest.approx(0.130812, abs=1e-6)
    assert Classification().loss(teacher, torch.ones(2, 7, dtype=torch.long)).item() == pytest.approx(log(4), rel=1e-6)


def test_what_is_ignored_is_in_neither_loss_nor_distillation_nor_metric() -> None:
    student = torch.tensor([[UNSURE, [9.0, -9.0]]]).transpose(1, 2)  # [1, 2 classes, 2 places]
    teacher = torch.tensor([[SURE, [-9.0, 9.0]]]).transpose(1, 2)
    target = torch.tensor([[0, 7]])
    task = Classification(nn.CrossEntropyLoss(ignore_index=7))
    assert task.loss(teacher, target).item() == pytest.approx(log(4 / 3), rel=1e-6)
    assert task.distil(student, teacher, target).item() == pytest.approx(0.130812, abs=1e-6)
    metric = task.metric(teacher)
    task.measure(metric, teacher, target)
    assert task.value(metric) == 100.0


def test_top_1_over_batches_is_exact() -> None:
    task = Classification()
    metric = task.metric(torch.zeros(1, 3))
    task.measure(metric, torch.eye(3), torch.tensor([0, 1, 0]))
    task.measure(metric, torch.eye(3)[:1], torch.tensor([2]))
    assert task.value(metric) == 100 * 2 / 4
    assert str(task.quality) == "top-1 (%)"


YES_NO = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
SUM_1 = torch.tensor([[2.0, -1.0, 0.0]] * 2)
OF_0 = nn.CrossEntropyLoss(ignore_index=0)


@pytest.mark.parametrize(
    ("task", "output", "target", "said"),
    [
        (Classification(), torch.zeros(2, 3), torch.tensor([0, 3]), "labels from 0 to 3, but the network has 3 cl"),
        (Classification(), torch.zeros(2, 3), torch.tensor([0]), "1 labels for a batch of 2: expected one for each"),
        (Classification(), torch.zeros(2, 3), torch.tensor([0.0, 1.0]), "labels of float32: expected class indices"),
        (Classification(), torch.zeros(2, 1), torch.tensor([0, 0]), "the softmax of one logit is always 1; build the"),
        (Classification(), torch.zeros(2, 3, 4), torch.tensor([0, 0]), r"labels \[2\] for logits \[2, 3, 4\]: expe"),
        (Classification(), torch.zeros(2, 3), "ab", "the target is a str: expected one tensor; class indices"),
        (Classification(), [torch.zeros(2, 3)], torch.tensor([0, 0]), "the network's output is a list: expected one"),
        (Classification(), {"a": torch.zeros(2, 3)}, torch.tensor([0, 0]), "the network's output is a dict: expected"),
        (Classification(), torch.zeros(2, 3), torch.tensor([-100, -100]), "all labels of this batch are ignore_index="),
        (Classification(OF_0), torch.zeros(2, 3), torch.tensor([0, 0]), "all labels of this batch are ignore_index=0"),
        (Classification(), torch.zeros(2, 3), torch.full((2, 3), float("nan")), "a target is not a finite number"),
        (Classification(), torch.zeros(2, 3), YES_NO, "sum to 0 to 2: expected distributions over the classes"),
        (Classification(), torch.zeros(2, 3), SUM_1, "from -1, that sum to 1 to 1: expected dis"),
        (Classification(), torch.zeros(2, 3, 4, 4), torch.zeros(2, 8, 8), "pixels on a finer grid Segmentation"),
        (Classification(), torch.zeros(2, 3), torch.zeros(2, dtype=torch.complex64), "the target has complex numb"),
    ],
)  # fmt: skip
def test_what_does_not_fit(task, output, target, said: str) -> None:
    for asked in (task.loss, task.check):  # in training, in evaluation
        with pytest.raises(ad.TrainingError, match=said):
            asked(output, target)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_smoothed_and_mixed_labels_in_any_precision_are_distributions(kind: torch.dtype) -> None:
    smoothed = torch.full((2, 1000), 0.1 / 1000)
    smoothed[:, 7] += 0.6
    smoothed[:, 9] += 0.3
    Classification().check(torch.zeros(2, 1000), smoothed.to(kind))


def test_arguments() -> None:
    with pytest.raises(ad.TrainingError, match="temperature=0: expected a number above 0"):
        Classification(temperature=0)


def test_whole_numbers_of_any_kind_name_classes() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    expected = Classification().loss(logits, torch.tensor([0, 1]))
    for kind in (torch.int32, torch.uint8):
        assert Classification().loss(logits, torch.tensor([0, 1], dtype=kind)) == expected
