"""Text at a depth, against `generate` of models that were built with the layers of that depth."""

import copy
from typing import Any

import pytest
import torch

import adaptive_depth as ad
from adaptive_depth.errors import DepthsLeftOut
from adaptive_depth.language import Draft, catch_up, choose_draft, generate

transformers = pytest.importorskip("transformers")
SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "max_position_embeddings": 48,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
PROMPTS = [[5, 9, 7], [4], [11, 12, 13, 14, 15]]


@pytest.fixture
def network() -> ad.AdaptiveNetwork:
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    for parameter in model.parameters():  # of trained size, so that depths write different texts
        parameter.data += 0.2 * torch.randn_like(parameter)
    return ad.adapt(model.eval())


def by_hand(network: ad.AdaptiveNetwork, skip: str) -> Any:
    """The model that was built with these layers, for `transformers` alone."""
    left_out = {
        path for stage, flag in zip(network.stages, skip, strict=True) if flag == "T" for path in stage.skippable
    }
    numbers = [number for number in range(5) if f"model.layers.{number}" not in left_out]
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SIZES, "num_hidden_layers": len(numbers)}))
    state = {}
    for name, value in network.model.state_dict().items():
        parts = name.split(".")
        if parts[:2] == ["model", "layers"]:
            if int(parts[2]) not in numbers:
                continue
            parts[2] = str(numbers.index(int(parts[2])))
        state[".".join(parts)] = value
    model.load_state_dict(state)
    return model.eval()


def alone(model: Any, prompt: list[int], **options: Any) -> list[int]:
    """What follows a prompt, row by row and without padding."""
    return model.generate(torch.tensor([prompt]), **options)[0, len(prompt) :].tolist()


def test_prompts_of_any_length_each_at_its_depth(network: ad.AdaptiveNetwork) -> None:
    skips = [network.skips[0], network.skips[-1], network.skips[1]]
    found = generate(network, PROMPTS, skip=skips, max_new_tokens=6, do_sample=False)
    assert found.shape == (3, 11)
    for row, prompt, skip in zip(found.tolist(), PROMPTS, skips, strict=True):
        assert row[5 - len(prompt) : 5] == prompt
        assert row[5:] == alone(by_hand(network, skip), prompt, max_new_tokens=6, do_sample=False), skip


def test_what_a_tokenizer_returns_is_taken_by_name_or_as_it_is(network: ad.AdaptiveNetwork) -> None:
    """As tensors, padded on the left; as lists, padded on either side or not at all."""
    how, lists = {"max_new_tokens": 4, "do_sample": False}, [[5, 9, 7], [4]]
    expected = generate(network, lists, **how)
    left, right = ([[5, 9, 7], [0, 0, 4]], [[1, 1, 1], [0, 0, 1]]), ([[5, 9, 7], [4, 0, 0]], [[1, 1, 1], [1, 0, 0]])
    for ids, mask in ((lists, [[1, 1, 1], [1]]), left, right, [torch.tensor(each) for each in left]):
        told = {"input_ids": ids, "attention_mask": mask}
        for found in (generate(network, **told, **how), generate(network, told, **how)):
            assert torch.equal(found, expected)


def test_depths_write_different_texts(network: ad.AdaptiveNetwork) -> None:
    texts = {tuple(generate(network, [PROMPTS[2]], skip=skip, max_new_tokens=12)[0].tolist()) for skip in network.skips}
    assert len(texts) == len(network.skips)


def test_rows_that_end_early_are_filled_up(network: ad.AdaptiveNetwork) -> None:
    plain = generate(network, PROMPTS[:1], max_new_tokens=8, do_sample=False)[0, 3:].tolist()
    ends = plain.index(plain[2])
    both = generate(network, PROMPTS, skip=["FF", "TT", "TT"], max_new_tokens=8, do_sample=False, eos_token_id=plain[2])
    assert both[0, 5:].tolist()[: ends + 1] == plain[: ends + 1]
    assert set(both[0, 5 + ends + 1 :].tolist()) <= {0}


@pytest.mark.parametrize("tokens", [1, 3])
def test_drafts_change_nothing_that_is_written(network: ad.AdaptiveNetwork, tokens: int) -> None:
    for verifier, draft in ((network.skips[0], network.skips[-1]), (network.skips[1], network.skips[-1])):
        plain = generate(network, PROMPTS, skip=verifier, max_new_tokens=10, do_sample=False)
        drafted = generate(
            network, PROMPTS, skip=verifier, draft=Draft(draft, tokens), max_new_tokens=10, do_sample=False
        )
        assert torch.equal(plain, drafted)


def test_the_assistant_is_asked_as_often_as_drafts_need_it(network: ad.AdaptiveNetwork) -> None:
    """The verifier runs less often than once a token, so drafts are used at all: its own base-net agrees sometimes."""
    ran: list[int] = []
    handle = network.subnet("FF").model.layers[1].register_forward_hook(lambda *_: ran.append(1))
    generate(network, PROMPTS[:1], draft=Draft("TT", 4), max_new_tokens=20, do_sample=False)
    with_draft = len(ran)
    ran.clear()
    generate(network, PROMPTS[:1], max_new_tokens=20, do_sample=False)
    handle.remove()
    assert with_draft < len(ran) == 20


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"eos_token_id": 7, "min_new_tokens": 10},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_length": 12, "eos_token_id": 7},
        {"do_sample": True, "temperature": 0.7, "top_k": 5, "top_p": 0.9},
    ],
)
def test_transformers_has_nothing_to_warn_of(
    network: ad.AdaptiveNetwork, how: dict[str, Any], caplog: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(network.model.generation_config, "repetition_penalty", 1.1)  # in turn what a model may say
    logger = transformers.utils.logging.get_logger("transformers.generation")
    monkeypatch.setattr(type(logger), "warning_once", type(logger).warning)  # once in a process, it says
    found = generate(network, PROMPTS[:1], draft="TT", max_new_tokens=10, **how)
    if not how.get("do_sample"):
        assert torch.equal(found, generate(network, PROMPTS[:1], max_new_tokens=10, **how))
    assert caplog.messages == []


def test_drafts_leave_the_settings_of_the_network_alone(network: ad.AdaptiveNetwork) -> None:
    before = copy.deepcopy(network.subnet("TT").generation_config.to_dict())
    generate(network, PROMPTS[:1], draft=Draft("TT", 7), max_new_tokens=4)
    assert network.subnet("TT").generation_config.to_dict() == before


def test_a_sampled_text_has_the_distribution_of_the_verifier(network: ad.AdaptiveNetwork) -> None:
    """Frequencies of the second token, drafted, against exact probabilities: chi-squared at 0.1 %."""
    torch.manual_seed(0)
    verifier, prompt, draws = by_hand(network, "FF"), PROMPTS[0], 600
    with torch.no_grad():
        first = verifier(torch.tensor([prompt])).logits[0, -1].softmax(0)
        after = verifier(torch.tensor([[*prompt, token] for token in range(40)])).logits[:, -1].softmax(1)
    expected = draws * (first @ after)
    options = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": True, "top_k": 0}
    found = torch.zeros(40)
    for _ in range(draws):
        found[generate(network, [prompt], draft=Draft("TT", 2), **options)[0, -1]] += 1
    common = expected >= 5
    kinds = torch.stack([torch.cat([each[common], each[~common].sum()[None]]) for each in (found, expected)])
    statistic = float(((kinds[0] - kinds[1]) ** 2 / kinds[1]).sum())
    degrees = kinds.shape[1] - 1
    limit = degrees * (1 - 2 / (9 * degrees) + 3.09 * (2 / (9 * degrees)) ** 0.5) ** 3  # Wilson and Hilferty
    assert statistic < limit


def test_a_cache_that_caught_up_goes_on_as_if_written_there(network: ad.AdaptiveNetwork) -> None:
    tokens = torch.tensor([[5, 9, 7, 8]])
    cache = catch_up(network, "TT", tokens[:, :3])
    found = network.subnet("TT")(input_ids=tokens[:, 3:], past_key_values=cache).logits[:, -1]
    torch.testing.assert_close(found, by_hand(network, "TT")(input_ids=tokens).logits[:, -1])


def test_a_state_goes_on_by_the_name_that_the_model_has_for_it() -> None:
    config = transformers.MambaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=5, state_size=4, pad_token_id=0)
    network = ad.adapt(transformers.MambaForCausalLM(config)).eval()
    tokens, options = torch.tensor([[5, 9, 7, 8]]), {"max_new_tokens": 4, "do_sample": False}
    with pytest.raises(ad.DataError, match=r"MambaForCausalLM takes no past_key_values.*cache_params=catch_up"):
        generate(network, tokens, skip="TT", past_key_values=catch_up(network, "TT", tokens[:, :-1]), **options)
    found = generate(network, tokens, skip="TT", cache_params=catch_up(network, "TT", tokens[:, :-1]), **options)
    assert torch.equal(found, generate(network, tokens, skip="TT", **options))
    with pytest.raises(ad.StagesError, match="a cache that sub-network FF filled"):
        generate(network, tokens, skip="TT", cache_params=catch_up(network, "FF", tokens[:, :-1]), **options)


RWKV: dict[str, Any] = {"vocab_size": 40, "hidden_size": 16, "attention_hidden_size": 16, "num_hidden_layers": 4}
RWKV |= {"rescale_every": 0}
GEMMA: dict[str, Any] = SIZES | {
    "num_key_value_heads": 2,
    "num_hidden_layers": 6,
    "lru_width": 16,
    "attention_window_size": 8,
    "block_types": ["recurrent", "recurrent", "attention"] * 2,
}


@pytest.mark.parametrize(("kind", "sizes"), [("Rwkv", RWKV), ("RecurrentGemma", GEMMA), ("Llama", SIZES)])
def test_rows_of_several_lengths_are_written_as_if_each_were_alone(kind: str, sizes: dict[str, Any]) -> None:
    """RWKV's config knows no padding; it and RecurrentGemma read padding as text, whatever the mask says."""
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**sizes))
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    prompts, how = [[5, 9, 7], [4, 6], [11, 12, 13, 14]], {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    found = generate(ad.adapt(model.eval()), prompts, **how)
    assert [row[4:] for row in found.tolist()] == [alone(model, prompt, **how) for prompt in prompts]


@pytest.mark.parametrize(
    ("kind", "sizes", "tokens", "mask", "said"),
    [
        ("Rwkv", RWKV, [[5, 9, 7]], None, "RwkvForCausalLM returned no cache that the next token could continue"),
        (
            "RecurrentGemma",
            GEMMA,
            [[5, 9], [0, 4]],
            [[1, 1], [0, 1]],
            "padded texts of several lengths for a",
        ),
    ],
)
def test_texts_that_no_cache_catches_up_with(kind: str, sizes: Any, tokens: Any, mask: Any, said: str) -> None:
    config = getattr(transformers, f"{kind}Config")(**sizes)
    network = ad.adapt(getattr(transformers, f"{kind}ForCausalLM")(config).eval())
    with pytest.raises(ad.DataError, match=said):
        catch_up(network, network.skips[0], torch.tensor(tokens), None if mask is None else torch.tensor(mask))


def test_choosing_a_draft_measures_every_way(network: ad.AdaptiveNetwork) -> None:
    seen: list[tuple[int, int, str]] = []
    tried = choose_draft(network, PROMPTS, lengths=(2, 3), new_tokens=4, on_progress=lambda *step: seen.append(step))
    assert {(draft.skip, draft.tokens) for draft in tried.speedups} == {
        (s, n) for s in network.skips[1:] for n in (2, 3)
    }
    assert all(speedup > 0 for speedup in tried.speedups.values())
    best = max(tried.speedups, key=tried.speedups.__getitem__)
    assert tried.draft == (best if tried.speedups[best] > 1 else None)
    assert seen[-1][:2] == (4, 4)
    assert "speedup" in str(tried)


def test_depths_that_cannot_write_are_no_drafts(nets: Any) -> None:
    network = nets.one_attention()
    with pytest.warns(DepthsLeftOut, match="Left out: TF, TT"):
        tried = choose_draft(network, PROMPTS[:1], lengths=(2,), new_tokens=3)
    assert [draft.skip for draft in tried.speedups] == ["FT"]
    assert str(tried).splitlines()[-1].startswith("Left out: TF, TT (Lfm2ForCausalLM does not run")
    with pytest.raises(ad.StagesError, match="sub-network TT cannot be a separate Lfm2ForCausalLM"):
        choose_draft(network, PROMPTS[:1], drafts=["FT", "TT"], lengths=(2,), new_tokens=3)
    with pytest.warns(DepthsLeftOut), pytest.raises(ad.AdaptiveDepthError, match=r"no draft to try for FT.*out: TT"):
        choose_draft(network, PROMPTS[:1], skip="FT")


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "empty": ({"tokens": [[5], []]}, "a prompt is empty"),
    "no tokens": ({"tokens": torch.zeros(1, 0, dtype=torch.long)}, "at least one token"),
    "too long": (
        {"tokens": [[5] * 40], "max_new_tokens": 20},
        "40 tokens and 20 new ones exceeds the model's context of 48",
    ),
    "foreign": ({"tokens": [[5, 40]]}, "token ids from 5 to 40, but the model knows 0 to 39"),
    "padded": ({"tokens": torch.tensor([[0, 5], [6, 7]])}, "there is no attention_mask"),
    "mask": ({"tokens": torch.tensor([[5, 6]]), "attention_mask": torch.ones(1, 3)}, "attention_mask [1, 3]"),
    "numbers": ({"tokens": torch.ones(1, 3)}, "expected token ids"),
    "skips": ({"tokens": PROMPTS, "skip": ["FF", "TT"]}, "for 3 rows"),
    "draft as deep": ({"tokens": [[5]], "draft": "FF"}, "not shallower"),
    "draft deeper": ({"tokens": [[5]], "skip": "TF", "draft": "FT"}, "not shallower"),
    "text": ({"tokens": ["hello"]}, "prompts are text"),
    "right padding": (
        {"tokens": torch.tensor([[5, 6, 0], [5, 6, 7]]), "attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]])},
        "expected padding on the left",
    ),
    "a hole": ({"tokens": torch.ones(1, 3).long(), "attention_mask": torch.tensor([[1, 0, 1]])}, "after others"),
    "another mask": ({"tokens": [[5], [6, 7]], "attention_mask": torch.ones(2, 1)}, "1, 1 tokens for prompts of 1, 2"),
    "one prompt": ({"tokens": [5, 6, 7]}, "or lists in a list; one prompt is [ids]"),
    "no prompts": ({}, "generate(network, **tokenizer(texts))"),
    "prompts twice": ({"tokens": [[5]], "input_ids": [[5]]}, "twice, as tokens and as input_ids"),
    "several texts": ({"tokens": [[5]], "num_return_sequences": 2}, "network.subnet(skip).generate(...)"),
    "scores": ({"tokens": [[5]], "return_dict_in_generate": True}, "network.subnet(skip).generate(...)"),
    "a static draft": ({"tokens": [[5]], "draft": "TT", "cache_implementation": "static"}, "with a draft"),
    "a stop of one's own": ({"tokens": [[5]], "draft": "TT", "stopping_criteria": [len]}, "with a draft"),
    "a stop string": ({"tokens": [[5]], "draft": "TT", "stop_strings": ["a"]}, "stop_strings with a draft"),
    "beams in a config": (
        {"tokens": [[5]], "draft": "TT", "generation_config": transformers.GenerationConfig(num_beams=2)},
        "num_beams with a draft",
    ),
    "several texts in a config": (
        {"tokens": [[5]], "generation_config": transformers.GenerationConfig(num_return_sequences=2, num_beams=2)},
        "num_return_sequences=2: expected one text per prompt",
    ),
    "too long in a config": (
        {"tokens": [[5] * 40], "generation_config": transformers.GenerationConfig(max_new_tokens=20)},
        "40 tokens and 20 new ones exceeds the model's context of 48",
    ),
    "too long in all": ({"tokens": [[5] * 40], "max_length": 50}, "40 tokens and 10 new ones exceeds"),
    "shorter than the prompt": ({"tokens": [[5] * 4], "max_length": 4}, "max_length=4 for prompts of 4 tokens"),
    "no room": ({"tokens": [[5] * 48]}, "48 tokens and a new one exceeds the model's context of 48"),
    "nothing new": ({"tokens": [[5]], "max_new_tokens": 0}, "max_new_tokens=0: expected 1 or more"),
    "a streamer": ({"tokens": [[5], [6]], "streamer": object()}, "a streamer for 2 prompts"),
    "fractions": ({"tokens": [[5.5, 6]]}, "a prompt is [5.5, 6]: expected a list of token ids"),
    "holes": ({"tokens": [[5, None]]}, "a prompt is [5, None]"),
    "nested": ({"tokens": [[[5]]]}, "a prompt is [[5]]"),
    "truths": ({"tokens": torch.ones(1, 2, dtype=torch.bool)}, "a tensor [1, 2] of torch.bool"),
    "no cache": ({"tokens": [[5, 6]], "past_key_values": "x"}, "past_key_values is a str: expected a cache"),
    "draft of nothing": ({"tokens": [[5]], "draft": "TTT"}, "TTT"),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_cannot_be_continued(network: ad.AdaptiveNetwork, bad: str) -> None:
    given, said = BAD[bad]
    with pytest.raises(ad.AdaptiveDepthError) as error:
        generate(network, **given)
    assert said in str(error.value)


def test_no_language_model() -> None:
    import timm

    with pytest.raises(ad.AdaptiveDepthError, match="expected one of a causal language model"):
        generate(ad.adapt(timm.create_model("resnet18")), [[1]])


def test_a_cache_of_a_model_with_other_layers(network: ad.AdaptiveNetwork) -> None:
    tokens = torch.tensor([[5, 9, 7, 8]])
    cache = by_hand(network, "TT")(tokens[:, :-1]).past_key_values
    with pytest.raises(ad.StagesError, match="a cache of 3 layers, but fills one of 5: it is from another model"):
        generate(network, tokens, past_key_values=cache, max_new_tokens=2)
    cache = by_hand(network, "FF")(tokens[:, :-1]).past_key_values
    found = generate(network, tokens, past_key_values=cache, max_new_tokens=2)
    assert torch.equal(found, generate(network, tokens, max_new_tokens=2))


def test_a_cache_of_other_rows(network: ad.AdaptiveNetwork) -> None:
    tokens = torch.tensor([[5, 9, 7, 8], [6, 9, 3, 4]])
    for given in (tokens[:1], tokens.repeat(2, 1)):
        cache = catch_up(network, "TT", given[:, :-1])
        with pytest.raises(ad.DataError, match=f"a cache of {len(given)} texts? for a batch of 2: expected the"):
            generate(network, tokens, skip="TT", past_key_values=cache, max_new_tokens=2)
        with pytest.raises(ad.DataError, match=f"a cache of {len(given)} texts? for a batch of 2: expected the"):
            network.subnet("TT")(tokens[:, 3:], past_key_values=cache)
    for how in ({"skip": ["TT", "FF"]}, {"skip": "FF", "draft": "TT"}):
        cache = catch_up(network, "FF", tokens[:, :-1])
        with pytest.raises(ad.DataError, match="one cache for 2 batches"):
            generate(network, tokens, past_key_values=cache, max_new_tokens=2, **how)


def test_a_cache_of_the_whole_text_or_of_one_used_before(network: ad.AdaptiveNetwork) -> None:
    tokens = torch.tensor([[5, 9, 7, 8]])
    with pytest.raises(ad.AdaptiveDepthError, match="a cache of 4 tokens for prompts of 4"):
        generate(network, tokens, skip="TT", past_key_values=catch_up(network, "TT", tokens), max_new_tokens=2)
    cache = catch_up(network, "TT", tokens[:, :-1])
    first = generate(network, tokens, skip="TT", past_key_values=cache, max_new_tokens=3, do_sample=False)
    assert torch.equal(first, generate(network, tokens, skip="TT", max_new_tokens=3, do_sample=False))
    with pytest.raises(ad.AdaptiveDepthError, match="a new one for each text"):
        generate(network, tokens, skip="TT", past_key_values=cache, max_new_tokens=3)
