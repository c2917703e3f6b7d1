"""Networks of the library transformers, called with their own keyword inputs."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

import adaptive_depth as ad

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
MIXED = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 4}
DECODERS: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {"sliding_window": 4},
    "Falcon": {},
    "Gemma2": {"head_dim": 8, **MIXED},
    "Qwen2": {"use_sliding_window": True, **MIXED},
    "GPTNeoX": {},
}


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_with_the_cache_that_is_their_default(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(**SMALL, **DECODERS[name])
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    tokens = torch.randint(3, 50, (2, 8))
    mask = torch.ones_like(tokens)
    mask[0, :2] = 0
    inputs = {"input_ids": tokens, "attention_mask": mask}
    network = ad.adapt(model, example=inputs).eval()
    assert [(len(stage.mandatory), len(stage.skippable)) for stage in network.stages] == [(1, 1), (1, 1)]
    assert torch.equal(network(**inputs).logits, model(**inputs).logits)


def test_padding_and_a_cache_against_a_model_of_two_layers() -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)).eval()
    two = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SMALL, "num_hidden_layers": 2})).eval()
    left_out = ("layers.1.", "layers.3.")
    weights = {name: value for name, value in model.state_dict().items() if not any(out in name for out in left_out)}
    two.load_state_dict({name.replace("layers.2.", "layers.1."): value for name, value in weights.items()})
    tokens = torch.randint(3, 50, (2, 6))
    mask = torch.ones_like(tokens)
    mask[0, :2] = 0
    inputs = {"input_ids": tokens, "attention_mask": mask}
    network = ad.adapt(model, example=inputs).eval()
    torch.testing.assert_close(network(**inputs, skip="TT").logits, two(**inputs).logits)


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
