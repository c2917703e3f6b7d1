"""Accuracy of every sub-network, by hand."""

import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
import torchmetrics
from torch import Tensor, nn

import adaptive_depth as ad
from adaptive_depth.measure.evaluation import evaluate_one


class Counting(nn.Module):
    """A net whose class can be worked out by hand: the input's number, plus one for each block that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(PlusOne() for _ in range(4)))
        self.head = OneHot()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x))


class PlusOne(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.one


class OneHot(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return -(torch.arange(10.0) - x).abs()  # the largest at x


STAGES = [ad.Stage(("blocks.0",), ("blocks.1",)), ad.Stage(("blocks.2",), ("blocks.3",))]


def counting() -> ad.AdaptiveNetwork:
    return ad.adapt(Counting(), STAGES, example=torch.zeros(2, 1))


def batch(numbers: list[float], labels: list[int]) -> tuple[Tensor, Tensor]:
    return torch.tensor(numbers).reshape(-1, 1), torch.tensor(labels)


def test_by_hand() -> None:
    # The super-net adds 4, FT and TF add 3, the base-net adds 2.
    batches = [batch([0, 1, 2], [4, 5, 5]), batch([0, 0], [2, 3])]
    # FF: 4 5 6, 4 4 -> right, right, wrong, wrong, wrong; FT and TF: 3 4 5, 3 3; TT: 2 3 4, 2 2.
    assert ad.evaluate(counting(), batches) == {"FF": 40.0, "FT": 40.0, "TF": 40.0, "TT": 20.0}
    assert ad.evaluate(counting(), batches[1:]) == {"FF": 0.0, "FT": 50.0, "TF": 50.0, "TT": 50.0}


def test_some_sub_networks_in_their_order() -> None:
    accuracy = ad.evaluate(counting(), [batch([0], [2])], ["TT", (False, True), "TT", "FF"])
    assert list(accuracy.items()) == [("FF", 0.0), ("FT", 0.0), ("TT", 100.0)]


def test_it_agrees_with_a_plain_loop(nets) -> None:
    network = nets.resnet(classes=3).train()
    batches = [(torch.randn(n, 3, 32, 32), torch.randint(3, (n,))) for n in (8, 8, 3)]
    accuracy = ad.evaluate(network, iter(batches))
    for skip in network.skips:
        alone = network.extract(skip).eval()
        right = sum((alone(x).argmax(1) == y).sum().item() for x, y in batches)
        assert accuracy[skip] == pytest.approx(100 * right / 19)
    assert len(set(accuracy.values())) > 1


def test_the_network_is_left_as_it_was(nets, unchanged) -> None:
    network = nets.resnet().train()
    network.model.bn1.eval()
    x, y = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    network(x).sum().backward()
    with unchanged(network):
        ad.evaluate(network, [(x, y)])
    with torch.inference_mode():
        ad.evaluate(network, [(x, y)])
    network(x).sum().backward()  # nothing has become an inference tensor


class Tuples(Counting):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (super().forward(x),)


class Maps(Counting):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :, None]


def failing() -> object:
    yield batch([0, 1], [4, 5])
    raise OSError("the disk is gone")


GOOD = batch([0, 1], [4, 5])


class Loader(list):
    """One batch of a data set that names its classes."""

    def __init__(self, classes: tuple[str, ...], target_transform: object = None) -> None:
        super().__init__([GOOD])
        self.dataset = SimpleNamespace(classes=classes, target_transform=target_transform)


def test_labels_that_are_numbered_anew_may_name_a_part_of_the_outputs() -> None:
    assert ad.evaluate(counting(), Loader(("cat", "dog"), lambda y: y + 4), ["FF"]) == {"FF": 100.0}
    assert ad.evaluate(counting(), Loader(tuple("0123456789")), ["FF"]) == {"FF": 100.0}


@pytest.mark.parametrize(
    ("model", "batches", "said"),
    [
        (Counting, [], "evaluate received an empty loader: expected at least one batch of (input, labels)"),
        (
            Counting,
            [batch([float("nan"), 1], [0, 1])],
            "non-finite numbers, but its weights are finite: look",
        ),
        (Counting, [(GOOD[0], GOOD[1].float())], "labels of float32: expected class indices, integers"),
        (Counting, iter(()), "evaluate received an empty loader"),
        (Counting, [batch([], [])], "evaluate received an empty loader"),
        (Counting, [GOOD, GOOD[0]], "the loader yielded inputs without labels: expected pairs (input, labels)"),
        (Counting, [GOOD[:1]], "the loader yielded inputs without labels"),
        (Counting, [(GOOD[0], [4, 5])], "the loader yielded labels as a list: expected a tensor [batch]"),
        (Counting, [{"labels": GOOD[0]}], "the loader yielded a dict: expected a pair"),
        (
            Counting,
            [GOOD, batch([0, 1], [4, 10])],
            "labels from 4 to 10, but the network has 10 classes: expected labels from 0 to 9",
        ),
        (Counting, [batch([0, 1], [-1, 3])], "labels from -1 to 3, but the network has 10 classes"),
        (
            Counting,
            [(GOOD[0], torch.tensor([4]))],
            "the network returned [2, 10] for labels [1]: expected [batch, classes] and [batch]",
        ),
        (
            Counting,
            [(GOOD[0], torch.eye(2, 10))],
            "the network returned [2, 10] for labels [2, 10]: expected [batch, cl",
        ),
        (Tuples, [GOOD], "the network returned tuple for labels [2]: expected [batch, classes] and [batch]"),
        (Maps, [GOOD], "the network returned [2, 10, 1] for labels [2]"),
        (Counting, Loader(("cat", "dog")), "the data has 2 classes, the network 10: an output without a label can"),
    ],
)
def test_what_cannot_be_evaluated(unchanged, model: type, batches: object, said: str) -> None:
    network = ad.adapt(model(), STAGES, example=torch.zeros(2, 1)).train()
    network.model.head.eval()
    with unchanged(network), pytest.raises(ad.DataError, match=re.escape(said)):
        ad.evaluate(network, batches)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    network = ad.adapt(transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, num_hidden_layers=5)))
    for layer in (4, 2):
        network.model.model.layers[layer].mlp.up_proj.weight.data[0, 0] = value
    said = "sub-network FF returned non-finite numbers, because its weights are non-finite, the first of them "
    with pytest.raises(ad.DataError, match=f"{said}model.model.layers.2.mlp.up_proj.weight: reload them"):
        ad.evaluate(network, [torch.arange(3, 11)[None]])


def test_no_sub_network_or_a_wrong_one(unchanged) -> None:
    network = counting().train()
    with (
        unchanged(network),
        pytest.raises(ad.DataError, match=r"received no sub-network: expected skips such as \['FF"),
    ):
        ad.evaluate(network, [GOOD], [])
    with unchanged(network), pytest.raises(ad.SkipError, match="'TTT' is for 3 stages, but the network has 2"):
        ad.evaluate(network, [GOOD], ["FF", "TTT"])


def test_an_error_of_the_loader_passes_through(unchanged) -> None:
    network = counting().train()
    with unchanged(network), pytest.raises(OSError, match="the disk is gone"):
        ad.evaluate(network, failing())


def test_a_plain_model_is_refused_where_a_network_is_expected(tmp_path: Path) -> None:
    plain = nn.Linear(2, 2)
    for call in (
        lambda: ad.evaluate(plain, []),
        lambda: ad.calibrate(plain, []),
        lambda: ad.save(plain, tmp_path / "run"),
    ):
        with pytest.raises(
            ad.AdaptiveDepthError, match=r"received a Linear: expected an adapted network, adapt\(model\)"
        ):
            call()
    with pytest.raises(
        ad.AdaptiveDepthError, match=r"for a plain one use adaptive_depth.measure.evaluation.evaluate_one\(model, b"
    ):
        ad.evaluate(plain, [])
    with pytest.raises(
        ad.TrainingError, match=r"validation= is for an adapted network, .* a plain Linear: leave it out"
    ):
        ad.train(plain, [(torch.zeros(2, 2), torch.tensor([0, 1]))], validation=[], epochs=1)
    assert not (tmp_path / "run").exists()


def test_a_plain_network_is_judged_as_the_super_net_is() -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=3, channels=(8, 8, 8, 8))
    batches = [(torch.randn(6, 3, 32, 32), torch.randint(3, (6,))) for _ in range(3)]
    alone = evaluate_one(model, batches)
    assert model.training  # as it was
    assert alone == ad.evaluate(ad.adapt(model), batches, ["FFFF"])["FFFF"]
    with pytest.raises(ad.DataError, match="evaluate_one received an empty loader"):
        evaluate_one(model, [])


def test_a_quality_and_a_metric_of_opposite_directions(nets) -> None:
    """Else the worst depth would be the best of the table."""

    class Wrong(ad.tasks.Regression):
        quality = ad.tasks.Quality("MAE", "m")

        def __init__(self) -> None:
            self.criterion = nn.MSELoss()

        def metric(self, output):
            return torchmetrics.MeanAbsoluteError()

    network, batches = nets.chain(), [(torch.randn(4, 3, 8, 8), torch.rand(4, 5))]
    said = (
        "the task Wrong: lower is better for the metric MeanAbsoluteError, but 'MAE' says the opposite: give the "
        "quality higher_is_better=False"
    )
    for measure in (ad.evaluate, evaluate_one):
        with pytest.raises(ad.MeasurementError, match=re.escape(said)):
            measure(network, batches, task=Wrong())
    Wrong.quality = ad.tasks.Quality("MAE", "m", higher_is_better=False)
    assert set(ad.evaluate(network, batches, task=Wrong())) == set(network.skips)
