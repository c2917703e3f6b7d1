"""Stages found by watching a model run: what is found, what is refused and why."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import adaptive_depth as ad
from adaptive_depth.plan import discover

_spec = importlib.util.spec_from_file_location("hand_written", Path(__file__).parents[1] / "hand_written.py")
assert _spec is not None
hand_written = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hand_written)  # type: ignore[union-attr]
NETWORKS = hand_written.NETWORKS
X = torch.randn(2, 3, 8, 8)


def tensors(output) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output
    return [tensor for value in values if value is not None for tensor in tensors(value)]


def cuts(stages: ad.Stages) -> list[tuple[int, int]]:
    return [(len(stage.mandatory), len(stage.skippable)) for stage in stages]


# -- what is found ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_no_library(name: str, unchanged) -> None:
    build, make, expected = NETWORKS[name]
    model, example = build().train(), make()
    with unchanged(model):
        stages = ad.find_stages(model, example)
    assert cuts(stages) == expected
    network = ad.adapt(model, example=example).eval()
    whole = tensors(model.eval()(example))
    ran: list[str] = []
    for stage in network.stages:
        for path in stage.blocks:
            network.model.get_submodule(path).register_forward_hook(lambda *_, path=path: ran.append(path))
    for skip in network.skips:
        ran.clear()
        outputs = tensors(network(example, skip=skip))
        flags = zip(network.stages, skip, strict=True)
        assert ran == [path for s, flag in flags for path in (s.blocks if flag == "F" else s.mandatory)]
        assert [out.shape for out in outputs] == [out.shape for out in whole]
        assert all(torch.isfinite(out).all() for out in outputs)
        equal = [torch.equal(a, b) for a, b in zip(outputs, whole, strict=True)]
        assert all(equal) if skip == network.skips[0] else not all(equal)


@pytest.mark.parametrize("name", ["decoder", "cifar resnet"])
def test_every_norm_in_mandatory_blocks_is_doubled(name: str) -> None:
    build, make, _ = NETWORKS[name]
    stages = ad.find_stages(build(), make())
    for stage in stages:
        names = ("ln_1", "ln_2") if name == "decoder" else ("bn1", "bn2")
        assert stage.norms == tuple(f"{block}.{norm}" for block in stage.mandatory for norm in names)


def test_channels_are_found_for_the_feature_term() -> None:
    assert {s.channel_dim for s in ad.find_stages(hand_written.Decoder(), torch.randint(50, (2, 9)))} == {-1}
    assert {s.channel_dim for s in ad.find_stages(hand_written.CifarResNet(), torch.randn(1, 3, 16, 16))} == {1}
    assert {s.channel_dim for s in ad.find_stages(hand_written.SignalNet(), torch.randn(1, 2, 64))} == {1}
    swin = timm.create_model("swinv2_cr_tiny_ns_224", img_size=64, window_size=2, embed_dim=24, num_heads=(1, 2, 3, 6))
    assert {s.channel_dim for s in ad.find_stages(swin)} == {-1}


def test_branches_that_begin_at_zero_are_no_failure(nets) -> None:
    model = nets.Chain(*(nets.Residual() for _ in range(4))).eval()
    for block in model.blocks:
        nn.init.zeros_(block.conv.weight)
        nn.init.zeros_(block.conv.bias)
    network = ad.adapt(model, example=X)
    assert len(network.skips) == 4
    assert torch.equal(network(X, skip="TT"), network(X))  # skipping changes nothing yet


def test_a_module_of_the_same_class_before_a_run_leads_it(nets) -> None:
    """The first block of a stage may change the shape; a stem of another class is none."""
    stages = ad.find_stages(hand_written.CifarResNet(), torch.randn(1, 3, 16, 16))
    assert stages[1].mandatory == ("layer2.0", "layer2.1")
    model = nets.Chain(nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)), nets.Residual(), nets.Residual())
    assert ad.find_stages(model, X)[0].blocks == ("blocks.1", "blocks.2")


def test_post_norm_blocks_and_scaled_shortcuts_are_residual(nets) -> None:
    assert cuts(ad.find_stages(nets.Transformer(nets.PostNorm), X)) == [(1, 1)] * 3

    class Scaled(nets.Residual):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            mixed = F.avg_pool2d(self.norm(x), 3, 1, 1) - 3 * self.norm(x)  # has no weights that could be zero
            return x * self.scale[:, None, None] + mixed + self.conv(x)

    assert cuts(ad.find_stages(nets.Chain(Scaled(), Scaled()), X)) == [(1, 1)]


def test_one_run_is_divided_into_groups_and_the_cut_can_be_moved(nets) -> None:
    def model() -> nn.Module:
        return nets.Transformer(blocks=12)

    assert [stage.name for stage in ad.find_stages(model(), X)] == [f"blocks {i}-{i + 2}" for i in (0, 3, 6, 9)]
    assert cuts(ad.find_stages(model(), X, group_size=4, mandatory=0.25)) == [(1, 3)] * 3
    assert ad.adapt(model(), example=X, group_size=6).skips == ("FF", "FT", "TF", "TT")
    with pytest.raises(ad.StagesError, match="stages were given, so there is nothing to split"):
        ad.adapt(model(), [ad.Stage(("blocks.0",), ("blocks.1",))], group_size=4)


class Passing(nn.Module):
    """Blocks that get a mask and hand it on; the tensor comes first."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6))

        def forward(self, hidden: Tensor, mask: Tensor, size: tuple[int, int], extra: bool = False) -> tuple:
            return hidden + mask * self.inner(hidden), None, size

    def __init__(self, keywords: bool = False) -> None:
        super().__init__()
        self.blocks, self.keywords = nn.ModuleList(self.Block() for _ in range(4)), keywords

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        size = (1, 2)
        for block in self.blocks:
            x, nothing, size = block(x, mask, size, extra=True)
            assert nothing is None
            assert size == (1, 2)
        return x


def test_blocks_of_several_inputs_and_outputs() -> None:
    x, mask = torch.randn(2, 3, 6), torch.rand(2, 3, 1)
    network = ad.adapt(Passing(), example=(x, mask))
    assert [stage.returns for stage in network.stages] == [(0, None, 2)] * 2
    with torch.no_grad():
        by_hand = x + mask * network.subnet("TF").blocks[0].inner(x)
        by_hand = by_hand + mask * network.model.blocks[2].inner(by_hand)
        by_hand = by_hand + mask * network.model.blocks[3].inner(by_hand)
        assert torch.equal(network(x, mask, skip="TF"), by_hand)
    again = ad.Stages.from_json(network.stages.to_json())
    assert again == network.stages
    network.extract("TT")(x, mask)


def test_of_many_runs_those_that_work_hardest_become_stages(nets) -> None:
    def stage(width: int, blocks: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(8, width, 1), Inner(nets, width, blocks), nn.Conv2d(width, 8, 1))

    model = nets.Chain(*(stage(width, 3) for width in (8, 9, 16, 17, 18, 10, 19, 20)))
    stages = ad.find_stages(model, X)
    assert [stage.name for stage in stages] == [f"blocks.{i}.1.inner" for i in (2, 3, 4, 5, 6, 7)]


class Inner(nn.Module):
    """A container of blocks that is itself no block: it multiplies what they return."""

    def __init__(self, nets, width: int, blocks: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(*(nets.Residual(width) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        return 0.1 * self.inner(x)


def test_a_block_that_holds_blocks_stays_whole(nets) -> None:
    """But an nn.Sequential of blocks of one class is a stage."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nets.Residual(), nets.Residual()

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x))

    assert ad.find_stages(nets.Chain(Two(), Two()), X)[0].blocks == ("blocks.0", "blocks.1")
    pairs = nets.Chain(*(nn.Sequential(nets.Residual(), nets.Residual()) for _ in range(2)))
    assert [stage.name for stage in ad.find_stages(pairs, X)] == ["blocks.0", "blocks.1"]


class Parallel(nn.Module):
    def __init__(self, nets) -> None:
        super().__init__()
        self.stem, self.branches = nn.Conv2d(3, 8, 1), nn.ModuleList(nets.Residual() for _ in range(2))
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.branches[0](x) + self.branches[1](x))


def test_blocks_beside_each_other_are_no_run(nets) -> None:
    with pytest.raises(ad.StagesError, match=r"branches.0, branches.1 are residual, but with no other residual block"):
        ad.find_stages(Parallel(nets), X)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_035", "convnext_atto", "vit_tiny_patch16_224"])
def test_pyramids_of_features_keep_their_shapes(name: str) -> None:
    sized = {"img_size": 64} if name.startswith("vit") else {}
    model = timm.create_model(name, features_only=True, **sized).eval()
    x = torch.randn(1, 3, 64, 64)
    network = ad.adapt(model, example=x)
    assert len(network.skips) >= 8
    shapes = [feature.shape for feature in model(x)]
    for skip in network.skips:
        assert [feature.shape for feature in network(x, skip=skip)] == shapes, skip


# -- what is refused ----------------------------------------------------------------------------------------------


class Gate(nn.Module):
    """Squeeze and excitation: scales its input, adds nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.inner(x.mean((2, 3), keepdim=True)))


class Shuffled(nn.Module):
    """Half of the channels pass, and then all are mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return torch.stack([a, self.inner(b)], 2).flatten(1, 2)


class Flipped(nn.Module):
    """Adds to its input, but hands the channels on in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(1) + self.inner(x)


class Dense(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.BatchNorm2d(width), nn.Conv2d(width, 4, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.inner(x)], 1)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(8, 8, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x + self.inner(x), self.inner(x)


class Paired(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 8, 1), nn.ModuleList(Pair() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.stem(x), 0
        for block in self.blocks:
            x, more = block(x)
            total = total + more
        return total


class Repeated(nn.Module):
    """Every block runs twice."""

    def __init__(self, nets) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 8, 1), nn.Sequential(nets.Residual(), nets.Residual())

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.blocks(self.stem(x)))


class Noisy(nn.Module):
    def __init__(self, nets) -> None:
        super().__init__()
        self.chain = nets.Chain(*(nets.Residual() for _ in range(4)))

    def forward(self, x: Tensor) -> Tensor:
        return self.chain(x) + torch.rand(1)


class Formula(nn.Module):
    """A block that is given by a formula of its input and a convolution of it."""

    def __init__(self, formula) -> None:
        super().__init__()
        self.conv, self.norm, self.formula = nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), formula

    def forward(self, x: Tensor) -> Tensor:
        return self.formula(self, x)


NOT_ADDED = {
    "a gate that is almost open": lambda s, x: x * torch.sigmoid(s.conv(x.mean((2, 3), keepdim=True)) + 2),
    "the size": lambda s, x: x.abs() + s.conv(x),
    "clamped": lambda s, x: x.clamp(0, 1) + s.conv(x),
    "three times": lambda s, x: 3 * x + s.conv(x),
    "a part": lambda s, x: 0.7 * x + s.conv(x),
    "normed before": lambda s, x: F.relu(s.norm(x)) + s.conv(F.relu(s.norm(x))),
    "an activation behind": lambda s, x: F.gelu(x + s.conv(x)),
    "a highway": lambda s, x: torch.sigmoid(s.conv(x)) * s.conv(x) + (1 - torch.sigmoid(s.conv(x) - 3)) * x,
}


@pytest.mark.parametrize("name", NOT_ADDED)
def test_blocks_that_do_more_than_add_are_refused(name: str, nets) -> None:
    model = nets.Chain(*(Formula(NOT_ADDED[name]) for _ in range(3)))
    with pytest.raises(ad.StagesError, match=r"blocks has 3 Formula, but blocks.2 does not add to its input"):
        ad.find_stages(model, X)


class MaskFirst(nn.Module):
    """h + conv(h) where a mask says so; the mask comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, mask: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        return h + self.conv(h) * mask


class Masked(nn.Module):
    def __init__(self, mask: Any) -> None:
        super().__init__()
        self.stem, self.mask = nn.Conv2d(3, 4, 1), mask
        self.blocks = nn.ModuleList(MaskFirst() for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(self.mask(x), x)
        return x


@pytest.mark.parametrize(
    "mask",
    [lambda x: x > 0, lambda x: (x[:, :1] > 0).float(), lambda x: torch.ones_like(x)],
    ids=["of yes and no", "of one channel", "of the same shape"],
)
def test_a_block_whose_first_input_is_not_what_it_adds_to_is_refused_with_that_reason(mask: Any, unchanged) -> None:
    model = Masked(mask)
    why = r"it adds to its input 'h' and not to the first, .* let its forward take 'h' first, and call it so"
    with unchanged(model), pytest.raises(ad.StagesError, match=rf"blocks has 3 MaskFirst, but .*{why}"):
        ad.find_stages(model, torch.randn(2, 3, 8, 8))
    stages = [ad.Stage(("blocks.0",), ("blocks.1", "blocks.2"))]
    with unchanged(model), pytest.raises(ad.StagesError, match=rf"block 'blocks.1' is not skippable: {why}"):
        ad.adapt(model, stages, example=torch.randn(2, 3, 8, 8))


ADDED = {
    "half": lambda s, x: x + 0.5 * s.conv(x),
    "in place": lambda s, x: x.add_(s.conv(x)),
    "a norm behind": lambda s, x: s.norm(x + s.conv(x)),
    "a residual gate": lambda s, x: x + torch.sigmoid(s.conv(x)) * s.conv(x),
    "dropped": lambda s, x: x + F.dropout(s.conv(x), 0.5, s.training),
}


@pytest.mark.parametrize("name", ADDED)
def test_blocks_that_add_are_found(name: str, nets) -> None:
    assert cuts(ad.find_stages(nets.Chain(*(Formula(ADDED[name]) for _ in range(4))), X)) == [(1, 1), (1, 1)]


def test_a_relu_behind_the_sum_is_no_obstacle_where_none_of_its_input_is_negative(nets) -> None:
    """Leaving such a block out leaves what a block of its kind could have returned."""

    class Post(Formula):
        def __init__(self) -> None:
            super().__init__(lambda s, x: F.relu(x + s.conv(x)))

    model = nets.Chain(*(Post() for _ in range(4)))
    assert ad.find_stages(model, X)[0].blocks[0] == "blocks.0"


class Raw(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(8, 8, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x + F.conv2d(x, self.weight, padding=1)


def test_blocks_without_modules_in_them(nets) -> None:
    assert cuts(ad.find_stages(nets.Chain(*(Raw() for _ in range(4))), X)) == [(1, 1), (1, 1)]


def test_a_norm_that_blocks_share_is_not_doubled_and_the_blocks_are_skipped(nets) -> None:
    model = nets.Chain(*(nets.Residual() for _ in range(4)))
    for block in model.blocks:
        block.norm = model.blocks[0].norm
    for stages in (None, [ad.Stage(("blocks.0", "blocks.1"), ("blocks.2", "blocks.3"))]):
        network = ad.adapt(model, stages, example=X).train()
        assert not any(stage.norms for stage in network.stages)
        before = model.blocks[0].norm.running_mean.clone()
        network(X, skip=network.skips[-1])
        assert torch.equal(model.blocks[0].norm.running_mean, before)  # the base-net has statistics of its own
    with pytest.raises(
        ad.StagesError, match=r"norm 'blocks.0.norm' is one module at several places \(blocks.0.norm, b"
    ):
        ad.adapt(model, [ad.Stage(("blocks.0",), ("blocks.1",), norms=("blocks.0.norm",))])


def test_torchs_own_transformer_with_a_mask() -> None:
    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
            self.embed, self.encoder = nn.Embedding(20, 16), nn.TransformerEncoder(layer, 4)

        def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
            return self.encoder(self.embed(tokens), src_key_padding_mask=padding)

    padding = torch.zeros(2, 5, dtype=torch.bool)
    example = {"tokens": torch.randint(20, (2, 5)), "padding": padding}
    network = ad.adapt(Text(), example=example)
    assert [stage.name for stage in network.stages] == ["encoder.layers 0-1", "encoder.layers 2-3"]
    assert network(**example, skip="TT").shape == (2, 5, 16)


REFUSED = {
    "gates": (lambda n: n.Chain(*(Gate() for _ in range(3))), "blocks has 3 Gate, but blocks.2 does not add"),
    "plain": (lambda n: n.Chain(*(n.Plain() for _ in range(3))), "blocks has 3 Plain, but blocks.2 does not add"),
    "shuffled": (lambda n: n.Chain(*(Shuffled() for _ in range(3))), "3 Shuffled, but blocks.2 does not add"),
    "flipped": (lambda n: n.Chain(*(Flipped() for _ in range(3))), "3 Flipped, but blocks.2 does not add"),
    "dense": (
        lambda n: nn.Sequential(nn.Conv2d(3, 8, 1), *(Dense(8 + 4 * i) for i in range(3))),
        "its top level has 3 Dense, but each widens its input by 4 channels, so none can be skipped",
    ),
    "pairs": (lambda n: Paired(), "blocks has 3 Pair, but blocks.0 takes [2, 8, 8, 8] and returns a tuple; a"),
    "repeated": (Repeated, "blocks has 2 Residual, but blocks.0 ran 2 times in one forward pass; a"),
    "single": (lambda n: n.Chain(n.Residual()), "blocks.0 is residual, but with no other residual block"),
    "no blocks": (lambda n: nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()), "it has no two consecutive blocks"),
    "noisy": (Noisy, "Noisy returns different outputs for the same input in eval mode"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_and_why(name: str, nets, unchanged) -> None:
    build, said = REFUSED[name]
    model = build(nets)
    with unchanged(model), pytest.raises(ad.StagesError, match=re.escape(said)):
        ad.find_stages(model, X)


def test_an_input_that_the_model_does_not_take(nets) -> None:
    model = nets.Chain(*(nets.Residual() for _ in range(4)))
    with pytest.raises(
        ad.StagesError, match=r"Chain does not run on the example input \(RuntimeError: .*pass one that"
    ):
        ad.find_stages(model, torch.randn(2, 4, 8, 8))
    with pytest.raises(ad.StagesError, match=r"does not run on the example input \(TypeError: .*missing 1 required"):
        ad.find_stages(Passing(), torch.randn(2, 3, 6))


def test_quantised_weights_are_a_stated_limit(nets) -> None:
    model = nets.Chain(*(nets.Residual() for _ in range(4)))
    model.blocks[1].packed = nn.Parameter(torch.zeros(3, dtype=torch.int8), requires_grad=False)
    with pytest.raises(
        ad.StagesError, match=r"blocks.1 \(Residual\) has quantised weights.*adapt the model in floating"
    ):
        ad.find_stages(model, X)


def test_frozen_weights_are_no_obstacle(nets) -> None:
    model = nets.Chain(*(nets.Residual() for _ in range(4))).requires_grad_(False)
    network = ad.adapt(model, example=X)
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_wrappers_are_named(nets, wrap) -> None:
    model = nets.Chain(*(nets.Residual() for _ in range(4)))
    with pytest.raises(
        ad.StagesError, match=r"is wrapped in a (DataParallel|OptimizedModule): adapt the inner model first, mod"
    ):
        ad.find_stages(wrap(model), X)


def test_discover_returns_plain_runs(nets) -> None:
    runs = discover(nets.Chain(*(nets.Residual() for _ in range(4))), (X,), {})
    [run] = runs
    assert (run.blocks, run.name, run.flat) == (("blocks.0", "blocks.1", "blocks.2", "blocks.3"), "blocks", True)
    assert run.norms(["blocks.0"]) == ["blocks.0.norm"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("place", [1, 2, 4])
def test_a_layer_that_discovery_would_lose_is_an_error(place: int) -> None:
    """A decoder, one of whose layers does not add to its input: with it, stages would be lost without a word."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=6, num_attention_heads=2
    )
    model = transformers.LlamaForCausalLM(config).eval()
    assert len(ad.find_stages(model)) == 2

    class Replacing(type(model.model.layers[0])):
        def forward(self, hidden_states, **_):
            return self.mlp(hidden_states)

    model.model.layers[place].__class__ = Replacing
    said = rf"layer model.layers.{place} \(Replacing\) cannot be part of a stage: .*does not add to its input.*Write"
    with pytest.raises(ad.StagesError, match=said):
        ad.adapt(model)


def test_weights_that_are_not_finite_are_named(nets) -> None:
    model = nets.chain()
    name, parameter = next((name, each) for name, each in model.named_parameters() if each.ndim > 1)
    with torch.no_grad():
        parameter.view(-1)[0] = float("nan")
    with pytest.raises(ad.StagesError, match=rf"numbers in {re.escape(name)} that are not finite \(NaN or infinity\)"):
        discover(model, (X,), {})
