"""What complete and chat share: how text is written, at which depth, with which draft."""

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
    typer.Option("--skip", help="The depth, such as TTF; the super-net if not given.", show_default=False),
]
MsPerToken = Annotated[
    float | None,
    typer.Option(help="Take the best depth of the table (text table) whose tokens take no longer.", show_default=False),
]
NewTokens = Annotated[
    int | None,
    typer.Option(
        "--tokens", min=1, help="Write at most so many; by default 100, or as many as fit.", show_default=False
    ),
]
Temperature = Annotated[float, typer.Option(min=0, help="0 takes the likeliest token each time; above 0 draws.")]
TopP = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Draw from the likeliest tokens of this probability together.", show_default=False),
]
Seed = Annotated[
    int | None, typer.Option(help="The same seed draws the same text; another one each time if not given.")
]
DraftName = Annotated[
    str,
    typer.Option(
        "--draft",
        metavar="auto|SKIP|none",
        help="A shallower depth that writes ahead, which the depth checks: the same text, perhaps sooner. auto tries "
        "some first.",
    ),
]
_TOKENS, _TRIED, _AHEAD = 100, 3, 4


@dataclass
class Writer:
    """A network that writes text.

    Attributes:
        opened: the network and its tokenizer.
        skip: the depth.
        options: of `generate` of transformers.
        most: new tokens of one text; None for the default.
        draft: as the option says it.
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

    def room(self, ids: list[int], mend: str = "expected a shorter prompt") -> int:
        """How many tokens are to be written after these.

        Arguments:
            ids: the prompt.
            mend: what makes room.

        Raises:
            DataError: none, or fewer than were asked for.
        """
        context, wanted = self.opened.context, self.most or _TOKENS
        if not ids:
            raise DataError("the prompt is empty: expected some text to go on from")
        left = wanted if context is None else context - len(ids)
        if left < 1:
            raise DataError(f"a prompt of {len(ids)} tokens leaves no room in the model's context of {context}: {mend}")
        if self.most is not None and left < wanted:
            raise DataError(
                f"a prompt of {len(ids)} tokens and {wanted} new ones are more than the model's context of {context}: "
                f"{mend}, or fewer --tokens"
            )
        return min(left, wanted)

    def write(
        self, ids: list[int], *, streamed: bool, with_prompt: bool = False, cache: Any = None
    ) -> tuple[list[int], float]:
        """Go on from a prompt: all tokens, and how many were written a second.

        Arguments:
            ids: the prompt.
            streamed: show the text on stdout as it is written.
            with_prompt: and the prompt before it.
            cache: of all tokens but the last.

        Raises:
            DataError: a prompt that is empty or too long.
            SkipError: a draft that is no shallower than the depth.
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
        """A text that is gone on from: begun as the tokenizer begins one, and not ended."""
        from ...language.texts import tokens_of

        return tokens_of(self.opened.tokenizer, text)

    def text(self, ids: list[int], behind: int) -> str:
        """What stands behind the first tokens; decoded with them, for some tokenizers begin a text without a space."""
        from ...language.texts import text_behind

        return text_behind(self.opened.tokenizer, ids, behind)

    def _drafting(self, ids: list[int], room: int) -> "Draft | None":
        """Who drafts; what is to be measured is measured once for each depth."""
        from ...core.usable import usable
        from ...language import Draft, choose_draft
        from ...language.draft import can_be_verified, is_shallower

        if self.draft == "none":
            return None
        if self.draft != "auto":
            return Draft(self.draft, _AHEAD)
        if self.skip not in self._chosen:
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
    """The writer that options ask for; inside, random numbers follow the seed.

    Raises:
        CheckpointError, DataError: a folder that cannot be opened.
        SkipError: a depth that the network does not have, or a draft that is no shallower.
        BudgetError: no depth that keeps the limit.
    """
    if skip is not None and ms_per_token is not None:
        raise typer.BadParameter("--skip and --ms-per-token both say the depth: name one of them")
    if top_p is not None and not temperature:
        raise typer.BadParameter("--top-p is of drawing: add a --temperature above 0, such as 0.8")
    if top_p == 0:
        raise typer.BadParameter("--top-p 0 leaves nothing to draw from: expected a number above 0, such as 0.9")
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
    """Raise where a draft is no shallower than a depth, or is none."""
    from ...language.draft import check_shallower, check_verifies
    from ...skip import parse_skip

    if writer.draft not in ("auto", "none"):
        check_verifies(writer.network)
        check_shallower(parse_skip(writer.draft, len(writer.network.stages)), skip)


def _within(folder: Path, network: Any, ms: float) -> str:
    """The best depth of the table within a limit."""
    if not runs.is_measured(folder):
        make = show.command("text", "table", folder, "--text", "FILE")
        raise MeasurementError(f"--ms-per-token needs the table of {folder}: make it with {make}")
    found = runs.trade_offs(folder)
    if "token_ms" not in found.measured:
        make = show.command("text", "table", folder, "--text", "FILE")
        raise MeasurementError(f"the table of {folder} says nothing of tokens: make it anew with {make}")
    skip = found.choose(token_ms=ms).skip
    if skip not in network.skips:
        raise MeasurementError(f"the table of {folder} is of another network: make it anew with text table")
    return skip


def told(writer: Writer, rate: float) -> str:
    """What is said of a text that was written."""
    return f"[{writer.skip}, {rate:,.1f} tokens/s]"
