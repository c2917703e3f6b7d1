"""`/v1/completions` and `/v1/chat/completions`, as clients of OpenAI expect them."""

import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from ..inputs import Limits
from ..metrics import Metrics
from ..predicting import About
from ..problems import Problem
from ..reading import read_body, unless_gone
from .asking import Chat, Completion, TextAsked, read_request
from .pieces import Piece, Usage

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

PATHS = ("/v1/completions", "/v1/chat/completions")
_DONE = b"data: [DONE]\n\n"
# OpenAI's names for kinds of errors, by status; all others are server errors.
_TYPES = {400: "invalid_request_error", 404: "not_found_error", 408: "invalid_request_error"}
_CODES = {"unknown-model": "model_not_found", "full": "overloaded", "too-large": "request_too_large"}


class WritesText(Protocol):
    """A language model: in this process, or behind Ray."""

    async def about(self) -> About: ...

    async def status(self) -> tuple[bool, bool]: ...

    def write(self, asked: TextAsked) -> AsyncIterator[Piece]: ...


def add_text_routes(
    app: "FastAPI", writers: Mapping[str, WritesText], limits: Limits, metrics: Metrics | None = None
) -> None:
    """Add both routes to an application.

    Arguments:
        app: a FastAPI.
        writers: models by name.
        limits: of requests.
        metrics: counts requests that never reach a model.
    """
    from starlette.requests import Request
    from starlette.responses import Response

    async def answered(kind: type[Completion] | type[Chat], request: Request) -> Response:
        name = ""
        try:
            name, asked, wanted = await _read(kind, request, writers, limits)
        except Problem as problem:
            if metrics is not None and name:
                metrics.of(name).ended(problem.outcome)
            return _told(problem)
        form = _Form(kind, name)
        pieces = writers[name].write(asked)
        try:
            if wanted.streamed:
                first = await anext(aiter(pieces))  # an error can set the status only before anything is sent
                return _streamed(form, first, pieces, with_usage=wanted.with_usage)
            return await _whole(form, request, pieces)
        except Problem as problem:
            return _told(problem)

    @app.post(PATHS[0], summary="Continue a prompt, with OpenAI's API; skip, first_token_ms, token_ms set the depth.")
    async def completions(request: Request) -> Response:
        return await answered(Completion, request)

    @app.post(PATHS[1], summary="Answer in a conversation, with OpenAI's API; skip and limits as above.")
    async def chat(request: Request) -> Response:
        return await answered(Chat, request)


async def _read(
    kind: type[Completion] | type[Chat], request: "Request", writers: Mapping[str, WritesText], limits: Limits
) -> tuple[str, TextAsked, Completion | Chat]:
    body = await read_body(request, limits)
    came = time.perf_counter()
    wanted = read_request(kind, body)
    if wanted.model not in writers:
        raise Problem(
            "unknown-model", f"{wanted.model[:80]!r} is not a text model here: expected one of {', '.join(writers)}"
        )
    asked = wanted.asked()
    return wanted.model, replace(asked, waited_ms=1000 * (time.perf_counter() - came)), wanted


class _Form:
    """OpenAI's format of either kind of answer, whole or in pieces."""

    def __init__(self, kind: type[Completion] | type[Chat], model: str) -> None:
        self.chat = kind is Chat
        self._same = {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, text: str, last: Piece) -> dict[str, Any]:
        content = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        choice = {"index": 0, **content, "finish_reason": last.finish, "logprobs": None}
        name = "chat.completion" if self.chat else "text_completion"
        return {**self._same, "object": name, "choices": [choice], "usage": _usage(last), "skip": last.skip}

    def part(self, piece: Piece, *, first: bool) -> dict[str, Any]:
        delta = {**({"role": "assistant"} if first else {}), **({"content": piece.text} if piece.text else {})}
        content: dict[str, Any] = {"delta": delta} if self.chat else {"text": piece.text}
        choice = {"index": 0, **content, "finish_reason": piece.finish, "logprobs": None}
        return {**self._named(), "choices": [choice], "skip": piece.skip}

    def usage(self, last: Piece) -> dict[str, Any]:
        return {**self._named(), "choices": [], "usage": _usage(last)}

    def _named(self) -> dict[str, Any]:
        return {**self._same, "object": "chat.completion.chunk" if self.chat else "text_completion"}


def _usage(last: Piece) -> dict[str, int]:
    return (last.usage or Usage(0, 0)).to_json()


async def _whole(form: _Form, request: "Request", pieces: AsyncIterator[Piece]) -> "Response":
    from starlette.responses import JSONResponse

    async def gathered() -> tuple[str, Piece]:
        texts, last = [], Piece("", "")
        async for piece in pieces:
            texts.append(piece.text)
            last = piece
        return "".join(texts), last

    text, last = await unless_gone(request, gathered())
    return JSONResponse(form.whole(text, last), headers={"Adaptive-Depth-Skip": last.skip})


def _streamed(form: _Form, first: Piece, pieces: AsyncIterator[Piece], *, with_usage: bool) -> "Response":
    from starlette.responses import StreamingResponse

    async def events() -> AsyncIterator[bytes]:
        last = first
        yield _event(form.part(first, first=True))
        try:
            async for piece in pieces:
                last = piece
                yield _event(form.part(piece, first=False))
        except Problem as problem:  # the status has already been sent
            yield _event(_error(problem))
            return
        if with_usage:
            yield _event(form.usage(last))
        yield _DONE

    headers = {"Adaptive-Depth-Skip": first.skip, "Cache-Control": "no-cache"}
    return StreamingResponse(events(), media_type="text/event-stream", headers=headers)


def _event(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()


def _status(problem: Problem) -> int:
    return 400 if problem.status == 422 else problem.status  # as in OpenAI's API


def _error(problem: Problem) -> dict[str, Any]:
    kind = _TYPES.get(_status(problem), "server_error" if problem.status >= 500 else "invalid_request_error")
    code = _CODES.get(problem.kind, problem.kind.replace("-", "_"))
    return {"error": {"message": problem.detail, "type": kind, "param": None, "code": code}}


def _told(problem: Problem) -> "Response":
    from starlette.responses import JSONResponse

    return JSONResponse(_error(problem), _status(problem), problem.headers)
