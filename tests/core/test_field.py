"""Networks as bug reports have them: every depth is the hand-made one, or the plan is refused with the reason.

Each model here is four blocks `h + f(h)` between two linear layers; what differs is how the model reaches its blocks,
how it calls them, and what the blocks are made of.
"""

import contextvars
import copy
import functools
import io
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

import adaptive_depth as ad
from adaptive_depth.core.sharing import SharedForward


class Block(nn.Module):
    """h + linear(norm(h))."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(torch.relu(self.norm(x)))


class Model(nn.Module):
    """Runs its blocks as a class of its own says."""

    def __init__(self, block: Callable[[], nn.Module] = Block) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 8)
        self.blocks = nn.ModuleList(block() for _ in range(4))
        self.head = nn.Linear(8, 3)
        self.set_up()

    def set_up(self) -> None:
        pass

    def run(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.run(self.stem(x)))

    def by_hand(self, x: Tensor) -> Tensor:
        """Blocks 1 and 3 left out."""
        return self.head(self.blocks[2](self.blocks[0](self.stem(x))))


STAGES = [ad.Stage(("blocks.0",), ("blocks.1",)), ad.Stage(("blocks.2",), ("blocks.3",))]


def check(model: Any, stages: Any = None, example: bool = True, x: Tensor | None = None) -> ad.AdaptiveNetwork:
    """The super-net is the model, the base-net is the model by hand, from the network and extracted; weights stay."""
    x = torch.randn(2, 6, 3) if x is None else x
    model.eval()
    weights, expected = {name: value.clone() for name, value in model.state_dict().items()}, model.by_hand(x)
    network = ad.adapt(model, stages, example=x if example else None).eval()
    after = model.state_dict()
    assert weights.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in weights.items())
    assert torch.equal(network(x), model(x))
    torch.testing.assert_close(network(x, skip="TT"), expected)
    torch.testing.assert_close(network.extract("TT")(x), expected)
    for skip, output, _ in SharedForward(network).outputs(network.skips, x):
        torch.testing.assert_close(output, network(x, skip=skip))
    return network


# -- how a model reaches its blocks ------------------------------------------------------------------------------


class PlainList(Model):
    def set_up(self) -> None:
        self.order = list(self.blocks)

    def run(self, x: Tensor) -> Tensor:
        return functools.reduce(lambda h, block: block(h), self.order, x)


class Nested(Model):
    def set_up(self) -> None:
        self.flow = {"a": [(0, self.blocks[0]), (1, self.blocks[1])], "b": [(0, self.blocks[2]), (1, self.blocks[3])]}

    def run(self, x: Tensor) -> Tensor:
        for part in self.flow.values():
            for _, block in part:
                x = block(x)
        return x


class Slices(Model):
    def set_up(self) -> None:
        self.halves = {"first": self.blocks[:2], "second": self.blocks[2:]}

    def run(self, x: Tensor) -> Tensor:
        for half in self.halves.values():
            for block in half:
                x = block(x)
        return x


class BoundMethod(Model):
    def set_up(self) -> None:
        self.chosen = super().run

    def run(self, x: Tensor) -> Tensor:
        return self.chosen(x)


class Partial(Model):
    def set_up(self) -> None:
        self.chosen = functools.partial(super().run)

    def run(self, x: Tensor) -> Tensor:
        return self.chosen(x)


class Runner(nn.Module):
    """Keeps the blocks in a plain list, so they are none of its children."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.plain = [*blocks]

    def forward(self, x: Tensor) -> Tensor:
        for block in self.plain:
            x = block(x)
        return x


class ChildThatRuns(Model):
    def set_up(self) -> None:
        self.runner = Runner(self.blocks)

    def run(self, x: Tensor) -> Tensor:
        return self.runner(x)


class TwoContainers(Model):
    def set_up(self) -> None:
        self.encoder = nn.Sequential(*self.blocks)

    def run(self, x: Tensor) -> Tensor:
        return self.encoder(x)


@pytest.mark.parametrize("kind", [PlainList, Nested, Slices, BoundMethod, Partial, ChildThatRuns, TwoContainers])
@pytest.mark.parametrize("how", ["found", "by hand", "proven later"])
def test_blocks_that_are_reached_another_way(kind: type[Model], how: str) -> None:
    check(kind(), None if how == "found" else STAGES, example=how != "proven later")


class Closure(Model):
    def set_up(self) -> None:
        blocks = list(self.blocks)
        self.chosen = lambda x: functools.reduce(lambda h, block: block(h), blocks, x)

    def run(self, x: Tensor) -> Tensor:
        return self.chosen(x)


class Helper:
    def __init__(self, blocks: nn.ModuleList) -> None:
        self.blocks = blocks

    def __call__(self, x: Tensor) -> Tensor:
        return functools.reduce(lambda h, block: block(h), self.blocks, x)


class PlainObject(Model):
    def set_up(self) -> None:
        self.helper = Helper(self.blocks)

    def run(self, x: Tensor) -> Tensor:
        return self.helper(x)


class WeakReference(Model):
    def set_up(self) -> None:
        self.me = weakref.ref(self)

    def run(self, x: Tensor) -> Tensor:
        for block in self.me().blocks:  # type: ignore[union-attr]
            x = block(x)
        return x


class ForwardOfABlock(Model):
    def run(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block.forward(x)
        return x


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Closure, "ran in sub-network FT, which skips it, so the skip has no effect"),
        (PlainObject, "ran in sub-network FT, which skips it, so the skip has no effect"),
        (WeakReference, "ran in sub-network FT, which skips it, so the skip has no effect"),
        (ForwardOfABlock, "block 'blocks.0' ran 0 times"),
    ],
)
@pytest.mark.parametrize("example", [True, False])
def test_a_skip_that_does_not_skip_is_an_error(kind: type[Model], said: str, example: bool, unchanged) -> None:
    model, x = kind().eval(), torch.randn(2, 3)
    with unchanged(model), pytest.raises(ad.StagesError, match=said):
        ad.adapt(model, STAGES, example=x if example else None)(x, skip="TT")


def test_a_subclass_of_a_known_family_is_proven_on_its_first_input() -> None:
    from torchvision.models.resnet import BasicBlock, ResNet

    class Flow(ResNet):
        def __init__(self) -> None:
            super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=3)
            layers = [self.layer1, self.layer2, self.layer3, self.layer4]
            self.flow = lambda x: functools.reduce(lambda h, layer: layer(h), layers, x)

        def _forward_impl(self, x: Tensor) -> Tensor:
            x = self.flow(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
            return self.fc(torch.flatten(self.avgpool(x), 1))

    with pytest.raises(ad.StagesError, match="so the skip has no effect"):
        ad.adapt(Flow().eval())(torch.randn(1, 3, 32, 32))


# -- how a model calls its blocks --------------------------------------------------------------------------------


class Masked(Block):
    def __init__(self, kind: str = "full", window: float = 1.0) -> None:
        super().__init__()
        self.kind, self.inner = kind, nn.Module()
        self.inner.window = window

    @property
    def doubled(self) -> float:
        return 2 * self.inner.window

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        change = self.linear(self.norm(hidden))
        return hidden + (change if mask is None else change * mask)


class AnyArguments(Masked):
    def forward(self, *args: Tensor) -> Tensor:
        return super().forward(*args)


CALLS: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "an attribute": lambda block, x, mask: block(x, {"full": mask}[block.kind]),
    "an attribute of a child": lambda block, x, mask: block(x, mask * block.inner.window),
    "a property": lambda block, x, mask: block(x, mask * block.doubled),
    "a keyword": lambda block, x, mask: block(hidden=x),
    "keywords in another order": lambda block, x, mask: block(mask=mask, hidden=x),
    "a keyword behind": lambda block, x, mask: block(x, mask=mask),
}


class Called(Model):
    def __init__(self, call: Callable[[Any, Tensor, Tensor], Tensor], block: Callable[[], nn.Module] = Masked) -> None:
        super().__init__(block)
        self.call, self.mask = call, torch.arange(8.0) / 8

    def run(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = self.call(block, x, self.mask)
        return x

    def by_hand(self, x: Tensor) -> Tensor:
        for block in (self.blocks[0], self.blocks[2]):
            x = self.call(block, self.stem(x) if block is self.blocks[0] else x, self.mask)
        return self.head(x)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("stages", [None, STAGES], ids=["found", "by hand"])
def test_blocks_that_are_asked_and_called_in_many_ways(call: str, stages: Any) -> None:
    check(Called(CALLS[call]), stages)


def test_a_block_that_takes_any_arguments() -> None:
    check(Called(lambda block, x, mask: block(x, mask), AnyArguments))


def test_weights_of_a_skipped_block_cannot_be_read() -> None:
    model = Called(lambda block, x, mask: block(x, mask * block.linear.weight.mean()))
    with pytest.raises(ad.StagesError, match="no attribute 'weight'"):
        ad.adapt(model, STAGES, example=torch.randn(2, 3))


class ReturnsMore(Block):
    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        state = self.linear(x) if state is None else state + self.linear(x)
        return x + state, state


class Drops(Model):
    """What a block returns beside is dropped."""

    def run(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x, _ = block(x)
        return x

    def by_hand(self, x: Tensor) -> Tensor:
        return self.head(self.blocks[2](self.blocks[0](self.stem(x))[0])[0])


class Uses(Model):
    """What a block returns beside goes into the next."""

    def run(self, x: Tensor) -> Tensor:
        state = None
        for block in self.blocks:
            x, state = block(x, state)
        return x

    def by_hand(self, x: Tensor) -> Tensor:
        return self.head(self.blocks[2](*self.blocks[0](self.stem(x)))[0])


def test_a_value_that_the_model_drops_does_no_harm() -> None:
    network = check(Drops(ReturnsMore))
    assert {stage.returns for stage in network.stages} == {(0, None)}


def test_a_statement_of_an_input_that_there_is_not() -> None:
    with pytest.raises(ad.StagesError, match=r"returns=\(0, 9\) has an input that does not exist: it is called with 2"):
        ad.adapt(
            Uses(ReturnsMore), [ad.Stage(("blocks.0",), ("blocks.1",), returns=(0, 9))], example=torch.randn(2, 6, 3)
        )


def test_a_value_that_the_model_uses_can_be_stated_by_hand(unchanged) -> None:
    model = Uses(ReturnsMore)
    with (
        unchanged(model),
        pytest.raises(ad.StagesError, match=r"at place 1, so define what to return there .* returns=\.\.\."),
    ):
        ad.adapt(model, STAGES, example=torch.randn(2, 6, 3))
    check(model, [ad.Stage(stage.mandatory, stage.skippable, returns=(0, 1)) for stage in STAGES])


class Cached(Block):
    """Attends to what all blocks before it put into a cache."""

    def forward(self, x: Tensor, cache: list[Tensor]) -> Tensor:
        cache.append(self.norm(x))
        assert len(cache) < 6, "a cache that was asked before"
        return x + self.linear(torch.stack(cache).mean(0))


class MakesACache(Model):
    def run(self, x: Tensor) -> Tensor:
        cache = [x]
        for block in self.blocks:
            x = block(x, cache)
        return x

    def by_hand(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        cache = [x]
        return self.head(self.blocks[2](self.blocks[0](x, cache), cache))


VARIABLE: contextvars.ContextVar[float] = contextvars.ContextVar("of a test")


class Reads(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + VARIABLE.get() * self.linear(self.norm(x))


class SetsAVariable(Model):
    def run(self, x: Tensor) -> Tensor:
        token = VARIABLE.set(0.5)
        try:
            return super().run(x)
        finally:
            VARIABLE.reset(token)

    def by_hand(self, x: Tensor) -> Tensor:
        token = VARIABLE.set(0.5)
        try:
            return super().by_hand(x)
        finally:
            VARIABLE.reset(token)


class Autocasts(Model):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x)

    def by_hand(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().by_hand(x)


@pytest.mark.parametrize("stages", [None, STAGES], ids=["found", "by hand"])
def test_a_block_is_asked_in_the_context_of_its_call(stages: Any) -> None:
    check(SetsAVariable(Reads), stages)
    with torch.no_grad():
        check(Autocasts(), stages)


class Store:
    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def append(self, x: Tensor) -> None:
        self.kept.append(x)

    def __len__(self) -> int:
        return len(self.kept) + 1

    def __iter__(self):
        return iter(self.kept)


class CachedInAnObject(Block):
    def forward(self, x: Tensor, store: Store) -> Tensor:
        store.append(self.norm(x))
        assert len(store) < 6, "a cache that was asked before"
        return x + self.linear(torch.stack([*store]).mean(0))


class MakesAnObject(MakesACache):
    def run(self, x: Tensor) -> Tensor:
        store = Store()
        for block in self.blocks:
            x = block(x, store)
        return x

    def by_hand(self, x: Tensor) -> Tensor:
        store = Store()
        return self.head(self.blocks[2](self.blocks[0](self.stem(x), store), store))


@pytest.mark.parametrize(("model", "block"), [(MakesACache, Cached), (MakesAnObject, CachedInAnObject)])
def test_a_live_cache_is_not_asked_twice(model: type[Model], block: type[Block]) -> None:
    check(model(block))
    check(model(block), STAGES)


# -- what blocks are made of -------------------------------------------------------------------------------------


class TwoPlaces(Block):
    """Its layers are attributes, and in a Sequential too."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(self.norm, nn.ReLU(), self.linear)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)


class Two(nn.Module):
    """h + second(first(h)), both wrapped."""

    def __init__(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.first, self.second = wrap(nn.Linear(8, 8)), wrap(nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(x)))


class OwnNorm(nn.Module):
    """Divides its weight by its norm itself, which is 0 / 0 for a weight of noughts."""

    def __init__(self) -> None:
        super().__init__()
        self.v, self.scale = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + F.linear(x, self.scale * self.v / self.v.norm())


class Fourier(nn.Module):
    """norm(h + FFT(h)), then norm(h + mlp(h)): the mixing has no weights."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + torch.fft.fft2(x).real)
        return self.norm2(x + self.mlp(x))


MADE_OF: dict[str, Callable[[], nn.Module]] = {
    "layers at two places": TwoPlaces,
    "weight norm": lambda: Two(parametrizations.weight_norm),
    "old weight norm": lambda: Two(old_weight_norm),  # type: ignore[arg-type]
    "spectral norm": lambda: Two(parametrizations.spectral_norm),
    "old spectral norm": lambda: Two(old_spectral_norm),  # type: ignore[arg-type]
    "orthogonal weights": lambda: Two(parametrizations.orthogonal),
    "pruned weights": lambda: Two(lambda layer: prune.l1_unstructured(layer, "weight", 0.5)),
    "a norm of its own": OwnNorm,
    "mixing without weights": Fourier,
}


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", MADE_OF)
@pytest.mark.parametrize("stages", [None, STAGES], ids=["found", "by hand"])
def test_what_blocks_are_made_of(name: str, stages: Any) -> None:
    check(Model(MADE_OF[name]), stages)


def test_a_network_that_is_pruned_after_it_was_adapted_is_extracted() -> None:
    network, x = check(Model()), torch.randn(2, 6, 3)
    for part in [part for part in network.model.modules() if isinstance(part, nn.Linear)]:
        prune.l1_unstructured(part, "weight", 0.5)
    network(x)  # the weights have a history now, which no deep copy takes
    extracted = network.extract("TT")
    torch.testing.assert_close(extracted(x), network(x, skip="TT"))
    assert len(list(extracted.buffers())) < len(list(network.model.buffers()))  # no mask of a skipped block


class Scripted8(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.linear(x))


class HoldsAScript(Block):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.jit.script(Scripted8())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(self.inner(self.norm(x)))


def test_blocks_with_scripted_parts_and_compiled_blocks() -> None:
    check(Model(HoldsAScript))
    model = Model()
    for number, block in enumerate(model.blocks):
        model.blocks[number] = torch.compile(block, backend="eager")  # type: ignore[assignment]
    with torch.no_grad():
        check(model, STAGES)


def test_a_scripted_block_is_refused(unchanged) -> None:
    model = Model(lambda: torch.jit.script(Scripted8()))
    with pytest.raises(ad.StagesError, match=r"block 'blocks.0' is a ScriptModule.*adapt the model first"):
        ad.adapt(model, STAGES)


class Unrelated(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.relu(x))


def test_who_knows_better_than_the_proof_may_say_so(unchanged) -> None:
    model, x = Model(Unrelated), torch.randn(2, 3)
    with (
        unchanged(model),
        pytest.raises(ad.StagesError, match=r"does not add to its input.*Stage\(\.\.\., residual=False\)"),
    ):
        ad.adapt(model, STAGES, example=x)
    stated = [ad.Stage(stage.mandatory, stage.skippable, residual=False) for stage in STAGES]
    network = check(model, stated)
    assert ad.Stages.from_json(network.stages.to_json()) == network.stages


# -- looking changes nothing -------------------------------------------------------------------------------------


class Remembers(Block):
    """Counts, keeps, draws, and changes a buffer, also in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.kept, self.table = 0, [], {}
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.kept.append(x)
        self.table[x.shape[-1]] = torch.rand(1)
        self.seen += 1
        self.late = x
        return super().forward(x)


class Merges(nn.Linear):
    """Adapters that are merged into the weight for evaluation."""

    merged = False

    def train(self, mode: bool = True) -> "Merges":
        if self.merged == mode:
            self.weight.data += 1 / 3 if not mode else -1 / 3
            self.merged = not mode
        return super().train(mode)


class Merging(Block):
    def __init__(self) -> None:
        super().__init__()
        self.linear = Merges(8, 8)


def facts(model: nn.Module) -> dict[str, Any]:
    """Everything that a module keeps, by value where it is a tensor and by identity else."""
    found: dict[str, Any] = {}
    for path, part in model.named_modules():
        for name, value in vars(part).items():
            inside = tuple(value) if isinstance(value, list | dict) else value
            found[f"{path}:{name}"] = inside.clone() if isinstance(inside, Tensor) else inside
    return found | {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("block", [Remembers, Merging, TwoPlaces, Unrelated])
@pytest.mark.parametrize("training", [True, False])
def test_looking_at_a_model_changes_nothing_in_it(block: type[Block], training: bool) -> None:
    model, x = Model(block).train(training), torch.randn(2, 3)
    before, generator = facts(model), torch.get_rng_state()
    try:
        ad.find_stages(model, x)
    except ad.StagesError:
        assert block is Unrelated
    after = facts(model)
    assert before.keys() == after.keys()
    for name, value in before.items():
        same = torch.equal(value, after[name]) if isinstance(value, Tensor) else value == after[name]
        assert same, name
    assert torch.equal(generator, torch.get_rng_state())


def test_looking_leaves_what_model_and_blocks_share_as_it_was() -> None:
    class Logs(Block):
        shared: dict[str, list[int]]

        def forward(self, x: Tensor) -> Tensor:
            self.shared["log"].append(1)
            return super().forward(x)

    model = Model(Logs)
    log: dict[str, list[int]] = {"log": []}
    for part in (model, *model.blocks):
        part.shared = log  # type: ignore[assignment]
    ad.find_stages(model, torch.randn(2, 3))
    assert log == {"log": []}


def test_a_network_that_is_adapted_in_inference_mode_can_be_trained() -> None:
    models = [Model(), Model()]
    x = torch.randn(2, 3)
    for stages in (None, STAGES):
        with torch.inference_mode():
            network = ad.adapt(models.pop(), stages, example=torch.randn(2, 3))
        network.train()(x, skip="TT").sum().backward()


def test_the_example_is_not_changed() -> None:
    class InPlace(Model):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.relu_())

    x = torch.randn(2, 3)
    before = x.clone()
    ad.adapt(InPlace(), example=x)
    ad.adapt(InPlace(), STAGES, example=x)
    assert torch.equal(x, before)


class Collects(Model):
    """A hook inside each block puts what it returned into a dict outside of the model."""

    def set_up(self) -> None:
        self.store = (store := {})
        for number, block in enumerate(self.blocks):
            block.linear.register_forward_hook(lambda _, __, output, n=number: store.__setitem__(n, output))
        self.collected = lambda: [store[number] for number in range(4)]

    def forward(self, x: Tensor) -> Any:
        self.run(self.stem(x))
        return self.collected()


def test_what_an_earlier_run_left_behind_is_not_returned() -> None:
    with pytest.raises(ad.StagesError, match=r"returns a tensor .* from an earlier run"):
        ad.adapt(Collects().eval(), STAGES, example=torch.randn(2, 3))


# -- ways out ----------------------------------------------------------------------------------------------------


class Scripted(Model):
    """TorchScript reads it, with a call by keyword and an optional input."""

    def __init__(self) -> None:
        super().__init__(Masked)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, mask=mask)
        return self.head(x)


def test_every_depth_can_be_scripted_traced_exported_and_pickled() -> None:
    import inspect

    model, x = Scripted().eval(), torch.randn(2, 3)
    network = ad.adapt(model, example=x).eval()
    for skip in network.skips:
        expected = network(x, skip=skip)
        for module in (network.subnet(skip), network.extract(skip)):
            assert torch.equal(torch.jit.script(module)(x), expected)
            assert torch.equal(torch.jit.trace(module, x)(x), expected)
            assert torch.equal(torch.fx.symbolic_trace(module, concrete_args={"mask": None})(x, None), expected)
            torch.testing.assert_close(torch.export.export(module, (x,)).module()(x), expected)
            assert torch.equal(copy.deepcopy(module)(x), expected)
            buffer = io.BytesIO()
            torch.save(module, buffer)
            buffer.seek(0)
            assert torch.equal(torch.load(buffer, weights_only=False)(x), expected)
            assert inspect.signature(module.forward) == inspect.signature(model.forward)
