"""Predictions for an image, in words and as plain values: outputs read by their meaning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..meaning import Detections, Meaning
from ..preprocessing import Placement
from .artifact import Artifact
from .boxes import find_objects

_MOST = 5  # classes or labels in a line
_FEW = 8  # numbers in a line


@dataclass(frozen=True)
class Prediction:
    """One output's prediction for one image.

    Attributes:
        output: its name; empty if the network has only one.
        text: in words, such as `"cat 93.1 %"`.
        values: the same as plain values: `class` and `score`, `labels`, `shares`, `numbers`, `objects` (each with its
            `class` and that class's index, `number`, its `score` and its `box`, x1, y1, x2, y2 in pixels of the
            image), or `shape` and `range`.
    """

    output: str
    text: str
    values: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.output}: {self.text}" if self.output else self.text


class Reader:
    """Reads what a session returns for one image.

    Arguments:
        labels: class names in the order of the outputs; None if a single output does not stand for classes.
        meanings: what outputs stand for, if known; otherwise a single vector stands for classes.
        detections: for a detector, how outputs become the objects in an image.

    Example:
        >>> [prediction] = Reader(("cat", "dog"))(np.array([[0.0, 2.0]]))
        >>> prediction.text, round(prediction.values["score"], 3)
        ('dog 88.1 %', 0.881)
        >>> meanings = {"kind": Meaning("classes"), "size": Meaning("numbers", "m")}
        >>> print(*Reader((), meanings)({"kind": np.array([[0.0, 2.0]]), "size": np.array([[3.25]])}), sep="; ")
        kind: class 1 88.1 %; size: 3.25 m
    """

    def __init__(
        self,
        labels: Sequence[str] | None = (),
        meanings: Mapping[str, Meaning] | None = None,
        detections: Detections | None = None,
    ) -> None:
        self.labels, self.meanings, self.detections = labels, dict(meanings or {}), detections

    @classmethod
    def of(cls, artifact: Artifact, *, classes: bool) -> "Reader":
        """The reader for a file.

        Arguments:
            classes: whether a vector stands for classes if the file does not say.
        """
        labels = artifact.labels if artifact.labels or classes else None
        return cls(labels, artifact.meanings, artifact.detections)

    def __call__(self, output: Any, placement: Placement | None = None) -> tuple[Prediction, ...]:
        """One prediction per output of a batch of one; a single one for all outputs that objects are made of.

        Arguments:
            output: what a session returned.
            placement: where the image lies in the input; objects are reported in pixels of the image.

        Raises:
            DataError: outputs of a detector without a placement.
        """
        parts = dict(output) if isinstance(output, Mapping) else {"": output}
        found = []
        if self.detections is not None:
            if placement is None:
                raise DataError("a detector's outputs need a placement: expected that of the image in the input")
            found.append(self._objects(parts, self.detections, placement))
            parts = {name: part for name, part in parts.items() if name not in self.detections.outputs}
        return (*found, *(self._read(name, np.asarray(part)) for name, part in parts.items()))

    def _objects(self, outputs: Mapping[str, Any], how: Detections, placement: Placement) -> Prediction:
        width, height = placement.frame
        found = find_objects(outputs, how, (height, width))[0]
        boxes = placement.to_image(found.boxes)
        objects = [
            {"class": self._name(n, found.of, how.first), "number": n, "score": float(score), "box": box.tolist()}
            for box, score, n in zip(boxes, found.scores, found.classes.tolist(), strict=True)
        ]
        said = [f"{each['class']} {100 * each['score']:.1f} % {_place(each['box'])}" for each in objects[:_MOST]]
        text = ", ".join([*said, f"{len(objects) - _MOST} more"] if len(objects) > _MOST else said)
        return Prediction("", text or "nothing", {"objects": objects})

    def _read(self, name: str, output: NDArray[Any]) -> Prediction:
        sample = output[0] if output.ndim and len(output) == 1 else output
        meaning = self.meanings.get(name)
        if meaning is None and not name and self.labels is not None and sample.ndim == 1 and len(sample) > 1:
            meaning = Meaning("classes")
        if not np.isfinite(sample).all():
            return Prediction(name, "non-finite numbers")
        sample = sample.astype(np.float64) if sample.dtype.kind == "f" else sample
        if meaning is None or not sample.size:
            return _unknown(name, sample)
        if meaning.kind == "classes" and sample.ndim and len(sample) > 1:
            return self._classes(name, sample)
        if meaning.kind == "labels" and sample.ndim:
            return self._labels(name, sample)
        return _numbers(name, sample, meaning.unit)

    def _classes(self, name: str, logits: NDArray[np.float64]) -> Prediction:
        if logits.ndim == 1:
            shares = np.exp(logits - logits.max())
            number = int(logits.argmax())
            score = float(shares[number] / shares.sum())
            found = self._name(number, len(logits))
            return Prediction(name, f"{found} {100 * score:.1f} %", {"class": found, "score": score})
        numbers, places = np.unique(logits.argmax(axis=0), return_counts=True)
        shares = {
            self._name(int(n), len(logits)): float(p / places.sum()) for n, p in zip(numbers, places, strict=True)
        }
        shares = dict(sorted(shares.items(), key=lambda item: -item[1]))
        return Prediction(name, _listed(shares), {"shares": shares})

    def _labels(self, name: str, logits: NDArray[np.float64]) -> Prediction:
        """The labels that are more probable than not; for maps, the share of positions where they are."""
        scores = 1 / (1 + np.exp(-np.clip(logits, -700, 700)))
        if logits.ndim > 1:
            shares = (scores > 0.5).reshape(len(scores), -1).mean(axis=1)
            found = {self._name(i, len(scores)): float(share) for i, share in enumerate(shares) if share}
            return Prediction(name, _listed(found) if found else "none", {"shares": found})
        best = sorted(range(len(scores)), key=lambda i: -scores[i])
        found = {self._name(i, len(scores)): float(scores[i]) for i in best if scores[i] > 0.5}
        most = f"none, most probable {self._name(best[0], len(scores))} {100 * scores[best[0]]:.1f} %"
        return Prediction(name, _listed(found) if found else most, {"labels": found})

    def _name(self, number: int, of: int | None, first: int = 0) -> str:
        """A class's name by index: the network's, if their number matches or the number of classes is unknown."""
        labels = self.labels or ()
        known = number < len(labels) if of is None else len(labels) == of
        return labels[number] if known else f"class {number + first}"


def _place(box: Sequence[float]) -> str:
    left, top, right, bottom = (round(side) for side in box)
    return f"({left}, {top}) to ({right}, {bottom})"


def _listed(shares: Mapping[str, float]) -> str:
    said = [f"{name} {100 * share:.1f} %" for name, share in list(shares.items())[:_MOST]]
    return ", ".join([*said, f"{len(shares) - _MOST} more"] if len(shares) > _MOST else said)


def _numbers(name: str, sample: NDArray[Any], unit: str) -> Prediction:
    values = [float(value) for value in sample.reshape(-1)[: _FEW + 1]]
    if sample.size > _FEW:
        return _unknown(name, sample, unit)
    text = f"{', '.join(f'{value:.4g}' for value in values)} {unit}".rstrip()
    return Prediction(name, text, {"numbers": values, **({"unit": unit} if unit else {})})


def _unknown(name: str, sample: NDArray[Any], unit: str = "") -> Prediction:
    """Too many numbers for a line, or numbers without a known meaning."""
    shape = " x ".join(map(str, sample.shape))
    if not sample.size:
        return Prediction(name, f"{shape}, no numbers", {"shape": list(sample.shape)})
    low, mean, high = float(sample.min()), float(sample.mean()), float(sample.max())
    text = f"{shape} numbers" if sample.size > 1 else "number"
    text = f"{text} from {low:.4g} to {high:.4g} {unit}".rstrip() if sample.size > 1 else f"{text} {low:.4g}"
    values = {"shape": list(sample.shape), "range": [low, high], "mean": mean, **({"unit": unit} if unit else {})}
    return Prediction(name, text, values)
