"""The application in one process, under uvicorn: for development, and whenever one process is enough."""

import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import Any

from ..errors import BudgetError
from .application import application
from .inputs import Limits
from .metrics import Metrics, Prometheus
from .predicting import Predictor

DRAIN_S = 30  # seconds for requests to finish once the server is stopping


def bound(host: str, port: int) -> socket.socket:
    """A socket for the server; with a loopback address it cannot be reached from other machines.

    Arguments:
        host: an address or name of this machine.
        port: 0 for any free one.

    Raises:
        BudgetError: a port that is taken, or an address of another machine.
    """
    with ExitStack() as stack:
        try:
            [family, *_, address], *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            made = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            # So that a restarted server need not wait for old connections to time out.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
        # Overflow: a port above 65535; Unicode: a host name that cannot be encoded.
        except (OSError, OverflowError, UnicodeError) as error:
            raise BudgetError(
                f"cannot listen on {host}:{port} ({error}): expected an address of this machine and a free port, such "
                "as --host 127.0.0.1 --port 8001"
            ) from error
        stack.pop_all()  # on success it stays open
    return made


def address_of(listening: socket.socket) -> str:
    """The URL for clients."""
    host, port, *_ = listening.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve_here(
    open_models: Callable[[Metrics], tuple[Mapping[str, Predictor], Mapping[str, Any]]],
    listening: socket.socket,
    *,
    limits: Limits | None = None,
    on_ready: Callable[[], Any] | None = None,
) -> None:
    """Serve until the process is stopped (SIGINT, SIGTERM); requests in progress are answered first.

    Arguments:
        open_models: called with the metrics; returns models by name, and language models by name.
        listening: from `bound`.
        limits: of requests.
        on_ready: called once the models are ready.
    """
    import uvicorn

    prometheus = Prometheus()
    metrics = Metrics(prometheus)
    models, writers = open_models(metrics)

    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for model in (*models.values(), *writers.values()):
                await stack.enter_async_context(model)
            if on_ready is not None:
                on_ready()
            yield

    app = application(
        models, writers=writers, limits=limits, metrics=metrics, metrics_text=prometheus.text, running=running
    )
    settings = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=DRAIN_S
    )
    with told_to_stop():
        uvicorn.Server(settings).run(sockets=[listening])


@contextmanager
def told_to_stop() -> Iterator[threading.Event]:
    """An event that is set when the process is stopped, which is not an error; uvicorn handles and forwards signals."""
    told = threading.Event()
    before = {each: signal.signal(each, lambda *_: told.set()) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
