"""Observers stand in views, and leave no trace in the network."""

import pytest
import torch
from torch import nn

from adaptive_depth.analysis.observers import BlockObserver, FeatureLeaf, frozen, observed
from adaptive_depth.errors import MeasurementError


def test_an_observed_view_computes_the_same_and_the_root_stays_unobserved() -> None:
    root = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 4)))
    before, x = dict(root.named_modules()), torch.randn(3, 4)
    inner, outer = BlockObserver("1.1"), BlockObserver("0")
    view = observed(observed(root, {"1.1": inner}), {"0": outer})
    assert torch.equal(view(x), root(x))
    assert inner.rows == outer.rows == [3]
    assert dict(root.named_modules()) == before
    assert not any("forward" in part.__dict__ for part in root.modules())


def test_a_block_observer_holds_what_it_is_told_to_keep() -> None:
    x = torch.tensor([[3.0, 4.0]])
    observer = BlockObserver("", keep=True)
    assert torch.equal(observer(lambda h: h * 3, x), 3 * x)
    assert torch.equal(observer.kept.change, 2 * x)
    assert torch.equal(observer.kept.after, 3 * x)
    assert observer.ratios is not None
    assert observer.ratios.tolist() == [2.0]
    observer.forget()
    with pytest.raises(AssertionError):
        _ = observer.kept


def test_a_block_that_works_in_place_is_seen_as_if_it_did_not() -> None:
    observer = BlockObserver("", keep=True)
    after = observer(lambda h: h.mul_(3), torch.tensor([[3.0, 4.0]]))
    after.zero_()  # as the next block may
    assert observer.kept.change.tolist() == [[6.0, 8.0]]
    assert observer.kept.after.tolist() == [[9.0, 12.0]]


def test_inputs_by_keyword_and_outputs_in_tuples() -> None:
    observer = BlockObserver("")
    observer(lambda *, h, mask: (mask, 2 * h), mask=None, h=torch.ones(2, 2))
    assert observer.ratios is not None
    assert observer.ratios.tolist() == [1.0, 1.0]
    with pytest.raises(MeasurementError, match="a block takes or returns a list without a tensor"):
        observer(lambda h: [1], torch.ones(1))


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([], "block 'b' ran 0 times in one forward pass: expected once"),
        ([2, 2], "block 'b' ran 2 times"),
        ([3], "block 'b' returns 3 rows for 2 samples: expected the batch as the first dimension"),
    ],
)
def test_what_a_block_observer_refuses(runs, said) -> None:
    observer = BlockObserver("b")
    for rows in runs:
        observer(lambda h: h, torch.ones(rows, 2))
    with pytest.raises(MeasurementError, match=said):
        observer.check(2)
    observer(lambda h: h, torch.ones(2, 2))
    observer.check(2)  # a pass that failed is forgotten


def test_a_leaf_gets_the_gradient_even_if_what_was_handed_on_is_changed() -> None:
    observer, x = FeatureLeaf(), torch.tensor([[1.0, 2.0]])
    handed = observer(lambda h: (h, "mask"), x)
    assert handed[1] == "mask"
    handed[0].mul_(3)
    (gradient,) = torch.autograd.grad(handed[0].sum(), observer.leaf)
    assert gradient.tolist() == [[3.0, 3.0]]
    assert x.tolist() == [[1.0, 2.0]]


def test_frozen_parameters_are_as_before_even_after_an_error() -> None:
    module = nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    module.weight.grad = gradient = torch.ones(2, 2)

    def failing() -> None:
        with frozen(module):
            assert not module.weight.requires_grad
            module.zero_grad()
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        failing()
    assert module.weight.requires_grad
    assert not module.bias.requires_grad
    assert module.weight.grad is gradient
