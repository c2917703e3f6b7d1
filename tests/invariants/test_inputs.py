"""Inputs that are no batch of equal entries: graphs, lists of images, a table beside a batch; wherever one enters."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import adaptive_depth as ad


class GraphBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(8), nn.Linear(8, 8)

    def forward(self, h: Tensor, edges: Tensor) -> Tensor:
        return h + torch.zeros_like(h).index_add(0, edges[1], self.linear(torch.relu(self.norm(h)))[edges[0]])


class ImageBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.conv(torch.relu(self.norm(h)))


class Graphs:
    """A batch of graphs, as torch_geometric has it."""

    def __init__(self, x: Tensor, edge_index: Tensor, y: Tensor) -> None:
        self.x, self.edge_index, self.y = x, edge_index, y

    def to(self, device: torch.device) -> "Graphs":
        return Graphs(self.x.to(device), self.edge_index.to(device), self.y.to(device))


class OfGraphs(ad.tasks.Classification):
    def inputs(self, batch: Graphs) -> tuple[Any, Tensor]:
        return batch, batch.y


class Network(nn.Module):
    """Takes what its kind says, and returns a class for each node, or each image."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        graph = kind in GRAPHS
        self.stem: nn.Module = nn.Linear(3, 8) if graph else nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList((GraphBlock if graph else ImageBlock)() for _ in range(4))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Any, edges: Tensor | None = None, table: Tensor | None = None) -> Tensor:
        if self.kind == "object":
            x, edges = x.x, x.edge_index
        if self.kind == "list":
            x = torch.stack([F.adaptive_avg_pool2d(image, 6) for image in x])
        h = self.stem(x)
        for block in self.blocks:
            h = block(h) if edges is None else block(h, edges)
        if table is not None:
            h = h + table.mean()
        return self.head(h if h.ndim == 2 else h.mean((2, 3)))


GRAPHS = ("pair", "edges first", "object")
NOT_KNOWN = [*GRAPHS, "table"]  # what belongs to a sample is not certain
KINDS = [*NOT_KNOWN, "list", "one image"]


def batch(kind: str, size: int) -> tuple[Any, Tensor]:
    """Nodes, or images: an input, and a class for each."""
    y = torch.randint(4, (size,))
    if kind in GRAPHS:
        x, edges = torch.randn(size, 3), torch.randint(size, (2, 3 * size))
        if kind == "object":
            return Graphs(x, edges, y), y
        return ((x, edges) if kind == "pair" else {"edges": edges, "x": x}), y
    if kind in ("list", "one image"):
        size = 1 if kind == "one image" else size
        return ([torch.randn(3, 6 + n, 7) for n in range(size)],), y[:size]
    return {"x": torch.randn(size, 3, 6, 6), "table": torch.randn(5, 5)}, y


def made(kind: str) -> ad.AdaptiveNetwork:
    stages = [ad.Stage((f"blocks.{n}",), (f"blocks.{n + 1}",)) for n in (0, 2)]
    example = batch(kind, 6)[0]
    return ad.adapt(Network("list" if kind == "one image" else kind), stages, example=example)


def loaded(kind: str, batches: list[tuple[Any, Tensor]]) -> Any:
    return [x for x, _ in batches] if kind == "object" else batches


def run(module: nn.Module, x: Any) -> Tensor:
    return module(**x) if isinstance(x, dict) else module(*x) if isinstance(x, tuple) else module(x)


def task_of(kind: str) -> ad.tasks.Classification:
    return OfGraphs() if kind == "object" else ad.tasks.Classification()


@pytest.mark.parametrize("kind", KINDS)
def test_calibrate_measures_all_of_each_batch(kind: str) -> None:
    """The means over the batches, of every sub-network run by itself with norms that gather them."""
    network, batches = made(kind), [batch(kind, size) for size in (20, 7)]
    if kind == "one image":
        with pytest.raises(ad.DataError, match="calibrate received no batch of two or more samples"):
            ad.calibrate(network, batches, task=task_of(kind))
        return
    plain = copy.deepcopy(network)
    assert ad.calibrate(network, loaded(kind, batches), task=task_of(kind)) == 2
    for skip in network.skips:
        alone = plain.extract(skip).train()
        norms = [part for part in alone.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        with torch.no_grad():
            for x, _ in batches:
                run(alone, x)
        measured = [part for part in network.subnet(skip).modules() if isinstance(part, type(norms[0]))]
        for got, expected in zip(measured, norms, strict=True):
            torch.testing.assert_close(got.running_mean, expected.running_mean)
            torch.testing.assert_close(got.running_var, expected.running_var)


def test_a_graph_of_one_node_is_passed_over() -> None:
    """It does not say that it is one sample; a BatchNorm does."""
    network = made("pair")
    several, one = batch("pair", 6), batch("pair", 1)
    assert ad.calibrate(network, [several, one]) == 1
    expected = copy.deepcopy(network.statistics.state_dict())
    ad.calibrate(network, [one, several, one])
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.statistics.state_dict().items())
    with pytest.raises(ad.DataError, match="no batch of two or more samples"):
        ad.calibrate(network, [one])
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.statistics.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_evaluate_judges_all_of_each_batch(kind: str) -> None:
    network, batches = made(kind).eval(), [batch(kind, size) for size in (20, 7)]
    found = ad.evaluate(network, loaded(kind, batches), task=task_of(kind))
    for skip in network.skips:
        right = torch.cat([run(network.subnet(skip), x).argmax(1) == y for x, y in batches])
        assert found[skip] == pytest.approx(100 * right.float().mean().item())


@pytest.mark.parametrize("passes", ["SB", "algorithm 1", "low memory"])
@pytest.mark.parametrize("kind", KINDS)
def test_training_learns_from_all_of_each_batch_and_counts_it(kind: str, passes: str) -> None:
    network, batches = made(kind), [batch(kind, size) for size in (20, 7)]
    network.eval()
    for part in network.modules():  # so that a training with a learning rate of nothing leaves outputs as they are
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.momentum = 0.0
    extra: dict[str, Any] = {"passes": "SB", "fresh": True}
    if passes != "SB":
        extra = {"passes": "algorithm 1", "low_memory": passes == "low memory"}
    history = ad.train(network, loaded(kind, batches), task=task_of(kind), epochs=1, lr=1e-12, **extra)
    network.train()
    skip, learned = network.skips[0], batches[:1] if passes == "SB" else batches  # fresh: the second is the base-net's
    right = torch.cat([run(network.subnet(skip), x).argmax(1) == y for x, y in learned])
    assert history.epochs[0].accuracy == pytest.approx(100 * right.float().mean().item(), abs=1e-3)


@pytest.mark.parametrize("form", ["call", "backward"])
@pytest.mark.parametrize("kind", NOT_KNOWN)
def test_a_share_of_the_samples_is_refused_where_they_are_not_known(kind: str, form: str, unchanged) -> None:
    network, (x, y) = made(kind).train(), batch(kind, 6)
    objective = ad.SelfDistillation(network, distil_share=0.5)
    with (
        unchanged(network),
        pytest.raises(ad.TrainingError, match=r"distil_share=0\.5 selects samples.*distil_share=1"),
    ):
        (objective if form == "call" else objective.backward)(x, y)


@pytest.mark.parametrize("form", ["call", "backward"])
@pytest.mark.parametrize(("share", "taught"), [(0.5, 3), (0.1, 2)])
def test_a_share_of_listed_images_is_the_first_of_them(share: float, taught: int, form: str) -> None:
    network, (x, y) = made("list").train(), batch("list", 6)
    objective = ad.SelfDistillation(network, distil_share=share, learn_from="labels")
    found = (objective if form == "call" else objective.backward)(x, y)
    with torch.no_grad():
        expected = F.cross_entropy(network(x[0][:taught], skip="TT"), y[:taught])
    assert found.base_net.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_profile_counts_the_whole_example_once(kind: str) -> None:
    """Multiply-adds of the head and the linear or convolutional layers of the super-net, by hand."""
    if kind == "object":
        pytest.skip("an example needs a tensor")
    network, (x, _) = made(kind), batch(kind, 6)
    example, named = ((), x) if isinstance(x, dict) else (x, {})
    cost = ad.profile(network, *example, **named, latency=False)
    if kind in ("list", "one image"):  # of an image, as of the same images in a tensor
        assert cost.costs["FF"].macs == 36 * 9 * (3 * 8 + 4 * 8 * 8) + 8 * 4
        assert cost.batch_size == len(x[0])
        return
    by_hand = 6 * (3 * 8 + 4 * 8 * 8 + 8 * 4) if kind in GRAPHS else 6 * (36 * 9 * (3 * 8 + 4 * 8 * 8) + 8 * 4)
    assert cost.costs["FF"].macs == by_hand
    assert cost.batch_size == 1
    with pytest.raises(
        ad.MeasurementError, match=r"batch_sizes=\(2,\) repeats the samples of the example.*no batch_siz"
    ):
        ad.profile(network, *example, **named, latency=False, batch_sizes=(2,))


@pytest.mark.parametrize("kind", KINDS)
def test_an_analysis_sees_all_of_each_batch(kind: str) -> None:
    network, batches = made(kind).eval(), [batch(kind, size) for size in (8, 4)]
    found = ad.analyze(network, loaded(kind, batches), criterion=task_of(kind))
    with torch.no_grad():
        losses = [float(F.cross_entropy(run(network.subnet("FF"), x), y)) for x, y in batches]
    sizes = [len(y) for _, y in batches]
    mean = sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / sum(sizes)
    assert found.losses["FF"] == pytest.approx(mean, rel=1e-5)
    assert found.images == sum(sizes)
