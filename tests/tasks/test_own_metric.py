"""A metric of one's own: values worked out by hand or by scikit-learn, every task, and what is no metric."""

import re

import numpy as np
import pytest
import timm
import torch
import torchmetrics
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor
from torchmetrics.classification import (
    ConfusionMatrix,
    MulticlassAUROC,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MultilabelExactMatch,
)

import adaptive_depth as ad
from adaptive_depth.errors import MeasurementError, TrainingError
from adaptive_depth.quality import Quality
from adaptive_depth.tasks import Classification, Heads, MultiLabel, Regression, Segmentation, Task


def judged(task: Task, *batches: tuple[object, object]) -> float:
    metric = task.metric(batches[0][0])
    for output, target in batches:
        task.measure(metric, output, target)
    return task.value(metric)


def test_classification_by_f1_and_by_auroc_as_scikit_learn_has_them() -> None:
    numbers = torch.Generator().manual_seed(0)
    logits = torch.rand(
        60, 3, generator=numbers
    )  # between 0 and 1: taken for probabilities, were they given as they are
    labels = torch.randint(3, (60,), generator=numbers)
    halves = ((logits[:30], labels[:30]), (logits[30:], labels[30:]))
    task = Classification().with_metric(MulticlassF1Score(num_classes=3), Quality("F1", "%"))
    assert judged(task, *halves) == pytest.approx(100 * f1_score(labels, logits.argmax(1), average="macro"))
    area = Classification().with_metric(MulticlassAUROC(num_classes=3))
    expected = roc_auc_score(labels, logits.softmax(1), multi_class="ovr", average="macro")
    assert judged(area, *halves) == pytest.approx(expected)
    assert area.quality == Quality("MulticlassAUROC")


def test_it_stays_a_task_of_its_class_and_the_former_one_is_left_as_it_was() -> None:
    former = Classification(temperature=3.0)
    task = former.with_metric(MulticlassF1Score(num_classes=2))
    assert isinstance(task, Classification)
    assert (task.temperature, former.quality, task.quality) == (
        3.0,
        Quality("top-1", "%"),
        Quality("MulticlassF1Score"),
    )
    assert judged(former, (torch.eye(2), torch.tensor([0, 0]))) == 50.0
    again = task.with_metric(MulticlassAUROC(num_classes=2))
    assert again.quality.name == "MulticlassAUROC"


def test_other_tasks_compare_what_metrics_take() -> None:
    error = Regression(unit="m").with_metric(
        torchmetrics.MeanAbsoluteError(), Quality("MAE", "m", higher_is_better=False)
    )
    assert judged(error, (torch.tensor([[1.0], [4.0]]), torch.tensor([0.0, 1.0]))) == 2.0  # (1 + 3) / 2
    exact = MultiLabel().with_metric(MultilabelExactMatch(num_labels=2))
    yes = torch.tensor([[2.0, -2.0], [-2.0, -2.0]])
    assert judged(exact, (yes, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))) == 0.5
    pixels = Segmentation(ignore_index=9).with_metric(MulticlassF1Score(2, average="micro", ignore_index=9))
    coarse = {"out": torch.tensor([[[[5.0]], [[0.0]]]])}  # class 0, brought to the size of the labels
    assert judged(pixels, (coarse, torch.tensor([[[0, 1], [9, 0]]]))) == pytest.approx(2 / 3)
    heads = Heads({"size": Regression(), "kind": Classification()}, judged_by="kind")
    output = {"size": torch.zeros(2), "kind": torch.eye(2)}
    target = {"size": torch.zeros(2), "kind": torch.tensor([0, 0])}
    assert judged(heads.with_metric(MulticlassF1Score(2, average="micro")), (output, target)) == 0.5
    inside = Heads({"kind": Classification().with_metric(MulticlassF1Score(2, average="micro"))})
    assert judged(inside, (output, {"kind": target["kind"]})) == 0.5
    assert inside.quality.name == "MulticlassF1Score"


def test_a_function_is_given_all_samples_at_once() -> None:
    """The highest error of 1, 3 and 2; a mean over the two batches would be 2.5."""

    def worst(predictions: Tensor, targets: Tensor) -> float:
        return float((predictions - targets).abs().max())

    task = Regression().with_metric(worst, Quality("worst", "m", higher_is_better=False))
    assert judged(task, (torch.tensor([1.0, 3.0]), torch.zeros(2)), (torch.tensor([2.0]), torch.zeros(1))) == 3.0
    with pytest.raises(TrainingError, match="the metric worst does not define whether higher or lower is better"):
        Regression().with_metric(worst)


@pytest.mark.parametrize("algorithm", ["SB", "algorithm 1"])
def test_a_network_is_trained_and_its_best_checkpoint_judged_by_it(algorithm: str) -> None:
    torch.manual_seed(0)
    net = ad.adapt(timm.create_model("resnet18", num_classes=3, channels=(4, 4, 8, 8)))
    batches = [(torch.randn(6, 3, 32, 32), torch.arange(6) % 3) for _ in range(2)]
    task = Classification().with_metric(MulticlassF1Score(num_classes=3), Quality("F1", "%"))
    history = ad.train(net, batches, epochs=1, passes=algorithm, task=task, validation=batches, validate_every=1)
    assert history.epochs[0].accuracy is not None  # of the training images, as for any classes
    found = ad.evaluate(net, batches, ["FFFF", "TTTT"], task=task)
    assert history.epochs[0].validation == pytest.approx(found)
    with torch.no_grad():
        answers = [net(x).argmax(1) for x, _ in batches]
    expected = f1_score(np.concatenate([y for _, y in batches]), np.concatenate(answers), average="macro")
    assert found["FFFF"] == pytest.approx(100 * expected)


@pytest.mark.parametrize(
    ("metric", "quality", "message"),
    [
        (
            MulticlassConfusionMatrix(2),
            None,
            "MulticlassConfusionMatrix does not define whether higher or lower is better",
        ),
        (MulticlassF1Score, None, "expected a metric of torchmetrics, an instance such as"),
        ("f1", None, "metric='f1': expected a metric of torchmetrics"),
        (ConfusionMatrix, None, "expected a metric of torchmetrics, an instance"),
        (torchmetrics.MetricCollection([MulticlassF1Score(2)]), None, "expected a metric of torchmetrics, an instance"),
        (MulticlassF1Score(2), "F1", "quality='F1': expected Quality(name, unit, higher_is_better=...)"),
        (
            torchmetrics.MeanAbsoluteError(),
            Quality("MAE", "m"),
            "lower is better for the metric MeanAbsoluteError, but 'MAE' says the opposite: give the quality "
            "higher_is_better=False; on the command line --metric-name 'MAE (lower is better)'",
        ),
    ],
)
def test_what_cannot_judge(metric: object, quality: object, message: str) -> None:
    with pytest.raises(TrainingError, match=re.escape(message)):
        Classification().with_metric(metric, quality)  # type: ignore[arg-type]


def test_a_metric_of_other_outputs_is_named_with_what_it_received() -> None:
    task = Classification().with_metric(MulticlassF1Score(num_classes=5))
    with pytest.raises(MeasurementError, match=r"MulticlassF1Score refused predictions \[2, 3\] and targets \[2\]"):
        judged(task, (torch.zeros(2, 3), torch.tensor([0, 1])))
    several = Classification().with_metric(MulticlassF1Score(num_classes=3, average=None))
    with pytest.raises(MeasurementError, match=r"returned numbers \[3\]: expected one number; .* average='macro'"):
        judged(several, (torch.eye(3), torch.tensor([0, 1, 2])))
