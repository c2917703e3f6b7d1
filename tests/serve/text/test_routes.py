"""A language model behind OpenAI's own client, over real HTTP: texts, depths, streams, errors."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import adaptive_depth as ad
from adaptive_depth.language import generate
from adaptive_depth.quality import Quality
from adaptive_depth.serve.application import application
from adaptive_depth.serve.inputs import Limits
from adaptive_depth.serve.local import address_of, bound
from adaptive_depth.serve.metrics import Metrics, Prometheus
from adaptive_depth.serve.text.writing import TextSettings, Writer

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # of the client's pool
TEMPLATE = (
    "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)
TABLE_OF = Quality("perplexity", higher_is_better=False)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Each byte of UTF-8 is a token."""
    special = ["<s>", "</s>", "<pad>"]
    words = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    found = Tokenizer(BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    found.pre_tokenizer, found.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    names = dict(zip(("bos_token", "eos_token", "pad_token"), special, strict=True))
    made = PreTrainedTokenizerFast(tokenizer_object=found, **names)
    made.chat_template = TEMPLATE
    return made


@pytest.fixture(scope="module")
def network() -> ad.AdaptiveNetwork:
    torch.manual_seed(0)
    sizes = {"vocab_size": 259, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = LlamaConfig(**sizes, **ids, num_hidden_layers=4, max_position_embeddings=96)
    return ad.adapt(LlamaForCausalLM(config)).eval()


def table_of(network: ad.AdaptiveNetwork) -> ad.TradeOffs:
    """The deepest takes 200 ms and 20 ms a token, the shallowest half of it."""
    deep, shallow = network.skips[0], network.skips[-1]
    rows = (
        ad.Row(deep, 12.0, 9, 9, first_token_ms=200.0, token_ms=20.0),
        ad.Row(shallow, 14.0, 5, 5, first_token_ms=100.0, token_ms=10.0),
    )
    return ad.TradeOffs(rows, quality=TABLE_OF, prompt_tokens=4)


@pytest.fixture
def serving(network: ad.AdaptiveNetwork, tokenizer: Any) -> Iterator[Callable[..., str]]:
    """Starts a server; its address."""
    import uvicorn

    stops: list[Callable[[], None]] = []

    def start(**options: Any) -> str:
        prometheus = Prometheus()
        metrics = Metrics(prometheus)
        tokens = options.pop("tokenizer", tokenizer)
        writer = Writer("book", network, tokens, watch=metrics.of("book"), **options)
        app = application(
            {}, writers={"book": writer}, limits=Limits(bytes=20_000), metrics=metrics,
            metrics_text=prometheus.text, running=lambda: writer,
        )  # fmt: skip
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=5))
        listening = bound("127.0.0.1", 0)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)

        def stop() -> None:
            server.should_exit = True
            thread.join(20)
            listening.close()
            assert not thread.is_alive()

        stops.append(stop)
        return address_of(listening)

    yield start
    for stop in stops:
        stop()


@pytest.fixture
def server(serving: Callable[..., str]) -> str:
    return serving()


@pytest.fixture
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as made:
        yield made


def expected(network: ad.AdaptiveNetwork, tokenizer: Any, prompt: str, skip: str, most: int) -> str:
    ids = tokenizer(prompt)["input_ids"]
    [found] = generate(network, [ids], skip=skip, max_new_tokens=most, do_sample=False).tolist()
    return tokenizer.decode(found[len(ids) :], skip_special_tokens=True)


def test_a_text_at_each_depth_is_the_one_of_generate(client: openai.OpenAI, network: Any, tokenizer: Any) -> None:
    for skip in (network.skips[0], network.skips[-1]):
        found = client.completions.create(
            model="book", prompt="Once upon", max_tokens=12, temperature=0, extra_body={"skip": skip}
        )
        assert found.choices[0].text == expected(network, tokenizer, "Once upon", skip, 12)
        assert found.skip == skip  # type: ignore[attr-defined]
        assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (9, 12)
        assert found.choices[0].finish_reason == "length"


@pytest.mark.parametrize("kind", ["completions", "chat"])
def test_a_stream_adds_up_to_the_same_text(client: openai.OpenAI, server: str, kind: str) -> None:
    if kind == "chat":
        asked: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}
        create: Any = client.chat.completions.create
    else:
        asked, create = {"prompt": "Hello"}, client.completions.create
    asked |= {"model": "book", "max_tokens": 20, "temperature": 0}
    whole = create(**asked)
    parts = list(create(**asked, stream=True, stream_options={"include_usage": True}))
    of = (lambda choice: choice.delta.content or "") if kind == "chat" else (lambda choice: choice.text)
    text = whole.choices[0].message.content if kind == "chat" else whole.choices[0].text
    assert "".join(of(part.choices[0]) for part in parts if part.choices) == text
    assert len(parts) > 5
    assert parts[-1].usage == whole.usage
    assert parts[-2].choices[0].finish_reason == "length"
    path = "/v1/chat/completions" if kind == "chat" else "/v1/completions"
    raw = httpx.post(f"{server}{path}", json={**asked, "stream": True})
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert raw.text.endswith("data: [DONE]\n\n")


def test_a_conversation_goes_through_the_template(client: openai.OpenAI, network: Any, tokenizer: Any) -> None:
    found = client.chat.completions.create(
        model="book", messages=[{"role": "user", "content": "Hello"}], max_tokens=8, temperature=0
    )
    wanted = expected(network, tokenizer, "u:Hello\na:", network.skips[0], 8)
    assert found.choices[0].message.content == wanted
    assert found.choices[0].message.role == "assistant"


def test_it_stops_at_a_word(client: openai.OpenAI, network: Any, tokenizer: Any) -> None:
    whole = expected(network, tokenizer, "Once", network.skips[0], 30)
    word = whole[5:7]
    asked: dict[str, Any] = {"model": "book", "prompt": "Once", "max_tokens": 30, "temperature": 0, "stop": [word]}
    found = client.completions.create(**asked)
    assert found.choices[0].text == whole[: whole.index(word)]
    assert found.choices[0].finish_reason == "stop"
    assert found.usage.completion_tokens < 30


def test_a_seed_draws_the_same_text_and_leaves_the_others_alone(client: openai.OpenAI) -> None:
    def drawn(seed: int | None) -> str:
        asked: dict[str, Any] = {"model": "book", "prompt": "Once", "max_tokens": 20, "top_p": 0.9}
        return client.completions.create(**asked, seed=seed).choices[0].text

    assert drawn(7) == drawn(7) != drawn(8)
    assert drawn(None) != drawn(None)


def test_limits_choose_the_depth(serving: Callable[..., str], network: ad.AdaptiveNetwork) -> None:
    server = serving(table=table_of(network), settings=TextSettings(token_ms=1000.0))

    def skip_of(**more: Any) -> str:
        asked = {"model": "book", "prompt": "Once", "max_tokens": 1, "temperature": 0, **more}
        return httpx.post(f"{server}/v1/completions", json=asked).json()["skip"]

    assert skip_of() == network.skips[0]
    assert skip_of(token_ms=15) == network.skips[-1]
    assert skip_of(first_token_ms=100_000) == network.skips[0]
    assert skip_of(skip=network.skips[-1]) == network.skips[-1]


def test_models_are_listed_with_their_depths(client: openai.OpenAI, network: ad.AdaptiveNetwork) -> None:
    [model] = client.models.list().data
    assert model.id == "book"
    assert [depth["skip"] for depth in model.depths] == [*network.skips]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        ({"model": "other"}, openai.NotFoundError, "'other' is not a text model here: expected one of book"),
        ({"n": 3}, openai.BadRequestError, "n=3 is not supported"),
        ({"skip": "XY"}, openai.BadRequestError, "XY"),
        ({"token_ms": 5}, openai.BadRequestError, "were not measured (text table): set a skip"),
        ({"prompt": ""}, openai.BadRequestError, "the prompt is empty"),
        ({"prompt": [5, 259]}, openai.BadRequestError, "prompt has the token 259: expected ids from 0 to 258"),
        ({"max_tokens": 93}, openai.BadRequestError, "exceed the model's context of 96"),
        ({"prompt": "x" * 30_000}, openai.APIStatusError, "more than 20,000 bytes"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_openais_form(
    client: openai.OpenAI, more: dict[str, Any], error: type[openai.APIStatusError], said: str, stream: bool
) -> None:
    asked = {"model": "book", "prompt": "Once", "max_tokens": 4, **more}
    extra = {name: asked.pop(name) for name in ("skip", "token_ms") if name in asked}
    with pytest.raises(error) as raised:
        client.completions.create(**asked, stream=stream, extra_body=extra)
    assert said in raised.value.body["message"]  # type: ignore[index, call-overload]
    assert raised.value.body["code"]  # type: ignore[index, call-overload]


def test_a_model_without_a_template_has_no_conversations(serving: Callable[..., str], tokenizer: Any) -> None:
    import copy

    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    server = serving(tokenizer=plain)
    asked = {"model": "book", "messages": [{"role": "user", "content": "Hello"}]}
    response = httpx.post(f"{server}/v1/chat/completions", json=asked)
    assert response.status_code == 400
    assert "no chat template" in response.json()["error"]["message"]


def test_whoever_leaves_ends_the_text_and_the_next_one_is_written(
    serving: Callable[..., str], network: ad.AdaptiveNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adaptive_depth.serve.text import writing

    passes: list[int] = []

    def slow(self: Any, value: Any, put: Any = writing._Pen.put) -> None:
        passes.append(1)
        time.sleep(0.05)
        put(self, value)

    monkeypatch.setattr(writing._Pen, "put", slow)
    server = serving()
    asked = {"model": "book", "prompt": "Once", "max_tokens": 80, "temperature": 0, "stream": True}
    with httpx.stream("POST", f"{server}/v1/completions", json=asked) as response:
        next(response.iter_text())
    asked |= {"max_tokens": 2, "stream": False}
    assert httpx.post(f"{server}/v1/completions", json=asked, timeout=20).status_code == 200
    assert len(passes) < 60
    text = httpx.get(f"{server}/metrics").text
    assert 'requests_total{model="book",outcome="cancelled"} 1.0' in text
    assert 'requests_total{model="book",outcome="in_time"} 1.0' in text


def test_a_full_queue_of_texts(serving: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    from adaptive_depth.serve.text import writing

    gate, began = threading.Event(), threading.Event()

    def held(self: Any, value: Any, put: Any = writing._Pen.put) -> None:
        began.set()
        assert gate.wait(20)
        put(self, value)

    monkeypatch.setattr(writing._Pen, "put", held)
    server = serving(settings=TextSettings(most_waiting=0))
    asked = {"model": "book", "prompt": "Once", "max_tokens": 2}
    answers: list[httpx.Response] = []
    first = threading.Thread(target=lambda: answers.append(httpx.post(f"{server}/v1/completions", json=asked)))
    first.start()
    assert began.wait(20)
    response = httpx.post(f"{server}/v1/completions", json=asked)
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert response.json()["error"]["code"] == "overloaded"
    gate.set()
    first.join(20)
    assert answers[0].status_code == 200


def test_settings_that_do_not_fit_are_found_before_it_serves(network: ad.AdaptiveNetwork, tokenizer: Any) -> None:
    with pytest.raises(ad.AdaptiveDepthError, match="skip"):
        Writer("book", network, tokenizer, settings=TextSettings(skip="XY"))
    with pytest.raises(ad.AdaptiveDepthError, match="were not measured"):
        Writer("book", network, tokenizer, settings=TextSettings(token_ms=5.0))
