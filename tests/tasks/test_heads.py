"""Several heads: weighted sums, in a dict, a tuple or a dataclass."""

from dataclasses import dataclass
from math import log

import pytest
import torch

import adaptive_depth as ad
from adaptive_depth.tasks import Classification, Heads, Regression

TASKS = {"kind": Classification(), "size": Regression(unit="m")}


@dataclass
class Output:
    kind: torch.Tensor
    size: torch.Tensor


@pytest.mark.parametrize("form", [dict, tuple, Output])
def test_the_weighted_sum(form) -> None:
    parts = {"kind": torch.tensor([[0.0, log(3.0)]]), "size": torch.tensor([[2.0]])}
    output = parts if form is dict else tuple(parts.values()) if form is tuple else Output(**parts)
    target = {"kind": torch.tensor([0]), "size": torch.zeros(1)}
    task = Heads(TASKS, weights={"size": 0.5})
    assert task.loss(task.output(output), target).item() == pytest.approx(log(4) + 0.5 * 4, rel=1e-6)
    teacher = {"kind": torch.zeros(1, 2), "size": torch.tensor([[1.0]])}
    kl = Classification().distil(parts["kind"], teacher["kind"], None)
    assert task.distil(parts, teacher, target).item() == pytest.approx(kl.item() + 0.5 * 1, rel=1e-6)


def test_the_history_has_the_loss_of_each_head() -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Linear(2, 2)

        def forward(self, x):
            return {"kind": self.body(x), "size": self.body(x)[:, :1] * 0 + 3}

    target = {"kind": torch.tensor([0, 1]), "size": torch.tensor([[1.0], [2.0]])}
    recipe = ad.Recipe(epochs=1, lr=0.1, warmup_epochs=0, batch_size=2)
    lines: list[str] = []
    model = Two()
    expected = torch.nn.functional.cross_entropy(model.body(torch.ones(2, 2)), target["kind"]).item()
    history = ad.train(
        model, [(torch.ones(2, 2), target)], recipe, task=TASKS, on_epoch=lambda epoch: lines.append(str(epoch))
    )
    parts = history.epochs[0].parts
    assert parts == {"kind": pytest.approx(expected, rel=1e-6), "size": 2.5}  # (2² + 1²) / 2
    assert str(history) == lines[0]
    assert lines[0].startswith("epoch 1, ")
    assert lines[0].endswith(f"; parts of the super-net's loss: kind {expected:.3g}, size 2.5")


def test_a_target_that_does_not_fit_in_training_names_its_head_and_the_way() -> None:
    output = {"kind": torch.zeros(3, 2), "size": torch.zeros(3)}
    target = {"kind": torch.tensor([0, 1, 0]), "size": torch.zeros(3, 1)}
    said = r"^head 'size': regression: the network returned \[3\] for a target \[3, 1\]: expected the same"
    with pytest.raises(ad.TrainingError, match=said):
        Heads(TASKS).loss(output, target)


def test_a_loss_that_is_not_finite_names_its_head() -> None:
    output = {"kind": torch.zeros(1, 2), "size": torch.full((1, 1), 1e30)}
    target = {"kind": torch.tensor([0]), "size": torch.zeros(1, 1)}
    with pytest.raises(ad.TrainingError, match=r"^the loss of head 'size' is inf: expected a finite number"):
        Heads(TASKS).loss(output, target)


def test_one_head_is_judged_by() -> None:
    task = Heads(TASKS, judged_by="size")
    assert task.quality == TASKS["size"].quality
    output = {"kind": torch.zeros(1, 2), "size": torch.ones(1)}
    target = {"kind": torch.tensor([0]), "size": torch.zeros(1)}
    metric = task.metric(output)
    task.measure(metric, output, target)
    assert task.value(metric) == 1
    assert Heads(TASKS).quality == TASKS["kind"].quality


@pytest.mark.parametrize(
    ("output", "target", "said"),
    [
        ({"kind": torch.zeros(1, 2)}, {}, "the output has 'kind', but the heads are 'kind', 'size': expected one for"),
        ((torch.zeros(1, 2), torch.zeros(1)), {"kind": torch.tensor([0])}, "the target has 'kind', but the heads are"),
        (
            (torch.zeros(1, 2), torch.zeros(1)),
            {"kind": torch.tensor([0]), "size": torch.zeros(1), "colour": torch.zeros(1)},
            "the target has 'kind', 'size', 'colour', but the heads are 'kind', 'size'",
        ),
        (torch.zeros(1), {}, "the output has a Tensor, but the heads are"),
    ],
)
def test_a_head_that_is_missing_or_unknown(output, target, said: str) -> None:
    with pytest.raises(ad.TrainingError, match=said):
        Heads(TASKS).loss(output, target)


def test_arguments() -> None:
    with pytest.raises(ad.TrainingError, match="head 'sise' is unknown: expected one of kind, size"):
        Heads(TASKS, judged_by="sise")
    with pytest.raises(ad.TrainingError, match="head 'colour' is unknown"):
        Heads(TASKS, weights={"colour": 1.0})
    with pytest.raises(ad.TrainingError, match=r"head 'kind' is a CrossEntropyLoss: expected a task, such as Class"):
        Heads({"kind": torch.nn.CrossEntropyLoss()})  # type: ignore[dict-item]


def test_what_does_not_fit_names_its_head() -> None:
    output = {"kind": torch.zeros(3, 2), "size": torch.zeros(3, 1)}
    with pytest.raises(ad.TrainingError, match=r"^head 'kind': .*labels \[3, 1\]"):
        Heads(TASKS).check(output, {"kind": torch.zeros(3, 1, dtype=torch.long), "size": torch.zeros(3, 1)})


@pytest.mark.parametrize("weights", [[1.0, 2.0], {"size": "5"}])
def test_weights_are_numbers_by_head(weights) -> None:
    with pytest.raises(ad.TrainingError, match=r"expected a number"):
        Heads(TASKS, weights=weights)


def test_a_weight_below_nothing_is_refused() -> None:
    with pytest.raises(ad.TrainingError, match="weight -1 of head 'kind': expected a number of 0 or more"):
        Heads({"kind": Classification()}, weights={"kind": -1})
