"""What complete and chat share: how text is generated, at which depth, with which draft."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import DataError, MeasurementError
from ...text import left_out_lines
from .. import runs, show
from . import folders

if TYPE_CHECKING:
    from ...language import Draft

Depth = Annotated[
    str | None,
    typer.Option("--skip", metavar="TTF", help="The depth; by default the super-net.", show_default=False),
]
MsPerToken = Annotated[
    float | None,
    typer.Option(
        metavar="MS", help="Choose the best depth within this time per token (needs text table).", show_default=False
    ),
]
NewTokens = Annotated[
    int | None,
    typer.Option(
        "--tokens",
        min=1,
        metavar="N",
        help="Maximum tokens to generate; by default 100, or as many as fit.",
        show_default=False,
    ),
]
Temperature = Annotated[
    float,
    typer.Option(
        min=0, metavar="X", help="0 always picks the likeliest token; above 0 samples.", rich_help_panel="Writing"
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        metavar="X",
        help="Sample from the likeliest tokens with this total probability.",
        show_default=False,
        rich_help_panel="Writing",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(metavar="N", help="The same seed gives the same text; random by default.", rich_help_panel="Writing"),
]
DraftName = Annotated[
    str,
    typer.Option(
        "--draft",
        metavar="auto|SKIP|none",
        help="A shallower depth drafts, the chosen depth verifies: the same text, possibly faster. auto tries some.",
        rich_help_panel="Writing",
    ),
]
_TOKENS, _TRIED, _AHEAD = 100, 3, 4


@dataclass
class Writer:
    """A network that generates text.

    Attributes:
        opened: the network and its tokenizer.
        skip: the depth.
        options: for `generate` of transformers.
        most: new tokens per text; None for the default.
        draft: the value of the option.
    """

    opened: folders.Opened
    skip: str
    options: dict[str, Any]
    most: int | None
    draft: str
    _chosen: dict[str, "Draft | None"] = field(default_factory=dict)

    @property
    def network(self) -> Any:
        return self.opened.model

    def room(self, ids: list[int], fix: str = "expected a shorter prompt") -> int:
        """How many tokens to generate after these.

        Arguments:
            ids: the prompt.
            fix: how to make room, for the error.

        Raises:
            DataError: no room, or too little for the number asked for.
        """
        context, wanted = self.opened.context, self.most or _TOKENS
        if not ids:
            raise DataError("the prompt is empty: expected some text to continue")
        left = wanted if context is None else context - len(ids)
        if left < 1:
            raise DataError(f"a prompt of {len(ids)} tokens leaves no room in the model's context of {context}: {fix}")
        if self.most is not None and left < wanted:
            raise DataError(
                f"a prompt of {len(ids)} tokens and {wanted} new ones exceed the model's context of {context}: "
                f"{fix}, or fewer --tokens"
            )
        return min(left, wanted)

    def write(
        self, ids: list[int], *, streamed: bool, with_prompt: bool = False, cache: Any = None
    ) -> tuple[list[int], float]:
        """Continue a prompt: all tokens, and how many were generated per second.

        Arguments:
            ids: the prompt.
            streamed: print the text on stdout as it is generated.
            with_prompt: print the prompt before it.
            cache: of all tokens but the last.

        Raises:
            DataError: the prompt is empty or too long.
            SkipError: the draft is no shallower than the depth.
        """
        from transformers import TextStreamer

        from ...language import generate

        room = self.room(ids)
        draft = self._drafting(ids, room)
        options = {**self.options, "max_new_tokens": room}
        if streamed:
            options["streamer"] = TextStreamer(
                self.opened.tokenizer, skip_prompt=not with_prompt, skip_special_tokens=True
            )
        if cache is not None:
            options["past_key_values"] = cache
        start = perf_counter()
        (found,) = generate(self.network, [ids], skip=self.skip, draft=draft, **options).tolist()
        return found, (len(found) - len(ids)) / (perf_counter() - start)

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text to continue: with the tokenizer's beginning of a text, without its end."""
        from ...language.texts import tokens_of

        return tokens_of(self.opened.tokenizer, text)

    def text(self, ids: list[int], behind: int) -> str:
        """The text after the first `behind` tokens; decoded with them, as some tokenizers drop a leading space."""
        from ...language.texts import text_behind

        return text_behind(self.opened.tokenizer, ids, behind)

    def _drafting(self, ids: list[int], room: int) -> "Draft | None":
        """The draft to use; for auto it is measured once per depth."""
        from ...core.usable import usable
        from ...language import Draft, choose_draft
        from ...language.draft import can_be_verified, is_shallower

        if self.draft == "none":
            return None
        if self.draft != "auto":
            return Draft(self.draft, _AHEAD)
        if self.skip not in self._chosen:
            # Plain decoding, unless a draft turns out to be faster.
            self._chosen[self.skip] = None
            if not can_be_verified(self.network):
                return None
            shallower = [each for each in self.network.skips[::-1] if is_shallower(each, self.skip)][:_TRIED]
            drafts, left_out = usable(self.network, shallower)
            for line in left_out_lines(left_out):
                typer.echo(line, err=True)
            if drafts:
                with show.progress("trying drafts") as advance:
                    tried = choose_draft(
                        self.network, [ids], skip=self.skip, drafts=drafts, lengths=(_AHEAD,),
                        new_tokens=min(16, room), on_progress=advance, **self.options,
                    )  # fmt: skip
                self._chosen[self.skip] = tried.draft
        return self._chosen[self.skip]


@contextmanager
def opened_writer(
    folder: Path,
    *,
    skip: str | None,
    ms_per_token: float | None,
    tokens: int | None,
    temperature: float,
    top_p: float | None,
    seed: int | None,
    draft: str,
    device: str | None,
    threads: int | None,
) -> Iterator[Writer]:
    """The writer that the options ask for; inside, random numbers follow the seed.

    Raises:
        CheckpointError, DataError: the folder cannot be opened.
        SkipError: a depth that the network does not have, or a draft that is no shallower.
        BudgetError: no depth meets the limit.
    """
    if skip is not None and ms_per_token is not None:
        raise typer.BadParameter("--skip and --ms-per-token both choose the depth: give only one")
    if top_p is not None and not temperature:
        raise typer.BadParameter("--top-p needs sampling: add a --temperature above 0, such as 0.8")
    if top_p == 0:
        raise typer.BadParameter("--top-p 0 leaves nothing to sample from: expected a number above 0, such as 0.9")
    opened = folders.open_network(folder)
    from ...language.texts import sampling
    from ...skip import parse_skip
    from ...training.interrupting import seeded

    network = opened.model.to(runs.pick_device(device)).eval()
    if skip is not None:
        chosen = parse_skip(skip, len(network.stages))
    elif ms_per_token is not None:
        chosen = _within(folder, network, ms_per_token)
    else:
        chosen = network.skips[0]
    writer = Writer(opened, chosen, sampling(network, opened.tokenizer, temperature, top_p), tokens, draft)
    check_draft(writer, chosen)
    with runs.threads(threads), seeded(seed), folders.quiet():
        yield writer


def check_draft(writer: Writer, skip: str) -> None:
    """Raise if a draft is no shallower than a depth, or the network cannot verify drafts."""
    from ...language.draft import check_shallower, check_verifies
    from ...skip import parse_skip

    if writer.draft not in ("auto", "none"):
        check_verifies(writer.network)
        check_shallower(parse_skip(writer.draft, len(writer.network.stages)), skip)


def _within(folder: Path, network: Any, ms: float) -> str:
    """The best depth of the table within a limit."""
    if not runs.is_measured(folder):
        make = show.command("text", "table", folder, "--text", "FILE")
        raise MeasurementError(f"--ms-per-token needs the table of {folder}: create it with {make}")
    found = runs.trade_offs(folder)
    if "token_ms" not in found.measured:
        make = show.command("text", "table", folder, "--text", "FILE")
        raise MeasurementError(f"the table of {folder} contains no time per token: create it again with {make}")
    skip = found.choose(token_ms=ms).skip
    if skip not in network.skips:
        raise MeasurementError(f"the table of {folder} belongs to another network: create it again with text table")
    return skip


def summary(writer: Writer, rate: float) -> str:
    """The line printed after a generated text."""
    return f"[{writer.skip}, {rate:,.1f} tokens/s]"
