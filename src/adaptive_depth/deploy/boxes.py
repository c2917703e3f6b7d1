"""A detector's outputs for an image → the objects in it, in NumPy only: scores, best candidates, suppression."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ArtifactError
from ..meaning import Detections

Numbers = NDArray[np.float64]


class Objects(NamedTuple):
    """The objects in an image, highest score first.

    Attributes:
        boxes: `[objects, 4]`, x1, y1, x2, y2 in pixels of the input.
        scores: `[objects]`, from 0 to 1.
        classes: `[objects]`, from 0: indices into the list of class names.
        of: the number of classes; None if unknown.
    """

    boxes: Numbers
    scores: Numbers
    classes: NDArray[np.int64]
    of: int | None = None


def find_objects(outputs: Mapping[str, Any], how: Detections, size: tuple[int, int]) -> list[Objects]:
    """The objects in each image of a batch.

    Arguments:
        outputs: what a session returned.
        how: what the outputs stand for, `session.artifact.detections`.
        size: height and width of the input, in pixels.

    Raises:
        ArtifactError: an output that is missing or of another shape.

    Example:
        >>> boxes = np.array([[[0, 0, 10, 10], [1, 0, 10, 10], [20, 20, 30, 30]]])
        >>> scores = np.array([[[0.6], [0.9], [0.7]]])
        >>> [found] = find_objects({"boxes": boxes, "scores": scores}, Detections(), (32, 32))
        >>> found.boxes[:, 0].tolist(), found.scores.tolist()
        ([1.0, 20.0], [0.9, 0.7])
    """
    if missing := [name for name in how.outputs if name not in outputs]:
        raise ArtifactError(f"the outputs are {', '.join(outputs)}: expected {', '.join(map(repr, missing))}, too")
    boxes, scores = (np.asarray(outputs[name], np.float64) for name in (how.boxes, how.scores))
    if how.labels:
        return _of_labels(boxes, scores, np.asarray(outputs[how.labels], np.int64) - how.first)
    if scores.ndim != 3 or boxes.shape not in ((*scores.shape[:2], 4), (*scores.shape, 4)):
        raise ArtifactError(
            f"{how.boxes} {list(boxes.shape)} and {how.scores} {list(scores.shape)}: expected boxes "
            "[batch, candidates, 4], or [batch, candidates, classes, 4], and scores [batch, candidates, classes]"
        )
    scores = _probabilities(scores, how.activation)
    boxes = _corners(boxes, size) if how.box_format == "centres" else boxes
    return [_of_image(*pair, how) for pair in zip(boxes, scores, strict=True)]


def _of_labels(boxes: Numbers, scores: Numbers, classes: NDArray[np.int64]) -> list[Objects]:
    """Objects that a file suppressed by itself, without the unused slots."""
    if scores.ndim != 2 or boxes.shape != (*scores.shape, 4) or classes.shape != scores.shape:
        raise ArtifactError(
            f"boxes {list(boxes.shape)}, scores {list(scores.shape)} and labels {list(classes.shape)}: expected "
            "[batch, objects, 4], [batch, objects] and [batch, objects]"
        )
    there = scores > 0
    return [Objects(boxes[i][kept], scores[i][kept], classes[i][kept]) for i, kept in enumerate(there)]


def _probabilities(scores: Numbers, activation: str) -> Numbers:
    if activation == "sigmoid":
        return 1 / (1 + np.exp(-np.clip(scores, -700, 700)))  # exp overflows beyond 709
    if activation == "softmax":
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return (shares / shares.sum(axis=-1, keepdims=True))[..., :-1]  # the last is "no object"
    return scores


def _corners(boxes: Numbers, size: tuple[int, int]) -> Numbers:
    centres, halves = boxes[..., :2], boxes[..., 2:] / 2
    height, width = size
    return np.concatenate([centres - halves, centres + halves], axis=-1) * (width, height, width, height)


def _of_image(boxes: Numbers, scores: Numbers, how: Detections) -> Objects:
    """The objects among candidates: `boxes` `[candidates, 4]` or `[candidates, classes, 4]`, `scores` by class."""
    count = scores.shape[1]
    enough = scores > how.threshold  # False for nan
    if how.one_class:
        enough &= np.arange(count) == scores.argmax(axis=1, keepdims=True)
    places, classes = np.nonzero(enough)
    found = scores[places, classes]
    # The empty array is there because `concatenate` needs at least one.
    kept = np.concatenate([np.empty(0, np.int64), *_best(found, places, classes, how)])
    kept = kept[np.argsort(-found[kept], kind="stable")]
    places, classes, found = places[kept], classes[kept], found[kept]
    boxes = boxes[places] if boxes.ndim == 2 else boxes[places, classes]
    if how.overlap is not None:
        last = np.sort(np.concatenate([np.empty(0, np.int64), *_suppressed(boxes, classes, how.overlap)]))
        boxes, found, classes = boxes[last], found[last], classes[last]
    return Objects(boxes[: how.most], found[: how.most], classes[: how.most], count)


def _best(
    scores: Numbers, places: NDArray[np.int64], classes: NDArray[np.int64], how: Detections
) -> Iterator[NDArray[np.int64]]:
    """Which candidates are considered: the best of each level, or of each class."""
    if how.candidates is None:
        yield np.arange(len(scores))
        return
    group = np.searchsorted(np.cumsum(how.levels), places, side="right") if how.levels else classes
    for each in np.unique(group):
        (members,) = np.nonzero(group == each)
        yield members[np.argsort(-scores[members], kind="stable")[: how.candidates]]


def _suppressed(boxes: Numbers, classes: NDArray[np.int64], overlap: float) -> Iterator[NDArray[np.int64]]:
    """Which of each class are kept: none that overlaps an earlier kept one; `boxes` is sorted by score."""
    for each in np.unique(classes):
        (left,) = np.nonzero(classes == each)
        kept = []
        while len(left):
            kept.append(left[0])
            # An overlap equal to the limit is kept, as in torchvision.
            left = left[1:][overlaps(boxes[left[0]], boxes[left[1:]]) <= overlap]
        yield np.array(kept)


def overlaps(box: Numbers, others: Numbers) -> Numbers:
    """Intersection over union of a box `[4]` and others `[boxes, 4]`; 0 for boxes without area.

    Example:
        >>> overlaps(np.array([0.0, 0, 2, 2]), np.array([[1.0, 0, 3, 2], [2, 0, 4, 2]])).round(3).tolist()
        [0.333, 0.0]
    """
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    inside = np.prod(np.clip(high - low, 0, None), axis=1)
    area, areas = np.prod(box[2:] - box[:2]), np.prod(others[:, 2:] - others[:, :2], axis=1)
    union = area + areas - inside
    return np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)
