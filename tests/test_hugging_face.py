"""What is kept of a model of transformers, and what a folder may ask for when it is built again."""

import copy
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import adaptive_depth as ad
from adaptive_depth.hugging_face import (
    code_asked_for,
    config_of,
    layer_lists,
    predicts_the_next_token,
    short_input,
    writes_text,
)

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

FIELDS = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
FIELDS |= {"num_hidden_layers": 5, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 64}


def llama(**more: Any) -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**FIELDS | more)).eval()


def everything_in(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(each for inner in value.values() for each in everything_in(inner))]
    return [each for inner in value for each in everything_in(inner)] if isinstance(value, list) else [str(value)]


# What would run code that is fetched, or fetch weights.
ASKS: dict[str, Any] = {
    "auto_map": {"AutoModelForCausalLM": "somebody/code--modeling.Theirs"},
    "_attn_implementation_internal": "somebody/kernels",
    "_experts_implementation_internal": "somebody/kernels",
    "attn_implementation": "somebody/kernels:attention",
    "kernel_config": {"RMSNorm": "somebody/kernels:RMSNorm"},
    "quantization_config": {"quant_method": "somebodys"},
    "_name_or_path": "somebody/model",
}


@pytest.mark.parametrize("name", ASKS)
def test_a_config_that_asks_for_something_is_kept_without_it(name: str, tmp_path: Path) -> None:
    model = llama()
    model.config.__dict__[name] = ASKS[name]
    model.config.inner = {"further": [{name: ASKS[name]}]}
    network = ad.adapt(llama())
    network.model.config = model.config
    ad.save(network, tmp_path)
    source = json.loads((tmp_path / "network.json").read_text())["source"]
    assert source["name"] == "transformers/LlamaForCausalLM"
    found = everything_in(source)
    assert name not in found
    assert not [each for each in found if "somebody" in each]
    assert ad.load(tmp_path).model.config.num_hidden_layers == 5


def test_what_in_a_config_asks_for_code() -> None:
    code = {name: value for name, value in ASKS.items() if name not in ("quantization_config", "_name_or_path")}
    for name, value in code.items():
        assert code_asked_for({name: value, "vocab_size": 3}) == {name: value}
        assert code_asked_for({"text_config": {"further": [{name: value}]}}) == {name: value}
    plain = {
        "attn_implementation": {"text_config": "sdpa"},
        "_attn_implementation": None,
        "auto_map": {},
        "kernel_config": None,
    }
    assert code_asked_for(plain | llama().config.to_dict()) == {}


@pytest.mark.parametrize("name", ASKS)
def test_a_folder_that_asks_for_it_does_not_get_it(name: str, tmp_path: Path) -> None:
    changed_folder(tmp_path, lambda source: source["arguments"]["config"].update({name: ASKS[name]}))
    config = ad.load(tmp_path).model.config
    assert "somebody" not in str(vars(config))


def test_no_trained_backbone_is_asked_for() -> None:
    backbone = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    model = transformers.ResNetModel(backbone)
    model.config.use_pretrained_backbone = True
    model.config.inner = {"use_pretrained_backbone": True}
    kept = config_of(model)["config"]
    assert kept["use_pretrained_backbone"] is False
    assert kept["inner"]["use_pretrained_backbone"] is False


def test_numbers_that_are_not_finite_come_back(tmp_path: Path) -> None:
    config = transformers.MambaConfig(**FIELDS, state_size=4)
    config.highest = [0.0, float("inf"), {"lowest": float("-inf")}]
    network = ad.adapt(transformers.MambaForCausalLM(config))
    back = ad.load(ad.save(network, tmp_path)).model.config
    assert back.highest == [0.0, float("inf"), {"lowest": float("-inf")}]


def test_how_it_generates_is_kept(tmp_path: Path) -> None:
    model = llama()
    model.generation_config.temperature, model.generation_config.max_new_tokens = 0.7, 11
    back = ad.load(ad.save(ad.adapt(model), tmp_path)).model.generation_config
    assert (back.temperature, back.max_new_tokens, back.eos_token_id) == (0.7, 11, 2)


class Mine(transformers.LlamaForCausalLM):
    pass


def test_a_class_of_the_users_own_is_given(tmp_path: Path) -> None:
    network = ad.adapt(Mine(transformers.LlamaConfig(**FIELDS)).eval()).eval()
    assert config_of(network.model) is None
    ad.save(network, tmp_path)
    with pytest.raises(ad.CheckpointError, match=r"contains a Mine that no name .* builds: pass an instance of it"):
        ad.load(tmp_path)
    x = torch.randint(3, 64, (1, 6))
    back = ad.load(tmp_path, model=Mine(transformers.LlamaConfig(**FIELDS)))
    for skip in network.skips:
        assert torch.equal(back(x, skip=skip).logits, network(x, skip=skip).logits)


def changed_folder(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    ad.save(ad.adapt(llama()), folder)
    description = json.loads((folder / "network.json").read_text())
    change(description["source"])
    (folder / "network.json").write_text(json.dumps(description))


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a class that is none": (lambda s: s.update(name="transformers/pipeline"), "has no model class 'pipeline'"),
    "one that fetches": (
        lambda s: s.update(name="transformers/AutoModelForCausalLM"),
        "has no model class 'AutoModelForCausalLM'",
    ),
    "the base class": (lambda s: s.update(name="transformers/PreTrainedModel"), "cannot be built from its config"),
    "a path": (lambda s: s["arguments"].update(config="somebody/model"), "expected a dict, or a config"),
    "no config": (lambda s: s["arguments"].pop("config"), "cannot be built from its config"),
    "trained weights": (lambda s: s["arguments"].update(pretrained=True), "requests pretrained"),
    "more arguments": (lambda s: s["arguments"].update(trust_remote_code=True), "cannot be built from its config"),
    "many layers": (
        lambda s: s["arguments"]["config"].update(num_hidden_layers=10**6),
        "far larger than its weights",
    ),
    "more layers": (lambda s: s["arguments"]["config"].update(num_hidden_layers=10**9), "with the number 1000000000"),
    "wide layers": (
        lambda s: s["arguments"]["config"].update(vocab_size=10**7, hidden_size=2 * 10**6),
        "far larger than its weights",
    ),
    "many labels": (lambda s: s["arguments"]["config"].update(num_labels=10**7), "with the number 10000000"),
    "other shapes": (lambda s: s["arguments"]["config"].update(vocab_size=65), "is .64, 16. there and .65, 16."),
    "fewer layers": (lambda s: s["arguments"]["config"].update(num_hidden_layers=3), "does not fit the model"),
    "a method's name": (lambda s: s["arguments"]["config"].update(to_dict="x"), "cannot be built from its config"),
    "no activation": (lambda s: s["arguments"]["config"].update(hidden_act="exec"), "cannot be built from its config"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_damaged_or_hostile_folder_is_refused(kind: str, tmp_path: Path) -> None:
    change, message = HOSTILE[kind]
    changed_folder(tmp_path, change)
    with pytest.raises(ad.CheckpointError, match=message):
        ad.load(tmp_path)


def test_with_weights_it_is_transformers_that_builds_it() -> None:
    with pytest.raises(ad.AdaptiveDepthError, match=r"call transformers.LlamaForCausalLM.from_pretrained\("):
        ad.create_model("transformers/LlamaForCausalLM", pretrained=True, config=FIELDS)
    model = ad.create_model("transformers/LlamaForCausalLM", config=FIELDS)
    assert isinstance(model, transformers.LlamaForCausalLM)
    assert model.config.num_hidden_layers == 5


def test_what_a_model_is() -> None:
    bert = transformers.BertForMaskedLM(transformers.BertConfig(**FIELDS))
    t5 = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    pair = transformers.T5ForConditionalGeneration(transformers.T5Config(**t5))
    models = (llama(), pair, bert, torch.nn.Linear(1, 1))
    assert [writes_text(model) for model in models] == [True, True, False, False]
    assert [predicts_the_next_token(model) for model in models] == [True, False, False, False]
    assert layer_lists(models[0]) == [[f"model.layers.{number}" for number in range(5)]]
    assert layer_lists(models[-1]) == []
    assert list(short_input(pair)) == ["input_ids", "decoder_input_ids"]
    assert short_input(bert)["input_ids"].shape == (2, 8)
    assert short_input(bert)["input_ids"].max() < 64


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def saved_by_torch(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


@pytest.mark.parametrize("way", [copy.deepcopy, pickled, saved_by_torch])
@pytest.mark.parametrize("asked_before", [False, True])
def test_a_network_is_pickled_and_hands_out_hidden_states_of_every_layer(way: Any, asked_before: bool) -> None:
    """transformers puts hooks on layers that no pickle takes: a plain model gets them when it is first asked."""
    model, x = llama(), torch.arange(3, 11)[None]
    if asked_before:
        model(x, output_hidden_states=True)
    network = ad.adapt(model)
    expected = network(x, skip="TT", output_hidden_states=True)
    again = way(network)
    found = again(x, skip="TT", output_hidden_states=True)
    assert torch.equal(found.logits, expected.logits)
    assert len(found.hidden_states) == 6
    assert all(torch.equal(one, other) for one, other in zip(found.hidden_states, expected.hidden_states, strict=True))
    for subnet in (way(network.subnet("TT")), way(network.extract("TT"))):
        assert torch.equal(subnet(x).logits, expected.logits)
    alone = network.extract("TT")
    assert not any(part._forward_hooks for part in alone.modules())
    assert b"adaptive_depth" not in pickle.dumps(alone)
    assert len(alone(x, output_hidden_states=True).hidden_states) == 4  # which sets them itself
