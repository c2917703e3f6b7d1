"""What the output of a network stands for: a plain value, with which whoever runs an exported file can read it."""

from dataclasses import dataclass
from typing import Annotated

from .schema import Count, Part, Plain, Size, Text, one_of


@dataclass(frozen=True)
class Meaning(Plain):
    """What an output stands for.

    Attributes:
        kind: `"classes"`: logits, one class a sample or, with further axes, one a place of it; `"labels"`: logits, yes
            or no for each; `"numbers"`.
        unit: of numbers.
    """

    kind: Annotated[str, one_of("classes", "labels", "numbers")]
    unit: str = ""


Meanings = dict[str, Meaning]  # by the name of an output; "" names the only one


@dataclass(frozen=True)
class Detections(Plain):
    """How two outputs of a detector, boxes and scores of many candidates, become the objects in an image.

    Attributes:
        boxes: the name of the output `[batch, candidates, 4]`, or `[batch, candidates, classes, 4]` where each class
            has a box of its own.
        scores: that of the output `[batch, candidates, classes]`.
        labels: that of an output `[batch, objects]` with the numbers of classes, of a file that suppresses by itself:
            its boxes are `[batch, objects, 4]`, its scores `[batch, objects]`, 0 where there are fewer objects. Empty
            where candidates come out.
        box_format: `"corners"`, x1, y1, x2, y2 in pixels of the input; `"centres"`, centre x, y, width and height as
            parts of the input.
        activation: what makes probabilities of the scores: `"none"`, they are; `"sigmoid"`; `"softmax"`, whose last
            class says that there is nothing.
        one_class: is a candidate of its best class alone? Else of each class that scores enough.
        threshold: objects score more than this.
        overlap: of two boxes of one class that overlap by more (intersection over union), the one that scores less is
            suppressed; None suppresses none.
        most: objects in an image, those that score most.
        candidates: those that score most of each level are looked at; of each class where there are no levels; None
            looks at all.
        levels: the candidates of each level of a pyramid, in their order; empty where levels are not told apart.
        first: the number of the first class, as the model counts.
        chosen: does the network choose its candidates, by what they score? Then rounding may change which come out, and
            in which order, where some score nearly the same.
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
        """The names of the outputs that are read."""
        return (self.boxes, self.scores, *filter(None, [self.labels]))
