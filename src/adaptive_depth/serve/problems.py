"""Problems with a request, as reported over HTTP (RFC 9457): a kind, a status, the reason and a fix."""

from typing import Any, NamedTuple

from ..errors import AdaptiveDepthError

MEDIA_TYPE = "application/problem+json"


class Kind(NamedTuple):
    """One kind of problem.

    Attributes:
        status: of HTTP.
        title: the same for all of a kind.
        outcome: as counted (`metrics.OUTCOMES`).
    """

    status: int
    title: str
    outcome: str = "refused"


KINDS = {
    "cut-off": Kind(400, "The request was cut off"),
    "unknown-model": Kind(404, "There is no such model"),
    "unknown-path": Kind(404, "There is no such path"),
    "method": Kind(405, "This path does not accept this method"),
    "slow": Kind(408, "The request took too long to arrive"),
    "too-large": Kind(413, "The request is too large"),
    "no-image": Kind(415, "The body is neither an image nor a tensor"),
    "damaged": Kind(422, "The body cannot be read"),
    "wish": Kind(422, "The request cannot be met"),
    "failed": Kind(500, "The network failed", "failed"),
    "full": Kind(503, "Too many requests wait", "full"),
    "shed": Kind(503, "There was no time for the request", "shed"),
    "stopping": Kind(503, "The server is stopping", "stopping"),
    "stuck": Kind(503, "The network does not respond", "failed"),
    "late": Kind(504, "The answer came too late", "late"),
}


class Problem(AdaptiveDepthError):
    """A request that is not answered, and why.

    Arguments:
        kind: one of `KINDS`.
        detail: what was received, what was expected, how to fix it.
        retry_after_s: when a retry is worthwhile.

    Example:
        >>> problem = Problem("full", "256 requests wait: retry in 2 s", retry_after_s=2)
        >>> problem.status, problem.to_json()["title"]
        (503, 'Too many requests wait')
    """

    def __init__(self, kind: str, detail: str, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.kind, self.retry_after_s = kind, retry_after_s

    def __reduce__(self) -> Any:  # crosses process boundaries
        return Problem, (self.kind, self.detail, self.retry_after_s)

    @property
    def detail(self) -> str:
        return str(self)

    @property
    def status(self) -> int:
        return KINDS[self.kind].status

    @property
    def outcome(self) -> str:
        return KINDS[self.kind].outcome

    def to_json(self) -> dict[str, Any]:
        """The members of RFC 9457."""
        title = KINDS[self.kind].title
        return {"type": f"urn:adaptive-depth:{self.kind}", "title": title, "status": self.status, "detail": self.detail}

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response."""
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
