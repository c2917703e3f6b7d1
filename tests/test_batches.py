"""What loaders yield."""

import pytest
import torch
from torch import nn

import adaptive_depth as ad
from adaptive_depth.batches import device_of, split_batch

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
    ("batch", "kind"),
    [
        ({"image": X, "label": Y}, "dict"),
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


def test_labels_that_are_no_tensor() -> None:
    with pytest.raises(ad.DataError, match=r"labels as a list: expected a tensor \[batch\]"):
        split_batch((X, [0, 1]), CPU)


def test_batches_go_to_the_device() -> None:
    x, y = split_batch((X, Y), torch.device("meta"))
    assert x.device.type == y.device.type == "meta"


def test_the_device_of_a_module() -> None:
    assert device_of(nn.Linear(1, 1, device="meta")).type == "meta"
    assert device_of(nn.BatchNorm1d(1, affine=False, device="meta")).type == "meta"
    assert device_of(nn.ReLU()) == CPU
