"""A criterion is a task only where it is certain; every task trains with every schedule, and never silently wrong."""

import copy
import json
import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchmetrics.classification import MulticlassF1Score
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

import adaptive_depth as ad
from adaptive_depth.quality import Quality
from adaptive_depth.tasks import (
    Classification,
    Heads,
    LanguageModel,
    MultiLabel,
    OwnCriterion,
    Regression,
    Segmentation,
    Task,
    as_task,
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, Classification),
        (nn.CrossEntropyLoss(label_smoothing=0.1), Classification),
        (nn.NLLLoss(), Classification),
        (F.cross_entropy, Classification),
        (nn.BCEWithLogitsLoss(), MultiLabel),
        (nn.HuberLoss(), Regression),
        (F.l1_loss, Regression),
        (nn.CTCLoss(), OwnCriterion),
        (lambda output, target: output.sum(), OwnCriterion),
        ({"kind": nn.CrossEntropyLoss(), "size": Regression()}, Heads),
    ],
)
def test_what_a_criterion_says_for_certain(given, expected: type[Task]) -> None:
    task = as_task(given)
    assert type(task) is expected
    assert as_task(task) is task
    if expected not in (OwnCriterion, Heads) and given is not None:
        assert task.criterion is given  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: MultiLabel(nn.CrossEntropyLoss()),
            "MultiLabel received CrossEntropyLoss, which is a criterion for Clas",
        ),
        (
            lambda: Regression(nn.CrossEntropyLoss()),
            r"criterion for Classification: expected one such as nn.MSELoss\(\)",
        ),
        (
            lambda: Classification(nn.BCEWithLogitsLoss()),
            "received BCEWithLogitsLoss, which is a criterion for MultiLabel",
        ),
        (lambda: Classification(F.mse_loss), "Classification received mse_loss, which is a criterion for Regression"),
        (lambda: Segmentation(nn.L1Loss()), "received L1Loss, which is a criterion for Regression"),
        (
            lambda: MultiLabel(nn.BCELoss()),
            "MultiLabel received BCELoss, which takes probabilities: expected a criterion",
        ),
        (lambda: as_task(nn.MSELoss), r"MSELoss is a class: expected an instance, MSELoss\(...\)"),
        (lambda: as_task(Regression), r"Regression is a class: expected an instance, Regression\(...\)"),
        (lambda: Regression(nn.MSELoss), "Regression received criterion=<class .*MSELoss'>: expected a criterion such"),
        (lambda: MultiLabel(3), "MultiLabel received criterion=3: expected a criterion such as nn.BCEWithLogitsLoss"),
    ],
)
def test_a_criterion_and_a_task_that_contradict_each_other(make, said: str) -> None:
    with pytest.raises(ad.TrainingError, match=said):
        make()


def test_a_criterion_of_ones_own_learns_from_labels_and_says_what_it_cannot() -> None:
    task = as_task(lambda output, target: (output - target).square().mean())
    assert task.loss(torch.ones(2), torch.zeros(2)).item() == 1
    said = r"does not cover two outputs, and an output \[2\] of float32 with a target \(NoneType\) could be several "
    with pytest.raises(ad.TrainingError, match=said + "tasks: name the task, one of Classification"):
        task.distil(torch.ones(2), torch.ones(2), None)
    with pytest.raises(ad.TrainingError, match="does not determine a metric"):
        task.metric(torch.ones(2))


@pytest.mark.parametrize("given", ["mse", 3])
def test_no_criterion(given) -> None:
    with pytest.raises(ad.TrainingError, match=r"expected a criterion such as nn\.CrossEntropyLoss"):
        as_task(given)


# -- every task with every schedule -------------------------------------------------------------------------------


class TwoHeads(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.body(x)
        return {"kind": y[:, :3], "size": y[:, 3:]}


def cases(nets, name: str):
    """A network, its task and a target for four samples."""
    if name == "language":
        model = runpy.run_path(str(HAND_WRITTEN))["Decoder"](blocks=4, width=16)
        network = ad.adapt(model, example=torch.randint(50, (2, 7)))
        assert len(network.stages) == 2
        target = text()
        target[0, 4:] = -100
        return network, LanguageModel(), target
    if name == "heads":
        model = TwoHeads(nets.Chain(*(nets.Residual() for _ in range(4))))
        stages = [ad.Stage((f"body.blocks.{i}",), (f"body.blocks.{i + 1}",)) for i in (0, 2)]
        network = ad.adapt(model, stages, example=torch.randn(2, 3, 8, 8))
        tasks = {"kind": Classification(), "size": Regression()}
        return network, Heads(tasks), {"kind": torch.tensor([0, 1, 2, 0]), "size": torch.rand(4, 2)}
    task, target = {
        "classification": (Classification(), torch.tensor([0, 1, 2, 4])),
        "multi-label": (MultiLabel(), torch.randint(2, (4, 5)).float()),
        "regression": (Regression(nn.HuberLoss()), torch.rand(4, 5)),
        "own": (OwnCriterion(F.mse_loss, F.mse_loss), torch.rand(4, 5)),
    }[name]
    return nets.chain(), task, target


HAND_WRITTEN = Path(__file__).parents[1] / "hand_written.py"
TASKS = ("classification", "multi-label", "regression", "heads", "language", "own")


def text() -> torch.Tensor:
    return torch.randint(50, (4, 7), generator=torch.Generator().manual_seed(0))


def samples(name: str) -> torch.Tensor:
    """What the network takes."""
    return text() if name == "language" else torch.randn(4, 3, 8, 8)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("passes", ["SBSBR", "algorithm 1"])
def test_every_task_trains_and_every_depth_learns(nets, name: str, passes: str) -> None:
    """On one batch, again and again, the loss of every depth falls."""
    torch.manual_seed(0)
    network, task, target = cases(nets, name)
    x = samples(name)
    extra = {"teacher_share": 0.5, "delay": 1} if passes != "algorithm 1" else {}

    def losses() -> dict[str, float]:
        network.train()
        with torch.no_grad():
            return {skip: float(task.loss(task.output(network(x, skip=skip)), target)) for skip in network.skips}

    before = losses()
    history = ad.train(
        network, [(x, target)] * 6, task=task, passes=passes, epochs=8, lr=0.02, weight_decay=0.0, **extra
    )
    after = losses()
    assert all(after[skip] < before[skip] for skip in network.skips), (before, after)
    assert (history.epochs[-1].accuracy is not None) == (name == "classification")


@pytest.mark.parametrize("name", [name for name in TASKS if name != "own"])
def test_every_task_is_evaluated_as_by_hand(nets, name: str) -> None:
    network, task, target = cases(nets, name)
    network.eval()
    x = samples(name)
    found = ad.evaluate(network, [(x, target)], task=task)
    for skip in network.skips:
        with torch.no_grad():
            output = task.output(network(x, skip=skip))
        metric = task.metric(output)
        task.measure(metric, output, target)
        assert found[skip] == task.value(metric)


def test_sigmoids_learn_what_a_softmax_would_not_see(nets) -> None:
    """Teacher and student whose logits differ by a constant: a softmax sees no difference, each sigmoid is wrong."""
    network, task, target = cases(nets, "multi-label")
    losses = ad.SelfDistillation(network.train(), nn.BCEWithLogitsLoss())(torch.randn(4, 3, 8, 8), target)
    expected = task.distil(losses.base_output, losses.super_output, target)
    assert losses.base_net.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_validation_without_a_metric_is_refused_before_the_first_step(nets) -> None:
    def own(output, target):
        return (output - target).square().mean()

    network, batches = nets.chain(), [(torch.randn(2, 3, 8, 8), torch.randn(2, 5))]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(
        ad.TrainingError, match=r"validation= needs a metric.*criterion own does not determine.*name the task"
    ):
        ad.train(network, batches, epochs=1, task=own, validation=batches)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    ad.train(network, batches, epochs=1, task=own)  # which needs none


@pytest.mark.parametrize("passes", ["SB", "algorithm 1", "plain"])
def test_a_plain_function_of_class_indices_trains_is_validated_and_counted(nets, passes: str) -> None:
    """In every loop, as with the task named: weights, the history's accuracy, and what the validation measures."""

    def own(output, target):
        return F.cross_entropy(output, target)

    batches = [(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 4])) for _ in range(3)]
    first = nets.chain()
    results = []
    for task in (own, Classification(own)):
        network = first.model if passes == "plain" else first
        network = copy.deepcopy(network)
        extra = {} if passes == "plain" else {"passes": passes, "validation": batches}
        extra |= {"teacher_share": 0.5} if passes == "SB" else {}
        history = ad.train(network, batches, task=task, epochs=2, seed=0, **extra)
        [*epochs] = [(epoch.loss, epoch.accuracy, epoch.base_accuracy, epoch.validation) for epoch in history.epochs]
        results.append((epochs, network.state_dict()))
    assert results[0][0] == results[1][0]
    assert all(epoch[1] is not None for epoch in results[0][0])
    assert all(torch.equal(tensor, results[1][1][name]) for name, tensor in results[0][1].items())


def test_a_plain_function_evaluates_what_is_certain(nets) -> None:
    def own(output, target):
        return (output.sum() - target.sum()).square()

    network, x = nets.chain(), torch.randn(4, 3, 8, 8)
    y = torch.tensor([0, 1, 2, 4])
    found = ad.evaluate(network, [(x, y)], task=own)
    assert found == ad.evaluate(network, [(x, y)])
    assert found.quality.name == "top-1"
    with pytest.raises(
        ad.TrainingError, match="criterion own does not determine a metric: name the task, one of Class"
    ):
        ad.evaluate(network, [(x, torch.rand(4, 5))], task=own)


def test_a_metric_that_cannot_work_is_refused_before_the_first_step(nets) -> None:
    """At the end of the training, where validation is by default, it would cost all of it."""
    network, batches = nets.chain(), [(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]))] * 2
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    several = Classification().with_metric(MulticlassF1Score(num_classes=5, average=None), Quality("F1"))
    with pytest.raises(ad.AdaptiveDepthError, match=r"returned numbers \[5\]: expected one number"):
        ad.train(network, batches, epochs=1, task=several, validation=batches)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    good = Classification().with_metric(MulticlassF1Score(num_classes=5))
    own = ad.train(network, batches, epochs=1, task=good, validation=batches, seed=1)
    without = nets.chain()
    without.load_state_dict(before)
    ad.train(without, batches, epochs=1, task=good, seed=1)
    assert own.epochs[-1].validation is not None
    assert all(torch.equal(tensor, without.state_dict()[name]) for name, tensor in network.state_dict().items())


def test_so_is_the_metric_of_a_head(nets, unchanged) -> None:
    class Named(nets.Chain):
        def forward(self, x):
            return {"kind": super().forward(x)}

    x, y = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    network = ad.adapt(Named(*(nets.Residual() for _ in range(4))), nets.chain_stages(), example=x)
    several = Classification().with_metric(MulticlassF1Score(num_classes=5, average=None), Quality("F1"))
    batches = [(x, {"kind": y})]
    with unchanged(network), pytest.raises(ad.AdaptiveDepthError, match=r"returned numbers \[5\]: expected one number"):
        ad.train(network, batches, epochs=1, task={"kind": several}, validation=batches)


def test_a_training_that_fails_leaves_the_modes_as_they_were(nets) -> None:
    network = nets.chain().eval()
    with pytest.raises(ad.TrainingError, match="labels of float32"):
        ad.train(network, [(torch.randn(4, 3, 8, 8), torch.zeros(4))], epochs=1)
    assert not any(part.training for part in network.modules())
    assert not any(part.training for part in network.subnet(network.skips[-1]).modules())


class Own(Regression):
    """A regression that one method, or the quality, of is wrong."""

    def __init__(self, **wrong) -> None:
        super().__init__()
        vars(self).update(wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"quality": None}, "the task Own has quality=None: expected what its metric measures"),
        ({"quality": "RMSE"}, "the task Own has quality='RMSE'"),
        ({"inputs": lambda batch: batch[0]}, "inputs() of the task Own returned a Tensor: expected a pair"),
        ({"inputs": lambda batch: (*batch, 1)}, "inputs() of the task Own returned a tuple of 3: expected a pair"),
        ({"loss": lambda output, _: output.detach().mean()}, "the loss has no gradient, but the network's output has"),
    ],
)
def test_a_task_of_ones_own_that_is_wrong_says_so(nets, wrong: dict, said: str) -> None:
    net, task = nets.chain(), Own(**wrong)
    batches = [(torch.randn(2, 3, 8, 8), torch.randn(2, 5))]
    with pytest.raises(ad.AdaptiveDepthError) as error:
        ad.train(net, batches, epochs=1, task=task)
    assert said in str(error.value)
    if "loss" not in wrong:
        with pytest.raises(ad.AdaptiveDepthError) as error:
            ad.evaluate(net, batches, task=task)
        assert said in str(error.value)


def test_label_smoothing_of_a_recipe_is_not_dropped_without_a_word(nets) -> None:
    network, task, target = cases(nets, "multi-label")
    with pytest.raises(
        ad.TrainingError, match=r"label_smoothing=0\.1 applies to the default task, but another one was given"
    ):
        ad.train(network, [(torch.randn(4, 3, 8, 8), target)], task=task, label_smoothing=0.1, epochs=1)


def test_evaluate_without_a_task_refuses_what_is_not_certain(nets) -> None:
    network, _, target = cases(nets, "multi-label")
    with pytest.raises(
        ad.DataError, match=r"for labels \[4, 5\]: expected \[batch, classes\] and \[batch\]; for anyth"
    ):
        ad.evaluate(network, [(torch.randn(4, 3, 8, 8), target)])


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_analysed(nets, name: str) -> None:
    network, task, target = cases(nets, name)
    network.eval()
    x = samples(name)
    found = ad.analyze(network, [(x, target)], criterion=task)
    with torch.no_grad():
        expected = float(task.loss(task.output(network(x)), target))
    assert found.losses[network.skips[0]] == pytest.approx(expected, rel=1e-5)


def test_the_best_checkpoint_is_the_one_of_the_lowest_error(nets, tmp_path) -> None:
    network, task, target = cases(nets, "regression")
    batch = (torch.randn(4, 3, 8, 8), target)
    history = ad.train(
        network, [batch] * 4, task=task, validation=[batch], folder=tmp_path, epochs=3, lr=0.02, passes="SB"
    )
    errors = [sum((epoch.validation or {}).values()) for epoch in history.epochs]
    kept = json.loads((tmp_path / "best.json").read_text())
    assert kept["best"] == pytest.approx(-min(errors))
    assert len(kept["history"]) == 1 + errors.index(min(errors))


@pytest.mark.parametrize(
    "task",
    [Segmentation(), Classification(), Regression(), MultiLabel(), Heads({"one": Classification()})],
    ids=lambda task: type(task).__name__,
)
def test_a_detector_of_torchvision_learns_from_boxes_alone(task: ad.tasks.Task) -> None:
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    with pytest.raises(ad.errors.TrainingError, match=f"the task is {type(task).__name__}, but a SSD is a detector"):
        as_task(task, model)
    assert isinstance(as_task(ad.tasks.Detection(), model), ad.tasks.Detection)
