"""Whatever is done to a network reaches every one of its sub-networks, before and after they were first used."""

import copy
import io
import pickle

import pytest
import timm
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

import adaptive_depth as ad


class Attention(nn.Module):
    """A pre-norm transformer block, written by hand."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.mlp = nn.Linear(6, 6), nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.mix(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Tokens of patches, a table of positions added by hand, blocks in a ModuleList, a mean, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.positions = nn.Linear(3 * 32 * 32 // 6, 16), nn.Parameter(torch.randn(1, 6, 16))
        self.blocks = nn.ModuleList(Attention(16) for _ in range(6))
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x.reshape(len(x), 6, -1)) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def transformer() -> ad.AdaptiveNetwork:
    groups = ([f"blocks.{i}" for i in range(first, first + 3)] for first in (0, 3))
    stages = [ad.Stage(group[:2], group[2:], name=group[0], channel_dim=-1) for group in groups]
    return ad.adapt(Transformer(), stages, example=torch.randn(2, 3, 32, 32))


def torchvision_resnet() -> ad.AdaptiveNetwork:
    return ad.adapt(ResNet(BasicBlock, [2, 3, 1, 2], num_classes=5))


def timm_resnet() -> ad.AdaptiveNetwork:
    return ad.adapt(timm.create_model("resnet18", num_classes=5, channels=(8, 8, 16, 16)))


MAKERS = {
    "torchvision": torchvision_resnet,
    "timm": timm_resnet,
    "transformer": transformer,
    "calibrated": timm_resnet,
}


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32)


@pytest.fixture(params=["before", "after"])
def used(request: pytest.FixtureRequest) -> bool:
    """Were the sub-networks already made when something happens to the network?"""
    return request.param == "after"


@pytest.fixture(params=MAKERS)
def network(request: pytest.FixtureRequest, x: torch.Tensor, used: bool) -> ad.AdaptiveNetwork:
    torch.manual_seed(0)
    made = MAKERS[request.param]()
    with torch.no_grad():
        for parameter in made.skip_norms.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    if request.param == "calibrated":
        ad.calibrate(made, [torch.randn(8, 3, 32, 32)])
    made.eval()
    if used:
        for skip in made.skips:
            made.subnet(skip)
    return made


def outputs(network: ad.AdaptiveNetwork, x: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return {skip: network(x, skip=skip) for skip in network.skips}


def fresh(network: ad.AdaptiveNetwork, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The outputs of sub-networks that are made anew: what those in use must give as well."""
    network.forget_views()
    return outputs(network, x)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[skip], second[skip]) for skip in first)


def test_depths_differ(network: ad.AdaptiveNetwork, x: torch.Tensor) -> None:
    results = list(outputs(network, x).values())
    assert not any(torch.equal(a, b) for i, a in enumerate(results) for b in results[:i])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_to_dtype(network: ad.AdaptiveNetwork, x: torch.Tensor, dtype: torch.dtype) -> None:
    held = {skip: network.subnet(skip) for skip in network.skips}
    network.to(dtype)
    for skip, subnet in held.items():
        assert {tensor.dtype for tensor in subnet.state_dict().values() if tensor.is_floating_point()} == {dtype}
        assert subnet(x.to(dtype)).dtype == dtype, skip
    assert same(outputs(network, x.to(dtype)), fresh(network, x.to(dtype)))


def test_half_and_back(network: ad.AdaptiveNetwork, x: torch.Tensor) -> None:
    network.half()
    assert all(
        tensor.dtype == torch.float16
        for skip in network.skips
        for tensor in network.subnet(skip).state_dict().values()
        if tensor.is_floating_point()
    )
    network.float()
    assert same(outputs(network, x), fresh(network, x))


def test_to_device(network: ad.AdaptiveNetwork) -> None:
    network.to("meta")  # a device that every machine has
    for skip in network.skips:
        subnet = network.subnet(skip)
        assert {t.device.type for t in (*subnet.parameters(), *subnet.buffers())} == {"meta"}
        assert subnet(torch.zeros(2, 3, 32, 32, device="meta")).shape == (2, 5)


def test_channels_last(x: torch.Tensor, used: bool) -> None:
    network = timm_resnet().eval()
    if used:
        outputs(network, x)
    expected = outputs(network, x)
    network.to(memory_format=torch.channels_last)
    for skip in network.skips:
        convolutions = [m for m in network.subnet(skip).modules() if isinstance(m, nn.Conv2d)]
        assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in convolutions)
    for skip, output in outputs(network, x.to(memory_format=torch.channels_last)).items():
        torch.testing.assert_close(output, expected[skip], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("assign", [False, True])
def test_load_state_dict(network: ad.AdaptiveNetwork, x: torch.Tensor, assign: bool) -> None:
    state = {
        name: tensor + 0.1 * torch.rand_like(tensor) if tensor.is_floating_point() else tensor.clone()
        for name, tensor in network.state_dict().items()
    }
    before = outputs(network, x)
    network.load_state_dict(state, assign=assign)
    after = outputs(network, x)
    assert not any(torch.equal(before[skip], after[skip]) for skip in network.skips)
    assert same(after, fresh(network, x))


def test_calibrated_state_loads_into_an_uncalibrated_network_and_back(x: torch.Tensor) -> None:
    first, second = timm_resnet().eval(), timm_resnet().eval()
    plain = copy.deepcopy(second.state_dict())
    ad.calibrate(first, [x])
    outputs(second, x)
    second.load_state_dict(first.state_dict())
    assert second.calibrated
    assert same(outputs(first, x), outputs(second, x))
    second.load_state_dict(plain)
    assert not second.calibrated


def test_optimizer_step_reaches_every_depth(network: ad.AdaptiveNetwork, x: torch.Tensor) -> None:
    before = outputs(network, x)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    sum(network(x, skip=skip).square().sum() for skip in network.skips).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    optimizer.step()
    after = outputs(network, x)
    assert not any(torch.equal(before[skip], after[skip]) for skip in network.skips)
    assert same(after, fresh(network, x))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_copies_are_equal_and_independent(network: ad.AdaptiveNetwork, x: torch.Tensor, duplicate: object) -> None:
    before = outputs(network, x)
    other = duplicate(network)
    assert same(before, outputs(other, x))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 1
    assert same(before, outputs(network, x))
    assert not same(before, outputs(other, x))


def test_views_are_not_stored(network: ad.AdaptiveNetwork, used: bool) -> None:
    names = network.state_dict().keys()
    size = len(pickle.dumps(network))
    for skip in network.skips:
        network.subnet(skip)
    assert network.state_dict().keys() == names
    assert len(pickle.dumps(network)) == size


def test_torch_save_of_a_network(network: ad.AdaptiveNetwork, x: torch.Tensor) -> None:
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    assert same(outputs(network, x), outputs(torch.load(file, weights_only=False), x))


def test_a_sub_network_can_be_copied_and_pickled(network: ad.AdaptiveNetwork, x: torch.Tensor) -> None:
    for skip in (network.skips[0], network.skips[1], network.skips[-1]):
        subnet = network.subnet(skip)
        for other in (copy.deepcopy(subnet), pickle.loads(pickle.dumps(subnet))):
            assert torch.equal(other(x), subnet(x))


def test_ema_copy_follows(network: ad.AdaptiveNetwork, x: torch.Tensor) -> None:
    ema = ModelEmaV3(network, decay=0.0)  # no memory: after an update, the average is the network itself
    outputs(ema.module, x)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    ema.update(network)
    for skip, output in outputs(network, x).items():
        torch.testing.assert_close(ema.module(x, skip=skip), output, rtol=1e-5, atol=1e-6)


def test_train_and_eval_reach_held_sub_networks(network: ad.AdaptiveNetwork) -> None:
    held = [network.subnet(skip) for skip in network.skips]
    for mode in (True, False):
        network.train(mode)
        assert {module.training for subnet in held for module in subnet.modules()} == {mode}


def test_freezing_the_norms_reaches_every_depth(network: ad.AdaptiveNetwork) -> None:
    network.train()
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d | nn.LayerNorm)]
    for norm in norms:
        norm.eval()
    for skip in network.skips:
        for module in network.subnet(skip).modules():
            assert module.training != isinstance(module, nn.BatchNorm2d | nn.LayerNorm)


def test_a_mode_changed_for_one_part_comes_back_after_evaluate(network: ad.AdaptiveNetwork, x: torch.Tensor) -> None:
    network.train()
    part = next(module for module in network.model.modules() if isinstance(module, nn.Linear))
    part.eval()
    held = network.subnet(network.skips[-1])
    ad.evaluate(network, [(x, torch.zeros(len(x), dtype=torch.long))])
    assert [module for module in network.modules() if not module.training] == [part]
    assert [module for module in held.modules() if not module.training] == [part]


def test_requires_grad_reaches_every_depth(network: ad.AdaptiveNetwork, x: torch.Tensor) -> None:
    network.requires_grad_(False)
    assert not any(network(x, skip=skip).requires_grad for skip in network.skips)
    network.requires_grad_(True)
    assert all(network(x, skip=skip).requires_grad for skip in network.skips)


def test_weight_tying_reaches_every_depth(network: ad.AdaptiveNetwork, x: torch.Tensor) -> None:
    head = next(m for m in network.model.modules() if isinstance(m, nn.Linear) and m.out_features == 5)
    tied = nn.Linear(head.in_features, 5)
    head.weight = tied.weight
    with torch.no_grad():
        tied.weight.zero_()
        head.bias.zero_()
    for skip, output in outputs(network, x).items():
        assert not output.any(), skip


def test_forward_hooks_reach_every_depth(network: ad.AdaptiveNetwork, x: torch.Tensor) -> None:
    calls: list[nn.Module] = []
    block = network.model.get_submodule(network.stages[0].mandatory[0])
    handles = [
        module.register_forward_hook(lambda module, *_: calls.append(module)) for module in (network.model, block)
    ]
    outputs(network, x)
    assert len(calls) == 2 * len(network.skips)
    for handle in handles:
        handle.remove()
    outputs(network, x)
    assert len(calls) == 2 * len(network.skips)


@pytest.mark.parametrize("name", ["torchvision", "timm"])
def test_running_statistics_of_super_net_and_base_net_do_not_mix(name: str, x: torch.Tensor) -> None:
    network = MAKERS[name]().train()
    deep, shallow = network.subnet(network.skips[0]), network.subnet(network.skips[-1])
    first_stage = network.stages[0].mandatory[0]

    def statistics(subnet: nn.Module) -> dict[str, torch.Tensor]:
        return {
            name: buffer.clone()
            for name, buffer in subnet.named_buffers()
            if name.startswith("layer") and not name.startswith("layer3")  # layer3 has one block, but follows layer2
        }

    for runs, rests in ((deep, shallow), (shallow, deep)):
        before, own = statistics(rests), statistics(runs)
        runs(x)
        assert all(torch.equal(before[path], now) for path, now in statistics(rests).items())
        changed = [path for path, now in statistics(runs).items() if not torch.equal(own[path], now)]
        assert len(changed) == len(own), first_stage
