"""adaptive-depth report: a run as one page for the browser."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DataError
from ..schema import Open, Such, Text, from_plain, read_bytes, read_yaml, to_plain
from . import runs, show
from .evaluate import Run
from .stages import Json

if TYPE_CHECKING:
    from ..analysis.values import Analysis
    from ..training.history import History

_TOLD = ("data", "images", "statistics")  # of an accuracy, by evaluate


def report(
    run: Run,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write it; RUN/report.html by default.")
    ] = None,
    title: Annotated[
        str | None, typer.Option(help="Of the page; the name of the folder by default.", show_default=False)
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A profile from another device; RUN/profile.json if not given."),
    ] = None,
    json: Json = False,
) -> None:
    """Write one HTML file on a run: choose a depth by a limit, compare all of them, see how they were measured.

    It opens in any browser, needs no network, and can be sent to others as it is. It shows what evaluate and profile
    measured, the training, and the analysis where there is one.

    Example: adaptive-depth report runs/demo
    """
    from ..report import report_page

    runs.check_run(run)
    place = output or run / runs.REPORT
    if output is None:
        runs.check_writable(run, "write the report elsewhere with --output FILE")
    else:
        runs.check_output(place, b"<!doctype html>")
    accuracy, cost = runs.read_accuracy(run), runs.read_profile(run, profile)
    page = report_page(
        runs.trade_offs(run, cost),
        title=title or run.resolve().name,
        stages=_stages(run),
        profile=cost,
        history=_history(run),
        analysis=_analysis(run),
        pictures=_pictures(run),
        about={accuracy["quality"].title: {name: accuracy.get(name) for name in _TOLD}, **_how_trained(run)},
    )
    _write(place, page)
    if json:
        show.as_json({"run": str(run), "report": str(place), "bytes": len(page.encode())})
        return
    typer.echo(f"Written to {place} ({len(page.encode()) / 1e3:,.0f} kB): open it in a browser.")


# -- what a run holds -------------------------------------------------------------------------------------------


def _stages(run: Path) -> list[Mapping[str, Any]]:
    mend = "save the network again"
    try:
        found = from_plain(_Cut, runs.read_json(run / runs.NETWORK, mend), DataError, "it")
    except DataError as error:
        raise DataError(f"{run / runs.NETWORK} holds no stages ({error}): {mend}") from error
    return to_plain(found.stages)


@dataclass(frozen=True)
class _Stage(Open):
    """What the page says of a stage; `Stage` comes with torch, which it does not need."""

    mandatory: tuple[Text, ...]
    skippable: tuple[Text, ...]
    name: str = ""


@dataclass(frozen=True)
class _Cut(Open):
    stages: Annotated[tuple[_Stage, ...], Such(lambda stages: 1 <= len(stages) <= 12, "1 to 12 stages")]


def _history(run: Path) -> "History | None":
    from ..training.history import History

    path = run / runs.HISTORY
    if not path.exists():
        return None
    mend = "remove it, and the report does without"
    try:
        return History.from_csv(read_bytes(path, DataError, mend).decode())
    except ValueError as error:  # of the encoding, or of the history
        raise DataError(f"{path} is damaged ({error}): {mend}") from error


def _analysis(run: Path) -> "Analysis | None":
    from ..errors import MeasurementError

    path = run / runs.ANALYSIS
    if not path.exists():
        return None
    from ..analysis.values import Analysis

    mend = f"make it anew with {show.command('analyze', run)}, or remove it"
    found = runs.read_json(path, mend)
    try:
        return Analysis.from_json(found)
    except MeasurementError as error:
        raise DataError(f"{path} is damaged ({error}): {mend}") from error


def _pictures(run: Path) -> dict[str, bytes]:
    path = run / runs.MAPS
    if not path.exists():
        return {}
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG"):
        raise DataError(f"{path} is no PNG picture: make it anew with {show.command('analyze', run)}, or remove it")
    return {"Class-activation maps: what super-net and base-net look at": content}


def _how_trained(run: Path) -> dict[str, dict[str, Any]]:
    """The images and the recipe, where the run tells of them."""
    found = {}
    if (run / runs.DATA).exists():
        data = _entries(runs.read_json(run / runs.DATA, "save the run again"), run / runs.DATA)
        classes = data.get("classes")
        found["Images"] = {**data, "classes": len(classes) if isinstance(classes, list) else classes, "root": None}
    if (run / runs.RECIPE).exists():
        told = read_yaml(run / runs.RECIPE, DataError, "remove it, and the report does without")
        found["Training recipe"] = _entries(told, run / runs.RECIPE)
    return found


def _entries(told: Any, path: Path) -> dict[str, Any]:
    if not isinstance(told, dict):
        raise DataError(f"{path} holds no names with values: remove it, and the report does without")
    return told


def _write(place: Path, page: str) -> None:
    from ..files import write_atomically

    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, page.encode())
    except OSError as error:
        raise typer.BadParameter(f"--output {place} cannot be written ({error}): name another file") from error
