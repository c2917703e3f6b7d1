"""The HTTP application: the same in one process under uvicorn and as the ingress of Ray Serve."""

import io
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .inputs import Limits
from .metrics import Metrics
from .predicting import FORMS, About, Asked, Model, Reply
from .problems import MEDIA_TYPE, Problem
from .reading import read_body, unless_gone
from .wishes import HEADER, Wishes

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

    from .text.routes import WritesText

REQUEST_ID = "X-Request-ID"
_NPY, _NPZ = "application/x-npy", "application/x-npz"
_M = TypeVar("_M")
_MOST_AT_ONCE = 1024  # requests whose bodies are in memory


def application(
    models: Mapping[str, Model],
    *,
    writers: "Mapping[str, WritesText] | None" = None,
    limits: Limits | None = None,
    metrics: Metrics | None = None,
    metrics_text: Callable[[], bytes] | None = None,
    running: Callable[[], AbstractAsyncContextManager[Any]] | None = None,
    names_requests: bool = True,
) -> "FastAPI":
    """A server for models.

    Arguments:
        models: by name.
        writers: language models, by name.
        limits: of requests.
        metrics: counts requests that never reach a model.
        metrics_text: what `/metrics` returns; without it there is no such path.
        running: entered before the first request, left after the last one.
        names_requests: whether responses carry X-Request-ID, the request's or a new one; Ray's proxy does it itself.

    Example:
        >>> app = application({})
        >>> sorted(route.path for route in app.routes if route.path.startswith("/v1"))
        ['/v1/models', '/v1/models/{name}']
    """
    from fastapi import FastAPI
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        if running is None:
            yield
            return
        async with running():
            yield

    # FastAPI's pages load scripts from elsewhere; /openapi.json has everything that they would show.
    app = FastAPI(title="adaptive-depth", docs_url=None, redoc_url=None, lifespan=lifespan)
    if names_requests:
        app.add_middleware(_NamesRequests)
    writers, limits, started = writers or {}, limits or Limits(), int(time.time())
    server, known = _Server(models, limits, metrics), {**models, **writers}
    paths = "/v1/models, /models/NAME/predict, /healthz, /readyz"

    @app.get("/healthz", summary="Whether every network responds; if not, restart the process.")
    async def healthz() -> Response:
        return JSONResponse({"status": "ok"}) if await _all(known, 0) else _stuck()

    @app.get("/readyz", summary="Whether every model accepts requests.")
    async def readyz() -> Response:
        if await _all(known, 1):
            return JSONResponse({"status": "ready"})
        return _told(Problem("stopping", "a model does not accept requests at present: retry later", 1))

    @app.get("/v1/models", summary="The models and their depths.")
    async def list_models() -> Response:
        data = [_described(await model.about(), started) for model in known.values()]
        return JSONResponse({"object": "list", "data": data})

    @app.get("/v1/models/{name}", summary="One model.")
    async def one_model(name: str) -> Response:
        return JSONResponse(_described(await _named(known, name).about(), started))

    @app.post("/models/{name}/predict", summary="An image or a tensor in; labels and scores, or tensors out.")
    async def predict(name: str, request: Request) -> Response:
        return await server.predict(name, request)

    if writers:
        from .text.routes import PATHS, add_text_routes

        add_text_routes(app, writers, limits, metrics)
        paths = f"{paths}, {', '.join(PATHS)}"

    if metrics_text is not None:
        paths = f"{paths}, /metrics"

        @app.get("/metrics", summary="Metrics for Prometheus.")
        async def show_metrics() -> Response:
            return Response(metrics_text(), media_type="text/plain; version=1.0.0; charset=utf-8")

    @app.exception_handler(Problem)
    async def tell(_: Request, problem: Problem) -> Response:
        return _told(problem)

    @app.exception_handler(HTTPException)
    async def tell_of_http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 405:
            return _told(
                Problem("method", f"{request.method} {request.url.path}: expected {_allowed(error)}; paths are {paths}")
            )
        return _told(Problem("unknown-path", f"{request.url.path} is not a path here: expected {paths}"))

    @app.exception_handler(RequestValidationError)
    async def tell_of_values(_: Request, error: RequestValidationError) -> Response:
        return _told(Problem("wish", f"the request is invalid ({error.errors()[0]['msg']})"))

    @app.exception_handler(Exception)
    async def tell_of_ours(_: Request, error: Exception) -> Response:
        return _told(Problem("failed", f"the server failed ({type(error).__name__}): see its log"))

    return app


class _Server:
    """Handles a request: its size and time, its options, its model, its answer."""

    def __init__(self, models: Mapping[str, Model], limits: Limits, metrics: Metrics | None) -> None:
        self.models, self.limits, self.metrics = models, limits, metrics
        self._inside = 0

    async def predict(self, name: str, request: "Request") -> "Response":
        model = _named(self.models, name)
        try:
            asked = await self._read(request)
        except Problem as problem:
            if self.metrics is not None:
                self.metrics.of(name).ended(problem.outcome)
            raise
        reply = await unless_gone(request, model.predict(asked))
        return _answered(name, request, reply)

    async def _read(self, request: "Request") -> Asked:
        if self._inside >= _MOST_AT_ONCE:
            raise Problem("full", f"{self._inside} requests are being read, the limit: retry in 1 s", 1)
        self._inside += 1
        try:
            wishes, form = _wishes(request)
            body = await read_body(request, self.limits)
            # The target counts from here, because the server cannot control how fast a client sends.
            came = time.perf_counter()
            kind = request.headers.get("content-type", "")
            if kind.lower().startswith("multipart/form-data"):
                body, kind = await _part(body, request)
            waited = 1000 * (time.perf_counter() - came)
            return Asked(body, kind, wishes, form, waited)
        finally:
            self._inside -= 1


def _named(models: Mapping[str, _M], name: str) -> _M:
    if name not in models:
        raise Problem("unknown-model", f"{name[:80]!r} is not served: expected one of {', '.join(models)}")
    return models[name]


async def _all(models: "Mapping[str, Model | WritesText]", which: int) -> bool:
    """Whether all models are healthy (0), or accept requests (1)."""
    # A list, because `all` does not take an async generator.
    return all([(await model.status())[which] for model in models.values()])


def _wishes(request: "Request") -> tuple[Wishes, str | None]:
    pairs = request.query_params.multi_items()
    forms = [text for name, text in pairs if name == "output"]
    if len(forms) > 1 or any(form not in FORMS for form in forms):
        raise Problem("wish", f"output={','.join(forms)[:80]}: expected one of {', '.join(FORMS)}")
    told = [(name, text) for name, text in pairs if name != "output"]
    told += [(name, text) for name, text in request.headers.items() if name.startswith(HEADER)]
    return Wishes.of(told), forms[0] if forms else None


async def _part(body: bytes, request: "Request") -> tuple[bytes, str]:
    """The single file of a form."""
    from starlette.formparsers import MultiPartException, MultiPartParser

    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await MultiPartParser(request.headers, whole(), max_files=1, max_fields=0).parse()
    except (MultiPartException, KeyError) as error:
        said = getattr(error, "message", "no boundary")
        example = "expected one file, such as curl -F image=@photo.jpg"
        raise Problem("damaged", f"the form cannot be read ({said}): {example}") from error
    try:
        [file] = form.values() or [None]
        if file is None or isinstance(file, str):
            raise Problem("damaged", "the form has no file: expected one, such as curl -F image=@photo.jpg")
        return await file.read(), file.content_type or ""
    finally:
        await form.close()


class _NamesRequests:
    """Adds X-Request-ID to every response, including errors."""

    def __init__(self, app: Any) -> None:
        # Plain ASGI: starlette's BaseHTTPMiddleware would wrap `receive`, which reports disconnects.
        self._app, self._name = app, REQUEST_ID.lower().encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Bounded, because it is echoed in every response.
        number = dict(scope["headers"]).get(self._name, b"")[:200] or uuid.uuid4().hex.encode()
        others = [pair for pair in scope["headers"] if pair[0] != self._name]
        named = {**scope, "headers": [*others, (self._name, number)]}

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (self._name, number)]}
            await send(message)

        await self._app(named, receive, sending)


# -- responses ----------------------------------------------------------------------------------------------------


def _answered(name: str, request: "Request", reply: Reply) -> "Response":
    from starlette.responses import Response

    number = request.headers.get(REQUEST_ID.lower(), "")[:200] or uuid.uuid4().hex
    headers = {"Adaptive-Depth-Skip": reply.skip, "Adaptive-Depth-Late": str(reply.late).lower()}
    accept = request.headers.get("accept", "")
    if reply.tensors is not None and _NPZ in accept:
        named = {name or "output": x for name, x in reply.tensors.items()}
        return Response(_packed(np.savez, **named), 200, headers, _NPZ)
    if reply.tensors is not None and _NPY in accept and [*reply.tensors] == [""]:
        return Response(_packed(np.save, arr=reply.tensors[""]), 200, headers, _NPY)
    told: dict[str, Any] = {"model": name, "id": number, "skip": reply.skip, "late": reply.late, "batch": reply.batch}
    told |= {"waited_ms": round(reply.waited_ms, 3), "latency_ms": round(reply.latency_ms, 3)}
    if reply.predictions is not None:
        told["predictions"] = reply.predictions
    if reply.tensors is not None:
        told["tensors"] = {name: x.tolist() for name, x in reply.tensors.items()}
    try:
        text = json.dumps(told, allow_nan=False)
    except ValueError as error:
        said = f"the network returned non-finite numbers, which JSON cannot represent: send Accept: {_NPY}"
        raise Problem("failed", said) from error
    return Response(text, 200, headers, "application/json")


def _packed(write: Callable[..., Any], **arrays: Any) -> bytes:
    stream = io.BytesIO()
    write(stream, **arrays)
    return stream.getvalue()


def _described(about: About, started: int) -> dict[str, Any]:
    depths = [
        {"skip": skip, "quality": value, "latency_ms": {str(n): ms for n, ms in about.latencies.get(skip, {}).items()}}
        for skip, value in about.depths.items()
    ]
    told = {"id": about.name, "object": "model", "created": started, "owned_by": "adaptive-depth", "depths": depths}
    if about.language:
        return {**told, "quality": about.quality}
    takes = [*(["image"] if about.images else []), "tensor"]
    return {**told, "quality": about.quality, "target_ms": about.target_ms, "shape": about.shape, "takes": takes}


def _stuck() -> "Response":
    return _told(Problem("stuck", "a network does not respond: restart the process"))


def _told(problem: Problem) -> "Response":
    from starlette.responses import JSONResponse

    return JSONResponse(problem.to_json(), problem.status, problem.headers, MEDIA_TYPE)


def _allowed(error: Any) -> str:
    """The methods that a path accepts."""
    return (error.headers or {}).get("Allow", "another method")
