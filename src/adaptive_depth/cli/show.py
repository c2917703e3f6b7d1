"""What commands show: results on stdout, progress on stderr, files replaced in one step."""

import inspect
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from ..quality import Quality


_REDRAWN_S = 0.5  # between two updates of the live text on a terminal
_LOGGED_S = 30.0  # between two lines of progress in a log


class _Bar(Progress):
    """A progress bar with a text on a separate line, because it may be longer than the room beside the bar."""

    def get_renderables(self) -> Iterator[Any]:
        yield from super().get_renderables()
        for task in self.tasks:
            if task.fields["note"]:
                yield Text(task.fields["note"])


def pixels(sides: Sequence[int]) -> str:
    """Height and width as text; one number for a square.

    Example:
        >>> pixels((224, 224)), pixels((96, 128))
        ('224', '96x128')
    """
    height, width = sides
    return f"{height}" if height == width else f"{height}x{width}"


@contextmanager
def progress(what: str, unit: str = "") -> Iterator[Callable[..., None]]:
    """Progress on stderr: call the yielded function with (done, total), optionally with a new label and with a short
    text, as `note` or `live`. `unit` names what is counted.

    On a terminal it is a bar. In a log, each note is a line, and twice a minute a line reports the progress and the
    time left.
    `live` is a function that returns a text; it is called only when that text is shown.
    """
    console = Console(stderr=True)
    if os.environ.get("RANK", "0") != "0":  # of several processes, only the first reports
        yield lambda *_, **__: None
    elif console.is_terminal:
        counted = (MofNCompleteColumn(), *([TextColumn(unit)] if unit else []))
        columns = (TextColumn("{task.description}"), BarColumn(), *counted, TimeRemainingColumn())
        with _Bar(*columns, console=console, transient=True) as bar:
            yield _on_terminal(bar, what)
    else:
        yield _in_log(what, unit)


def _on_terminal(bar: Progress, what: str) -> Callable[..., None]:
    task, shown = bar.add_task(what, total=None, note=""), 0.0

    def advance(
        done: int | None = None,
        total: int | None = None,
        what: str = what,
        *,
        note: str | None = None,
        live: Callable[[], str] | None = None,
    ) -> None:
        nonlocal shown
        fields: dict[str, Any] = {} if note is None else {"note": note}
        if live is not None and monotonic() - shown > _REDRAWN_S:
            shown, fields = monotonic(), {"note": live()}
        bar.update(task, description=what, completed=done, total=total, **fields)
        if note:  # stays above the bar
            bar.console.print(f"{what}: {note}", highlight=False)

    return advance


def _in_log(what: str, unit: str) -> Callable[..., None]:
    shown = monotonic()
    first: tuple[int | None, int, float] | None = None  # total, done and when: a resumed training begins later than 0

    def advance(
        done: int | None = None,
        total: int | None = None,
        what: str = what,
        *,
        note: str | None = None,
        live: Callable[[], str] | None = None,
    ) -> None:
        nonlocal shown, first
        now = monotonic()
        if done is not None and (first is None or total != first[0] or done < first[1]):
            first = total, done, now
        if not note:
            if first is None or done is None or not total or now - shown < _LOGGED_S:
                return
            left = _time_left(total - done, done - first[1], now - first[2])
            note = f"{done:,} of {total:,}{f' {unit}' * bool(unit)}{left}{f': {live()}' if live else ''}"
        shown = now
        typer.echo(f"{what}: {note}", err=True)

    return advance


def _time_left(left: int, done: int, seconds: float) -> str:
    """How long the rest takes at the pace so far, in words; nothing if there is no pace yet.

    Example:
        >>> _time_left(300, 100, 60), _time_left(10, 10, 31), _time_left(9000, 100, 60)
        (', about 3 min left', ', about 31 s left', ', about 1 h 30 min left')
    """
    if done <= 0:
        return ""
    rest = seconds * left / done
    if rest < 100:
        return f", about {rest:.0f} s left"
    minutes = round(rest / 60)
    return f", about {minutes} min left" if minutes < 90 else f", about {minutes // 60} h {minutes % 60} min left"


@contextmanager
def watched(batches: Any, what: str) -> Iterator[Iterable[Any]]:
    """The same batches, with a progress bar."""
    with progress(what) as advance:

        def passing() -> Iterator[Any]:
            for number, batch in enumerate(batches):
                advance(number, len(batches))
                yield batch

        yield passing()


def as_json(value: Any) -> None:
    """Print a value as JSON on stdout, and nothing else there."""
    typer.echo(json.dumps(value, indent=2))


def write_json(path: Path, value: Any) -> None:
    """Replace a file in one step: whatever fails, it holds either the old or the new value."""
    from ..files import write_atomically

    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def help_of(function: Callable[..., Any]) -> str:
    """The docstring with each paragraph on one line, because Typer would keep its line breaks in all but the first."""
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    return "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)


def command(*words: object) -> str:
    """A command line that works when pasted, even if this program is not on the PATH."""
    started = Path(sys.argv[0])
    elsewhere = started.name == "adaptive-depth" and started.is_file() and not shutil.which("adaptive-depth")
    return shlex.join([str(started) if elsewhere else "adaptive-depth", *map(str, words)])


def accuracy_table(
    before: Mapping[str, float], after: Mapping[str, float], quality: "Quality", columns: int = 2
) -> str:
    """The quality of all sub-networks before and after calibration or training, two sub-networks per line."""
    digits = max(quality.digits(each.values()) for each in (before, after))
    header = f"{'skip':<8} {'before':>8} {'after':>8}"
    cells = [f"{skip:<8} {before[skip]:>8.{digits}f} {after[skip]:>8.{digits}f}" for skip in after]
    rows = -(-len(cells) // columns)
    lines = ["    ".join(cells[row::rows]) for row in range(rows)]
    return "\n".join(["    ".join([header] * min(columns, len(cells))), *lines])
