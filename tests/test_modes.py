"""State that is put back, whatever happens in between."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from adaptive_depth.modes import Generators, buffers_restored_on_error, evaluating, looking_at


def mixed() -> nn.Module:
    module = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)), nn.Linear(2, 2))
    module.train()
    module[0].eval()  # frozen
    module[1].training = False  # a container in another mode than what it holds
    return module


def interrupt() -> None:
    raise KeyboardInterrupt


def modes(module: nn.Module) -> list[bool]:
    return [part.training for part in module.modules()]


@pytest.mark.parametrize("root", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_every_module_gets_its_own_mode_back(fails: bool, root: bool) -> None:
    module = mixed()
    module.training = root
    before = modes(module)
    assert True in before
    assert False in before
    try:
        with evaluating(module):
            assert not any(modes(module))
            module[2].train()
            module[0].train()
            module[0].eval()
            if fails:
                interrupt()
    except KeyboardInterrupt:
        assert fails
    assert modes(module) == before


def test_the_sub_networks_of_a_network_follow(nets) -> None:
    network = nets.chain().train()
    network.model.blocks[0].norm.eval()
    views = [network.subnet(skip) for skip in network.skips]
    before = [modes(view) for view in views]
    with evaluating(network):
        assert not any(any(modes(view)) for view in views)
    assert [modes(view) for view in views] == before
    assert before[0].count(False) == 1


def test_buffers_come_back_after_an_error_only() -> None:
    module = nn.BatchNorm1d(2)
    x = torch.tensor([[0.0, 2.0], [4.0, 2.0]])

    def moves_and_fails() -> None:
        with buffers_restored_on_error(module.modules()):
            module(x)
            assert module.running_mean.tolist() == pytest.approx([0.2, 0.2])
            interrupt()

    with pytest.raises(KeyboardInterrupt):
        moves_and_fails()
    assert module.running_mean.tolist() == [0, 0]
    assert module.running_var.tolist() == [1, 1]
    assert module.num_batches_tracked == 0
    kept = module.running_mean
    with buffers_restored_on_error(module.modules()):
        module(x)
    assert module.running_mean is kept
    assert kept.tolist() == pytest.approx([0.2, 0.2])
    assert module.num_batches_tracked == 1


def _drawing(module: Any) -> dict[str, Any]:
    """A number of each generator."""
    return {
        "torch": lambda: float(torch.rand(())),
        "python": random.random,
        "numpy": np.random.rand,
        "own": lambda: float(torch.rand((), generator=module[0].own)),
        "own numpy": module[0].numpy.random,
        "own python": module.python.random,
    }


@pytest.mark.parametrize("kind", ["torch", "python", "numpy", "own", "own numpy", "own python"])
def test_looking_leaves_every_generator_as_it_was(kind: str) -> None:
    module = nn.Sequential(nn.Linear(1, 1))
    module[0].own, module[0].numpy, module.python = torch.Generator(), np.random.default_rng(3), random.Random(3)
    draw = _drawing(module)[kind]
    state = Generators(module).state()
    with looking_at(module), looking_at(module):
        draw()
        assert Generators(module).state() != state
    assert Generators(module).state() == state
    with pytest.raises(ZeroDivisionError), looking_at(module):
        draw() / 0
    assert Generators(module).state() == state


@pytest.mark.parametrize("kind", ["torch", "python", "numpy", "own", "own numpy", "own python"])
def test_generators_tell_what_was_drawn_and_go_back(kind: str) -> None:
    module = nn.Sequential(nn.Linear(1, 1))
    module[0].own, module[0].numpy, module.python = torch.Generator(), np.random.default_rng(3), random.Random(3)
    draw = _drawing(module)[kind]
    generators = Generators(module, torch.device("cpu"))
    before, quick = generators.state(), generators.state(quickly=True)
    assert generators.state() == before
    first = draw()
    assert generators.state() != before
    assert (generators.state(quickly=True) != quick) == (kind not in ("python", "numpy"))
    generators.put(before)
    assert generators.state() == before
    assert draw() == first
