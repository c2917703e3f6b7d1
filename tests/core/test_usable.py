"""All depths but those that cannot be used by themselves: an Lfm2 whose attention stands in one skippable layer."""

import warnings
from typing import Any

import pytest
import torch

import adaptive_depth as ad
from adaptive_depth.core.usable import usable
from adaptive_depth.errors import DepthError, DepthsLeftOut

transformers = pytest.importorskip("transformers")
SIZES: dict[str, Any] = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
TOKENS = torch.arange(3, 19).view(2, 8)
REASON = "Lfm2ForCausalLM does not run with only these layers"


@pytest.fixture
def network(nets: Any) -> ad.AdaptiveNetwork:
    return nets.one_attention()


def test_depths_without_attention_are_left_out_in_one_line(network: ad.AdaptiveNetwork) -> None:
    with pytest.warns(DepthsLeftOut, match=rf"^Left out: TF, TT \({REASON} .*\)\.$") as found:
        left, reasons = usable(network, network.skips)
    assert (left, list(reasons), len(found)) == (["FF", "FT"], ["TF", "TT"], 1)
    with pytest.raises(ad.StagesError, match=f"sub-network TF cannot be a separate Lfm2ForCausalLM: {REASON}"):
        network.subnet("TF")


def test_where_all_can_be_used_nothing_is_said(nets: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert usable(nets.resnet(), ("FFFF", "TTTT")) == (["FFFF", "TTTT"], {})


class ByPlace(transformers.LlamaForCausalLM):
    """Its class makes other numbers with fewer layers, at every depth."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for number, layer in enumerate(self.model.layers):
            layer.depth = number / len(self.model.layers)


def test_a_reason_of_the_model_is_an_error() -> None:
    network = ad.adapt(ByPlace(transformers.LlamaConfig(**SIZES, num_hidden_layers=6)).eval())
    assert len(network.skips) == 4
    with pytest.raises(DepthError, match="with fewer layers, its class sets depth of model"):
        usable(network, network.skips)


def test_compiling_leaves_such_a_depth_inside_the_network(network: ad.AdaptiveNetwork) -> None:
    expected = network(TOKENS, use_cache=False, skip="TT").logits
    network.compile(backend="eager")
    torch.testing.assert_close(network(TOKENS, use_cache=False, skip="TT").logits, expected)
