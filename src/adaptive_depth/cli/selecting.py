"""adaptive-depth select: the best depth under a budget."""

from typing import Annotated

import typer

from ..errors import DataError, MeasurementError
from . import runs, show
from .evaluate import Run
from .stages import Json


def select(
    run: Run,
    latency_ms: Annotated[float | None, typer.Option(help="At most so many milliseconds.")] = None,
    macs: Annotated[float | None, typer.Option(help="At most so many multiply-adds an image, such as 3e9.")] = None,
    parameters: Annotated[float | None, typer.Option(help="At most so many parameters.")] = None,
    accuracy: Annotated[float | None, typer.Option(help="At least so many percent, such as 90.")] = None,
    json: Json = False,
) -> None:
    """Choose the best sub-network of a run within limits; with --accuracy alone, the cheapest one.

    Joins what evaluate and profile measured; writes RUN/tradeoffs.json and RUN/tradeoffs.png.

    Example: adaptive-depth select runs/demo --latency-ms 1.5
    """
    from ..costs import Profile
    from ..plotting import plot_tradeoffs
    from ..selection import tradeoffs

    if not runs.is_run(run):
        runs.open_run(run)  # says what is wrong with it
    mend = show.command("evaluate", run)
    measured = runs.read_json(run / runs.ACCURACY, f"measure it with {mend}")
    if not isinstance(measured, dict) or not isinstance(measured.get("accuracy"), dict):
        raise DataError(f"{run / runs.ACCURACY} holds no accuracies: measure them with {mend}")
    mend = show.command("profile", run)
    measured_cost = runs.read_json(run / runs.PROFILE, f"measure it with {mend}")
    try:
        cost = Profile.from_json(measured_cost)
    except MeasurementError as error:
        raise DataError(f"{run / runs.PROFILE} is damaged: measure it anew with {mend}") from error
    table = tradeoffs(measured["accuracy"], cost)
    given = {"latency_ms": latency_ms, "macs": macs, "parameters": parameters, "accuracy": accuracy}
    limits = {name: limit for name, limit in given.items() if limit is not None}
    chosen = table.best(**limits) if limits else None
    show.write_json(run / runs.TRADEOFFS, table.to_json())
    plot_tradeoffs(table, run / runs.PLOT)
    if json:
        show.as_json(
            {"chosen": chosen, "limits": limits, "front": [row.skip for row in table.front()], **table.to_json()}
        )
        return
    typer.echo(table)
    typer.echo(
        f"Chosen: {chosen}" if chosen else "No limit was given: choose with --latency-ms, --macs, --accuracy ..."
    )
    typer.echo(f"Written to {run / runs.TRADEOFFS} and {run / runs.PLOT}")
