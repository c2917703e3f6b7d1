"""adaptive-depth text train: one fine-tuning for every depth of a language model."""

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
        min=4, help="Tokens of a piece of text; by default 256, or as many as the model takes.", show_default=False
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Pieces of text a step.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads; the machine's default if not given.", show_default=False)
]
EvalTokens = Annotated[int, typer.Option(min=1, help="Measure perplexity on at most so many tokens.")]


def train(
    model: Annotated[
        Path,
        typer.Argument(
            help="A folder of transformers (config.json, safetensors, tokenizer), or one that text train wrote.",
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
    cut: Annotated[
        str | None,
        typer.Option(
            metavar="groups|measured",
            help="Which layers can be skipped: the last of each group (the default), or those that some text of the "
            "file needs least.",
            show_default=False,
        ),
    ] = None,
    mandatory: Mandatory = None,
    group_size: GroupSize = None,
    steps: Annotated[int, typer.Option(min=1, help="About so many optimiser steps, of all depths together.")] = 1000,
    context: Context = None,
    batch_size: BatchSize = 8,
    lr: Annotated[float, typer.Option(help="Highest learning rate, after a warm-up.")] = 2e-4,
    passes: Annotated[
        str | None,
        typer.Option(
            "--passes",
            "--schedule",
            metavar="PATTERN",
            help="A step each for super-net (S), base-net (B) and random others (R): SBSBR, SB, ...; or 'algorithm 1'.",
            show_default=False,
        ),
    ] = None,
    eval_tokens: EvalTokens = 50_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same training.")] = 0,
    device: Device = None,
    threads: Threads = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the network in FOLDER.")] = False,
    json: Json = False,
) -> None:
    """Fine-tune a language model on a text so that every depth of it works; measure all depths before and after.

    AdamW, a warm-up, a cosine, gradients clipped at 1. FOLDER holds all that the other commands need, the tokenizer
    included.

    Example: adaptive-depth text train models/smollm2 book.txt --output runs/book
    """
    if output is None:
        raise typer.BadParameter("Missing option '--output': the folder to write the network to")
    if output.resolve() == model.resolve() and not runs.is_run(model):
        raise CheckpointError(f"{output} holds the model that is to be adapted: name another --output")
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

    typer.echo(f"Perplexity on {result['tokens']:,} tokens that were held out, before and after training:")
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
            raise typer.BadParameter("the network is cut already: leave --cut out")
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

    pattern = passes or ("SBSBR" if len(network.stages) > 1 else "SB")
    rounds = max(1, min(_ROUNDS, steps // 20))
    return Recipe(
        epochs=rounds, batch_size=batch_size, lr=lr, passes=pattern, seed=seed, optimizer="adamw", weight_decay=0.01,
        clip_grad=1.0, warmup_epochs=rounds / 20, calibrate=0,
    )  # fmt: skip


def _batches(recipe: "Recipe", steps: int) -> int:
    """Batches of a round, for about so many steps."""
    from ...training.recipe import ALGORITHM_1

    if recipe.passes == ALGORITHM_1:
        return max(1, round(steps / recipe.epochs))
    return max(1, round(steps * recipe.passes.count("S") / len(recipe.passes) / recipe.epochs))


def _fit(network: "AdaptiveNetwork", batches: pieces.Drawn, recipe: "Recipe", context: int) -> "History":
    from ...training.loop import train as fit

    with show.progress("training") as advance:

        def on_step(now: "Progress") -> None:
            advance(now.step, now.steps, live=lambda: describe(now.so_far(), recipe.epochs, context))

        def on_epoch(epoch: "Epoch") -> None:
            advance(note=describe(epoch, recipe.epochs, context))

        return fit(network, batches, recipe, on_step=on_step, on_epoch=on_epoch)


def describe(round_: "Epoch", rounds: int, context: int) -> str:
    """A round, finished or under way, in a line."""
    base = "" if round_.base_loss is None else f", base-net {round_.base_loss:.3f}"
    rate = round_.images_per_s * context
    return f"round {round_.epoch} of {rounds}, loss: super-net {round_.loss:.3f}{base} nats, {rate:,.0f} tokens/s"


def measured_of(
    network: "AdaptiveNetwork", measured: Mapping[str, float], text: Path, batches: "Sequence[Tensor]"
) -> dict[str, Any]:
    """What accuracy.json says of perplexities."""
    from ...tasks import LanguageModel

    return {
        "data": str(text),
        "accuracy": dict(measured),
        "quality": asdict(LanguageModel.quality),
        "tokens": sum(len(batch) * (batch.shape[1] - 1) for batch in batches),  # all but the first of a piece
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
    """The network, with all that goes with it; what the folder held of an older one is removed."""
    from ...core.saving import save
    from ...files import drafts, move, write_atomically
    from .. import tasks

    with drafts(folder) as place, folders.quiet():
        tokenizer.save_pretrained(place / "tokenizer")
        for path in sorted((place / "tokenizer").iterdir()):
            move(path, folder / path.name)
        save(network, folder)  # last: a folder without it holds no network
    runs.forget_measurements(folder)
    for name in (runs.DATA, tasks.FILE):  # of a network of images
        (folder / name).unlink(missing_ok=True)
    show.write_json(folder / runs.TEXT, asdict(about))
    write_atomically(folder / runs.HISTORY, history.to_csv().encode())
    write_atomically(folder / runs.RECIPE, recipe.to_yaml().encode())
    show.write_json(folder / runs.ACCURACY, dict(result))
