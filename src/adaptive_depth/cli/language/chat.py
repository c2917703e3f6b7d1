"""adaptive-depth text chat: a conversation at a depth that may change."""

import json as as_json
import sys
from typing import TYPE_CHECKING, Any

import typer

from ...errors import AdaptiveDepthError, DataError, one_line
from .. import show
from ..stages import Json
from ..train import Device
from . import folders, writing
from .train import Threads

if TYPE_CHECKING:
    from collections.abc import Iterator

_HELP = "/depth TTF changes the depth, /new starts a new conversation, /quit ends"


class Conversation:
    """Messages, and a cache of those that the current depth has read.

    Arguments:
        writer: generates the answers.

    Raises:
        DataError: the tokenizer has no chat template.
    """

    def __init__(self, writer: writing.Writer, folder: Any) -> None:
        if not writer.opened.tokenizer.chat_template:
            way = show.command("text", "complete", folder, "PROMPT")
            raise DataError(
                f"the tokenizer of {folder} has no chat template, so the model was not made for conversations: let it "
                f"continue a text, {way}"
            )
        self.writer = writer
        self.reset()

    def reset(self) -> None:
        self.messages: list[dict[str, str]] = []
        self._read: list[int] = []  # the tokens in the cache
        self._cache: Any = None

    def answer(self, message: str, *, streamed: bool) -> tuple[str, float]:
        """The answer to a message, and the tokens per second. After an error the conversation is unchanged."""
        messages = [*self.messages, {"role": "user", "content": message}]
        ids = self._tokens(messages)
        so_far = "it includes the whole conversation; start a new one with /new, or write a shorter message"
        self.writer.room(ids, so_far if self.messages else "expected a shorter message")
        cache = self._cache_for(ids)
        self._cache, self._read = None, []  # an interruption would leave a cache that no longer matches its tokens
        found, rate = self.writer.write(ids, streamed=streamed, cache=cache)
        if cache is not None and cache.get_seq_length() == len(found) - 1:  # the last token was never read
            self._cache, self._read = cache, found[:-1]
        reply = self.writer.text(found, len(ids))
        self.messages = [*messages, {"role": "assistant", "content": reply}]
        return reply, rate

    def change_depth(self, skip: str) -> None:
        """Continue at another depth, which reads the conversation so far.

        Raises:
            SkipError: a depth that the network does not have, or that is no deeper than the draft.
        """
        from ...skip import parse_skip

        chosen = parse_skip(skip, len(self.writer.network.stages))
        writing.check_draft(self.writer, chosen)
        if self._read:
            self._cache = self._caught_up(chosen, self._read)
        self.writer.skip = chosen

    def _tokens(self, messages: list[dict[str, str]]) -> list[int]:
        try:
            found = self.writer.opened.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=True
            )
        except Exception as error:  # the template comes with the folder and may raise anything
            raise DataError(f"the chat template rejects this conversation ({one_line(error)})") from error
        return list(found["input_ids"])

    def _cache_for(self, ids: list[int]) -> Any:
        """The cache with all tokens but the last; what was already read is reused if the new text starts with it."""
        from ...language.draft import can_be_verified

        continues = 0 < len(self._read) < len(ids) and ids[: len(self._read)] == self._read
        if continues and self._cache is not None:
            return self._cache
        # A recurrent state cannot be cut back like a cache, so such models read the conversation again for each answer.
        can = len(ids) > 1 and can_be_verified(self.writer.network)
        return self._caught_up(self.writer.skip, ids[:-1]) if can else None

    def _caught_up(self, skip: str, ids: list[int]) -> Any:
        import torch

        from ...language import catch_up

        return catch_up(self.writer.network, skip, torch.tensor([ids]))


def chat(
    folder: folders.Folder,
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
    """Chat with a model that has a chat template; the depth may change between answers.

    /depth TTF changes the depth, /new starts a new conversation, /quit ends.

    Example: adaptive-depth text chat runs/assistant --temperature 0.7
    """
    asked = {
        "skip": skip, "ms_per_token": ms_per_token, "tokens": tokens, "temperature": temperature, "top_p": top_p,
        "seed": seed, "draft": draft, "device": device, "threads": threads,
    }  # fmt: skip
    with writing.opened_writer(folder, **asked) as writer:
        talk = Conversation(writer, folder)
        if sys.stdin.isatty():
            typer.echo(f"{writer.skip} of {', '.join(writer.network.skips)}; {_HELP}", err=True)
        for line in _lines():
            if line == "/quit":
                break
            try:
                _turn(talk, line, json=json)
            except AdaptiveDepthError as error:
                typer.echo(f"Error: {one_line(error)}", err=True)
            except KeyboardInterrupt:
                typer.echo("\n[stopped: this answer is not part of the conversation]", err=True)


def _turn(talk: Conversation, line: str, *, json: bool) -> None:
    name, _, rest = line.partition(" ")
    if name == "/depth":
        if rest.strip():  # without a depth, only the current one is printed
            talk.change_depth(rest.strip())
        typer.echo(f"[{talk.writer.skip}]", err=True)
    elif line == "/new":
        talk.reset()
        typer.echo("[new conversation]", err=True)
    elif line.startswith("/"):
        typer.echo(f"{name} is not a command: {_HELP}", err=True)
    elif line:
        reply, rate = talk.answer(line, streamed=not json)
        if json:
            typer.echo(as_json.dumps({"prompt": line, "text": reply, "skip": talk.writer.skip, "tokens_per_s": rate}))
        else:
            typer.echo(writing.summary(talk.writer, rate), err=True)


def _lines() -> "Iterator[str]":
    """The lines typed by the user, or read from stdin."""
    while True:
        if sys.stdin.isatty():
            typer.echo("> ", nl=False, err=True)
        try:
            # Not `input`, which would write its prompt to stdout.
            line = sys.stdin.readline()
        except KeyboardInterrupt:
            return
        if not line:
            return
        yield line.strip()
