"""Running statistics per context, against plain PyTorch's measure of each extracted sub-network."""

import pytest
import torch
from torch import Tensor, nn

import adaptive_depth as ad


def measured_alone(
    network: ad.AdaptiveNetwork, skip: str, batches: list[Tensor], before: set[str]
) -> dict[str, Tensor]:
    """A sub-network's statistics by PyTorch's own cumulative average; norms before the first stage stay as they are."""
    alone = network.extract(skip).eval()
    for name, module in alone.named_modules():
        if isinstance(module, nn.BatchNorm2d) and name not in before:
            module.reset_running_stats()
            module.momentum = None
            module.train()
    with torch.no_grad():
        for x in batches:
            alone(x)
    return {name: value for name, value in alone.named_buffers() if "running" in name}


def check_all(network: ad.AdaptiveNetwork, batches: list[Tensor], before: set[str]) -> None:
    for skip in network.skips:
        expected = measured_alone(network, skip, batches, before)
        ours = {name: value for name, value in network.subnet(skip).named_buffers() if "running" in name}
        assert ours.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)


def test_every_context_has_the_statistics_of_its_sub_network(nets, unchanged) -> None:
    network = nets.resnet().eval()
    batches = [scale * torch.randn(8, 3, 32, 32) for scale in (1.0, 2.0, 0.5)]  # unlike each other, on purpose
    assert not network.calibrated
    assert ad.calibrate(network, [(x, None) for x in batches]) == 3
    assert network.calibrated
    check_all(network, batches, {"bn1"})
    assert not network.training
    again = {name: value.clone() for name, value in network.state_dict().items()}
    with unchanged(network):  # calibrating again measures the same
        ad.calibrate(network, batches)
    assert again.keys() == network.state_dict().keys()


class AddsInPlace(nn.Module):
    """Cannot share: the root changes in place what a module returned."""

    def __init__(self, nets) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.one = nn.Sequential(nets.Residual(), nets.Residual())
        self.two = nn.ModuleList([nets.Residual(), nets.Residual()])
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(self.norm(self.stem(x)))
        x += 0.5
        return self.head(self.two[1](self.two[0](x)).mean((2, 3)))


def test_also_where_nothing_can_be_shared(nets, randomised) -> None:
    stages = [ad.Stage(("one.0",), ("one.1",)), ad.Stage(("two.0",), ("two.1",))]
    network = randomised(ad.adapt(AddsInPlace(nets), stages, example=torch.randn(1, 3, 8, 8))).eval()
    batches = [scale * torch.randn(8, 3, 8, 8) for scale in (1.0, 3.0)]
    assert ad.calibrate(network, batches) == 2
    check_all(network, batches, {"norm"})


def test_norms_between_and_behind_the_stages(nets, randomised) -> None:
    """A transition with a norm follows the stage before it; so does the last norm."""

    class Odd(nets.Chain):
        def __init__(self) -> None:
            blocks = [nets.Residual() for _ in range(2)]
            super().__init__(*blocks, nets.Plain(), nets.Residual(), nets.Residual())
            self.last = nn.BatchNorm2d(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.last(self.blocks(self.stem(x))).mean((2, 3)))

    stages = [ad.Stage(("blocks.0",), ("blocks.1",)), ad.Stage(("blocks.3",), ("blocks.4",))]
    network = randomised(ad.adapt(Odd(), stages, example=torch.randn(1, 3, 8, 8))).eval()
    assert network.homes == {
        "blocks.0.norm": 1, "blocks.1.norm": 1, "blocks.2.norm": 1, "blocks.3.norm": 2, "blocks.4.norm": 2, "last": 2,
    }  # fmt: skip
    batches = [scale * torch.randn(8, 3, 8, 8) for scale in (1.0, 3.0)]
    ad.calibrate(network, batches)
    check_all(network, batches, set())


def test_contexts_are_counted_as_2_4_to_2_to_the_n(nets) -> None:
    network = nets.resnet()
    contexts = list(network.contexts())
    for path, home in network.homes.items():
        mine = [context for context, other in contexts if other == path]
        assert home == int(path[5])  # layerN
        if path.split(".")[1] == "0":  # mandatory: every choice of the stages up to its own
            assert mine == list(ad.all_skips(home))
        else:  # skippable: where it runs
            assert mine == [skip for skip in ad.all_skips(home) if skip.endswith("F")]
    assert len({context for context, _ in contexts}) == 2 + 4 + 8 + 16
    assert "bn1" not in network.homes
    ad.calibrate(network, [torch.randn(2, 3, 32, 32)])
    assert len(network.statistics.state_dict()) == 3 * len(contexts)


def test_nothing_else_changes_and_there_is_a_way_back(nets, unchanged) -> None:
    network = nets.resnet().train()
    network.model.layer2[0].bn1.eval()
    network.model.layer3[0].bn2.momentum = 0.3
    x = torch.randn(4, 3, 32, 32)
    network(x).sum().backward()
    network.train()
    momenta = [getattr(module, "momentum", None) for module in network.modules()]
    network.eval()
    outputs = {skip: network(x, skip=skip) for skip in network.skips}
    network.train()
    network.model.layer2[0].bn1.eval()
    with unchanged(network.model), unchanged(network.skip_norms):
        ad.calibrate(network, [x])
    assert network.training
    with unchanged(network.model), unchanged(network.skip_norms):
        network.reset_statistics(per_context=False)
    assert [getattr(module, "momentum", None) for module in network.modules()] == momenta
    network.eval()
    assert not network.calibrated
    assert all(torch.equal(network(x, skip=skip), output) for skip, output in outputs.items())


def test_starting_anew_starts_from_the_two_sets(nets) -> None:
    network = nets.resnet().eval()
    x = torch.randn(2, 3, 32, 32)
    outputs = {skip: network(x, skip=skip) for skip in network.skips}
    network.reset_statistics(per_context=True)
    assert network.calibrated
    for skip, output in outputs.items():
        assert torch.equal(network(x, skip=skip), output)


def test_a_network_in_eval_mode_uses_its_own_context(nets) -> None:
    network = nets.resnet().eval()
    ad.calibrate(network, [torch.randn(8, 3, 32, 32)])
    one, other = network.subnet("FFFF"), network.subnet("TFFF")
    assert one.layer2[0].bn1.weight is other.layer2[0].bn1.weight
    assert one.layer2[0].bn1.running_mean is not other.layer2[0].bn1.running_mean
    assert one.layer1[0].bn1.running_mean is network.subnet("FTTT").layer1[0].bn1.running_mean
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(network.extract("TFTF")(x), network(x, skip="TFTF"))


@pytest.mark.parametrize("limit", [1, 2])
def test_a_limit(nets, limit: int) -> None:
    network = nets.resnet().eval()
    batches = [scale * torch.randn(4, 3, 32, 32) for scale in (1.0, 2.0, 0.5)]
    assert ad.calibrate(network, batches, limit=limit) == limit
    check_all(network, batches[:limit], {"bn1"})


def test_single_samples_are_passed_over(nets) -> None:
    network = nets.resnet().eval()
    batches = [torch.randn(n, 3, 32, 32) for n in (1, 4, 1)]
    assert ad.calibrate(network, batches) == 1
    check_all(network, batches[1:2], {"bn1"})


def interrupted() -> object:
    yield torch.randn(2, 3, 32, 32)
    raise KeyboardInterrupt


NAN = torch.full((2, 3, 32, 32), float("nan"))


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize(
    ("batches", "error", "said"),
    [
        ([], ad.DataError, "calibrate received no batch of two or more samples: expected training batches"),
        ([torch.randn(1, 3, 32, 32)] * 3, ad.DataError, "calibrate received no batch of two or more samples"),
        (
            [torch.randn(2, 3, 32, 32), NAN],
            ad.DataError,
            "measured non-finite statistics: look for non-finite inputs,",
        ),
        ([{"labels": NAN}], ad.DataError, "the loader yielded a dict: expected a pair"),
        ([torch.randn(2, 4, 32, 32)], RuntimeError, "expected input"),
        (interrupted, KeyboardInterrupt, "^$"),
    ],
)
def test_an_error_changes_nothing(nets, unchanged, calibrated: bool, batches, error: type, said: str) -> None:
    network = nets.resnet()
    if calibrated:
        ad.calibrate(network, [torch.randn(4, 3, 32, 32)])
    network.train()
    network.model.bn1.eval()
    x = torch.randn(2, 3, 32, 32)
    momenta = [getattr(module, "momentum", None) for module in network.modules()]
    with unchanged(network), pytest.raises(error, match=said):
        ad.calibrate(network, batches() if callable(batches) else batches)
    assert network.calibrated is calibrated
    assert [getattr(module, "momentum", None) for module in network.modules()] == momenta
    expected = {skip: network.extract(skip).eval()(x) for skip in ("FFFF", "TFTF")}
    network.eval()
    assert all(torch.equal(network(x, skip=skip), output) for skip, output in expected.items())


def test_a_network_without_statistics_has_nothing_to_calibrate(nets, unchanged) -> None:
    network = nets.transformer().train()
    with unchanged(network):
        assert ad.calibrate(network, iter(lambda: pytest.fail("no batch is asked for"), None)) == 0
    assert not network.calibrated


def test_it_repairs_the_sub_networks_in_between(nets) -> None:
    """After steps in two contexts only, a mixed sub-network's statistics are of neither; calibrated, its own."""
    network = nets.resnet().train()
    x = torch.randn(16, 3, 32, 32)
    for _ in range(60):
        network(x)
        network(x, skip="TTTT")
    network.eval()

    def error(skip: str) -> float:
        """How far a sub-network's features are from normalised with its own statistics."""
        alone = network.extract(skip)
        expected = measured_alone(network, skip, [x], {"bn1"})
        found = dict(alone.named_buffers())
        return max((found[name] - value).abs().max().item() for name, value in expected.items())

    assert error("FFFF") < 0.05
    assert error("TTTT") < 0.05
    assert error("FTFT") > 0.1
    ad.calibrate(network, [x])
    assert max(error(skip) for skip in network.skips) < 1e-4


def test_a_task_says_how_a_batch_becomes_an_input(nets) -> None:
    class Halves(ad.tasks.Regression):
        def inputs(self, batch):
            return batch["image"] / 2, batch["target"]

    images = [torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    network, same = nets.chain(), nets.chain()
    same.load_state_dict(network.state_dict())
    assert ad.calibrate(network, [{"image": x, "target": torch.zeros(4, 5)} for x in images], task=Halves()) == 2
    ad.calibrate(same, [x / 2 for x in images])
    statistics = dict(same.statistics.named_buffers())
    assert statistics
    for name, buffer in network.statistics.named_buffers():
        assert torch.equal(buffer, statistics[name])
