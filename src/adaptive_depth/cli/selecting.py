"""adaptive-depth select: the best depth under a budget."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import BudgetError
from ..quality import TOP_1
from . import runs, show
from .evaluate import Run
from .stages import Json


def select(
    run: Run,
    latency_ms: Annotated[float | None, typer.Option(help="At most so many milliseconds.")] = None,
    macs: Annotated[float | None, typer.Option(help="At most so many multiply-adds an image, such as 3e9.")] = None,
    energy_mj: Annotated[float | None, typer.Option(help="At most so many millijoules.")] = None,
    memory_mb: Annotated[float | None, typer.Option(help="At most so many megabytes.")] = None,
    parameters: Annotated[float | None, typer.Option(help="At most so many parameters.")] = None,
    first_token_ms: Annotated[
        float | None, typer.Option(help="At most so many milliseconds from a prompt to its first token.")
    ] = None,
    token_ms: Annotated[float | None, typer.Option(help="At most so many milliseconds for each further token.")] = None,
    cache_kb: Annotated[float | None, typer.Option(help="At most so many kB of cache for each token.")] = None,
    accuracy: Annotated[float | None, typer.Option(help="At least so many percent of top-1, such as 90.")] = None,
    quality: Annotated[
        float | None,
        typer.Option(help="At least so much of what the run is judged by; at most where lower is better."),
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A profile from another device; RUN/profile.json if not given."),
    ] = None,
    alone: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SKIP=VALUE", help="What a network of this depth trained alone reaches, such as top-1; repeatable."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Choose the best sub-network of a run within limits; with --accuracy or --quality alone, the cheapest one.

    Joins what evaluate and profile measured; writes RUN/tradeoffs.json and RUN/tradeoffs.png. What is said with
    --alone is kept, in RUN/alone.json.

    Example: adaptive-depth select runs/demo --latency-ms 1.5
    """
    from ..plotting import plot_tradeoffs

    runs.check_run(run)
    if profile is None or alone:
        runs.check_writable(run, "make it writable, or copy it elsewhere")
    known = runs.read_alone(run)
    given_alone = known | _by_skip(alone or [])
    table = runs.trade_offs(run, runs.read_profile(run, profile), given_alone)
    given = {"latency_ms": latency_ms, "macs": macs, "energy_mj": energy_mj, "memory_mb": memory_mb}
    given |= {"parameters": parameters, "first_token_ms": first_token_ms, "token_ms": token_ms}
    given |= {"cache_kb": cache_kb, "accuracy": accuracy, "quality": quality}
    limits = {name: limit for name, limit in given.items() if limit is not None}
    chosen = table.choose(**limits) if limits else None
    if given_alone != known:
        show.write_json(run / runs.ALONE, given_alone)
    if profile is None:
        show.write_json(run / runs.TRADEOFFS, table.to_json())
        plot_tradeoffs(table, run / runs.PLOT)
    if json:
        said = {"chosen": chosen.skip, "ties": chosen.ties, "why": chosen.why} if chosen else {"chosen": None}
        show.as_json({**said, "limits": limits, "front": [row.skip for row in table.front()], **table.to_json()})
        return
    typer.echo(table)
    judged_by = "--accuracy" if table.quality == TOP_1 else "--quality"
    typer.echo(chosen or f"No limit was given: choose with --latency-ms, --macs, {judged_by} ...")
    if profile is None:
        typer.echo(f"Written to {run / runs.TRADEOFFS} and {run / runs.PLOT}")


def _by_skip(texts: list[str]) -> dict[str, float]:
    """`["FFFF=76.7"]` as numbers by skip."""
    parsed = {}
    for text in texts:
        skip, _, value = text.partition("=")
        try:
            parsed[skip.strip()] = float(value)
        except ValueError as error:
            raise BudgetError(f"--alone {text!r}: expected SKIP=VALUE, such as FFFF=76.7") from error
    return parsed
