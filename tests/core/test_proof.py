"""Every depth is tried before a plan is handed out: what a wrong plan is told."""

import pytest
import torch
from torch import Tensor, nn

import adaptive_depth as ad
from adaptive_depth.core.proof import prove_every_depth

X = torch.randn(2, 3, 8, 8)


def prove(model: nn.Module, stages: list[ad.Stage], x: Tensor = X) -> None:
    prove_every_depth(ad.adapt(model, stages, example=x), (x,), {})


class Chained(nn.Module):
    """Four blocks; how they are called is a test's own."""

    def __init__(self, nets) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 5)
        self.blocks = nn.ModuleList(nets.Residual() for _ in range(4))
        blocks = list(self.blocks)
        self.held = lambda: blocks  # a second place, which no view can know of

    def run(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.run(self.stem(x)).mean((2, 3)))


class Elsewhere(Chained):
    def run(self, x: Tensor) -> Tensor:
        for block in self.held():
            x = block(x)
        return x


class Attribute(Chained):
    def run(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x) * block.norm.weight.sum().sign()
        return x


class Logarithm(Chained):
    """Skipping the last block leaves negative numbers behind, of which there is no logarithm."""

    def __init__(self, nets) -> None:
        super().__init__(nets)
        nn.init.constant_(self.blocks[3].conv.bias, 1e4)

    def run(self, x: Tensor) -> Tensor:
        return super().run(x).log()


class Longer(Chained):
    """Returns as many rows as blocks changed the input."""

    def run(self, x: Tensor) -> Tensor:
        rows = []
        for block in self.blocks:
            y = block(x)
            rows += [] if y is x else [y]
            x = y
        return torch.cat(rows)


WRONG = {
    "held elsewhere": (Elsewhere, r"block 'blocks.1' ran in sub-network TF|block 'blocks.3' ran in sub-network FT"),
    "an attribute": (
        Attribute,
        r"sub-network FT does not run \(AttributeError: .* object has no attribute 'weight'",
    ),
    "not finite": (Logarithm, "sub-network FT returns numbers that are not finite, unlike the model"),
    "other shapes": (Longer, r"sub-network FT returns \[\[6, 5\]\] but the model returns \[\[8, 5\]\]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_plan_that_does_not_work_is_never_returned(name: str, nets, unchanged) -> None:
    build, said = WRONG[name]
    model = build(nets)
    with unchanged(model):
        for use in (ad.find_stages, lambda m, x: ad.adapt(m, example=x)):
            with pytest.raises(ad.StagesError, match=said):
                use(model, X)


def test_a_right_plan_passes(nets) -> None:
    prove(Chained(nets), nets.chain_stages())


class Unused(Chained):
    def __init__(self, nets) -> None:
        super().__init__(nets)
        self.spare = nn.BatchNorm2d(8)


def test_a_doubled_norm_that_never_runs(nets) -> None:
    norms = ("blocks.0.norm", "spare")
    stage = ad.Stage(("blocks.0",), ("blocks.1",), norms)
    with pytest.raises(ad.StagesError, match="norm 'spare' never ran, so doubling it changes nothing: leave it out"):
        prove(Unused(nets), [stage])


def test_runs_that_work_are_kept_where_others_do_not(nets) -> None:
    class Half(Chained):
        """The last two blocks stand in a container of their own and are called in another way."""

        def __init__(self) -> None:
            super().__init__(nets)
            self.more = nn.ModuleList(nets.Residual() for _ in range(2))
            hidden = list(self.more)
            self.hidden = lambda: hidden

        def run(self, x: Tensor) -> Tensor:
            for block in [*self.blocks, *self.hidden()]:
                x = block(x)
            return x

    stages = ad.find_stages(Half(), X)
    assert {path.partition(".")[0] for stage in stages for path in stage.blocks} == {"blocks"}


def test_an_unproven_network_gives_no_sub_network(nets) -> None:
    model = nets.Chain(*(nets.Residual() for _ in range(4)))
    network = ad.adapt(model, nets.chain_stages())
    for use in (network.subnet, network.extract):
        with pytest.raises(ad.StagesError, match=r"no input has verified the stages .* call network.prove\(x\)"):
            use("TF")
    network.prove(X)
    assert network.subnet("TF")(X).shape == (2, 5)
    again = ad.adapt(nets.Chain(*(nets.Residual() for _ in range(4))), nets.chain_stages())
    again(X)  # the first input proves them
    again.extract("TT")
