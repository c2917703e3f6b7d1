"""A text as pieces of equal length, for training and measuring."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

HELD_OUT = 10  # one part in ten, at the end


def read_text(path: Path) -> tuple[str, str]:
    """The content of a text file, and its SHA-256.

    Raises:
        DataError: missing, not a file, empty, or not UTF-8 text.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"the text {path} cannot be read ({error.strerror}): expected a text file") from error
    # Zero bytes are valid UTF-8, but mean UTF-16 or binary data.
    if b"\0" in content:
        raise DataError(f"{path} is not text, it contains zero bytes: expected a plain text file in UTF-8")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text ({error}): expected a plain text file in UTF-8") from error
    if not text.strip():
        raise DataError(f"the text {path} is empty: expected a few thousand words")
    return text, hashlib.sha256(content).hexdigest()


class Tokens:
    """A text as a model reads it, in pieces of `context` tokens.

    If the tokenizer begins a text with a BOS token, so does every piece.

    Raises:
        DataError: the tokenizer produces no tokens, because its vocabulary is missing.
    """

    def __init__(self, tokenizer: Any, text: str, context: int) -> None:
        import torch

        # Not verbose: it would warn that the whole text exceeds the context.
        self.ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        if text.strip() and not len(self.ids):
            raise DataError(
                f"the tokenizer, a {type(tokenizer).__name__} of {len(tokenizer)} tokens, turns the text into none: "
                "expected the model's own, with all its files (tokenizer.json, or its vocabulary); transformers may "
                "have read another kind of tokenizer as the one usual for the model's type"
            )
        # Some tokenizers have a BOS token and yet begin no text with it, so one is tried.
        first, bos = tokenizer("a")["input_ids"][:1], tokenizer.bos_token_id
        self.first = torch.tensor([bos] if bos is not None and first == [bos] else [], dtype=self.ids.dtype)
        self.context, self.own = context, context - len(self.first)  # tokens of the text in a piece

    def __len__(self) -> int:
        return len(self.ids)

    def split(self, path: Path) -> tuple["Tensor", "Tensor"]:
        """The tokens to train on, and those held out.

        Raises:
            DataError: either is shorter than one piece.
        """
        rest = len(self) - max(len(self) // HELD_OUT, self.own)
        if rest < self.own:
            raise DataError(
                f"{path} is too short, {len(self)} tokens: expected {2 * self.own} or more, one context of "
                f"{self.context} tokens to train on and one to measure; use a longer text, or a smaller --context"
            )
        return self.ids[:rest], self.ids[rest:]

    def pieces(self, ids: "Tensor", starts: Sequence[int]) -> "Tensor":
        """`[pieces, context]`."""
        import torch

        return torch.stack([torch.cat([self.first, ids[start : start + self.own]]) for start in starts])

    def check(self, path: Path, ids: "Tensor") -> None:
        """Raise if a text is shorter than one piece."""
        if len(ids) < self.own:
            raise DataError(
                f"{path} is too short, {len(ids)} tokens: expected {self.own} or more, one context of {self.context}; "
                "use a longer text, or a smaller --context"
            )

    def in_turn(self, ids: "Tensor", size: int, most: int | None = None) -> list["Tensor"]:
        """All whole pieces in order, `size` per batch, with at most `most` tokens in all."""
        count = len(ids) // self.own
        if most is not None:
            count = min(count, max(1, most // self.own))
        starts = [number * self.own for number in range(count)]
        return [self.pieces(ids, starts[at : at + size]) for at in range(0, count, size)]


class Drawn:
    """Batches of pieces from anywhere in a text, different in each round.

    Arguments:
        tokens: the text.
        ids: the part of it to draw from.
        size: pieces per batch.
        batches: per round.
        seed: the same seed draws the same pieces.
    """

    def __init__(self, tokens: Tokens, ids: "Tensor", size: int, batches: int, seed: int) -> None:
        self.tokens, self.ids, self.size, self.batches, self.seed, self.round = tokens, ids, size, batches, seed, 0

    def __len__(self) -> int:
        return self.batches

    def set_epoch(self, epoch: int) -> None:
        self.round = epoch

    def __iter__(self) -> Iterator["Tensor"]:
        import torch

        # A large prime, so that rounds of one seed do not repeat those of the next.
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.round)
        last = len(self.ids) - self.tokens.own
        for _ in range(self.batches):
            starts = torch.randint(last + 1, (self.size,), generator=generator).tolist()
            yield self.tokens.pieces(self.ids, starts)
