"""lm-evaluation-harness at each depth, against sums over the logits of the network by the harness's own definition.

Runs where `lm_eval` is installed; it brings some twenty packages, so it is not among those of the tests.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import adaptive_depth as ad

transformers = pytest.importorskip("transformers")
lm_eval = pytest.importorskip("lm_eval")
# What other libraries do when they are imported is theirs.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

CONTEXT = 32
END = 1  # of ByT5Tokenizer, which ends each text with it and has no token for a beginning
TEXTS = ["The quick fox.", "A text of more tokens than the model reads at once, so it is read in three windows."]
DEPTHS = ("FF", "TF", "FT", "TT")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return transformers.ByT5Tokenizer(extra_ids=0)


@pytest.fixture(scope="module")
def network(tokenizer: Any) -> ad.AdaptiveNetwork:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 5, "num_attention_heads": 2}
    ends = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": END}
    config = transformers.LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=CONTEXT, **sizes, **ends)
    model = transformers.LlamaForCausalLM(config)
    for parameter in model.parameters():  # of trained size, so that depths answer differently
        parameter.data += 0.2 * torch.randn_like(parameter)
    return ad.adapt(model.eval())


@pytest.fixture(params=["the network", "the folder"])
def harness(
    request: pytest.FixtureRequest, network: ad.AdaptiveNetwork, tokenizer: Any, tmp_path: Path
) -> Callable[..., Any]:
    """The harness of a depth: of the network's own, or of the folder that it is saved as."""
    from lm_eval.models.huggingface import HFLM

    def made(skip: str, **options: Any) -> Any:
        options |= {"device": "cpu", "batch_size": 2}
        if request.param == "the network":
            return HFLM(pretrained=network.subnet(skip), tokenizer=tokenizer, **options)
        network.extract(skip).save_pretrained(tmp_path / skip)
        tokenizer.save_pretrained(tmp_path / skip)
        return HFLM(pretrained=str(tmp_path / skip), **options)

    return made


def tokens_of(text: str) -> list[int]:
    return [byte + 3 for byte in text.encode()]  # three tokens stand before those of the bytes


def log_likelihoods(network: ad.AdaptiveNetwork, skip: str, tokens: list[int]) -> Tensor:
    """Of each token but the first, given those before it."""
    ids = torch.tensor([tokens])
    with torch.no_grad():
        found = network(input_ids=ids, skip=skip).logits.double().log_softmax(-1)
    return found[0, :-1].gather(1, ids[0, 1:, None])[:, 0]


def by_windows(network: ad.AdaptiveNetwork, skip: str, tokens: list[int]) -> float:
    """Of a whole text: each token once, in stretches of CONTEXT tokens.

    The first stretch follows the end token, for want of a beginning; each later one as much of what stands before it
    as the context still holds, and one token at least.
    """
    total, told = 0.0, 0
    while told < len(tokens):
        until = min(told + CONTEXT, len(tokens))
        before = [END] if told == 0 else tokens[until - CONTEXT - 1 : told]
        total += float(log_likelihoods(network, skip, before + tokens[told:until])[len(before) - 1 :].sum())
        told = until
    return total


@pytest.mark.parametrize(("options", "end"), [({}, [END]), ({"add_bos_token": False}, [])])
@pytest.mark.parametrize("skip", DEPTHS)
def test_bits_per_byte_count_what_the_tokenizer_adds(
    network: ad.AdaptiveNetwork, harness: Callable[..., Any], skip: str, options: dict[str, Any], end: list[int]
) -> None:
    from datasets import Dataset
    from lm_eval.tasks import TaskManager

    task = {
        "task": "texts",
        "custom_dataset": lambda **_: {"test": Dataset.from_list([{"text": text} for text in TEXTS])},
        "output_type": "loglikelihood_rolling",
        "test_split": "test",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}, {"metric": "byte_perplexity"}],
    }
    tasks = TaskManager(include_defaults=False).load([task])  # its own are thousands of files
    found = lm_eval.evaluate(harness(skip, **options), tasks, bootstrap_iters=0)["results"]["texts"]
    total = sum(by_windows(network, skip, tokens_of(text) + end) for text in TEXTS)
    nats = -total / sum(map(len, TEXTS))
    assert found["bits_per_byte,none"] == pytest.approx(nats / math.log(2), rel=1e-5)
    assert found["byte_perplexity,none"] == pytest.approx(math.exp(nats), rel=1e-5)


@pytest.mark.parametrize("skip", DEPTHS)
def test_answers_are_scored_and_written(
    network: ad.AdaptiveNetwork, harness: Callable[..., Any], tokenizer: Any, skip: str
) -> None:
    from lm_eval.api.instance import Instance

    model = harness(skip, add_bos_token=False)
    asked = [("2 + 2 =", " 4"), ("2 + 2 =", " four"), ("Yes or", " no")]
    requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(asked)]
    found = model.loglikelihood(requests, disable_tqdm=True)
    for (context, answer), (score, _) in zip(asked, found, strict=True):
        by_hand = log_likelihoods(network, skip, tokens_of(context + answer))[-len(answer) :].sum()
        assert score == pytest.approx(float(by_hand), rel=1e-5)

    wanted = {"until": [], "max_gen_toks": 6, "do_sample": False}
    [written] = model.generate_until([Instance("generate_until", {}, ("2 + 2 =", wanted), 0)], disable_tqdm=True)
    ids = tokens_of("2 + 2 =")
    prompt = len(ids)
    while len(ids) < prompt + 6 and ids[-1] != END:
        with torch.no_grad():
            ids.append(int(network(input_ids=torch.tensor([ids]), skip=skip).logits[0, -1].argmax()))
    assert written == tokenizer.decode(ids[prompt:], skip_special_tokens=True)
