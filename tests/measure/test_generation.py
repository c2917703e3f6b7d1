"""generation.py: times of text on a clock set by hand, bytes of caches worked out, what is refused."""

import json
from statistics import median
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adaptive_depth as ad
from adaptive_depth.choose.costs import Profile
from adaptive_depth.errors import DepthsLeftOut, MeasurementError, SkipError, StagesError
from adaptive_depth.measure import generation
from adaptive_depth.measure.generation import profile_generation, tensor_bytes

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

WORDS, LAYERS, WIDTH, INNER = 50, 4, 16, 24
SIZES: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
PROMPT = torch.tensor([[5, 9, 3, 7, 11, 4, 8, 6]])


def adapted(kind: str = "Llama", name: str = "ForCausalLM", **changes: Any) -> ad.AdaptiveNetwork:
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **changes})
    return ad.adapt(getattr(transformers, f"{kind}{name}")(config)).eval()


@pytest.fixture(scope="module")
def llama() -> ad.AdaptiveNetwork:
    torch.manual_seed(0)
    return adapted()


# -- the cache --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
def test_keys_and_values_of_each_layer_are_what_a_token_adds(llama: ad.AdaptiveNetwork, batch: int) -> None:
    result = profile_generation(llama, PROMPT.expand(batch, -1), new_tokens=3, rounds=1, warmup=0)
    # Keys and values, layers, heads of 4 numbers, 4 bytes each; the one stage of 4 layers skips its last but one.
    assert {skip: cost.cache_kb for skip, cost in result.costs.items()} == {
        "F": 2 * 4 * 2 * 4 * 4 / 1000,
        "T": 2 * 3 * 2 * 4 * 4 / 1000,
    }
    assert result.conditions["cache_grows"] is True
    assert "does not grow" not in str(result)
    assert (result.batch_size, result.prompt_tokens, result.inputs) == (batch, 8, ((batch, 8),))


def test_half_precision_takes_half_of_it() -> None:
    result = profile_generation(adapted().to(torch.bfloat16), PROMPT, new_tokens=2, rounds=1, warmup=0)
    assert result.costs["F"].cache_kb == 2 * 4 * 2 * 4 * 2 / 1000


def test_a_window_keeps_its_tokens_alone_and_the_profile_says_so() -> None:
    result = profile_generation(adapted("Mistral", sliding_window=4), PROMPT, new_tokens=3, rounds=1, warmup=0)
    # Three places before the next token, of 8 + 2 tokens.
    assert result.costs["F"].cache_kb == pytest.approx(2 * 4 * 2 * 4 * 4 * 3 / 10 / 1000, rel=1e-12)
    assert "The cache does not grow with every token" in str(result)
    assert "is for 10 tokens and shrinks for longer texts." in str(result)


def test_a_state_of_fixed_size_is_counted_over_all_tokens() -> None:
    config = transformers.MambaConfig(vocab_size=WORDS, hidden_size=WIDTH, num_hidden_layers=4, state_size=8)
    network = ad.adapt(transformers.MambaForCausalLM(config)).eval()
    result = profile_generation(network, PROMPT, new_tokens=3, rounds=1, warmup=0)
    # Of 2 x 16 channels each: 4 inputs of the convolution and a state of 8.
    assert result.costs["F"].cache_kb == pytest.approx(4 * 32 * (4 + 8) * 4 / 10 / 1000, rel=1e-12)
    assert result.conditions["cache_grows"] is False
    padded = {"input_ids": PROMPT.expand(2, -1), "attention_mask": torch.tensor([[0, 0] + [1] * 6, [1] * 8])}
    assert profile_generation(network, padded, new_tokens=3, rounds=1, warmup=0).costs["T"].token_ms


def test_a_tensor_at_two_places_is_counted_once_and_counters_are_not() -> None:
    keys = torch.zeros(2, 3, dtype=torch.float64)
    layer = SimpleNamespace(
        keys=keys, again=keys, states={0: torch.zeros(1, 5)}, length=torch.tensor([7]), kind=nn.Linear
    )
    layer.itself = layer
    assert tensor_bytes(SimpleNamespace(layers=[layer], mark=("network", "F"))) == 2 * 3 * 8 + 5 * 4
    assert tensor_bytes(None) == 0


# -- the text ---------------------------------------------------------------------------------------------------


def written(network: ad.AdaptiveNetwork, prompt: Any, new_tokens: int, skip: str) -> Tensor:
    """The tokens that a measurement writes, seen by a hook on what it gives the sub-network."""
    tokens, subnet = [], network.subnet(skip)
    head = subnet.get_output_embeddings()
    hook = head.register_forward_hook(lambda module, inputs, output: tokens.append(output[:, -1].argmax(-1)))
    try:
        profile_generation(network, prompt, new_tokens=new_tokens, skips=skip, rounds=1, warmup=0)
    finally:
        hook.remove()
    return torch.stack(tokens[-new_tokens:], 1)


@pytest.mark.parametrize("kind", ["Llama", "Mistral", "GPT2", "Mamba"])
def test_what_is_timed_is_what_generate_writes(kind: str) -> None:
    torch.manual_seed(1)
    network = adapted(kind, "LMHeadModel" if kind == "GPT2" else "ForCausalLM", initializer_range=0.5)
    batch = torch.cat([PROMPT, PROMPT.flip(1)])
    padded = {"input_ids": batch, "attention_mask": torch.tensor([[0, 0, 0] + [1] * 5, [1] * 8])}
    for skip in network.skips:
        for prompt in ({"input_ids": batch, "attention_mask": torch.ones_like(batch)}, padded):
            with torch.no_grad():
                whole = network.subnet(skip).generate(**prompt, max_new_tokens=6, do_sample=False)
            assert torch.equal(written(network, prompt, 6, skip), whole[:, 8:])


def test_a_prompt_may_be_ids_alone(llama: ad.AdaptiveNetwork) -> None:
    with torch.no_grad():
        whole = llama.subnet("T").generate(
            PROMPT, attention_mask=torch.ones_like(PROMPT), max_new_tokens=4, do_sample=False
        )
    assert torch.equal(written(llama, PROMPT, 4, "T"), whole[:, 8:])


def test_multiply_adds_are_those_of_the_prompt_with_the_logits_of_its_last_place(llama: ad.AdaptiveNetwork) -> None:
    result = profile_generation(llama, PROMPT.expand(2, -1), new_tokens=2, rounds=1, warmup=0)
    projections = WIDTH * (16 + 8 + 8 + 16) + 3 * WIDTH * INNER  # q, k, v, o, and the three of the MLP
    layer = 8 * projections + 2 * 8 * 8 * WIDTH  # and attention, which is counted as a full square
    assert result.costs["F"].macs == pytest.approx(4 * layer + WIDTH * WORDS + 8 * 2, rel=0.001)  # and the rotations
    whole = ad.profile(llama, PROMPT, latency=False)
    for skip, cost in result.costs.items():
        assert whole.costs[skip].macs - cost.macs == 7 * WIDTH * WORDS
        assert whole.costs[skip].parameters == cost.parameters


class Clock:
    """In place of `milliseconds`: runs what is timed, and says what it took."""

    def __init__(self, took: list[float]) -> None:
        self.took = iter(took)

    def __call__(self, run: Any, wait: Any) -> float:
        run()
        return next(self.took)


def test_the_median_over_rounds_of_the_first_token_and_of_the_median_step(
    llama: ad.AdaptiveNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm = [1000.0] * 4
    rounds = [50.0, 1.0, 2.0, 30.0], [70.0, 4.0, 4.0, 4.0], [60.0, 9.0, 3.0, 1.0]
    monkeypatch.setattr(generation, "milliseconds", Clock([*warm, *(each for one in rounds for each in one)]))
    told: list[tuple[int, int, str]] = []
    result = profile_generation(
        llama, PROMPT, new_tokens=4, skips="F", rounds=3, warmup=1, on_progress=lambda *now: told.append(now)
    )
    [cost] = result.costs.values()
    assert (cost.first_token_ms, cost.token_ms, cost.times_ms) == (60.0, 3.0, (2.0, 4.0, 3.0))
    assert cost.token_ms == median(cost.times_ms)
    assert cost.latency_ms is None
    assert told == [(1, 3, "generation"), (2, 3, "generation"), (3, 3, "generation")]
    assert result.conditions["rounds"] == 3
    assert result.conditions["warmup_rounds"] == 1
    assert Profile.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_every_depth_continues_the_prompt_in_every_round(llama: ad.AdaptiveNetwork) -> None:
    result = profile_generation(llama, PROMPT, new_tokens=2, rounds=6, warmup=0)
    assert [len(cost.times_ms) for cost in result.costs.values()] == [6, 6]
    assert all(cost.first_token_ms and cost.token_ms for cost in result.costs.values())
    assert result.network == llama.fingerprint


def test_it_is_measured_in_eval_mode_without_gradients() -> None:
    network, seen = adapted(attention_dropout=0.5).train(), []
    network.subnet("F").get_output_embeddings().register_forward_hook(
        lambda module, inputs, output: seen.append((module.training, output.requires_grad))
    )
    profile_generation(network, PROMPT, new_tokens=2, skips="F", rounds=1, warmup=0)
    assert seen
    assert {*seen} == {(False, False)}


def test_modes_gradients_and_weights_are_as_before(llama: ad.AdaptiveNetwork, unchanged: Any) -> None:
    llama.train()
    try:
        with unchanged(llama):
            profile_generation(llama, PROMPT, new_tokens=2, rounds=1, warmup=0)
        assert llama.training
    finally:
        llama.eval()


# -- what is refused --------------------------------------------------------------------------------------------


LONG = torch.ones(1, 31, dtype=torch.long)
MASK = torch.ones_like(PROMPT)


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        ("a text", {}, r"the prompt is a str: expected integer token ids \[batch"),
        ({}, {}, "the prompt is a NoneType"),
        (PROMPT[0], {}, r"the prompt is \[8\] of torch.int64"),
        (PROMPT.float(), {}, r"the prompt is \[1, 8\] of torch.float32: expected integer token ids"),
        (PROMPT > 5, {}, r"\[1, 8\] of torch.bool"),
        (PROMPT[:, :0], {}, r"the prompt is empty, \[1, 0\]: expected at least one token"),
        (PROMPT[:0], {}, r"the prompt is empty, \[0, 8\]"),
        (PROMPT.to("meta"), {}, "the prompt is on the meta device"),
        (LONG, {"new_tokens": 2}, "a prompt of 31 tokens and 2 new ones exceed the model's limit of 32"),
        (PROMPT, {"new_tokens": 1}, "new_tokens=1: expected a whole number of at least 2"),
        (PROMPT, {"new_tokens": 2.0}, "new_tokens=2.0: expected a whole number"),
        (PROMPT + 40, {}, "token ids from 43 to 51, but the model knows 0 to 49: expected the ids"),
        (PROMPT - 9, {}, "token ids from -6 to 2"),
        ({"input_ids": PROMPT, "labels": PROMPT}, {}, "the prompt contains labels: expected input_ids and"),
        (
            {"input_ids": PROMPT, "attention_mask": MASK[:, 1:]},
            {},
            r"attention_mask is \[1, 7\] for input_ids \[1, 8\]",
        ),
        ({"input_ids": PROMPT, "attention_mask": [1]}, {}, "attention_mask is a list for"),
        ({"input_ids": PROMPT, "attention_mask": MASK.tril(6)}, {}, "padded on the right.*padding_side='left'"),
        (PROMPT, {"rounds": 0}, "rounds=0: expected a whole number of at least 1"),
        (PROMPT, {"seconds": 0}, "seconds=0: expected a number above 0"),
        (PROMPT, {"warmup": -1}, "warmup=-1: expected a whole number of rounds"),
        (PROMPT, {"skips": []}, r"skips=\[\] names no sub-network: expected some of F, T"),
    ],
)
def test_what_is_no_measurement_is_refused(
    llama: ad.AdaptiveNetwork, unchanged: Any, prompt: Any, settings: dict[str, Any], message: str
) -> None:
    with unchanged(llama), pytest.raises(MeasurementError, match=message):
        profile_generation(llama, prompt, **{"new_tokens": 2, **settings})


def test_a_text_as_long_as_the_model_takes_is_not() -> None:
    result = profile_generation(adapted(), LONG[:, :30], new_tokens=2, rounds=1, warmup=0, skips="T")
    assert result.conditions["cache_tokens"] == 31


def test_an_unknown_depth_is_refused(llama: ad.AdaptiveNetwork) -> None:
    with pytest.raises(SkipError, match="skip 'FF'"):
        profile_generation(llama, PROMPT, new_tokens=2, skips="FF")


def test_a_model_without_its_head_and_other_networks_are_refused(nets: Any) -> None:
    for network, name in ((adapted("Llama", "Model"), "LlamaModel"), (nets.resnet(), "ResNet")):
        with pytest.raises(MeasurementError, match=f"{name} does not write text: expected a causal language model"):
            profile_generation(network, PROMPT)
    with pytest.raises(MeasurementError, match="profile_generation received a Linear: expected an adapted network"):
        profile_generation(nn.Linear(2, 2), PROMPT)  # type: ignore[arg-type]


def test_an_encoder_decoder_is_refused() -> None:
    config = transformers.T5Config(vocab_size=WORDS, d_model=16, d_ff=24, num_layers=4, num_heads=2, d_kv=8)
    network = ad.adapt(transformers.T5ForConditionalGeneration(config))
    with pytest.raises(MeasurementError, match="T5ForConditionalGeneration is an encoder-decoder: expected a causal"):
        profile_generation(network, PROMPT)


def test_a_model_that_returns_no_cache_is_refused() -> None:
    config = transformers.XLNetConfig(vocab_size=WORDS, d_model=16, n_layer=4, n_head=2, d_inner=24)
    network = ad.adapt(transformers.XLNetLMHeadModel(config))
    with pytest.raises(MeasurementError, match="XLNetLMHeadModel returned no cache that the next token could continue"):
        profile_generation(network, PROMPT)


def test_depths_that_keep_no_cache_are_left_out_and_the_table_says_so(nets: Any) -> None:
    network = nets.one_attention()
    with pytest.warns(DepthsLeftOut, match="Left out: TF, TT") as warned:
        result = profile_generation(network, PROMPT, new_tokens=2, rounds=1, warmup=0)
    assert [each.filename for each in warned] == [__file__]
    assert (list(result.costs), list(result.left_out)) == (["FF", "FT"], ["TF", "TT"])
    assert Profile.from_json(json.loads(json.dumps(result.to_json()))) == result
    perplexity = ad.evaluate(network, [PROMPT])
    assert list(perplexity) == ["FF", "FT", "TF", "TT"]  # which runs them inside the network, without a cache
    table = ad.tradeoffs(perplexity, result)
    line = "\nLeft out: TF, TT (Lfm2ForCausalLM does not run with only these layers"
    assert [row.skip for row in table.rows] == ["FF", "FT"]
    assert line in str(result)
    assert line in str(table)
    with pytest.raises(StagesError, match="sub-network TT cannot be a separate Lfm2ForCausalLM"):
        profile_generation(network, PROMPT, new_tokens=2, skips=["FF", "TT"], rounds=1)
