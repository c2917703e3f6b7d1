"""What is a norm, what gathers statistics, and which of them a stage doubles."""

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import convert_splitbn_model
from torch import Tensor, nn

import adaptive_depth as ad
from adaptive_depth.plan.norms import has_statistics, is_norm, norms_inside


class ABN(nn.Module):
    """Normalises and activates, with buffers like BatchNorm's, and is no subclass of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.momentum = 0.1

    def forward(self, x: Tensor) -> Tensor:
        training, momentum = self.training, self.momentum
        y = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training, momentum)
        return F.leaky_relu(y)


class OwnNorm(nn.Module):
    """Gathers by a rule and under names of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.register_buffer("mean_seen", torch.zeros(channels))
        self.register_buffer("var_seen", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.mean_seen.lerp_(x.mean((0, 2, 3)), 0.5)
                self.var_seen.lerp_(x.var((0, 2, 3)), 0.5)
        shape = (1, -1, 1, 1)
        y = (x - self.mean_seen.reshape(shape).clone()) / (self.var_seen.reshape(shape).clone() + 1e-5).sqrt()
        return self.scale.reshape(shape) * y


class Quick(nn.BatchNorm2d):
    """A subclass of torch's with a momentum above a half."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=0.6)


class FixedRule(ABN):
    """No momentum that one could set, and new tensors in the places of the old."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        del self.momentum

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
            self.running_mean = 0.9 * self.running_mean + 0.1 * mean.detach()
            self.running_var = 0.9 * self.running_var + 0.1 * var.detach()
        return F.leaky_relu(F.batch_norm(x, mean, var, self.weight, self.bias))


class OfTheOld(ABN):
    """Its momentum is the part of the old that stays."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.momentum = 0.4

    def forward(self, x: Tensor) -> Tensor:
        training, taken = self.training, 1 - self.momentum
        y = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training, taken)
        return F.leaky_relu(y)


class DomainNorm(nn.Module):
    """One norm for each domain."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norms, self.domain = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2)), 0

    def forward(self, x: Tensor) -> Tensor:
        return self.norms[self.domain](x)


class NormedLinear(nn.Linear):
    pass


class NormMlp(nn.Module):
    """A norm and a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.matrix = nn.LayerNorm(4), nn.Parameter(torch.ones(4, 4))


class NormOfTokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 1, 4))


class NormedBlock(nn.Module):
    """h + norm(h): a block, whatever its name."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(x)


@pytest.mark.parametrize("module", [ABN(2), DomainNorm(2), NormOfTokens(), nn.LocalResponseNorm(2)], ids=repr)
def test_norms_of_other_libraries(module: nn.Module) -> None:
    assert is_norm(module)


@pytest.mark.parametrize("module", [NormedLinear(4, 4), NormMlp(), nn.Linear(4, 1), nn.Sequential(nn.LayerNorm(2))])
def test_a_name_alone_makes_no_norm(module: nn.Module) -> None:
    assert not is_norm(module)


def test_what_gathers_statistics() -> None:
    assert has_statistics(ABN(2))
    assert has_statistics(nn.InstanceNorm2d(2, track_running_stats=True))
    assert not has_statistics(nn.InstanceNorm2d(2))
    assert not has_statistics(timm.layers.FrozenBatchNormAct2d(2))
    assert not has_statistics(DomainNorm(2))  # those inside do


def test_of_norms_inside_norms_the_outer_is_doubled() -> None:
    model = nn.Sequential(NormedBlock(), nn.Sequential(DomainNorm(4), nn.Conv2d(4, 4, 1)))
    assert norms_inside(model, ["0", "1"]) == ("0.norm", "1.0")


class Conv(nn.Module):
    """h + conv(norm(h))."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.norm, self.conv = norm(4), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.norm(x))


class Tracked(nn.InstanceNorm2d):
    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True, track_running_stats=True)


def chain(norm: type[nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), Conv(norm), Conv(norm), norm(4), nn.Flatten(), nn.Linear(256, 3))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, ABN, DomainNorm, Tracked, OwnNorm])
def test_the_base_net_gathers_statistics_of_its_own(norm: type[nn.Module]) -> None:
    model, x = chain(norm), torch.randn(8, 3, 8, 8)
    network = ad.adapt(model, [ad.Stage(("1",), ("2",))], example=x).train()
    assert network.stages[0].norms == ("1.norm",)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    network(x, skip="T")
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    gathered = dict(network.skip_norms.named_buffers())
    network(x)
    assert any(not torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert all(buffer is gathered[name] for name, buffer in network.skip_norms.named_buffers())


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, ABN, DomainNorm, Tracked, Quick, FixedRule, OfTheOld])
def test_statistics_of_any_norm_are_calibrated_to_the_mean_of_the_batches(norm: type[nn.Module]) -> None:
    model, batches = chain(norm), [torch.randn(8, 3, 8, 8) + place for place in range(3)]
    network = ad.adapt(model, [ad.Stage(("1",), ("2",))], example=batches[0])
    assert ad.calibrate(network, batches) == 3
    network.eval()
    means, variances = [], []
    for x in batches:  # each batch as a norm behind stage 1 sees it when block 2 is left out
        h = network.model[0](x)
        first = network.subnet("T")[1]
        training = [part for part in first.modules() if has_statistics(part)]
        for part in training:  # in the measurement the norms before normalise with the batch itself
            part.training = True
        with torch.no_grad():
            kept = [{name: value.clone() for name, value in part.named_buffers()} for part in training]
            seen = first(h)
            for part, values in zip(training, kept, strict=True):
                [part.get_buffer(name).copy_(value) for name, value in values.items()]
                part.training = False
        dims = (0, 2, 3)
        means.append(seen.mean(dims))
        per_image = norm is Tracked
        variances.append(seen.var((2, 3)).mean(0) if per_image else seen.var(dims))
    last = network.subnet("T")[3]
    behind = last.norms[0] if norm is DomainNorm else last
    torch.testing.assert_close(behind.running_mean, torch.stack(means).mean(0))
    torch.testing.assert_close(behind.running_var, torch.stack(variances).mean(0))
    own = next(part for part in norm(4).modules() if has_statistics(part))
    momenta = {getattr(part, "momentum", None) for part in network.model.modules() if has_statistics(part)}
    assert momenta == {getattr(own, "momentum", None)}  # as before


class Twice(nn.Module):
    """h + conv(norm(conv(norm(h)))): one norm, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.norm(self.conv(self.norm(x))))


def test_of_a_norm_that_runs_twice_the_mean_over_its_calls_is_measured() -> None:
    x = torch.randn(8, 4, 8, 8)
    network = ad.adapt(nn.Sequential(Twice(), Twice()), [ad.Stage(("0",), ("1",))], example=x)
    for batches in ([x], [x, x]):
        ad.calibrate(network, batches)
        block = network.model[0].eval()
        with torch.no_grad():
            second = block.conv(F.batch_norm(x, None, None, block.norm.weight, block.norm.bias, training=True))
        mean = (x.mean((0, 2, 3)) + second.mean((0, 2, 3))) / 2
        torch.testing.assert_close(network.subnet("F")[0].norm.running_mean, mean)


def test_a_norm_that_gathers_by_a_rule_of_its_own_is_calibrated_by_that_rule() -> None:
    network = ad.adapt(chain(OwnNorm), [ad.Stage(("1",), ("2",))], example=torch.randn(8, 3, 8, 8))
    assert ad.calibrate(network, [torch.randn(8, 3, 8, 8) + 5 for _ in range(3)]) == 3
    for name, buffer in network.statistics.named_buffers():
        assert torch.isfinite(buffer).all(), name
        assert not (buffer == (0 if "mean" in name else 1)).all(), name  # it saw something


def test_a_calibrated_network_of_split_norms_is_saved_and_loaded(tmp_path) -> None:
    def make() -> nn.Module:
        return convert_splitbn_model(timm.create_model("resnet18", num_classes=3, channels=(8, 8, 8, 8)), 2)

    x = torch.randn(8, 3, 32, 32)
    network = ad.adapt(make(), example=x)
    ad.calibrate(network, [x])
    again = ad.load(ad.save(network.eval(), tmp_path), model=make())
    assert all(torch.equal(again(x, skip=skip), network(x, skip=skip)) for skip in network.skips)


class Evo(timm.layers.EvoNorm2dB0):
    pass


@pytest.mark.parametrize("norm", [timm.layers.EvoNorm2dB0, Evo])
def test_a_norm_of_timm_that_is_no_batch_norm_is_calibrated_too(norm: type[nn.Module]) -> None:
    """EvoNorm-B0 gathers the variance alone, by a momentum of its own."""
    x = torch.randn(8, 3, 8, 8)
    network = ad.adapt(chain(norm), [ad.Stage(("1",), ("2",))], example=x)
    ad.calibrate(network, [x])
    with torch.no_grad():
        seen = network.model[0](x)
    norm_of_block = network.subnet("F")[1].norm
    torch.testing.assert_close(norm_of_block.running_var, seen.var((0, 2, 3)), rtol=1e-3, atol=1e-4)
