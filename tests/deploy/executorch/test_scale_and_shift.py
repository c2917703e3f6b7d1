"""Norms beside their convolutions: what they compute, and which norms are written so."""

import pytest
import torch
from torch import nn

import adaptive_depth as ad
from adaptive_depth.deploy.executorch.scale_and_shift import ScaleAndShift, scale_and_shift, unfolded


def norm_of(kind=nn.BatchNorm2d, **arguments):
    norm = kind(2, eps=0.0, **arguments).eval()
    norm.running_mean[:], norm.running_var[:] = torch.tensor([1.0, -2.0]), torch.tensor([4.0, 0.25])
    return norm


def network(name="resnet18", calibrated=False, **arguments):
    """A network whose norms and statistics all differ from their initial state and from each other."""
    torch.manual_seed(0)
    net = ad.adapt(ad.create_model(name, num_classes=10, **arguments)).eval()
    net.reset_statistics(per_context=calibrated)
    for part in net.modules():
        for norm_buffer in (b for n, b in part.named_buffers(recurse=False) if n in ("running_mean", "running_var")):
            norm_buffer.add_(torch.rand_like(norm_buffer))
    for parameter in net.skip_norms.parameters():
        parameter.data.add_(torch.rand_like(parameter))
    return net


def replaced(module):
    return {path for path, part in module.named_modules() if isinstance(part, ScaleAndShift)}


def test_scale_and_shift_by_hand():
    norm = norm_of()
    norm.weight.data, norm.bias.data = torch.tensor([3.0, 5.0]), torch.tensor([10.0, 20.0])
    scale, shift = scale_and_shift(norm)
    assert scale.tolist() == [1.5, 10.0]  # 3 / sqrt(4), 5 / sqrt(0.25)
    assert shift.tolist() == [8.5, 40.0]  # 10 - 1 * 1.5, 20 + 2 * 10


def test_a_norm_without_affine_parameters():
    scale, shift = scale_and_shift(norm_of(affine=False))
    assert (scale.tolist(), shift.tolist()) == ([0.5, 2.0], [-0.5, 4.0])


@pytest.mark.parametrize(
    ("kind", "shape"), [(nn.BatchNorm2d, (2, 2, 3, 3)), (nn.BatchNorm1d, (3, 2)), (nn.BatchNorm1d, (3, 2, 4))]
)
def test_it_computes_what_the_norm_does(kind, shape):
    norm, x = norm_of(kind), torch.randn(shape)
    torch.testing.assert_close(ScaleAndShift(norm)(x), norm(x))


@pytest.mark.parametrize("calibrated", [False, True])
def test_every_depth_computes_the_same(calibrated):
    net, x = network(channels=(8, 16, 32, 64), calibrated=calibrated), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for skip, module in unfolded(net, net.skips).items():
            torch.testing.assert_close(module(x), net(x, skip=skip), rtol=1e-4, atol=1e-4)


def test_only_norms_that_differ_between_the_depths_are_replaced():
    net = network(channels=(8, 16, 32, 64))
    modules = unfolded(net, ("FFFF", "FFFT"))
    doubled = {f"layer4.0.{norm}" for norm in ("bn1", "bn2", "downsample.1")}
    assert replaced(modules["FFFF"]) == replaced(modules["FFFT"]) == doubled
    assert replaced(unfolded(net, ("FFFT",))["FFFT"]) == set()


def test_calibrated_norms_behind_a_choice_differ_too():
    modules = unfolded(network(channels=(8, 16, 32, 64), calibrated=True), ("FFFF", "FFTF"))
    behind = {"layer3.0", "layer4.0", "layer4.1"}  # not layer3.1, which FFTF leaves out: it stands there only once
    assert {path.rsplit(".bn")[0].split(".downsample")[0] for path in replaced(modules["FFFF"])} == behind


def test_weights_are_shared_and_the_network_stays_as_it_was():
    net = network(channels=(8, 16, 32, 64))
    modules = unfolded(net, net.skips)
    assert modules["TTTT"].layer1[0].conv1.weight is net.model.layer1[0].conv1.weight
    assert modules["TTFF"].layer1[0].bn1 is modules["TTTT"].layer1[0].bn1
    assert replaced(net) == set()
    assert replaced(net.subnet("TTTT")) == set()


def test_norms_with_an_activation_of_their_own():
    """timm's EfficientNet has BatchNormAct2d: the activation must follow."""
    net, x = network("efficientnet_lite0"), torch.randn(1, 3, 32, 32)
    skips = ("F" * len(net.stages), "T" * len(net.stages))
    modules = unfolded(net, skips)
    followed_by = [modules[skips[0]].get_submodule(path).then[-1] for path in replaced(modules[skips[0]])]
    assert any(isinstance(activation, nn.ReLU6) for activation in followed_by)
    with torch.no_grad():
        torch.testing.assert_close(modules[skips[1]](x), net(x, skip=skips[1]), rtol=1e-4, atol=1e-4)


class Doubling(nn.BatchNorm2d):
    def forward(self, input):
        return 2 * super().forward(input)


def test_a_norm_that_computes_something_else_stays():
    torch.manual_seed(0)
    model = ad.create_model("resnet18", num_classes=10, channels=(8, 16, 32, 64), norm_layer=Doubling)
    net = ad.adapt(model).eval()
    for parameter in net.skip_norms.parameters():
        parameter.data.add_(torch.rand_like(parameter))
    assert replaced(unfolded(net, net.skips)["TTTT"]) == set()
