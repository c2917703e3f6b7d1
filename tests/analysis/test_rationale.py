"""analyze: every number on networks where it is known by hand, against naive loops, and what it refuses."""

import copy
import re
from math import log, sqrt

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

import adaptive_depth as ad
from adaptive_depth.analysis.rationale import analyze
from adaptive_depth.errors import DataError, MeasurementError

# -- by hand ----------------------------------------------------------------------------------------------------


def test_ratios_of_linear_blocks(known) -> None:
    network = known.scales([[0.5], [-0.25]], [[2.0], [0.125, 0.0]])
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, -1.0]])  # the second has no direction, and does not count
    found = analyze(network, [(x, torch.zeros(3, 2))], criterion=known.linear)
    ratios = {block.path: block.ratio for block in found.blocks}
    assert ratios == pytest.approx(dict(zip([f"blocks.{i}" for i in range(5)], [0.5, 2, 0.25, 0.125, 0], strict=True)))
    assert [(block.stage, block.skippable) for block in found.blocks] == [(1, False), (1, True), (2, False)] + [
        (2, True)
    ] * 2
    assert all(block.alone is None for block in found.blocks)


def test_ratios_are_means_over_samples_and_not_ratios_of_means(known) -> None:
    class Shift(nn.Module):
        """h + 1."""

        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.ones(1))

        def forward(self, h: Tensor) -> Tensor:
            return h + self.one

    network = known.network([[known.Scale(0.0)]], [[Shift()]], torch.randn(2, 4))
    x = torch.tensor([[1.0], [3.0]]).expand(2, 4)  # ‖F‖ = 2 for both, ‖h‖ = 2 and 6
    (_, block) = analyze(network, [(x[:1], x[:1]), (x[1:], x[1:])], criterion=known.linear).blocks
    assert block.ratio == pytest.approx((1 + 1 / 3) / 2)


def test_a_block_that_changes_the_shape_has_no_ratio(known) -> None:
    network = known.network([[known.Double(), known.Scale(0.5)]], [[known.Scale(0.1)]], torch.randn(2, 1))
    found = analyze(network, [(torch.ones(2, 1), torch.ones(2, 2))], criterion=known.linear)
    assert [block.ratio for block in found.blocks] == [None, pytest.approx(0.5), pytest.approx(0.1)]


def test_a_network_trained_without_the_method_beside_it(known) -> None:
    network, other = known.scales([[0.5]], [[0.1]]), known.scales([[0.3]], [[0.7]])
    for compare in (other, other.model):
        found = analyze(network, [(torch.ones(2, 2), torch.ones(2, 2))], criterion=known.linear, compare=compare)
        assert [block.ratio for block in found.blocks] == pytest.approx([0.5, 0.1])
        assert [block.alone for block in found.blocks] == pytest.approx([0.3, 0.7])


def test_the_expansion_is_exact_where_the_loss_is_linear(known) -> None:
    # h_base of stage 1 is 2x; stage 2 multiplies by 3 and 1.5 behind it.
    network = known.scales([[1.0], [2.0]], [[0.5, -1.0], [0.5]])
    x, y = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 1.0], [1.0, -1.0]])
    found = analyze(network, [(x, y)], criterion=known.linear)
    # x · y is 3 and -2: 0.5 in the mean. ∂L/∂h behind stage 1 is 3 · 1.5 · y; F_1 = 0.5 · 2x = x; F_2 = -3x.
    first, second, third = (block for block in found.blocks if block.skippable)
    assert (first.predicted, first.change) == pytest.approx((4.5 * 0.5, 4.5 * 0.5))
    assert (second.predicted, second.change) == pytest.approx((-3 * 4.5 * 0.5, -3 * 4.5 * 0.5))
    # Stage 1 leaves 0 behind, so stage 2 has nothing to add to, and no direction to do it in.
    assert (third.predicted, third.change, third.cosine, third.ratio) == (0, 0, None, None)
    one, two = found.stages
    assert (one.predicted, one.change) == pytest.approx((-2 * 4.5 * 0.5, -2 * 4.5 * 0.5))
    assert (two.predicted, two.change, two.cosine) == (0, 0, None)
    # The super-net's loss is 0. TF: 2 · 3 · 1.5 times 0.5; FT: 0; TT: 2 · 3 times 0.5.
    assert found.losses == pytest.approx({"FF": 0, "FT": 0, "TF": 4.5, "TT": 3})
    assert [stage.skipping for stage in found.stages] == pytest.approx([4.5, 0])
    assert (one.stage, one.name, two.stage, two.name) == (1, "s1", 2, "s2")


def test_the_expansion_is_off_by_the_second_order_where_the_loss_is_quadratic(known) -> None:
    # L = ½‖out‖²; h_base = x, F = a·x: L changes by (a + a²/2)‖x‖², of which a‖x‖² is of first order.
    for a in (0.5, -0.5):
        network = known.scales([[0.0]], [[a]])
        found = analyze(
            network, [(torch.tensor([[1.0, 2.0]]), torch.zeros(1))], criterion=lambda out, _: (out**2).sum() / 2
        )
        (stage,) = found.stages
        assert (stage.predicted, stage.change) == pytest.approx((5 * a, 5 * (a + a**2 / 2)))


def test_the_cosine_is_that_of_each_sample(known) -> None:
    network = known.scales([[0.0]], [[-0.5]])  # F = -x/2, and -∂L/∂h is -y
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    y = torch.tensor([[7.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    for index, cosine in enumerate((1, -1, 0, sqrt(0.5))):
        found = analyze(network, [(x[[index]], y[[index]])], criterion=known.linear)
        assert found.stages[0].cosine == pytest.approx(cosine, abs=1e-6)
    found = analyze(network, [(x, y)], criterion=known.linear)
    assert found.stages[0].cosine == found.blocks[1].cosine == pytest.approx(sqrt(0.5) / 4)
    y[3] = 0  # without a gradient there is no cosine
    assert analyze(network, [(x, y)], criterion=known.linear).stages[0].cosine == pytest.approx(0)


def test_a_stage_has_the_mean_cosine_of_its_blocks(known) -> None:
    network = known.scales([[0.0]], [[-0.5, 0.5]])  # the first block goes along -y, the second against it
    x = torch.tensor([[1.0, 0.0]])
    found = analyze(network, [(x, x)], criterion=known.linear)
    assert [block.cosine for block in found.blocks] == [None, pytest.approx(1), pytest.approx(-1)]
    assert found.stages[0].cosine == pytest.approx(0)


def test_the_cosine_survives_tiny_gradients(known) -> None:
    network = known.scales([[0.0]], [[-0.5]])
    x = torch.tensor([[1.0, 1.0]])
    assert analyze(network, [(x, 1e-30 * x)], criterion=known.linear).stages[0].cosine == pytest.approx(1)


@pytest.mark.parametrize("shape", [(1, 2), (1, 2, 1, 1)])
def test_divergence_by_hand(known, shape) -> None:
    # Channels (ln 3, 0) are probabilities (3/4, 1/4) in the base-net; doubled they are (9/10, 1/10) in the super-net.
    x = torch.tensor([log(3), 0.0]).reshape(shape)
    network = known.network([[known.Scale(0.0)]], [[known.Scale(1.0)]], x)
    (stage,) = analyze(network, [(x, x)], criterion=known.linear).stages
    assert stage.divergence == pytest.approx(0.9 * log(0.9 / 0.75) + 0.1 * log(0.1 / 0.25), rel=1e-5)


def test_divergence_of_tokens_is_a_mean_over_positions(known) -> None:
    x = torch.zeros(1, 3, 2)  # probabilities (1/2, 1/2) in both
    x[0, 1, 0] = log(3)  # but for one token
    network = known.network([[known.Scale(0.0)]], [[known.Scale(1.0)]], x, channel_dim=-1)
    (stage,) = analyze(network, [(x, x)], criterion=known.linear).stages
    assert stage.divergence == pytest.approx((0.9 * log(0.9 / 0.75) + 0.1 * log(0.1 / 0.25)) / 3, rel=1e-5)


def test_skipping_has_norms_of_its_own_and_the_expansion_those_of_the_super_net(known) -> None:
    network = known.network([[known.Normed()]], [[known.Scale(0.5)]], torch.randn(4, 1)).eval()
    with torch.no_grad():
        network.model.blocks[0].norm.weight.fill_(0)
        network.skip_norms.get_submodule("blocks.0.norm").weight.fill_(0)
        network.skip_norms.get_submodule("blocks.0.norm").bias.fill_(10)
    x = torch.tensor([[1.0], [3.0]])
    found = analyze(network, [(x, torch.ones(2, 1))], criterion=known.linear)
    # The super-net gives 1.5 x, without the sub-path x: 3 and 2 in the mean. The sub-network T gives x + 10.
    assert found.losses == pytest.approx({"F": 3, "T": 12})
    assert (found.stages[0].change, found.stages[0].skipping) == pytest.approx((1, 9))


def test_norms_by_hand(known) -> None:
    network = known.network([[known.Normed(2)]], [[known.Scale(0.0)]], torch.randn(4, 2))
    own, skipped = network.model.blocks[0].norm, network.skip_norms.get_submodule("blocks.0.norm")
    for norm, mean, variance in ((own, [1.0, 5.0], [4.0, 0.5]), (skipped, [3.0, 5.0], [1.0, 0.0])):
        norm.running_mean.copy_(torch.tensor(mean))
        norm.running_var.copy_(torch.tensor(variance))
        norm.num_batches_tracked.fill_(7)
    skipped.eps = 0.25
    x = torch.tensor([[2.0, 5.0], [4.0, 5.0], [2.0, 5.0], [4.0, 5.0]])  # means 3 and 5, variances 1 and 0
    x[:, 1] += torch.tensor([1.0, 1.0, -1.0, -1.0])  # variance 1
    for batches in ([(x, x)], [(x[:3], x[:3]), (x[3:], x[3:])]):
        full, base = analyze(network, batches, criterion=known.linear).norms
        # Seen 3 instead of 1 at a deviation of 2, and 5 as it says; variances of 1 instead of 4 and ½.
        assert (full.skip, full.stage, full.path, full.norms, full.channels) == ("F", 1, "blocks.0.norm", 1, 2)
        assert (full.shift, full.scale) == pytest.approx((0.5, (log(4) + log(2)) / 2))
        assert (full.initial, full.dead, base.initial, base.dead) == (0, 0, 0, 1)
        # 1.25 seen and 1.25 said; 1.25 seen and 0.25 said, each with ε.
        assert (base.skip, base.stage) == ("T", 1)
        assert (base.shift, base.scale) == pytest.approx((0, log(5) / 2), abs=1e-6)


def test_the_worst_norm_of_each_stage_is_told_and_what_a_skip_does_not_reach_is_not_repeated(nets) -> None:
    network = nets.chain()  # two stages; norms in blocks 0 to 3
    for path in ("blocks.0.norm", "blocks.1.norm"):
        network.model.get_submodule(path).running_mean.fill_(100)
    network.skip_norms.get_submodule("blocks.0.norm").reset_running_stats()
    network.model.blocks[0].norm.running_mean.fill_(10)  # less wrong than that of block 1
    network.model.blocks[1].norm.num_batches_tracked.fill_(7)
    network.model.blocks[2].norm.num_batches_tracked.zero_()  # as in weights of old files, with statistics
    network.model.blocks[2].norm.running_var.fill_(1)
    network.model.blocks[3].norm.reset_running_stats()
    network.model.blocks[3].norm.num_batches_tracked.fill_(7)  # a norm that measured a mean of 0 and a variance of 1
    found = analyze(network, [(torch.randn(8, 3, 8, 8), torch.arange(8) % 5)])
    rows = {(row.skip, row.stage): row for row in found.norms}
    assert list(rows) == [("FF", 1), ("FF", 2), ("FT", 2), ("TF", 1), ("TF", 2), ("TT", 1), ("TT", 2)]
    assert [rows["FF", stage].norms for stage in (1, 2)] == [2, 2]
    assert [rows["TT", stage].norms for stage in (1, 2)] == [1, 1]
    assert rows["FF", 1].channels == 16
    assert (rows["FF", 1].path, rows["FF", 2].norms) == ("blocks.1.norm", 2)
    assert rows["FF", 1].shift > 50
    assert [row.initial for row in rows.values()] == [0, 0, 0, 1, 0, 1, 0]


def test_norms_before_the_first_stage_are_stage_0_and_told_once() -> None:
    network = ad.adapt(timm.create_model("resnet18", num_classes=2, channels=(4, 4, 4, 4)))
    found = analyze(network, [(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1]))])
    assert [row.skip for row in found.norms if row.stage == 0] == ["FFFF"]
    assert [row.path for row in found.norms if row.stage == 0] == ["bn1"]
    assert len(found.norms) == 5 + 4 + (1 + 2 + 3 + 4)


# -- many kinds of networks -------------------------------------------------------------------------------------


class Swin(SwinTransformer):
    """Two stages of 1 + 1 windowed blocks on `[batch, height, width, channels]`."""

    def __init__(self) -> None:
        super().__init__(
            img_size=16, patch_size=2, embed_dim=8, depths=(2, 2), num_heads=(2, 2), window_size=4, num_classes=5
        )


class Tuple(nn.Module):
    """A block that returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, h: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return h + self.linear(h), mask


class Tuples(nn.Module):
    """Its blocks are called with keywords, too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 8, 4, 4), nn.ModuleList(Tuple() for _ in range(4))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h, mask = self.stem(x).mean((2, 3)), x.new_ones(1)
        for block in self.blocks:
            h, mask = block(h, mask)
        return self.head(h)


def _tuples() -> ad.AdaptiveNetwork:
    stages = [
        ad.Stage(("blocks.0",), ("blocks.1",), returns=(0, 1)),
        ad.Stage(("blocks.2",), ("blocks.3",), returns=(0, 1)),
    ]
    return ad.adapt(Tuples(), stages, example=torch.randn(2, 3, 16, 16))


def _in_place(nets) -> ad.AdaptiveNetwork:
    blocks = (nets.Residual(), nets.InPlaceFirst(), nets.InPlaceAfter(), nets.InPlaceFirst())
    return ad.adapt(nets.Chain(*blocks), nets.chain_stages(), example=torch.randn(2, 3, 8, 8))


def _calibrated(nets) -> ad.AdaptiveNetwork:
    network = nets.chain()
    ad.calibrate(network, [torch.randn(16, 3, 8, 8)])
    return network


KINDS = {
    "chain": (lambda nets: nets.chain(), 8),
    "calibrated": (_calibrated, 8),
    "in place": (_in_place, 8),
    "resnet": (lambda nets: nets.resnet(), 32),
    "pre-norm": (lambda nets: nets.transformer(), 8),
    "post-norm": (lambda nets: nets.transformer(nets.PostNorm), 8),
    "swin": (lambda nets: ad.adapt(Swin()), 16),
    "tuples": (lambda nets: _tuples(), 16),
}


@pytest.fixture(params=KINDS)
def case(request, nets):
    build, size = KINDS[request.param]
    network = build(nets).eval()
    return network, torch.randn(6, 3, size, size), torch.tensor([0, 1, 2, 3, 4, 1])


def naive(network: ad.AdaptiveNetwork, x: Tensor, y: Tensor) -> tuple[dict, dict, dict]:
    """Ratios, terms and cosines of all skippable blocks, sample by sample, on copies of the super-net with hooks."""
    ratios, terms, cosines = {}, {}, {}
    for stage in network.stages:
        for place, path in enumerate(stage.skippable):
            plain, cut = network.extract(network.skips[0]).eval(), network.extract(network.skips[0]).eval()
            ratios[path], terms[path], cosines[path] = [], [], []
            for one, label in zip(x.split(1), y.split(1), strict=True):
                h, out, leaf = [], [], []
                hooks = [
                    plain.get_submodule(path).register_forward_pre_hook(lambda _, args, h=h: h.append(args[0].clone())),
                    plain.get_submodule(path).register_forward_hook(
                        lambda _, __, o, out=out: out.append(_first(o).clone())
                    ),
                ]
                plain(one)
                for number, later in enumerate(stage.skippable[place:]):

                    def skip(_, args, output, leaf=leaf, h=h, number=number):
                        if number == 0:
                            leaf.append(h[0].detach().requires_grad_())
                        handed = leaf[0].clone()
                        return (handed, *output[1:]) if isinstance(output, tuple) else handed

                    hooks.append(cut.get_submodule(later).register_forward_hook(skip))
                loss = F.cross_entropy(cut(one), label)
                (gradient,) = torch.autograd.grad(loss, leaf)
                change = (out[0] - h[0]).detach()
                ratios[path].append(float(change.norm() / h[0].detach().norm()))
                terms[path].append(float((change * gradient).sum()))
                cosines[path].append(float(F.cosine_similarity(change.flatten(), -gradient.flatten(), dim=0)))
                for hook in hooks:
                    hook.remove()
    return tuple({path: sum(row) / len(row) for path, row in found.items()} for found in (ratios, terms, cosines))


def _first(output):
    return output[0] if isinstance(output, tuple) else output


def test_it_agrees_with_a_naive_loop(case) -> None:
    network, x, y = case
    found = analyze(network, [(x, y)])
    ratios, terms, cosines = naive(network, x, y)
    blocks = {block.path: block for block in found.blocks}
    assert list(blocks) == [path for stage in network.stages for path in stage.blocks]
    for path in terms:
        assert blocks[path].ratio == pytest.approx(ratios[path], rel=1e-3)
        assert blocks[path].predicted == pytest.approx(terms[path], rel=2e-2, abs=2e-6)
        assert blocks[path].cosine == pytest.approx(cosines[path], rel=2e-2, abs=2e-5)
    for skip, loss in found.losses.items():
        with torch.no_grad():
            assert loss == pytest.approx(float(F.cross_entropy(network.extract(skip).eval()(x), y)), rel=1e-4)


def test_changes_add_up_to_the_loss_without_the_sub_path(case) -> None:
    network, x, y = case
    found = analyze(network, [(x, y)])
    for number, stage in enumerate(network.stages, 1):
        without = network.extract(network.skips[0]).eval()
        for path in stage.skippable:
            parent, _, name = path.rpartition(".")
            bare = nn.Identity() if stage.returns is None else HandOn()
            without.get_submodule(parent)._modules[name] = bare
        with torch.no_grad():
            change = found.losses[network.skips[0]] - float(F.cross_entropy(without(x), y))
        assert found.stages[number - 1].change == pytest.approx(change, abs=2e-6)
        own = [block for block in found.blocks if block.stage == number and block.skippable]
        assert sum(block.change for block in own) == pytest.approx(change, abs=2e-6)
        assert sum(block.predicted for block in own) == pytest.approx(found.stages[number - 1].predicted)


class HandOn(nn.Module):
    def forward(self, *args: Tensor) -> tuple[Tensor, ...]:
        return args


def test_batches_of_any_size_give_the_same(case) -> None:
    network, x, y = case
    whole = analyze(network, [(x, y)]).to_json()
    parts = analyze(network, [(x[:1], y[:1]), (x[1:], y[1:]), (x[:0], y[:0])]).to_json()
    _assert_close(whole, parts)


def _assert_close(a, b) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            _assert_close(a[name], b[name])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            _assert_close(one, other)
    elif isinstance(a, float):
        assert b == pytest.approx(a, rel=1e-3, abs=1e-5)
    elif not (isinstance(a, str) and " " in a):  # sentences round numbers
        assert a == b


def test_the_network_is_left_as_it_was(case, unchanged) -> None:
    network, x, y = case
    network.train()
    next(network.model.children()).eval()
    next(iter(network.parameters())).requires_grad_(False)
    F.cross_entropy(network(x), y).backward()
    other = copy.deepcopy(network.model).train()
    with unchanged(network), unchanged(other):
        first = analyze(network, [(x, y)], compare=other)
    with unchanged(network), torch.inference_mode():
        second = analyze(network, [(x.clone(), y)], compare=other)
    assert first.to_json() == second.to_json()

    def failing():
        yield x, y
        raise OSError("the disk is gone")

    with unchanged(network), unchanged(other), pytest.raises(OSError, match="the disk is gone"):
        analyze(network, failing(), compare=other)
    F.cross_entropy(network(x), y).backward()  # nothing has become an inference tensor


def test_recomputed_blocks_and_compiled_networks_are_measured_too(nets) -> None:
    network = nets.chain().eval()
    batch = (torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]))
    plain = analyze(network, [batch])
    network.set_grad_checkpointing()
    assert analyze(network, [batch]) == plain
    network.set_grad_checkpointing(False)
    network.compile(backend="eager")
    assert analyze(network, [batch]) == plain


def test_torchs_fast_paths_are_off_so_that_all_passes_compute_alike(known) -> None:
    seen = set()

    class Asking(known.Scale):
        def forward(self, h: Tensor) -> Tensor:
            seen.add(torch.backends.mha.get_fastpath_enabled())
            return super().forward(h)

    network = known.network([[known.Scale(0.0)]], [[Asking(0.5)]], torch.randn(2, 2))
    seen.clear()
    analyze(network, [(torch.ones(2, 2), torch.ones(2, 2))], criterion=known.linear)
    assert seen == {False}
    assert torch.backends.mha.get_fastpath_enabled()


def test_it_tells_whose_analysis_it_is(known) -> None:
    network = known.scales([[0.0]], [[0.5]])
    found = analyze(network, [(torch.ones(2, 2), torch.ones(2, 2))], criterion=known.linear)
    assert found.network == network.fingerprint


def test_stages_written_by_hand_are_proven_first(known) -> None:
    model = known.Line(known.Scale(0.0), known.Scale(0.5))
    network = ad.adapt(model, [ad.Stage(("blocks.0",), ("blocks.1",))])
    assert analyze(network, [(torch.ones(2, 2), torch.ones(2, 2))], criterion=known.linear).images == 2
    wrong = ad.adapt(known.Line(known.Scale(0.0), known.Double()), [ad.Stage(("blocks.0",), ("blocks.1",))])
    with pytest.raises(ad.StagesError, match=r"turns \[2, 2\] into \[2, 4\]"):
        analyze(wrong, [(torch.ones(2, 2), torch.ones(2, 2))], criterion=known.linear)


# -- arguments --------------------------------------------------------------------------------------------------


def test_limit_and_progress(known) -> None:
    network = known.scales([[0.0]], [[0.5]])
    batches = [(torch.full((2, 2), float(number)), torch.ones(2, 2)) for number in (1, 2, 3)]
    told: list = []
    found = analyze(network, batches, criterion=known.linear, limit=2, on_progress=lambda *now: told.append(now))
    assert found.images == 4
    assert found.losses["F"] == pytest.approx(1.5 * 2 * 1.5)
    assert told == [(number, 6) for number in range(1, 7)]  # F, T and one block, twice
    told.clear()
    analyze(network, iter(batches), criterion=known.linear, on_progress=lambda *now: told.append(now), compare=network)
    assert told == [(number, None) for number in range(1, 13)]
    told.clear()
    analyze(network, batches, criterion=known.linear, on_progress=lambda *now: told.append(now), compare=network)
    assert told == [(number, 12) for number in range(1, 13)]


def test_no_more_batches_than_the_limit_are_fetched(known) -> None:
    def batches():
        yield torch.ones(2, 2), torch.ones(2, 2)
        raise AssertionError("one more was fetched")

    assert analyze(known.scales([[0.0]], [[0.5]]), batches(), criterion=known.linear, limit=1).images == 2


def test_classes_that_no_label_names_are_told(nets) -> None:
    network, x = nets.chain(classes=5), torch.randn(4, 3, 8, 8)
    found = analyze(network, [(x[:2], torch.tensor([1, 1])), (x[2:], torch.tensor([4, 1]))])
    assert (found.classes, found.seen) == (5, 2)
    assert found.advice[0] == "The images cover 2 of the network's 5 classes: these results do not apply to the others."
    full = analyze(network, [(x[[0, 0, 1, 2, 3]], torch.arange(5))])
    assert (full.classes, full.seen) == (5, 5)
    assert "of the network's" not in " ".join(full.advice)


def test_labels_of_other_kinds(nets, known) -> None:
    network, x = nets.chain(classes=5), torch.randn(4, 3, 8, 8)
    soft = torch.eye(5)[:4]
    assert analyze(network, [(x, soft)]).losses == pytest.approx(analyze(network, [(x, torch.arange(4))]).losses)
    assert analyze(network, [(x, soft)]).classes is None
    ignoring = nn.CrossEntropyLoss(ignore_index=255)
    assert analyze(network, [(x, torch.tensor([0, 1, 255, 2]))], criterion=ignoring).seen == 3
    assert analyze(network, [{"x": x, "labels": torch.arange(4)}]).images == 4
    assert analyze(network, [(x, torch.arange(4))], criterion=lambda out, y: out.mean()).classes is None


X, Y = torch.ones(4, 3, 8, 8), torch.arange(4)
NAN = torch.full((4, 3, 8, 8), torch.nan)


def deeper() -> nn.Module:
    """The blocks of `nets.chain()`, and more than these."""

    class Deeper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(*(nn.Identity() for _ in range(4)))
            self.later = nn.Linear(3, 3)

    return Deeper()


@pytest.mark.parametrize(
    ("batches", "more", "kind", "said"),
    [
        ([], {}, DataError, "analyze received an empty loader: expected at least one batch of (input, labels)"),
        ([(X[:0], Y[:0])], {}, DataError, "analyze received an empty loader"),
        ([X], {}, DataError, "the loader yielded inputs without labels: expected pairs (input, labels)"),
        ([(X, Y), (X,)], {}, DataError, "the loader yielded inputs without labels"),
        ([(X, [1, 2])], {}, DataError, "the loader yielded labels as a list: expected a tensor [batch]"),
        (
            [(X, Y[:3])],
            {},
            DataError,
            "3 labels for a batch of 4: expected one for each sample",
        ),
        ([(X, Y.float())], {}, DataError, "labels of float32: expected class indices, integers"),
        ([(X, Y + 2)], {}, DataError, "labels from 2 to 5, but the network has 5 classes: expected labels from 0 to 4"),
        ([(X, Y - 1)], {}, DataError, "labels from -1 to 2, but the network has 5 classes"),
        ([(X, Y + 2)], {"criterion": nn.CrossEntropyLoss()}, DataError, "labels from 2 to 5, but the network has 5"),
        (
            [(NAN, Y)],
            {},
            DataError,
            "sub-network FF returned non-finite numbers, but its weights are finite: look for non-finite inputs",
        ),
        (
            [(X, Y)],
            {"criterion": nn.CrossEntropyLoss},
            MeasurementError,
            "CrossEntropyLoss is a class: expected an instance, CrossEntropyLoss(...)",
        ),
        ([(X, Y)], {"criterion": 3}, MeasurementError, "criterion=3: expected a criterion such as"),
        (
            [(X, Y)],
            {"criterion": lambda out, y: out},
            MeasurementError,
            "the criterion returned a tensor [4, 5]: expected",
        ),
        ([(X, Y)], {"criterion": lambda out, y: 1.0}, MeasurementError, "the criterion returned a float: expected one"),
        (
            [(X, Y)],
            {"criterion": lambda out, y: out.sum() / 0},
            MeasurementError,
            "the loss of sub-network FF is ",
        ),
        (
            [(X, Y)],
            {"criterion": lambda out, y: out.detach().sum()},
            MeasurementError,
            "the loss of the super-net without blocks.1 and what follows in its stage has no gradient: expected",
        ),
        (
            [(X, Y)],
            {"criterion": lambda out, y: (out.sum() * 0).sqrt()},
            MeasurementError,
            "the gradient of the loss of the super-net without blocks.1 and what follows in its stage is not finite",
        ),
        ([(X, Y)], {"limit": 0}, MeasurementError, "limit=0: expected a number of batches, 1 or more, or None"),
        ([(X, Y)], {"limit": 1.5}, MeasurementError, "limit=1.5: expected a number of batches"),
        ([(X, Y)], {"limit": True}, MeasurementError, "limit=True: expected a number of batches"),
        ([(X, Y)], {"compare": "resnet18"}, MeasurementError, "compare is a str: expected a model, an nn.Module"),
        (
            [(X, Y)],
            {"compare": nn.Sequential(nn.Conv2d(3, 5, 1))},
            MeasurementError,
            "the Sequential to compare with lacks the network's block 'blocks.0' and 3 more: expected the same model",
        ),
        (
            [(X, Y)],
            {"compare": deeper()},
            MeasurementError,
            "the Deeper to compare with has other parameters than the network, such as 'blocks.0.conv.bias': expected",
        ),
    ],
)
def test_what_cannot_be_analysed(nets, unchanged, batches, more, kind, said) -> None:
    network = nets.chain().train()
    network.model.head.eval()
    with unchanged(network), pytest.raises(kind, match=re.escape(said)):
        analyze(network, batches, **more)


def test_a_plain_model_is_refused(known) -> None:
    with pytest.raises(MeasurementError, match=r"analyze received a Line: expected an adapted network, adapt\(model\)"):
        analyze(known.Line(), [])


def test_running_statistics_that_are_not_finite_are_named(nets, unchanged) -> None:
    network = nets.chain()
    network.skip_norms.get_submodule("blocks.2.norm").running_var[3] = torch.nan
    with (
        unchanged(network),
        pytest.raises(MeasurementError, match=r"norm 'blocks.2.norm' of sub-network FT has non-finite running"),
    ):
        analyze(network, [(X, Y)])


def test_features_that_are_not_finite_are_named(known) -> None:
    class Loud(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.zeros(1))

        def forward(self, h: Tensor) -> Tensor:
            return h + self.a * h

    network = known.network([[Loud()]], [[known.Scale(0.5)]], torch.randn(2, 2))
    network.model.register_forward_hook(lambda _, __, output: output.nan_to_num(0, 0, 0))
    network.forget_views()
    with torch.no_grad():
        network.model.blocks[0].a.fill_(torch.inf)
    with pytest.raises(MeasurementError, match=r"block 'blocks.0' returns non-finite numbers"):
        analyze(network, [(torch.ones(2, 2), torch.ones(2, 2))], criterion=known.linear)


def test_blocks_of_the_other_network_must_run_once_and_by_sample(known) -> None:
    network = known.scales([[0.0]], [[0.5]])
    batch = (torch.ones(3, 2), torch.ones(3, 2))

    class Twice(known.Line):
        def forward(self, x: Tensor) -> Tensor:
            return self.blocks(self.blocks(x))

    class Turned(known.Line):
        def forward(self, x: Tensor) -> Tensor:
            return self.blocks(x.T).T

    for model, said in ((Twice, "block 'blocks.0' ran 2 times"), (Turned, "'blocks.0' returns 2 rows for 3 samples")):
        with pytest.raises(MeasurementError, match=said):
            analyze(network, [batch], criterion=known.linear, compare=model(known.Scale(0.1), known.Scale(0.1)))
