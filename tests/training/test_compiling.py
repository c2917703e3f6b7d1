"""Compiled sub-networks: made once, made anew where the network's views were, and never copied."""

import copy
import pickle

import pytest
import timm
import torch

import adaptive_depth as ad
from adaptive_depth.training.compiling import Compiled


@pytest.fixture
def network() -> ad.AdaptiveNetwork:
    return ad.adapt(timm.create_model("resnet18", num_classes=3))


def double(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def test_nothing_is_compiled_before_it_is_asked_for(network: ad.AdaptiveNetwork) -> None:
    compiled = Compiled()
    assert not compiled.asked
    assert compiled.of(network, "F", double) is double


def test_compiled_once_and_anew_for_new_views(network: ad.AdaptiveNetwork) -> None:
    compiled = Compiled()
    compiled.ask(backend="eager")
    first = compiled.of(network, "F", double)
    assert first is not double
    assert first(torch.ones(2)).tolist() == [2, 2]
    assert compiled.of(network, "F", double) is first
    assert compiled.of(network, "T", double) is not first
    network.forget_views()
    assert compiled.of(network, "F", double) is not first


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_copy_compiles_anew_with_the_same_options(network: ad.AdaptiveNetwork, copied) -> None:
    compiled = Compiled()
    compiled.ask(backend="eager")
    first = compiled.of(network, "F", double)
    other = copied(compiled)
    assert other.asked
    assert other.of(network, "F", double) is not first
    assert compiled.of(network, "F", double) is first
