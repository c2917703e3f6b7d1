"""training/loop.py: one loop for adaptive and plain networks, repeatable, with a history."""

import csv
import io
import json
import math
import random
import time

import numpy as np
import pytest
import torch
from torch import nn

import adaptive_depth as ad
from adaptive_depth.training import meter as told
from adaptive_depth.training import preparing
from adaptive_depth.training.history import Epoch, History
from adaptive_depth.training.interrupting import seeded
from adaptive_depth.training.loop import train
from adaptive_depth.training.meter import StepResult
from adaptive_depth.training.steps import distil, supervise

SMALL = {"channels": [4, 4, 8, 8], "in_chans": 1, "num_classes": 3, "stem_type": "deep", "stem_width": 2}


def build(seed=0):
    with seeded(seed):
        return ad.create_model("resnet18", **SMALL)


def images(count=12, batch_size=4):
    """Three classes: a bright stripe on the left, in the middle, on the right."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(count) % 3
    x = torch.randn(count, 1, 24, 24, generator=generator) * 0.2
    for number, label in enumerate(y):
        x[number, :, :, 8 * label : 8 * label + 8] += 2
    return list(zip(x.split(batch_size), y.split(batch_size), strict=True))


def weights(network):
    return torch.cat([value.flatten().float() for value in network.state_dict().values()])


def test_an_adaptive_network_learns_and_reports_both_depths():
    network = ad.adapt(build())
    history = train(network, images(48, 8), epochs=6, lr=0.05, seed=0)
    first, last = history.epochs[0], history.epochs[-1]
    assert last.loss < 0.7 * first.loss
    assert last.accuracy > 80
    assert (last.base_accuracy or 0) > 60
    assert (last.base_loss or 0) > 0
    assert last.images_per_s > 0
    assert not network.training


def test_a_plain_network_learns_with_the_same_loop():
    network = build()
    history = train(network, images(48, 8), epochs=6, lr=0.05, seed=0)
    assert history.epochs[-1].loss < 0.7 * history.epochs[0].loss
    assert history.epochs[-1].base_loss is None


@pytest.mark.parametrize("adaptive", [True, False])
def test_a_seed_makes_a_training_repeatable_and_leaves_other_random_numbers_alone(adaptive):
    def trained(seed):
        network = ad.adapt(build()) if adaptive else build()
        data = torch.utils.data.TensorDataset(*(torch.cat(part) for part in zip(*images(), strict=True)))
        train(network, torch.utils.data.DataLoader(data, 4, shuffle=True), epochs=2, seed=seed)
        return weights(network)

    def drawn():
        return torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002 - what transforms draw from

    with seeded(7):
        expected = drawn()
    with seeded(7):
        first = trained(1)
        assert drawn() == expected
    assert torch.equal(first, trained(1))
    assert not torch.equal(first, trained(2))


def test_low_memory_step_gives_the_same_training():
    results = []
    for low_memory in (False, True):
        network = ad.adapt(build()).double()
        batches = [(x.double(), y) for x, y in images()]
        step = distil(ad.SelfDistillation(network), low_memory=low_memory)
        train(network, batches, epochs=2, step=step, seed=0)
        results.append(weights(network))
    assert torch.allclose(results[0], results[1], atol=1e-6)


def test_a_step_of_ones_own():
    network = build()

    def step(x, y, backward):
        output = network(x)
        loss = 10 * nn.functional.cross_entropy(output, y)
        backward(loss)
        return StepResult(loss.detach(), output.detach())

    mine = train(network, images(), epochs=1, step=step, lr=1e-9, seed=0).epochs[0].loss
    usual = train(build(), images(), epochs=1, step=None, lr=1e-9, seed=0).epochs[0].loss
    assert mine == pytest.approx(10 * usual, rel=1e-4)


def test_every_step_starts_without_gradients():
    network = build()
    usual, left = supervise(network), []

    def step(x, y, backward):
        left.extend(parameter.grad for parameter in network.parameters() if parameter.grad is not None)
        return usual(x, y, backward)

    train(network, images(), epochs=2, step=step)
    assert not left
    assert all(parameter.grad is None for parameter in network.parameters())


def test_supervise_takes_a_criterion():
    network = build()
    x, y = images()[0]
    result = supervise(network, lambda output, labels: output.sum() * 0 + 3.0)(x, y, torch.Tensor.backward)
    assert result.loss == 3


def test_learning_rate_rises_falls_as_a_cosine_and_weights_alone_decay(monkeypatch):
    made, rates = [], []
    create = preparing.create_optimizer_v2
    monkeypatch.setattr(preparing, "create_optimizer_v2", lambda *a, **k: made.append(create(*a, **k)) or made[0])
    train(
        build(), images(), epochs=10, lr=0.5, weight_decay=0.01, warmup_epochs=2, seed=0,
        on_step=lambda now: rates.append((now.step, now.steps, made[0].param_groups[0]["lr"])),
    )  # fmt: skip
    assert [total for _, total, _ in rates] == [30] * 30
    after = {done: rate for done, _, rate in rates}  # the rate of the step that comes next
    assert after[3] == pytest.approx(0.5 / 6 + (0.5 - 0.5 / 6) * 3 / 6)
    assert after[15] == pytest.approx(0.5 * 0.5 * (1 + math.cos(math.pi * 15 / 30)))
    assert after[30] == 0
    decays = {group["weight_decay"]: {p.ndim for p in group["params"]} for group in made[0].param_groups}
    assert decays[0.0] == {1}
    assert decays[0.01] == {2, 4}


def test_what_a_model_exempts_does_not_decay(monkeypatch):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.position = nn.Parameter(torch.zeros(1, 3))
            self.head = nn.Linear(3, 3)

        def no_weight_decay(self):
            return {"position"}

        def forward(self, x):
            return self.head(x + self.position)

    made = []
    create = preparing.create_optimizer_v2
    monkeypatch.setattr(preparing, "create_optimizer_v2", lambda *a, **k: made.append(create(*a, **k)) or made[0])
    model = nn.Sequential(Model())
    train(model, [(torch.rand(2, 3), torch.tensor([0, 1]))], epochs=1)
    free = next(group["params"] for group in made[0].param_groups if not group["weight_decay"])
    assert any(p is model[0].position for p in free)


def test_progress_is_told_after_each_epoch():
    told = []
    history = train(build(), images(), epochs=2, on_epoch=told.append)
    assert tuple(told) == history.epochs
    assert [epoch.epoch for epoch in told] == [1, 2]


def test_history_survives_json_and_prints_as_csv():
    history = train(ad.adapt(build()), images(), epochs=2)
    assert History.from_json(json.loads(json.dumps(history.to_json()))) == history
    assert History.from_csv(history.to_csv()) == history
    with pytest.raises(ad.TrainingError, match=r"could not convert string to float: 'much'.*; expected numbers"):
        History.from_csv(history.to_csv().replace("\n1,", "\n1,much", 1).replace("much", "much,", 1))
    lines = list(csv.DictReader(io.StringIO(history.to_csv())))
    assert [float(line["loss"]) for line in lines] == [epoch.loss for epoch in history.epochs]
    assert list(lines[0]) == [name for name in Epoch.__dataclass_fields__ if name not in ("validation", "parts")]
    with pytest.raises(ad.TrainingError, match="expected objects with epoch, lr"):
        History.from_json([{"epoch": 1}])


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"epochs": 0}, ad.TrainingError, "epochs=0: expected a number above 0"),
        ({"lr": 0}, ad.TrainingError, r"lr=0\.0: expected a number above 0"),
        ({"lr": math.nan}, ad.TrainingError, "lr=nan"),
        ({"weight_decay": -1}, ad.TrainingError, r"weight_decay=-1\.0: expected 0 or more"),
        ({"optimizer": "sgdd"}, ad.TrainingError, "optimizer 'sgdd' is not one of timm's"),
        ({"batches": []}, ad.DataError, "empty loader"),
        ({"batches": iter(())}, ad.DataError, "without a length"),
        ({"batches": [torch.zeros(2, 1, 24, 24)]}, ad.DataError, "without labels"),
        ({"batches": [(torch.zeros(2, 1, 24, 24), torch.tensor([0, 3]))]}, ad.TrainingError, "labels from 0 to 3"),
        ({"batches": [(torch.full((2, 1, 24, 24), math.nan), torch.tensor([0, 1]))]}, ad.TrainingError, "is nan"),
    ],
)
@pytest.mark.parametrize("adaptive", [True, False])
def test_mistakes_are_told_and_change_nothing(settings, error, said, adaptive):
    network = ad.adapt(build()) if adaptive else build()
    before = [parameter.clone() for parameter in network.parameters()]
    with pytest.raises(error, match=said):
        train(network, **{"batches": images(), "epochs": 1, **settings})
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_something_else_than_a_network():
    with pytest.raises(ad.TrainingError, match="received a str: expected a network"):
        train("resnet18", images(), epochs=1)  # type: ignore[arg-type]


def test_the_time_that_training_waits_for_its_loader_is_told():
    class Slow(list):
        def __iter__(self):
            for batch in super().__iter__():
                time.sleep(0.05)
                yield batch

    step = supervise(nn.Linear(3, 3))
    quick = [(torch.rand(2, 3), torch.tensor([0, 1]))] * 5
    waiting = [
        train(nn.Linear(3, 3), batches, epochs=1, step=step).epochs[0].waiting for batches in (Slow(quick), quick)
    ]
    assert 0.5 < waiting[0] <= 1
    assert 0 <= waiting[1] < waiting[0]


def test_speed_counts_what_was_trained_since_the_interruption(monkeypatch):
    clock = iter([100.0, 102.0])
    monkeypatch.setattr(told, "perf_counter", lambda: next(clock))
    meter = told.Meter()
    meter.put({"images": 90, "sums": {"loss": [90.0, "float32"], "accuracy": [9000, "int64"]}}, torch.device("cpu"))
    y = torch.tensor([0] * 10)
    meter.add(StepResult(torch.tensor(3.0), torch.eye(2)[y]), y)
    epoch = meter.epoch(1, None)  # two seconds later
    assert epoch.images_per_s == 5
    assert (epoch.loss, epoch.accuracy) == (pytest.approx((90 + 30) / 100), 100)
    sums = {"loss": [120.0, "float32"], "accuracy": [10000, "int64"], "accuracy_of": [100, "int64"]}
    assert meter.to_json() == {"images": 100, "sums": sums}


def test_the_base_nets_accuracy_is_one_of_the_samples_that_it_saw():
    """Of four samples it saw the first two, and one of these is right."""
    x, y = torch.zeros(4, 3), torch.tensor([0, 1, 2, 2])
    all_right, half_right = torch.eye(3)[y], torch.eye(3)[torch.tensor([0, 2])]

    def step(x, y, backward):
        return StepResult(torch.tensor(1.0), all_right, torch.tensor(0.5), half_right)

    epoch = train(nn.Linear(3, 3), [(x, y)] * 3, epochs=1, step=step).epochs[0]
    assert (epoch.accuracy, epoch.base_accuracy, epoch.base_loss) == (100, 50, 0.5)


@pytest.mark.parametrize("axes", [(8,), (8, 8), (2, 8, 8)])
@pytest.mark.parametrize("passes", ["SB", "algorithm 1"])
def test_the_accuracy_of_a_dense_network_is_that_of_its_places(axes, passes):
    """`[batch, classes, ...]` with any further axes, and a learning rate that changes nothing."""
    convolution = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(axes)]

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = convolution(8, 8, 3, padding=1)

        def forward(self, x):
            return x + self.branch(torch.relu(x))

    model = nn.Sequential(convolution(3, 8, 1), *(Block() for _ in range(4)), convolution(8, 5, 1))
    x, y = torch.randn(4, 3, *axes), torch.randint(5, (4, *axes))
    y.view(-1)[:7] = -100
    network = ad.adapt(model, example=x)
    epoch = train(network, [(x, y)], epochs=1, lr=1e-12, passes=passes).epochs[0]
    counted = y != -100
    for got, skip in ((epoch.accuracy, network.skips[0]), (epoch.base_accuracy, network.skips[-1])):
        with torch.no_grad():
            right = (network(x, skip=skip).argmax(1) == y)[counted]
        assert got == pytest.approx(100 * right.float().mean().item(), abs=1e-3)
