"""adaptive-depth text train: one fine-tuning run for every depth of a language model."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import CheckpointError
from .. import runs, show
from ..stages import GroupSize, Json, Mandatory
from ..train import Device
from . import folders, pieces

if TYPE_CHECKING:
    from torch import Tensor

    from ...core.network import AdaptiveNetwork
    from ...training.history import Epoch, History, Progress
    from ...training.recipe import Recipe

_ROUNDS = 10  # of a training, each with a line in the history

Context = Annotated[
    int | None,
    typer.Option(
        min=4,
        metavar="N",
        help="Tokens per piece of text; by default 256, or the model's limit.",
        show_default=False,
        rich_help_panel="Data",
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, metavar="N", help="Pieces per batch.", rich_help_panel="Data")]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="CPU threads; the machine's default if not given.",
        show_default=False,
        rich_help_panel="Device",
    ),
]
EvalTokens = Annotated[
    int, typer.Option(min=1, metavar="N", help="Maximum tokens to measure perplexity on.", rich_help_panel="Data")
]


def train(
    model: Annotated[
        Path,
        typer.Argument(
            help="A folder of transformers (config.json, safetensors, tokenizer), or one from text train.",
            show_default=False,
        ),
    ],
    text: Annotated[Path, typer.Argument(help="A text file in UTF-8; its last tenth is held out.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "--out", metavar="FOLDER", help="Folder to write the network to; required.", show_default=False
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(min=1, metavar="N", help="Approximate number of optimiser steps, over all depths.")
    ] = 1000,
    overwrite: Annotated[bool, typer.Option("--overwrite", metavar="", help="Replace the network in FOLDER.")] = False,
    json: Json = False,
    lr: Annotated[
        float, typer.Option(metavar="X", help="Peak learning rate, after a warm-up.", rich_help_panel="Training")
    ] = 2e-4,
    passes: Annotated[
        str | None,
        typer.Option(
            "--passes",
            "--schedule",
            metavar="PATTERN",
            help="Steps of super-net (S), base-net (B) and random others (R), such as SBSBR; or 'algorithm 1'.",
            show_default=False,
            rich_help_panel="Training",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="The same seed gives the same training.", rich_help_panel="Training")
    ] = 0,
    cut: Annotated[
        str | None,
        typer.Option(
            metavar="groups|measured",
            help="Layers to skip: the last of each group (default), or those that the text needs least.",
            show_default=False,
            rich_help_panel="Model",
        ),
    ] = None,
    mandatory: Mandatory = None,
    group_size: GroupSize = None,
    context: Context = None,
    batch_size: BatchSize = 8,
    eval_tokens: EvalTokens = 50_000,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Fine-tune a language model on a text so that every depth works; measure before and after.

    Uses AdamW with warm-up and cosine decay, and clips gradients at 1. FOLDER holds everything that the other commands
    need, including the tokenizer.

    Example: adaptive-depth text train models/smollm2 book.txt --output runs/book
    """
    if output is None:
        raise typer.BadParameter("Missing option '--output': the folder to write the network to")
    if output.resolve() == model.resolve() and not runs.is_run(model):
        raise CheckpointError(f"{output} holds the model to adapt: name another --output")
    with runs.claimed(output, overwrite=overwrite), runs.threads(threads), ExitStack() as stack:
        content, digest = pieces.read_text(text)
        stack.enter_context(folders.quiet())
        opened = folders.open_model(model)
        context = folders.pick_context(context, opened)
        tokens = pieces.Tokens(opened.tokenizer, content, context)
        train_on, held_out = tokens.split(text)
        network = _adapted(opened.model, tokens, train_on, cut, mandatory, group_size).to(runs.pick_device(device))
        validation = tokens.in_turn(held_out, batch_size, eval_tokens)
        recipe = _recipe(network, steps, batch_size, lr, passes, seed)
        before = runs.measure_accuracy(network, validation)
        each = _batches(recipe, steps)
        drawn = pieces.Drawn(tokens, train_on, batch_size, each, seed)
        history = _fit(network, drawn, recipe, context)
        after = runs.measure_accuracy(network, validation)
        about = folders.About(str(text), digest, context, len(held_out), before, after)
        result = {"run": str(output)} | measured_of(network, after, text, validation)
        _write(output, network, opened.tokenizer, history, recipe, about, result)
    if json:
        show.as_json(result | {"before_training": before, "history": history.to_json()})
        return
    from ...tasks import LanguageModel

    typer.echo(f"Perplexity on {result['tokens']:,} held-out tokens, before and after training:")
    typer.echo(show.accuracy_table(before, after, LanguageModel.quality))
    typer.echo(f"Written to {output}. Next, measure what each depth costs here:")
    typer.echo(f"  {show.command('text', 'table', output, '--text', text)}")


def _adapted(
    model: Any,
    tokens: pieces.Tokens,
    ids: "Tensor",
    cut: str | None,
    mandatory: str | None,
    group_size: int | None,
) -> "AdaptiveNetwork":
    if folders.is_adapted(model):
        if cut is not None:
            raise typer.BadParameter("the network is already adapted: omit --cut")
        return runs.as_network(model, mandatory, group_size)
    if cut not in (None, "groups", "measured"):
        raise typer.BadParameter(f"--cut {cut!r}: expected groups or measured")
    if cut != "measured":
        return runs.as_network(model, mandatory, group_size, skip_aware=None)
    example = tokens.pieces(ids, [number * (len(ids) - tokens.own) // 3 for number in range(4)])
    return runs.as_network(model, mandatory, group_size, example, skip_aware=None, cut="measured")


def _recipe(
    network: "AdaptiveNetwork", steps: int, batch_size: int, lr: float, passes: str | None, seed: int
) -> "Recipe":
    from ...training.recipe import Recipe

    # With one stage there are no intermediate sub-networks.
    pattern = passes or ("SBSBR" if len(network.stages) > 1 else "SB")
    rounds = max(1, min(_ROUNDS, steps // 20))
    # Nothing to calibrate: norms of language models have no running statistics.
    return Recipe(
        epochs=rounds, batch_size=batch_size, lr=lr, passes=pattern, seed=seed, optimizer="adamw", weight_decay=0.01,
        clip_grad=1.0, warmup_epochs=rounds / 20, calibrate=0,
    )  # fmt: skip


def _batches(recipe: "Recipe", steps: int) -> int:
    """Batches per round, for about this many steps in all."""
    from ...training.recipe import ALGORITHM_1

    if recipe.passes == ALGORITHM_1:
        return max(1, round(steps / recipe.epochs))
    return max(1, round(steps * recipe.passes.count("S") / len(recipe.passes) / recipe.epochs))


def _fit(network: "AdaptiveNetwork", batches: pieces.Drawn, recipe: "Recipe", context: int) -> "History":
    from ...training.loop import train as fit

    with show.progress("training", "steps") as advance:

        def on_step(now: "Progress") -> None:
            advance(now.step, now.steps, live=lambda: describe(now.so_far(), recipe.epochs, context))

        def on_epoch(epoch: "Epoch") -> None:
            advance(note=describe(epoch, recipe.epochs, context))

        return fit(network, batches, recipe, on_step=on_step, on_epoch=on_epoch)


def describe(round_: "Epoch", rounds: int, context: int) -> str:
    """A round, finished or in progress, in one line."""
    base = "" if round_.base_loss is None else f", base-net {round_.base_loss:.3f}"
    rate = round_.images_per_s * context
    return f"round {round_.epoch} of {rounds}, loss: super-net {round_.loss:.3f}{base} nats, {rate:,.0f} tokens/s"


def measured_of(
    network: "AdaptiveNetwork", measured: Mapping[str, float], text: Path, batches: "Sequence[Tensor]"
) -> dict[str, Any]:
    """The content of accuracy.json for perplexities."""
    from ...tasks import LanguageModel

    return {
        "data": str(text),
        "accuracy": dict(measured),
        "quality": asdict(LanguageModel.quality),
        "tokens": sum(len(batch) * (batch.shape[1] - 1) for batch in batches),  # the first of a piece is not predicted
        "network": network.fingerprint,
    }


def _write(
    folder: Path,
    network: "AdaptiveNetwork",
    tokenizer: Any,
    history: "History",
    recipe: "Recipe",
    about: folders.About,
    result: Mapping[str, Any],
) -> None:
    """Write the network and everything that belongs to it; what an older one left in the folder is removed."""
    from ...core.saving import save
    from ...files import drafts, move, write_atomically
    from .. import tasks

    with drafts(folder) as place, folders.quiet():
        tokenizer.save_pretrained(place / "tokenizer")
        for path in sorted((place / "tokenizer").iterdir()):
            move(path, folder / path.name)
        save(network, folder)  # last: a folder without it holds no network
    runs.forget_measurements(folder)
    for name in (runs.DATA, tasks.FILE):  # left by an image network
        (folder / name).unlink(missing_ok=True)
    show.write_json(folder / runs.TEXT, asdict(about))
    write_atomically(folder / runs.HISTORY, history.to_csv().encode())
    write_atomically(folder / runs.RECIPE, recipe.to_yaml().encode())
    show.write_json(folder / runs.ACCURACY, dict(result))
