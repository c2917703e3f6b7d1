"""An ONNX file that returns boxes and scores of all candidates → one that returns objects: NonMaxSuppression inside.

The same as `deploy/boxes.py`, with operators of ONNX: the best candidates of each level or class, then suppression by
class, then the best objects; equally many in every image, so that a batch has one shape.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir import tape

from ...errors import ExportError
from ...meaning import Detections
from ..boxes import Objects, find_objects
from ..session import Session, open_session
from .run import DESCRIPTION
from .write import save

OUTPUTS = ("boxes", "scores", "labels")
_MOST_APART = 0.05  # share of objects: of two whose overlap equals the threshold, either may be kept


def suppress(path: Path, session: Session, inputs: Sequence[Any]) -> Session:
    """Add suppression to a file, which is replaced atomically, and compare it with NumPy's suppression of its outputs.

    Arguments:
        path: an `.onnx` with the depths of a detector.
        session: for that file.
        inputs: `[batch, channels, height, width]`, for the comparison.

    Returns:
        A session for the new file: `boxes` `[batch, objects, 4]`, `scores` and `labels` `[batch, objects]`, where
        `objects` is the most that an image can have; unused slots have a score of 0.

    Raises:
        ExportError: a network that is not a detector or needs no suppression; a file that returns other objects.
    """
    how = session.artifact.detections
    if how is None or how.overlap is None or how.activation != "none" or how.one_class:
        told = "is not a detector" if how is None else "needs no suppression: each of its queries is a separate object"
        raise ExportError(f"suppress=True for a network that {told}: leave it out")
    model = ir.load(path)
    _add(model.graph, how)
    found = replace(how, **dict(zip(OUTPUTS, OUTPUTS, strict=True)), candidates=None, levels=())
    artifact = replace(session.artifact, outputs=OUTPUTS, detections=found)
    model.metadata_props[DESCRIPTION] = json.dumps(artifact.to_json())
    save(model, path)
    suppressed = open_session(path)
    for x in inputs:
        for skip in session.skips:
            size = (x.shape[2], x.shape[3])
            wanted = find_objects(session(x, skip), how, size)
            _check(wanted, find_objects(suppressed(x, skip), found, size), skip)
    return suppressed


# -- the graph --------------------------------------------------------------------------------------------------------


class _Nodes:
    """Adds nodes at the end of a graph."""

    def __init__(self, graph: ir.Graph) -> None:
        self._tape, self._names = tape.Tape(graph), count()

    def __call__(self, kind: str, *inputs: ir.Value | Sequence[int] | float | int, **attributes: Any) -> ir.Value:
        return self._tape.op(kind, [self._value(each) for each in inputs], attributes)

    def top(self, scores: ir.Value, most: int) -> Sequence[ir.Value]:
        """The largest along the last axis, sorted, and their positions."""
        return self._tape.op_multi_out("TopK", [scores, self._value([most])], {"axis": -1}, num_outputs=2)

    def _value(self, given: ir.Value | Sequence[int] | float | int) -> ir.Value:
        """A value, or a constant: integers are int64, other numbers float32."""
        if isinstance(given, ir.Value):
            return given
        array = np.array(given, np.float32 if isinstance(given, float) else np.int64)
        name = f"suppression_{next(self._names)}"
        return self._tape.initializer(ir.tensor(array, name=name), name=name)


def _add(graph: ir.Graph, how: Detections) -> None:
    """Replace the outputs for candidates by those for objects."""
    by_name = {value.name: value for value in graph.outputs}
    boxes, scores = by_name[how.boxes], by_name[how.scores]
    if boxes.shape is None or scores.shape is None:
        raise ExportError("suppress=True needs outputs of known sizes: leave it out")
    candidates, classes = int(scores.shape[1]), int(scores.shape[2])  # type: ignore[arg-type] numbers: the size is fixed
    for value in (boxes, scores):
        value.name = f"{value.name}_of_candidates"
    graph.outputs.clear()
    add = _Nodes(graph)
    if boxes.shape.rank() == 4:  # boxes by class: each (candidate, class) pair has its own
        found = add("Reshape", scores, [0, candidates * classes])
        picked = add("Reshape", boxes, [0, candidates * classes, 4])
        numbers = add("Add", add("Mod", add("Range", 0, candidates * classes, 1), classes), _zeros(add, found))
    else:
        found, places, numbers = _picked(add, scores, candidates, classes, how)
        picked = add("GatherElements", boxes, _four(add, places), axis=1)

    # [batch, classes, picked]: each scores in its own class only, so that boxes of others do not suppress it.
    every = add("Reshape", add("Range", 0, classes, 1), [1, classes, 1])
    own = add("Equal", add("Unsqueeze", numbers, [1]), every)
    by_class = add("Where", own, add("Unsqueeze", found, [1]), 0.0)
    limits = (candidates * classes, float(how.overlap or 0), float(how.threshold))
    kept = add("NonMaxSuppression", picked, by_class, *limits)  # rows of (image, class, place)
    rows = add("Gather", kept, [0, 2], axis=1)
    none = add("Mul", found, 0.0)
    # A one for each row; their number is known only at run time.
    ones = add("CastLike", add("ReduceMax", add("Add", add("Mul", kept, 0), 1), [1], keepdims=0), found)
    left = add("Mul", add("ScatterND", none, rows, ones), found)

    best, where = add.top(left, min(how.most, _length(candidates, classes, how)))
    there = add("Greater", best, 0.0)
    shown = add("GatherElements", picked, _four(add, where), axis=1)
    outputs = (
        add("Where", add("Unsqueeze", there, [-1]), shown, 0.0),
        best,
        add("Where", there, add("Add", add("GatherElements", numbers, where, axis=1), how.first), -1),
    )
    most = min(how.most, _length(candidates, classes, how))
    batch = graph.inputs[0].shape[0] if graph.inputs[0].shape is not None else None
    for name, value, further in zip(OUTPUTS, outputs, ((4,), (), ()), strict=True):
        value.name, value.shape = name, ir.Shape([batch, most, *further])
        value.type = ir.TensorType(ir.DataType.INT64 if name == "labels" else ir.DataType.FLOAT)
        graph.outputs.append(value)


def _length(candidates: int, classes: int, how: Detections) -> int:
    """How many (candidate, class) pairs are considered."""
    parts = [level * classes for level in how.levels] or [candidates] * classes
    return sum(min(part, how.candidates or part) for part in parts)


def _picked(
    add: _Nodes, scores: ir.Value, candidates: int, classes: int, how: Detections
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Scores, candidates and classes, each `[batch, picked]`, of the best pairs of each level or class."""
    if how.levels:
        parts, start = [], 0
        for level in how.levels:
            one = add("Reshape", add("Slice", scores, [start], [start + level], [1]), [0, level * classes])
            best, where = add.top(one, min(level * classes, how.candidates or level * classes))
            parts.append((best, add("Add", where, start * classes)))
            start += level
        found, pairs = (add("Concat", *each, axis=1) for each in zip(*parts, strict=True))
    else:
        by_class = add("Transpose", scores, perm=[0, 2, 1])
        most = min(candidates, how.candidates or candidates)
        best, where = add.top(by_class, most)
        every = add("Reshape", add("Range", 0, classes, 1), [1, classes, 1])
        found = add("Reshape", best, [0, classes * most])
        pairs = add("Reshape", add("Add", add("Mul", where, classes), every), [0, classes * most])
    return found, add("Div", pairs, classes), add("Mod", pairs, classes)


def _zeros(add: _Nodes, like: ir.Value) -> ir.Value:
    """Integer zeros in the shape of a value."""
    return add("ConstantOfShape", add("Shape", like), value=ir.tensor(np.zeros(1, np.int64)))


def _four(add: _Nodes, places: ir.Value) -> ir.Value:
    """Positions `[batch, n]` as `[batch, n, 4]`, for each side of a box."""
    return add("Tile", add("Unsqueeze", places, [-1]), [1, 1, 4])


# -- the comparison ---------------------------------------------------------------------------------------------------


def _check(wanted: Sequence[Objects], got: Sequence[Objects], skip: str) -> None:
    for one, other in zip(wanted, got, strict=True):
        same = sum(_has(other, box, score, number) for box, score, number in zip(*one[:3], strict=True))
        if len(one.scores) + len(other.scores) - 2 * same > _MOST_APART * 2 * max(len(one.scores), 20):
            raise ExportError(
                f"suppression in the file differs from NumPy's at depth {skip}: {len(one.scores)} objects were "
                f"expected, {len(other.scores)} found, {same} of them the same; leave out suppress=True"
            )


def _has(objects: Objects, box: Any, score: Any, number: Any) -> bool:
    near = np.isclose(objects.scores, score, rtol=1e-4) & (objects.classes == number)
    return bool((near & np.isclose(objects.boxes, box, rtol=1e-4, atol=1e-2).all(axis=1)).any())
