"""What loaders yield."""

from collections import UserDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import adaptive_depth as ad
from adaptive_depth.batches import arguments, device_of, first_samples, logits_in, samples_in, split_batch

CPU = torch.device("cpu")
X, Y = torch.zeros(2, 3), torch.tensor([0, 1])


@pytest.mark.parametrize("batch", [(X, Y), [X, Y], (X, Y, "file names")])
def test_pairs(batch: object) -> None:
    x, y = split_batch(batch, CPU)
    assert x is X
    assert y is Y


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
    table = torch.zeros(5, 3)
    x = {"a": torch.arange(4.0), "table": table, "flag": True, "pair": (torch.ones(4, 2), None)}
    cut = first_samples(x, 3)
    assert samples_in(x) == 4
    assert cut["a"].tolist() == [0, 1, 2]
    assert cut["table"] is table
    assert cut["flag"] is True
    assert cut["pair"][0].shape == (3, 2)


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
