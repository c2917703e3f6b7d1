"""The meaning of a network's output: a plain value, with which exported files can interpret it."""

from dataclasses import dataclass
from typing import Annotated

from .errors import TrainingError
from .schema import Count, Part, Plain, Size, Text, one_of

_KINDS = ("classes", "labels", "numbers")


@dataclass(frozen=True)
class Meaning(Plain):
    """The meaning of an output.

    Attributes:
        kind: `"classes"`: logits, one class per sample or, with further axes, per position; `"labels"`: logits, yes or
            no for each; `"numbers"`.
        unit: of numbers.
    """

    kind: Annotated[str, one_of(*_KINDS)]
    unit: str = ""

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise TrainingError(f"Meaning({self.kind!r}): expected one of {', '.join(map(repr, _KINDS))}")


Meanings = dict[str, Meaning]  # by the name of an output; "" names the only one


@dataclass(frozen=True)
class Detections(Plain):
    """How two outputs of a detector, boxes and scores of many candidates, become the objects in an image.

    Attributes:
        boxes: the name of the output `[batch, candidates, 4]`, or `[batch, candidates, classes, 4]` if each class has
            its own box.
        scores: that of the output `[batch, candidates, classes]`.
        labels: that of an output `[batch, objects]` with class numbers, for a file that suppresses boxes itself: its
            boxes are `[batch, objects, 4]`, its scores `[batch, objects]`, 0 where there are fewer objects. Empty if
            the file returns candidates.
        box_format: `"corners"`, x1, y1, x2, y2 in pixels of the input; `"centres"`, centre x, y, width and height as
            fractions of the input.
        activation: how scores become probabilities: `"none"`, they are; `"sigmoid"`; `"softmax"`, whose last class
            means "no object".
        one_class: whether a candidate belongs only to its best class, or to every class with a sufficient score.
        threshold: objects score more than this.
        overlap: of two boxes of one class that overlap by more (intersection over union), the one with the lower score
            is suppressed; None suppresses none.
        most: the maximum number of objects in an image, those with the highest scores.
        candidates: how many candidates with the highest scores are considered, per level, or per class if there are
            no levels; None considers all.
        levels: the number of candidates on each level of a pyramid, in order; empty if levels are not distinguished.
        first: the number of the first class, as the model counts.
        chosen: whether the network itself selects candidates by score. Then rounding may change which ones it returns,
            and in which order, if some scores are nearly equal.
    """

    boxes: Text = "boxes"
    scores: Text = "scores"
    labels: str = ""
    box_format: Annotated[str, one_of("corners", "centres")] = "corners"
    activation: Annotated[str, one_of("none", "sigmoid", "softmax")] = "none"
    one_class: bool = False
    threshold: Part = 0.05
    overlap: Part | None = 0.5
    most: Size = 100
    candidates: Size | None = None
    levels: tuple[Size, ...] = ()
    first: Count = 0
    chosen: bool = False

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs in use."""
        return (self.boxes, self.scores, *filter(None, [self.labels]))
