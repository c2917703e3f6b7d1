"""What a training reports: its progress, an epoch, its history. Plain values, without torch."""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from ..errors import TrainingError
from ..schema import Letters, NotNegative, Number, Part, Percent, Plain, Size, from_plain, to_plain


@dataclass(frozen=True)
class Epoch(Plain):
    """One line of a history. Losses and accuracies (percent) are means over the epoch's training images.

    Attributes:
        epoch: counted from 1.
        lr: the learning rate of the last step.
        loss, accuracy: of the super-net, or of the plain network. Accuracy is the share of samples or pixels that got
            the right class, without ignored ones; None if outputs are not classes.
        base_loss, base_accuracy: of the base-net; None for a plain network.
        images_per_s: training throughput, over all processes.
        waiting: the share of time, from 0 to 1, that the first process waited for the loader.
        validation: accuracy of some sub-networks on the validation images, if measured.
        parts: of the super-net's loss, by name: those that the network reports (a detector does), or one for each
            head.
    """

    epoch: Size
    lr: NotNegative
    loss: Number
    accuracy: Percent | None
    base_loss: Number | None
    base_accuracy: Percent | None
    images_per_s: NotNegative
    waiting: Part = 0.0
    validation: dict[Letters, Number] | None = None
    parts: dict[str, Number] | None = None

    def __str__(self) -> str:
        """One line, such as for `train(..., on_epoch=print)`."""
        told = ", ".join(f"{name} {value:.3g}" for name, value in (self.parts or {}).items())
        parts = f"; parts of the super-net's loss: {told}" if told else ""
        measured = ", ".join(f"{skip} {value:.4g}" for skip, value in (self.validation or {}).items())
        return f"epoch {self.epoch}, {self.figures()}{parts}{'; validation: ' if measured else ''}{measured}"

    def figures(self) -> str:
        """Speed, losses and training accuracies in words.

        Example:
            >>> Epoch(1, 0.1, 1.5, 60.0, 1.75, 52.0, 900.0).figures()
            '900 samples/s, super-net: loss 1.500, training accuracy 60.0 %; base-net: loss 1.750, 52.0 %'
        """
        head = f"{self.images_per_s:,.0f} samples/s"
        if self.accuracy is None:  # not a classification
            base = "" if self.base_loss is None else f"; base-net: loss {self.base_loss:.3g}"
            return f"{head}, loss {self.loss:.3g}{base}"
        if self.base_accuracy is None:
            return f"{head}, loss {self.loss:.3f}, training accuracy {self.accuracy:.1f} %"
        return (
            f"{head}, super-net: loss {self.loss:.3f}, training accuracy {self.accuracy:.1f} %; base-net: "
            f"loss {self.base_loss:.3f}, {self.base_accuracy:.1f} %"
        )


@dataclass(frozen=True)
class Progress:
    """Where a training is after a step.

    Attributes:
        epoch, epochs: the current one, from 1, and the total.
        step, steps: steps done, and the total of all epochs.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    _so_far: Callable[[], Epoch] = field(repr=False)

    def so_far(self) -> Epoch:
        """Means over the epoch so far, in this process; this synchronises with the device."""
        return self._so_far()


@dataclass(frozen=True)
class History:
    """How a training went, epoch by epoch: a plain value that survives JSON and CSV, and prints as a line per epoch."""

    epochs: tuple[Epoch, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.epochs))

    def to_csv(self) -> str:
        """A header and one line per epoch."""
        text = io.StringIO()
        plain = [field.name for field in fields(Epoch) if field.name not in _BY_NAME]
        rows = [
            {name: value for name, value in epoch.items() if name in plain}
            | {f"{field} {name}": value for field in _BY_NAME for name, value in (epoch[field] or {}).items()}
            for epoch in self.to_json()
        ]
        more = [f"{field} " for field in _BY_NAME]
        named = [name for start in more for row in rows for name in row if name.startswith(start)]
        writer = csv.DictWriter(text, [*plain, *dict.fromkeys(named)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    @classmethod
    def from_csv(cls, text: str) -> "History":
        """The inverse of `to_csv`, of what it wrote.

        Raises:
            TrainingError: an unknown or missing column, or something other than a number.

        Example:
            >>> epoch = Epoch(1, 0.1, 1.5, 60.0, None, None, 900.0, validation={"F": 61.0})
            >>> History.from_csv(History((epoch,)).to_csv()) == History((epoch,))
            True
        """
        epochs = []
        try:
            rows = list(csv.DictReader(io.StringIO(text)))
        except csv.Error as error:
            raise TrainingError(f"the history is not CSV ({error}): expected what to_csv wrote") from error
        for row in rows:
            try:
                read = {name: None if value == "" else float(value) for name, value in row.items()}
            except (TypeError, ValueError) as error:
                raise TrainingError(
                    f"the history has the line {row}: {error}; expected numbers, as to_csv writes them"
                ) from error
            marked: dict[str, Any] = {}
            for field_name in _BY_NAME:
                own = {name: read.pop(name) for name in list(read) if name.startswith(f"{field_name} ")}
                known = {name.partition(" ")[2]: value for name, value in own.items() if value is not None}
                marked[field_name] = known or None
            number = read.get("epoch")
            whole = int(number) if number is not None and number.is_integer() else number
            epochs.append({**read, "epoch": whole, **marked})
        return cls.from_json(epochs)

    def to_json(self) -> list[dict[str, Any]]:
        """Numbers and None only, as `from_json` reads them."""
        return to_plain(self.epochs)

    @classmethod
    def from_json(cls, epochs: Any) -> "History":
        """The inverse of `to_json`.

        Raises:
            TrainingError: a field that is unknown, missing or of another type.
        """
        return cls(from_plain(tuple[Epoch, ...], epochs, TrainingError, "history"))


_BY_NAME = ("validation", "parts")  # fields of an epoch with a number for each name: a column each
