"""Sub-networks that share what they have in common: the same outputs and gradients, each module run once."""

import copy
from collections import Counter

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

import adaptive_depth as ad
from adaptive_depth.core.sharing import SharedForward


class UShaped(nn.Module):
    """Down through two stages and up again, with a long shortcut, tuples and a dict between modules."""

    def __init__(self, nets) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.high = nn.ModuleList([nets.Residual(), nets.Residual()])
        self.down = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.low = nn.Sequential(nets.Residual(), nets.Residual(), nets.Residual())
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.norm, self.split = nn.BatchNorm2d(16), Split()
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        pair = self.split(self.stem(x))
        x = self.high[1](self.high[0](pair["first"][0] + pair["second"]))
        low = self.up(self.low(self.down(x)))
        return self.head(self.norm(torch.cat([x + pair["second"], low], 1)).mean((2, 3)))

    stages = (ad.Stage(("high.0",), ("high.1",)), ad.Stage(("low.0", "low.1"), ("low.2",)))


class Split(nn.Module):
    def forward(self, x: Tensor) -> dict:
        return {"first": (torch.tanh(x),), "second": torch.sigmoid(x)}


class AddsInPlace(nn.Module):
    """The root adds a table to what a module returned, in place."""

    def __init__(self, nets) -> None:
        super().__init__()
        self.stem, self.table = nn.Conv2d(3, 8, 3, padding=1), nn.Parameter(torch.randn(8, 1, 1))
        self.one = nn.Sequential(nets.Residual(), nets.Residual())
        self.two = nn.Sequential(nets.Residual(), nets.Residual())
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x += self.table
        x = self.one(x)
        x *= 2.0
        return self.head(self.two(x).mean((2, 3)))

    stages = (ad.Stage(("one.0",), ("one.1",)), ad.Stage(("two.0",), ("two.1",)))


KINDS = [
    "timm",
    "torchvision",
    "bottleneck",
    "transformer",
    "post-norm",
    "chain",
    "u-shaped",
    "in place",
    "root in place",
    "in place after",
]


def make(kind: str, nets, randomised) -> tuple[ad.AdaptiveNetwork, Tensor]:
    small = torch.randn(2, 3, 8, 8)
    if kind == "timm":
        return nets.resnet(), torch.randn(2, 3, 32, 32)
    if kind == "torchvision":
        return randomised(ad.adapt(ResNet(BasicBlock, [2, 3, 1, 2], num_classes=5))), torch.randn(2, 3, 32, 32)
    if kind == "bottleneck":
        model = timm.create_model("resnet26", channels=(8, 8, 16, 16), num_classes=5)
        return randomised(ad.adapt(model)), torch.randn(2, 3, 32, 32)
    if kind in ("transformer", "post-norm"):
        return nets.transformer(nets.PreNorm if kind == "transformer" else nets.PostNorm), small
    if kind == "chain":
        return nets.chain(), small
    if kind in ("in place", "in place after"):
        block = nets.InPlaceFirst if kind == "in place" else nets.InPlaceAfter
        model, stages = nets.Chain(*(block() for _ in range(4))), nets.chain_stages()
    else:
        model = UShaped(nets) if kind == "u-shaped" else AddsInPlace(nets)
        stages = model.stages
    return randomised(ad.adapt(model, stages, example=small)), small


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_those_of_one_after_the_other(nets, randomised, unchanged, kind: str) -> None:
    network, x = make(kind, nets, randomised)
    network.eval()
    given = x.clone()
    with torch.no_grad():
        expected = {skip: network(x, skip=skip) for skip in network.skips}
        assert len({output.sum().item() for output in expected.values()}) == len(network.skips)
        shared = SharedForward(network)
        with unchanged(network):
            for _ in range(2):  # the second time, what the first has found out is known
                outputs = [(skip, output.clone()) for skip, output, _ in shared.outputs(network.skips, x)]
                assert [skip for skip, _ in outputs] == list(network.skips)
                assert all(torch.equal(output, expected[skip]) for skip, output in outputs)
    assert torch.equal(x, given)
    assert shared.shareable is ("in place" not in kind)


@pytest.mark.parametrize("skips", [["TTTT"], ["FFFF", "TTTT"], ["FTFT", "FTTT"], ["TTTT", "FFFT", "FFFF", "TFTF"]])
def test_a_part_of_the_sub_networks(nets, skips: list[str]) -> None:
    network = nets.resnet().eval()
    x = torch.randn(2, 3, 32, 32)
    outputs = {skip: output for skip, output, _ in SharedForward(network).outputs(skips, x)}
    assert list(outputs) == sorted(skips)
    assert all(torch.equal(output, network(x, skip=skip)) for skip, output in outputs.items())


def leaf_calls(network: ad.AdaptiveNetwork) -> Counter[str]:
    """Counts how often real leaf modules compute: convolutions and linears, whose code a hand-out does not enter."""
    counts: Counter[str] = Counter()
    for name, module in network.model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            compute = module.forward

            def counted(*args, name: str = name, compute=compute) -> Tensor:
                counts[name] += 1
                return compute(*args)

            module.forward = counted
    return counts


def test_what_is_common_is_computed_once(nets) -> None:
    """Two sub-networks: what runs before they part, and the convolutions up to the first norm that differs, once."""
    network = nets.resnet().eval()
    counts = leaf_calls(network)
    x = torch.randn(1, 3, 32, 32)
    for _ in SharedForward(network).outputs(["FFFF", "TTTT"], x):
        pass
    assert counts["conv1"] == 1
    assert counts["layer1.0.conv1"] == 1  # its norm is the first thing that differs
    assert counts["layer1.0.downsample.0"] == 1  # behind the fork, but of the same input
    assert counts["layer1.0.conv2"] == counts["layer2.0.conv1"] == counts["layer4.0.conv2"] == counts["fc"] == 2
    assert counts["layer1.1.conv1"] == counts["layer4.1.conv2"] == 1  # skippable: the super-net's alone
    counts.clear()
    for _ in SharedForward(network).outputs(["TFTF", "TFTT"], x):
        pass
    assert counts["layer2.1.conv2"] == counts["layer3.0.conv2"] == counts["layer4.0.conv1"] == 1
    assert counts["layer4.0.conv2"] == 2
    assert counts["layer1.1.conv1"] == counts["layer3.1.conv1"] == 0


def test_a_list_of_modules_before_the_fork_is_not_run_again(nets, randomised) -> None:
    network, x = make("u-shaped", nets, randomised)
    counts = leaf_calls(network.eval())
    for _ in SharedForward(network).outputs(["FF", "FT"], x):
        pass
    assert counts["high.0.conv"] == counts["high.1.conv"] == counts["down"] == 1
    assert counts["low.1.conv"] == counts["head"] == 2


def test_all_sub_networks_form_a_tree(nets) -> None:
    """Convolution by convolution: 2^s contexts at stage s; what is before its first norm, half as often."""
    network = nets.resnet().eval()
    counts = leaf_calls(network)
    for _ in SharedForward(network).outputs(network.skips, torch.randn(1, 3, 32, 32)):
        pass
    expected = Counter({"conv1": 1, "fc": 16})
    for stage in range(1, 5):
        expected |= {f"layer{stage}.0.conv1": 2 ** (stage - 1), f"layer{stage}.0.downsample.0": 2 ** (stage - 1)}
        expected |= {f"layer{stage}.0.conv2": 2**stage}
        expected |= dict.fromkeys([f"layer{stage}.1.conv1", f"layer{stage}.1.conv2"], 2 ** (stage - 1))
    named = dict(network.model.named_modules())
    assert counts == Counter({name: count for name, count in expected.items() if name in named})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [False, True])
def test_gradients_through_a_shared_prefix(nets, randomised, kind: str, training: bool) -> None:
    network, x = make(kind, nets, randomised)
    network.train(training)
    skips = [network.skips[0], network.skips[1], network.skips[-1]]
    weights = list(network.parameters())

    def gradients(outputs: list[Tensor]) -> list[Tensor | None]:
        loss = torch.stack([(output.sin() * (i + 1)).sum() for i, output in enumerate(outputs)]).sum()
        return list(torch.autograd.grad(loss, weights, allow_unused=True))

    expected = gradients([network(x, skip=skip) for skip in skips])
    ours = gradients([output for _, output, _ in SharedForward(network).outputs(skips, x)])
    for mine, theirs in zip(ours, expected, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item() + 1e-7)


def listen(module: nn.Module, paths: list[str], x: Tensor) -> dict[str, Tensor]:
    """What some modules return, by plain forward hooks."""
    heard: dict[str, Tensor] = {}
    handles = [
        module.get_submodule(path).register_forward_hook(lambda _m, _a, output, path=path: heard.update({path: output}))
        for path in paths
    ]
    module(x)
    for handle in handles:
        handle.remove()
    return heard


@pytest.mark.parametrize("kind", ["timm", "transformer", "in place"])
def test_watched_modules(nets, randomised, kind: str) -> None:
    network, x = make(kind, nets, randomised)
    network.eval()
    first = network.stages[0]
    watch = {skip: [first.mandatory[-1], network.stages[-1].mandatory[-1]] for skip in network.skips}
    for skip, _, seen in SharedForward(network).outputs(network.skips, x, watch=watch):
        heard = listen(network.subnet(skip), watch[skip], x)
        assert seen.keys() == heard.keys() == set(watch[skip])
        assert all(torch.equal(seen[path], heard[path]) for path in heard)


def test_it_follows_modes_weights_and_calibration(nets) -> None:
    network = nets.resnet().eval()
    shared, x = SharedForward(network), torch.randn(2, 3, 32, 32)

    def same() -> bool:
        outputs = list(shared.outputs(network.skips, x))
        return all(torch.equal(output, network(x, skip=skip)) for skip, output, _ in outputs)

    assert same()
    with torch.no_grad():
        network.model.layer2[0].conv1.weight.mul_(1.5)
        network.skip_norms.layer2.get_submodule("0.bn1").bias.add_(1.0)
    assert same()
    ad.calibrate(network, [torch.randn(4, 3, 32, 32)])
    assert same()
    network.reset_statistics(per_context=False)
    assert same()
    network.double()
    x = x.double()
    assert same()
    network.train()
    mode = network.model.layer1[0].bn1
    before = mode.num_batches_tracked.item()
    list(shared.outputs(["FFFF"], x))
    assert mode.num_batches_tracked.item() == before + 1


def test_a_norm_before_the_fork_gathers_statistics_once(nets) -> None:
    network = nets.resnet().train()
    x = torch.randn(4, 3, 32, 32)
    for _ in SharedForward(network).outputs(["FFFF", "TTTT"], x):
        pass
    assert network.model.bn1.num_batches_tracked == 1
    assert network.model.layer1[0].bn1.num_batches_tracked == 1
    assert network.skip_norms.get_submodule("layer1.0.bn1").num_batches_tracked == 1


def test_an_error_of_the_models_own_passes_through_and_leaves_no_trace(nets, unchanged) -> None:
    network = nets.chain().eval()
    shared = SharedForward(network)
    with unchanged(network), pytest.raises(RuntimeError, match="expected input"):
        list(shared.outputs(network.skips, torch.zeros(1, 5, 8, 8)))
    x = torch.randn(1, 3, 8, 8)
    assert shared.shareable
    assert all(torch.equal(output, network(x, skip=skip)) for skip, output, _ in shared.outputs(network.skips, x))


def test_keyword_arguments_reach_the_model(nets) -> None:
    network = nets.chain().eval()
    x = torch.randn(1, 3, 8, 8)
    for skip, output, _ in SharedForward(network).outputs(network.skips, x=x):
        assert torch.equal(output, network(x=x, skip=skip))


@pytest.mark.parametrize("form", ["call", "backward"])
def test_a_hook_that_the_model_sets_on_a_tensor_is_set_once_for_each_sub_network(nets, form: str) -> None:
    class Scaled(nets.Chain):
        def forward(self, x: Tensor) -> Tensor:
            h = self.stem(x)
            if h.requires_grad:
                h.register_hook(lambda gradient: 5 * gradient)
            return self.head(self.blocks(h).mean((2, 3)))

    model = Scaled(*(nets.Residual() for _ in range(4)))
    network = ad.adapt(model, nets.chain_stages(), example=torch.randn(4, 3, 8, 8)).train()
    plain, x, y = copy.deepcopy(network), torch.randn(4, 3, 8, 8), torch.randint(5, (4,))
    objective = ad.SelfDistillation(network, learn_from="labels")
    objective(x, y).total.backward() if form == "call" else objective.backward(x, y)
    sum(nn.functional.cross_entropy(plain.subnet(skip)(x), y) for skip in ("FF", "TT")).backward()
    torch.testing.assert_close(network.model.stem.weight.grad, plain.model.stem.weight.grad)
