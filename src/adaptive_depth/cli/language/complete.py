"""adaptive-depth text complete: continue a prompt."""

import sys
from typing import Annotated

import typer

from ...errors import DataError
from .. import show
from ..stages import Json
from ..train import Device
from . import folders, writing
from .train import Threads


def complete(
    folder: folders.Folder,
    prompt: Annotated[
        str | None, typer.Argument(help="The text to continue; read from stdin if not given.", show_default=False)
    ] = None,
    skip: writing.Depth = None,
    ms_per_token: writing.MsPerToken = None,
    tokens: writing.NewTokens = None,
    temperature: writing.Temperature = 0.0,
    top_p: writing.TopP = None,
    seed: writing.Seed = None,
    draft: writing.DraftName = "none",
    device: Device = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Continue a prompt; the text is printed as it is generated.

    Example: adaptive-depth text complete runs/book "Once upon a time" --ms-per-token 20
    """
    if prompt is None:
        if sys.stdin.isatty():
            raise typer.BadParameter("Missing argument 'PROMPT': the text to continue, or text on stdin")
        prompt = sys.stdin.read().removesuffix("\n")  # `echo` adds one, and the model would continue on the next line
    if not prompt:
        raise DataError("the prompt is empty: expected some text to continue")
    asked = {
        "skip": skip, "ms_per_token": ms_per_token, "tokens": tokens, "temperature": temperature, "top_p": top_p,
        "seed": seed, "draft": draft, "device": device, "threads": threads,
    }  # fmt: skip
    with writing.opened_writer(folder, **asked) as writer:
        ids = writer.tokens(prompt)
        found, rate = writer.write(ids, streamed=not json, with_prompt=True)
    if json:
        show.as_json(
            {"prompt": prompt, "text": writer.text(found, len(ids)), "skip": writer.skip, "tokens_per_s": rate}
        )
        return
    typer.echo(writing.summary(writer, rate), err=True)
