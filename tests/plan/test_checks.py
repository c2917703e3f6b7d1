"""Stages written by hand: what their names tell, and what running them tells."""

import re
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, resnet18
from torchvision.models.vgg import make_layers
from torchvision.ops import FrozenBatchNorm2d

import adaptive_depth as ad
from adaptive_depth.plan.checks import complete
from adaptive_depth.plan.norms import has_statistics, is_norm, norms_inside

X = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
stage = ad.Stage


def test_what_a_norm_is() -> None:
    for norm in (nn.BatchNorm2d(2), nn.SyncBatchNorm(2), nn.GroupNorm(1, 2), nn.LayerNorm(2), nn.RMSNorm(2)):
        assert is_norm(norm)
    for norm in (nn.InstanceNorm2d(2), FrozenBatchNorm2d(2), timm.layers.LayerNorm2d(2), timm.layers.BatchNormAct2d(2)):
        assert is_norm(norm)
    for other in (nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Sequential(nn.LayerNorm(2)), timm.layers.ConvNormAct(2, 2)):
        assert not is_norm(other)
    assert has_statistics(nn.BatchNorm2d(2))
    assert not has_statistics(nn.BatchNorm2d(2, track_running_stats=False))
    assert not has_statistics(nn.LayerNorm(2))


def test_norms_left_to_us_are_all_those_of_the_mandatory_blocks() -> None:
    model = timm.create_model("resnet18", channels=(64, 8, 8, 8))
    by_hand = ad.Stages([stage(("layer1.0",), ("layer1.1",)), stage(("layer2.0",), ("layer2.1",), norms=())])
    completed = complete(model, by_hand)
    assert completed[0].norms == ("layer1.0.bn1", "layer1.0.bn2")
    assert completed[1].norms == ()
    assert by_hand[0].norms is None
    downsampling = ("layer2.0.bn1", "layer2.0.bn2", "layer2.0.downsample.1")
    assert norms_inside(model, ["layer2.0"]) == downsampling
    assert norms_inside(model, ["bn1"]) == ("bn1",)


def reused(nets) -> nn.Module:
    block = nets.Residual()
    return nets.Chain(nets.Residual(), block, nets.Residual(), block)


def four(nets) -> nn.Module:
    return nets.Chain(*(nets.Residual() for _ in range(4)))


@pytest.mark.parametrize(
    ("make", "stages", "said"),
    [
        (four, [], "no stages were given: expected at least one Stage(mandatory=(...), skippable=(...))"),
        (
            four,
            [stage(("block.0",), ("blocks.1",))],
            "stage 'block' names 'block.0', which Chain does not have: did you mean blocks.0",
        ),
        (
            four,
            [stage(("zzz",), ("blocks.1",))],
            "names 'zzz', which Chain does not have: it has stem, blocks, blocks.0",
        ),
        (four, [stage(("",), ("blocks.1",))], "names '', which Chain does not have"),
        (
            four,
            [stage(("blocks.0",), ("blocks.1",), norms=("blocks.0.nrm",))],
            "stage 'blocks' names 'blocks.0.nrm', which Chain does not have: did you mean blocks.0.norm",
        ),
        (
            four,
            [stage(("blocks.0",), ("blocks.1",)), stage(("blocks.1",), ("blocks.2",))],
            "block 'blocks.1' is listed 2 times: stages must not overlap, list it once",
        ),
        (four, [stage(("blocks.0",), ("blocks.0",))], "block 'blocks.0' is listed 2 times"),
        (
            four,
            [stage(("blocks.0",), ("blocks.1",)), stage(("blocks.0.conv",), ("blocks.2",))],
            "block 'blocks.0.conv' lies inside block 'blocks.0': stages must not overlap, list one of them",
        ),
        (
            reused,
            [stage(("blocks.0",), ("blocks.1",))],
            "block 'blocks.1' is one module at several places (blocks.1, blocks.3): a block that the model uses twice",
        ),
        (
            four,
            [stage(("blocks.0",), ("blocks.1",), norms=("blocks.0.conv",))],
            "norms has 'blocks.0.conv', which is a Conv2d: expected a normalisation layer",
        ),
        (
            four,
            [stage(("blocks.0",), ("blocks.1",), norms=("blocks.1.norm",))],
            "norm 'blocks.1.norm' lies inside the skippable block 'blocks.1', which does not run when its stage is",
        ),
        (
            four,
            [
                stage(("blocks.0",), ("blocks.1",), norms=("blocks.0.norm",)),
                stage(("blocks.2",), ("blocks.3",), norms=("blocks.0.norm",)),
            ],
            "norm 'blocks.0.norm' is listed 2 times: a norm follows one stage, list it once",
        ),
    ],
)
def test_names_that_do_not_fit(nets, unchanged, make: Callable, stages: list, said: str) -> None:
    model = make(nets)
    with unchanged(model), pytest.raises(ad.StagesError, match=re.escape(said)):
        ad.adapt(model, stages)


class Wide(nn.Module):
    """8 channels to 16, and back."""

    def __init__(self, from_: int, to: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(from_, to, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Pair(nn.Module):
    """Passes a pair on."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class First(nn.Module):
    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        return pair[0]


class Both(nn.Module):
    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return pair


class Never(nn.Module):
    """Runs its block never, or twice."""

    def __init__(self, block: nn.Module, times: int) -> None:
        super().__init__()
        self.block, self.times = block, times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.block(x)
        return x


def wrong_on_running(nets) -> dict[str, tuple[nn.Module, list[ad.Stage], str]]:
    good, plain = nets.Residual, nets.Plain
    one = [stage(("blocks.0",), ("blocks.1",), name="s")]
    return {
        "plain convolution": (
            nets.Chain(good(), plain()),
            one,
            "stage 's': block 'blocks.1' is not skippable: it does not add to its input, so its input cannot "
            "replace its output; only residual blocks can be skipped",
        ),
        "bare convolution": (
            nets.Chain(good(), nn.Conv2d(8, 8, 3, padding=1)),
            one,
            "'blocks.1' is not skippable: it does not add to its input",
        ),
        "shape": (
            nets.Chain(good(), Wide(8, 16), Wide(16, 8)),
            one,
            "stage 's': block 'blocks.1' is not skippable: it turns [2, 8, 8, 8] into [2, 16, 8, 8]; put it into the "
            "mandatory sub-path",
        ),
        "pairs": (
            nets.Chain(Pair(), Both(), First()),
            one,
            "'blocks.1' is not skippable: it takes tuple and returns tuple; expected one tensor each",
        ),
        "order of blocks": (
            nets.Chain(good(), good()),
            [stage(("blocks.1",), ("blocks.0",))],
            "the model runs 'blocks.0' where the stages have 'blocks.1': list stages and blocks in the order in which",
        ),
        "order of stages": (
            four(nets),
            nets.chain_stages()[::-1],
            "the model runs 'blocks.0' where the stages have 'blocks.2'",
        ),
        "twice": (
            nets.Chain(good(), Never(good(), 2)),
            [stage(("blocks.0",), ("blocks.1.block",))],
            "block 'blocks.1.block' ran 2 times in one forward pass: a block of a stage must run once",
        ),
        "never": (
            nets.Chain(good(), Never(good(), 0)),
            [stage(("blocks.0",), ("blocks.1.block",))],
            "block 'blocks.1.block' ran 0 times in one forward pass",
        ),
    }


WRONG = [
    "plain convolution", "bare convolution", "shape", "pairs", "order of blocks", "order of stages", "twice", "never",
]  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_an_example_proves_them_wrong_at_once(nets, unchanged, name: str) -> None:
    model, stages, said = wrong_on_running(nets)[name]
    model.train()
    model.blocks[0].eval()
    with unchanged(model), pytest.raises(ad.StagesError, match=re.escape(said)):
        ad.adapt(model, stages, example=X)


@pytest.mark.parametrize("name", WRONG)
def test_without_an_example_the_first_input_does(nets, unchanged, name: str) -> None:
    model, stages, said = wrong_on_running(nets)[name]
    network = ad.adapt(model.train(), stages)
    labels = torch.tensor([0, 1])
    uses = [
        network,
        lambda x: network(x, skip="T" * len(stages)),
        lambda x: ad.SelfDistillation(network)(x, labels),
        lambda x: ad.SelfDistillation(network).backward(x, labels),
        lambda x: ad.evaluate(network, [(x, labels)]),
        network.prove,
    ]
    if any(True for _ in network.contexts()):
        uses.append(lambda x: ad.calibrate(network, [(x, labels)]))
    for use in uses:
        with unchanged(network), pytest.raises(ad.StagesError, match=re.escape(said)):
            use(X)
        assert not network.proven
        assert not network.calibrated


def test_vgg_is_not_residual(unchanged) -> None:
    model = make_layers([8, 8])  # convolution, ReLU, convolution of equal shape, ReLU
    network = ad.adapt(model, [stage(("0",), ("2",))])
    with unchanged(model), pytest.raises(ad.StagesError, match="'2' is not skippable: it does not add to its input"):
        network(X)


@pytest.mark.parametrize("example", [torch.zeros(2, 3, 8, 8), torch.full((2, 3, 8, 8), 1e-6)])
def test_an_example_of_zeros_proves_nothing_wrong_right(nets, example: Tensor) -> None:
    model = nets.Chain(nets.Residual(), nets.Plain())
    for part in (model.stem, model.blocks[0].conv):
        part.bias = None  # so that every activation is zero
    with pytest.raises(ad.StagesError, match=r"'blocks\.1' is not skippable: it does not add to its input"):
        ad.adapt(model, [stage(("blocks.0",), ("blocks.1",))], example=example)
    good = nets.Chain(nets.Residual(), nets.Residual())
    assert ad.adapt(good, [stage(("blocks.0",), ("blocks.1",))], example=example).proven


def test_an_input_that_is_not_finite_is_not_the_fault_of_the_stages(nets) -> None:
    network = ad.adapt(four(nets), nets.chain_stages())
    assert network(torch.full((1, 3, 8, 8), float("nan"))).isnan().all()
    assert network.proven


@pytest.mark.parametrize("norm", ["PreNorm", "PostNorm"])
@pytest.mark.parametrize("seed", range(5))
def test_transformer_blocks_are_accepted(nets, norm: str, seed: int) -> None:
    torch.manual_seed(seed)
    assert nets.transformer(getattr(nets, norm)).proven


@pytest.mark.parametrize("norm_first", [True, False])
def test_torchs_own_encoder_layers_are_accepted(nets, norm_first: bool) -> None:
    model = nets.Transformer(blocks=0)
    model.blocks = nn.ModuleList(
        nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first) for _ in range(2)
    )
    network = ad.adapt(model, [stage(("blocks.0",), ("blocks.1",), channel_dim=-1)], example=X)
    assert network(X, skip="T").shape == (2, 5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_blocks_are_proven_in_other_precisions(nets, dtype: torch.dtype) -> None:
    model = four(nets).to(dtype)
    assert ad.adapt(model, nets.chain_stages(), example=X.to(dtype)).proven


def test_resnets_by_hand_are_proven_too() -> None:
    model = timm.create_model("resnet18", channels=(8, 8, 8, 8))
    assert ad.adapt(model, ad.find_stages(model), example=torch.randn(1, 3, 32, 32)).proven


@pytest.mark.parametrize("example", [X, (X,), [X], {"x": X}])
def test_kinds_of_examples(nets, example: object) -> None:
    assert ad.adapt(four(nets), nets.chain_stages(), example=example).proven


def test_a_proof_leaves_the_example_and_the_model_alone(nets, unchanged) -> None:
    model = four(nets).train()
    model.blocks[1].eval()
    example = X.clone()
    with unchanged(model):
        network = ad.adapt(model, nets.chain_stages(), example=example)
        network.prove(example)
    assert torch.equal(example, X)
    with unchanged(network), pytest.raises(RuntimeError, match="expected input"):
        network.prove(torch.zeros(1, 4, 8, 8))  # the model's own error: three channels are wanted


class LateNorm(nn.Module):
    """Registers its last norm before its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)
        self.blocks = nn.Sequential(*(BasicBlock(4, 4) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.blocks(x))


def test_a_norm_registered_early_that_runs_late_is_refused_and_can_be_named() -> None:
    x, stage = torch.randn(2, 4, 8, 8), ad.Stage(("blocks.0",), ("blocks.1",))
    with pytest.raises(ad.StagesError, match="norm 'norm' is registered before the stages but runs after the first"):
        ad.adapt(LateNorm(), [stage], example=x)
    named = ad.Stage(("blocks.0",), ("blocks.1",), ("blocks.0.bn1", "blocks.0.bn2", "norm"))
    assert ad.adapt(LateNorm(), [named], example=x).homes["norm"] == 1


class Masked(nn.Module):
    """Calls its blocks with a second input."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 8, 0.0, batch_first=True) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.zeros(x.shape[1], x.shape[1])
        for block in self.blocks:
            x = block(x, mask)
        return x


def test_a_block_of_two_inputs_hands_the_first_on() -> None:
    model, x = Masked().eval(), torch.randn(2, 3, 8)
    network = ad.adapt(model, [ad.Stage(("blocks.0",), ("blocks.1",))], example=x)
    with torch.no_grad():
        assert torch.equal(network(x, skip="T"), network.subnet("T").blocks[0](x, torch.zeros(3, 3)))


def test_a_forward_that_was_replaced_by_a_function_is_refused() -> None:
    model = resnet18(num_classes=3)
    original = model.forward
    model.forward = lambda x: original(x) + 1
    with pytest.raises(
        ad.StagesError, match=r"the forward of 'ResNet' was replaced by a function .* types\.MethodType"
    ):
        ad.adapt(model)
