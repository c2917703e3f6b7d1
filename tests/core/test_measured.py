"""A cut by what predictions lose without each layer."""

import itertools
from typing import Any

import pytest
import torch
from torch import nn

import adaptive_depth as ad
from adaptive_depth.core.measured import costs_of_layers

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def llama(layers: int = 7) -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=layers, num_attention_heads=2
    )
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for number, layer in enumerate(model.model.layers):  # some matter, some hardly
            scale = (1.0, 0.4, 0.02, 0.5, 0.03, 0.01, 0.2, 0.3, 0.01)[number]
            for parameter in layer.parameters():
                parameter += scale * torch.randn_like(parameter)
    return model


TOKENS = torch.randint(3, 64, (2, 9), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def expected_costs(model: Any) -> list[float]:
    """By hand: the layer taken out of the list, and the mean over all tokens of sum p log(p / q)."""
    layers, costs = model.model.layers, []
    p = model(TOKENS, use_cache=False).logits.softmax(-1)
    for number in range(len(layers)):
        model.model.layers = nn.ModuleList(layer for place, layer in enumerate(layers) if place != number)
        model.config.num_hidden_layers = len(layers) - 1
        q = model(TOKENS, use_cache=False).logits.softmax(-1)
        costs.append(float((p * (p / q).log()).sum(-1).mean()))
    model.model.layers = layers
    model.config.num_hidden_layers = len(layers)
    return costs


def test_costs_are_divergences(unchanged) -> None:
    model = llama()
    expected = expected_costs(model)
    paths = [f"model.layers.{number}" for number in range(7)]
    with unchanged(model):
        found = costs_of_layers(model.train(), paths, (), {"input_ids": TOKENS, "use_cache": False})
        assert model.training
        model.eval()
    assert list(found) == paths
    assert list(found.values()) == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("layers", [6, 7, 9])
def test_the_cut_is_the_cheapest_of_all_with_the_last_layer_protected(layers: int) -> None:
    model = llama(layers)
    costs = expected_costs(model)
    usual = ad.find_stages(model)
    stages = ad.find_stages(model, TOKENS, cut="measured")
    skipped = [int(path.rpartition(".")[2]) for stage in stages for path in stage.skippable]
    number = sum(len(stage.skippable) for stage in usual)
    assert len(stages) == len(usual)
    assert len(skipped) == number
    assert layers - 1 not in {int(path.rpartition(".")[2]) for stage in stages for path in stage.blocks}
    fitting = []
    for chosen in itertools.combinations(range(1, layers - 1), number):
        stretches = 1 + sum(b - a > 1 for a, b in itertools.pairwise(chosen))
        lengths = [
            len(list(group)) for _, group in itertools.groupby(enumerate(chosen), lambda pair: pair[1] - pair[0])
        ]
        if stretches == len(usual) and max(lengths) <= -(-3 * number // (2 * len(usual))):
            fitting.append((sum(costs[one] for one in chosen), list(chosen)))
    assert skipped == min(fitting)[1]
    for stage in stages:
        numbers = [int(path.rpartition(".")[2]) for path in stage.blocks]
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert stage.norms == ()
    network = ad.adapt(model, example=TOKENS, cut="measured").eval()
    assert network.stages == stages
    assert network.subnet(network.skips[-1]).config.num_hidden_layers == layers - number


def test_of_images_too(nets) -> None:
    x = torch.randn(4, 3, 8, 8)
    network = ad.adapt(nets.Transformer(), example=x, cut="measured").eval()
    assert sum(len(stage.skippable) for stage in network.stages) == sum(
        len(stage.skippable) for stage in ad.find_stages(nets.Transformer(), x)
    )
    assert all(stage.norms for stage in network.stages)
    assert network(x, skip=network.skips[-1]).shape == (4, 5)


def test_what_it_cannot_be_asked_of(nets) -> None:
    with pytest.raises(ad.StagesError, match="cut='best': expected 'groups' or 'measured'"):
        ad.find_stages(nets.Transformer(), torch.randn(1, 3, 8, 8), cut="best")
    with pytest.raises(ad.StagesError, match="cut='measured' measures how much predictions need each block: pass data"):
        ad.find_stages(llama(), cut="measured")
    with pytest.raises(ad.StagesError, match="needs one run of layers of one shape, but ResNet already has 4"):
        ad.find_stages("resnet18", torch.randn(1, 3, 64, 64), cut="measured")
    with pytest.raises(ad.StagesError, match=r"stages were given, so there is nothing to split: leave out .* cut"):
        ad.adapt(nets.Transformer(), [ad.Stage(("blocks.0",), ("blocks.1",))], cut="measured")

    class Features(nets.Transformer):
        def forward(self, x):
            return super().forward(x)[:, :, None, None]

    with pytest.raises(ad.StagesError, match=r"compares predictions, but \w+ returned Tensor: expected logits"):
        ad.find_stages(Features(), torch.randn(1, 3, 8, 8), cut="measured")
