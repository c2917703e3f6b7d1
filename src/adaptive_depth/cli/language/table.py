"""adaptive-depth text table: perplexity and cost of every depth."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...choose.costs import macs_unit
from ...text import figures
from ...text import table as aligned
from .. import runs, show
from ..stages import Json
from ..train import Device
from . import folders, pieces
from .train import BatchSize, Context, EvalTokens, Threads, measured_of

if TYPE_CHECKING:
    from ...choose.tradeoffs import TradeOffs


def table(
    folder: folders.Folder,
    text: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="A text file; of the training text, only the held-out last tenth is used.",
            show_default=False,
        ),
    ],
    context: Context = None,
    batch_size: BatchSize = 8,
    eval_tokens: EvalTokens = 50_000,
    seconds: Annotated[
        float, typer.Option(min=0.1, metavar="X", help="Time limit for latencies, after six rounds.")
    ] = 20.0,
    device: Device = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Measure the perplexity and cost of every depth, and write the trade-off table.

    Writes FOLDER/accuracy.json, FOLDER/profile.json and FOLDER/tradeoffs.json, which select and report read.

    Example: adaptive-depth text table runs/book --text book.txt
    """
    content, digest = pieces.read_text(text)
    if folder.is_dir():
        runs.check_writable(folder, "make it writable, or copy it elsewhere")
    opened = folders.open_network(folder)
    about = folders.read_about(folder)
    context = folders.pick_context(context, opened, about.context if about else 256)
    tokens = pieces.Tokens(opened.tokenizer, content, context)
    ids = tokens.ids
    if about and about.sha256 == digest:
        ids = ids[-about.held_out :]
        typer.echo(f"{text} is the training text: only its last {len(ids):,} tokens, held out then, are used", err=True)
    tokens.check(text, ids)
    from ...measure.generation import profile_generation

    network = opened.model.to(runs.pick_device(device))
    batches = tokens.in_turn(ids, batch_size, eval_tokens)
    new = max(2, min(32, context // 4))
    with runs.threads(threads), folders.quiet():
        measured = runs.measure_accuracy(network, batches)
        with show.progress("measuring") as advance:
            cost = profile_generation(
                network,
                batches[0][:1, : context - new].to(runs.pick_device(device)),
                new_tokens=new,
                seconds=seconds,
                on_progress=advance,
            )
    result = {"run": str(folder)} | measured_of(network, measured, text, batches)
    show.write_json(folder / runs.ACCURACY, result)
    show.write_json(folder / runs.PROFILE, cost.to_json())
    found = runs.trade_offs(folder, cost)
    show.write_json(folder / runs.TRADEOFFS, found.to_json())
    if json:
        show.as_json({**result, **found.to_json()})
        return
    typer.echo(f"Perplexity on {result['tokens']:,} tokens; times after a prompt of {cost.prompt_tokens} tokens:")
    for line in _lines(found):
        typer.echo(line)
    for note in cost.notes():
        typer.echo(note)
    # The median plus a margin, so that about half of the depths meet the limit.
    slower = sorted(row.token_ms or 0.0 for row in found.rows)[len(found.rows) // 2]
    limit = show.command("text", "complete", folder, "Once", "--ms-per-token", f"{1.05 * slower:.2g}")
    typer.echo(f"Written to {folder}. Next: {limit}")


def _lines(found: "TradeOffs") -> list[str]:
    """The table, in 80 columns; a star marks the Pareto front."""
    divisor, unit = macs_unit(max(row.macs for row in found.rows))
    front = {row.skip for row in found.front("token_ms")}
    rows = found.rows
    return aligned(
        [
            ("skip", "<6", [row.skip for row in rows]),
            ("perplexity", ">10", figures([row.accuracy for row in rows], found.digits)),
            (f"{unit}/prompt", ">12", figures([row.macs / divisor for row in rows])),
            ("parameters", ">13", [f"{row.parameters:,}" for row in rows]),
            ("first ms", ">8", figures([row.first_token_ms for row in rows])),
            ("ms/token", ">8", figures([row.token_ms for row in rows])),
            ("kB/token", ">8", figures([row.cache_kb for row in rows])),
            ("", "<1", ["*" if row.skip in front else "" for row in rows]),
        ]
    )
