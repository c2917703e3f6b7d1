"""Sub-networks of models of transformers, against models that are built by hand with the layers that are left."""

import copy
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import adaptive_depth as ad
from adaptive_depth.language import generate

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning"
)

LAYERS = 6
BASE = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT = {"vocab_size": 64, "n_embd": 16, "n_layer": LAYERS, "n_head": 2, "n_positions": 64}
GPT |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
PAIR = {name: value for name, value in BASE.items() if "hidden" not in name} | {"d_model": 16}
BART = PAIR | {f"{part}_attention_heads": 2 for part in ("encoder", "decoder")}
BART |= {f"{part}_ffn_dim": 24 for part in ("encoder", "decoder")}
BART |= {f"{part}_layers": LAYERS for part in ("encoder", "decoder")}
MIXED = {"layer_types": ["sliding_attention", "full_attention"] * 3, "sliding_window": 5}
THIRDS = {"layer_types": (["sliding_attention"] * 2 + ["full_attention"]) * 2, "sliding_window": 5}
CAUSAL, ENCODER, HALVES = [(1, 1), (2, 1)], [(1, 1)] * 3, [(3, 3)] * 2


@dataclass(frozen=True)
class Family:
    """How to build one, and how to say in its config which layers it has.

    Attributes:
        model: the class of transformers.
        config: the fields of its config.
        lengths: the field that says how long a list of layers is, by what the path of the list contains.
        by_layer: fields with an entry a layer, and what they are where the config leaves them out.
        cut: mandatory and skippable layers of each stage.
    """

    model: str
    config: dict[str, Any]
    lengths: dict[str, str] = field(default_factory=lambda: {"": "num_hidden_layers"})
    by_layer: dict[str, list[Any]] = field(default_factory=dict)
    cut: list[tuple[int, int]] = field(default_factory=lambda: CAUSAL)


def causal(name: str, by_layer: dict[str, list[Any]] | None = None, **more: Any) -> Family:
    given = {name: value for name, value in more.items() if name == "layer_types"}
    return Family(f"{name}ForCausalLM", BASE | more, by_layer=given | (by_layer or {}))


def encoder(name: str, by_layer: dict[str, list[Any]] | None = None, **more: Any) -> Family:
    return Family(f"{name}ForMaskedLM", BASE | more, by_layer=by_layer or {}, cut=ENCODER)


HALF = {"encoder": "encoder_layers", "decoder": "decoder_layers"}
FAMILIES = {
    "Llama": causal("Llama"),
    "Qwen2": causal("Qwen2"),
    "Qwen2 mixed": causal("Qwen2", use_sliding_window=True, **MIXED),
    "Qwen3": causal("Qwen3"),
    "Qwen3 mixed": causal("Qwen3", use_sliding_window=True, **MIXED),
    "Mistral": causal("Mistral", sliding_window=5),
    "Gemma": causal("Gemma", head_dim=8),
    "Gemma2": causal("Gemma2", head_dim=8, **MIXED),
    "Gemma3": causal("Gemma3", head_dim=8, **THIRDS),
    "Phi": causal("Phi"),
    "Phi3": causal("Phi3"),
    "SmolLM3": causal("SmolLM3", {"no_rope_layers": [1, 1, 1, 0, 1, 1], "layer_types": ["full_attention"] * LAYERS}),
    "StableLm": causal("StableLm"),
    "Olmo": causal("Olmo"),
    "Olmo2": causal("Olmo2"),
    "Granite": causal("Granite"),
    "Cohere": causal("Cohere"),
    "GPT2": Family("GPT2LMHeadModel", GPT, {"": "n_layer"}),
    "GPTNeoX": causal("GPTNeoX"),
    "GPTJ": Family("GPTJForCausalLM", GPT | {"rotary_dim": 4}, {"": "n_layer"}),
    "OPT": causal("OPT", ffn_dim=24, word_embed_proj_dim=16),
    "Bloom": causal("Bloom"),
    "Falcon": causal("Falcon"),
    "Mixtral": causal("Mixtral", num_local_experts=4),
    "Qwen2Moe": causal(
        "Qwen2Moe",
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=8,
    ),
    "Mamba": causal("Mamba", state_size=4),
    "Mamba2": causal("Mamba2", state_size=4, num_heads=4, head_dim=8, n_groups=1),
    "Lfm2": causal("Lfm2", layer_types=["conv", "full_attention"] * 3),
    "RecurrentGemma": causal(
        "RecurrentGemma",
        {"block_types": ["recurrent", "recurrent", "attention"] * 2},
        lru_width=16,
        attention_window_size=8,
    ),
    "Bert": encoder("Bert"),
    "Roberta": encoder("Roberta", max_position_embeddings=70),
    "DebertaV2": encoder("DebertaV2"),
    "ModernBert": encoder("ModernBert", {"layer_types": ["full_attention", *["sliding_attention"] * 2] * 2}),
    "Electra": encoder("Electra", embedding_size=16),
    "T5": Family(
        "T5ForConditionalGeneration",
        PAIR
        | {"d_kv": 8, "d_ff": 24, "num_layers": LAYERS, "num_decoder_layers": LAYERS, "num_heads": 2}
        | {"decoder_start_token_id": 0},
        {"encoder": "num_layers", "decoder": "num_decoder_layers"},
        cut=[(3, 2)] * 2,  # the first layer makes the table of positions that the others take
    ),
    "Bart": Family(
        "BartForConditionalGeneration",
        BART | {"decoder_start_token_id": 2, "forced_eos_token_id": None},
        HALF,
        cut=HALVES,
    ),
    "Whisper": Family(
        "WhisperForConditionalGeneration",
        BART
        | {"num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 64, "decoder_start_token_id": 1}
        | {"suppress_tokens": None, "begin_suppress_tokens": None},
        HALF,
        cut=HALVES,
    ),
}
WRITING = [name for name, family in FAMILIES.items() if family.cut != ENCODER]
DECODERS = [name for name, family in FAMILIES.items() if family.cut == CAUSAL]
MODES: dict[str, dict[str, Any]] = {
    "sampled": {"do_sample": True},
    "beams": {"num_beams": 3},
    "no cache": {"use_cache": False},
    "static": {"cache_implementation": "static", "disable_compile": True},
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(before)


def build(family: Family, **more: Any) -> Any:
    torch.manual_seed(0)
    kind = getattr(transformers, family.model)
    return kind(kind.config_class(**family.config | more)).eval()


def shaken(module: nn.Module) -> nn.Module:
    """Other weights everywhere, also in norms, so that no two layers or norms can be confused."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return module


@lru_cache(maxsize=4)
def network_of(name: str) -> ad.AdaptiveNetwork:
    """Adapted by the model alone; tests leave it as it is."""
    return shaken(ad.adapt(build(FAMILIES[name]))).eval()


def hand_built(name: str, network: ad.AdaptiveNetwork, skip: str) -> Any:
    """The model with a config of its own for the layers that run, which has their weights under its own numbers."""
    family, weights, gone = FAMILIES[name], network.model.state_dict(), set()
    for stage, flag in zip(network.stages, skip, strict=True):
        if flag == "T":
            gone |= set(stage.skippable)
            for norm in stage.norms:
                doubled = network.skip_norms.get_submodule(norm).state_dict()
                weights |= {f"{norm}.{which}": value for which, value in doubled.items()}
    kept, more = {}, {}
    for holder in {block.rpartition(".")[0] for stage in network.stages for block in stage.blocks}:
        kept[holder] = [number for number in range(LAYERS) if f"{holder}.{number}" not in gone]
        (length,) = (name for part, name in family.lengths.items() if part in holder)
        more[length] = len(kept[holder])
    if family.by_layer:
        (numbers,) = kept.values()
        more |= {name: [values[number] for number in numbers] for name, values in family.by_layer.items()}
    renamed = {}
    for key, value in weights.items():
        holder, number, rest = (re.fullmatch(r"(.*?\.)(\d+)\.(.*)", key) or re.match("()()()", key)).groups()
        if holder.removesuffix(".") in kept:
            numbers = kept[holder.removesuffix(".")]
            if int(number) not in numbers:
                continue
            key = f"{holder}{numbers.index(int(number))}.{rest}"
        renamed[key] = value
    model = build(family, **more)
    model.load_state_dict(renamed)
    return model


def tokens(rows: int = 2, length: int = 12) -> torch.Tensor:
    return torch.randint(5, 64, (rows, length), generator=torch.Generator().manual_seed(3))


def inputs_of(name: str) -> dict[str, torch.Tensor]:
    if name == "Whisper":
        sound = torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(4))
        return {"input_features": sound, "decoder_input_ids": tokens(length=6)}
    more = {"decoder_input_ids": tokens(length=6)} if name in ("T5", "Bart") else {}
    return {"input_ids": tokens(), **more}


def prompt_of(name: str) -> dict[str, torch.Tensor]:
    """Of two texts, the first is shorter."""
    prompt = {key: value for key, value in inputs_of(name).items() if not key.startswith("decoder")}
    if "input_ids" in prompt:
        prompt["attention_mask"] = torch.ones_like(prompt["input_ids"])
        prompt["attention_mask"][0, :3] = 0
    return prompt


def written(model: Any, prompt: dict[str, torch.Tensor], **how: Any) -> Any:
    torch.manual_seed(1)
    how = {"do_sample": False, **how}
    try:
        return model.generate(**prompt, max_new_tokens=7, min_new_tokens=7, **how)
    except (ValueError, AttributeError, NotImplementedError, IndexError) as error:  # not every class has every cache
        return error if isinstance(error, ad.StagesError) else type(error)


def same(ours: Any, theirs: Any) -> bool:
    return ours is theirs or (isinstance(ours, torch.Tensor) and torch.equal(ours, theirs))


def in_chunks(model: Any) -> torch.Tensor:
    ids, cache = tokens(), {}
    for part in (ids[:, :5], ids[:, 5:9], ids[:, 9:]):
        output = model(input_ids=part, use_cache=True, **cache)
        name = "cache_params" if output.get("cache_params") is not None else "past_key_values"
        cache = {name: output[name]}
    return output.logits


# -- every family -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_every_depth_is_the_model_of_the_layers_that_are_left(name: str) -> None:
    network, inputs = network_of(name), inputs_of(name)
    assert [(len(stage.mandatory), len(stage.skippable)) for stage in network.stages] == FAMILIES[name].cut
    outputs = []
    for skip in network.skips:
        ours, theirs = network.subnet(skip), hand_built(name, network, skip)
        assert type(ours) is type(theirs)
        outputs.append(ours(**inputs).logits)
        torch.testing.assert_close(outputs[-1], theirs(**inputs).logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(network(**inputs, skip=skip).logits, outputs[-1], rtol=1e-5, atol=1e-6)
        for length in FAMILIES[name].lengths.values():
            assert getattr(ours.config, length) == getattr(theirs.config, length)
    assert all(not torch.equal(a, b) for number, a in enumerate(outputs) for b in outputs[:number])


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITING)
@torch.no_grad()
def test_every_depth_continues_texts_as_that_model_does(name: str) -> None:
    """Of unequal lengths, on a cache of each kind, in chunks."""
    network, prompt = network_of(name), prompt_of(name)
    for skip in ("TF", "TT"):
        ours, theirs = network.subnet(skip), hand_built(name, network, skip)
        expected = written(theirs, prompt)
        # Of T5 with fewer layers in its encoder, transformers makes a cache that is too short for its decoder.
        assert isinstance(expected, torch.Tensor) or (name, skip) == ("T5", "TF")
        assert same(written(ours, prompt), expected)
        if skip == "TT":
            assert same(written(ours, prompt, **MODES["static"]), written(theirs, prompt, **MODES["static"]))
            if name in DECODERS and name != "RecurrentGemma":  # which hands out no cache
                torch.testing.assert_close(in_chunks(ours), in_chunks(theirs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", MODES)
@pytest.mark.parametrize("name", ["Llama", "Gemma2", "Bart"])
@torch.no_grad()
def test_however_it_continues_them(name: str, how: str) -> None:
    network, prompt = network_of(name), prompt_of(name)
    for skip in network.skips:
        theirs = written(hand_built(name, network, skip), prompt, **MODES[how])
        assert isinstance(theirs, torch.Tensor)
        assert same(written(network.subnet(skip), prompt, **MODES[how]), theirs)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITING)
@torch.no_grad()
def test_a_draft_by_a_sub_network_loses_nothing(name: str) -> None:
    network = network_of(name)
    prompt = {key: value[1:] for key, value in prompt_of(name).items()}
    alone = written(network.model, prompt)
    assert isinstance(alone, torch.Tensor)
    draft = network.subnet("TT")
    found = written(network.subnet("FF"), prompt, assistant_model=draft)
    if isinstance(found, type):  # of a state that cannot go back, as in Mamba: not of these classes at all
        assert found is written(network.model, prompt, assistant_model=hand_built(name, network, "TT"))
    else:
        assert torch.equal(found[:, -alone.shape[1] :], alone)  # Whisper's hands out its first token only with a draft


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_extracted_it_is_saved_and_loaded_by_transformers_alone(name: str, tmp_path: Path) -> None:
    network, inputs = network_of(name), inputs_of(name)
    base = network.skips[-1]
    alone = network.extract(base)
    assert type(alone) is type(network.model)
    assert type(alone).__module__.startswith("transformers.")
    assert not {"forward", "save_pretrained"} & vars(alone).keys()
    assert not any("adaptive_depth" in type(part).__module__ for part in alone.modules())
    shared = {each.data_ptr() for each in network.state_dict().values()}
    assert not shared & {each.data_ptr() for each in alone.state_dict().values()}
    alone.save_pretrained(tmp_path)
    loaded, said = type(alone).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(said[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    expected = network(**inputs, skip=base).logits
    torch.testing.assert_close(loaded.eval()(**inputs).logits, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(alone(**inputs).logits, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_the_network_is_saved_and_loaded_by_its_config(name: str, tmp_path: Path) -> None:
    network, inputs = network_of(name), inputs_of(name)
    loaded = ad.load(ad.save(network, tmp_path))
    assert type(loaded.model) is type(network.model)
    for skip in network.skips:
        assert torch.equal(loaded(**inputs, skip=skip).logits, network(**inputs, skip=skip).logits)


# -- one network, in all of its sub-networks ---------------------------------------------------------------------


def small(name: str = "Llama") -> ad.AdaptiveNetwork:
    """One that a test may change."""
    return shaken(ad.adapt(build(FAMILIES[name]))).eval()


@pytest.mark.parametrize("name", ["Llama", "Gemma2", "Mamba", "T5"])
def test_weights_are_shared_whatever_reaches_them(name: str) -> None:
    network, inputs = small(name), inputs_of(name)
    subnets = {skip: network.subnet(skip) for skip in network.skips}
    own = {each.data_ptr() for each in network.state_dict().values()}
    for subnet in subnets.values():
        assert {each.data_ptr() for each in subnet.state_dict().values()} <= own
    network.train()
    assert all(part.training for subnet in subnets.values() for part in subnet.modules())
    before = [subnet(**inputs).logits.detach() for subnet in subnets.values()]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    subnets["TT"](**inputs, labels=inputs.get("decoder_input_ids", inputs["input_ids"])).loss.backward()
    optimizer.step()
    network.eval()
    assert not any(part.training for subnet in subnets.values() for part in subnet.modules())
    for (skip, subnet), was in zip(subnets.items(), before, strict=True):
        assert not torch.equal(subnet(**inputs).logits, was)
        with torch.no_grad():
            torch.testing.assert_close(subnet(**inputs).logits, hand_built(name, network, skip)(**inputs).logits)
    network.to(torch.bfloat16)
    assert all(part.dtype is torch.bfloat16 for subnet in subnets.values() for part in subnet.parameters())
    kind = network.model(**inputs).logits.dtype
    assert all(subnet(**inputs).logits.dtype is kind for subnet in subnets.values())


@torch.no_grad()
def test_what_is_changed_in_the_model_later_is_followed() -> None:
    network, x = small("Gemma2"), tokens()
    subnet = network.subnet("TF")
    softer = hand_built("Gemma2", network, "TF")
    softer.config.final_logit_softcapping = network.model.config.final_logit_softcapping = 0.5
    network.model.set_attn_implementation("eager")
    torch.testing.assert_close(network(x, skip="TF").logits, softer(x).logits)
    assert subnet.config.num_hidden_layers == 5
    assert len(subnet.config.layer_types) == 5
    assert subnet.config._attn_implementation == "eager"
    assert subnet.model.layers[0].self_attn.config is subnet.model.config is subnet.config
    assert network.model.config.num_hidden_layers == LAYERS
    torch.testing.assert_close(network.extract("TF")(x).logits, softer(x).logits)


@torch.no_grad()
def test_a_copy_of_the_network_has_sub_networks_of_its_own() -> None:
    network, x = small(), tokens()
    theirs = network.subnet("TF")
    expected = theirs(x).logits
    other = copy.deepcopy(network)
    for parameter in network.parameters():
        parameter.zero_()
    assert torch.equal(other.subnet("TF")(x).logits, expected)
    assert torch.equal(other(x, skip="TF").logits, expected)
    assert not theirs(x).logits.any()


@torch.no_grad()
def test_an_extracted_one_stays_as_it_is() -> None:
    network, x = small(), tokens()
    alone = network.extract("TF")
    before = alone(x).logits
    for parameter in network.parameters():
        parameter.zero_()
    network.train()
    network.model.config.num_hidden_layers = 99
    assert not alone.training
    assert torch.equal(alone(x).logits, before)
    assert alone.config.num_hidden_layers == 5


@torch.no_grad()
def test_threads_that_write_at_two_depths_at_once() -> None:
    network, prompt = small(), prompt_of("Llama")
    expected = {skip: written(network.extract(skip), prompt) for skip in network.skips}
    wrong: list[Any] = []

    def write(skip: str) -> None:
        with torch.no_grad():
            for _ in range(4):
                found = network.subnet(skip).generate(**prompt, max_new_tokens=7, min_new_tokens=7, do_sample=False)
                wrong.extend([] if torch.equal(found, expected[skip]) else [skip])

    threads = [threading.Thread(target=write, args=(skip,)) for skip in network.skips]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.alone
@pytest.mark.slow
@torch.no_grad()
def test_compiled_it_is_the_same() -> None:
    network, x = small(), tokens()
    expected = {skip: network.subnet(skip)(x, use_cache=False).logits for skip in ("FF", "TF")}
    for skip, logits in expected.items():
        compiled = torch.compile(network.subnet(skip), backend="aot_eager")
        torch.testing.assert_close(compiled(x, use_cache=False).logits, logits, rtol=1e-4, atol=1e-5)
    network.compile(backend="aot_eager")
    for skip, logits in expected.items():
        torch.testing.assert_close(network.subnet(skip)(x, use_cache=False).logits, logits, rtol=1e-4, atol=1e-5)
    expected_text = written(hand_built("Llama", network, "TF"), prompt_of("Llama"))
    assert same(written(network.subnet("TF"), prompt_of("Llama")), expected_text)


# -- what cannot be said in a config -----------------------------------------------------------------------------


class ByPlace(transformers.LlamaForCausalLM):
    """Of the user's own: its class makes other numbers with fewer layers."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for number, layer in enumerate(self.model.layers):
            layer.depth = number / len(self.model.layers)


def test_a_language_model_whose_class_makes_something_else_is_refused() -> None:
    network = ad.adapt(ByPlace(transformers.LlamaConfig(**BASE)).eval())
    message = "sub-network TF cannot be a separate ByPlace: .*depth of model.layers.1 to 0.2 instead of 0.333"
    with pytest.raises(ad.StagesError, match=message):
        network.subnet("TF")
    with pytest.raises(ad.StagesError, match=r"network\(..., use_cache=False, skip='TF'\)"):
        network(tokens(), skip="TF")
    assert network(tokens(), use_cache=False, skip="TF").logits.shape == (2, 12, 64)


class Drifting(transformers.BertForMaskedLM):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for number, layer in enumerate(self.bert.encoder.layer):
            layer.depth = number / len(self.bert.encoder.layer)


def test_a_model_without_a_cache_runs_then_but_is_not_saved(tmp_path: Path) -> None:
    network = ad.adapt(Drifting(transformers.BertConfig(**BASE)).eval())
    message = "this sub-network cannot be saved as a Drifting: with fewer layers, its class sets depth"
    for subnet in (network.subnet("TFF"), network.extract("TFF")):
        assert subnet(tokens()).logits.shape == (2, 12, 64)
        with pytest.raises(ad.StagesError, match=message):
            subnet.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    network(tokens(), skip="TFF")
    network.model.save_pretrained(tmp_path / "whole")  # which may be saved


def test_a_model_that_rewrites_its_weights_by_layer_is_refused() -> None:
    """RWKV: a base-net that runs first, in eval mode, ended in an AttributeError and half of the weights divided."""
    sizes = {"vocab_size": 64, "hidden_size": 16, "attention_hidden_size": 16, "num_hidden_layers": 8}
    with pytest.raises(ad.StagesError, match=r"RwkvForCausalLM divides the .* load it with rescale_every=0"):
        ad.adapt(transformers.RwkvForCausalLM(transformers.RwkvConfig(**sizes)))
    network = ad.adapt(transformers.RwkvForCausalLM(transformers.RwkvConfig(**sizes, rescale_every=0)).eval())
    x, base = tokens(), network.skips[-1]
    torch.testing.assert_close(network.subnet(base)(x).logits, network(x, use_cache=False, skip=base).logits)


# -- adapters ----------------------------------------------------------------------------------------------------


def lora() -> Any:
    peft = pytest.importorskip("peft")
    return peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=2, init_lora_weights=False)


@torch.no_grad()
def test_lora_adapters_before_and_after() -> None:
    peft, prompt = pytest.importorskip("peft"), prompt_of("Llama")
    wrapped = peft.get_peft_model(build(FAMILIES["Llama"]), lora()).eval()
    with pytest.raises(
        ad.StagesError, match=r"wrapped in a PeftModel: adapt the inner model, model.get_base_model\(\)"
    ):
        ad.adapt(wrapped, example=prompt)
    before = ad.adapt(wrapped.get_base_model()).eval()
    after = ad.adapt(build(FAMILIES["Llama"])).eval()
    plain = after.subnet("TF")(tokens()).logits
    torch.manual_seed(7)
    peft.get_peft_model(after.model, lora())
    after.forget_views()
    for network in (before, after.eval()):
        subnet = network.subnet("TF")
        assert sum("lora_A" in name for name, _ in subnet.named_parameters()) == 2 * 5
        assert not torch.equal(subnet(tokens()).logits, plain)
        assert torch.equal(written(subnet, prompt), written(subnet, prompt, use_cache=False))


def test_adapters_that_sub_networks_do_not_have_yet_are_told() -> None:
    peft, network = pytest.importorskip("peft"), ad.adapt(build(FAMILIES["Llama"]))
    network.subnet("TF")  # made before, so without them
    wrapper = peft.get_peft_model(network.model, lora())
    calls: dict[str, Callable[[], object]] = {
        "Passes": lambda: ad.Passes(network),
        "evaluate": lambda: ad.evaluate(network, [tokens()]),
        "generate": lambda: generate(network, tokens()),
        "profile_generation": lambda: ad.profile_generation(network, tokens()),
    }
    changes = {r"q_proj is new": lambda: None, "some were removed": wrapper.merge_and_unload}
    for told, change in changes.items():
        change()
        for name, call in calls.items():
            said = rf"^{name} received .* modules were replaced .*\(.*{told}; .* network.forget_views\(\) first"
            with pytest.raises(ad.AdaptiveDepthError, match=said):
                call()
        network.forget_views()
        assert ad.Passes(network)
        network.subnet("TF")


@torch.no_grad()
def test_a_network_with_adapters_is_saved_once_they_are_merged(tmp_path: Path) -> None:
    peft, folder = pytest.importorskip("peft"), tmp_path / "network"
    injected, merged = (ad.adapt(build(FAMILIES["Llama"])).eval() for _ in range(2))
    peft.inject_adapter_in_model(lora(), injected.model)
    wrapper = peft.get_peft_model(merged.model, lora())
    for network in (injected, merged):
        network.forget_views()
        for save in (lambda net: ad.save(net, folder), lambda net: net.save_pretrained(folder)):
            with pytest.raises(ad.CheckpointError, match=r"q_proj contains adapters of peft, .* merge them first"):
                save(network)
        for alone in (network.subnet("TF"), network.extract("TF")):  # which transformers would read as random weights
            with pytest.raises(ad.StagesError, match=r"its class does not build these weights .*q_proj.base_"):
                alone.save_pretrained(folder)
    assert not folder.exists()
    expected = merged.subnet("TF")(tokens()).logits
    wrapper.merge_and_unload()
    merged.forget_views()
    again = ad.load(ad.save(merged, folder))
    torch.testing.assert_close(again.subnet("TF")(tokens()).logits, expected)
    merged.extract("TF").save_pretrained(tmp_path / "alone")
    alone = type(merged.model).from_pretrained(tmp_path / "alone").eval()
    torch.testing.assert_close(alone(tokens()).logits, expected)


@pytest.mark.parametrize("when", ["before", "after"])
def test_checkpoints_of_gradients(when: str) -> None:
    network, plain, x = small(), small().train(), tokens()
    if when == "before":
        model = build(FAMILIES["Llama"])
        model.gradient_checkpointing_enable()
        network = shaken(ad.adapt(model))
    else:
        network.subnet("TF")
        network.model.gradient_checkpointing_enable()
    network.train()
    assert network.subnet("TF").model.layers[0].gradient_checkpointing
    for each in (network, plain):
        each.subnet("TF")(x, labels=x).loss.backward()
        each(x, labels=x, skip="TT").loss.backward()
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad)


@torch.no_grad()
def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    network = ad.adapt(build(FAMILIES["Llama"], tie_word_embeddings=True)).eval()
    expected = network.subnet("TF")(tokens()).logits
    network.extract("TF").save_pretrained(tmp_path / "alone")
    again = ad.load(ad.save(network, tmp_path / "network"))
    for model in (
        network.subnet("TF"),
        network.extract("TF"),
        type(network.model).from_pretrained(tmp_path / "alone").eval(),
        again.subnet("TF"),
    ):
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert torch.equal(model(tokens()).logits, expected)


VISION = {"hidden_size": 16, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 24, "head_dim": 8}
OTHERS = {
    "its layers have names": ("Dinov2ForImageClassification", VISION),
    "numbers of layers with experts": ("Llama4ForCausalLM", BASE | EXPERTS),
    "rates of stochastic depth": ("BeitForImageClassification", VISION | {"intermediate_size": 24}),
}


@pytest.mark.parametrize("what", OTHERS)
@torch.no_grad()
def test_what_else_a_config_says_of_layers(what: str, tmp_path: Path) -> None:
    network = shaken(ad.adapt(build(Family(*OTHERS[what])))).eval()
    inputs = {"input_ids": tokens()} if "experts" in what else {"pixel_values": torch.randn(1, 3, 32, 32)}
    for skip in (network.skips[1], network.skips[-1]):
        network.extract(skip).save_pretrained(tmp_path / skip)
        loaded, said = type(network.model).from_pretrained(tmp_path / skip, output_loading_info=True)
        assert not any(said[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        torch.testing.assert_close(loaded.eval()(**inputs).logits, network(**inputs, skip=skip).logits)


@torch.no_grad()
def test_a_config_that_would_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    """It names layers that it hands out, and one of them may be gone."""
    fields = VISION | {"out_features": ["stage2", "stage6"]}
    network = shaken(ad.adapt(build(Family("Dinov2ForImageClassification", fields)))).eval()
    subnet, x = network.subnet("TFF"), torch.randn(1, 3, 32, 32)
    assert torch.equal(subnet(x).logits, network(x, skip="TFF").logits)
    for module in (subnet, network.extract("TFF")):
        with pytest.raises(ad.StagesError, match=r"its config cannot be read back \(ValueError: out_features must"):
            module.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    network.extract("FFF").save_pretrained(tmp_path / "whole")


def test_frequencies_of_a_kind_of_attention_that_no_layer_is_of_any_more() -> None:
    """Gemma 3 computes them for each kind; a depth without full attention is a model without those."""
    kinds = ["sliding_attention"] * 3 + ["full_attention"] + ["sliding_attention"] * 3
    sizes = BASE | {"num_hidden_layers": 7, "head_dim": 8, "sliding_window": 5}
    config = transformers.Gemma3TextConfig(**sizes, layer_types=kinds)
    network = ad.adapt(transformers.Gemma3ForCausalLM(config).eval(), mandatory=1, group_size=2)
    skip = next(skip for skip in network.skips if "full_attention" not in network.subnet(skip).config.layer_types)
    short = network.subnet(skip)
    kept = [n for n in range(7) if f"model.layers.{n}" not in skipped_paths(network, skip)]
    other = transformers.Gemma3ForCausalLM(
        transformers.Gemma3TextConfig(
            **(sizes | {"num_hidden_layers": len(kept)}), layer_types=[kinds[n] for n in kept]
        )
    ).eval()
    state = {name: value for name, value in network.model.state_dict().items() if ".layers." not in name}
    for place, number in enumerate(kept):
        layer = network.model.model.layers[number].state_dict()
        state |= {f"model.layers.{place}.{name}": value for name, value in layer.items()}
    other.load_state_dict(state)
    tokens = torch.arange(3, 15)[None]
    torch.testing.assert_close(short(input_ids=tokens).logits, other(input_ids=tokens).logits)


def skipped_paths(network: ad.AdaptiveNetwork, skip: str) -> set[str]:
    return {p for stage, flag in zip(network.stages, skip, strict=True) if flag == "T" for p in stage.skippable}


def test_a_large_vocabulary_with_tied_embeddings_is_read_back(tmp_path: Path) -> None:
    sizes = BASE | {"vocab_size": 600_000, "hidden_size": 64, "tie_word_embeddings": True}
    network = ad.adapt(transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).eval())
    ad.save(network, tmp_path / "net")
    same, tokens = ad.load(tmp_path / "net"), torch.tensor([[5, 599_999]])
    assert torch.equal(same(input_ids=tokens).logits, network(input_ids=tokens).logits)
