"""A request as it arrives: a body of bounded size and time, and a client that may disconnect."""

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, TypeVar

from .inputs import Limits
from .problems import Problem

if TYPE_CHECKING:
    from starlette.requests import Request

_T = TypeVar("_T")


async def read_body(request: "Request", limits: Limits) -> bytes:
    """The body of a request, of bounded size, within bounded time.

    Raises:
        Problem: it is larger or slower, or is cut off.
    """
    from starlette.requests import ClientDisconnect

    said = request.headers.get("content-length", "")
    large = Problem("too-large", f"the body has more than {limits.bytes:,} bytes: send a smaller one")
    # Before the body is read; a client may also send no length, or a wrong one.
    if said.isdecimal() and int(said) > limits.bytes:
        raise large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.bytes:
                    raise large
    except TimeoutError as error:
        raise Problem(
            "slow", f"after {limits.seconds:g} s only {len(body):,} bytes of the body had arrived: send it faster"
        ) from error
    except ClientDisconnect as error:
        raise Problem("cut-off", f"the client disconnected after {len(body):,} bytes of the body") from error
    return bytes(body)


async def unless_gone(request: "Request", work: Awaitable[_T]) -> _T:
    """The result of some work, which is cancelled if the client disconnects."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Problem("cut-off", "the client disconnected before its answer")
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()


async def _gone(request: "Request") -> None:
    # Once the body has been read, the next message is the disconnect.
    while (await request.receive())["type"] != "http.disconnect":
        pass
