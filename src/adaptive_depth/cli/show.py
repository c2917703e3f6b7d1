"""What commands show: results on stdout, progress on stderr and only where somebody watches, files written whole."""

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


class _Bar(Progress):
    """A progress bar with a text in a line of its own, which may be longer than what a bar leaves."""

    def get_renderables(self) -> Iterator[Any]:
        yield from super().get_renderables()
        for task in self.tasks:
            if task.fields["note"]:
                yield Text(task.fields["note"])


def pixels(sides: Sequence[int]) -> str:
    """Height and width in words, a square by its side.

    Example:
        >>> pixels((224, 224)), pixels((96, 128))
        ('224', '96x128')
    """
    height, width = sides
    return f"{height}" if height == width else f"{height}x{width}"


@contextmanager
def progress(what: str) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr: call the yielded function with (done, in all), with what is done where that
    changes, and with a short text, as `note` or `live`.

    Where stderr is no terminal (a log), only the notes are written, a line each. `live` is a function that makes the
    text; it is called twice a second at most, and only where somebody watches.
    """
    console, shown = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0"), 0.0  # the first process tells
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with _Bar(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None, note="")

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
            if live is not None and console.is_terminal and monotonic() - shown > 0.5:
                shown, fields = monotonic(), {"note": live()}
            bar.update(task, description=what, completed=done, total=total, **fields)
            if note and console.is_terminal:  # stays above the bar
                console.print(f"{what}: {note}", highlight=False)
            elif note and not console.quiet:
                typer.echo(f"{what}: {note}", err=True)

        yield advance


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
    """Replace a file in one step: it holds the old or the new value, whatever fails."""
    from ..files import write_atomically

    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def command(*words: object) -> str:
    """A command line that works when it is pasted, also where this program is not on the PATH."""
    started = Path(sys.argv[0])
    elsewhere = started.name == "adaptive-depth" and started.is_file() and not shutil.which("adaptive-depth")
    return shlex.join([str(started) if elsewhere else "adaptive-depth", *map(str, words)])


def accuracy_table(
    before: Mapping[str, float], after: Mapping[str, float], quality: "Quality", columns: int = 2
) -> str:
    """The quality of all sub-networks before and after a calibration or a training, two sub-networks a line."""
    digits = max(quality.digits(each.values()) for each in (before, after))
    header = f"{'skip':<8} {'before':>8} {'after':>8}"
    cells = [f"{skip:<8} {before[skip]:>8.{digits}f} {after[skip]:>8.{digits}f}" for skip in after]
    rows = -(-len(cells) // columns)
    lines = ["    ".join(cells[row::rows]) for row in range(rows)]
    return "\n".join(["    ".join([header] * min(columns, len(cells))), *lines])
