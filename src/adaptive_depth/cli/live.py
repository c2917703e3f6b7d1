"""What a run shows meanwhile: a live view on stderr, if that is a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..deploy.streaming import Pass, Tally

_EVERY_S = 0.1
_BAR, _MOST_BARS = 24, 8


class View:
    """Shows the last pass and the totals, at most ten times a second; nothing if there is no terminal.

    It is drawn between passes, never during one, so that it does not slow them down.
    """

    def __init__(self, live: Live | None) -> None:
        self._live, self._shown = live, -_EVERY_S  # shows the first pass at once

    def show(self, passed: Pass, tally: Tally, slowdown: float | None) -> None:
        """Redraw, if it is time."""
        if self._live is not None and monotonic() - self._shown >= _EVERY_S:
            self._live.update(draw(passed, tally, slowdown), refresh=True)
            self._shown = monotonic()


@contextmanager
def watching() -> Iterator[View]:
    """A view that is removed at the end; anything written to stderr meanwhile appears above it."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield View(None)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield View(live)


def draw(passed: Pass, tally: Tally, slowdown: float | None) -> Table:
    """The view, as an object that rich prints."""
    view = Table.grid(padding=(0, 2))
    view.add_row("image", Text(passed.image, no_wrap=True, overflow="ellipsis"))
    for prediction in passed.predictions:
        view.add_row(Text(prediction.output or "output"), Text(prediction.text))
    view.add_row("depth", Text(passed.skip, style="bold"))
    view.add_row("latency", _latency(passed, tally.target_ms))
    if passed.waited_ms is not None:
        view.add_row("waited", f"{passed.waited_ms:.1f} ms")
    view.add_row("images", _counts(tally))
    if tally.expected_text is not None:
        view.add_row(Text(tally.quality.noun), Text(f"{tally.expected_text} expected"))
    if slowdown is not None:
        view.add_row("slowdown", f"{slowdown:.2f} times its quiet latency")
    for skip, passes in tally.depths.most_common(_MOST_BARS):
        share = passes / tally.images
        view.add_row(skip, f"{'█' * round(_BAR * share):<{_BAR}} {100 * share:5.1f} %")
    return view


def _latency(passed: Pass, target_ms: float | None) -> Text:
    if passed.shed:
        return Text("turned away", style="red")
    if passed.taken_ms is None:
        return Text("failed", style="red")
    taken = f"{passed.taken_ms:.1f} ms"
    if target_ms is None:
        return Text(taken)
    met = passed.taken_ms <= target_ms
    return Text(f"{taken} of {target_ms:g} ms{'' if met else ', missed'}", style="green" if met else "red")


def _counts(tally: Tally) -> str:
    parts = [str(tally.images)]
    if tally.target_ms is not None and tally.images:
        parts.append(f"{tally.misses} missed ({100 * tally.misses / tally.images:.1f} %)")
    if tally.shed:
        parts.append(f"{tally.shed} turned away")
    if tally.failures:
        parts.append(f"{tally.failures} failed")
    return ", ".join(parts)
