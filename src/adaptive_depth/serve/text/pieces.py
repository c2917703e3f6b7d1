"""A text as it is written: pieces, token counts, and stop words."""

from dataclasses import dataclass

_UNFINISHED = "\ufffd"  # a decoder's output for an incomplete character


@dataclass(frozen=True)
class Usage:
    """The numbers of prompt tokens and new tokens."""

    prompt: int
    new: int

    def to_json(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.new,
            "total_tokens": self.prompt + self.new,
        }


@dataclass(frozen=True)
class Piece:
    """A new part of a text.

    Attributes:
        text: its characters.
        skip: the depth that writes.
        finish: for the last piece, why the text ended, `"stop"` or `"length"`.
        usage: for the last piece.
    """

    text: str
    skip: str
    finish: str | None = None
    usage: Usage | None = None


class Stops:
    """Holds back what may be the start of a stop word.

    Arguments:
        words: any of them ends the text, and is not part of it.

    Attributes:
        met: whether one occurred.

    Example:
        >>> stops = Stops(("END",))
        >>> stops.take("Once E"), stops.take("Once Ever EN"), stops.take("Once Ever END, no more")
        ('Once ', 'Ever ', '')
        >>> stops.met
        True
    """

    def __init__(self, words: tuple[str, ...] = ()) -> None:
        self._words, self._told, self.met = words, 0, False

    def take(self, text: str) -> str:
        """The new part of a text that is certain.

        Arguments:
            text: everything written so far.
        """
        if self.met:
            return ""
        found = [place for word in self._words if (place := text.find(word)) >= 0]
        if found:
            self.met = True
            return self._new(text, min(found))
        certain = len(text.rstrip(_UNFINISHED))
        # Longest first, so that everything that may belong to the word is held back.
        for word in self._words:
            for size in range(min(len(word) - 1, certain), 0, -1):
                if text.endswith(word[:size], 0, certain):
                    certain -= size
                    break
        return self._new(text, certain)

    def rest(self, text: str) -> str:
        """What was held back, once the text is complete."""
        return "" if self.met else self._new(text, len(text))

    def _new(self, text: str, end: int) -> str:
        begin, self._told = self._told, max(self._told, end)
        return text[begin : max(begin, end)]
