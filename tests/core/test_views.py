"""Twins and views: new objects that share every parameter, buffer and hook."""

import types

import pytest
import torch
from torch import Tensor, nn

from adaptive_depth.core.stand_in import PassThrough, stand_in
from adaptive_depth.core.views import build_view, plain, statistics_twin, twin


class Listed(nn.Module):
    """Blocks in a ModuleList, one of them addressed by its index."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[2](self.blocks[1](self.blocks[0](x)))


@pytest.fixture
def chain() -> nn.Module:
    return nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()


def test_a_twin_shares_all_but_its_children(chain: nn.Module) -> None:
    copy = twin(chain)
    assert type(copy) is nn.Sequential
    assert copy is not chain
    for name in ("_parameters", "_buffers", "_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
        assert copy.__dict__[name] is chain.__dict__[name]
    assert copy._modules is not chain._modules
    assert all(copy._modules[name] is child for name, child in chain._modules.items())
    chain.register_parameter("late", nn.Parameter(torch.ones(1)))
    assert copy.late is chain.late


def test_a_twin_does_not_run_the_code_compiled_for_its_original(chain: nn.Module) -> None:
    chain._compiled_call_impl = lambda *_: pytest.fail("the original's code ran")
    x = torch.randn(2, 3)
    assert torch.equal(twin(chain)(x), chain.forward(x))


def test_a_forward_of_the_users_own_is_bound_to_the_twin() -> None:
    module = Listed()
    module.forward = types.MethodType(lambda self, x: self.blocks[0](x), module)
    copy = twin(module)
    copy._modules["blocks"] = nn.ModuleList([nn.Identity()])
    x = torch.randn(2, 3)
    assert torch.equal(copy(x), x)
    assert torch.equal(module(x), module.blocks[0](x))


def test_a_view_leaves_out_and_replaces_and_shares_the_rest(chain: nn.Module) -> None:
    other, x = nn.BatchNorm1d(3, eps=1.0).eval(), torch.randn(2, 3)
    before = chain(x)
    view = build_view(chain, {"0.1": nn.Identity(), "1": other}).module
    assert torch.equal(view(x), chain[2](other(chain[0][0](x))))
    assert torch.equal(chain(x), before)
    assert [type(part) for part in view] == [nn.Sequential, nn.BatchNorm1d, nn.Linear]
    assert [type(part) for part in view[0]] == [nn.Linear, nn.Identity]
    assert view[0] is not chain[0]
    assert view[0][0] is chain[0][0]
    assert view[1] is other
    assert view[2] is chain[2]


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple:
        return x + 1, mask


def test_what_stands_for_another_block_hands_its_inputs_on() -> None:
    x, mask = torch.randn(2, 3), torch.zeros(2)
    assert stand_in(TwoInputs(), None)(x, mask=mask) is x
    assert stand_in(TwoInputs(), None)(mask=None, x=x) is x
    given, none = stand_in(TwoInputs(), (0, None))(x, mask)
    assert given is x
    assert none is None
    given, other = stand_in(TwoInputs(), (0, 1))(x, mask)
    assert given is x
    assert other is mask


def test_what_code_may_address_by_index_keeps_its_place() -> None:
    module, x = Listed(), torch.randn(2, 3)
    view = build_view(module, {"blocks.1": stand_in(module.blocks[1], None)}).module
    assert torch.equal(view(x), module.blocks[2](module.blocks[0](x)))


def test_twins_and_replacements_follow_the_modes_of_their_originals(chain: nn.Module) -> None:
    other = nn.BatchNorm1d(3)
    view = build_view(chain, {"0.1": nn.Identity(), "1": other})
    chain.train()
    chain[0].eval()
    view.follow_modes()
    assert (view.module.training, view.module[0].training, other.training) == (True, False, True)
    chain.eval()
    view.follow_modes()
    assert (view.module.training, view.module[0].training, other.training) == (False, False, False)


def test_every_view_has_a_code_object_of_its_own_and_the_same_name(chain: nn.Module) -> None:
    views = [build_view(chain, {}).module for _ in range(3)]
    codes = [view.forward.__code__ for view in views]
    assert len({id(code) for code in codes}) == 3
    assert all(code is not nn.Sequential.forward.__code__ for code in codes)
    assert views[0].forward.__name__ == "forward"
    x = torch.randn(2, 3)
    assert torch.equal(views[0](x), chain(x))


def test_default_and_keyword_arguments_survive() -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor, by: float = 2.0, *, plus: float = 1.0) -> Tensor:
            return x * by + plus

    view = build_view(Scaled(), {}).module
    assert view(torch.ones(1)).item() == 3
    assert view(torch.ones(1), 3.0, plus=0.5).item() == 3.5


def test_plain_takes_the_forward_back(chain: nn.Module) -> None:
    view = build_view(chain, {"0.1": stand_in(chain[0][1], None)}).module
    assert "forward" in view.__dict__
    assert type(view[0][1]) is PassThrough
    assert "forward" not in plain(view, chain).__dict__
    assert type(view[0][1]) is nn.Identity  # an nn.Sequential gives one input
    patched = Listed()
    patched.forward = types.MethodType(lambda self, x: 0 * self.blocks[0](x), patched)
    view = plain(build_view(patched, {"blocks.1": nn.Identity()}).module, patched)
    assert view.forward.__self__ is view
    assert view.forward.__func__ is patched.forward.__func__


def test_a_statistics_twin_shares_the_affine_part_only() -> None:
    norm, other = nn.BatchNorm1d(2).eval(), nn.BatchNorm1d(2)
    other.running_mean.fill_(5.0)
    copy = statistics_twin(norm, other)
    assert copy.weight is norm.weight
    assert copy.running_mean is other.running_mean
    assert copy(torch.full((1, 2), 5.0)).abs().max() < 1e-5
    copy.train()(torch.randn(8, 2))
    assert norm.num_batches_tracked == 0
    assert other.num_batches_tracked == 1
