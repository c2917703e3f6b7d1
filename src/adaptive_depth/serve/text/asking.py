"""The parameters of a request for text, as in OpenAI's API; unsupported ones that would change the text are refused."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ...errors import DataError
from ...schema import parse_json
from ..problems import Problem

MOST_STOPS = 4
_MOST_TOKENS = 1 << 20
_USUAL_TOKENS = 16  # OpenAI's default for completions
# Parameters of OpenAI that are accepted only with values that have no effect, by name.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "echo": (None, False),
    "frequency_penalty": (None, 0, 0.0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "modalities": (None, ["text"]),
    "n": (None, 1),
    "parallel_tool_calls": (None, True, False),  # there are no tools
    "presence_penalty": (None, 0, 0.0),
    "response_format": (None, {"type": "text"}),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "top_logprobs": (None, 0),
}
_WITHOUT_EFFECT = ("metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user")


@dataclass(frozen=True)
class TextAsked:
    """A request for text on its way to a model.

    Attributes:
        prompt: a text, or its token ids; None for a conversation.
        messages: a conversation, each with `role` and `content`.
        most: new tokens; None for as many as fit.
        temperature, top_p, seed, stop: as in OpenAI's API.
        skip: the depth; None lets the limits or the server choose.
        first_token_ms, token_ms: limits, which choose the depth.
        waited_ms: since it reached the server.
    """

    prompt: str | tuple[int, ...] | None = None
    messages: tuple[dict[str, str], ...] = ()
    most: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    skip: str | None = None
    first_token_ms: float | None = None
    token_ms: float | None = None
    waited_ms: float = 0.0


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False
    include_obfuscation: bool = False


class _Text(BaseModel):
    """What both kinds of request share."""

    # Strict, because OpenAI's API does not accept strings such as "0.7" as numbers either.
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=_MOST_TOKENS)] | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None  # 64 bits, signed, as in OpenAI's API
    stop: Annotated[str, Field(min_length=1)] | list[Annotated[str, Field(min_length=1)]] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    skip: str | None = None
    first_token_ms: Annotated[float, Field(gt=0)] | None = None
    token_ms: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _goes_together(self) -> "_Text":
        if self.skip is not None and (self.token_ms is not None or self.first_token_ms is not None):
            raise ValueError("skip and a limit in milliseconds both determine the depth: set only one of them")
        if isinstance(self.stop, list) and len(self.stop) > MOST_STOPS:
            raise ValueError(f"stop has {len(self.stop)} texts: expected at most {MOST_STOPS}")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options without stream: add stream, or leave stream_options out")
        return self

    @property
    def streamed(self) -> bool:
        return bool(self.stream)

    @property
    def with_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def _shared(self) -> dict[str, Any]:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return {
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "seed": self.seed,
            "stop": tuple(stops),
            "skip": self.skip,
            "first_token_ms": self.first_token_ms,
            "token_ms": self.token_ms,
        }


class Completion(_Text):
    """`POST /v1/completions`."""

    prompt: str | list[int] | list[str]

    def asked(self) -> TextAsked:
        prompt: Any = self.prompt
        if isinstance(prompt, list) and any(isinstance(each, str) for each in prompt):
            if len(prompt) > 1:
                raise Problem("wish", f"prompt has {len(prompt)} texts: expected one, send a request for each")
            prompt = prompt[0]
        found = prompt if isinstance(prompt, str) else tuple(prompt)
        return TextAsked(found, most=self.max_tokens or _USUAL_TOKENS, **self._shared())


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: str


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part]

    def plain(self) -> dict[str, str]:
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class Chat(_Text):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[_Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=_MOST_TOKENS)] | None = None

    def asked(self) -> TextAsked:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise Problem("wish", "max_tokens and max_completion_tokens are the same: set only one of them")
        most = self.max_tokens or self.max_completion_tokens
        return TextAsked(messages=tuple(each.plain() for each in self.messages), most=most, **self._shared())


def read_request(kind: type[Completion] | type[Chat], body: bytes) -> Completion | Chat:
    """A request of either kind.

    Raises:
        Problem: invalid JSON, or a parameter that is missing, out of range, or not supported with this value.

    Example:
        >>> read_request(Completion, b'{"model": "m", "prompt": "Once", "max_tokens": 5, "n": 1}').asked().most
        5
    """
    try:
        content = parse_json(body, DataError, "the body", "expected a JSON object")
    except DataError as error:
        raise Problem("damaged", str(error)) from error
    if not isinstance(content, Mapping):
        raise Problem("damaged", f"the body is a {type(content).__name__}: expected a JSON object")
    rest = {}
    for name, value in content.items():
        if name in _WITHOUT_EFFECT:
            continue
        if name not in _NEUTRAL:
            rest[name] = value
        # Also compared by type, because True == 1.
        elif not any(value == each and type(value) is type(each) for each in _NEUTRAL[name]):
            usual = json.dumps(_NEUTRAL[name][-1])
            raise Problem("wish", f"{name}={json.dumps(value)[:80]} is not supported: leave it out, or set {usual}")
    try:
        return kind.model_validate_json(json.dumps(rest), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the request"
        if first["type"] == "extra_forbidden":
            known = ", ".join(kind.model_fields)
            raise Problem("wish", f"{place} is not supported: expected some of {known}") from error
        raise Problem("wish", f"{place}: {first['msg']}") from error
