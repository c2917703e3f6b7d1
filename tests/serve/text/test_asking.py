"""Requests as OpenAI has them: what is known is read strictly, what is not and would change the text is refused."""

import json
from typing import Any

import pytest

from adaptive_depth.serve.problems import Problem
from adaptive_depth.serve.text.asking import Chat, Completion, TextAsked, read_request


def completion(**more: Any) -> TextAsked:
    return read_request(Completion, json.dumps({"model": "m", "prompt": "Once", **more}).encode()).asked()


def chat(messages: Any = None, **more: Any) -> TextAsked:
    said = messages if messages is not None else [{"role": "user", "content": "Hello"}]
    return read_request(Chat, json.dumps({"model": "m", "messages": said, **more}).encode()).asked()


def test_what_openai_means_where_nothing_is_said() -> None:
    assert completion() == TextAsked("Once", most=16, temperature=1.0, top_p=1.0)
    assert chat() == TextAsked(messages=({"role": "user", "content": "Hello"},), most=None)


def test_what_is_said() -> None:
    found = completion(max_tokens=3, temperature=0, top_p=0.5, seed=7, stop="\n", skip="TF")
    assert found == TextAsked("Once", most=3, temperature=0.0, top_p=0.5, seed=7, stop=("\n",), skip="TF")
    assert completion(stop=["a", "b"], token_ms=20).stop == ("a", "b")
    assert completion(prompt=[1, 2]).prompt == (1, 2)
    assert completion(prompt=["Once"]).prompt == "Once"
    assert chat(max_completion_tokens=9).most == 9
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    assert chat([{"role": "developer", "content": parts}]).messages == ({"role": "system", "content": "Hello"},)


def test_what_asks_for_nothing_or_changes_nothing_is_taken() -> None:
    asked = completion(n=1, echo=False, logit_bias={}, presence_penalty=0, frequency_penalty=0.0, user="me", store=True)
    assert asked == completion()
    assert chat(tools=[], response_format={"type": "text"}, tool_choice="auto", logprobs=False) == chat()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"n": 2}, "n=2 is not supported: leave it out, or set 1"),
        ({"n": True}, "n=true is not supported"),
        ({"echo": True}, "echo=true is not supported"),
        ({"logprobs": 3}, "logprobs=3 is not supported"),
        ({"logit_bias": {"5": 1}}, "logit_bias="),
        ({"presence_penalty": 0.5}, "presence_penalty=0.5 is not supported"),
        ({"best_of": 0.0}, "best_of=0.0 is not supported: leave it out, or set 1"),
        ({"response_format": {"type": "json_object"}}, "response_format="),
        ({"top_k": 5}, "top_k is not supported: expected some of model, temperature"),
        ({"tempreature": 0}, "tempreature is not supported"),
        ({"temperature": "0"}, "temperature: Input should be a valid number"),
        ({"temperature": 3}, "temperature: Input should be less than or equal to 2"),
        ({"top_p": 0}, "top_p: Input should be greater than 0"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0"),
        ({"stop": ["a"] * 5}, "stop has 5 texts: expected at most 4"),
        ({"stop": ""}, "stop"),
        ({"skip": "T", "token_ms": 5}, "skip and a limit in milliseconds both determine the depth"),
        ({"stream_options": {"include_usage": True}}, "stream_options without stream"),
        ({"prompt": ["a", "b"]}, "prompt has 2 texts: expected one"),
        ({"prompt": None}, "prompt"),
    ],
)
def test_what_is_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(Problem) as raised:
        completion(**more)
    assert said in raised.value.detail
    assert raised.value.status == 422


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "messages"),
        ([{"role": "tool", "content": "5"}], "messages.0.role"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "messages.0.content"),
        ([{"role": "user", "content": "Hello", "tool_calls": []}], "messages.0.tool_calls is not supported"),
    ],
)
def test_messages_that_are_none(messages: Any, said: str) -> None:
    with pytest.raises(Problem) as raised:
        chat(messages)
    assert said in raised.value.detail


def test_bodies_that_are_none() -> None:
    for body in (b"", b"{", b"[]", b'{"model": "m", "model": "m"}'):
        with pytest.raises(Problem, match="the body"):
            read_request(Completion, body)
