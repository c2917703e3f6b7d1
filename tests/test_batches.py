"""What loaders yield."""

from collections import UserDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import adaptive_depth as ad
from adaptive_depth.batches import (
    arguments,
    device_of,
    entries_in,
    first_samples,
    is_empty,
    logits_in,
    on_device,
    samples_in,
    split_batch,
)

CPU = torch.device("cpu")
X, Y = torch.zeros(2, 3), torch.tensor([0, 1])


@pytest.mark.parametrize("batch", [(X, Y), [X, Y], (X, Y, "file names")])
def test_pairs(batch: object) -> None:
    x, y = split_batch(batch, CPU)
    assert x is X
    assert y is Y


def test_a_third_tensor_is_not_dropped_silently() -> None:
    """Two inputs and labels, say: the second input would have been learned as the label."""
    with pytest.raises(
        ad.DataError, match=r"yielded a tuple of 3: expected a pair .*several inputs, \(\(a, b\), labels\)"
    ):
        split_batch((X, X, Y), CPU)


def test_arrays_are_named() -> None:
    with pytest.raises(ad.DataError, match="the loader yielded arrays of NumPy, and a network takes tensors"):
        split_batch((X.numpy(), Y.numpy()), CPU)


@pytest.mark.parametrize("batch", [X, (X,), [X], (X, None)])
def test_inputs_alone(batch: object) -> None:
    x, y = split_batch(batch, CPU)
    assert x is X
    assert y is None


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ({"pixels": X, "labels": Y}, ((), {"pixels": X})),
        ({"pixels": X, "label": Y, "size": 3}, ((), {"pixels": X, "size": 3})),
        (UserDict(a=X, b=X, labels=Y), ((), {"a": X, "b": X})),
        (({"a": X, "labels": 3}, Y), ((), {"a": X, "labels": 3})),
        (([X, X], Y), ((X, X), {})),
        ([(X, None), Y], ((X, None), {})),
    ],
)
def test_inputs_of_several_arguments(batch: object, expected: object) -> None:
    x, y = split_batch(batch, CPU)
    assert arguments(x) == expected
    assert y is Y


@pytest.mark.parametrize(
    ("batch", "kind"),
    [
        ({"labels": Y}, "dict"),
        ((), "tuple"),
        ([], "list"),
        ("x", "str"),
        (None, "NoneType"),
        ((1, Y), "tuple"),
    ],
)
def test_anything_else(batch: object, kind: str) -> None:
    said = rf"the loader yielded a {kind}: expected a pair \(input tensor \[batch, \.\.\.\], labels \[batch\]\)"
    with pytest.raises(ad.DataError, match=said):
        split_batch(batch, CPU)


def test_the_first_samples() -> None:
    scale = torch.tensor(2.0)
    x = {"a": torch.arange(4.0), "scale": scale, "flag": True, "pair": (torch.ones(4, 2), None)}
    cut = first_samples(x, 3)
    assert samples_in(x) == 4
    assert cut["a"].tolist() == [0, 1, 2]
    assert cut["scale"] is scale
    assert cut["flag"] is True
    assert cut["pair"][0].shape == (3, 2)


@pytest.mark.parametrize(
    ("x", "entries"),
    [
        ((torch.zeros(20, 3), torch.zeros(2, 60)), 20),  # the nodes and edges of a graph
        ({"edges": torch.zeros(2, 60), "nodes": torch.zeros(20, 3)}, 2),
        ({"a": torch.zeros(4), "table": torch.zeros(5, 3)}, 4),
        (([torch.zeros(3, 8, 8), torch.zeros(2, 8, 8)],), 3),
        (([torch.zeros(16, 8, 8), torch.zeros(16, 4, 4)],), 16),  # levels of a pyramid
        ((torch.zeros(2, 3), SimpleNamespace()), 2),
        (torch.tensor(1.0), 1),
    ],
)
def test_what_may_not_be_cut_is_not_cut(x: object, entries: int) -> None:
    assert samples_in(x) is None
    assert entries_in(x) == entries
    with pytest.raises(ad.DataError, match=r"cannot take the first 1 samples of .*expected one entry per sample"):
        first_samples(x, 1)


IMAGES = [torch.zeros(3, 8, 8), torch.zeros(3, 9, 9), torch.zeros(3, 7, 7)]
BOXES = [{"boxes": torch.zeros(n, 4)} for n in (7, 1, 2)]


@pytest.mark.parametrize("x", [(IMAGES,), (tuple(IMAGES), tuple(BOXES)), {"images": IMAGES}, BOXES])
def test_a_list_has_an_entry_for_each_image(x: Any) -> None:
    assert samples_in(x) == entries_in(x) == 3
    first = first_samples(x, 2)
    assert samples_in(first) == 2
    listed = first["images"] if isinstance(first, dict) else first if x is BOXES else first[0]
    assert listed[1] is (BOXES if x is BOXES else IMAGES)[1]


@pytest.mark.parametrize(
    ("x", "empty"),
    [
        (torch.zeros(0, 3), True),
        ((torch.zeros(0, 3), torch.zeros(2, 0)), True),
        ({"a": torch.zeros(0, 3), "scale": torch.tensor(1.0)}, True),
        ((torch.zeros(1, 3), torch.zeros(2, 0)), False),
        (SimpleNamespace(to=print), False),
    ],
)
def test_a_batch_without_a_sample(x: object, empty: bool) -> None:
    assert is_empty(x) is empty


class Graphs:
    """A batch of graphs, as torch_geometric has it."""

    def __init__(self, x: torch.Tensor, edge_index: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.edge_index, self.y = x, edge_index, y

    def to(self, device: torch.device) -> "Graphs":
        return Graphs(self.x.to(device), self.edge_index.to(device), self.y.to(device))


@pytest.mark.parametrize("as_pair", [False, True])
def test_an_object_of_which_nothing_is_known(as_pair: bool) -> None:
    batch = Graphs(X, Y[None], Y)
    said = r"the loader yielded a Graphs, an unknown type: expected tensors; unpack it in the collate_fn"
    with pytest.raises(
        ad.DataError, match=said + r".*\(\(batch.x, batch.edge_index\), batch.y\).*inputs\(\) of a custom task"
    ):
        split_batch((batch, Y) if as_pair else batch, CPU)
    assert on_device({"a": batch}, torch.device("meta"))["a"].x.device.type == "meta"


def test_logits() -> None:
    assert logits_in(X) is X
    assert logits_in({"loss": Y, "logits": X}) is X
    assert logits_in(SimpleNamespace(logits=X)) is X
    for other in ({"logits": None}, (X,), None):
        assert logits_in(other) is other


def test_labels_that_are_no_tensor() -> None:
    with pytest.raises(ad.DataError, match=r"labels as a list: expected a tensor \[batch\]"):
        split_batch((X, [0, 1]), CPU)


def test_batches_go_to_the_device() -> None:
    x, y = split_batch((X, Y), torch.device("meta"))
    assert x.device.type == y.device.type == "meta"
    x, y = split_batch({"a": (X, X), "labels": Y}, torch.device("meta"))
    assert {x["a"][0].device.type, x["a"][1].device.type, y.device.type} == {"meta"}


def test_the_device_of_a_module() -> None:
    assert device_of(nn.Linear(1, 1, device="meta")).type == "meta"
    assert device_of(nn.BatchNorm1d(1, affine=False, device="meta")).type == "meta"
    assert device_of(nn.ReLU()) == CPU
