"""Networks of the library transformers, called with their own keyword inputs."""

import copy
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import adaptive_depth as ad
from adaptive_depth.core.sharing import SharedForward

PAGE = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "models.py"))
CUTS = {
    "ResNet": [(1, 1), (2, 1), (2, 1), (1, 1)],
    "ViT": [(2, 1)] * 4,
    "Swin": [(1, 1), (1, 1), (3, 3)],
    "ConvNext": [(2, 1), (2, 1), (5, 4), (2, 1)],
    "Dinov2": [(2, 1)] * 4,
    "Bert": [(2, 1)] * 4,
    "DistilBert": [(1, 1)] * 3,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", CUTS)
def test_every_depth_of_a_model_of_transformers(kind: str) -> None:
    pytest.importorskip("transformers")
    model, inputs = PAGE["hugging_face"](kind)
    with torch.no_grad():
        whole = model(**inputs).logits
    network = ad.adapt(model, example=inputs).eval()
    assert [(len(stage.mandatory), len(stage.skippable)) for stage in network.stages] == CUTS[kind]
    with torch.no_grad():
        assert torch.equal(network(**inputs).logits, whole)
        outputs = [network(**inputs, skip=skip).logits for skip in network.skips]
        assert all(torch.isfinite(output).all() and output.shape == whole.shape for output in outputs)
        assert all(not torch.equal(a, b) for i, a in enumerate(outputs) for b in outputs[:i])
        base = network.skips[-1]
        assert torch.equal(network.extract(base)(**inputs).logits, outputs[-1])


SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FIVE = {**SMALL, "num_hidden_layers": 5}  # of a causal language model the last one is protected
MIXED = {"layer_types": ["sliding_attention", "full_attention"] * 2 + ["full_attention"], "sliding_window": 4}
DECODERS: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {"sliding_window": 4},
    "Falcon": {},
    "Gemma2": {"head_dim": 8, **MIXED},
    "Qwen2": {"use_sliding_window": True, **MIXED},
    "GPTNeoX": {},
}


@pytest.mark.parametrize("cut", ["groups", "measured"])
def test_a_language_model_of_two_layers_has_none_to_skip(cut: str) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SMALL, "num_hidden_layers": 2})).eval()
    example = torch.arange(3, 11)[None]
    with pytest.raises(ad.StagesError, match="LlamaForCausalLM has 2 layers: expected 3 or more, because"):
        ad.adapt(model, example=example, cut=cut)
    stage = ad.Stage(("model.layers.0",), ("model.layers.1",), norms=())
    assert ad.adapt(model, [stage], example=example).skips == ("F", "T")  # which the error names


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_with_the_cache_that_is_their_default(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(**FIVE, **DECODERS[name])
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    tokens = torch.randint(3, 50, (2, 8))
    mask = torch.ones_like(tokens)
    mask[0, :2] = 0
    inputs = {"input_ids": tokens, "attention_mask": mask}
    network = ad.adapt(model, example=inputs).eval()
    assert [(len(stage.mandatory), len(stage.skippable)) for stage in network.stages] == [(1, 1), (1, 1)]
    assert network.stages[-1].blocks[-1].endswith(".3")
    assert not any(stage.norms for stage in network.stages)
    assert torch.equal(network(**inputs).logits, model(**inputs).logits)


def test_padding_and_a_cache_against_a_model_of_three_layers() -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**FIVE)).eval()
    three = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SMALL, "num_hidden_layers": 3})).eval()
    left_out = ("layers.1.", "layers.3.")
    weights = {name: value for name, value in model.state_dict().items() if not any(out in name for out in left_out)}
    moved = {name.replace("layers.2.", "layers.1."): value for name, value in weights.items()}
    three.load_state_dict({name.replace("layers.4.", "layers.2."): value for name, value in moved.items()})
    tokens = torch.randint(3, 50, (2, 6))
    mask = torch.ones_like(tokens)
    mask[0, :2] = 0
    inputs = {"input_ids": tokens, "attention_mask": mask}
    network = ad.adapt(model, example=inputs).eval()
    torch.testing.assert_close(network(**inputs, skip="TT").logits, three(**inputs).logits)


@pytest.mark.parametrize("known", [True, False], ids=["in the example", "later"])
def test_hidden_states_keep_their_indices(known: bool) -> None:
    """Entry k is what block k handed on, at every depth and afterwards in the model itself."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(**{k: v for k, v in SMALL.items() if k != "num_key_value_heads"})
    model, inputs = transformers.BertModel(config).eval(), {"input_ids": torch.randint(3, 50, (2, 6))}
    asked = {**inputs, "output_hidden_states": True}
    network = ad.adapt(model, example=asked if known else inputs).eval()
    whole = model(**asked).hidden_states
    assert len(whole) == 5
    for skip in network.skips:
        found = network(**asked, skip=skip).hidden_states
        assert len(found) == 5
        for number, flag in ((2, skip[0]), (4, skip[1])):
            assert torch.equal(found[number], found[number - 1]) == (flag == "T")
    assert all(torch.equal(a, b) for a, b in zip(model(**asked).hidden_states, whole, strict=True))


def decoder(kind: str) -> ad.AdaptiveNetwork:
    """A language model of four blocks and two stages, which makes a cache in each forward."""
    transformers = pytest.importorskip("transformers")
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    if kind == "Llama":
        config = transformers.LlamaConfig(
            vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=4, num_attention_heads=2, **ends
        )
        model, blocks = transformers.LlamaForCausalLM(config), "model.layers"
    else:
        config = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=4, n_head=2, n_positions=32, **ends)
        model, blocks = transformers.GPT2LMHeadModel(config), "transformer.h"
    stages = [ad.Stage((f"{blocks}.{n}",), (f"{blocks}.{n + 1}",), channel_dim=-1) for n in (0, 2)]
    return ad.adapt(model.eval(), stages, example={"input_ids": torch.arange(6)[None], "use_cache": False}).eval()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["Llama", "GPT2"])
def test_a_cache_holds_what_each_sub_network_put_into_it(kind: str) -> None:
    """Behind the second stage's branch the first stage's blocks do not run again, and would leave the cache empty."""
    network, x = decoder(kind), {"input_ids": torch.randint(3, 50, (2, 6)), "use_cache": True}

    def cached(output) -> list[torch.Tensor]:
        layers = [layer for layer in output.past_key_values.layers if layer.keys is not None]
        return [tensor for layer in layers for tensor in (layer.keys, layer.values)]

    with torch.no_grad():
        for skip, output, _ in SharedForward(network).outputs(network.skips, **x):
            alone = network(**x, skip=skip)
            assert torch.equal(output.logits, alone.logits)
            assert len(cached(output)) == len(cached(alone)) == 2 * (4 - skip.count("T"))
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(cached(output), cached(alone), strict=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("form", ["call", "backward"])
@pytest.mark.parametrize("kind", ["Llama", "GPT2"])
def test_a_decoder_with_a_cache_learns_what_its_sub_networks_learn_one_by_one(kind: str, form: str) -> None:
    network = decoder(kind).train()
    for part in network.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    plain, x, y = copy.deepcopy(network), torch.randint(3, 50, (2, 6)), torch.randint(50, (2, 6))

    def logits(output) -> torch.Tensor:
        return output.logits.transpose(1, 2)

    class Tokens(ad.tasks.Classification):
        def output(self, output):
            return output if isinstance(output, torch.Tensor) else logits(output)

    batch = {"input_ids": x, "use_cache": True}
    objective = ad.SelfDistillation(network, Tokens())
    if form == "call":
        objective(batch, y).total.backward()
    else:
        objective.backward(batch, y)
    teacher, student = (logits(plain.subnet(skip)(**batch)) for skip in ("FF", "TT"))
    logs = F.log_softmax(teacher.detach(), 1), F.log_softmax(student, 1)
    (F.cross_entropy(teacher, y) + F.kl_div(logs[1], logs[0], reduction="sum", log_target=True) / y.numel()).backward()
    for (name, ours), theirs in zip(network.named_parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_attentions_of_a_depth_have_no_index(unchanged) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(**{k: v for k, v in SMALL.items() if k != "num_key_value_heads"})
    config._attn_implementation = "eager"
    model, asked = transformers.BertModel(config).eval(), {"input_ids": torch.randint(3, 50, (2, 6))}
    network = ad.adapt(model, example=asked).eval()
    asked["output_attentions"] = True
    assert len(network(**asked).attentions) == 4
    with pytest.raises(ad.StagesError, match="attentions of sub-network TT has 2 entries but the model has 4 layers"):
        network(**asked, skip="TT")
    assert len(network.subnet("TT")(**asked).attentions) == 2
