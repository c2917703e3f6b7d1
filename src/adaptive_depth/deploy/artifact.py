"""The description of an exported file: everything that a runtime needs besides the numbers, so no model code."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from ..choose.costs import LATER
from ..choose.tradeoffs import TradeOffs, check_value
from ..errors import AdaptiveDepthError, ArtifactError
from ..meaning import Detections, Meanings
from ..preprocessing import Preprocessing
from ..quality import TOP_1, Quality
from ..schema import Form, Letters, Number, Plain, Size, Text, from_plain, one_of, parse_json, to_plain
from ..skip import parse_skip

# 2 adds a quality, 3 outputs, 4 objects, 5 inputs; the lowest needed is written.
FORMAT, VERSION = "adaptive-depth artifact", 5
FILE = "artifact.json"  # where an artifact that is a folder keeps its description
FILES = "files"  # in a description beside its file: the files it covers, and checksums (see sidecar.py)
_FORM = Form(FORMAT, VERSION, "a file that adaptive-depth export wrote", ArtifactError)
_MOST_NUMBERS = 1 << 28  # in an input: 1 GiB of float32
INPUTS = ("image", "skip")  # of a file; no output may have their names


@dataclass(frozen=True)
class Input(Plain):
    """One input of a file.

    Attributes:
        name: in the file.
        shape: None where any size is allowed.
        dtype: of its numbers.
    """

    name: Text
    shape: tuple[Size | None, ...]
    dtype: Annotated[str, one_of("float32", "int64", "int32", "bool")] = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))

    def __str__(self) -> str:
        size = " x ".join("any" if side is None else str(side) for side in self.shape) or "a number"
        return size if self.dtype == "float32" else f"{size} {self.dtype}"


@dataclass(frozen=True)
class Artifact(Plain):
    """A file with several depths of one network: a plain value that prints and survives JSON.

    Attributes:
        kind: `"onnx"`, `"openvino"`, `"executorch"` or `"torch"`; `"network"` for one that was not exported.
        stages: one dictionary per stage, as `Stages.to_json` returns them.
        skips: the depths in it, super-net first.
        input_shape: `(None, channels, height, width)`, or that of the first of `inputs`; None where any number is
            allowed.
        network: the fingerprint of the network, which its profiles also have.
        form: `"shared"`, convolutions once and norms chosen beside them, or `"folded"`, norms folded into them.
        precision: `"float32"` or `"int8"`.
        labels: class names in the order of the outputs; empty if unknown.
        preprocessing: None if unknown.
        trade_offs: quality and cost of the float network's depths; None if they were not measured.
        accuracy: top-1 accuracy in percent by skip, or another `quality`, of this file itself, if measured (int8).
        quality: what `accuracy` is: its name, unit and direction.
        float_accuracy: the same for the float network on the same samples, if measured.
        outputs: the names of the outputs if the network returns several; empty if it returns a tensor.
        meanings: what outputs stand for, by name, `""` for a single one; empty if unknown (one class per image if there
            are `labels`).
        detections: how outputs become the objects in an image; None if the network is not a detector.
        inputs: what the network takes if that is not one image `[batch, channels, height, width]` of float32; empty
            if it is. See `takes`.
    """

    kind: Annotated[str, one_of("onnx", "openvino", "executorch", "torch", "network")]
    stages: tuple[dict[str, Any], ...]
    skips: tuple[Letters, ...]
    input_shape: tuple[Size | None, ...]
    network: str = ""
    form: Annotated[str, one_of("shared", "folded")] = "shared"
    precision: Annotated[str, one_of("float32", "int8")] = "float32"
    labels: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    trade_offs: TradeOffs | None = None
    accuracy: dict[Letters, Number] | None = None
    quality: Quality = TOP_1
    float_accuracy: dict[Letters, Number] | None = None
    outputs: tuple[Text, ...] = ()
    meanings: Meanings = field(default_factory=dict)
    detections: Detections | None = None
    inputs: tuple[Input, ...] = ()

    def __post_init__(self) -> None:
        for name in ("stages", "skips", "input_shape", "labels", "outputs", "inputs"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "stages", tuple(_with_tuples(stage) for stage in self.stages))
        if self.preprocessing is not None and self.preprocessing.classes:  # a file states them once, as its labels
            object.__setattr__(self, "labels", self.labels or self.preprocessing.classes)
            object.__setattr__(self, "preprocessing", replace(self.preprocessing, classes=()))

    def __str__(self) -> str:
        takes = f"input {self.takes[0]}"
        if self.inputs:
            takes = f"inputs {', '.join(f'{each.name} {each}' for each in self.inputs)}"
        outputs = f", outputs {', '.join(self.outputs)}" if self.outputs else ""
        return f"{self.kind} of {len(self.skips)} depths, {self.precision}, norms {self.form}, {takes}{outputs}"

    @property
    def takes(self) -> tuple[Input, ...]:
        """What the file takes besides the skip: `inputs`, or one image."""
        return self.inputs or (Input(INPUTS[0], self.input_shape),)

    def fed(self, x: Any) -> dict[str, Any]:
        """A session's input by the names that the file has for it."""
        return {each.name: x[each.name] for each in self.inputs} if self.inputs else {INPUTS[0]: x}

    def check_image(self, what: str) -> None:
        """Raise an ArtifactError unless the network takes one image.

        Arguments:
            what: gives it images, for the error.
        """
        if self.inputs:
            takes = ", ".join(f"{each.name} ({each})" for each in self.inputs)
            raise ArtifactError(
                f"{what} gives a network one image [batch, channels, height, width], and this one takes {takes}: run "
                "it in a program, open_session(FILE)(inputs, skip)"
            )

    def named(self, arrays: Sequence[Any]) -> Any:
        """A file's outputs, in its order, as a session returns them: by name, or a single one as it is."""
        return dict(zip(self.outputs, arrays, strict=True)) if self.outputs else arrays[0]

    def own_trade_offs(self) -> TradeOffs | None:
        """The table, with the quality of this file itself (int8) if that was measured.

        Raises:
            ArtifactError: a table of another quality.
        """
        table = self.trade_offs
        if table is None or not self.accuracy:
            return table
        if self.quality != table.quality:
            raise ArtifactError(
                f"the file was measured by {self.quality}, but its trade-offs are of {table.quality}: expected the "
                "same quality; export it with trade-offs of the same quality, or without labelled images"
            )
        rows = (replace(row, accuracy=self.accuracy.get(row.skip, row.accuracy)) for row in table.rows)
        return replace(table, rows=tuple(rows))

    def to_json(self) -> dict[str, Any]:
        """Dictionaries, lists, strings and numbers only, as `from_json` reads them."""
        plain, table = to_plain(self), None if self.trade_offs is None else self.trade_offs.to_json()
        plain["trade_offs"] = table
        if self.preprocessing is not None:
            plain["preprocessing"] = self.preprocessing.to_json()
            del plain["preprocessing"]["classes"]
        if self.quality == TOP_1:
            del plain["quality"]
        for name in ("float_accuracy", "outputs", "meanings", "detections", "inputs"):
            if not plain[name]:
                del plain[name]
        later = table is not None and any(name in row for row in table["rows"] for name in LATER)
        judged = later or "quality" in plain or "float_accuracy" in plain or "quality" in (table or {})
        fitted = self.preprocessing is not None and self.preprocessing.resize != "crop"
        named = self.outputs or self.meanings
        version = 4 if self.detections is not None or fitted else 3 if named else 2 if judged else 1
        version = 5 if self.inputs else version
        return {"format": FORMAT, "version": version, **plain}

    @classmethod
    def from_json(cls, content: Any, file: object = "the description") -> "Artifact":
        """The inverse of `to_json`.

        Arguments:
            content: the result of `to_json`, or the same as JSON text.
            file: where it came from, for errors.

        Raises:
            ArtifactError: foreign, damaged or newer than this library.
        """
        name, mend = f"the description in {file}", "it is damaged; export it again"
        plain = parse_json(content, ArtifactError, name, mend) if isinstance(content, str | bytes) else content
        plain = _FORM.check(plain, file)
        fields = {name: value for name, value in plain.items() if name not in ("format", "version", FILES)}
        try:
            artifact = from_plain(cls, fields, ArtifactError)
            artifact._check()
        except AdaptiveDepthError as error:
            raise ArtifactError(f"{file} has an invalid description ({error}): it is damaged") from error
        return artifact

    def _check(self) -> None:
        """Check that the parts of a description are consistent."""
        for skip in self.skips:
            parse_skip(skip, len(self.stages))
        if not self.skips or len({*self.skips}) < len(self.skips):
            raise ArtifactError(f"skips are {', '.join(self.skips) or 'none'}: expected one depth or more, each once")
        for shape in (self.input_shape, *(each.shape for each in self.inputs)):
            # One of several inputs may be a scalar, but a single input always has a batch.
            if not (shape or self.inputs) or math.prod(side or 1 for side in shape) > _MOST_NUMBERS:
                raise ArtifactError(
                    f"input_shape is {list(shape)}: expected sides of at least 1, or null for any, and at most "
                    f"{_MOST_NUMBERS:,} numbers"
                )
        for skip, value in [*(self.accuracy or {}).items(), *(self.float_accuracy or {}).items()]:
            check_value(self.quality, f"{self.quality.noun} of {skip!r}", value)
            if skip not in self.skips:
                raise ArtifactError(f"accuracy names {skip!r}: expected some of {', '.join(self.skips)}")
        inputs = (*(each.name for each in self.takes), INPUTS[1])
        if len({*self.outputs, *inputs}) < len(self.outputs) + len(inputs):
            raise ArtifactError(
                f"outputs are {', '.join(self.outputs)}: expected names that differ from each other and from those of "
                f"the inputs, {' and '.join(inputs)}"
            )
        if self.detections is not None and (missing := {*self.detections.outputs} - {*self.outputs}):
            raise ArtifactError(f"detections refer to {', '.join(sorted(missing))}: expected outputs of the file")
        if self.trade_offs is not None and len(self.trade_offs.rows[0].skip) != len(self.stages):
            raise ArtifactError(f"trade-offs name {self.trade_offs.rows[0].skip!r}: expected {len(self.stages)} stages")


def _with_tuples(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Makes a description equal to itself after JSON, which only has lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in stage.items()}
