"""Networks of the library transformers, called with their own keyword inputs."""

import copy
import runpy
from pathlib import Path

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
