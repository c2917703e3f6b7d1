"""What the output of a network stands for: a plain value, with which whoever runs an exported file can read it."""

from dataclasses import dataclass
from typing import Annotated

from .schema import Plain, one_of


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
